//! Containers that share a folder and a network: a process that is started in the next one takes over from the one that serves,
//! and nobody notices. The real program, each as the first process of a PID namespace of its own, with mounts of its own.

mod common;

use common::optional::{Missing, Outcome, need};
use common::ports::free_port;
use common::process::{Ended, Process, run};
use common::raw::{self, Raw};
use common::*;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use tempfile::TempDir;

const SCRIPT: &str = "\
function on_message(msg, conn)
  local what, rest = msg.data:match('^(%S+) ?(.*)$')
  if what == 'subscribe' then conn:subscribe(rest) end
  if what == 'state' then return conn:send(conn:client_id() .. ' ' .. table.concat(conn:channels(), ',')) end
  if what == 'version' then return conn:send(VERSION) end
  conn:send(msg.data)
end
VERSION = 'one'
";

/// What an image would hold: mounts where all containers have them, and the program in the place of the shell that made them.
const BEGIN: &str = "\
set -e
mount -t tmpfs none /mnt
mkdir /mnt/etc /mnt/run
mount --bind \"$1\" /mnt/etc
mount --bind \"$2\" /mnt/run
cd /mnt/etc
shift 2
exec \"$@\"";

fn can() -> Outcome {
    need("unshare", &["--pid", "--fork", "--kill-child", "--mount-proc", "mount", "-t", "tmpfs", "none", "/mnt"])
}

/// For tests of faults.
fn can_have_faults() -> Outcome {
    if !cfg!(debug_assertions) {
        return Err(Missing::because("only a debug build can be told where to crash or wait"));
    }
    can()
}

/// What containers share, and what is the same in all of them unless a test changes it.
struct Host {
    run: TempDir,
    config: String,
    script: String,
    command: &'static [&'static str],
}

impl Host {
    fn new() -> Host {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("connmix.yaml");
        write_config(&file, "", "workers: 2", "upgradeFolder: /mnt/run");
        let config = std::fs::read_to_string(file).unwrap();
        Host { run: tempfile::tempdir().unwrap(), config, script: SCRIPT.to_owned(), command: &["single"] }
    }

    fn start(&self) -> Container {
        self.start_with("", &[], &[])
    }

    /// With this in the file of faults, further arguments of unshare, and a command before the program.
    fn start_with(&self, fault: &str, unshare: &[&str], before: &[&str]) -> Container {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("connmix.yaml", &self.config);
        write("entry.lua", &self.script);
        write("crash", fault);
        let open = std::fs::Permissions::from_mode(0o755);
        [dir.path(), self.run.path()].iter().for_each(|dir| std::fs::set_permissions(dir, open.clone()).unwrap());
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]).args(unshare);
        command.args(["sh", "-c", BEGIN, "sh"]).args([dir.path(), self.run.path()]).args(before);
        command.arg(env!("CARGO_BIN_EXE_connmix")).args(self.command).args(["-f", "connmix.yaml"]);
        command.env("CONNMIX_CRASH_AT", "/mnt/etc/crash").stdin(Stdio::null());
        Container { process: Process::of(command), dir }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.run.path().join("single.sock")
    }
}

struct Container {
    process: Process,
    dir: TempDir,
}

impl Container {
    /// Waits until it serves.
    fn ready(self) -> Container {
        self.process.line(" is ready; ");
        self
    }

    fn fault(&self, text: &str) {
        std::fs::write(self.dir.path().join("crash"), text).unwrap();
    }

    /// Waits until it is where its file of faults has it wait.
    fn waits(&self) {
        let file = self.dir.path().join("crash.waits");
        let began = std::time::Instant::now();
        while !file.exists() {
            assert!(began.elapsed() < PATIENCE, "it does not come there: {:?}", self.process.lines());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Signals the program: unshare waits for it.
    fn signal(&self, signal: i32) {
        let pid = self.process.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let child: i32 = children.trim().parse().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap();
        assert!(status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")), "{status}");
        // SAFETY: it takes two numbers.
        assert_eq!(unsafe { libc::kill(child, signal) }, 0);
    }

    /// It has handed over.
    fn replaced(self) -> Ended {
        let ended = self.process.ended();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.out.contains("the process that came by upgradeFolder has "), "{ended:?}");
        ended
    }

    /// It has not taken over, and says so.
    fn refused(self, parts: &[&str]) {
        let ended = self.process.ended();
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let said = format!("{}\n{}", ended.out, ended.err);
        parts.iter().for_each(|part| assert!(said.contains(part), "{part}: {said}"));
    }

    fn stop(self) {
        self.signal(libc::SIGTERM);
        let ended = self.process.ended();
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

async fn nothing_is_lost_through_two_containers_that_follow() -> Outcome {
    can()?;
    let mut host = Host::new();
    let mut container = host.start().ready();
    let (ws, api) = (container.process.ws(), container.process.api());
    const MANY: u64 = 10;
    let mut reading = Vec::new();
    for _ in 0..MANY {
        let mut client = Client::connect(ws, "/ws").await;
        client.ask("subscribe numbers").await;
        reading.push(tokio::spawn(async move {
            for n in 0.. {
                match client.text().await.as_str() {
                    "end" => return n,
                    number => assert_eq!(number, n.to_string()),
                }
            }
            unreachable!()
        }));
    }
    let mut other = Client::connect(ws, "/ws").await;
    other.ask("subscribe news").await;
    let state = other.ask("state").await;
    let mut half = Raw::open(ws).await;
    let whole = raw::text("a message in three parts");
    half.write(&whole[..7]).await;
    let (stop, published) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let publishing = tokio::spawn({
        let (stop, published) = (stop.clone(), published.clone());
        async move {
            while !stop.load(Relaxed) {
                let n = published.load(Relaxed);
                let reply = post(api, "/v1/mesh/publish", &format!(r#"{{"c":"numbers","d":"{n}"}}"#)).await;
                assert_eq!(reply, (200, format!(r#"{{"E":null,"r":{{"s":{MANY},"f":0}}}}"#)), "number {n}");
                published.store(n + 1, Relaxed);
            }
        }
    });
    for (version, part) in [("two", 7..12), ("three", 12..whole.len())] {
        host.script = SCRIPT.replace("VERSION = 'one'", &format!("VERSION = '{version}'"));
        let next = host.start();
        next.process.line("took over 12 clients by /mnt/run/single.sock");
        let next = next.ready();
        container.replaced();
        container = next;
        assert_eq!(other.ask("version").await, version);
        assert_eq!(other.ask("state").await, state);
        half.write(&whole[part]).await;
        let before = published.load(Relaxed);
        eventually("publishing goes on", async || (published.load(Relaxed) > before + 20).then_some(())).await;
    }
    assert_eq!(half.text().await, "a message in three parts");
    stop.store(true, Relaxed);
    publishing.await.unwrap();
    assert_eq!(post(api, "/v1/mesh/publish", r#"{"c":"numbers","d":"end"}"#).await.0, 200);
    for client in reading {
        assert_eq!(client.await.unwrap(), published.load(Relaxed));
    }
    // It can't start one by itself, and says what to do.
    container.signal(libc::SIGUSR2);
    container
        .process
        .line("first process of its container, which ends with it: start the next container beside it, with an");
    container.stop();
    Ok(())
}

async fn one_that_crashes_changes_nothing() -> Outcome {
    can_have_faults()?;
    let host = Host::new();
    let first = host.start().ready();
    let mut client = Client::connect(first.process.ws(), "/ws").await;
    client.ask("subscribe news").await;
    let before = client.ask("state").await;
    for point in ["heard", "listeners", "ready", "connections", "all", "arrived"] {
        let lines = first.process.lines().len();
        let ended = host.start_with(point, &[], &[]).process.ended();
        assert_ne!(ended.code, Some(0), "{point}: {ended:?}");
        first.process.line_after(lines, "; this process goes on as before");
        assert_eq!(client.ask("state").await, before, "{point}");
        let reply = post(first.process.api(), "/v1/mesh/publish", r#"{"c":"news","d":"x"}"#).await;
        assert_eq!(reply.1, r#"{"E":null,"r":{"s":1,"f":0}}"#, "{point}");
        assert_eq!(client.text().await, "x", "{point}");
    }
    let second = host.start().ready();
    first.replaced();
    assert_eq!(client.ask("state").await, before);
    second.stop();
    Ok(())
}

async fn one_that_was_given_up_never_serves() -> Outcome {
    can_have_faults()?;
    let host = Host::new();
    let first = host.start_with("hurry", &[], &[]).ready();
    let mut client = Client::connect(first.process.ws(), "/ws").await;
    let before = client.ask("state").await;
    // It has everything, and hangs. The one before can't end it.
    let hangs = host.start_with("wait arrived", &[], &[]);
    hangs.waits();
    first.process.line("upgrade: the successor does not answer; this process goes on as before");
    assert_eq!(client.ask("state").await, before);
    let mut new = Client::connect(first.process.ws(), "/ws").await;
    assert_eq!(new.ask("hello").await, "hello");
    // Another one takes over meanwhile.
    first.fault("");
    let second = host.start().ready();
    first.replaced();
    hangs.fault("");
    hangs.refused(&["nothing was taken over"]);
    assert_eq!(client.ask("state").await, before);
    assert_eq!(new.ask("hello").await, "hello");
    second.stop();
    Ok(())
}

async fn both_end_if_the_one_before_is_killed_before_its_last_word() -> Outcome {
    can_have_faults()?;
    let host = Host::new();
    let first = host.start().ready();
    let mut client = Client::connect(first.process.ws(), "/ws").await;
    client.ask("hello").await;
    let second = host.start_with("wait arrived", &[], &[]);
    second.waits();
    first.signal(libc::SIGKILL);
    first.process.ended();
    second.fault("");
    second.refused(&["nothing was taken over"]);
    assert!(client.next().await.is_err(), "nobody serves it any more");
    Ok(())
}

async fn what_can_not_be_taken_over_is_refused_by_words() -> Outcome {
    can_have_faults()?;
    let mut host = Host::new();
    let first = host.start().ready();
    let mut client = Client::connect(first.process.ws(), "/ws").await;
    let good = host.config.clone();
    host.config = good.replacen("    - port: 0", "    - port: 1", 1);
    let changed = "engine.servers[0].port: 127.0.0.1:0 -> 127.0.0.1:1: that needs a restart";
    let hint = "An engine beside it needs another upgradeFolder, or none";
    host.start().refused(&[changed, "listens at /mnt/run/single.sock could not be replaced, and goes on", hint]);
    first.process.line(&format!("upgrade: {changed}; this process goes on as before"));
    let lines = first.process.lines().len();
    host.start_with("", &[], &["env", "LC_ALL=zh_CN.UTF-8"]).refused(&[changed, "它继续运行"]);
    first.process.line_after(lines, "upgrade: it can't take over; what it has printed says why; this process goes on");
    host.config = good;
    // A network of its own would end with the first one's container.
    host.start_with("", &["--net"], &[]).refused(&["it is in another network"]);
    // Whether it could is said without a change.
    host.command = &["upgrade", "--dry-run"];
    let could = host.start().process.ended();
    assert!(could.code == Some(0) && could.out.contains("could take over"), "{could:?}");
    host.script = "this is no Lua".to_owned();
    host.start().refused(&["entry.lua:1", hint]);
    host.script = SCRIPT.to_owned();
    host.command = &["single"];
    // Two at once.
    let second = host.start_with("wait listeners", &[], &[]);
    second.waits();
    host.start().refused(&["another process is replacing it at this moment", hint]);
    assert_eq!(client.ask("still").await, "still");
    second.fault("");
    let second = second.ready();
    first.replaced();
    assert_eq!(client.ask("still").await, "still");
    second.stop();
    Ok(())
}

async fn the_socket_of_one_that_was_killed_is_taken() -> Outcome {
    can()?;
    let mut host = Host::new();
    let first = host.start().ready();
    first.signal(libc::SIGKILL);
    first.process.ended();
    assert!(host.socket().exists());
    let second = host.start().ready();
    let mut client = Client::connect(second.process.ws(), "/ws").await;
    assert_eq!(client.ask("hello").await, "hello");
    let third = host.start().ready();
    second.replaced();
    assert_eq!(client.ask("hello").await, "hello");
    // A folder that is not there is a mistake.
    host.config = host.config.replace("/mnt/run", "/mnt/runs");
    host.start().refused(&["upgradeFolder: no process can be looked for at /mnt/runs/single.sock: No such file"]);
    third.stop();
    Ok(())
}

async fn nobody_but_the_same_user_and_root_is_heard() -> Outcome {
    can()?;
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    need(nobody[0], &[&nobody[1..], &[env!("CARGO_BIN_EXE_connmix"), "--version"]].concat())?;
    need("python3", &["--version"])?;
    let host = Host::new();
    let first = host.start().ready();
    let mut client = Client::connect(first.process.ws(), "/ws").await;
    host.start_with("", &[], &nobody).refused(&["upgradeFolder", "Permission denied"]);
    let mode = |mode| std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(host.socket(), mode(0o666)).unwrap();
    host.start_with("", &[], &nobody).refused(&["the process before can't be heard"]);
    // Nor does one of root hear what another user offers.
    std::fs::set_permissions(host.run.path(), mode(0o777)).unwrap();
    std::fs::rename(host.socket(), host.run.path().join("away")).unwrap();
    let listen = "import os, socket, sys, time; os.setuid(65534); s = socket.socket(socket.AF_UNIX); \
                  s.bind(sys.argv[1]); s.listen(); print('listens', flush=True); time.sleep(600)";
    let mut command = Command::new("python3");
    command.args(["-c", listen]).arg(host.socket());
    let other = Process::of(command);
    other.line("listens");
    host.start().refused(&["another user's process listens at /mnt/run/single.sock"]);
    assert_eq!(client.ask("still").await, "still");
    first.stop();
    Ok(())
}

/// Without containers: an upgrade by the command, and then one by the folder.
async fn both_ways_may_follow_each_other() -> Outcome {
    let (dir, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    let top = format!("upgradeFolder: {}", folder.path().display());
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 2", &top);
    let first = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(first.ws(), "/ws").await;
    let before = client.ask("state").await;
    let said = run(dir.path(), &["upgrade"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(client.ask("state").await, before);
    // Its output is the first one's.
    let third = Process::ready(dir.path(), &["single"]);
    third.line("took over 1 clients by ");
    first.line("the process that came by upgradeFolder has 1 clients");
    assert_eq!(first.ended().code, Some(0));
    assert_eq!(client.ask("state").await, before);
    assert_eq!(run(dir.path(), &["upgrade"]).code, Some(0), "the one that came is found by its file");
    assert_eq!(client.ask("state").await, before);
    let fourth = Process::ready(dir.path(), &["single"]);
    assert_eq!(third.ended().code, Some(0));
    assert_eq!(fourth.stop().code, Some(0));
    Ok(())
}

async fn nodes_of_a_cluster_are_replaced_like_others() -> Outcome {
    can()?;
    if !cfg!(feature = "cluster") {
        return Err(Missing::because("the program is built without the cluster"));
    }
    let mut host = Host::new();
    let registry = free_port();
    let top = format!(
        "cluster: {{secret: s3cret}}\n\
         engine:\n  centerRegistry: '127.0.0.1:{registry}'\n  meshPoint: {{port: {}, bind: 127.0.0.1}}",
        free_port()
    );
    let center = format!("center:\n  registry: {{port: {registry}, bind: 127.0.0.1}}");
    host.config = host.config.replacen("engine:", &top, 1).replacen("center:", &center, 1);
    host.command = &["center"];
    let center = host.start();
    let center_api = center.process.api();
    host.command = &["engine"];
    let engine = host.start().ready();
    let mut client = Client::connect(engine.process.ws(), "/ws").await;
    client.ask("subscribe news").await;
    let before = client.ask("state").await;
    host.command = &["center"];
    let next_center = host.start().ready();
    center.replaced();
    host.command = &["engine"];
    let next = host.start().ready();
    engine.replaced();
    assert_eq!(client.ask("state").await, before);
    let reply = post(next.process.api(), "/v1/mesh/publish", r#"{"c":"news","d":"x"}"#).await;
    assert_eq!(reply.1, r#"{"E":null,"r":{"s":1,"f":0}}"#);
    assert_eq!(client.text().await, "x");
    let api = next.process.api().to_string();
    let listed = async || get(center_api, "/v1/nodes").await.1.contains(&api).then_some(());
    eventually("the center lists the engine", listed).await;
    next.stop();
    next_center.stop();
    Ok(())
}

optional_tests! {
    nothing_is_lost_through_two_containers_that_follow,
    one_that_crashes_changes_nothing,
    one_that_was_given_up_never_serves,
    both_end_if_the_one_before_is_killed_before_its_last_word,
    what_can_not_be_taken_over_is_refused_by_words,
    the_socket_of_one_that_was_killed_is_taken,
    nobody_but_the_same_user_and_root_is_heard,
    both_ways_may_follow_each_other,
    nodes_of_a_cluster_are_replaced_like_others,
}
