//! `connmix dev --nodes N`: a cluster on this machine. This process serves nobody: it starts itself N + 1 times, as engines
//! and their center, each with ports of its own, and copies their lines to its own console, with their number in front.
//!
//! A node is a process, as it is in production: so one can be killed or frozen to see what the others do. All nodes
//! read the same file, and notice themselves when it or a script changes. Their standard input is a pipe from this
//! process: they stop when it ends, whatever ends it.

mod ports;

use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::sync::mpsc;

use super::greeting::Greeting;
use super::options::without_cluster;
use super::signals::{Signals, Wish};
use crate::config::{Config, Home};
use crate::engine::{Addresses, HAS_CLUSTER, check_scripts};
use crate::telemetry::language::{Language, spoken};
use crate::telemetry::log::cut::MAX_LINE;
use crate::telemetry::terminal::say;

/// The most engines.
pub(super) const MOST: i64 = 16;
/// A node's report to its parent begins with this; no line of the log does.
const REPORT: &str = "\u{2}connmix ";
/// How often the parent checks whether a node has ended.
const LOOK: Duration = Duration::from_millis(25);
/// The colours of nodes on a terminal: the number of the last is that of the first again.
const COLOURS: [u8; 6] = [36, 33, 35, 32, 34, 31];

/// What a node tells its parent once it serves.
pub(super) struct Report(u16);

impl Report {
    pub(super) fn of(home: &Home) -> Report {
        Report(home.number)
    }

    pub(super) fn print(&self, at: &Addresses) {
        // It holds numbers and texts alone, which have JSON.
        let at = serde_json::to_string(&(self.0, at)).unwrap_or_default();
        say!("{REPORT}{at}");
    }

    fn read(line: &str) -> Option<(u16, Addresses)> {
        serde_json::from_str(line.strip_prefix(REPORT)?).ok()
    }
}

/// What the command line says for all nodes.
pub(super) struct Common<'a> {
    /// `-f`
    pub file: &'a Path,
    /// `-p`
    pub workers: Option<u16>,
    /// `--allow-unguarded`
    pub unguarded: bool,
}

/// Runs the cluster until it is stopped. `load` reads the file.
pub(super) fn run(common: &Common, load: impl FnOnce() -> Result<Config, String>, nodes: u16) -> Result<(), String> {
    if !HAS_CLUSTER {
        return Err(without_cluster());
    }
    // Signals first: one that asks for a stop during the start is not lost.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| spoken!("the runtime could not start: {e}", "运行时无法启动：{e}"))?;
    let signals = runtime.block_on(async { Signals::watch() }).map_err(|e| spoken!("signals: {e}", "信号：{e}"))?;
    let config = load()?;
    // Here once, rather than by each of them.
    check_scripts(&config, Language::chosen())?;
    let homes = ports::plan(&config, nodes)?;
    let greeting = Greeting::of(&config);
    let (tell, reports) = mpsc::channel(homes.len());
    let mut cluster = Cluster { nodes: Vec::new(), serves: false, stopping: false };
    for home in &homes {
        cluster.nodes.push(Node::start(common, home, tell.clone())?);
    }
    runtime.block_on(cluster.run(signals, reports, &greeting))
}

/// What goes before the lines of a node.
fn prefix(number: u16, colour: bool) -> String {
    let name = if number == 0 { "c".to_owned() } else { number.to_string() };
    match (colour, COLOURS[usize::from(number) % COLOURS.len()]) {
        (true, colour) => format!("\x1b[{colour}m[{name}]\x1b[0m "),
        (false, _) => format!("[{name}] "),
    }
}

/// A node's process. Dropped, it is killed.
struct Node {
    number: u16,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Node {
    fn start(common: &Common, home: &Home, tell: mpsc::Sender<(u16, Addresses)>) -> Result<Node, String> {
        let number = home.number;
        let failed =
            |e: &dyn std::fmt::Display| spoken!("node {number} could not start: {e}", "节点 {number} 无法启动：{e}");
        let program = std::env::current_exe().map_err(|e| failed(&e))?;
        let mut command = Command::new(program);
        command.arg("dev").arg("-f").arg(common.file);
        command.arg("--home").arg(serde_json::to_string(home).map_err(|e| failed(&e))?);
        command.args(common.workers.iter().flat_map(|workers| ["-p".to_owned(), workers.to_string()]));
        command.args(common.unguarded.then_some("--allow-unguarded"));
        // A group of its own: a terminal's Ctrl-C comes to the parent alone, which then stops all.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|e| failed(&e))?;
        let mut node = Node { number: home.number, child, ended: None };
        let (out, err) = (node.child.stdout.take(), node.child.stderr.take());
        let (of_out, of_err) = (std::io::stdout().is_terminal(), std::io::stderr().is_terminal());
        let (of_out, of_err) = (prefix(home.number, of_out), prefix(home.number, of_err));
        let threads = [
            out.map(|out| copy(out, std::io::stdout(), of_out, Some(tell))),
            err.map(|err| copy(err, std::io::stderr(), of_err, None)),
        ];
        // One that could not be started: the node is killed as this one is dropped.
        threads.into_iter().flatten().collect::<Result<(), _>>().map_err(|e| failed(&e))?;
        Ok(node)
    }

    fn signal(&self, signal: i32) {
        if self.ended.is_none() {
            // SAFETY: the process is our child and was not waited for, so that nobody else has its id.
            unsafe { libc::kill(self.child.id().cast_signed(), signal) };
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A node that has ended already is neither killed nor waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies a node's lines, and tells its report.
fn copy(
    from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
    prefix: String,
    tell: Option<mpsc::Sender<(u16, Addresses)>>,
) -> std::io::Result<()> {
    let work = move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        // What is longer becomes several lines.
        while (&mut from).take(MAX_LINE as u64).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let report = std::str::from_utf8(&line).ok().and_then(Report::read);
            match (report, &tell) {
                (Some(report), Some(tell)) => drop(tell.blocking_send(report)),
                _ => {
                    if !line.ends_with(b"\n") {
                        line.push(b'\n');
                    }
                    // In one piece. If nobody reads it, the node goes on all the same.
                    let _ = to.write_all(&[prefix.as_bytes(), &line].concat()).and_then(|()| to.flush());
                }
            }
            line.clear();
        }
    };
    std::thread::Builder::new().name("lines".into()).spawn(work).map(drop)
}

/// All of them.
struct Cluster {
    nodes: Vec<Node>,
    /// All nodes have served at the same time.
    serves: bool,
    stopping: bool,
}

impl Cluster {
    async fn run(
        mut self,
        mut signals: Signals,
        mut reports: mpsc::Receiver<(u16, Addresses)>,
        greeting: &Greeting,
    ) -> Result<(), String> {
        let mut serving: Vec<(u16, Addresses)> = Vec::new();
        let mut look = tokio::time::interval(LOOK);
        let mut failed = None;
        loop {
            tokio::select! {
                (_, wish) = signals.next() => match wish {
                    Wish::Stop | Wish::StopOnce if !self.stopping => self.stop(),
                    Wish::Stop => {
                        self.nodes.iter().for_each(|node| node.signal(libc::SIGKILL));
                        failed = failed.or(Some(spoken!(
                            "stopped before all connections had ended: a second signal",
                            "没有等所有连接结束就停止了：收到了第二个信号"
                        )));
                    }
                    Wish::Reload => self.nodes.iter().for_each(|node| node.signal(libc::SIGHUP)),
                    Wish::StopOnce | Wish::Reopen | Wish::Upgrade => {}
                },
                Some(report) = reports.recv() => {
                    serving.push(report);
                    if serving.len() == self.nodes.len() {
                        self.serves = true;
                        greet(greeting, std::mem::take(&mut serving));
                    }
                }
                _ = look.tick() => {
                    for (number, status) in self.ended() {
                        let whole = self.serves && !self.stopping;
                        if whole {
                            // This may be a test of the user's: the other nodes go on.
                            let node = prefix(number, std::io::stdout().is_terminal());
                            say!("{}", spoken!("{node}has ended: {status}", "{node}已经结束：{status}"));
                        }
                        if !whole && !status.success() {
                            let node = prefix(number, false);
                            failed = failed.or_else(|| Some(spoken!("{node}ended: {status}", "{node}结束了：{status}")));
                        }
                        if !self.serves && !self.stopping {
                            self.stop();
                        }
                    }
                }
            }
            if self.nodes.iter().all(|node| node.ended.is_some()) {
                return failed.map_or(Ok(()), Err);
            }
        }
    }

    /// The nodes that have ended since the last check.
    fn ended(&mut self) -> Vec<(u16, ExitStatus)> {
        let running = self.nodes.iter_mut().filter(|node| node.ended.is_none());
        let ended = running.filter_map(|node| {
            node.ended = node.child.try_wait().ok().flatten();
            node.ended.map(|status| (node.number, status))
        });
        ended.collect()
    }

    /// Each node is told by the end of its input.
    fn stop(&mut self) {
        self.stopping = true;
        self.nodes.iter_mut().for_each(|node| drop(node.child.stdin.take()));
    }
}

fn greet(greeting: &Greeting, mut nodes: Vec<(u16, Addresses)>) {
    nodes.sort_by_key(|(number, _)| *number);
    let center: Option<SocketAddr> = nodes.first().map(|(_, at)| at.center);
    let engines: Vec<Addresses> = nodes.into_iter().skip(1).map(|(_, at)| at).collect();
    center.into_iter().for_each(|center| greeting.print(&engines, center));
}
