//! The shipped protocol modules, and the shipped socket handler, over real sockets; and a module in the older form.

mod common;

use common::raw::{CLOSE, CONTINUE, FIN, PING, PONG, Raw, TEXT, close, frame, text, upgrade, upgrade_with};
use common::{Client, TestEngine};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tokio_tungstenite::tungstenite::Message;

/// An engine with the shipped socket handler for that module, or with another script in the same folder.
fn engine(module: &str, script: Option<&str>) -> TestEngine {
    let dir = tempfile::tempdir().unwrap();
    let lua = dir.path().join("lua");
    fs::create_dir_all(lua.join("protocols")).unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("lua");
    for name in ["entry.socket.lua", "protocols/text.lua", "protocols/jsonrpc.lua", "protocols/websocket.lua"] {
        fs::copy(shipped.join(name), lua.join(name)).unwrap();
    }
    if let Some(script) = script {
        fs::write(lua.join("entry.socket.lua"), script).unwrap();
    }
    let text = format!(
        "logging: {{filename: ''}}\ncenter: {{apiServer: {{port: 0, bind: 127.0.0.1}}}}\nengine:\n  workers: 1\n  \
         apiServer: {{port: 0, bind: 127.0.0.1}}\n  servers:\n    - port: 0\n      bind: 127.0.0.1\n      \
         protocol: socket\n      options: [{{name: module, value: {module}}}, {{name: path, value: /ws}}]\n"
    );
    fs::write(dir.path().join("connmix.yaml"), text).unwrap();
    TestEngine::start(dir)
}

#[tokio::test]
async fn lines_come_and_go() {
    let engine = engine("text", None);
    let mut raw = Raw::dial(engine.ws()).await;
    raw.write("hello\r\n\nsplit").await;
    assert_eq!([raw.line().await, raw.line().await], ["hello", ""]);
    raw.write(" in two\nsubscribe room\n").await;
    assert_eq!([raw.line().await, raw.line().await], ["split in two", "ok"]);
    engine.publish_to("room", "two\nlines", 1).await;
    assert_eq!(raw.line().await, "two lines");
    raw.write("subscribe \u{1}\nunsubscribe room\n").await;
    assert!(raw.line().await.contains("control character"));
    assert_eq!(raw.line().await, "ok");
    engine.publish_to("room", "x", 0).await;
}

#[tokio::test]
async fn json_rpc_is_answered_as_its_specification_says() {
    let engine = engine("jsonrpc", None);
    let mut raw = Raw::dial(engine.ws()).await;
    let cases = [
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"echo","params":[1,"a",null]}"#,
            json!({"jsonrpc":"2.0","id":1,"result":[1,"a",null]}),
        ),
        (
            r#"{"jsonrpc":"2.0","id":"x","method":"subscribe","params":["room"]}"#,
            json!({"jsonrpc":"2.0","id":"x","result":true}),
        ),
        (
            r#"{"jsonrpc":"2.0","id":2,"method":"none"}"#,
            json!({"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"no method none"}}),
        ),
        (
            r#"{"jsonrpc":"2.0","id":3,"method":"subscribe","params":7}"#,
            json!({"jsonrpc":"2.0","id":3,"error":{"code":-32603,"message":"internal error"}}),
        ),
        (r#"{"id":4}"#, json!({"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"a request was expected"}})),
        ("[]", json!({"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"a request was expected"}})),
        (
            r#"[{"jsonrpc":"2.0","id":5,"method":"echo","params":{"a":1}},{"jsonrpc":"2.0","method":"echo"},1]"#,
            json!([
                {"jsonrpc":"2.0","id":5,"result":{"a":1}},
                {"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"a request was expected"}}
            ]),
        ),
    ];
    for (request, want) in cases {
        // A notification is not answered: the next answer is the request's.
        raw.write(format!("{{\"jsonrpc\":\"2.0\",\"method\":\"echo\"}}\n{request}\n")).await;
        let got: Value = serde_json::from_str(&raw.line().await).unwrap();
        assert_eq!(got, want, "{request}");
    }
    raw.write("no json\n").await;
    let got: Value = serde_json::from_str(&raw.line().await).unwrap();
    assert_eq!((&got["id"], &got["error"]["code"]), (&Value::Null, &json!(-32700)));
    engine.publish_to("room", "{\"jsonrpc\":\"2.0\",\n\"method\":\"news\"}", 1).await;
    let got: Value = serde_json::from_str(&raw.line().await).unwrap();
    assert_eq!(got, json!({"jsonrpc":"2.0","method":"news"}));
}

#[tokio::test]
async fn a_json_rpc_result_that_is_no_json_is_an_error_of_its_own() {
    let script = r#"
local jsonrpc = require("protocols.jsonrpc")
protocol_input, protocol_decode, protocol_encode = jsonrpc.input, jsonrpc.decode, jsonrpc.encode
local methods = {
  good = function() return 1 end,
  bad = function() return { print } end,
  tell = function() return jsonrpc.notify("news", print) end,
}
function on_message(msg) jsonrpc.serve(msg, methods) end
"#;
    let engine = engine("text", Some(script));
    let mut raw = Raw::dial(engine.ws()).await;
    let call = |id: u32, method: &str| json!({"jsonrpc":"2.0","id":id,"method":method});
    raw.write(format!("{}\n{}\n", json!([call(1, "bad"), call(2, "good")]), call(3, "tell"))).await;
    let got: Value = serde_json::from_str(&raw.line().await).unwrap();
    let problem = "the result is no JSON: can't encode function at .result[1]";
    let want = json!([
        {"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":problem}},
        {"jsonrpc":"2.0","id":2,"result":1},
    ]);
    assert_eq!(got, want);
    // A notification that can't be encoded is reported to the script, not to the client.
    let got: Value = serde_json::from_str(&raw.line().await).unwrap();
    assert_eq!(got, json!({"jsonrpc":"2.0","id":3,"result":"can't encode function at .params"}));
}

#[tokio::test]
async fn websocket_in_lua_serves_a_websocket_client() {
    let engine = engine("websocket", None);
    let mut client = Client::connect(engine.ws(), "/ws").await;
    for length in [0, 1, 125, 126, 65_535, 65_536, 300_000] {
        let text: String = "aé漢🎈".chars().cycle().take(length).collect();
        assert!(client.ask(&text).await == text, "{length} characters");
    }
    assert_eq!(client.ask("subscribe room").await, "ok");
    engine.publish_to("room", "to all", 1).await;
    assert_eq!(client.text().await, "to all");
    client.0.send(Message::Ping("p".into())).await.unwrap();
    assert_eq!(client.0.next().await.unwrap().unwrap(), Message::Pong("p".into()));
    client.close().await;
    assert!(Client::try_connect(engine.ws(), "/other").await.is_err());
}

#[tokio::test]
async fn headers_of_one_name_are_joined_in_both_kinds_of_websocket() {
    let in_lua = r#"
local websocket = require("protocols.websocket")
function protocol_input(buf) return websocket.input(buf, on_handshake) end
protocol_decode, protocol_encode = websocket.decode, websocket.encode
function on_handshake(id, headers, server, conn)
  conn:set_context({cookie = headers["cookie"], many = headers["x-many"]})
end
function on_message(msg, conn)
  websocket.send_text(conn:context_value("cookie") .. " " .. conn:context_value("many"))
end
"#;
    let native = r#"
function on_handshake(id, headers, server, conn)
  conn:set_context({cookie = headers["Cookie"], many = headers["x-many"]})
end
function on_message(msg, conn)
  conn:send(conn:context_value("cookie") .. " " .. conn:context_value("many"))
end
"#;
    for engine in [engine("websocket", Some(in_lua)), TestEngine::new(native)] {
        let mut raw = Raw::dial(engine.ws()).await;
        let headers = "Cookie: a=1; b=2\r\nX-Many: 1\r\ncookie: c=3\r\nx-many: 2\r\nCOOKIE: d=\r\n";
        raw.write(upgrade_with(headers)).await;
        assert_eq!(raw.head().await.status, 101);
        assert_eq!(raw.ask("which").await, "a=1; b=2; c=3; d= 1, 2");
    }
}

#[tokio::test]
async fn websocket_in_lua_keeps_to_the_protocol() {
    let engine = engine("websocket", None);
    // In fragments, byte by byte.
    let mut raw = Raw::open(engine.ws()).await;
    let parts = [frame(TEXT, b"one "), frame(CONTINUE, b"two "), frame(FIN | CONTINUE, b"three")].concat();
    for byte in parts {
        raw.write([byte]).await;
    }
    assert_eq!(raw.text().await, "one two three");
    raw.write(frame(FIN | PING, b"now")).await;
    assert_eq!(raw.frame().await, Some((PONG, b"now".to_vec())));
    raw.write(close(1000)).await;
    assert_eq!(raw.close_frame().await.0, 1000);
    raw.ends().await;
    let long_ping = frame(FIN | PING, &[b'x'; 126]);
    let end_within = [frame(TEXT, b"begun"), close(1001)].concat();
    let wrong: [(&[u8], u16); 10] = [
        (&[0x81, 0x01, b'x'], 1002),
        (&frame(FIN | 0x40 | TEXT, b"x"), 1002),
        (&frame(FIN | 0x3, b"x"), 1002),
        (&frame(FIN | CONTINUE, b"x"), 1002),
        (&long_ping, 1002),
        (&frame(FIN | TEXT, b"\xff"), 1007),
        (&end_within, 1001),
        (&frame(FIN | CLOSE, b"\x03"), 1002),
        (&close(1005), 1002),
        (&frame(FIN | CLOSE, b"\x03\xe8\xff"), 1002),
    ];
    for (bytes, code) in wrong {
        let mut raw = Raw::open(engine.ws()).await;
        raw.write(bytes).await;
        assert_eq!(raw.close_frame().await.0, code, "{bytes:?}");
        raw.ends().await;
    }
    for (from, to, status) in [
        ("Version: 13", "Version: 8", 426),
        ("GET /ws", "GET /no", 404),
        ("GET", "PUT", 400),
        ("Upgrade: websocket", "Upgrade: h2c", 400),
    ] {
        let mut raw = Raw::dial(engine.ws()).await;
        raw.write(upgrade().replace(from, to)).await;
        assert_eq!(raw.head().await.status, status);
        raw.ends().await;
    }
}

#[tokio::test]
async fn websocket_in_lua_bounds_the_fragments_of_a_message() {
    let engine = engine("websocket", None);
    let fragments = |n: usize| {
        let mut bytes = frame(TEXT, b"");
        (2..n).for_each(|_| bytes.extend(frame(CONTINUE, b"x")));
        bytes.extend(frame(FIN | CONTINUE, b"x"));
        bytes
    };
    let mut raw = Raw::open(engine.ws()).await;
    raw.write(fragments(1000)).await;
    assert_eq!(raw.text().await, "x".repeat(999));
    raw.write_into_the_dark(fragments(1001)).await;
    assert_eq!(raw.close_frame().await, (1009, "too many fragments".to_owned()));
    raw.ends().await;
}

#[tokio::test]
async fn a_module_in_the_older_form_runs() {
    // It takes the connection, and keeps its state in the context.
    let older = r#"
local proto = {}
function proto.input(buf, conn, greeting, on_handshake)
  if not conn:context_value("__proto_open") then
    local s = buf:tostring()
    if #s < 5 then return 0 end
    if s:sub(1, 5) ~= "HELLO" then conn:clear_buffer() conn:send("WHO?") return 0 end
    conn:set_context_value("__proto_open", true)
    conn:set_context_value("__proto_count", 0)
    on_handshake(conn, greeting)
    return 5
  end
  local n = buf:read(1)
  local want = n and string.byte(n) + 1 or 0
  conn:set_context_value("__proto_want", want)
  return want
end
function proto.decode(conn, str)
  if str == "HELLO" then return nil end
  assert(conn:context_value("__proto_want") == #str)
  local count = conn:context_value("__proto_count") + 1
  conn:set_context_value("__proto_count", count)
  return { n = count, data = str:sub(2) }
end
function proto.send_text(conn, data) return conn:send(string.char(#data) .. data) end
function on_handshake(conn, greeting) conn:send(greeting) end
function protocol_input(buf) return proto.input(buf, mix.socket.tcp(), "WELCOME", on_handshake) end
function protocol_decode(str) return proto.decode(mix.socket.tcp(), str) end
function protocol_encode(data) return string.char(#data) .. data end
function on_message(msg) proto.send_text(mix.socket.tcp(), msg.n .. ":" .. msg.data) end
"#;
    let engine = engine("text", Some(older));
    let mut raw = Raw::dial(engine.ws()).await;
    raw.write("junk!").await;
    assert_eq!(raw.take(4).await, b"WHO?");
    raw.write("HEL").await;
    raw.write("LO\x03abc\x00\x01z").await;
    assert_eq!(raw.take(7).await, b"WELCOME");
    assert_eq!(raw.take(6).await, b"\x051:abc");
    assert_eq!(raw.take(3).await, b"\x022:");
    assert_eq!(raw.take(4).await, b"\x033:z");
}

#[tokio::test]
async fn a_large_text_message_is_masked_back_right() {
    let engine = engine("websocket", None);
    let mut raw = Raw::open(engine.ws()).await;
    let long: String = (0..20_000).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
    raw.write(text(&long)).await;
    assert!(raw.text().await == long);
}
