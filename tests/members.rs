//! All connections of a channel: counting them, closing them, and publishing to all but some.

mod common;

use common::*;
use serde_json::{Value, json};

/// Each message is a Lua expression or statement, run with `conn`; its results come back, joined by spaces.
const SCRIPT: &str = r#"
local function words(...)
  local results = {...}
  for i = 1, select('#', ...) do results[i] = tostring(results[i]) end
  return table.concat(results, " ")
end
function on_close(client_id, err, conn)
  mix.mesh.publish("other", tostring((mix.mesh.count("room"))))
end
function on_message(msg, conn)
  conn:send(words(assert(loadstring("local conn = ...\n" .. msg.data))(conn)))
end
"#;

fn engine() -> TestEngine {
    TestEngine::with(SCRIPT, "", "workers: 2")
}

/// Clients in a channel, on both workers, with their ids.
async fn members(engine: &TestEngine, channel: &str, many: usize) -> Vec<(Client, String)> {
    let mut clients = Vec::new();
    for _ in 0..many {
        let mut client = engine.connect().await;
        assert_eq!(client.ask(&format!("return conn:subscribe('{channel}')")).await, "nil");
        let id = client.ask("return conn:client_id()").await;
        clients.push((client, id));
    }
    clients
}

/// A call over HTTP, and the same over the WebSocket API, which must give the same.
async fn call(engine: &TestEngine, method: &str, params: Value) -> (u16, Value) {
    let path = format!("/v1/{}", method.replace('.', "/"));
    let (status, reply) = post(engine.at.api, &path, &params.to_string()).await;
    (status, serde_json::from_str(&reply).unwrap_or_else(|e| panic!("{e}: {reply}")))
}

async fn ws_call(api: &mut Client, method: &str, params: Value) -> Value {
    serde_json::from_str(&api.ask(&json!({"m": method, "p": params}).to_string()).await).unwrap()
}

#[tokio::test]
async fn connections_are_counted_and_nothing_is_delivered() {
    let engine = engine();
    let mut room = members(&engine, "room", 5).await;
    let mut other = members(&engine, "other", 2).await;
    let mut api = Client::connect(engine.at.api, "/ws/v1").await;
    for (channels, n) in [(json!("room"), 5), (json!("none"), 0), (json!(["room", "other", "none", "room"]), 12)] {
        let want = json!({"E": null, "r": {"n": n}});
        assert_eq!(call(&engine, "mesh.count", json!({"c": channels})).await, (200, want.clone()));
        assert_eq!(ws_call(&mut api, "mesh.count", json!({"c": channels})).await, want);
    }
    assert_eq!(call(&engine, "mesh.count", json!({"c": "room", "i": 7})).await.1["i"], 7);
    assert_eq!(
        room[0].0.ask("return mix.mesh.count('room'), mix.mesh.count('no room')").await,
        "5 nil channel name \"no room\" holds a space or control character"
    );
    // What a handler has done counts at once; one that is closing does not count any more.
    assert_eq!(other[0].0.ask("conn:subscribe('room') return mix.mesh.count('room')").await, "6 nil");
    other[0].0.send("conn:close(4000)").await;
    assert_eq!(other[0].0.close_frame().await.0, 4000);
    assert_eq!(other[1].0.text().await, "5", "on_close counts");
    for (client, _) in &mut room {
        client.expect_only_reply("return 'only'", "only").await;
    }
}

#[tokio::test]
async fn a_count_behind_a_subscribe_in_one_segment_has_it() {
    let engine = engine();
    let mut client = engine.connect().await;
    let id = client.ask("return conn:client_id()").await;
    let mut api = Client::connect(engine.at.api, "/ws/v1").await;
    for i in 0..20 {
        let room = format!("room:{i}");
        api.send(&json!({"m": "conn.call", "p": {"c": id, "f": "subscribe", "a": [room]}}).to_string()).await;
        api.send(&json!({"m": "mesh.count", "p": {"c": room}}).to_string()).await;
        assert_eq!(api.text().await, r#"{"E":null,"r":{"s":true}}"#);
        assert_eq!(api.text().await, r#"{"E":null,"r":{"n":1}}"#);
    }
}

#[tokio::test]
async fn a_channel_is_closed_on_all_workers_behind_what_was_sent_before() {
    let engine = engine();
    let mut all = members(&engine, "user:42", 4).await;
    let mut others = members(&engine, "user:43", 1).await;
    let publish = post(engine.at.api, "/v1/mesh/publish", r#"{"c":"user:42","d":"last words"}"#).await;
    assert_eq!(publish.0, 200);
    let closed =
        call(&engine, "mesh.close", json!({"ch": "user:42", "code": 4001, "reason": "logged in elsewhere", "i": "x"}))
            .await;
    assert_eq!(closed, (200, json!({"E": null, "r": {"s": 4}, "i": "x"})));
    for (client, _) in &mut all {
        assert_eq!(client.text().await, "last words");
        assert_eq!(client.close_frame().await, (4001, "logged in elsewhere".into()));
    }
    assert_eq!(
        call(&engine, "mesh.close", json!({"ch": ["user:42", "none"]})).await.1,
        json!({"E": null, "r": {"s": 0}})
    );
    assert_eq!(others[0].0.ask("return 'here'").await, "here");
    // From Lua: its own connection among them, which is closed once its handler has returned.
    let mut api = Client::connect(engine.at.api, "/ws/v1").await;
    let mut fans = members(&engine, "fans", 3).await;
    assert_eq!(others[0].0.ask("return mix.mesh.close({channel = 'fans'}, 4002, 'bye')").await, "3 nil");
    for (client, _) in &mut fans {
        assert_eq!(client.close_frame().await, (4002, "bye".into()));
    }
    assert_eq!(ws_call(&mut api, "mesh.close", json!({"ch": "user:43"})).await, json!({"E": null, "r": {"s": 1}}));
    assert_eq!(others[0].0.close_frame().await, (1000, String::new()));
}

#[tokio::test]
async fn one_client_is_closed_by_its_id() {
    let engine = engine();
    let mut clients = members(&engine, "room", 3).await;
    let id = clients[0].1.clone();
    assert_eq!(call(&engine, "mesh.close", json!({"c": id, "code": 4003})).await.1, json!({"E": null, "r": {"s": 1}}));
    assert_eq!(clients[0].0.close_frame().await, (4003, String::new()));
    for gone in [json!(id), json!("1234567890123456789")] {
        assert_eq!(call(&engine, "mesh.close", json!({"c": gone})).await, (200, json!({"E": null, "r": {"s": 0}})));
    }
    let id = clients[1].1.clone();
    assert_eq!(clients[2].0.ask(&format!("return mix.mesh.close('{id}', 4004, 'you')")).await, "1 nil");
    assert_eq!(clients[1].0.close_frame().await, (4004, "you".into()));
    assert_eq!(clients[2].0.ask(&format!("return mix.mesh.close('{id}')")).await, "0 nil");
}

#[tokio::test]
async fn those_that_are_left_out_do_not_get_it_and_do_not_count() {
    let engine = engine();
    let mut room = members(&engine, "room", 4).await;
    let ids: Vec<String> = room.iter().map(|(_, id)| id.clone()).collect();
    let mut api = Client::connect(engine.at.api, "/ws/v1").await;
    let number: u64 = ids[1].parse().unwrap();
    for (except, reached) in [
        (json!(ids[0]), 3),
        (json!([ids[0], number, "7", 18446744073709551615u64]), 2),
        (json!([]), 4),
        (json!(null), 4),
    ] {
        let params = json!({"c": "room", "d": "m", "x": except});
        let want = json!({"s": reached, "f": 0});
        assert_eq!(call(&engine, "mesh.publish", params.clone()).await, (200, json!({"E": null, "r": want})));
        let reply = ws_call(&mut api, "mesh.publish", params).await;
        assert_eq!((&reply["r"]["s"], &reply["r"]["f"]), (&json!(reached), &json!(0)), "{reply}");
    }
    // With an id, in an array, for several channels, too.
    let body = json!([{"c": ["room", "none"], "d": "m", "x": [ids[0]], "id": "once"}]);
    for _ in 0..2 {
        let (_, reply) = post(engine.at.api, "/v1/mesh/publish", &body.to_string()).await;
        assert_eq!(reply, r#"[{"E":null,"r":[{"s":3,"f":0},{"s":0,"f":0}]}]"#);
    }
    for (who, many) in [(0, 4), (1, 7), (2, 9), (3, 9)] {
        for _ in 0..many {
            assert_eq!(room[who].0.text().await, "m");
        }
        room[who].0.expect_only_reply("return 'no more'", "no more").await;
    }
    let publish = "return mix.mesh.publish('room', 'lua', 'text', {except = conn:client_id()})";
    assert_eq!(room[0].0.ask(publish).await, "3 0 nil nil nil nil");
    let list = format!(
        "return mix.mesh.publish('room', 'lua', 'text', {{except = {{'{}', {number}}}, counts = false}})",
        ids[0]
    );
    assert_eq!(room[0].0.ask(&list).await, "nil nil nil nil nil nil");
    for (who, many) in [(1, 1), (2, 2), (3, 2)] {
        for _ in 0..many {
            assert_eq!(room[who].0.text().await, "lua");
        }
        room[who].0.expect_only_reply("return 'no more'", "no more").await;
    }
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let engine = engine();
    let many = vec!["7"; 1001];
    for (method, params, words) in [
        ("mesh.count", json!({}), "field \"c\" (channel) is missing"),
        ("mesh.count", json!({"c": ["a", 7]}), "field \"c\", channel 2: it must be a string, not a number"),
        ("mesh.count", json!({"c": []}), "field \"c\": 1 to 1000 channels are expected"),
        ("mesh.close", json!({}), "field \"c\" (client_id) is missing"),
        (
            "mesh.close",
            json!({"c": "7", "ch": "a"}),
            "either field \"c\" (client_id) or field \"ch\" (channel) is expected, not both",
        ),
        (
            "mesh.close",
            json!({"ch": "a b"}),
            "field \"ch\", channel 1: channel name \"a b\" holds a space or control character",
        ),
        (
            "mesh.close",
            json!({"ch": "a", "code": 1005}),
            "the close code must be a number that may be sent (1000, 3000 to 4999)",
        ),
        (
            "mesh.close",
            json!({"ch": "a", "reason": "x".repeat(124)}),
            "the reason must be a string of at most 123 bytes",
        ),
        (
            "mesh.publish",
            json!({"c": "a", "d": "x", "x": "me"}),
            "field \"x\", client 1: it must be a whole number from 1 to 2^64 - 1, as a string or a number",
        ),
        ("mesh.publish", json!({"c": "a", "d": "x", "x": many}), "field \"x\": at most 1000 clients are expected"),
        (
            "conn.call",
            json!({"c": "7", "f": "destroy"}),
            "field \"f\" (function) must be set_context_value, set_context, subscribe, unsubscribe or close",
        ),
    ] {
        let (status, reply) = call(&engine, method, params.clone()).await;
        assert_eq!((status, &reply["E"]["c"], reply["E"]["m"].as_str()), (400, &json!(101), Some(words)), "{params}");
    }
    let mut client = engine.connect().await;
    for (code, words) in [
        ("mix.mesh.count({})", "bad argument #1 to 'count' (string expected, got table)"),
        ("mix.mesh.close({})", "bad argument #1 to 'close' (client_id or {channel = name} expected, got table)"),
        (
            "mix.mesh.close('7', 1005)",
            "bad argument #2 to 'close' (close code expected (1000, 3000 to 4999), got 1005)",
        ),
        (
            "mix.mesh.publish('c', 'd', 'text', {except = {true}})",
            "bad argument #4 to 'publish' (except must be a client_id, or a list of them)",
        ),
    ] {
        let asked = format!("local ok, err = pcall(function() {code} end) return err");
        let err = client.ask(&asked).await;
        assert!(err.ends_with(words), "{code}: {err}");
    }
    assert_eq!(client.ask("return mix.mesh.close('seven')").await, "nil \"seven\" is no client_id");
}

#[tokio::test]
async fn a_connection_is_told_over_http_what_to_do() {
    let engine = engine();
    let mut client = engine.connect().await;
    let id = client.ask("return conn:client_id()").await;
    let done = json!({"E": null, "r": {"s": true}, "i": 1});
    for (function, args) in [
        ("set_context_value", json!(["name", "Ann"])),
        ("subscribe", json!(["room", "news"])),
        ("unsubscribe", json!(["news"])),
    ] {
        let params = json!({"c": id, "f": function, "a": args, "i": 1});
        assert_eq!(call(&engine, "conn.call", params).await, (200, done.clone()), "{function}");
    }
    assert_eq!(
        client.ask("return conn:context_value('name'), mix.mesh.count('room'), mix.mesh.count('news')").await,
        "Ann 1 0 nil"
    );
    let (status, reply) = call(&engine, "conn.call", json!({"c": "7", "f": "subscribe", "a": ["room"]})).await;
    assert_eq!((status, reply), (400, json!({"E": {"c": 301, "m": "client 7 is not connected"}})));
    assert_eq!(call(&engine, "conn.call", json!({"c": id, "f": "close", "a": [4000]})).await.0, 200);
    assert_eq!(client.close_frame().await.0, 4000);
}

/// On several nodes as one mesh, over a bus in memory.
mod mesh {
    use super::call;
    use crate::common::cluster::*;
    use crate::common::*;
    use serde_json::json;

    #[tokio::test]
    async fn connections_of_all_nodes_are_counted_closed_and_left_out() {
        let nodes = Nodes::start(3).await;
        let mut members = Vec::new();
        for engine in &nodes.engines {
            for _ in 0..2 {
                members.push(member(engine.ws(), "room").await);
            }
        }
        for engine in &nodes.engines {
            assert_eq!(call(engine, "mesh.count", json!({"c": "room"})).await.1, json!({"E": null, "r": {"n": 6}}));
        }
        let (first, last) = (id(&mut members[0]).await, id(&mut members[5]).await);
        let params = json!({"c": "room", "d": "m", "x": [first, last], "id": "once"});
        for engine in &nodes.engines {
            let reply = call(engine, "mesh.publish", params.clone()).await;
            assert_eq!(reply.1, json!({"E": null, "r": {"s": 4, "f": 0}}));
        }
        for member in &mut members[1..5] {
            assert_eq!(member.text().await, "m");
        }
        for at in [0, 5] {
            members[at].expect_only_reply("end", "echo end").await;
        }
        // One client by its id, from another node; then the whole channel.
        let close = call(&nodes.engines[0], "mesh.close", json!({"c": last, "code": 4001})).await.1;
        assert_eq!(close, json!({"E": null, "r": {"s": 1}}));
        let mut gone = members.pop().unwrap();
        assert_eq!(gone.close_frame().await.0, 4001);
        eventually("it is out of the channel", async || {
            let count = call(&nodes.engines[1], "mesh.count", json!({"c": "room"})).await.1;
            (count["r"]["n"] == 5).then_some(())
        })
        .await;
        let close = call(&nodes.engines[1], "mesh.close", json!({"ch": "room", "code": 4002, "reason": "over"})).await;
        assert_eq!(close.1, json!({"E": null, "r": {"s": 5}}));
        for member in &mut members {
            assert_eq!(member.close_frame().await, (4002, "over".into()));
        }
    }
}
