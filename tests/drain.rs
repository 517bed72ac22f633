//! A gentle stop: `/readyz` tells first, then clients are closed a few at a time, each with a time of its own to come back.
//! What a stop owes to those that are closed is in `shutdown.rs`.

mod common;

use common::optional::{Outcome, need};
use common::ports::free_addr;
use common::process::Process;
use common::raw::Raw;
use common::*;
use std::collections::HashSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

const SCRIPT: &str = "\
function on_handshake() print('came', ('%.3f'):format(mix.now())) end
function on_message(msg, conn)
  if msg.data == 'subscribe' then
    conn:subscribe('news')
  end
  conn:send(msg.data)
end
function on_close() print('went', ('%.3f'):format(mix.now())) end
";

fn folder(top: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 2", top);
    dir
}

/// The times that a process has printed behind `word`, in milliseconds.
fn times(lines: &[String], word: &str) -> Vec<u64> {
    let time = |line: &String| {
        Some((line.split_once(word)?.1.split_whitespace().next()?.parse::<f64>().ok()? * 1000.0) as u64)
    };
    lines.iter().filter_map(time).collect()
}

/// The most of these times that lie within `span` milliseconds.
fn peak(times: &[u64], span: u64) -> usize {
    times.iter().map(|from| times.iter().filter(|at| (*from..from + span).contains(*at)).count()).max().unwrap_or(0)
}

/// How a close frame asks its client to come back, in milliseconds.
fn retry(code: u16, reason: &str) -> u64 {
    assert_eq!(code, 1012, "{reason}");
    reason.strip_prefix("server shutdown, retry=").and_then(|ms| ms.parse().ok()).unwrap_or_else(|| panic!("{reason}"))
}

async fn a_load_balancer_is_told_first_and_all_else_goes_on() -> Outcome {
    let dir = folder("drainDelay: 1h");
    let process = Process::ready(dir.path(), &["single"]);
    let api = process.api();
    let mut client = Client::connect(process.ws(), "/ws").await;
    assert_eq!(client.ask("subscribe").await, "subscribe");
    let publish = |data: &str| {
        let body = format!(r#"{{"c":"news","d":"{data}"}}"#);
        format!("POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let mut caller = Raw::dial(api).await;
    caller.write(publish("before")).await;
    assert_eq!(caller.reply().await.header("connection"), None);
    assert_eq!(client.text().await, "before");

    process.signal(libc::SIGTERM);
    let mut probe = eventually("not ready", async || {
        let mut probe = Raw::dial(api).await;
        probe.write("GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        Some(probe.reply().await).filter(|reply| reply.status == 503)
    })
    .await;
    assert_eq!((probe.header("retry-after"), probe.header("connection")), (Some("1"), Some("close")), "{probe:?}");
    assert_eq!(get(api, "/healthz").await.0, 200);
    // Whoever still comes is served, and callers are asked to leave.
    let mut late = Client::connect(process.ws(), "/ws").await;
    assert_eq!(late.ask("subscribe").await, "subscribe");
    let mut told = 0;
    probe = loop {
        caller.write(publish("during")).await;
        let reply = caller.reply().await;
        assert_eq!(reply.status, 200);
        told += 1;
        assert_eq!((client.text().await, late.text().await), ("during".into(), "during".into()));
        if reply.header("connection").is_some() {
            break reply;
        }
        assert!(told < 2, "callers are not asked");
    };
    assert_eq!(probe.header("connection"), Some("close"));
    assert!(caller.rest_of(1).await.is_empty(), "and the connection ends");

    process.signal(libc::SIGTERM);
    let ended = process.ended();
    assert_eq!(ended.code, Some(1), "a second signal does not wait: {ended:?}");
    Ok(())
}

async fn clients_are_closed_a_few_at_a_time_and_the_rest_is_served() -> Outcome {
    const CLIENTS: usize = 200;
    let dir = folder("drainSpread: 2s\nshutdownTimeout: 60");
    let process = Process::ready(dir.path(), &["single"]);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Client::connect(process.ws(), "/ws").await;
        assert_eq!(client.ask("subscribe").await, "subscribe");
        clients.push(client);
    }
    // A caller that was there before is served to the end.
    let mut caller = Raw::dial(process.api()).await;
    let body = r#"{"c":"news","d":"still there"}"#;
    process.signal(libc::SIGTERM);
    eventually("one has gone", async || process.lines().iter().any(|line| line.contains("went\t")).then_some(())).await;
    let length = body.len();
    caller
        .write(format!("POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}"))
        .await;
    let reply = caller.reply().await;
    let reached: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    let (mut heard, mut hints) = (0, Vec::new());
    for client in &mut clients {
        let mut next = client.next().await.unwrap();
        if next == Message::text("still there") {
            heard += 1;
            next = client.next().await.unwrap();
        }
        let Message::Close(Some(frame)) = next else { panic!("{next:?}") };
        hints.push(retry(frame.code.into(), &frame.reason));
    }
    assert!(heard > 0, "{reply:?}");
    assert_eq!(reached["r"]["s"], heard, "the counts are those of the clients that are left");
    // Each has a time of its own.
    assert!(hints.iter().all(|hint| *hint < 2000), "{hints:?}");
    assert!(hints.iter().collect::<HashSet<_>>().len() > CLIENTS / 2, "{hints:?}");
    drop(clients);
    let ended = process.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<String> = ended.out.lines().map(str::to_owned).collect();
    let went = times(&lines, "went\t");
    assert_eq!(went.len(), CLIENTS);
    let (first, last) = (went.iter().min().unwrap(), went.iter().max().unwrap());
    // A worker never catches up: however slow the machine, they are not closed faster.
    assert!(last - first >= 1800, "all within {} ms", last - first);
    assert!(peak(&went, 500) <= CLIENTS / 2, "{} within half a second", peak(&went, 500));
    Ok(())
}

async fn a_few_clients_hold_nobody_up() -> Outcome {
    let dir = folder("drainSpread: 1h\nshutdownTimeout: 2h");
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    process.signal(libc::SIGTERM);
    let (code, reason) = client.close_frame().await;
    assert!(retry(code, &reason) < 1000, "{reason}");
    drop(client);
    assert_eq!(process.ended().code, Some(0));
    Ok(())
}

/// An nginx that spreads clients over engines, and goes to another one when one refuses.
fn nginx(dir: &Path, from: SocketAddr, to: &[SocketAddr]) -> Process {
    let servers = to.iter().fold(String::new(), |mut all, to| {
        let _ = write!(all, "server {to} max_fails=1 fail_timeout=1s; ");
        all
    });
    let config = format!(
        "pid nginx.pid;\nerror_log stderr;\ndaemon off;\nworker_rlimit_nofile 65536;\n\
         events {{ worker_connections 65536; }}\nhttp {{ access_log off;\nupstream clients {{ least_conn; {servers} }}\n\
         server {{ listen {from} backlog=4096; location / {{ proxy_pass http://clients; proxy_http_version 1.1;\n\
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;\n\
         proxy_next_upstream error timeout http_503; }} }} }}\n"
    );
    std::fs::write(dir.join("nginx.conf"), config).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).args(["-c", "nginx.conf", "-e", "stderr"]).stdin(Stdio::null());
    Process::of(command)
}

/// A client that comes back as the one for browsers does; ends when it is connected again. Gives the attempts that failed.
async fn stays(door: SocketAddr, mut client: Client) -> usize {
    let (code, reason) = client.close_frame().await;
    drop(client);
    tokio::time::sleep(Duration::from_millis(retry(code, &reason))).await;
    let mut failed = 0;
    while Client::try_connect(door, "/ws").await.is_err() {
        failed += 1;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    failed
}

/// As many clients and seconds as the environment says: `DRAIN="10000 20"`.
async fn clients_of_a_node_that_stops_come_evenly_to_the_others() -> Outcome {
    need("nginx", &["-v"])?;
    let size = std::env::var("DRAIN").unwrap_or_else(|_| "90 1".into());
    let (clients, over) = size.split_once(' ').unwrap();
    let (clients, over): (usize, usize) = (clients.parse().unwrap(), over.parse().unwrap());
    let top = format!("drainSpread: {over}s\nshutdownTimeout: {}", over * 3 + 10);
    let mut nodes: Vec<_> = (0..3)
        .map(|_| {
            let dir = folder(&top);
            let process = Process::ready(dir.path(), &["single"]);
            (dir, process)
        })
        .collect();
    let (dir, door) = (tempfile::tempdir().unwrap(), free_addr());
    let at: Vec<_> = nodes.iter().map(|(_, process)| process.ws()).collect();
    let nginx = nginx(dir.path(), door, &at);
    eventually("nginx serves", async || tokio::net::TcpStream::connect(door).await.ok()).await;
    let mut staying = JoinSet::new();
    let mut connected = Vec::new();
    for _ in 0..clients {
        connected.push(Client::connect(door, "/ws").await);
    }
    for client in connected {
        staying.spawn(stays(door, client));
    }
    let (_, stopped) = nodes.remove(0);
    let left = times(&stopped.lines(), "came\t").len();
    assert!(left >= clients / 4, "nginx spreads them: {left} of {clients}");
    let before: Vec<_> = nodes.iter().map(|(_, process)| process.lines().len()).collect();
    let began = Instant::now();
    stopped.signal(libc::SIGTERM);
    let mut failed = 0;
    for _ in 0..left {
        failed += staying.join_next().await.unwrap().unwrap();
    }
    assert_eq!(stopped.ended().code, Some(0));
    assert_eq!(failed, 0, "somebody had to try again");
    let of =
        |(lines, (_, process)): (&usize, &(tempfile::TempDir, Process))| times(&process.lines()[*lines..], "came\t");
    // The last lines may be on their way.
    let all = || Some(before.iter().zip(&nodes).flat_map(of).collect::<Vec<u64>>()).filter(|came| came.len() == left);
    let came = eventually("all have come to the others", async || all()).await;
    println!(
        "{left} of {clients} clients came to the others within {:?}; the most in one second: {}",
        began.elapsed(),
        peak(&came, 1000)
    );
    staying.abort_all();
    drop(nginx.stop());
    Ok(())
}

optional_tests!(
    a_load_balancer_is_told_first_and_all_else_goes_on,
    clients_are_closed_a_few_at_a_time_and_the_rest_is_served,
    a_few_clients_hold_nobody_up,
    clients_of_a_node_that_stops_come_evenly_to_the_others,
);
