//! Faults that only root can bring about, in namespaces of the test's own: name servers that never answer, a disk that is
//! full or read-only, little memory; and a clock that is set, which needs libfaketime. Where those are missing these
//! tests are skipped.

mod common;

use common::optional::{Missing, Outcome, need};
use common::process::{Process, run};
use common::raw::{FIN, Raw, TEXT, frame, upgrade};
use common::redis::Redis;
use common::*;
use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const SCRIPT: &str = r#"
    function on_message(msg, conn)
      local ok, a, b = pcall(assert(loadstring(msg.data)))
      conn:send(tostring(a) .. " " .. tostring(b))
    end
"#;

fn folder(server: &str, engine: &str, logging: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    let file = dir.path().join("connmix.yaml");
    write_config(&file, server, engine, "");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("logging: {filename: ''}", &format!("logging: {{{logging}}}"))).unwrap();
    dir
}

/// Whether this test may make mounts of its own.
fn need_mounts() -> Outcome {
    need("unshare", &["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
}

/// The program in a folder, in a mount namespace of its own, after these commands of the shell have run there.
fn unshared(dir: &Path, prepare: &str) -> Process {
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-ec", &format!("{prepare}\nexec \"$0\" single"), env!("CARGO_BIN_EXE_connmix")]);
    command.current_dir(dir).stdin(Stdio::null());
    let process = Process::of(command);
    process.line(" is ready; ");
    process
}

/// The program as the first process of a namespace of its own, or behind an init: how an upgrade is refused.
async fn refused(init: &[&str]) -> Outcome {
    const NAMESPACE: [&str; 4] = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    need("unshare", &[&NAMESPACE[..], &["true"]].concat())?;
    let dir = folder("", "workers: 1", "filename: ''");
    let mut command = Command::new("unshare");
    command.args(NAMESPACE).args(init).args([env!("CARGO_BIN_EXE_connmix"), "single"]);
    command.current_dir(dir.path()).stdin(Stdio::null());
    let process = Process::of(command);
    process.line(" is ready; ");
    let mut client = Client::connect(process.ws(), "/ws").await;
    for args in [&["upgrade", "--dry-run"][..], &["upgrade"]] {
        let ended = run(dir.path(), args);
        assert!(ended.code == Some(1) && ended.err.contains("container"), "{ended:?}");
    }
    assert_eq!(client.ask("return 'still'").await, "still nil");
    Ok(())
}

async fn an_upgrade_is_refused_where_the_container_ends_with_its_first_process() -> Outcome {
    refused(&[]).await
}

/// As `docker run --init` has it.
async fn an_upgrade_is_refused_behind_an_init_that_ends_with_its_child() -> Outcome {
    need("tini", &["--version"])?;
    refused(&["tini", "--"]).await
}

fn threads(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap().count()
}

/// An HTTP server that says `good`.
async fn good() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 4096]).await;
                let _ =
                    socket.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngood").await;
            });
        }
    });
    port
}

async fn name_servers_that_never_answer_hold_up_only_their_own_names() -> Outcome {
    need_mounts()?;
    let silent = UdpSocket::bind("127.83.83.83:53").map_err(|e| Missing::because(format!("port 53: {e}")))?;
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    std::thread::spawn(move || {
        while silent.recv(&mut [0; 1024]).is_ok() {
            counted.fetch_add(1, SeqCst);
        }
    });
    let (redis, http) = (Redis::start(&[]), good().await);
    let engine = format!(
        "workers: 2\nluavm:\n  redis:\n    - {{name: near, addr: 'localhost:{}'}}\n    - {{name: far, addr: 'redis.example:1'}}",
        redis.port
    );
    let dir = folder("", &engine, "filename: ''");
    std::fs::write(dir.path().join("resolv.conf"), "nameserver 127.83.83.83\n").unwrap();
    let process = unshared(dir.path(), "mount --bind resolv.conf /etc/resolv.conf");
    let mut other = Client::connect(process.ws(), "/ws").await;
    let ask_http =
        format!("local resp, err = mix.http.request('GET', 'http://localhost:{http}/') return err or resp.body");
    let before = threads(&process);
    // Fewer names than may be looked up at once; each by many clients, who do not wait for long.
    let mut clients = Vec::new();
    for i in 0..300 {
        let mut client = Client::connect(process.ws(), "/ws").await;
        let name = i % 30;
        let call = format!(
            "local r, err = mix.http.request('GET', 'http://h{name}.example/', {{timeout = '200ms'}}) return err"
        );
        client.send(&call).await;
        clients.push((client, name, call));
    }
    assert_eq!(other.ask(&ask_http).await, "good nil");
    for _ in 0..3 {
        for (client, name, call) in &mut clients {
            assert_eq!(
                client.text().await,
                format!("http: GET http://h{name}.example: no whole response within 200ms nil")
            );
            client.send(call).await;
        }
    }
    assert!(asked.load(SeqCst) > 0, "the name server is asked");
    let during = threads(&process);
    assert!(during <= before + 35, "{during} threads, before {before}");
    assert_eq!(other.ask(&ask_http).await, "good nil");
    let redis = "local reply, err = mix.redis.connection('NAME'):command('echo', 'good') return err or reply";
    assert_eq!(other.ask(&redis.replace("NAME", "near")).await, "good nil");
    assert_eq!(
        other.ask(&redis.replace("NAME", "far")).await,
        "redis far (redis.example:1): no connection within 5s nil"
    );
    drop(clients);
    // Other names than those that hang: as many as are looked up at once, and then more.
    let mut clients = Vec::new();
    for i in 0..200 {
        let mut client = Client::connect(process.ws(), "/ws").await;
        client
            .send(&format!(
                "local r, err = mix.http.request('GET', 'http://n{i}.example/', {{timeout = '100ms'}}) return err"
            ))
            .await;
        clients.push(client);
    }
    for client in &mut clients {
        assert!(client.text().await.contains("no whole response within 100ms"));
    }
    let during = threads(&process);
    assert!(during <= before + 70, "{during} threads, before {before}");
    assert_eq!(other.ask(&redis.replace("NAME", "near")).await, "good nil");
    drop(clients);
    drop(other);
    assert_eq!(process.stop().code, Some(0));
    Ok(())
}

async fn a_disk_that_is_full_or_read_only_costs_lines_and_is_told_once() -> Outcome {
    need_mounts()?;
    let dir = folder("handlerTimeout: 5s", "workers: 1", "filename: logs/c.log");
    std::fs::create_dir(dir.path().join("logs")).unwrap();
    // The file is seen from here by the process's own mounts.
    let process = unshared(dir.path(), "mount -t tmpfs -o size=64k tmpfs logs");
    let remount = |options: &str| {
        let status = Command::new("nsenter")
            .args(["-t", &process.pid().to_string(), "-m", "mount", "-o", &format!("remount,{options}")])
            .arg(dir.path().join("logs"))
            .status()
            .unwrap();
        assert!(status.success());
    };
    let mut client = Client::connect(process.ws(), "/ws").await;
    let dropped = "connmix_log_dropped_lines_total{output=\"file\"}";
    client.ask("for i = 1, 300 do mix.log(mix.INFO, 'line ' .. i .. ';' .. ('x'):rep(500)) end").await;
    process.line("the log's file cannot be written: No space left on device (os error 28); its lines are left out");
    eventually("they are counted", async || (figure(process.api(), dropped).await > 100.0).then_some(())).await;
    remount("size=1m");
    eventually("what was left out is told", async || {
        client.ask("mix.log(mix.INFO, 'there is room')").await;
        let line = "lines of the log were left out of the file: it could not be written: No space left";
        process.lines().iter().any(|l| l.contains(line)).then_some(())
    })
    .await;
    let root = PathBuf::from(format!("/proc/{}/root", process.pid()));
    let logs = root.join(dir.path().join("logs").strip_prefix("/").unwrap());
    let text = || {
        let file = std::fs::read_dir(&logs).unwrap().next().unwrap().unwrap();
        std::fs::read_to_string(file.path()).unwrap()
    };
    eventually("the file has it", async || text().contains("there is room").then_some(())).await;
    assert_eq!(process.lines().iter().filter(|l| l.contains("cannot be written")).count(), 1);
    drop(client);
    assert_eq!(process.stop().code, Some(0));
    Ok(())
}

/// A control group for memory, of either version; removed when dropped.
struct Group {
    folder: PathBuf,
}

impl Group {
    fn new(limit: u64) -> Result<Group, Missing> {
        let missing = |why: String| Missing::because(format!("no control group for memory: {why}"));
        let name = format!("connmix-test-{}", std::process::id());
        for (root, file) in [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")] {
            let folder = Path::new(root).join(&name);
            if std::fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Group { folder };
            if group.folder.join(file).exists() && std::fs::write(group.folder.join(file), limit.to_string()).is_ok() {
                return Ok(group);
            }
        }
        Err(missing("neither version is there and writable".into()))
    }

    /// The most memory that it has used, in bytes; None where the system does not tell.
    fn peak(&self) -> Option<u64> {
        let read = |file: &str| std::fs::read_to_string(self.folder.join(file)).ok();
        read("memory.peak").or_else(|| read("memory.max_usage_in_bytes"))?.trim().parse().ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its last process may just be ending.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

async fn a_crowd_in_a_small_control_group_does_not_have_the_process_killed() -> Outcome {
    let group = Group::new(400 << 20)?;
    let dir = folder("", "workers: 2", "filename: ''");
    let mut command = Command::new(env!("CARGO_BIN_EXE_connmix"));
    command.arg("single").current_dir(dir.path()).stdin(Stdio::null());
    let procs = std::ffi::CString::new(group.folder.join("cgroup.procs").to_str().unwrap()).unwrap();
    // SAFETY: only calls that may be made between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let file = libc::open(procs.as_ptr(), libc::O_WRONLY);
            match libc::write(file, c"0".as_ptr().cast(), 1) {
                1 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let process = Process::of(command);
    process.line(" is ready; ");
    let mut client = Client::connect(process.ws(), "/ws").await;
    let mut message = frame(FIN | TEXT, &vec![b'x'; 1 << 20]);
    message.truncate((1 << 20) - 100);
    let (address, message) = (process.ws(), Arc::new(message));
    let mut crowd = Vec::new();
    for _ in 0..10 {
        let message = message.clone();
        crowd.push(tokio::spawn(async move {
            let mut raws = Vec::new();
            for _ in 0..90 {
                let mut raw = Raw::dial(address).await;
                raw.write_into_the_dark(upgrade()).await;
                raw.write_into_the_dark(&*message).await;
                raws.push(raw);
            }
            raws
        }));
    }
    let mut raws = Vec::new();
    for part in crowd {
        raws.push(part.await.unwrap());
        assert_eq!(client.ask("return 1").await, "1 nil");
    }
    process.line("clients have sent more than 80 MiB that is unfinished");
    assert_eq!(client.ask("return 1").await, "1 nil");
    // A quarter more than the 80 MiB, and what the program takes at rest.
    assert!(group.peak().is_none_or(|peak| peak < 220 << 20), "{:?} bytes", group.peak());
    drop(raws);
    eventually("new clients come in", async || Client::try_connect(process.ws(), "/ws").await.ok()).await;
    drop(client);
    assert_eq!(process.stop().code, Some(0));
    Ok(())
}

async fn without_proc_it_serves_and_says_what_it_lacks() -> Outcome {
    need_mounts()?;
    let dir = folder("", "workers: 1", "filename: ''");
    let process = unshared(dir.path(), "umount -l /proc");
    process.line("the memory in use is not known (/proc/self/statm): engine.memory.high has no effect");
    let mut client = Client::connect(process.ws(), "/ws").await;
    assert_eq!(client.ask("return 1").await, "1 nil");
    assert_eq!(get(process.api(), "/metrics").await.0, 200);
    drop(client);
    assert_eq!(process.stop().code, Some(0));
    Ok(())
}

/// libfaketime's library for programs with threads.
fn faketime() -> Result<PathBuf, Missing> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    folders
        .map(|folder| folder.join("faketime/libfaketimeMT.so.1"))
        .find(|file| file.exists())
        .ok_or_else(|| Missing::because("libfaketime is not installed"))
}

async fn a_clock_that_is_set_closes_nobody_and_repeats_no_id() -> Outcome {
    let library = faketime()?;
    let redis = Redis::start(&[]);
    let engine = format!(
        "workers: 2\nluavm:\n  redis:\n    - {{name: default, addr: '127.0.0.1:{}', minIdleConns: 0, idleTimeout: 60}}",
        redis.port
    );
    let dir = folder("readTimeout: 20s\npingInterval: 5s", &engine, "filename: logs/c.log, maxFiles: 20");
    let (offset, new) = (dir.path().join("offset"), dir.path().join("offset.new"));
    std::fs::write(&offset, "+0").unwrap();
    let (one, file): (&Path, &Path) = ("1".as_ref(), &offset);
    let env = [
        ("LD_PRELOAD", &*library),
        ("FAKETIME_TIMESTAMP_FILE", file),
        ("FAKETIME_NO_CACHE", one),
        ("FAKETIME_DONT_FAKE_MONOTONIC", one),
        ("NO_FAKE_STAT", one),
    ];
    let process = Process::start_with(dir.path(), &["single"], &env);
    process.line(" is ready; ");
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(Client::connect(process.ws(), "/ws").await);
    }
    let mut ids: Vec<u64> = Vec::new();
    let body = r#"{"c":"news","d":"x","id":"once"}"#;
    let first = post(process.api(), "/v1/mesh/publish", body).await;
    assert_eq!(first.0, 200);
    let command = "return mix.redis.connection('default'):command('client', 'id')";
    let connection = clients[0].ask(command).await;
    const DAY: i64 = 86_400;
    let mut days = vec![clients[0].ask("return os.date('!%Y-%m-%d')").await];
    for seconds in [DAY, 0, -DAY, 3650 * DAY, -365 * DAY, 0] {
        let before = clients[0].ask("return mix.now()").await;
        std::fs::write(&new, format!("{seconds:+}")).unwrap();
        std::fs::rename(&new, &offset).unwrap();
        let date = eventually("the clock is set", async || {
            let step = clients[0].ask("return mix.now()").await;
            let number = |text: &str| text.split(' ').next().unwrap().parse::<f64>().unwrap();
            ((number(&step) - number(&before)).abs() > 3600.0).then_some(())?;
            Some(clients[0].ask("return os.date('!%Y-%m-%d')").await)
        })
        .await;
        for client in &mut clients {
            assert_eq!(client.ask("return mix.sleep(0.01)").await, "nil nil");
        }
        let mut newcomer = Client::connect(process.ws(), "/ws").await;
        let id = newcomer.ask("return mix.websocket():client_id()").await;
        ids.push(id.split(' ').next().unwrap().parse().unwrap());
        clients.push(newcomer);
        assert_eq!(post(process.api(), "/v1/mesh/publish", body).await, first);
        assert_eq!(clients[0].ask(command).await, connection, "it is kept");
        assert_eq!(get(process.api(), "/metrics").await.0, 200);
        clients[0].ask(&format!("mix.log(mix.INFO, 'said at {seconds}')")).await;
        days.push(date);
        // A line that is written after the next step would stand in the file of another day.
        eventually("it is written", async || {
            let files = std::fs::read_dir(dir.path().join("logs")).unwrap();
            let texts = files.filter_map(|file| std::fs::read_to_string(file.unwrap().path()).ok());
            let said: usize = texts.map(|text| text.lines().filter(|line| line.contains("said at")).count()).sum();
            (said == days.len() - 1).then_some(())
        })
        .await;
    }
    // Newer ones are greater, whatever the clock said; all of one lane.
    let lanes: std::collections::HashMap<u64, Vec<u64>> = ids.iter().fold(Default::default(), |mut lanes, id| {
        let lane: &mut Vec<u64> = std::collections::HashMap::entry(&mut lanes, id & 0xFF).or_default();
        lane.push(*id);
        lanes
    });
    assert!(lanes.values().all(|ids| ids.is_sorted_by(|a, b| a < b)), "{ids:?}");
    drop(clients);
    assert_eq!(process.stop().code, Some(0));
    // Each line is in the file of its own day.
    for entry in std::fs::read_dir(dir.path().join("logs")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let day = name.strip_prefix("c.").unwrap().strip_suffix(".log").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().all(|line| line.starts_with(day)), "{name}: {text}");
        days.retain(|other| other.split(' ').next() != Some(day));
    }
    assert!(days.is_empty(), "no file of {days:?}");
    Ok(())
}

optional_tests!(
    name_servers_that_never_answer_hold_up_only_their_own_names,
    a_disk_that_is_full_or_read_only_costs_lines_and_is_told_once,
    a_crowd_in_a_small_control_group_does_not_have_the_process_killed,
    without_proc_it_serves_and_says_what_it_lacks,
    a_clock_that_is_set_closes_nobody_and_repeats_no_id,
    an_upgrade_is_refused_where_the_container_ends_with_its_first_process,
    an_upgrade_is_refused_behind_an_init_that_ends_with_its_child,
);
