//! The greeting of `connmix dev`: where to connect, and what to try. All commands in it work as they stand.

use std::net::SocketAddr;

use crate::config::file::read;
use crate::config::{Config, Protocol, Server, Tls};
use crate::engine::Addresses;
use crate::script::program::shown;
use crate::telemetry::language::{padding, spoken};
use crate::telemetry::log::escape::for_terminal;
use crate::telemetry::terminal::say;

/// The handler that ships: the greeting knows the messages that it takes.
const SHIPPED: &str = include_str!("../../lua/entry.websocket.lua");

/// The most bytes of a script that are looked at.
const MOST: u64 = 1024 * 1024;

/// The parts of the configuration that are kept for the greeting.
pub(super) struct Greeting {
    /// For each server what it speaks, what goes before its address and what behind.
    servers: Vec<(&'static str, &'static str, String)>,
    /// How the engine's API and the center's are called.
    api: &'static str,
    center: &'static str,
    entries: Vec<String>,
    shipped: bool,
    access: Access,
    /// The center serves its pages.
    console: bool,
    /// A script takes what the demo sends.
    demo: bool,
}

/// Who may publish from this machine.
enum Access {
    Everybody,
    User(String),
    Nobody,
}

impl Access {
    fn of(config: &Config) -> Access {
        let from = reachable(config.api.listen.addr).ip();
        let publisher = config.users.iter().find(|user| user.roles.write && user.host.matches(from));
        match publisher {
            Some(user) => Access::User(user.username.clone()),
            None if config.users.is_empty() => Access::Everybody,
            None => Access::Nobody,
        }
    }
}

impl Greeting {
    pub(super) fn of(config: &Config) -> Greeting {
        let is_shipped = |server: &Server| {
            read(&server.entry, SHIPPED.len() as u64 + 1).is_ok_and(|text| text == SHIPPED.as_bytes())
        };
        let takes_comments = |server: &Server| {
            read(&server.entry, MOST).is_ok_and(|text| String::from_utf8_lossy(&text).contains("@video"))
        };
        Greeting {
            demo: config.servers.iter().any(takes_comments),
            servers: config.servers.iter().map(place).collect(),
            api: scheme(&config.api.tls),
            center: scheme(&config.center_tls),
            shipped: config.servers.iter().any(is_shipped),
            entries: config.servers.iter().map(|s| shown(&s.entry)).collect(),
            access: Access::of(config),
            console: config.console && (!config.users.is_empty() || !config.center.is_beyond_loopback()),
        }
    }

    /// Prints the addresses of the engines, in their order, and of the center. At once: the log has the same terminal.
    pub(super) fn print(&self, engines: &[Addresses], center: SocketAddr) {
        say!("{}", self.lines(engines, center).join("\n"));
    }

    fn lines(&self, engines: &[Addresses], center: SocketAddr) -> Vec<String> {
        let mut lines = Vec::new();
        for (i, at) in engines.iter().enumerate() {
            lines.push(String::new());
            if engines.len() > 1 {
                let number = i + 1;
                lines.push(spoken!("  Node {number}", "  节点 {number}"));
            }
            for ((addr, (what, scheme, path)), entry) in at.servers.iter().zip(&self.servers).zip(&self.entries) {
                let place = format!("{scheme}{}{path}", reachable(*addr));
                let handled =
                    spoken!("handled by {entry} (save it, and it is live)", "由 {entry} 处理（保存后立即生效）");
                lines.push(for_terminal(&row(what, &format!("{place}    {handled}"))));
            }
            lines.push(row("API", &format!("{}{}/v1/mesh/publish", self.api, reachable(at.api))));
        }
        if engines.len() > 1 {
            lines.push(String::new());
        }
        let center = format!("{}{}", self.center, reachable(center));
        lines.push(row(&spoken!("Center", "中心"), &format!("{center}/v1/nodes")));
        if self.console {
            lines.push(row(&spoken!("Console", "控制台"), &format!("{center}/console/")));
        }
        if self.console && self.demo {
            lines.push(row(&spoken!("Demo", "演示"), &format!("{center}/")));
        }
        lines.push(String::new());
        let channel = if self.shipped { "video:100001" } else { "CHANNEL" };
        if self.shipped {
            let message = r#"{"op":"subscribe","channel":"100001@video"}"#;
            lines.push(spoken!(
                "  Connect, send {message}, then publish to it:",
                "  连接，发送 {message}，然后向它发布："
            ));
        } else {
            lines.push(spoken!(
                "  Publish to those that a script has subscribed to CHANNEL:",
                "  向脚本为其订阅了 CHANNEL 的客户端发布："
            ));
        }
        // Any of them will do; the last one shows that the nodes are connected.
        let Some(api) = engines.last().map(|at| reachable(at.api)) else { return lines };
        let (user, note) = match &self.access {
            Access::Everybody => (String::new(), None),
            Access::User(name) => {
                let asks = spoken!("(curl asks for the password of that user.)", "（curl 会询问该用户的密码。）");
                (format!(" -u {}", quoted(name)), Some(asks))
            }
            Access::Nobody => {
                let nobody = spoken!(
                    "(None of access.users may publish from this machine.)",
                    "（access.users 里没有用户可以从本机发布。）"
                );
                (String::new(), Some(nobody))
            }
        };
        let user = for_terminal(&user);
        let scheme = self.api;
        lines.push(format!(
            "  curl{user} {scheme}{api}/v1/mesh/publish -d '{{\"c\":\"{channel}\",\"d\":\"Hello, World!\"}}'"
        ));
        lines.extend(note.map(|note| format!("  {note}")));
        lines.push(String::new());
        lines
    }
}

/// A line of the list: its name, in columns of equal width, and the rest.
fn row(name: &str, rest: &str) -> String {
    format!("  {name}{} {rest}", padding(name, 11))
}

fn place(server: &Server) -> (&'static str, &'static str, String) {
    match server.protocol {
        Protocol::Websocket => {
            let scheme = if server.tls.cert.is_empty() { "ws://" } else { "wss://" };
            ("WebSocket", scheme, server.option("path").unwrap_or("/").to_owned())
        }
        Protocol::Socket => (if server.tls.cert.is_empty() { "TCP" } else { "TLS" }, "", String::new()),
    }
}

fn scheme(tls: &Tls) -> &'static str {
    if tls.cert.is_empty() { "http://" } else { "https://" }
}

/// A word quoted for a shell.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.@+/".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// An address that can be dialled from here.
fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        ip if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], addr.port())),
        _ => addr,
    }
}
