//! Publishing several messages in one request, and one message once only, over HTTP and the WebSocket API.

mod common;

use common::raw::{self, Raw, Reply};
use common::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt;

/// "id" gets the client's number; any other text subscribes to the channels that it names.
const SCRIPT: &str = "\
function on_message(msg, conn)
  if msg.data == 'id' then conn:send(conn:client_id()) return end
  for name in msg.data:gmatch('%S+') do assert(not conn:subscribe(name)) end
  conn:send('ok')
end
";

const PUBLISH: &str = "/v1/mesh/publish";

fn engine() -> TestEngine {
    TestEngine::with(SCRIPT, "", "workers: 2")
}

async fn subscriber(engine: &TestEngine, channels: &str) -> Client {
    let mut client = engine.connect().await;
    assert_eq!(client.ask(channels).await, "ok");
    client
}

fn request(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn json_of(reply: &Reply) -> Value {
    assert_eq!(reply.header("Content-Type"), Some("application/json"), "{reply:?}");
    serde_json::from_str(&reply.body).unwrap_or_else(|e| panic!("{e}: {reply:?}"))
}

/// Publishes over HTTP: status and answer.
async fn publish(api: &mut Raw, body: &Value) -> (u16, Value) {
    let reply = api.call(request(PUBLISH, &body.to_string())).await;
    (reply.status, json_of(&reply))
}

/// A raw connection of the WebSocket API.
async fn open(addr: SocketAddr) -> Raw {
    let mut raw = Raw::dial(addr).await;
    raw.write(raw::upgrade().replace("/ws", "/ws/v1")).await;
    assert_eq!(raw.head().await.status, 101);
    raw
}

async fn ask(api: &mut Client, request: Value) -> Value {
    serde_json::from_str(&api.ask(&request.to_string()).await).unwrap()
}

fn counts(reached: u64) -> Value {
    json!({"s": reached, "f": 0})
}

#[tokio::test]
async fn one_message_goes_to_several_channels_with_counts_for_each() {
    let engine = engine();
    let (mut both, mut one) = (subscriber(&engine, "a b").await, subscriber(&engine, "a").await);
    let mut api = Raw::dial(engine.at.api).await;
    let (status, reply) = publish(&mut api, &json!({"c": ["b", "nobody", "a"], "d": "x", "i": 7})).await;
    assert_eq!((status, reply), (200, json!({"E": null, "r": [counts(1), counts(0), counts(2)], "i": 7})));
    assert_eq!([both.text().await, both.text().await], ["x", "x"]);
    assert_eq!(one.text().await, "x");
    // A list of one is a list; a channel named twice gets it twice.
    assert_eq!(publish(&mut api, &json!({"c": ["b"], "d": "1"})).await.1, json!({"E": null, "r": [counts(1)]}));
    let body = json!({"c": ["b", "b"], "d": "Mg==", "t": "binary"});
    assert_eq!(publish(&mut api, &body).await.1, json!({"E": null, "r": [counts(1), counts(1)]}));
    assert_eq!(both.text().await, "1");
    for _ in 0..2 {
        assert_eq!(both.next().await.unwrap().into_data(), "2");
    }
    let mut ws = Client::connect(engine.at.api, "/ws/v1").await;
    let reply = ask(&mut ws, json!({"m": "mesh.publish", "p": {"c": ["a", "b"], "d": "ws"}, "i": "m"})).await;
    assert_eq!(reply, json!({"E": null, "r": [counts(2), counts(1)], "i": "m"}));
    assert_eq!([both.text().await, both.text().await, one.text().await], ["ws", "ws", "ws"]);
    both.expect_only_reply("c", "ok").await;
    one.expect_only_reply("c", "ok").await;
}

#[tokio::test]
async fn an_array_of_publishes_is_done_in_order_and_each_is_answered() {
    let engine = engine();
    let mut client = subscriber(&engine, "a b").await;
    let mut api = Raw::dial(engine.at.api).await;
    let body = json!([
        {"c": "a", "d": "0", "i": "first"},
        {"c": "a"},
        {"c": ["b", "a"], "d": "1"},
        7,
        {"c": "a b", "d": "x", "i": -5},
        {"c": "b", "d": "2", "i": 2},
    ]);
    let (status, reply) = publish(&mut api, &body).await;
    assert_eq!(status, 200);
    let replies = reply.as_array().unwrap();
    assert_eq!(replies[0], json!({"E": null, "r": counts(1), "i": "first"}));
    assert_eq!(replies[2], json!({"E": null, "r": [counts(1), counts(1)]}));
    assert_eq!(replies[5], json!({"E": null, "r": counts(1), "i": 2}));
    for (at, part) in [(1, "\"d\" (data) is missing"), (3, "must be a JSON object"), (4, "space")] {
        assert_eq!(replies[at]["E"]["c"], 101, "{}", replies[at]);
        assert!(replies[at]["E"]["m"].as_str().unwrap().contains(part), "{}", replies[at]);
        assert!(replies[at].get("r").is_none());
    }
    assert_eq!(replies[4]["i"], -5, "an error bears its mark");
    assert_eq!(replies.len(), 6);
    for text in ["0", "1", "1", "2"] {
        assert_eq!(client.text().await, text);
    }
    // A thousand of them arrive in order, among plain requests behind one another.
    let many: Vec<Value> = (0..1000).map(|i| json!({"c": "a", "d": format!("n{i}")})).collect();
    api.write(request(PUBLISH, r#"{"c":"a","d":"before"}"#)).await;
    api.write(request(PUBLISH, &json!(many).to_string())).await;
    api.write(request(PUBLISH, r#"{"c":"a","d":"behind"}"#)).await;
    assert_eq!(client.text().await, "before");
    for i in 0..1000 {
        assert_eq!(client.text().await, format!("n{i}"));
    }
    assert_eq!(client.text().await, "behind");
    assert_eq!(json_of(&api.reply().await)["r"], counts(1));
    let replies = json_of(&api.reply().await);
    assert!(replies.as_array().unwrap().iter().all(|reply| reply["r"] == counts(1)) && replies[999].is_object());
    assert_eq!(json_of(&api.reply().await)["r"], counts(1));
}

#[tokio::test]
async fn what_is_too_much_or_no_list_is_refused_and_nothing_is_published() {
    let engine = engine();
    let mut client = subscriber(&engine, "a").await;
    let mut api = Raw::dial(engine.at.api).await;
    let object = json!({"c": "a", "d": "x"});
    let names = |n| vec!["a"; n];
    let long = "x".repeat(129);
    for (body, part) in [
        (json!([]), "array of 1 to 1000"),
        (json!(vec![&object; 1001]), "array of 1 to 1000"),
        (json!(vec![json!(1); 200_000]), "array of 1 to 1000"),
        (json!([{"c": names(600), "d": "x"}, {"c": names(401), "d": "x"}]), "1000 channels at most"),
        (json!({"c": [], "d": "x"}), "1 to 1000 channels"),
        (json!({"c": names(1001), "d": "x"}), "1 to 1000 channels"),
        (json!({"c": ["a", 7], "d": "x"}), "channel 2: it must be a string, not a number"),
        (json!({"c": ["a", ["a"]], "d": "x"}), "channel 2: it must be a string, not an array"),
        (json!({"c": ["a", "b c"], "d": "x"}), "channel 2: "),
        (json!({"c": ["a"]}), "\"d\" (data) is missing"),
        (json!({"c": ["a"], "d": "%", "t": "binary"}), "not valid base64"),
        (json!({"c": "a", "d": "x", "id": 7}), "\"id\" must be a string of 1 to 128 bytes, not a number"),
        (json!({"c": "a", "d": "x", "id": ""}), "1 to 128 bytes, not of 0"),
        (json!({"c": "a", "d": "x", "id": long}), "1 to 128 bytes, not of 129"),
        (json!({"c": "a", "d": "x", "id": ["x"]}), "\"id\" must be a string of 1 to 128 bytes, not an array"),
    ] {
        let (status, reply) = publish(&mut api, &body).await;
        assert_eq!((status, &reply["E"]["c"]), (400, &json!(101)), "{part}: {reply}");
        assert!(reply["E"]["m"].as_str().unwrap().contains(part), "{part}: {reply}");
    }
    for body in [r#"[{"c":"a","d":"x"}"#, r#"[{"c":"a","d":"x"},]"#, r#"[{"c":"a","d":"x"}] x"#, "[{]", "[{\"c\":}]"] {
        let reply = api.call(request(PUBLISH, body)).await;
        assert_eq!(reply.status, 400, "{reply:?}");
        assert!(json_of(&reply)["E"]["m"].as_str().unwrap().contains("not valid JSON"), "{reply:?}");
    }
    // An array is for publishing alone, and a list of channels no client.
    for body in ["[]", r#"[{"c":1,"d":"x"}]"#, r#"{"c":[1],"d":"x"}"#] {
        assert_eq!(api.call(request("/v1/mesh/send", body)).await.status, 400, "{body}");
    }
    let mut ws = Client::connect(engine.at.api, "/ws/v1").await;
    for p in [json!([object]), json!({"c": [], "d": "x"}), json!({"c": "a", "d": "x", "id": 1})] {
        let reply = ask(&mut ws, json!({"m": "mesh.publish", "p": p, "i": 1})).await;
        assert_eq!((&reply["E"]["c"], &reply["i"]), (&json!(101), &json!(1)), "{reply}");
    }
    client.expect_only_reply("z", "ok").await;
    // So much may be.
    let (status, reply) = publish(&mut api, &json!({"c": names(1000), "d": "x"})).await;
    assert_eq!((status, reply["r"].as_array().unwrap().len()), (200, 1000));
}

#[tokio::test]
async fn a_publish_with_an_id_is_delivered_once_whoever_asks() {
    let engine = engine();
    let mut client = subscriber(&engine, "a b").await;
    let mut ws = Client::connect(engine.at.api, "/ws/v1").await;
    let id = "ü".repeat(64);
    let mut apis = Vec::new();
    // Connections of both workers.
    for _ in 0..4 {
        apis.push(Raw::dial(engine.at.api).await);
    }
    for (i, api) in apis.iter_mut().enumerate() {
        let body = json!({"c": "a", "d": format!("try {i}"), "i": i, "id": id});
        assert_eq!(publish(api, &body).await, (200, json!({"E": null, "r": counts(1), "i": i})));
    }
    let call = json!({"m": "mesh.publish", "p": {"c": "a", "d": "ws", "id": id}, "id": "mark"});
    assert_eq!(ask(&mut ws, call).await, json!({"E": null, "r": {"s": 1, "f": 0, "t": 1}, "i": "mark"}));
    assert_eq!(client.text().await, "try 0");
    client.expect_only_reply("c", "ok").await;

    // The first one's reply, of its form, though the counts would be others now.
    let api = &mut apis[0];
    let list = json!({"c": ["a", "b", "none"], "d": "list", "id": "l"});
    let first = publish(api, &list).await.1;
    assert_eq!(first["r"], json!([counts(1), counts(1), counts(0)]));
    let _another = subscriber(&engine, "a").await;
    assert_eq!(publish(api, &list).await.1, first);
    let call = json!({"m": "mesh.publish", "p": {"c": "b", "d": "ws", "id": "l"}});
    assert_eq!(ask(&mut ws, call).await, first);
    // Within an array too; what was wrong is not remembered, and null is no id.
    let body = json!([
        {"c": "b", "d": "once", "id": "n", "i": 1}, {"c": "b", "d": "once", "id": "n", "i": 2},
        {"c": "b", "id": "w"}, {"c": "b", "d": "right", "id": "w"},
        {"c": "b", "d": "null", "id": null}, {"c": "b", "d": "null", "id": null},
    ]);
    let reply = publish(api, &body).await.1;
    assert_eq!([&reply[0]["r"], &reply[1]["r"]], [&counts(1), &counts(1)], "{reply}");
    assert_eq!([&reply[0]["i"], &reply[1]["i"]], [&json!(1), &json!(2)]);
    assert_eq!((&reply[2]["E"]["c"], &reply[3]["r"]), (&json!(101), &counts(1)));
    for text in ["list", "list", "once", "right", "null", "null"] {
        assert_eq!(client.text().await, text);
    }
    // A send has none.
    let to = client.ask("id").await;
    for _ in 0..2 {
        let reply = api.call(request("/v1/mesh/send", &json!({"c": to, "d": "sent", "id": "s"}).to_string())).await;
        assert_eq!(reply.status, 200);
        assert_eq!(client.text().await, "sent");
    }
}

#[tokio::test]
async fn many_that_ask_at_once_with_one_id_get_one_reply() {
    let engine = engine();
    let mut client = subscriber(&engine, "a").await;
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..50 {
        let addr = engine.at.api;
        calls.spawn(async move {
            let mut api = Raw::dial(addr).await;
            publish(&mut api, &json!({"c": "a", "d": i.to_string(), "id": "same"})).await
        });
    }
    while let Some(reply) = calls.join_next().await {
        assert_eq!(reply.unwrap(), (200, json!({"E": null, "r": counts(1)})));
    }
    client.text().await;
    client.expect_only_reply("b", "ok").await;
}

#[tokio::test]
async fn over_the_websocket_api_all_publishes_keep_their_order() {
    let engine = engine();
    let mut client = subscriber(&engine, "a b").await;
    let mut api = open(engine.at.api).await;
    let mut bytes = Vec::new();
    for i in 0..300 {
        let p = match i % 3 {
            0 => json!({"c": "a", "d": i.to_string()}),
            1 => json!({"c": ["none", "b"], "d": i.to_string()}),
            _ => json!({"c": "a", "d": i.to_string(), "id": i.to_string()}),
        };
        bytes.extend(raw::text(&json!({"m": "mesh.publish", "p": p, "i": i}).to_string()));
    }
    api.write(bytes).await;
    for i in 0..300 {
        let reply: Value = serde_json::from_str(&api.text().await).unwrap();
        let r = if i % 3 == 1 { json!([counts(0), counts(1)]) } else { json!({"s": 1, "f": 0, "t": 1}) };
        assert_eq!(reply, json!({"E": null, "r": r, "i": i}));
        assert_eq!(client.text().await, i.to_string());
    }
}

#[tokio::test]
async fn long_answers_to_many_requests_are_all_there_however_late_they_are_taken() {
    let engine = engine();
    let mut api = open(engine.at.api).await;
    // Each answer has some 14 KB; more of them than a connection may have waiting, and than the kernel takes.
    let names = vec!["none"; 1000];
    let stream = api.stream.into_std().unwrap();
    let mut writer = tokio::net::TcpStream::from_std(stream.try_clone().unwrap()).unwrap();
    api.stream = tokio::net::TcpStream::from_std(stream).unwrap();
    let writing = tokio::spawn(async move {
        for i in 0..400 {
            let call = json!({"m": "mesh.publish", "p": {"c": names, "d": ""}, "i": i});
            writer.write_all(&raw::text(&call.to_string())).await.unwrap();
        }
        writer
    });
    for i in 0..400 {
        let reply = api.text().await;
        assert!(reply.ends_with(&format!("{{\"s\":0,\"f\":0}}],\"i\":{i}}}")), "{reply}");
        assert_eq!(reply.matches("\"s\":0").count(), 1000);
    }
    drop(writing.await.unwrap());
}
