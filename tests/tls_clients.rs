//! TLS with the clients that people use, where they are on the machine: openssl, curl, Python, Java,
//! Chromium.

mod common;

use common::PATIENCE;
use common::optional::{Missing, Outcome, need};
use common::process::{Process, address};
use common::tls::Authority;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

optional_tests!(
    openssl_is_refused_a_renegotiation,
    openssl_resumes_and_changes_keys,
    openssl_goes_on_in_a_new_process_and_changes_keys_there,
    curl_calls_the_api,
    python_talks_by_websocket,
    java_talks_by_websocket,
    chromium_talks_by_websocket,
    the_certificate_to_try_with_does_what_its_page_says,
);

/// Answers, and logs what is short.
const SCRIPT: &str = "function on_message(msg, conn)
  if #msg.data < 100 then print(msg.data) end
  conn:send('got ' .. msg.data)
end";

/// A running engine with TLS at `/ws` and at the API; its folder has `ca.pem`.
struct Server {
    dir: TempDir,
    process: Process,
    ws: SocketAddr,
    api: SocketAddr,
}

fn server() -> Server {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.issue(dir.path(), "cert", &["localhost", "127.0.0.1"]);
    authority.write(&dir.path().join("ca.pem"));
    serve(dir)
}

/// The same with what lies in the folder.
fn serve(dir: TempDir) -> Server {
    fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
    let text = "logging: {filename: ''}
center: {apiServer: {port: 0, bind: 127.0.0.1}}
engine:
  workers: 1
  apiServer: {port: 0, bind: 127.0.0.1, tls: {cert: cert.pem, key: cert.key}}
  servers:
    - {port: 0, bind: 127.0.0.1, entry: entry.lua, options: [{name: path, value: /ws}], tls: {cert: cert.pem, key: cert.key}}
";
    fs::write(dir.path().join("connmix.yaml"), text).unwrap();
    let process = Process::ready(dir.path(), &["dev"]);
    let ws = address(&process.line("serving clients on "), "serving clients on ");
    let api = address(&process.line("API on "), "API on ");
    Server { dir, process, ws, api }
}

/// Runs a program in the server's folder; its output, and whether it exited with 0.
async fn run(server: &Server, program: &str, args: &[&str], input: &str) -> (String, bool) {
    let mut command = tokio::process::Command::new(program);
    command
        .args(args)
        .current_dir(server.dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let say = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        // openssl takes its commands at the beginning of a read, so each comes by itself.
        for part in input.split_inclusive('\n') {
            let _ = stdin.write_all(part.as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    let done = tokio::time::timeout(PATIENCE * 3, child.wait_with_output()).await.expect("an end in time").unwrap();
    say.abort();
    let all = [done.stdout, done.stderr].concat();
    (String::from_utf8_lossy(&all).into_owned(), done.status.success())
}

async fn openssl_is_refused_a_renegotiation() -> Outcome {
    need("openssl", &["version"])?;
    let server = server();
    let at = format!("localhost:{}", server.ws.port());
    let args = ["s_client", "-connect", &at, "-CAfile", "ca.pem", "-tls1_2", "-no_ign_eof"];
    let (told, _) = run(&server, "openssl", &args, "R\n").await;
    assert!(told.contains("Verify return code: 0"), "{told}");
    assert!(told.contains("RENEGOTIATING") && told.contains("no renegotiation"), "{told}");
    // Older versions end with an alert, if this openssl can ask for them at all.
    let args = ["s_client", "-connect", &at, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];
    let (told, ok) = run(&server, "openssl", &args, "").await;
    assert!(
        !ok && ["protocol version", "handshake failure", "no protocols available"].iter().any(|why| told.contains(why)),
        "{told}"
    );
    server.process.stop();
    Ok(())
}

async fn openssl_resumes_and_changes_keys() -> Outcome {
    need("openssl", &["version"])?;
    let server = server();
    let at = format!("localhost:{}", server.api.port());
    let request = "K\nk\nGET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let args = ["s_client", "-connect", &at, "-CAfile", "ca.pem", "-sess_out", "session.pem"];
    let (told, _) = run(&server, "openssl", &args, request).await;
    assert!(told.contains("KEYUPDATE") && told.contains("HTTP/1.1 200"), "{told}");
    let args = ["s_client", "-connect", &at, "-CAfile", "ca.pem", "-sess_in", "session.pem"];
    let (told, _) = run(&server, "openssl", &args, &request[4..]).await;
    assert!(told.contains("Reused, TLSv1.3") && told.contains("HTTP/1.1 200"), "{told}");
    server.process.stop();
    Ok(())
}

async fn openssl_goes_on_in_a_new_process_and_changes_keys_there() -> Outcome {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    need("openssl", &["version"])?;
    let server = server();
    let at = format!("localhost:{}", server.api.port());
    let body = "{\"c\":\"news\",\"d\":\"hello\"}";
    let request =
        format!("POST /v1/mesh/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}\n", body.len());
    let mut successor = None;
    for (version, updates) in [("-tls1_3", &["K\n", "k\n"][..]), ("-tls1_2", &[])] {
        let mut command = tokio::process::Command::new("sh");
        let client = format!("exec openssl s_client -connect {at} -CAfile ca.pem -no_ign_eof {version} 2>&1");
        command.args(["-c", &client]).current_dir(server.dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut told = String::new();
        // What it says about the session comes first, and then what the engine answers.
        let mut until = async |part: &str| {
            while !told.contains(part) {
                let mut came = Vec::new();
                let many = tokio::time::timeout(PATIENCE, stdout.read_buf(&mut came)).await.expect("more in time");
                assert!(many.unwrap() > 0, "{part} never came: {told}");
                told.push_str(&String::from_utf8_lossy(&came));
            }
            told.clear();
        };
        for round in 0..3 {
            if round > 0 {
                let lines = server.process.lines().len();
                let ended = common::process::run(server.dir.path(), &["upgrade"]);
                assert_eq!(ended.code, Some(0), "{ended:?}");
                let process = ended.out.split("process ").nth(1).unwrap().split(' ').next().unwrap();
                successor = Some(process.parse::<i32>().unwrap());
                server.process.line_after(lines, "stopped");
                for update in updates {
                    stdin.write_all(update.as_bytes()).await.unwrap();
                    until("KEYUPDATE").await;
                }
            }
            stdin.write_all(request.as_bytes()).await.unwrap();
            until("\"E\":null").await;
        }
    }
    // SAFETY: it takes two numbers.
    unsafe { libc::kill(successor.unwrap(), libc::SIGTERM) };
    Ok(())
}

async fn curl_calls_the_api() -> Outcome {
    need("curl", &["--version"])?;
    let server = server();
    let url = format!("https://localhost:{}/v1/mesh/publish", server.api.port());
    let body = "{\"c\":\"news\",\"d\":\"hello\"}";
    for version in ["--tlsv1.3", "--tlsv1.2"] {
        let args = [
            "-sS", "--cacert", "ca.pem", version, &url, "-d", body, "--next", "-sS", "--cacert", "ca.pem", &url, "-d",
            body,
        ];
        let (told, ok) = run(&server, "curl", &args, "").await;
        assert!(ok && told.matches("\"E\":null").count() == 2, "{told}");
    }
    let (told, _) = run(&server, "curl", &["-sS", &url.replace("https", "http")], "").await;
    assert!(told.contains("this port speaks TLS"), "{told}");
    server.process.stop();
    Ok(())
}

/// A WebSocket client with nothing but Python's own library.
const PYTHON: &str = r#"
import base64, os, socket, ssl, struct, sys
context = ssl.create_default_context(cafile="ca.pem")
if sys.argv[2] == "1.2":
    context.maximum_version = ssl.TLSVersion.TLSv1_2
s = context.wrap_socket(socket.create_connection(("localhost", int(sys.argv[1]))), server_hostname="localhost")
key = base64.b64encode(os.urandom(16)).decode()
s.sendall(f"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
f = s.makefile("rb")
assert f.readline().startswith(b"HTTP/1.1 101")
while f.readline() != b"\r\n": pass
for size in (5, 300, 200000):
    length = bytes([128 | size]) if size < 126 else struct.pack("!BH" if size < 65536 else "!BQ", 254 if size < 65536 else 255, size)
    s.sendall(b"\x81" + length + b"\0\0\0\0" + b"x" * size)
    first, length = f.read(2)
    if length == 126: length, = struct.unpack("!H", f.read(2))
    elif length == 127: length, = struct.unpack("!Q", f.read(8))
    assert first == 0x81 and f.read(length) == b"got " + b"x" * size
print(s.version(), "talked")
s.unwrap()
print("ended in order")
"#;

async fn python_talks_by_websocket() -> Outcome {
    need("python3", &["-c", "import ssl"])?;
    let server = server();
    for version in ["1.3", "1.2"] {
        let port = server.ws.port().to_string();
        let (told, _) = run(&server, "python3", &["-c", PYTHON, &port, version], "").await;
        assert!(told.contains(&format!("TLSv{version} talked")), "{told}");
    }
    server.process.stop();
    Ok(())
}

/// The JDK's own client.
const JAVA: &str = r#"
import java.net.URI;
import java.net.http.*;
import java.util.concurrent.*;
public class Talk {
    public static void main(String[] args) throws Exception {
        var answers = new LinkedBlockingQueue<String>();
        var listener = new WebSocket.Listener() {
            StringBuilder text = new StringBuilder();
            public CompletionStage<?> onText(WebSocket ws, CharSequence part, boolean last) {
                text.append(part);
                if (last) { answers.add(text.toString()); text.setLength(0); }
                ws.request(1);
                return null;
            }
        };
        var ws = HttpClient.newHttpClient().newWebSocketBuilder().buildAsync(URI.create(args[0]), listener).get(20, TimeUnit.SECONDS);
        for (int size : new int[] {5, 300, 100000}) {
            ws.sendText("x".repeat(size), true).get();
            if (!answers.poll(20, TimeUnit.SECONDS).equals("got " + "x".repeat(size))) throw new Exception("wrong answer");
        }
        ws.sendClose(1000, "bye").get();
        System.out.println("talked");
    }
}
"#;

async fn java_talks_by_websocket() -> Outcome {
    need("java", &["--version"])?;
    need("keytool", &["-help"])?;
    let server = server();
    fs::write(server.dir.path().join("Talk.java"), JAVA).unwrap();
    let import =
        ["-importcert", "-noprompt", "-alias", "ca", "-file", "ca.pem", "-keystore", "trust", "-storepass", "changeit"];
    assert!(run(&server, "keytool", &import, "").await.1);
    let url = format!("wss://localhost:{}/ws", server.ws.port());
    let trust = ["-Djavax.net.ssl.trustStore=trust", "-Djavax.net.ssl.trustStorePassword=changeit"];
    let (told, ok) = run(&server, "java", &[trust[0], trust[1], "Talk.java", &url], "").await;
    if !ok && told.contains("compiler") {
        return Err(Missing::because("there is no Java compiler"));
    }
    assert!(ok && told.contains("talked"), "{told}");
    server.process.stop();
    Ok(())
}

async fn chromium_talks_by_websocket() -> Outcome {
    need("chromium", &["--version"])?;
    let server = server();
    let page = format!(
        "<script>let s = new WebSocket('wss://localhost:{}/ws'); s.onopen = () => s.send('x'.repeat(70000));
         let answers = 0; s.onmessage = e => {{ if (answers++ == 0) s.send('answer of ' + e.data.length); }};</script>",
        server.ws.port()
    );
    fs::write(server.dir.path().join("page.html"), page).unwrap();
    // The fingerprint of the key, as that option wants it.
    let script = "openssl x509 -in cert.pem -pubkey -noout | openssl pkey -pubin -outform der | openssl dgst -sha256 -binary | base64";
    let done = Command::new("sh").args(["-c", script]).current_dir(server.dir.path()).output();
    let print = String::from_utf8_lossy(&done.unwrap().stdout).trim().to_owned();
    if print.is_empty() {
        return Err(Missing::because("openssl makes no fingerprint"));
    }
    let url = format!("file://{}", server.dir.path().join("page.html").display());
    let (trust, profile) =
        (format!("--ignore-certificate-errors-spki-list={print}"), server.dir.path().join("profile"));
    let profile = format!("--user-data-dir={}", profile.display());
    let args = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--no-proxy-server",
    ];
    let mut command = Command::new("chromium");
    command.args(args).args([&trust, &profile, &url]).stdin(Stdio::null());
    let browser = Process::of(command);
    server.process.line("answer of 70004");
    drop(browser);
    server.process.stop();
    Ok(())
}

/// By the command of docs/tls.md, and by the same without what makes it a server's.
async fn the_certificate_to_try_with_does_what_its_page_says() -> Outcome {
    need("openssl", &["version"])?;
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tls.md")).unwrap();
    let below = page.split("## One to try with\n").nth(1).unwrap();
    let shown = below.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let of_an_authority = shown.replace(" -addext basicConstraints=critical,CA:FALSE", "");
    assert_ne!(shown, of_an_authority);
    for (command, fault) in [(shown, None), (&of_an_authority, Some("CA:FALSE"))] {
        let dir = tempfile::tempdir().unwrap();
        let made = Command::new("sh").args(["-ec", command]).current_dir(dir.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        for end in ["pem", "key"] {
            fs::copy(dir.path().join(format!("try.{end}")), dir.path().join(format!("cert.{end}"))).unwrap();
        }
        let server = serve(dir);
        let url = format!("wss://localhost:{}/ws", server.ws.port());
        let (told, ok) =
            run(&server, env!("CARGO_BIN_EXE_connmix"), &["client", "--ca", "try.pem", &url], "hello\n").await;
        match fault {
            None => assert!(ok && told.contains("got hello"), "{told}"),
            Some(fault) => assert!(!ok && told.contains(fault), "{told}"),
        }
        server.process.stop();
    }
    Ok(())
}
