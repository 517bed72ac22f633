//! The clients of `docs/clients`, run as they are against the real program.

mod common;

use common::optional::{Outcome, need};
use common::process::{Ended, Process};
use common::{Client, PATIENCE, eventually, http};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

/// What each says of a user that `connmix.yaml` has: "backend:change-me".
const BASIC: &str = "Authorization: Basic YmFja2VuZDpjaGFuZ2UtbWU=";

/// Subscribes a client to what it names.
const SUBSCRIBER: &str = "function on_message(msg, conn) conn:subscribe(msg.data) conn:send('subscribed') end";

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients")
}

/// The folder's engine, on free ports.
struct Server {
    _dir: TempDir,
    process: Process,
}

impl Server {
    /// With another script if one is given.
    fn start(script: Option<&str>) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let mut config = fs::read_to_string(clients().join("connmix.yaml")).unwrap();
        for port in ["6787", "6789", "6790"] {
            assert!(config.contains(&format!("port: {port}")));
            config = config.replace(&format!("port: {port}"), "port: 0");
        }
        fs::write(dir.path().join("connmix.yaml"), config).unwrap();
        let shipped = fs::read_to_string(clients().join("login.lua")).unwrap();
        fs::write(dir.path().join("login.lua"), script.unwrap_or(&shipped)).unwrap();
        let process = Process::ready(dir.path(), &["dev"]);
        Server { _dir: dir, process }
    }

    async fn client(&self) -> Client {
        Client::connect(self.process.ws(), "/login").await
    }

    /// Stops it; nothing may have gone wrong in its script.
    fn stop(self) {
        let ended = self.process.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(!ended.out.contains("ERROR"), "{}", ended.out);
    }
}

/// Stands between a client and the API: counts connections, and breaks them.
struct Relay {
    at: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    /// How often all connections were cut.
    cuts: watch::Sender<usize>,
    /// Whether what clients send goes through.
    open: watch::Sender<bool>,
    counts: watch::Sender<Counts>,
}

/// Connections so far: all, those that the relay has ended, and those that their clients have ended.
#[derive(Default)]
struct Counts {
    accepted: usize,
    cut: usize,
    ended: usize,
}

impl Relay {
    async fn start(target: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay {
            at: listener.local_addr().unwrap(),
            target: Arc::new(Mutex::new(target)),
            cuts: watch::Sender::new(0),
            open: watch::Sender::new(true),
            counts: watch::Sender::default(),
        };
        let (target, cuts) = (relay.target.clone(), relay.cuts.clone());
        let (open, counts) = (relay.open.clone(), relay.counts.clone());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                counts.send_modify(|n| n.accepted += 1);
                let (target, counts) = (*target.lock().unwrap(), counts.clone());
                let (mut cuts, open) = (cuts.subscribe(), open.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        _ = carry(&mut client, target, open) => {}
                        _ = cuts.changed() => {}
                    }
                    let _ = client.shutdown().await;
                    counts.send_modify(|n| n.cut += 1);
                    while client.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
                    counts.send_modify(|n| n.ended += 1);
                });
            }
        });
        relay
    }

    fn accepted(&self) -> usize {
        self.counts.borrow().accepted
    }

    /// Ends all connections there are. `noticed`: waits until their clients have ended them, too.
    async fn cut(&self, noticed: bool) {
        let all = self.accepted();
        self.cuts.send_modify(|n| *n += 1);
        let mut counts = self.counts.subscribe();
        let over = counts.wait_for(|n| if noticed { n.ended >= all } else { n.cut >= all });
        timeout(PATIENCE, over).await.expect("the connections end").unwrap();
    }
}

/// Carries one connection's bytes until either side ends it.
async fn carry(client: &mut TcpStream, target: SocketAddr, mut open: watch::Receiver<bool>) -> std::io::Result<()> {
    let mut engine = TcpStream::connect(target).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_engine, mut to_engine) = engine.split();
    let there = async {
        let mut buffer = [0; 4096];
        loop {
            let n = from_client.read(&mut buffer).await?;
            if n == 0 || open.wait_for(|open| *open).await.is_err() {
                return Ok(());
            }
            to_engine.write_all(&buffer[..n]).await?;
        }
    };
    tokio::select! {
        done = there => done,
        done = tokio::io::copy(&mut from_engine, &mut to_client) => done.map(drop),
    }
}

/// A client of the folder, its `program` and arguments, which finds the API there.
fn run(program: &Path, args: &[&str], api: SocketAddr, user: &str) -> Process {
    let mut command = Command::new(program);
    command.args(args).current_dir(clients()).stdin(Stdio::piped());
    command.env("CONNMIX_API", format!("http://{api}")).env("CONNMIX_USER", user);
    for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Process::of(command)
}

async fn every_client_is_listed_and_shown_as_it_is() -> Outcome {
    let readme = fs::read_to_string(clients().join("README.md")).unwrap();
    let mut files = String::new();
    for entry in fs::read_dir(clients()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !["README.md", "connmix.yaml"].contains(&name.as_str()) {
            assert!(readme.contains(&format!("[{name}]({name})")), "{name}");
            files += &fs::read_to_string(clients().join(name)).unwrap();
        }
    }
    let mut shown = 0;
    for block in readme.split("\n```").skip(1).step_by(2) {
        let (language, code) = block.split_once('\n').unwrap();
        if language != "sh" {
            assert!(files.contains(&format!("{code}\n")), "{code}");
            shown += 1;
        }
    }
    assert_eq!(shown, 5);
    Ok(())
}

/// What every publisher does: `noticing` if it learns of a connection's end before it needs it again.
async fn publishes(program: &Path, args: &[&str], noticing: bool) {
    let server = Server::start(Some(SUBSCRIBER));
    let api = server.process.api();
    let relay = Relay::start(api).await;
    let with = |channel: &'static str| [args, &[channel]].concat();
    // All at once, as some take long to start.
    let mut publisher = run(program, &with("news"), relay.at, "backend:change-me");
    let mut mistaken = run(program, &with("two words"), api, "backend:change-me");
    let mut stranger = run(program, &with("news"), api, "backend:wrong-one");
    let nobody = common::ports::free_addr();
    let mut lost = run(program, &with("news"), nobody, "backend:change-me");

    let mut client = server.client().await;
    assert_eq!(client.ask("news").await, "subscribed");
    for (n, message) in ["Hello", r#"{"quoted":"\"back\\slash\"	tab"}"#, "视频 😀 é"].into_iter().enumerate() {
        publisher.say(message);
        assert_eq!(client.text().await, message);
        publisher.line_after(n, "reached 1, failed 0");
    }
    assert_eq!(relay.accepted(), 1, "one connection for all");
    relay.cut(noticing).await;
    publisher.say("after the connection's end");
    assert_eq!(client.text().await, "after the connection's end");
    publisher.line_after(3, "reached 1, failed 0");
    assert_eq!(relay.accepted(), 2);

    for program in [&mut mistaken, &mut stranger, &mut lost] {
        program.say("nobody is to see this");
    }
    let told = |ended: Ended, what: &[&str]| {
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.out.is_empty() && ended.err.contains("not published: "), "{ended:?}");
        assert!(what.iter().all(|what| ended.err.contains(what)), "{what:?} in {ended:?}");
        assert!(!ended.err.contains("wrong-one"), "{ended:?}");
    };
    told(mistaken.ended(), &["HTTP 400", "101", "channel"]);
    told(stranger.ended(), &["HTTP 401"]);
    told(lost.ended(), &[]);
    client.expect_only_reply("more", "subscribed").await;
    server.stop();
}

async fn the_python_publisher_keeps_its_connection_and_tells_errors() -> Outcome {
    need("python3", &["--version"])?;
    publishes(Path::new("python3"), &["publish.py"], false).await;
    Ok(())
}

async fn the_node_publisher_keeps_its_connection_and_tells_errors() -> Outcome {
    need("node", &["-e", "fetch"])?;
    publishes(Path::new("node"), &["publish.mjs"], true).await;
    Ok(())
}

async fn the_php_publisher_keeps_its_connection_and_tells_errors() -> Outcome {
    need("php", &["-r", "exit(extension_loaded('curl') ? 0 : 1);"])?;
    publishes(Path::new("php"), &["publish.php"], false).await;
    Ok(())
}

async fn the_go_publisher_keeps_its_connection_and_tells_errors() -> Outcome {
    need("go", &["version"])?;
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("publish");
    let mut command = Command::new("go");
    let built = command.args(["build", "-o"]).arg(&program).arg("publish.go").current_dir(clients()).status();
    assert!(built.unwrap().success());
    publishes(&program, &[], true).await;
    Ok(())
}

async fn the_java_publisher_keeps_its_connection_and_tells_errors() -> Outcome {
    need("javac", &["-version"])?;
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("javac");
    let built = command.arg("-d").arg(dir.path()).arg("Publish.java").current_dir(clients()).status();
    assert!(built.unwrap().success());
    publishes(Path::new("java"), &["-cp", dir.path().to_str().unwrap(), "Publish"], true).await;
    Ok(())
}

async fn curl_publishes_all_it_is_given_over_one_connection_and_tells_errors() -> Outcome {
    need("curl", &["--fail-with-body", "--version"])?;
    let server = Server::start(Some(SUBSCRIBER));
    let relay = Relay::start(server.process.api()).await;
    let publish =
        |user: &str, bodies: &[&str]| run(Path::new("sh"), &[&["publish.sh"], bodies].concat(), relay.at, user).ended();
    let mut client = server.client().await;
    assert_eq!(client.ask("news").await, "subscribed");
    let two = [r#"{"c":"news","d":"Hello"}"#, r#"{"c":"news","d":"two  spaces and a \"quote\""}"#];
    let ended = publish("backend:change-me", &two);
    let reply = r#"{"E":null,"r":{"s":1,"f":0}}"#;
    assert_eq!((ended.code, ended.out), (Some(0), format!("{reply}\n{reply}")), "{}", ended.err);
    assert_eq!(client.text().await, "Hello");
    assert_eq!(client.text().await, r#"two  spaces and a "quote""#);
    assert_eq!(relay.accepted(), 1, "one connection for both");

    let ended = publish("backend:change-me", &[r#"{"c":7,"d":"x"}"#, two[0]]);
    assert_eq!(ended.code, Some(22), "{ended:?}");
    assert!(ended.out.starts_with(r#"{"E":{"c":101,"#) && !ended.out.contains(reply), "{ended:?}");
    let ended = publish("backend:wrong-one", &two);
    assert_eq!(ended.code, Some(22), "{ended:?}");
    assert!(ended.out.contains(r#""c":401"#), "{ended:?}");
    client.expect_only_reply("more", "subscribed").await;
    server.stop();
    Ok(())
}

/// Logs in and says what for.
async fn log_in(server: &Server, token: &str) -> Client {
    let mut client = server.client().await;
    client.send(&json!({"token": token}).to_string()).await;
    client
}

async fn logged_in(client: &mut Client) -> u64 {
    serde_json::from_str::<Value>(&client.text().await).unwrap()["uid"].as_u64().unwrap()
}

/// Publishes to one user.
async fn tell(server: &Server, uid: u64, text: &str) -> String {
    let (api, body) = (server.process.api(), json!({"c": format!("user:{uid}"), "d": text}).to_string());
    let head = format!("POST /v1/mesh/publish HTTP/1.1\r\nHost: {api}\r\n{BASIC}\r\nConnection: close");
    http(api, &format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await.1
}

/// What every consumer does.
async fn consumes(program: &Path, args: &[&str]) {
    let server = Server::start(None);
    let relay = Relay::start(server.process.api()).await;
    let consumer = run(program, args, relay.at, "backend:change-me");
    let seen = |what: &str| consumer.lines().iter().filter(|line| line.ends_with(what)).count();
    consumer.line("consuming");

    // The whole flow: who it is, in which channel it is, and who is not let in.
    let mut ann = log_in(&server, "ann-token").await;
    assert_eq!(logged_in(&mut ann).await, 1001);
    assert_eq!(tell(&server, 1001, "for Ann").await, r#"{"E":null,"r":{"s":1,"f":0}}"#);
    assert_eq!(ann.text().await, "for Ann");
    let mut eve = log_in(&server, "toString").await;
    assert_eq!(eve.close_frame().await, (4001, "please log in".into()));

    // Her message is settled, if a later one has its answer.
    let mut ann = log_in(&server, "ann-token").await;
    assert_eq!(logged_in(&mut ann).await, 1001);

    // It has taken a message, but what it does and settles no longer gets through: the message comes to it again.
    relay.open.send_replace(false);
    let mut bob = log_in(&server, "bob-token").await;
    consumer.line("user 1002");
    relay.cut(true).await;
    relay.open.send_replace(true);
    assert_eq!(logged_in(&mut bob).await, 1002);
    assert_eq!((seen("user 1002"), seen("consuming")), (2, 2), "{:?}", consumer.lines());

    // The engine is stopped and started again.
    let (lines, before) = (consumer.lines().len(), seen("user 1001"));
    server.stop();
    assert!(consumer.line_after(lines, "no connection: ").contains("1012"));
    let server = Server::start(None);
    *relay.target.lock().unwrap() = server.process.api();
    // Pushed before the consumer is back, it waits.
    let mut ann = log_in(&server, "ann-token").await;
    assert_eq!(logged_in(&mut ann).await, 1001);
    let mut many = Vec::new();
    for _ in 0..50 {
        many.push(log_in(&server, "ann-token").await);
    }
    for client in &mut many {
        assert_eq!(logged_in(client).await, 1001);
    }
    eventually("all are told of", async || (seen("user 1001") >= before + 51).then_some(())).await;
    // Each of them once, and none of the earlier ones again.
    let seen = (seen("user 1001") - before, seen("user 1002"), seen("user unknown"));
    assert_eq!(seen, (51, 2, 1), "{:?}", consumer.lines());

    // All of them are settled: another consumer gets nothing of them, but the next message.
    drop(consumer);
    let consumer = run(program, args, server.process.api(), "backend:change-me");
    let mut bob = log_in(&server, "bob-token").await;
    assert_eq!(logged_in(&mut bob).await, 1002);
    let told = consumer.lines().iter().filter(|line| line.contains(": user")).count();
    assert!(told <= 1, "{:?}", consumer.lines());

    let stranger = run(program, args, server.process.api(), "backend:wrong-one");
    assert!(stranger.line("no connection: ").contains(expected_refusal(args)), "{:?}", stranger.lines());
    drop((consumer, stranger));
    server.stop();
}

/// How a consumer with a wrong password hears of it: Node's WebSocket keeps the status to itself.
fn expected_refusal(args: &[&str]) -> &'static str {
    if args.contains(&"consume.mjs") { "non-101" } else { "401" }
}

async fn the_python_consumer_logs_clients_in_and_outlives_its_connections() -> Outcome {
    need("python3", &["-c", "import websockets.asyncio.client"])?;
    consumes(Path::new("python3"), &["consume.py"]).await;
    Ok(())
}

async fn the_node_consumer_logs_clients_in_and_outlives_its_connections() -> Outcome {
    let exists = "process.exit(typeof WebSocket === 'function' ? 0 : 1)";
    let flag = "--experimental-websocket";
    if need("node", &["-e", exists]).is_ok() {
        consumes(Path::new("node"), &["consume.mjs"]).await;
    } else {
        need("node", &[flag, "-e", exists])?;
        consumes(Path::new("node"), &[flag, "consume.mjs"]).await;
    }
    Ok(())
}

async fn the_php_consumer_logs_clients_in_and_outlives_its_connections() -> Outcome {
    need("php", &["--version"])?;
    consumes(Path::new("php"), &["consume.php"]).await;
    Ok(())
}

optional_tests! {
    every_client_is_listed_and_shown_as_it_is,
    the_python_publisher_keeps_its_connection_and_tells_errors,
    the_node_publisher_keeps_its_connection_and_tells_errors,
    the_php_publisher_keeps_its_connection_and_tells_errors,
    the_go_publisher_keeps_its_connection_and_tells_errors,
    the_java_publisher_keeps_its_connection_and_tells_errors,
    curl_publishes_all_it_is_given_over_one_connection_and_tells_errors,
    the_python_consumer_logs_clients_in_and_outlives_its_connections,
    the_node_consumer_logs_clients_in_and_outlives_its_connections,
    the_php_consumer_logs_clients_in_and_outlives_its_connections,
}
