//! What connmix.yaml means, checked and with every default filled in.
//!
//! `raw` knows the spelling and where each value stands; `load` turns that into the types below; `reload` compares two of
//! them. The rest of the program sees only these types.

use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub mod file;
pub mod load;
mod memory;
mod raw;
pub mod reload;

pub use memory::{High, Memory};
pub use raw::UNSENT_LIMIT;
pub use raw::units::{Quantity, parse_duration};

/// A worker that has not gone on for that long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(3);

/// The whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file this came from.
    pub file: PathBuf,
    /// `logging`
    pub logging: Logging,
    /// `access.users`; empty = open.
    pub users: Vec<User>,
    /// `access.origins`: whose pages may call the APIs, as browsers write them; empty = nobody's.
    pub origins: Vec<String>,
    /// `center.apiServer`
    pub center: Listen,
    /// `engine.apiServer`
    pub api: ApiServer,
    /// `engine.workers`; 0 = one a core.
    pub workers: usize,
    /// `engine.memory`
    pub memory: Memory,
    /// `engine.maxSubscriptions`: of all clients together.
    pub max_subscriptions: usize,
    /// `engine.luavm`
    pub luavm: LuaVm,
    /// `engine.servers`, in the file's order.
    pub servers: Vec<Server>,
    /// `prometheus.summary`
    pub summary: Summary,
    /// `trustedProxies`
    pub trusted_proxies: Vec<IpNet>,
    /// `shutdownTimeout`
    pub shutdown_timeout: Duration,
    /// How long a worker may not go on until it counts as stuck: [`STUCK_AFTER`], but for tests.
    pub stuck_after: Duration,
    /// `cluster`
    pub cluster: Cluster,
    /// Things worth a line in the log: keys that are read and not used, and the like.
    pub notes: Vec<String>,
}

impl Config {
    /// The APIs that everybody on the network may call: they listen on more than loopback, and there are no users.
    pub fn open_apis(&self) -> impl Iterator<Item = &Listen> {
        let apis = [&self.center, &self.api.listen].into_iter();
        apis.filter(|api| self.users.is_empty() && !api.addr.ip().to_canonical().is_loopback())
    }
}

/// Where the log goes and how much of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Logging {
    /// The file, a new one each day and when one is full; None = console only.
    pub filename: Option<PathBuf>,
    /// How many of them stay.
    pub max_files: usize,
    /// The most bytes of one.
    pub max_size: usize,
    /// The least severe level that is written.
    pub level: Level,
    /// How a line looks.
    pub format: Format,
}

/// A log line's severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For whoever writes scripts.
    Debug,
    /// What went on.
    Info,
    /// What somebody should look at.
    Warn,
    /// What failed.
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

/// A user of the APIs.
#[derive(Clone, PartialEq)]
pub struct User {
    /// The name.
    pub username: String,
    /// The password. Never printed.
    pub password: String,
    /// May read: metrics, nodes.
    pub read: bool,
    /// May write: publish, send and the rest.
    pub write: bool,
    /// From where.
    pub host: HostPattern,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User")
            .field("username", &self.username)
            .field("password", &"***")
            .field("read", &self.read)
            .field("write", &self.write)
            .field("host", &self.host)
            .finish()
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

/// `engine.apiServer`
#[derive(Debug, Clone, PartialEq)]
pub struct ApiServer {
    /// Where it listens.
    pub listen: Listen,
    /// The longest a request may take to arrive, and an idle connection may stay; zero = for ever.
    pub read_timeout: Duration,
    /// The longest a response may take to be taken; zero = for ever.
    pub write_timeout: Duration,
    /// The largest request body, in bytes.
    pub max_body_size: usize,
}

/// `engine.luavm`
#[derive(Debug, Clone, PartialEq)]
pub struct LuaVm {
    /// `queue.topicSize`: messages that may wait in a topic.
    pub queue_topic_size: usize,
    /// `queue.maxTopics`
    pub queue_max_topics: usize,
    /// `queue.full`
    pub queue_full: QueueFull,
    /// `redis`
    pub redis: Vec<Redis>,
    /// `memoryLimit`, in bytes, for each VM.
    pub memory_limit: usize,
    /// `libraries`
    pub libraries: Vec<Library>,
    /// `loadLimit`: the largest text for `load`, in bytes.
    pub load_limit: usize,
    /// Handlers that may wait at once in each VM: [`MAX_WAITING`], whatever the file says.
    pub waiting: usize,
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

/// Handlers that may wait at once in a VM; further messages wait unread for their turn.
pub const MAX_WAITING: usize = 16_384;

/// The largest text that scripts may compile with `load`, unless the file says another: 64 KiB.
pub const LOAD_LIMIT: usize = 64 * 1024;

/// The largest script file, in bytes: 8 MiB.
pub const MAX_SCRIPT: usize = 8 * 1024 * 1024;

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

/// A Redis that scripts can name.
#[derive(Clone, PartialEq)]
pub struct Redis {
    /// The name scripts use.
    pub name: String,
    /// host:port
    pub addr: String,
    /// Empty = none. Never printed.
    pub password: String,
    /// The database's number.
    pub db: u32,
    /// The most connections.
    pub pool_size: usize,
    /// Connections that are kept open.
    pub min_idle_conns: usize,
    /// A connection's greatest age; zero = no limit.
    pub max_conn_age: Duration,
    /// How long an idle connection stays; zero = for ever.
    pub idle_timeout: Duration,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("name", &self.name).field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// One of `engine.servers`.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Where it listens.
    pub listen: Listen,
    /// `protocol`
    pub protocol: Protocol,
    /// `options`, in order: names and values as text.
    pub options: Vec<(String, String)>,
    /// `entry`: the script, an absolute path.
    pub entry: PathBuf,
    /// `byteCodeExpires`: the longest a changed script may wait to be live; None = no reload.
    pub reload_within: Option<Duration>,
    /// What can change while connections live.
    pub limits: Limits,
    /// `allowedOrigins`, as browsers write them; empty = any.
    pub allowed_origins: Vec<String>,
}

impl Server {
    /// The value of a name under `options`, the last if it is given twice.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
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

/// A server's bounds for its connections. All take effect on live connections when the file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// No bytes for that long: closed; zero = never.
    pub read_timeout: Duration,
    /// The client takes nothing for that long: closed; zero = never.
    pub write_timeout: Duration,
    /// The longest a client may take to finish a message; zero = no limit.
    pub message_timeout: Duration,
    /// The bytes that the system may hold unsent for one client; 0 = as many as it likes.
    pub unsent_limit: usize,
    /// The largest message a client may send, in bytes.
    pub max_message_size: usize,
    /// The most connections, over all workers; 0 = no limit.
    pub max_connections: usize,
    /// The most bytes that may wait for one client.
    pub outbox_limit: usize,
    /// The longest a hook may hold its worker without waiting.
    pub handler_timeout: Duration,
    /// The longest a handshake may take, `on_handshake` included.
    pub handshake_timeout: Duration,
    /// How often a silent client is pinged; zero = never.
    pub ping_interval: Duration,
}

/// `prometheus.summary`
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The window that quantiles are taken over.
    pub max_age: Duration,
    /// The parts of that window.
    pub age_buckets: u32,
    /// The samples kept before they are sorted in.
    pub buf_cap: u32,
}

/// `cluster`
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// `advertise`: this node's API as others reach it.
    pub advertise: Option<String>,
    /// The longest a publish waits for a node's counts.
    pub reply_timeout: Duration,
}

/// Something wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1; 0 when it concerns the whole file.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// The key's path: `engine.servers[0].readTimeout`; may be empty.
    pub key: String,
    /// What is wrong, and what was expected.
    pub message: String,
}

/// All that is wrong with a configuration file, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    /// The file.
    pub file: PathBuf,
    /// At least one.
    pub list: Vec<Problem>,
}

impl std::fmt::Display for Problems {
    /// One line a problem: `FILE:LINE:COLUMN: KEY: MESSAGE`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, p) in self.list.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}", self.file.display())?;
            if p.line > 0 {
                write!(f, ":{}:{}", p.line, p.column)?;
            }
            if !p.key.is_empty() {
                write!(f, ": {}", p.key)?;
            }
            write!(f, ": {}", p.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
