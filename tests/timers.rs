//! Timers and `on_start` over whole engines.

mod common;

use common::process::Process;
use common::scripts::SHOW;
use common::*;
use std::fs;

/// `ran(...)` counts a run of a timer, in a table that all workers share. Behind it stands [`SHOW`].
const BASE: &str = r#"
function ran(what)
  return mix.shared.incr("ran " .. what, 1)
end
"#;

fn engine(script: &str, top: &str) -> TestEngine {
    TestEngine::with(&format!("{BASE}{SHOW}\n{script}"), "", top)
}

/// Waits until what is counted is at least that.
async fn ran(client: &mut Client, what: &str, least: u64) -> u64 {
    eventually(&format!("{least} runs of {what}"), async || {
        let n = client.ask(&format!("return (mix.shared.get('ran {what}') or 0)")).await.parse().unwrap();
        (n >= least).then_some(n)
    })
    .await
}

/// A figure of the metrics.
async fn figure(engine: &TestEngine, name: &str) -> u64 {
    engine.figure(name).await as u64
}

#[tokio::test]
async fn on_start_runs_in_each_worker_before_it_serves() {
    let script = "function on_start(worker) mix.sleep(0.05) ran('start ' .. worker) here = worker end";
    let engine = engine(script, "workers: 3");
    let mut client = engine.connect().await;
    let started = "return mix.shared.keys('ran start')";
    assert_eq!(client.ask(started).await, r#"["ran start 1","ran start 2","ran start 3"], nil"#);
    assert_ne!(client.ask("return here").await, "nil", "the connection came after it");
}

#[tokio::test]
async fn an_on_start_that_fails_refuses_the_script() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("{BASE}{SHOW}\nfunction on_start()\n  mix.sleep(0.01)\n  error('no database')\nend");
    fs::write(dir.path().join("entry.lua"), script).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 2", "");
    let error = TestEngine::try_start(dir).err().unwrap();
    assert!(error.contains("on_start: ") && error.contains("entry.lua:20: no database"), "{error}");

    let engine = engine("version = 1", "workers: 2");
    let mut client = engine.connect().await;
    let failing = format!(
        "{BASE}{SHOW}\nversion = 2 function on_start(worker) if worker == 2 then error('no') end ran('two') end"
    );
    fs::write(engine.path("entry.lua"), failing).unwrap();
    ran(&mut client, "two", 1).await;
    fs::write(engine.path("entry.lua"), format!("{BASE}{SHOW}\nversion = 3 function on_start() ran('three') end"))
        .unwrap();
    eventually("version 3", async || {
        let version = client.ask("return version").await;
        assert_ne!(version, "2");
        (version == "3").then_some(())
    })
    .await;
    assert_eq!(client.ask("return (mix.shared.get('ran three'))").await, "2", "once in each worker");
}

#[tokio::test]
async fn a_timer_runs_once_in_the_process_and_is_not_doubled_by_a_reload() {
    let script = |version: u32| {
        format!(
            "version = {version}
             function on_start(worker) ids = {{mix.timer.every(0.02, 'tick', 'a', nil, {{x = 1}}), (mix.timer.every(60, 'slow'))}} end
             function tick(a, none, t) ran(version .. a .. tostring(none) .. t.x) end
             function slow() end"
        )
    };
    let engine = engine(&script(1), "workers: 4");
    let mut client = engine.connect().await;
    ran(&mut client, "1anil1", 3).await;
    assert_eq!(figure(&engine, "connmix_engine_timers").await, 2);
    fs::write(engine.path("entry.lua"), format!("{BASE}{SHOW}\n{}", script(2))).unwrap();
    ran(&mut client, "2anil1", 3).await;
    assert_eq!(figure(&engine, "connmix_engine_timers").await, 2);
    assert!(figure(&engine, "connmix_engine_timer_runs_total").await >= 6);
    assert_eq!(client.ask("return mix.timer.cancel(ids[1]), mix.timer.cancel(ids[1])").await, "true, false, nil");
    assert_eq!(figure(&engine, "connmix_engine_timers").await, 1);
}

#[tokio::test]
async fn what_the_next_on_start_does_not_set_ends() {
    let engine = engine("function on_start() mix.timer.every(60, 'a') mix.timer.every(60, 'b') end", "workers: 2");
    let mut client = engine.connect().await;
    client.ask("return mix.timer.every(60, 'mine')").await;
    assert_eq!(figure(&engine, "connmix_engine_timers").await, 3);
    let next = "version = 2 function on_start() mix.timer.every(60, 'b') end";
    fs::write(engine.path("entry.lua"), format!("{BASE}{SHOW}\n{next}")).unwrap();
    eventually("the reload", async || (client.ask("return version").await == "2").then_some(())).await;
    eventually("two timers", async || (figure(&engine, "connmix_engine_timers").await == 2).then_some(())).await;
    assert_eq!(
        client.ask("return mix.timer.cancel(1), mix.timer.cancel(2), mix.timer.cancel(3)").await,
        "false, true, true, nil"
    );
}

#[tokio::test]
async fn a_function_that_is_gone_leaves_the_timer() {
    let engine = engine("function tick() ran('before') end", "");
    let mut client = engine.connect().await;
    client.ask("return mix.timer.every(0.02, 'tick')").await;
    ran(&mut client, "before", 1).await;
    fs::write(engine.path("entry.lua"), format!("{BASE}{SHOW}\nversion = 2")).unwrap();
    eventually("the reload", async || (client.ask("return version").await == "2").then_some(())).await;
    let skipped = figure(&engine, "connmix_engine_timer_skips_total").await;
    eventually("runs that are left out", async || {
        (figure(&engine, "connmix_engine_timer_skips_total").await > skipped).then_some(())
    })
    .await;
    fs::write(engine.path("entry.lua"), format!("{BASE}{SHOW}\nfunction tick() ran('after') end")).unwrap();
    ran(&mut client, "after", 2).await;
}

#[tokio::test]
async fn what_has_not_ended_is_left_out_and_holds_up_no_other() {
    let script = "function slow() ran('slow') mix.sleep(600) end function quick() ran('quick') end";
    let engine = engine(script, "workers: 1");
    let mut client = engine.connect().await;
    client.ask("return mix.timer.every(0.01, 'slow'), mix.timer.every(0.01, 'quick')").await;
    ran(&mut client, "quick", 10).await;
    assert_eq!(ran(&mut client, "slow", 1).await, 1);
    assert_eq!(figure(&engine, "connmix_engine_timers_running").await, 1);
    assert!(figure(&engine, "connmix_engine_timer_skips_total").await > 5);
    // A run that waits does not hold up the end: its wait is over.
    assert!(engine.shutdown().await);
}

#[tokio::test]
async fn a_connections_timer_gets_it_and_ends_with_it() {
    let script =
        "function remind(conn, what) ran('remind') conn:send('remember ' .. what .. tostring(mix.websocket())) end";
    let engine = engine(script, "workers: 2");
    let (mut client, mut other) = (engine.connect().await, engine.connect().await);
    let set = "return mix.timer.every(0.03, 'remind', {connection = conn}, 'me') ~= nil";
    assert_eq!(client.ask(set).await, "true");
    assert_eq!(client.text().await, "remember menil");
    assert_eq!(client.text().await, "remember menil");
    assert_eq!(figure(&engine, "connmix_engine_timers").await, 1);
    let wait = "function waits(conn) ran('waits') local err = mix.sleep(600) mix.shared.set('ended', err) end
                return mix.timer.after(0, 'waits', {connection = conn}) ~= nil";
    client.send(wait).await;
    while client.text().await != "true" {}
    ran(&mut other, "waits", 1).await;
    client.close().await;
    eventually("the end of its wait", async || {
        (other.ask("return (mix.shared.get('ended'))").await == "its time is over, or the engine is stopping")
            .then_some(())
    })
    .await;
    eventually("its end", async || (figure(&engine, "connmix_engine_timers").await == 0).then_some(())).await;
    // What is set for a connection that has ended is not set.
    let script = "function on_close(id, err, conn) local ok, err = mix.timer.after(1, 'x', {connection = conn}) \
                  mix.shared.set('late', err) end";
    fs::write(engine.path("entry.lua"), format!("{BASE}{SHOW}\nversion = 2 {script}")).unwrap();
    eventually("the reload", async || (other.ask("return version").await == "2").then_some(())).await;
    engine.connect().await.close().await;
    eventually("the err", async || {
        (other.ask("return mix.shared.get('late')").await == "the connection has closed, nil").then_some(())
    })
    .await;
}

#[tokio::test]
async fn runaway_functions_are_stopped_and_clients_are_served() {
    let script = "function loop() ran('loop') while true do end end function fails() ran('fails') error('no') end";
    let engine = TestEngine::with(&format!("{BASE}{SHOW}\n{script}"), "handlerTimeout: 50ms", "workers: 1");
    let mut client = engine.connect().await;
    client.ask("return mix.timer.every(0.01, 'loop'), mix.timer.every(0.01, 'fails')").await;
    ran(&mut client, "loop", 3).await;
    ran(&mut client, "fails", 3).await;
    let (_, page) = get(engine.at.api, "/metrics").await;
    let of = |name: &str| {
        let line = page.lines().find(|line| line.starts_with(name) && line.contains("hook=\"timer\"")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    assert!(of("connmix_engine_handler_timeouts_total") >= 2, "{page}");
    assert!(of("connmix_engine_handler_errors_total") >= 5, "{page}");
    assert!(of("connmix_engine_handler_budget_cuts_total") >= 1, "{page}");
}

#[tokio::test]
async fn two_servers_have_timers_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let script = |name: &str| {
        format!(
            "{BASE}{SHOW}\nfunction on_start() id = mix.timer.every(0.02, 'tick') end function tick() ran('{name}') end"
        )
    };
    fs::write(dir.path().join("a.lua"), script("a")).unwrap();
    fs::write(dir.path().join("b.lua"), script("b")).unwrap();
    let server = |entry: &str| {
        format!("    - {{port: 0, bind: 127.0.0.1, entry: {entry}, options: [{{name: path, value: /ws}}]}}\n")
    };
    let text = format!(
        "logging: {{filename: ''}}\ncenter: {{apiServer: {{port: 0, bind: 127.0.0.1}}}}\nengine:\n  workers: 2\n  \
         apiServer: {{port: 0, bind: 127.0.0.1}}\n  servers:\n{}{}",
        server("a.lua"),
        server("b.lua")
    );
    fs::write(dir.path().join("connmix.yaml"), text).unwrap();
    let engine = TestEngine::start(dir);
    let mut a = Client::connect(engine.at.servers[0], "/ws").await;
    let mut b = Client::connect(engine.at.servers[1], "/ws").await;
    ran(&mut a, "a", 2).await;
    ran(&mut a, "b", 2).await;
    assert_eq!(figure(&engine, "connmix_engine_timers").await, 2);
    let theirs = b.ask("return id").await;
    assert_eq!(a.ask(&format!("return mix.timer.cancel({theirs})")).await, "false, nil");
}

#[tokio::test]
async fn wrong_calls_are_told() {
    let engine = engine("top = {mix.timer.after(1, 'x')}", "");
    let mut client = engine.connect().await;
    assert_eq!(client.ask("return top[2]").await, "timers can't be set while a script is loaded: set them in on_start");
    for (call, wanted) in [
        ("after('x', 'f')", "bad argument #1 to 'after' (number expected, got string)"),
        ("after(-1, 'f')", "bad argument #1 to 'after' (0 to 31536000 seconds expected, got -1)"),
        ("every(0.001, 'f')", "bad argument #1 to 'every' (0.01 to 31536000 seconds expected, got 0.001)"),
        ("after(1, print)", "bad argument #2 to 'after' (the name of a global function expected, got function)"),
        ("after(1, 'f', print)", "bad argument #3 to 'after' (plain value expected, got a function)"),
        ("cancel('x')", "bad argument #1 to 'cancel' (the number of a timer expected, got string)"),
    ] {
        let said = client.ask(&format!("return mix.timer.{call}")).await;
        assert!(said.starts_with("error: ") && said.ends_with(wanted), "{call}: {said}");
    }
    let long = client.ask("return mix.timer.after(1, 'f', ('x'):rep(70000))").await;
    assert!(long.starts_with("nil, a timer's name and arguments take 7"), "{long}");
    let many = client.ask("return mix.timer.after(1, 'f', unpack({1}, 1, 33))").await;
    assert_eq!(many, "nil, a timer's function gets 32 arguments at most, not 33");
}

/// The timers of a worker that is stuck go on in another one.
#[tokio::test]
async fn a_stuck_workers_timers_go_to_another() {
    let dir = tempfile::tempdir().unwrap();
    let script = "function tick() ran('tick') end
                  function on_start(worker) if worker == 1 then mix.timer.every(0.05, 'tick') end me = worker end";
    fs::write(dir.path().join("entry.lua"), format!("{BASE}{SHOW}\n{script}")).unwrap();
    let top = "workers: 2\nluavm: {libraries: [os, io]}";
    write_config(&dir.path().join("connmix.yaml"), "handlerTimeout: 60s", top, "");
    let engine =
        TestEngine::try_start_with(dir, |config| config.stuck_after = std::time::Duration::from_millis(300)).unwrap();
    let (mut one, mut other) = (engine.connect().await, engine.connect().await);
    if one.ask("return me").await == "2" {
        std::mem::swap(&mut one, &mut other);
    }
    assert_eq!((one.ask("return me").await, other.ask("return me").await), ("1".into(), "2".into()));
    ran(&mut other, "tick", 1).await;
    one.send("os.execute('sleep 3') return 1").await;
    eventually("a stuck worker", async || {
        let (_, page) = get(engine.at.api, "/metrics").await;
        page.contains("connmix_engine_worker_stuck{worker=\"0\"} 1").then_some(())
    })
    .await;
    let before = ran(&mut other, "tick", 1).await;
    ran(&mut other, "tick", before + 2).await;
}

#[test]
fn what_timers_come_to_is_logged() {
    let dir = tempfile::tempdir().unwrap();
    let script = "function on_message() end
                  function on_start() mix.timer.after(0, 'fails', 7) mix.timer.every(0.02, 'nobody') end
                  function fails(n)\n  error('no ' .. n)\nend";
    fs::write(dir.path().join("entry.lua"), script).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", "");
    let process = Process::ready(dir.path(), &["single", "-f", "connmix.yaml"]);
    let line = process.line("entry.lua:4: no 7");
    assert!(line.contains("timer=fails") || line.contains("timer=\"fails\""), "{line}");
    process.line("a timer is to run nobody, and entry.lua defines no global function of that name; the timer stays");
    assert_eq!(process.stop().code, Some(0));
}
