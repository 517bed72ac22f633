//! What the system lacks on a bad day: descriptors, room on the disk, a console, files of the configuration, time to run
//! in. Clients go on, the log says once what is wrong, and all is as before when the fault ends.

mod common;

use common::process::{Process, limit};
use common::raw::{FIN, Raw, TEXT, frame, text};
use common::*;
use futures_util::future::select_all;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Runs what it is sent as Lua, and answers with the text of what that returns. `VERSION` is told apart by reloads.
const SCRIPT: &str = r#"
    version = "VERSION"
    function on_message(msg, conn)
      if msg.data == "version" then return conn:send(version) end
      local ok, a, b = pcall(assert(loadstring(msg.data)))
      conn:send(tostring(a) .. " " .. tostring(b))
    end
"#;

fn version(version: &str) -> String {
    SCRIPT.replace("VERSION", version)
}

/// A folder with the script, and a configuration whose log is that.
fn folder(server: &str, engine: &str, logging: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), version("one")).unwrap();
    let file = dir.path().join("connmix.yaml");
    write_config(&file, server, engine, "");
    edit(&file, "logging: {filename: ''}", &format!("logging: {{{logging}}}"));
    dir
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from:?} in {text}");
    std::fs::write(file, text.replace(from, to)).unwrap();
}

fn program(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_connmix"));
    command.arg("single").current_dir(dir).stdin(Stdio::null());
    command
}

/// The process, once it serves.
fn ready(command: Command) -> Process {
    let process = Process::of(command);
    process.line(" is ready; ");
    process
}

/// How many of the lines that it has printed hold `part`.
fn told(process: &Process, part: &str) -> usize {
    process.lines().iter().filter(|line| line.contains(part)).count()
}

async fn becomes(client: &mut Client, question: &str, answer: &str) {
    eventually(answer, async || (client.ask(question).await == answer).then_some(())).await;
}

/// A server that answers each thing it is sent with these bytes; where it is.
async fn answering(bytes: &'static [u8]) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                while socket.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {
                    let _ = socket.write_all(bytes).await;
                }
            });
        }
    });
    addr
}

/// The texts of all files of the log.
fn files(dir: &Path) -> Vec<String> {
    let list = std::fs::read_dir(dir.join("logs")).unwrap().map(|entry| entry.unwrap().path());
    list.map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

// Descriptors.

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_each_use_fails_by_itself_and_all_come_back() {
    let http = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
    let redis = answering(b"+PONG\r\n").await;
    let engine = format!("workers: 1\nluavm:\n  redis:\n    - {{name: default, addr: '{redis}'}}");
    let dir = folder("handlerTimeout: 5s", &engine, "filename: logs/c.log, maxSize: 64KiB");
    let process = ready(program(dir.path()));
    let mut client = Client::connect(process.ws(), "/ws").await;

    process.limit(libc::RLIMIT_NOFILE, process.next_descriptor());
    let ask_http = format!("local resp, err = mix.http.request('GET', 'http://{http}/') return err or resp.body");
    let ask_redis = "local reply, err = mix.redis.connection('default'):command('ping') return err or reply";
    for question in [&ask_http, ask_redis] {
        let answer = client.ask(question).await;
        assert!(answer.contains("Too many open files"), "{answer}");
    }
    std::fs::write(dir.path().join("entry.lua"), version("two")).unwrap();
    edit(&dir.path().join("connmix.yaml"), "handlerTimeout: 5s", "handlerTimeout: 6s");
    process.line("entry.lua was not reloaded, the code before stays: ");
    process.line("connmix.yaml: cannot be read: Too many open files");
    let (api, ws) = (process.api(), process.ws());
    let late_call = tokio::spawn(async move { get(api, "/healthz").await.0 });
    let late = tokio::spawn(async move { Client::connect(ws, "/ws").await.ask("version").await });
    process.line("cannot accept connections: Too many open files");
    // More than a file of the log takes. No line is lost.
    let log = "for i = 1, 200 do mix.log(mix.INFO, 'line ' .. i .. ';' .. ('x'):rep(1000)) end";
    client.ask(log).await;
    assert_eq!(client.ask("version").await, "one", "who is there is served");

    process.limit(libc::RLIMIT_NOFILE, 4096);
    assert_eq!(late_call.await.unwrap(), 200);
    assert!(["one", "two"].contains(&late.await.unwrap().as_str()));
    becomes(&mut client, "version", "two").await;
    becomes(&mut client, &ask_http, "hi nil").await;
    becomes(&mut client, ask_redis, "PONG nil").await;
    process.line("changed: engine.servers[0].handlerTimeout: 5s -> 6s");
    for part in ["entry.lua was not reloaded", "connmix.yaml: cannot be read"] {
        assert_eq!(told(&process, part), 1, "{part}: {:#?}", process.lines());
    }
    eventually("the next file of the log is begun", async || {
        client.ask("mix.log(mix.INFO, 'once more')").await;
        (files(dir.path()).len() > 1).then_some(())
    })
    .await;
    let whole = files(dir.path()).concat();
    for i in 1..=200 {
        assert_eq!(whole.matches(&format!("line {i};")).count(), 1, "line {i}");
    }
    assert_eq!(process.stop().code, Some(0));
}

/// A server that takes connections and never answers.
async fn silent() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut all = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            all.push(socket);
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn a_back_end_that_hangs_does_not_shut_the_apis() {
    let silent = silent().await;
    let engine = format!("workers: 1\nluavm:\n  redis:\n    - {{name: default, addr: '{silent}'}}");
    let dir = folder("", &engine, "filename: ''");
    let mut command = program(dir.path());
    limit(&mut command, libc::RLIMIT_NOFILE, 256, 256);
    let process = ready(command);
    let mut clients = Vec::new();
    for _ in 0..110 {
        clients.push(Client::connect(process.ws(), "/ws").await);
    }
    for client in &mut clients {
        client.send(&format!("return select(2, mix.http.request('GET', 'http://{silent}/', {{timeout = 600}}))")).await;
    }
    // Some find no descriptor; the others wait.
    let kept = "too many open files (ulimit -n): the rest is kept for the APIs";
    let (said, at, _) = select_all(clients.iter_mut().map(|client| Box::pin(client.text()))).await;
    assert_eq!(said, format!("http: GET http://{silent}: {kept} nil"));
    let mut last = clients.swap_remove(at);
    let answer = last.ask("return select(2, mix.redis.connection('default'):command('ping'))").await;
    assert_eq!(answer, format!("redis default ({silent}): {kept} nil"));
    for _ in 0..10 {
        assert_eq!(get(process.api(), "/healthz").await.0, 200);
    }
    assert_eq!(told(&process, "cannot accept"), 0);
    drop(clients);
    eventually("there are descriptors again", async || {
        let call = format!("return select(2, mix.http.request('GET', 'http://{silent}/', {{timeout = '10ms'}}))");
        last.ask(&call).await.contains("no whole response within 10ms").then_some(())
    })
    .await;
    drop(last);
    assert_eq!(process.stop().code, Some(0));
}

// The log.

#[tokio::test]
async fn a_disk_that_is_full_costs_lines_and_is_told_once() {
    let dir = folder("", "workers: 1", "filename: logs/c.log");
    let mut command = program(dir.path());
    limit(&mut command, libc::RLIMIT_FSIZE, 20_000, libc::RLIM_INFINITY);
    let process = ready(command);
    let mut client = Client::connect(process.ws(), "/ws").await;
    let dropped = "connmix_log_dropped_lines_total{output=\"file\"}";
    client.ask("for i = 1, 100 do mix.log(mix.INFO, 'line ' .. i .. ';' .. ('x'):rep(300)) end").await;
    process.line("the log's file cannot be written: File too large (os error 27); its lines are left out");
    eventually("they are counted", async || (figure(process.api(), dropped).await > 40.0).then_some(())).await;
    assert_eq!(client.ask("version").await, "one", "the service goes on");
    process.limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
    let said = eventually("what was left out is told", async || {
        client.ask("mix.log(mix.INFO, 'there is room')").await;
        let lines = process.lines();
        lines.iter().find(|line| line.contains("lines of the log were left out of the file")).cloned()
    })
    .await;
    assert!(said.contains("it could not be written: File too large"), "{said}");
    assert_eq!(told(&process, "cannot be written"), 1);
    let lost = figure(process.api(), dropped).await;
    assert!(said.contains(&format!(" {lost} lines")), "{lost}: {said}");
    assert_eq!(process.stop().code, Some(0));
    let file = files(dir.path()).concat();
    assert!(file.contains("there is room") && file.contains("left out of the file"), "{file}");
    // One that was cut short stands alone.
    assert!(file.lines().all(|line| line.starts_with('2') && line.matches("Z  INFO ").count() <= 1), "{file}");
}

/// An output that takes nothing: of a full disk, or a pipe whose reader has gone.
fn output(kind: &str) -> Stdio {
    match kind {
        "No space left" => std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into(),
        _ => std::io::pipe().unwrap().1.into(),
    }
}

#[tokio::test]
async fn a_console_that_is_full_or_has_no_reader_is_told_in_the_file() {
    for (mode, why) in
        [("single", "No space left"), ("single", "Broken pipe"), ("dev", "No space left"), ("dev", "Broken pipe")]
    {
        let dir = folder("", "workers: 1", "filename: logs/c.log");
        let addr = common::ports::free_addr();
        edit(&dir.path().join("connmix.yaml"), "- port: 0", &format!("- port: {}", addr.port()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_connmix"));
        command.arg(mode).current_dir(dir.path()).stdin(Stdio::null()).stdout(output(why)).stderr(output(why));
        let mut child = Killed(command.spawn().unwrap());
        let mut client = eventually("it serves", async || Client::try_connect(addr, "/ws").await.ok()).await;
        assert_eq!(client.ask("version").await, "one", "{mode} {why}");
        // `dev` has no file.
        if mode == "single" {
            let part = format!("the log's console cannot be written: {why}");
            eventually(&part, async || files(dir.path()).concat().contains(&part).then_some(())).await;
        }
        // SAFETY: the process is ours, and has not been waited for.
        unsafe { libc::kill(child.0.id() as i32, libc::SIGTERM) };
        assert_eq!(client.close_frame().await.0, 1012);
        drop(client);
        assert!(child.0.wait().unwrap().success(), "{mode} {why}");
    }
}

/// A child that does not outlive its test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_console_that_does_not_block_is_waited_for() {
    let dir = folder("handlerTimeout: 5s", "workers: 1", "filename: ''");
    let (reader, writer) = std::io::pipe().unwrap();
    // SAFETY: the descriptor is open.
    unsafe {
        use std::os::fd::AsRawFd;
        assert_eq!(libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK), 0);
    }
    let mut command = program(dir.path());
    let child = Killed(command.stdout(writer).spawn().unwrap());
    drop(command);
    let mut console = BufReader::new(reader).lines().map(|line| line.unwrap());
    let line = console.find(|line| line.contains("serving clients on ")).unwrap();
    let mut client = Client::connect(process::address(&line, "serving clients on "), "/ws").await;
    // Far more than a pipe holds, and nobody reads it meanwhile.
    client.ask("for i = 1, 500 do mix.log(mix.INFO, 'line ' .. i .. ';' .. ('x'):rep(1000)) end").await;
    let (found, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || console.filter(|line| line.contains("line ")).try_for_each(|line| found.send(line)));
    let lines: Vec<String> = (0..500).map(|_| lines.recv_timeout(PATIENCE).unwrap()).collect();
    for (i, line) in lines.iter().enumerate() {
        assert!(line.contains(&format!("line {};xxx", i + 1)) && line.len() > 1000, "{line}");
    }
    drop(child);
}

// The configuration and the scripts.

#[tokio::test]
async fn a_configuration_that_is_spoilt_or_gone_changes_nothing_and_is_told_once() {
    let dir = folder("maxMessageSize: 1KiB", "workers: 1", "filename: ''");
    let file = dir.path().join("connmix.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    let process = ready(program(dir.path()));
    let mut client = Client::connect(process.ws(), "/ws").await;
    let half = &good[..good.len() * 2 / 3];
    let name = std::ffi::CString::new(file.to_str().unwrap()).unwrap();
    let spoil: [(&str, &str, &dyn Fn()); 5] = [
        ("gone", "connmix.yaml is gone, the configuration before stays", &|| ()),
        ("a loop of links", "is gone, the configuration before stays: Too many levels of symbolic links", &|| {
            std::os::unix::fs::symlink(&file, &file).unwrap()
        }),
        ("a folder", "connmix.yaml: cannot be read: it is a folder", &|| std::fs::create_dir(&file).unwrap()),
        ("a FIFO", "connmix.yaml: cannot be read: it is a FIFO", &|| {
            // SAFETY: the name is a C string.
            assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0)
        }),
        ("half of it", "the configuration was not reloaded", &|| std::fs::write(&file, half).unwrap()),
    ];
    for (round, (what, line, spoil)) in spoil.iter().enumerate() {
        let before = process.lines().len();
        std::fs::remove_file(&file).or_else(|_| std::fs::remove_dir(&file)).unwrap();
        spoil();
        process.line_after(before, line);
        assert_eq!(client.ask("version").await, "one", "{what}");
        // A saved script is taken up all the same.
        std::fs::write(dir.path().join("entry.lua"), version(&format!("v{round}"))).unwrap();
        becomes(&mut client, "version", &format!("v{round}")).await;
        let lines = process.lines();
        assert_eq!(lines[before..].iter().filter(|l| l.contains(line)).count(), 1, "{what}: {lines:#?}");
        let _ = std::fs::remove_file(&file).or_else(|_| std::fs::remove_dir(&file));
        let before = process.lines().len();
        std::fs::write(&file, good.replace("1KiB", &format!("{}KiB", round + 2))).unwrap();
        process.line_after(before, "reloaded connmix.yaml");
        std::fs::write(dir.path().join("entry.lua"), version("one")).unwrap();
        becomes(&mut client, "version", "one").await;
    }
    assert_eq!(process.stop().code, Some(0));
}

#[tokio::test]
async fn a_thousand_saves_under_load_cost_no_connection_and_no_memory() {
    let dir = folder("", "workers: 2", "filename: ''");
    let process = ready(program(dir.path()));
    let entry = dir.path().join("entry.lua");
    let mut client = Client::connect(process.ws(), "/ws").await;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut load = Vec::new();
    for _ in 0..20 {
        let (ws, stop) = (process.ws(), stop.clone());
        load.push(tokio::spawn(async move {
            let mut client = Client::connect(ws, "/ws").await;
            let mut answers = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(client.ask("return 7").await, "7 nil");
                answers += 1;
            }
            answers
        }));
    }
    let mut used = Vec::new();
    for round in 0..2 {
        for i in 0..500 {
            let new = entry.with_extension("new");
            std::fs::write(&new, version(&format!("save{round}{i}"))).unwrap();
            std::fs::rename(&new, &entry).unwrap();
            // Long enough for some of them to be taken up.
            let pause = if i % 100 == 0 { 300 } else { 1 };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        becomes(&mut client, "version", &format!("save{round}499")).await;
        used.push(process.resident());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for client in load {
        assert!(client.await.unwrap() > 0);
    }
    assert!(told(&process, "reloaded entry.lua") > 5);
    assert!(used[1] < used[0] + (16 << 20), "{used:?}");
    assert_eq!(process.stop().code, Some(0));
}

// Time.

#[tokio::test]
async fn a_handler_that_ran_while_the_process_was_stopped_is_not_over_its_time() {
    let dir = folder("handlerTimeout: 3s", "workers: 1", "filename: ''");
    let process = ready(program(dir.path()));
    let mut client = Client::connect(process.ws(), "/ws").await;
    let mut caller = Raw::dial(process.api()).await;
    let mut half = Raw::open(process.ws()).await;
    let message = text("return 'whole'");
    half.write(&message[..5]).await;
    // By the processor's time, which does not run while it is stopped.
    client.send("local t = os.clock() while os.clock() - t < 0.3 do end return 'done'").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    process.signal(libc::SIGSTOP);
    let body = r#"{"c":"news","d":"x"}"#;
    caller
        .write(format!(
            "POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    half.write(&message[5..]).await;
    tokio::time::sleep(Duration::from_millis(3500)).await;
    process.signal(libc::SIGCONT);
    assert_eq!(client.text().await, "done nil");
    assert_eq!(caller.reply().await.status, 200);
    assert_eq!(half.text().await, "whole nil");
    assert_eq!(process.stop().code, Some(0));
}

// Memory.

/// A message of a MiB that lacks its last bytes.
fn unfinished() -> Vec<u8> {
    let mut message = frame(FIN | TEXT, &vec![b'x'; 1 << 20]);
    message.truncate((1 << 20) - 100);
    message
}

#[tokio::test]
async fn a_limit_of_the_process_is_its_memory() {
    let dir = folder("", "workers: 1", "filename: ''");
    let mut command = program(dir.path());
    const LIMIT: u64 = 400 << 20;
    limit(&mut command, libc::RLIMIT_DATA, LIMIT, LIMIT);
    let process = ready(command);
    let mut client = Client::connect(process.ws(), "/ws").await;
    let mut greedy = Vec::new();
    for _ in 0..500 {
        let mut raw = Raw::dial(process.ws()).await;
        raw.write_into_the_dark(common::raw::upgrade()).await;
        raw.write_into_the_dark(unfinished()).await;
        greedy.push(raw);
    }
    process.line("clients have sent more than 67 MiB that is unfinished");
    assert_eq!(client.ask("version").await, "one");
    drop(greedy);
    eventually("new clients come in", async || Client::try_connect(process.ws(), "/ws").await.ok()).await;
    assert_eq!(process.stop().code, Some(0));
}

#[tokio::test]
async fn memory_that_is_free_again_goes_back_to_the_system() {
    let dir = folder("handlerTimeout: 10s", "workers: 1\nmemory: {high: 120MiB}", "filename: ''");
    let process = ready(program(dir.path()));
    let mut client = Client::connect(process.ws(), "/ws").await;
    client.ask("kept = {} for i = 1, 150 do kept[i] = ('x'):rep(1e6) .. i end").await;
    process.line("memory is short");
    assert!(Client::try_connect(process.ws(), "/ws").await.is_err());
    client.ask("kept = nil collectgarbage() collectgarbage()").await;
    process.line("memory is enough again");
    eventually("new clients come in", async || Client::try_connect(process.ws(), "/ws").await.ok()).await;
    assert_eq!(process.stop().code, Some(0));
}

#[test]
fn what_a_command_prints_may_have_no_reader() {
    let dir = folder("", "workers: 1", "filename: ''");
    for command in ["check", "config", "test"] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_connmix"));
        run.arg(command).current_dir(dir.path()).stdin(Stdio::null());
        let status = run.stdout(output("Broken pipe")).stderr(output("Broken pipe")).status().unwrap();
        // There are no tests of the script.
        let code = if command == "test" { 2 } else { 0 };
        assert_eq!(status.code(), Some(code), "{command}");
    }
}
