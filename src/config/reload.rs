//! What a changed file changes: at once, or only after a restart.
//!
//! `compare` says what differs, for the log; `merge` is what is in force from then on. They agree: what `compare` lists
//! under `live` is what `merge` takes from the new file, and all else stays as it was at the start.

use super::raw::units;
use super::{Config, Listen, Redis, Server, User};
use std::fmt::{self, Display};
use std::path::Path;
use std::time::Duration;

/// What differs between two configurations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// In force at once.
    pub live: Vec<Change>,
    /// In force after a restart.
    pub restart: Vec<Change>,
}

/// One key that differs. Secrets read `***`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key's path.
    pub key: String,
    /// What it was.
    pub old: String,
    /// What it is in the new file.
    pub new: String,
}

impl Display for Change {
    /// `engine.apiServer.port: 6789 -> 6790`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.old, self.new)
    }
}

const HIDDEN: &str = "***";
const NONE: &str = "none";

/// What of `new` differs from `old`.
pub fn compare(old: &Config, new: &Config) -> Changes {
    let mut live = List::default();
    live.add("logging.level", &old.logging.level, &new.logging.level);
    users(&mut live, &old.users, &new.users);
    live.add("access.origins", &words(&old.origins), &words(&new.origins));
    live.time("engine.apiServer.readTimeout", old.api.read_timeout, new.api.read_timeout);
    live.time("engine.apiServer.writeTimeout", old.api.write_timeout, new.api.write_timeout);
    live.size("engine.apiServer.maxBodySize", old.api.max_body_size, new.api.max_body_size);
    live.add("engine.memory.high", &old.memory.high, &new.memory.high);
    live.add("engine.memory.of", &size_or_auto(old.memory.of), &size_or_auto(new.memory.of));
    live.add("engine.maxSubscriptions", &old.max_subscriptions, &new.max_subscriptions);
    live.add("trustedProxies", &words(&old.trusted_proxies), &words(&new.trusted_proxies));
    live.time("shutdownTimeout", old.shutdown_timeout, new.shutdown_timeout);

    let mut restart = List::default();
    restart.add("logging.filename", &path(old.logging.filename.as_deref()), &path(new.logging.filename.as_deref()));
    restart.add("logging.maxFiles", &old.logging.max_files, &new.logging.max_files);
    restart.size("logging.maxSize", old.logging.max_size, new.logging.max_size);
    restart.add("logging.format", &old.logging.format, &new.logging.format);
    restart.listen(&old.center, &new.center);
    restart.listen(&old.api.listen, &new.api.listen);
    restart.add("engine.workers", &old.workers, &new.workers);
    luavm(&mut restart, old, new);
    restart.time("prometheus.summary.maxAge", old.summary.max_age, new.summary.max_age);
    restart.add("prometheus.summary.ageBuckets", &old.summary.age_buckets, &new.summary.age_buckets);
    restart.add("prometheus.summary.bufCap", &old.summary.buf_cap, &new.summary.buf_cap);
    restart.add("cluster.advertise", &or_none(&old.cluster.advertise), &or_none(&new.cluster.advertise));
    restart.time("cluster.replyTimeout", old.cluster.reply_timeout, new.cluster.reply_timeout);

    for i in 0..old.servers.len().max(new.servers.len()) {
        match (old.servers.get(i), new.servers.get(i)) {
            (Some(old), Some(new)) if same(old, new) => server(&mut live, i, old, new),
            (Some(old), Some(new)) => {
                restart.listen(&old.listen, &new.listen);
                let key = format!("engine.servers[{i}].protocol");
                restart.add(&key, &old.protocol.name(), &new.protocol.name());
            }
            (old, new) => restart.add(&format!("engine.servers[{i}]"), &address(old), &address(new)),
        }
    }
    Changes { live: live.0, restart: restart.0 }
}

/// What is in force once `new` has been taken: its live parts, and of `old` what only a restart changes.
pub fn merge(old: &Config, new: &Config) -> Config {
    let mut merged = new.clone();
    merged.logging = old.logging.clone();
    merged.logging.level = new.logging.level;
    merged.center = old.center.clone();
    merged.api.listen = old.api.listen.clone();
    merged.workers = old.workers;
    merged.luavm = old.luavm.clone();
    merged.summary = old.summary.clone();
    merged.cluster = old.cluster.clone();
    let servers = old.servers.iter().enumerate().map(|(i, old)| match new.servers.get(i) {
        Some(new) if same(old, new) => new.clone(),
        _ => old.clone(),
    });
    merged.servers = servers.collect();
    merged
}

/// Two entries at the same position are one server as long as it listens at the same address for the same protocol.
fn same(old: &Server, new: &Server) -> bool {
    (old.listen.addr, old.protocol) == (new.listen.addr, new.protocol)
}

#[derive(Default)]
struct List(Vec<Change>);

impl List {
    fn add(&mut self, key: &str, old: &impl Display, new: &impl Display) {
        let (old, new) = (old.to_string(), new.to_string());
        if old != new {
            self.0.push(Change { key: key.to_owned(), old, new });
        }
    }

    /// A change whose values are not shown.
    fn hidden<T: PartialEq>(&mut self, key: &str, old: &T, new: &T) {
        if old != new {
            self.0.push(Change { key: key.to_owned(), old: HIDDEN.to_owned(), new: HIDDEN.to_owned() });
        }
    }

    fn time(&mut self, key: &str, old: Duration, new: Duration) {
        self.add(key, &units::duration(old), &units::duration(new));
    }

    fn size(&mut self, key: &str, old: usize, new: usize) {
        self.add(key, &units::size(old), &units::size(new));
    }

    fn listen(&mut self, old: &Listen, new: &Listen) {
        self.add(&new.key, &old.addr.port(), &new.addr.port());
        let bind = match new.key.strip_suffix("port") {
            Some(section) => format!("{section}bind"),
            None => new.key.clone(),
        };
        self.add(&bind, &old.addr.ip(), &new.addr.ip());
    }
}

fn users(list: &mut List, old: &[User], new: &[User]) {
    let named = |users: &[User], name: &str| users.iter().find(|u| u.username == name).cloned();
    for name in union(old.iter().map(|u| &u.username), new.iter().map(|u| &u.username)) {
        let (key, old, new) = (format!("access.users[{name}]"), named(old, name), named(new, name));
        list.add(&key, &old.as_ref().map_or(NONE.to_owned(), rights), &new.as_ref().map_or(NONE.to_owned(), rights));
        if let (Some(old), Some(new)) = (old, new) {
            list.hidden(&format!("{key}.password"), &old.password, &new.password);
        }
    }
}

/// `read, write from 10.0.0.0/8`
fn rights(user: &User) -> String {
    let roles = [("read", user.read), ("write", user.write)];
    let roles: Vec<&str> = roles.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    format!("{} from {}", roles.join(", "), user.host)
}

fn luavm(list: &mut List, old: &Config, new: &Config) {
    let (old, new) = (&old.luavm, &new.luavm);
    list.add("engine.luavm.queue.topicSize", &old.queue_topic_size, &new.queue_topic_size);
    list.add("engine.luavm.queue.maxTopics", &old.queue_max_topics, &new.queue_max_topics);
    list.add("engine.luavm.queue.full", &old.queue_full, &new.queue_full);
    list.size("engine.luavm.memoryLimit", old.memory_limit, new.memory_limit);
    list.size("engine.luavm.loadLimit", old.load_limit, new.load_limit);
    list.add("engine.luavm.libraries", &words(&old.libraries), &words(&new.libraries));
    let named = |all: &[Redis], name: &str| all.iter().find(|r| r.name == name).cloned();
    for name in union(old.redis.iter().map(|r| &r.name), new.redis.iter().map(|r| &r.name)) {
        let key = format!("engine.luavm.redis[{name}]");
        match (named(&old.redis, name), named(&new.redis, name)) {
            (Some(old), Some(new)) => {
                list.add(&format!("{key}.addr"), &old.addr, &new.addr);
                list.hidden(&format!("{key}.password"), &old.password, &new.password);
                list.add(&format!("{key}.db"), &old.db, &new.db);
                list.add(&format!("{key}.poolSize"), &old.pool_size, &new.pool_size);
                list.add(&format!("{key}.minIdleConns"), &old.min_idle_conns, &new.min_idle_conns);
                list.time(&format!("{key}.maxConnAge"), old.max_conn_age, new.max_conn_age);
                list.time(&format!("{key}.idleTimeout"), old.idle_timeout, new.idle_timeout);
            }
            (old, new) => {
                let show = |redis: Option<Redis>| redis.map_or(NONE.to_owned(), |r| r.addr);
                list.add(&key, &show(old), &show(new));
            }
        }
    }
}

fn server(list: &mut List, index: usize, old: &Server, new: &Server) {
    let key = |name: &str| format!("engine.servers[{index}].{name}");
    for name in union(old.options.iter().map(|(name, _)| name), new.options.iter().map(|(name, _)| name)) {
        let (old, new) = (old.option(name), new.option(name));
        match name {
            "path" => list.add(&key("options.path"), &old.unwrap_or(NONE), &new.unwrap_or(NONE)),
            // What a script keeps there may be a secret.
            _ => list.hidden(&key(&format!("options.{name}")), &old, &new),
        }
    }
    list.add(&key("entry"), &old.entry.display(), &new.entry.display());
    let expires = |server: &Server| server.reload_within.unwrap_or(Duration::ZERO);
    list.time(&key("byteCodeExpires"), expires(old), expires(new));
    list.add(&key("allowedOrigins"), &words(&old.allowed_origins), &words(&new.allowed_origins));
    let (old, new) = (&old.limits, &new.limits);
    list.time(&key("readTimeout"), old.read_timeout, new.read_timeout);
    list.time(&key("writeTimeout"), old.write_timeout, new.write_timeout);
    list.time(&key("messageTimeout"), old.message_timeout, new.message_timeout);
    list.size(&key("unsentLimit"), old.unsent_limit, new.unsent_limit);
    list.size(&key("maxMessageSize"), old.max_message_size, new.max_message_size);
    list.add(&key("maxConnections"), &old.max_connections, &new.max_connections);
    list.size(&key("outboxLimit"), old.outbox_limit, new.outbox_limit);
    list.time(&key("handlerTimeout"), old.handler_timeout, new.handler_timeout);
    list.time(&key("handshakeTimeout"), old.handshake_timeout, new.handshake_timeout);
    list.time(&key("pingInterval"), old.ping_interval, new.ping_interval);
}

/// All names of both, each once, in the order they stand in.
fn union<'a>(old: impl Iterator<Item = &'a String>, new: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for name in old.chain(new) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names
}

fn words(all: &[impl Display]) -> String {
    format!("[{}]", all.iter().map(|one| one.to_string()).collect::<Vec<_>>().join(", "))
}

fn size_or_auto(size: Option<usize>) -> String {
    size.map_or("auto".to_owned(), units::size)
}

fn or_none(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or(NONE)
}

fn path(file: Option<&Path>) -> String {
    file.map_or("the console only".to_owned(), |file| file.display().to_string())
}

fn address(server: Option<&Server>) -> String {
    server.map_or(NONE.to_owned(), |server| server.listen.addr.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::load::parse;
    use super::*;

    const BASE: &str = "
access: {users: [{username: bob, password: hunter2}, {username: eve, password: x, roles: [read]}]}
engine:
  luavm: {redis: [{name: default, password: hunter2}]}
  servers:
    - {port: 7001, options: [{name: path, value: /a}, {name: key, value: hunter2}]}
    - {port: 7002}
";

    /// Reads BASE with texts replaced.
    fn config(replace: &[(&str, &str)]) -> Config {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lua")).unwrap();
        std::fs::write(dir.path().join("lua/entry.websocket.lua"), "").unwrap();
        let text = replace.iter().fold(BASE.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from:?} is not in the base");
            text.replacen(from, to, 1)
        });
        let mut config = parse(&dir.path().join("connmix.yaml"), &text).unwrap_or_else(|e| panic!("{e}"));
        // Each call has a folder of its own; that must not count as a change.
        config.servers.iter_mut().for_each(|s| s.entry = "/lua/entry.lua".into());
        config
    }

    fn lines(changes: &[Change]) -> Vec<String> {
        changes.iter().map(|c| c.to_string()).collect()
    }

    #[test]
    fn nothing_changed_is_no_change() {
        assert_eq!(compare(&config(&[]), &config(&[])), Changes::default());
    }

    #[test]
    fn live_changes_are_named_and_taken() {
        let old = config(&[]);
        let new = config(&[
            ("access:", "logging: {level: debug}\nshutdownTimeout: 1m\ntrustedProxies: [10.0.0.0/8]\naccess:"),
            ("roles: [read]", "roles: [read, write], host: 172.*.*.1"),
            ("access: {", "access: {origins: ['https://a.example/'], "),
            (
                "engine:",
                "engine:\n  memory: {high: 512MiB, of: 1GiB}\n  maxSubscriptions: 5\n  apiServer: {readTimeout: 5, maxBodySize: 2MiB}",
            ),
            ("value: /a", "value: /b"),
            (
                "{port: 7002}",
                "{port: 7002, pingInterval: 0, byteCodeExpires: 0, maxConnections: 5, messageTimeout: 5, unsentLimit: 0}",
            ),
        ]);
        let changes = compare(&old, &new);
        let want = [
            "logging.level: info -> debug",
            "access.users[eve]: read from * -> read, write from 172.*.*.1",
            "access.origins: [] -> [https://a.example]",
            "engine.apiServer.readTimeout: 60s -> 5s",
            "engine.apiServer.maxBodySize: 1MiB -> 2MiB",
            "engine.memory.high: 80% -> 512MiB",
            "engine.memory.of: auto -> 1GiB",
            "engine.maxSubscriptions: 10000000 -> 5",
            "trustedProxies: [] -> [10.0.0.0/8]",
            "shutdownTimeout: 10s -> 60s",
            "engine.servers[0].options.path: /a -> /b",
            "engine.servers[1].byteCodeExpires: 10s -> 0s",
            "engine.servers[1].messageTimeout: 60s -> 5s",
            "engine.servers[1].unsentLimit: 128KiB -> 0",
            "engine.servers[1].maxConnections: 0 -> 5",
            "engine.servers[1].pingInterval: 25s -> 0s",
        ];
        assert_eq!(lines(&changes.live), want);
        assert_eq!(changes.restart, []);
        assert_eq!(merge(&old, &new), new);
    }

    #[test]
    fn what_needs_a_restart_stays_as_it_is() {
        let old = config(&[]);
        let new = config(&[
            (
                "access:",
                "logging: {filename: '', maxFiles: 3, maxSize: 1MiB, format: json}\ncluster: {advertise: 'a:1'}\naccess:",
            ),
            ("engine:", "engine:\n  workers: 2\n  apiServer: {port: 6799, bind: 127.0.0.1}"),
            ("luavm: {", "luavm: {memoryLimit: 1GiB, libraries: [io], queue: {topicSize: 5, full: block}, "),
            ("name: default", "name: default, db: 3"),
        ]);
        let changes = compare(&old, &new);
        assert_eq!(changes.live, []);
        let found = lines(&changes.restart);
        assert!(found[0].starts_with("logging.filename: /") && found[0].ends_with(" -> the console only"), "{found:?}");
        let want = [
            "logging.maxFiles: 7 -> 3",
            "logging.maxSize: 100MiB -> 1MiB",
            "logging.format: text -> json",
            "engine.apiServer.port: 6789 -> 6799",
            "engine.apiServer.bind: 0.0.0.0 -> 127.0.0.1",
            "engine.workers: 0 -> 2",
            "engine.luavm.queue.topicSize: 2000 -> 5",
            "engine.luavm.queue.full: error -> block",
            "engine.luavm.memoryLimit: 256MiB -> 1GiB",
            "engine.luavm.libraries: [] -> [io]",
            "engine.luavm.redis[default].db: 0 -> 3",
            "cluster.advertise: none -> a:1",
        ];
        assert_eq!(&found[1..], want);
        let merged = merge(&old, &new);
        assert_eq!(Config { file: old.file.clone(), ..merged }, old);
    }

    #[test]
    fn a_server_that_moved_keeps_running_as_it_is() {
        let old = config(&[]);
        let new = config(&[
            ("port: 7001", "port: 7003, readTimeout: 5"),
            ("{port: 7002}", "{port: 7002}\n    - {port: 7004}"),
        ]);
        let changes = compare(&old, &new);
        assert_eq!(changes.live, []);
        let want = ["engine.servers[0].port: 7001 -> 7003", "engine.servers[2]: none -> 0.0.0.0:7004"];
        assert_eq!(lines(&changes.restart), want);
        assert_eq!(merge(&old, &new).servers, old.servers);
        // The other way round: what is gone from the file still runs.
        assert_eq!(lines(&compare(&new, &old).restart)[1], "engine.servers[2]: 0.0.0.0:7004 -> none");
        assert_eq!(merge(&new, &old).servers, new.servers);
    }

    #[test]
    fn secrets_are_not_shown() {
        let (old, new) = (config(&[]), config(&[("hunter2", "s3cret"), ("hunter2", "s3cret"), ("hunter2", "s3cret")]));
        let changes = compare(&old, &new);
        let want = ["access.users[bob].password: *** -> ***", "engine.servers[0].options.key: *** -> ***"];
        assert_eq!(lines(&changes.live), want);
        assert_eq!(lines(&changes.restart), ["engine.luavm.redis[default].password: *** -> ***"]);
        let all = format!("{changes:?}");
        assert!(!all.contains("hunter2") && !all.contains("s3cret"));
    }

    #[test]
    fn comparing_and_merging_agree() {
        let old = config(&[]);
        let new = config(&[
            ("engine:", "engine:\n  workers: 2"),
            ("username: eve", "username: adam"),
            ("port: 7001", "port: 7001, outboxLimit: 64KiB"),
            ("port: 7002", "port: 7005"),
        ]);
        let (changes, merged) = (compare(&old, &new), merge(&old, &new));
        assert_eq!(compare(&old, &merged), Changes { live: changes.live, restart: vec![] });
        assert_eq!(compare(&merged, &new), Changes { live: vec![], restart: changes.restart });
    }
}
