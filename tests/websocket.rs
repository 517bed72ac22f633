//! WebSocket connections over real sockets: how they open, what they may send, how they end, and who gets what.

mod common;

use common::process::Process;
use common::raw::*;
use common::*;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

/// Echoes, but for commands: a text that starts with "!". Tells the channel "closed" how each connection ended.
const SCRIPT: &str = r#"
local commands = {}
function commands.id(_, conn) return conn:client_id() end
function commands.channels(_, conn) return table.concat(conn:channels(), " ") end
function commands.sub(names, conn) return conn:subscribe(unpack(mix.str_split(names, " "))) or "ok" end
function commands.unsub(names, conn) return conn:unsubscribe(unpack(mix.str_split(names, " "))) or "ok" end
function commands.pub(rest)
  local channel, data = rest:match("^(%S+) (.*)$")
  local reached, failed = mix.mesh.publish(channel, data)
  return reached .. " " .. failed
end
function commands.to(rest)
  local id, data = rest:match("^(%S+) (.*)$")
  return mix.mesh.send(id, data) or "sent"
end
function commands.close(rest, conn)
  local code, reason = rest:match("^(%d*) ?(.*)$")
  conn:close(tonumber(code), reason ~= "" and reason or nil)
end
function commands.raise() error("boom") end
function commands.wait(_, conn)
  conn:send("waiting")
  mix.sleep(3600)
end
function commands.flood(rest, conn)
  for i = 1, tonumber(rest) do conn:send(tostring(i)) end
  conn:close(4001, "enough")
  return "too late"
end

function on_message(msg, conn)
  local command, rest = msg.data:match("^!(%w+) ?(.*)$")
  if msg.type == "binary" or not command then
    conn:send(msg.data, msg.type)
    return
  end
  local answer = commands[command](rest, conn)
  if answer then conn:send(answer) end
end

function on_close(client_id, err)
  mix.mesh.publish("closed", client_id .. ": " .. (err or "clean"))
end
"#;

fn engine() -> TestEngine {
    TestEngine::new(SCRIPT)
}

fn engine_with(server: &str) -> TestEngine {
    TestEngine::with(SCRIPT, server, "workers: 1")
}

/// Hears how each connection ends.
async fn observer(engine: &TestEngine) -> Client {
    let mut client = engine.connect().await;
    assert_eq!(client.ask("!sub closed").await, "ok");
    client
}

/// A request that must be refused, after which the connection must end.
async fn refused(engine: &TestEngine, request: impl AsRef<[u8]>) -> Reply {
    let mut raw = Raw::dial(engine.ws()).await;
    let reply = raw.call(request).await;
    raw.ends().await;
    reply
}

#[tokio::test]
async fn requests_that_open_nothing_are_told_why() {
    let engine = engine();
    let good = upgrade();
    for (from, to, status, why) in [
        ("GET /ws ", "GET /other ", 404, "path"),
        ("GET /ws ", "GET /ws/ ", 404, "path"),
        ("GET /ws ", "GET /WS ", 404, "path"),
        ("GET /ws ", "GET / ", 404, "path"),
        ("GET /ws ", "GET /other?/ws ", 404, "path"),
        ("GET", "POST", 405, "GET"),
        ("GET", "get", 405, "GET"),
        ("Upgrade: websocket\r\n", "", 426, "Upgrade: websocket"),
        ("Upgrade: websocket\r\n", "Upgrade: h2c\r\n", 426, "Upgrade: websocket"),
        ("Connection: Upgrade", "Connection: keep-alive", 426, "Connection: Upgrade"),
        ("Version: 13", "Version: 8", 426, "13"),
        ("Sec-WebSocket-Version: 13\r\n", "", 426, "13"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "abc", 400, "Sec-WebSocket-Key"),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ", 400, "Sec-WebSocket-Key"),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 400, "Sec-WebSocket-Key"),
        ("Upgrade: ", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nUpgrade: ", 400, "Sec-WebSocket-Key"),
        ("Host: localhost\r\n", "", 400, "Host header is missing"),
        ("Host: localhost", "Host: localhost\r\nHost: localhost", 400, "Host is given more than once"),
        ("Host: localhost", "Host: local host", 400, "not a host"),
        ("Host: localhost", "Host: localhost:99999", 400, "not a host"),
        ("Host: localhost", "Host:", 400, "not a host"),
        ("GET /ws ", "GET http://me@localhost/ws ", 400, "target"),
        ("GET /ws ", "GET http://localhost/other ", 404, "path"),
        ("Host: ", "Transfer-Encoding: gzip, chunked\r\nHost: ", 501, "Transfer-Encoding"),
        ("Host: ", "Transfer-Encoding: chunked\r\nHost: ", 400, "body"),
        ("HTTP/1.1", "HTTP/1.0", 505, "HTTP/1.1"),
        ("HTTP/1.1", "HTTP/2.0", 505, "HTTP/1.1"),
        ("Host: ", "Content-Length: 5\r\nHost: ", 400, "body"),
        ("Host: ", "Ho st: ", 400, "header"),
        ("Host: ", "Sec-WebSocket-Protocol: a b\r\nHost: ", 400, "Sec-WebSocket-Protocol"),
    ] {
        let request = good.replacen(from, to, 1);
        assert_ne!(request, good);
        let reply = refused(&engine, &request).await;
        assert_eq!(reply.status, status, "{to}: {reply:?}");
        assert!(reply.body.contains(why), "{to}: {reply:?}");
        if status == 426 {
            assert_eq!(reply.header("Connection"), Some("Upgrade, close"), "{reply:?}");
            assert_eq!(reply.header("Sec-WebSocket-Version"), Some("13"));
            assert_eq!(reply.header("Upgrade"), Some("websocket"));
        }
        if status == 405 {
            assert_eq!(reply.header("Allow"), Some("GET, HEAD"));
        }
    }
    // HEAD is answered as GET is that opens nothing, without the body.
    for (request, status) in [
        (good.replacen("GET", "HEAD", 1), 426),
        (good.replacen("GET", "HEAD", 1).replace("Upgrade: websocket\r\n", ""), 426),
        (good.replacen("GET /ws", "HEAD /other", 1), 404),
        (good.replacen("GET", "HEAD", 1).replace("localhost", "local host"), 400),
    ] {
        let mut raw = Raw::dial(engine.ws()).await;
        raw.write(&request).await;
        let head = raw.head().await;
        assert_eq!(head.status, status, "{request}");
        assert!(head.header("Content-Length").is_some_and(|length| length != "0"), "{head:?}");
        raw.ends().await;
    }
    // What the target says wins over the header.
    let mut raw = Raw::dial(engine.ws()).await;
    raw.write(good.replacen("GET /ws", "GET http://example.com:80/ws", 1)).await;
    assert_eq!(raw.head().await.status, 101);
    assert_eq!(engine.connect().await.ask("hello").await, "hello", "the server goes on");
}

#[tokio::test]
async fn bytes_that_are_no_request_are_refused_at_once() {
    let engine = engine();
    for garbage in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"\0\0\0\0", b"hello\r\n\r\n"] {
        assert_eq!(refused(&engine, garbage).await.status, 400, "{garbage:?}");
    }
    // Silence and half a request cost nothing either.
    for half in [&b""[..], b"GET /ws HT"] {
        let mut raw = Raw::dial(engine.ws()).await;
        raw.write(half).await;
    }
    assert_eq!(engine.connect().await.ask("hello").await, "hello");
}

#[tokio::test]
async fn a_huge_head_is_refused() {
    let engine = engine();
    let long = upgrade_with(&format!("Cookie: {}\r\n", "x".repeat(17_000)));
    assert_eq!(refused(&engine, long).await.status, 431);
    let endless = format!("GET /ws HTTP/1.1\r\nCookie: {}", "x".repeat(200_000));
    assert_eq!(refused(&engine, endless).await.status, 431, "before its end has come");
    let many: String = (0..101).map(|i| format!("X-{i}: 1\r\n")).collect();
    assert_eq!(refused(&engine, upgrade_with(&many)).await.status, 431);
    let fits = upgrade_with(&format!("Cookie: {}\r\n", "x".repeat(15_000)));
    assert_eq!(Raw::dial(engine.ws()).await.call(fits).await.status, 101);
}

#[tokio::test]
async fn the_query_is_no_part_of_the_path() {
    let engine = engine();
    for target in ["/ws?", "/ws?token=1&path=/other", "http://example.com/ws", "http://example.com/ws?x"] {
        let request = upgrade().replacen("/ws", target, 1);
        assert_eq!(Raw::dial(engine.ws()).await.call(request).await.status, 101, "{target}");
    }
}

#[tokio::test]
async fn the_answer_proves_that_the_key_was_read() {
    let engine = engine();
    // Names in any case, values in lists: as proxies and old clients write them.
    let request = upgrade()
        .replace("Upgrade: websocket", "UPGRADE: foo, WebSocket")
        .replace("Connection: Upgrade", "connection: keep-alive, upgrade");
    let reply = Raw::dial(engine.ws()).await.call(request).await;
    assert_eq!(reply.status, 101);
    assert_eq!(reply.header("Sec-WebSocket-Accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "RFC 6455, section 1.3");
    assert_eq!(reply.header("Upgrade"), Some("websocket"));
    assert_eq!(reply.header("Connection"), Some("Upgrade"));
    assert_eq!(reply.header("Sec-WebSocket-Protocol"), None);
    assert_eq!(reply.header("Sec-WebSocket-Extensions"), None);
}

#[tokio::test]
async fn foreign_origins_are_refused_where_some_are_named() {
    let engine =
        engine_with("allowedOrigins: ['https://Example.com:443/', 'http://localhost:8080', 'https://münchen.de']");
    for (origin, status) in [
        ("https://example.com", 101),
        ("https://EXAMPLE.com", 101),
        ("http://localhost:8080", 101),
        ("https://xn--mnchen-3ya.de", 101),
        ("https://example.com.evil.org", 403),
        ("http://example.com", 403),
        ("http://localhost", 403),
        ("null", 403),
        ("", 403),
    ] {
        let request = upgrade_with(&format!("Origin: {origin}\r\n"));
        assert_eq!(Raw::dial(engine.ws()).await.call(request).await.status, status, "{origin:?}");
    }
    let reply = Raw::dial(engine.ws()).await.call(upgrade()).await;
    assert_eq!(reply.status, 101, "no browser, no origin");
    let open = self::engine();
    let anywhere = upgrade_with("Origin: https://anywhere.example\r\n");
    assert_eq!(Raw::dial(open.ws()).await.call(anywhere).await.status, 101);
}

#[tokio::test]
async fn a_full_server_refuses_until_somebody_leaves() {
    let engine = engine_with("maxConnections: 2");
    let first = engine.connect().await;
    let mut second = engine.connect().await;
    let reply = refused(&engine, upgrade()).await;
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("maxConnections"), "{reply:?}");
    assert_eq!(refused(&engine, upgrade().replace("/ws", "/no")).await.status, 503, "whatever it asks");
    first.close().await;
    eventually("a request is looked at", async || {
        (refused(&engine, upgrade().replace("/ws", "/no")).await.status == 404).then_some(())
    })
    .await;
    eventually("a place is free", async || Client::try_connect(engine.ws(), "/ws").await.ok()).await;
    assert_eq!(second.ask("still here").await, "still here");
}

#[tokio::test]
async fn a_subprotocol_is_agreed_on() {
    async fn agreed(engine: &TestEngine, offer: &str) -> Option<String> {
        let reply = Raw::dial(engine.ws()).await.call(upgrade_with(offer)).await;
        assert_eq!(reply.status, 101);
        reply.header("Sec-WebSocket-Protocol").map(str::to_owned)
    }
    let any = engine();
    assert_eq!(agreed(&any, "Sec-WebSocket-Protocol: chat, mqtt\r\n").await.as_deref(), Some("chat"));
    let two = "Sec-WebSocket-Protocol: x.y\r\nSec-WebSocket-Protocol: chat\r\n";
    assert_eq!(agreed(&any, two).await.as_deref(), Some("x.y"));

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    let file = dir.path().join("connmix.yaml");
    write_config(&file, "", "workers: 1", "");
    let config = std::fs::read_to_string(&file).unwrap();
    let named = config.replace("options: [", "options: [{name: subprotocols, value: 'v2.chat, v1.chat'}, ");
    assert_ne!(config, named);
    std::fs::write(&file, named).unwrap();
    let engine = TestEngine::start(dir);
    assert_eq!(
        agreed(&engine, "Sec-WebSocket-Protocol: v1.chat, x, v2.chat\r\n").await.as_deref(),
        Some("v2.chat"),
        "the server's order counts"
    );
    assert_eq!(agreed(&engine, "Sec-WebSocket-Protocol: v1.chat\r\n").await.as_deref(), Some("v1.chat"));
    assert_eq!(agreed(&engine, "Sec-WebSocket-Protocol: V1.CHAT\r\n").await, None);
    assert_eq!(agreed(&engine, "").await, None);
}

#[tokio::test]
async fn everything_may_arrive_byte_by_byte() {
    let engine = engine();
    let mut raw = Raw::dial(engine.ws()).await;
    let mut bytes = upgrade().into_bytes();
    bytes.extend(text("Hello, 世界"));
    bytes.extend(frame(TEXT, "split \u{1F600}".as_bytes().split_at(8).0));
    bytes.extend(frame(FIN | PING, b"?"));
    bytes.extend(frame(FIN | CONTINUE, "split \u{1F600}".as_bytes().split_at(8).1));
    bytes.extend(frame(FIN | BINARY, &[7; 300]));
    bytes.extend(close(3000));
    for byte in bytes {
        raw.write([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.head().await.status, 101);
    assert_eq!(raw.text().await, "Hello, 世界");
    assert_eq!(raw.frame().await, Some((PONG, b"?".to_vec())), "within a message");
    assert_eq!(raw.text().await, "split \u{1F600}");
    assert_eq!(raw.frame().await, Some((BINARY, vec![7; 300])));
    assert_eq!(raw.close_frame().await, (3000, String::new()));
    raw.ends().await;
}

#[tokio::test]
async fn frames_right_behind_the_request_are_handled() {
    let engine = engine();
    let mut raw = Raw::dial(engine.ws()).await;
    let mut bytes = upgrade().into_bytes();
    for i in 0..500 {
        bytes.extend(text(&format!("early {i}")));
    }
    let half = text("half of it now, half later");
    bytes.extend(&half[..10]);
    raw.write(&bytes).await;
    assert_eq!(raw.head().await.status, 101);
    for i in 0..500 {
        assert_eq!(raw.text().await, format!("early {i}"));
    }
    raw.write(&half[10..]).await;
    assert_eq!(raw.text().await, "half of it now, half later");
}

#[tokio::test]
async fn the_handshake_hook_sees_the_request() {
    let script = r#"
        function on_handshake(client_id, headers, server, conn)
          conn:send(mix.json_encode({
            same = client_id == conn:client_id() and client_id == mix.websocket():client_id(),
            found = { headers["X-Token"], headers["x-token"], headers["X-TOKEN"] },
            missing = headers["X-None"] == nil,
            twice = headers["x-list"],
            server = server,
            remote = conn:remote_addr(),
          }))
        end
        function on_message() end
    "#;
    let engine = TestEngine::with_top(script, "", "workers: 1", "trustedProxies: [127.0.0.1, 10.0.0.0/8]");
    let seen = async |headers: &str| {
        let mut raw = Raw::dial(engine.ws()).await;
        let peer = raw.stream.local_addr().unwrap().to_string();
        raw.write(upgrade_with(headers).replace("/ws", "/ws?a=1")).await;
        assert_eq!(raw.head().await.status, 101);
        (serde_json::from_str::<Value>(&raw.text().await).unwrap(), peer)
    };
    let (seen_first, peer) = seen("x-TOKEN: s3cret\r\nX-List: a\r\nx-list: b\r\n").await;
    assert_eq!(
        seen_first,
        json!({
            "same": true,
            "found": ["s3cret", "s3cret", "s3cret"],
            "missing": true,
            "twice": "a, b",
            "server": {
                "Method": "GET", "RequestUri": "/ws?a=1", "ServerProtocol": "HTTP/1.1", "Host": "localhost",
                "RemoteAddr": peer, "EventStream": false,
            },
            "remote": peer,
        })
    );
    for (forwarded, want) in [
        ("203.0.113.9", "203.0.113.9:0"),
        ("198.51.100.1, 203.0.113.9, 10.1.2.3", "203.0.113.9:0"),
        ("203.0.113.9:4711", "203.0.113.9:4711"),
        ("2001:db8::7", "[2001:db8::7]:0"),
        ("203.0.113.9, nonsense", peer.split(':').next().unwrap()),
    ] {
        let (seen, _) = seen(&format!("X-Forwarded-For: {forwarded}\r\n")).await;
        let remote = seen["remote"].as_str().unwrap();
        assert!(remote == want || remote.starts_with(&format!("{want}:")), "{forwarded}: {remote}");
    }
}

#[tokio::test]
async fn a_peer_that_is_not_trusted_cannot_say_where_it_is() {
    let engine = TestEngine::new(
        "function on_handshake(_, _, server, conn) conn:send(server.RemoteAddr) end function on_message() end",
    );
    let mut raw = Raw::dial(engine.ws()).await;
    raw.write(upgrade_with("X-Forwarded-For: 203.0.113.9\r\n")).await;
    assert_eq!(raw.head().await.status, 101);
    assert_eq!(raw.text().await, raw.stream.local_addr().unwrap().to_string());
}

#[tokio::test]
async fn the_handshake_hook_can_refuse() {
    let script = r#"
        local wishes = {
          plain = function() return false end,
          status = function() return false, 401 end,
          text = function() return false, 402, "pay first\r\nX-Evil: 1" end,
          late = function() mix.sleep(0.01) return false, 429, "slow down" end,
          after_send = function(conn) conn:subscribe("lobby") conn:send("never seen") return false end,
          raise = function() error("boom") end,
          late_raise = function() mix.sleep(0.01) error("boom") end,
          endless = function() while true do end end,
          fine = function() return true end,
          nothing = function() end,
          null = function() return nil end,
          close = function(conn) conn:send("first") conn:close(4000, "full") end,
        }
        function on_handshake(id, headers, server, conn) return wishes[headers.wish](conn) end
        function on_message(msg, conn) conn:send(msg.data) end
        function on_close(id, err) mix.mesh.publish("closed", id) end
    "#;
    let engine = TestEngine::with(script, "handlerTimeout: 100ms\nmaxConnections: 2", "workers: 1");
    let request = |wish: &str| upgrade_with(&format!("wish: {wish}\r\n"));
    for (wish, status, text) in [
        ("plain", 403, "refused\n"),
        ("status", 401, "refused\n"),
        ("text", 402, "pay first\r\nX-Evil: 1\n"),
        ("late", 429, "slow down\n"),
        ("after_send", 403, "refused\n"),
        ("raise", 500, "the handshake handler failed\n"),
        ("late_raise", 500, "the handshake handler failed\n"),
        ("endless", 500, "the handshake handler failed\n"),
    ] {
        let reply = refused(&engine, request(wish)).await;
        assert_eq!((reply.status, reply.body.as_str()), (status, text), "{wish}");
        assert_eq!(reply.header("X-Evil"), None);
    }
    engine.publish_to("lobby", "anybody?", 0).await;
    for wish in ["fine", "nothing", "null"] {
        let mut raw = Raw::dial(engine.ws()).await;
        assert_eq!(raw.call(request(wish)).await.status, 101, "{wish}");
        assert_eq!(raw.ask("hello").await, "hello");
        raw.write(close(1000)).await;
        assert_eq!(raw.close_frame().await.0, 1000);
        raw.ends().await;
    }
    let mut raw = Raw::dial(engine.ws()).await;
    assert_eq!(raw.call(request("close")).await.status, 101, "it opens and closes again");
    assert_eq!(raw.text().await, "first");
    assert_eq!(raw.close_frame().await, (4000, "full".into()));
    raw.ends().await;
}

#[tokio::test]
async fn a_failed_handshake_is_logged_once() {
    let dir = tempfile::tempdir().unwrap();
    let script = "function on_handshake()\n  error('no database')\nend\nfunction on_message() end\n";
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", "");
    let process = Process::ready(dir.path(), &["single", "-f", "connmix.yaml"]);
    let mut raw = Raw::dial(process.ws()).await;
    assert_eq!(raw.call(upgrade()).await.status, 500);
    let line = process.line("no database");
    for part in ["ERROR", "entry.lua:2", "on_handshake", "client_id=", &raw.stream.local_addr().unwrap().to_string()] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let ended = process.stop();
    assert_eq!(ended.out.matches("no database").count(), 1, "{}", ended.out);
}

#[tokio::test]
async fn what_the_handshake_hook_sends_comes_right_after_the_101() {
    let script = r#"
        function on_handshake(id, headers, server, conn)
          conn:send("first")
          assert(conn:subscribe("lobby", "news") == nil)
          conn:send("\1\2", "binary")
          mix.mesh.publish("lobby", "I am here")
          conn:send("last")
          conn:set_context_value("greeted", true)
        end
        function on_message(msg, conn) conn:send(msg.data .. tostring(conn:context_value("greeted"))) end
    "#;
    let engine = TestEngine::new(script);
    let mut raw = Raw::dial(engine.ws()).await;
    raw.write([upgrade().into_bytes(), text("hello ")].concat()).await;
    assert_eq!(raw.head().await.status, 101);
    assert_eq!(raw.text().await, "first");
    assert_eq!(raw.frame().await, Some((BINARY, vec![1, 2])));
    assert_eq!(raw.text().await, "I am here");
    assert_eq!(raw.text().await, "last");
    assert_eq!(raw.text().await, "hello true");
    engine.publish_to("news", "extra", 1).await;
    assert_eq!(raw.text().await, "extra");
}

/// Waits in its handshake until a "go" is published to the client, if the client wants that.
const WAITING: &str = r#"
    function on_handshake(id, headers, server, conn)
      if headers.wait then
        conn:subscribe("lobby")
        mix.sleep(tonumber(headers.wait))
      end
    end
    function on_message(msg, conn) conn:send(msg.data) end
    function on_close(id, err) mix.mesh.publish("closed", id) end
"#;

#[tokio::test]
async fn a_client_that_leaves_during_its_handshake_leaves_nothing_behind() {
    let engine = TestEngine::with(WAITING, "maxConnections: 1", "workers: 1");
    for part in ["", "and a frame"] {
        let mut raw = Raw::dial(engine.ws()).await;
        raw.write(upgrade_with("wait: 3600\r\n")).await;
        raw.write(part).await;
        let here = async |count: u64| {
            eventually("the subscribers", async || {
                (engine.publish("lobby", "?").await["r"]["s"] == count).then_some(())
            })
            .await;
        };
        here(1).await;
        drop(raw);
        here(0).await;
    }
    let mut next = eventually("the place is free", async || Client::try_connect(engine.ws(), "/ws").await.ok()).await;
    assert_eq!(next.ask("hello").await, "hello");
}

#[tokio::test]
async fn a_waiting_handshake_misses_nothing() {
    let engine = TestEngine::new(WAITING);
    let mut raw = Raw::dial(engine.ws()).await;
    raw.write(upgrade_with("wait: 0.3\r\n")).await;
    eventually("it waits", async || (engine.publish("lobby", "?").await["r"]["s"] == 1).then_some(())).await;
    raw.write(text("sent too early")).await;
    engine.publish_to("lobby", "published meanwhile", 1).await;
    let (mut other, request) = (Raw::dial(engine.ws()).await, upgrade());
    assert_eq!(other.call(request).await.status, 101, "others are not held up");
    assert_eq!(raw.head().await.status, 101);
    assert_eq!(raw.text().await, "?");
    assert_eq!(raw.text().await, "published meanwhile");
    assert_eq!(raw.text().await, "sent too early");
}

#[tokio::test]
async fn a_message_may_come_in_fragments_with_control_frames_between() {
    let engine = engine();
    let mut raw = Raw::open(engine.ws()).await;
    raw.write(frame(TEXT, b"one ")).await;
    raw.write(frame(FIN | PING, b"first")).await;
    assert_eq!(raw.frame().await, Some((PONG, b"first".to_vec())));
    // A character may be cut; an empty fragment is one too.
    raw.write(frame(CONTINUE, b"\xE4\xB8")).await;
    raw.write(frame(CONTINUE, b"")).await;
    raw.write(frame(FIN | PONG, b"unasked")).await;
    raw.write(frame(FIN | PING, &[9; 125])).await;
    assert_eq!(raw.frame().await, Some((PONG, vec![9; 125])));
    raw.write(frame(FIN | CONTINUE, b"\x96 three")).await;
    assert_eq!(raw.text().await, "one 世 three");
    let mut binary = frame(BINARY, &[0xFF; 3]);
    binary.extend(frame(FIN | CONTINUE, b""));
    raw.write(binary).await;
    assert_eq!(raw.frame().await, Some((BINARY, vec![0xFF; 3])));
    raw.write(frame(FIN | PING, b"")).await;
    assert_eq!(raw.frame().await, Some((PONG, vec![])));
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_closed_with_the_code_that_says_how() {
    let engine = engine_with("maxMessageSize: 1000");
    let mut observer = observer(&engine).await;
    let fragments = |parts: &[(u8, &[u8])]| parts.iter().flat_map(|(first, part)| frame(*first, part)).collect();
    let cases: Vec<(&str, u16, Vec<u8>)> = vec![
        ("unmasked", 1002, b"\x81\x05Hello".to_vec()),
        ("unmasked ping", 1002, b"\x89\x00".to_vec()),
        ("first reserved bit", 1002, frame(0x40 | FIN | TEXT, b"x")),
        ("second reserved bit", 1002, frame(0x20 | FIN | BINARY, b"x")),
        ("third reserved bit", 1002, frame(0x10 | FIN | PING, b"")),
        ("data opcode 3", 1002, frame(FIN | 3, b"x")),
        ("control opcode 11", 1002, frame(FIN | 0xB, b"")),
        ("fragmented ping", 1002, frame(PING, b"")),
        ("long ping", 1002, frame(FIN | PING, &[1; 126])),
        ("continuation of nothing", 1002, frame(FIN | CONTINUE, b"x")),
        ("message within a message", 1002, fragments(&[(TEXT, b"a"), (FIN | TEXT, b"b")])),
        ("length in two bytes where one does", 1002, b"\x82\xFE\x00\x01\0\0\0\0x".to_vec()),
        ("length in eight bytes where two do", 1002, b"\x82\xFF\0\0\0\0\0\0\x00\x01\0\0\0\0x".to_vec()),
        ("length beyond 63 bits", 1002, b"\x82\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\0".to_vec()),
        ("close of one byte", 1002, frame(FIN | CLOSE, b"\x03")),
        ("bad UTF-8", 1007, frame(FIN | TEXT, b"abc\xFF")),
        ("surrogate", 1007, frame(FIN | TEXT, b"\xED\xA0\x80")),
        ("cut UTF-8", 1007, fragments(&[(TEXT, b"\xE4\xB8"), (FIN | CONTINUE, b"x")])),
        ("bad UTF-8 in a close reason", 1007, frame(FIN | CLOSE, b"\x03\xE8\xFF")),
        ("too big", 1009, frame(FIN | BINARY, &[0; 1001])),
        ("too big by its header alone", 1009, b"\x82\xFF\0\0\0\x7F\xFF\xFF\xFF\xFF\0\0\0\0".to_vec()),
        ("too big in sum", 1009, fragments(&[(BINARY, &[0; 600]), (CONTINUE, &[0; 400]), (FIN | CONTINUE, &[0])])),
    ];
    for (what, code, bytes) in cases {
        let mut raw = Raw::open(engine.ws()).await;
        let id = raw.ask("!id").await;
        let mut all = text("before it");
        all.extend(bytes);
        all.extend(text("after it"));
        raw.write_into_the_dark(all).await;
        assert_eq!(raw.text().await, "before it", "{what}");
        let (got, reason) = raw.close_frame().await;
        assert_eq!(got, code, "{what}: {reason}");
        assert!(!reason.is_empty(), "{what}");
        raw.ends().await;
        assert_eq!(observer.text().await, format!("{id}: {reason}"), "{what}");
    }
    observer.expect_only_reply("alive", "alive").await;
}

#[tokio::test]
async fn a_close_is_answered_with_its_own_code_and_the_server_ends_the_connection() {
    let engine = engine();
    for code in [1000, 1001, 1002, 1003, 1007, 1010, 1011, 1014, 3000, 3999, 4000, 4999] {
        let mut raw = Raw::open(engine.ws()).await;
        raw.write(frame(FIN | CLOSE, &[&u16::to_be_bytes(code)[..], "Ende".as_bytes()].concat())).await;
        assert_eq!(raw.close_frame().await, (code, String::new()));
        raw.ends().await;
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535] {
        let mut raw = Raw::open(engine.ws()).await;
        raw.write(close(code)).await;
        assert_eq!(raw.close_frame().await, (1002, "invalid close code".into()), "{code}");
        raw.ends().await;
    }
    let mut raw = Raw::open(engine.ws()).await;
    raw.write(frame(FIN | CLOSE, b"")).await;
    assert_eq!(raw.close_frame().await, (0, String::new()), "no code for no code");
    raw.ends().await;
}

#[tokio::test]
async fn what_follows_a_close_is_not_handled() {
    let engine = engine();
    let mut observer = engine.connect().await;
    assert_eq!(observer.ask("!sub news").await, "ok");
    let mut raw = Raw::open(engine.ws()).await;
    let bytes =
        [text("!pub news before"), close(1000), text("!pub news after"), frame(FIN | PING, b""), vec![0xFF; 99]];
    raw.write(bytes.concat()).await;
    assert_eq!(observer.text().await, "before");
    let rest = raw.rest().await;
    assert!(rest.ends_with(b"\x88\x02\x03\xE8"), "the answer to the close is the last: {rest:?}");
    observer.expect_only_reply("hello", "hello").await;
}

#[tokio::test]
async fn messages_of_any_size_and_content_come_back_as_they_went() {
    let engine = engine();
    let mut raw = Raw::open(engine.ws()).await;
    let every: Vec<u8> = (0..=255).collect();
    for len in [0, 1, 125, 126, 127, 255, 65_535, 65_536, 65_537, 300_000, 1 << 20] {
        let data: Vec<u8> = every.iter().copied().cycle().take(len).collect();
        raw.write(frame(FIN | BINARY, &data)).await;
        assert!(raw.frame().await == Some((BINARY, data)), "binary of {len} bytes");
        let data = "x".repeat(len);
        raw.write(text(&data)).await;
        assert!(raw.frame().await == Some((TEXT, data.into_bytes())), "text of {len} bytes");
    }
    raw.write(text("nul \0 and \u{10FFFF}")).await;
    assert_eq!(raw.text().await, "nul \0 and \u{10FFFF}");
    // A byte more is too much.
    raw.write_into_the_dark(frame(FIN | BINARY, &vec![0; (1 << 20) + 1])).await;
    assert_eq!(raw.close_frame().await.0, 1009);
}

#[tokio::test]
async fn a_long_conversation_at_once_is_answered_in_order() {
    let engine = engine();
    let raw = Raw::open(engine.ws()).await;
    let (mut reading, writing) = raw.stream.into_split();
    let bytes: Vec<u8> = (0..20_000).flat_map(|i| text(&format!("message {i}"))).collect();
    let write = tokio::spawn(async move {
        let mut writing = writing;
        writing.write_all(&bytes).await.unwrap();
        writing
    });
    let expected: Vec<u8> = (0..20_000)
        .flat_map(|i| {
            let payload = format!("message {i}");
            [vec![0x81, payload.len() as u8], payload.into_bytes()].concat()
        })
        .collect();
    let mut got = vec![0; expected.len()];
    tokio::time::timeout(PATIENCE, reading.read_exact(&mut got)).await.unwrap().unwrap();
    assert!(got == expected);
    write.await.unwrap();
}

#[tokio::test]
async fn a_flood_of_pings_is_answered_while_somebody_reads_and_bounded_when_nobody_does() {
    let engine = engine_with("outboxLimit: 64KiB");
    let mut observer = observer(&engine).await;
    let mut raw = Raw::open(engine.ws()).await;
    let pings: Vec<u8> = (0..1000u32).flat_map(|i| frame(FIN | PING, &i.to_be_bytes())).collect();
    raw.write(pings).await;
    for i in 0..1000u32 {
        assert_eq!(raw.frame().await, Some((PONG, i.to_be_bytes().to_vec())));
    }
    assert_eq!(raw.ask("hello").await, "hello");

    let mut deaf = Raw::narrow(engine.ws()).await.opened().await;
    let id = deaf.ask("!id").await;
    let flood: Vec<u8> = (0..500).flat_map(|_| frame(FIN | PING, &[7; 125])).collect();
    let flooding = tokio::spawn(async move {
        // Ends when the server does not take it any more.
        while deaf.stream.write_all(&flood).await.is_ok() {}
    });
    assert_eq!(observer.text().await, format!("{id}: client too slow: outbox limit reached"));
    flooding.abort();
    assert_eq!(raw.ask("still here").await, "still here");
}

#[tokio::test]
async fn silent_clients_are_closed_and_a_ping_is_a_sign_of_life() {
    let engine = engine_with("readTimeout: 300ms\npingInterval: 0");
    let mut silent = Raw::open(engine.ws()).await;
    let mut half = Raw::open(engine.ws()).await;
    let mut alive = Raw::open(engine.ws()).await;
    let started = tokio::time::Instant::now();
    half.write(&text("never finished")[..5]).await;
    let closed = tokio::spawn(async move {
        assert_eq!(silent.close_frame().await, (1001, "read timeout".into()));
        silent.ends().await;
        assert_eq!(half.close_frame().await, (1001, "read timeout".into()));
    });
    while !closed.is_finished() || started.elapsed() < Duration::from_millis(700) {
        alive.write(frame(FIN | PING, b"here")).await;
        assert_eq!(alive.frame().await, Some((PONG, b"here".to_vec())));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    closed.await.unwrap();
    assert_eq!(alive.ask("hello").await, "hello");
    assert!(started.elapsed() > Duration::from_millis(290), "not too early");
}

#[tokio::test]
async fn pings_keep_whoever_answers_them() {
    let engine = engine_with("readTimeout: 400ms\npingInterval: 60ms");
    let mut mute = Raw::open(engine.ws()).await;
    let ended = tokio::spawn(async move {
        let mut pings = 0;
        loop {
            match mute.frame().await {
                Some((PING, _)) => pings += 1,
                Some((CLOSE, payload)) => return (pings, payload),
                other => panic!("{other:?}"),
            }
        }
    });
    let mut alive = Raw::open(engine.ws()).await;
    for _ in 0..15 {
        let (opcode, payload) = alive.frame().await.unwrap();
        assert_eq!(opcode, PING);
        alive.write(frame(FIN | PONG, &payload)).await;
    }
    // 15 times 60 ms: the other has had to go meanwhile.
    let (pings, payload) = ended.await.unwrap();
    assert_eq!(payload, b"\x03\xE9read timeout");
    assert!((2..=7).contains(&pings), "{pings} pings");
    alive.write(text("hello")).await;
    while alive.frame().await.unwrap() != (TEXT, b"hello".to_vec()) {}
}

/// Subscribes a client that then reads nothing, and one that reads.
async fn deaf_and_hearing(engine: &TestEngine) -> (Raw, Client) {
    let mut deaf = Raw::narrow(engine.ws()).await.opened().await;
    let mut hearing = engine.connect().await;
    assert_eq!(deaf.ask("!sub news").await, "ok");
    assert_eq!(hearing.ask("!sub news").await, "ok");
    (deaf, hearing)
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_closed_and_fails_once() {
    let engine = engine_with("outboxLimit: 512KiB");
    let mut observer = observer(&engine).await;
    let (mut deaf, mut hearing) = deaf_and_hearing(&engine).await;
    let news = "n".repeat(200_000);
    let mut failed = 0;
    for i in 0..200 {
        let counts = engine.publish("news", &news).await;
        assert_eq!(hearing.text().await.len(), news.len());
        match (counts["r"]["s"].as_u64().unwrap(), counts["r"]["f"].as_u64().unwrap()) {
            (2, 0) if failed == 0 => assert!(i < 100, "nobody can take that much unread"),
            (1, 1) if failed == 0 => failed = i,
            (1, 0) if failed > 0 && i < failed + 5 => {}
            (1, 0) if failed > 0 => break,
            other => panic!("publish {i}: {other:?}"),
        }
    }
    assert!(observer.text().await.ends_with(": client too slow: outbox limit reached"));
    // What the kernel had taken may still be read, and the message that was begun; what waited behind them is dropped, and
    // the close frame stands in its place.
    let mut whole = 0;
    let close = loop {
        match deaf.frame().await {
            Some((TEXT, data)) if data.len() == news.len() => whole += 1,
            other => break other,
        }
    };
    let reason = "client too slow: outbox limit reached";
    assert_eq!(close, Some((CLOSE, [&3100u16.to_be_bytes(), reason.as_bytes()].concat())));
    assert!(whole < failed, "{whole} of {failed}");
    deaf.ends().await;
    observer.expect_only_reply("hello", "hello").await;
}

#[tokio::test]
async fn a_slow_client_that_takes_no_close_frame_does_not_hold_its_place() {
    let engine = engine_with("outboxLimit: 64KiB\nmaxConnections: 1\nwriteTimeout: 0\nreadTimeout: 0\npingInterval: 0");
    let mut deaf = Raw::narrow(engine.ws()).await.opened().await;
    assert_eq!(deaf.ask("!sub news").await, "ok");
    let news = "n".repeat(60_000);
    let refused = async || (engine.publish("news", &news).await["r"]["f"] == 1).then(tokio::time::Instant::now);
    let refused = eventually("it is too slow", refused).await;
    engine.publish_to("news", "it is out of its channels at once", 0).await;
    let mut next = eventually("its place is free", async || {
        let mut raw = Raw::dial(engine.ws()).await;
        raw.write(upgrade()).await;
        (raw.head().await.status == 101).then_some(raw)
    })
    .await;
    assert!(refused.elapsed() < Duration::from_secs(6), "{:?}", refused.elapsed());
    assert_eq!(next.ask("hello").await, "hello");
    // What the kernel holds may still come, whole frames at any rate.
    while let Some((opcode, data)) = deaf.frame().await {
        assert!((opcode, data.len()) == (TEXT, news.len()) || opcode == CLOSE, "{opcode} {}", data.len());
    }
}

#[tokio::test]
async fn a_client_that_is_too_slow_already_for_long_is_not_waited_for() {
    // The system may happen to have room for the close frame; then the client has the usual time to take it.
    for _ in 0..5 {
        if place_of_a_client_that_is_too_slow_for_long().await < Duration::from_millis(1500) {
            return;
        }
    }
    panic!("its place was kept for it each time");
}

/// How long the place of a client stays taken that is closed as too slow when it has taken nothing for over two seconds.
async fn place_of_a_client_that_is_too_slow_for_long() -> Duration {
    let engine = engine_with("outboxLimit: 16MiB\nmaxConnections: 1\nwriteTimeout: 0\nreadTimeout: 0\npingInterval: 0");
    let mut deaf = Raw::narrow(engine.ws()).await.opened().await;
    assert_eq!(deaf.ask("!sub news").await, "ok");
    // More than the kernel takes, and less than the limit.
    let news = "n".repeat(900_000);
    for _ in 0..14 {
        engine.publish_to("news", &news, 1).await;
    }
    // So long it has taken nothing then.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let refused = async || (engine.publish("news", &news).await["r"]["f"] == 1).then(tokio::time::Instant::now);
    let closed = eventually("it is too slow", refused).await;
    eventually("its place is free", async || {
        let mut raw = Raw::dial(engine.ws()).await;
        raw.write(upgrade()).await;
        (raw.head().await.status == 101).then_some(())
    })
    .await;
    closed.elapsed()
}

#[tokio::test]
async fn a_client_that_takes_nothing_for_the_write_timeout_is_closed() {
    let engine = engine_with("outboxLimit: 64MiB\nwriteTimeout: 200ms\nreadTimeout: 0\npingInterval: 0");
    let mut observer = observer(&engine).await;
    let (deaf, mut hearing) = deaf_and_hearing(&engine).await;
    let news = "n".repeat(500_000);
    let mut published = 0;
    // As much as no kernel takes for a client.
    while published < 30 {
        let counts = engine.publish("news", &news).await;
        published += 1;
        assert_eq!(hearing.text().await.len(), news.len());
        if counts["r"]["s"] == 1 {
            break;
        }
    }
    assert!(observer.text().await.ends_with(": write timeout"));
    engine.publish_to("news", "more", 1).await;
    assert_eq!(hearing.text().await, "more");
    assert_eq!(hearing.ask("hello").await, "hello", "who reads stays");
    drop(deaf);
}

#[tokio::test]
async fn a_slow_but_steady_client_gets_everything() {
    let engine = engine_with("outboxLimit: 64MiB\nwriteTimeout: 400ms");
    let (slow, mut hearing) = deaf_and_hearing(&engine).await;
    let started = tokio::time::Instant::now();
    let reading = tokio::spawn(async move {
        let (mut slow, mut got, mut chunk) = (slow, 0, vec![0; 32_768]);
        // Far longer than the write timeout, and far less than would make the kernel say that there is room.
        while started.elapsed() < Duration::from_millis(1500) {
            got += slow.stream.read(&mut chunk).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Each message has a header of ten bytes.
        while got < 16 * 500_010 {
            let n = slow.stream.read(&mut chunk).await.unwrap();
            assert_ne!(n, 0, "it ended after {got} bytes");
            got += n;
        }
        assert_eq!(slow.ask("hello").await, "hello");
    });
    let news = "n".repeat(500_000);
    for _ in 0..16 {
        engine.publish_to("news", &news, 2).await;
        assert_eq!(hearing.text().await.len(), news.len());
    }
    reading.await.unwrap();
}

#[tokio::test]
async fn what_was_sent_before_a_close_still_goes_out() {
    let engine = engine();
    let mut raw = Raw::open(engine.ws()).await;
    raw.write([text("!flood 5000"), text("not handled any more")].concat()).await;
    for i in 1..=5000 {
        assert_eq!(raw.text().await, i.to_string());
    }
    assert_eq!(raw.close_frame().await, (4001, "enough".into()));
    // The client answers late; nothing more comes.
    raw.write(close(4001)).await;
    raw.ends().await;
}

#[tokio::test]
async fn the_bound_is_for_what_a_client_does_not_take() {
    let engine = engine_with("outboxLimit: 1000");
    let mut raw = Raw::open(engine.ws()).await;
    raw.write(text("!flood 3000")).await;
    for i in 1..=3000 {
        assert_eq!(raw.text().await, i.to_string());
    }
    assert_eq!(raw.close_frame().await.0, 4001);
    // One message may be larger than the bound.
    assert_eq!(engine.connect().await.ask(&"x".repeat(5000)).await.len(), 5000);
}

#[tokio::test]
async fn a_slow_client_gets_all_that_was_sent_before_a_close() {
    let script = r#"
        function on_message(msg, conn)
          for i = 1, 12 do conn:send(i .. ("."):rep(500000)) end
          conn:close(4001, "enough")
        end
    "#;
    let engine = TestEngine::with(script, "outboxLimit: 64MiB\nhandlerTimeout: 10", "workers: 1");
    let mut slow = Raw::narrow(engine.ws()).await.opened().await;
    slow.write(text("go")).await;
    for i in 1..=12 {
        let message = slow.text().await;
        assert_eq!(message.trim_end_matches('.'), i.to_string());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(slow.close_frame().await, (4001, "enough".into()));
    slow.ends().await;
}

#[tokio::test]
async fn the_end_is_told_once_however_it_came() {
    let engine = engine_with("readTimeout: 1\npingInterval: 0");
    let mut observer = observer(&engine).await;
    let ended = "the client ended the connection without a close frame";
    let ends: Vec<(&str, Vec<u8>, &str)> = vec![
        ("clean close", close(1000), "clean"),
        ("close without code", frame(FIN | CLOSE, b""), "clean"),
        ("two closes", [close(1000), close(1001)].concat(), "clean"),
        ("close(code)", text("!close 4000 bye"), "clean"),
        ("close()", text("!close"), "clean"),
        ("handler error", text("!raise"), "handler error"),
        ("two handler errors", [text("!raise"), text("!raise")].concat(), "handler error"),
        ("error after close", [text("!close 4000"), text("!raise")].concat(), "clean"),
        ("violation", b"\x81\x00".to_vec(), "frame not masked"),
        ("close while a handler waits", [text("!wait"), close(1000)].concat(), "clean"),
        ("violation while a handler waits", [text("!wait"), b"\x81\x00".to_vec()].concat(), "frame not masked"),
    ];
    for (what, bytes, err) in ends {
        let mut raw = Raw::open(engine.ws()).await;
        let id = raw.ask("!id").await;
        raw.write(bytes).await;
        assert_eq!(observer.text().await, format!("{id}: {err}"), "{what}");
        raw.rest().await;
        observer.expect_only_reply(what, what).await;
    }
    for (what, bytes) in [("nothing", vec![]), ("wait", text("!wait")), ("half", text("half")[..3].to_vec())] {
        let mut raw = Raw::open(engine.ws()).await;
        let id = raw.ask("!id").await;
        raw.write(&bytes).await;
        if what == "wait" {
            // A socket that is closed with something unread in it resets the connection.
            assert_eq!(raw.text().await, "waiting");
        }
        drop(raw);
        assert_eq!(observer.text().await, format!("{id}: {ended}"), "{what}");
        observer.expect_only_reply("again", "again").await;
    }
    let mut raw = Raw::open(engine.ws()).await;
    let id = raw.ask("!id").await;
    socket2::SockRef::from(&raw.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(raw);
    let told = observer.text().await;
    assert!(told.starts_with(&format!("{id}: ")) && !told.ends_with("clean"), "a reset is no clean end: {told}");

    let mut raw = Raw::open(engine.ws()).await;
    let id = raw.ask("!id").await;
    let mut told = None;
    while told.is_none() {
        // The observer must not fall silent itself.
        observer.send("tick").await;
        told = Some(observer.text().await).filter(|text| text != "tick");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(told, Some(format!("{id}: read timeout")));
    assert_eq!(raw.close_frame().await.0, 1001);
}

#[tokio::test]
async fn who_leaves_is_in_no_channel_any_more() {
    let engine = engine();
    let mut raw = Raw::open(engine.ws()).await;
    assert_eq!(raw.ask("!sub a b c").await, "ok");
    let id = raw.ask("!id").await;
    let (mut other, mut stays) = (engine.connect().await, engine.connect().await);
    assert_eq!(stays.ask("!sub a").await, "ok");
    raw.write(close(1000)).await;
    raw.rest().await;
    assert_eq!(other.ask("!pub a hello").await, "1 0");
    assert_eq!(other.ask("!pub b hello").await, "0 0");
    assert_ne!(other.ask(&format!("!to {id} hello")).await, "sent");
    assert_eq!(stays.text().await, "hello");
    // The next connection in its place is a different client.
    let mut next = engine.connect().await;
    assert_ne!(next.ask("!id").await, id);
    assert_eq!(next.ask("!channels").await, "");
}

#[tokio::test]
async fn workers_share_the_connections_and_reach_all_of_them() {
    let engine = TestEngine::with(SCRIPT, "", "workers: 2");
    let mut clients = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..6 {
        let mut client = engine.connect().await;
        assert_eq!(client.ask("!sub news").await, "ok");
        ids.push(client.ask("!id").await);
        clients.push(client);
    }
    let odd = ids.iter().filter(|id| id.parse::<u64>().unwrap() % 2 == 1).count();
    assert_eq!(odd, 3, "a client's number tells its worker: {ids:?}");
    engine.publish_to("news", "from a back end", 6).await;
    for client in &mut clients {
        assert_eq!(client.text().await, "from a back end");
    }
    for sender in 0..2 {
        // The sender is subscribed too: its own copy comes before the answer.
        clients[sender].send(&format!("!pub news from {sender}")).await;
        for client in &mut clients {
            assert_eq!(client.text().await, format!("from {sender}"));
        }
        assert_eq!(clients[sender].text().await, "6 0");
        for to in 2..6 {
            let question = format!("!to {} hello from {sender}", ids[to]);
            assert_eq!(clients[sender].ask(&question).await, "sent");
            assert_eq!(clients[to].text().await, format!("hello from {sender}"));
        }
    }
    let unsubscribed = clients[0].ask("!unsub news").await;
    assert_eq!(unsubscribed, "ok");
    engine.publish_to("news", "to the others", 5).await;
    clients[0].expect_only_reply("hello", "hello").await;
}

#[derive(Debug, Clone)]
enum Step {
    Subscribe(usize, BTreeSet<usize>),
    Unsubscribe(usize, BTreeSet<usize>),
    /// By a client; None: by a back end.
    Publish(Option<usize>, usize),
    Send(usize, usize),
    /// Leaves, with a close frame or without, and comes back as a new client.
    Leave(usize, bool),
}

const CLIENTS: usize = 4;
const CHANNELS: usize = 3;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let channels = || btree_set(0..CHANNELS, 1..=CHANNELS);
    let step = prop_oneof![
        4 => (0..CLIENTS, channels()).prop_map(|(c, ch)| Step::Subscribe(c, ch)),
        2 => (0..CLIENTS, channels()).prop_map(|(c, ch)| Step::Unsubscribe(c, ch)),
        5 => (prop::option::of(0..CLIENTS), 0..CHANNELS).prop_map(|(by, ch)| Step::Publish(by, ch)),
        2 => (0..CLIENTS, 0..CLIENTS).prop_map(|(by, to)| Step::Send(by, to)),
        1 => (0..CLIENTS, any::<bool>()).prop_map(|(c, clean)| Step::Leave(c, clean)),
    ];
    vec(step, 0..40)
}

/// A client and what the model says about it.
struct Modelled {
    client: Client,
    id: String,
    channels: BTreeSet<usize>,
    /// What it is to get, in this order.
    owed: Vec<String>,
}

impl Modelled {
    async fn new(engine: &TestEngine) -> Modelled {
        let mut client = engine.connect().await;
        let id = client.ask("!id").await;
        Modelled { client, id, channels: BTreeSet::new(), owed: Vec::new() }
    }

    /// Asks; what it is owed comes before the answer.
    async fn ask(&mut self, question: &str) -> String {
        self.client.send(question).await;
        for owed in std::mem::take(&mut self.owed) {
            assert_eq!(self.client.text().await, owed, "before the answer to {question:?}");
        }
        self.client.text().await
    }
}

fn names(channels: &BTreeSet<usize>) -> String {
    channels.iter().map(|c| format!(" channel:{c}")).collect()
}

async fn follow(engine: &TestEngine, steps: &[Step]) {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Modelled::new(engine).await);
    }
    for (i, step) in steps.iter().enumerate() {
        match step {
            Step::Subscribe(c, channels) => {
                assert_eq!(clients[*c].ask(&format!("!sub{}", names(channels))).await, "ok");
                clients[*c].channels.extend(channels);
            }
            Step::Unsubscribe(c, channels) => {
                assert_eq!(clients[*c].ask(&format!("!unsub{}", names(channels))).await, "ok");
                clients[*c].channels.retain(|ch| !channels.contains(ch));
            }
            Step::Publish(by, channel) => {
                let members = clients.iter_mut().filter(|c| c.channels.contains(channel));
                let reached = members.map(|c| c.owed.push(format!("message {i}"))).count();
                match by {
                    None => {
                        engine.publish_to(&format!("channel:{channel}"), &format!("message {i}"), reached as u64).await
                    }
                    Some(by) => {
                        let question = format!("!pub channel:{channel} message {i}");
                        assert_eq!(clients[*by].ask(&question).await, format!("{reached} 0"), "step {i}");
                    }
                }
            }
            Step::Send(by, to) => {
                let question = format!("!to {} message {i}", clients[*to].id);
                clients[*to].owed.push(format!("message {i}"));
                assert_eq!(clients[*by].ask(&question).await, "sent");
            }
            Step::Leave(c, clean) => {
                let gone = std::mem::replace(&mut clients[*c], Modelled::new(engine).await);
                if *clean {
                    gone.client.close().await;
                } else {
                    // The sending half alone: the server ends the other when all is cleared away.
                    let mut stream = gone.client.0.into_inner();
                    stream.shutdown().await.unwrap();
                    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap();
                }
            }
        }
    }
    for client in &mut clients {
        let channels = client.ask("!channels").await;
        let channels: BTreeSet<String> = channels.split_whitespace().map(str::to_owned).collect();
        assert_eq!(channels, client.channels.iter().map(|c| format!("channel:{c}")).collect());
    }
    for client in clients {
        client.client.close().await;
    }
}

#[test]
fn everybody_gets_what_a_simple_model_says_in_order() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rigs = [1, 2].map(|workers| TestEngine::with(SCRIPT, "", &format!("workers: {workers}")));
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in steps(), engine in 0..2usize)| {
        runtime.block_on(follow(&rigs[engine], &steps));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever bytes come, before or after the handshake, the server answers the next client.
    #[test]
    fn no_bytes_harm_the_server(garbage in vec(vec(any::<u8>(), 0..200), 10), open in vec(any::<bool>(), 10)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let engine = engine();
            let mut other = engine.connect().await;
            for (garbage, open) in garbage.iter().zip(open) {
                let mut raw = Raw::dial(engine.ws()).await;
                if open {
                    raw = raw.opened().await;
                }
                raw.write_into_the_dark(garbage).await;
                let _ = raw.stream.shutdown().await;
                raw.rest().await;
                assert_eq!(other.ask("hello").await, "hello");
            }
            assert!(matches!(other.0.close(None).await, Ok(())));
            assert!(matches!(other.next().await, Ok(Message::Close(_))));
        });
    }
}

#[tokio::test]
async fn a_long_handshake_is_no_silence() {
    let engine = TestEngine::with(
        "function on_handshake() mix.sleep(1) end function on_message(msg, conn) conn:send(msg.data) end",
        "readTimeout: 300ms\npingInterval: 0",
        "workers: 1",
    );
    let mut client = engine.connect().await;
    assert_eq!(client.ask("still here").await, "still here");
}

#[tokio::test]
async fn a_flood_of_small_messages_does_not_keep_others_waiting() {
    let script = "
        local handled = 0
        function on_message(msg, conn)
          if msg.data == '?' then return conn:send(tostring(handled)) end
          handled = handled + 1
          -- So that the client is faster.
          for i = 1, 500 do math.sin(i) end
          if handled == 1 or msg.data == 'last' then conn:send(msg.data) end
        end";
    let engine = TestEngine::new(script);
    let (mut flood, mut other) = (Raw::open(engine.ws()).await, Raw::open(engine.ws()).await);
    const ALL: usize = 50_000;
    let bytes = [frame(FIN | TEXT, b"").repeat(ALL), text("last")].concat();
    let (mut reader, mut writer) = flood.stream.split();
    let ask = async {
        let mut first = [0; 2];
        reader.read_exact(&mut first).await.unwrap();
        other.ask("?").await.parse::<usize>().unwrap()
    };
    let (wrote, handled) = tokio::join!(writer.write_all(&bytes), ask);
    wrote.unwrap();
    assert!(handled < ALL / 2, "it was answered after {handled} messages of another");
    assert_eq!(flood.text().await, "last");
    assert_eq!(other.ask("?").await, (ALL + 1).to_string());
}

#[tokio::test]
async fn a_client_that_waits_for_its_handler_is_not_silent() {
    let engine = TestEngine::with(
        "local n = 0
         function on_message(msg, conn)
           n = n + 1
           if n == 1 then mix.sleep(1) end
           conn:send(tostring(n))
         end",
        "readTimeout: 300ms\npingInterval: 0",
        "workers: 1",
    );
    let mut client = engine.connect().await;
    // Far more than what is read ahead of a handler.
    let message = "x".repeat(16 * 1024);
    for _ in 0..20 {
        client.send(&message).await;
    }
    for n in 1..=20 {
        assert_eq!(client.text().await, n.to_string());
    }
}
