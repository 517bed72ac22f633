//! Configuration files as people write them: CONNMIX's own, the shipped one, and one with everything wrong.

use connmix::config::load::{defaults, load, parse};
use connmix::config::print;
use connmix::config::{Config, HostPattern, QueueFull, Row};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// A folder with a configuration file and the script that it names.
fn folder(text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("lua")).unwrap();
    std::fs::write(dir.path().join("lua/entry.websocket.lua"), "").unwrap();
    let file = dir.path().join("connmix.yaml");
    std::fs::write(&file, text).unwrap();
    (dir, file)
}

fn read(text: &str) -> Config {
    let (_dir, file) = folder(text);
    load(&file).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn connmix_own_file_loads_unchanged() {
    let config = read(include_str!("fixtures/connmix-stock.yaml"));
    let [root, metrics] = config.users.as_slice() else { panic!("two users") };
    assert_eq!(
        (root.username.as_str(), root.password.expose(), root.roles.read, root.roles.write),
        ("root", "123456", true, true)
    );
    assert_eq!((metrics.password.expose(), metrics.roles.read, metrics.roles.write), ("0123", true, false));
    assert_eq!(root.host, HostPattern::Any);
    assert!(metrics.host.matches(IpAddr::from([172, 16, 0, 1])) && !metrics.host.matches(IpAddr::from([10, 0, 0, 1])));
    let redis = &config.luavm.redis[0];
    assert_eq!((redis.name.as_str(), redis.addr.as_str(), redis.password.expose()), ("default", "localhost:6379", ""));
    assert_eq!((redis.pool_size, redis.idle_timeout), (20, Duration::from_secs(300)));
    assert_eq!(config.servers[0].option("path"), Some("/chat"));
    assert_eq!(config.servers[0].reload_within, Some(Duration::from_secs(10)));
    assert_eq!(
        (config.registry.addr.to_string(), config.mesh_point.addr.to_string()),
        ("0.0.0.0:6786".into(), "0.0.0.0:6788".into())
    );
    assert_eq!(
        (config.centers.as_slice(), config.notes.as_slice()),
        (["localhost:6786".to_owned()].as_slice(), [].as_slice())
    );
}

#[test]
fn older_spellings_are_taken_or_name_todays() {
    let config = read("engine:\n  luavm: {queue: {topicSize: 5, full: block}}\n  servers: [{bytecodeExpires: 5}]\n");
    assert_eq!(config.servers[0].reload_within, Some(Duration::from_secs(5)));
    assert_eq!(config.luavm.queue_full, QueueFull::Block);
    let (_dir, file) = folder(
        "logging: {max_files: 7}\ncenter: {server: {port: 6787}}\n\
         engine: {luavm: {queue: {max: 100, size: 2000}}, servers: [{protocol: custom}]}\n",
    );
    let problems = load(&file).unwrap_err();
    let shown: Vec<String> = problems.list.iter().map(|p| format!("{}: {}", p.key, p.message)).collect();
    assert_eq!(
        shown,
        [
            "logging.max_files: unknown key \"max_files\"; it is maxFiles today",
            "center.server: unknown key \"server\"; it is apiServer today",
            "engine.luavm.queue.max: unknown key \"max\"; it is maxTopics today",
            "engine.luavm.queue.size: unknown key \"size\"; it is topicSize today",
            "engine.servers[0].protocol: \"custom\" is called \"socket\" today",
        ]
    );
}

#[test]
fn the_shipped_file_is_valid_and_needs_no_notes() {
    let text = include_str!("../connmix.yaml");
    let config = read(text);
    assert_eq!(config.servers.len(), 1);
    let server = &config.servers[0];
    assert_eq!((server.listen.addr.port(), server.option("path")), (6790, Some("/barrage-videos")));
    assert!(server.entry.ends_with("lua/entry.websocket.lua"));
    assert_eq!(config.api.listen.addr.port(), 6789);
    assert!(config.notes.is_empty(), "{:?}", config.notes);
}

/// All configurations below a folder.
fn configurations(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            configurations(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "yaml") && !path.ends_with("openapi.yaml") {
            found.push(path);
        }
    }
}

#[test]
fn what_ships_lets_nobody_on_the_network_call_its_apis() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    configurations(&root.join("docs"), &mut files);
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let config = load(&file).unwrap_or_else(|problems| panic!("{problems}"));
        let listens = config.servers.iter().map(|server| &server.listen).chain([&config.api.listen, &config.center]);
        for listen in listens {
            assert!(listen.addr.ip().is_loopback(), "{}: {} is {}", file.display(), listen.key, listen.addr);
        }
    }
    let shipped = load(&root.join("connmix.yaml")).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(shipped.api.listen.addr.to_string(), "127.0.0.1:6789");
    assert_eq!(shipped.center.addr.to_string(), "127.0.0.1:6787");
    assert_eq!(shipped.servers[0].listen.addr.to_string(), "0.0.0.0:6790");
}

#[test]
fn which_apis_are_open_to_the_network_is_known() {
    let open = |text: &str| -> Vec<String> { read(text).open_apis().map(|api| api.addr.to_string()).collect() };
    let stock = include_str!("fixtures/connmix-stock.yaml");
    assert_eq!(open(stock), [""; 0], "it has users");
    assert_eq!(open("engine: {servers: [{}]}"), ["0.0.0.0:6789", "0.0.0.0:6787"]);
    assert_eq!(open("engine: {servers: [{}], apiServer: {bind: '::1'}}"), ["0.0.0.0:6787"]);
    let local =
        "center: {apiServer: {bind: 127.0.0.2}}\nengine: {servers: [{}], apiServer: {bind: '::ffff:127.0.0.1'}}";
    assert_eq!(open(local), [""; 0]);
}

#[test]
fn what_the_shipped_file_shows_commented_out_is_valid_too() {
    // A commented key has one word and a colon after the mark, or is a list entry; prose has neither.
    let is_key = |rest: &str| {
        let rest = rest.trim_start_matches(' ').trim_start_matches("- ");
        rest.starts_with('{') || rest.split_once(':').is_some_and(|(key, _)| key.chars().all(char::is_alphabetic))
    };
    let uncommented = |line: &str| match line.split_once("# ") {
        Some((indent, rest)) if indent.trim().is_empty() && is_key(rest) => format!("{indent}{rest}"),
        _ => line.to_owned(),
    };
    let text: Vec<String> = include_str!("../connmix.yaml").lines().map(uncommented).collect();
    let config = read(&text.join("\n"));
    assert_eq!(config.users.len(), 1);
    assert_eq!(config.trusted_proxies.len(), 1);
    assert_eq!(config.servers[0].allowed_origins, ["https://example.com"]);
}

#[test]
fn an_entry_may_stand_in_the_working_directory() {
    let config = read("engine: {servers: [{entry: src/lib.rs}]}");
    assert_eq!(config.servers[0].entry, std::path::absolute("src/lib.rs").unwrap());
}

#[test]
fn all_problems_are_told_at_once_with_their_places() {
    let text = r#"logging:
  levle: info
  maxFiles: [7]
  format: xml
access:
  users:
    - {username: "", password: hunter2, host: example.com}
    - {username: bob, password: hunter2, roles: [admin]}
    - {username: bob, password: hunter2}
center: 6787
engine:
  workers: many
  apiServer:
    readTimeout: 25h
    bind: localhost
  apiServer: {}
  luavm:
    memoryLimit: 64KB
    redis: [{addr: nowhere}]
  servers:
    - port: 70000
      protocol: udp
      options: [{name: path, value: chat}]
      entry: no.lua
      readTimout: 10
    - port: 7001
      tls: {cert: a.pem}
      maxMessageSize: 0
    - port: 7001
      bind: 127.0.0.1
      allowedOrigins: https://example.com
trustedProxies: [10.0.0.0/99]
cluster: {engine: nats}
"#;
    let (dir, file) = folder(text);
    let problems = parse(&file, text).unwrap_err();
    let (beside, here) = (dir.path().join("no.lua"), std::path::absolute("no.lua").unwrap());
    let missing = format!("neither {} nor {}", beside.display(), here.display());
    let want = [
        r#"2:3: logging.levle: unknown key "levle"; did you mean "level"?"#,
        r#"3:13: logging.maxFiles: expected a whole number, got a list"#,
        r#"4:11: logging.format: expected one of text, json, got "xml""#,
        r#"7:18: access.users[0].username: must not be empty"#,
        r#"7:47: access.users[0].host: expected "*", a pattern such as "172.*.*.*", an IP address or a CIDR, got "example.com""#,
        r#"8:50: access.users[1].roles[0]: expected one of read, write, got "admin""#,
        r#"9:18: access.users[2].username: "bob" is taken; line 8 has it too"#,
        r#"10:9: center: expected a section of keys, got a single value"#,
        r#"12:12: engine.workers: expected a whole number, got "many""#,
        r#"14:18: engine.apiServer.readTimeout: out of range: "25h"; it must be from 0s to 24h"#,
        r#"15:11: engine.apiServer.bind: expected an IP address such as 0.0.0.0, got "localhost""#,
        r#"16:3: engine.apiServer: duplicate key "apiServer"; line 13 has it too"#,
        r#"18:18: engine.luavm.memoryLimit: out of range: "64KB"; it must be from 1MiB to 1024GiB"#,
        r#"19:20: engine.luavm.redis[0].addr: expected host:port, got "nowhere""#,
        r#"21:13: engine.servers[0].port: out of range: "70000"; it must be from 0 to 65535"#,
        r#"22:17: engine.servers[0].protocol: expected one of websocket, socket, got "udp""#,
        r##"23:37: engine.servers[0].options[0].value: expected a path that begins with "/" and holds no space, "?" or "#""##,
        &format!("24:14: engine.servers[0].entry: no such script: {missing}"),
        r#"25:7: engine.servers[0].readTimout: unknown key "readTimout"; did you mean "readTimeout"?"#,
        r#"27:19: engine.servers[1].tls.cert: needs its key, tls.key"#,
        r#"28:23: engine.servers[1].maxMessageSize: out of range: "0"; it must be from 1 to 1GiB"#,
        r#"29:13: engine.servers[2].port: 127.0.0.1:7001 overlaps engine.servers[1].port (0.0.0.0:7001)"#,
        r#"31:23: engine.servers[2].allowedOrigins: expected a list, got a single value"#,
        r#"32:18: trustedProxies[0]: expected an IP address or a CIDR such as "10.0.0.0/8", got "10.0.0.0/99""#,
        r#"33:19: cluster.engine: expected one of memory, mesh, got "nats""#,
    ];
    let shown = problems.to_string();
    let found: Vec<&str> = shown.lines().collect();
    let want: Vec<String> = want.iter().map(|line| format!("{}:{line}", file.display())).collect();
    assert_eq!(found, want, "{shown}");
    assert!(!shown.contains("hunter2"));
}

#[test]
fn a_file_that_is_not_there_is_told_by_its_name() {
    let problems = load(Path::new("/nonexistent/connmix.yaml")).unwrap_err();
    assert!(problems.to_string().starts_with("/nonexistent/connmix.yaml: cannot be read: "), "{problems}");
}

/// The tables of `docs/configuration.md`: by key its values, its default and its effect.
fn documented() -> BTreeMap<String, [String; 3]> {
    let (mut keys, mut section) = (BTreeMap::new(), "");
    let text = include_str!("../docs/configuration.md");
    let (_, text) = text.split_once("\n## Keys\n").unwrap();
    let (text, _) = text.split_once("\n## ").unwrap();
    for line in text.lines().filter_map(|line| line.strip_prefix("| ")) {
        let cells: Vec<&str> = line.split(" | ").collect();
        let plain = |at: usize| cells[at].trim_matches('`').to_owned();
        match cells[0].strip_prefix("key") {
            Some(of) => section = of.strip_prefix(" of ").unwrap_or_default().trim_matches('`'),
            None => {
                let dot = if section.is_empty() { "" } else { "." };
                let key = format!("{section}{dot}{}", plain(0));
                assert!(
                    keys.insert(key, [plain(1), plain(2).replace('"', ""), plain(3)]).is_none(),
                    "{} is there twice",
                    cells[0]
                );
            }
        }
    }
    keys
}

#[test]
fn the_documentation_has_every_key_with_its_bounds_default_and_effect_and_no_other() {
    let documented = documented();
    let of_row =
        |row: &Row| [row.bounds.clone(), row.default_text().replace(['"', '\\'], ""), row.effect.word().to_owned()];
    let rows: BTreeMap<String, [String; 3]> =
        print::rows(&defaults()).iter().map(|row| (row.pattern(), of_row(row))).collect();
    for (key, row) in &rows {
        assert_eq!(documented.get(key), Some(row), "{key} in docs/configuration.md: values, default, effect");
    }
    assert_eq!(documented.keys().collect::<Vec<_>>(), rows.keys().collect::<Vec<_>>());
}
