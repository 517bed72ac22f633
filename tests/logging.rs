//! Bounds of the log: the length of a line, the memory while its output is not read, the disk space.

mod common;

use common::process::Process;
use common::*;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

const SCRIPT: &str = "\
function on_message(msg, conn)
  local what, n = msg.data:match('(%a+) (%d+)')
  if what == 'fail' then
    error(('x'):rep(tonumber(n)) .. 'end')
  end
  for i = 1, tonumber(n) do
    mix.log(mix.INFO, i .. (' many words'):rep(100))
  end
  conn:send('logged')
end
";

fn folder(logging: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    let file = dir.path().join("connmix.yaml");
    write_config(&file, "handlerTimeout: 60s", "workers: 1", "");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("logging: {filename: ''}", &format!("logging: {{{logging}}}"))).unwrap();
    dir
}

/// A child that does not outlive its test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The files of the log, with their sizes.
fn files(dir: &Path) -> Vec<(String, u64)> {
    let list = std::fs::read_dir(dir.join("logs")).unwrap().map(|entry| entry.unwrap());
    list.map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())).collect()
}

#[tokio::test]
async fn a_line_has_its_bound_whatever_an_error_says() {
    for format in ["text", "json"] {
        let dir = folder(&format!("filename: logs/c.log, format: {format}"));
        let process = Process::ready(dir.path(), &["single"]);
        let mut client = Client::connect(process.ws(), "/ws").await;
        client.send("fail 5000000").await;
        assert_eq!(client.close_frame().await.0, 1011);
        let line = process.line("xxxxxxxxxxxxxxxx");
        assert!(line.len() < 64 * 1024 && line.len() > 32 * 1024, "{format}: {}", line.len());
        assert!(line.contains("x [cut]"), "{format}: {}", &line[line.len() - 100..]);
        if format == "json" {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&line["level"], &line["target"]), (&"ERROR".into(), &"script".into()));
        }
        assert_eq!(process.stop().code, Some(0));
        let name = &files(dir.path())[0].0;
        let file = std::fs::read_to_string(dir.path().join("logs").join(name)).unwrap();
        assert!(file.lines().all(|line| line.len() < 64 * 1024), "{format}");
    }
}

#[tokio::test]
async fn a_console_that_nobody_reads_costs_lines_and_little_memory() {
    let dir = folder("filename: ''");
    let mut command = Command::new(env!("CARGO_BIN_EXE_connmix"));
    command.arg("single").current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = Killed(command.spawn().unwrap());
    let mut console = BufReader::new(child.0.stdout.take().unwrap());
    let mut line = String::new();
    let mut at = Vec::new();
    while at.len() < 2 {
        line.clear();
        console.read_line(&mut line).unwrap();
        for label in ["serving clients on ", "API on "] {
            if line.contains(label) {
                at.push(process::address(line.trim_end(), label));
            }
        }
    }
    // Some 33 MB.
    let mut client = Client::connect(at[0], "/ws").await;
    for _ in 0..30 {
        assert_eq!(client.ask("log 1000").await, "logged");
    }
    let page = get(at[1], "/metrics").await.1;
    let metric = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {page}"));
        line.trim().parse::<f64>().unwrap()
    };
    let dropped = metric("connmix_log_dropped_lines_total{output=\"console\"}");
    assert!(dropped > 10_000.0, "{dropped}");
    // Once it flows again, it says so: what was kept comes first.
    let mut kept = 0.0;
    let told = loop {
        line.clear();
        assert!(console.read_line(&mut line).unwrap() > 0);
        match line.contains("many words") {
            true => kept += 1.0,
            false if line.contains(" left out ") => break line.clone(),
            false => {}
        }
    };
    assert!(told.contains(&format!("{dropped} lines of the log were left out of the console")), "{told}");
    assert!(kept > 1000.0 && kept + dropped <= 30_000.0, "{kept}");
    // SAFETY: the process is ours, and has not been waited for.
    unsafe { libc::kill(child.0.id() as i32, libc::SIGTERM) };
    std::io::copy(&mut console, &mut std::io::sink()).unwrap();
    assert!(child.0.wait().unwrap().success());
}

#[tokio::test]
async fn a_full_file_is_followed_by_another_and_the_oldest_go() {
    let dir = folder("filename: logs/c.log, maxSize: 64KiB, maxFiles: 3");
    let process = Process::ready(dir.path(), &["single"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    // Some 660 KB.
    assert_eq!(client.ask("log 600").await, "logged");
    assert_eq!(process.stop().code, Some(0));
    let files = files(dir.path());
    assert!(files.len() == 3 && files.iter().all(|(_, size)| *size <= 64 * 1024), "{files:?}");
    assert!(files.iter().all(|(name, _)| name.starts_with("c.") && name.ends_with(".log")), "{files:?}");
}

#[tokio::test]
async fn each_call_and_each_handshake_has_a_line_where_that_is_wished() {
    use base64::Engine as _;
    let dir = folder("filename: '', access: true");
    let file = dir.path().join("connmix.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let users = "access: {users: [{username: ann, password: secret, roles: [write], host: '*'}]}";
    std::fs::write(&file, format!("{users}\n{text}")).unwrap();
    let process = Process::ready(dir.path(), &["single"]);
    let (api, ws) = (process.api(), process.ws());
    let login = base64::engine::general_purpose::STANDARD.encode("ann:secret");
    let body = r#"{"c":"a","d":"x"}"#;
    let request = |login: &str| {
        format!(
            "POST /v1/mesh/publish HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\nAuthorization: Basic {login}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    // One that the usual path answers, one that hyper does, and one that is refused.
    assert_eq!(http(api, &request(&login)).await.0, 200);
    assert_eq!(get(api, "/healthz?token=s3cret").await.0, 200);
    assert_eq!(http(api, &request("YW5uOndyb25n")).await.0, 401);
    let client = Client::connect(ws, "/ws?token=s3cret").await;
    assert!(Client::try_connect(ws, "/other?token=s3cret").await.is_err());
    for (request, parts) in [
        ("POST /v1/mesh/publish ", &["peer=127.0.0.1 ", "user=\"ann\" ", "status=200 ", "ms="][..]),
        ("GET /healthz ", &["peer=127.0.0.1 ", "status=200 "]),
        ("GET /ws ", &["peer=127.0.0.1:", "client_id=", "status=101 "]),
        ("GET /other ", &["peer=127.0.0.1:", "status=404 "]),
    ] {
        let line = process.line(&format!(" access: {request}"));
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
    let refused = process.line("status=401");
    assert!(refused.contains(" access: POST /v1/mesh/publish ") && !refused.contains("user="), "{refused}");
    // Off, live.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("access: true", "access: false")).unwrap();
    process.line("reloaded");
    drop(client);
    let lines = process.lines().len();
    assert_eq!(get(api, "/healthz").await.0, 200);
    let ended = process.stop();
    assert!(!ended.out.contains("s3cret") && !ended.out.contains("secret\""), "{}", ended.out);
    assert!(ended.out.lines().skip(lines).all(|line| !line.contains("access:")), "{}", ended.out);
}

#[tokio::test]
async fn no_line_has_the_name_of_a_user_whose_password_nobody_has_looked_at() {
    use base64::Engine as _;
    let dir = folder("filename: '', access: true");
    let file = dir.path().join("connmix.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    // Of "sesame", a quick one.
    let hash = "$argon2id$v=19$m=64,t=1,p=1$T1huQ0phL2NWM09UMm43Uw$yKSZEmUSaPDlJHBgYcpWUvJtTE5qD5HdvNBHoofbIXY";
    let users = format!("access: {{users: [{{username: ann, passwordHash: '{hash}', roles: [read], host: '*'}}]}}");
    std::fs::write(&file, format!("{users}\n{text}")).unwrap();
    let process = Process::ready(dir.path(), &["single"]);
    let api = process.api();
    let ask = async |path: &str, password: &str, headers: &str| {
        let login = base64::engine::general_purpose::STANDARD.encode(format!("ann:{password}"));
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\nAuthorization: Basic {login}\r\n{headers}\r\n"
        );
        http(api, &request).await.0
    };
    // What anybody may ask, and what is refused before.
    assert_eq!(ask("/healthz", "wrong", "").await, 200);
    assert_eq!(ask("/readyz", "wrong", "Origin: http://a.example\r\n").await, 403);
    assert_eq!(ask("/metrics", "wrong", "Host: other\r\n").await, 400);
    for said in ["/healthz ", "/readyz ", "/metrics "] {
        let line = process.line(&format!(" access: GET {said}"));
        assert!(!line.contains("user="), "{line}");
    }
    assert_eq!(ask("/metrics", "sesame", "").await, 200);
    assert!(process.line("user=\"ann\"").contains(" access: GET /metrics "));
    process.stop();
}
