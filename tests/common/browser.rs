//! A page in a real browser, driven over the DevTools protocol.

use super::optional::{Missing, need};
use super::process::Process;
use super::{Client, eventually};
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

/// A page in a headless browser.
pub struct Page {
    devtools: Client,
    session: Option<String>,
    calls: u64,
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
        let mut page = Page { devtools: devtools.await, session: None, calls: 0, _browser: browser };
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
    pub async fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        let mut done = self.call("Runtime.evaluate", params).await;
        assert_eq!(done.get("exceptionDetails"), None, "{expression}");
        done["result"]["value"].take()
    }

    /// Waits until a JavaScript expression is true in the page.
    pub async fn until(&mut self, expression: &str) {
        let holds = async || (self.value(expression).await == true).then_some(());
        eventually(expression, holds).await;
    }
}
