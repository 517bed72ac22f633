//! The scripts of `docs/how-do-i.md` and of `docs/from/`, each run as it stands there, with clients that do what the page says.

mod common;

use common::{Client, TestEngine, get, post};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tokio_tungstenite::tungstenite::Error;

/// The secret that the pages show.
const SECRET: &str = "change-me";

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// The first block of that language below a heading; an empty heading is the page's beginning.
fn block(page: &str, heading: &str, language: &str) -> String {
    let below = page.split_once(&format!("{heading}\n")).unwrap_or_else(|| panic!("no {heading:?}")).1;
    let fence = format!("\n```{language}\n");
    let code = below.split_once(&fence).unwrap_or_else(|| panic!("no {language} below {heading:?}")).1;
    code.split_once("\n```").unwrap().0.to_owned() + "\n"
}

/// An engine with the script and the configuration of a page.
fn start(config: &str, scripts: &[(&str, String)]) -> TestEngine {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config.to_owned();
    for port in ["6787", "6789", "6790"] {
        assert!(config.contains(&format!("port: {port}")), "{config}");
        config = config.replace(&format!("port: {port}"), "port: 0");
    }
    fs::write(dir.path().join("connmix.yaml"), format!("logging: {{filename: ''}}\n{config}")).unwrap();
    for (name, script) in scripts {
        fs::write(dir.path().join(name), script).unwrap();
    }
    TestEngine::start(dir)
}

/// One of how-do-i.md.
fn recipe(heading: &str) -> TestEngine {
    let page = page("how-do-i.md");
    let login = block(&page, "# How do I ...", "lua");
    let script = block(&page, &format!("## {heading}"), "lua");
    start(&block(&page, "# How do I ...", "yaml"), &[("login.lua", login), ("entry.lua", script)])
}

/// One of docs/from, whose page shows its server and its script of that name.
fn from(name: &str) -> TestEngine {
    let page = page(&format!("from/{name}.md"));
    let server = block(&page, "## An example turned over", "yaml");
    let config = format!(
        "center:\n  apiServer: {{port: 6787, bind: 127.0.0.1}}\nengine:\n  apiServer: {{port: 6789, bind: 127.0.0.1}}\n{server}"
    );
    start(&config, &[(&format!("{name}.lua"), block(&page, "## An example turned over", "lua"))])
}

/// What `mix.hmac_sha256` gives.
fn hmac(secret: &str, text: &str) -> String {
    use hmac::{KeyInit, Mac};
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A device of a user.
async fn device(engine: &TestEngine, uid: &str) -> Client {
    let sign = hmac(SECRET, uid);
    Client::connect(engine.ws(), &format!("/ws?token={uid}.{sign}")).await
}

async fn event(client: &mut Client) -> Value {
    serde_json::from_str(&client.text().await).unwrap()
}

/// The next event but those of the engine's own: who came, who went, how many are there.
async fn next(client: &mut Client) -> Value {
    loop {
        let event = event(client).await;
        if !event["event"].as_str().is_some_and(|name| name.starts_with('@')) {
            return event;
        }
    }
}

async fn ask(client: &mut Client, question: Value) -> Value {
    client.send(&question.to_string()).await;
    next(client).await
}

/// The number after "n" or "s" of a call's reply.
async fn call(engine: &TestEngine, path: &str, body: Value) -> Value {
    let (status, reply) = post(engine.at.api, path, &body.to_string()).await;
    assert_eq!(status, 200, "{reply}");
    serde_json::from_str::<Value>(&reply).unwrap()["r"].clone()
}

/// Carries out the n-th curl of a page below a heading; its `r`.
async fn curl(engine: &TestEngine, name: &str, heading: &str, n: usize) -> Value {
    let lines = block(&page(name), heading, "sh");
    let line = lines.lines().nth(n).unwrap();
    let (path, rest) = line.split_once("http://127.0.0.1:6789").unwrap().1.split_once(" -d '").unwrap();
    call(engine, path, serde_json::from_str(rest.trim_end_matches('\'')).unwrap()).await
}

const HOW: &str = "how-do-i.md";

#[tokio::test]
async fn a_user_is_reached_on_all_devices_and_strangers_stay_out() {
    let engine = recipe("Send to a user on all devices");
    let (mut phone, mut desk, mut other) =
        (device(&engine, "42").await, device(&engine, "42").await, device(&engine, "7").await);
    let sent = curl(&engine, HOW, "## Send to a user on all devices", 0).await;
    assert_eq!(sent, json!({"s": 2, "f": 0}));
    assert_eq!((phone.text().await, desk.text().await), ("only for you".into(), "only for you".into()));
    engine.publish_to("user:7", "for another", 1).await;
    assert_eq!(other.text().await, "for another");
    for path in ["/ws", "/ws?token=42", "/ws?token=42.00", &format!("/ws?token=43.{}", hmac(SECRET, "42"))] {
        let Err(Error::Http(refused)) = Client::try_connect(engine.ws(), path).await else { panic!("{path}") };
        assert_eq!(refused.status().as_u16(), 401);
    }
}

#[tokio::test]
async fn all_but_the_sender_get_a_message() {
    let engine = recipe("Send to all but the sender");
    let (mut ann, mut bob) = (device(&engine, "ann").await, device(&engine, "bob").await);
    ann.send("hello").await;
    assert_eq!(next(&mut bob).await, json!({"from": "ann", "text": "hello"}));
    bob.send("hi").await;
    // The first that she gets.
    assert_eq!(next(&mut ann).await, json!({"from": "bob", "text": "hi"}));
}

#[tokio::test]
async fn the_login_before_is_closed() {
    let engine = recipe("Allow one login a user");
    let mut first = device(&engine, "42").await;
    let mut second = device(&engine, "42").await;
    assert_eq!(first.close_frame().await, (4001, "logged in elsewhere".into()));
    let other = device(&engine, "7").await;
    // One that leaves by itself leaves nothing to be closed.
    other.close().await;
    let mut other = device(&engine, "7").await;
    engine.publish_to("user:7", "you", 1).await;
    assert_eq!(other.text().await, "you");
    // Many at once: one is left.
    let mut devices = Vec::new();
    for _ in 0..8 {
        let at = engine.ws();
        let path = format!("/ws?token=42.{}", hmac(SECRET, "42"));
        devices.push(tokio::spawn(async move { Client::connect(at, &path).await }));
    }
    for one in devices {
        drop(one.await.unwrap());
    }
    assert_eq!(second.close_frame().await.0, 4001);
}

#[tokio::test]
async fn unread_messages_are_counted_on_all_devices() {
    let engine = recipe("Count what is unread");
    let unread = |n: u64| json!({"event": "unread", "n": n});
    let (mut ann, mut bob) = (device(&engine, "ann").await, device(&engine, "bob").await);
    assert_eq!((next(&mut ann).await, next(&mut bob).await), (unread(0), unread(0)));
    for n in 1..=2 {
        ann.send(r#"{"op":"send","to":"bob","text":"hello"}"#).await;
        assert_eq!(next(&mut bob).await, json!({"event": "message", "text": "hello"}));
        assert_eq!(next(&mut bob).await, unread(n));
    }
    let mut phone = device(&engine, "bob").await;
    assert_eq!(next(&mut phone).await, unread(2));
    phone.send(r#"{"op":"read"}"#).await;
    assert_eq!((next(&mut phone).await, next(&mut bob).await), (unread(0), unread(0)));
}

#[tokio::test]
async fn a_user_is_kicked() {
    let engine = recipe("Send to a user on all devices");
    let (mut phone, mut desk) = (device(&engine, "42").await, device(&engine, "42").await);
    assert_eq!(curl(&engine, HOW, "## Kick a user", 0).await, json!({"s": 2}));
    for device in [&mut phone, &mut desk] {
        assert_eq!(device.close_frame().await, (4003, "kicked".into()));
    }
}

#[tokio::test]
async fn a_muted_user_hears_and_is_not_heard() {
    let engine = recipe("Mute a user for a while");
    let (mut admin, mut bob) = (device(&engine, "admin").await, device(&engine, "bob").await);
    let say = json!({"op": "say", "text": "hello"});
    let said = json!({"from": "bob", "text": "hello"});
    assert_eq!(ask(&mut bob, say.clone()).await, said);
    assert_eq!(next(&mut admin).await, said);
    assert_eq!(ask(&mut admin, json!({"op": "mute", "uid": "bob", "seconds": 600})).await, json!({"ok": true}));
    assert_eq!(ask(&mut bob, say.clone()).await, json!({"error": "you are muted"}));
    admin.send(&say.to_string()).await;
    let heard = json!({"from": "admin", "text": "hello"});
    assert_eq!((next(&mut admin).await, next(&mut bob).await), (heard.clone(), heard));
    assert_eq!(ask(&mut admin, json!({"op": "mute", "uid": "bob", "seconds": 0})).await, json!({"ok": true}));
    assert_eq!(ask(&mut bob, say).await, said);
    // Nobody else mutes.
    bob.send(r#"{"op":"mute","uid":"admin"}"#).await;
    assert_eq!(next(&mut admin).await, said);
    admin.send(&json!({"op": "say", "text": "still here"}).to_string()).await;
    assert_eq!(next(&mut admin).await["text"], "still here");
}

#[tokio::test]
async fn late_comers_get_what_was_said() {
    let engine = recipe("Show late comers what was said");
    let mut ann = device(&engine, "ann").await;
    for n in 0..25 {
        ann.send(&n.to_string()).await;
        assert_eq!(next(&mut ann).await["text"], n.to_string());
    }
    let mut bob = device(&engine, "bob").await;
    for n in 5..25 {
        assert_eq!(next(&mut bob).await, json!({"from": "ann", "text": n.to_string()}));
    }
    ann.send("newer").await;
    assert_eq!(next(&mut bob).await["text"], "newer");
}

#[tokio::test]
async fn who_is_online_is_told() {
    let engine = recipe("Show who is online");
    let mut ann = device(&engine, "ann").await;
    let mut bob = device(&engine, "bob").await;
    let mut seen = Vec::new();
    while !seen.contains(&json!({"uid": "bob"})) {
        let event = event(&mut ann).await;
        if event["event"] == "@join" {
            seen.push(event["data"]["i"].clone());
        }
    }
    bob.send("who").await;
    let who = next(&mut bob).await;
    assert_eq!(who["n"], 2);
    let mut names: Vec<_> =
        who["clients"].as_array().unwrap().iter().map(|client| client["i"]["uid"].clone()).collect();
    names.sort_by_key(Value::to_string);
    assert_eq!(names, [json!("ann"), json!("bob")]);
    assert_eq!(curl(&engine, HOW, "## Show who is online", 0).await["n"], 2);
    assert_eq!(curl(&engine, HOW, "## Show who is online", 1).await["n"], 0);
}

#[tokio::test]
async fn the_rules_of_the_page_are_taken() {
    let page = page(HOW);
    let rate = block(&page, "## Keep one client from saying too much", "yaml");
    let rule = block(&page, "## Keep a room readable", "yaml");
    let config = block(&page, "# How do I ...", "yaml");
    let rules = "    - {match: \"room:\"";
    assert!(config.contains(rules) && config.ends_with("value: change-me}\n"));
    let config = config.replace(rules, &format!("{}{rules}", rule.replace("room:", "hall:"))) + &rate;
    let engine = start(&config, &[("entry.lua", "function on_message(msg, conn) conn:send(msg.data) end".to_owned())]);
    let mut client = engine.connect().await;
    assert_eq!(client.ask("hi").await, "hi");
}

#[tokio::test]
async fn a_script_of_older_form_runs() {
    let page = page("from/connmix.md");
    let script = block(&page, "## An example turned over", "lua");
    let engine = TestEngine::new(&script);
    let mut client = engine.connect().await;
    assert_eq!(ask(&mut client, json!({"channel": "100001@video"})).await, json!({"result": true}));
    engine.publish_to("video:100001", "Hello", 1).await;
    assert_eq!(client.text().await, "Hello");
    client.send("no JSON").await;
    assert_eq!(client.close_frame().await.0, 1000);
}

#[tokio::test]
async fn the_chat_of_gateway_worker_runs() {
    let script = block(&page("from/workerman.md"), "and is, as `entry.lua`,", "lua");
    let engine = TestEngine::new(&script);
    let (mut ann, mut bob) = (engine.connect().await, engine.connect().await);
    assert_eq!(
        ask(&mut ann, json!({"type": "login", "room": "tea", "name": "Ann"})).await,
        json!({"type": "login", "name": "Ann"})
    );
    bob.send(r#"{"type":"ping"}"#).await;
    assert_eq!(ask(&mut bob, json!({"type": "login", "room": "tea", "name": "Bob"})).await["name"], "Bob");
    assert_eq!(next(&mut ann).await["name"], "Bob");
    assert_eq!(
        ask(&mut ann, json!({"type": "say", "text": "hi"})).await,
        json!({"type": "say", "name": "Ann", "text": "hi"})
    );
    assert_eq!(next(&mut bob).await["text"], "hi");
    ann.close().await;
    assert_eq!(next(&mut bob).await, json!({"type": "logout", "name": "Ann"}));
}

#[tokio::test]
async fn clients_of_pusher_are_served() {
    let engine = from("pusher");
    let path = "/app/my-key?protocol=7&client=js&version=8.4.0&flash=false";
    let (mut ann, mut bob) = (Client::connect(engine.ws(), path).await, Client::connect(engine.ws(), path).await);
    let hello = next(&mut ann).await;
    assert_eq!(hello["event"], "pusher:connection_established");
    let data: Value = serde_json::from_str(hello["data"].as_str().unwrap()).unwrap();
    let socket = data["socket_id"].as_str().unwrap().to_owned();
    next(&mut bob).await;
    let subscribe =
        |channel: &str, auth: &str| json!({"event": "pusher:subscribe", "data": {"channel": channel, "auth": auth}});
    let done =
        |channel: &str| json!({"event": "pusher_internal:subscription_succeeded", "channel": channel, "data": "{}"});
    assert_eq!(ask(&mut ann, subscribe("news", "")).await, done("news"));
    curl(&engine, "from/pusher.md", "data as a string.", 0).await;
    assert_eq!(next(&mut ann).await, json!({"event": "headline", "channel": "news", "data": "{\"text\":\"Hello\"}"}));
    // A private channel needs the back end's signature, of this socket.
    let auth = format!("my-key:{}", hmac(SECRET, &format!("{socket}:private-room")));
    assert_eq!(ask(&mut bob, subscribe("private-room", &auth)).await["event"], "pusher:subscription_error");
    assert_eq!(ask(&mut ann, subscribe("private-room", &auth)).await, done("private-room"));
    engine.publish_to("private-room", "{}", 1).await;
    assert_eq!(ann.text().await, "{}");
    // A client event of somebody who is not in the channel goes nowhere.
    let typing = json!({"event": "client-typing", "channel": "private-room", "data": {"who": "bob"}});
    bob.send(&typing.to_string()).await;
    assert_eq!(ask(&mut bob, json!({"event": "pusher:ping", "data": {}})).await["event"], "pusher:pong");
    assert_eq!(ask(&mut ann, json!({"event": "pusher:ping", "data": {}})).await["event"], "pusher:pong");
}

#[tokio::test]
async fn clients_of_centrifugo_are_served() {
    // {"sub":"42"}, signed with the page's secret.
    let engine = from("centrifugo");
    let body = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9";
    let token = format!("{body}.{}", base64url(&hmac("change-me-change-me-change-me-now", body)));
    let mut client = Client::connect(engine.ws(), "/connection/websocket").await;
    let early = ask(&mut client, json!({"id": 1, "subscribe": {"channel": "news"}})).await;
    assert_eq!(early["error"]["code"], 101);
    let connected = ask(&mut client, json!({"id": 2, "connect": {"token": token}})).await;
    assert!(connected["id"] == 2 && connected["connect"]["client"].is_string(), "{connected}");
    client.send("{\"id\":3,\"subscribe\":{\"channel\":\"news\"}}\n{\"id\":4,\"subscribe\":{\"channel\":\"#7\"}}").await;
    assert_eq!(next(&mut client).await, json!({"id": 3, "subscribe": {}}));
    assert_eq!(next(&mut client).await["error"]["code"], 103);
    curl(&engine, "from/centrifugo.md", "A publish holds what the page's client expects in `d`:", 0).await;
    let push = json!({"push": {"channel": "news", "pub": {"data": {"text": "Hello"}}}});
    assert_eq!(next(&mut client).await, push);
    engine.publish_to("#42", "{}", 1).await;
    assert_eq!(client.text().await, "{}");
    let mut stranger = Client::connect(engine.ws(), "/connection/websocket").await;
    stranger.send(r#"{"id":1,"connect":{"token":"a.b.c"}}"#).await;
    assert_eq!(stranger.close_frame().await, (3500, "invalid token".into()));
}

/// What a signature in hexadecimal digits is in a token.
fn base64url(hex: &str) -> String {
    use base64::Engine;
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[tokio::test]
async fn clients_of_socket_io_are_served() {
    let engine = from("socket-io");
    let path = "/socket.io/?EIO=4&transport=websocket";
    let (mut ann, mut bob) = (Client::connect(engine.ws(), path).await, Client::connect(engine.ws(), path).await);
    for client in [&mut ann, &mut bob] {
        assert!(client.text().await.starts_with("0{"));
        assert!(client.ask("40").await.starts_with("40{\"sid\":"));
        assert_eq!(client.ask(r#"420["join","tea"]"#).await, r#"430["joined"]"#);
    }
    ann.send(r#"42["chat","tea","hello"]"#).await;
    let heard = bob.text().await;
    assert!(heard.starts_with("42[\"chat\",\"") && heard.ends_with(",\"hello\"]"), "{heard}");
    curl(&engine, "from/socket-io.md", "A back end says `io.to(\"tea\").emit(\"chat\", \"news\", \"Hello\")` so:", 0)
        .await;
    // The sender did not get her own.
    assert_eq!(
        (ann.text().await, bob.text().await),
        ("42[\"chat\",\"news\",\"Hello\"]".into(), "42[\"chat\",\"news\",\"Hello\"]".into())
    );
    ann.send("41").await;
    assert_eq!(ann.close_frame().await.0, 1000);
}

#[tokio::test]
async fn the_probes_of_operations_answer() {
    let engine = TestEngine::new("function on_message() end");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(engine.at.api, path).await.0, 200);
    }
}
