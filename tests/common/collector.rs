//! A collector of OpenTelemetry, as far as an exporter sees it: an HTTP server that keeps what it is sent.

use super::eventually;
use serde_json::Value;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The usual answer: all is taken.
pub const TAKEN: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
/// No answer: the connection stays open.
pub const SILENCE: &str = "";

/// A request.
#[derive(Debug, Clone)]
pub struct Received {
    /// All lines before the empty one.
    pub head: String,
    pub body: String,
}

#[derive(Default)]
struct State {
    received: Vec<Received>,
    /// The next answers; afterwards the usual one.
    answers: VecDeque<String>,
}

/// A collector.
pub struct Collector {
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Collector {
    pub async fn start() -> Collector {
        Collector::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    /// One that listens there.
    pub fn on(listener: TcpListener) -> Collector {
        let (addr, state) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(State::default())));
        let shared = state.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, shared.clone()));
            }
        });
        Collector { addr, state }
    }

    /// Answers the next requests so, one after the other.
    pub fn answer(&self, answers: &[&str]) {
        self.state.lock().unwrap().answers.extend(answers.iter().map(|answer| (*answer).to_owned()));
    }

    /// What has come so far.
    pub fn received(&self) -> Vec<Received> {
        self.state.lock().unwrap().received.clone()
    }

    /// The spans that have come so far.
    pub fn spans(&self) -> Vec<Value> {
        let mut spans = Vec::new();
        for request in self.received() {
            let body: Value = serde_json::from_str(&request.body).unwrap();
            spans.extend(body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().iter().cloned());
        }
        spans
    }

    /// The first span of that name, once it has come.
    pub async fn span(&self, name: &str) -> Value {
        eventually(name, async || self.spans().into_iter().find(|span| span["name"] == name)).await
    }

    /// The spans of that name, once there are so many.
    pub async fn all(&self, name: &str, count: usize) -> Vec<Value> {
        eventually(name, async || {
            let found: Vec<Value> = self.spans().into_iter().filter(|span| span["name"] == name).collect();
            assert!(found.len() <= count, "{found:#?}");
            (found.len() == count).then_some(found)
        })
        .await
    }
}

async fn serve(mut socket: TcpStream, state: Arc<Mutex<State>>) -> Option<()> {
    let mut input = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = input.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if socket.read_buf(&mut input).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8(input[..end].to_vec()).unwrap();
        let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        while input.len() < end + 4 + length {
            if socket.read_buf(&mut input).await.ok()? == 0 {
                return None;
            }
        }
        let body = String::from_utf8(input[end + 4..end + 4 + length].to_vec()).unwrap();
        input.drain(..end + 4 + length);
        let answer = {
            let mut state = state.lock().unwrap();
            state.received.push(Received { head, body });
            state.answers.pop_front().unwrap_or_else(|| TAKEN.to_owned())
        };
        socket.write_all(answer.as_bytes()).await.ok()?;
        if answer.is_empty() {
            std::future::pending::<()>().await;
        }
    }
}

/// A header's value in a request's head.
pub fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// The value of an attribute of a span, an event or a resource, as text.
pub fn attribute(of: &Value, key: &str) -> Option<String> {
    let all = of["attributes"].as_array()?;
    let value = &all.iter().find(|attribute| attribute["key"] == key)?["value"];
    let text = value["stringValue"].as_str().or_else(|| value["intValue"].as_str());
    Some(text.unwrap_or_else(|| panic!("neither a text nor a number: {value}")).to_owned())
}
