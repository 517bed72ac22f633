//! `connmix check --production`, with the real program: what it finds, and what it lets pass.

mod common;

use common::process::{Ended, Process, run};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

/// A folder with that configuration and a script, readable by this user alone.
fn folder(config: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("entry.lua", "function on_message(msg, conn) conn:send(msg.data) end"),
        ("connmix.yaml", config),
        ("key.pem", "key"),
        ("secret", "known to all nodes"),
    ] {
        fs::write(dir.path().join(name), text).unwrap();
        mode(&dir, name, 0o600);
    }
    dir
}

fn mode(dir: &TempDir, name: &str, mode: u32) {
    fs::set_permissions(dir.path().join(name), Permissions::from_mode(mode)).unwrap();
}

fn check(dir: &TempDir) -> Ended {
    run(dir.path(), &["check", "--production"])
}

/// The findings, each as its line, key and severity, and the texts of all.
fn findings(dir: &TempDir) -> (Vec<String>, String) {
    let ended = check(dir);
    let is_finding = |line: &&str| line.contains(": error: ") || line.contains(": warning: ");
    let heads = ended.err.lines().filter(is_finding).map(|line| {
        let (end, severity) = [": error", ": warning"].iter().find_map(|s| line.find(s).map(|at| (at, *s))).unwrap();
        line["connmix.yaml".len()..end].trim_start_matches(':').trim().to_owned() + severity
    });
    let (heads, has_errors): (Vec<_>, _) = (heads.collect(), ended.err.contains(": error: "));
    assert_eq!(ended.code, Some(i32::from(has_errors)), "{ended:?}");
    (heads, ended.err)
}

/// What strangers can't use: all listens on loopback, or is guarded.
const GUARDED: &str = "\
center: {apiServer: {port: 0, bind: 127.0.0.1}}
engine:
  apiServer: {port: 0, bind: 127.0.0.1}
  servers:
    - port: 0
      bind: 127.0.0.1
      entry: entry.lua
      maxConnections: 1000
      allowedOrigins: ['https://example.com']
";

#[test]
fn a_guarded_engine_passes() {
    let dir = folder(GUARDED);
    for args in [&["check", "--production"][..], &["check", "--production", "--strict"]] {
        let ended = run(dir.path(), args);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
        assert_eq!(ended.out, "connmix.yaml: no problems; 1 server(s)");
    }
}

#[test]
fn an_open_engine_is_told_with_lines_keys_and_what_to_do() {
    let dir = folder(
        "\
logging: {level: debug}
center:
  apiServer: {port: 0}
engine:
  apiServer:
    port: 0
    bind: 0.0.0.0
    readTimeout: 0
  memory: {high: 0}
  luavm: {libraries: [io, os]}
  servers:
    - port: 0
      entry: entry.lua
      handlerTimeout: 10s
      readTimeout: 0
      writeTimeout: 0
      messageTimeout: 0
      unsentLimit: 0
trustedProxies: [10.0.0.1, 0.0.0.0/0]
",
    );
    let (found, text) = findings(&dir);
    let want = [
        "1: logging.level: warning",
        "3: center.apiServer.bind: error",
        "7: engine.apiServer.bind: error",
        "8: engine.apiServer.readTimeout: warning",
        "9: engine.memory.high: error",
        "10: engine.luavm.libraries: warning",
        "10: engine.luavm.libraries: warning",
        "12: engine.servers[0].bind: warning",
        "12: engine.servers[0].allowedOrigins: warning",
        "12: engine.servers[0].maxConnections: warning",
        "14: engine.servers[0].handlerTimeout: warning",
        "15: engine.servers[0].readTimeout: warning",
        "16: engine.servers[0].writeTimeout: warning",
        "17: engine.servers[0].messageTimeout: warning",
        "18: engine.servers[0].unsentLimit: warning",
        "19: trustedProxies[1]: error",
    ];
    assert_eq!(found.iter().filter(|head| !head.contains(".rate:")).collect::<Vec<_>>(), want, "{text}");
    let open = "connmix.yaml:7: engine.apiServer.bind: error: 0.0.0.0:0 is open to everybody who reaches it: there are no \
                access.users; set some, or bind it to 127.0.0.1";
    assert!(text.lines().any(|line| line == open), "{text}");
    assert!(
        text.ends_with(" warning(s): not for production as it is") && text.contains("connmix.yaml: 4 error(s), "),
        "{text}"
    );
    // Without the option it is a configuration like others.
    let ended = run(dir.path(), &["check"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    assert!(ended.out.contains("note: engine.apiServer.port: the API on 0.0.0.0:0 is open"), "{ended:?}");
}

#[test]
fn warnings_alone_fail_only_when_they_are_to() {
    let dir = folder(&GUARDED.replace("      maxConnections: 1000\n", ""));
    let ended = check(&dir);
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.err.starts_with("connmix.yaml:5: engine.servers[0].maxConnections: warning: 0 is no limit"),
        "{ended:?}"
    );
    assert_eq!(ended.out, "connmix.yaml: 1 warning(s); 1 server(s)");
    let ended = run(dir.path(), &["check", "--production", "--strict"]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.ends_with("connmix.yaml: 1 warning(s); with --strict they count as problems"), "{ended:?}");
}

#[test]
fn passwords_are_never_told_and_files_that_others_can_read_or_change_are() {
    let users = "access: {users: [{username: back end, password: s3cr3t}]}\n";
    let dir = folder(&format!("{users}{}", GUARDED.replace("port: 0, bind: 127.0.0.1}\n  ", "port: 0}\n  ")));
    let (found, text) = findings(&dir);
    assert_eq!(found, ["1: access.users[0].password: warning", "4: engine.apiServer.bind: warning"], "{text}");
    assert!(text.contains("can be read on the way"), "{text}");
    mode(&dir, "connmix.yaml", 0o644);
    let (found, more) = findings(&dir);
    assert!(found.contains(&"mode: error".to_owned()) && more.contains("which holds secrets: chmod o-r"), "{more}");
    assert!(!text.contains("s3cr3t") && !more.contains("s3cr3t"));
    // Without secrets everybody may read it, but not write it, nor the script.
    let dir = folder(GUARDED);
    mode(&dir, "connmix.yaml", 0o644);
    mode(&dir, "entry.lua", 0o644);
    assert_eq!(findings(&dir).0, [""; 0]);
    mode(&dir, "connmix.yaml", 0o646);
    mode(&dir, "entry.lua", 0o646);
    assert_eq!(findings(&dir).0, ["mode: error", "7: engine.servers[0].entry: error"]);
}

#[test]
fn a_cluster_without_secret_or_tls_is_told_where_others_reach_it() {
    let mesh = |rest: &str| format!("{GUARDED}cluster: {{engine: mesh{rest}}}\n");
    let open = folder(&mesh(""));
    assert_eq!(findings(&open).0, ["10: cluster.secret: error", "10: cluster.tls.cert: warning"]);
    let guarded = folder(&mesh(", secretFile: secret, tls: {cert: cert.pem, key: key.pem}"));
    assert_eq!(findings(&guarded).0, [""; 0]);
    mode(&guarded, "key.pem", 0o644);
    mode(&guarded, "secret", 0o604);
    let (found, text) = findings(&guarded);
    assert_eq!(found, ["10: cluster.secretFile: error", "10: cluster.tls.key: error"]);
    assert!(text.contains("can read or change key.pem: chmod o="), "{text}");
    fs::remove_file(guarded.path().join("key.pem")).unwrap();
    assert_eq!(findings(&guarded).0, ["10: cluster.secretFile: error", "10: cluster.tls.key: warning"]);
    // On loopback nobody else reaches it.
    let here = GUARDED
        .replace("center: {", "center: {registry: {bind: 127.0.0.1}, ")
        .replace("engine:\n", "engine:\n  meshPoint: {bind: 127.0.0.1}\n");
    assert_eq!(findings(&folder(&format!("{here}cluster: {{engine: mesh}}\n"))).0, [""; 0]);
    // A file for several roles: as single it is alone.
    let several = folder(&GUARDED.replace("engine:\n", "engine:\n  centerRegistry: 10.0.0.1:6786\n"));
    let (found, text) = findings(&several);
    assert_eq!(found, ["1: cluster.secret: warning", "1: cluster.tls.cert: warning"], "{text}");
    assert!(text.contains("warning: as a center or an engine: everybody who reaches the ports can join"), "{text}");
}

#[test]
fn a_secret_of_the_environment_is_none_in_the_file_and_headers_of_traces_need_tls() {
    let tracing = |scheme: &str, value: &str| {
        let dir = folder(&format!(
            "{GUARDED}access: {{users: [{{username: a, password: '${{SECRET}}'}}]}}\n\
             tracing: {{endpoint: '{scheme}://otel.example.com', headers: [{{name: authorization, value: {value}}}]}}\n"
        ));
        let ended =
            Process::start_with(dir.path(), &["check", "--production"], &[("SECRET", "hunter2".as_ref())]).ended();
        assert!(!ended.err.contains("hunter2"), "{}", ended.err);
        ended.err
    };
    assert!(!tracing("https", "'Bearer ${SECRET}'").contains(": warning: "));
    let told = tracing("http", "hunter2");
    assert!(told.contains(":11: tracing.endpoint: warning: http:// to another machine"), "{told}");
    assert!(told.contains(":11: tracing.headers[0].value: warning: a secret stands readable in the file"), "{told}");
    assert_eq!(told.matches(": warning: ").count(), 2, "{told}");
}
