//! Faults of what is below a cluster of the real program: a full disk, a clock that steps, a machine that hardly gets to run, a
//! network that is cut in one direction. Some of them need root or a library; where that is missing, the test counts as ignored.

mod common;
#[path = "cluster_faults/network.rs"]
mod network;

use common::cluster::*;
use common::optional::{Missing, Outcome, need};
use common::ports::{free_addr, free_port};
use common::process::Process;
use common::*;
use network::{a_cut_in_both_directions_heals, a_cut_in_one_direction_heals};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

optional_tests!(
    a_full_disk_costs_log_lines_and_nothing_else,
    a_clock_that_steps_by_a_day_changes_nothing,
    a_node_that_hardly_runs_slows_nobody_down,
    a_cut_in_one_direction_heals,
    a_cut_in_both_directions_heals,
);

/// Where a node runs, and how it is started.
struct Place<'a> {
    role: &'a str,
    registry: SocketAddr,
    host: IpAddr,
    /// What stands before the program's name.
    wrapper: &'a [&'a str],
    env: &'a [(&'a str, OsString)],
    logging: &'a str,
    cluster: &'a str,
}

impl<'a> Place<'a> {
    fn new(role: &'a str, registry: SocketAddr) -> Place<'a> {
        let (logging, cluster) = ("filename: ''", QUICK);
        Place { role, registry, host: registry.ip(), wrapper: &[], env: &[], logging, cluster }
    }
}

/// A process of a cluster, and the folder with its files.
struct Node {
    process: Process,
    api: SocketAddr,
    dir: TempDir,
}

/// Nodes that do not answer are soon noticed.
const QUICK: &str = "secret: s3cret, leave: 2s";
/// Nobody is taken for slow on a busy machine.
const PATIENT: &str = "secret: s3cret, replyTimeout: 2s, leave: 3s";

impl Node {
    fn start(place: &Place<'_>) -> Node {
        let Place { role, registry, host, wrapper, env, logging, cluster } = place;
        let dir = tempfile::tempdir().unwrap();
        let time = r#"if word == "time" then conn:send(tostring(os.time())) elseif word == "id" then"#;
        std::fs::write(dir.path().join("entry.lua"), SCRIPT.replacen(r#"if word == "id" then"#, time, 1)).unwrap();
        let (center, port) = (registry.ip(), registry.port());
        let config = format!(
            "logging: {{{logging}}}\ncluster: {{{cluster}}}\n\
             center:\n  registry: {{port: {port}, bind: {center}}}\n  apiServer: {{port: 0, bind: {host}}}\n\
             engine:\n  workers: 2\n  centerRegistry: {registry}\n\
             \x20 meshPoint: {{port: {}, bind: {host}}}\n  apiServer: {{port: 0, bind: {host}}}\n\
             \x20 servers:\n    - port: 0\n      bind: {host}\n      protocol: websocket\n      entry: entry.lua\n\
             \x20     options: [{{name: path, value: /ws}}]\n",
            free_port()
        );
        std::fs::write(dir.path().join("connmix.yaml"), config).unwrap();
        let mut command = match wrapper {
            [program, args @ ..] => {
                let mut command = Command::new(program);
                command.args(args).arg(env!("CARGO_BIN_EXE_connmix"));
                command
            }
            [] => Command::new(env!("CARGO_BIN_EXE_connmix")),
        };
        command.arg(role).current_dir(dir.path()).envs(env.iter().map(|(name, value)| (name, value)));
        let process = Process::of(command);
        let api = process.api();
        Node { process, api, dir }
    }

    fn ws(&self) -> SocketAddr {
        self.process.ws()
    }

    /// Ends it in the proper way.
    fn stop(&self) {
        self.process.signal(libc::SIGTERM);
        self.process.line("stopped");
    }

    /// Whether a line of its log has this in it so far.
    fn has_said(&self, part: &str) -> bool {
        self.process.lines().iter().any(|line| line.contains(part))
    }
}

impl Drop for Node {
    /// What a test that fails needs to tell why.
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("-- {} --\n{}", self.api, self.process.lines().join("\n"));
        }
    }
}

fn registry() -> SocketAddr {
    free_addr()
}

async fn settled(center: &Node, engines: &[&Node]) {
    for engine in engines {
        ready(engine.api).await;
    }
    listed(center.api, &engines.iter().map(|engine| engine.api).collect::<Vec<_>>()).await;
}

/// Each engine's new subscribers hear each engine at once. While a link is made again, its ends may not answer in time: so it
/// may take some rounds.
async fn becomes_whole(engines: &[&Node], name: &str) {
    let mut round = 0;
    eventually("each engine hears each", async || {
        round += 1;
        let channel = format!("{name}:{round}");
        let mut members = Vec::new();
        for engine in engines {
            members.push(member(engine.ws(), &channel).await);
        }
        for engine in engines {
            if publish(engine.api, &channel, "x").await != reached(engines.len()) {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// Publishes with an id: its `r`.
async fn publish_once(api: SocketAddr, id: &str) -> Value {
    let body = json!({"c": "room", "d": format!("once {id}"), "id": id});
    let (status, reply) = post(api, "/v1/mesh/publish", &body.to_string()).await;
    assert_eq!(status, 200, "{reply}");
    serde_json::from_str::<Value>(&reply).unwrap()["r"].take()
}

async fn a_full_disk_costs_log_lines_and_nothing_else() -> Outcome {
    let mount = "mkdir logs && mount -t tmpfs -o size=128k tmpfs logs";
    need("unshare", &["-m", "sh", "-c", "cd $(mktemp -d) && mkdir logs && mount -t tmpfs tmpfs logs"])?;
    let registry = registry();
    let center = Node::start(&Place { cluster: PATIENT, ..Place::new("center", registry) });
    let other = Node::start(&Place { cluster: PATIENT, ..Place::new("engine", registry) });
    let shell = format!(r#"{mount} && exec "$0" "$@""#);
    let wrapper = ["unshare", "-m", "sh", "-c", &shell];
    let logging = "filename: logs/node.log, level: debug";
    let cluster = PATIENT;
    let full = Node::start(&Place { wrapper: &wrapper, logging, cluster, ..Place::new("engine", registry) });
    settled(&center, &[&other, &full]).await;
    let (mut here, mut there) = (member(full.ws(), "room").await, member(other.ws(), "room").await);

    // Its folder as it sees it: nobody else does.
    let logs = PathBuf::from(format!("/proc/{}/root{}", full.process.pid(), full.dir.path().join("logs").display()));
    let log = || {
        let names: Vec<_> = std::fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().path()).collect();
        let log = names.into_iter().find(|name| name.extension().is_some_and(|end| end == "log")).unwrap();
        std::fs::read_to_string(log).unwrap()
    };
    let filler = logs.join("filler");
    let all = vec![0; 1 << 20];
    assert!(std::fs::write(&filler, &all).is_err(), "the disk is full");
    let mut sent = 0;
    // Every one of these is told in the log of the node.
    eventually("the log ends", async || {
        let before = log();
        for _ in 0..50 {
            assert_eq!(publish(full.api, "room", &sent.to_string()).await, reached(2));
            assert_eq!(publish(other.api, "room", &(sent + 1).to_string()).await, reached(2));
            sent += 2;
        }
        (log() == before).then_some(())
    })
    .await;
    for number in 0..sent {
        assert_eq!(here.text().await, number.to_string());
        assert_eq!(there.text().await, number.to_string());
    }
    becomes_whole(&[&other, &full], "full").await;
    assert_eq!(get(full.api, "/readyz").await.0, 200);
    // A newcomer finds it, and goes, as if nothing were.
    let new = Node::start(&Place { cluster, ..Place::new("engine", registry) });
    settled(&center, &[&other, &full, &new]).await;
    becomes_whole(&[&other, &full, &new], "new").await;
    new.stop();
    settled(&center, &[&other, &full]).await;
    // With room again, the log goes on.
    std::fs::remove_file(&filler).unwrap();
    eventually("the log goes on", async || {
        join(&mut here, "afterwards").await;
        log().contains("afterwards").then_some(())
    })
    .await;
    full.stop();
    Ok(())
}

/// The library that lets a process see another time.
fn faketime() -> Result<PathBuf, Missing> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    found.find(|path| path.exists()).ok_or_else(|| Missing::because("there is no libfaketime (Debian: faketime)"))
}

async fn a_clock_that_steps_by_a_day_changes_nothing() -> Outcome {
    let library = faketime()?;
    let stamps = tempfile::tempdir().unwrap();
    let stamp = stamps.path().join("stamp");
    let step = |text: &str| {
        // In one piece: the process reads it at any moment.
        std::fs::write(stamps.path().join("next"), text).unwrap();
        std::fs::rename(stamps.path().join("next"), &stamp).unwrap();
    };
    step("+0");
    let env = [
        ("LD_PRELOAD", library.into_os_string()),
        ("FAKETIME_TIMESTAMP_FILE", stamp.clone().into_os_string()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
    ];
    let registry = registry();
    let center = Node::start(&Place { cluster: PATIENT, ..Place::new("center", registry) });
    let other = Node::start(&Place { cluster: PATIENT, ..Place::new("engine", registry) });
    let stepping = Node::start(&Place { env: &env, cluster: PATIENT, ..Place::new("engine", registry) });
    let both = [&other, &stepping];
    settled(&center, &both).await;
    let started = started_at(center.api).await;
    let (mut here, mut there) = (member(stepping.ws(), "room").await, member(other.ws(), "room").await);
    let (mut ids, mut all) = (HashSet::new(), Vec::new());
    let first = publish_once(stepping.api, "first").await;
    assert_eq!(first, reached(2));
    for member in [&mut here, &mut there] {
        assert_eq!(member.text().await, "once first");
    }
    for (round, (text, days)) in [("+0", 0), ("-1d", -1), ("+1d", 1), ("-1d", -1), ("+0", 0)].into_iter().enumerate() {
        step(text);
        let mut clock = Client::connect(stepping.ws(), "/ws").await;
        eventually("the clock steps", async || {
            let seen: i64 = clock.ask("time").await.parse().unwrap();
            let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
            ((seen - real - days * 24 * 3600).abs() < 3600).then_some(())
        })
        .await;
        // Beyond `leave` at the first step back and the first forward: nobody takes anybody for gone.
        let (start, long) = (Instant::now(), if matches!(round, 1 | 2) { 3200 } else { 0 });
        let mut sent = 0;
        while sent < 5 || start.elapsed() < Duration::from_millis(long) {
            for node in both {
                let number = format!("{round} {sent}");
                assert_eq!(publish(node.api, "room", &number).await, reached(2), "{text}");
                assert_eq!(here.text().await, number);
                assert_eq!(there.text().await, number);
                sent += 1;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // What was done once stays done, and something new is done once.
        for node in both {
            assert_eq!(publish_once(node.api, "first").await, first, "{text}");
            assert_eq!(publish_once(node.api, text).await, reached(2), "{text}");
        }
        if round < 3 {
            assert_eq!(here.text().await, format!("once {text}"));
            assert_eq!(there.text().await, format!("once {text}"));
        }
        for member in [&mut here, &mut there] {
            member.expect_only_reply("end", "echo end").await;
        }
        // Ids count on from the start of the process.
        for _ in 0..20 {
            let mut client = Client::connect(stepping.ws(), "/ws").await;
            let id = id(&mut client).await;
            assert!(ids.insert(id.clone()), "{id} came twice ({text})");
            all.push((client, id));
        }
        becomes_whole(&both, &format!("step{round}")).await;
    }
    // Nobody was closed: a message finds each of them.
    for (client, id) in &mut all {
        let (status, reply) = post(other.api, "/v1/mesh/send", &json!({"c": id, "d": "still"}).to_string()).await;
        assert_eq!(status, 200, "{reply}");
        assert_eq!(client.text().await, "still");
    }
    assert_eq!(started_at(center.api).await, started, "when a node started does not change");
    for node in [&center, &other, &stepping] {
        for part in ["does not answer", "is gone", "WARN", "ERROR"] {
            assert!(!node.has_said(part), "{part}: {:?}", node.process.lines());
        }
    }
    Ok(())
}

/// When each engine started, as the center tells it.
async fn started_at(center: SocketAddr) -> Vec<(Value, Value)> {
    let mut all: Vec<_> = nodes(center).await.iter().map(|n| (n["id"].clone(), n["start_time"].clone())).collect();
    all.sort_by_key(|(id, _)| id.to_string());
    all
}

/// Stopped four fifths of the time, each time for less than `leave`. (The simulation has a node like that for minutes.)
async fn a_node_that_hardly_runs_slows_nobody_down() -> Outcome {
    let registry = registry();
    let center = Node::start(&Place::new("center", registry));
    let engines = [0; 3].map(|_| Node::start(&Place::new("engine", registry)));
    let [near, far, slow] = &engines;
    settled(&center, &[near, far, slow]).await;
    let mut member_of_far = member(far.ws(), "room").await;
    let mut member_of_slow = member(slow.ws(), "room").await;
    let (start, mut sent, mut unanswered) = (Instant::now(), 0, 0);
    let hardly_runs = async {
        while start.elapsed() < Duration::from_secs(4) {
            slow.process.signal(libc::SIGSTOP);
            tokio::time::sleep(Duration::from_millis(600)).await;
            slow.process.signal(libc::SIGCONT);
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
    };
    let publishing = async {
        while start.elapsed() < Duration::from_secs(4) {
            let asked = Instant::now();
            let reply = publish(near.api, "room", &sent.to_string()).await;
            assert!(asked.elapsed() < ANSWERS_IN, "{:?}", asked.elapsed());
            // It takes it, or does not answer, or counts as gone.
            let known = [reached(2), json!({"s": 1, "f": 0, "u": 1}), reached(1)];
            assert!(known.contains(&reply), "{reply}");
            unanswered += usize::from(reply == known[1]);
            sent += 1;
            // A subscribe does not wait for it for long, either.
            let asked = Instant::now();
            let mut client = member(far.ws(), &format!("during:{sent}")).await;
            assert!(asked.elapsed() < ANSWERS_IN, "{:?}", asked.elapsed());
            assert_eq!(publish(near.api, &format!("during:{sent}"), "x").await["s"], json!(1));
            assert_eq!(client.text().await, "x");
        }
    };
    tokio::join!(hardly_runs, publishing);
    assert!(unanswered > 0);
    for number in 0..sent {
        assert_eq!(member_of_far.text().await, number.to_string());
    }
    becomes_whole(&[near, far, slow], "after").await;
    publish_until(near.api, "room", "last", reached(2)).await;
    // Its own client was never closed, and what it got, it got in order.
    let mut last = None;
    loop {
        let text = member_of_slow.text().await;
        if text == "last" {
            break;
        }
        let number: usize = text.parse().unwrap();
        assert!(last < Some(number), "{number} after {last:?}");
        last = Some(number);
    }
    Ok(())
}
