//! Changes while the engine runs: scripts that are saved, a configuration that is edited.

mod common;

use common::process::Process;
use common::*;
use std::path::Path;

/// A script whose answers begin with `version`.
fn version(version: &str) -> String {
    format!(
        "function on_message(msg, conn)
           if msg.data == 'set' then
             conn:set_context_value('name', '{version}')
             conn:subscribe('news')
           elseif msg.data == 'get' then
             return conn:send(tostring(conn:context_value('name')))
           elseif msg.data == 'wait' then
             conn:send('waiting')
             repeat
               mix.sleep(0.01)
             until mix.mesh.publish('gate', 'open') > 0
             return conn:send('{version} had waited')
           elseif msg.data == 'open' then
             return conn:subscribe('gate')
           end
           conn:send('{version}: ' .. msg.data)
         end"
    )
}

/// Asks until the answer is `answer`.
async fn becomes(client: &mut Client, question: &str, answer: &str) {
    eventually(answer, async || (client.ask(question).await == answer).then_some(())).await;
}

/// Waits long enough for a change of these files to be loaded, and asserts that it is not.
async fn stays(engine: &TestEngine, client: &mut Client, question: &str, answer: &str) {
    // A second change after it, to the configuration, shows when the files have been checked.
    let config = engine.path("connmix.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let users = "access: {users: [{username: u, password: p}]}\n";
    std::fs::write(&config, format!("{users}{text}")).unwrap();
    eventually("the configuration is reloaded", async || {
        assert_eq!(client.ask(question).await, answer);
        (post(engine.at.api, "/v1/mesh/publish", "{}").await.0 == 401).then_some(())
    })
    .await;
    std::fs::write(&config, text).unwrap();
    eventually("the configuration is reloaded", async || {
        assert_eq!(client.ask(question).await, answer);
        (post(engine.at.api, "/v1/mesh/publish", "{}").await.0 != 401).then_some(())
    })
    .await;
}

fn rename_over(file: &Path, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, file).unwrap();
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from:?} in {text}");
    std::fs::write(file, text.replace(from, to)).unwrap();
}

/// An engine of two servers, at `/ws` and `/`, and their scripts.
fn two_servers(first: &str, second: &str) -> TestEngine {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("connmix.yaml");
    write_config(&config, "", "workers: 2", "");
    let more = format!("    - {{port: 0, bind: 127.0.0.1, entry: {second}}}\n");
    edit(&config, "entry: entry.lua", &format!("entry: {first}"));
    std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + &more).unwrap();
    for script in [first, second] {
        std::fs::write(dir.path().join(script), version("one")).unwrap();
    }
    TestEngine::start(dir)
}

// Scripts.

#[tokio::test]
async fn a_saved_script_handles_the_next_message_and_connections_keep_what_they_have() {
    let engine = TestEngine::with(&version("one"), "", "workers: 2");
    let mut clients = vec![engine.connect().await, engine.connect().await, engine.connect().await];
    for client in &mut clients {
        assert_eq!(client.ask("set").await, "one: set");
    }
    let saved = std::time::Instant::now();
    std::fs::write(engine.path("entry.lua"), version("two")).unwrap();
    for client in &mut clients {
        becomes(client, "hi", "two: hi").await;
        assert_eq!(client.ask("get").await, "one", "the context");
    }
    assert!(saved.elapsed().as_secs() < 9, "live after {:?}", saved.elapsed());
    engine.publish_to("news", "still subscribed", 3).await;
    for client in &mut clients {
        assert_eq!(client.text().await, "still subscribed");
    }
    // New connections as well.
    assert_eq!(engine.connect().await.ask("hi").await, "two: hi");
}

#[tokio::test]
async fn a_required_module_is_reloaded_with_whoever_requires_it() {
    let entry = "local outer = require('parts.outer')\nfunction on_message(msg, conn) conn:send(outer.say()) end";
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("parts")).unwrap();
    let inner = dir.path().join("parts/inner.lua");
    std::fs::write(dir.path().join("entry.lua"), entry).unwrap();
    std::fs::write(
        dir.path().join("parts/outer.lua"),
        "local inner = require('parts/inner')\nreturn { say = function() return inner end }",
    )
    .unwrap();
    std::fs::write(&inner, "return 'one'").unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 2", "");
    let engine = TestEngine::start(dir);
    let mut client = engine.connect().await;
    assert_eq!(client.ask("").await, "one");
    std::fs::write(&inner, "return 'two'").unwrap();
    becomes(&mut client, "", "two").await;
    rename_over(&inner, "return 'three'");
    becomes(&mut client, "", "three").await;
}

#[tokio::test]
async fn a_script_replaced_by_rename_is_reloaded() {
    let engine = TestEngine::new(&version("one"));
    let mut client = engine.connect().await;
    for next in ["two", "three"] {
        rename_over(&engine.path("entry.lua"), &version(next));
        becomes(&mut client, "hi", &format!("{next}: hi")).await;
    }
}

#[tokio::test]
async fn a_script_that_is_away_for_a_while_goes_on_running() {
    let engine = two_servers("entry.lua", "other.lua");
    let mut client = engine.connect().await;
    let mut other = Client::connect(engine.at.servers[1], "/").await;
    std::fs::remove_file(engine.path("entry.lua")).unwrap();
    // When the other script's change is loaded, this one's has been checked, too.
    std::fs::write(engine.path("other.lua"), version("two")).unwrap();
    becomes(&mut other, "hi", "two: hi").await;
    assert_eq!(client.ask("hi").await, "one: hi");
    std::fs::write(engine.path("entry.lua"), version("two")).unwrap();
    becomes(&mut client, "hi", "two: hi").await;
}

#[tokio::test]
async fn a_module_that_appears_is_loaded() {
    let engine = TestEngine::new(
        "local ok, found = pcall(require, 'extra')\n\
         function on_message(msg, conn) conn:send(ok and found or 'none') end",
    );
    let mut client = engine.connect().await;
    assert_eq!(client.ask("").await, "none");
    std::fs::write(engine.path("extra.lua"), "return 'there'").unwrap();
    becomes(&mut client, "", "there").await;
    std::fs::remove_file(engine.path("extra.lua")).unwrap();
    becomes(&mut client, "", "none").await;
}

#[tokio::test]
async fn a_broken_script_changes_nothing_and_the_next_save_is_taken_up() {
    let engine = TestEngine::with(&version("one"), "", "workers: 2");
    let mut client = engine.connect().await;
    let mut last = "one".to_owned();
    for (i, broken) in [
        "function on_message(",
        "function on_message() end error('at the top level')",
        "function on_message() end require('missing')",
        "on_close = print",
        "",
        "\u{1b}LJ\u{2}bytecode",
    ]
    .into_iter()
    .enumerate()
    {
        std::fs::write(engine.path("entry.lua"), broken).unwrap();
        stays(&engine, &mut client, "hi", &format!("{last}: hi")).await;
        last = format!("good{i}");
        std::fs::write(engine.path("entry.lua"), version(&last)).unwrap();
        becomes(&mut client, "hi", &format!("{last}: hi")).await;
    }
}

#[tokio::test]
async fn a_module_that_was_missing_ends_the_failure() {
    let engine = TestEngine::new(&version("one"));
    let mut client = engine.connect().await;
    std::fs::write(engine.path("entry.lua"), format!("require('later')\n{}", version("two"))).unwrap();
    stays(&engine, &mut client, "hi", "one: hi").await;
    std::fs::write(engine.path("later.lua"), "return {}").unwrap();
    becomes(&mut client, "hi", "two: hi").await;
}

#[tokio::test]
async fn a_script_that_never_ends_loading_holds_nobody_up() {
    let engine = TestEngine::new(&version("one"));
    let mut client = engine.connect().await;
    std::fs::write(engine.path("entry.lua"), "while true do pcall(function() while true do end end) end").unwrap();
    // It is found out after the five seconds that loading may take; until then the messages go on.
    let started = std::time::Instant::now();
    while started.elapsed().as_secs() < 2 {
        let asked = std::time::Instant::now();
        assert_eq!(client.ask("hi").await, "one: hi");
        assert!(asked.elapsed().as_secs() < 4, "an answer took {:?}", asked.elapsed());
    }
    std::fs::write(engine.path("entry.lua"), version("two")).unwrap();
    becomes(&mut client, "hi", "two: hi").await;
}

#[tokio::test]
async fn a_waiting_handler_ends_in_the_code_it_began_in() {
    let engine = TestEngine::new(&version("one"));
    let (mut waiting, mut other) = (engine.connect().await, engine.connect().await);
    assert_eq!(waiting.ask("wait").await, "waiting");
    for next in ["two", "three"] {
        std::fs::write(engine.path("entry.lua"), version(next)).unwrap();
        becomes(&mut other, "hi", &format!("{next}: hi")).await;
    }
    // What comes while the handler waits is for the newest code.
    waiting.send("hi").await;
    other.send("open").await;
    assert_eq!(other.text().await, "open");
    assert_eq!(waiting.text().await, "one had waited");
    assert_eq!(waiting.text().await, "three: hi");
}

#[tokio::test]
async fn the_last_of_many_quick_saves_wins() {
    let engine = TestEngine::with(&version("one"), "", "workers: 2");
    let mut client = engine.connect().await;
    for round in 0..3 {
        for i in 0..100 {
            // Half of them by rename; the same length, so that only time and file tell them apart.
            let text = version(&format!("save{round}{i:03}"));
            if i % 2 == 0 {
                std::fs::write(engine.path("entry.lua"), text).unwrap();
            } else {
                rename_over(&engine.path("entry.lua"), &text);
            }
            tokio::task::yield_now().await;
        }
        becomes(&mut client, "hi", &format!("save{round}099: hi")).await;
    }
    stays(&engine, &mut client, "hi", "save2099: hi").await;
}

#[tokio::test]
async fn files_that_never_rest_are_taken_up_within_the_time_that_is_configured() {
    let engine = TestEngine::with(&version("one"), "byteCodeExpires: 1", "workers: 1");
    let mut client = engine.connect().await;
    let mut i = 0;
    eventually("a version is taken up while saving goes on", async || {
        i += 1;
        rename_over(&engine.path("entry.lua"), &version(&format!("v{i}")));
        (client.ask("hi").await != "one: hi").then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_expiry_scripts_are_not_reloaded_until_it_is_set_again() {
    let engine = TestEngine::with(&version("one"), "byteCodeExpires: 0", "workers: 1");
    let mut client = engine.connect().await;
    std::fs::write(engine.path("entry.lua"), version("two")).unwrap();
    stays(&engine, &mut client, "hi", "one: hi").await;
    edit(&engine.path("connmix.yaml"), "byteCodeExpires: 0", "byteCodeExpires: 10");
    becomes(&mut client, "hi", "two: hi").await;
}

#[tokio::test]
async fn two_servers_of_one_script_are_both_reloaded() {
    let engine = two_servers("entry.lua", "entry.lua");
    let mut first = engine.connect().await;
    let mut second = Client::connect(engine.at.servers[1], "/").await;
    std::fs::write(engine.path("entry.lua"), version("two")).unwrap();
    becomes(&mut first, "hi", "two: hi").await;
    becomes(&mut second, "hi", "two: hi").await;
}

// The configuration.

#[tokio::test]
async fn limits_change_for_connections_that_are_already_there() {
    let engine = TestEngine::with(&version("one"), "maxMessageSize: 1KiB", "workers: 2");
    let mut client = engine.connect().await;
    let long = "x".repeat(500);
    assert_eq!(client.ask(&long).await, format!("one: {long}"));
    edit(&engine.path("connmix.yaml"), "maxMessageSize: 1KiB", "maxMessageSize: 499");
    let refused = eventually("the connection is closed", async || {
        client.send(&long).await;
        client.next().await.ok().filter(tokio_tungstenite::tungstenite::Message::is_close)
    })
    .await;
    let tokio_tungstenite::tungstenite::Message::Close(Some(frame)) = refused else { panic!("{refused:?}") };
    assert_eq!(u16::from(frame.code), 1009);
    // A smaller one is served on.
    assert_eq!(engine.connect().await.ask("hi").await, "one: hi");
}

#[tokio::test]
async fn a_time_limit_that_is_set_closes_who_is_silent_already() {
    let engine = TestEngine::with(&version("one"), "readTimeout: 0\npingInterval: 0", "workers: 1");
    let mut client = engine.connect().await;
    assert_eq!(client.ask("hi").await, "one: hi");
    edit(&engine.path("connmix.yaml"), "readTimeout: 0", "readTimeout: 100ms");
    assert_eq!(client.close_frame().await, (1001, "read timeout".into()));
}

#[tokio::test]
async fn who_may_connect_changes_at_once_and_who_is_there_stays() {
    let engine = TestEngine::with(&version("one"), "", "workers: 2");
    let (config, mut client) = (engine.path("connmix.yaml"), engine.connect().await);
    let refused = async |path: &str, status: u16| {
        eventually("refused", async || match Client::try_connect(engine.ws(), path).await {
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
                (response.status().as_u16() == status).then_some(())
            }
            _ => None,
        })
        .await;
    };
    edit(&config, "entry: entry.lua", "entry: entry.lua\n      maxConnections: 1");
    refused("/ws", 503).await;
    edit(&config, "maxConnections: 1", "maxConnections: 0");
    edit(&config, "value: /ws", "value: /chat");
    refused("/ws", 404).await;
    // The other worker may still have the limit.
    let mut other = eventually("let in", async || Client::try_connect(engine.ws(), "/chat").await.ok()).await;
    assert_eq!(other.ask("hi").await, "one: hi");
    assert_eq!(client.ask("hi").await, "one: hi");
}

#[tokio::test]
async fn users_take_effect_at_once() {
    let engine = TestEngine::new(&version("one"));
    let config = engine.path("connmix.yaml");
    let becomes = async |auth: &str, status: u16| {
        let request = format!(
            "POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{auth}Content-Length: 17\r\n\r\n\
             {{\"c\":\"a\",\"d\":\"b\"}}"
        );
        eventually("the status", async || (http(engine.at.api, &request).await.0 == status).then_some(())).await;
    };
    // u:p
    let auth = "Authorization: Basic dTpw\r\n";
    becomes("", 200).await;
    edit(&config, "logging:", "access: {users: [{username: u, password: p, roles: [read]}]}\nlogging:");
    becomes("", 401).await;
    becomes(auth, 403).await;
    edit(&config, "[read]", "[write]");
    becomes(auth, 200).await;
    edit(&config, "password: p", "password: other");
    becomes(auth, 401).await;
}

#[tokio::test]
async fn another_entry_takes_over_and_connections_stay() {
    let engine = TestEngine::new(&version("one"));
    let (config, mut client) = (engine.path("connmix.yaml"), engine.connect().await);
    assert_eq!(client.ask("set").await, "one: set");
    std::fs::write(engine.path("other.lua"), version("other")).unwrap();
    edit(&config, "entry: entry.lua", "entry: other.lua");
    becomes(&mut client, "hi", "other: hi").await;
    assert_eq!(client.ask("get").await, "one");
    engine.publish_to("news", "n", 1).await;
    assert_eq!(client.text().await, "n");
    // From now on this file is watched.
    std::fs::write(engine.path("entry.lua"), version("unused")).unwrap();
    std::fs::write(engine.path("other.lua"), version("newer")).unwrap();
    becomes(&mut client, "hi", "newer: hi").await;
    // One that is broken changes nothing, until it is mended.
    std::fs::write(engine.path("third.lua"), "oops").unwrap();
    edit(&config, "entry: other.lua", "entry: third.lua");
    stays(&engine, &mut client, "hi", "newer: hi").await;
    std::fs::write(engine.path("third.lua"), version("third")).unwrap();
    becomes(&mut client, "hi", "third: hi").await;
}

#[tokio::test]
async fn options_reach_the_script_anew() {
    let engine = TestEngine::new("function on_message(msg, conn) conn:send(tostring(mix.server.option('motd'))) end");
    let mut client = engine.connect().await;
    assert_eq!(client.ask("").await, "nil");
    edit(&engine.path("connmix.yaml"), "value: /ws}", "value: /ws}, {name: motd, value: hello}");
    becomes(&mut client, "", "hello").await;
}

#[tokio::test]
async fn a_bad_configuration_changes_nothing() {
    let engine = TestEngine::with(&version("one"), "maxMessageSize: 1KiB", "workers: 1");
    let (config, mut client) = (engine.path("connmix.yaml"), engine.connect().await);
    let good = std::fs::read_to_string(&config).unwrap();
    let smaller = good.replace("maxMessageSize: 1KiB", "maxMessageSize: 1");
    for bad in [
        format!("{smaller}\nnonsense: 1\n"),
        format!("{smaller}  ]"),
        smaller.replace("entry: entry.lua", "entry: missing.lua"),
        String::new(),
    ] {
        std::fs::write(&config, bad).unwrap();
        engine.engine().reload();
        // A good one after it, whose effect shows that the bad one was checked.
        std::fs::write(&config, format!("access: {{users: [{{username: u, password: p}}]}}\n{good}")).unwrap();
        engine.engine().reload();
        eventually("it is reloaded", async || {
            assert_eq!(client.ask("hello").await, "one: hello");
            (post(engine.at.api, "/v1/mesh/publish", "{}").await.0 == 401).then_some(())
        })
        .await;
        std::fs::write(&config, &good).unwrap();
        eventually("it is reloaded", async || {
            (post(engine.at.api, "/v1/mesh/publish", "{}").await.0 != 401).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_configuration_that_moves_servers_waits_for_the_restart() {
    let engine = TestEngine::new(&version("one"));
    let (config, mut client) = (engine.path("connmix.yaml"), engine.connect().await);
    let good = std::fs::read_to_string(&config).unwrap();
    let users = "access: {users: [{username: u, password: p}]}\n";
    // No free port is taken for the new server: it is not opened.
    for moved in [
        good.replace("bind: 127.0.0.1\n      protocol", "bind: 127.0.0.2\n      protocol"),
        format!("{good}    - {{port: 0, bind: 127.0.0.1, entry: entry.lua}}\n"),
    ] {
        assert_ne!(moved, good);
        std::fs::write(&config, format!("{users}{moved}")).unwrap();
        eventually("it is reloaded", async || {
            (post(engine.at.api, "/v1/mesh/publish", "{}").await.0 == 401).then_some(())
        })
        .await;
        assert_eq!(client.ask("hi").await, "one: hi");
        assert_eq!(engine.connect().await.ask("hi").await, "one: hi");
        std::fs::write(&config, &good).unwrap();
        eventually("it is reloaded", async || {
            (post(engine.at.api, "/v1/mesh/publish", "{}").await.0 != 401).then_some(())
        })
        .await;
    }
}

// What the log says (the real program).

fn program(script: &str, server: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    write_config(&dir.path().join("connmix.yaml"), server, "workers: 2", "");
    dir
}

#[tokio::test]
async fn the_log_tells_what_was_reloaded_and_what_was_not() {
    let dir = program(&version("one"), "");
    let (entry, config) = (dir.path().join("entry.lua"), dir.path().join("connmix.yaml"));
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    let mut seen = process.lines().len();
    let mut says = |part: &str| {
        let line = process.line_after(seen, part);
        seen = process.lines().len();
        line
    };
    std::fs::write(&entry, version("two")).unwrap();
    assert!(says("reloaded entry.lua").contains(" INFO "));
    assert_eq!(client.ask("hi").await, "two: hi");
    std::fs::write(&entry, "function on_message() end\nerror('not today')").unwrap();
    let line = says("entry.lua was not reloaded, the code before stays: entry.lua:2: not today");
    assert!(line.contains("ERROR"), "{line}");
    std::fs::write(&entry, version("three")).unwrap();
    says("reloaded entry.lua");

    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}      readTimeout: soon\n")).unwrap();
    says("the configuration was not reloaded, the one before stays:");
    let line = process.line("engine.servers[0].readTimeout: expected");
    assert!(line.contains("ERROR") && line.contains("connmix.yaml:"), "{line}");
    let changed = text.replace("workers: 2", "workers: 7").replace("filename: ''", "filename: ''\n  , level: debug");
    std::fs::write(&config, format!("{changed}      readTimeout: 90\n")).unwrap();
    assert!(says("needs a restart: engine.workers: 2 -> 7").contains(" WARN "));
    process.line("changed: engine.servers[0].readTimeout: 60s -> 90s");
    process.line("changed: logging.level: info -> debug");
    process.line("reloaded connmix.yaml");
    // The level is in force: what a refused handshake leaves is a debug line.
    assert!(Client::try_connect(process.ws(), "/nowhere").await.is_err());
    process.line("DEBUG");
    assert_eq!(process.lines().iter().filter(|l| l.contains("not today")).count(), 1, "told once");
}

/// Reloads the program's script `times` times, each time with an option of another value, which the script answers.
async fn reload(process: &Process, config: &Path, client: &mut Client, times: usize, next: &mut usize) {
    for _ in 0..times {
        edit(config, &format!("value: v{next},"), &format!("value: v{},", *next + 1));
        *next += 1;
        process.signal(libc::SIGHUP);
        becomes(client, "", &format!("v{next}")).await;
    }
}

#[tokio::test]
async fn two_hundred_reloads_leave_no_memory_behind() {
    let script = "\
local ballast = {}
for i = 1, 2000 do ballast[i] = ('x'):rep(100) .. i end
function on_message(msg, conn)
  if msg.data == 'wait' then
    conn:send('waiting')
    mix.sleep(0.01)
    return conn:wait_context_value('never')
  end
  conn:send(mix.server.option('version'))
end";
    let dir = program(script, "");
    let config = dir.path().join("connmix.yaml");
    edit(&config, "value: /ws}", "value: /ws}, {name: version, value: v0, }");
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    let mut next = 0;
    // Every tenth version is held by a handler that waits, until its connection ends.
    let mut rounds = Vec::new();
    for _ in 0..2 {
        let mut waiting = Vec::new();
        for _ in 0..10 {
            reload(&process, &config, &mut client, 10, &mut next).await;
            waiting.push(Client::connect(process.ws(), "/ws").await);
            assert_eq!(waiting.last_mut().unwrap().ask("wait").await, "waiting");
        }
        for client in waiting {
            client.close().await;
        }
        reload(&process, &config, &mut client, 1, &mut next).await;
        rounds.push(process.resident());
    }
    // A version weighs about 1.5 MiB (a VM in each of two workers): a hundred of them would be far above this.
    let mib = 1024 * 1024;
    assert!(rounds[1] < rounds[0] + 16 * mib, "resident after each hundred reloads: {rounds:?}");
    assert!(rounds[1] < 150 * mib, "resident: {rounds:?}");
}
