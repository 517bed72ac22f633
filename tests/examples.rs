//! The examples of `docs/examples`, each run by the real program with its own configuration and used by real clients;
//! and each goes on with them when its script changes. Those that have a tutorial are in `room_examples.rs`.

mod common;

use common::example::{Example, examples};
use common::process::address;
use common::raw::Raw;
use common::redis::Redis;
use common::{Client, post};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Error;

/// The status with which a request to connect is refused.
async fn refused(addr: SocketAddr, path: &str) -> u16 {
    match Client::try_connect(addr, path).await {
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(e) => panic!("{path}: {e}"),
        Ok(_) => panic!("{path} was not refused"),
    }
}

#[test]
fn every_example_is_listed_and_has_its_readme() {
    let list = fs::read_to_string(examples().join("README.md")).unwrap();
    let mut count = 0;
    for entry in fs::read_dir(examples()).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            let name = entry.file_name().into_string().unwrap();
            assert!(list.contains(&format!("]({name}/README.md)")), "{name}");
            let readme = fs::read_to_string(entry.path().join("README.md")).unwrap();
            // The cluster is started by its own script, and tested apart.
            let start = match name.as_str() {
                "cluster" => "./node.sh start center".to_owned(),
                _ => format!("dev -f docs/examples/{name}/connmix.yaml"),
            };
            assert!(readme.contains(&start), "{name}");
            count += 1;
        }
    }
    assert_eq!(count, 10);
}

// chat

#[tokio::test]
async fn chat_tells_a_rooms_members_who_comes_speaks_and_goes() {
    let chat = Example::start("chat");
    let at = chat.server(0);
    let mut ann = Client::connect(at, "/chat?name=Ann").await;
    let mut bob = Client::connect(at, "/chat?name=Bob%20%F0%9F%8E%88").await;
    let join = json!({"op": "join", "room": "tea"});
    assert_eq!(ann.ask_json(join.clone()).await, json!({"op": "join", "ok": true}));
    assert_eq!(ann.json().await, json!({"event": "join", "room": "tea", "name": "Ann"}));
    assert_eq!(bob.ask_json(join.clone()).await, json!({"op": "join", "ok": true}));
    let came = json!({"event": "join", "room": "tea", "name": "Bob 🎈"});
    assert_eq!([ann.json().await, bob.json().await], [came.clone(), came]);
    assert_eq!(ann.ask_json(json!({"op": "rooms"})).await, json!({"op": "rooms", "ok": true, "rooms": ["tea"]}));

    let hello = json!({"op": "send", "room": "tea", "text": "hello"});
    assert_eq!(bob.ask_json(hello.clone()).await, json!({"op": "send", "ok": true}));
    let said = json!({"event": "send", "room": "tea", "name": "Bob 🎈", "text": "hello"});
    assert_eq!([ann.json().await, bob.json().await], [said.clone(), said]);

    // Another version of the script finds everybody where they were.
    chat.change("chat.lua", "MAX_ROOMS, MAX_TEXT = 20, 4000", "MAX_ROOMS, MAX_TEXT = 1, 5");
    assert_eq!(bob.ask_json(hello.clone()).await["ok"], true);
    assert_eq!([ann.json().await["text"].take(), bob.json().await["text"].take()], ["hello", "hello"]);
    let longer = bob.ask_json(json!({"op": "send", "room": "tea", "text": "hello!"})).await;
    assert_eq!(longer, json!({"op": "send", "error": "text must be a string of 1 to 5 bytes"}));
    let second = bob.ask_json(json!({"op": "join", "room": "second"})).await;
    assert_eq!(second, json!({"op": "join", "error": "you are in 1 rooms already"}));

    let quit = json!({"op": "quit", "room": "tea"});
    assert_eq!(bob.ask_json(quit.clone()).await, json!({"op": "quit", "ok": true}));
    let went = json!({"event": "quit", "room": "tea", "name": "Bob 🎈"});
    assert_eq!(ann.json().await, went);
    assert_eq!(bob.ask_json(hello).await, json!({"op": "send", "error": "you are not in that room"}));
    assert_eq!(bob.ask_json(quit).await, json!({"op": "quit", "error": "you are not in that room"}));
    // Back again, and lost without a word.
    assert_eq!(bob.ask_json(join).await["ok"], true);
    assert_eq!([ann.json().await["event"].take(), bob.json().await["event"].take()], ["join", "join"]);
    drop(bob);
    assert_eq!(ann.json().await, went);
    drop(ann);
    chat.stop();
}

#[tokio::test]
async fn chat_answers_what_it_can_not_do() {
    let chat = Example::start("chat");
    for path in [
        "/chat",
        "/chat?name=",
        "/chat?name[]=x",
        "/chat?name=a%0Ab",
        "/chat?name=%FF",
        &format!("/chat?name={}", "x".repeat(33)),
    ] {
        assert_eq!(refused(chat.server(0), path).await, 400, "{path}");
    }
    let mut ann = Client::connect(chat.server(0), "/chat?name=Ann").await;
    for wrong in [
        "hello",
        "7",
        "null",
        "{}",
        r#"{"op":{}}"#,
        r#"{"op":"dance","room":"tea"}"#,
        r#"{"op":"join"}"#,
        r#"{"op":"join","room":["tea"]}"#,
        r#"{"op":"join","room":"two words"}"#,
        r#"{"op":"join","room":"äöü"}"#,
        r#"{"op":"send","room":"tea"}"#,
        r#"{"op":"send","room":"tea","text":7}"#,
    ] {
        let answer: Value = serde_json::from_str(&ann.ask(wrong).await).unwrap();
        assert!(answer["error"].is_string() && answer["ok"].is_null(), "{wrong}: {answer}");
    }
    ann.send_binary(b"\xff\x00").await;
    assert!(ann.json().await["error"].is_string());
    drop(ann);
    chat.stop();
}

// messages

/// What users' tokens say, and what has been read.
struct Backend {
    addr: SocketAddr,
    read: Arc<Mutex<Vec<String>>>,
}

impl Backend {
    async fn start() -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = Backend { addr: listener.local_addr().unwrap(), read: Arc::default() };
        let read = backend.read.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(Backend::serve(socket, read.clone()));
            }
        });
        backend
    }

    async fn serve(mut socket: TcpStream, read: Arc<Mutex<Vec<String>>>) -> Option<()> {
        let mut input = Vec::new();
        loop {
            let text = loop {
                let text = String::from_utf8(input.clone()).unwrap();
                let length = |head: &str| {
                    let lower = head.to_ascii_lowercase();
                    lower.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0)
                };
                if text.split_once("\r\n\r\n").is_some_and(|(head, body)| body.len() >= length(head)) {
                    break text;
                }
                if socket.read_buf(&mut input).await.ok()? == 0 {
                    return None;
                }
            };
            input.clear();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let line = head.lines().next().unwrap();
            let lower = head.to_ascii_lowercase();
            let token = lower.lines().find_map(|l| l.strip_prefix("authorization: bearer ")).unwrap();
            let (status, reply) = match (line, token) {
                ("GET /auth HTTP/1.1", "ann-token") => (200, r#"{"uid":1001}"#),
                ("GET /auth HTTP/1.1", "large") => (200, r#"{"uid":9007199254740993}"#),
                ("GET /auth HTTP/1.1", "odd") => (200, r#"{"uid":1.5}"#),
                ("GET /auth HTTP/1.1", "no-json") => (200, "what?"),
                ("GET /auth HTTP/1.1", "ill") => (500, ""),
                ("GET /auth HTTP/1.1", _) => (401, "{}"),
                ("POST /read HTTP/1.1", "ann-token") if body == r#"{"id":17}"# => {
                    read.lock().unwrap().push(body.to_owned());
                    (200, "{}")
                }
                _ => (404, "{}"),
            };
            let reply = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{reply}", reply.len());
            socket.write_all(reply.as_bytes()).await.ok()?;
        }
    }
}

#[tokio::test]
async fn the_message_centre_lets_in_whom_the_back_end_knows_and_reaches_them_everywhere() {
    let backend = Backend::start().await;
    let centre = Example::start_with("messages", &[("http://127.0.0.1:8080", &format!("http://{}", backend.addr))]);
    let at = centre.server(0);
    for (path, status) in [
        ("/messages", 401),
        ("/messages?token=", 401),
        ("/messages?token=a%0D%0Ab", 401),
        ("/messages?token=unknown", 401),
        ("/messages?token=odd", 503),
        ("/messages?token=no-json", 503),
        ("/messages?token=ill", 503),
    ] {
        assert_eq!(refused(at, path).await, status, "{path}");
    }
    let mut phone = Client::connect(at, "/messages?token=ann-token").await;
    let mut page = Client::connect(at, "/messages?token=ann-token").await;
    let _other = Client::connect(at, "/messages?token=large").await;
    centre.publish("user:1001", r#"{"id":17,"text":"hello"}"#, 2).await;
    assert_eq!([phone.text().await, page.text().await], [r#"{"id":17,"text":"hello"}"#; 2]);
    centre.publish("user:9007199254740993", "{}", 1).await;

    assert_eq!(phone.ask_json(json!({"op": "read", "id": 17})).await, json!({"op": "read", "id": 17, "ok": true}));
    assert_eq!(*backend.read.lock().unwrap(), [r#"{"id":17}"#]);
    centre.change("messages.lua", "\"refused\"", "\"refused by the back end\"");
    let refused = phone.ask_json(json!({"op": "read", "id": 18})).await;
    assert_eq!(refused, json!({"op": "read", "id": 18, "error": "refused by the back end"}));
    for wrong in ["?", "[]", r#"{"op":"read"}"#, r#"{"op":"read","id":1.5}"#, r#"{"op":"write","id":1}"#] {
        let answer: Value = serde_json::from_str(&phone.ask(wrong).await).unwrap();
        assert_eq!(answer, json!({"error": r#"expected {"op":"read","id":NUMBER}"#}), "{wrong}");
    }
    centre.publish("user:1001", "after all", 2).await;
    assert_eq!([phone.text().await, page.text().await], ["after all"; 2]);
    drop((phone, page));
    let ended = centre.process.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    // The token is a secret, and the back end's failures are told.
    assert!(!ended.out.contains("ann-token") && ended.out.contains("status 500"), "{}", ended.out);
}

#[tokio::test]
async fn the_message_centre_says_so_while_the_back_end_is_away() {
    let nobody = common::ports::free_addr();
    let centre = Example::start_with("messages", &[("http://127.0.0.1:8080", &format!("http://{nobody}"))]);
    assert_eq!(refused(centre.server(0), "/messages?token=ann-token").await, 503);
}

// exchange

/// The answer to a login, signed with that secret for a time so many seconds from now.
fn login(uid: &str, secret: &str, seconds: i64) -> Value {
    use hmac::{Hmac, KeyInit, Mac};
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let time = now.checked_add_signed(seconds).unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{uid}:{time}").as_bytes());
    let sign: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
    json!({"op": "login", "uid": uid, "time": time, "sign": sign})
}

fn subscribe(channels: &[&str]) -> Value {
    json!({"op": "subscribe", "channels": channels})
}

#[tokio::test]
async fn the_exchange_sends_quotes_to_all_and_orders_to_their_owner() {
    let mut redis = Redis::start(&[]);
    let at = format!("localhost:{}", redis.port);
    let exchange = Example::start_with("exchange", &[("localhost:6379", &at)]);
    let mut client = Client::connect(exchange.server(0), "/exchange").await;
    let ok = |op: &str| json!({"op": op, "ok": true});

    // The last quote of the one, none of the other; then what is published.
    redis.ask(r#"SET last:ticker:BTC-USD '{"channel":"ticker:BTC-USD","seq":7,"price":"64000.10"}'"#);
    assert_eq!(client.ask_json(subscribe(&["depth:BTC-USD", "ticker:BTC-USD"])).await, ok("subscribe"));
    assert_eq!(client.text().await, r#"{"channel":"ticker:BTC-USD","seq":7,"price":"64000.10"}"#);
    exchange.publish("ticker:BTC-USD", "news", 1).await;
    exchange.publish("depth:BTC-USD", "deep news", 1).await;
    assert_eq!([client.text().await, client.text().await], ["news", "deep news"]);

    // All or nothing.
    for wrong in [
        subscribe(&["ticker:ETH-USD", "ticker:x"]),
        subscribe(&["ticker:ETH-USD", "radio:ETH-USD"]),
        subscribe(&["ticker:ETH-USD", "orders:1001"]),
        subscribe(&[]),
        json!({"op": "subscribe", "channels": ["ticker:ETH-USD", 7]}),
        json!({"op": "subscribe", "channels": [null, "ticker:ETH-USD"]}),
        json!({"op": "subscribe", "channels": ["ticker:ETH-USD", null, "ticker:ETH-USD"]}),
        json!({"op": "subscribe", "channels": "ticker:ETH-USD"}),
        json!({"op": "subscribe", "channels": vec!["ticker:ETH-USD"; 51]}),
        login("1001", "another secret", 0),
        login("1001", "change-me", -31),
        login("1001", "change-me", 35),
        json!({"op": "login", "uid": 1001}),
    ] {
        let answer = client.ask_json(wrong.clone()).await;
        assert!(answer["op"] == wrong["op"] && answer["error"].is_string(), "{wrong}: {answer}");
    }
    for wrong in ["buy!", "[]", r#"{"op":7}"#] {
        let answer: Value = serde_json::from_str(&client.ask(wrong).await).unwrap();
        assert!(answer["error"].is_string(), "{wrong}: {answer}");
    }
    exchange.publish("ticker:ETH-USD", "nobody's", 0).await;

    assert_eq!(client.ask_json(login("1001", "change-me", -5)).await, ok("login"));
    assert_eq!(client.ask_json(subscribe(&["orders:1001"])).await, ok("subscribe"));
    let stranger = client.ask_json(subscribe(&["orders:1002"])).await;
    assert_eq!(stranger["error"], "log in as that user first");
    exchange.change("exchange.lua", "log in as that user first", "not yours");
    assert_eq!(client.ask_json(subscribe(&["orders:1002"])).await["error"], "not yours");
    assert_eq!(client.ask_json(login("1002", "change-me", 0)).await["error"], "this connection is another user's");
    exchange.publish("orders:1001", "filled", 1).await;
    assert_eq!(client.text().await, "filled");

    // Without Redis there are no last quotes, and nothing else is missing.
    redis.kill();
    assert_eq!(client.ask_json(subscribe(&["ticker:BTC-USD"])).await, ok("subscribe"));
    exchange.process.line("no last quotes: ");
    exchange.publish("ticker:BTC-USD", "more", 1).await;
    assert_eq!(client.text().await, "more");
    let unsubscribe = json!({"op": "unsubscribe", "channels": ["ticker:BTC-USD", "orders:1001"]});
    assert_eq!(client.ask_json(unsubscribe).await, ok("unsubscribe"));
    exchange.publish("ticker:BTC-USD", "unheard", 0).await;
    drop(client);
    exchange.stop();
}

// echo

#[tokio::test]
async fn echo_returns_lines_and_brings_news() {
    let echo = Example::start("echo");
    let mut raw = Raw::dial(echo.server(0)).await;
    assert!(raw.line().await.starts_with("you are "));
    for byte in *b"hello\r\n" {
        raw.write([byte]).await;
    }
    assert_eq!(raw.line().await, "hello");
    echo.publish("news", "it is\nnoon", 1).await;
    assert_eq!(raw.line().await, "it is noon");
    // A line that began before the change ends after it.
    raw.write("half a ").await;
    echo.change("echo.lua", "\"bye\"", "\"good bye\"");
    raw.write("line\nquit\nnobody reads this\n").await;
    assert_eq!([raw.line().await, raw.line().await], ["half a line", "good bye"]);
    raw.ends().await;

    let mut long = Raw::dial(echo.server(0)).await;
    long.line().await;
    long.write(format!("{}\n", "x".repeat(4095))).await;
    assert_eq!(long.line().await.len(), 4095);
    long.write_into_the_dark("x".repeat(5000)).await;
    assert_eq!(long.rest().await, b"");
    drop((raw, long));
    echo.stop();
}

// device

/// A frame of the example's protocol.
fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 1).unwrap();
    [&length.to_be_bytes()[..], &[kind], body].concat()
}

fn report(temperature: f32, charge: u8) -> Vec<u8> {
    frame(3, &[&temperature.to_be_bytes()[..], &[charge]].concat())
}

impl Raw {
    async fn device_frame(&mut self) -> (u8, Vec<u8>) {
        let length = self.take(2).await;
        let mut bytes = self.take(usize::from(u16::from_be_bytes([length[0], length[1]]))).await;
        (bytes.remove(0), bytes)
    }

    async fn device_ask(&mut self, frame: Vec<u8>) -> (u8, Vec<u8>) {
        self.write(frame).await;
        self.device_frame().await
    }
}

/// The next event without its time.
async fn event(dashboard: &mut Client) -> Value {
    let mut event = dashboard.json().await;
    assert!(event["time"].as_u64().is_some_and(|time| time > 1_700_000_000), "{event}");
    event.as_object_mut().unwrap().remove("time");
    event
}

#[tokio::test]
async fn devices_report_to_dashboards_and_obey_commands() {
    let example = Example::start("device");
    // What it greets with says which is which.
    let (web, tcp) = (example.process.line("  WebSocket "), example.process.line("  TCP "));
    assert_eq!(address(&web, "ws://"), example.server(0));
    assert_eq!(address(&tcp, "  TCP         "), example.server(1));
    let mut dashboard = Client::connect(example.server(0), "/dashboard").await;
    let mut device = Raw::dial(example.server(1)).await;
    let (login, report) = (frame(1, b"cam-1"), report(21.5, 80));
    for byte in login {
        device.write([byte]).await;
    }
    assert_eq!(device.device_frame().await, (1, vec![]));
    assert_eq!(event(&mut dashboard).await, json!({"device": "cam-1", "event": "online"}));
    device.write([frame(2, b""), report.clone(), frame(2, b"")].concat()).await;
    for kind in [2, 3, 2] {
        assert_eq!(device.device_frame().await, (kind, vec![]));
    }
    let reported = json!({"device": "cam-1", "event": "report", "temperature": 21.5, "charge": 80});
    assert_eq!(event(&mut dashboard).await, reported);

    // From a back end and from a dashboard.
    example.publish("device:cam-1", "restart", 1).await;
    assert_eq!(device.device_frame().await, (4, b"restart".to_vec()));
    let answer = dashboard.ask_json(json!({"device": "cam-1", "command": "look left"})).await;
    assert_eq!(answer, json!({"device": "cam-1", "reached": 1}));
    assert_eq!(device.device_frame().await, (4, b"look left".to_vec()));
    let answer = dashboard.ask_json(json!({"device": "cam-2", "command": "look left"})).await;
    assert_eq!(answer, json!({"device": "cam-2", "reached": 0}));
    assert!(dashboard.ask("?").await.contains("expected"));

    // Both scripts change while a frame is under way.
    device.write(&report[..4]).await;
    example.change("device.lua", "frame(COMMAND, data)", "frame(COMMAND, \"please \" .. data)");
    example.change("dashboard.lua", "expected {", "wanted {");
    device.write(&report[4..]).await;
    assert_eq!(device.device_frame().await, (3, vec![]));
    assert_eq!(event(&mut dashboard).await, reported);
    example.publish("device:cam-1", "restart", 1).await;
    assert_eq!(device.device_frame().await, (4, b"please restart".to_vec()));
    assert!(dashboard.ask("?").await.contains("wanted"));
    drop(device);
    assert_eq!(event(&mut dashboard).await, json!({"device": "cam-1", "event": "offline"}));
    example.publish("device:cam-1", "restart", 0).await;
    drop(dashboard);
    example.stop();
}

#[tokio::test]
async fn what_a_device_may_not_send_costs_its_connection() {
    let example = Example::start("device");
    let at = example.server(1);
    let mut good = Raw::dial(at).await;
    assert_eq!(good.device_ask(frame(1, b"good")).await, (1, vec![]));
    for (bytes, says) in [
        (frame(2, b""), "log in first"),
        (frame(9, b""), "unknown type 9"),
        (frame(1, b"a b"), "an id is"),
        (frame(1, b""), "an id is"),
        ([frame(1, b"a"), frame(1, b"a")].concat(), "logged in already"),
        ([frame(1, b"a"), frame(3, b"1234")].concat(), "a report has 5 bytes"),
        ([frame(1, b"a"), report(f32::NAN, 1)].concat(), "out of range"),
        ([frame(1, b"a"), report(1.0, 101)].concat(), "out of range"),
    ] {
        let mut bad = Raw::dial(at).await;
        bad.write(&bytes).await;
        let error = loop {
            match bad.device_frame().await {
                (1, _) => {}
                other => break other,
            }
        };
        assert!(error.0 == 5 && String::from_utf8(error.1).unwrap().contains(says), "{bytes:?}");
        bad.ends().await;
    }
    // No frame at all.
    for bytes in [&[0, 0][..], &[0xFF, 0xFF, 1], &[3, 0xE9]] {
        let mut bad = Raw::dial(at).await;
        bad.write(bytes).await;
        bad.ends().await;
    }
    assert_eq!(good.device_ask(frame(2, b"")).await, (2, vec![]));
    example.publish("device:good", &"x".repeat(999), 1).await;
    assert_eq!(good.device_frame().await, (4, vec![b'x'; 999]));
    // A command that is too long is not delivered; it costs nothing else.
    let body = json!({"c": "device:good", "d": "x".repeat(1000)}).to_string();
    let (_, reply) = post(example.process.api(), "/v1/mesh/publish", &body).await;
    assert_eq!(reply, r#"{"E":null,"r":{"s":0,"f":1}}"#);
    assert_eq!(good.device_ask(frame(2, b"")).await, (2, vec![]));
}
