//! Admission under load: the API beside a flooded public port and beside idle callers, correct credentials beside wrong
//! ones, and the log of all that.

mod common;

use base64::Engine as _;
use common::process::Process;
use common::raw::{Raw, Reply, text, upgrade};
use common::{TestEngine, eventually, get, write_config};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::Command;
use tempfile::TempDir;
use tokio::net::TcpStream;

const ECHO: &str = "function on_message(msg, conn) conn:send(msg.data) end";
const BODY: &str = r#"{"c":"news","d":"x"}"#;

fn folder(script: &str, server: &str, engine: &str, top: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    write_config(&dir.path().join("connmix.yaml"), server, engine, top);
    dir
}

/// The program, which may have so many files open.
fn with_files(dir: &TempDir, files: u64) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_connmix"));
    command.arg("single").current_dir(dir.path());
    let limit = libc::rlimit { rlim_cur: files, rlim_max: files };
    // SAFETY: setrlimit may be called between fork and exec.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &limit) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let process = Process::of(command);
    process.line(" is ready; ");
    process
}

fn publish(headers: &str) -> String {
    let length = BODY.len();
    format!("POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{BODY}")
}

fn login(password: &str) -> String {
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("ann:{password}"));
    publish(&format!("Authorization: Basic {credentials}\r\n"))
}

async fn call(addr: SocketAddr, request: &str) -> Reply {
    Raw::dial(addr).await.call(request).await
}

/// Whether the other side has ended the connection.
async fn has_ended(stream: &TcpStream) -> bool {
    let mut byte = [0];
    match stream.try_read(&mut byte) {
        Ok(n) => n == 0,
        Err(e) => e.kind() != std::io::ErrorKind::WouldBlock,
    }
}

#[tokio::test]
async fn clients_that_use_all_descriptors_up_do_not_shut_the_api() {
    let dir = folder(ECHO, "", "workers: 2", "");
    let process = with_files(&dir, 256);
    let (ws, api) = (process.ws(), process.api());
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(ws).await.unwrap());
    }
    process.line("clients are refused");
    for _ in 0..20 {
        assert_eq!(call(api, &publish("")).await.status, 200);
    }
    let mut late = Raw::dial(ws).await;
    assert_eq!(late.head().await.status, 503);
    let errors = process.lines().iter().filter(|line| line.contains("cannot accept")).count();
    assert_eq!(errors, 0);
    drop(silent);
    eventually("a client is let in", async || {
        let mut raw = Raw::dial(ws).await;
        raw.write_into_the_dark(upgrade()).await;
        raw.rest_of(12).await.starts_with(b"HTTP/1.1 101").then_some(())
    })
    .await;
}

#[tokio::test]
async fn callers_that_idle_make_room_the_oldest_first() {
    let dir = folder(ECHO, "", "workers: 2", "");
    // A port may have 12 connections, and an address 6.
    let process = with_files(&dir, 256);
    let api = process.api();
    let mut busy = Raw::dial(api).await;
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(api).await.unwrap());
        // One that calls now and then is not idle for long.
        assert_eq!(busy.call(publish("")).await.status, 200);
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    assert_eq!(call(api, &publish("")).await.status, 200);
    assert_eq!(get(api, "/healthz").await.0, 200);
    let ended = eventually("the oldest have ended", async || {
        let mut ended = Vec::new();
        for stream in &idle {
            ended.push(has_ended(stream).await);
        }
        (ended.iter().filter(|ended| **ended).count() >= 36).then_some(ended)
    })
    .await;
    let first_alive = ended.iter().position(|ended| !ended).unwrap();
    assert!(ended[first_alive..].iter().all(|ended| !ended), "the youngest stay: {ended:?}");
    assert_eq!(busy.call(publish("")).await.status, 200);
}

#[tokio::test]
async fn handshakes_under_way_count_as_connections() {
    let engine = TestEngine::with(ECHO, "maxConnections: 2", "workers: 1");
    let mut silent = [Raw::dial(engine.ws()).await, Raw::dial(engine.ws()).await];
    // It gets no chance to send a request.
    let mut third = Raw::dial(engine.ws()).await;
    let reply = third.reply().await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.body.contains("maxConnections"), "{reply:?}");
    assert_eq!(silent[0].ask_open().await, 101);
    // A refused one gives its place back before its client has gone.
    assert_eq!(silent[1].call("GET /other HTTP/1.1\r\nHost: x\r\n\r\n").await.status, 404);
    let _open = Raw::open(engine.ws()).await;
}

impl Raw {
    /// The status of a handshake.
    async fn ask_open(&mut self) -> u16 {
        self.write(upgrade()).await;
        self.head().await.status
    }
}

#[tokio::test]
async fn a_handshake_has_its_time_with_all_that_on_handshake_waits_for() {
    let script = "function on_handshake(id, headers, server)
  if server.RequestUri == '/ws?wait' then mix.sleep(100) end
end
function on_message(msg, conn) conn:send(msg.data) end
function on_close(id, err, conn) end";
    let engine = TestEngine::with(script, "handshakeTimeout: 700ms", "workers: 1");
    let (mut waits, mut half) = (Raw::dial(engine.ws()).await, Raw::dial(engine.ws()).await);
    half.write("GET /ws HTTP/1.1\r\nHost: ").await;
    let reply = waits.call(upgrade().replace("/ws ", "/ws?wait ")).await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert!(reply.body.contains("handshakeTimeout"), "{reply:?}");
    assert_eq!(half.reply().await.status, 408);
    let mut other = Raw::open(engine.ws()).await;
    assert_eq!(other.ask("hello").await, "hello");
}

/// The number that a log line says were left out before it.
fn left_out(line: &str) -> usize {
    let number = line.split("left_out=").nth(1).map(|rest| rest.split(' ').next().unwrap());
    number.map_or(0, |number| number.parse().unwrap())
}

#[tokio::test]
async fn a_cause_that_clients_repeat_has_one_line_a_second_with_the_number_left_out() {
    const TIMES: usize = 300;
    let script =
        "function on_handshake(id, headers, server) if server.RequestUri ~= '/ws' then error('not here') end end
function on_message(msg, conn) error('nor here') end";
    let dir = folder(script, "", "workers: 2", "");
    let process = Process::ready(dir.path(), &["single"]);
    let ws = process.ws();
    let begun = std::time::Instant::now();
    for _ in 0..TIMES {
        let mut raw = Raw::dial(ws).await;
        assert_eq!(raw.call(upgrade().replace("/ws ", "/ws?x ")).await.status, 500);
    }
    let mut one = Raw::open(ws).await;
    one.write(text("go")).await;
    assert_eq!(one.close_frame().await.0, 1011);
    let about = |part: &str| {
        let lines: Vec<_> = process.lines().into_iter().filter(|line| line.contains(part)).collect();
        // Lines that only tell of left-out ones are not counted.
        let own = lines.iter().filter(|line| !line.contains("lines were left out")).count();
        (own + lines.iter().map(|line| left_out(line)).sum::<usize>(), lines.len())
    };
    let lines = eventually("all are accounted for", async || {
        let (told, lines) = about("entry.lua:1");
        (told == TIMES).then_some(lines)
    })
    .await;
    let seconds = begun.elapsed().as_secs() as usize;
    assert!(lines <= seconds + 2, "{lines} lines in {seconds} s");
    assert_eq!(about("entry.lua:2: nor here"), (1, 1), "another cause is not hidden");
}

/// What in-process engines have logged.
static LOGGED: std::sync::Mutex<Vec<u8>> = std::sync::Mutex::new(Vec::new());

fn capture_log() {
    struct Lines;
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            LOGGED.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let _ = tracing_subscriber::fmt().with_ansi(false).with_writer(|| Lines).try_init();
}

async fn logged(part: &str) {
    eventually(part, async || String::from_utf8_lossy(&LOGGED.lock().unwrap()).contains(part).then_some(())).await;
}

/// An open connection from that address of this machine.
async fn open_from(n: u8, engine: &TestEngine) -> Raw {
    Raw::dial_from([127, 0, 0, n].into(), engine.ws()).await.opened().await
}

const WAITING: &str = "function on_message(msg, conn)
  if #msg.data > 5 or msg.data == 'wait' then
    conn:send('waiting')
    conn:wait_context_value('never')
  end
  conn:send(#msg.data == 0 and '' or msg.data)
end
function on_close() end";

#[tokio::test]
async fn no_address_and_no_hook_takes_all_places_of_handlers_that_wait() {
    capture_log();
    let script = format!("{WAITING}\nfunction on_handshake() mix.sleep(0.001) end");
    // An address may have two of them, a hook four.
    let engine = TestEngine::with_waiting(&script, 8, "pingInterval: 0");
    let mut first = [open_from(1, &engine).await, open_from(1, &engine).await, open_from(1, &engine).await];
    let mut second = [open_from(2, &engine).await, open_from(2, &engine).await];
    let mut third = [open_from(3, &engine).await, open_from(3, &engine).await];
    for raw in &mut first[..2] {
        assert_eq!(raw.ask("wait").await, "waiting");
    }
    // Its address has no place left, and neither has a newcomer from it.
    first[2].write(text("hello")).await;
    logged("wait for clients of one address").await;
    let mut late = Raw::dial_from([127, 0, 0, 1].into(), engine.ws()).await;
    late.write(upgrade()).await;
    assert_eq!(second[0].ask("hello").await, "hello", "another address");
    for raw in &mut second {
        assert_eq!(raw.ask("wait").await, "waiting");
    }
    // Now the hook has no place left; another one has.
    third[0].write(text("hello")).await;
    logged("wait in one hook").await;
    let _in = open_from(4, &engine).await;
    // A handler that ends gives its place to its like.
    let [one, _, waits] = first;
    drop(one);
    let (mut waits, mut late) = (waits, late);
    assert_eq!(late.head().await.status, 101);
    drop(second);
    assert_eq!(waits.text().await, "hello");
    assert_eq!(third[0].text().await, "hello");
}

#[tokio::test]
async fn a_vm_whose_memory_waiting_handlers_use_up_is_replaced() {
    capture_log();
    let dir = folder(WAITING, "pingInterval: 0", "workers: 1\nluavm: {memoryLimit: 16MiB}", "");
    let engine = TestEngine::start(dir);
    let mut crowd = Vec::new();
    for i in 100..140 {
        let mut raw = Raw::open(engine.ws()).await;
        // Lua keeps equal texts once.
        raw.write(text(&i.to_string().repeat(600 * 1024 / i.to_string().len()))).await;
        assert_eq!(raw.frame().await.map(|(_, payload)| payload), Some(b"waiting".to_vec()), "handler {i}");
        crowd.push(raw);
    }
    logged("a fresh VM takes over").await;
    let mut other = Raw::open(engine.ws()).await;
    assert_eq!(other.ask("hello").await, "hello");
    let waiting = async || {
        let page = get(engine.at.api, "/metrics").await.1;
        let line = page.lines().find(|line| line.starts_with("connmix_engine_waiting_handlers")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    eventually("those of both VMs wait", async || (waiting().await == 40.0).then_some(())).await;
    drop(crowd);
    eventually("all have ended", async || (waiting().await == 0.0).then_some(())).await;
    assert_eq!(other.ask("hello").await, "hello");
}

const USERS: &str = "access: {users: [{username: ann, password: right}]}";

/// Guesses on and on until it is aborted: the statuses that it saw.
async fn guess(api: SocketAddr, seen: std::sync::Arc<std::sync::Mutex<Vec<u16>>>) {
    loop {
        let mut raw = Raw::dial(api).await;
        loop {
            let reply = raw.call(login("wrong")).await;
            seen.lock().unwrap().push(reply.status);
            if reply.header("connection") == Some("close") {
                break;
            }
        }
    }
}

#[tokio::test]
async fn guesses_beyond_those_that_wait_are_not_looked_at_and_back_ends_get_in() {
    for (users, is_known) in [(USERS.to_owned(), false), (USERS.replace("right", "right, host: 127.0.0.1"), true)] {
        let engine = TestEngine::with_top(ECHO, "", "workers: 2", &users);
        let api = engine.at.api;
        let seen = std::sync::Arc::default();
        let mut tasks = tokio::task::JoinSet::new();
        let guessers = |tasks: &mut tokio::task::JoinSet<()>, n: usize| {
            (0..n).for_each(|_| drop(tasks.spawn(guess(api, std::sync::Arc::clone(&seen)))));
        };
        guessers(&mut tasks, 30);
        eventually("guesses are not looked at", async || seen.lock().unwrap().contains(&429).then_some(())).await;
        if is_known {
            // The configuration says that a back end is there.
            for _ in 0..30 {
                assert_eq!(call(api, &login("right")).await.status, 200);
            }
            continue;
        }
        // Correct credentials are not checked either: otherwise each answer would tell something about a guess.
        eventually("right ones are not looked at", async || {
            let reply = call(api, &login("right")).await;
            assert!([200, 429].contains(&reply.status), "{reply:?}");
            (reply.status == 429).then(|| assert_eq!(reply.header("retry-after"), Some("1")))
        })
        .await;
        tasks.shutdown().await;
        let mut back_end = Raw::dial(api).await;
        eventually("a back end gets in", async || {
            back_end = Raw::dial(api).await;
            (back_end.call(login("right")).await.status == 200).then_some(())
        })
        .await;
        seen.lock().unwrap().clear();
        guessers(&mut tasks, 30);
        eventually("guesses are not looked at again", async || seen.lock().unwrap().contains(&429).then_some(())).await;
        for _ in 0..30 {
            assert_eq!(back_end.call(login("right")).await.status, 200, "its connection");
            assert_eq!(call(api, &login("right")).await.status, 200, "another one of it");
        }
    }
}

#[tokio::test]
async fn a_caller_that_calls_and_does_not_read_does_not_hold_the_stop_up() {
    let engine = TestEngine::with_top(ECHO, "", "workers: 1", "shutdownTimeout: 15");
    let caller = TcpStream::connect(engine.at.api).await.unwrap();
    let calls = publish("").repeat(100);
    // Until the answers that it does not read fill all buffers.
    let mut stuck = 0;
    while stuck < 20 {
        match caller.try_write(calls.as_bytes()) {
            Ok(_) => stuck = 0,
            Err(_) => {
                stuck += 1;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    }
    assert!(engine.shutdown().await, "nobody was cut off");
}
