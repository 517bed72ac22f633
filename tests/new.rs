//! `connmix new`: a project of each template is right, its tests pass, it starts, and it does what its README says. And the
//! other commands for the terminal: `client`, `tail`, `why`, `top`, `completions`, `man`, `help`.

mod common;

use common::process::{Process, address, run};
use common::*;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const TEMPLATES: [&str; 5] = ["barrage", "chat", "messages", "quotes", "device"];

/// A project of a template, on free ports.
struct Project {
    dir: TempDir,
    process: Process,
}

impl Project {
    fn start(template: &str) -> Project {
        let dir = tempfile::tempdir().unwrap();
        let made = run(dir.path(), &["new", "p", "--template", template]);
        assert_eq!((made.code, made.err.as_str()), (Some(0), ""));
        assert!(made.out.contains("connmix dev"), "{}", made.out);
        let folder = dir.path().join("p");
        let file = folder.join("connmix.yaml");
        let mut text = fs::read_to_string(&file).unwrap();
        for port in ["6787", "6789", "6790", "6791"] {
            text = text.replace(&format!("port: {port}"), "port: 0");
        }
        fs::write(&file, text).unwrap();
        for args in [&["check", "--strict"][..], &["test"]] {
            let ended = run(&folder, args);
            assert_eq!(ended.code, Some(0), "{template} {args:?}: {}{}", ended.out, ended.err);
        }
        let process = Process::ready(&folder, &["dev"]);
        Project { dir, process }
    }

    fn server(&self, n: usize) -> SocketAddr {
        let lines = self.process.lines();
        let label = "serving clients on ";
        address(lines.iter().filter(|line| line.contains(label)).nth(n).unwrap(), label)
    }

    fn readme(&self) -> String {
        fs::read_to_string(self.dir.path().join("p/README.md")).unwrap()
    }

    fn stop(self) {
        let ended = self.process.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        assert!(!ended.out.contains("ERROR") && !ended.out.contains("WARN"), "{}", ended.out);
    }
}

/// A command that runs, with pipes.
struct Piped(Child);

impl Piped {
    fn start(args: &[&str]) -> Piped {
        let mut command = Command::new(env!("CARGO_BIN_EXE_connmix"));
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_remove("CONNMIX_TOKEN");
        Piped(command.spawn().unwrap())
    }

    /// `client`, with these lines as its input.
    fn client(url: &str, lines: &[&str], more: &[&str]) -> Piped {
        let mut piped = Piped::start(&[&["client", url], more].concat());
        piped.say(lines);
        piped
    }

    fn say(&mut self, lines: &[&str]) {
        let input = self.0.stdin.as_mut().unwrap();
        lines.iter().for_each(|line| input.write_all(format!("{line}\n").as_bytes()).unwrap());
    }

    /// The next line of its output.
    fn line(&mut self) -> String {
        read_line(self.0.stdout.as_mut().unwrap())
    }

    /// The next line of what it tells besides.
    fn told(&mut self) -> String {
        read_line(self.0.stderr.as_mut().unwrap())
    }

    /// What it prints to its end, and its exit code. Its input ends first.
    fn ended(mut self) -> (Option<i32>, String, String) {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn read_line(from: &mut impl Read) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while from.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

async fn call(project: &Project, path: &str, body: Value) -> Value {
    let (status, reply) = post(project.process.api(), path, &body.to_string()).await;
    assert_eq!(status, 200, "{reply}");
    serde_json::from_str::<Value>(&reply).unwrap()["r"].clone()
}

async fn publish(project: &Project, channel: &str, data: &str, reached: u64) {
    let counts = call(project, "/v1/mesh/publish", serde_json::json!({"c": channel, "d": data})).await;
    assert_eq!((&counts["s"], &counts["f"]), (&reached.into(), &0.into()), "{counts}");
}

#[tokio::test]
async fn a_barrage_works_as_it_stands() {
    let project = Project::start("barrage");
    let hello = r#"{"op":"subscribe","channel":"100001@video"}"#;
    assert!(project.readme().contains(hello));
    let mut viewer = Piped::client(&format!("ws://{}/barrage-videos", project.server(0)), &[hello], &[]);
    assert_eq!(viewer.line(), r#"{"result":true}"#);
    publish(&project, "video:100001", "Hello, World!", 1).await;
    assert_eq!(viewer.line(), "Hello, World!");
    assert_eq!(viewer.ended().0, Some(0));
    // The page of its first steps, and what that shows to those who come late.
    let center = address(&project.process.line("Center "), "http://");
    project.process.line("  Demo");
    assert!(project.readme().contains("http://127.0.0.1:6787/`"));
    assert_eq!(get(center, "/").await.0, 200);
    let kept = call(&project, "/v1/mesh/history", serde_json::json!({"c": "video:100001", "limit": 20})).await;
    assert_eq!(kept["m"][0]["d"], "Hello, World!");
    project.stop();
}

#[tokio::test]
async fn a_chat_works_as_it_stands() {
    let project = Project::start("chat");
    let join = r#"{"op":"join","room":"tea"}"#;
    assert!(project.readme().contains(join));
    let url = |name: &str| format!("ws://{}/chat?name={name}", project.server(0));
    let mut ann = Piped::client(&url("Ann"), &[join], &[]);
    let told: Vec<Value> = (0..2).map(|_| serde_json::from_str(&ann.line()).unwrap()).collect();
    assert!(told.iter().any(|told| told["ok"] == true) && told.iter().any(|told| told["event"] == "join"), "{told:?}");
    let said = r#"{"op":"send","room":"tea","text":"hello"}"#;
    let bob = Piped::client(&url("Bob"), &[join, said], &[]);
    let (code, _, _) = bob.ended();
    assert_eq!(code, Some(0));
    let events: Vec<Value> = (0..3).map(|_| serde_json::from_str(&ann.line()).unwrap()).collect();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["join", "send", "quit"]);
    assert_eq!(ann.ended().0, Some(0));
    // Who is refused learns why.
    let (code, _, err) = Piped::client(&format!("ws://{}/chat", project.server(0)), &[], &[]).ended();
    assert_eq!(code, Some(1));
    assert!(err.contains("400"), "{err}");
    // The demo speaks to a barrage alone.
    project.process.line("  Console");
    assert!(!project.process.lines().iter().any(|line| line.contains("  Demo")));
    project.stop();
}

#[tokio::test]
async fn a_message_centre_works_as_it_stands() {
    use hmac::{Hmac, KeyInit, Mac};
    let project = Project::start("messages");
    let until = "1999999999";
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"change-me").unwrap();
    mac.update(format!("1001:{until}").as_bytes());
    let sign: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let url = format!("ws://{}/messages?uid=1001&until={until}&sign={sign}", project.server(0));
    let mut phone = Piped::client(&url, &[r#"{"op":"read","id":17}"#], &[]);
    assert_eq!(phone.line(), r#"{"event":"read","id":17}"#);
    publish(&project, "user:1001", "your parcel is here", 1).await;
    assert_eq!(phone.line(), "your parcel is here");
    assert_eq!(phone.ended().0, Some(0));
    project.stop();
}

#[tokio::test]
async fn quotes_work_as_they_stand() {
    let project = Project::start("quotes");
    let (subscribe, quote) = (
        r#"{"op":"subscribe","pairs":["BTC-USD","ETH-USD"]}"#,
        r#"{"op":"quote","pair":"BTC-USD","price":"64000.10"}"#,
    );
    assert!(project.readme().contains(subscribe) && project.readme().contains(quote));
    let url = format!("ws://{}/quotes", project.server(0));
    let mut client = Piped::client(&url, &[subscribe], &[]);
    let decoded = |line: String| serde_json::from_str::<Value>(&line).unwrap();
    assert_eq!(decoded(client.line())["ok"], true);
    let mut feed = Piped::client(&format!("{url}?feed=change-me"), &[quote], &[]);
    assert_eq!(decoded(feed.line())["ok"], true);
    assert_eq!(decoded(client.line())["price"], "64000.10");
    let (_, late, _) = Piped::client(&url, &[subscribe], &[]).ended();
    assert!(late.lines().count() == 2 && late.contains("64000.10"), "{late}");
    assert_eq!((feed.ended().0, client.ended().0), (Some(0), Some(0)));
    project.stop();
}

#[tokio::test]
async fn devices_and_their_dashboard_work_as_they_stand() {
    let project = Project::start("device");
    let mut person = Piped::client(&format!("ws://{}/dashboard", project.server(0)), &[], &["--verbose"]);
    let told = person.told();
    assert!(told.starts_with("connected to 127.0.0.1:"), "{told}");
    let mut device = Piped::start(&["client", &format!("tcp://{}", project.server(1)), "--wait", "60"]);
    // A login as cam-1; the end of the line begins a frame that never ends, which is no matter here.
    device.0.stdin.as_mut().unwrap().write_all(b"\x00\x06\x01cam-1\n").unwrap();
    let online: Value = serde_json::from_str(&person.line()).unwrap();
    assert_eq!((&online["device"], &online["event"]), (&"cam-1".into(), &"online".into()));
    person.say(&[r#"{"device":"cam-1","command":"restart"}"#]);
    let answer: Value = serde_json::from_str(&person.line()).unwrap();
    assert_eq!(answer["reached"], 1);
    let mut got = [0; 13];
    device.0.stdout.as_mut().unwrap().read_exact(&mut got).unwrap();
    assert_eq!(&got, b"\x00\x01\x01\x00\x08\x04restart");
    device.kill();
    assert_eq!(person.ended().0, Some(0));
    project.stop();
}

#[test]
fn a_folder_that_holds_something_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("p")).unwrap();
    assert_eq!(run(dir.path(), &["new", "p"]).code, Some(0), "it is empty");
    let text = fs::read_to_string(dir.path().join("p/connmix.yaml")).unwrap();
    let again = run(dir.path(), &["new", "p", "--template", "chat"]);
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("not empty"), "{}", again.err);
    // What it says can be typed.
    let spaced = run(dir.path(), &["new", "it's a chat"]);
    assert!(spaced.out.contains("\n    cd 'it'\\''s a chat'\n"), "{}", spaced.out);
    assert_eq!(fs::read_to_string(dir.path().join("p/connmix.yaml")).unwrap(), text);
    assert_eq!(run(dir.path(), &["new", "q", "--template", "x"]).code, Some(2));
    for template in TEMPLATES {
        assert!(run(dir.path(), &["new", "--help"]).out.contains(template), "{template}");
    }
}

const SCRIPT: &str = r#"
function on_handshake(client_id, headers, server, conn)
  if headers["x-token"] == "no" then return false, 403, "not you" end
end
function on_message(msg, conn)
  if msg.data == "id" then return conn:send(conn:client_id()) end
  if msg.data == "bytes" then return conn:send("\0\255", "binary") end
  if msg.data == "bye" then return conn:close(4001, "enough") end
  if msg.data == "end" then return conn:close(1000) end
  if msg.data == "boom" then error("boom it is") end
  conn:subscribe("room")
  conn:send(msg.data)
end
"#;

#[tokio::test]
async fn a_client_prints_what_comes_and_its_exit_code_tells_the_end() {
    let engine = TestEngine::with(SCRIPT, "pingInterval: 100ms\nreadTimeout: 2s", "workers: 1");
    let url = format!("ws://{}/ws", engine.ws());
    let (code, out, err) = Piped::client(&url, &["a", "bytes", "b"], &["--wait", "2.5"]).ended();
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (Some(0), "a\n0x00ff\nb\n", ""),
        "longer than the read timeout: it answers pings"
    );
    let (code, out, err) = Piped::client(&url, &["a", "bye"], &["--wait", "60"]).ended();
    assert_eq!((code, out.as_str(), err.as_str()), (Some(3), "a\n", "closed with 4001: enough\n"));
    let (code, _, err) = Piped::client(&url, &["end"], &["--wait", "60"]).ended();
    assert_eq!((code, err.as_str()), (Some(0), "closed with 1000\n"));
    let (code, _, err) = Piped::client(&url, &["a"], &["--header", "X-Token: no"]).ended();
    assert_eq!(code, Some(1));
    assert!(err.contains("403") && err.contains("not you"), "{err}");
    for (url, more, says) in [
        ("ws://127.0.0.1:1/", &[][..], "refused"),
        ("http://127.0.0.1:1/", &[], "expected ws:// or wss://"),
        (&format!("ws://{}/", engine.at.center), &[], "no WebSocket is served at this address"),
        (&url, &["--header", "x"], "NAME: VALUE"),
    ] {
        let (code, _, err) = Piped::client(url, &[], more).ended();
        assert!(code == Some(1) && err.contains(says) && err.lines().count() == 1, "{url}: {code:?} {err}");
    }
}

#[tokio::test]
async fn tail_why_and_top_look_at_a_running_engine() {
    let users = "access: {users: [{username: ann, password: secret, roles: [read, write], host: '*'}]}";
    let engine = TestEngine::with_top(SCRIPT, "", "workers: 1", users);
    let center = format!("http://{}", engine.at.center);
    let login = ["--url", &center, "--user", "ann:secret"];
    let mut tail = Piped::start(&[&["tail", "--bodies"], &login[..]].concat());
    let mut json = Piped::start(&[&["tail", "--json"], &login[..]].concat());
    assert_eq!(json.line(), r#"{"event":"watching"}"#);
    // Both watch once this is seen by both.
    let mut client = engine.connect().await;
    let id = client.ask("id").await;
    let seen = tokio::task::spawn_blocking(move || {
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &String| !line.contains("message")) {
            lines.push(tail.line());
        }
        (tail, lines)
    });
    // Until the first one watches, too.
    while !seen.is_finished() {
        client.ask("id").await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let (tail, lines) = seen.await.unwrap();
    let last = lines.last().unwrap();
    assert!(last.ends_with(&format!(" message     {id} text 2 bytes: id")), "{last}");
    tail.kill();
    let event: Value = serde_json::from_str(&json.line()).unwrap();
    assert!(event["at"].is_u64() && event["node"].is_string(), "{event}");
    json.kill();

    let ask = |args: &[&str]| Piped::start(&[args, &login[..]].concat()).ended();
    client.ask("join").await;
    let (code, out, err) = ask(&["why", &id, "--channel", "room"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.starts_with(&format!("client {id}: subscribed\nit is in room: ")), "{out}");
    let (code, out, _) = ask(&["why", &id, "m-1", "--json"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &told["verdict"]), (Some(0), &"connected".into()));
    let (code, _, err) = ask(&["why", "x"]);
    assert!(code == Some(2) && err.contains("invalid value 'x' for '<CLIENT>'"), "{err}");
    let (code, _, err) = Piped::start(&["why", "7", "--url", &center]).ended();
    assert!(code == Some(1) && err.contains("credentials"), "{err}");

    let api = format!("http://{}", engine.at.api);
    let (code, out, err) = Piped::start(&["top", "--once", "--json", "--url", &api, "--user", "ann:secret"]).ended();
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let figures: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&figures["clients"], &figures["channels"], &figures["nodes"]), (&1.into(), &1.into(), &1.into()));
    assert!(figures["memory_bytes"].as_f64().unwrap() > 1e6);
    let (_, out, _) = Piped::start(&["top", "--once", "--url", &api, "--user", "ann:secret"]).ended();
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("deliv/s") && lines[0].len() == lines[1].len(), "{out}");
}

/// The next event of that kind.
fn event(json: &mut Piped, kind: &str) -> Value {
    loop {
        let event: Value = serde_json::from_str(&json.line()).unwrap();
        if event["event"] == kind {
            return event;
        }
    }
}

#[tokio::test]
async fn tail_goes_on_after_a_reload_and_ends_with_the_engine() {
    let project = Project::start("chat");
    let center = address(&project.process.line("  Center"), "http://");
    let mut json = Piped::start(&["tail", "--json", "--url", &format!("http://{center}")]);
    let (mut log, mut next) = (Vec::new(), json.line());
    assert_eq!(next, r#"{"event":"watching"}"#);
    let file = project.dir.path().join("p/connmix.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("center:", "trustedProxies: [10.0.0.1]\ncenter:")).unwrap();
    while !next.contains(r#""event":"end""#) {
        next = json.line();
        assert_ne!(next, "", "tail has ended");
        log.extend(next.contains(r#""event":"log""#).then(|| next.clone()));
    }
    assert!(log.iter().any(|line| line.contains(" is ready; API on ")), "{log:?}");
    assert_eq!(json.told(), "the engine has ended it: the configuration has changed; connecting again");
    event(&mut json, "watching");
    let mut client = Client::connect(project.server(0), "/chat?name=Ann").await;
    client.send("x").await;
    while !next.contains(r#""event":"connect""#) {
        next = json.line();
        assert_ne!(next, "", "tail has ended");
        assert!(!log.contains(&next), "told twice: {next}");
    }
    let ended = project.process.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let (code, _, err) = json.ended();
    assert_eq!((code, err.as_str()), (Some(1), "the engine has ended it: the engine is shutting down\n"));
}

/// Answers one request.
fn answer(at: &TcpListener, status: &str, body: &str) {
    let (mut stream, _) = at.accept().unwrap();
    while !read_line(&mut stream).trim().is_empty() {}
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
}

#[test]
fn top_and_tail_come_back_to_an_engine_that_starts_anew() {
    let at = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", at.local_addr().unwrap());
    let mut top = Piped::start(&["top", "--json", "--url", &url]);
    for (status, body) in [("200 OK", "connmix_engine_channels 1\n"), ("503 -", "{}"), ("503 -", "{}")] {
        answer(&at, status, body);
    }
    answer(&at, "200 OK", "connmix_engine_channels 2\n");
    assert!(top.line().contains("\"channels\":2"));
    assert!(top.told().ends_with("no reason was given (status 503); connecting again"));
    answer(&at, "503 -", "{}");
    answer(&at, "403 -", r#"{"E":{"c":403,"m":"this user lacks the role read"}}"#);
    let (code, _, err) = top.ended();
    assert!(code == Some(1) && err.ends_with("this user lacks the role read (status 403)\n"), "{err}");

    let mut tail = Piped::start(&["tail", "--url", &url]);
    let event = "{\"event\":\"dropped\",\"at\":1,\"client\":\"7\",\"cause\":\"x\"}\n";
    for _ in 0..2 {
        answer(&at, "200 OK", event);
        assert_eq!(tail.line(), "00:00:00.001 dropped     7 a message: x");
        assert_eq!(tail.told(), "the connection has ended; connecting again");
    }
    answer(&at, "200 OK", "{\"event\":\"end\",\"text\":\"too many watch\",\"again\":false}\n");
    let (code, _, err) = tail.ended();
    assert_eq!((code, err.as_str()), (Some(1), "the engine has ended it: too many watch\n"));
}

#[tokio::test]
async fn with_tls_the_commands_believe_whom_they_are_told_to() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), common::tls::Authority::new());
    authority.issue(dir.path(), "cert", &["localhost"]);
    authority.write(&dir.path().join("ca.pem"));
    fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    let tls = "tls: {cert: cert.pem, key: cert.key}";
    let file = dir.path().join("connmix.yaml");
    write_config(&file, tls, "workers: 1", "");
    let text = fs::read_to_string(&file).unwrap();
    let center = "center:\n  apiServer: {port: 0, bind: 127.0.0.1";
    fs::write(&file, text.replace(center, &format!("{center}, {tls}"))).unwrap();
    let engine = TestEngine::start(dir);
    let (ca, port) = (engine.path("ca.pem"), engine.ws().port());
    let ca = ["--ca", ca.to_str().unwrap()];
    let url = format!("wss://localhost:{port}/ws");
    for trust in [&ca[..], &["--insecure"]] {
        let (code, out, err) = Piped::client(&url, &["a"], trust).ended();
        assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "a\n", ""), "{trust:?}");
    }
    let (code, _, err) = Piped::client(&url, &["a"], &[]).ended();
    assert!(code == Some(1) && err.contains("certificate"), "nobody else trusts it: {err}");
    let (code, _, err) = Piped::client(&format!("wss://127.0.0.1:{port}/ws"), &["a"], &ca).ended();
    assert!(code == Some(1) && err.contains("certificate"), "it has another name: {err}");
    let center = format!("https://localhost:{}", engine.at.center.port());
    let args = [&["why", "1", "--url", &center][..], &ca].concat();
    let (code, out, err) = Piped::start(&args).ended();
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.starts_with("client 1: "), "{out}");
}

// What is made of the definitions of the command line.

fn text(args: &[&str]) -> String {
    let ended = run(Path::new("."), args);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{args:?}");
    ended.out
}

/// All commands, by their help.
fn commands() -> Vec<String> {
    let help = text(&["--help"]);
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    list.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn help_is_a_command_too() {
    assert_eq!(text(&["help"]), text(&["--help"]));
    assert_eq!(text(&["help", "bench", "fanout"]), text(&["bench", "fanout", "--help"]));
    assert!(commands().contains(&"tail".to_owned()));
}

#[test]
fn the_manual_page_has_every_command_and_option() {
    let page = text(&["man"]);
    assert!(page.starts_with(".TH CONNMIX 1 "));
    for section in
        ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "EXIT STATUS", "FILES", "SIGNALS", "ENVIRONMENT"]
    {
        assert!(page.contains(&format!("\n.SH {section}\n")), "{section}");
    }
    for command in commands().iter().filter(|command| *command != "help") {
        assert!(page.contains(&format!("\n.SS {}", command.replace('-', "\\-"))), "{command}");
        let help = text(&[command, "--help"]);
        for option in
            help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 2 && *word != "--help")
        {
            let option: String = option.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            assert!(page.contains(&option.replace('-', "\\-")), "{command} {option}");
        }
    }
    // What is added to a help text is a sentence of its own.
    assert!(
        page.contains("The configuration file. Default: connmix.yaml.") && page.contains("to be. One of: barrage, ")
    );
    // A reader of such pages finds nothing wrong, where there is one.
    let checked = Command::new("groff")
        .args(["-man", "-Tutf8", "-ww", "-z"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    if let Ok(mut groff) = checked {
        groff.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
        let output = groff.wait_with_output().unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What bash completes at the end of a line.
fn completed(line: &str) -> Vec<String> {
    let script = format!(
        "{}\nCOMP_LINE='{line}'\nread -ra COMP_WORDS <<< '{line}'\n[[ '{line}' == *' ' ]] && COMP_WORDS+=('')\n\
         COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n_connmix\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        text(&["completions", "bash"])
    );
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("bash");
    command.arg0("bash").args(["--norc", "-c", &script]).current_dir(dir.path());
    let output = command.output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).filter(|word| !word.is_empty()).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    assert_eq!(completed("connmix ta"), ["tail"]);
    assert_eq!(completed("connmix tail --er"), ["--errors"]);
    assert_eq!(completed("connmix new x --template me"), ["messages"]);
    assert_eq!(completed("connmix bench fan"), ["fanout"]);
    assert_eq!(completed("connmix completions ")[..3], ["bash", "zsh", "fish"]);
    assert_eq!(completed("connmix bench fanout --ins"), ["--insecure"]);
    let all = completed("connmix ");
    assert!(commands().iter().all(|command| all.contains(command)), "{all:?}");
    assert_eq!(completed("connmix test --allow"), ["--allow-unguarded"]);
    assert_eq!(completed("connmix top --allow"), [""; 0], "it runs no script");
    // What one process says to another is for no person.
    for shell in ["bash", "zsh", "fish"] {
        assert!(!text(&["completions", shell]).contains("succeed"), "{shell}");
    }
}

#[test]
fn zsh_and_fish_take_their_completions() {
    for (shell, check) in [("zsh", &["-n"][..]), ("fish", &["--no-execute"])] {
        let script = text(&["completions", shell]);
        assert!(commands().iter().all(|command| script.contains(command.as_str())), "{shell}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("script");
        fs::write(&file, &script).unwrap();
        // Where there is such a shell.
        if let Ok(output) = Command::new(shell).args(check).arg(&file).output() {
            assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
