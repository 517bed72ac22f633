//! TLS: handshakes and their failures, messages in any pieces and sizes, the end of connections, certificates by name and
//! renewed ones, the APIs.

mod common;

use common::process::Process;
use common::raw::{self, Raw};
use common::tls::{Authority, Trusting, open};
use common::{Client, PATIENCE, TestEngine, eventually, get};
use futures_util::{SinkExt, StreamExt};
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{AlertDescription, ClientConnection};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Answers with what came; `join CHANNEL` subscribes, `wait` waits, `note` is told to a channel, as are ends.
const SCRIPT: &str = r#"
function on_message(msg, conn)
  local channel = msg.data:match("^join (.*)$")
  if channel then assert(not conn:subscribe(channel)) return conn:send("joined") end
  if msg.data == "note" then mix.mesh.publish("notes", "noted") end
  if msg.data == "wait" then conn:send("waiting") mix.sleep(60) end
  conn:send(msg.data)
end
function on_close(client_id, err) mix.mesh.publish("notes", tostring(err)) end
"#;

/// Answers each line with the same line, from a server of TCP.
const LINES: &str = r#"
function protocol_input(buf) return buf:find("\n") or 0 end
function protocol_decode(line) return line end
function protocol_encode(data) return data end
function on_message(msg, conn)
  if msg == "join\n" then assert(not conn:subscribe("news")) end
  conn:send(msg)
end
"#;

/// A folder with the files of an engine: a WebSocket server and a socket server with TLS, a plain WebSocket server, and
/// the APIs with TLS if `apis` says so; `more` stands in `tls` of the first server.
fn folder(authority: &Authority, apis: bool, more: &str, server: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    authority.issue(dir.path(), "cert", &["localhost"]);
    authority.write(&dir.path().join("ca.pem"));
    fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    fs::write(dir.path().join("lines.lua"), LINES).unwrap();
    let tls = "tls: {cert: cert.pem, key: cert.key}";
    let of_api = if apis { tls } else { "tls: {}" };
    let text = format!(
        "logging: {{filename: ''}}
center: {{apiServer: {{port: 0, bind: 127.0.0.1, {of_api}}}}}
engine:
  workers: 1
  apiServer: {{port: 0, bind: 127.0.0.1, {of_api}}}
  servers:
    - port: 0
      bind: 127.0.0.1
      entry: entry.lua
      options: [{{name: path, value: /ws}}]
      tls: {{cert: cert.pem, key: cert.key{more}}}
{server}
    - {{port: 0, bind: 127.0.0.1, protocol: socket, entry: lines.lua, {tls}}}
    - {{port: 0, bind: 127.0.0.1, entry: entry.lua, options: [{{name: path, value: /ws}}]}}
"
    );
    fs::write(dir.path().join("connmix.yaml"), text).unwrap();
    dir
}

fn engine() -> (TestEngine, Trusting) {
    engine_with("", "")
}

fn engine_with(more: &str, server: &str) -> (TestEngine, Trusting) {
    let authority = Authority::new();
    (TestEngine::start(folder(&authority, false, more, server)), authority.trusted())
}

type Socket<S = TcpStream> = WebSocketStream<TlsStream<S>>;

async fn next<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Socket<S>) -> Option<Message> {
    loop {
        match timeout(PATIENCE, client.next()).await.expect("a message in time") {
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(message)) => return Some(message),
            Some(Err(_)) | None => return None,
        }
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(client: &mut Socket<S>, question: &str) -> String {
    client.send(Message::text(question)).await.unwrap();
    match next(client).await {
        Some(Message::Text(text)) => text.to_string(),
        other => panic!("a text was expected, got {other:?}"),
    }
}

/// How many handshakes of clients came to that.
async fn handshakes(engine: &TestEngine, result: &str) -> u64 {
    let (_, page) = get(engine.at.api, "/metrics").await;
    let start = format!("connmix_tls_handshakes_total{{port=\"server\",result=\"{result}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&start)).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn messages_of_any_size_go_both_ways_by_both_versions() {
    let (engine, trusted) = engine();
    for client in [trusted.clone(), trusted.by_tls12()] {
        let mut client = client.websocket(engine.ws(), "localhost").await;
        for size in [1, 125, 126, 16_383, 16_384, 16_385, 70_000, 1_000_000] {
            let message = "x".repeat(size);
            assert!(ask(&mut client, &message).await == message, "{size}");
        }
        // Many at once, which share records.
        for i in 0..500 {
            client.feed(Message::text(format!("message {i}"))).await.unwrap();
        }
        client.flush().await.unwrap();
        for i in 0..500 {
            assert_eq!(next(&mut client).await, Some(Message::text(format!("message {i}"))));
        }
        client.close(None).await.unwrap();
        while next(&mut client).await.is_some() {}
        // The end is told by TLS, too: without a close_notify this would be an error.
        let mut stream = client.into_inner();
        assert_eq!(timeout(PATIENCE, stream.read(&mut [0; 16])).await.unwrap().unwrap(), 0);
    }
    assert_eq!(handshakes(&engine, "ok").await, 2);
}

#[tokio::test]
async fn a_publish_reaches_subscribers_with_and_without_tls() {
    let (engine, trusted) = engine();
    let mut enciphered = Vec::new();
    for _ in 0..5 {
        let mut client = trusted.websocket(engine.ws(), "localhost").await;
        assert_eq!(ask(&mut client, "join news").await, "joined");
        enciphered.push(client);
    }
    let mut plain = common::Client::connect(engine.at.servers[2], "/ws").await;
    assert_eq!(plain.ask("join news").await, "joined");
    let mut lines = trusted.dial(engine.at.servers[1], "localhost").await.unwrap();
    lines.write_all(b"join\n").await.unwrap();
    lines.read_exact(&mut [0; 5]).await.unwrap();
    for i in 0..100 {
        engine.publish_to("news", &format!("news {i:3}\n"), 7).await;
    }
    for i in 0..100 {
        let want = format!("news {i:3}\n");
        for client in &mut enciphered {
            assert_eq!(next(client).await, Some(Message::text(want.clone())));
        }
        assert_eq!(plain.text().await, want);
        let mut line = vec![0; want.len()];
        timeout(PATIENCE, lines.read_exact(&mut line)).await.unwrap().unwrap();
        assert_eq!(line, want.as_bytes());
    }
}

/// Writes byte by byte.
struct Dribble(TcpStream);

impl AsyncRead for Dribble {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Dribble {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &bytes[..bytes.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn records_may_come_byte_by_byte() {
    let (engine, trusted) = engine();
    // With messages of the handshake in one record, and in many.
    let by_both = [trusted.clone(), trusted.by_tls12()];
    for client in by_both.iter().cloned().chain(by_both.iter().map(|client| client.clone().in_records_of(64))) {
        let stream = TcpStream::connect(engine.ws()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = open(client.over(Dribble(stream), "localhost").await.unwrap()).await;
        for message in ["hello", &"long ".repeat(1000)] {
            assert_eq!(ask(&mut client, message).await, message);
        }
    }
}

#[tokio::test]
async fn plain_clients_of_a_tls_port_are_told_so() {
    let authority = Authority::new();
    let engine = TestEngine::start(folder(&authority, true, "", ""));
    for (addr, scheme) in [(engine.ws(), "wss://"), (engine.at.api, "https://"), (engine.at.center, "https://")] {
        let mut client = Raw::dial(addr).await;
        let reply = client.call(raw::upgrade()).await;
        assert!(reply.status == 400 && reply.body.contains("TLS") && reply.body.contains(scheme), "{reply:?}");
        client.ends().await;
    }
    // What is no HTTP is not answered in HTTP.
    let mut client = Raw::dial(engine.at.servers[1]).await;
    client.write("hello\n").await;
    client.ends().await;
}

/// A client hello of TLS 1.1, which later versions do not look like: no extensions.
fn old_hello() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0xC0, 0x13, 0, 0x2F, 1, 0]);
    let mut record = vec![0x16, 3, 1, 0, 4 + hello.len() as u8, 1, 0, 0, hello.len() as u8];
    record.extend(hello);
    record
}

#[tokio::test]
async fn what_is_no_handshake_fails_with_an_alert_and_leaves_nothing() {
    let (engine, trusted) = engine_with("", "      maxConnections: 20\n      handshakeTimeout: 300ms");
    let mut old = Raw::dial(engine.ws()).await;
    old.write(old_hello()).await;
    // Fatal: handshake_failure.
    let told = old.rest().await;
    assert_eq!((told[0], &told[3..]), (0x15, &[0, 2, 2, 40][..]));
    let garbage = async |i: usize| {
        let mut client = Raw::dial(engine.ws()).await;
        let mut record = vec![0x16, 3, 1, 0, 100];
        record.extend((0..100).map(|at| (at * i) as u8));
        client.write_into_the_dark(&record).await;
        if !i.is_multiple_of(10) {
            client.rest().await;
        }
    };
    for round in 0..100 {
        futures_util::future::join_all((0..10).map(|i| garbage(round * 10 + i))).await;
    }
    // One that says nothing is given up after handshakeTimeout.
    let mut silent = Raw::dial(engine.ws()).await;
    silent.ends().await;
    eventually("all are gone", async || {
        let (_, page) = get(engine.at.api, "/metrics").await;
        page.contains("\nconnmix_engine_servers_clients 0\n").then_some(())
    })
    .await;
    let failed = handshakes(&engine, "malformed").await + handshakes(&engine, "closed").await;
    assert_eq!((failed, handshakes(&engine, "version").await), (1000, 1));
    assert_eq!(handshakes(&engine, "timeout").await, 1);
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(trusted.websocket(engine.ws(), "localhost").await);
    }
    // Fatal: internal_error, without a handshake.
    let mut one_more = Raw::dial(engine.ws()).await;
    assert_eq!(one_more.rest().await, [0x15, 3, 3, 0, 2, 2, 80]);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed_and_costs_others_nothing() {
    let (engine, trusted) = engine_with("", "      outboxLimit: 256KiB\n      unsentLimit: 16KiB");
    let narrow = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(engine.ws()).await.unwrap();
        open(trusted.over(stream, "localhost").await.unwrap()).await
    };
    let mut slow = narrow().await;
    let mut patient = narrow().await;
    let mut good = trusted.websocket(engine.ws(), "localhost").await;
    for client in [&mut slow, &mut patient, &mut good] {
        assert_eq!(ask(client, "join news").await, "joined");
    }
    // The patient one takes what waits for it in the end.
    let mut sent = 0;
    loop {
        let reply = engine.publish("news", &format!("{sent:5}{}", "x".repeat(10_000))).await;
        assert!(matches!(next(&mut good).await, Some(Message::Text(text)) if text.starts_with(&format!("{sent:5}"))));
        if sent < 10 {
            assert!(
                matches!(next(&mut patient).await, Some(Message::Text(text)) if text.starts_with(&format!("{sent:5}")))
            );
        }
        sent += 1;
        if reply["r"]["s"] != 3 {
            break;
        }
        assert!(sent < 2000, "nobody is too slow");
    }
    // What was enciphered before the end is a whole stream: records and frames, then the reason.
    let mut got = 0;
    let end = loop {
        match next(&mut slow).await {
            Some(Message::Text(text)) => {
                assert!(text.starts_with(&format!("{got:5}")), "in order");
                got += 1;
            }
            other => break other,
        }
    };
    assert!(matches!(&end, Some(Message::Close(Some(frame))) if u16::from(frame.code) == 3100), "{end:?}");
    assert_eq!(ask(&mut good, "still here").await, "still here");
}

#[tokio::test]
async fn ends_are_told_both_ways() {
    let (engine, trusted) = engine();
    // A client that sends no more still gets the answers to what it sent, and then the end.
    let mut lines = trusted.dial(engine.at.servers[1], "localhost").await.unwrap();
    lines.write_all("one\ntwo\n".as_bytes()).await.unwrap();
    lines.shutdown().await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, lines.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"one\ntwo\n");
    // One that ends its TCP connection without saying so by TLS has gone: something may be missing.
    let mut client = trusted.websocket(engine.ws(), "localhost").await;
    assert_eq!(ask(&mut client, "hello").await, "hello");
    drop(client.into_inner().into_inner().0);
    eventually("the client is gone", async || {
        let (_, page) = get(engine.at.api, "/metrics").await;
        let lost = page
            .lines()
            .find(|l| l.contains("closed_total") && l.contains(&engine.ws().to_string()) && l.contains("\"lost\""))?;
        lost.ends_with(" 1").then_some(())
    })
    .await;
    // A client that closes while its handler waits is seen, though it is not read.
    let mut client = trusted.websocket(engine.ws(), "localhost").await;
    client.send(Message::text("wait")).await.unwrap();
    client.send(Message::text("not handled")).await.unwrap();
    client.close(None).await.unwrap();
    while next(&mut client).await.is_some() {}
    assert!(engine.shutdown().await);
}

/// Messages as a client enciphers them.
fn enciphered(connection: &mut ClientConnection, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut records = Vec::new();
    for frame in frames {
        connection.writer().write_all(frame).unwrap();
        while connection.wants_write() {
            connection.write_tls(&mut records).unwrap();
        }
    }
    records
}

/// A record that no key deciphers.
fn broken() -> Vec<u8> {
    [&[23, 3, 3, 0, 32][..], &[7; 32]].concat()
}

#[tokio::test]
async fn what_came_before_a_broken_record_is_handled_and_the_failure_told() {
    let (engine, trusted) = engine();
    let mut watcher = Client::connect(engine.at.servers[2], "/ws").await;
    assert_eq!(watcher.ask("join notes").await, "joined");
    let (mut socket, mut connection) = trusted.websocket(engine.ws(), "localhost").await.into_inner().into_inner();
    let mut records = enciphered(&mut connection, &[raw::frame(0x81, b"note")]);
    records.extend(broken());
    socket.write_all(&records).await.unwrap();
    assert_eq!(watcher.text().await, "noted");
    assert_eq!(watcher.text().await, "cannot decrypt peer's message");
    // What follows is the alert and the end.
    let mut rest = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut rest)).await.unwrap().unwrap();
    connection.read_tls(&mut &rest[..]).unwrap();
    let told = connection.process_new_packets().unwrap_err();
    assert_eq!(told, tokio_rustls::rustls::Error::AlertReceived(AlertDescription::BadRecordMac));
}

#[tokio::test]
async fn a_broken_record_ends_a_connection_that_is_not_read() {
    let (engine, trusted) = engine();
    let mut watcher = Client::connect(engine.at.servers[2], "/ws").await;
    assert_eq!(watcher.ask("join notes").await, "joined");
    let mut client = trusted.websocket(engine.ws(), "localhost").await;
    assert_eq!(ask(&mut client, "wait").await, "waiting");
    let (mut socket, mut connection) = client.into_inner().into_inner();
    // More than waits for a handler: from then on the client is not read.
    let much = vec![raw::frame(0x81, &[b'x'; 16 * 1024]); 5];
    let mut records = enciphered(&mut connection, &much);
    records.extend(broken());
    socket.write_all(&records).await.unwrap();
    assert_eq!(watcher.text().await, "cannot decrypt peer's message");
}

/// The certificate that a client is shown.
async fn shown(trusted: &Trusting, addr: SocketAddr, name: &str) -> Vec<u8> {
    let stream = trusted.dial(addr, name).await.unwrap_or_else(|e| panic!("{name}: {e}"));
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn who_is_not_read_while_clients_hold_too_much_is_read_on_afterwards() {
    let (engine, trusted) = engine();
    let large = raw::frame(raw::FIN | raw::TEXT, &[b'x'; 15_900]);
    let mut crowd = Vec::new();
    for _ in 0..150 {
        let mut raw = Raw::open(engine.at.servers[2]).await;
        raw.write(&large[..15_800]).await;
        crowd.push(raw);
    }
    // Both have begun something, and hold more than 1 KiB of it.
    let long = "x".repeat(1500);
    let text = raw::frame(raw::FIN | raw::TEXT, long.as_bytes());
    let mut client = trusted.websocket(engine.ws(), "localhost").await;
    assert_eq!(ask(&mut client, "hello").await, "hello");
    let mut lines = trusted.dial(engine.at.servers[1], "localhost").await.unwrap();
    let inner = client.get_mut();
    inner.write_all(&text[..1400]).await.unwrap();
    inner.flush().await.unwrap();
    lines.write_all(&long.as_bytes()[..1400]).await.unwrap();
    lines.flush().await.unwrap();
    // The crowd holds more than a quarter over the bound of 1.5 MiB.
    let file = engine.dir.path().join("connmix.yaml");
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, config.replace("workers: 1", "workers: 1\n  memory: {high: 6MiB}")).unwrap();
    eventually("memory is short", async || {
        let mut raw = Raw::dial(engine.at.servers[2]).await;
        raw.write_into_the_dark(raw::upgrade()).await;
        (raw.head().await.status == 503).then_some(())
    })
    .await;
    let inner = client.get_mut();
    inner.write_all(&text[1400..]).await.unwrap();
    inner.flush().await.unwrap();
    lines.write_all(&[&long.as_bytes()[1400..], b"\nnext\n"].concat()).await.unwrap();
    lines.flush().await.unwrap();
    assert!(matches!(next(&mut client).await, Some(Message::Text(text)) if text.as_str() == long));
    let mut got = vec![0; long.len() + 6];
    timeout(PATIENCE, lines.read_exact(&mut got)).await.unwrap().unwrap();
    assert!(got.ends_with(b"x\nnext\n"));
    assert_eq!(ask(&mut client, "still here").await, "still here");
}

#[tokio::test]
async fn each_name_has_its_certificate() {
    let authority = Authority::new();
    let more = ", certificates: [{cert: org.pem, key: org.key}, {cert: wild.pem, key: wild.key}]";
    let dir = folder(&authority, false, more, "");
    authority.issue(dir.path(), "org", &["example.org", "WWW.Example.org"]);
    authority.issue(dir.path(), "wild", &["*.example.org"]);
    let engine = TestEngine::start(dir);
    let trusted = authority.trusted();
    let mut seen = Vec::new();
    for names in [&["localhost"][..], &["example.org", "www.example.org"], &["a.example.org", "b.Example.ORG"]] {
        let first = shown(&trusted, engine.ws(), names[0]).await;
        for name in names {
            assert_eq!(shown(&trusted, engine.ws(), name).await, first, "{name}");
        }
        assert!(!seen.contains(&first), "{names:?}");
        seen.push(first);
    }
    // * is one label.
    for name in ["a.b.example.org", "elsewhere.example"] {
        assert!(trusted.dial(engine.ws(), name).await.is_err(), "{name} has the first certificate");
    }
    // Of the application protocols there is one.
    let stream = trusted.clone().offering(&["h2", "http/1.1"]).dial(engine.ws(), "localhost").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(trusted.clone().offering(&["h2"]).dial(engine.ws(), "localhost").await.is_err());
    assert!(handshakes(&engine, "negotiation").await == 1 && handshakes(&engine, "refused").await == 2);
}

#[tokio::test]
async fn where_certificates_of_clients_are_asked_for_each_must_show_one() {
    let authority = Authority::new();
    let dir = folder(&authority, false, ", clientCa: ca.pem", "");
    authority.issue(dir.path(), "client", &["somebody"]);
    Authority::new().issue(dir.path(), "stranger", &["somebody"]);
    let engine = TestEngine::start(dir);
    let trusted = authority.trusted();
    let files = engine.dir.path();
    // By TLS 1.3 a client learns with its first read that it is refused.
    let try_it = async |trusted: &Trusting| {
        let mut stream = trusted.dial(engine.ws(), "localhost").await?;
        stream.write_all(raw::upgrade().as_bytes()).await?;
        let mut answer = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("an answer")?;
        assert_eq!(&answer, b"HTTP/1.1 101");
        io::Result::Ok(())
    };
    for trusted in [trusted.clone(), trusted.by_tls12()] {
        try_it(&trusted.clone().showing(files, "client")).await.unwrap();
        assert!(try_it(&trusted).await.is_err());
        assert!(try_it(&trusted.clone().showing(files, "stranger")).await.is_err());
    }
    eventually("they are counted", async || (handshakes(&engine, "certificate").await == 4).then_some(())).await;
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_clients() {
    let authority = Authority::new();
    let dir = folder(&authority, false, "", "");
    let process = Process::ready(dir.path(), &["dev"]);
    let trusted = authority.trusted();
    let ws = common::process::address(&process.line("serving clients on "), "serving clients on ");
    let first = shown(&trusted, ws, "localhost").await;
    let mut client = trusted.websocket(ws, "localhost").await;
    let renewed = async |before: &[u8]| {
        eventually("another certificate is shown", async || {
            Some(shown(&trusted, ws, "localhost").await).filter(|now| now != before)
        })
        .await
    };
    authority.issue(dir.path(), "cert", &["localhost"]);
    let second = renewed(&first).await;
    assert_eq!(ask(&mut client, "still open").await, "still open");
    // Files that do not belong together change nothing, and the log says which.
    let key = fs::read(dir.path().join("cert.key")).unwrap();
    authority.issue(dir.path(), "other", &["localhost"]);
    fs::copy(dir.path().join("other.key"), dir.path().join("cert.key")).unwrap();
    let line = process.line("is not the key of");
    assert!(line.contains("cert.key") && line.contains("engine.servers[0].tls: "), "{line}");
    assert_eq!(shown(&trusted, ws, "localhost").await, second);
    assert!(process.lines().iter().all(|line| !line.contains("PRIVATE")));
    // Nor does one that is not there, or is about to end without a word.
    fs::remove_file(dir.path().join("cert.pem")).unwrap();
    process.line("cert.pem cannot be read");
    authority.issue_with(dir.path(), "cert", &["localhost"], |params| {
        params.not_after = (std::time::SystemTime::now() + Duration::from_secs(5 * 86_400 + 3600)).into();
    });
    assert_ne!(fs::read(dir.path().join("cert.key")).unwrap(), key);
    let third = renewed(&second).await;
    process.line("cert.pem expires in 5 days");
    // A changed configuration is taken with its certificates, or not at all.
    let config = dir.path().join("connmix.yaml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replacen("{cert: cert.pem, key: cert.key}", "{cert: gone.pem, key: cert.key}", 1)).unwrap();
    process.line("gone.pem cannot be read");
    assert_eq!(shown(&trusted, ws, "localhost").await, third);
    fs::write(&config, text.replacen("{cert: cert.pem, key: cert.key}", "{}", 1)).unwrap();
    process.line("engine.servers[0].tls.cert: ");
    eventually("the port is without TLS", async || common::Client::try_connect(ws, "/ws").await.ok()).await;
    assert_eq!(ask(&mut client, "still open").await, "still open");
    // A client that still begins TLS there is told of in the log.
    assert!(trusted.dial(ws, "localhost").await.is_err());
    process.line("a client began TLS at a port without it");
    let api = common::process::address(&process.line("API on "), "API on ");
    assert!(trusted.dial(api, "localhost").await.is_err());
    process.line("a caller began TLS at a port without it: engine.apiServer");
    drop(client);
    process.stop();
}

#[tokio::test]
async fn a_certificate_that_is_renewed_while_the_engine_starts_is_shown() {
    let authority = Authority::new();
    let dir = folder(&authority, false, "", "");
    authority.issue(dir.path(), "new", &["localhost"]);
    // The script is tried before certificates are loaded, and then runs in the worker.
    let at = dir.path().display();
    let renews = format!(
        "if io.open('{at}/tried') then
           os.rename('{at}/new.key', '{at}/cert.key') os.rename('{at}/new.pem', '{at}/cert.pem')
         else io.open('{at}/tried', 'w'):close() end"
    );
    fs::write(dir.path().join("lines.lua"), format!("{renews}\n{LINES}")).unwrap();
    let config = dir.path().join("connmix.yaml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replacen("engine:\n", "engine:\n  luavm: {libraries: [io, os]}\n", 1)).unwrap();
    let engine = TestEngine::start(dir);
    let renewed = fs::read(engine.path("cert.pem")).unwrap();
    let renewed = CertificateDer::from_pem_slice(&renewed).unwrap();
    let trusted = authority.trusted();
    eventually("the new one is shown", async || {
        (shown(&trusted, engine.ws(), "localhost").await == renewed.as_ref()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_apis_speak_tls() {
    let authority = Authority::new();
    let engine = TestEngine::start(folder(&authority, true, "", ""));
    let trusted = authority.trusted().offering(&["http/1.1"]);
    let mut subscriber = trusted.websocket(engine.ws(), "localhost").await;
    assert_eq!(ask(&mut subscriber, "join news").await, "joined");
    // Many publishes over one connection, the last of them large, then a request of another form.
    let mut caller = trusted.dial(engine.at.api, "localhost").await.unwrap();
    let post = |body: &str| {
        format!("POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let body = |data: &str| format!("{{\"c\":\"news\",\"d\":\"{data}\"}}");
    for size in [1, 100, 20_000, 300_000] {
        caller.write_all(post(&body(&"x".repeat(size))).as_bytes()).await.unwrap();
        let head = head(&mut caller).await;
        assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("{\"s\":1,\"f\":0}}"), "{head}");
        assert!(matches!(next(&mut subscriber).await, Some(Message::Text(text)) if text.len() == size));
    }
    caller.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    timeout(PATIENCE, caller.read_to_string(&mut page)).await.unwrap().unwrap();
    assert!(page.contains("connmix_tls_handshakes_total{port=\"api\",result=\"ok\"} 1"), "{page}");
    let expires = page.lines().find(|line| line.starts_with("connmix_tls_certificate_expires_seconds{file=")).unwrap();
    assert!(expires.contains("cert.pem\"} ") && !expires.contains(".key"), "{expires}");
    let mut center = trusted.dial(engine.at.center, "localhost").await.unwrap();
    center.write_all(b"GET /v1/nodes HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut nodes = String::new();
    timeout(PATIENCE, center.read_to_string(&mut nodes)).await.unwrap().unwrap();
    assert!(nodes.starts_with("HTTP/1.1 200"), "{nodes}");
    // The WebSocket API.
    let stream = trusted.dial(engine.at.api, "localhost").await.unwrap();
    let (mut api, _) = tokio_tungstenite::client_async("ws://localhost/ws/v1", stream).await.unwrap();
    let call = "{\"m\":\"mesh.publish\",\"p\":{\"c\":\"news\",\"d\":\"by WebSocket\"},\"i\":1}";
    for _ in 0..50 {
        api.send(Message::text(call)).await.unwrap();
        assert!(matches!(next(&mut api).await, Some(Message::Text(text)) if text.contains("\"s\":1")));
        assert_eq!(next(&mut subscriber).await, Some(Message::text("by WebSocket")));
    }
    assert!(engine.shutdown().await);
}

/// A whole response with a Content-Length, and nothing after it.
async fn head(stream: &mut TlsStream<TcpStream>) -> String {
    let mut text = Vec::new();
    loop {
        timeout(PATIENCE, stream.read_buf(&mut text)).await.unwrap().unwrap();
        let whole = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = whole.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if length == Some(body.len()) {
            return whole;
        }
    }
}

/// Runs `connmix check` in a folder.
fn check(folder: &Path) -> common::process::Ended {
    Process::start(folder, &["check"]).ended()
}

#[test]
fn check_tells_what_is_wrong_with_certificates() {
    let authority = Authority::new();
    let dir = folder(&authority, true, ", clientCa: ca.pem", "");
    let fine = check(dir.path());
    assert_eq!((fine.code, fine.err.as_str()), (Some(0), ""), "{fine:?}");
    authority.issue_with(dir.path(), "cert", &["localhost"], |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    });
    let over = check(dir.path());
    assert!(over.code == Some(0) && over.err.contains("cert.pem has expired"), "{over:?}");
    assert_eq!(over.err.matches("has expired").count(), 1, "one file, one line");
    authority.issue(dir.path(), "other", &["localhost"]);
    fs::copy(dir.path().join("other.key"), dir.path().join("cert.key")).unwrap();
    fs::write(dir.path().join("ca.pem"), "no certificate").unwrap();
    let wrong = check(dir.path());
    assert_eq!(wrong.code, Some(1));
    let wanted = [
        "engine.servers[0].tls: ",
        "cert.key is not the key of ",
        "ca.pem: no certificate is in it",
        "engine.apiServer.tls: ",
        "center.apiServer.tls: ",
    ];
    assert!(wanted.iter().all(|part| wrong.err.contains(part)), "{wrong:?}");
    fs::write(dir.path().join("cert.key"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let wrong = check(dir.path());
    assert!(wrong.err.contains("cert.key: no private key is in it"), "{wrong:?}");
}

/// What an idle connection with TLS takes, all in all: keys and no buffers.
#[tokio::test]
async fn an_idle_connection_is_small() {
    const CLIENTS: usize = 400;
    let authority = Authority::new();
    let dir = folder(&authority, false, "", "");
    let process = Process::ready(dir.path(), &["dev", "-p", "1"]);
    let ws = common::process::address(&process.line("serving clients on "), "serving clients on ");
    for trusted in [authority.trusted(), authority.trusted().by_tls12()] {
        let mut clients = Vec::new();
        let mut more = async |count: usize| {
            for _ in 0..count {
                let mut client = trusted.websocket(ws, "localhost").await;
                // The largest records leave nothing behind.
                assert_eq!(ask(&mut client, &"x".repeat(40_000)).await.len(), 40_000);
                clients.push(client);
            }
            process.resident()
        };
        let before = more(CLIENTS / 4).await;
        let each = more(CLIENTS).await.saturating_sub(before) / CLIENTS;
        println!("{each} bytes");
        assert!(each < 3072, "{each} bytes");
    }
    process.stop();
}
