//! `docs/examples/cluster` as it is: its nodes, started by its script, behind a real nginx, and restarted one after the other under
//! clients.

mod common;

use common::optional::{Outcome, need};
use common::ports::free_addr;
use common::process::Process;
use common::{Client, PATIENCE, eventually, get, post};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tempfile::TempDir;

const NODES: [&str; 3] = ["center", "engine-1", "engine-2"];
/// The ports in the example's files.
const PORTS: [&str; 9] = ["6786", "6787", "6788", "6789", "6790", "6791", "6792", "6798", "6799"];

/// The example on free ports, and what runs of it; ended when dropped.
struct Example {
    dir: TempDir,
    ports: HashMap<&'static str, SocketAddr>,
    nginx: Option<Process>,
}

impl Example {
    fn start() -> Example {
        let dir = tempfile::tempdir().unwrap();
        let ports: HashMap<_, _> = PORTS.into_iter().map(|written| (written, free_addr())).collect();
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/cluster")).unwrap() {
            let entry = entry.unwrap();
            let to = dir.path().join(entry.file_name());
            fs::copy(entry.path(), &to).unwrap();
            let mut text = fs::read_to_string(&to).unwrap();
            for (written, at) in &ports {
                text = text.replace(written, &format!("@{}@", at.port()));
            }
            fs::write(&to, text.replace('@', "")).unwrap();
        }
        let mut example = Example { dir, ports, nginx: None };
        for node in NODES {
            example.sh(&format!("./node.sh start {node}"));
        }
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(example.dir.path()).args(["-c", "nginx.conf", "-g", "daemon off;"]).stdin(Stdio::null());
        example.nginx = Some(Process::of(nginx));
        example
    }

    fn at(&self, port: &str) -> SocketAddr {
        self.ports[port]
    }

    fn command(&self, line: &str) -> Command {
        let mut sh = Command::new("sh");
        sh.arg("-c").arg(line).current_dir(self.dir.path()).env("CONNMIX", env!("CARGO_BIN_EXE_connmix"));
        sh
    }

    fn sh(&self, line: &str) {
        let done = self.command(line).output().unwrap();
        assert!(done.status.success(), "{line}: {done:?}");
    }

    async fn serves(&self) {
        for api in ["6789", "6799"] {
            eventually("an engine serves", async || {
                let dial = tokio::net::TcpStream::connect(self.at(api)).await.is_ok();
                (dial && get(self.at(api), "/readyz").await.0 == 200).then_some(())
            })
            .await;
        }
    }

    /// How many clients each engine has, as the center tells it.
    async fn clients(&self) -> Vec<u64> {
        let (_, nodes) = get(self.at("6787"), "/v1/nodes").await;
        let nodes: Value = serde_json::from_str(&nodes).unwrap();
        nodes["nodes"].as_array().unwrap().iter().map(|node| node["clients"].as_u64().unwrap()).collect()
    }

    /// A client that has joined the room, by way of nginx.
    async fn client(&self) -> Client {
        member(self.at("6790")).await.unwrap()
    }
}

async fn member(at: SocketAddr) -> Result<Client, String> {
    let mut client = Client::try_connect(at, "/rooms").await.map_err(|e| e.to_string())?;
    client.send(r#"{"op":"join","room":"tea"}"#).await;
    match client.next().await? {
        message if message.to_string() == r#"{"joined":"tea"}"# => Ok(client),
        other => Err(format!("{other:?}")),
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        for node in NODES {
            let stopped = self.command(&format!("timeout 20 ./node.sh stop {node}")).status();
            if !stopped.is_ok_and(|status| status.success()) {
                eprintln!("{node} could not be stopped");
            }
        }
        if let Some(nginx) = self.nginx.take() {
            // Its workers end with it, which they do not if it is killed.
            drop(nginx.stop());
        }
    }
}

async fn rooms_are_one_over_all_engines_and_a_rolling_restart_keeps_the_door_open() -> Outcome {
    need("nginx", &["-v"])?;
    need("curl", &["--version"])?;
    let example = Example::start();
    example.serves().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(example.client().await);
    }
    eventually("nginx has spread them", async || (example.clients().await == [4, 4]).then_some(())).await;
    clients[0].send(r#"{"op":"say","room":"tea","text":"Hello"}"#).await;
    let mut said = vec![clients[0].text().await, clients[0].text().await];
    said.sort();
    assert_eq!(said, ["Hello", r#"{"reached":8}"#]);
    for client in &mut clients[1..] {
        assert_eq!(client.text().await, "Hello");
    }
    let publish = async |text: &str| {
        let body = json!({"c": "room:tea", "d": text}).to_string();
        let (status, reply) = post(example.at("6790"), "/v1/mesh/publish", &body).await;
        assert_eq!(status, 200, "{reply}");
        serde_json::from_str::<Value>(&reply).unwrap()
    };
    assert_eq!(publish("all").await, json!({"E": null, "r": {"s": 8, "f": 0}}));

    // New clients are let in all the time.
    let stop = Arc::new(AtomicBool::new(false));
    let (door, stopped) = (example.at("6790"), stop.clone());
    let newcomers = tokio::spawn(async move {
        let mut met = 0;
        while !stopped.load(Relaxed) {
            match tokio::time::timeout(PATIENCE, member(door)).await.expect("let in in time") {
                Ok(client) => client.close().await,
                // Of one that came to an engine just before it stopped: it comes again.
                Err(why) => assert!(why.contains("Close") || why.contains("ended"), "{why}"),
            }
            met += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        met
    });
    let mut rolling = example.command("PAUSE=1 ./rolling.sh");
    let rolled = tokio::task::spawn_blocking(move || rolling.output().unwrap()).await.unwrap();
    assert!(rolled.status.success(), "{rolled:?}");
    assert_eq!(String::from_utf8_lossy(&rolled.stdout), "restarting engine-1\nrestarting engine-2\n");
    stop.store(true, Relaxed);
    assert!(newcomers.await.unwrap() > 10);
    // Each was told why, and comes back.
    for client in &mut clients {
        loop {
            match client.next().await.unwrap() {
                message if message.is_close() => break,
                message => assert_eq!(message.to_string(), "all"),
            }
        }
    }
    let mut back = Vec::new();
    for _ in &clients {
        back.push(example.client().await);
    }
    eventually("all are reached", async || (publish("again").await["r"]["s"] == 8).then_some(())).await;
    for client in &mut back {
        assert_eq!(client.text().await, "again");
    }
    Ok(())
}

optional_tests!(rooms_are_one_over_all_engines_and_a_rolling_restart_keeps_the_door_open);
