//! Whole files: what is read of them, and what is refused with its place.

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
    assert_eq!(with_api, ["1:27 engine.servers[0].port: 0.0.0.0:6789 overlaps engine.apiServer.port (0.0.0.0:6789)"]);
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
