//! From a file to a `Config`: what values mean together and on this disk.
//!
//! The rows have judged each value alone. Here they meet: listeners that must not collide, scripts that must exist. All
//! problems are reported at once, and a configuration with any is none: nothing of it is used.

use super::access;
use super::channels;
use super::file::{other_kind, read};
use super::keys::{self, Config, Server, Tls};
use super::problem::{Problem, Problems};
use super::raw::value::Value;
use super::raw::{MAX_BYTES, Sink, tree, units};
use super::rows::Section;
use super::tracing;
use super::types::{Compression, EventStream, Listen, Protocol, ProxyProtocol};
use crate::telemetry::language::{Both, both, system};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The script of a server whose protocol is socket, unless told.
const SOCKET_ENTRY: &str = "lua/entry.socket.lua";

/// Reads a file.
pub fn load(file: &Path) -> Result<Config, Problems> {
    parse(file, &text(file)?)
}

/// Reads a text as if it stood in `file`, whose folder relative paths start from.
pub fn parse(file: &Path, text: &str) -> Result<Config, Problems> {
    both(file, text).map(|(_, config)| config)
}

/// Reads a file as [`load`] does, with the same problems, but leaves its paths as they are written there.
pub fn load_as_written(file: &Path) -> Result<Config, Problems> {
    both(file, &text(file)?).map(|(written, _)| written)
}

/// What a file with one server, and nothing said of it, means; with relative paths as they are.
pub fn defaults() -> Config {
    let sink = Sink::default();
    let root = tree::parse("engine: {servers: [{}]}", &sink);
    Config::read(&Value::root(root.as_deref(), &sink))
}

/// The text of a file. It may hold secrets.
pub(super) fn text(file: &Path) -> Result<Zeroizing<String>, Problems> {
    let whole = |line, column, message| {
        let list = vec![Problem { line, column, key: String::new(), message }];
        Problems { file: file.to_owned(), list }
    };
    // One byte more than is allowed, which the parser then tells.
    let hint = |e: &std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => both!(
            "; name a file with -f FILE, or make a project with connmix new NAME",
            "；请用 -f FILE 指定文件，或者用 connmix new NAME 建立一个项目"
        ),
        _ => Both::default(),
    };
    let bytes = read(file, MAX_BYTES as u64 + 1).map_err(|e| {
        let (why, hint) = (system(&e), hint(&e));
        let message = Both {
            en: format!("cannot be read: {}{}", why.en, hint.en),
            zh: format!("无法读取：{}{}", why.zh, hint.zh),
        };
        whole(0, 0, message)
    })?;
    String::from_utf8(bytes).map(Zeroizing::new).map_err(|e| {
        let good = String::from_utf8_lossy(&e.as_bytes()[..e.utf8_error().valid_up_to()]).into_owned();
        let column = good.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        let message = both!("not UTF-8 text from here on", "从这里开始不是 UTF-8 文本");
        whole(good.matches('\n').count() + 1, column, message)
    })
}

/// The configuration with paths as they are written, and with those that are in force.
pub(super) fn both(file: &Path, text: &str) -> Result<(Config, Config), Problems> {
    let sink = Sink::default();
    let config = tree::parse(text, &sink).map(|root| {
        let root = Value::root(Some(&root), &sink);
        let unknown = Sink::default();
        keys::known().check(&root, &unknown);
        let mut config = Config::read(&root);
        sink.append(unknown);
        for server in config.servers.iter_mut().filter(|server| server.protocol == Protocol::Socket) {
            if !root.get(&key_of(server, "entry")).is_set() {
                server.entry = SOCKET_ENTRY.into();
            }
        }
        listeners_differ(&config, &root);
        channels::check(&config, &root);
        each_tls(&mut config, |key, tls| tls_is_whole(&root, key, tls));
        if config.servers.is_empty() {
            root.get("engine.servers").report(both!("at least one server is needed", "至少需要一个 server"));
        }
        (config.clone(), in_force(file, config, &root))
    });
    let list = sink.into_list();
    match config {
        Some(both) if list.is_empty() => Ok(both),
        _ => Err(Problems { file: file.to_owned(), list }),
    }
}

/// The configuration with its paths resolved and its notes.
fn in_force(file: &Path, mut config: Config, root: &Value<'_>) -> Config {
    config.file = file.to_owned();
    access::settle(&mut config, root);
    tracing::settle(&mut config, root);
    config.logging.filename = config.logging.filename.map(|name| std::path::absolute(&name).unwrap_or(name));
    each_tls(&mut config, |_, tls| {
        let more = tls.certificates.iter_mut().flat_map(|more| [&mut more.cert, &mut more.key]);
        let all = [&mut tls.cert, &mut tls.key, &mut tls.client_ca].into_iter().chain(more);
        all.filter(|name| !name.is_empty()).for_each(|name| *name = find_beside(file, name));
    });
    for server in &mut config.servers {
        server.entry = find_entry(file, &server.entry).unwrap_or_else(|looked| {
            root.get(&key_of(server, "entry")).report(looked);
            PathBuf::new()
        });
        if server.proxy_protocol != ProxyProtocol::Off && config.trusted_proxies.is_empty() {
            let key = key_of(server, "proxyProtocol");
            config.notes.push(both!(
                "{key}: every connection is refused, since trustedProxies names nobody",
                "{key}: 会拒绝所有连接，因为 trustedProxies 里没有写任何地址"
            ));
        }
        if server.compression != Compression::Off && server.protocol != Protocol::Websocket {
            let key = key_of(server, "compression");
            config.notes.push(both!(
                "{key}: nothing is compressed, since only WebSocket has it",
                "{key}: 不会压缩，因为只有 WebSocket 有压缩"
            ));
        }
        if server.event_stream != EventStream::Off && server.protocol != Protocol::Websocket {
            let key = key_of(server, "eventStream");
            config.notes.push(both!(
                "{key}: there are no event streams, since only protocol websocket has them",
                "{key}: 没有事件流，因为只有 protocol: websocket 有事件流"
            ));
        }
        let (ping, read) = (server.limits.ping_interval, server.limits.read_timeout);
        if server.protocol == Protocol::Websocket && !read.is_zero() && ping >= read {
            let (key, ping, read) = (key_of(server, "pingInterval"), units::duration(ping), units::duration(read));
            config.notes.push(both!(
                "{key} ({ping}) is not below readTimeout ({read}): silent clients are closed unpinged",
                "{key}（{ping}）不小于 readTimeout（{read}）：静默的客户端没有收到 ping 就会被关闭"
            ));
        }
    }
    config
}

/// The path of a server's key: `engine.servers[0].entry`. A list may have gaps, so that its position alone does not
/// tell.
pub(super) fn key_of(server: &Server, name: &str) -> String {
    let section = server.listen.key.strip_suffix("port").unwrap_or(&server.listen.key);
    format!("{section}{name}")
}

/// The script next to the file, else in the working directory. The error names where was looked, or what stands there
/// that is no file.
fn find_entry(file: &Path, entry: &Path) -> Result<PathBuf, Both> {
    let beside = file.parent().unwrap_or(Path::new("")).join(entry);
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (first, second) = (absolute(&beside), absolute(entry));
    let mut wrong = None;
    for path in [&first, &second] {
        let Ok(meta) = std::fs::metadata(path) else { continue };
        match other_kind(meta.file_type()) {
            None => return Ok(path.clone()),
            Some(kind) => wrong = wrong.or(Some((path, kind))),
        }
    }
    Err(match wrong {
        Some((path, kind)) => {
            both!(
                "{0} is {kind}; a script is a regular file",
                "{0} 不是普通文件，不能用作脚本（{kind}）",
                path.display()
            )
        }
        None if first == second => both!("no such script: {0}", "没有这个脚本：{0}", first.display()),
        None => both!(
            "no such script: neither {0} nor {1}",
            "没有这个脚本：{0} 和 {1} 都没有",
            first.display(),
            second.display()
        ),
    })
}

/// Visits each section `tls`, with its key.
fn each_tls(config: &mut Config, mut visit: impl FnMut(&str, &mut Tls)) {
    visit("center.apiServer.tls", &mut config.center_tls);
    visit("engine.apiServer.tls", &mut config.api.tls);
    for server in &mut config.servers {
        visit(&key_of(server, "tls"), &mut server.tls);
    }
}

/// Reports what of a section `tls` needs something else there.
fn tls_is_whole(root: &Value<'_>, key: &str, tls: &Tls) {
    let at = |name: &str| root.get(&format!("{key}.{name}"));
    match (tls.cert.is_empty(), tls.key.is_empty()) {
        (false, true) => at("cert").report(both!("needs its key, tls.key", "还需要它的密钥 tls.key")),
        (true, false) => at("key").report(both!("needs its certificate, tls.cert", "还需要它的证书 tls.cert")),
        (true, true) if !tls.client_ca.is_empty() => {
            at("clientCa").report(both!("needs tls.cert and tls.key", "还需要 tls.cert 和 tls.key"));
        }
        (true, true) if !tls.certificates.is_empty() => {
            at("certificates").report(both!(
                "needs tls.cert and tls.key, for clients that ask for none of these names",
                "还需要 tls.cert 和 tls.key，用于不要求这些名称的客户端"
            ));
        }
        _ => {}
    }
}

/// The path of a file that need not be there: beside `file`, or in the working directory if only there is one.
fn find_beside(file: &Path, name: &str) -> String {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (first, second) = (absolute(&file.parent().unwrap_or(Path::new("")).join(name)), absolute(Path::new(name)));
    let chosen = if !first.exists() && second.exists() { second } else { first };
    chosen.to_string_lossy().into_owned()
}

fn listeners_differ(config: &Config, root: &Value<'_>) {
    let servers = config.servers.iter().map(|server| &server.listen);
    let all: Vec<&Listen> = [&config.center, &config.api.listen].into_iter().chain(servers).collect();
    for (i, one) in all.iter().enumerate() {
        if let Some(other) = all[..i].iter().find(|other| collide(one.addr, other.addr)) {
            let (addr, key, taken) = (one.addr, &other.key, other.addr);
            root.get(&one.key).report(both!("{addr} overlaps {key} ({taken})", "{addr} 与 {key}（{taken}）重叠"));
        }
    }
}

/// Whether two sockets can't be bound both. `::` usually takes the IPv4 addresses too.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |any: IpAddr, other: IpAddr| any.is_unspecified() && (any.is_ipv6() || other.is_ipv4());
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}

#[cfg(test)]
mod tests;
