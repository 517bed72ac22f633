//! Every key of connmix.yaml: its name, its bounds and its default.
//!
//! A value is judged here as far as it can be judged alone. The order of the getters is the file's, so this also reads as
//! the list of what there is.

use super::address::{HOST_PORT, ORIGIN, host_pattern, host_port, net, origin};
use super::section::{Section, Value};
use super::tree::Node;
use super::units::{Quantity, parse_size};
use super::{At, Sink};
use crate::config::{
    Format, High, HostPattern, LOAD_LIMIT, Level, Library, Limits, Logging, MAX_SCRIPT, Memory, Protocol, QueueFull,
    Redis, Summary, User,
};
use crate::ids::MAX_WORKERS;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

/// From 0, which mostly means "never", to a day: a longer one is a slip of the unit.
const TIMEOUT: RangeInclusive<Duration> = Duration::ZERO..=seconds(24 * 3600);
/// The same for what can't be zero.
const TIMEOUT_NOT_ZERO: RangeInclusive<Duration> = Duration::from_millis(1)..=seconds(24 * 3600);
/// How long something is kept.
const AGE: RangeInclusive<Duration> = Duration::ZERO..=seconds(365 * 24 * 3600);
const BUFFER: RangeInclusive<usize> = 0..=GIB;
const LIMIT: RangeInclusive<usize> = 1..=GIB;

/// `unsentLimit`, unless told; of the APIs always.
pub const UNSENT_LIMIT: usize = 128 << 10;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The file, key by key, with defaults. What other values or the disk decide is still open.
#[derive(Debug)]
pub struct Raw {
    /// `logging`, with the file's name as it is spelt.
    pub logging: Logging,
    /// `access.users`, each at its name.
    pub users: Vec<At<User>>,
    /// `access.origins`, as browsers write them.
    pub origins: Vec<String>,
    /// `center.apiServer`, at its port.
    pub center: At<SocketAddr>,
    /// `engine`
    pub engine: RawEngine,
    /// `prometheus.summary`
    pub summary: Summary,
    /// `trustedProxies`
    pub trusted_proxies: Vec<IpNet>,
    /// `shutdownTimeout`
    pub shutdown_timeout: Duration,
    /// `cluster.advertise`
    pub advertise: Option<String>,
    /// `cluster.replyTimeout`
    pub reply_timeout: Duration,
    /// The keys that are given and have no effect.
    pub unused: Vec<String>,
}

/// `engine`
#[derive(Debug)]
pub struct RawEngine {
    /// `engine.workers`
    pub workers: usize,
    /// `engine.apiServer`, at its port.
    pub api: At<SocketAddr>,
    /// `engine.apiServer.readTimeout`
    pub api_read_timeout: Duration,
    /// `engine.apiServer.writeTimeout`
    pub api_write_timeout: Duration,
    /// `engine.apiServer.maxBodySize`
    pub api_max_body_size: usize,
    /// `engine.memory`
    pub memory: Memory,
    /// `engine.maxSubscriptions`
    pub max_subscriptions: usize,
    /// `engine.luavm`
    pub luavm: RawLuaVm,
    /// `engine.servers`, at the list.
    pub servers: At<Vec<RawServer>>,
}

/// `engine.luavm`
#[derive(Debug)]
pub struct RawLuaVm {
    /// `engine.luavm.queue.topicSize`
    pub queue_topic_size: usize,
    /// `engine.luavm.queue.maxTopics`
    pub queue_max_topics: usize,
    /// `engine.luavm.queue.full`
    pub queue_full: QueueFull,
    /// `engine.luavm.redis`, each at its name.
    pub redis: Vec<At<Redis>>,
    /// `engine.luavm.memoryLimit`
    pub memory_limit: usize,
    /// `engine.luavm.loadLimit`
    pub load_limit: usize,
    /// `engine.luavm.libraries`
    pub libraries: Vec<Library>,
}

/// One of `engine.servers`.
#[derive(Debug)]
pub struct RawServer {
    /// Where it listens, at its port.
    pub listen: At<SocketAddr>,
    /// `protocol`
    pub protocol: Protocol,
    /// `options`, each at its name.
    pub options: Vec<At<(String, String)>>,
    /// `entry`, as it is spelt.
    pub entry: At<String>,
    /// `byteCodeExpires`; zero = no reload.
    pub byte_code_expires: Duration,
    /// Its timeouts and bounds, at the ping interval.
    pub limits: At<Limits>,
    /// `allowedOrigins`, as browsers write them.
    pub allowed_origins: Vec<String>,
}

/// Reads the whole tree.
pub fn read(root: &Node, sink: &Sink) -> Raw {
    let mut unused = Vec::new();
    Value::root(root, sink).section(|s| {
        s.older(&[("log", "logging")]);
        let logging = s.get("logging").section(logging);
        let (users, origins) = s.get("access").section(|s| {
            let users = s.get("users").list().into_iter().map(|v| v.section(user)).collect();
            (users, texts(s.get("origins"), ORIGIN, origin))
        });
        let center = s.get("center").section(|s| {
            s.older(&[("server", "apiServer")]);
            unused.extend(not_used(s.get("registry"), |v| v.section(|s| drop(listen(s, 6786)))));
            s.get("apiServer").section(|s| listen(s, 6787))
        });
        let engine = s.get("engine").section(|s| engine(s, &mut unused));
        s.get("licenses").section(|s| {
            s.get("activationCode").text();
            s.get("server").text();
        });
        let summary = s.get("prometheus").section(|s| s.get("summary").section(summary));
        let trusted_proxies = texts(s.get("trustedProxies"), "an IP address or a CIDR such as \"10.0.0.0/8\"", net);
        let shutdown_timeout = s.get("shutdownTimeout").duration(TIMEOUT, seconds(10));
        let (advertise, reply_timeout) = s.get("cluster").section(cluster);
        Raw {
            logging,
            users,
            origins,
            center,
            engine,
            summary,
            trusted_proxies,
            shutdown_timeout,
            advertise,
            reply_timeout,
            unused,
        }
    })
}

fn logging(s: &mut Section<'_>) -> Logging {
    s.older(&[("max_files", "maxFiles")]);
    const LEVELS: [(&str, Level); 4] =
        [("debug", Level::Debug), ("info", Level::Info), ("warn", Level::Warn), ("error", Level::Error)];
    Logging {
        filename: match s.get("filename").text() {
            None => Some("logs/connmix.log".into()),
            Some("") => None,
            Some(name) => Some(name.into()),
        },
        max_files: s.get("maxFiles").number(1..=10_000, 7),
        max_size: s.get("maxSize").size(64 * 1024..=1024 * GIB, 100 * MIB),
        level: s.get("level").word(&LEVELS, Level::Info),
        format: s.get("format").word(&[("text", Format::Text), ("json", Format::Json)], Format::Text),
    }
}

fn user(s: &mut Section<'_>) -> At<User> {
    let name = s.get("username");
    let username = required(&name);
    if username.contains(':') {
        // Basic authentication ends the name at the first colon.
        name.report("must not contain a colon");
    }
    let password = required(&s.get("password"));
    let roles = s.get("roles");
    const ROLES: [(&str, Option<Role>); 2] = [("read", Some(Role::Read)), ("write", Some(Role::Write))];
    let given: Vec<Role> = roles.list().iter().filter_map(|v| v.word(&ROLES, None)).collect();
    if roles.is_empty_list() {
        roles.report("a user needs at least one role: read, write");
    }
    let has = |role| !roles.is_set() || given.contains(&role);
    let host = s.get("host").parse(
        "\"*\", a pattern such as \"172.*.*.*\", an IP address or a CIDR",
        HostPattern::Any,
        host_pattern,
    );
    name.at(User { username, password, read: has(Role::Read), write: has(Role::Write), host })
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Read,
    Write,
}

fn engine(s: &mut Section<'_>, unused: &mut Vec<String>) -> RawEngine {
    s.older(&[("control", "apiServer")]);
    unused.extend(not_used(s.get("centerRegistry"), |v| v.parse(HOST_PORT, (), |text| host_port(text).map(drop))));
    unused.extend(not_used(s.get("meshPoint"), |v| v.section(|s| drop(listen(s, 6788)))));
    let workers = s.get("workers").number(0..=MAX_WORKERS, 0);
    let (api, api_read_timeout, api_write_timeout, api_max_body_size) = s.get("apiServer").section(|s| {
        s.older(&[("username", "access.users"), ("password", "access.users")]);
        let api = listen(s, 6789);
        buffers(s);
        let timeouts = (s.get("readTimeout"), s.get("writeTimeout"));
        let max_body_size = s.get("maxBodySize").size(LIMIT, MIB);
        tls(s);
        (api, timeouts.0.duration(TIMEOUT, seconds(60)), timeouts.1.duration(TIMEOUT, seconds(60)), max_body_size)
    });
    let memory = s.get("memory").section(memory);
    let max_subscriptions = s.get("maxSubscriptions").number(1..=1_000_000_000, 10_000_000);
    let luavm = s.get("luavm").section(luavm);
    let servers = s.get("servers");
    let list = servers.list().into_iter().map(|v| v.section(server)).collect();
    RawEngine {
        workers,
        api,
        api_read_timeout,
        api_write_timeout,
        api_max_body_size,
        memory,
        max_subscriptions,
        luavm,
        servers: servers.at(list),
    }
}

fn memory(s: &mut Section<'_>) -> Memory {
    let high = s.get("high").parse("a part such as \"80%\" or a size such as \"1GiB\"", High::Percent(80), |text| {
        let percent = text.trim().strip_suffix('%').map(|number| number.trim().parse().ok());
        match (percent, parse_size(text)) {
            (Some(percent), _) => percent.filter(|percent| (1..=100).contains(percent)).map(High::Percent),
            (None, Quantity::Is(bytes)) => Some(High::Bytes(bytes)),
            _ => None,
        }
    });
    let of = s.get("of").parse("auto or a size such as \"1GiB\"", None, |text| match (text, parse_size(text)) {
        ("auto", _) => Some(None),
        (_, Quantity::Is(bytes @ 1..)) => Some(Some(bytes)),
        _ => None,
    });
    Memory { high, of }
}

fn luavm(s: &mut Section<'_>) -> RawLuaVm {
    let (queue_topic_size, queue_max_topics, queue_full) = s.get("queue").section(|s| {
        s.older(&[("size", "topicSize"), ("max", "maxTopics")]);
        const FULL: [(&str, QueueFull); 2] = [("error", QueueFull::Error), ("block", QueueFull::Block)];
        (
            s.get("topicSize").number(1..=10_000_000, 2000),
            s.get("maxTopics").number(1..=1_000_000, 100),
            s.get("full").word(&FULL, QueueFull::Error),
        )
    });
    let redis = s.get("redis").list().into_iter().map(|v| v.section(redis)).collect();
    let memory_limit = s.get("memoryLimit").size(MIB..=1024 * GIB, 256 * MIB);
    let load_limit = s.get("loadLimit").size(0..=MAX_SCRIPT, LOAD_LIMIT);
    const LIBRARIES: [(&str, Option<Library>); 2] = [("io", Some(Library::Io)), ("os", Some(Library::Os))];
    let mut libraries = Vec::new();
    for library in s.get("libraries").list().iter().filter_map(|v| v.word(&LIBRARIES, None)) {
        if !libraries.contains(&library) {
            libraries.push(library);
        }
    }
    RawLuaVm { queue_topic_size, queue_max_topics, queue_full, redis, memory_limit, load_limit, libraries }
}

fn redis(s: &mut Section<'_>) -> At<Redis> {
    let name = s.get("name");
    let redis = Redis {
        name: name.text().unwrap_or("default").to_owned(),
        addr: s.get("addr").parse(HOST_PORT, "localhost:6379".to_owned(), host_port),
        password: s.get("password").text().unwrap_or_default().to_owned(),
        db: s.get("db").number(0..=u32::MAX, 0),
        pool_size: s.get("poolSize").number(1..=100_000, 20),
        min_idle_conns: s.get("minIdleConns").number(0..=100_000, 10),
        max_conn_age: s.get("maxConnAge").duration(AGE, Duration::ZERO),
        idle_timeout: s.get("idleTimeout").duration(AGE, seconds(300)),
    };
    if redis.name.is_empty() {
        name.report("must not be empty");
    }
    name.at(redis)
}

fn server(s: &mut Section<'_>) -> RawServer {
    let listen = listen(s, 6790);
    let protocols = [("websocket", Protocol::Websocket), ("socket", Protocol::Socket)];
    let protocol = s.get("protocol").word_of(&protocols, &[("custom", "socket")], Protocol::Websocket);
    let options = s.get("options").list().into_iter().map(|v| v.section(option)).collect();
    let entry = s.get("entry");
    let default = match protocol {
        Protocol::Websocket => "lua/entry.websocket.lua",
        Protocol::Socket => "lua/entry.socket.lua",
    };
    let entry = entry.at(entry.text().unwrap_or(default).to_owned());
    let byte_code_expires = s.get_either("byteCodeExpires", "bytecodeExpires").duration(TIMEOUT, seconds(10));
    buffers(s);
    let ping = s.get("pingInterval");
    let limits = ping.at(Limits {
        read_timeout: s.get("readTimeout").duration(TIMEOUT, seconds(60)),
        write_timeout: s.get("writeTimeout").duration(TIMEOUT, seconds(10)),
        message_timeout: s.get("messageTimeout").duration(TIMEOUT, seconds(60)),
        unsent_limit: s.get("unsentLimit").size(BUFFER, UNSENT_LIMIT),
        max_message_size: s.get("maxMessageSize").size(LIMIT, MIB),
        max_connections: s.get("maxConnections").number(0..=100_000_000, 0),
        outbox_limit: s.get("outboxLimit").size(LIMIT, MIB),
        handler_timeout: s.get("handlerTimeout").duration(TIMEOUT_NOT_ZERO, Duration::from_millis(200)),
        handshake_timeout: s.get("handshakeTimeout").duration(TIMEOUT_NOT_ZERO, seconds(10)),
        ping_interval: ping.duration(TIMEOUT, seconds(25)),
    });
    let allowed_origins = texts(s.get("allowedOrigins"), ORIGIN, origin);
    tls(s);
    RawServer { listen, protocol, options, entry, byte_code_expires, limits, allowed_origins }
}

fn option(s: &mut Section<'_>) -> At<(String, String)> {
    let name = s.get("name");
    let value = s.get("value");
    let pair = (required(&name), value.text().unwrap_or_default().to_owned());
    if pair.0 == "path" && (!pair.1.starts_with('/') || pair.1.contains([' ', '?', '#'])) {
        value.report("expected a path that begins with \"/\" and holds no space, \"?\" or \"#\"");
    }
    name.at(pair)
}

fn summary(s: &mut Section<'_>) -> Summary {
    Summary {
        max_age: s.get("maxAge").duration(seconds(1)..=seconds(24 * 3600), seconds(600)),
        age_buckets: s.get("ageBuckets").number(1..=1000, 5),
        buf_cap: s.get("bufCap").number(1..=1_000_000, 500),
    }
}

fn cluster(s: &mut Section<'_>) -> (Option<String>, Duration) {
    let engine = s.get("engine");
    if engine.word(&[("memory", false), ("nats", true)], false) {
        engine.report("\"nats\" is not available in this version; use memory");
    }
    s.get("nats").section(|s| {
        texts(s.get("servers"), "a URL such as \"nats://127.0.0.1:4222\"", |text| text.contains("://").then_some(()));
        s.get("name").text();
        s.get("credentials").text();
    });
    let advertise = s.get("advertise").parse(HOST_PORT, None, |text| host_port(text).map(Some));
    (advertise, s.get("replyTimeout").duration(TIMEOUT_NOT_ZERO, Duration::from_millis(500)))
}

/// `port` and `bind`, at the port.
fn listen(s: &mut Section<'_>, default: u16) -> At<SocketAddr> {
    let port = s.get("port");
    let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let ip = s.get("bind").parse("an IP address such as 0.0.0.0", any, |text| text.parse().ok());
    port.at(SocketAddr::new(ip, port.number(0..=u16::MAX, default)))
}

/// Checked and not used: one buffer a thread serves all its connections.
fn buffers(s: &mut Section<'_>) {
    s.get("readBufferSize").size(BUFFER, 0);
    s.get("writeBufferSize").size(BUFFER, 0);
}

fn tls(s: &mut Section<'_>) {
    s.get("tls").section(|s| {
        for file in [s.get("cert"), s.get("key")] {
            if file.text().is_some_and(|text| !text.is_empty()) {
                file.report("TLS is not available in this version; leave this empty and let a proxy end TLS");
            }
        }
    });
}

/// Checks a key that has no effect; returns its path if it is given.
fn not_used<'a>(value: Value<'a>, check: impl FnOnce(Value<'a>)) -> Option<String> {
    let path = value.is_set().then(|| value.at(()).key);
    check(value);
    path
}

/// A text that must be there. What is wrong with it is told without showing it: this reads passwords too.
fn required(value: &Value<'_>) -> String {
    match value.text() {
        Some(text) if !text.is_empty() => return text.to_owned(),
        Some(_) => value.report("must not be empty"),
        // A list or a section in its place has been reported.
        None if value.is_set() => {}
        None => value.report("missing; it must be given"),
    }
    String::new()
}

/// A list of texts, each understood by `parse`.
fn texts<T>(value: Value<'_>, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Vec<T> {
    value.list().iter().filter_map(|v| v.parse(expected, None, |text| parse(text).map(Some))).collect()
}
