//! Watching a running engine (`/v1/tail`), and why a message did not arrive (`/v1/why`).

mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::cluster::{Nodes, SCRIPT as NODE_SCRIPT};
use common::*;
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::net::SocketAddr;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

/// A word and what follows it, besides those that the clusters' tests know.
fn script() -> String {
    let more = r#"
local usual = on_message
function on_message(msg, conn)
  if msg.data == "boom" then error("boom it is") end
  if msg.data == "bye" then return conn:close(4001, "enough") end
  usual(msg, conn)
end
function later() error("a timer fails") end
"#;
    format!("{NODE_SCRIPT}{more}")
}

fn engine(top: &str) -> TestEngine {
    TestEngine::with_top(&script(), "", "workers: 2", top)
}

/// A stream of events.
struct Tail(BufReader<TcpStream>);

impl Tail {
    /// One that has begun.
    async fn open(at: SocketAddr, query: &str) -> Tail {
        loop {
            let mut tail = Tail::ask(at, query, "").await;
            let (status, head) = tail.head().await;
            assert_eq!(status, 200, "{head}");
            assert!(head.contains("content-type: application/x-ndjson\r\n"), "{head}");
            let first = tail.event().await;
            if first == json!({"event": "watching"}) {
                return tail;
            }
            // A node that has just begun may read its file once more.
            assert_eq!((&first["event"], &first["again"]), (&json!("end"), &json!(true)), "{first}");
        }
    }

    async fn ask(at: SocketAddr, query: &str, headers: &str) -> Tail {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request = format!("GET /v1/tail?{query} HTTP/1.1\r\nHost: {at}\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Tail(BufReader::new(stream))
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("a line in time").unwrap();
        (read > 0).then_some(line)
    }

    async fn head(&mut self) -> (u16, String) {
        let mut head = String::new();
        loop {
            let line = self.line().await.unwrap();
            if line == "\r\n" {
                break;
            }
            head.push_str(&line.to_ascii_lowercase());
        }
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head)
    }

    /// The next event; what tells the sizes of chunks is passed over.
    async fn event(&mut self) -> Value {
        loop {
            let line = self.line().await.expect("the stream goes on");
            if line.starts_with('{') {
                return serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            }
        }
    }

    /// The next event of that kind, and all others before it.
    async fn until(&mut self, kind: &str) -> (Value, Vec<Value>) {
        let mut others = Vec::new();
        loop {
            let event = self.event().await;
            if event["event"] == kind {
                return (event, others);
            }
            others.push(event);
        }
    }

    /// None: it has ended.
    async fn next_or_end(&mut self, kind: &str) -> Option<Value> {
        while let Some(line) = self.line().await {
            match serde_json::from_str::<Value>(&line) {
                Ok(event) if event["event"] == kind => return Some(event),
                Ok(event) if event["event"] == "end" => return None,
                _ => {}
            }
        }
        None
    }

    async fn next(&mut self, kind: &str) -> Value {
        self.until(kind).await.0
    }
}

async fn why(at: SocketAddr, query: &str) -> Value {
    let (status, body) = get(at, &format!("/v1/why?{query}")).await;
    assert_eq!(status, 200, "{body}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["E"], Value::Null);
    body["r"].clone()
}

#[tokio::test]
async fn what_happens_is_shown_from_the_connection_to_its_end() {
    let engine = engine("");
    let mut tail = Tail::open(engine.at.center, "").await;
    let mut client = engine.connect().await;
    let id = client.ask("id").await;
    let connect = tail.next("connect").await;
    assert_eq!((&connect["client"], &connect["server"]), (&json!(id), &json!(0)));
    assert!(connect["address"].as_str().unwrap().starts_with("127.0.0.1:") && connect["at"].is_u64(), "{connect}");
    let node: u64 = connect["node"].as_str().unwrap().parse().unwrap();
    assert!(node > 0);
    let message = tail.next("message").await;
    assert_eq!((&message["kind"], &message["bytes"], &message["data"]), (&json!("text"), &json!(2), &Value::Null));
    let (handler, others) = tail.until("handler").await;
    assert_eq!((&handler["hook"], &handler["ok"]), (&json!("on_message"), &json!(true)));
    assert!(handler["ms"].as_f64().unwrap() >= 0.0);
    assert_eq!(others.len(), 1, "what the handler has sent: {others:?}");
    assert_eq!((&others[0]["event"], &others[0]["client"]), (&json!("delivered"), &json!(id)));
    client.ask("join room").await;
    assert_eq!(tail.next("subscribe").await["channels"], json!(["room"]));
    engine.publish_to("nobody", "hello", 0).await;
    let published = tail.next("published").await;
    assert_eq!(
        (&published["channel"], &published["reached"], &published["failed"]),
        (&json!("nobody"), &json!(0), &json!(0))
    );
    engine.publish_to("room", "hello", 1).await;
    let delivered = loop {
        let delivered = tail.next("delivered").await;
        if delivered["channel"] == "room" {
            break delivered;
        }
    };
    assert_eq!((&delivered["reached"], &delivered["failed"], &delivered["bytes"]), (&json!(1), &json!(0), &json!(5)));
    assert_eq!(client.text().await, "hello");
    client.ask("leave room").await;
    assert_eq!(tail.next("unsubscribe").await["channels"], json!(["room"]));
    client.ask("join tea").await;
    client.send("bye").await;
    let closed = tail.next("closed").await;
    assert_eq!(
        (&closed["reason"], &closed["code"], &closed["text"]),
        (&json!("requested"), &json!(4001), &json!("enough"))
    );
    assert_eq!((&closed["client"], &closed["channels"]), (&json!(id), &json!(["tea"])));
}

/// A client that gets no connection has no id: who watches one, or a channel, does not see it.
#[tokio::test]
async fn a_client_that_is_refused_is_shown_with_the_answer() {
    let engine = engine("");
    let mut errors = Tail::open(engine.at.center, "errors=1").await;
    let mut of_channel = Tail::open(engine.at.center, "channel=room").await;
    assert!(Client::try_connect(engine.ws(), "/elsewhere").await.is_err());
    let (refused, others) = errors.until("refused").await;
    assert_eq!(others, [] as [Value; 0]);
    assert_eq!(
        (&refused["server"], &refused["cause"], &refused["status"]),
        (&json!(0), &json!("request"), &json!(404)),
        "{refused}"
    );
    assert_eq!(refused["text"], "nothing is served at this path");
    assert!(refused["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{refused}");
    engine.connect().await.ask("join room").await;
    let (_, others) = of_channel.until("subscribe").await;
    assert_eq!(others, [] as [Value; 0]);
}

#[tokio::test]
async fn a_script_that_fails_is_shown_with_its_place() {
    let engine = engine("");
    let mut tail = Tail::open(engine.at.api, "errors=1").await;
    let mut client = engine.connect().await;
    let id = client.ask("id").await;
    client.send("boom").await;
    let (error, others) = tail.until("error").await;
    assert_eq!(others, [] as [Value; 0], "only what goes wrong");
    let line = script().lines().position(|line| line.contains("boom it is")).unwrap() + 1;
    assert_eq!((&error["client"], &error["hook"], &error["line"]), (&json!(id), &json!("on_message"), &json!(line)));
    assert!(error["file"].as_str().unwrap().ends_with("entry.lua"), "{error}");
    assert!(error["text"].as_str().unwrap().ends_with("boom it is"), "{error}");
    assert_eq!(tail.next("closed").await["reason"], "handler_failed");
}

#[tokio::test]
async fn a_watcher_sees_its_channel_or_its_client_alone() {
    let engine = engine("");
    let (mut ann, mut bob) = (engine.connect().await, engine.connect().await);
    let (ann_id, bob_id) = (ann.ask("id").await, bob.ask("id").await);
    ann.ask("join room:1").await;
    bob.ask("join hall").await;
    let mut by_client = Tail::open(engine.at.api, &format!("client={bob_id}&bodies=1")).await;
    let mut by_channel = Tail::open(engine.at.api, "channel=room%3A*&bodies").await;
    for n in 0..3 {
        assert_eq!(ann.ask(&format!("a{n}")).await, format!("echo a{n}"));
        assert_eq!(bob.ask(&format!("b{n}")).await, format!("echo b{n}"));
    }
    engine.publish_to("room:1", "to the room", 1).await;
    engine.publish_to("hall", "to the hall", 1).await;
    ann.close().await;
    bob.close().await;
    let (_, seen) = by_client.until("closed").await;
    assert!(seen.iter().all(|event| event["client"] == json!(bob_id)), "{seen:?}");
    let data: Vec<&str> = seen.iter().filter_map(|event| event["data"].as_str()).collect();
    assert_eq!(data, ["b0", "echo b0", "b1", "echo b1", "b2", "echo b2", "to the hall"]);
    let (closed, seen) = by_channel.until("closed").await;
    assert_eq!(closed["client"], json!(ann_id));
    let data: Vec<&str> = seen.iter().filter_map(|event| event["data"].as_str()).collect();
    assert_eq!(data, ["a0", "echo a0", "a1", "echo a1", "a2", "echo a2", "to the room"]);
}

#[tokio::test]
async fn a_watcher_that_is_slow_is_told_how_much_it_has_missed() {
    let engine = engine("");
    let mut client = engine.connect().await;
    client.ask("id").await;
    let mut tail = Tail::open(engine.at.api, "").await;
    // Within the pause between two questions on most machines; otherwise again.
    let mut sent = 0;
    let lost = loop {
        for _ in 0..3000 {
            client.send("x").await;
        }
        for _ in 0..3000 {
            client.text().await;
        }
        sent += 3000;
        let event = loop {
            let event = tail.event().await;
            if event["event"] == "lost" || event["event"] == "alive" {
                break event;
            }
        };
        if let Some(lost) = event["count"].as_u64() {
            break lost;
        }
    };
    // A message, its handler and the answer each.
    assert!(lost > 0 && lost < 3 * sent + 100, "{lost} of {sent}");
}

#[tokio::test]
async fn reading_events_needs_read_and_reading_messages_write() {
    let users = "access: {users: [{username: r, password: r, roles: [read], host: '*'}, {username: w, password: w, roles: [read, write], host: '*'}]}";
    let engine = engine(users);
    let status = async |query: &str, user: &str| {
        let auth = match user {
            "" => String::new(),
            user => format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{user}"))),
        };
        Tail::ask(engine.at.api, query, &auth).await.head().await.0
    };
    for (query, user, want) in [
        ("", "r", 200),
        ("bodies=0", "r", 200),
        ("bodies=1", "r", 403),
        ("bodies", "r", 403),
        ("bodies=1", "w", 200),
        ("", "", 401),
        ("client=x", "r", 400),
        ("channel=a%20b", "r", 400),
    ] {
        assert_eq!(status(query, user).await, want, "{query} {user}");
    }
    let (status, _) = get(engine.at.api, "/v1/why?client=7").await;
    assert_eq!(status, 401);
}

#[tokio::test]
async fn so_many_may_watch_and_those_that_go_make_room() {
    let engine = engine("");
    let mut tails = Vec::new();
    let refused = loop {
        let mut tail = Tail::ask(engine.at.api, "", "").await;
        match tail.head().await {
            (200, _) => tails.push(tail),
            (status, _) => break status,
        }
        assert!(tails.len() <= 16);
    };
    assert_eq!((refused, tails.len()), (503, 16));
}

/// A user that has taken all places does not keep another one from watching.
#[tokio::test]
async fn no_user_keeps_all_places_from_others() {
    let users = "access: {users: [{username: r, password: r, roles: [read], host: '*'}, {username: w, token: secret, roles: [read, write], host: '*'}]}";
    let engine = engine(users);
    let (at, login) = (engine.at.center, format!("Authorization: Basic {}\r\n", STANDARD.encode("r:r")));
    let mut tails = Vec::new();
    for _ in 0..16 {
        let mut tail = Tail::ask(at, "", &login).await;
        assert_eq!(tail.head().await.0, 200);
        tails.push(tail);
    }
    assert_eq!(Tail::ask(at, "", &login).await.head().await.0, 503);
    let mut operator = Tail::ask(at, "", "Authorization: Bearer secret\r\n").await;
    assert_eq!(operator.head().await.0, 200);
    let end = tails[0].next("end").await;
    assert_eq!((&end["text"], &end["again"]), (&json!("too many watch"), &json!(false)));
    assert_eq!(Tail::ask(at, "", &login).await.head().await.0, 503, "it has more places than anybody");
    let _client = engine.connect().await;
    for tail in [&mut operator, &mut tails[1]] {
        tail.next("connect").await;
    }
}

#[tokio::test]
async fn a_stream_ends_when_the_configuration_changes() {
    let engine = engine("");
    let mut tail = Tail::open(engine.at.api, "").await;
    let file = engine.path("connmix.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("center:", "trustedProxies: [10.0.0.1]\ncenter:")).unwrap();
    let end = tail.next("end").await;
    assert_eq!((&end["text"], &end["again"]), (&json!("the configuration has changed"), &json!(true)));
}

#[tokio::test]
async fn a_stream_ends_when_the_engine_stops() {
    let engine = engine("");
    let mut tail = Tail::open(engine.at.api, "").await;
    let stop = tokio::spawn(engine.shutdown());
    let end = tail.next("end").await;
    assert_eq!((&end["text"], &end["again"]), (&json!("the engine is shutting down"), &json!(false)));
    while tail.line().await.is_some() {}
    assert!(stop.await.unwrap());
}

#[tokio::test]
async fn a_center_shows_all_nodes_and_every_node_knows_of_the_others() {
    let nodes = Nodes::start(2).await;
    let mut ids = Vec::new();
    let mut clients = Vec::new();
    for engine in &nodes.engines {
        let mut client = engine.connect().await;
        ids.push(client.ask("id").await);
        clients.push(client);
    }
    // Each of these nodes may read its file once more, which ends what watches.
    let seen = loop {
        let mut tail = Tail::open(nodes.center.at.center, "").await;
        for client in &mut clients {
            client.ask("leave room").await;
            client.ask("join room").await;
        }
        if let Some(first) = tail.next_or_end("subscribe").await
            && let Some(second) = tail.next_or_end("subscribe").await
        {
            break [first, second];
        }
    };
    let mut of: Vec<_> = seen.iter().map(|event| event["client"].as_str().unwrap().to_owned()).collect();
    of.sort();
    let mut want = ids.clone();
    want.sort();
    assert_eq!(of, want);
    assert_ne!(seen[0]["node"], seen[1]["node"]);
    // Of one client, wherever it is asked for.
    let message = loop {
        let mut of_one = Tail::open(nodes.engines[0].at.api, &format!("client={}&bodies=1", ids[1])).await;
        assert_eq!(clients[1].ask("hello").await, "echo hello");
        if let Some(message) = of_one.next_or_end("message").await {
            break message;
        }
    };
    assert_eq!(message["data"], "hello");
    let told = why(nodes.engines[0].at.api, &format!("client={}&channel=room", ids[1])).await;
    assert_eq!(told["verdict"], "subscribed", "{told}");
    clients.remove(1).close().await;
    let told = eventually("it is gone", async || {
        let told = why(nodes.center.at.center, &format!("client={}&channel=room", ids[1])).await;
        (told["verdict"] == "closed").then_some(told)
    })
    .await;
    assert_eq!((&told["ended"]["reason"], &told["ended"]["channels"]), (&json!("peer"), &json!(["room"])));
}

/// What is published with an id is done by the node that knows of that id. Who was given it tells of it, and every node what it
/// came to.
#[tokio::test]
async fn publishes_with_an_id_are_known_in_the_whole_cluster() {
    let nodes = Nodes::start(2).await;
    let mut client = nodes.engines[0].connect().await;
    let id = client.ask("id").await;
    client.ask("join room").await;
    for n in 0..6 {
        let mut tail = Tail::open(nodes.center.at.center, "channel=room").await;
        let (from, body) = (&nodes.engines[n % 2], json!({"c": "room", "d": "x", "id": format!("m{n}")}));
        let (status, reply) = post(from.at.api, "/v1/mesh/publish", &body.to_string()).await;
        assert_eq!((status, reply.as_str()), (200, r#"{"E":null,"r":{"s":1,"f":0}}"#));
        assert_eq!(client.text().await, "x");
        if let Some(published) = tail.next_or_end("published").await {
            assert_eq!((&published["channel"], &published["reached"]), (&json!("room"), &json!(1)), "{published}");
            assert_eq!(published["node"], json!(nodes.run(n % 2).await.0.to_string()));
        }
        for at in [nodes.center.at.center, nodes.engines[0].at.api, nodes.engines[1].at.api] {
            let told = why(at, &format!("client={id}&message=m{n}")).await;
            assert_eq!(told["verdict"], "subscribed", "{told}");
            assert_eq!(told["message"]["outcome"], json!({"s": 1, "f": 0}), "{told}");
        }
    }
    let unknown = why(nodes.center.at.center, &format!("client={id}&message=nothing")).await;
    assert!(unknown["because"].as_str().unwrap().contains("no publish with that id is known"), "{unknown}");
}

// Why.

#[tokio::test]
async fn why_tells_whether_a_client_is_was_or_never_came_to_a_channel() {
    let rules = "workers: 2\nchannels: [{match: 'small:', maxSubscribers: 1}]";
    let engine = TestEngine::with(&script(), "", rules);
    let mut client = engine.connect().await;
    let id = client.ask("id").await;
    let told = async |query: &str| why(engine.at.center, &format!("client={id}&{query}")).await;
    let never = told("channel=room").await;
    assert_eq!((&never["client"], &never["verdict"]), (&json!(id), &json!("never_subscribed")));
    assert_eq!(told("").await["verdict"], "connected");
    client.ask("join room").await;
    let now = told("channel=room").await;
    assert_eq!((&now["verdict"], &now["now"]["channels"]), (&json!("subscribed"), &json!(["room"])));
    client.ask("leave room").await;
    let left = told("channel=room").await;
    assert_eq!((&left["verdict"], &left["turns"][0]["channel"]), (&json!("left"), &json!("room")));
    // Leaving what it was not in is nothing.
    client.ask("leave hall").await;
    assert_eq!(told("channel=hall").await["verdict"], "never_subscribed");
    let mut other = engine.connect().await;
    assert_eq!(other.ask("join small:1").await, "joined small:1");
    assert!(client.ask("join small:1").await.contains("is full"));
    let refused = told("channel=small:1").await;
    assert_eq!(refused["verdict"], "refused");
    assert!(refused["because"].as_str().unwrap().contains("is full"), "{refused}");
}

/// What happens from now on has another time than what happened before.
async fn another_millisecond() {
    let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let before = clock();
    eventually("the clock goes on", async || (clock() > before).then_some(())).await;
}

#[tokio::test]
async fn why_tells_how_a_client_ended_and_what_a_message_with_an_id_came_to() {
    let engine = engine("");
    let mut client = engine.connect().await;
    let id = client.ask("id").await;
    client.ask("join room").await;
    let publish = async |id: &str| {
        let body = json!({"c": "room", "d": "x", "id": id}).to_string();
        assert_eq!(post(engine.at.api, "/v1/mesh/publish", &body).await.0, 200);
    };
    publish("before").await;
    assert_eq!(client.text().await, "x");
    another_millisecond().await;
    client.send("bye").await;
    assert_eq!(client.close_frame().await.0, 4001);
    let told = async |query: &str| why(engine.at.api, &format!("client={id}&{query}")).await;
    let closed = eventually("it has ended", async || {
        let told = told("").await;
        (told["verdict"] == "closed").then_some(told)
    })
    .await;
    let ended = &closed["ended"];
    assert_eq!(
        (&ended["reason"], &ended["code"], &ended["text"]),
        (&json!("requested"), &json!(4001), &json!("enough"))
    );
    assert_eq!((&ended["channels"], &ended["subscriptions"]), (&json!(["room"]), &json!(1)));
    another_millisecond().await;
    publish("after").await;
    let before = told("message=before").await;
    assert!(before["because"].as_str().unwrap().contains("after the message was published"), "{before}");
    assert_eq!(
        (&before["message"]["outcome"], &before["message"]["channels"]),
        (&json!({"s": 1, "f": 0}), &json!(["room"]))
    );
    let after = told("message=after").await;
    assert!(after["because"].as_str().unwrap().contains("before the message was published"), "{after}");
    assert_eq!(after["message"]["outcome"], json!({"s": 0, "f": 0}));
    // What a client says steers no terminal, whoever asks.
    let mut rude = engine.connect().await;
    let id = rude.ask("id").await;
    let frame = CloseFrame { code: CloseCode::from(4001), reason: "\u{9b}31m\u{202e}".into() };
    rude.0.close(Some(frame)).await.unwrap();
    while let Some(Ok(_)) = rude.0.next().await {}
    let closed = eventually("it has ended", async || {
        let (_, body) = get(engine.at.api, &format!("/v1/why?client={id}")).await;
        body.contains("\"closed\"").then_some(body)
    })
    .await;
    assert!(!closed.contains(['\u{9b}', '\u{202e}']) && closed.contains(r"\u009b31m\u202e"), "{closed}");
    let unknown = told("message=nothing").await;
    assert!(unknown["because"].as_str().unwrap().contains("no publish with that id is known"), "{unknown}");
    // Ids that nobody has.
    let number: u64 = id.parse().unwrap();
    for (id, verdict) in [
        (number + (1 << 20), "never_connected"),
        (number - (1 << 30), "earlier_run"),
        (number ^ (1 << 43), "other_node"),
        (1 << 60, "never_connected"),
    ] {
        assert_eq!(why(engine.at.api, &format!("client={id}")).await["verdict"], verdict, "{id}");
    }
    assert_eq!(get(engine.at.api, "/v1/why").await.0, 400);
    assert_eq!(get(engine.at.api, "/v1/why?client=x").await.0, 400);
}
