//! The API of back ends and the center, byte for byte as a caller meets them.

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::raw::{Raw, Reply};
use common::*;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// "id" gets the client's number; any other text subscribes to the channel that it names.
const SCRIPT: &str = "\
function on_message(msg, conn)
  if msg.data == 'id' then
    conn:send(conn:client_id())
  else
    conn:send(conn:subscribe(msg.data) or 'ok')
  end
end
";

const PUBLISH: &str = "/v1/mesh/publish";
const SEND: &str = "/v1/mesh/send";

fn engine() -> TestEngine {
    TestEngine::new(SCRIPT)
}

fn rig_with_api(lines: &str, top: &str) -> TestEngine {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    let file = dir.path().join("connmix.yaml");
    write_config(&file, "", "workers: 1", top);
    let config = std::fs::read_to_string(&file).unwrap();
    let before = "engine:\n  apiServer: {port: 0, bind: 127.0.0.1";
    assert!(config.contains(before));
    std::fs::write(&file, config.replace(before, &format!("{before}, {lines}"))).unwrap();
    TestEngine::start(dir)
}

async fn subscriber(engine: &TestEngine, channel: &str) -> Client {
    let mut client = engine.connect().await;
    assert_eq!(client.ask(channel).await, "ok");
    client
}

/// A POST with a body, on a connection that stays open; `headers` each end in CRLF.
fn request_with(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn request(path: &str, body: &str) -> String {
    request_with(path, "", body)
}

fn json_of(reply: &Reply) -> Value {
    assert_eq!(reply.header("Content-Type"), Some("application/json"), "{reply:?}");
    serde_json::from_str(&reply.body).unwrap_or_else(|e| panic!("{e}: {reply:?}"))
}

/// Asserts that it is an error with that status and code, whose sentence holds `part`.
fn assert_error(reply: &Reply, status: u16, code: u16, part: &str) {
    let body = json_of(reply);
    assert_eq!((reply.status, &body["E"]["c"]), (status, &json!(code)), "{part}: {reply:?}");
    let message = body["E"]["m"].as_str().unwrap();
    assert!(message.contains(part), "{part:?} is not in {message:?}");
    assert_eq!(body.as_object().unwrap().len(), 1, "no r: {body}");
    assert_eq!(body["E"].as_object().unwrap().len(), 2, "{body}");
}

#[tokio::test]
async fn a_publish_reaches_the_channel_and_says_how_many() {
    let engine = engine();
    let (mut a, mut b) = (subscriber(&engine, "video:弹幕").await, subscriber(&engine, "video:弹幕").await);
    let mut api = Raw::dial(engine.at.api).await;
    for (body, text) in [
        (r#"{"c":"video:弹幕","d":"Hello, \u4e16\u754c \ud83d\ude00"}"#, "Hello, 世界 \u{1F600}"),
        (r#"{"d":"","c":"video:\u5f39\u5e55","t":"text"}"#, ""),
        (
            "\r\n\t {\"c\" : \"video:弹幕\",\n \"d\":\"{\\\"json\\\":true}\", \"t\":null, \"y\":[{}]} ",
            "{\"json\":true}",
        ),
    ] {
        let reply = api.call(request(PUBLISH, body)).await;
        assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"E":null,"r":{"s":2,"f":0}}"#), "{body}");
        assert_eq!(reply.header("Content-Type"), Some("application/json"));
        assert_eq!(a.text().await, text);
        assert_eq!(b.text().await, text);
    }
    let reply = api.call(request(PUBLISH, r#"{"c":"nobody","d":"x"}"#)).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"E":null,"r":{"s":0,"f":0}}"#));
}

#[tokio::test]
async fn binary_data_comes_as_base64_and_leaves_as_bytes() {
    let engine = engine();
    let mut client = subscriber(&engine, "bytes").await;
    let id = client.ask("id").await;
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    for data in [&b""[..], b"\0", b"\xFF\xFE", &bytes] {
        for (path, to) in [(PUBLISH, "bytes"), (SEND, id.as_str())] {
            let body = json!({"c": to, "d": STANDARD.encode(data), "t": "binary"}).to_string();
            let (status, reply) = post(engine.at.api, path, &body).await;
            assert_eq!(status, 200, "{reply}");
            assert_eq!(client.next().await, Ok(Message::binary(data.to_vec())));
        }
    }
}

#[tokio::test]
async fn a_send_reaches_one_client_by_string_or_number() {
    let engine = engine();
    let (mut client, mut other) = (engine.connect().await, engine.connect().await);
    let id = client.ask("id").await;
    for c in [format!("\"{id}\""), id.clone(), format!("{id}.0")] {
        let (status, reply) =
            post(engine.at.api, SEND, &format!(r#"{{"c":{c},"d":"for {}"}}"#, c.replace('"', "'"))).await;
        assert_eq!((status, reply.as_str()), (200, r#"{"E":null,"r":{"s":true}}"#));
        assert_eq!(client.text().await, format!("for {}", c.replace('"', "'")));
    }
    other.expect_only_reply("lobby", "ok").await;

    let mut api = Raw::dial(engine.at.api).await;
    // The same but for the node's number.
    let elsewhere = (id.parse::<u64>().unwrap() ^ (1 << 43)).to_string();
    let reply = api.call(request(SEND, &format!(r#"{{"c":{elsewhere},"d":"x"}}"#))).await;
    assert_error(&reply, 404, 401, &format!("client {elsewhere} is not connected"));
    other.expect_only_reply("lobby", "ok").await;
    client.expect_only_reply("lobby", "ok").await;
    client.close().await;
    // Those of another engine may have more digits than any of ours.
    let foreign = ["9007199254740992", "1234567890123456789", "\"1234567890123456789\"", "\"18446744073709551615\""];
    let own = [format!("\"{id}\""), id, "1".into(), "9007199254740991".into()];
    for c in own.into_iter().chain(foreign.map(str::to_owned)) {
        let reply = api.call(request(SEND, &format!(r#"{{"c":{c},"d":"x"}}"#))).await;
        assert_error(&reply, 404, 401, &format!("client {} is not connected", c.trim_matches('"')));
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_body_is_said_by_name() {
    let engine = engine();
    let mut client = subscriber(&engine, "c").await;
    let mut api = Raw::dial(engine.at.api).await;
    let long = format!(r#"{{"c":"{}","d":"x"}}"#, "x".repeat(256));
    for (path, body, part) in [
        (PUBLISH, "", "JSON object"),
        (PUBLISH, "null", "JSON object"),
        (PUBLISH, "[]", "JSON object"),
        (PUBLISH, r#""c""#, "JSON object"),
        (PUBLISH, "c=c&d=x", "JSON object"),
        (PUBLISH, r#"{"c":"c","d":"x""#, "not valid JSON"),
        (PUBLISH, r#"{"c":"c","d":"x"} x"#, "not valid JSON"),
        (PUBLISH, r#"{"c":"c","d":"x",}"#, "not valid JSON"),
        (PUBLISH, r#"{c:"c"}"#, "not valid JSON"),
        (PUBLISH, r#"{"c":"c","d":"\ud800"}"#, "not valid JSON"),
        (PUBLISH, r#"{"c":"c","c":"d","d":"x"}"#, "duplicate field `c`"),
        (PUBLISH, "{}", r#""c" (channel) is missing"#),
        (PUBLISH, r#"{"d":"x"}"#, r#""c" (channel) is missing"#),
        (PUBLISH, r#"{"c":null,"d":"x"}"#, r#""c""#),
        (PUBLISH, r#"{"c":7,"d":"x"}"#, r#""c" (channel) must be a string, not a number"#),
        (PUBLISH, r#"{"c":{"c":1},"d":"x"}"#, r#""c" (channel) must be a string, not an object"#),
        (PUBLISH, r#"{"c":"","d":"x"}"#, r#""c""#),
        (PUBLISH, r#"{"c":"a b","d":"x"}"#, r#""c""#),
        (PUBLISH, r#"{"c":"a\u0000","d":"x"}"#, r#""c""#),
        (PUBLISH, &long, r#""c""#),
        (PUBLISH, r#"{"c":"c"}"#, r#""d" (data) is missing"#),
        (PUBLISH, r#"{"c":"c","d":null}"#, r#""d""#),
        (PUBLISH, r#"{"c":"c","d":{"event":"x"}}"#, r#""d" (data) must be a string, not an object"#),
        (PUBLISH, r#"{"c":"c","d":true}"#, r#""d" (data) must be a string, not a boolean"#),
        (PUBLISH, r#"{"c":"c","d":-1.5}"#, r#""d" (data) must be a string, not a"#),
        (PUBLISH, r#"{"c":"c","d":"x","t":"json"}"#, r#""t" must be "text" or "binary", not "json""#),
        (PUBLISH, r#"{"c":"c","d":"x","t":1}"#, r#""t" must be "text" or "binary", not a number"#),
        (PUBLISH, r#"{"c":"c","d":"x","t":"binary"}"#, r#""d" is not valid base64"#),
        (PUBLISH, r#"{"c":"c","d":"!!!!","t":"binary"}"#, r#""d" is not valid base64"#),
        (SEND, "{}", r#""c" (client_id) is missing"#),
        (SEND, r#"{"c":"","d":"x"}"#, r#""c" (client_id)"#),
        (SEND, r#"{"c":"abc","d":"x"}"#, r#""c" (client_id)"#),
        (SEND, r#"{"c":"-1","d":"x"}"#, r#""c" (client_id)"#),
        (SEND, r#"{"c":-1,"d":"x"}"#, r#""c" (client_id)"#),
        (SEND, r#"{"c":0,"d":"x"}"#, r#""c" (client_id)"#),
        (SEND, r#"{"c":1.5,"d":"x"}"#, r#""c" (client_id)"#),
        (SEND, r#"{"c":"18446744073709551616","d":"x"}"#, r#""c" (client_id)"#),
        (SEND, r#"{"c":"+1234567890123456789","d":"x"}"#, r#""c" (client_id)"#),
        (SEND, r#"{"c":1234567890123456789}"#, r#""d" (data) is missing"#),
        (SEND, "[]", r#""c" (client_id) is missing"#),
        (SEND, " [ ] ", r#""c" (client_id) is missing"#),
        (SEND, "[1]", "JSON object"),
        (SEND, r#"{"c":18446744073709551616,"d":"x"}"#, r#""c" (client_id)"#),
        (SEND, r#"{"c":true,"d":"x"}"#, r#""c" (client_id)"#),
        (SEND, r#"{"c":1}"#, r#""d" (data) is missing"#),
    ] {
        let reply = api.call(request(path, body)).await;
        assert_error(&reply, 400, 101, part);
    }
    let mut bad_utf8 = b"POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 15\r\n\r\n".to_vec();
    bad_utf8.extend(b"{\"c\":\"\xFF\",\"d\":1}");
    assert_error(&api.call(bad_utf8).await, 400, 101, "not valid JSON");
    let deep = format!(r#"{{"c":"c","d":{}"#, "[".repeat(100_000));
    assert_error(&api.call(request(PUBLISH, &deep)).await, 400, 101, "not valid JSON");
    // None of them went out, and the connection is good for more.
    assert_eq!(api.call(request(PUBLISH, r#"{"c":"c","d":"good"}"#)).await.status, 200);
    assert_eq!(client.text().await, "good");
}

#[tokio::test]
async fn a_callers_mark_comes_back() {
    let engine = engine();
    let mut api = Raw::dial(engine.at.api).await;
    for (i, back) in [("7", json!(7)), ("\"a-1\"", json!("a-1")), ("[]", Value::Null), ("null", Value::Null)] {
        let reply = api.call(request(PUBLISH, &format!(r#"{{"c":"c","d":"x","i":{i}}}"#))).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(json_of(&reply)["i"], back);
        let reply = api.call(request(SEND, &format!(r#"{{"c":1,"d":"x","i":{i}}}"#))).await;
        assert_eq!(reply.status, 404, "{reply:?}");
        assert_eq!(json_of(&reply)["i"], back, "with an error too");
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_errors_with_a_body() {
    let engine = engine();
    let (mut api, mut center) = (Raw::dial(engine.at.api).await, Raw::dial(engine.at.center).await);
    for path in ["/", "/v1/mesh/publish/", "/v1/mesh", "/V1/mesh/publish", "/version", "/v1/nodes", "//", "/%2e", "*"] {
        let reply = api.call(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_error(&reply, 404, 404, "no such path");
    }
    for path in [PUBLISH, SEND, "/other"] {
        assert_error(&center.call(request(path, "{}")).await, 404, 404, "no such path");
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "post"] {
        let reply = api.call(format!("{method} {PUBLISH} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert_error(&reply, 405, 405, "POST");
        assert_eq!(reply.header("Allow"), Some("POST"));
    }
    for path in ["/healthz", "/version", "/v1/nodes"] {
        let reply = center.call(request(path, "")).await;
        assert_error(&reply, 405, 405, "GET");
        assert_eq!(reply.header("Allow"), Some("GET, HEAD"));
    }
    // The query is no part of the path, and an absolute target is one too.
    for target in ["/v1/mesh/publish?x=1", "http://127.0.0.1:6789/v1/mesh/publish"] {
        assert_eq!(api.call(request(target, r#"{"c":"c","d":"x"}"#)).await.status, 200);
    }
}

#[tokio::test]
async fn health_version_and_nodes() {
    let engine = engine();
    for addr in [engine.at.api, engine.at.center] {
        for path in ["/healthz", "/readyz"] {
            assert_eq!(get(addr, path).await, (200, r#"{"status":"ok"}"#.into()));
        }
    }
    let (status, version) = get(engine.at.center, "/version").await;
    assert_eq!((status, version), (200, format!(r#"{{"apis":["v1"],"version":"{}"}}"#, env!("CARGO_PKG_VERSION"))));

    let nodes = async || {
        let (status, nodes) = get(engine.at.center, "/v1/nodes").await;
        assert_eq!(status, 200);
        serde_json::from_str::<Value>(&nodes).unwrap()
    };
    let before = nodes().await;
    let node = &before["nodes"][0];
    assert_eq!(before["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(before.as_object().unwrap().len(), 1);
    assert_eq!(node.as_object().unwrap().len(), 4, "{node}");
    assert!(node["id"].as_str().unwrap().parse::<u64>().unwrap() > 0, "a number, as text");
    assert_eq!(node["clients"], 0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!((now - 60..=now).contains(&node["start_time"].as_u64().unwrap()), "{node}");
    // As it stands, it can be dialled.
    let addr: SocketAddr = node["api_server"].as_str().unwrap().parse().unwrap();
    assert_eq!(addr, engine.at.api);

    let (client, _other) = (engine.connect().await, engine.connect().await);
    assert_eq!(nodes().await["nodes"][0]["clients"], 2);
    assert_eq!(nodes().await["nodes"][0]["id"], node["id"]);
    client.close().await;
    eventually("one has left", async || (nodes().await["nodes"][0]["clients"] == 1).then_some(())).await;
}

#[tokio::test]
async fn a_node_is_found_where_it_is_advertised_or_where_it_was_reached() {
    let engine =
        TestEngine::with_top(SCRIPT, "", "workers: 1", "cluster: {advertise: {api: 'node-1.example.com:6789'}}");
    let (_, nodes) = get(engine.at.center, "/v1/nodes").await;
    assert!(nodes.contains(r#""api_server":"node-1.example.com:6789""#), "{nodes}");

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    let file = dir.path().join("connmix.yaml");
    write_config(&file, "", "workers: 1", "");
    let everywhere = std::fs::read_to_string(&file).unwrap().replace("bind: 127.0.0.1", "bind: 0.0.0.0");
    std::fs::write(&file, everywhere).unwrap();
    let engine = TestEngine::start(dir);
    let (_, nodes) = get(SocketAddr::new([127, 0, 0, 1].into(), engine.at.center.port()), "/v1/nodes").await;
    let here = format!(r#""api_server":"127.0.0.1:{}""#, engine.at.api.port());
    assert!(nodes.contains(&here), "{nodes}");
}

#[tokio::test]
async fn head_asks_like_get_and_gets_no_body() {
    let engine = engine();
    let mut center = Raw::dial(engine.at.center).await;
    center.write("HEAD /version HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let head = center.head().await;
    assert_eq!(head.status, 200);
    assert!(head.header("Content-Length").is_some_and(|len| len != "0"), "as long as the body would be: {head:?}");
    // The next response follows at once: there was no body.
    let next = center.call("GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(next.header("Content-Length"), head.header("Content-Length"));
    center.write(format!("HEAD {PUBLISH} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    assert_eq!(center.head().await.status, 404);
    let mut api = Raw::dial(engine.at.api).await;
    api.write(format!("HEAD {PUBLISH} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    let head = api.head().await;
    assert_eq!((head.status, head.header("Allow")), (405, Some("POST")));
}

#[tokio::test]
async fn one_connection_carries_many_calls() {
    let engine = engine();
    let mut client = subscriber(&engine, "c").await;
    let mut api = Raw::dial(engine.at.api).await;
    for i in 0..300 {
        let reply = api.call(request(PUBLISH, &format!(r#"{{"c":"c","d":"{i}"}}"#))).await;
        assert_eq!(reply.body, r#"{"E":null,"r":{"s":1,"f":0}}"#);
        assert_eq!(client.text().await, i.to_string());
    }
    api.write("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!(api.reply().await.status, 200);
    api.ends().await;
}

#[tokio::test]
async fn pipelined_calls_are_answered_in_order() {
    let engine = engine();
    let mut client = subscriber(&engine, "c").await;
    let mut api = Raw::dial(engine.at.api).await;
    let calls: String = (0..200)
        .map(|i| match i % 4 {
            3 => request(SEND, &format!(r#"{{"c":{},"d":"x"}}"#, i + 1)),
            _ => request(PUBLISH, &format!(r#"{{"c":"c","d":"{i}","i":{i}}}"#)),
        })
        .collect();
    // In two pieces, cut within a request.
    let (first, second) = calls.split_at(calls.len() / 2 + 7);
    api.write(first).await;
    api.write(second).await;
    for i in 0..200 {
        let reply = api.reply().await;
        if i % 4 == 3 {
            assert_error(&reply, 404, 401, &format!("client {} ", i + 1));
        } else {
            assert_eq!(reply.body, format!(r#"{{"E":null,"r":{{"s":1,"f":0}},"i":{i}}}"#));
            assert_eq!(client.text().await, i.to_string());
        }
    }
}

#[tokio::test]
async fn http_1_0_is_served() {
    let engine = engine();
    let mut client = subscriber(&engine, "c").await;
    let body = r#"{"c":"c","d":"old"}"#;
    let mut api = Raw::dial(engine.at.api).await;
    let reply = api.call(format!("POST {PUBLISH} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"E":null,"r":{"s":1,"f":0}}"#));
    assert!(reply.head.starts_with("HTTP/1.0 "), "{reply:?}");
    api.ends().await;
    assert_eq!(client.text().await, "old");
    let mut api = Raw::dial(engine.at.center).await;
    for _ in 0..2 {
        let reply = api.call("GET /version HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        assert_eq!(reply.status, 200);
        assert!(reply.header("Connection").is_some_and(|c| c.eq_ignore_ascii_case("keep-alive")), "{reply:?}");
    }
}

#[tokio::test]
async fn a_body_may_come_in_chunks_or_after_a_go_ahead() {
    let engine = engine();
    let mut client = subscriber(&engine, "c").await;
    let mut api = Raw::dial(engine.at.api).await;
    api.write(format!("POST {PUBLISH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
    for byte in r#"{"c":"c","d":"chunked"}"#.bytes() {
        api.write([b'1', b'\r', b'\n', byte, b'\r', b'\n']).await;
    }
    let reply = api.call("0\r\nX-Trailer: 1\r\n\r\n").await;
    assert_eq!(reply.body, r#"{"E":null,"r":{"s":1,"f":0}}"#);
    assert_eq!(client.text().await, "chunked");

    let body = r#"{"c":"c","d":"expected"}"#;
    let headers = format!("Expect: 100-continue\r\nContent-Length: {}\r\n", body.len());
    api.write(format!("POST {PUBLISH} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")).await;
    assert_eq!(api.head().await.status, 100);
    assert_eq!(api.call(body).await.body, r#"{"E":null,"r":{"s":1,"f":0}}"#);
    assert_eq!(client.text().await, "expected");
    // If the body will not be read, there is no go-ahead.
    api.write(format!("POST /other HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")).await;
    assert_eq!(api.reply().await.status, 404);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let engine = rig_with_api("maxBodySize: 1000", "");
    let mut client = subscriber(&engine, "c").await;
    let body_of = |len: usize| format!(r#"{{"c":"c","d":"{}"}}"#, "x".repeat(len - 16));
    let mut api = Raw::dial(engine.at.api).await;
    assert_eq!(api.call(request(PUBLISH, &body_of(1000))).await.status, 200);
    assert_eq!(client.text().await.len(), 984);
    assert_error(&api.call(request(PUBLISH, &body_of(1001))).await, 413, 413, "1000 bytes");

    let mut api = Raw::dial(engine.at.api).await;
    api.write(format!("POST {PUBLISH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
    let reply = api.call(format!("7d0\r\n{}\r\n0\r\n\r\n", body_of(2000))).await;
    assert_error(&reply, 413, 413, "1000 bytes");

    let mut api = Raw::dial(engine.at.api).await;
    let head = format!(
        "POST {PUBLISH} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n"
    );
    assert_error(&api.call(head).await, 413, 413, "1000 bytes");
    client.expect_only_reply("c", "ok").await;
}

#[tokio::test]
async fn a_client_that_writes_a_large_body_to_its_end_still_hears_why_it_was_refused() {
    let engine = rig_with_api("maxBodySize: 64KiB", "");
    let body = "x".repeat(8 << 20);
    for (path, status, part) in [(PUBLISH, 413, "65536 bytes"), ("/other", 404, "no such path")] {
        let mut api = Raw::dial(engine.at.api).await;
        api.write(request(path, &body)).await;
        assert_error(&api.reply().await, status, status, part);
        api.ends().await;
    }
}

#[tokio::test]
async fn a_call_that_does_not_arrive_ends_in_time() {
    let engine = rig_with_api("readTimeout: 300ms", "");
    let mut slow = Raw::dial(engine.at.api).await;
    slow.write(request(PUBLISH, r#"{"c":"c","d":"x"}"#).trim_end_matches("\"}")).await;
    let mut half = Raw::dial(engine.at.api).await;
    half.write("POST /v1/mesh/publish HTT").await;
    let mut idle = Raw::dial(engine.at.api).await;
    assert_eq!(idle.call("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 200);
    assert_error(&slow.reply().await, 408, 408, "body");
    slow.ends().await;
    half.rest().await;
    idle.ends().await;
    assert_eq!(get(engine.at.api, "/healthz").await.0, 200);
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_ends_in_time() {
    let engine = rig_with_api("readTimeout: 300ms", "");
    // At once, and behind a call that was answered.
    for before in [String::new(), request(PUBLISH, r#"{"c":"c","d":"x"}"#)] {
        let mut socket = TcpStream::connect(engine.at.api).await.unwrap();
        socket.write_all((before + "POST /v1/mesh/publish HTTP/1.1\r\nX: ").as_bytes()).await.unwrap();
        let (mut input, mut output) = socket.split();
        let dripping = async {
            while output.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let mut rest = Vec::new();
        // A reset ends it too.
        let ended = async { input.read_to_end(&mut rest).await.map(drop) };
        let both = async {
            tokio::select! {
                _ = ended => {}
                () = dripping => {}
            }
        };
        timeout(PATIENCE, both).await.expect("the head never ends, and nothing ends it");
    }
}

const USERS: &str = "
access:
  users:
    - {username: ann, password: 's3:crét', roles: [read, write], host: '127.*.*.*'}
    - {username: reader, password: r, roles: [read], host: '*'}
    - {username: writer, password: w, roles: [write], host: 127.0.0.0/8}
    - {username: faraway, password: f, roles: [read, write], host: '10.*.*.*'}
";

#[tokio::test]
async fn with_users_every_call_needs_one_of_them() {
    let engine = TestEngine::with_top(SCRIPT, "", "workers: 1", USERS);
    let mut client = subscriber(&engine, "c").await;
    let (mut api, mut center) = (Raw::dial(engine.at.api).await, Raw::dial(engine.at.center).await);
    let basic = |credentials: &str| format!("Authorization: Basic {}\r\n", STANDARD.encode(credentials));
    let publish = |headers: &str| request_with(PUBLISH, headers, r#"{"c":"c","d":"x"}"#);
    let ask = |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");

    let open = String::new();
    let wrong = [
        open.clone(),
        basic("ann:wrong"),
        basic("ann:s3"),
        basic("ann:"),
        basic("ANN:s3:crét"),
        basic("nobody:r"),
        basic("reader:w"),
        basic("ann"),
        basic(""),
        "Authorization: Basic\r\n".into(),
        "Authorization: Basic %%%\r\n".into(),
        basic("ann:s3:crét").replace("Basic", "Bearer"),
    ];
    // The answers to all wrong passwords but the first four wait: not every call with each of them.
    let calls = |headers: &str| {
        let api = [publish(headers), request_with(SEND, headers, "{}")].map(|call| (true, call));
        api.into_iter().chain(["/v1/nodes", "/version", "/other"].map(|path| (false, ask(path, headers))))
    };
    for (i, headers) in wrong.iter().enumerate() {
        for (of_api, call) in calls(headers).skip(i % 5).take(if headers.is_empty() { 5 } else { 1 }) {
            let reply = if of_api { api.call(call).await } else { center.call(call).await };
            assert_error(&reply, 401, 401, "credentials");
            assert_eq!(reply.header("WWW-Authenticate"), Some(r#"Basic realm="connmix", charset="UTF-8""#));
        }
    }
    // Probes need no credentials.
    for path in ["/healthz", "/readyz"] {
        assert_eq!(api.call(ask(path, "")).await.status, 200);
        assert_eq!(center.call(ask(path, "")).await.status, 200);
    }
    client.expect_only_reply("c", "ok").await;

    for right in [basic("ann:s3:crét"), basic("writer:w"), basic("writer:w").replace("Basic ", "bASIC   ")] {
        assert_eq!(api.call(publish(&right)).await.body, r#"{"E":null,"r":{"s":1,"f":0}}"#, "{right}");
        assert_eq!(client.text().await, "x");
    }
    for right in [basic("ann:s3:crét"), basic("reader:r")] {
        assert_eq!(center.call(ask("/v1/nodes", &right)).await.status, 200);
        assert_error(&center.call(ask("/other", &right)).await, 404, 404, "no such path");
    }
    assert_error(&api.call(publish(&basic("reader:r"))).await, 403, 403, "role write");
    assert_error(&center.call(ask("/v1/nodes", &basic("writer:w"))).await, 403, 403, "role read");
    assert_error(&api.call(publish(&basic("faraway:f"))).await, 403, 403, "address");
    assert_error(&center.call(ask("/version", &basic("faraway:f"))).await, 403, 403, "address");
    client.expect_only_reply("c", "ok").await;
}

#[tokio::test]
async fn what_is_no_http_ends_its_connection_alone() {
    let engine = engine();
    let mut api = Raw::dial(engine.at.api).await;
    for garbage in
        ["\0\0\0\0", "hello\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/1.1\r\nX Y: 1\r\n\r\n", "\x16\x03\x01\x02\0\x01"]
    {
        let mut raw = Raw::dial(engine.at.api).await;
        raw.write(garbage).await;
        let rest = String::from_utf8(raw.rest().await).unwrap();
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400 "), "{garbage:?}: {rest}");
    }
    // Two lengths, or a length that is none, may hide a second request.
    for lengths in ["Content-Length: 2\r\nContent-Length: 3\r\n", "Content-Length: +2\r\n", "Content-Length: x\r\n"] {
        let mut raw = Raw::dial(engine.at.api).await;
        raw.write(format!("POST {PUBLISH} HTTP/1.1\r\nHost: localhost\r\n{lengths}\r\n{{}}")).await;
        let rest = String::from_utf8(raw.rest().await).unwrap();
        assert!(rest.starts_with("HTTP/1.1 400 "), "{lengths:?}: {rest}");
    }
    let mut raw = Raw::dial(engine.at.api).await;
    let long = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nCookie: {}\r\n\r\n", "x".repeat(200_000));
    raw.write_into_the_dark(long).await;
    let rest = raw.rest().await;
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 431 "), "{rest:?}");
    assert_eq!(api.call("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 200);
}

/// Bodies near to what is right.
fn bodies() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("\"c\"".to_owned()),
        Just("\"binary\"".to_owned()),
        Just("\"text\"".to_owned()),
        Just("\"eA==\"".to_owned()),
        Just("\"\\u0000\\ud83d\"".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        "[a-z \\\\\"{}\\[\\],:]{0,10}",
        ".{0,5}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        (0..200usize).prop_map(|n| "[".repeat(n)),
        (0..100usize).prop_map(|n| format!("{}1{}", "{\"c\":".repeat(n), "}".repeat(n))),
    ];
    let field = (prop_oneof![Just("c"), Just("d"), Just("t"), Just("i"), Just("x")], value);
    let object = vec(field, 0..5).prop_map(|fields| {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    });
    prop_oneof![8 => object, 1 => ".{0,50}"]
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn any_body_gets_an_answer() {
    let engine = engine();
    let config = cases(64);
    proptest!(config, |(bodies in vec(bodies(), 1..20))| {
        block_on(async {
            let mut api = Raw::dial(engine.at.api).await;
            for (i, body) in bodies.iter().enumerate() {
                let reply = api.call(request([PUBLISH, SEND][i % 2], body)).await;
                let answer = json_of(&reply);
                match reply.status {
                    // An array's items are answered one by one.
                    200 if answer.is_array() => assert!(body.trim_start().starts_with('['), "{body}: {answer}"),
                    200 => {
                        let r = &answer["r"];
                        assert!(answer["E"].is_null() && (r.is_object() || r.is_array()), "{body}: {answer}");
                    }
                    400 => assert_eq!(answer["E"]["c"], 101, "{body}"),
                    404 => assert_eq!(answer["E"]["c"], 401, "{body}"),
                    other => panic!("{other} to {body}"),
                }
            }
        });
    });
}

#[test]
fn no_bytes_harm_the_api() {
    let engine = engine();
    let config = cases(48);
    // Anything, and requests of which a few bytes are others.
    let valid = request(PUBLISH, r#"{"c":"c","d":"x"}"#).into_bytes();
    let flipped = vec((0..valid.len(), any::<u8>()), 1..6).prop_map(move |flips| {
        let mut bytes = valid.clone();
        flips.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        bytes
    });
    let bytes = prop_oneof![vec(any::<u8>(), 0..300), flipped];
    proptest!(config, |(bytes in bytes, center in any::<bool>())| {
        block_on(async {
            let addr = if center { engine.at.center } else { engine.at.api };
            let mut raw = Raw::dial(addr).await;
            raw.write_into_the_dark(&bytes).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut raw.stream).await;
            raw.rest().await;
            assert_eq!(get(addr, "/healthz").await.0, 200);
        });
    });
}
