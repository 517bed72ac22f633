//! The WebSocket API of back ends, over real sockets: calls, their order, their errors, and who may call.

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::raw::{self, Raw};
use common::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

/// "id" gets the client's number, "wait KEY" the value of a key once it is set; any other text subscribes to the channel
/// that it names.
const SCRIPT: &str = "\
function on_message(msg, conn)
  local key = msg.data:match('^wait (.*)')
  if msg.data == 'id' then
    conn:send(conn:client_id())
  elseif msg.data == 'context' then
    conn:send(mix.json_encode(conn:context()))
  elseif msg.data == 'channels' then
    conn:send(table.concat(conn:channels(), ','))
  elseif key then
    conn:send('got ' .. tostring(conn:wait_context_value(key)))
  else
    conn:send(conn:subscribe(msg.data) or 'ok')
  end
end
";

const PATH: &str = "/ws/v1";

/// An engine with further keys of `engine.apiServer` and further top-level lines.
fn engine_with(workers: usize, api: &str, top: &str) -> TestEngine {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    let file = dir.path().join("connmix.yaml");
    write_config(&file, "", &format!("workers: {workers}"), top);
    let config = std::fs::read_to_string(&file).unwrap();
    let before = "engine:\n  apiServer: {port: 0, bind: 127.0.0.1";
    assert!(config.contains(before));
    std::fs::write(&file, config.replace(before, &format!("{before}{api}"))).unwrap();
    TestEngine::start(dir)
}

fn engine() -> TestEngine {
    TestEngine::new(SCRIPT)
}

async fn back_end(engine: &TestEngine) -> Client {
    Client::connect(engine.at.api, PATH).await
}

async fn ask(api: &mut Client, request: Value) -> Value {
    serde_json::from_str(&api.ask(&request.to_string()).await).unwrap()
}

/// A raw connection whose handshake is done.
async fn open(addr: SocketAddr) -> Raw {
    let mut raw = Raw::dial(addr).await;
    raw.write(raw::upgrade().replace("/ws", PATH)).await;
    let head = raw.head().await;
    assert_eq!(head.status, 101, "{head:?}");
    assert_eq!(head.header("Sec-WebSocket-Accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    raw
}

fn publish(channel: &str, data: &str, i: usize) -> Vec<u8> {
    raw::text(&json!({"m": "mesh.publish", "p": {"c": channel, "d": data}, "i": i}).to_string())
}

#[tokio::test]
async fn publish_and_send_reach_connections_of_any_worker() {
    let engine = engine_with(3, "", "");
    let mut api = back_end(&engine).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = engine.connect().await;
        assert_eq!(client.ask("news").await, "ok");
        clients.push(client);
    }
    let reply = ask(&mut api, json!({"m": "mesh.publish", "p": {"c": "news", "d": "hé"}, "i": "x"})).await;
    assert_eq!(reply, json!({"E": null, "r": {"s": 6, "f": 0, "t": 6}, "i": "x"}));
    let bytes = STANDARD.encode(b"\0\xff");
    let reply = ask(&mut api, json!({"m": "mesh.publish", "p": {"c": "news", "d": bytes, "t": "binary"}})).await;
    assert_eq!(reply, json!({"E": null, "r": {"s": 6, "f": 0, "t": 6}}));
    for client in &mut clients {
        assert_eq!(client.text().await, "hé");
        assert_eq!(client.next().await, Ok(Message::binary(&b"\0\xff"[..])));
        let id = client.ask("id").await;
        for c in [json!(id), json!(id.parse::<u64>().unwrap())] {
            let reply = ask(&mut api, json!({"p": {"c": c, "d": "you"}, "id": -7, "m": "mesh.send"})).await;
            assert_eq!(reply, json!({"E": null, "r": {"s": true}, "i": -7}), "id is taken for i");
            assert_eq!(client.text().await, "you");
        }
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_and_the_connection_stays() {
    let engine = engine();
    let mut api = back_end(&engine).await;
    for (request, code, part) in [
        ("", 101, "must be a JSON object"),
        ("[1]", 101, "must be a JSON object"),
        // PHP's empty object.
        ("[]", 101, "\"m\" (method) is missing"),
        (r#"{"m":"mesh.send","p":[]}"#, 101, "\"c\" (client_id) is missing"),
        (r#"{"m":"conn.call","p":[ ]}"#, 101, "\"c\" (client_id) is missing"),
        (r#"{"m":"conn.call","p":[7]}"#, 101, "\"p\" must be a JSON object"),
        (r#"{"m":"mesh.send","p":{"c":"1234567890123456789","d":"x"}}"#, 401, "client 1234567890123456789 is not"),
        (r#"{"m":"mesh.send","p":{"c":1234567890123456789,"d":"x"}}"#, 401, "client 1234567890123456789 is not"),
        (r#"{"m":"mesh.send","p":{"c":1234567890123456789}}"#, 101, "\"d\" (data) is missing"),
        (
            r#"{"m":"conn.call","p":{"c":"1234567890123456789","f":"close"}}"#,
            301,
            "1234567890123456789 is not connected",
        ),
        (r#"{"m":"conn.call","p":{"c":1234567890123456789,"f":"kill"}}"#, 101, "\"f\" (function) must be"),
        ("{\"m\":\"mesh.publish\"", 101, "not valid JSON"),
        ("{}", 101, "\"m\" (method) is missing"),
        (r#"{"m":7}"#, 101, "\"m\" (method) must be a string, not a number"),
        (r#"{"m":"mesh.unpublish","p":{}}"#, 101, "no method \"mesh.unpublish\""),
        (r#"{"m":"mesh.publish"}"#, 101, "\"p\" (parameters) is missing"),
        (r#"{"m":"mesh.publish","p":[]}"#, 101, "\"c\" (channel) is missing"),
        (r#"{"m":"mesh.publish","p":[{}]}"#, 101, "\"p\" must be a JSON object"),
        (r#"{"m":"mesh.publish","p":{"d":"x"}}"#, 101, "\"c\" (channel) is missing"),
        (r#"{"m":"mesh.publish","p":{"c":7,"d":"x"}}"#, 101, "\"c\" (channel) must be a string"),
        (r#"{"m":"mesh.publish","p":{"c":"a b","d":"x"}}"#, 101, "space"),
        (r#"{"m":"mesh.publish","p":{"c":"a"}}"#, 101, "\"d\" (data) is missing"),
        (r#"{"m":"mesh.publish","p":{"c":"a","d":{}}}"#, 101, "\"d\" (data) must be a string, not an object"),
        (r#"{"m":"mesh.publish","p":{"c":"a","d":"%","t":"binary"}}"#, 101, "not valid base64"),
        (r#"{"m":"mesh.publish","p":{"c":"a","d":"x","t":"json"}}"#, 101, "\"t\" must be"),
        (r#"{"m":"mesh.send","p":{"c":"x","d":"x"}}"#, 101, "\"c\" (client_id)"),
        (r#"{"m":"mesh.send","p":{"c":"12345","d":"x"}}"#, 401, "client 12345 is not connected"),
        (r#"{"m":"queue.pop"}"#, 101, "\"p\" (parameters) is missing"),
        (r#"{"m":"queue.pop","p":{}}"#, 101, "\"t\" (topics) must be an array"),
        (r#"{"m":"queue.pop","p":[]}"#, 101, "at least one topic"),
        (r#"{"m":"queue.pop","p":[7]}"#, 101, "\"t\" (topics) must be an array of strings"),
        (r#"{"m":"queue.pop","p":["a b"]}"#, 101, "space"),
        (r#"{"m":"queue.pop","p":{"t":["a"],"ack":1}}"#, 101, "\"ack\" must be"),
        (r#"{"m":"queue.unpop","p":{"t":["never"]}}"#, 203, "does not consume topic \"never\""),
        (r#"{"m":"queue.unpop"}"#, 203, "consumes no topic"),
        (r#"{"m":"queue.ack","p":{"k":7}}"#, 101, "\"k\" (keys) must be an array"),
        (r#"{"m":"queue.ack","p":{"k":["x"]}}"#, 101, "\"k\""),
        (r#"{"m":"queue.ack","p":[7]}"#, 101, "7 is not this connection's to settle"),
        (r#"{"m":"conn.call","p":{"c":7}}"#, 101, "\"f\" (function) is missing"),
        (r#"{"m":"conn.call","p":{"c":7,"f":"kill"}}"#, 101, "\"f\" (function) must be"),
        (r#"{"m":"conn.call","p":{"c":7,"f":"subscribe","a":"x"}}"#, 101, "\"a\" (arguments) must be an array"),
        (r#"{"m":"conn.call","p":{"c":7,"f":"close"}}"#, 301, "client 7 is not connected"),
    ] {
        let reply: Value = serde_json::from_str(&api.ask(request).await).unwrap();
        assert_eq!(reply["E"]["c"], code, "{request}: {reply}");
        assert!(reply["E"]["m"].as_str().unwrap().contains(part), "{request}: {reply}");
        assert_eq!(reply.as_object().unwrap().len(), 1, "{reply}");
    }
    api.send_binary(b"{}").await;
    assert!(api.text().await.contains("binary"));
    let reply = ask(&mut api, json!({"m": "mesh.send", "p": {"c": 9, "d": ""}, "i": 3, "id": 4})).await;
    assert_eq!((&reply["E"]["c"], &reply["i"]), (&json!(401), &json!(3)), "an error bears the mark too");
    let reply = ask(&mut api, json!({"m": "no", "i": {"x": 1}})).await;
    assert_eq!(reply.get("i"), None, "only integers and strings are marks");
    assert_eq!(api.ask("ping").await, "pong");
}

#[tokio::test]
async fn a_thousand_requests_in_one_write_are_answered_in_order() {
    let engine = engine_with(2, "", "");
    let (mut a, mut b) = (engine.connect().await, engine.connect().await);
    for client in [&mut a, &mut b] {
        assert_eq!(client.ask("all").await, "ok");
    }
    let mut api = open(engine.at.api).await;
    let mut bytes = Vec::new();
    for i in 0..1000 {
        match i % 10 {
            3 => bytes.extend(raw::text(&json!({"m": "mesh.send", "p": {"c": 1, "d": "x"}, "i": i}).to_string())),
            5 => bytes.extend(raw::text(&json!({"m": "none", "i": i}).to_string())),
            7 => bytes.extend(raw::text("ping")),
            8 => bytes.extend(raw::frame(raw::FIN | raw::PING, b"!")),
            _ => bytes.extend(publish("all", &i.to_string(), i)),
        }
    }
    api.write(&bytes).await;
    let mut pongs = 0;
    for i in (0..1000).filter(|i| i % 10 != 8) {
        let text = loop {
            match api.frame().await {
                Some((raw::PONG, payload)) => {
                    assert_eq!(payload, b"!");
                    pongs += 1;
                }
                Some((raw::TEXT, payload)) => break String::from_utf8(payload).unwrap(),
                other => panic!("{other:?}"),
            }
        };
        let want = match i % 10 {
            3 => json!({"E": {"c": 401, "m": "client 1 is not connected, or can't take the message"}, "i": i}),
            5 => json!({"E": {"c": 101, "m": "field \"m\": there is no method \"none\""}, "i": i}),
            7 => {
                assert_eq!(text, "pong", "{i}");
                continue;
            }
            _ => json!({"E": null, "r": {"s": 2, "f": 0, "t": 2}, "i": i}),
        };
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), want);
    }
    assert_eq!(pongs, 100);
    for client in [&mut a, &mut b] {
        for i in (0..1000).filter(|i| ![3, 5, 7, 8].contains(&(i % 10))) {
            assert_eq!(client.text().await, i.to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_connections_publish_arrives_in_the_order_of_each() {
    const EACH: usize = 10_000;
    let engine = TestEngine::with(SCRIPT, "outboxLimit: 256MiB", "workers: 2");
    let mut subscriber = engine.connect().await;
    assert_eq!(subscriber.ask("flood").await, "ok");
    let mut publishers = JoinSet::new();
    for p in 0..8 {
        let addr = engine.at.api;
        publishers.spawn(async move {
            let (mut api, mut answered) = (open(addr).await, 0);
            for part in 0..EACH / 500 {
                let bytes: Vec<u8> =
                    (part * 500..(part + 1) * 500).flat_map(|i| publish("flood", &format!("{p}:{i}"), i)).collect();
                api.write(&bytes).await;
                // Two parts are under way at any time.
                while answered < part * 500 {
                    let reply: Value = serde_json::from_str(&api.text().await).unwrap();
                    assert_eq!(reply, json!({"E": null, "r": {"s": 1, "f": 0, "t": 1}, "i": answered}));
                    answered += 1;
                }
            }
            while answered < EACH {
                assert!(api.text().await.contains("\"s\":1"));
                answered += 1;
            }
        });
    }
    let mut next = [0; 8];
    for _ in 0..8 * EACH {
        let text = subscriber.text().await;
        let (p, i) = text.split_once(':').unwrap();
        let p: usize = p.parse().unwrap();
        assert_eq!(i.parse(), Ok(next[p]), "of publisher {p}");
        next[p] += 1;
    }
    while let Some(done) = publishers.join_next().await {
        done.unwrap();
    }
}

/// A request without a request id.
fn call(method: &str, params: Value) -> Vec<u8> {
    raw::text(&json!({"m": method, "p": params}).to_string())
}

/// Something a client is to do.
fn order(client: &str, f: &str, a: Value) -> Vec<u8> {
    call("conn.call", json!({"c": client, "f": f, "a": a}))
}

#[tokio::test]
async fn requests_in_one_segment_take_effect_in_the_order_in_which_they_came() {
    for workers in [1, 2] {
        let engine = engine_with(workers, "", "");
        // Several, so that the clients of each are of the connection's own worker and of another.
        for round in 0..4 {
            let (mut a, mut b) = (engine.connect().await, engine.connect().await);
            let mut api = open(engine.at.api).await;
            let (id_a, id_b) = (a.ask("id").await, b.ask("id").await);
            let (one, two) = (format!("one:{round}"), format!("two:{round}"));
            let publish = |c: Value, d: &str| call("mesh.publish", json!({"c": c, "d": d}));
            let send = |c: &str, d: &str| call("mesh.send", json!({"c": c, "d": d}));
            let requests = [
                // Into a channel without members, and into one that the other is in already.
                order(&id_a, "subscribe", json!([one])),
                publish(json!(one), "1"),
                order(&id_b, "subscribe", json!([one, two])),
                publish(json!(one), "2"),
                // To several, and once only.
                order(&id_a, "subscribe", json!([two])),
                publish(json!([one, two, "none"]), "3"),
                call("mesh.publish", json!({"c": two, "d": "4", "id": format!("{workers}-{round}")})),
                order(&id_a, "unsubscribe", json!([one])),
                publish(json!(one), "5"),
                // The channel is empty, and a client comes back.
                order(&id_b, "unsubscribe", json!([one])),
                publish(json!(one), "6"),
                order(&id_b, "subscribe", json!([one])),
                publish(json!(one), "7"),
                send(&id_a, "8"),
                publish(json!(two), "9"),
                send(&id_a, "10"),
                order(&id_a, "set_context_value", json!(["k", 1])),
                send(&id_a, "11"),
                // One that is not there changes nothing for the others.
                order("7", "subscribe", json!(["late"])),
                publish(json!("late"), "-"),
                publish(json!(two), "12"),
                order(&id_a, "close", json!([4001, "bye"])),
                send(&id_a, "-"),
            ];
            api.write(requests.concat()).await;
            let done = json!({"s": true});
            let counts = |s: u64, f: u64| json!({"s": s, "f": f, "t": s + f});
            let each = |counts: &[u64]| -> Value { counts.iter().map(|s| json!({"s": s, "f": 0})).collect() };
            let wanted = [
                Ok(done.clone()),
                Ok(counts(1, 0)),
                Ok(done.clone()),
                Ok(counts(2, 0)),
                Ok(done.clone()),
                Ok(each(&[2, 2, 0])),
                Ok(counts(2, 0)),
                Ok(done.clone()),
                Ok(counts(1, 0)),
                Ok(done.clone()),
                Ok(counts(0, 0)),
                Ok(done.clone()),
                Ok(counts(1, 0)),
                Ok(done.clone()),
                Ok(counts(2, 0)),
                Ok(done.clone()),
                Ok(done.clone()),
                Ok(done.clone()),
                Err(301),
                Ok(counts(0, 0)),
                Ok(counts(2, 0)),
                Ok(done.clone()),
                Err(401),
            ];
            for (i, want) in wanted.into_iter().enumerate() {
                let reply: Value = serde_json::from_str(&api.text().await).unwrap();
                match want {
                    Ok(r) => assert_eq!(reply, json!({"E": null, "r": r}), "{workers} workers, request {i}"),
                    Err(code) => assert_eq!(reply["E"]["c"], code, "{workers} workers, request {i}: {reply}"),
                }
            }
            for want in ["1", "2", "3", "3", "4", "8", "9", "10", "11", "12"] {
                assert_eq!(a.text().await, want, "{workers} workers");
            }
            assert_eq!(a.close_frame().await, (4001, "bye".into()));
            for want in ["2", "3", "3", "4", "5", "7", "9", "12"] {
                assert_eq!(b.text().await, want, "{workers} workers");
            }
        }
    }
}

#[tokio::test]
async fn many_clients_are_subscribed_and_greeted_in_one_write() {
    let engine = engine_with(2, "", "");
    let (mut clients, mut requests) = (Vec::new(), Vec::new());
    for i in 0..200 {
        let mut client = engine.connect().await;
        let id = client.ask("id").await;
        requests.extend(order(&id, "subscribe", json!([format!("user:{i}"), "all"])));
        requests.extend(publish(&format!("user:{i}"), &format!("hello {i}"), i));
        clients.push(client);
    }
    requests.extend(publish("all", "everybody", 200));
    let mut api = open(engine.at.api).await;
    api.write(&requests).await;
    for i in 0..200 {
        assert_eq!(api.text().await, r#"{"E":null,"r":{"s":true}}"#);
        assert_eq!(api.text().await, format!(r#"{{"E":null,"r":{{"s":1,"f":0,"t":1}},"i":{i}}}"#));
    }
    assert_eq!(api.text().await, r#"{"E":null,"r":{"s":200,"f":0,"t":200},"i":200}"#);
    for (i, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.text().await, format!("hello {i}"));
        assert_eq!(client.text().await, "everybody");
    }
}

#[tokio::test]
async fn a_back_end_that_reads_no_answers_is_not_read_either() {
    let engine = engine();
    let mut api = Raw::narrow(engine.at.api).await;
    api.write(raw::upgrade().replace("/ws", PATH)).await;
    assert_eq!(api.head().await.status, 101);
    let request = raw::text(&json!({"m": "none", "i": "x".repeat(4000)}).to_string());
    let mut sent = 0;
    // The kernel's buffers on both sides are finite; what goes beyond them would have to be held by the engine.
    while let Ok(written) = tokio::time::timeout(std::time::Duration::from_millis(500), api.stream.writable())
        .await
        .map(|_| api.stream.try_write(&request[sent % request.len()..]).unwrap_or(0))
    {
        sent += written;
        assert!(sent < 64 << 20, "it is read without end");
    }
    // All that was sent whole is answered once it reads.
    for _ in 0..sent / request.len() {
        assert!(api.text().await.contains("xxx"));
    }
}

#[tokio::test]
async fn conn_call_works_on_connections_of_any_worker() {
    let engine = engine_with(3, "", "");
    let mut api = back_end(&engine).await;
    let done = json!({"E": null, "r": {"s": true}});
    for i in 0..6 {
        let mut client = engine.connect().await;
        let id = client.ask("id").await;
        let mut call =
            async |f: &str, a: Value| ask(&mut api, json!({"m": "conn.call", "p": {"c": id, "f": f, "a": a}})).await;
        assert_eq!(call("set_context_value", json!(["uid", 12345678901234567u64])).await, done);
        assert_eq!(call("set_context", json!([{"a": [1, "x"], "gone": 1, "uid": i}])).await, done);
        assert_eq!(call("set_context_value", json!(["gone", null])).await, done);
        assert_eq!(call("set_context", json!([[]])).await, done, "PHP's empty object");
        assert_eq!(call("set_context_value", json!(["list", {"none": [], "nothing": {}}])).await, done);
        let context: Value = serde_json::from_str(&client.ask("context").await).unwrap();
        assert_eq!(context, json!({"a": [1, "x"], "uid": i, "list": {"none": [], "nothing": {}}}));
        assert_eq!(call("subscribe", json!(["one", "two"])).await, done);
        assert_eq!(call("unsubscribe", json!(["one", "never"])).await, done);
        assert_eq!(client.ask("channels").await, "two");
        engine.publish_to("two", "hello", 1).await;
        assert_eq!(client.text().await, "hello");
        let reply = call("set_context_value", json!(["big", "x".repeat(300_000)])).await;
        assert_eq!(reply["E"]["c"], 301);
        assert!(reply["E"]["m"].as_str().unwrap().contains("the context would hold more than"), "{reply}");
        assert_eq!(call("close", json!([4001, "bye"])).await, done);
        assert_eq!(client.close_frame().await, (4001, "bye".into()));
        let gone = eventually("the connection is gone", async || {
            let reply = call("close", json!([])).await;
            reply["E"]["m"].as_str().unwrap().contains("is not connected").then_some(reply)
        })
        .await;
        assert_eq!(gone["E"]["c"], 301);
    }
}

#[tokio::test]
async fn a_value_that_a_back_end_sets_wakes_the_handler_that_waits() {
    let engine = engine();
    let mut api = back_end(&engine).await;
    let mut client = engine.connect().await;
    let id = client.ask("id").await;
    client.send("wait uid").await;
    let reply =
        ask(&mut api, json!({"m": "conn.call", "p": {"c": id, "f": "set_context_value", "a": ["uid", 7]}})).await;
    assert_eq!(reply["E"], Value::Null);
    assert_eq!(client.text().await, "got 7");
}

const USERS: &str = "access:\n  users:\n    - {username: w, password: secret, roles: [write]}\n    \
                     - {username: r, password: secret, roles: [read]}";

fn upgrade_as(user: &str) -> String {
    let headers = match user {
        "" => String::new(),
        user => format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:secret"))),
    };
    raw::upgrade_with(&headers).replace("/ws", PATH)
}

#[tokio::test]
async fn only_a_user_who_may_write_opens_a_connection() {
    let engine = engine_with(1, "", USERS);
    for (user, status) in [("", 401), ("x", 401), ("r", 403), ("w", 101)] {
        let mut raw = Raw::dial(engine.at.api).await;
        raw.write(upgrade_as(user)).await;
        assert_eq!(raw.head().await.status, status, "{user}");
    }
}

#[tokio::test]
async fn a_user_who_is_taken_away_is_cut_off() {
    let engine = engine_with(1, "", USERS);
    let mut raw = Raw::dial(engine.at.api).await;
    raw.write(upgrade_as("w")).await;
    assert_eq!(raw.head().await.status, 101);
    assert_eq!(raw.ask("ping").await, "pong");
    let file = engine.path("connmix.yaml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, config.replace("username: w", "username: v")).unwrap();
    engine.engine().reload();
    // It need not say anything for that.
    assert_eq!(raw.close_frame().await, (1008, "access was taken away".into()));
    raw.write(raw::close(1008)).await;
    raw.ends().await;
    let mut late = Raw::dial(engine.at.api).await;
    late.write(upgrade_as("w")).await;
    assert_eq!(late.head().await.status, 401);
}

#[tokio::test]
async fn a_right_that_is_taken_away_cuts_off_and_what_else_changes_does_not() {
    let engine = engine_with(2, "", USERS);
    let file = engine.path("connmix.yaml");
    let config = std::fs::read_to_string(&file).unwrap();
    for (from, to, cut) in [
        ("roles: [write]", "roles: [read]", true),
        ("password: secret, roles: [write]", "password: other, roles: [write]", true),
        ("roles: [write]", "roles: [write], host: 10.0.0.0/8", true),
        ("roles: [write]", "roles: [read, write]", false),
        ("access:", "shutdownTimeout: 5\naccess:", false),
    ] {
        // One on each worker.
        let mut open = Vec::new();
        for _ in 0..2 {
            let mut raw = Raw::dial(engine.at.api).await;
            raw.write(upgrade_as("w")).await;
            assert_eq!(raw.head().await.status, 101);
            open.push(raw);
        }
        std::fs::write(&file, config.replacen(from, to, 1)).unwrap();
        engine.engine().reload();
        for raw in &mut open {
            match cut {
                true => assert_eq!(raw.close_frame().await, (1008, "access was taken away".into()), "{to}"),
                false => assert_eq!(raw.ask("ping").await, "pong", "{to}"),
            }
        }
        drop(open);
        std::fs::write(&file, &config).unwrap();
        engine.engine().reload();
        eventually("the file is in force again", async || {
            let mut raw = Raw::dial(engine.at.api).await;
            raw.write(upgrade_as("w")).await;
            (raw.head().await.status == 101).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_request_that_opens_nothing_is_told_why() {
    let engine = engine();
    for (request, status, part) in [
        (format!("GET {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), 426, "Upgrade: websocket"),
        (raw::upgrade().replace("/ws", PATH).replace("Version: 13", "Version: 8"), 426, "not 13"),
        (raw::upgrade().replace("/ws", PATH).replace("GET", "POST"), 405, "GET"),
        (raw::upgrade().replace("/ws", "/ws/v2"), 404, "no such path"),
    ] {
        let mut raw = Raw::dial(engine.at.api).await;
        let reply = raw.call(request).await;
        let body: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!((reply.status, &body["E"]["c"]), (status, &json!(status)), "{reply:?}");
        assert!(body["E"]["m"].as_str().unwrap().contains(part), "{reply:?}");
    }
    // Not on the center's port, and behind other requests as well as at once.
    let mut raw = Raw::dial(engine.at.center).await;
    assert_eq!(raw.call(raw::upgrade().replace("/ws", PATH)).await.status, 404);
    let mut raw = Raw::dial(engine.at.api).await;
    let early = [raw::text("ping"), raw::text("ping")].concat();
    let health = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(raw.call(health).await.status, 200);
    raw.write([raw::upgrade().replace("/ws", PATH).as_bytes(), &early].concat()).await;
    assert_eq!(raw.head().await.status, 101);
    assert_eq!((raw.text().await, raw.text().await), ("pong".into(), "pong".into()));
}

#[tokio::test]
async fn a_message_over_the_body_limit_ends_the_connection() {
    let engine = engine_with(1, ", maxBodySize: 1000", "");
    let mut api = open(engine.at.api).await;
    api.write(raw::text(&" ".repeat(1000))).await;
    assert!(api.text().await.contains("must be a JSON object"));
    api.write(raw::text(&" ".repeat(1001))).await;
    assert_eq!(api.close_frame().await, (1009, "message larger than 1000 bytes".into()));
    api.ends().await;
}

#[tokio::test]
async fn a_violation_is_told_behind_the_answers_that_are_owed() {
    let engine = engine();
    let mut api = open(engine.at.api).await;
    let mut bytes: Vec<u8> = (0..50).flat_map(|i| publish("nobody", "x", i)).collect();
    bytes.extend([0x81, 0x00]);
    api.write(&bytes).await;
    for i in 0..50 {
        assert!(api.text().await.ends_with(&format!("\"i\":{i}}}")));
    }
    assert_eq!(api.close_frame().await, (1002, "frame not masked".into()));
}

#[tokio::test]
async fn a_close_frame_is_answered_and_the_connection_ends() {
    let engine = engine();
    let mut api = open(engine.at.api).await;
    api.write(raw::close(3000)).await;
    assert_eq!(api.close_frame().await, (3000, String::new()));
    api.ends().await;
}

#[tokio::test]
async fn a_silent_back_end_is_pinged_and_then_let_go() {
    let engine = engine_with(1, ", readTimeout: 1", "");
    let mut lively = back_end(&engine).await;
    let (lived, mut silent) = (
        tokio::spawn(async move {
            // Its pongs go out while it is read from.
            let message = tokio::time::timeout(std::time::Duration::from_millis(1600), lively.next()).await;
            assert!(message.is_err(), "{message:?}");
            lively.ask("ping").await
        }),
        open(engine.at.api).await,
    );
    assert_eq!(silent.frame().await, Some((raw::PING, Vec::new())));
    assert_eq!(silent.close_frame().await, (1001, "read timeout".into()));
    assert_eq!(lived.await.unwrap(), "pong");
}

#[tokio::test]
async fn a_stop_answers_what_is_under_way_and_says_goodbye() {
    let engine = engine();
    let mut api = open(engine.at.api).await;
    let bytes: Vec<u8> = (0..100).flat_map(|i| publish("nobody", "x", i)).collect();
    api.write(&bytes).await;
    assert!(api.text().await.ends_with("\"i\":0}"));
    let stopped = tokio::spawn(engine.shutdown());
    let mut answered = 1;
    let close = loop {
        match api.frame().await {
            Some((raw::TEXT, _)) => answered += 1,
            Some((raw::CLOSE, payload)) => break payload,
            other => panic!("{other:?}"),
        }
    };
    assert!(close.starts_with(&[&1012u16.to_be_bytes()[..], b"server shutdown, retry="].concat()), "{close:?}");
    assert_eq!(answered, 100, "they came in one read");
    drop(api);
    assert!(stopped.await.unwrap());
}
