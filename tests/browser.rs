//! The page `docs/clients/browser.html` in a real browser, driven over the DevTools protocol: comments arrive in its DOM.
//! Where no Chromium is on the machine, the test is skipped and says so.

mod kit;

use kit::process::Process;
use kit::{Client, eventually, post};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A browser on the machine, if there is one.
fn browser() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        let mut command = Command::new(name);
        let status = command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    })
}

/// A page in a headless browser.
struct Page {
    devtools: Client,
    session: Option<String>,
    calls: u64,
    _browser: Process,
}

impl Page {
    async fn open(browser: &str, profile: &Path, url: &str) -> Page {
        let mut command = Command::new(browser);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
        command.args(["--no-proxy-server", "--remote-debugging-port=0", url]);
        command.arg(format!("--user-data-dir={}", profile.display())).stdin(Stdio::null());
        let browser = Process::of(command);
        let devtools = eventually("the browser tells where its DevTools are", async || {
            let text = fs::read_to_string(profile.join("DevToolsActivePort")).ok()?;
            let (port, path) = text.split_once('\n')?;
            let at = SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?));
            Client::try_connect(at, path).await.ok()
        });
        let mut page = Page { devtools: devtools.await, session: None, calls: 0, _browser: browser };
        let target = eventually("the browser has the page", async || {
            let targets = page.call("Target.getTargets", json!({})).await;
            let target = targets["targetInfos"].as_array()?.iter().find(|target| target["url"] == url)?;
            Some(target["targetId"].clone())
        });
        let target = target.await;
        let attached = page.call("Target.attachToTarget", json!({"targetId": target, "flatten": true})).await;
        page.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        page
    }

    /// One call of the DevTools, to the page once there is a session with it, and its result.
    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut call = json!({"id": self.calls, "method": method, "params": params});
        if let Some(session) = &self.session {
            call["sessionId"] = json!(session);
        }
        self.devtools.send(&call.to_string()).await;
        loop {
            let mut reply: Value = serde_json::from_str(&self.devtools.text().await).unwrap();
            if reply["id"] == self.calls {
                assert_eq!(reply.get("error"), None, "{method}");
                return reply["result"].take();
            }
        }
    }

    /// The value of a JavaScript expression in the page.
    async fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        self.call("Runtime.evaluate", params).await["result"]["value"].take()
    }

    /// Waits till the line below the picture holds that; all it holds.
    async fn state(&mut self, part: &str) -> String {
        let read = "document.getElementById('state').textContent";
        let read = async || self.value(read).await.as_str().filter(|text| text.contains(part)).map(str::to_owned);
        eventually(&format!("the page shows {part:?}"), read).await
    }

    /// Waits till a comment is on the screen.
    async fn comment(&mut self, text: &str) {
        let read = "[...document.querySelectorAll('#screen span')].map((line) => line.textContent)";
        let read = async || self.value(read).await.as_array()?.contains(&json!(text)).then_some(());
        eventually(&format!("the page shows {text:?}"), read).await;
    }
}

/// The engine as it is shipped, clients on that port.
fn serve(dir: &Path, port: u16) -> Process {
    let config = fs::read_to_string(root().join("connmix.yaml")).unwrap().replace("bind: 0.0.0.0", "bind: 127.0.0.1");
    let config = config.replace("port: 6787", "port: 0").replace("port: 6789", "port: 0");
    assert!(config.contains("port: 6790"));
    fs::write(dir.join("connmix.yaml"), config.replace("port: 6790", &format!("port: {port}"))).unwrap();
    fs::create_dir_all(dir.join("lua")).unwrap();
    fs::copy(root().join("lua/entry.websocket.lua"), dir.join("lua/entry.websocket.lua")).unwrap();
    Process::ready(dir, &["dev"])
}

async fn publish(engine: &Process, comment: &str) {
    let event = json!({"event": "@video", "data": {"uid": 1001, "video_id": 100001, "msg": comment}});
    let body = json!({"c": "video:100001", "d": event.to_string()}).to_string();
    let reply = post(engine.api(), "/v1/mesh/publish", &body).await;
    assert_eq!(reply, (200, r#"{"E":null,"r":{"s":1,"f":0}}"#.into()));
}

#[tokio::test]
async fn comments_arrive_in_the_page_and_again_after_the_engine_was_stopped() {
    let Some(browser) = browser() else {
        // Past the test's captured output: who runs it is to see it.
        let _ = writeln!(std::io::stderr(), "skipped, since there is no Chromium here: the page in a browser");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let profile = tempfile::tempdir().unwrap();
    let engine = serve(dir.path(), 0);
    let at = engine.ws();
    let file = root().join("docs/clients/browser.html");
    let url = format!("file://{}?url=ws://{at}/barrage-videos&video=100001", file.display());
    let mut page = Page::open(browser, profile.path(), &url).await;
    page.state("subscribed").await;
    publish(&engine, "Hello,World!").await;
    page.comment("Hello,World!").await;
    // What others write is text, never markup.
    publish(&engine, "<b id=markup>bold</b>").await;
    page.comment("<b id=markup>bold</b>").await;
    assert_eq!(page.value("document.getElementById('markup')").await, Value::Null);

    let ended = engine.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let state = page.state("closed with ").await;
    assert!(state.contains("closed with 1001") || state.contains("closed with 1006"), "{state}");
    assert!(state.contains("; again in "), "{state}");
    let engine = serve(dir.path(), at.port());
    page.state("subscribed").await;
    publish(&engine, "back again").await;
    page.comment("back again").await;

    // The script's own word is final.
    let script = dir.path().join("lua/entry.websocket.lua");
    let lines = engine.lines().len();
    fs::write(&script, "function on_message(msg, conn) conn:close(4001, 'please log in') end").unwrap();
    engine.line_after(lines, "reloaded");
    page.value("connect()").await;
    assert_eq!(page.state("closed with 4001").await, "closed with 4001 please log in");
    let ended = engine.stop();
    assert!(!ended.out.contains("ERROR"), "{}", ended.out);
}
