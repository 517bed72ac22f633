//! The same with the real program: a process for each node, linked over the network.

use crate::common::cluster::*;
use crate::common::ports::free_port;
use crate::common::process::Process;
use crate::common::*;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A process of a cluster, and the folder with its files.
struct Node {
    process: Process,
    api: SocketAddr,
    /// Where other engines link to it.
    mesh: u16,
    _dir: TempDir,
}

impl Node {
    fn start(role: &str, registry: u16, cluster: &str) -> Node {
        Node::of_centers(role, registry, &[registry], cluster)
    }

    /// The same where several centers are listed.
    fn of_centers(role: &str, registry: u16, centers: &[u16], cluster: &str) -> Node {
        let centers: Vec<String> = centers.iter().map(|port| format!("'127.0.0.1:{port}'")).collect();
        let centers = centers.join(", ");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
        let mesh = free_port();
        let config = format!(
            "logging: {{filename: ''}}\ncluster: {{{cluster}}}\n\
             center:\n  registry: {{port: {registry}, bind: 127.0.0.1}}\n  apiServer: {{port: 0, bind: 127.0.0.1}}\n\
             engine:\n  workers: 2\n  centerRegistry: [{centers}]\n\
             \x20 channels: [{{match: 'counted:', online: {{every: 200ms, message: '@%n'}}}}]\n\
             \x20 meshPoint: {{port: {mesh}, bind: 127.0.0.1}}\n  apiServer: {{port: 0, bind: 127.0.0.1}}\n\
             \x20 servers:\n    - port: 0\n      bind: 127.0.0.1\n      protocol: websocket\n      entry: entry.lua\n\
             \x20     options: [{{name: path, value: /ws}}]\n"
        );
        std::fs::write(dir.path().join("connmix.yaml"), config).unwrap();
        let process = Process::start(dir.path(), &[role]);
        let api = process.api();
        Node { process, api, mesh, _dir: dir }
    }

    fn ws(&self) -> SocketAddr {
        self.process.ws()
    }
}

impl Drop for Node {
    /// What a test that fails needs to tell why.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = std::panic::catch_unwind(|| self.process.lines()).unwrap_or_default();
            println!("-- {} --\n{}", self.api, lines.join("\n"));
        }
    }
}

const CLUSTER: &str = "secret: s3cret, leave: 2s";

/// A center and so many engines that serve.
async fn cluster(engines: usize) -> (Node, Vec<Node>, u16) {
    let registry = free_port();
    let center = Node::start("center", registry, CLUSTER);
    let engines: Vec<Node> = (0..engines).map(|_| Node::start("engine", registry, CLUSTER)).collect();
    settled(&center, &engines).await;
    (center, engines, registry)
}

async fn settled(center: &Node, engines: &[Node]) {
    for engine in engines {
        ready(engine.api).await;
    }
    listed(center.api, &engines.iter().map(|engine| engine.api).collect::<Vec<_>>()).await;
}

/// Every engine's subscribers hear every engine, at once.
async fn is_whole(engines: &[Node], name: &str) {
    if let Err(why) = hear_each_other(engines, name).await {
        panic!("{why}");
    }
}

/// The same, a little later: while a link is made again, its ends may not answer each other in time.
async fn becomes_whole(engines: &[Node], name: &str) {
    let mut round = 0;
    eventually("each engine hears each", async || {
        round += 1;
        hear_each_other(engines, &format!("{name}:{round}")).await.ok()
    })
    .await;
}

async fn hear_each_other(engines: &[Node], name: &str) -> Result<(), String> {
    let mut clients = Vec::new();
    for engine in engines {
        clients.push(Client::connect(engine.ws(), "/ws").await);
    }
    let mut back_ends = Vec::new();
    for engine in engines {
        back_ends.push(back_end(engine.api).await);
    }
    for i in 0..30 {
        let channel = format!("{name}:{i}");
        join_all(clients.iter_mut().map(|client| join(client, &channel))).await;
        for (at, api) in back_ends.iter_mut().enumerate() {
            let data = format!("{i} {at}");
            let reply = call(api, "mesh.publish", json!({"c": channel, "d": data})).await;
            let n = engines.len();
            if reply["r"] != json!({"s": n, "f": 0, "t": n}) {
                return Err(format!("{channel} from {at}: {reply}"));
            }
            for client in &mut clients {
                assert_eq!(client.text().await, data);
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn engines_wait_for_a_center_and_outlive_it() {
    let registry = free_port();
    let engines: Vec<Node> = (0..3).map(|_| Node::start("engine", registry, CLUSTER)).collect();
    assert_eq!(get(engines[0].api, "/readyz").await.0, 503);
    engines[0].process.line("joins its cluster; API on");
    assert_eq!(post(engines[0].api, "/v1/mesh/publish", r#"{"c":"room","d":"x"}"#).await.0, 503);
    let line = engines[0].process.line("no center is found yet");
    assert!(line.contains(&format!("127.0.0.1:{registry}")), "{line}");
    let is_ready = |line: &String| line.contains(" is ready; ") || line.contains("serving clients on");
    assert!(!engines[0].process.lines().iter().any(is_ready));
    let center = Node::start("center", registry, CLUSTER);
    engines[0].process.line(" is ready; ");
    assert_eq!(get(engines[0].api, "/readyz").await.0, 200);
    settled(&center, &engines).await;
    is_whole(&engines, "first").await;
    let (_, page) = get(center.api, "/metrics").await;
    assert!(page.lines().any(|line| line == "connmix_center_registry_engine_nodes 3"), "{page}");

    let mut client = member(engines[0].ws(), "room").await;
    center.process.signal(libc::SIGKILL);
    drop(center);
    becomes_whole(&engines, "alone").await;
    let center = Node::start("center", registry, CLUSTER);
    settled(&center, &engines).await;
    becomes_whole(&engines, "second").await;
    assert_eq!(publish(engines[1].api, "room", "still there").await, reached(1));
    assert_eq!(client.text().await, "still there");
    // They know a newcomer, too, and one that ends as it should.
    let new = Node::start("engine", registry, CLUSTER);
    ready(new.api).await;
    let mut visitor = member(new.ws(), "room").await;
    assert_eq!(publish(engines[2].api, "room", "x").await, reached(2));
    assert_eq!(visitor.text().await, "x");
    new.process.signal(libc::SIGTERM);
    new.process.line("stopped");
    assert_eq!(publish(engines[2].api, "room", "x").await, reached(1));
    settled(&center, &engines).await;
}

/// Whichever of the three tells a channel's number: they differ from channel to channel.
#[tokio::test]
async fn the_number_of_a_channel_is_right_after_an_engine_was_killed() {
    const CHANNELS: usize = 8;
    let (_center, mut engines, _) = cluster(3).await;
    let mut members = Vec::new();
    for i in 0..CHANNELS {
        for (at, engine) in engines.iter().enumerate() {
            members.push((at, i, member(engine.ws(), &format!("counted:{i}")).await));
        }
    }
    for (_, _, member) in &mut members {
        read_to(member, "@3").await;
    }
    let killed = engines.pop().unwrap();
    killed.process.signal(libc::SIGKILL);
    // The number goes from 3 to 2, with nothing in between and nothing after it.
    for (at, i, member) in members.iter_mut().filter(|(at, ..)| *at < 2) {
        assert_eq!(member.text().await, "@2", "client {i} of engine {at}");
    }
    let mut newcomers = Vec::new();
    for i in 0..CHANNELS {
        let body = json!({"c": format!("counted:{i}")}).to_string();
        for engine in &engines {
            assert_eq!(post(engine.api, "/v1/mesh/count", &body).await.1, r#"{"E":null,"r":{"n":2}}"#);
        }
        newcomers.push(member(engines[i % 2].ws(), &format!("counted:{i}")).await);
    }
    for (_, _, member) in members.iter_mut().filter(|(at, ..)| *at < 2) {
        assert_eq!(member.text().await, "@3");
    }
    drop(killed);
}

#[tokio::test]
async fn an_engine_that_is_killed_is_told_and_forgotten_and_disturbs_nobody() {
    let (center, mut engines, registry) = cluster(3).await;
    let mut living = member(engines[0].ws(), "room").await;
    let _dead = member(engines[2].ws(), "room").await;
    let api = engines[1].api;
    assert_eq!(publish(api, "room", "0").await, reached(2));
    let killed = engines.pop().unwrap();
    killed.process.signal(libc::SIGKILL);
    let (mut sent, start) = (vec!["0".to_owned()], Instant::now());
    loop {
        let asked = Instant::now();
        sent.push(sent.len().to_string());
        let reply = publish(api, "room", &sent[sent.len() - 1]).await;
        assert!(asked.elapsed() < ANSWERS_IN, "{:?}", asked.elapsed());
        if reply == reached(1) {
            break;
        }
        // What the killed one was just about to answer may come as its last word.
        let known = [json!({"s": 1, "f": 0, "u": 1}), reached(2)];
        assert!(known.contains(&reply) && start.elapsed() < PATIENCE, "{reply}");
    }
    for text in &sent {
        assert_eq!(living.text().await, *text);
    }
    is_whole(&engines, "without").await;
    settled(&center, &engines).await;
    engines.push(Node::start("engine", registry, CLUSTER));
    settled(&center, &engines).await;
    is_whole(&engines, "with").await;
}

#[tokio::test]
async fn an_engine_that_is_frozen_comes_back_whole() {
    let (center, engines, _) = cluster(3).await;
    let mut frozen = member(engines[2].ws(), "room").await;
    let mut living = member(engines[0].ws(), "room").await;
    let api = engines[1].api;
    // Shorter than `leave`, and longer.
    for (round, long) in [(1, false), (2, true)] {
        assert_eq!(publish(api, "room", "before").await, reached(2));
        engines[2].process.signal(libc::SIGSTOP);
        let (start, mut forgotten) = (Instant::now(), false);
        while start.elapsed() < Duration::from_millis(1200) || (long && !forgotten) {
            let asked = Instant::now();
            let reply = publish(api, "room", "during").await;
            assert!(asked.elapsed() < ANSWERS_IN, "{:?}", asked.elapsed());
            assert!(start.elapsed() < PATIENCE, "{reply}");
            forgotten = reply == reached(1);
            assert!(forgotten || reply == json!({"s": 1, "f": 0, "u": 1}), "{reply}");
            // Subscribing does not wait for it for long, either.
            let asked = Instant::now();
            join(&mut living, &format!("during:{round}")).await;
            assert!(asked.elapsed() < ANSWERS_IN, "{:?}", asked.elapsed());
        }
        engines[2].process.signal(libc::SIGCONT);
        publish_until(api, "room", "after", reached(2)).await;
        publish_until(engines[2].api, &format!("during:{round}"), "after", reached(1)).await;
        read_to(&mut frozen, "after").await;
        settled(&center, &engines).await;
        becomes_whole(&engines, &format!("round{round}")).await;
    }
}

#[tokio::test]
async fn a_node_with_another_secret_is_kept_out_with_words() {
    let (center, engines, registry) = cluster(1).await;
    let strangers = [("secret: another, leave: 2s", "is another one"), ("leave: 2s", "it has no cluster.secret")];
    for (settings, why) in strangers {
        let stranger = Node::start("engine", registry, settings);
        stranger.process.line("no center is found yet");
        assert_eq!(get(stranger.api, "/readyz").await.0, 503);
        // The center says who was refused, and why. It does not say what the stranger showed.
        let line = center.process.line(why);
        assert!(line.contains("a link is refused") && line.contains("from=127.0.0.1:"), "{line}");
    }
    let mut nonsense = TcpStream::connect(("127.0.0.1", engines[0].mesh)).unwrap();
    nonsense.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    drop(nonsense);
    engines[0].process.line("it is no node of a cluster");
    // A line for each reason, though each tried several times.
    let refused = |line: &&String| line.contains("a link is refused");
    assert_eq!(center.process.lines().iter().filter(refused).count(), 2);
    let page = get(engines[0].api, "/metrics").await.1;
    assert!(page.lines().any(|line| line == "connmix_engine_mesh_refused_total 1"), "{page}");
    settled(&center, &engines).await;
    is_whole(&engines, "one").await;
}

/// A certificate that its holders trust, in files, and the settings of a node that has it.
fn certificate(dir: &TempDir, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["node".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join(format!("{name}.pem")), dir.path().join(format!("{name}.key")));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (cert.display(), key.display());
    format!("{CLUSTER}, tls: {{cert: '{cert}', key: '{key}', ca: '{cert}'}}")
}

#[tokio::test]
async fn enciphered_links_are_for_nodes_with_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, another) = (certificate(&dir, "ours"), certificate(&dir, "another"));
    let registry = free_port();
    let center = Node::start("center", registry, &ours);
    let engines: Vec<Node> = (0..2).map(|_| Node::start("engine", registry, &ours)).collect();
    settled(&center, &engines).await;
    becomes_whole(&engines, "enciphered").await;
    for (stranger, why) in
        [(another.as_str(), "it does not accept this node's certificate"), (CLUSTER, "it speaks no TLS")]
    {
        let stranger = Node::start("engine", registry, stranger);
        stranger.process.line("no center is found yet");
        assert_eq!(get(stranger.api, "/readyz").await.0, 503);
        center.process.line(why);
    }
    settled(&center, &engines).await;
    is_whole(&engines, "still").await;
}

/// Both centers have the same list, themselves included; each engine knows one of them.
#[tokio::test]
async fn engines_of_two_centers_find_each_other_and_both_centers_know_all() {
    let registries = [free_port(), free_port()];
    let centers = registries.map(|registry| Node::of_centers("center", registry, &registries, CLUSTER));
    let engines: Vec<Node> = registries.iter().map(|registry| Node::start("engine", *registry, CLUSTER)).collect();
    for center in &centers {
        settled(center, &engines).await;
    }
    // Each may serve before the centers have heard of each other.
    becomes_whole(&engines, "two").await;
    let [first, second] = centers;
    first.process.signal(libc::SIGKILL);
    drop(first);
    becomes_whole(&engines, "one").await;
    // Both engines are still linked to the other center.
    settled(&second, &engines).await;
}

/// As a client library of back ends does it, over the network.
#[tokio::test]
async fn a_back_end_finds_the_engines_by_the_center() {
    let (center, engines, _) = cluster(2).await;
    let mut clients = Vec::new();
    for engine in &engines {
        let mut client = Client::connect(engine.ws(), "/ws").await;
        let id = id(&mut client).await;
        assert_eq!(client.ask("push login me").await, "pushed");
        clients.push((client, id));
    }
    let nodes = nodes(center.api).await;
    assert_eq!(nodes.len(), 2);
    let mut consumers = Vec::new();
    for node in &nodes {
        let mut api = back_end(node["api_server"].as_str().unwrap().parse().unwrap()).await;
        let reply = call(&mut api, "queue.pop", json!({"t": ["login"]})).await;
        assert_eq!(reply["r"], json!({"s": true}));
        let event: Value = serde_json::from_str(&api.text().await).unwrap();
        assert_eq!(event["p"]["n"], node["id"]);
        consumers.push((api, event["p"]["c"].as_str().unwrap().to_owned()));
    }
    for (client, id) in &mut clients {
        let (own, _) = consumers.iter().position(|(_, c)| c == id).map(|at| (at, ())).unwrap();
        let (api, _) = &mut consumers[1 - own];
        let reply = call(api, "conn.call", json!({"c": id, "f": "set_context_value", "a": ["user", 7]})).await;
        assert_eq!(reply["r"], json!({"s": true}), "{reply}");
        assert_eq!(client.ask("context user").await, "7");
    }
    drop(engines);
}

/// Each hears of the other by the center, at the same moment.
#[tokio::test]
async fn engines_that_start_together_find_each_other() {
    for _ in 0..4 {
        let (_center, engines, _) = cluster(2).await;
        for (engine, other) in [(0, 1), (1, 0)] {
            engines[engine].process.line(&format!("joined the mesh node={}", engines[other].api));
        }
    }
}

/// The center stays linked to both.
#[tokio::test]
async fn a_link_between_two_engines_that_breaks_is_made_again() {
    let (_center, engines, _) = cluster(2).await;
    is_whole(&engines, "before").await;
    for engine in &engines {
        let mut kill = std::process::Command::new("ss");
        let out = kill.args(["-K", "dst", "127.0.0.1", "dport", "=", &engine.mesh.to_string()]).output().unwrap();
        println!("{}", String::from_utf8_lossy(&out.stdout));
    }
    let mut member = member(engines[1].ws(), "room").await;
    publish_until(engines[0].api, "room", "x", reached(1)).await;
    read_to(&mut member, "x").await;
    becomes_whole(&engines, "after").await;
}

/// Passes connections on to another port, once it is open; before, it closes them.
struct Relay {
    port: u16,
    open: Arc<AtomicBool>,
    /// Connections that it closed, and that it passed on.
    refused: Arc<AtomicUsize>,
    passed: Arc<AtomicUsize>,
}

impl Relay {
    /// `to` is known later.
    fn new() -> (Relay, impl FnOnce(u16)) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, refused, passed) = Default::default();
        let relay = Relay { port, open, refused, passed };
        let (open, refused, passed) = (relay.open.clone(), relay.refused.clone(), relay.passed.clone());
        let copy = |mut from: TcpStream, mut to: TcpStream| {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(std::net::Shutdown::Write);
            });
        };
        let serve = move |to: u16| {
            std::thread::spawn(move || {
                for from in listener.incoming().flatten() {
                    if !open.load(SeqCst) {
                        refused.fetch_add(1, SeqCst);
                        continue;
                    }
                    let Ok(to) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                    passed.fetch_add(1, SeqCst);
                    copy(from.try_clone().unwrap(), to.try_clone().unwrap());
                    copy(to, from);
                }
            });
        };
        (relay, serve)
    }
}

/// As behind a port mapping: engines listen on one port and are reached at another one. The first attempts fail.
#[tokio::test]
async fn an_engine_is_dialled_where_it_is_advertised_until_that_works() {
    let registry = free_port();
    let center = Node::start("center", registry, CLUSTER);
    let mut relays = Vec::new();
    let mut engines = Vec::new();
    for _ in 0..2 {
        let (relay, serve) = Relay::new();
        let advertise = format!("{CLUSTER}, advertise: {{mesh: '127.0.0.1:{}'}}", relay.port);
        let engine = Node::start("engine", registry, &advertise);
        serve(engine.mesh);
        relays.push(relay);
        engines.push(engine);
    }
    let sum = |of: fn(&Relay) -> &AtomicUsize| relays.iter().map(|relay| of(relay).load(SeqCst)).sum::<usize>();
    eventually("one of them is dialled", async || (sum(|relay| &relay.refused) > 1).then_some(())).await;
    relays.iter().for_each(|relay| relay.open.store(true, SeqCst));
    settled(&center, &engines).await;
    becomes_whole(&engines, "mapped").await;
    assert!(sum(|relay| &relay.passed) > 0);
}
