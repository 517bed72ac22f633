//! What single values of the configuration can be, beyond numbers, texts, durations and sizes; and the engine's own
//! bounds.

use super::raw::units;
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A worker that has not gone on for that long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(3);

/// `unsentLimit`, unless told; of the APIs always.
pub const UNSENT_LIMIT: usize = 128 << 10;

/// Handlers that may wait at once in a VM; further messages wait unread for their turn.
pub const MAX_WAITING: usize = 16_384;

/// The largest text that scripts may compile with `load`, unless the file says another: 64 KiB.
pub const LOAD_LIMIT: usize = 64 * 1024;

/// The largest script file, in bytes: 8 MiB.
pub const MAX_SCRIPT: usize = 8 * 1024 * 1024;

/// A log line's severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For authors of scripts.
    Debug,
    /// Normal events.
    Info,
    /// Something that needs attention.
    Warn,
    /// Failures.
    Error,
}

impl std::fmt::Display for Level {
    /// The word in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        })
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl std::fmt::Display for Format {
    /// The word in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Format::Text => "text",
            Format::Json => "json",
        })
    }
}

/// Which addresses a user may call from.
#[derive(Debug, Clone, PartialEq)]
pub enum HostPattern {
    /// `*`
    Any,
    /// Four parts, each a number or None for `*`: `172.*.*.*`.
    V4([Option<u8>; 4]),
    /// An address or a CIDR.
    Net(IpNet),
}

impl HostPattern {
    /// Whether a caller's address matches. An IPv4 address that came in over IPv6 counts as IPv4.
    pub fn matches(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        match self {
            HostPattern::Any => true,
            HostPattern::Net(net) => net.contains(&ip),
            HostPattern::V4(parts) => match ip {
                IpAddr::V4(v4) => parts.iter().zip(v4.octets()).all(|(want, got)| want.is_none_or(|w| w == got)),
                IpAddr::V6(_) => false,
            },
        }
    }
}

impl std::fmt::Display for HostPattern {
    /// As the file spells it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HostPattern::Any => f.write_str("*"),
            HostPattern::Net(net) => write!(f, "{net}"),
            HostPattern::V4(parts) => {
                let parts = parts.map(|part| part.map_or("*".to_owned(), |n| n.to_string()));
                f.write_str(&parts.join("."))
            }
        }
    }
}

/// An address to listen on, with the key that named it, for error messages.
#[derive(Debug, Clone, PartialEq)]
pub struct Listen {
    /// `bind` and `port`. Port 0 takes any free one.
    pub addr: SocketAddr,
    /// The key's path: `engine.servers[0].port`.
    pub key: String,
}

impl Listen {
    /// Whether others than this machine reach it.
    pub fn is_beyond_loopback(&self) -> bool {
        !self.addr.ip().to_canonical().is_loopback()
    }
}

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// Metrics, nodes, health.
    pub read: bool,
    /// Publish, send and the rest.
    pub write: bool,
}

/// What `mix.queue.push` does where its topic is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueFull {
    /// It fails.
    Error,
    /// It suspends its handler until there is room.
    Block,
}

impl std::fmt::Display for QueueFull {
    /// The word in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            QueueFull::Error => "error",
            QueueFull::Block => "block",
        })
    }
}

/// How the connections of a channel get its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope {
    /// As they were published.
    None,
    /// As the text of a JSON object, with the channel and the position.
    Json,
}

impl std::fmt::Display for Envelope {
    /// The word in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Envelope::None => "none",
            Envelope::Json => "json",
        })
    }
}

/// Whether there are other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterEngine {
    /// Nobody: this process alone.
    Memory,
    /// Other nodes.
    Mesh,
}

impl std::fmt::Display for ClusterEngine {
    /// The word in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ClusterEngine::Memory => "memory",
            ClusterEngine::Mesh => "mesh",
        })
    }
}

/// Which parts of a cluster a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRole {
    /// It serves clients.
    pub engine: bool,
    /// It is where others find the nodes.
    pub center: bool,
}

impl NodeRole {
    /// Both in one process.
    pub const SINGLE: NodeRole = NodeRole { engine: true, center: true };
}

/// What the sandbox can let in besides the usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// `io`
    Io,
    /// The whole of `os`.
    Os,
}

impl std::fmt::Display for Library {
    /// The word in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Library::Io => "io",
            Library::Os => "os",
        })
    }
}

/// What a server's clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// WebSocket (RFC 6455).
    Websocket,
    /// Whatever the script makes of TCP's bytes.
    Socket,
}

impl Protocol {
    /// The word in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Websocket => "websocket",
            Protocol::Socket => "socket",
        }
    }
}

impl std::fmt::Display for Protocol {
    /// The word in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// So many of something for each time; as many may come at once after a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many; 0 = no limit.
    pub count: u64,
    /// The time.
    pub per: Duration,
}

impl Rate {
    /// No limit.
    pub const NONE: Rate = Rate { count: 0, per: Duration::from_secs(1) };

    /// Whether there is no limit.
    pub fn is_none(self) -> bool {
        self.count == 0
    }
}

/// Whether connections begin with a header that tells whom a proxy connects for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// They do not.
    Off,
    /// With one of version 1 or 2 of the PROXY protocol.
    V1V2,
}

impl std::fmt::Display for ProxyProtocol {
    /// The word in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ProxyProtocol::Off => "off",
            ProxyProtocol::V1V2 => "v1v2",
        })
    }
}

/// Whether messages of clients that offer it are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// They are not.
    Off,
    /// By permessage-deflate (RFC 7692).
    On,
}

impl std::fmt::Display for Compression {
    /// The word in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Compression::Off => "off",
            Compression::On => "on",
        })
    }
}

/// Whether clients may have server-sent events instead of a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventStream {
    /// They may not.
    Off,
    /// On the same path, by `Accept: text/event-stream`.
    On,
}

impl std::fmt::Display for EventStream {
    /// The word in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            EventStream::Off => "off",
            EventStream::On => "on",
        })
    }
}

/// What happens to the messages of a channel that wait for a client which does not keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slow {
    /// They stay, and the client is closed once too much waits.
    Close,
    /// The oldest are dropped once too much waits.
    DropOldest,
    /// A newer one with the same key takes the place of an older one.
    Latest,
}

impl std::fmt::Display for Slow {
    /// The word in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Slow::Close => "close",
            Slow::DropOldest => "dropOldest",
            Slow::Latest => "latest",
        })
    }
}

/// What happens to the publishes of a channel that are over its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// They are left out.
    Drop,
    /// They are left out, evenly over the time.
    Sample,
    /// Those that are alike are added up.
    Merge,
}

impl std::fmt::Display for Over {
    /// The word in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Over::Drop => "drop",
            Over::Sample => "sample",
            Over::Merge => "merge",
        })
    }
}

/// From when on memory is short: see [`Memory`](super::Memory).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum High {
    /// So many percent.
    Percent(u8),
    /// So many bytes; 0 = no mark.
    Bytes(usize),
}

impl std::fmt::Display for High {
    /// As the file spells it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            High::Percent(percent) => write!(f, "{percent}%"),
            High::Bytes(bytes) => f.write_str(&units::size(*bytes)),
        }
    }
}
