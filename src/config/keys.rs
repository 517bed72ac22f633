//! The rows: every key of connmix.yaml but those of one server, which are in `keys/server`.
//!
//! A new key is one row here; what it means, its bounds, its default and when a change takes effect are told everywhere from
//! that row, and `docs/configuration.md` is held against it. Rows come in the order in which changes are told.

use self::bounds::{AGE, BUFFER, GIB, LIMIT, MIB, TIMEOUT, TIMEOUT_NOT_ZERO, seconds};
use super::changes::{Changes, Effect, Effect::Live, Effect::Restart};
use super::home::Home;
use super::kinds::{Leaf, duration, flag_or, list, number, parsed, required, secret, size, text, word, words};
use super::raw::address::{HOST_PORT, ORIGIN, host_pattern, host_port, net, origin};
use super::raw::known::Known;
use super::raw::tree::Kind::Scalar;
use super::raw::value::Value;
use super::rows::{Head, Kind, Row, Section, section};
use super::sections::{Entry, address, named, part, positioned};
use super::types::{
    ClusterEngine, HostPattern, LOAD_LIMIT, Library, Listen, MAX_SCRIPT, MAX_WAITING, NodeRole, QueueFull, Roles,
    STUCK_AFTER,
};
use crate::ids::MAX_WORKERS;
use crate::secret::{Secret, digest, password};
use crate::telemetry::language::{Both, both};
use ipnet::IpNet;
use serde_json::Value as Json;
use std::fmt::{self, Debug, Formatter};
use std::path::PathBuf;
use std::time::Duration;

mod bounds;
mod channels;
mod logging;
mod memory;
mod server;
mod tls;
mod tracing;

pub use self::logging::Logging;
pub use self::tracing::{Tracing, TracingHeader, is_header_name, read_ratio, value_problem};
pub use channels::{ChannelRule, HistoryRule, LimitRule, MAX_HISTORY, Online};
pub use memory::Memory;
pub use server::{Limits, Rates, Server};
pub use tls::Tls;

/// The keys there are.
pub fn known() -> Known {
    let mut rows = Vec::new();
    Config::rows("", None, &mut rows);
    Known::of(rows.iter().map(|row| row.path.as_str()))
}

section! {
    /// The whole configuration.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Config {
        /// Where the log goes and how much of it.
        pub logging: Logging = "logging", part();
        /// Who may call the APIs. Without users, everybody may.
        pub users: Vec<User> = "access.users", named("username", |user: &User| &user.username).told_as_one(), Live;
        /// The origins whose web pages may call the APIs, such as https://admin.example.com; none unless listed.
        pub origins: Vec<String> = "access.origins", list(ORIGIN, origin), Live;
        /// Where engines and other centers join a cluster.
        pub registry: Listen = "center.registry", address(6786), Restart("the cluster");
        /// The port of the center's API.
        pub center: Listen = "center.apiServer", address(6787), Restart("the listener");
        /// TLS of the center's API.
        pub center_tls: Tls = "center.apiServer.tls", part();
        /// The center serves the console under /console, unless everybody on the network could use it: where there are no
        /// users, its port must be on loopback. In dev it has the demo, too.
        pub console: bool = "console.enabled", flag_or(true), Live;
        /// The engine's API, for back ends.
        pub api: ApiServer = "engine.apiServer", part();
        /// The centers, as an engine reaches them: one, or a list, of which any is enough.
        pub centers: Vec<String> = "engine.centerRegistry", one_or_more(HOST_PORT, host_port), Restart("the cluster");
        /// Where other engines link to this one.
        pub mesh_point: Listen = "engine.meshPoint", address(6788), Restart("the cluster");
        /// Worker threads; 0 = one a core. -p on the command line wins.
        pub workers: usize = "engine.workers", number(0..=MAX_WORKERS, 0), Restart("the workers");
        /// When memory is short.
        pub memory: Memory = "engine.memory", part();
        /// Subscriptions of all clients together.
        pub max_subscriptions: usize = "engine.maxSubscriptions", number(1..=1_000_000_000, 10_000_000), Live;
        /// What holds for channels whose names begin alike.
        pub channels: Vec<ChannelRule> = "engine.channels", channels::rules(), Live;
        /// What all messages that are kept of channels may take.
        pub history_limit: usize = "engine.historyLimit", size(MIB..=1024 * GIB, 64 * MIB), Live;
        /// Scripts and what they can use.
        pub luavm: LuaVm = "engine.luavm", part();
        /// The summaries of the metrics.
        pub summary: Summary = "prometheus.summary", part();
        /// Traces for OpenTelemetry.
        pub tracing: Tracing = "tracing", part();
        /// IP addresses or CIDRs whose X-Forwarded-For counts.
        pub trusted_proxies: Vec<IpNet> =
            "trustedProxies", list("an IP address or a CIDR such as \"10.0.0.0/8\"", net), Live;
        /// How long a stop begins with `/readyz` at 503 while everything else goes on: the time in which a load balancer
        /// learns of it.
        pub drain_delay: Duration = "drainDelay", duration(TIMEOUT, Duration::ZERO), Live;
        /// The time over which a stop closes clients, a few at a time; half of shutdownTimeout at most, and 10 ms for each
        /// client.
        pub drain_spread: Duration = "drainSpread", duration(TIMEOUT, seconds(5)), Live;
        /// How long handlers that wait may go on when a successor process takes over; then their waits end with an err.
        pub upgrade_timeout: Duration = "upgradeTimeout", duration(TIMEOUT, seconds(10)), Live;
        /// A folder that this process shares with one in another container, which takes over when it is started: both find each
        /// other by a socket there. Unset: no process is found.
        pub upgrade_folder: Option<PathBuf> = "upgradeFolder", upgrade_folder(), Restart("the socket of upgrades");
        /// How long a stop waits for clients to leave, after drainDelay.
        pub shutdown_timeout: Duration = "shutdownTimeout", duration(TIMEOUT, seconds(10)), Live;
        /// This node among others.
        pub cluster: Cluster = "cluster", part();
        /// Where clients connect: at least one. Two entries are the same server as long as position, port and bind stay.
        pub servers: Vec<Server> = "engine.servers", positioned(), Restart("the listener");
    }
    unused {
        /// Read and ignored.
        "licenses.activationCode", text("");
        /// Read and ignored.
        "licenses.server", text("");
    }
    plain {
        /// The file this came from.
        pub file: PathBuf = PathBuf::new();
        /// Which parts of a cluster this process is; the command line says it.
        pub role: NodeRole = NodeRole::SINGLE;
        /// Where it listens, if it is one of several nodes on this machine that share the file.
        pub home: Option<Home> = None;
        /// It is run by `dev`.
        pub dev: bool = false;
        /// How long a worker may not go on until it counts as stuck: [`STUCK_AFTER`], but for tests.
        pub stuck_after: Duration = STUCK_AFTER;
        /// Things worth a line in the log: keys that are read and not used, and the like.
        pub notes: Vec<Both> = Vec::new();
    }
}

fn upgrade_folder() -> Leaf<Option<PathBuf>> {
    // The path of a socket has 107 bytes at most (unix(7)), and its name stands behind the folder.
    let folder = text("").checked(|folder| (folder.len() > 90).then_some("must have at most 90 bytes"));
    folder.map(
        |folder| (!folder.is_empty()).then(|| PathBuf::from(folder)),
        |folder: &Option<PathBuf>| folder.as_ref().map_or_else(String::new, |folder| folder.display().to_string()),
    )
}

/// A text that is unset unless it is given.
fn unset(expected: &'static str, parse: fn(&str) -> Option<String>) -> Leaf<Option<String>> {
    let read = move |at: &Value<'_>| at.parse(expected, None, |text| parse(text).map(Some));
    Leaf::new("text", expected.to_owned(), Some(None), read, |text: &Option<String>| text.as_deref().into())
}

section! {
    /// A user of the APIs.
    #[derive(Clone, PartialEq)]
    pub struct User {
        /// The name, unique and without a colon.
        pub username: String = "username", user_name(), Live;
        /// The password, for HTTP Basic; a user needs it, one of the next two, or a token. Quote it if it begins with !, *,
        /// & or @, or holds " #".
        pub password: Secret = "password", secret(), Live;
        /// A file whose first line is the password.
        pub password_file: String = "passwordFile", text(""), Live;
        /// The password's hash, of argon2 or scrypt, as connmix hash-password prints it.
        pub password_hash: Secret = "passwordHash", secret().checked(|hash| password::problem_of(hash.expose())), Live;
        /// A token, for "Authorization: Bearer TOKEN".
        pub token: Secret = "token", secret(), Live;
        /// A file whose first line is the token.
        pub token_file: String = "tokenFile", text(""), Live;
        /// The SHA-256 of the token, in 64 hexadecimal digits.
        pub token_hash: Secret = "tokenHash", secret().checked(|hash| digest_problem(hash.expose())), Live;
        /// read: metrics, nodes, health; write: publish, send and the rest. At least one.
        pub roles: Roles = "roles", roles(), Live;
        /// Where calls may come from.
        pub host: HostPattern = "host", parsed(
            "\"*\", a pattern such as \"172.*.*.*\", an IP address or a CIDR",
            HostPattern::Any,
            host_pattern,
            |host| host.to_string().into(),
        ), Live;
    }
    plain {
        /// The SHA-256 of the token, however it is given.
        pub token_digest: Option<[u8; 32]> = None;
    }
}

/// What is wrong with a token's hash; an empty one is none.
fn digest_problem(hash: &str) -> Option<&'static str> {
    let wrong = !hash.is_empty() && digest(hash).is_none();
    wrong.then_some("expected the SHA-256 of the token: 64 hexadecimal digits")
}

/// A name that Basic authentication can hold: it ends at the first colon there.
fn user_name() -> Leaf<String> {
    required().checked(|name| name.contains(':').then_some("must not contain a colon"))
}

fn roles() -> Leaf<Roles> {
    let both = Roles { read: true, write: true };
    let show = |roles: &Roles| -> Json {
        let all = [("read", roles.read), ("write", roles.write)];
        all.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect::<Vec<_>>().into()
    };
    let read = move |at: &Value<'_>| {
        if at.is_empty_list() {
            at.report(both!("a user needs at least one role: read, write", "用户至少要有一个角色：read、write"));
        }
        let given: Vec<&str> = at.list().iter().filter_map(|item| item.word(&["read", "write"], &[])).collect();
        let has = |role| !at.is_set() || given.contains(&role);
        Roles { read: has("read"), write: has("write") }
    };
    Leaf::new("list", "read, write".to_owned(), Some(both), read, show)
}

impl Entry for User {
    fn summary(&self) -> String {
        let roles = [("read", self.roles.read), ("write", self.roles.write)];
        let roles: Vec<&str> = roles.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
        format!("{} from {}", roles.join(", "), self.host)
    }
}

impl Debug for User {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("username", &self.username)
            .field("roles", &self.roles)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

section! {
    /// The engine's API, for back ends.
    #[derive(Debug, Clone, PartialEq)]
    pub struct ApiServer {
        /// The port of the engine's API.
        pub listen: Listen = "", address(6789), Restart("the listener");
        /// The longest a request may take to arrive and an idle connection may stay; 0 = no limit. A WebSocket is pinged
        /// after half of it.
        pub read_timeout: Duration = "readTimeout", duration(TIMEOUT, seconds(60)), Live;
        /// The longest a response may take to be taken; 0 = no limit.
        pub write_timeout: Duration = "writeTimeout", duration(TIMEOUT, seconds(60)), Live;
        /// The largest request body, and the largest request over WebSocket.
        pub max_body_size: usize = "maxBodySize", size(LIMIT, MIB), Live;
        /// TLS of the engine's API.
        pub tls: Tls = "tls", part();
    }
    unused {
        /// One buffer a thread serves all its connections.
        "readBufferSize", size(BUFFER, 0);
        /// One buffer a thread serves all its connections.
        "writeBufferSize", size(BUFFER, 0);
    }
}

section! {
    /// Scripts and what they can use.
    #[derive(Debug, Clone, PartialEq)]
    pub struct LuaVm {
        /// Messages that may wait in a topic of mix.queue.
        pub queue_topic_size: usize = "queue.topicSize", number(1..=10_000_000, 2000), Restart("the queue");
        /// Topics with messages or consumers.
        pub queue_max_topics: usize = "queue.maxTopics", number(1..=1_000_000, 100), Restart("the queue");
        /// What mix.queue.push does where its topic is full: error returns an err, block suspends the handler until there
        /// is room.
        pub queue_full: QueueFull =
            "queue.full", word(&[QueueFull::Error, QueueFull::Block], QueueFull::Error), Restart("the queue");
        /// The most memory of one VM. Each worker has one for each server.
        pub memory_limit: usize = "memoryLimit", size(MIB..=1024 * GIB, 256 * MIB), Restart("the workers");
        /// What mix.shared may hold, all workers together; 0 allows nothing.
        pub shared_limit: usize = "sharedLimit", size(0..=1024 * GIB, 64 * MIB), Live;
        /// The largest text for load and loadstring; 0 allows none.
        pub load_limit: usize = "loadLimit", size(0..=MAX_SCRIPT, LOAD_LIMIT), Restart("the workers");
        /// What scripts get besides the sandbox.
        pub libraries: Vec<Library> = "libraries", words(&[Library::Io, Library::Os]), Restart("the workers");
        /// The Redis servers that scripts can name.
        pub redis: Vec<Redis> = "redis", named("name", |redis: &Redis| &redis.name), Restart("the pools");
    }
    plain {
        /// Handlers that may wait at once in each VM: [`MAX_WAITING`], but for tests.
        pub waiting: usize = MAX_WAITING;
    }
}

section! {
    /// A Redis that scripts can name.
    #[derive(Clone, PartialEq)]
    pub struct Redis {
        /// The name scripts use, unique.
        pub name: String = "name", redis_name(), Restart("the pools");
        /// Where it listens. Nothing is connected before a script uses it.
        pub addr: String =
            "addr", parsed(HOST_PORT, "localhost:6379".to_owned(), host_port, |addr| addr.as_str().into()), Restart("the pools");
        /// Its password; empty = none.
        pub password: Secret = "password", secret(), Restart("the pools");
        /// A file whose first line is the password.
        pub password_file: String = "passwordFile", text(""), Restart("the pools");
        /// The number of the database.
        pub db: u32 = "db", number(0..=u32::MAX, 0), Restart("the pools");
        /// The most connections, all workers together.
        pub pool_size: usize = "poolSize", number(1..=100_000, 20), Restart("the pools");
        /// Idle connections that are kept open from the first use on.
        pub min_idle_conns: usize = "minIdleConns", number(0..=100_000, 10), Restart("the pools");
        /// A connection's greatest age; 0 = no limit.
        pub max_conn_age: Duration = "maxConnAge", duration(AGE, Duration::ZERO), Restart("the pools");
        /// A connection's longest idle time; 0 = no limit.
        pub idle_timeout: Duration = "idleTimeout", duration(AGE, seconds(300)), Restart("the pools");
    }
}

fn redis_name() -> Leaf<String> {
    text("default").checked(|name| name.is_empty().then_some("must not be empty"))
}

impl Entry for Redis {
    fn summary(&self) -> String {
        self.addr.clone()
    }
}

impl Debug for Redis {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("name", &self.name).field("addr", &self.addr).finish_non_exhaustive()
    }
}

section! {
    /// The summaries of the metrics.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Summary {
        /// The window that quantiles are taken over.
        pub max_age: Duration = "maxAge", duration(seconds(1)..=seconds(24 * 3600), seconds(600)), Restart("the metrics");
        /// The parts in which the window is forgotten; more than 100 count as 100.
        pub age_buckets: u32 = "ageBuckets", number(1..=1000, 5), Restart("the metrics");
        /// Checked and not used: nothing is buffered.
        pub buf_cap: u32 = "bufCap", number(1..=1_000_000, 500), Restart("the metrics");
    }
}

section! {
    /// This node among others.
    #[derive(Clone, PartialEq)]
    pub struct Cluster {
        /// memory: this process alone. mesh: with other nodes. Only of dev and single; a center and an engine are always of a
        /// mesh.
        pub engine: ClusterEngine =
            "engine", word(&[ClusterEngine::Memory, ClusterEngine::Mesh], ClusterEngine::Memory), Restart("the cluster");
        /// What all nodes know; one that does not know it does not join. Empty = everybody who reaches the ports joins.
        pub secret: Secret = "secret", secret(), Restart("the cluster");
        /// A file whose first line is the secret, instead of cluster.secret.
        pub secret_file: String = "secretFile", text(""), Restart("the cluster");
        /// This node's certificate for links between nodes, a PEM file. With it, links are enciphered.
        pub tls_cert: String = "tls.cert", text(""), Restart("the cluster");
        /// The key of cluster.tls.cert, a PEM file.
        pub tls_key: String = "tls.key", text(""), Restart("the cluster");
        /// Who signs the certificates of nodes, a PEM file. With it, both ends of a link must show one.
        pub tls_ca: String = "tls.ca", text(""), Restart("the cluster");
        /// This node's API as others reach it. Unset: the address that it has towards the center, and the API's port.
        pub advertise: Option<String> = "advertise.api", unset(HOST_PORT, host_port), Restart("the cluster");
        /// Where other nodes dial this one. Unset: the addresses of this machine, and the port on which it listens for nodes.
        pub advertise_mesh: Option<String> = "advertise.mesh", unset(HOST_PORT, host_port), Restart("the cluster");
        /// The longest that a publish or a subscribe waits for a node. After that the node is suspect: it is not waited for.
        pub reply_timeout: Duration =
            "replyTimeout", duration(TIMEOUT_NOT_ZERO, Duration::from_millis(500)), Restart("the cluster");
        /// Silence after which a node counts as gone.
        pub leave: Duration = "leave", duration(seconds(2)..=seconds(3600), seconds(3)), Restart("the cluster");
    }
}

impl Debug for Cluster {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("engine", &self.engine)
            .field("advertise", &self.advertise)
            .field("advertise_mesh", &self.advertise_mesh)
            .finish_non_exhaustive()
    }
}

/// A text that `parse` understands, or a list of such texts; by default none.
fn one_or_more(expected: &'static str, parse: fn(&str) -> Option<String>) -> Leaf<Vec<String>> {
    let read = move |at: &Value<'_>| {
        let one = |item: &Value<'_>| item.parse(expected, None, |text| parse(text).map(Some));
        if matches!(at.kind(), Some(Scalar { .. })) {
            one(at).into_iter().collect()
        } else {
            at.list().iter().filter_map(one).collect()
        }
    };
    let show = |all: &Vec<String>| match all.as_slice() {
        [one] => one.as_str().into(),
        all => all.to_vec().into(),
    };
    Leaf::new("text or list", format!("{expected}, or a list of them"), Some(Vec::new()), read, show)
}
