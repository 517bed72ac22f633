//! The effect of a changed file: at once, or only after a restart.
//!
//! `compare` says what differs, for the log; `merge` is what is in force from then on. They agree: what `compare` lists
//! under `live` is what `merge` takes from the new file, and all else stays as it was at the start. Which is which is
//! told by the rows.

use super::keys::Config;
use super::rows::Section;

pub use super::changes::{Change, Changes};

/// The differences between `old` and `new`.
pub fn compare(old: &Config, new: &Config) -> Changes {
    let mut changes = Changes::default();
    Config::compare("", old, new, &mut changes);
    changes
}

/// What is in force once `new` has been taken: its live parts, and of `old` what only a restart changes.
pub fn merge(old: &Config, new: &Config) -> Config {
    let merged = <Config as Section>::merge(old, new);
    Config { file: new.file.clone(), notes: new.notes.clone(), ..merged }
}

#[cfg(test)]
mod tests {
    use super::super::changes::Effect;
    use super::super::load::{defaults, parse};
    use super::super::print::rows;
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
                "logging: {filename: '', maxFiles: 3, maxSize: 1MiB, format: json}\ncluster: {secret: hunter2, advertise: {api: 'a:1'}}\naccess:",
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
            "cluster.secret: *** -> ***",
            "cluster.advertise.api: none -> a:1",
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

    /// A file that says one thing: the value at that path.
    fn saying(path: &str, value: &str) -> String {
        let nested = |path: &str| {
            let (opened, closed): (String, String) = path.split('.').map(|key| (format!("{{{key}: "), "}")).unzip();
            format!("{opened}{value}{closed}")
        };
        match (path.strip_prefix("engine.servers[0]."), path.strip_prefix("engine.")) {
            (Some(key), _) => format!("engine: {{servers: [{}]}}", nested(key)),
            (_, Some(key)) => format!("engine: {{servers: [{{}}], {}", nested(key).trim_start_matches('{')),
            _ => format!("{{engine: {{servers: [{{}}]}}, {}", nested(path).trim_start_matches('{')),
        }
    }

    #[test]
    fn every_row_takes_effect_as_it_says() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("lua")).unwrap();
        for script in ["websocket", "socket"] {
            std::fs::write(dir.path().join(format!("lua/entry.{script}.lua")), "").unwrap();
        }
        let file = dir.path().join("connmix.yaml");
        let read = |text: &str| parse(&file, text).unwrap_or_else(|problems| panic!("{problems} in {text}"));
        let old = read("engine: {servers: [{}]}");
        let mut seen = 0;
        for row in rows(&defaults()) {
            // The most of a number, the last of some words.
            let value = match (row.kind, row.bounds.rsplit_once(" to "), row.bounds.rsplit_once(", ")) {
                (_, Some((_, most)), _) => most.to_owned(),
                ("word", _, Some((_, last))) => last.to_owned(),
                ("list", _, Some((_, last))) if !last.contains(' ') => format!("[{last}]"),
                _ => continue,
            };
            if row.effect == Effect::Unused || row.path.contains("[]") || row.path == "engine.servers[0].protocol" {
                continue;
            }
            let new = read(&saying(&row.path, &value));
            let Changes { live, restart } = compare(&old, &new);
            let is_live = row.effect == Effect::Live;
            let (told, other) = if is_live { (live, restart) } else { (restart, live) };
            assert_eq!((told.len(), other.len()), (1, 0), "{}: {told:?} {other:?}", row.path);
            assert_eq!((&told[0].key, &told[0].new), (&row.path, &value));
            assert_eq!(
                merge(&old, &new),
                Config { notes: new.notes.clone(), ..if is_live { new } else { old.clone() } }
            );
            seen += 1;
        }
        assert!(seen > 30, "{seen}");
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
