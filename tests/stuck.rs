//! A worker that is stuck: this is noticed and reported, no caller waits for it, the other workers go on, and a stop
//! ends in time.

mod common;

use common::process::Process;
use common::tls::Authority;
use common::*;
use serde_json::json;
use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

/// `block` waits in the system, where nothing interrupts it, until the test writes to the pipe; `block inside` does so in
/// a coroutine. `spin` computes for as long as it may.
const SCRIPT: &str = "\
function on_message(msg, conn)
  if msg.data == 'block' then
    print('blocking')
    mix.mesh.publish('started', 'blocking', 'text', {counts = false})
    wait_for(mix.server.option('pipe'))
  elseif msg.data == 'block inside' then
    coroutine.wrap(function()
      wait_for(mix.server.option('pipe'))
    end)()
  elseif msg.data == 'spin' then
    while true do end
  elseif msg.data == 'id' then
    conn:send(conn:client_id())
    return
  else
    conn:subscribe(msg.data)
  end
  conn:send('done')
end

function wait_for(name)
  local pipe = assert(io.open(name))
  pipe:close()
end
";

/// A folder with a script, a pipe, and a configuration for two workers.
fn folder(server: &str, top: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    let pipe = dir.path().join("pipe");
    // SAFETY: the name is a C string.
    let made = unsafe { libc::mkfifo(std::ffi::CString::new(pipe.to_str().unwrap()).unwrap().as_ptr(), 0o600) };
    assert_eq!(made, 0);
    let file = dir.path().join("connmix.yaml");
    write_config(&file, server, "workers: 2\nluavm: {libraries: [io]}", top);
    let text = std::fs::read_to_string(&file).unwrap();
    let option = format!("options: [{{name: pipe, value: '{}'}}, ", pipe.display());
    std::fs::write(&file, text.replace("options: [", &option)).unwrap();
    dir
}

fn engine(dir: tempfile::TempDir) -> TestEngine {
    TestEngine::try_start_with(dir, |config| config.stuck_after = Duration::from_millis(500)).unwrap()
}

/// Lets a handler go on that waits in `block`.
fn unblock(dir: &Path) {
    OpenOptions::new().read(true).write(true).open(dir.join("pipe")).unwrap();
}

async fn metric(engine: &TestEngine, line: &str) -> bool {
    get(engine.at.api, "/metrics").await.1.lines().any(|l| l == line)
}

/// Clients of both workers, each in the channel `news`, by the worker.
async fn one_of_each(engine: &TestEngine) -> [(Client, u64); 2] {
    let mut found = [None, None];
    while found.iter().any(Option::is_none) {
        let mut client = engine.connect().await;
        let id: u64 = client.ask("id").await.parse().unwrap();
        assert_eq!(client.ask("news").await, "done");
        let worker = (id % 2) as usize;
        match found[worker] {
            None => found[worker] = Some((client, id)),
            Some(_) => client.close().await,
        }
    }
    found.map(Option::unwrap)
}

#[tokio::test]
async fn a_worker_that_is_stuck_costs_the_others_nothing() {
    let engine = engine(folder("handlerTimeout: 60s", ""));
    let [(mut first, first_id), (mut second, _)] = one_of_each(&engine).await;
    assert_eq!(get(engine.at.api, "/readyz").await.0, 200);
    assert_eq!(second.ask("started").await, "done");
    first.send("block").await;
    assert_eq!(second.text().await, "blocking");
    // Of these it is given some, before it is known to be stuck. Others serve them.
    let mut newcomers = Vec::new();
    for _ in 0..6 {
        newcomers.push(engine.connect().await);
        assert_eq!(newcomers.last_mut().unwrap().ask("id").await.parse::<u64>().unwrap() % 2, 1);
    }
    eventually("it is seen", async || {
        metric(&engine, "connmix_engine_worker_stuck{worker=\"0\"} 1").await.then_some(())
    })
    .await;
    for at in [engine.at.api, engine.at.center] {
        let (status, body) = get(at, "/readyz").await;
        assert!(status == 503 && body.contains("stuck: worker 0"), "{status} {body}");
        assert_eq!(get(at, "/healthz").await.0, 200);
    }
    assert!(metric(&engine, "connmix_engine_worker_stuck_total{worker=\"0\"} 1").await);
    assert_eq!(engine.publish("news", "a").await, json!({"E": null, "r": {"s": 1, "f": 1}}));
    assert_eq!(second.text().await, "a");
    let body = json!({"c": first_id.to_string(), "d": "to one"}).to_string();
    let (status, reply) = post(engine.at.api, "/v1/mesh/send", &body).await;
    assert!(status == 404 && reply.contains("401"), "{status} {reply}");
    // Newcomers go to the other worker, though it has more connections.
    for _ in 0..5 {
        let mut client = engine.connect().await;
        let id: u64 = client.ask("id").await.parse().unwrap();
        assert_eq!(id % 2, 1);
        std::mem::forget(client);
    }
    unblock(engine.dir.path());
    assert_eq!(first.text().await, "done");
    // What it was given meanwhile is not lost.
    assert_eq!([first.text().await, first.text().await], ["a", "to one"]);
    eventually("ready again", async || (get(engine.at.api, "/readyz").await.0 == 200).then_some(())).await;
    assert_eq!(engine.publish("news", "b").await, json!({"E": null, "r": {"s": 2, "f": 0}}));
}

/// The call begins before the worker counts as stuck, and its message may have been taken out of the mailbox already.
#[tokio::test]
async fn who_waits_for_a_worker_is_answered_when_it_is_stuck() {
    let engine = engine(folder("handlerTimeout: 60s", ""));
    let [(mut first, first_id), (mut second, _)] = one_of_each(&engine).await;
    // Of these the workers serve some each. Those of the stuck one are not answered.
    let mut back_ends = Vec::new();
    for _ in 0..4 {
        back_ends.push(Client::connect(engine.at.api, "/ws/v1").await);
    }
    assert_eq!(second.ask("started").await, "done");
    first.send("block").await;
    assert_eq!(second.text().await, "blocking");
    let client = first_id.to_string();
    let calls = [
        json!({"m": "mesh.publish", "p": {"c": "news", "d": "x"}, "i": 1}),
        json!({"m": "mesh.send", "p": {"c": client, "d": "y"}, "i": 2}),
        json!({"m": "conn.call", "p": {"c": client, "f": "subscribe", "a": ["other"]}, "i": 3}),
    ];
    for back_end in &mut back_ends {
        for call in &calls {
            back_end.send(&call.to_string()).await;
        }
    }
    let answers = back_ends.iter_mut().map(|back_end| {
        Box::pin(async { [back_end.text().await, back_end.text().await, back_end.text().await].join("\n") })
    });
    let (replies, ..) = futures_util::future::select_all(answers).await;
    assert!(replies.contains("\"f\":1"), "{replies}");
    assert!(replies.contains("401") && replies.contains("worker 0, which serves client"), "{replies}");
    assert_eq!(second.text().await, "x");
    unblock(engine.dir.path());
    assert_eq!(first.text().await, "done");
}

/// Nobody is left to answer but the thread that watches.
#[tokio::test]
async fn probes_are_answered_while_all_workers_are_stuck() {
    let engine = engine(folder("handlerTimeout: 60s", ""));
    let [(mut first, _), (mut second, _)] = one_of_each(&engine).await;
    first.send("block").await;
    second.send("block").await;
    for at in [engine.at.api, engine.at.center] {
        let answer = eventually("told that both are stuck", async || {
            // One that a worker has taken before it was known to be stuck is not answered.
            let request = format!("GET /readyz HTTP/1.1\r\nHost: {at}\r\n\r\n");
            let asked = tokio::time::timeout(Duration::from_millis(300), http(at, &request)).await;
            asked.ok().filter(|(_, body)| body.contains("workers"))
        });
        let (status, body) = answer.await;
        assert_eq!((status, body.as_str()), (503, r#"{"E":{"c":503,"m":"stuck: workers 0, 1"}}"#));
    }
    unblock(engine.dir.path());
    unblock(engine.dir.path());
    assert_eq!([first.text().await, second.text().await], ["done", "done"]);
    eventually("ready again", async || (get(engine.at.api, "/readyz").await.0 == 200).then_some(())).await;
    let at = engine.at.clone();
    assert!({
        drop((first, second));
        engine.shutdown().await
    });
    assert!(tokio::net::TcpStream::connect(at.api).await.is_err(), "the doors are shut");
}

/// A handshake would take a worker, so those who speak TLS get an alert.
#[tokio::test]
async fn callers_with_tls_are_turned_away_while_all_workers_are_stuck() {
    let dir = folder("handlerTimeout: 60s", "");
    let (authority, file) = (Authority::new(), dir.path().join("connmix.yaml"));
    authority.issue(dir.path(), "cert", &["localhost"]);
    let text = std::fs::read_to_string(&file).unwrap();
    let (center, rest) = text.split_once("engine:").unwrap();
    let center = center.replace("port: 0", "tls: {cert: cert.pem, key: cert.key}, port: 0");
    std::fs::write(&file, format!("{center}engine:{rest}")).unwrap();
    let engine = engine(dir);
    let trusted = authority.trusted();
    assert!(trusted.dial(engine.at.center, "localhost").await.is_ok());
    let [(mut first, _), (mut second, _)] = one_of_each(&engine).await;
    first.send("block").await;
    second.send("block").await;
    let failure = eventually("turned away", async || {
        // One that a worker has taken before it was known to be stuck is not answered.
        let dialled = trusted.dial(engine.at.center, "localhost");
        tokio::time::timeout(Duration::from_millis(300), dialled).await.ok()?.err()
    });
    let failure = failure.await;
    assert!(failure.to_string().contains("InternalError"), "{failure}");
    unblock(engine.dir.path());
    unblock(engine.dir.path());
    assert_eq!([first.text().await, second.text().await], ["done", "done"]);
    eventually("let in again", async || trusted.dial(engine.at.center, "localhost").await.ok().map(drop)).await;
}

/// The real program says which worker is stuck, in what, and that it goes on; here in Lua, with much time of its own.
#[tokio::test]
async fn the_log_says_what_a_stuck_worker_does() {
    let dir = folder("handlerTimeout: 5s", "");
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    client.send("spin").await;
    let line = process.line(" is stuck: ");
    assert!(line.contains("in on_message (entry.lua:1), computing, at entry.lua:11. "), "{line}");
    process.line(" goes on; it was stuck for ");
    assert_eq!(client.close_frame().await.0, 1011);
    assert_eq!(process.stop().code, Some(0));
}

#[tokio::test]
async fn a_stop_ends_in_time_and_says_who_was_stuck() {
    let dir = folder("", "shutdownTimeout: 1s");
    let process = Process::ready(dir.path(), &["single"]);
    let (mut client, mut other) =
        (Client::connect(process.ws(), "/ws").await, Client::connect(process.ws(), "/ws").await);
    assert_eq!([client.ask("a").await, other.ask("a").await], ["done", "done"]);
    client.send("block").await;
    process.line("blocking");
    process.signal(libc::SIGTERM);
    assert_eq!(other.close_frame().await.0, 1012);
    drop(other);
    let ended = process.ended();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let line = ended.out.lines().find(|l| l.contains(" was cut off ")).unwrap_or_else(|| panic!("{ended:?}"));
    assert!(line.contains("it is stuck, in on_message (entry.lua:1), waiting in the system (open)"), "{line}");
    // The functions that are under way, though nothing can interrupt the innermost.
    assert!(line.contains(", at entry.lua:22, called at entry.lua:5"), "{line}");
}

/// The coroutine that runs is read, and goes on as if nothing had been.
#[tokio::test]
async fn the_stack_of_a_coroutine_is_told() {
    let dir = folder("handlerTimeout: 60s", "");
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    client.send("block inside").await;
    let line = process.line(" is stuck: ");
    assert!(line.contains(", waiting in the system (open), at entry.lua:22, called at entry.lua:8. "), "{line}");
    unblock(dir.path());
    assert_eq!(client.text().await, "done");
    assert_eq!(process.stop().code, Some(0));
}
