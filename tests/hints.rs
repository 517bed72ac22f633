//! Error hints: what a script's author reads after a mistake, from `check`, at the start, and in the log of `dev`.

mod common;

use common::process::{Ended, Process, run};
use common::*;
use std::path::Path;
use tempfile::TempDir;

/// A folder with a configuration on free ports, and its script.
fn folder(script: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", "");
    dir
}

fn check(script: &str, args: &[&str]) -> Ended {
    run(folder(script).path(), &[&["check"], args].concat())
}

/// A typical mistake that compiles: `conn` is used above its declaration.
const ABOVE: &str = "function on_message(msg)\n\n  conn:close()\n\n\n  local conn = mix.websocket()\nend";
const ABOVE_WARNED: &str =
    "entry.lua:3: warning: global 'conn' is read but nothing defines it; 'conn' becomes a local on line 6";

// `check`.

#[test]
fn check_warns_on_stderr_and_still_succeeds() {
    let ended = check(ABOVE, &[]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ABOVE_WARNED));
    assert_eq!(ended.out, "connmix.yaml: 1 warning(s); 1 server(s)");
}

#[test]
fn strict_makes_warnings_fail_and_leaves_good_scripts_alone() {
    let ended = check(ABOVE, &["--strict"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    let last = "connmix.yaml: 1 warning(s); with --strict they count as problems";
    assert_eq!(ended.err.lines().collect::<Vec<_>>(), [ABOVE_WARNED, last]);
    let ended = check("function on_message(msg, conn) conn:send(msg.data) end", &["--strict"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
}

#[test]
fn a_counter_that_workers_do_not_share_is_told_unless_there_is_one_worker() {
    let script = "local online = 0\nfunction on_handshake()\n  online = online + 1\nend\n\
                  function on_message(msg, conn)\n  conn:send(online)\nend";
    let dir = folder(script);
    assert_eq!(run(dir.path(), &["check", "--strict"]).err, "");
    let config = dir.path().join("connmix.yaml");
    let text = std::fs::read_to_string(&config).unwrap().replace("workers: 1", "workers: 0");
    std::fs::write(&config, text).unwrap();
    let ended = run(dir.path(), &["check"]);
    assert!(
        ended
            .err
            .starts_with("entry.lua:3: warning: 'online' is changed by handlers, and each worker has its own; keep"),
        "{}",
        ended.err
    );
    assert!(ended.err.contains("Redis"), "{}", ended.err);
}

#[test]
fn what_ships_has_no_warnings() {
    let ended = run(Path::new(env!("CARGO_MANIFEST_DIR")), &["check", "--strict"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
}

#[test]
fn a_script_that_two_servers_share_is_warned_of_once() {
    let dir = folder(ABOVE);
    let config = dir.path().join("connmix.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}    - {{port: 0, bind: 127.0.0.1, entry: entry.lua}}\n")).unwrap();
    assert_eq!(run(dir.path(), &["check"]).err, ABOVE_WARNED);
}

// What stops a start.

#[test]
fn a_hook_that_is_misspelt_or_local_is_named_where_it_is_missing() {
    let says = "entry.lua: no global function on_message; a websocket server's script must define it";
    for (script, why) in [
        (
            "\nfunction on_mesage(msg) end",
            " (line 2: nothing calls the global function 'on_mesage'; did you mean the hook 'on_message'?)",
        ),
        (
            "\n\nfunction onMessage(msg) end",
            " (line 3: nothing calls the global function 'onMessage'; did you mean the hook 'on_message'?)",
        ),
        (
            "local function on_message(msg) end",
            " (line 1: on_message is a local function; the engine calls global ones; \
             write function on_message(...) without local)",
        ),
        ("function on_close() end", ""),
        ("", ""),
    ] {
        assert_eq!(check(script, &[]).err, format!("{says}{why}"), "{script}");
    }
}

#[test]
fn what_only_a_handler_can_do_says_so_at_the_top_level() {
    let end = "\nfunction on_message(msg) end";
    for (line, says) in [
        (
            "mix.sleep(1)",
            "entry.lua:1: this function waits, and only a handler can, not a file's top level: call it in a hook",
        ),
        (
            "mix.websocket():send('x')",
            "entry.lua:1: attempt to index a nil value; call mix.websocket() inside the hook",
        ),
        (
            "local conn = mix.websocket() conn:send('x')",
            "entry.lua:1: attempt to index local 'conn' (a nil value); call mix.websocket() inside the hook",
        ),
        (
            "mix.json_decoed('x')",
            "entry.lua:1: attempt to call field 'json_decoed' (a nil value); mix has no 'json_decoed'; \
             did you mean 'json_decode'?",
        ),
        ("tostrng(1)", "entry.lua:1: attempt to call global 'tostrng' (a nil value); did you mean 'tostring'?"),
    ] {
        let ended = check(&format!("{line}{end}"), &[]);
        assert_eq!(ended.code, Some(1), "{line}");
        assert_eq!(ended.err.lines().next(), Some(says), "{line}");
    }
}

// The log of a running engine.

#[tokio::test]
async fn a_handlers_error_tells_the_likely_fix() {
    let cases = [
        ("nothing.here = 1", "attempt to index global 'nothing' (a nil value); nothing defines it"),
        (
            "conn2:close() local conn2 = 1",
            "attempt to index global 'conn2' (a nil value); 'conn2' becomes a local later on this line",
        ),
        (
            "return mix.json_decoed('x') .. ''",
            "attempt to call field 'json_decoed' (a nil value); mix has no 'json_decoed'; did you mean 'json_decode'?",
        ),
        (
            "local m = mix.mesh m.pubish('c', 'd')",
            "attempt to call field 'pubish' (a nil value); mix.mesh has no 'pubish'; did you mean 'publish'?",
        ),
        ("conn:sned('x')", "attempt to call method 'sned' (a nil value); conn has no 'sned'; did you mean 'send'?"),
        (
            "conn:publish('c', 'd')",
            "attempt to call method 'publish' (a nil value); conn has no 'publish'; did you mean mix.mesh.publish?",
        ),
        ("conn:frobnicate()", "attempt to call method 'frobnicate' (a nil value); conn has no 'frobnicate'"),
        (
            "local conn conn:send('x')",
            "attempt to index local 'conn' (a nil value); inside a hook, local conn = mix.websocket() gives the connection",
        ),
        ("local t = {} t.x.y = 1", "attempt to index field 'x' (a nil value)"),
        ("local t = {} t.json_decoed()", "attempt to call field 'json_decoed' (a nil value)"),
        (
            "io.open('x')",
            "attempt to call field 'open' (a nil value); io.open is not in the sandbox; engine.luavm.libraries can let it in",
        ),
        ("os.clok()", "attempt to call field 'clok' (a nil value); os has no 'clok'; did you mean 'clock'?"),
        (
            "mix.websocket().send('x')",
            "not a connection: got string where conn was expected (call methods with a colon: conn:send(data))",
        ),
        (
            "conn:send({})",
            "bad argument #1 to 'send' (string expected, got table); mix.json_encode makes a string of a table",
        ),
        ("conn:send(nil)", "bad argument #1 to 'send' (string expected, got nil)"),
        (
            "mix:json_decode('{}')",
            "bad argument #1 to 'json_decode' (string expected, got table); call it with a dot: mix.json_decode(...)",
        ),
        (
            "mix.mesh:publish('c', 'd')",
            "bad argument #1 to 'publish' (string expected, got table); call it with a dot: mix.mesh.publish(...)",
        ),
    ];
    let mut script = "local cases = {}\n".to_owned();
    for (i, (case, _)) in cases.iter().enumerate() {
        script += &format!("cases[{i}] = function(conn) {case}; return nil end\n");
    }
    script += "function on_message(msg, conn) cases[tonumber(msg.data)](conn) end";
    // The one that would not compile with a statement after its return.
    let script = script
        .replace("return mix.json_decoed('x') .. ''; return nil", "local s = mix.json_decoed('x') .. ''; return s");
    let dir = folder(&script);
    let process = Process::ready(dir.path(), &["dev"]);
    for (i, (case, says)) in cases.iter().enumerate() {
        let seen = process.lines().len();
        let mut client = Client::connect(process.ws(), "/ws").await;
        client.send(&i.to_string()).await;
        assert_eq!(client.close_frame().await.0, 1011, "{case}");
        let line = process.line_after(seen, "ERROR script:");
        let wanted = format!("entry.lua:{}: {says}", i + 2);
        let (_, text) = line.split_once("ERROR script: ").unwrap();
        assert!(text.starts_with(&wanted), "{case}: {line}\nwanted {wanted}");
        // And nothing more where nothing more is known.
        assert!(text[wanted.len()..].starts_with(' '), "{case}: {line}");
    }
}

#[tokio::test]
async fn arguments_in_another_order_are_told_with_the_right_one() {
    let dir = folder("function on_message(conn, msg)\n  conn:send(msg.data)\nend");
    let process = Process::ready(dir.path(), &["dev"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    client.send("x").await;
    let line = process.line("ERROR script:");
    let wanted = "entry.lua:2: attempt to call method 'send' (a nil value); write function on_message(msg, conn) ";
    assert!(line.contains(wanted), "{line}");
}

#[tokio::test]
async fn of_two_hooks_with_arguments_in_another_order_the_one_that_failed_is_told() {
    let script = "local function greet(conn)\n  conn:send('hello')\nend\n\
                  function on_handshake(conn)\n  greet(conn)\nend\n\
                  function on_message(msg, conn) end\n\
                  function on_close(conn)\n  conn:context_value('uid')\nend";
    let dir = folder(script);
    let process = Process::ready(dir.path(), &["dev"]);
    let failed = |wanted: &str| {
        let line = process.line(wanted);
        assert!(line.contains("ERROR script:"), "{line}");
    };
    assert!(Client::try_connect(process.ws(), "/ws").await.is_err());
    failed(
        "entry.lua:2: attempt to call method 'send' (a nil value); \
         write function on_handshake(client_id, headers, server, conn)",
    );
    std::fs::write(dir.path().join("entry.lua"), script.replace("greet(conn)\nend", "\nend")).unwrap();
    process.line("reloaded entry.lua");
    drop(Client::connect(process.ws(), "/ws").await);
    failed("attempt to call method 'context_value' (a nil value); write function on_close(client_id, err, conn)");
}

#[tokio::test]
async fn the_log_of_dev_shows_connects_subscriptions_publishes_and_closes() {
    let script = "function on_message(msg, conn)
      if msg.data == 'out' then return conn:unsubscribe('video:1') end
      conn:subscribe('video:1', 'video:2')
      conn:send('in')
    end";
    let dir = folder(script);
    let process = Process::ready(dir.path(), &["dev"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    let connected = process.line(": connected ");
    let id = connected.split_once("client_id=").unwrap().1.split(' ').next().unwrap().to_owned();
    assert!(connected.contains("DEBUG") && connected.contains("remote=127.0.0.1:"), "{connected}");
    assert_eq!(client.ask("in").await, "in");
    let body = serde_json::json!({"c": "video:1", "d": "hello"}).to_string();
    assert_eq!(post(process.api(), "/v1/mesh/publish", &body).await.0, 200);
    assert_eq!(client.text().await, "hello");
    client.send("out").await;
    process.line(": unsubscribed ");
    client.close().await;
    process.line(": closed ");
    let lines = process.lines();
    for wanted in [
        format!("DEBUG connmix::shard: subscribed client_id={id} channels=video:1, video:2"),
        "DEBUG connmix::cluster: published channel=video:1 bytes=5 reached=1 failed=0".into(),
        format!("DEBUG connmix::shard: unsubscribed client_id={id} channels=video:1"),
        format!("DEBUG connmix::worker::session: closed client_id={id} by=\"peer\""),
    ] {
        assert!(lines.iter().any(|line| line.contains(&wanted)), "{wanted}: {lines:#?}");
    }

    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    assert_eq!(client.ask("in").await, "in");
    client.close().await;
    let said = process.stop().out;
    assert!(!said.contains("connected") && !said.contains("subscribed"), "{said}");
}

/// Each line of a hook ignores an err; the last looks at its.
const IGNORING: &str = "local publish = mix.mesh.publish
function on_message(msg, conn)
  local bad = msg.data
  conn:subscribe(bad)
  mix.subscribe(bad)
  publish(bad, 'x')
  mix.mesh.send('1', 'x')
  mix.queue.push(bad, 1)
  conn:send('\\255')
  local err = conn:subscribe(bad)
  if err then conn:send('looked at') end
end";

#[tokio::test]
async fn an_ignored_err_is_warned_of_once_a_line_in_dev() {
    let dir = folder(IGNORING);
    let process = Process::ready(dir.path(), &["dev"]);
    let (mut first, mut second) =
        (Client::connect(process.ws(), "/ws").await, Client::connect(process.ws(), "/ws").await);
    for _ in 0..2 {
        assert_eq!(first.ask("my room").await, "looked at");
        assert_eq!(second.ask("my room").await, "looked at");
    }
    process.line("entry.lua:9: send failed");
    let holds = "failed, and its err is ignored: channel name \"my room\" holds a space or control character";
    let wanted = [
        format!("entry.lua:4: subscribe {holds}"),
        format!("entry.lua:5: subscribe {holds}"),
        format!("entry.lua:6: publish {holds}"),
        "entry.lua:7: send failed, and its err is ignored: client 1 is not connected, or can't take the message".into(),
        "entry.lua:8: push failed, and its err is ignored: topics are named as channels are: ".into(),
        "entry.lua:9: send failed, and its err is ignored: ".into(),
    ];
    let told = |lines: &[String]| -> Vec<String> {
        lines.iter().filter(|line| line.contains("its err is ignored")).cloned().collect()
    };
    let lines = told(&process.lines());
    assert_eq!(lines.len(), wanted.len(), "{lines:#?}");
    for (line, wanted) in lines.iter().zip(&wanted) {
        assert!(line.contains("WARN script:") && line.contains(wanted) && line.contains("client_id="), "{line}");
    }
    // A script that is loaded anew may have others.
    let seen = process.lines().len();
    std::fs::write(dir.path().join("entry.lua"), IGNORING.replace("mix.subscribe(bad)", "")).unwrap();
    process.line_after(seen, "reloaded entry.lua");
    assert_eq!(second.ask("my room").await, "looked at");
    process.line_after(seen, "entry.lua:9: send failed");
    assert_eq!(told(&process.lines()[seen..]).len(), wanted.len() - 1);

    let process = Process::ready(folder(IGNORING).path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    assert_eq!(client.ask("my room").await, "looked at");
    client.close().await;
    assert!(!process.stop().out.contains("is ignored"));
}

#[tokio::test]
async fn asking_for_what_is_not_there_is_no_error() {
    let engine = TestEngine::new(
        r#"
        mix.mine = function() return "mine" end
        function on_message(msg, conn)
          local words = { tostring(mix.frobnicate), tostring(mix.mesh.frobnicate), tostring(conn.frobnicate), mix.mine() }
          for name in pairs(mix) do words[name] = true end
          words[#words + 1] = tostring(words.json_decode and words.mine and not words.frobnicate)
          conn:send(table.concat(words, " "))
        end"#,
    );
    assert_eq!(engine.connect().await.ask("x").await, "nil nil nil mine true");
}

#[test]
fn dev_warns_at_the_start_and_at_each_reload_and_single_does_not() {
    let good = "function on_message(msg, conn) conn:send(msg.data) end";
    let dir = folder(ABOVE);
    let process = Process::ready(dir.path(), &["dev"]);
    let at_start = process.lines().iter().filter(|l| l.contains(ABOVE_WARNED) && l.contains("WARN")).count();
    assert_eq!(at_start, 1, "{:?}", process.lines());
    std::fs::write(dir.path().join("entry.lua"), good).unwrap();
    process.line_after(0, "reloaded entry.lua");
    let seen = process.lines().len();
    std::fs::write(dir.path().join("entry.lua"), format!("{good}\nfunction on_colse() end")).unwrap();
    process.line_after(seen, "reloaded entry.lua");
    let after = process.lines().split_off(seen).join("\n");
    assert!(after.contains("entry.lua:2: warning: nothing calls the global function 'on_colse'"), "{after}");
    assert!(!after.contains(ABOVE_WARNED), "{after}");

    let process = Process::ready(folder(ABOVE).path(), &["single"]);
    assert!(!process.lines().join("\n").contains("warning:"), "{:?}", process.lines());
}
