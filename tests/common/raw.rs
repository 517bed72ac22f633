//! Clients that write and read bytes: for what a well-behaved client never sends, and for exactly what comes back.

use super::PATIENCE;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

pub const FIN: u8 = 0x80;
pub const CONTINUE: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

/// A valid upgrade request for `/ws`.
pub fn upgrade() -> String {
    upgrade_with("")
}

/// The same with more headers, each ending in CRLF.
pub fn upgrade_with(headers: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// A frame as a client sends it: masked. `first` is its first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xFA, 0x21, 0x3D];
    let mut bytes = header(first, payload.len());
    bytes[1] |= 0x80;
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, k)| b ^ k));
    bytes
}

pub fn text(text: &str) -> Vec<u8> {
    frame(FIN | TEXT, text.as_bytes())
}

/// A close frame with that code.
pub fn close(code: u16) -> Vec<u8> {
    frame(FIN | CLOSE, &code.to_be_bytes())
}

fn header(first: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    match len {
        0..=125 => bytes.push(len as u8),
        126..=0xFFFF => {
            bytes.push(126);
            bytes.extend((len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes
}

/// What an HTTP server answered.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    /// All lines before the empty one.
    pub head: String,
    pub body: String,
}

impl Reply {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// A TCP connection to the engine.
pub struct Raw {
    pub stream: TcpStream,
    /// Read and not used yet.
    got: Vec<u8>,
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.unwrap_or_else(|_| panic!("nothing happened for {PATIENCE:?}"))
}

impl Raw {
    pub async fn dial(addr: SocketAddr) -> Raw {
        let stream = in_time(TcpStream::connect(addr)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Raw { stream, got: Vec::new() }
    }

    /// From an address of this machine's own.
    pub async fn dial_from(ip: IpAddr, addr: SocketAddr) -> Raw {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(ip, 0)).unwrap();
        let stream = in_time(socket.connect(addr)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Raw { stream, got: Vec::new() }
    }

    /// A connection that takes only a few bytes before it is read from.
    pub async fn narrow(addr: SocketAddr) -> Raw {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = in_time(socket.connect(addr)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Raw { stream, got: Vec::new() }
    }

    /// An open WebSocket at `/ws`.
    pub async fn open(addr: SocketAddr) -> Raw {
        Raw::dial(addr).await.opened().await
    }

    /// Does the handshake.
    pub async fn opened(mut self) -> Raw {
        self.write(upgrade()).await;
        let head = self.head().await;
        assert_eq!(head.status, 101, "{head:?}");
        self
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        in_time(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Writes what may go to a connection that has ended.
    pub async fn write_into_the_dark(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = in_time(self.stream.write_all(bytes.as_ref())).await;
    }

    /// Reads until there are `wanted` bytes; false if the connection ends before.
    async fn fill(&mut self, wanted: usize) -> bool {
        while self.got.len() < wanted {
            match in_time(self.stream.read_buf(&mut self.got)).await {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
        }
        true
    }

    /// The next `n` bytes, or fewer when it ends before.
    pub async fn rest_of(&mut self, n: usize) -> Vec<u8> {
        self.fill(n).await;
        let n = n.min(self.got.len());
        self.got.drain(..n).collect()
    }

    /// The next `n` bytes.
    pub async fn take(&mut self, n: usize) -> Vec<u8> {
        assert!(self.fill(n).await, "ended after {:?}", String::from_utf8_lossy(&self.got));
        self.got.drain(..n).collect()
    }

    /// The next line, without its end.
    pub async fn line(&mut self) -> String {
        let mut line = Vec::new();
        loop {
            match self.take(1).await[0] {
                b'\n' => return String::from_utf8(line).unwrap(),
                byte => line.push(byte),
            }
        }
    }

    /// A response's head; what follows it stays for later.
    pub async fn head(&mut self) -> Reply {
        let end = loop {
            if let Some(end) = self.got.windows(4).position(|w| w == b"\r\n\r\n") {
                break end;
            }
            let more = self.got.len() + 1;
            assert!(self.fill(more).await, "ended before a response: {:?}", String::from_utf8_lossy(&self.got));
        };
        let head = String::from_utf8(self.got.drain(..end + 4).take(end).collect()).unwrap();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status: {head}"));
        Reply { status, head, body: String::new() }
    }

    /// A whole response.
    pub async fn reply(&mut self) -> Reply {
        let mut reply = self.head().await;
        let len = reply.header("Content-Length").map_or(0, |len| len.parse().unwrap());
        assert!(self.fill(len).await, "ended within the body of {reply:?}");
        reply.body = String::from_utf8(self.got.drain(..len).collect()).unwrap();
        reply
    }

    /// A request and its response.
    pub async fn call(&mut self, request: impl AsRef<[u8]>) -> Reply {
        self.write(request).await;
        self.reply().await
    }

    /// The next frame, which must be as a server sends them; None at the connection's end.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        if !self.fill(2).await {
            return None;
        }
        let (first, len) = (self.got[0], self.got[1]);
        assert_eq!(first & 0xF0, FIN, "whole messages, no extension");
        assert!(len & 0x80 == 0, "a server does not mask");
        let extended = match len {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if !self.fill(2 + extended).await {
            return None;
        }
        let len = match extended {
            0 => usize::from(len),
            n => self.got[2..2 + n].iter().fold(0, |len, b| len << 8 | usize::from(*b)),
        };
        if !self.fill(2 + extended + len).await {
            return None;
        }
        let payload = self.got.drain(..2 + extended + len).skip(2 + extended).collect();
        Some((first & 0x0F, payload))
    }

    /// The next frame, a text.
    pub async fn text(&mut self) -> String {
        match self.frame().await {
            Some((TEXT, payload)) => String::from_utf8(payload).unwrap(),
            other => panic!("a text was expected, got {other:?}"),
        }
    }

    pub async fn ask(&mut self, question: &str) -> String {
        self.write(text(question)).await;
        self.text().await
    }

    /// The next frame, a close frame: its code (0: none) and reason.
    pub async fn close_frame(&mut self) -> (u16, String) {
        match self.frame().await {
            Some((CLOSE, payload)) if payload.is_empty() => (0, String::new()),
            Some((CLOSE, payload)) => {
                (u16::from_be_bytes([payload[0], payload[1]]), String::from_utf8(payload[2..].to_vec()).unwrap())
            }
            other => panic!("a close frame was expected, got {other:?}"),
        }
    }

    /// Everything up to the end of the connection, which must come.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill(self.got.len() + 1).await {}
        std::mem::take(&mut self.got)
    }

    /// Asserts that nothing comes any more but the end.
    pub async fn ends(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "more came: {:?}", String::from_utf8_lossy(&rest[..rest.len().min(200)]));
    }
}
