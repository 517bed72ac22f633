//! The end of an engine: no new clients, every client gets its outstanding messages and a 1012, scripts are called, and
//! all of it takes no longer than `shutdownTimeout`.

mod common;

use common::process::Process;
use common::*;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// With the time that a healthy stop never takes.
const LONG: &str = "shutdownTimeout: 60";

const SCRIPT: &str = "\
function on_message(msg, conn)
  if msg.data == 'subscribe' then
    conn:subscribe('news')
  elseif msg.data == 'slow close' then
    conn:set_context_value('slow', true)
  elseif msg.data == 'sleep' then
    conn:send('sleeping')
    local err = mix.sleep(3600)
    print('slept', err, conn:send('too late'))
    print('again', mix.sleep(3600))
    return
  elseif msg.data == 'wait' then
    conn:send('waiting')
    print('waited', conn:wait_context_value('never'))
    return
  elseif msg.data == 'flood' then
    for i = 1, 60 do
      conn:send(i .. ('.'):rep(200000))
    end
    return
  end
  conn:send(msg.data)
end
function on_close(id, err, conn)
  print('closed', id, err, #conn:channels())
  if conn:context_value('slow') then
    mix.sleep(3600)
  end
end
";

/// Begins the stop. Returns whether no connection was cut off, and how long it took.
fn stop(engine: TestEngine) -> JoinHandle<(bool, Duration)> {
    let started = Instant::now();
    tokio::spawn(async move { (engine.shutdown().await, started.elapsed()) })
}

/// The milliseconds after which a client is asked to come back.
fn retry(reason: &str) -> u64 {
    reason.strip_prefix("server shutdown, retry=").and_then(|ms| ms.parse().ok()).unwrap_or_else(|| panic!("{reason}"))
}

/// Waits until nothing accepts there.
async fn refuses(addr: SocketAddr) {
    eventually("new connections are refused", async || TcpStream::connect(addr).await.err().map(drop)).await;
}

fn folder(top: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 2", top);
    dir
}

#[tokio::test]
async fn everybody_is_told_and_the_doors_are_shut() {
    let engine = TestEngine::with_top(SCRIPT, "", "workers: 2", LONG);
    let at = engine.at.clone();
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(engine.connect().await);
    }
    let stopping = stop(engine);
    for client in &mut clients {
        let (code, reason) = client.close_frame().await;
        assert_eq!(code, 1012);
        retry(&reason);
        assert!(client.next().await.is_err(), "nothing comes after it");
    }
    let (clean, took) = stopping.await.unwrap();
    assert!(clean && took < Duration::from_secs(10), "{took:?}");
    for addr in [at.servers[0], at.api, at.center] {
        refuses(addr).await;
    }
}

#[tokio::test]
async fn an_engine_without_clients_ends_at_once() {
    let engine = TestEngine::with_top(SCRIPT, "", "workers: 2", LONG);
    let (clean, took) = stop(engine).await.unwrap();
    assert!(clean && took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn what_a_client_is_owed_comes_before_the_end() {
    let engine = TestEngine::with_top(SCRIPT, "outboxLimit: 64MiB\nhandlerTimeout: 10s", "workers: 2", LONG);
    let (mut flooded, mut subscriber) = (engine.connect().await, engine.connect().await);
    subscriber.ask("subscribe").await;
    flooded.send("flood").await;
    // The first has come, so that all the others wait; far more of them than a socket takes.
    assert!(flooded.text().await.starts_with("1."));
    for i in 0..100 {
        engine.publish_to("news", &i.to_string(), 1).await;
    }
    let api = engine.at.api;
    let stopping = stop(engine);
    refuses(api).await;
    for i in 0..100 {
        assert_eq!(subscriber.text().await, i.to_string());
    }
    assert_eq!(subscriber.close_frame().await.0, 1012);
    for i in 2..=60 {
        let text = flooded.text().await;
        assert!(text.starts_with(&format!("{i}.")) && text.len() > 200_000, "message {i}");
    }
    assert_eq!(flooded.close_frame().await.0, 1012);
    let (clean, took) = stopping.await.unwrap();
    assert!(clean && took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn scripts_are_told_once_for_each_connection() {
    let dir = folder(LONG);
    let process = Process::ready(dir.path(), &["single"]);
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(process.ws(), "/ws").await;
        client.ask("subscribe").await;
        clients.push(client);
    }
    process.signal(libc::SIGTERM);
    for client in &mut clients {
        assert_eq!(client.close_frame().await.0, 1012);
    }
    drop(clients);
    let ended = process.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let closed: Vec<&str> = ended.out.lines().filter(|l| l.contains("closed\t")).collect();
    assert_eq!(closed.len(), 20, "{closed:#?}");
    // No error, and the subscription can still be read.
    assert!(closed.iter().all(|l| l.contains("\tnil\t1")), "{closed:#?}");
}

#[tokio::test]
async fn a_handshake_that_the_stop_cuts_off_is_closed_once_too() {
    let dir = folder(LONG);
    let script = "
      function on_handshake(id, headers)
        print('asked', id)
        mix.sleep(3600)
        if headers.refuse then return false end
      end
      function on_message() end
      function on_close(id, err, conn) mix.sleep(0.01) print('closed', id, err, conn:client_id() == id) end";
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    let process = Process::ready(dir.path(), &["single"]);
    let mut clients = Vec::new();
    for n in 0..10 {
        let mut raw = common::raw::Raw::dial(process.ws()).await;
        raw.write(common::raw::upgrade_with(if n < 2 { "refuse: yes\r\n" } else { "" })).await;
        clients.push(raw);
    }
    let asked = || process.lines().iter().filter(|l| l.contains("asked\t")).count();
    eventually("all are asked", async || (asked() == 10).then_some(())).await;
    process.signal(libc::SIGTERM);
    for (n, raw) in clients.iter_mut().enumerate() {
        let reply = raw.reply().await;
        assert_eq!(reply.status, if n < 2 { 403 } else { 503 });
        assert_eq!(reply.header("retry-after").is_some(), n >= 2, "{reply:?}");
    }
    drop(clients);
    let ended = process.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let closed: Vec<&str> = ended.out.lines().filter(|l| l.contains("closed\t")).collect();
    assert!(closed.len() == 8 && closed.iter().all(|l| l.contains("\tnil\ttrue")), "{closed:#?}");
}

#[tokio::test]
async fn handlers_that_wait_end_with_an_error() {
    let dir = folder(LONG);
    let process = Process::ready(dir.path(), &["single"]);
    let (mut sleeps, mut waits) =
        (Client::connect(process.ws(), "/ws").await, Client::connect(process.ws(), "/ws").await);
    assert_eq!(sleeps.ask("sleep").await, "sleeping");
    assert_eq!(waits.ask("wait").await, "waiting");
    let started = Instant::now();
    process.signal(libc::SIGTERM);
    assert_eq!(sleeps.close_frame().await.0, 1012);
    assert_eq!(waits.close_frame().await.0, 1012);
    drop((sleeps, waits));
    let ended = process.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let line = |part: &str| ended.out.lines().find(|l| l.contains(part)).unwrap_or_else(|| panic!("{ended:?}"));
    for part in ["slept\t", "again\t"] {
        assert!(!line(part).contains(&format!("{part}nil")), "an error: {}", line(part));
    }
    assert!(!line("slept\t").trim_end().ends_with("nil"), "a send fails too: {}", line("slept\t"));
    assert!(line("waited\t").contains("waited\tnil"), "{}", line("waited\t"));
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_nobody_up_for_long() {
    let engine =
        TestEngine::with_top(SCRIPT, "outboxLimit: 64MiB\nhandlerTimeout: 10s\nwriteTimeout: 0", "workers: 1", LONG);
    let (mut stuck, mut other) = (engine.connect().await, engine.connect().await);
    stuck.send("flood").await;
    assert_eq!(other.ask("after the flood").await, "after the flood");
    let stopping = stop(engine);
    assert_eq!(other.close_frame().await.0, 1012);
    let (_, took) = stopping.await.unwrap();
    assert!(took < Duration::from_secs(10), "{took:?}");
    drop(stuck);
}

#[tokio::test]
async fn a_last_hook_that_does_not_end_is_cut_off_in_time() {
    let engine = TestEngine::with_top(SCRIPT, "", "workers: 2", "shutdownTimeout: 300ms");
    let (mut slow, mut other) = (engine.connect().await, engine.connect().await);
    slow.ask("slow close").await;
    let stopping = stop(engine);
    assert_eq!(slow.close_frame().await.0, 1012);
    assert_eq!(other.close_frame().await.0, 1012);
    let (clean, took) = stopping.await.unwrap();
    assert!(!clean, "somebody was cut off");
    assert!((Duration::from_millis(300)..Duration::from_secs(10)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_script_that_is_being_tried_holds_nobody_up() {
    let dir = folder(LONG);
    std::fs::write(dir.path().join("endless.lua"), "while true do pcall(function() while true do end end) end")
        .unwrap();
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    let config = dir.path().join("connmix.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("entry: entry.lua", "entry: endless.lua")).unwrap();
    process.signal(libc::SIGHUP);
    process.line("changed: engine.servers[0].entry: ");
    let started = Instant::now();
    process.signal(libc::SIGTERM);
    assert_eq!(client.close_frame().await.0, 1012);
    assert!(started.elapsed() < Duration::from_millis(4500), "{:?}", started.elapsed());
    drop(client);
    assert_eq!(process.ended().code, Some(0));
}

#[tokio::test]
async fn sockets_that_have_not_asked_for_anything_hold_nobody_up() {
    let engine = TestEngine::with_top(SCRIPT, "", "workers: 2", LONG);
    let mut sockets = Vec::new();
    for addr in [engine.at.servers[0], engine.at.api, engine.at.center] {
        // What browsers open ahead, and half a request.
        for sent in ["", "GET /ws HTTP/1.1\r\nHost: localhost\r\n"] {
            let mut socket = TcpStream::connect(addr).await.unwrap();
            socket.write_all(sent.as_bytes()).await.unwrap();
            sockets.push(socket);
        }
    }
    // All have been accepted: a later one has been served.
    let mut client = engine.connect().await;
    assert_eq!(client.ask("hi").await, "hi");
    assert_eq!(get(engine.at.api, "/healthz").await.0, 200);
    assert_eq!(get(engine.at.center, "/healthz").await.0, 200);
    let stopping = stop(engine);
    assert_eq!(client.close_frame().await.0, 1012);
    let (clean, took) = stopping.await.unwrap();
    assert!(clean && took < Duration::from_secs(10), "clean: {clean}, {took:?}");
    for mut socket in sockets {
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
    }
}

#[tokio::test]
async fn a_call_under_way_is_answered_and_a_probe_says_not_ready() {
    let engine = TestEngine::with_top(SCRIPT, "", "workers: 1", "shutdownTimeout: 3");
    let api = engine.at.api;
    // A connection whose last hook keeps the engine up.
    let mut slow = engine.connect().await;
    slow.ask("slow close").await;
    let mut call = TcpStream::connect(api).await.unwrap();
    let body = r#"{"c":"news","d":"x"}"#;
    let head = format!("POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    call.write_all(head.as_bytes()).await.unwrap();
    let mut probe = TcpStream::connect(api).await.unwrap();
    probe.write_all(b"GET /readyz HTTP/1.1\r\n").await.unwrap();
    assert_eq!(get(api, "/readyz").await.0, 200);

    let stopping = stop(engine);
    assert_eq!(slow.close_frame().await.0, 1012);
    call.write_all(body.as_bytes()).await.unwrap();
    let mut reply = String::new();
    call.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with(r#"{"E":null,"r":{"s":0,"f":0}}"#), "{reply}");
    probe.write_all(b"Host: localhost\r\n\r\n").await.unwrap();
    let mut reply = String::new();
    probe.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 503"), "{reply}");
    drop(stopping);
}

#[test]
fn a_call_that_ends_during_the_stop_costs_no_panic() {
    let dir = folder("");
    let process = Process::ready(dir.path(), &["single"]);
    let body = r#"{"c":"news","d":"x"}"#;
    let call =
        format!("POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (begun, rest) = call.split_at(30);
    let mut caller = std::net::TcpStream::connect(process.api()).unwrap();
    caller.set_read_timeout(Some(PATIENCE)).unwrap();
    caller.write_all((call.clone() + begun).as_bytes()).unwrap();
    // The first answer shows that the beginning of the next call has been read, too.
    let mut answer = [0; 12];
    caller.read_exact(&mut answer).unwrap();
    process.signal(libc::SIGTERM);
    let began = Instant::now();
    while std::net::TcpStream::connect(process.api()).is_ok() {
        assert!(began.elapsed() < PATIENCE, "the door stays open");
    }
    caller.write_all(rest.as_bytes()).unwrap();
    let mut replies = String::new();
    caller.read_to_string(&mut replies).unwrap();
    assert_eq!(replies.matches(r#"{"E":null,"r":{"s":0,"f":0}}"#).count(), 2, "{replies}");
    let ended = process.ended();
    assert_eq!(ended.code, Some(0));
    assert!(!ended.out.contains("panic") && !ended.err.contains("panic"), "{}{}", ended.out, ended.err);
}

/// Sends that again and again, and reads what comes, until the connection ends.
fn flood(addr: SocketAddr, open: &str, unit: &[u8]) {
    let mut socket = std::net::TcpStream::connect(addr).unwrap();
    socket.write_all(open.as_bytes()).unwrap();
    let (mut reader, units) = (socket.try_clone().unwrap(), unit.repeat(1000));
    std::thread::spawn(move || while socket.write_all(&units).is_ok() {});
    let (begun, waiting) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while reader.read(&mut buffer).is_ok_and(|n| n > 0) {
            let _ = begun.send(());
        }
    });
    waiting.recv_timeout(PATIENCE).unwrap();
}

#[tokio::test]
async fn callers_that_never_pause_do_not_hold_the_stop_up() {
    let call = r#"{"c":"news","d":"x"}"#;
    let plain =
        format!("POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{call}", call.len());
    let general = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let request = common::raw::text(r#"{"m":"mesh.publish","p":{"c":"news","d":"x"}}"#);
    let upgrade = common::raw::upgrade().replace("/ws ", "/ws/v1 ");
    let engine = TestEngine::with_top(SCRIPT, "", "workers: 2", "shutdownTimeout: 15");
    for (open, unit) in [("", plain.as_bytes()), ("", general), (&upgrade, &request)].repeat(4) {
        let (api, open, unit) = (engine.at.api, open.to_owned(), unit.to_vec());
        tokio::task::spawn_blocking(move || flood(api, &open, &unit)).await.unwrap();
    }
    let (clean, took) = stop(engine).await.unwrap();
    assert!(clean, "{took:?}");
}

#[tokio::test]
async fn clients_that_leave_by_themselves_meanwhile_are_no_trouble() {
    let engine = TestEngine::with_top(SCRIPT, "", "workers: 2", LONG);
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(engine.connect().await);
    }
    let stopping = stop(engine);
    for (i, mut client) in clients.into_iter().enumerate() {
        match i % 3 {
            0 => client.close().await,
            1 => drop(client),
            _ => {
                use futures_util::SinkExt;
                let _ = client.0.send(tokio_tungstenite::tungstenite::Message::text("one more")).await;
                while client.next().await.is_ok() {}
            }
        }
    }
    let (clean, took) = stopping.await.unwrap();
    assert!(clean && took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn signals_are_heard_though_whoever_started_it_had_blocked_them() {
    let dir = folder(LONG);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_connmix"));
    command.arg("single").current_dir(dir.path());
    common::process::block_signals(&mut command, &[libc::SIGTERM, libc::SIGUSR1]);
    let process = Process::of(command);
    process.line(" is ready; ");
    process.signal(libc::SIGUSR1);
    process.line("SIGUSR1: there is no log file to open anew");
    process.signal(libc::SIGTERM);
    let ended = process.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}
