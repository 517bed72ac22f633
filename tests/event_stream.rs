//! Event streams: clients that receive by server-sent events and send by POST, byte for byte over real sockets.

mod common;

use common::cluster::{Nodes, call, publish, reached};
use common::raw::{Raw, Reply};
use common::tls::Authority;
use common::{TestEngine, eventually, get, post, write_config};
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What clients ask for: a word and what follows it.
const SCRIPT: &str = r#"
function on_handshake(client_id, headers, server, conn)
  if server.RequestUri:find("refused") then return false, 401, "log in first" end
  conn:set_context({stream = server.EventStream, last = server.LastEventId or "none", version = server.ServerProtocol})
  conn:subscribe("news")
  if server.RequestUri:find("greet") then conn:send("hello") end
end
function on_close(client_id, err, conn, code)
  mix.mesh.publish("ends", tostring(err) .. " " .. tostring(code))
end
function on_message(msg, conn)
  local word, rest = msg.data:match("^(%S+) ?(.*)$")
  if word == "context" then
    conn:send(tostring(conn:context_value(rest)))
  elseif word == "close" then
    conn:close(4001, "as you \"said\"")
  elseif word == "id" then
    conn:send(conn:client_id())
  elseif word == "join" then
    conn:send(conn:subscribe(rest) or "joined")
  elseif word == "wait" then
    conn:wait_context_value("go")
    conn:send("waited")
  elseif word == "large" then
    conn:send(("x"):rep(tonumber(rest)))
  else
    conn:send(msg.data, msg.type)
  end
end
"#;

fn engine(server: &str) -> TestEngine {
    TestEngine::with(SCRIPT, &format!("eventStream: on\n{server}"), "workers: 2")
}

/// An event: its name and data.
type Event = (String, String);

fn message(data: impl Into<String>) -> Event {
    ("message".into(), data.into())
}

/// An open event stream.
struct Stream {
    raw: Raw,
    head: Reply,
    at: SocketAddr,
    client: String,
    token: String,
    /// Of the last event that had one.
    id: String,
}

/// A request for an event stream.
fn asking(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{headers}\r\n")
}

impl Stream {
    async fn open(at: SocketAddr) -> Stream {
        Stream::open_with(at, "/ws", "").await
    }

    async fn open_with(at: SocketAddr, target: &str, headers: &str) -> Stream {
        Stream::over(Raw::dial(at).await, at, &asking(target, headers)).await
    }

    async fn over(mut raw: Raw, at: SocketAddr, request: &str) -> Stream {
        raw.write(request).await;
        let head = raw.head().await;
        assert_eq!(head.status, 200, "{head:?}");
        let mut stream = Stream { raw, head, at, client: String::new(), token: String::new(), id: String::new() };
        let (name, data) = stream.next().await;
        assert_eq!(name, "connected");
        let who: Value = serde_json::from_str(&data).unwrap();
        stream.client = who["client"].as_str().unwrap().into();
        stream.token = who["token"].as_str().unwrap().into();
        stream
    }

    /// The next line.
    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.extend(self.raw.take(1).await);
        }
        line.pop();
        String::from_utf8(line).unwrap()
    }

    /// The next event, as a client finds it (WHATWG HTML, "Interpreting an event stream").
    async fn next(&mut self) -> Event {
        let (mut name, mut data) = (String::from("message"), Vec::new());
        loop {
            let line = self.line().await;
            match line.split_once(": ") {
                _ if line.is_empty() && !data.is_empty() => return (name, data.join("\n")),
                Some(("event", value)) => name = value.into(),
                Some(("data", value)) => data.push(value.to_owned()),
                Some(("id", value)) => self.id = value.to_owned(),
                Some(("retry", value)) => assert!((1000..5000).contains(&value.parse::<u32>().unwrap())),
                _ => assert!(line.is_empty() || line == ":", "{line}"),
            }
        }
    }

    /// The request that sends a message.
    fn sending(&self, body: &[u8], headers: &str) -> Vec<u8> {
        let (client, token, length) = (&self.client, &self.token, body.len());
        let head = format!(
            "POST /ws HTTP/1.1\r\nHost: localhost\r\nConnmix-Client: {client}\r\nConnmix-Token: {token}\r\n\
             Content-Length: {length}\r\n{headers}\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    async fn send(&self, body: &str) -> Reply {
        Raw::dial(self.at).await.call(self.sending(body.as_bytes(), "")).await
    }

    async fn ask(&mut self, question: &str) -> String {
        assert_eq!(self.send(question).await.status, 204);
        let (name, data) = self.next().await;
        assert_eq!(name, "message");
        data
    }
}

/// The sample of the metrics page that is so called.
#[tokio::test]
async fn a_client_without_a_websocket_gets_what_others_get_and_is_heard() {
    let engine = engine("");
    let mut stream = Stream::open_with(engine.ws(), "/ws?greet", "").await;
    let head = &stream.head;
    for (name, value) in [
        ("Content-Type", "text/event-stream"),
        ("Cache-Control", "no-store, no-transform"),
        ("X-Accel-Buffering", "no"),
        ("Connection", "close"),
    ] {
        assert_eq!(head.header(name), Some(value), "{head:?}");
    }
    assert_eq!((head.header("Content-Length"), head.header("Transfer-Encoding")), (None, None));
    assert_eq!(stream.next().await, message("hello"));
    let mut other = engine.connect().await;

    // What is published is the same for both.
    engine.publish_to("news", "a\nb", 2).await;
    assert_eq!(stream.next().await, message("a\nb"));
    assert_eq!(other.text().await, "a\nb");
    engine.publish_to("news", "", 2).await;
    assert_eq!(stream.next().await, message(""));
    let body = json!({"c": "news", "d": "AP8NCg==", "t": "binary"}).to_string();
    assert_eq!(post(engine.at.api, "/v1/mesh/publish", &body).await.0, 200);
    assert_eq!(stream.next().await, ("binary".into(), "AP8NCg==".into()));

    // Its handler runs with what it sends; it is a client like others.
    assert_eq!(stream.ask("id").await, stream.client);
    assert_eq!(stream.ask("context stream").await, "true");
    assert_eq!(stream.ask("context version").await, "HTTP/1.1");
    assert_eq!(stream.ask("join room").await, "joined");
    assert_eq!(stream.ask("弹幕").await, "弹幕");
    let binary = stream.sending(b"\x00\xff", "Content-Type: application/octet-stream\r\n");
    assert_eq!(Raw::dial(engine.ws()).await.call(binary).await.status, 204);
    assert_eq!(stream.next().await, ("binary".into(), "AP8=".into()));
    engine.publish_to("room", "only here", 1).await;
    assert_eq!(stream.next().await, message("only here"));
    let body = json!({"c": stream.client, "d": "you"}).to_string();
    assert_eq!(post(engine.at.api, "/v1/mesh/send", &body).await.0, 200);
    assert_eq!(stream.next().await, message("you"));
    let call = |f: &str, a: Value| json!({"c": stream.client, "f": f, "a": a}).to_string();
    let (set, join) = (call("set_context_value", json!(["k", "v"])), call("subscribe", json!(["called"])));
    for body in [set, join] {
        assert_eq!(post(engine.at.api, "/v1/conn/call", &body).await.0, 200);
    }
    assert_eq!(stream.ask("context k").await, "v");
    engine.publish_to("called", "too", 1).await;
    assert_eq!(stream.next().await, message("too"));
    let (status, info) = get(engine.at.api, &format!("/v1/clients/{}", stream.client)).await;
    assert_eq!(status, 200, "{info}");
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["r"]["channels"], json!(["called", "news", "room"]));
    assert_eq!((&info["r"]["in"], &info["r"]["out"]), (&json!(7), &json!(14)));

    let by = |name: &str| format!("connmix_engine_{name}{{protocol=\"event_stream\"}}");
    assert_eq!(engine.figure(&by("servers_read_messages_total")).await, 7.0);
    assert_eq!(engine.figure(&by("servers_send_messages_total")).await, 14.0);
    assert_eq!(engine.figure(&by("deliveries_total")).await, 6.0);
    assert_eq!(engine.figure("connmix_engine_servers_clients").await, 2.0);
}

#[tokio::test]
async fn an_end_is_told_to_both_sides() {
    let engine = engine("");
    let mut ends = engine.connect().await;
    assert_eq!(ends.ask("join ends").await, "joined");

    // The client's: what it sent before is handled.
    let mut stream = Stream::open(engine.ws()).await;
    assert_eq!(stream.send("echo").await.status, 204);
    assert_eq!(stream.next().await, message("echo"));
    let (client, token) = (stream.client.clone(), stream.token.clone());
    drop(stream);
    assert_eq!(ends.text().await, "nil nil");

    // The script's: its code and reason are an event, after which nothing comes but the end.
    let mut stream = Stream::open(engine.ws()).await;
    assert_eq!(stream.send("close").await.status, 204);
    assert_eq!(stream.next().await, ("close".into(), json!({"code": 4001, "reason": "as you \"said\""}).to_string()));
    stream.raw.ends().await;
    assert_eq!(ends.text().await, "nil nil");

    // A back end's.
    let mut stream = Stream::open(engine.ws()).await;
    let body = json!({"c": stream.client, "code": 4002, "reason": "kicked"}).to_string();
    assert_eq!(post(engine.at.api, "/v1/mesh/close", &body).await.0, 200);
    assert_eq!(stream.next().await, ("close".into(), json!({"code": 4002, "reason": "kicked"}).to_string()));
    stream.raw.ends().await;
    assert_eq!(ends.text().await, "nil nil");

    // After it nobody sends in its name.
    stream.client = client;
    stream.token = token;
    let reply = stream.send("echo").await;
    assert_eq!(reply.status, 404, "{reply:?}");

    // The engine's.
    let mut stream = Stream::open(engine.ws()).await;
    assert!(engine.shutdown().await);
    let (name, said) = stream.next().await;
    assert_eq!(name, "close");
    let said: Value = serde_json::from_str(&said).unwrap();
    let reason = said["reason"].as_str().unwrap();
    assert!(said["code"] == 1012 && reason.starts_with("server shutdown"), "{said}");
    stream.raw.ends().await;
}

#[tokio::test]
async fn only_who_has_the_token_sends_and_every_refusal_says_why() {
    let engine = engine("maxMessageSize: 100");
    let (mut stream, other) = (Stream::open(engine.ws()).await, Stream::open(engine.ws()).await);
    let websocket = engine.connect().await.ask("id").await;
    let good = String::from_utf8(stream.sending(b"hello", "")).unwrap();
    let with = |from: &str, to: &str| {
        assert!(good.contains(from));
        good.replace(from, to)
    };
    let length = "Content-Length: 5";
    for (request, status, part) in [
        (with(&stream.token, &other.token), 404, "there is no event stream"),
        (with(&stream.client, &other.client), 404, "there is no event stream"),
        (with(&stream.client, &websocket), 404, "there is no event stream"),
        (with(&stream.client, "12345"), 404, "there is no event stream"),
        (with(&stream.client, "me"), 400, "Connmix-Client"),
        (with(&stream.token, "secret"), 400, "Connmix-Token"),
        (with("Connmix-Client", "Client"), 400, "Connmix-Client is missing"),
        (with("Connmix-Token", "Token"), 400, "Connmix-Token is missing"),
        (with("POST /ws", "POST /other"), 404, "nothing is served"),
        (with("Host: localhost\r\n", ""), 400, "Host"),
        (with(length, "Content-Length: 101"), 413, "maxMessageSize"),
        (with(length, "Transfer-Encoding: chunked"), 411, "Content-Length"),
        (with("hello", "hyxll"), 204, ""),
    ] {
        let reply = Raw::dial(engine.ws()).await.call(&request).await;
        assert_eq!(reply.status, status, "{request}\n{reply:?}");
        assert!(reply.body.contains(part), "{reply:?}");
        assert!(!reply.body.contains(&stream.token) && !reply.body.contains(&other.token));
    }
    // Only the last one was taken.
    assert_eq!(stream.next().await, message("hyxll"));
    let mut bad = good.replace("hello", "").into_bytes();
    bad.extend(b"h\xffllo");
    let reply = Raw::dial(engine.ws()).await.call(&bad).await;
    assert_eq!(
        (reply.status, reply.body.trim_end()),
        (400, "a text is not valid UTF-8; send it as application/octet-stream")
    );
    assert_eq!(stream.ask("still here").await, "still here");
}

#[tokio::test]
async fn requests_that_send_share_a_connection_and_keep_their_order() {
    let engine = engine("");
    let mut stream = Stream::open(engine.ws()).await;
    let mut raw = Raw::dial(engine.ws()).await;
    // Together, in pieces, and after a wait for the invitation.
    let both = [stream.sending(b"one", ""), stream.sending(b"two", "")].concat();
    raw.write(&both).await;
    for _ in 0..2 {
        assert_eq!(raw.reply().await.status, 204);
    }
    for piece in stream.sending(b"three", "").chunks(7) {
        raw.write(piece).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.reply().await.status, 204);
    let expecting = stream.sending(b"four", "Expect: 100-continue\r\n");
    let (head, body) = expecting.split_at(expecting.len() - 4);
    raw.write(head).await;
    assert_eq!(raw.head().await.status, 100);
    raw.write(body).await;
    assert_eq!(raw.reply().await.status, 204);
    for text in ["one", "two", "three", "four"] {
        assert_eq!(stream.next().await, message(text));
    }
    // The same connection may open a stream, or a WebSocket, next.
    let second = Stream::over(raw, engine.ws(), &asking("/ws", "")).await;
    assert_ne!(second.client, stream.client);
    let mut raw = Raw::dial(engine.ws()).await;
    assert_eq!(raw.call(stream.sending(b"five", "")).await.status, 204);
    assert_eq!(raw.opened().await.ask("six").await, "six");
    // One that says so is the last.
    let mut raw = Raw::dial(engine.ws()).await;
    let reply = raw.call(stream.sending(b"seven", "Connection: close\r\n")).await;
    assert_eq!((reply.status, reply.header("Connection")), (204, Some("close")));
    raw.ends().await;
}

#[tokio::test]
async fn a_request_is_refused_as_one_for_a_websocket_is() {
    let engine = engine("allowedOrigins: [https://example.com]\nrate: {perAddress: 6/1h}");
    let ask = async |request: String| Raw::dial(engine.ws()).await.call(request).await;
    let reply = ask(asking("/ws?refused", "")).await;
    assert_eq!((reply.status, reply.body.trim_end()), (401, "log in first"));
    assert_eq!(ask(asking("/elsewhere", "")).await.status, 404);
    assert_eq!(ask(asking("/ws", "Origin: https://evil.example\r\n")).await.status, 403);
    assert_eq!(ask(asking("/ws", "").replace("text/event-stream", "text/html")).await.status, 426);
    // A page that may connect may read what comes.
    let stream = Stream::open_with(engine.ws(), "/ws", "Origin: https://example.com\r\n").await;
    assert_eq!(stream.head.header("Access-Control-Allow-Origin"), Some("https://example.com"));
    assert_eq!(stream.head.header("Access-Control-Allow-Credentials"), Some("true"));
    assert_eq!(stream.head.header("Vary"), Some("Origin"));
    let preflight = "OPTIONS /ws HTTP/1.1\r\nHost: localhost\r\nOrigin: https://example.com\r\n\
                     Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: connmix-token\r\n\r\n";
    let reply = ask(preflight.into()).await;
    assert_eq!(reply.status, 204);
    assert!(reply.header("Access-Control-Allow-Headers").unwrap().contains("Connmix-Token"), "{reply:?}");
    // The rates are those of connects.
    let reply = ask(asking("/ws", "")).await;
    assert_eq!(reply.status, 429, "{reply:?}");

    let off = TestEngine::new(SCRIPT);
    assert_eq!(Raw::dial(off.ws()).await.call(asking("/ws", "")).await.status, 426);
    assert_eq!(Raw::dial(off.ws()).await.call(stream.sending(b"x", "")).await.status, 405);
    // It is live.
    write_config(&off.path("connmix.yaml"), "eventStream: on", "workers: 1", "");
    off.engine().reload();
    let again = async || {
        let mut raw = Raw::dial(off.ws()).await;
        raw.write(asking("/ws", "")).await;
        (raw.head().await.status == 200).then_some(())
    };
    eventually("event streams are on", again).await;
    assert_eq!(off.figure("connmix_engine_deliveries_total{protocol=\"event_stream\"}").await, 0.0);
}

#[tokio::test]
async fn the_position_to_go_on_from_is_handed_to_the_script() {
    let engine = engine("");
    let mut stream = Stream::open_with(engine.ws(), "/ws", "Last-Event-ID: e:5\r\n").await;
    assert_eq!(stream.ask("context last").await, "e:5");
    let mut stream = Stream::open_with(engine.ws(), "/ws?lastEventId=e%3A6", "").await;
    assert_eq!(stream.ask("context last").await, "e:6");
    let mut stream = Stream::open(engine.ws()).await;
    assert_eq!(stream.ask("context last").await, "none");
    let mut client = engine.connect().await;
    assert_eq!(client.ask("context stream").await, "false");
}

#[tokio::test]
async fn a_client_that_comes_back_goes_on_behind_the_last_event_that_it_got() {
    let script = "
        function on_handshake(client_id, headers, server, conn)
          conn:subscribe('log', {since = server.LastEventId, last = not server.LastEventId and 2 or nil})
        end
        function on_message() end";
    let rules = "workers: 2\nchannels: [{match: log, history: {size: 10}}]";
    let engine = TestEngine::with(script, "eventStream: on", rules);
    let publish = async |texts: &[&str], reached: u64| {
        for text in texts {
            assert_eq!(engine.publish("log", text).await["r"]["s"], reached);
        }
    };
    publish(&["1", "2", "3"], 0).await;
    let mut stream = Stream::open(engine.ws()).await;
    for text in ["2", "3"] {
        assert_eq!(stream.next().await, message(text));
    }
    publish(&["4", "5"], 1).await;
    assert_eq!(stream.next().await, message("4"));
    let fourth = stream.id.clone();
    assert_eq!(stream.next().await, message("5"));
    let fifth = std::mem::take(&mut stream.id);
    assert!(!fourth.is_empty() && fourth != fifth);
    drop(stream);
    let left = async || {
        let (_, reply) = post(engine.at.api, "/v1/mesh/count", r#"{"c":"log"}"#).await;
        reply.contains("\"n\":0").then_some(())
    };
    eventually("nobody is in the channel", left).await;
    publish(&["6", "7"], 0).await;
    let mut stream = Stream::open_with(engine.ws(), "/ws", &format!("Last-Event-ID: {fifth}\r\n")).await;
    let mut other = Stream::open_with(engine.ws(), &format!("/ws?lastEventId={fourth}"), "").await;
    publish(&["8"], 2).await;
    for text in ["6", "7", "8"] {
        assert_eq!(stream.next().await, message(text));
    }
    for text in ["5", "6", "7", "8"] {
        assert_eq!(other.next().await, message(text));
    }
    assert_eq!(stream.id, other.id);
    // One who has missed nothing has a position all the same.
    let mut third = Stream::open_with(engine.ws(), "/ws", &format!("Last-Event-ID: {}\r\n", stream.id)).await;
    publish(&["9"], 3).await;
    assert_eq!(third.next().await, message("9"));
}

#[tokio::test]
async fn proxies_that_speak_http_1_0_or_the_proxy_protocol_and_tls_are_fine() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.issue(dir.path(), "server", &["localhost"]);
    let tls = "eventStream: on\nproxyProtocol: v1v2\ntls: {cert: server.pem, key: server.key}";
    std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    write_config(&dir.path().join("connmix.yaml"), tls, "workers: 2", "trustedProxies: [127.0.0.1]");
    let engine = TestEngine::start(dir);
    let mut socket = tokio::net::TcpStream::connect(engine.ws()).await.unwrap();
    socket.write_all(b"PROXY TCP4 192.0.2.7 127.0.0.1 5000 80\r\n").await.unwrap();
    let mut stream = authority.trusted().over(socket, "localhost").await.unwrap();
    stream.write_all(b"GET /ws?greet HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n").await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"data: hello\n\n") {
        assert!(stream.read_buf(&mut got).await.unwrap() > 0, "{}", String::from_utf8_lossy(&got));
    }
    let got = String::from_utf8(got).unwrap();
    let client = got.split("\"client\":\"").nth(1).unwrap().split('"').next().unwrap();
    let (_, info) = get(engine.at.api, &format!("/v1/clients/{client}")).await;
    assert!(info.contains("192.0.2.7:5000"), "{info}");
}

#[tokio::test]
async fn a_silent_client_gets_comments_and_stays() {
    let engine = engine("readTimeout: 1\npingInterval: 50ms");
    let mut stream = Stream::open(engine.ws()).await;
    let mut comments = 0;
    // For longer than a client that can answer may be silent: as many comments as come in two seconds.
    while comments < 40 {
        comments += usize::from(stream.line().await == ":");
    }
    assert_eq!(stream.ask("still here").await, "still here");
}

#[tokio::test]
async fn what_waits_for_a_handler_is_bounded_and_what_was_taken_is_handled() {
    let engine = engine("");
    let mut stream = Stream::open(engine.ws()).await;
    assert_eq!(stream.send("wait").await.status, 204);
    let mut raw = Raw::dial(engine.ws()).await;
    let text = "x".repeat(1000);
    let mut taken = 0;
    let refused = loop {
        let reply = raw.call(stream.sending(text.as_bytes(), "")).await;
        match reply.status {
            204 => taken += 1,
            _ => break reply,
        }
    };
    assert_eq!((refused.status, refused.header("Retry-After")), (429, Some("1")), "{refused:?}");
    assert!((60..70).contains(&taken), "{taken}");
    let go = json!({"c": stream.client, "f": "set_context_value", "a": ["go", true]}).to_string();
    assert_eq!(post(engine.at.api, "/v1/conn/call", &go).await.0, 200);
    assert_eq!(stream.next().await, message("waited"));
    for _ in 0..taken {
        assert_eq!(stream.next().await, message(text.clone()));
    }
    assert_eq!(raw.call(stream.sending(b"again", "")).await.status, 204);
    assert_eq!(stream.next().await, message("again"));
}

#[tokio::test]
async fn messages_count_for_the_rate_of_messages() {
    let engine = engine("rate: {messages: 3/1h}");
    let mut stream = Stream::open(engine.ws()).await;
    for text in ["a", "b", "c", "d"] {
        assert_eq!(stream.send(text).await.status, 204);
    }
    for text in ["a", "b", "c"] {
        assert_eq!(stream.next().await, message(text));
    }
    let pauses = async || {
        let paused = "connmix_engine_rate_pauses_total";
        let (_, page) = get(engine.at.api, "/metrics").await;
        page.lines().any(|l| l.starts_with(paused) && l.contains("messages") && l.ends_with(" 1")).then_some(())
    };
    eventually("the client waits", pauses).await;
    // What is published reaches it all the same.
    engine.publish_to("news", "news", 1).await;
    assert_eq!(stream.next().await, message("news"));
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_too_slow_and_the_end_of_its_stream_is_whole() {
    let engine = engine("outboxLimit: 64KiB\nunsentLimit: 4KiB");
    let raw = Raw::narrow(engine.ws()).await;
    let mut stream = Stream::over(raw, engine.ws(), &asking("/ws", "")).await;
    let data = "x".repeat(30_000);
    let mut lost = 0;
    while lost == 0 {
        lost = engine.publish("news", &data).await["r"]["f"].as_u64().unwrap();
    }
    let close = loop {
        let (name, said) = stream.next().await;
        match name.as_str() {
            "close" => break said,
            _ => assert_eq!(said, data),
        }
    };
    assert_eq!(close, json!({"code": 3100, "reason": "client too slow: outbox limit reached"}).to_string());
    stream.raw.ends().await;
    assert!(engine.figure("connmix_engine_dropped_messages_total{cause=\"too_slow\"}").await >= 1.0);
}

#[tokio::test]
async fn in_a_cluster_a_message_reaches_the_stream_by_any_node() {
    let nodes = Nodes::start(2).await;
    let [one, two] = &nodes.engines[..] else { panic!("two nodes") };
    let mut stream = Stream::open(one.ws()).await;
    assert_eq!(stream.ask("join room").await, "joined room");
    assert_eq!(publish(two.at.api, "room", "hello").await, reached(1));
    assert_eq!(stream.next().await, message("hello"));
    stream.at = two.ws();
    assert_eq!(stream.ask("from elsewhere").await, "echo from elsewhere");
    let token = std::mem::replace(&mut stream.token, "0".repeat(32));
    let reply = stream.send("not by me").await;
    assert_eq!(reply.status, 404, "{reply:?}");
    stream.token = token;
    let mut back_end = common::cluster::back_end(two.at.api).await;
    let done = call(&mut back_end, "conn.call", json!({"c": stream.client, "f": "close", "a": [4000, "bye"]})).await;
    assert_eq!(done["r"], json!({"s": true}), "{done}");
    assert_eq!(stream.next().await.0, "close");
    stream.raw.ends().await;
    let gone = async || (stream.send("too late").await.status == 404).then_some(());
    eventually("the client is gone", gone).await;
}

/// Resident bytes of a silent client, as the difference that so many make.
async fn size_of_a_silent(what: &str, open: impl AsyncFn(SocketAddr) -> Raw) -> usize {
    const MANY: usize = 400;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), "function on_message() end").unwrap();
    write_config(&dir.path().join("connmix.yaml"), "eventStream: on", "workers: 1", "");
    let engine = common::process::Process::ready(dir.path(), &["single"]);
    let at = engine.ws();
    let mut clients = Vec::with_capacity(2 * MANY);
    // The first of them fill what is there already.
    for _ in 0..MANY {
        clients.push(open(at).await);
    }
    let before = engine.resident();
    for _ in 0..MANY {
        clients.push(open(at).await);
    }
    let size = engine.resident().saturating_sub(before) / MANY;
    println!("a silent {what}: {size} bytes");
    size
}

#[tokio::test]
async fn a_silent_stream_takes_about_as_little_memory_as_a_websocket() {
    let websocket = size_of_a_silent("WebSocket", async |at| Raw::open(at).await).await;
    let stream = size_of_a_silent("stream", async |at| Stream::open(at).await.raw).await;
    // What is resident grows in pages, by chance.
    assert!(stream < websocket + 1024, "{stream} bytes, a WebSocket {websocket}");
}
