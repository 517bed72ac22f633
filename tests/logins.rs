//! Logins of the APIs by the hash of a password, by a file and by a token; secrets from the environment; and that no
//! secret shows anywhere.

mod common;

use base64::Engine as _;
use common::process::{Ended, Process};
use common::raw::Raw;
use common::{TestEngine, eventually, write_config};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

const ECHO: &str = "function on_message(msg, conn) conn:send(msg.data) end";
const BODY: &str = r#"{"c":"news","d":"x"}"#;
/// argon2id and scrypt of "sesame", quick ones.
const ARGON2: &str = "$argon2id$v=19$m=64,t=1,p=1$T1huQ0phL2NWM09UMm43Uw$yKSZEmUSaPDlJHBgYcpWUvJtTE5qD5HdvNBHoofbIXY";
const SCRYPT: &str = "$scrypt$ln=4,r=8,p=1$c2FsdHNhbHRzYWx0c2FsdA$OWsz3HcfetRfOocd7/34a6m7YSIiEMcmi6NkV20Zx5M";

fn folder(top: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), ECHO).unwrap();
    configure(dir.path(), top);
    dir
}

fn configure(dir: &Path, top: &str) {
    write_config(&dir.join("connmix.yaml"), "", "workers: 1", &top.replace("DIR", dir.to_str().unwrap()));
}

fn users(users: &str) -> String {
    format!("access: {{users: [{users}]}}")
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(credentials))
}

fn publish(authorization: &str) -> String {
    let length = BODY.len();
    format!(
        "POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\n\
         Content-Length: {length}\r\n\r\n{BODY}"
    )
}

async fn status(api: SocketAddr, authorization: &str) -> u16 {
    Raw::dial(api).await.call(publish(authorization)).await.status
}

#[tokio::test]
async fn a_password_may_be_known_by_its_hash() {
    let bob = format!("{{username: bob, passwordHash: '{SCRYPT}', roles: [read]}}");
    let engine = TestEngine::start(folder(&users(&format!("{{username: ann, passwordHash: '{ARGON2}'}}, {bob}"))));
    let api = engine.at.api;
    for (credentials, want) in [
        ("ann:sesame", 200),
        ("ann:sesame", 200),
        ("ann:sesam", 401),
        ("ann:", 401),
        ("eve:sesame", 401),
        ("bob:sesame", 403),
        ("ann:sesame", 200),
    ] {
        assert_eq!(status(api, &basic(credentials)).await, want, "{credentials}");
    }
    // Over the general path as well, and by pipelining.
    let metrics = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\n\r\n", basic("bob:sesame"));
    assert_eq!(Raw::dial(api).await.call(metrics).await.status, 200);
    let mut raw = Raw::dial(api).await;
    raw.write([publish(&basic("ann:sesame")), publish(&basic("ann:wrong"))].concat()).await;
    assert_eq!((raw.reply().await.status, raw.reply().await.status), (200, 401));
}

/// One that takes long.
const DEAR: &str = "$argon2id$v=19$m=32768,t=2,p=1$T1huQ0phL2NWM09UMm43Uw$yKSZEmUSaPDlJHBgYcpWUvJtTE5qD5HdvNBHoofbIXY";

#[tokio::test]
async fn a_worker_goes_on_while_a_hash_is_computed() {
    let engine = TestEngine::start(folder(&users(&format!("{{username: ann, passwordHash: '{DEAR}'}}"))));
    let mut client = engine.connect().await;
    let mut guesser = Raw::dial(engine.at.api).await;
    guesser.write(publish(&basic("ann:sesame"))).await;
    for n in 0..5 {
        assert_eq!(client.ask(&n.to_string()).await, n.to_string());
    }
    assert!(guesser.stream.try_read(&mut [0; 1]).is_err(), "nothing has come yet");
    assert_eq!(guesser.reply().await.status, 401);
}

#[tokio::test]
async fn guesses_beyond_those_that_are_computed_get_a_429() {
    let plain = "{username: bob, password: plain}";
    let engine = TestEngine::start(folder(&users(&format!("{{username: ann, passwordHash: '{DEAR}'}}, {plain}"))));
    let mut guessers = Vec::new();
    for n in 0..8 {
        let mut raw = Raw::dial(engine.at.api).await;
        raw.write(publish(&basic(&format!("ann:{n}")))).await;
        guessers.push(raw);
    }
    for n in 0..2 {
        let reply = Raw::dial(engine.at.api).await.call(publish(&basic(&format!("nobody:{n}")))).await;
        assert_eq!((reply.status, reply.header("Retry-After")), (429, Some("1")), "{reply:?}");
    }
    assert_eq!(status(engine.at.api, &basic("bob:plain")).await, 200, "this takes no computation");
}

#[tokio::test]
async fn a_token_is_as_good_as_a_password() {
    let hash = "3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0";
    let two = format!(
        "{{username: robot, token: t0ken, host: 127.0.0.1}}, {{username: other, tokenHash: {hash}, roles: [read]}}, \
         {{username: far, token: faraway, host: 10.0.0.0/8}}"
    );
    let engine = TestEngine::start(folder(&users(&two)));
    for (authorization, want) in [
        ("Bearer t0ken", 200),
        ("bearer t0ken", 200),
        ("Bearer token", 403),
        ("Bearer faraway", 403),
        ("Bearer t0ke", 401),
        ("Bearer ", 401),
        (&basic("robot:t0ken"), 401),
        (&basic("robot:"), 401),
    ] {
        assert_eq!(status(engine.at.api, authorization).await, want, "{authorization}");
    }
}

/// An open connection of the WebSocket API.
async fn open(api: SocketAddr, authorization: &str) -> Raw {
    let mut raw = Raw::dial(api).await;
    raw.write(common::raw::upgrade_with(&format!("Authorization: {authorization}\r\n")).replace("/ws ", "/ws/v1 "))
        .await;
    assert_eq!(raw.head().await.status, 101);
    raw
}

#[tokio::test]
async fn an_open_connection_ends_when_its_hash_or_token_changes_and_not_before() {
    let of = |hash: &str, token: &str, more: &str| {
        users(&format!("{{username: ann, passwordHash: '{hash}'}}, {{username: robot, token: {token}}}{more}"))
    };
    let engine = TestEngine::start(folder(&of(ARGON2, "t0ken", "")));
    let (mut ann, mut robot) =
        (open(engine.at.api, &basic("ann:sesame")).await, open(engine.at.api, "Bearer t0ken").await);
    let call = r#"{"m":"mesh.publish","p":{"c":"news","d":"x"},"i":1}"#;
    configure(engine.dir.path(), &of(ARGON2, "t0ken", ", {username: new, password: x}"));
    engine.engine().reload();
    eventually("the new user may call", async || (status(engine.at.api, &basic("new:x")).await == 200).then_some(()))
        .await;
    for raw in [&mut ann, &mut robot] {
        assert!(raw.ask(call).await.contains(r#""E":null"#));
    }
    configure(engine.dir.path(), &of(SCRYPT, "another", ""));
    engine.engine().reload();
    for raw in [&mut ann, &mut robot] {
        assert_eq!(raw.close_frame().await, (1008, "access was taken away".into()));
    }
    // The same password by its other hash.
    open(engine.at.api, &basic("ann:sesame")).await;
}

/// Runs `connmix ARGS` with variables in its environment and a text as its input.
fn run(dir: &Path, args: &[&str], env: &[(&str, &str)], input: &str) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_connmix"));
    command.args(args).envs(env.iter().copied()).current_dir(dir).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[tokio::test]
async fn a_hash_is_made_by_the_program_itself() {
    let dir = tempfile::tempdir().unwrap();
    let made = run(dir.path(), &["hash-password"], &[], "opensesame\nmore\n");
    assert_eq!((made.code, made.err.as_str(), made.out.lines().count()), (Some(0), "", 1));
    assert!(made.out.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", made.out);
    let dir = folder(&users(&format!("{{username: ann, passwordHash: '{}'}}", made.out.trim())));
    let engine = TestEngine::start(dir);
    assert_eq!(status(engine.at.api, &basic("ann:opensesame")).await, 200);
    for bad in ["", "\n", &"x".repeat(1025)] {
        let ended = run(engine.dir.path(), &["hash-password"], &[], bad);
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{}", ended.err);
    }
}

#[test]
fn every_text_may_come_from_the_environment_and_says_nothing_of_it() {
    let dir = folder("access: {users: [{username: '${NAME}', password: 'x${PASS}$${x}'}]}\nshutdownTimeout: ${TIME}");
    let env = [("NAME", "ann"), ("PASS", "hunter2"), ("TIME", "5s")];
    let ended = run(dir.path(), &["check"], &env, "");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let printed = run(dir.path(), &["config", "-f", "connmix.yaml"], &env, "");
    assert!(printed.out.contains("username: ann\n") && printed.out.contains("shutdownTimeout: 5s\n"), "{printed:?}");
    assert!(!printed.out.contains("hunter2"));
    // Unset, and not what the key takes.
    let ended = run(dir.path(), &["check"], &[("NAME", "ann"), ("TIME", "hunter2")], "");
    let want = [
        "connmix.yaml:2:50: access.users[0].password: the environment variable PASS is not set",
        "connmix.yaml:3:18: shutdownTimeout: expected a number of seconds or text such as \"10s\", got the value of an \
         environment variable",
    ];
    assert_eq!((ended.code, ended.err.trim()), (Some(1), want.join("\n").as_str()));
}

/// Secrets of every kind, each of which says so.
const SECRETS: &str = "access:
  users:
    - {username: ann, password: secret-of-ann}
    - {username: bob, passwordFile: DIR/secret.txt}
    - {username: eve, passwordHash: '$argon2id$v=19$m=64,t=1,p=1$c2VjcmV0LXNhbHQ$c2VjcmV0LWhhc2gtb2YtZXZl'}
    - {username: robot, token: secret-token}
    - {username: other, tokenHash: 5ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2e75ec2}
    - {username: from, password: '${THE_SECRET}'}
cluster: {secret: secret-of-cluster}
logging: {level: debug, filename: log/connmix.log}";

/// Whether a text has a part of a secret in it. Basic credentials are base64, of which a part is the same wherever the
/// secret stands.
fn leaks(text: &str) -> bool {
    let parts = ["secret-", "c2VjcmV0LX", "5ec2e7", "NlY3JldC", "zZWNyZXQt", "hidden-in-env"];
    parts.iter().any(|part| text.contains(part))
}

#[tokio::test]
async fn no_secret_is_in_an_output_of_any_kind() {
    let dir = folder("");
    let path = dir.path();
    std::fs::write(path.join("secret.txt"), "secret-in-file\n").unwrap();
    let redis = "workers: 1\nluavm: {redis: [{password: secret-of-redis}, {name: two, passwordFile: DIR/secret.txt}]}";
    let write = |top: &str| {
        let (at, options) = (path.to_str().unwrap(), "options: [{name: key, value: secret-option}]");
        let engine = redis.replace("DIR", at);
        write_config(
            &path.join("connmix.yaml"),
            "",
            &engine,
            &top.replace("DIR", at).replace("logging: {l", "LOGGING: {l"),
        );
        let text = std::fs::read_to_string(path.join("connmix.yaml")).unwrap();
        let text = text.replace("logging: {filename: ''}\n", "").replace("LOGGING", "logging");
        std::fs::write(path.join("connmix.yaml"), text.replace("options: [{name: path, value: /ws}]", options))
            .unwrap();
    };
    write(SECRETS);
    let env = [("THE_SECRET", "hidden-in-env")];
    for args in [&["check"][..], &["config", "-f", "connmix.yaml"], &["config", "-f", "connmix.yaml", "--json"]] {
        let ended = run(path, args, &env, "");
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(!leaks(&ended.out) && !leaks(&ended.err), "{args:?}: {ended:?}");
        assert!(args[0] == "check" || ended.out.contains("ann"), "{ended:?}");
    }
    // As a program sees it that is being debugged.
    let text = std::fs::read_to_string(path.join("connmix.yaml")).unwrap().replace("${THE_SECRET}", "secret-of-env");
    let config = connmix::config::load::parse(&path.join("connmix.yaml"), &text).unwrap();
    assert!(!leaks(&format!("{config:?} {config:#?}")), "{config:?}");

    let mut command = Command::new(env!("CARGO_BIN_EXE_connmix"));
    command.arg("single").envs(env).current_dir(path).stdin(Stdio::null());
    let process = Process::of(command);
    process.line(" is ready; ");
    let api = process.api();
    for right in
        [&basic("ann:secret-of-ann"), &basic("bob:secret-in-file"), &basic("from:hidden-in-env"), "Bearer secret-token"]
    {
        assert_eq!(status(api, right).await, 200);
    }
    let mut replies = String::new();
    for wrong in
        [&basic("ann:secret-wrong"), &basic("eve:secret-of-eve"), "Bearer secret-wrong", "Basic secret-", "secret-"]
    {
        let reply = Raw::dial(api).await.call(publish(wrong)).await;
        assert_eq!(reply.status, 401);
        replies += &format!("{reply:?}");
    }
    let ann = basic("ann:secret-of-ann");
    let metrics = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: {ann}\r\n\r\n");
    replies += &Raw::dial(api).await.call(metrics).await.body;
    assert!(replies.contains("connmix_api_failed_logins_total 3"), "{replies}");
    // Changes and problems are told.
    write(&SECRETS.replace("secret-of-", "secret-new-").replace("token: secret-", "token: secret-new-"));
    process.signal(libc::SIGHUP);
    process.line("access.users[ann].password: *** -> ***");
    process.line("access.users[robot].token: *** -> ***");
    write(&SECRETS.replace("password: secret-of-ann", "password: [secret-of-ann]"));
    process.signal(libc::SIGHUP);
    process.line("the configuration was not reloaded");
    let ended = process.stop();
    let log: String = std::fs::read_dir(path.join("log"))
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    for text in [&ended.out, &ended.err, &log, &replies] {
        assert_eq!(text.lines().find(|line| leaks(line)), None);
    }
    assert!(log.contains("not reloaded"), "{log}");
}
