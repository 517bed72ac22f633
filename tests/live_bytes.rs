//! What attacks leave: after each, once its clients are gone, the process holds as many bytes as before, Lua's included, within
//! 5 %. An allocator counts them. All attacks run twice: what the first time adds is what is kept on purpose, and bounded
//! (docs/limits.md): places in tables, buffers, the newest ends of connections. Only one engine, and one test: all share the count.

#[path = "live_bytes/attacks.rs"]
mod attacks;
mod common;

use attacks::{Site, attacks, saves};
use common::heap::{Counting, live, most};
use common::tls::Authority;
use common::{PATIENCE, TestEngine};
use std::fs;
use std::future::Future;
use std::thread::sleep;
use std::time::{Duration, Instant};

#[global_allocator]
static COUNTING: Counting = Counting;

/// What a message says is run with `conn`, and `= ` and its results come back. The collector runs all the time: what is garbage
/// does not count.
const SCRIPT: &str = r#"
function full_collection() collectgarbage() end
function on_start() mix.timer.every(0.1, "full_collection") end
function on_message(msg, conn)
  if msg.type == "binary" then return conn:send(tostring(#msg.data)) end
  local results = {assert(loadstring("local conn = ...\n" .. msg.data, "=message"))(conn)}
  for i = 1, 3 do results[i] = tostring(results[i]) end
  conn:send("= " .. table.concat(results, " "))
end
"#;

/// Of the server of TCP: lines, which come back.
const LINES: &str = r#"
function full_collection() collectgarbage() end
function on_start() mix.timer.every(0.1, "full_collection") end
function protocol_input(buf) return buf:find("\n") or 0 end
function protocol_decode(line) return line end
function protocol_encode(data) return data end
function on_message(msg, conn) conn:send(msg) end
"#;

const CONFIG: &str = r#"
logging: {filename: ''}
trustedProxies: [127.0.0.0/8]
access: {users: [{username: bench, password: bench}]}
center: {apiServer: {port: 0, bind: 127.0.0.1}}
engine:
  workers: 1
  apiServer: {port: 0, bind: 127.0.0.1}
  historyLimit: 1MiB
  luavm: {sharedLimit: 2MiB}
  channels:
    - {match: 'kept:', history: {size: 20, age: 1h}, envelope: json, presence: true}
    - {match: 'room:', presence: true, joinLeave: true, online: {every: 50ms}, maxSubscribers: 20}
    - {match: 'much:', limit: {rate: 10/100ms, reserve: 2, over: merge}, envelope: json}
    - {match: 'late:', slow: latest}
  servers:
    - port: 0
      bind: 127.0.0.1
      protocol: websocket
      entry: entry.lua
      options: [{name: path, value: /ws}]
      compression: on
      eventStream: on
      handlerTimeout: 30
      outboxLimit: 128KiB
      unsentLimit: 4KiB
    - port: 0
      bind: 127.0.0.1
      protocol: websocket
      entry: entry.lua
      options: [{name: path, value: /ws}]
      tls: {cert: cert.pem, key: cert.key}
      outboxLimit: 128KiB
    - port: 0
      bind: 127.0.0.1
      protocol: websocket
      entry: entry.lua
      options: [{name: path, value: /ws}]
      proxyProtocol: v1v2
      handlerTimeout: 100ms
      maxConnectionsPerAddress: 20
      rate: {connects: 1000/s, perAddress: 10/s, messages: 100/s}
    - {port: 0, bind: 127.0.0.1, protocol: socket, entry: lines.lua}
"#;

fn engine(authority: &Authority) -> TestEngine {
    let dir = tempfile::tempdir().unwrap();
    authority.issue(dir.path(), "cert", &["localhost"]);
    for (name, text) in [("entry.lua", SCRIPT), ("lines.lua", LINES), ("connmix.yaml", CONFIG)] {
        fs::write(dir.path().join(name), text).unwrap();
    }
    TestEngine::start(dir)
}

/// Runs something as clients, and drops all that they had.
fn act<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work)
}

/// Waits until no more than that is held, and gives what is held then. In vain: the least that was held.
fn returned(most: usize, patience: Duration) -> usize {
    let (began, mut least) = (Instant::now(), usize::MAX);
    while least > most && began.elapsed() < patience {
        sleep(Duration::from_millis(10));
        least = least.min(live());
    }
    least
}

/// What is held when nothing happens: the least of a while.
fn at_rest() -> usize {
    returned(0, Duration::from_millis(1500))
}

const KB: usize = 1000;

#[test]
fn live_bytes_return_after_each_attack() {
    let authority = Authority::new();
    let engine = engine(&authority);
    let site = Site::new(&engine, authority.trusted());
    act(attacks::warm_up(site.clone()));
    let first = at_rest();
    println!("at rest {} KB", first / KB);
    let attacks = attacks();
    for (name, attack) in &attacks {
        most();
        act(attack(site.clone()));
        println!("{name}: at most {} KB, then {} KB", most() / KB, returned(first, Duration::from_millis(100)) / KB);
    }
    let before = at_rest();
    println!("once more, at rest {} KB", before / KB);
    let is_held = |name: &str, before: usize| {
        let (top, after) = (most(), returned(before + before / 20, PATIENCE));
        println!("{name}: at most {} KB, then {} KB", top / KB, after / KB);
        assert!(after <= before + before / 20, "{name} leaves {} bytes more than there were", after - before);
    };
    for (name, attack) in &attacks {
        act(attack(site.clone()));
        is_held(name, before);
    }
    // A new version of the script begins with nothing of what the one before has held.
    act(saves(site.clone()));
    let before = at_rest();
    act(saves(site));
    is_held("saves", before);
}
