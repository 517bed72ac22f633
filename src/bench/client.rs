//! WebSocket clients for measuring: many on one thread, with one read buffer for all, that count what comes.

use futures_util::stream::{FuturesUnordered, StreamExt};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::sync::Notify;

use super::target::Target;
use crate::dial::stream::{Stream, Tls};

const READ_BUFFER: usize = 256 * 1024;
/// The longest frame that is waited for, in bytes.
const MAX_FRAME: usize = 64 * 1024 * 1024;
/// Connections that are opened at once.
const OPENING: usize = 256;
/// A time stamp in a payload: this, then 16 hexadecimal digits of nanoseconds.
const STAMP: &[u8] = b"@t=";

/// What all clients of a measurement have received.
pub(super) struct Counters {
    started: Instant,
    /// Data frames.
    pub frames: Cell<u64>,
    /// Notified after each [`Counters::every`] frames.
    pub progress: Notify,
    /// How many frames make progress.
    pub every: Cell<u64>,
    /// Delays of the time-stamped frames that were sampled, in nanoseconds.
    pub delays: RefCell<Vec<u64>>,
    buffer: Cell<Vec<u8>>,
}

impl Counters {
    pub(super) fn new() -> Rc<Counters> {
        Rc::new(Counters {
            started: Instant::now(),
            frames: Cell::new(0),
            progress: Notify::new(),
            every: Cell::new(1),
            delays: RefCell::default(),
            buffer: Cell::new(vec![0; READ_BUFFER]),
        })
    }

    /// Nanoseconds since the measurement began.
    pub(super) fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// A time stamp for a payload.
    pub(super) fn stamp(&self) -> String {
        format!("@t={:016x}", self.now())
    }

    fn received(&self, payload: &[u8], sampled: bool) {
        let frames = self.frames.get() + 1;
        self.frames.set(frames);
        if sampled && let Some(sent) = stamp_of(payload) {
            self.delays.borrow_mut().push(self.now().saturating_sub(sent));
        }
        if frames.is_multiple_of(self.every.get()) {
            self.progress.notify_waiters();
        }
    }
}

fn stamp_of(payload: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(payload, STAMP)? + STAMP.len();
    u64::from_str_radix(std::str::from_utf8(payload.get(at..at + 16)?).ok()?, 16).ok()
}

/// One open connection.
pub(super) struct Client {
    stream: Stream,
    /// Bytes of an incomplete frame.
    partial: Vec<u8>,
    /// Frames that answer pings.
    pongs: Vec<u8>,
    sampled: bool,
}

impl Client {
    /// Connects and shakes hands.
    pub(super) async fn open(addr: SocketAddr, tls: Option<&Tls>, path: &str) -> io::Result<Client> {
        let mut stream = Stream::connect(addr, tls).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {addr}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut head = Vec::with_capacity(256);
        let end = loop {
            if let Some(end) = memchr::memmem::find(&head, b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut head).await? == 0 || head.len() > 16 * 1024 {
                return Err(io::Error::other("the server ended the handshake"));
            }
        };
        if !head.starts_with(b"HTTP/1.1 101 ") {
            let line = String::from_utf8_lossy(head.split(|&b| b == b'\r').next().unwrap_or_default()).into_owned();
            return Err(io::Error::other(format!("the server refused the handshake: {line}")));
        }
        Ok(Client { stream, partial: head.split_off(end), pongs: Vec::new(), sampled: false })
    }

    /// Its socket.
    pub(super) fn socket(&self) -> socket2::SockRef<'_> {
        self.stream.socket()
    }

    /// Sends bytes that are frames already.
    pub(super) async fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.stream.write_all(frames).await?;
        self.stream.flush().await
    }

    /// Reads once, counts the frames, and says how many there were; an error when the server ends the connection. Answers
    /// pings.
    pub(super) async fn read(&mut self, counters: &Counters) -> io::Result<u64> {
        // Frames may have come right behind the handshake.
        let count = match frame(&self.partial) {
            Some(_) => self.count(&[], counters)?,
            None => std::future::poll_fn(|cx| self.poll_read(cx, counters)).await?,
        };
        if !self.pongs.is_empty() {
            let pongs = std::mem::take(&mut self.pongs);
            self.send(&pongs).await?;
        }
        Ok(count)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, counters: &Counters) -> Poll<io::Result<u64>> {
        let mut buffer = counters.buffer.take();
        buffer.resize(READ_BUFFER, 0);
        let mut chunk = ReadBuf::new(&mut buffer);
        let result = Pin::new(&mut self.stream).poll_read(cx, &mut chunk);
        let result = result.map(|read| {
            read?;
            if chunk.filled().is_empty() {
                return Err(io::Error::other("the server ended the connection"));
            }
            self.count(chunk.filled(), counters)
        });
        counters.buffer.set(buffer);
        result
    }

    fn count(&mut self, bytes: &[u8], counters: &Counters) -> io::Result<u64> {
        let joined;
        let mut rest = if self.partial.is_empty() {
            bytes
        } else {
            self.partial.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.partial);
            &joined[..]
        };
        let mut count = 0;
        while let Some((opcode, payload, len)) = frame(rest) {
            match opcode {
                0..=2 => {
                    counters.received(payload, self.sampled);
                    count += 1;
                }
                8 => return Err(io::Error::other("the server closed the connection")),
                9 => self.pongs.extend_from_slice(&masked_frame(10, payload)),
                _ => {}
            }
            rest = &rest[len..];
        }
        if rest.len() > MAX_FRAME {
            return Err(io::Error::other("the server sends a frame that is too long"));
        }
        self.partial.extend_from_slice(rest);
        Ok(count)
    }
}

/// The first frame of the server's bytes (never masked): opcode, payload, whole length.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (start, len): (usize, usize) = match second & 127 {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
        len => (2, usize::from(len)),
    };
    Some((first & 15, bytes.get(start..start.checked_add(len)?)?, start + len))
}

/// A client's text frame.
pub(super) fn text_frame(text: &str) -> Vec<u8> {
    masked_frame(1, text.as_bytes())
}

/// A client's frame. The mask is fixed: nothing between here and the server needs protecting from it.
fn masked_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..65536 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
    frame
}

/// The connections to open.
pub(super) struct Crowd<'a> {
    /// What each sends for each of its channels, to be answered once.
    pub hello: &'a str,
    /// How many connections.
    pub count: usize,
    /// Channels that each is in.
    pub subscriptions: usize,
    /// Channels in all.
    pub channels: usize,
}

impl Crowd<'_> {
    /// The frames that connection `i` sends first.
    fn greetings(&self, i: usize) -> Vec<u8> {
        let mut frames = Vec::new();
        for k in 0..self.subscriptions {
            let channel = (i * self.subscriptions + k) % self.channels.max(1);
            let hello = self.hello.replace("{c}", &channel.to_string()).replace("{i}", &i.to_string());
            if !hello.is_empty() {
                frames.extend_from_slice(&text_frame(&hello));
            }
        }
        frames
    }

    /// Opens connection `i`, says its hellos and waits for the answers.
    pub(super) async fn open(&self, i: usize, target: &Target, counters: &Counters) -> io::Result<Client> {
        let channel = i * self.subscriptions % self.channels.max(1);
        let path = target.path.replace("{c}", &channel.to_string());
        let mut client = Client::open(target.ws, target.ws_tls.as_ref(), &path).await?;
        if !self.hello.is_empty() {
            client.send(&self.greetings(i)).await?;
            let mut answers = 0;
            while answers < self.subscriptions as u64 {
                answers += client.read(counters).await?;
            }
        }
        Ok(client)
    }

    /// Opens them all, a few at a time.
    pub(super) async fn open_all(&self, target: &Target, counters: &Counters) -> Result<Vec<Client>, String> {
        let sample_every = (self.count / 64).max(1);
        let next = Cell::new(0);
        let clients = RefCell::new(Vec::with_capacity(self.count));
        let opening = (0..OPENING.min(self.count)).map(|_| async {
            while next.get() < self.count {
                let i = next.replace(next.get() + 1);
                let mut client = self.open(i, target, counters).await?;
                client.sampled = i.is_multiple_of(sample_every);
                clients.borrow_mut().push(client);
            }
            Ok(())
        });
        side_by_side(opening).await.map_err(|e| format!("{}: {e}", target.ws))?;
        Ok(clients.into_inner())
    }
}

/// Runs futures side by side until all are done; returns the first error of any.
pub(super) async fn side_by_side<F: Future<Output = io::Result<()>>>(all: impl Iterator<Item = F>) -> io::Result<()> {
    let mut running: FuturesUnordered<F> = all.collect();
    while let Some(outcome) = running.next().await {
        outcome?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn pings_are_answered_so_that_a_long_measurement_is_no_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut head).await.unwrap();
            }
            stream.write_all(b"HTTP/1.1 101 \r\n\r\n\x89\x02hi\x81\x01x").await.unwrap();
            let mut pong = [0; 8];
            stream.read_exact(&mut pong).await.unwrap();
            pong
        };
        let counters = Counters::new();
        let client = async {
            let mut client = Client::open(addr, None, "/").await.unwrap();
            while client.read(&counters).await.is_ok_and(|frames| frames == 0) {}
        };
        let (pong, ()) = tokio::join!(server, client);
        assert_eq!(pong, [0x8a, 0x82, 0x12, 0x34, 0x56, 0x78, b'h' ^ 0x12, b'i' ^ 0x34]);
        assert_eq!(counters.frames.get(), 1, "a ping is no message");
    }
}
