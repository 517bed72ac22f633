//! The real program: its command line, what it prints, its log, and how it hears signals.

mod common;

use common::process::{Process, address, run};
use common::*;
use serde_json::Value;
use std::path::Path;
use tempfile::TempDir;

const ECHO: &str = "function on_message(msg, conn) conn:send(msg.data) end";

/// A folder with a configuration on free ports, and its script.
fn folder(script: &str, server: &str, top: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    write_config(&dir.path().join("connmix.yaml"), server, "workers: 2", top);
    dir
}

/// The files of this repository at those places, on free ports.
fn copied(config: &str, script: &str) -> TempDir {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("lua")).unwrap();
    std::fs::copy(root.join(script), dir.path().join("lua/entry.websocket.lua")).unwrap();
    let text = std::fs::read_to_string(root.join(config)).unwrap();
    let text = ["6787", "6789", "6790"].iter().fold(text, |t, p| t.replace(&format!("port: {p}"), "port: 0"));
    std::fs::write(dir.path().join("connmix.yaml"), text.replace("0.0.0.0", "127.0.0.1")).unwrap();
    dir
}

fn replace(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from:?} in {}", file.display());
    std::fs::write(file, text.replace(from, to)).unwrap();
}

/// The text of the one log file in `logs/`, and its name.
fn log_file(dir: &Path) -> (String, String) {
    let files: Vec<_> = std::fs::read_dir(dir.join("logs")).unwrap().map(|f| f.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let name = files[0].file_name().unwrap().to_str().unwrap().to_owned();
    (name, std::fs::read_to_string(&files[0]).unwrap())
}

// What is typed.

#[test]
fn version_and_help_go_to_stdout_and_succeed() {
    let dir = tempfile::tempdir().unwrap();
    let version = run(dir.path(), &["--version"]);
    assert_eq!((version.code, version.err.as_str()), (Some(0), ""));
    assert_eq!(version.out, format!("connmix {}", env!("CARGO_PKG_VERSION")));
    let help = run(dir.path(), &["--help"]);
    assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
    for word in ["dev", "single", "center", "engine", "check", "config", "--version"] {
        assert!(help.out.contains(word), "{word} in {}", help.out);
    }
    let help = run(dir.path(), &["single", "--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.out.contains("-f, --file <FILE>") && help.out.contains("-p, --workers <N>"), "{}", help.out);
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_right() {
    let dir = tempfile::tempdir().unwrap();
    for (args, says) in [
        (&[][..], "Usage: connmix [OPTIONS] <COMMAND>"),
        (&["serve"], "unrecognized subcommand 'serve'"),
        (&["devv"], "a similar subcommand exists: 'dev'"),
        (&["single", "-x"], "unexpected argument '-x'"),
        (&["single", "-p"], "a value is required for '--workers <N>'"),
        (&["single", "-p", "many"], "invalid value 'many' for '--workers <N>'"),
        (&["single", "-p", "257"], "257 is not in 0..=256"),
        (&["check", "-p", "1"], "unexpected argument '-p'"),
        (&["dev", "--nodes", "1"], "1 is not in 2..=16"),
        (&["dev", "--nodes", "17"], "17 is not in 2..=16"),
        (&["config", "--yaml"], "unexpected argument '--yaml'"),
        (&["config", "-f"], "a value is required for '--file <FILE>'"),
    ] {
        let ended = run(dir.path(), args);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{args:?}: {ended:?}");
        assert!(ended.err.contains(says), "{args:?}: {}", ended.err);
    }
}

#[test]
fn config_prints_a_file_that_can_be_checked_and_started_with() {
    let dir = copied("connmix.yaml", "lua/entry.websocket.lua");
    let help = run(dir.path(), &["config", "--help"]);
    assert!(help.code == Some(0) && help.out.contains("-f, --file <FILE>") && help.out.contains("--json"), "{help:?}");
    for args in [&["config"][..], &["config", "-f", "connmix.yaml"]] {
        let printed = run(dir.path(), args);
        assert_eq!((printed.code, printed.err.as_str()), (Some(0), ""));
        std::fs::write(dir.path().join("printed.yaml"), printed.out).unwrap();
        let checked = run(dir.path(), &["check", "--strict", "-f", "printed.yaml"]);
        assert_eq!((checked.code, checked.err.as_str()), (Some(0), ""), "{args:?}");
        assert!(checked.out.ends_with("printed.yaml: no problems; 1 server(s)"), "{checked:?}");
    }
    // The second has the values of the file.
    let again = run(dir.path(), &["config", "-f", "printed.yaml"]);
    assert!(again.out.contains("value: /barrage-videos") && again.out.contains("bind: 127.0.0.1"), "{again:?}");
    assert_eq!(again.out, std::fs::read_to_string(dir.path().join("printed.yaml")).unwrap());
}

#[test]
fn config_prints_rows_as_json() {
    let dir = folder(ECHO, "outboxLimit: 64KiB", "");
    let value = |args: &[&str]| {
        let printed = run(dir.path(), args);
        assert_eq!((printed.code, printed.err.as_str()), (Some(0), ""));
        let rows: Value = serde_json::from_str(&printed.out).unwrap();
        let row = rows.as_array().unwrap().iter().find(|row| row["path"] == "engine.servers[].outboxLimit").unwrap();
        (row["default"].clone(), row["effect"].clone(), row["value"].clone())
    };
    let json = |value: &str| ("1MiB".into(), "live".into(), Value::Array(vec![value.into()]));
    assert_eq!(value(&["config", "--json"]), json("1MiB"));
    assert_eq!(value(&["config", "--json", "-f", "connmix.yaml"]), json("64KiB"));
}

#[test]
fn config_tells_problems_of_a_file_as_check_does() {
    let dir = folder(ECHO, "readTimeout: 25h", "");
    let (shown, checked) = (run(dir.path(), &["config", "-f", "connmix.yaml"]), run(dir.path(), &["check"]));
    assert_eq!((shown.code, shown.out.as_str()), (Some(1), ""));
    assert!(shown.err.contains("engine.servers[0].readTimeout: out of range"), "{shown:?}");
    assert_eq!(shown.err, checked.err);
    assert_eq!(run(dir.path(), &["config", "-f", "no.yaml"]).code, Some(1));
}

#[test]
#[cfg(not(feature = "cluster"))]
fn the_roles_of_a_cluster_say_what_to_build() {
    let dir = folder(ECHO, "", "");
    let of_mesh = folder(ECHO, "", "cluster: {engine: mesh}");
    for (dir, args) in
        [(&dir, &["center"][..]), (&dir, &["engine"]), (&dir, &["dev", "--nodes", "3"]), (&of_mesh, &["single"])]
    {
        let ended = run(dir.path(), args);
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
        let says =
            "this connmix was built without the cluster; build it with: cargo build --release --features cluster";
        assert_eq!(ended.err, says, "{args:?}");
    }
}

#[test]
fn workers_on_the_command_line_win() {
    let dir = folder(ECHO, "", "");
    for (args, workers) in [(&["single"][..], "workers=2"), (&["single", "-p", "3"], "workers=3")] {
        let process = Process::ready(dir.path(), args);
        assert!(process.line(" is ready; ").contains(workers), "{:?}", process.lines());
        assert_eq!(process.stop().code, Some(0));
    }
}

// `check`, and what stops a start.

#[test]
fn a_good_configuration_is_told_so() {
    let dir = folder(ECHO, "", "center2: 1");
    replace(&dir.path().join("connmix.yaml"), "center2: 1", "");
    let ended = run(dir.path(), &["check"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    assert_eq!(ended.out, "connmix.yaml: no problems; 1 server(s)");
    // From another folder, by its path.
    let elsewhere = tempfile::tempdir().unwrap();
    let file = dir.path().join("connmix.yaml");
    let ended = run(elsewhere.path(), &["check", "-f", file.to_str().unwrap()]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn what_ships_passes_its_own_check() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let ended = run(root, &["check"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
}

#[test]
fn all_problems_are_told_at_once_with_their_places() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("bad.yaml"),
        "\
logging:
  levle: warn
engine:
  apiServer: {port: 70000}
  servers:
    - port: 6790
      entry: no.lua
      readTimeout: soon
",
    )
    .unwrap();
    let missing = dir.path().canonicalize().unwrap().join("no.lua");
    let want = [
        "bad.yaml:2:3: logging.levle: unknown key \"levle\"; did you mean \"level\"?".to_owned(),
        "bad.yaml:4:21: engine.apiServer.port: out of range: \"70000\"; it must be from 0 to 65535".to_owned(),
        format!("bad.yaml:7:14: engine.servers[0].entry: no such script: {}", missing.display()),
        "bad.yaml:8:20: engine.servers[0].readTimeout: expected a number of seconds or text such as \"10s\", got \"soon\""
            .to_owned(),
    ];
    for command in ["check", "single", "dev"] {
        let ended = run(dir.path(), &[command, "-f", "bad.yaml"]);
        assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
        assert_eq!(ended.err.lines().collect::<Vec<_>>(), want, "{command}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["check", "single", "dev"] {
        let ended = run(dir.path(), &[command]);
        assert_eq!(ended.code, Some(1));
        assert!(ended.err.starts_with("connmix.yaml: cannot be read: No such file"), "{}", ended.err);
        assert!(ended.err.contains("-f FILE") && ended.err.contains("connmix new NAME"), "{}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    }
}

#[test]
fn a_broken_script_is_told_with_file_and_line() {
    for (script, says) in [
        (
            "function on_message(msg)\n  if x then\nend",
            "entry.lua:3: 'end' expected (to close 'function' at line 1) near '<eof>'",
        ),
        ("function on_message() end\nnone.such = 1", "entry.lua:2: attempt to index global 'none' (a nil value)"),
        ("function on_message() end\n\nerror('not today')", "entry.lua:3: not today"),
        ("function on_message() end\nrequire('helper')", "entry.lua:2: module 'helper' not found:"),
        ("function on_messages() end", "entry.lua: "),
        ("on_message = 1", "entry.lua: "),
    ] {
        let dir = folder(script, "", "");
        for command in ["check", "single", "dev"] {
            let ended = run(dir.path(), &[command]);
            assert_eq!(ended.code, Some(1), "{script}: {ended:?}");
            assert!(ended.err.starts_with(says), "{script}: {}", ended.err);
        }
    }
}

#[test]
fn a_script_without_on_message_is_named_with_what_it_lacks() {
    let dir = folder("function on_close() end", "", "");
    let ended = run(dir.path(), &["check"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.starts_with("entry.lua: ") && ended.err.contains("on_message"), "{}", ended.err);
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
}

#[test]
fn every_broken_script_is_told_at_once() {
    let dir = folder("error('one')", "", "");
    std::fs::write(dir.path().join("two.lua"), "error('two')").unwrap();
    let config = dir.path().join("connmix.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{text}    - {{port: 0, bind: 127.0.0.1, entry: two.lua}}\n")).unwrap();
    let ended = run(dir.path(), &["check"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("entry.lua:1: one") && ended.err.contains("two.lua:1: two"), "{}", ended.err);
}

#[test]
fn ports_in_use_are_told_with_the_keys_that_named_them() {
    let dir = folder(ECHO, "", "");
    let config = dir.path().join("connmix.yaml");
    let taken: Vec<_> = (0..2).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let [server, center] = [0, 1].map(|i| taken[i].local_addr().unwrap());
    replace(&config, "    - port: 0", &format!("    - port: {}", server.port()));
    replace(&config, "center:\n  apiServer: {port: 0", &format!("center:\n  apiServer: {{port: {}", center.port()));
    let ended = run(dir.path(), &["single"]);
    assert_eq!(ended.code, Some(1));
    let want = [
        format!("engine.servers[0].port: cannot listen on {server}: Address already in use (os error 98)"),
        format!("center.apiServer.port: cannot listen on {center}: Address already in use (os error 98)"),
    ];
    assert_eq!(ended.err.lines().collect::<Vec<_>>(), want);
    // A check does not need the ports: it is run beside a running engine.
    assert_eq!(run(dir.path(), &["check"]).code, Some(0));
}

// A start that succeeds.

#[tokio::test]
async fn dev_greets_with_addresses_and_a_command_that_works() {
    let dir = copied("connmix.yaml", "lua/entry.websocket.lua");
    let process = Process::ready(dir.path(), &["dev"]);
    let curl = process.line("  curl http://");
    let lines = process.lines();
    let line = |part: &str| lines.iter().find(|l| l.contains(part)).unwrap_or_else(|| panic!("{part}: {lines:#?}"));
    let ws = address(line("WebSocket"), "ws://");
    assert!(line("WebSocket").contains("/barrage-videos"), "{lines:#?}");
    assert!(line("WebSocket").contains("lua/entry.websocket.lua"), "{lines:#?}");
    assert_eq!(ws, process.ws());
    assert_eq!(address(line("  API "), "http://"), process.api());
    let (status, nodes) = get(address(line("  Center "), "http://"), "/v1/nodes").await;
    assert_eq!(status, 200);
    let nodes: Value = serde_json::from_str(&nodes).unwrap();
    assert_eq!(nodes["nodes"][0]["api_server"], process.api().to_string());

    let connect = line("Connect, send ");
    let sends = &connect[connect.find('{').unwrap()..=connect.find('}').unwrap()];
    let mut client = Client::connect(ws, "/barrage-videos").await;
    assert_eq!(client.ask(sends).await, r#"{"result":true}"#);
    let sh = tokio::process::Command::new("sh").arg("-c").arg(format!("{curl} -sS")).output();
    let reply = match sh.await.unwrap() {
        output if output.status.success() => String::from_utf8(output.stdout).unwrap(),
        // No curl here: by hand, what it would do.
        _ => {
            let body = curl.split('\'').nth(1).unwrap();
            post(process.api(), "/v1/mesh/publish", body).await.1
        }
    };
    assert_eq!(reply, r#"{"E":null,"r":{"s":1,"f":0}}"#);
    assert_eq!(client.text().await, "Hello, World!");
}

#[tokio::test]
async fn the_greeting_names_a_user_where_there_are_some_and_a_message_only_for_the_shipped_handler() {
    let users = |roles: &str, host: &str| {
        format!("access: {{users: [{{username: \"it's\", password: s3cret, roles: [{roles}], host: '{host}'}}]}}")
    };
    for (roles, host, curl) in [
        ("read, write", "127.*.*.*", r"  curl -u 'it'\''s' http://"),
        ("read", "*", "  curl http://"),
        ("write", "10.0.0.0/8", "  curl http://"),
    ] {
        let dir = copied("connmix.yaml", "lua/entry.websocket.lua");
        replace(&dir.path().join("connmix.yaml"), "center:\n", &format!("{}\ncenter:\n", users(roles, host)));
        // Edited: what it takes is not known any more.
        let script = dir.path().join("lua/entry.websocket.lua");
        let edited = std::fs::read_to_string(&script).unwrap() + "\n-- mine\n";
        std::fs::write(&script, edited).unwrap();
        let process = Process::ready(dir.path(), &["dev"]);
        // The end of the greeting, which comes after the engine's own lines.
        process.line(if curl.contains("-u") { "(curl asks for " } else { "(None of " });
        let lines = process.lines();
        let said = lines.join("\n");
        assert!(said.contains(curl), "{said}");
        assert!(said.contains("\"c\":\"CHANNEL\"") && !said.contains("Connect, send"), "{said}");
        assert_eq!(said.contains("None of access.users may publish"), !curl.contains("-u"), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
        if curl.contains("-u") {
            // With the password behind the name, which curl would ask for, the command works.
            let command = lines.iter().find(|line| line.contains(curl)).unwrap().replace("''s'", "''s:s3cret'");
            let sh = tokio::process::Command::new("sh").arg("-c").arg(format!("{command} -sS")).output().await.unwrap();
            assert_eq!(String::from_utf8_lossy(&sh.stdout), r#"{"E":null,"r":{"s":0,"f":0}}"#, "{command} {sh:?}");
        }
    }
}

#[tokio::test]
async fn single_says_where_it_serves_and_nothing_to_try() {
    let dir = folder(ECHO, "", "");
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    assert_eq!(client.ask("hello").await, "hello");
    assert_eq!(get(process.api(), "/healthz").await.0, 200);
    assert!(process.lines().iter().all(|l| !l.contains("curl")), "{:?}", process.lines());
}

#[tokio::test]
async fn the_stock_configuration_of_connmix_starts_unchanged() {
    let dir = copied("tests/fixtures/connmix-stock.yaml", "tests/fixtures/tutorial.on_message.lua");
    let ended = run(dir.path(), &["check"]);
    // The tutorial closes `conn` above its declaration: it runs all the same.
    let warning = "lua/entry.websocket.lua:4: warning: global 'conn' is read but nothing defines it; \
                   'conn' becomes a local on line 8";
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), warning));
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/chat").await;
    assert_eq!(client.ask(r#"{"op":"subscribe","channel":"7@video"}"#).await, r#"{"result":true}"#);
    let request = |auth: &str| {
        let body = r#"{"c":"video:7","d":"x"}"#;
        format!(
            "POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{auth}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    assert_eq!(http(process.api(), &request("")).await.0, 401);
    // root:123456
    let (status, reply) = http(process.api(), &request("Authorization: Basic cm9vdDoxMjM0NTY=\r\n")).await;
    assert_eq!((status, reply.as_str()), (200, r#"{"E":null,"r":{"s":1,"f":0}}"#));
    let ended = process.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn an_api_that_is_open_to_everybody_is_warned_of() {
    let dir = folder(ECHO, "", "");
    let closed = Process::ready(dir.path(), &["single"]);
    assert!(closed.lines().iter().all(|l| !l.contains("open to everybody")), "loopback: {:?}", closed.lines());
    replace(
        &dir.path().join("connmix.yaml"),
        "engine:\n  apiServer: {port: 0, bind: 127.0.0.1}",
        "engine:\n  apiServer: {port: 0, bind: 0.0.0.0}",
    );
    let open = Process::ready(dir.path(), &["single"]);
    let warned = open.line("open to everybody");
    assert!(warned.contains("WARN") && warned.contains("0.0.0.0:"), "{:?}", open.lines());
    replace(
        &dir.path().join("connmix.yaml"),
        "apiServer: {port: 0, bind: 0.0.0.0}",
        "apiServer: {port: 0, bind: 127.0.0.1}",
    );
    replace(
        &dir.path().join("connmix.yaml"),
        "center:\n  apiServer: {port: 0, bind: 127.0.0.1}",
        "center:\n  apiServer: {port: 0, bind: 0.0.0.0}",
    );
    let open = Process::ready(dir.path(), &["single"]);
    assert!(open.line("open to everybody").contains("WARN"), "the center's: {:?}", open.lines());
    drop(open);
    let checked = run(dir.path(), &["check", "--strict"]);
    assert!(checked.code == Some(0) && checked.out.contains("note: center.apiServer.port: the API on"), "{checked:?}");

    // It is so too when the last user is taken away.
    let file = dir.path().join("connmix.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("access: {{users: [{{username: ann, password: secret}}]}}\n{text}")).unwrap();
    let open = Process::ready(dir.path(), &["single"]);
    assert!(open.lines().iter().all(|l| !l.contains("open to everybody")), "{:?}", open.lines());
    std::fs::write(&file, text).unwrap();
    open.signal(libc::SIGHUP);
    assert!(open.line("open to everybody now").contains("WARN"));
}

// The log.

const NOISY: &str = "\
local function index(t) return t.x end
function fail() local x = index(nil) return x end
function on_message(msg, conn)
  if msg.data == 'fail' then
    return fail()
  end
  mix.log(mix.DEBUG, 'finer ' .. msg.data)
  mix.log(mix.INFO, 'said\\n' .. msg.data)
  print('printed', 7, nil)
  conn:send(msg.data)
end
function on_handshake(id, headers, server)
  return server.RequestUri ~= '/ws?no'
end
";

/// Connects, is refused once, says something, and makes the handler fail; the connection's number and address.
async fn noise(process: &Process) -> String {
    let mut client = Client::connect(process.ws(), "/ws").await;
    assert!(Client::try_connect(process.ws(), "/ws?no").await.is_err());
    assert_eq!(client.ask("a\u{1b}[31m\r\nb").await, "a\u{1b}[31m\r\nb");
    let remote = client.0.get_ref().local_addr().unwrap().to_string();
    client.send("fail").await;
    assert_eq!(client.close_frame().await, (1011, "handler error".into()));
    remote
}

/// A line of the text log begins with its time and level.
fn is_event(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let time = words.next().unwrap_or_default();
    time.len() == 27 && time.ends_with('Z') && ["DEBUG", "INFO", "WARN", "ERROR"].contains(&words.next().unwrap_or(""))
}

#[tokio::test]
async fn an_event_is_a_line_without_colour_and_an_error_is_told_once() {
    let dir = folder(NOISY, "", "");
    let process = Process::ready(dir.path(), &["dev"]);
    let before = process.lines().len();
    let remote = noise(&process).await;
    process.line_after(before, "ERROR");
    let ended = process.stop();
    assert!(!ended.out.contains('\u{1b}') && !ended.out.contains('\r'), "{}", ended.out);
    let greeting = |l: &str| l.is_empty() || l.starts_with("  ");
    let events: Vec<&str> = ended.out.lines().filter(|l| !greeting(l)).collect();
    assert!(events.iter().all(|l| is_event(l)), "{events:#?}");
    let about = |part: &str| events.iter().filter(|l| l.contains(part)).copied().collect::<Vec<_>>();
    let errors = about("ERROR");
    assert_eq!(errors.len(), 1, "{errors:#?}");
    let message = "entry.lua:1: attempt to index local 't' (a nil value)";
    for part in [
        message,
        "client_id=",
        &format!("remote={remote}"),
        "hook=\"on_message\"",
        "traceback=\"",
        "entry.lua:2: in function",
    ] {
        assert!(errors[0].contains(part), "{part} in {}", errors[0]);
    }
    assert_eq!(about(message).len(), 1, "told once");
    assert!(about("said")[0].contains("entry.lua:8: said\\na\\u{1b}[31m\\r\\nb"), "{:?}", about("said"));
    assert!(about("printed")[0].contains("entry.lua:9: printed\t7\tnil"), "{:?}", about("printed"));
    assert_eq!(about("finer").len(), 1);
    assert_eq!(about("handshake refused").len(), 1);
    assert_eq!(ended.err, "");
}

#[tokio::test]
async fn json_logs_are_one_object_a_line() {
    let dir = folder(NOISY, "", "");
    replace(&dir.path().join("connmix.yaml"), "{filename: ''}", "{filename: '', format: json, level: debug}");
    let process = Process::ready(dir.path(), &["single"]);
    let (before, ws, api) = (process.lines().len(), process.ws(), process.api());
    assert_ne!(ws, api);
    let remote = noise(&process).await;
    process.line_after(before, "ERROR");
    let ended = process.stop();
    let events: Vec<Value> = ended.out.lines().map(|l| serde_json::from_str(l).expect(l)).collect();
    assert!(events.iter().all(|e| e["timestamp"].is_string() && e["level"].is_string() && e["message"].is_string()));
    let errors: Vec<_> = events.iter().filter(|e| e["level"] == "ERROR").collect();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    let error = errors[0];
    assert!(error["message"].as_str().unwrap().starts_with("entry.lua:1: attempt to index"), "{error}");
    assert_eq!(error["remote"], remote);
    assert!(error["client_id"].is_number() && error["traceback"].as_str().unwrap().contains("entry.lua:2"), "{error}");
    assert!(events.iter().any(|e| e["message"].as_str().unwrap().contains("finer") && e["level"] == "DEBUG"));
}

#[tokio::test]
async fn single_writes_its_file_and_its_console_at_the_level() {
    let dir = folder(NOISY, "", "");
    replace(&dir.path().join("connmix.yaml"), "{filename: ''}", "{filename: logs/connmix.log, level: info}");
    let process = Process::ready(dir.path(), &["single"]);
    noise(&process).await;
    process.line("ERROR");
    let ended = process.stop();
    assert_eq!(ended.code, Some(0));
    let (name, log) = log_file(dir.path());
    assert!(name.starts_with("connmix.2") && name.ends_with(".log"), "{name}");
    for text in [&log, &ended.out] {
        for part in [" is ready; ", "said\\n", "printed", "attempt to index", "stopping", "stopped"] {
            assert!(text.contains(part), "{part:?} in:\n{text}");
        }
        assert!(!text.contains("DEBUG") && !text.contains("finer") && !text.contains('\u{1b}'), "{text}");
        assert!(text.lines().all(is_event), "{text}");
    }
    // Each takes its own time; the rest is the same.
    let untimed = |text: &str| text.lines().map(|l| l[27..].to_owned()).collect::<Vec<_>>();
    assert_eq!(untimed(&log), untimed(&ended.out));
    assert_eq!(ended.err, "");
}

/// Says what no line may hold, in all the ways that it can: the error's text, the name of a chunk and so the traceback, the
/// log functions, a subprotocol, a path.
const HOSTILE: &str = r#"
evil = "a\r\nb\27[2Jc\0d\8e\127f\194\133g\194\15531mh\226\128\168i\226\128\169j\226\128\174k\226\129\166l\t\229\188\185"
function on_message(msg, conn)
  mix.log(mix.WARN, evil)
  print(evil, {evil})
  local inner = assert(loadstring("error(evil)", "=" .. evil))
  local t = {["in" .. evil] = inner}
  t["in" .. evil]()
end
function on_handshake(id, headers, server)
  if server.RequestUri ~= "/ws" then
    return false, 403, evil
  end
end
function on_close() error(setmetatable({}, {__tostring = function() return evil end})) end
"#;

/// The text that it says.
const EVIL: &str = "a\r\nb\u{1b}[2Jc\0d\u{8}e\u{7f}f\u{85}g\u{9b}31mh\u{2028}i\u{2029}j\u{202e}k\u{2066}l\t弹";

/// Makes the script say all of it, and the engine refuse an origin and a path; what was printed.
async fn hostile(format: &str) -> String {
    let dir = folder(HOSTILE, "", "");
    replace(&dir.path().join("connmix.yaml"), "{filename: ''}", &format!("{{filename: '', level: debug{format}}}"));
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    assert!(Client::try_connect(process.ws(), "/ws?other").await.is_err());
    client.send("go").await;
    assert_eq!(client.close_frame().await.0, 1011);
    process.line("on_message");
    drop(client);
    let ended = process.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.out
}

#[tokio::test]
async fn what_clients_and_scripts_say_stays_in_one_harmless_line() {
    let out = hostile("").await;
    let harmful = |c: char| c != '\n' && connmix::telemetry::log::escape::is_harmful(c);
    assert!(!out.contains(harmful), "{out:?}");
    assert!(out.lines().all(is_event), "{out}");
    let escaped =
        "a\\r\\nb\\u{1b}[2Jc\\u{0}d\\u{8}e\\u{7f}f\\u{85}g\\u{9b}31mh\\u{2028}i\\u{2029}j\\u{202e}k\\u{2066}l\t弹";
    for part in ["entry.lua:4: ", "entry.lua:5: ", "handshake refused: "] {
        let line = out.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part} in {out}"));
        assert!(line.contains(escaped), "{escaped} in {line}");
    }
    let error = out.lines().find(|line| line.contains("hook=\"on_message\"")).unwrap();
    assert!(error.contains("\\r\\nb\\u{1b}[2Jc"), "{error}");

    let out = hostile(", format: json").await;
    assert!(!out.contains(harmful), "{out:?}");
    let events: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).expect(l)).collect();
    for part in ["entry.lua:4: ", "entry.lua:5: ", "handshake refused: "] {
        let said = events.iter().filter_map(|e| e["message"].as_str()).find(|m| m.contains(part)).unwrap();
        assert!(said.contains(EVIL), "the text is what it was: {said:?}");
    }
}

#[test]
fn problems_on_the_terminal_are_harmless_too() {
    let dir = folder("error('a\\r\\27[2Jb\\194\\133')", "", "");
    for args in [&["check"][..], &["single"], &["test", "entry.lua"]] {
        let ended = run(dir.path(), args);
        let all = ended.out + &ended.err;
        assert!(all.contains("a\\r\\u{1b}[2Jb\\u{85}"), "{args:?}: {all:?}");
        assert!(!all.contains(['\r', '\u{1b}', '\u{85}']), "{args:?}: {all:?}");
    }
}

#[test]
fn dev_leaves_the_log_file_alone() {
    let dir = folder(ECHO, "", "");
    replace(&dir.path().join("connmix.yaml"), "{filename: ''}", "{filename: logs/connmix.log}");
    let process = Process::ready(dir.path(), &["dev"]);
    assert_eq!(process.stop().code, Some(0));
    assert!(!dir.path().join("logs").exists());
}

#[test]
fn a_log_file_that_cannot_be_written_stops_the_start() {
    let dir = folder(ECHO, "", "");
    std::fs::write(dir.path().join("taken"), "").unwrap();
    replace(&dir.path().join("connmix.yaml"), "{filename: ''}", "{filename: taken/connmix.log}");
    let ended = run(dir.path(), &["single"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("taken/connmix.log"), "{}", ended.err);
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
}

#[tokio::test]
async fn no_secret_is_ever_printed() {
    let secrets = ["pw-of-ann", "pw-of-bob", "pw-of-redis", "value-of-token", "newer-pw"];
    let dir = folder(
        ECHO,
        "",
        "access: {users: [{username: ann, password: pw-of-ann}, {username: bob, password: pw-of-bob, roles: [read]}]}",
    );
    let config = dir.path().join("connmix.yaml");
    replace(&config, "{filename: ''}", "{filename: logs/connmix.log, level: debug}");
    replace(&config, "  workers: 2\n", "  workers: 2\n  luavm: {redis: [{password: pw-of-redis}]}\n");
    replace(&config, "value: /ws}", "value: /ws}, {name: token, value: value-of-token}");
    let mut printed = run(dir.path(), &["check"]).out;
    for args in [&["config", "-f", "connmix.yaml"][..], &["config", "-f", "connmix.yaml", "--json"]] {
        let ended = run(dir.path(), args);
        assert!(ended.code == Some(0) && ended.out.contains("ann") && ended.out.contains("token"), "{ended:?}");
        printed += &ended.out;
    }
    for command in ["dev", "single"] {
        let process = Process::ready(dir.path(), &[command]);
        // ann:pw-of-ann, ann:newer-pw, and no credentials at all.
        for auth in ["YW5uOnB3LW9mLWFubg==", "YW5uOm5ld2VyLXB3", "%"] {
            let request = format!(
                "POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Basic {auth}\r\n\
                 Content-Length: 2\r\n\r\n{{}}"
            );
            http(process.api(), &request).await;
        }
        let lines = process.lines().len();
        // Live, and waiting for a restart.
        let before = std::fs::read_to_string(&config).unwrap();
        replace(&config, "pw-of-ann", "newer-pw");
        replace(&config, "pw-of-redis", "newer-pw");
        replace(&config, "value-of-token", "newer-pw");
        process.line_after(lines, "access.users[ann].password: *** -> ***");
        process.line_after(lines, "engine.luavm.redis[default].password: *** -> ***");
        process.line_after(lines, "engine.servers[0].options.token: *** -> ***");
        let lines = process.lines().len();
        replace(&config, "password: newer-pw", "password: [newer-pw]");
        process.line_after(lines, "the configuration was not reloaded");
        std::fs::write(&config, before).unwrap();
        let ended = process.stop();
        assert_eq!(ended.code, Some(0));
        printed += &ended.out;
        printed += &ended.err;
    }
    printed += &log_file(dir.path()).1;
    assert!(printed.contains("ann"), "names are no secrets");
    for secret in secrets {
        assert!(!printed.contains(secret), "{secret} in:\n{printed}");
    }
}

// Signals.

#[tokio::test]
async fn a_stop_closes_clients_with_1012_and_exits_with_0() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGPWR, libc::SIGXCPU] {
        let dir = folder(ECHO, "", "");
        let process = Process::ready(dir.path(), &["single"]);
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(Client::connect(process.ws(), "/ws").await);
        }
        let (ws, api) = (process.ws(), process.api());
        process.signal(signal);
        for client in &mut clients {
            assert_eq!(client.close_frame().await.0, 1012);
        }
        drop(clients);
        let ended = process.ended();
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
        assert!(ended.out.contains("stopping") && ended.out.ends_with("stopped"), "{}", ended.out);
        for addr in [ws, api] {
            assert!(std::net::TcpStream::connect(addr).is_err());
        }
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let slow = format!("{ECHO}\nfunction on_close() mix.sleep(3600) end");
    let dir = folder(&slow, "", "shutdownTimeout: 1h");
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    process.signal(libc::SIGTERM);
    assert_eq!(client.close_frame().await.0, 1012);
    process.line("stopping");
    // A reload is none.
    process.signal(libc::SIGHUP);
    process.signal(libc::SIGINT);
    let ended = process.ended();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
}

#[tokio::test]
async fn a_stop_that_takes_too_long_exits_with_1_and_says_so() {
    let slow = format!("{ECHO}\nfunction on_close() mix.sleep(3600) end");
    let dir = folder(&slow, "", "shutdownTimeout: 200ms");
    let process = Process::ready(dir.path(), &["single"]);
    let client = Client::connect(process.ws(), "/ws").await;
    let ended = process.stop();
    drop(client);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("shutdownTimeout"), "{}", ended.err);
}

#[tokio::test]
async fn what_happens_during_the_stop_is_in_the_log_file() {
    let dir = folder(&format!("{ECHO}\nfunction on_close() error('while stopping') end"), "", "");
    replace(&dir.path().join("connmix.yaml"), "{filename: ''}", "{filename: logs/connmix.log}");
    let process = Process::ready(dir.path(), &["single"]);
    let client = Client::connect(process.ws(), "/ws").await;
    process.signal(libc::SIGTERM);
    process.line("while stopping");
    drop(client);
    assert_eq!(process.ended().code, Some(0));
    let (_, log) = log_file(dir.path());
    assert!(log.contains("while stopping"), "{log}");
    assert!(log.trim_end().ends_with("stopped"), "{log}");
}

#[test]
fn a_hangup_reloads_the_configuration() {
    let dir = folder(ECHO, "", "");
    let config = dir.path().join("connmix.yaml");
    let process = Process::ready(dir.path(), &["single"]);
    let lines = process.lines().len();
    // Also without any change.
    process.signal(libc::SIGHUP);
    process.line_after(lines, "reloaded connmix.yaml");
    let lines = process.lines().len();
    replace(&config, "workers: 2", "workers: 3");
    process.signal(libc::SIGHUP);
    process.line_after(lines, "needs a restart: engine.workers: 2 -> 3");
    assert_eq!(process.stop().code, Some(0));
}

#[tokio::test]
async fn no_other_signal_ends_it_or_holds_it_up() {
    let dir = folder(ECHO, "", "");
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    // All but those that stop it, freeze it, or tell of a defect; glibc keeps 32 and 33 to itself.
    let others = [
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGPWR,
        libc::SIGXCPU,
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGUSR2,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGABRT,
        libc::SIGSYS,
        libc::SIGTRAP,
    ];
    for signal in (1..=31).chain(34..=64).filter(|signal| !others.contains(signal)) {
        process.signal(signal);
        let said = format!("after {signal}");
        assert_eq!(client.ask(&said).await, said);
    }
    process.line("SIGUSR1: there is no log file to open anew");
    process.line("reloaded connmix.yaml");
    drop(client);
    assert_eq!(process.stop().code, Some(0));
}

#[test]
fn signals_are_heard_during_the_start() {
    let script = format!("{ECHO}\nprint('loading') local t = os.clock() while os.clock() - t < 0.5 do end");
    let dir = folder(&script, "", "");
    for (signal, goes_on) in [(libc::SIGUSR1, true), (libc::SIGHUP, true), (libc::SIGTERM, false)] {
        let process = Process::start(dir.path(), &["single"]);
        process.line("loading");
        process.signal(signal);
        process.line(" is ready; ");
        let ended = if goes_on { process.stop() } else { process.ended() };
        assert_eq!(ended.code, Some(0), "{signal}: {ended:?}");
    }
}

#[tokio::test]
async fn signals_that_come_again_by_themselves_do_not_cut_a_drain_off() {
    let script = format!("{ECHO}\nfunction on_close() mix.sleep(0.5) print('told') end");
    let dir = folder(&script, "", "shutdownTimeout: 60");
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    process.signal(libc::SIGPWR);
    assert_eq!(client.close_frame().await.0, 1012);
    for signal in [libc::SIGPWR, libc::SIGXCPU, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2] {
        process.signal(signal);
    }
    process.line("SIGUSR2: the engine stops");
    let ended = process.ended();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.out.contains("told") && ended.out.ends_with("stopped"), "{}", ended.out);
}

#[tokio::test]
async fn a_log_file_that_was_moved_away_is_opened_anew_on_sigusr1() {
    let dir = folder("function on_message(msg, conn) print(msg.data) conn:send(msg.data) end", "", "");
    let config = dir.path().join("connmix.yaml");
    replace(&config, "{filename: ''}", "{filename: logs/connmix.log, maxFiles: 1}");
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    client.ask("said before").await;
    process.line("said before");
    let (name, _) = log_file(dir.path());
    let (file, moved) = (dir.path().join("logs").join(&name), dir.path().join("logs").join(format!("{name}.1")));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    eventually("it is in the file", async || read(&file).contains("said before").then_some(())).await;
    std::fs::rename(&file, &moved).unwrap();
    client.ask("said between").await;
    eventually("the moved file goes on", async || read(&moved).contains("said between").then_some(())).await;
    process.signal(libc::SIGUSR1);
    process.line("SIGUSR1: the log file ");
    client.ask("said after").await;
    eventually("the new file has it", async || read(&file).contains("said after").then_some(())).await;
    assert!(!read(&moved).contains("said after") && !read(&file).contains("said between"));
    // A folder that went, too.
    std::fs::rename(dir.path().join("logs"), dir.path().join("old")).unwrap();
    process.signal(libc::SIGUSR1);
    eventually("the folder is there again", async || read(&file).contains("SIGUSR1").then_some(())).await;
    drop(client);
    assert_eq!(process.stop().code, Some(0));
    assert!(read(&file).trim_end().ends_with("stopped"), "{}", read(&file));
}
