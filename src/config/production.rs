//! What a configuration should not have in production: `connmix check --production`.
//!
//! An error is what lets in strangers who reach the port or this machine. A warning depends on what stands around the engine, or
//! takes a defence away. None of it is wrong in itself, so that a start takes it.

use super::changes::Effect;
use super::load;
use super::print;
use super::raw::value::Value;
use super::raw::{Sink, tree};
use super::types::{High, Level, Library, Listen, Protocol};
use super::{Config, Problems, Row, Server};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// A hook that may hold its worker for longer than this makes all clients of the worker wait noticeably.
const LONG_HOOK: Duration = Duration::from_secs(2);

/// Trusted proxies are machines of one's own: no network is larger than this prefix.
const WIDEST: u8 = 8;

/// Something that is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The line of the key, or of the section that lacks it; 0: no line of the file.
    pub line: usize,
    /// The key's path.
    pub key: String,
    /// An error; else a warning.
    pub is_error: bool,
    /// What is there, why it matters, and what to do.
    pub what: String,
}

impl std::fmt::Display for Finding {
    /// What follows the file's name: `:LINE: KEY: error: WHAT`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}: {}: {}", self.key, if self.is_error { "error" } else { "warning" }, self.what)
    }
}

/// Looks at a file that has been loaded, and at the files that it names.
pub fn check(config: &Config) -> Result<Vec<Finding>, Problems> {
    let text = load::text(&config.file)?;
    let sink = Sink::default();
    let root = tree::parse(&text, &sink);
    let rows = print::rows(config);
    let mut check = Check { config, rows: &rows, root: Value::root(root.as_deref(), &sink), found: Vec::new() };
    check.apis();
    check.trust();
    check.servers();
    check.engine();
    check.cluster();
    check.files();
    check.found.sort_by_key(|finding| finding.line);
    Ok(check.found)
}

struct Check<'a> {
    config: &'a Config,
    /// With the values in force.
    rows: &'a [Row],
    root: Value<'a>,
    found: Vec<Finding>,
}

impl Check<'_> {
    fn add(&mut self, is_error: bool, key: &str, what: impl Into<String>) {
        let line = self.root.get(key).line();
        self.found.push(Finding { line, key: key.to_owned(), is_error, what: what.into() });
    }

    fn error(&mut self, key: &str, what: impl Into<String>) {
        self.add(true, key, what);
    }

    fn warn(&mut self, key: &str, what: impl Into<String>) {
        self.add(false, key, what);
    }

    /// Whether a text stands at that key.
    fn is_set(&self, key: &str) -> bool {
        self.root.get(key).text().is_some_and(|text| !text.is_empty())
    }

    /// Whether a key of that section has an effect in this version.
    fn has_effect(&self, section: &str) -> bool {
        self.rows.iter().any(|row| row.path.starts_with(section) && row.effect != Effect::Unused)
    }

    /// What to do about a listener without TLS.
    fn tls_advice(&self, section: &str) -> String {
        let own = if self.has_effect(&format!("{section}.tls.")) { "set tls.cert and tls.key, or " } else { "" };
        format!("{own}bind it to 127.0.0.1 behind a proxy that ends TLS")
    }

    fn apis(&mut self) {
        let Config { api, center, users, .. } = self.config;
        for (section, listen) in [("engine.apiServer", &api.listen), ("center.apiServer", center)] {
            if !listen.is_beyond_loopback() {
                continue;
            }
            let bind = format!("{section}.bind");
            if users.is_empty() {
                self.error(
                    &bind,
                    format!(
                        "{} is open to everybody who reaches it: there are no access.users; set some, or bind it to 127.0.0.1",
                        listen.addr
                    ),
                );
            } else if !self.is_set(&format!("{section}.tls.cert")) {
                let advice = self.tls_advice(section);
                self.warn(
                    &bind,
                    format!("{} has no TLS: passwords and messages can be read on the way; {advice}", listen.addr),
                );
            }
        }
        for (key, off) in [
            ("engine.apiServer.readTimeout", api.read_timeout.is_zero()),
            ("engine.apiServer.writeTimeout", api.write_timeout.is_zero()),
        ] {
            if off {
                self.warn(key, "0 is no limit: callers that stall keep their connections; set some seconds");
            }
        }
    }

    /// Secrets that stand in the file as they are, and who is believed.
    fn trust(&mut self) {
        // Options of scripts may be anything; of a hash nobody gets the secret.
        let is_plain = |row: &&Row| row.hidden && !row.path.contains(".options[") && !row.path.ends_with("Hash");
        for row in self.rows.iter().filter(is_plain) {
            if self.root.get(&row.path).is_of_environment() {
                continue;
            }
            let others = ["Hash", "File"].map(|end| format!("{}{end}", row.path));
            let known = others.iter().filter(|other| self.has_effect(other));
            let known: Vec<&str> = known.filter_map(|other| other.rsplit('.').next()).collect();
            let instead =
                if known.is_empty() { String::new() } else { format!("set {} instead, or ", known.join(" or ")) };
            self.warn(
                &row.path,
                format!(
                    "a secret stands readable in the file, and in each copy of it; {instead}keep the file from others"
                ),
            );
        }
        let tracing = &self.config.tracing;
        if tracing.is_readable() && !tracing.headers.is_empty() {
            self.warn(
                "tracing.endpoint",
                "http:// to another machine: the headers can be read on the way, with what they hold; use https://",
            );
        }
        for at in 0..self.config.trusted_proxies.len() {
            let net = self.config.trusted_proxies[at];
            if net.prefix_len() < WIDEST {
                self.error(
                    &format!("trustedProxies[{at}]"),
                    format!("with {net} any client can claim any address; name the addresses of your proxies"),
                );
            }
        }
    }

    fn servers(&mut self) {
        for server in &self.config.servers {
            let section = load::key_of(server, "");
            self.server(section.trim_end_matches('.'), server);
        }
    }

    fn server(&mut self, section: &str, server: &Server) {
        let key = |name: &str| format!("{section}.{name}");
        let limits = &server.limits;
        if server.listen.is_beyond_loopback() && !self.is_set(&key("tls.cert")) {
            let (addr, advice) = (server.listen.addr, self.tls_advice(section));
            self.warn(
                &key("bind"),
                format!("{addr} has no TLS: what clients send and get can be read on the way; {advice}"),
            );
        }
        if server.protocol == Protocol::Websocket && server.allowed_origins.is_empty() {
            self.warn(
                &key("allowedOrigins"),
                "pages of any site may connect from a visitor's browser, with that visitor's cookies; list the origins of \
                 your pages, unless on_handshake demands a token",
            );
        }
        if limits.max_connections == 0 {
            self.warn(
                &key("maxConnections"),
                "0 is no limit: clients can take all descriptors that are not kept back; set one",
            );
        }
        let rate = key("rate");
        let is_known = self.has_effect(&format!("{rate}."));
        if is_known && server.listen.is_beyond_loopback() && !self.root.get(&rate).is_set() {
            self.warn(&rate, "there is no limit on connects and messages of an address; set some");
        }
        for (name, off, why) in [
            ("readTimeout", limits.read_timeout.is_zero(), "clients that are gone unnoticed stay"),
            ("writeTimeout", limits.write_timeout.is_zero(), "clients that take nothing stay"),
            ("messageTimeout", limits.message_timeout.is_zero(), "messages without an end stay in memory"),
            ("unsentLimit", limits.unsent_limit == 0, "the system keeps as much for a slow client as it likes"),
        ] {
            if off {
                self.warn(&key(name), format!("0 is no limit: {why}; leave the default"));
            }
        }
        if limits.handler_timeout > LONG_HOOK {
            self.warn(
                &key("handlerTimeout"),
                format!("one hook may hold up its worker's clients for {:?}; set less", limits.handler_timeout),
            );
        }
        if mode(&server.entry).is_ok_and(|mode| mode & 0o002 != 0) {
            self.error(
                &key("entry"),
                format!("every user of this machine can change {}: chmod o-w", server.entry.display()),
            );
        }
    }

    fn engine(&mut self) {
        if self.config.logging.level == Level::Debug {
            self.warn("logging.level", "debug writes a line for each connect, publish and close; set info");
        }
        for library in &self.config.luavm.libraries {
            let what = match library {
                Library::Io => "io lets scripts read and write all files of the engine's user",
                Library::Os => "os lets scripts run programs as the engine's user",
            };
            self.warn("engine.luavm.libraries", format!("{what}; leave it out unless a script needs it"));
        }
        if self.config.memory.high == High::Bytes(0) {
            self.error(
                "engine.memory.high",
                "0 is no mark: clients can fill the memory of the machine; leave the default",
            );
        }
    }

    fn cluster(&mut self) {
        let Config { cluster, registry, mesh_point, .. } = self.config;
        let is_mesh = self.config.is_of_mesh();
        // Engines and centers are of a mesh, whatever the file says; only the command line tells them.
        let may_be = is_mesh || !self.config.centers.is_empty() || self.root.get("cluster").is_set();
        let listens = [registry, mesh_point].into_iter().any(Listen::is_beyond_loopback);
        if !may_be || !listens {
            return;
        }
        let who = if is_mesh { "" } else { "as a center or an engine: " };
        if cluster.secret.is_empty() && cluster.secret_file.is_empty() {
            self.add(
                is_mesh,
                "cluster.secret",
                format!("{who}everybody who reaches the ports can join, read and publish; set cluster.secretFile"),
            );
        }
        if cluster.tls_cert.is_empty() {
            self.warn(
                "cluster.tls.cert",
                format!("{who}what nodes say to each other can be read and changed on the way; set cluster.tls"),
            );
        }
    }

    /// Files that others on this machine can read or change.
    fn files(&mut self) {
        let file = self.config.file.clone();
        let has_secret = self.rows.iter().any(|row| row.hidden);
        match mode(&file) {
            Ok(mode) if mode & 0o002 != 0 => self.file("every user of this machine can change this file: chmod o-w"),
            Ok(mode) if mode & 0o004 != 0 && has_secret => {
                self.file("every user of this machine can read this file, which holds secrets: chmod o-r");
            }
            _ => {}
        }
        let is_file =
            |row: &&Row| row.path.ends_with("File") || row.path.contains(".tls.") && row.path.ends_with(".key");
        for row in self.rows.iter().filter(is_file) {
            let name = row.value.as_ref().and_then(|value| value.as_str()).unwrap_or_default();
            match mode(Path::new(name)) {
                _ if name.is_empty() => {}
                Ok(mode) if mode & 0o006 != 0 => {
                    self.error(&row.path, format!("every user of this machine can read or change {name}: chmod o="));
                }
                Ok(_) => {}
                Err(e) => {
                    self.warn(&row.path, format!("the mode of {name} is not known: {e}; is it readable by others?"))
                }
            }
        }
    }

    /// An error of the file as a whole.
    fn file(&mut self, what: &str) {
        self.found.push(Finding { line: 0, key: "mode".to_owned(), is_error: true, what: what.to_owned() });
    }
}

/// A file's permissions.
fn mode(path: &Path) -> std::io::Result<u32> {
    Ok(std::fs::metadata(path)?.mode())
}
