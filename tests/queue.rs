//! The queue from end to end: handlers push, back ends consume over the WebSocket API.

mod common;

use common::raw::{self, Raw};
use common::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// "push TOPIC LUA" pushes the value of that expression; "fill TOPIC N" the numbers 1 to N; "login NAME" waits until a back
/// end has said who that is.
const SCRIPT: &str = r#"
function on_message(msg, conn)
  local word, topic, rest = msg.data:match("^(%S+) (%S+) ?(.*)$")
  if word == "push" then
    local ok, n, err = pcall(mix.queue.push, topic, assert(loadstring("return " .. rest))())
    conn:send(tostring(ok) .. " " .. tostring(n) .. " " .. tostring(err))
  elseif word == "fill" then
    local waiting
    for i = 1, tonumber(rest) do
      waiting = assert(mix.queue.push(topic, i))
    end
    conn:send(tostring(waiting))
  elseif word == "login" then
    assert(mix.queue.push("login", {name = topic}))
    local uid = conn:wait_context_value("uid")
    conn:send(uid and ("welcome, " .. string.format("%d", uid)) or "closed")
  elseif msg.data == "id" then
    conn:send(conn:client_id())
  end
end
"#;

const PATH: &str = "/ws/v1";

fn engine(queue: &str) -> TestEngine {
    TestEngine::with(SCRIPT, "handlerTimeout: 10", &format!("workers: 2\nluavm: {{queue: {{{queue}}}}}"))
}

async fn back_end(engine: &TestEngine) -> Client {
    Client::connect(engine.at.api, PATH).await
}

async fn ask(api: &mut Client, request: Value) -> Value {
    serde_json::from_str(&api.ask(&request.to_string()).await).unwrap()
}

async fn pop(api: &mut Client, topics: &[&str], ack: bool) {
    let reply = ask(api, json!({"m": "queue.pop", "p": {"t": topics, "ack": ack}})).await;
    assert_eq!(reply, json!({"E": null, "r": {"s": true}}));
}

/// The next message of a queue: its parameters.
async fn event(api: &mut Client) -> Value {
    let event: Value = serde_json::from_str(&api.text().await).unwrap();
    assert_eq!((&event["e"], &event["id"]), (&json!("queue.pop"), &Value::Null), "{event}");
    assert_eq!(event.as_object().unwrap().len(), 3, "{event}");
    event["p"].clone()
}

/// A raw connection that consumes topics.
async fn consumer(mut raw: Raw, topics: &[&str], ack: bool) -> Raw {
    raw.write(raw::upgrade().replace("/ws", PATH)).await;
    assert_eq!(raw.head().await.status, 101);
    raw.write(raw::text(&json!({"m": "queue.pop", "p": {"t": topics, "ack": ack}}).to_string())).await;
    assert_eq!(raw.text().await, r#"{"E":null,"r":{"s":true}}"#);
    raw
}

fn number(event: &str) -> u64 {
    serde_json::from_str::<Value>(event).unwrap()["p"]["d"].as_u64().unwrap_or_else(|| panic!("{event}"))
}

fn key(event: &str) -> u64 {
    serde_json::from_str::<Value>(event).unwrap()["p"]["k"].as_u64().unwrap_or_else(|| panic!("{event}"))
}

#[tokio::test]
async fn a_handler_pushes_any_value_and_a_back_end_gets_it() {
    let engine = engine("");
    let mut client = engine.connect().await;
    let id = client.ask("id").await;
    let mut api = back_end(&engine).await;
    let nodes: Value = serde_json::from_str(&get(engine.at.center, "/v1/nodes").await.1).unwrap();
    let node = nodes["nodes"][0]["id"].as_str().unwrap();
    assert_eq!(client.ask("push early 'waits'").await, "true 1 nil");
    assert_eq!(client.ask("push early 2").await, "true 2 nil");
    pop(&mut api, &["early", "values"], false).await;
    let want = |topic: &str, data: Value| json!({"n": node, "c": id, "t": topic, "d": data});
    assert_eq!(event(&mut api).await, want("early", json!("waits")));
    assert_eq!(event(&mut api).await, want("early", json!(2)));
    for (lua, data) in [
        ("{a = {1, 2}, b = mix.null}", json!({"a": [1, 2], "b": null})),
        ("mix.json_decode('[]')", json!([])),
        ("{}", json!({})),
        ("nil", json!(null)),
        ("false", json!(false)),
        (r#"'"\\ 弹幕\n'"#, json!("\"\\ 弹幕\n")),
        ("0.5", json!(0.5)),
    ] {
        assert_eq!(client.ask(&format!("push values {lua}")).await, "true 0 nil", "{lua}");
        assert_eq!(event(&mut api).await, want("values", data), "{lua}");
    }
}

#[tokio::test]
async fn what_cannot_be_pushed_is_an_err_and_wrong_arguments_raise() {
    let engine = engine("topicSize: 3, maxTopics: 2");
    let mut client = engine.connect().await;
    for (question, answer) in [
        ("push a print", "true nil can't encode function"),
        ("push a {1, nil, 3}", "true nil can't encode table: sparse array (2 values, highest index 3)"),
        ("push a '\\255'", "true nil can't encode string: not valid UTF-8"),
        ("fill a 3", "3"),
        ("push a 4", "true nil topic \"a\" is full: 3 messages wait (engine.luavm.queue.topicSize)"),
        ("push b 1", "true 1 nil"),
        ("push c 1", "true nil topic \"c\" can't be made: there are 2 already (engine.luavm.queue.maxTopics)"),
        ("push user:1e+15 1", "true nil topics are named as channels are: "),
    ] {
        let got = client.ask(question).await;
        assert!(got.starts_with(answer), "{question}: {got}");
    }
    let mut api = back_end(&engine).await;
    let reply = ask(&mut api, json!({"m": "queue.pop", "p": ["a", "c"]})).await;
    let problem = "topic \"c\" can't be made: there are 2 already (engine.luavm.queue.maxTopics)";
    assert_eq!(reply, json!({"E": {"c": 201, "m": problem}}));
    pop(&mut api, &["a", "b"], false).await;
    let reply = ask_past_events(&mut api, json!({"m": "queue.pop", "p": ["b"]})).await;
    assert_eq!(reply, json!({"E": {"c": 202, "m": "this connection consumes topic \"b\" already"}}));
    for (call, error) in [
        ("mix.queue.push()", "bad argument #1 to 'push' (string expected, got no value)"),
        ("mix.queue.push({}, 1)", "bad argument #1 to 'push' (string expected, got table)"),
        ("mix.queue.push('a')", "bad argument #2 to 'push' (value expected, got no value)"),
    ] {
        let script = format!("function on_message(msg, conn) conn:send(select(2, pcall(function() {call} end))) end");
        let engine = TestEngine::new(&script);
        let got = engine.connect().await.ask("").await;
        assert!(got.ends_with(error), "{got}");
    }
}

/// The answer to a request, past the messages that come before it.
async fn ask_past_events(api: &mut Client, request: Value) -> Value {
    api.send(&request.to_string()).await;
    loop {
        let message: Value = serde_json::from_str(&api.text().await).unwrap();
        if message.get("E").is_some() {
            return message;
        }
    }
}

#[tokio::test]
async fn with_full_block_a_push_waits_for_room_and_others_are_served() {
    let engine = engine("topicSize: 2, full: block");
    let (mut filler, mut leaver, mut other) = (engine.connect().await, engine.connect().await, engine.connect().await);
    filler.send("fill work 6").await;
    // Its third push waits: no further message is in the topic, and later pushes wait too.
    eventually("two messages wait", async || {
        let (_, page) = get(engine.at.api, "/metrics").await;
        page.contains("connmix_engine_queue_messages{topic=\"work\"} 2").then_some(())
    })
    .await;
    leaver.send("push work 'never'").await;
    assert_eq!(other.ask("push other 1").await, "true 1 nil", "neither the worker nor another topic waits");
    drop(leaver);
    // Until it is gone.
    eventually("one waits no more", async || {
        let (_, page) = get(engine.at.api, "/metrics").await;
        let clients = page.lines().find_map(|l| l.strip_prefix("connmix_engine_servers_clients "))?;
        (clients == "2").then_some(())
    })
    .await;
    let mut api = back_end(&engine).await;
    pop(&mut api, &["work"], false).await;
    for i in 1..=6 {
        assert_eq!(event(&mut api).await["d"], i);
    }
    let waited: usize = filler.text().await.parse().unwrap();
    assert!(waited <= 2, "{waited}");
    assert_eq!(other.ask("push work 'next'").await, "true 0 nil");
    assert_eq!(event(&mut api).await["d"], "next", "what the one who left pushed is gone with it");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_room_that_nobody_makes() {
    let script = "
      function on_message(msg, conn) conn:send(tostring(mix.queue.push('work', msg.data))) end
      function on_close(id) mix.queue.push('left', id) mix.queue.push('work', id) end";
    let engine = TestEngine::with(script, "", "workers: 2\nluavm: {queue: {topicSize: 1, full: block}}");
    let (mut first, mut waits) = (engine.connect().await, engine.connect().await);
    assert_eq!(first.ask("1").await, "1");
    waits.send("2").await;
    let mut gone = engine.connect().await;
    gone.send("3").await;
    drop(gone);
    assert!(engine.shutdown().await, "the stop is over before shutdownTimeout is");
}

#[tokio::test]
async fn a_login_is_checked_by_a_back_end_while_the_handler_waits() {
    let engine = engine("");
    let mut api = back_end(&engine).await;
    pop(&mut api, &["login"], false).await;
    let mut clients = Vec::new();
    for name in ["ann", "bob", "eve"] {
        let mut client = engine.connect().await;
        client.send(&format!("login {name}")).await;
        let asked = event(&mut api).await;
        assert_eq!((&asked["t"], &asked["d"]), (&json!("login"), &json!({"name": name})));
        clients.push((client, asked["c"].clone()));
    }
    // Answered in another order than asked.
    for (i, (client, id)) in clients.iter_mut().enumerate().rev() {
        let call = json!({"m": "conn.call", "p": {"c": id, "f": "set_context_value", "a": ["uid", 100 + i]}, "i": i});
        assert_eq!(ask(&mut api, call).await, json!({"E": null, "r": {"s": true}, "i": i}));
        assert_eq!(client.text().await, format!("welcome, {}", 100 + i));
    }
}

#[tokio::test]
async fn two_consumers_get_messages_in_turn_and_unpop_leaves_the_rest_to_the_other() {
    let engine = engine("");
    let mut client = engine.connect().await;
    let (mut a, mut b) = (back_end(&engine).await, back_end(&engine).await);
    pop(&mut a, &["work", "other"], false).await;
    pop(&mut b, &["work"], false).await;
    assert_eq!(client.ask("fill work 100").await, "0");
    for i in 0..50 {
        assert_eq!(event(&mut a).await["d"], 2 * i + 1);
        assert_eq!(event(&mut b).await["d"], 2 * i + 2);
    }
    let reply = ask(&mut a, json!({"m": "queue.unpop", "p": {"t": ["work"]}})).await;
    assert_eq!(reply["E"], Value::Null);
    assert_eq!(client.ask("fill work 10").await, "0");
    for i in 1..=10 {
        assert_eq!(event(&mut b).await["d"], i);
    }
    assert_eq!(client.ask("push other 'still'").await, "true 0 nil");
    assert_eq!(event(&mut a).await["d"], "still");
    // As PHP sends an empty object.
    assert_eq!(ask(&mut b, json!({"m": "queue.unpop", "p": []})).await["E"], Value::Null);
    assert_eq!(ask(&mut a, json!({"m": "queue.unpop", "p": {}})).await["E"], Value::Null);
    assert_eq!(ask(&mut a, json!({"m": "queue.unpop"})).await["E"]["c"], 203);
    assert_eq!(client.ask("fill work 2").await, "2");
    assert_eq!(a.ask("ping").await, "pong", "nothing has come before");
}

#[tokio::test]
async fn the_answers_to_pop_and_unpop_stand_around_the_messages() {
    let engine = engine("");
    let mut client = engine.connect().await;
    assert_eq!(client.ask("fill t 5").await, "5");
    let mut api = Raw::dial(engine.at.api).await;
    api.write(raw::upgrade().replace("/ws", PATH)).await;
    assert_eq!(api.head().await.status, 101);
    let requests =
        [json!({"m": "mesh.publish", "p": {"c": "x", "d": ""}, "i": 1}), json!({"m": "queue.pop", "p": ["t"], "i": 2})];
    api.write(requests.iter().flat_map(|r| raw::text(&r.to_string())).collect::<Vec<u8>>()).await;
    assert!(api.text().await.ends_with("\"i\":1}"));
    assert!(api.text().await.ends_with("\"i\":2}"));
    for i in 1..=5 {
        assert_eq!(number(&api.text().await), i);
    }
}

#[tokio::test]
async fn what_is_not_settled_is_delivered_again() {
    let engine = engine("");
    let mut client = engine.connect().await;
    assert_eq!(client.ask("fill jobs 5").await, "5");
    let mut first = back_end(&engine).await;
    pop(&mut first, &["jobs"], true).await;
    let mut keys = Vec::new();
    for i in 1..=5 {
        let job = event(&mut first).await;
        assert_eq!(job["d"], i);
        keys.push(job["k"].clone());
    }
    let reply = ask(&mut first, json!({"m": "queue.ack", "p": {"k": [keys[0], keys[2]]}, "i": 1})).await;
    assert_eq!(reply, json!({"E": null, "r": {"s": true}, "i": 1}));
    let mut second = back_end(&engine).await;
    pop(&mut second, &["jobs"], true).await;
    // The last word of a back end that closes counts.
    let last = json!({"m": "queue.ack", "p": {"k": [keys[4].to_string()]}});
    first.send(&last.to_string()).await;
    first.close().await;
    for i in [2, 4] {
        assert_eq!(event(&mut second).await["d"], i);
    }
    assert_eq!(second.ask("ping").await, "pong");
    let late = ask(&mut second, json!({"m": "queue.ack", "p": [keys[0]]})).await;
    assert_eq!(late["E"]["c"], 101, "it was settled already, by another");
}

const MANY: u64 = 20_000;

/// Pushes 1 to [`MANY`] and kills a consumer in the middle of them. Returns what that consumer had seen, and what the
/// next one got.
async fn killed_in_the_middle(ack: bool) -> (Vec<u64>, Vec<u64>) {
    let engine = engine("topicSize: 100000, maxTopics: 2");
    let mut client = engine.connect().await;
    let addr = engine.at.api;
    let mut first = consumer(Raw::narrow(addr).await, &["t", "its-own"], ack).await;
    client.send(&format!("fill t {MANY}")).await;
    let mut seen = Vec::new();
    while seen.len() < 5000 {
        let message = first.text().await;
        if message.contains("\"E\":") {
            continue;
        }
        seen.push(number(&message));
        if ack {
            first.write(raw::text(&json!({"m": "queue.ack", "p": [key(&message)]}).to_string())).await;
        }
    }
    // A reset: what the kernels still hold is lost.
    socket2::SockRef::from(&first.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(first);
    client.text().await;
    eventually("its topic has gone with it and makes room for another", async || {
        client.ask("push another 0").await.starts_with("true 1").then_some(())
    })
    .await;
    let mut second = consumer(Raw::dial(addr).await, &["t"], ack).await;
    assert!(client.ask("push t 0").await.starts_with("true"));
    let mut got = Vec::new();
    loop {
        let message = second.text().await;
        if message.contains("\"E\":") {
            continue;
        }
        if ack {
            second.write(raw::text(&json!({"m": "queue.ack", "p": [key(&message)]}).to_string())).await;
        }
        match number(&message) {
            0 => return (seen, got),
            n => got.push(n),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_ack_a_killed_consumer_loses_nothing() {
    let (seen, got) = killed_in_the_middle(true).await;
    assert_eq!(seen, (1..=seen.len() as u64).collect::<Vec<_>>());
    let all: BTreeSet<u64> = seen.iter().chain(&got).copied().collect();
    assert_eq!(all.len() as u64, MANY, "each came at least once");
    assert!(got.is_sorted(), "what came again found its place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_ack_nothing_comes_twice_though_a_consumer_is_killed() {
    let (seen, got) = killed_in_the_middle(false).await;
    assert_eq!(seen, (1..=seen.len() as u64).collect::<Vec<_>>());
    let mut all: Vec<u64> = seen.iter().chain(&got).copied().collect();
    all.sort_unstable();
    let before = all.len();
    all.dedup();
    assert_eq!(all.len(), before, "nothing came twice");
    // What was lost is what stood in the kernels' buffers: one stretch, behind what was seen.
    let first = *got.first().unwrap();
    assert_eq!(got, (first..=MANY).collect::<Vec<_>>(), "what had not been written was not lost");
}

#[tokio::test]
async fn what_a_slow_consumer_does_not_take_stays_in_the_queue() {
    let engine = engine("topicSize: 100");
    let mut client = engine.connect().await;
    let mut slow = consumer(Raw::narrow(engine.at.api).await, &["t"], false).await;
    // Its socket fills up, then its window, then the topic.
    let mut pushed = 0;
    let full = loop {
        let answer = client.ask("push t {string.rep('x', 100000)}").await;
        if !answer.starts_with("true nil") {
            pushed += 1;
            assert!(pushed < 1000, "64 MiB at most wait in a topic");
            continue;
        }
        break answer;
    };
    assert!(full.contains("topic \"t\" is full"), "{full}");
    // Another consumer gets what waits; the slow one what was on its way to it.
    let mut quick = consumer(Raw::dial(engine.at.api).await, &["t"], false).await;
    for _ in 0..90 {
        assert!(quick.text().await.contains("xxx"));
    }
    for _ in 90..pushed {
        let text = tokio::select! {
            text = quick.text() => text,
            text = slow.text() => text,
        };
        assert!(text.contains("xxx"));
    }
    assert!(client.ask("push t 1").await.starts_with("true 0"));
}

#[tokio::test]
async fn methods_of_older_versions_name_todays() {
    let engine = engine("");
    let mut api = back_end(&engine).await;
    for (older, today) in [("queue.consume", "queue.pop"), ("queue.unconsume", "queue.unpop")] {
        let reply = ask(&mut api, json!({"m": older, "p": ["login"], "i": 1})).await;
        let says = format!("field \"m\": there is no method \"{older}\"; it is {today} today");
        assert_eq!(reply, json!({"E": {"c": 101, "m": says}, "i": 1}));
    }
}
