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
mod tests {
    use super::super::types::{Format, Level};
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;
    use tempfile::TempDir;

    /// A folder with the default entry in it.
    fn folder() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lua")).unwrap();
        std::fs::write(dir.path().join("lua/entry.websocket.lua"), "").unwrap();
        dir
    }

    fn read(text: &str) -> Result<Config, Vec<String>> {
        let dir = folder();
        parse(&dir.path().join("connmix.yaml"), text).map_err(|problems| {
            let show = |p: &Problem| format!("{}:{} {}: {}", p.line, p.column, p.key, p.message);
            problems.list.iter().map(show).collect()
        })
    }

    #[test]
    fn one_empty_server_is_enough_and_gets_every_default() {
        let dir = folder();
        let config = parse(&dir.path().join("connmix.yaml"), "engine: {servers: [{}]}").unwrap();
        let secs = Duration::from_secs;
        assert_eq!(config.logging.filename, Some(std::path::absolute("logs/connmix.log").unwrap()));
        assert_eq!(
            (config.logging.max_files, config.logging.max_size, config.logging.level, config.logging.format),
            (7, 100 << 20, Level::Info, Format::Text)
        );
        assert_eq!(config.center.addr.to_string(), "0.0.0.0:6787");
        assert_eq!(
            (config.api.listen.addr.port(), config.api.read_timeout, config.api.max_body_size),
            (6789, secs(60), 1 << 20)
        );
        assert_eq!((config.workers, config.users.len(), config.luavm.redis.len()), (0, 0, 0));
        assert_eq!((config.luavm.queue_topic_size, config.luavm.queue_max_topics), (2000, 100));
        assert_eq!((config.luavm.memory_limit, config.luavm.libraries), (256 << 20, vec![]));
        assert_eq!(config.luavm.load_limit, 64 << 10);
        assert_eq!((config.summary.max_age, config.summary.age_buckets, config.summary.buf_cap), (secs(600), 5, 500));
        assert_eq!((config.shutdown_timeout, config.trusted_proxies), (secs(10), vec![]));
        assert_eq!((config.cluster.advertise, config.cluster.reply_timeout), (None, Duration::from_millis(500)));
        assert_eq!(config.notes, []);
        let server = &config.servers[0];
        assert_eq!((server.listen.addr.port(), server.listen.key.as_str()), (6790, "engine.servers[0].port"));
        assert_eq!(server.entry, dir.path().join("lua/entry.websocket.lua"));
        assert_eq!((server.reload_within, server.option("path")), (Some(secs(10)), None));
        let limits = server.limits;
        assert_eq!((limits.read_timeout, limits.write_timeout, limits.ping_interval), (secs(60), secs(10), secs(25)));
        assert_eq!((limits.max_message_size, limits.outbox_limit, limits.max_connections), (1 << 20, 1 << 20, 0));
        assert_eq!((limits.handler_timeout, limits.handshake_timeout), (Duration::from_millis(200), secs(10)));
    }

    #[test]
    fn a_file_without_servers_is_refused() {
        for (text, want) in [
            ("", "0:0 : empty; it must name at least one server under engine.servers"),
            ("logging: {level: warn}", "1:1 engine.servers: at least one server is needed"),
            ("engine:\n  servers: []", "2:12 engine.servers: at least one server is needed"),
        ] {
            assert_eq!(read(text), Err(vec![want.to_owned()]));
        }
    }

    #[test]
    fn listeners_must_not_collide() {
        let two = |a: &str, b: &str| read(&format!("engine: {{servers: [{{{a}}}, {{{b}}}]}}")).map(|_| ());
        assert_eq!(two("port: 7000, bind: 127.0.0.1", "port: 7000, bind: 127.0.0.2"), Ok(()));
        assert_eq!(two("port: 0", "port: 0"), Ok(()));
        let want = "1:41 engine.servers[1].port: 127.0.0.1:7000 overlaps engine.servers[0].port (0.0.0.0:7000)";
        assert_eq!(two("port: 7000", "port: 7000, bind: 127.0.0.1"), Err(vec![want.to_owned()]));
        assert!(two("port: 7000, bind: '::'", "port: 7000").is_err());
        assert_eq!(two("port: 7000, bind: '::1'", "port: 7000"), Ok(()));
        let with_api = read("engine: {servers: [{port: 6789}]}").unwrap_err();
        assert_eq!(
            with_api,
            ["1:27 engine.servers[0].port: 0.0.0.0:6789 overlaps engine.apiServer.port (0.0.0.0:6789)"]
        );
    }

    #[test]
    fn names_must_differ() {
        let text = "access:
  users: [{username: a, password: p}, {username: a, password: p}]
engine:
  luavm: {redis: [{}, {name: default}]}
  servers:
    - options: [{name: path, value: /a}, {name: path, value: /b}, {name: x, value: 1}, {name: x, value: 2}]
";
        let want = [
            "2:50 access.users[1].username: \"a\" is taken; line 2 has it too",
            "4:30 engine.luavm.redis[1].name: \"default\" is taken; line 4 has it too",
            "6:49 engine.servers[0].options[1].name: \"path\" is taken; line 6 has it too",
        ];
        assert_eq!(read(text).unwrap_err(), want);
    }

    #[test]
    fn a_missing_entry_is_told_with_where_it_was_looked_for() {
        let dir = folder();
        let problems = parse(&dir.path().join("connmix.yaml"), "engine: {servers: [{entry: no.lua}]}").unwrap_err();
        let (beside, here) = (dir.path().join("no.lua"), std::path::absolute("no.lua").unwrap());
        let message = format!("no such script: neither {} nor {}", beside.display(), here.display());
        let told: Vec<_> =
            problems.list.iter().map(|p| (p.line, p.column, p.key.as_str(), p.message.en.as_str())).collect();
        assert_eq!(told, [(1, 28, "engine.servers[0].entry", message.as_str())]);
    }

    #[test]
    fn origins_are_read_as_browsers_write_them_and_what_none_writes_is_refused() {
        let text = "access: {origins: ['HTTPS://Example.com:443/']}
engine: {servers: [{allowedOrigins: ['https://münchen.de', 'http://localhost:3000']}]}";
        let config = read(text).unwrap();
        assert_eq!(config.origins, ["https://example.com"]);
        assert_eq!(config.servers[0].allowed_origins, ["https://xn--mnchen-3ya.de", "http://localhost:3000"]);
        let text = "access: {origins: ['null', '*']}
engine: {servers: [{allowedOrigins: ['wss://example.com', 'https://example.com/page', https://a]}]}";
        let found = read(text).unwrap_err();
        let begins = [
            "1:20 access.origins[0]: expected the origin of pages",
            "1:28 access.origins[1]: expected the origin of pages",
            "2:38 engine.servers[0].allowedOrigins[0]: expected the origin of pages",
            "2:59 engine.servers[0].allowedOrigins[1]: expected the origin of pages",
        ];
        assert_eq!(found.len(), begins.len(), "{found:?}");
        assert!(found.iter().zip(begins).all(|(problem, begin)| problem.starts_with(begin)), "{found:?}");
    }

    #[test]
    fn a_server_whose_pings_come_too_late_is_noted() {
        let text = "engine: {servers: [{pingInterval: 60s}, {port: 1, pingInterval: 60, readTimeout: 0}]}";
        let notes = read(text).unwrap().notes;
        let begins = ["engine.servers[0].pingInterval (60s)"];
        assert_eq!(notes.len(), begins.len(), "{notes:?}");
        assert!(notes.iter().zip(begins).all(|(note, begin)| note.en.starts_with(begin)), "{notes:?}");
    }

    #[test]
    fn a_certificate_needs_its_key_and_files_are_looked_for_beside_the_configuration() {
        let text = "center: {apiServer: {tls: {clientCa: ca.pem}}}
engine:
  apiServer: {tls: {key: b.pem}}
  servers:
    - {tls: {cert: a.pem}}
    - {port: 1, tls: {certificates: [{cert: c.pem, key: d.pem}]}}
";
        let found = read(text).unwrap_err();
        let begins = [
            "1:38 center.apiServer.tls.clientCa: needs tls.cert and tls.key",
            "3:26 engine.apiServer.tls.key: needs its certificate, tls.cert",
            "5:20 engine.servers[0].tls.cert: needs its key, tls.key",
            "6:37 engine.servers[1].tls.certificates: needs tls.cert and tls.key",
        ];
        assert_eq!(found.len(), begins.len(), "{found:?}");
        assert!(found.iter().zip(begins).all(|(problem, begin)| problem.starts_with(begin)), "{found:#?}");
        let dir = folder();
        let text = "engine:
  apiServer: {tls: {cert: , key: }}
  servers: [{tls: {cert: a.pem, key: /k.pem, certificates: [{cert: c/c.pem, key: d.pem}]}}]
";
        let config = parse(&dir.path().join("connmix.yaml"), text).unwrap();
        let beside = |name: &str| dir.path().join(name).display().to_string();
        assert_eq!(config.api.tls, Tls::default());
        let tls = &config.servers[0].tls;
        assert_eq!((&tls.cert, tls.key.as_str()), (&beside("a.pem"), "/k.pem"));
        assert_eq!((&tls.certificates[0].cert, &tls.certificates[0].key), (&beside("c/c.pem"), &beside("d.pem")));
    }

    #[test]
    fn a_user_without_roles_key_has_both_and_an_empty_list_is_refused() {
        let user = |rest: &str| {
            read(&format!("access: {{users: [{{username: a, password: p{rest}}}]}}\nengine: {{servers: [{{}}]}}"))
        };
        let roles = |rest| user(rest).map(|c| (c.users[0].roles.read, c.users[0].roles.write));
        assert_eq!(roles(""), Ok((true, true)));
        assert_eq!(roles(", roles: [read]"), Ok((true, false)));
        assert!(roles(", roles: []").is_err());
        assert!(roles(", roles: [admin]").unwrap_err()[0].contains("one of read, write, got \"admin\""));
    }

    #[test]
    fn a_file_that_is_too_large_missing_or_no_text_is_refused() {
        let dir = folder();
        let file = dir.path().join("connmix.yaml");
        assert!(load(&file).unwrap_err().list[0].message.en.starts_with("cannot be read: "));
        std::fs::write(&file, "#".repeat(MAX_BYTES + 1)).unwrap();
        assert!(load(&file).unwrap_err().list[0].message.en.starts_with("larger than 1MiB"));
        std::fs::write(&file, b"a: 1\nb\xc3\xa9\xff").unwrap();
        let problem = &load(&file).unwrap_err().list[0];
        assert_eq!((problem.line, problem.column), (2, 3));
        std::fs::write(&file, "engine: {servers: [{}]}").unwrap();
        assert!(load(&file).is_ok());
    }

    #[test]
    fn no_secret_reaches_a_problem() {
        for text in [
            "access: {users: [{username: a, password: [hunter2]}]}",
            "access: {users: [{username: a, password:hunter2}]}",
            "access: {users: [{username: a, password: hunter2, password: hunter2}]}",
            "access: {users: [{username: a, password: !hunter2}]}",
            "access: {users: [{username: a, password: *hunter2}]}",
            "access: {users: hunter2}",
            "access: {users: [hunter2]}",
            "access: hunter2",
            "engine: {luavm: {redis: [{addr: 'redis://:hunter2@localhost:6379'}]}}",
            "engine: {centerRegistry: ['me:hunter2@localhost']}",
            "tracing: {endpoint: 'http://me:hunter2@localhost'}",
            "tracing: {endpoint: 'http://localhost?key=hunter2'}",
            "tracing: {headers: [{name: host, value: hunter2}]}",
            "tracing: {headers: [{name: a, value: \"hunter2\\n\"}]}",
        ] {
            let found = read(text).unwrap_err();
            assert!(!format!("{found:?}").contains("hunter2"), "{text}: {found:?}");
        }
        let text = "access: {users: [{username: a, password: hunter2}]}
tracing: {headers: [{name: a, value: hunter2}]}
engine: {luavm: {redis: [{password: hunter2}]}, servers: [{}]}";
        assert!(!format!("{:?}", read(text).unwrap()).contains("hunter2"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,200}") {
            let _ = parse(Path::new("connmix.yaml"), &text);
        }

        #[test]
        fn anything_that_looks_like_yaml_is_read_without_a_panic(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "engine", "servers", "port", "options", "access", "users", "password", "host", "redis", "tls", ":", ": ",
                    "- ", "\n", "\n  ", "\n    ", "{", "}", "[", "]", ", ", "\"", "'", "&a ", "*a", "<<: ", "!x ", "|\n", "#", "---\n",
                    "1", "-1", "99999999999999999999999", "1.5", "1h", "~", "\t", "é", "\u{feff}", "*", "10.0.0.0/8",
                ]),
                0..40,
            )
        ) {
            let text: String = parts.concat();
            if let Err(problems) = parse(Path::new("connmix.yaml"), &text) {
                prop_assert!(!problems.list.is_empty());
            }
        }
    }
}
