//! A page in a real browser, driven over the DevTools protocol.

use super::optional::{Missing, need};
use super::process::Process;
use super::{Client, eventually};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// A browser on the machine.
pub fn browser() -> Result<&'static str, Missing> {
    let names = ["chromium-browser", "google-chrome"].into_iter();
    let other = names.map(|name| need(name, &["--version"]).map(|()| name)).find_map(Result::ok);
    need("chromium", &["--version"]).map(|()| "chromium").or_else(|missing| other.ok_or(missing))
}

/// Where `test.sh` puts axe-core, which finds what keeps people from using a page.
const AXE: &str = "target/tools/axe-core-4.14.1/package/axe.min.js";

/// The program of axe-core, for [`Page::barriers`].
pub fn axe() -> Result<String, Missing> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(AXE);
    fs::read_to_string(file).map_err(|_| Missing::because(format!("{AXE} is not there: test.sh fetches it from npm")))
}

/// A page in a headless browser.
pub struct Page {
    devtools: Client,
    session: Option<String>,
    calls: u64,
    /// What the page has done, until somebody looks: see [`Page::listen`].
    events: Vec<Value>,
    _browser: Process,
}

impl Page {
    pub async fn open(browser: &str, profile: &Path, url: &str) -> Page {
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
        let mut page =
            Page { devtools: devtools.await, session: None, calls: 0, events: Vec::new(), _browser: browser };
        let target = eventually("the browser has the page", async || {
            let targets = page.call("Target.getTargets", json!({})).await;
            let target = targets["targetInfos"].as_array()?.iter().find(|target| target["url"] == url)?;
            Some(target["targetId"].clone())
        });
        let target = target.await;
        let attached = page.call("Target.attachToTarget", json!({"targetId": target, "flatten": true})).await;
        page.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        let loaded = format!("document.readyState === 'complete' && location.href === {}", json!(url));
        page.until(&loaded).await;
        page
    }

    /// One call of the DevTools, to the page once there is a session with it, and its result.
    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        let mut reply = self.reply(method, params).await;
        assert_eq!(reply.get("error"), None, "{method}");
        reply["result"].take()
    }

    /// The same; the whole reply, which may be an error.
    async fn reply(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut call = json!({"id": self.calls, "method": method, "params": params});
        if let Some(session) = &self.session {
            call["sessionId"] = json!(session);
        }
        self.devtools.send(&call.to_string()).await;
        loop {
            let reply: Value = serde_json::from_str(&self.devtools.text().await).unwrap();
            if reply["id"] == self.calls {
                return reply;
            }
            if reply["method"].is_string() {
                self.events.push(reply);
            }
        }
    }

    /// The value of a JavaScript expression in the page.
    pub async fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        let mut done = self.call("Runtime.evaluate", params).await;
        assert_eq!(done.get("exceptionDetails"), None, "{expression}");
        done["result"]["value"].take()
    }

    /// What a promise in the page comes to.
    pub async fn awaited(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut done = self.call("Runtime.evaluate", params).await;
        assert_eq!(done.get("exceptionDetails"), None, "{expression}");
        done["result"]["value"].take()
    }

    /// From now on it is told what goes wrong in the page and what it asks for: see [`Page::heard`].
    pub async fn listen(&mut self) {
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(&format!("{domain}.enable"), json!({})).await;
        }
        self.call("Emulation.setScrollbarsHidden", json!({"hidden": true})).await;
    }

    /// What has gone wrong in the page since the last time, and the URLs that it has asked for.
    pub async fn heard(&mut self) -> (Vec<String>, Vec<String>) {
        // Behind all that has happened so far.
        self.value("0").await;
        let (mut errors, mut urls) = (Vec::new(), Vec::new());
        for event in self.events.drain(..) {
            let params = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Runtime.exceptionThrown" => errors.push(params["exceptionDetails"].to_string()),
                "Runtime.consoleAPICalled" if params["type"] != "log" => errors.push(params["args"].to_string()),
                "Log.entryAdded" if params["entry"]["level"] != "verbose" => errors.push(params["entry"].to_string()),
                "Network.requestWillBeSent" => urls.push(params["request"]["url"].as_str().unwrap().to_owned()),
                _ => {}
            }
        }
        (errors, urls)
    }

    /// Goes to another page, and waits until it is loaded.
    pub async fn goto(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url})).await;
        self.until(&format!("document.readyState === 'complete' && location.href === {}", json!(url))).await;
    }

    /// All further requests bear these headers.
    pub async fn headers(&mut self, headers: Value) {
        self.call("Network.setExtraHTTPHeaders", json!({"headers": headers})).await;
    }

    /// Types a text where the focus is.
    pub async fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// Presses a key: `Enter`, `Tab` or `Escape`.
    pub async fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Tab" => (9, ""),
            "Escape" => (27, ""),
            other => panic!("{other} is no key that tests press"),
        };
        for (kind, text) in [(if text.is_empty() { "rawKeyDown" } else { "keyDown" }, text), ("keyUp", "")] {
            let mut params = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if !text.is_empty() {
                params["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", params).await;
        }
    }

    /// Has that size, in a light or dark scheme.
    pub async fn look(&mut self, width: u32, height: u32, mobile: bool, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features).await;
    }

    /// What it looks like, a PNG.
    pub async fn screenshot(&mut self) -> Vec<u8> {
        let taken = self.call("Page.captureScreenshot", json!({"format": "png", "optimizeForSpeed": false})).await;
        STANDARD.decode(taken["data"].as_str().unwrap()).unwrap()
    }

    /// What axe-core finds in the page as it is now that is serious or critical, each with its rule and where it is.
    pub async fn barriers(&mut self, axe: &str) -> Vec<String> {
        const CHECK: &str = "axe.run(document, { resultTypes: ['violations'] }).then(({ passes, violations }) => ({
            passes: passes.length,
            serious: violations
                .filter(({ impact }) => impact === 'serious' || impact === 'critical')
                .map(({ id, help, nodes }) => `${id} (${help}): ${nodes.map(({ target, html }) => `${target} ${html}`).join(', ')}`),
        }))";
        if self.value("typeof axe").await != "object" {
            self.value(&format!("{axe}; 0")).await;
        }
        // No colour is on its way to another one.
        self.until("!document.getAnimations().some((animation) => animation instanceof CSSTransition)").await;
        let found = self.awaited(CHECK).await;
        assert!(found["passes"].as_u64().unwrap() > 20, "so many rules hold of any page: {found}");
        serde_json::from_value(found["serious"].clone()).unwrap()
    }

    /// Waits until a JavaScript expression is true in the page.
    pub async fn until(&mut self, expression: &str) {
        // While a page comes in the place of another, neither may be there.
        let params = json!({"expression": expression, "returnByValue": true});
        let holds = async || {
            let done = self.reply("Runtime.evaluate", params.clone()).await;
            assert_eq!(done["result"].get("exceptionDetails"), None, "{expression}");
            (done["result"]["result"]["value"] == true).then_some(())
        };
        eventually(expression, holds).await;
    }
}
