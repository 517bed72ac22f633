//! Ten thousand connections: everybody gets every message in order, and when they have gone, nothing of them is left.
//!
//! The program runs as a child, so that its memory and its file descriptors are its own. The clients are one thread that
//! polls all their sockets and takes the frames apart by hand: on a small machine it must not be what is measured.

mod common;

use common::process::Process;
use serde_json::Value;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Connections, where the system lets one process have that many.
const CROWD: usize = 10_000;
/// Subscribers of a channel.
const AUDIENCE: usize = 100;
/// Messages to each channel in the first round and in the second, which is for what the first has left behind.
const MESSAGES: [usize; 2] = [100, 10];
/// Handshakes under way at once: fewer than the kernel keeps waiting.
const ARRIVALS: usize = 500;
/// Calls under way at once on each of the publishers' connections.
const PIPELINE: usize = 16;
const PUBLISHERS: usize = 4;
/// Messages to a channel before it is the next one's turn.
const BURST: usize = 10;
/// The longest that any one step may take; far more than it does.
const PATIENCE: Duration = Duration::from_secs(90);

const SCRIPT: &str = "\
function on_message(msg, conn)
  conn:set_context_value('channel', msg.data)
  conn:send(conn:subscribe(msg.data) or 'ok')
end
function on_close(id, err, conn)
  assert(conn:context_value('channel'))
end
";

/// What a client has got so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Handshake,
    Subscribing,
    /// Subscribed; how many messages have come.
    Listening(usize),
    /// Its close frame was answered, or its socket has ended.
    Gone,
}

struct Member {
    socket: TcpStream,
    channel: usize,
    stage: Stage,
    /// The beginning of a frame (or of the handshake's response) whose rest has not come yet.
    kept: Vec<u8>,
}

/// All clients, and how many have reached what is waited for.
struct Crowd {
    poll: i32,
    members: Vec<Member>,
    buffer: Vec<u8>,
    /// Messages that each is to get.
    messages: usize,
    open: usize,
    subscribed: usize,
    complete: usize,
    gone: usize,
}

/// A client's frame with a mask of zeros, which leaves the payload as it is.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// Takes a server's frame off the front: its opcode and payload. None: more bytes are needed.
fn take_frame<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let len = usize::from(second);
    assert!(first & 0x80 != 0 && len < 126, "a whole, short, unmasked frame: {first:#x} {second:#x}");
    let payload = bytes.get(2..2 + len)?;
    *bytes = &bytes[2 + len..];
    Some((first & 0x0f, payload))
}

fn channel_name(channel: usize) -> String {
    format!("crowd:{channel}")
}

impl Member {
    /// Takes what has come, and counts the stages that it has reached.
    fn take(&mut self, bytes: &[u8], messages: usize, crowd: &mut Counts) {
        let mut joined;
        let mut rest = bytes;
        if !self.kept.is_empty() {
            joined = std::mem::take(&mut self.kept);
            joined.extend_from_slice(bytes);
            rest = &joined;
        }
        if self.stage == Stage::Handshake {
            let Some(end) = rest.windows(4).position(|w| w == b"\r\n\r\n") else {
                self.kept = rest.to_vec();
                return;
            };
            assert!(rest.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(rest));
            rest = &rest[end + 4..];
            self.stage = Stage::Subscribing;
            crowd.open += 1;
        }
        while let Some((opcode, payload)) = take_frame(&mut rest) {
            match (opcode, self.stage) {
                (1, Stage::Subscribing) => {
                    assert_eq!(payload, b"ok");
                    self.stage = Stage::Listening(0);
                    crowd.subscribed += 1;
                }
                (1, Stage::Listening(got)) => {
                    // Order and content at once: the next one, of this client's channel.
                    let mut want = [0; 32];
                    let len = message(&mut want, self.channel, got);
                    assert_eq!(payload, &want[..len], "message {got} of channel {}", self.channel);
                    self.stage = Stage::Listening(got + 1);
                    crowd.complete += usize::from(got + 1 == messages);
                }
                (8, _) => {
                    self.stage = Stage::Gone;
                    crowd.gone += 1;
                }
                // The server's pings need no answer here: a round is short.
                (9, _) => {}
                (opcode, _) => panic!("opcode {opcode} with {payload:?}"),
            }
        }
        if !rest.is_empty() {
            self.kept = rest.to_vec();
        }
    }
}

/// Writes the text of a message; how long it is.
fn message(to: &mut [u8], channel: usize, number: usize) -> usize {
    let len = to.len();
    let mut rest = &mut to[..];
    write!(rest, "{channel}/{number}").unwrap();
    len - rest.len()
}

#[derive(Default)]
struct Counts {
    open: usize,
    subscribed: usize,
    complete: usize,
    gone: usize,
}

impl Crowd {
    fn new(messages: usize) -> Crowd {
        // SAFETY: the call takes flags and returns a number.
        let poll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        assert!(poll >= 0, "{}", std::io::Error::last_os_error());
        let buffer = vec![0; 64 * 1024];
        Crowd { poll, members: Vec::new(), buffer, messages, open: 0, subscribed: 0, complete: 0, gone: 0 }
    }

    /// Opens a connection and asks for the handshake.
    fn arrive(&mut self, server: SocketAddr, channel: usize) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // Several source addresses, so that ports that were used a moment ago are not in the way.
        let from = SocketAddr::from(([127, 0, 0, 1 + (self.members.len() % 8) as u8], 0));
        socket.bind(&SockAddr::from(from)).unwrap();
        socket.connect(&SockAddr::from(server)).unwrap();
        let mut socket = TcpStream::from(socket);
        let request = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
        socket.write_all(request.as_bytes()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: self.members.len() as u64 };
        // SAFETY: the call reads the event.
        let added = unsafe { libc::epoll_ctl(self.poll, libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &mut event) };
        assert_eq!(added, 0, "{}", std::io::Error::last_os_error());
        self.members.push(Member { socket, channel, stage: Stage::Handshake, kept: Vec::new() });
    }

    /// Reads whatever comes, until `done`.
    fn run(&mut self, what: &str, done: impl Fn(&Crowd) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 1024];
        while !done(self) {
            assert!(
                Instant::now() < deadline,
                "not in time: {what}; {} open, {} subscribed, {} complete, {} gone of {}",
                self.open,
                self.subscribed,
                self.complete,
                self.gone,
                self.members.len()
            );
            // SAFETY: the call fills in at most as many events as there is room for.
            let ready = unsafe { libc::epoll_wait(self.poll, events.as_mut_ptr(), events.len() as i32, 100) };
            for event in &events[..ready.max(0) as usize] {
                self.read(event.u64 as usize);
            }
        }
    }

    fn read(&mut self, member: usize) {
        let member = &mut self.members[member];
        match member.socket.read(&mut self.buffer) {
            Ok(0) => {
                assert!(member.stage == Stage::Gone, "the server ended a connection");
                // SAFETY: taking one out reads no event.
                let _ = unsafe {
                    libc::epoll_ctl(self.poll, libc::EPOLL_CTL_DEL, member.socket.as_raw_fd(), std::ptr::null_mut())
                };
            }
            Ok(n) => {
                let mut counts = Counts::default();
                member.take(&self.buffer[..n], self.messages, &mut counts);
                self.open += counts.open;
                self.subscribed += counts.subscribed;
                self.complete += counts.complete;
                self.gone += counts.gone;
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) => panic!("a client's socket: {e}"),
        }
    }

    fn send(&mut self, member: usize, frame: &[u8]) {
        // A few bytes on an idle socket: they always fit.
        self.members[member].socket.write_all(frame).unwrap();
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody uses it any more.
        unsafe { libc::close(self.poll) };
    }
}

/// One connection to the API that is kept, with several calls under way.
struct Caller {
    socket: TcpStream,
    kept: Vec<u8>,
}

impl Caller {
    fn new(api: SocketAddr) -> Caller {
        let socket = TcpStream::connect(api).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Caller { socket, kept: Vec::new() }
    }

    fn call(&mut self, channel: &str, data: &str) {
        let body = format!("{{\"c\":\"{channel}\",\"d\":\"{data}\"}}");
        let request = format!(
            "POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.socket.write_all(request.as_bytes()).unwrap();
    }

    /// The next answer's counts: reached and failed.
    fn counts(&mut self) -> (u64, u64) {
        let mut bytes = [0; 16 * 1024];
        loop {
            if let Some(end) = self.kept.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.kept[..end]).to_lowercase();
                assert!(head.starts_with("http/1.1 200"), "{head}");
                let len = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
                let total = end + 4 + len.parse::<usize>().unwrap();
                if self.kept.len() >= total {
                    let reply: Value = serde_json::from_slice(&self.kept[end + 4..total]).unwrap();
                    self.kept.drain(..total);
                    return (reply["r"]["s"].as_u64().unwrap(), reply["r"]["f"].as_u64().unwrap());
                }
            }
            let n = self.socket.read(&mut bytes).unwrap();
            assert!(n > 0, "the API ended the connection");
            self.kept.extend_from_slice(&bytes[..n]);
        }
    }
}

/// Publishes every message of every `PUBLISHERS`-th channel, from the first on: round the channels, a burst to each.
fn publish(api: SocketAddr, first: usize, channels: usize, messages: usize) {
    let mut caller = Caller::new(api);
    let mut under_way = 0;
    let settle = |caller: &mut Caller| assert_eq!(caller.counts(), (AUDIENCE as u64, 0), "reached and failed");
    for burst in 0..messages / BURST {
        for channel in (first..channels).step_by(PUBLISHERS) {
            for number in burst * BURST..(burst + 1) * BURST {
                let mut text = [0; 32];
                let len = message(&mut text, channel, number);
                caller.call(&channel_name(channel), std::str::from_utf8(&text[..len]).unwrap());
                under_way += 1;
                if under_way == PIPELINE {
                    settle(&mut caller);
                    under_way -= 1;
                }
            }
        }
    }
    for _ in 0..under_way {
        settle(&mut caller);
    }
}

/// The number of clients that `/v1/nodes` tells.
fn clients(center: SocketAddr) -> u64 {
    let mut socket = TcpStream::connect(center).unwrap();
    socket.write_all(b"GET /v1/nodes HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut reply = String::new();
    socket.read_to_string(&mut reply).unwrap();
    let body = reply.split_once("\r\n\r\n").unwrap().1;
    serde_json::from_str::<Value>(body).unwrap()["nodes"][0]["clients"].as_u64().unwrap()
}

/// Tries until it is so.
fn until(what: &str, check: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Everybody comes, gets everything, and leaves.
fn round(server: SocketAddr, api: SocketAddr, center: SocketAddr, size: usize, messages: usize) {
    let channels = size / AUDIENCE;
    let mut crowd = Crowd::new(messages);
    while crowd.members.len() < size {
        let batch = (size - crowd.members.len()).min(ARRIVALS);
        for _ in 0..batch {
            let channel = crowd.members.len() % channels;
            crowd.arrive(server, channel);
        }
        let all = crowd.members.len();
        crowd.run("handshakes", |crowd| crowd.open == all);
        for member in all - batch..all {
            let name = channel_name(crowd.members[member].channel);
            crowd.send(member, &frame(1, name.as_bytes()));
        }
    }
    crowd.run("subscriptions", |crowd| crowd.subscribed == size);
    assert_eq!(clients(center), size as u64);

    std::thread::scope(|scope| {
        for first in 0..PUBLISHERS {
            scope.spawn(move || publish(api, first, channels, messages));
        }
        crowd.run("every message", |crowd| crowd.complete == size);
    });

    // Half of them take their leave, the others are just gone.
    for member in (0..size).step_by(2) {
        crowd.send(member, &frame(8, &1000u16.to_be_bytes()));
    }
    crowd.run("the close frames are answered", |crowd| crowd.gone == size.div_ceil(2));
    for member in &crowd.members {
        let got_all = [Stage::Gone, Stage::Listening(messages)].contains(&member.stage);
        assert!(got_all && member.kept.is_empty());
    }
    drop(crowd);
    until("all connections have ended", || clients(center) == 0);
    let mut caller = Caller::new(api);
    for channel in 0..channels {
        caller.call(&channel_name(channel), "anybody?");
        assert_eq!(caller.counts(), (0, 0), "channel {channel} is empty");
    }
}

/// As many connections as one process may have; all of them if the system lets it.
fn size() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the calls fill in and read what they are given.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
    let size = CROWD.min((limit.rlim_max as usize).saturating_sub(200) / AUDIENCE * AUDIENCE);
    if size < CROWD {
        eprintln!("a process may have {} files open here (ulimit -Hn): {size} connections only", limit.rlim_max);
    }
    size
}

#[test]
fn a_crowd_gets_everything_in_order_and_leaves_nothing_behind() {
    let size = size();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    // The center's port is chosen beforehand, since the program does not print it.
    let center = common::ports::free_addr();
    let config = dir.path().join("connmix.yaml");
    common::write_config(&config, "", "", "");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replacen("port: 0", &format!("port: {}", center.port()), 1);
    std::fs::write(&config, text).unwrap();
    let process = Process::ready(dir.path(), &["single"]);
    let (server, api) = (process.ws(), process.api());

    let empty = process.resident();
    let mut after = Vec::new();
    for messages in MESSAGES {
        round(server, api, center, size, messages);
        after.push(process.resident());
    }
    // Memory that a crowd has left goes back, or is used again by the next one: it does not add up.
    let mib = 1024 * 1024;
    let told = format!("resident: {empty} empty, {after:?} after each round");
    assert!(after[1] <= after[0] + 8 * mib, "{told}");
    assert!(after[1] <= empty + 128 * mib, "{told}");
    let ended = process.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let complaints: Vec<&str> = ended.out.lines().filter(|l| l.contains("ERROR") || l.contains("WARN")).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}
