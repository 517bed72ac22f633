//! What whole-engine tests share: an engine on free ports, a WebSocket client, an HTTP client.

#![allow(dead_code, reason = "each test binary uses its part of it")]

pub mod browser;
pub mod cluster;
pub mod collector;
pub mod example;
pub mod heap;
pub mod links;
pub mod optional;
pub mod ports;
pub mod process;
pub mod raw;
pub mod redis;
pub mod scripts;
pub mod systemd;
pub mod tls;

use connmix::config::{Config, Level, load};
use connmix::engine::{Addresses, Engine, Link, Listeners};
use futures_util::{SinkExt, StreamExt};
use proptest::test_runner::Config as ProptestConfig;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

/// The longest any single step of a test may take; far more than it does.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An engine with one server, `/ws`, whose script the test gives; its files lie in a folder of its own.
pub struct TestEngine {
    pub dir: TempDir,
    pub at: Addresses,
    engine: Option<Engine>,
}

impl TestEngine {
    /// With the defaults and one worker.
    pub fn new(script: &str) -> TestEngine {
        TestEngine::with(script, "", "workers: 1")
    }

    /// `server`: lines of further keys for the server; `engine`: for the engine (each "key: value", no indentation).
    pub fn with(script: &str, server: &str, engine: &str) -> TestEngine {
        TestEngine::with_top(script, server, engine, "")
    }

    /// The same with further top-level lines.
    pub fn with_top(script: &str, server: &str, engine: &str, top: &str) -> TestEngine {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("entry.lua"), script).unwrap();
        write_config(&dir.path().join("connmix.yaml"), server, engine, top);
        TestEngine::start(dir)
    }

    /// The same with a socket server.
    pub fn socket(script: &str, server: &str, top: &str) -> TestEngine {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("entry.lua"), script).unwrap();
        let file = dir.path().join("connmix.yaml");
        write_config(&file, server, "workers: 2", top);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("protocol: websocket", "protocol: socket")).unwrap();
        TestEngine::start(dir)
    }

    /// Starts from the files of a folder: `connmix.yaml` and what it names.
    pub fn start(dir: TempDir) -> TestEngine {
        TestEngine::try_start(dir).unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn try_start(dir: TempDir) -> Result<TestEngine, String> {
        TestEngine::try_start_with(dir, |_| ())
    }

    /// Starts with one worker and room for so many handlers that wait.
    pub fn with_waiting(script: &str, waiting: usize, server: &str) -> TestEngine {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("entry.lua"), script).unwrap();
        write_config(&dir.path().join("connmix.yaml"), server, "workers: 1", "");
        TestEngine::try_start_with(dir, |config| config.luavm.waiting = waiting).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Starts with a configuration that says what no file can.
    pub fn try_start_with(dir: TempDir, change: impl FnOnce(&mut Config)) -> Result<TestEngine, String> {
        TestEngine::try_start_on(Link::Network, dir, change)
    }

    /// The same with its links to other nodes over `link`.
    pub fn try_start_on(link: Link, dir: TempDir, change: impl FnOnce(&mut Config)) -> Result<TestEngine, String> {
        let mut config = load::load(&dir.path().join("connmix.yaml")).map_err(|e| e.to_string())?;
        change(&mut config);
        let listeners = Listeners::bind(&config).map_err(|e| format!("{e:?}"))?;
        let engine = Engine::start_on(link, config, listeners, None, Box::new(|_: Level| {}));
        let engine = engine.map_err(|e| e.to_string())?;
        Ok(TestEngine { dir, at: engine.addresses().clone(), engine: Some(engine) })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn ws(&self) -> SocketAddr {
        self.at.servers[0]
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.ws(), "/ws").await
    }

    pub async fn publish(&self, channel: &str, data: &str) -> Value {
        let body = serde_json::json!({"c": channel, "d": data}).to_string();
        let (status, reply) = post(self.at.api, "/v1/mesh/publish", &body).await;
        assert_eq!(status, 200, "{reply}");
        serde_json::from_str(&reply).unwrap()
    }

    /// Publishes and expects these counts.
    pub async fn publish_to(&self, channel: &str, data: &str, reached: u64) {
        let reply = self.publish(channel, data).await;
        assert_eq!(reply, serde_json::json!({"E": null, "r": {"s": reached, "f": 0}}), "publish to {channel}");
    }

    /// A figure of its page of metrics: that of a sample, with its labels as the page writes them.
    pub async fn figure(&self, sample: &str) -> f64 {
        figure(self.at.api, sample).await
    }

    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// Stops it; true if everybody left in time.
    pub async fn shutdown(mut self) -> bool {
        let engine = self.engine.take().unwrap();
        tokio::task::spawn_blocking(move || engine.shutdown()).await.unwrap()
    }
}

/// Writes a configuration with one server at `/ws` on free ports.
pub fn write_config(file: &std::path::Path, server: &str, engine: &str, top: &str) {
    let indent = |text: &str, by: usize| text.lines().map(|l| format!("{}{l}\n", " ".repeat(by))).collect::<String>();
    let text = format!(
        "logging: {{filename: ''}}\n{top}\n\
         center:\n  apiServer: {{port: 0, bind: 127.0.0.1}}\n\
         engine:\n  apiServer: {{port: 0, bind: 127.0.0.1}}\n{}\
         \x20 servers:\n    - port: 0\n      bind: 127.0.0.1\n      protocol: websocket\n      entry: entry.lua\n\
         \x20     options: [{{name: path, value: /ws}}]\n{}",
        indent(engine, 2),
        indent(server, 6)
    );
    std::fs::write(file, text).unwrap();
}

/// A WebSocket client.
pub struct Client(pub WebSocketStream<TcpStream>);

impl Client {
    pub async fn connect(addr: SocketAddr, path: &str) -> Client {
        Client::try_connect(addr, path).await.unwrap_or_else(|e| panic!("connect: {e}"))
    }

    pub async fn try_connect(addr: SocketAddr, path: &str) -> Result<Client, Error> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let request = format!("ws://{addr}{path}");
        let (ws, _) = timeout(PATIENCE, tokio_tungstenite::client_async_with_config(request, stream, None))
            .await
            .expect("handshake in time")?;
        Ok(Client(ws))
    }

    pub async fn send(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    pub async fn send_binary(&mut self, data: &[u8]) {
        self.0.send(Message::binary(data.to_vec())).await.unwrap();
    }

    /// The next message but pings and pongs.
    pub async fn next(&mut self) -> Result<Message, String> {
        // Pings do not count as signs that something comes.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match timeout_at(deadline, self.0.next()).await {
                Err(_) => panic!("nothing came for {PATIENCE:?}"),
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
                Ok(Some(Ok(message))) => return Ok(message),
                Ok(Some(Err(e))) => return Err(e.to_string()),
                Ok(None) => return Err("ended".into()),
            }
        }
    }

    /// The next message, a text.
    pub async fn text(&mut self) -> String {
        match self.next().await {
            Ok(Message::Text(text)) => text.to_string(),
            other => panic!("a text was expected, got {other:?}"),
        }
    }

    pub async fn ask(&mut self, text: &str) -> String {
        self.send(text).await;
        self.text().await
    }

    /// Asks all of these and compares each answer with the one beside it.
    pub async fn ask_all(&mut self, rows: &[(&str, &str)]) {
        let mut wrong = Vec::new();
        for (question, answer) in rows {
            let got = self.ask(question).await;
            if got != *answer {
                wrong.push(format!("{question}\n  gave   {got}\n  wanted {answer}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// The close frame that comes next: code and reason.
    pub async fn close_frame(&mut self) -> (u16, String) {
        match self.next().await {
            Ok(Message::Close(Some(frame))) => (frame.code.into(), frame.reason.to_string()),
            other => panic!("a close frame was expected, got {other:?}"),
        }
    }

    pub async fn close(mut self) {
        let _ = self.0.close(None).await;
        while let Ok(Some(Ok(_))) = timeout(PATIENCE, self.0.next()).await {}
    }

    /// Asserts that nothing comes before the answer to a fresh question does.
    pub async fn expect_only_reply(&mut self, question: &str, answer: &str) {
        assert_eq!(self.ask(question).await, answer);
    }
}

/// One HTTP request on a connection of its own: status and body.
pub async fn http(addr: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut reply)).await.expect("a reply in time").unwrap();
    let reply = String::from_utf8_lossy(&reply).into_owned();
    let status = reply.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = reply.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    (status, body)
}

pub async fn post(addr: SocketAddr, path: &str, body: &str) -> (u16, String) {
    http(
        addr,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
    .await
}

pub async fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    http(addr, &format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")).await
}

/// A figure of a page of metrics, as of [`TestEngine::figure`].
pub async fn figure(api: SocketAddr, sample: &str) -> f64 {
    let (_, page) = get(api, "/metrics").await;
    let value = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{sample} is not in\n{page}")).parse().unwrap()
}

/// How generated input is tried: so many cases, or as many as the environment's `PROPTEST_CASES` says.
pub fn cases(usual: u32) -> ProptestConfig {
    let wanted = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: wanted.unwrap_or(usual), failure_persistence: None, ..ProptestConfig::default() }
}

/// Tries until `check` says Some, at most [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
