//! Clients and callers with TLS: their keys go along.

use super::*;
use common::tls::{Authority, Trusting};
use futures_util::{SinkExt, StreamExt};
use std::io::{Read, Write};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// A running process with TLS at its ports, and a client of each version that trusts it.
struct Enciphered {
    running: Running,
    trusting: [Trusting; 2],
    /// The files of the certificate.
    _files: tempfile::TempDir,
}

impl Enciphered {
    fn start(script: &str, server: &str, protocol: &str) -> Enciphered {
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        authority.issue(dir.path(), "own", &["localhost"]);
        let file = |ending: &str| dir.path().join(format!("own.{ending}")).display().to_string();
        let tls = format!("tls: {{cert: {}, key: {}}}", file("pem"), file("key"));
        let running = Running::start_with(script, &format!("{tls}\n{server}"), "", protocol);
        // The API gets it by a reload, as it would be switched on.
        let yaml = running.dir.path().join("connmix.yaml");
        let text = std::fs::read_to_string(&yaml).unwrap();
        let api = "  apiServer: {port: 0, bind: 127.0.0.1";
        let at = text.rfind(api).unwrap() + api.len();
        running.write("connmix.yaml", &format!("{}, {tls}{}", &text[..at], &text[at..]));
        running.process.line("reloaded connmix.yaml");
        Enciphered { running, trusting: [authority.trusted(), authority.trusted().by_tls12()], _files: dir }
    }

    async fn connect(&self, by: &Trusting) -> Socket {
        by.websocket(self.running.process.ws(), "localhost").await
    }
}

async fn text(client: &mut Socket) -> String {
    loop {
        match timeout(PATIENCE, client.next()).await.expect("a message in time") {
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Text(text))) => return text.to_string(),
            other => panic!("a text was expected, got {other:?}"),
        }
    }
}

async fn ask(client: &mut Socket, question: &str) -> String {
    client.send(Message::text(question)).await.unwrap();
    text(client).await
}

/// Calls the API over TLS on a connection of a thread's own.
struct Caller(StreamOwned<ClientConnection, std::net::TcpStream>);

impl Caller {
    fn connect(api: SocketAddr, by: &Trusting) -> Caller {
        let mut socket = std::net::TcpStream::connect(api).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut connection = ClientConnection::new(Arc::new(by.config()), "localhost".try_into().unwrap()).unwrap();
        connection.complete_io(&mut socket).unwrap();
        Caller(StreamOwned::new(connection, socket))
    }

    fn publish(&mut self, channel: &str, text: &str) -> String {
        let body = json!({"c": channel, "d": text}).to_string();
        self.say(&format!(
            "POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        self.answer()
    }

    fn say(&mut self, part: &str) {
        self.0.write_all(part.as_bytes()).expect("the connection stays");
        self.0.flush().unwrap();
    }

    fn answer(&mut self) -> String {
        let (mut reply, mut buffer) = (Vec::new(), [0; 4096]);
        while !reply.ends_with(b"}") {
            let came = self.0.read(&mut buffer).expect("an answer");
            assert!(came > 0, "a call without an answer: {}", String::from_utf8_lossy(&reply));
            reply.extend_from_slice(&buffer[..came]);
        }
        String::from_utf8(reply).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_tls_goes_on_in_the_new_process() {
    let own = Enciphered::start(SCRIPT, "", "websocket");
    let dry = own.running.ask(&["--dry-run"]);
    assert!(dry.code == Some(0) && !dry.out.contains("TLS"), "nobody is closed: {dry:?}");
    let api = own.running.process.api();
    let mut clients = Vec::new();
    for by in &own.trusting {
        let mut client = own.connect(by).await;
        ask(&mut client, "subscribe news").await;
        let state = ask(&mut client, "state").await;
        clients.push((client, state, Caller::connect(api, by)));
    }
    for n in 0..3 {
        assert_eq!(own.running.process.lines().iter().filter(|line| line.contains("closed\t")).count(), 0);
        own.running.upgrade();
        for at in 0..clients.len() {
            let said = format!("hello {n} {at}");
            let reply = tokio::task::block_in_place(|| clients[at].2.publish("news", &said));
            assert!(reply.ends_with(r#""r":{"s":2,"f":0}}"#), "{reply}");
            for (client, state, _) in &mut clients {
                assert_eq!(text(client).await, said);
                assert_eq!(&ask(client, "state").await, state);
            }
        }
    }
    // They end in order.
    for (mut client, ..) in clients {
        client.close(None).await.unwrap();
        while let Some(Ok(_)) = client.next().await {}
        assert_eq!(timeout(PATIENCE, client.into_inner().read(&mut [0; 16])).await.unwrap().unwrap(), 0);
    }
    own.running.stop();
}

/// A client whose records the test makes itself.
struct Bare {
    socket: TcpStream,
    connection: ClientConnection,
}

impl Bare {
    fn of(client: Socket) -> Bare {
        let (socket, connection) = client.into_inner().into_inner();
        Bare { socket, connection }
    }

    /// The records of a message.
    fn records(&mut self, message: &[u8]) -> Vec<u8> {
        self.connection.writer().write_all(message).unwrap();
        let mut records = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut records).unwrap();
        }
        records
    }

    /// Waits for a text message that is short.
    async fn text(&mut self) -> String {
        let mut content = Vec::new();
        loop {
            let _ = self.connection.reader().read_to_end(&mut content);
            if content.len() >= 2 && content.len() >= 2 + usize::from(content[1]) {
                return String::from_utf8(content[2..].to_vec()).unwrap();
            }
            let mut came = Vec::new();
            let many = timeout(PATIENCE, self.socket.read_buf(&mut came)).await.expect("something in time").unwrap();
            assert!(many > 0, "the connection has ended");
            let mut rest = &came[..];
            while !rest.is_empty() {
                self.connection.read_tls(&mut rest).unwrap();
                self.connection.process_new_packets().unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_record_and_changes_of_keys_go_along() {
    let own = Enciphered::start(SCRIPT, "", "websocket");
    for (at, by) in own.trusting.iter().enumerate() {
        let mut client = Bare::of(own.connect(by).await);
        for cut in [3, 20] {
            // In the head of the record, and behind it.
            let records = client.records(&raw::text("in two halves"));
            client.socket.write_all(&records[..cut]).await.unwrap();
            own.running.upgrade();
            client.socket.write_all(&records[cut..]).await.unwrap();
            assert_eq!(client.text().await, "in two halves");
        }
        if at == 0 {
            // It asks for other keys; the process after the next answers.
            client.connection.refresh_traffic_keys().unwrap();
            let records = client.records(b"");
            assert!(!records.is_empty());
            client.socket.write_all(&records).await.unwrap();
            own.running.upgrade();
            for text in ["by the next keys", "and once more"] {
                let records = client.records(&raw::text(text));
                client.socket.write_all(&records).await.unwrap();
                assert_eq!(client.text().await, text);
            }
            client.connection.refresh_traffic_keys().unwrap();
            own.running.upgrade();
        }
        let records = client.records(&raw::text("the last"));
        client.socket.write_all(&records).await.unwrap();
        assert_eq!(client.text().await, "the last");
    }
    own.running.stop();
}

/// What a client does not take waits as enciphered records and as frames that are not: both arrive once, and in order.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_has_not_taken_goes_along() {
    const MANY: usize = 400;
    let script = "function on_message(msg, conn)
        local after = tonumber(msg.data)
        if not after then return conn:send(msg.data) end
        for n = after + 1, after + 20 do conn:send(string.format('%08d', n) .. string.rep('x', 20000)) end
    end";
    let own = Enciphered::start(
        script,
        "outboxLimit: 64MB\nunsentLimit: 64KB\nwriteTimeout: 0\nhandlerTimeout: 10s",
        "websocket",
    );
    let mut clients = Vec::new();
    for by in &own.trusting {
        let mut client = own.connect(by).await;
        for n in (0..MANY).step_by(20) {
            client.send(Message::text(n.to_string())).await.unwrap();
        }
        // Something of it has come: the rest waits on the way and there.
        assert!(text(&mut client).await.starts_with("00000001x"));
        clients.push(client);
    }
    own.running.upgrade();
    own.running.upgrade();
    for client in &mut clients {
        for n in 2..=MANY {
            let came = text(client).await;
            assert!(came.starts_with(&format!("{n:08}x")) && came.len() == 20_008, "{n}: {}", &came[..20]);
        }
        assert_eq!(ask(client, "and on").await, "and on");
    }
    own.running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_servers_and_event_streams_go_on_with_tls() {
    let own = Enciphered::start(LINES, "", "socket");
    let mut clients = Vec::new();
    for by in &own.trusting {
        let mut client = by.dial(own.running.process.ws(), "localhost").await.unwrap();
        client.write_all(b"subscribe\nhalf a ").await.unwrap();
        expect(&mut client, "welcome\ngot subscribe\n").await;
        clients.push(client);
    }
    own.running.upgrade();
    for client in &mut clients {
        client.write_all(b"package\n").await.unwrap();
        expect(client, "got half a package\n").await;
    }
    own.running.stop();

    let own = Enciphered::start(SCRIPT, "eventStream: on", "websocket");
    let mut stream = own.trusting[0].dial(own.running.process.ws(), "localhost").await.unwrap();
    stream.write_all(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").await.unwrap();
    let mut head = String::new();
    while !head.contains("}\n\n") {
        head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap().into());
    }
    let id = head.split("\"client\":\"").nth(1).unwrap().split('"').next().unwrap();
    own.running.upgrade();
    let mut caller = Caller::connect(own.running.process.api(), &own.trusting[0]);
    let send = json!({"c": id, "d": "to you"}).to_string();
    let length = send.len();
    tokio::task::block_in_place(|| {
        caller
            .say(&format!("POST /v1/mesh/send HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{send}"));
        caller.answer()
    });
    expect(&mut stream, "data: to you\n\n").await;
    own.running.stop();
}

async fn expect(stream: &mut TlsStream<TcpStream>, what: &str) {
    let mut came = vec![0; what.len()];
    timeout(PATIENCE, stream.read_exact(&mut came)).await.expect("something in time").unwrap();
    assert_eq!(String::from_utf8_lossy(&came), what);
}

/// Half a request of a caller goes along, and TLS is for the connections that are there, not for those that come.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_stays_as_it_is_whatever_the_port_has_then() {
    let own = Enciphered::start(SCRIPT, "", "websocket");
    let api = own.running.process.api();
    let mut client = own.connect(&own.trusting[0]).await;
    let mut caller = Caller::connect(api, &own.trusting[0]);
    let body = json!({"c": "news", "d": "x"}).to_string();
    let request =
        format!("POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    tokio::task::block_in_place(|| caller.publish("news", "whole"));
    tokio::task::block_in_place(|| caller.say(&request[..90]));
    let file = own.running.dir.path().join("connmix.yaml");
    let with = std::fs::read_to_string(&file).unwrap();
    let without: String =
        with.lines().filter(|line| !line.trim().starts_with("tls:")).fold(String::new(), |all, line| {
            let end = line.find(", tls: ").map_or(line, |at| &line[..at]);
            let closed = if end.len() < line.len() { "}" } else { "" };
            format!("{all}{end}{closed}\n")
        });
    let lines = own.running.process.lines().len();
    std::fs::write(&file, without).unwrap();
    own.running.process.line_after(lines, "reloaded connmix.yaml");
    let mut plain = common::Client::connect(own.running.process.ws(), "/ws").await;
    own.running.upgrade();
    assert_eq!(ask(&mut client, "still here").await, "still here");
    assert_eq!(plain.ask("me too").await, "me too");
    let reply = tokio::task::block_in_place(|| {
        caller.say(&request[90..]);
        caller.answer()
    });
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    // The other way round: what is plain stays plain.
    let mut plain_caller = Raw::dial(api).await;
    plain_caller.write(&request[..90]).await;
    std::fs::write(&file, with).unwrap();
    own.running.upgrade();
    plain_caller.write(&request[90..]).await;
    assert_eq!(plain_caller.head().await.status, 200);
    assert_eq!(plain.ask("as I was").await, "as I was");
    assert_eq!(ask(&mut client, "as I was").await, "as I was");
    own.running.stop();
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build can be told where to crash or wait")]
async fn keys_stay_where_a_successor_crashes() {
    let own = Enciphered::start(SCRIPT, "", "websocket");
    let mut caller = Caller::connect(own.running.process.api(), &own.trusting[1]);
    let mut clients = Vec::new();
    for by in &own.trusting {
        let mut client = own.connect(by).await;
        ask(&mut client, "subscribe news").await;
        clients.push(client);
    }
    for point in ["ready", "connections", "received", "arrived"] {
        own.running.write("crash", point);
        assert_eq!(own.running.ask(&[]).code, Some(1), "{point}");
        let reply = tokio::task::block_in_place(|| caller.publish("news", point));
        assert!(reply.ends_with(r#""r":{"s":2,"f":0}}"#), "{point}: {reply}");
        for client in &mut clients {
            assert_eq!(text(client).await, point);
            assert_eq!(ask(client, "still here").await, "still here", "{point}");
        }
    }
    own.running.write("crash", "");
    own.running.upgrade();
    for client in &mut clients {
        assert_eq!(ask(client, "still here").await, "still here");
    }
    own.running.stop();
}

/// As without TLS: through several upgrades, with numbers that are published without a pause.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_arrive_with_tls_as_without() {
    const CLIENTS: usize = 20;
    let own = Enciphered::start(SCRIPT, "readTimeout: 0\npingInterval: 0", "websocket");
    let mut reading = Vec::new();
    for n in 0..CLIENTS {
        let mut client = own.connect(&own.trusting[n % 2]).await;
        ask(&mut client, "subscribe numbers").await;
        reading.push(tokio::spawn(async move {
            for n in 0.. {
                match text(&mut client).await.as_str() {
                    "end" => return n,
                    number => assert_eq!(number, n.to_string()),
                }
            }
            unreachable!()
        }));
    }
    let (stop, published) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (api, by) = (own.running.process.api(), own.trusting[0].clone());
    let (until, counted) = (stop.clone(), published.clone());
    let publishing = std::thread::spawn(move || {
        let mut caller = Caller::connect(api, &by);
        while !until.load(Relaxed) {
            let n = counted.load(Relaxed);
            let reply = caller.publish("numbers", &n.to_string());
            assert!(reply.ends_with(&format!(r#""r":{{"s":{CLIENTS},"f":0}}}}"#)), "number {n}: {reply}");
            if reply.contains("connection: close") {
                caller = Caller::connect(api, &by);
            }
            counted.store(n + 1, Relaxed);
        }
        assert!(caller.publish("numbers", "end").starts_with("HTTP/1.1 200"));
    });
    for _ in 0..4 {
        let before = published.load(Relaxed);
        println!("{} of {before} published", own.running.upgrade().trim_end());
        eventually("publishing goes on", async || (published.load(Relaxed) > before + 20).then_some(())).await;
    }
    stop.store(true, Relaxed);
    tokio::task::spawn_blocking(move || publishing.join().unwrap()).await.unwrap();
    for client in reading {
        assert_eq!(client.await.unwrap(), published.load(Relaxed));
    }
    own.running.stop();
}
