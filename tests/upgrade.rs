//! An upgrade in place: a new process takes over, and nobody notices. The real program, from the command line.

mod common;

#[path = "upgrade/tls.rs"]
mod tls;

use common::process::{Ended, Process, run};
use common::raw::{self, Raw};
use common::systemd::Systemd;
use common::*;
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const SCRIPT: &str = "\
local started = 0
function on_start() mix.timer.every(3600, 'hourly') end
function hourly() end
function later(text) mix.mesh.publish('timers', text) end
function on_message(msg, conn)
  local what, rest = msg.data:match('^(%S+) ?(.*)$')
  if what == 'subscribe' then
    conn:subscribe(rest, {info = {name = rest}})
    conn:set_context_value('channel', rest)
  elseif what == 'state' then
    return conn:send(conn:client_id() .. ' ' .. table.concat(conn:channels(), ',') .. ' '
      .. tostring(conn:context_value('channel')) .. ' ' .. VERSION)
  elseif what == 'wait' then
    conn:send('waiting')
    local err = mix.sleep(tonumber(rest))
    return conn:send('waited ' .. tostring(err))
  elseif what == 'history' then
    local page = mix.mesh.history('kept')
    local texts = {}
    for i, m in ipairs(page.m) do texts[i] = m.d end
    return conn:send(page.p .. ' ' .. table.concat(texts, ','))
  elseif what == 'push' then
    return conn:send(tostring(mix.queue.push('jobs', {n = rest})))
  elseif what == 'share' then
    mix.shared.set('shared', rest)
  elseif what == 'shared' then
    return conn:send(tostring(mix.shared.get('shared')))
  elseif what == 'timer' then
    mix.timer.after(tonumber(rest), 'later', 'in time')
  end
  conn:send(msg.data)
end
function on_close(id, err, conn) print('closed', id, err) end
VERSION = 'one'
";

/// A process, or its last successor.
struct Running {
    dir: tempfile::TempDir,
    process: Process,
    successor: Cell<Option<u32>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pid) = self.successor.take() {
            // SAFETY: it takes two numbers.
            unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        }
    }
}

impl Running {
    fn start(script: &str, server: &str, top: &str) -> Running {
        Running::start_with(script, server, top, "websocket")
    }

    fn start_with(script: &str, server: &str, top: &str, protocol: &str) -> Running {
        Running::with(script, server, top, protocol, &[])
    }

    fn with(script: &str, server: &str, top: &str, protocol: &str, env: &[(&str, &Path)]) -> Running {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("entry.lua"), script).unwrap();
        let file = dir.path().join("connmix.yaml");
        write_config(&file, server, "workers: 2", top);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("protocol: websocket", &format!("protocol: {protocol}"))).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_connmix"));
        command.arg("single").current_dir(dir.path()).stdin(Stdio::null());
        command.env("CONNMIX_CRASH_AT", dir.path().join("crash")).envs(env.iter().copied());
        let process = Process::of(command);
        process.line(" is ready; ");
        Running { dir, process, successor: Cell::new(None) }
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn ask(&self, args: &[&str]) -> Ended {
        run(self.dir.path(), &[&["upgrade"], args].concat())
    }

    /// Upgrades; gives what the command said.
    fn upgrade(&self) -> String {
        let lines = self.process.lines().len();
        let ended = self.ask(&[]);
        assert_eq!(ended.code, Some(0), "{ended:?}\n{}", self.process.lines().join("\n"));
        let pid = ended.out.split("process ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        self.successor.set(Some(pid.unwrap_or_else(|| panic!("{ended:?}"))));
        self.process.line_after(lines, " is ready; ");
        self.process.line_after(lines, "stopped");
        ended.out
    }

    /// Waits until the control socket is the successor's: the next upgrade reaches it.
    fn stop(self) {
        let pid = self.successor.take().unwrap();
        // SAFETY: it takes two numbers.
        assert_eq!(unsafe { libc::kill(pid as i32, libc::SIGTERM) }, 0);
        let began = std::time::Instant::now();
        while Path::new(&format!("/proc/{pid}")).exists() {
            assert!(began.elapsed() < PATIENCE, "the successor does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_keeps_all_that_it_had() {
    let running = Running::start(SCRIPT, "", "");
    let mut client = Client::connect(running.process.ws(), "/ws").await;
    client.ask("subscribe news").await;
    let before = client.ask("state").await;
    assert!(before.ends_with(" news news one"), "{before}");
    let id = before.split(' ').next().unwrap().to_owned();
    running.write("entry.lua", &SCRIPT.replace("VERSION = 'one'", "VERSION = 'two'"));
    let (ws, api) = (running.process.ws(), running.process.api());
    for _ in 0..3 {
        running.upgrade();
        assert_eq!(client.ask("state").await, format!("{id} news news two"), "the new script");
        let reply = post(api, "/v1/mesh/publish", r#"{"c":"news","d":"hello"}"#).await;
        assert_eq!(reply, (200, r#"{"E":null,"r":{"s":1,"f":0}}"#.into()));
        assert_eq!(client.text().await, "hello");
        let send = json!({"c": id, "d": "to you"}).to_string();
        assert_eq!(post(api, "/v1/mesh/send", &send).await.0, 200);
        assert_eq!(client.text().await, "to you");
    }
    // Its presence has gone along, and nobody else has its id.
    let told: Value = serde_json::from_str(&get(api, &format!("/v1/clients/{id}")).await.1).unwrap();
    assert_eq!(told["r"]["channels"], json!(["news"]), "{told}");
    let mut other = Client::connect(ws, "/ws").await;
    let others = other.ask("state").await;
    assert!(others.split(' ').next().unwrap().parse::<u64>().unwrap() != id.parse::<u64>().unwrap(), "{others}");
    client.close().await;
    running.process.line(&format!("closed\t{id}"));
    let closed = running.process.lines().iter().filter(|line| line.contains("closed\t")).count();
    assert_eq!(closed, 1, "nobody else was told of an end");
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_goes_on_and_its_client_sends_by_the_token_that_it_has() {
    let running = Running::start(SCRIPT, "eventStream: on", "");
    let at = running.process.ws();
    let mut stream = Raw::dial(at).await;
    stream.write("GET /ws HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").await;
    assert_eq!(stream.head().await.status, 200);
    let mut got = String::new();
    let mut until = async |part: &str| {
        while !got.contains(part) {
            got.push_str(std::str::from_utf8(&stream.take(1).await).unwrap());
        }
        std::mem::take(&mut got)
    };
    let connected = until("}\n\n").await;
    let word = |name: &str| connected.split(&format!("\"{name}\":\"")).nth(1).unwrap().split('"').next().unwrap();
    let (id, token) = (word("client"), word("token"));
    let send = async |text: &str| {
        let head =
            format!("POST /ws HTTP/1.1\r\nHost: localhost\r\nConnmix-Client: {id}\r\nConnmix-Token: {token}\r\n");
        let reply = Raw::dial(at).await.call(format!("{head}Content-Length: {}\r\n\r\n{text}", text.len())).await;
        assert_eq!(reply.status, 204, "{reply:?}");
    };
    send("subscribe news").await;
    until("data: subscribe news\n\n").await;
    for _ in 0..2 {
        running.upgrade();
        send("state").await;
        until(&format!("data: {id} news news one\n\n")).await;
        let reply = post(running.process.api(), "/v1/mesh/publish", r#"{"c":"news","d":"hello"}"#).await;
        assert_eq!(reply, (200, r#"{"E":null,"r":{"s":1,"f":0}}"#.into()));
        until("data: hello\n\n").await;
    }
    let told: Value = serde_json::from_str(&get(running.process.api(), &format!("/v1/clients/{id}")).await.1).unwrap();
    assert_eq!((&told["r"]["in"], &told["r"]["out"]), (&json!(3), &json!(5)), "{told}");
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn half_messages_and_those_that_come_meanwhile_are_not_lost() {
    let running = Running::start(SCRIPT, "", "");
    let ws = running.process.ws();
    let whole = raw::text("a message in two halves");
    let mut half = Raw::open(ws).await;
    half.write(&whole[..7]).await;
    let mut fragments = Raw::open(ws).await;
    fragments.write(raw::frame(raw::TEXT, b"one, ")).await;
    fragments.write(raw::frame(raw::CONTINUE, b"two, ")).await;
    let mut behind = Raw::open(ws).await;
    // The second waits for the first one's handler.
    behind.write([raw::text("wait 0.5"), raw::text("behind it")].concat()).await;
    assert_eq!(behind.text().await, "waiting");
    running.upgrade();
    half.write(&whole[7..]).await;
    assert_eq!(half.text().await, "a message in two halves");
    fragments.write(raw::frame(raw::FIN | raw::CONTINUE, b"three")).await;
    assert_eq!(fragments.text().await, "one, two, three");
    assert_eq!(behind.text().await, "waited nil", "it was let finish");
    assert_eq!(behind.text().await, "behind it");
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_lasts_too_long_ends_with_an_err_and_the_connection_stays() {
    let running = Running::start(SCRIPT, "", "upgradeTimeout: 100ms");
    let mut client = Client::connect(running.process.ws(), "/ws").await;
    assert_eq!(client.ask("wait 3600").await, "waiting");
    running.upgrade();
    let told = client.text().await;
    assert!(told.starts_with("waited a new process takes over"), "{told}");
    assert_eq!(client.ask("still here").await, "still here");
    running.stop();
}

const LINES: &str = "\
function protocol_input(buf) local at = buf:find('\\n') return at or 0 end
function protocol_decode(data) return data:sub(1, -2) end
function protocol_encode(data) return data .. '\\n' end
function on_connect(id, conn) conn:send('welcome\\n') end
function on_message(msg, conn)
  if msg == 'subscribe' then conn:subscribe('lines') end
  conn:send('got ' .. msg .. '\\n')
end
";

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_server_goes_on_within_a_package() {
    let running = Running::start_with(LINES, "", "", "socket");
    let mut raw = Raw::dial(running.process.ws()).await;
    assert_eq!(raw.take(8).await, b"welcome\n");
    raw.write("subscribe\nhalf a ").await;
    assert_eq!(raw.take(14).await, b"got subscribe\n");
    running.upgrade();
    raw.write("package\n").await;
    assert_eq!(raw.take(19).await, b"got half a package\n");
    let reply = post(running.process.api(), "/v1/mesh/publish", r#"{"c":"lines","d":"a line"}"#).await;
    assert_eq!(reply.1, r#"{"E":null,"r":{"s":1,"f":0}}"#);
    assert_eq!(raw.take(7).await, b"a line\n");
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_shared_or_is_due_goes_along() {
    let running = Running::start(SCRIPT, "", "");
    let file = running.dir.path().join("connmix.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let rule = "workers: 2\n  channels: [{match: kept, history: {size: 2}}]";
    std::fs::write(&file, text.replacen("workers: 2", rule, 1)).unwrap();
    running.process.line("reloaded connmix.yaml");
    let api = running.process.api();
    for n in 0..3 {
        let publish = format!(r#"{{"c":"kept","d":"{n}"}}"#);
        assert_eq!(post(api, "/v1/mesh/publish", &publish).await.0, 200);
    }
    let mut client = Client::connect(running.process.ws(), "/ws").await;
    let kept = client.ask("history").await;
    assert!(kept.ends_with(" 1,2"), "{kept}");
    for n in 0..3 {
        assert_eq!(client.ask(&format!("push {n}")).await, (n + 1).to_string());
    }
    client.ask("share something").await;
    client.ask("subscribe timers").await;
    client.ask("timer 1.5").await;
    let publish = json!({"c": "timers", "d": "once", "id": "the id"}).to_string();
    let first = post(api, "/v1/mesh/publish", &publish).await;
    assert_eq!((first.0, client.text().await), (200, "once".into()));
    // A consumer that has one of them, and does not settle it.
    let mut consumer = Raw::dial(api).await;
    consumer.write(raw::upgrade().replace("/ws ", "/ws/v1 ")).await;
    assert_eq!(consumer.head().await.status, 101);
    consumer.write(raw::text(r#"{"m":"queue.pop","p":{"t":["jobs"],"ack":true},"i":1}"#)).await;
    let mut got = vec![consumer.text().await, consumer.text().await, consumer.text().await, consumer.text().await];
    got.retain(|text| text.contains("queue.pop") && text.contains("\"n\""));
    assert!(!got.is_empty(), "{got:?}");
    running.upgrade();
    assert_eq!(consumer.close_frame().await.0, 1012);

    client.send("shared").await;
    let mut both = [client.text().await, client.text().await];
    both.sort();
    assert_eq!(both, ["in time", "something"], "what is shared, and the timer");
    assert_eq!(post(api, "/v1/mesh/publish", &publish).await, first, "it is known, and not delivered again");
    let mut consumer = Raw::dial(api).await;
    consumer.write(raw::upgrade().replace("/ws ", "/ws/v1 ")).await;
    assert_eq!(consumer.head().await.status, 101);
    consumer.write(raw::text(r#"{"m":"queue.pop","p":{"t":["jobs"]},"i":1}"#)).await;
    let mut jobs = Vec::new();
    while jobs.len() < 3 {
        let text = consumer.text().await;
        jobs.extend((0..3).filter(|n| text.contains(&format!("{{\"n\":\"{n}\"}}"))));
    }
    assert_eq!(jobs, [0, 1, 2], "all of them, in their order");
    client.expect_only_reply("last", "last").await;
    assert_eq!(client.ask("history").await, kept, "with the same positions");
    running.stop();
}

/// Publishes numbers without a pause, on one connection, until it is told to stop. Each has to reach so many clients.
fn publisher(
    api: std::net::SocketAddr,
    clients: usize,
    stop: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
) -> std::thread::JoinHandle<()> {
    use std::io::{Read, Write};
    std::thread::spawn(move || {
        let mut socket: Option<std::net::TcpStream> = None;
        let mut n = 0;
        while !stop.load(Relaxed) {
            let body = format!(r#"{{"c":"numbers","d":"{n}"}}"#);
            let length = body.len();
            let request =
                format!("POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
            let to = socket.get_or_insert_with(|| {
                let socket = std::net::TcpStream::connect(api).expect("no connect is refused");
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            });
            to.write_all(request.as_bytes()).expect("the connection stays");
            let (mut reply, mut buffer) = (Vec::new(), [0; 4096]);
            while !reply.ends_with(b"}") {
                let came = to.read(&mut buffer).expect("an answer");
                assert!(came > 0, "a call without an answer: {}", String::from_utf8_lossy(&reply));
                reply.extend_from_slice(&buffer[..came]);
            }
            let reply = String::from_utf8(reply).unwrap();
            assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
            assert!(reply.ends_with(&format!(r#""r":{{"s":{clients},"f":0}}}}"#)), "number {n}: {reply}");
            if reply.contains("connection: close") {
                socket = None;
            }
            n += 1;
            published.store(n, Relaxed);
        }
    })
}

/// With as many clients and upgrades as the environment says: `UPGRADES="2000 20"`.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_out_of_order_through_several_upgrades() {
    let size = std::env::var("UPGRADES").unwrap_or_else(|_| "40 4".into());
    let (clients, upgrades) = size.split_once(' ').unwrap();
    let (many, upgrades): (usize, usize) = (clients.parse().unwrap(), upgrades.parse().unwrap());
    // Many take their time to connect, and the first are not read meanwhile.
    let running = Running::start(SCRIPT, "readTimeout: 0\npingInterval: 0", "");
    let mut clients = Vec::new();
    for _ in 0..many {
        let mut client = Client::connect(running.process.ws(), "/ws").await;
        client.ask("subscribe numbers").await;
        clients.push(client);
    }
    let (stop, published) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let publishing = publisher(running.process.api(), many, stop.clone(), published.clone());
    let reading = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            for n in 0.. {
                match client.text().await.as_str() {
                    "end" => return n,
                    number => assert_eq!(number, n.to_string()),
                }
            }
            unreachable!()
        })
    });
    let reading: Vec<_> = reading.collect();
    for _ in 0..upgrades {
        let before = published.load(Relaxed);
        println!("{} of {before} published", running.upgrade().trim_end());
        eventually("publishing goes on", async || (published.load(Relaxed) > before + 20).then_some(())).await;
    }
    stop.store(true, Relaxed);
    tokio::task::spawn_blocking(move || publishing.join().unwrap()).await.unwrap();
    let all = published.load(Relaxed);
    assert_eq!(post(running.process.api(), "/v1/mesh/publish", r#"{"c":"numbers","d":"end"}"#).await.0, 200);
    for client in reading {
        assert_eq!(client.await.unwrap(), all);
    }
    running.stop();
}

/// The values of a page of metrics, by name and labels.
async fn figures(api: std::net::SocketAddr) -> BTreeMap<String, f64> {
    let (_, page) = get(api, "/metrics").await;
    let value = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    page.lines().filter(|line| !line.starts_with('#')).filter_map(value).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_counters_go_on() {
    let running = Running::start(SCRIPT, "", "");
    let (ws, api) = (running.process.ws(), running.process.api());
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(ws, "/ws").await;
        client.ask("subscribe news").await;
        clients.push(client);
    }
    clients.pop().unwrap().close().await;
    let read = r#"connmix_engine_servers_read_messages_total{protocol="websocket"}"#;
    let closed =
        |reason: &str| format!(r#"connmix_engine_connections_closed_total{{server="{ws}",reason="{reason}"}}"#);
    let opened = format!(r#"connmix_engine_connections_opened_total{{server="{ws}"}}"#);
    for round in 1..=2 {
        let publish = post(api, "/v1/mesh/publish", r#"{"c":"news","d":"hello"}"#).await;
        assert_eq!(publish.1, r#"{"E":null,"r":{"s":2,"f":0}}"#);
        for client in &mut clients {
            assert_eq!(client.text().await, "hello");
        }
        // One that has begun to end, and stays behind.
        let mut raw = Raw::open(ws).await;
        raw.write(raw::frame(raw::FIN | raw::CLOSE, &1000_u16.to_be_bytes())).await;
        let before = figures(api).await;
        running.upgrade();
        let after = figures(api).await;
        let is_counted = |name: &str| ["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.contains(end));
        let fell: Vec<_> = before
            .iter()
            .filter(|(name, _)| is_counted(name))
            .filter(|(name, value)| after.get(*name).is_none_or(|after| after < value))
            .collect();
        assert!(fell.is_empty(), "{fell:?}");
        // Those that came over have not been opened again, and nobody has left twice.
        let of = |name: &str| (before[name], after[name]);
        assert_eq!(of(read), (3.0, 3.0));
        assert_eq!(of(&opened), (3.0 + f64::from(round), 3.0 + f64::from(round)));
        let ended: f64 = ["peer", "shutdown", "lost"].iter().map(|reason| after[&closed(reason)]).sum();
        assert_eq!(after[&opened] - ended, 2.0, "{after:?}");
        assert!(after[r#"connmix_api_calls_total{call="mesh.publish",result="ok"}"#] >= f64::from(round));
        assert_eq!(after["connmix_engine_servers_clients"], 2.0);
    }
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_of_the_rates_is_known() {
    let running = Running::start(SCRIPT, "rate: {messages: 3/h, perAddress: 2/h}", "");
    let (ws, api) = (running.process.ws(), running.process.api());
    let paused = format!(r#"connmix_engine_rate_pauses_total{{server="{ws}",limit="messages"}}"#);
    let mut client = Client::connect(ws, "/ws").await;
    for word in ["one", "two", "three"] {
        assert_eq!(client.ask(word).await, word);
    }
    let pauses = async |many: f64| {
        let told = async || (figures(api).await[&paused] >= many).then_some(());
        eventually("it is not read", told).await;
    };
    pauses(1.0).await;
    running.upgrade();
    // Nothing is left of what it may send, in the new process too.
    pauses(2.0).await;
    drop(Client::connect(ws, "/ws").await);
    let refused = Client::try_connect(ws, "/ws").await.err().expect("its address has used its connects up");
    assert!(refused.to_string().contains("429"), "{refused}");
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build can be told where to crash or wait")]
async fn a_successor_that_crashes_changes_nothing() {
    let running = Running::start(SCRIPT, "", "");
    let mut client = Client::connect(running.process.ws(), "/ws").await;
    client.ask("subscribe news").await;
    client.ask("push 1").await;
    client.ask("share it").await;
    let before = client.ask("state").await;
    let mut half = Raw::open(running.process.ws()).await;
    let whole = raw::text("in two halves");
    half.write(&whole[..5]).await;
    let mut consumer = Raw::dial(running.process.api()).await;
    consumer.write(raw::upgrade().replace("/ws ", "/ws/v1 ")).await;
    assert_eq!(consumer.head().await.status, 101);
    for point in [
        "heard",
        "listeners",
        "started",
        "ready",
        "connections",
        "ids",
        "queue",
        "shared",
        "all",
        "received",
        "arrived",
    ] {
        running.write("crash", point);
        let ended = running.ask(&[]);
        assert_eq!(ended.code, Some(1), "{point}: {ended:?}");
        assert!(ended.err.contains("the successor "), "{point}: {ended:?}");
        assert_eq!(client.ask("state").await, before, "{point}");
        let reply = post(running.process.api(), "/v1/mesh/publish", r#"{"c":"news","d":"x"}"#).await;
        assert_eq!(reply.1, r#"{"E":null,"r":{"s":1,"f":0}}"#, "{point}");
        assert_eq!(client.text().await, "x", "{point}");
        consumer.write(raw::text(r#"{"m":"ping"}"#)).await;
        assert!(!consumer.text().await.is_empty());
        assert_eq!(Client::connect(running.process.ws(), "/ws").await.ask("new").await, "new", "{point}");
    }
    running.write("crash", "");
    running.upgrade();
    assert_eq!(client.ask("state").await, before);
    half.write(&whole[5..]).await;
    assert_eq!(half.text().await, "in two halves");
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_taken_over_is_refused_before_anything_moves() {
    let running = Running::start(SCRIPT, "", "");
    let mut client = Client::connect(running.process.ws(), "/ws").await;
    let dry = running.ask(&["--dry-run"]);
    assert_eq!((dry.code, dry.out.contains("could take over")), (Some(0), true), "{dry:?}");
    let file = running.dir.path().join("connmix.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    let server = "    - port: 0\n      bind: 127.0.0.1\n      protocol: websocket\n      entry: entry.lua\n";
    for (text, part) in [
        (good.replacen("    - port: 0", "    - port: 1", 1), "engine.servers[0].port: 127.0.0.1:0 -> 127.0.0.1:1"),
        (format!("{good}{server}"), "engine.servers[1] is new"),
        (good.replace("workers: 2", "workers: two"), "engine.workers"),
    ] {
        std::fs::write(&file, text).unwrap();
        for args in [&["--dry-run"][..], &[]] {
            let ended = running.ask(args);
            assert_eq!(ended.code, Some(1), "{ended:?}");
            assert!(ended.err.contains(part), "{part}: {ended:?}");
        }
        assert_eq!(client.ask("still").await, "still");
    }
    // Another count of workers is none.
    std::fs::write(&file, good.replace("workers: 2", "workers: 3")).unwrap();
    running.write("entry.lua", "this is no Lua");
    let ended = running.ask(&[]);
    assert!(ended.code == Some(1) && ended.err.contains("entry.lua:1"), "{ended:?}");
    running.write("entry.lua", SCRIPT);
    client.ask("subscribe news").await;
    let before = client.ask("state").await;
    running.upgrade();
    assert_eq!(client.ask("state").await, before);
    running.stop();
    let nobody = run(tempfile::tempdir().unwrap().path(), &["upgrade"]);
    assert!(nobody.code == Some(1) && nobody.err.contains("no process of connmix.yaml"), "{nobody:?}");
}

#[test]
fn systemd_is_told_which_process_is_the_service() {
    let dir = tempfile::tempdir().unwrap();
    let systemd = Systemd::listen(dir.path());
    let running = Running::with(SCRIPT, "", "", "websocket", &[systemd.variable()]);
    assert_eq!(systemd.told(), "READY=1");
    running.upgrade();
    let main = format!("MAINPID={}\nREADY=1", running.successor.get().unwrap());
    assert!([systemd.told(), systemd.told()].contains(&main), "and the successor tells that it is ready");
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_asks_for_it_too() {
    let running = Running::start(SCRIPT, "", "");
    let mut client = Client::connect(running.process.ws(), "/ws").await;
    let before = client.ask("state").await;
    let lines = running.process.lines().len();
    running.process.signal(libc::SIGUSR2);
    let line = running.process.line_after(lines, "upgrade: process ");
    let pid = line.split("process ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    running.successor.set(Some(pid));
    running.process.line_after(lines, "stopped");
    assert_eq!(client.ask("state").await, before);
    running.stop();
}
