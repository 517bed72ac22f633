//! An upgrade in place of the nodes of a cluster: a new process takes over, and neither clients nor the other nodes notice. The
//! real program, a process for each node, linked over the network.
#![cfg(feature = "cluster")]

mod common;

use common::cluster::*;
use common::ports::free_port;
use common::process::{Ended, Process, run};
use common::systemd::Systemd;
use common::*;
use serde_json::{Value, json};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A process of a cluster, or its last successor, and the folder with its files.
struct Node {
    dir: TempDir,
    process: Process,
    successor: Cell<Option<u32>>,
    api: SocketAddr,
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = std::panic::catch_unwind(|| self.process.lines()).unwrap_or_default();
            println!("-- {} --\n{}", self.api, lines.join("\n"));
        }
        if let Some(pid) = self.successor.take() {
            kill(pid, libc::SIGKILL);
        }
    }
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: it takes two numbers.
    unsafe { libc::kill(pid as i32, signal) };
}

fn is_there(pid: u32) -> bool {
    // Other threads may end after the first.
    if std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() > 1) {
        return true;
    }
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

impl Node {
    fn start(role: &str, registry: u16) -> Node {
        Node::start_with(role, registry, "", &[])
    }

    /// The same with this under `cluster:`, and these variables in its environment.
    fn start_with(role: &str, registry: u16, cluster: &str, env: &[(&str, &Path)]) -> Node {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
        let config = format!(
            "logging: {{filename: ''}}\ncluster: {{secret: s3cret, leave: 2s{cluster}}}\n\
             center:\n  registry: {{port: {registry}, bind: 127.0.0.1}}\n  apiServer: {{port: 0, bind: 127.0.0.1}}\n\
             engine:\n  workers: 2\n  centerRegistry: '127.0.0.1:{registry}'\n\
             \x20 channels: [{{match: 'kept', history: {{size: 1000}}, envelope: json}}]\n\
             \x20 meshPoint: {{port: {mesh}, bind: 127.0.0.1}}\n  apiServer: {{port: 0, bind: 127.0.0.1}}\n\
             \x20 servers:\n    - port: 0\n      bind: 127.0.0.1\n      protocol: websocket\n      entry: entry.lua\n\
             \x20     options: [{{name: path, value: /ws}}]\n",
            mesh = free_port(),
        );
        std::fs::write(dir.path().join("connmix.yaml"), config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_connmix"));
        command.arg(role).current_dir(dir.path()).stdin(Stdio::null());
        command.env("CONNMIX_CRASH_AT", dir.path().join("crash")).envs(env.iter().copied());
        let process = Process::of(command);
        let api = process.api();
        Node { dir, process, successor: Cell::new(None), api }
    }

    fn ws(&self) -> SocketAddr {
        self.process.ws()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn ask(&self, args: &[&str]) -> Ended {
        run(self.dir.path(), &[&["upgrade"], args].concat())
    }

    /// The process that serves.
    fn pid(&self) -> u32 {
        self.successor.get().unwrap_or(self.process.pid())
    }

    /// The command has said so.
    fn succeeded(&self, ended: &Ended) {
        assert_eq!(ended.code, Some(0), "{ended:?}\n{}", self.process.lines().join("\n"));
        let pid = ended.out.split("process ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        self.successor.set(Some(pid.unwrap_or_else(|| panic!("{ended:?}"))));
    }

    /// Upgrades; gives what the command said.
    fn upgrade(&self) -> String {
        let before = self.pid();
        let ended = self.ask(&[]);
        self.succeeded(&ended);
        let began = Instant::now();
        while is_there(before) {
            assert!(began.elapsed() < PATIENCE, "the process before does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        ended.out
    }
}

/// A center and so many engines that serve.
async fn cluster(engines: usize) -> (Node, Vec<Node>) {
    cluster_with(engines, "").await
}

/// The same with this under `cluster:`.
async fn cluster_with(engines: usize, cluster: &str) -> (Node, Vec<Node>) {
    let registry = free_port();
    let start = |role| Node::start_with(role, registry, cluster, &[]);
    let center = start("center");
    let engines: Vec<Node> = (0..engines).map(|_| start("engine")).collect();
    for engine in &engines {
        ready(engine.api).await;
    }
    listed(center.api, &engines.iter().map(|engine| engine.api).collect::<Vec<_>>()).await;
    (center, engines)
}

/// Something that never pauses, until it is told to stop. It gives how many numbers it has published.
struct Publisher {
    stop: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Publisher {
    /// Publishes `NAME 0`, `NAME 1`, ... on one connection; each has to reach so many clients.
    fn http(
        api: SocketAddr,
        path: &'static str,
        (channel, name): (&'static str, &'static str),
        clients: usize,
    ) -> Publisher {
        let (stop, published) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (stop.clone(), published.clone());
        let thread = std::thread::spawn(move || {
            let mut socket: Option<TcpStream> = None;
            while !told.load(Relaxed) {
                let n = count.load(Relaxed);
                let body = format!(r#"{{"c":"{channel}","d":"{name} {n}"}}"#);
                let length = body.len();
                let close = if path == CONSOLE { "Connection: close\r\n" } else { "" };
                let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{close}");
                let to = socket.get_or_insert_with(|| {
                    let socket = TcpStream::connect(api).expect("no connect is refused");
                    socket.set_read_timeout(Some(PATIENCE)).unwrap();
                    socket
                });
                to.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).expect("it stays");
                let (mut reply, mut buffer) = (Vec::new(), [0; 4096]);
                while !reply.ends_with(b"}") {
                    let came = to.read(&mut buffer).expect("an answer");
                    assert!(came > 0, "{name} {n} without an answer: {}", String::from_utf8_lossy(&reply));
                    reply.extend_from_slice(&buffer[..came]);
                }
                let reply = String::from_utf8(reply).unwrap();
                if path == CONSOLE && reply.starts_with("HTTP/1.1 503") {
                    // It came as all held still: nothing has been done.
                    socket = None;
                    continue;
                }
                assert!(reply.starts_with("HTTP/1.1 200"), "{name} {n}: {reply}");
                let body: Value = serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap()).unwrap();
                let counts = (&body["r"]["s"], &body["r"]["f"], &body["r"]["u"]);
                assert_eq!(counts, (&json!(clients), &json!(0), &Value::Null), "{name} {n}");
                if reply.contains("connection: close") || path == CONSOLE {
                    socket = None;
                }
                count.store(n + 1, Relaxed);
            }
        });
        Publisher { stop, published, thread }
    }

    async fn goes_on(&self) {
        let before = self.published.load(Relaxed);
        eventually("publishing goes on", async || (self.published.load(Relaxed) > before + 10).then_some(())).await;
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Relaxed);
        tokio::task::spawn_blocking(move || self.thread.join().unwrap()).await.unwrap();
        self.published.load(Relaxed)
    }
}

/// Reads until `end` has come; gives how many numbers each publisher was heard with, each in its order.
async fn numbers(mut client: Client, names: &[&str], enveloped: bool) -> (Client, Vec<u64>) {
    let mut next = vec![0; names.len()];
    loop {
        let mut text = client.text().await;
        if enveloped {
            let envelope: Value = serde_json::from_str(&text).unwrap();
            assert!(!envelope["d"].is_null(), "nothing is missing: {text}");
            text = envelope["d"].as_str().unwrap().to_owned();
        }
        let Some((name, number)) = text.split_once(' ') else {
            assert_eq!(text, "end");
            return (client, next);
        };
        let next = &mut next[names.iter().position(|known| *known == name).unwrap()];
        assert_eq!(number, next.to_string(), "of {name}");
        *next += 1;
    }
}

/// As often as `UPGRADES` says, each node.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_flow_in_all_directions_while_each_node_is_replaced() {
    const EACH: usize = 3;
    let rounds: usize = std::env::var("UPGRADES").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let (center, engines) = cluster(2).await;
    let (mut plain, mut kept) = (Vec::new(), Vec::new());
    for engine in &engines {
        for _ in 0..EACH {
            plain.push(member(engine.ws(), "plain").await);
            kept.push(member(engine.ws(), "kept").await);
        }
    }
    let names = ["a", "b", "c"];
    let at = [(engines[0].api, "/v1/mesh/publish"), (engines[1].api, "/v1/mesh/publish"), (center.api, CONSOLE)];
    let publish = |channel| {
        let one = |(name, (api, path))| Publisher::http(api, path, (channel, name), 2 * EACH);
        names.into_iter().zip(at).map(one).collect::<Vec<_>>()
    };
    let publishers: Vec<Publisher> = publish("plain").into_iter().chain(publish("kept")).collect();
    let read = |clients: Vec<Client>, enveloped| {
        let one = |client| tokio::spawn(async move { numbers(client, &names, enveloped).await });
        clients.into_iter().map(one).collect::<Vec<_>>()
    };
    let (plain, kept) = (read(plain, false), read(kept, true));
    let mut lua = engines[0].process_client().await;
    for round in 0..rounds {
        for node in [&engines[0], &center, &engines[1]] {
            println!("{round}: {}", node.upgrade().trim_end());
            for publisher in &publishers {
                publisher.goes_on().await;
            }
            // From a script, beside all of that.
            assert_eq!(lua.ask("publish nobody x").await, "published 0 0");
            assert_eq!(nodes(center.api).await.len(), 2);
        }
    }
    let mut published = Vec::new();
    for publisher in publishers {
        published.push(publisher.stop().await);
    }
    assert_eq!(publish_on(engines[0].api, "plain", "end").await, reached(2 * EACH));
    assert_eq!(publish_on(engines[1].api, "kept", "end").await, reached(2 * EACH));
    let mut stay = Vec::new();
    for (tasks, want) in [(plain, &published[..3]), (kept, &published[3..])] {
        for task in tasks {
            let (client, came) = task.await.unwrap();
            assert_eq!(came, want);
            stay.push(client);
        }
    }
    // Who leaves is not counted, whichever process has seen it come.
    for client in stay.drain(..EACH) {
        client.close().await;
    }
    publish_until(engines[1].api, "plain", "x", reached(EACH)).await;
}

/// The console's publish, on the center.
const CONSOLE: &str = "/console/v1/mesh/publish";

async fn publish_on(api: SocketAddr, channel: &str, data: &str) -> Value {
    let mut reply = publish(api, channel, data).await;
    reply.as_object_mut().unwrap().retain(|key, _| ["s", "f", "u"].contains(&key.as_str()));
    reply
}

impl Node {
    async fn process_client(&self) -> Client {
        Client::connect(self.ws(), "/ws").await
    }
}

/// Comes into a channel behind a position; gives the texts that came first, the position, and whether all did.
async fn since(client: &mut Client, position: &str) -> (Vec<String>, String, bool) {
    client.send(&format!("since kept {position}")).await;
    let mut first = Vec::new();
    loop {
        let text = client.text().await;
        let Some(at) = text.strip_prefix("at ") else {
            let envelope: Value = serde_json::from_str(&text).unwrap();
            first.push(envelope["d"].as_str().unwrap().to_owned());
            continue;
        };
        let words: Vec<&str> = at.split(' ').collect();
        return (first, words[0].to_owned(), words[1] == "true");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_ids_and_positions_hold_across_upgrades_of_all_nodes() {
    let (center, engines) = cluster(2).await;
    let [a, b] = &engines[..] else { unreachable!() };
    let mut client = a.process_client().await;
    let client_id = id(&mut client).await;
    let mut other = b.process_client().await;
    let mut late = b.process_client().await;
    let (_, mut position, _) = since(&mut late, "").await;
    let command = json!({"c": client_id, "f": "subscribe", "a": ["from-b"]});
    let once = json!({"c": "from-b", "d": "once", "id": "the id"}).to_string();
    for (n, node) in [&center, a, b, a, b, &center].into_iter().enumerate() {
        node.upgrade();
        assert_eq!(other.ask(&format!("send {client_id} hello {n}")).await, "sent");
        assert_eq!(client.text().await, format!("hello {n}"));
        let mut api = back_end(b.api).await;
        let reply = call(&mut api, "conn.call", command.clone()).await;
        assert_eq!(reply["E"], Value::Null, "{reply}");
        assert_eq!(publish_on(b.api, "from-b", &n.to_string()).await, reached(1));
        assert_eq!(client.text().await, n.to_string());
        // Known on all nodes, wherever it was done.
        let api = if n % 2 == 0 { a.api } else { b.api };
        assert!(post(api, "/v1/mesh/publish", &once).await.1.contains(r#""s":1,"f":0"#));
        if n == 0 {
            assert_eq!(client.text().await, "once");
        }
        // Whoever leads the channel, and keeps a copy of it.
        leave(&mut late, "kept").await;
        for node in &engines {
            let text = format!("{n} {}", node.api);
            assert_eq!(publish(node.api, "kept", &text).await["u"], Value::Null);
        }
        let (came, at, recovered) = since(&mut late, &position).await;
        let want: Vec<String> = engines.iter().map(|node| format!("{n} {}", node.api)).collect();
        assert_eq!((came, recovered), (want, true), "after upgrade {n}");
        position = at;
    }
    // Done once, and by the process that serves now.
    let kick = json!({"c": client_id, "f": "close", "a": [4000, "kicked"]});
    let mut api = back_end(b.api).await;
    let reply = call(&mut api, "conn.call", kick).await;
    assert_eq!(reply["E"], Value::Null, "{reply}");
    assert_eq!(client.close_frame().await, (4000, "kicked".to_owned()));
    publish_until(b.api, "from-b", "x", reached(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build can be told where to crash or wait")]
async fn a_successor_that_crashes_changes_nothing_for_the_cluster() {
    let (center, engines) = cluster(2).await;
    let [a, b] = &engines[..] else { unreachable!() };
    let mut client = member(a.ws(), "news").await;
    let listed_as = nodes(center.api).await;
    for node in [a, &center] {
        for point in ["heard", "listeners", "started", "ready", "reached", "ids", "mesh", "all", "received", "arrived"]
        {
            node.write("crash", point);
            let ended = node.ask(&[]);
            assert_eq!(ended.code, Some(1), "{point}: {ended:?}");
            assert!(ended.err.contains("the successor "), "{point}: {ended:?}");
            assert_eq!(publish_on(b.api, "news", point).await, reached(1), "{point}");
            assert_eq!(client.text().await, point);
            assert_eq!(client.ask(&format!("publish news {point}")).await, point);
            assert_eq!(client.text().await, "published 1 0");
            let same = |nodes: &[Value]| nodes.iter().map(|node| node["id"].clone()).collect::<Vec<_>>();
            assert_eq!(same(&nodes(center.api).await), same(&listed_as), "{point}");
        }
        node.write("crash", "");
        node.upgrade();
    }
    assert_eq!(publish_on(b.api, "news", "end").await, reached(1));
    assert_eq!(client.text().await, "end");
    for line in b.process.lines() {
        assert!(!line.contains("does not answer") && !line.contains("is gone"), "{line}");
    }
}

/// A successor proves itself as any node does.
#[tokio::test(flavor = "multi_thread")]
async fn links_with_certificates_go_along() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), common::tls::Authority::new());
    authority.issue(dir.path(), "node", &["localhost"]);
    authority.write(&dir.path().join("ca.pem"));
    let file = |name: &str| dir.path().join(name).display().to_string();
    let tls = format!(", tls: {{cert: '{}', key: '{}', ca: '{}'}}", file("node.pem"), file("node.key"), file("ca.pem"));
    let (center, engines) = cluster_with(2, &tls).await;
    let [a, b] = &engines[..] else { unreachable!() };
    let mut client = member(a.ws(), "news").await;
    for (n, node) in [a, &center, b, a].into_iter().enumerate() {
        node.upgrade();
        let text = n.to_string();
        assert_eq!(publish_on(b.api, "news", &text).await, reached(1));
        assert_eq!(client.text().await, text);
        assert_eq!(client.ask("publish nobody x").await, "published 0 0");
    }
}

/// Its center comes late: that is no failure.
#[test]
fn systemd_waits_for_an_engine_that_waits_for_its_center() {
    let dir = tempfile::tempdir().unwrap();
    let systemd = Systemd::listen(dir.path());
    let registry = free_port();
    let engine = Node::start_with("engine", registry, "", &[systemd.variable()]);
    assert_eq!(systemd.told(), "EXTEND_TIMEOUT_USEC=30000000");
    let center = Node::start("center", registry);
    engine.process.line(" is ready; ");
    assert_eq!(systemd.told(), "READY=1");
    drop(center);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cluster_can_not_keep_is_told_before_anything_moves() {
    let (center, engines) = cluster(1).await;
    let engine = &engines[0];
    let dry = engine.ask(&["--dry-run"]);
    assert!(dry.code == Some(0) && dry.out.contains("links to 1 other nodes"), "{dry:?}");
    let file = engine.dir.path().join("connmix.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    let mesh = good.split("meshPoint: {port: ").nth(1).unwrap().split(',').next().unwrap();
    for (from, to, part) in [
        ("secret: s3cret", "secret: another", "cluster.secret is another one"),
        (&*format!("port: {mesh}"), "port: 1", "engine.meshPoint.port: 127.0.0.1:"),
        ("leave: 2s", "leave: 2s, advertise: {mesh: 'x:1'}", "cluster.advertise.mesh: unset -> x:1"),
    ] {
        std::fs::write(&file, good.replacen(from, to, 1)).unwrap();
        for args in [&["--dry-run"][..], &[]] {
            let ended = engine.ask(args);
            assert!(ended.code == Some(1) && ended.err.contains(part), "{part}: {ended:?}");
        }
    }
    // These may change.
    std::fs::write(&file, good.replacen("leave: 2s", "leave: 4s, replyTimeout: 1s", 1)).unwrap();
    engine.upgrade();
    assert_eq!(nodes(center.api).await.len(), 1);
}

/// Upgrades a node whose successor waits at that point, as soon as it has come so far.
async fn upgrading(node: &Node, point: &str) -> std::thread::JoinHandle<Ended> {
    node.write("crash", &format!("wait {point}"));
    let dir = node.dir.path().to_owned();
    let asking = std::thread::spawn(move || run(&dir, &["upgrade"]));
    eventually("it waits", async || node.dir.path().join("crash.waits").exists().then_some(())).await;
    asking
}

/// The others go on without it, and take it in again.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build can be told where to crash or wait")]
async fn a_node_that_takes_too_long_to_hand_over_is_taken_in_again() {
    let (center, engines) = cluster(2).await;
    let [a, b] = &engines[..] else { unreachable!() };
    let mut client = member(a.ws(), "news").await;
    let asking = upgrading(a, "connections").await;
    listed(center.api, &[b.api]).await;
    // What was for it until it was gone may still come to it.
    publish_until(b.api, "news", "nobody", reached(0)).await;
    a.write("crash", "");
    a.succeeded(&asking.join().unwrap());
    listed(center.api, &[a.api, b.api]).await;
    publish_until(b.api, "news", "again", reached(1)).await;
    read_to(&mut client, "again").await;
    client.send("publish elsewhere x").await;
    read_to(&mut client, "published 0 0").await;
}

/// The process before is killed while all is on its way: the successor ends, and the node is gone as any that is killed.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build can be told where to crash or wait")]
async fn a_node_that_dies_as_it_hands_over_is_gone() {
    let (center, engines) = cluster(2).await;
    let [a, b] = &engines[..] else { unreachable!() };
    let mut client = member(a.ws(), "news").await;
    let asking = upgrading(a, "connections").await;
    a.process.signal(libc::SIGKILL);
    // Not before its sockets are closed: with everything that it has sent, a successor could serve.
    eventually("it has ended", async || (!is_there(a.process.pid())).then_some(())).await;
    a.write("crash", "");
    assert_ne!(asking.join().unwrap().code, Some(0));
    assert!(client.next().await.is_err(), "its socket has ended");
    listed(center.api, &[b.api]).await;
    publish_until(b.api, "news", "x", reached(0)).await;
}

/// What a client gets until `end` comes; enveloped, without what tells it of a gap.
async fn texts(mut client: Client, enveloped: bool) -> Vec<String> {
    let mut texts = Vec::new();
    loop {
        let mut text = client.text().await;
        if enveloped {
            let envelope: Value = serde_json::from_str(&text).unwrap();
            let Some(data) = envelope["d"].as_str() else { continue };
            text = data.to_owned();
        }
        if text == "end" {
            return texts;
        }
        texts.push(text);
    }
}

/// The numbers behind that name.
fn numbers_of(name: &str, texts: &[String]) -> Vec<u64> {
    texts.iter().filter_map(|text| text.strip_prefix(name)?.trim().parse().ok()).collect()
}

/// The process before stands still in the middle of it, for longer than others wait for a node. They go on without it, and begin anew when it
/// is back; and of one of them nothing is heard any more when it hands over. Meanwhile something is published all the time.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build can be told where to crash or wait")]
async fn nothing_comes_twice_though_the_process_before_stands_still_for_a_while() {
    let (center, engines) = cluster(3).await;
    let [a, b, c] = &engines[..] else { unreachable!() };
    let all = [a.api, b.api, c.api];
    let mut clients = Vec::new();
    for (node, channel) in [(a, "plain"), (a, "kept"), (c, "kept")] {
        clients.push(tokio::spawn(texts(member(node.ws(), channel).await, channel == "kept")));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (told, api) = (stop.clone(), c.api);
    let publisher = tokio::spawn(async move {
        for n in 0.. {
            if told.load(Relaxed) {
                return n;
            }
            publish(api, "kept", &format!("c {n}")).await;
        }
        unreachable!()
    });
    let asking = upgrading(a, "reached").await;
    a.process.signal(libc::SIGSTOP);
    listed(center.api, &[b.api, c.api]).await;
    a.process.signal(libc::SIGCONT);
    listed(center.api, &all).await;
    publish_until(b.api, "plain", "back", reached(1)).await;
    for n in 0..20 {
        assert_eq!(publish_on(b.api, "plain", &format!("b {n}")).await, reached(1));
        publish(b.api, "kept", &format!("b {n}")).await;
    }
    let before = a.process.lines().len();
    b.process.signal(libc::SIGSTOP);
    let name = b.api.to_string();
    let is_told = |line: &String| line.contains("a node is gone") && line.contains(&name);
    let gone = || a.process.lines().iter().skip(before).any(is_told).then_some(());
    eventually("it hears nothing of the other one", async || gone()).await;
    a.write("crash", "");
    a.succeeded(&asking.join().unwrap());
    b.process.signal(libc::SIGCONT);
    listed(center.api, &all).await;
    publish_until(b.api, "plain", "again", reached(1)).await;
    stop.store(true, Relaxed);
    let published = publisher.await.unwrap();
    publish_until(b.api, "plain", "end", reached(1)).await;
    // No publish may count both: while a node finds the others again, its client can get one out of the log.
    let ended = async || {
        publish(c.api, "kept", "end").await;
        clients.iter().all(|client| client.is_finished()).then_some(())
    };
    eventually("the end comes to all", ended).await;
    let mut came = Vec::new();
    for client in clients {
        came.push(client.await.unwrap());
    }
    assert_eq!(numbers_of("b ", &came[0]), (0..20).collect::<Vec<_>>());
    for texts in &came[1..] {
        for name in ["b ", "c "] {
            let numbers = numbers_of(name, texts);
            assert!(numbers.is_sorted_by(|one, next| one < next), "{name}: {numbers:?}");
        }
    }
    println!("{published} published, {} came to the node, {} to another", came[1].len(), came[2].len());
}
