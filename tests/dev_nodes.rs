//! `connmix dev --nodes`: one command that is a cluster, and its end.

#![cfg(feature = "cluster")]

mod common;

use common::process::{Process, address};
use common::{Client, PATIENCE, eventually, get, post};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Answers with its version, and subscribes to the channel that a message names.
const SCRIPT: &str = "
  function on_message(msg, conn)
    if msg.data == 'version' then return conn:send('VERSION') end
    local err = conn:subscribe(msg.data)
    conn:send(err or 'subscribed')
  end";

fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), SCRIPT.replace("VERSION", "one")).unwrap();
    common::write_config(
        &dir.path().join("connmix.yaml"),
        "byteCodeExpires: 1",
        "workers: 1\nmeshPoint: {port: 0}",
        "",
    );
    // One section of that name is written already.
    let text = std::fs::read_to_string(dir.path().join("connmix.yaml")).unwrap();
    let text = text.replace("center:\n", "center:\n  registry: {port: 0}\n");
    std::fs::write(dir.path().join("connmix.yaml"), text).unwrap();
    dir
}

/// A cluster's process, and where its nodes are by its own words.
struct Nodes {
    parent: Process,
    servers: Vec<SocketAddr>,
    apis: Vec<SocketAddr>,
    center: SocketAddr,
}

impl Nodes {
    fn start(dir: &TempDir, nodes: usize) -> Nodes {
        let parent = Process::start(dir.path(), &["dev", "--nodes", &nodes.to_string()]);
        parent.line("  curl http://");
        let lines = parent.lines();
        let all = |label: &str| -> Vec<SocketAddr> {
            lines
                .iter()
                .filter(|line| line.starts_with("  ") && line.contains(label))
                .map(|line| address(line, label))
                .collect()
        };
        let (servers, apis) = (all("WebSocket   ws://"), all("API         http://"));
        let center = all("Center      http://")[0];
        assert_eq!((servers.len(), apis.len()), (nodes, nodes), "{lines:?}");
        Nodes { parent, servers, apis, center }
    }

    /// The processes of the nodes: those that say that they were started by this one.
    fn children(&self) -> Vec<i32> {
        let parent = format!("PPid:\t{}\n", self.parent.pid());
        let all =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        all.filter(|pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains(&parent))
        })
        .collect()
    }
}

/// Waits until none of these processes is there any more.
fn have_ended(processes: &[i32]) {
    let deadline = Instant::now() + PATIENCE;
    let lives =
        |pid: &&i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while let Some(pid) = processes.iter().find(lives) {
        assert!(Instant::now() < deadline, "{pid} lives");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_are_one_cluster_with_one_script_and_end_with_their_parent() {
    let dir = folder();
    let nodes = Nodes::start(&dir, 3);
    // What is published on the third node reaches a client of the second, and is counted.
    let mut client = Client::connect(nodes.servers[1], "/ws").await;
    assert_eq!(client.ask("room").await, "subscribed");
    let (status, reply) = post(nodes.apis[2], "/v1/mesh/publish", r#"{"c":"room","d":"hello"}"#).await;
    let reply: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!((status, &reply["r"]["s"]), (200, &1.into()), "{reply}");
    assert_eq!(client.text().await, "hello");
    eventually("the center knows all engines", async || {
        let (_, found) = get(nodes.center, "/v1/nodes").await;
        nodes.apis.iter().all(|api| found.contains(&format!("\"{api}\""))).then_some(())
    })
    .await;
    // A saved script is live on all.
    std::fs::write(dir.path().join("entry.lua"), SCRIPT.replace("VERSION", "two")).unwrap();
    for server in &nodes.servers {
        let mut client = Client::connect(*server, "/ws").await;
        eventually("the saved script", async || (client.ask("version").await == "two").then_some(())).await;
    }
    // Each line tells whose it is.
    for name in ["[1] ", "[2] ", "[3] ", "[c] "] {
        nodes.parent.line(name);
    }
    let children = nodes.children();
    assert_eq!(children.len(), 4);
    let ended = nodes.parent.stop();
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    have_ended(&children);
}

#[test]
fn the_nodes_end_when_their_parent_is_killed() {
    let dir = folder();
    let nodes = Nodes::start(&dir, 2);
    let children = nodes.children();
    assert_eq!(children.len(), 3);
    nodes.parent.signal(libc::SIGKILL);
    have_ended(&children);
}

#[tokio::test]
async fn a_node_that_is_killed_leaves_the_others_as_they_are() {
    let dir = folder();
    let nodes = Nodes::start(&dir, 2);
    let mut client = Client::connect(nodes.servers[0], "/ws").await;
    assert_eq!(client.ask("room").await, "subscribed");
    let line = nodes.parent.line("[2] ");
    assert!(line.starts_with("[2] "), "{line}");
    // The processes were started in the order center, 1, 2.
    let mut children = nodes.children();
    children.sort_unstable();
    // SAFETY: a system call that touches no memory of ours.
    assert_eq!(unsafe { libc::kill(children[2], libc::SIGKILL) }, 0);
    nodes.parent.line("has ended: signal: 9 (SIGKILL)");
    let (status, _) = post(nodes.apis[0], "/v1/mesh/publish", r#"{"c":"room","d":"on"}"#).await;
    assert_eq!((status, client.text().await.as_str()), (200, "on"));
    assert_eq!(nodes.parent.stop().code, Some(0));
}

#[test]
fn a_script_that_is_wrong_is_told_once() {
    let dir = folder();
    std::fs::write(dir.path().join("entry.lua"), "function on_message(").unwrap();
    let ended = common::process::run(dir.path(), &["dev", "--nodes", "2"]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    assert_eq!(ended.err.matches("entry.lua").count(), 1, "{}", ended.err);
}
