//! Memory that clients can make the process hold, its own and the system's: it is bounded, and the largest holders are
//! closed first.

mod common;

use common::process::Process;
use common::raw::{CLOSE, CONTINUE, FIN, PONG, Raw, TEXT, frame, text};
use common::{PATIENCE, TestEngine, eventually, get, post, write_config};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use connmix::config::load;
use connmix::hub::Hub;
use connmix::ids::{NodeNumber, WorkerId};
use connmix::message::Channel;
use connmix::shard::framing::Framing;
use connmix::shard::server_context::ServerContext;
use connmix::shard::{Arrival, Shard};

const SCRIPT: &str = r#"
    function on_message(msg, conn)
      local count = tonumber(msg.data)
      if count then
        local names = {}
        for i = 1, count do names[i] = conn:client_id() .. ":" .. i end
        for i = 1, count, 1000 do
          local err = conn:subscribe(unpack(names, i, math.min(i + 999, count)))
          if err then conn:send(err) return end
        end
        conn:send("subscribed")
      elseif msg.data == "join" then
        conn:subscribe("all")
        conn:send("joined")
      else
        conn:send(#msg.data .. " bytes")
      end
    end
"#;

/// Of a socket server: lines, which come back.
const RAW: &str = r#"
    function protocol_input(buf) return buf:find("\n") or 0 end
    function protocol_decode(line) return line end
    function protocol_encode(data) return data end
    function on_message(msg, conn)
      if msg == "sleep\n" then mix.sleep(0.8) end
      conn:send(msg)
    end
"#;

const MIB: usize = 1 << 20;

/// A message of a MiB that lacks its last bytes.
fn unfinished() -> Vec<u8> {
    let mut message = frame(FIN | TEXT, &vec![b'x'; MIB]);
    message.truncate(MIB - 100);
    message
}

/// The real program with that high mark. As a process of its own it has its own memory.
fn process(high: &str) -> (tempfile::TempDir, Process) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", &format!("workers: 2\nmemory: {{high: {high}}}"), "");
    let process = Process::ready(dir.path(), &["single", "-f", "connmix.yaml"]);
    (dir, process)
}

/// Changes its high mark.
fn set_high(dir: &tempfile::TempDir, high: &str) {
    let file = dir.path().join("connmix.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let at = text.find("high: ").unwrap() + 6;
    let end = at + text[at..].find('}').unwrap();
    fs::write(&file, format!("{}{high}{}", &text[..at], &text[end..])).unwrap();
}

#[tokio::test]
async fn what_clients_leave_unfinished_is_bounded_and_the_largest_of_them_go_first() {
    // A quarter of it is 24 MiB.
    let (_dir, process) = process("96MiB");
    let mut small = Raw::open(process.ws()).await;
    let message = frame(FIN | TEXT, &[b'x'; 5000]);
    small.write(&message[..4000]).await;
    let mut large = Vec::new();
    for _ in 0..60 {
        let mut raw = Raw::open(process.ws()).await;
        raw.write_into_the_dark(unfinished()).await;
        large.push(raw);
    }
    let line = process.line("clients have sent more than 24 MiB that is unfinished or waits for handlers");
    assert!(line.contains(" closed=") && line.contains("freed_mib="), "{line}");
    // Of 60 MiB, 36 are too much.
    let closed = eventually("those with the most are closed", async || {
        let page = get(process.api(), "/metrics").await.1;
        let line = page.lines().find(|line| line.contains("reason=\"memory\"")).unwrap();
        let closed: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        (closed >= 36.0).then_some(closed)
    })
    .await;
    let mut told = 0.0;
    for raw in &mut large {
        if let Ok(Some((CLOSE, payload))) = timeout(Duration::from_millis(50), raw.frame()).await {
            assert_eq!(
                payload,
                [&3101u16.to_be_bytes()[..], b"memory is short: too much is unfinished or unread"].concat()
            );
            told += 1.0;
        }
    }
    assert!(told >= closed, "{told} of {closed}");
    small.write(&message[4000..]).await;
    assert_eq!(small.text().await, "5000 bytes");
    assert!(process.lines().iter().filter(|line| line.contains("clients have sent more than")).count() < 15);
    assert_eq!(process.stop().code, Some(0));
}

#[tokio::test]
async fn above_the_mark_new_clients_are_refused_and_those_that_are_there_stay() {
    let (dir, process) = process("1GiB");
    let mut before = Raw::open(process.ws()).await;
    set_high(&dir, "4MiB");
    let refused = eventually("new clients are refused", async || {
        let mut raw = Raw::dial(process.ws()).await;
        raw.write_into_the_dark(common::raw::upgrade()).await;
        let head = raw.head().await;
        if head.status == 101 { None } else { Some((head.status, raw.rest().await)) }
    })
    .await;
    assert_eq!(refused, (503, b"memory is short\n".to_vec()));
    let line = process.line("memory is short: ");
    assert!(line.contains(" MiB are in use, engine.memory.high is 4 MiB") && line.contains("refused="), "{line}");
    assert_eq!(before.ask("hello").await, "5 bytes");
    assert_eq!(get(process.api(), "/healthz").await.0, 200);
    // The high mark is switched off.
    set_high(&dir, "0");
    eventually("new clients come in", async || {
        let mut raw = Raw::dial(process.ws()).await;
        raw.write_into_the_dark(common::raw::upgrade()).await;
        (raw.head().await.status == 101).then_some(())
    })
    .await;
    assert_eq!(process.stop().code, Some(0));
}

#[tokio::test]
async fn above_the_mark_too_many_small_beginnings_are_closed_too_and_the_others_are_read_on() {
    let (dir, process) = process("1GiB");
    let message = frame(FIN | TEXT, &[b'x'; 8000]);
    let (begins, ends) = message.split_at(7900);
    let mut clients = Vec::new();
    for _ in 0..400 {
        let mut raw = Raw::open(process.ws()).await;
        raw.write(begins).await;
        clients.push(raw);
    }
    // They hold 3 MiB; 2.5 MiB are full. The program alone is above the mark.
    set_high(&dir, "8MiB");
    process.line("memory is short: ");
    let (mut answered, mut closed) = (0, 0);
    for mut raw in clients {
        raw.write_into_the_dark(ends).await;
        match timeout(PATIENCE, raw.frame()).await.expect("it is neither read nor closed") {
            Some((TEXT, _)) => answered += 1,
            _ => closed += 1,
        }
    }
    assert!(answered > 100 && closed > 50, "{answered} answered, {closed} closed");
    assert_eq!(process.stop().code, Some(0));
}

#[tokio::test]
async fn a_socket_servers_client_is_cut_off_above_the_mark() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("entry.lua"), RAW).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 1\nmemory: {high: 4MiB}", "");
    let file = dir.path().join("connmix.yaml");
    let config = fs::read_to_string(&file).unwrap().replace("protocol: websocket", "protocol: socket");
    fs::write(&file, config.replace("      options: [{name: path, value: /ws}]\n", "")).unwrap();
    let engine = TestEngine::start(dir);
    eventually("it is refused", async || {
        let mut stream = TcpStream::connect(engine.ws()).await.unwrap();
        matches!(timeout(Duration::from_millis(200), stream.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_message_must_be_finished_in_time_whatever_else_the_client_sends() {
    let engine = TestEngine::with(SCRIPT, "messageTimeout: 300ms", "workers: 1");
    let (mut stuck, mut fine) = (Raw::open(engine.ws()).await, Raw::open(engine.ws()).await);
    stuck.write(frame(TEXT, b"begun")).await;
    let began = Instant::now();
    // One is never done with its message and answers pings; the other always has a part of the next one under way.
    let message = text("hello");
    fine.write(&message[..3]).await;
    let end = loop {
        stuck.write_into_the_dark([frame(FIN | PONG, b""), frame(CONTINUE, b"x")].concat()).await;
        fine.write([&message[3..], &message[..3]].concat()).await;
        assert_eq!(fine.text().await, "5 bytes");
        if let Ok(end) = timeout(Duration::from_millis(20), stuck.close_frame()).await {
            break end;
        }
        assert!(began.elapsed() < PATIENCE, "it is never closed");
    };
    assert_eq!(end, (1001, "message timeout".into()));
    while began.elapsed() < Duration::from_secs(1) {
        fine.write([&message[3..], &message[..3]].concat()).await;
        assert_eq!(fine.text().await, "5 bytes");
    }
}

#[tokio::test]
async fn a_package_must_be_finished_in_time_but_not_while_a_handler_waits() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("entry.lua"), RAW).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "messageTimeout: 300ms", "workers: 1", "");
    let file = dir.path().join("connmix.yaml");
    let config = fs::read_to_string(&file).unwrap().replace("protocol: websocket", "protocol: socket");
    fs::write(&file, config.replace("      options: [{name: path, value: /ws}]\n", "")).unwrap();
    let engine = TestEngine::start(dir);
    let mut waits = Raw::dial(engine.ws()).await;
    waits.write("sleep\nnext\n").await;
    let mut stuck = Raw::dial(engine.ws()).await;
    stuck.write("no end").await;
    stuck.ends().await;
    assert_eq!(waits.take(11).await, b"sleep\nnext\n");
}

#[tokio::test]
async fn subscriptions_of_all_clients_are_bounded_and_few_find_room_beside_many() {
    let engine = TestEngine::with(SCRIPT, "", "workers: 2\nmaxSubscriptions: 10000");
    let mut greedy = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::open(engine.ws()).await;
        raw.write(text("3000")).await;
        let err = raw.text().await;
        assert!(err.starts_with("too many subscriptions: all clients together can have 10000"), "{err}");
        greedy.push(raw);
    }
    let mut modest = Raw::open(engine.ws()).await;
    assert_eq!(modest.ask("60").await, "subscribed");
    // What is there already is no more.
    assert_eq!(modest.ask("60").await, "subscribed");
    let page = get(engine.at.api, "/metrics").await.1;
    let line = page.lines().find(|line| line.starts_with("connmix_engine_subscriptions ")).unwrap();
    let there: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((60.0..=10_000.0).contains(&there), "{there}");
    drop(greedy);
    let mut next = Raw::open(engine.ws()).await;
    eventually("their room is free again", async || (next.ask("600").await == "subscribed").then_some(())).await;
}

fn channel(name: &str) -> Channel {
    Channel::parse(name.as_bytes()).unwrap()
}

#[tokio::test]
async fn a_connection_in_very_many_channels_leaves_them_in_parts() {
    let text = "center: {apiServer: {port: 0}}\nengine:\n  apiServer: {port: 0}\n  servers: [{port: 0, entry: lua/entry.websocket.lua}]\n";
    let config = load::parse(Path::new("connmix.yaml"), text).unwrap_or_else(|e| panic!("{e}"));
    let hub = Arc::new(Hub::new(NodeNumber::random(), 1));
    let shard = Shard::new(WorkerId(0), hub.clone());
    let served = Rc::new(ServerContext::new(0, &config.servers[0], Arc::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut clients = Vec::new();
    let mut insert = async || {
        clients.push(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let (socket, remote) = listener.accept().await.unwrap();
        shard.insert(Arrival {
            served: served.clone(),
            transport: socket.into(),
            remote,
            framing: Framing::WebSocket(None),
        })
    };
    let (many, few) = (insert().await, insert().await);
    let channels: Vec<Channel> = (0..3000).map(|i| channel(&format!("c{i}"))).collect();
    shard.subscribe(&many, &channels).unwrap();
    shard.subscribe(&few, &channels[..10]).unwrap();
    assert!(shard.remove(&many));
    assert!(!shard.remove(&many), "once is enough");
    assert!(shard.get(many.client_id).is_none());
    let left = hub.channels();
    assert!((1000..3000).contains(&left), "a part of them at once: {left} are left");
    // Its slot is nobody else's until it is out of all of them.
    let newcomer = insert().await;
    assert_ne!(newcomer.slot, many.slot);
    assert!(shard.channels_of(&newcomer).is_empty());
    let mut parts = 0;
    while hub.channels() > 10 {
        shard.leave_some();
        parts += 1;
        assert!(parts < 100, "{} channels are left", hub.channels());
    }
    assert!(parts > 3);
    assert_eq!((hub.subscriptions(), shard.channels_of(&few).len()), (10, 10));
    assert_eq!(insert().await.slot, many.slot);
}

/// What the system holds for the clients of a port that they have not acknowledged, by connection.
fn queued(at: SocketAddr) -> Vec<usize> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let port = format!(":{:04X}", at.port());
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1].ends_with(&port) && row[3] != "0A")
        .map(|row| usize::from_str_radix(row[4].split(':').next().unwrap(), 16).unwrap())
        .collect()
}

#[tokio::test]
async fn the_system_holds_little_for_a_client_that_reads_nothing() {
    let engine = TestEngine::with(SCRIPT, "pingInterval: 0", "workers: 1");
    let mut stalled = Raw::narrow(engine.ws()).await.opened().await;
    assert_eq!(stalled.ask("join").await, "joined");
    let data = "x".repeat(60_000);
    let mut most = 0;
    while engine.publish("all", &data).await["r"]["s"] == 1 {
        most = most.max(queued(engine.ws()).into_iter().max().unwrap_or(0));
    }
    assert!(most > 64 * 1024, "{most}: it was given something");
    assert!(most < 512 * 1024, "{most} bytes are held unsent");
}

#[tokio::test]
async fn what_a_silent_client_did_not_take_is_dropped_soon_after_its_end() {
    let engine = TestEngine::with(SCRIPT, "readTimeout: 500ms\nwriteTimeout: 60\npingInterval: 0", "workers: 1");
    let mut stalled = Raw::narrow(engine.ws()).await.opened().await;
    assert_eq!(stalled.ask("join").await, "joined");
    let data = "x".repeat(60_000);
    engine.publish_to("all", &data, 1).await;
    assert!(queued(engine.ws()).iter().any(|bytes| *bytes > 10_000), "{:?}", queued(engine.ws()));
    eventually("nothing is held for it", async || queued(engine.ws()).iter().all(|bytes| *bytes < 2).then_some(()))
        .await;
    let reply = post(engine.at.api, "/v1/mesh/publish", r#"{"c":"all","d":"x"}"#).await.1;
    assert!(reply.contains(r#""s":0"#), "{reply}");
}
