//! What people do first, in a real browser, driven over the DevTools protocol: README's first minutes, word for word, and the
//! page `docs/clients/browser.html`, in whose DOM comments arrive.

mod common;

use common::browser::{Page, browser};
use common::optional::Outcome;
use common::process::Process;
use common::{Client, TestEngine, eventually, get, post};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Page {
    /// Waits until the line below the picture holds that; all it holds.
    async fn state(&mut self, part: &str) -> String {
        let read = "document.getElementById('state').textContent";
        let read = async || self.value(read).await.as_str().filter(|text| text.contains(part)).map(str::to_owned);
        eventually(&format!("the page shows {part:?}"), read).await
    }

    /// Waits until a comment is on the screen.
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

async fn comments_arrive_in_the_page_and_again_after_the_engine_was_stopped() -> Outcome {
    let browser = browser()?;
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
    assert!(state.contains("closed with 1012") || state.contains("closed with 1006"), "{state}");
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
    page.value("client.send('anything')").await;
    assert_eq!(page.state("closed with 4001").await, "closed with 4001 please log in");
    let ended = engine.stop();
    assert!(!ended.out.contains("ERROR"), "{}", ended.out);
    Ok(())
}

/// The fenced blocks of one language in a part of README.
fn blocks<'a>(part: &'a str, language: &str) -> Vec<&'a str> {
    let opening = format!("```{language}\n");
    part.split(&opening).skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect()
}

/// README's first minutes in that language: the page that it names is opened, each block is run, each result is what it shows.
async fn first_minutes(readme: &str, heading: &str) -> Outcome {
    let browser = browser()?;
    let text = fs::read_to_string(root().join(readme)).unwrap();
    let part = text.split(heading).nth(1).expect("README has that heading").split("\n## ").next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let profile = tempfile::tempdir().unwrap();
    let engine = serve(dir.path(), 0);
    let center = common::process::address(&engine.line("Center "), "http://");
    let local = |text: &str| {
        let text = text.replace("127.0.0.1:6787", &center.to_string());
        let text = text.replace("127.0.0.1:6789", &engine.api().to_string());
        text.replace("127.0.0.1:6790", &engine.ws().to_string())
    };
    let url = part.split("http://127.0.0.1:6787").nth(1).expect("README names a page of the center");
    let url = local("http://127.0.0.1:6787") + url.split(['>', ')', '`', ' ', '\n']).next().unwrap();
    let mut page = Page::open(browser, profile.path(), &url).await;
    let subscribed =
        |answer: &str| format!("document.getElementById('version').textContent.includes({})", json!(answer));
    page.until(&subscribed(r#"{"result":true}"#)).await;
    page.value("document.getElementById('text').focus(); 0").await;
    page.type_text("my own").await;
    page.press("Enter").await;
    page.comment("my own").await;

    let [curl] = blocks(part, "sh")[..] else { panic!("one command in {heading}") };
    assert!(curl.contains("127.0.0.1:6789"));
    let publish = || async {
        let ended = Command::new("sh").arg("-c").arg(local(curl)).output().unwrap();
        String::from_utf8(ended.stdout).unwrap()
    };
    let reply = r#"{"E":null,"r":{"s":1,"f":0}}"#;
    assert!(part.contains(&format!("`{reply}`")));
    let [message] = blocks(part, "json")[..] else { panic!("one message in {heading}") };
    let mut client = Client::connect(engine.ws(), "/barrage-videos").await;
    assert_eq!(client.ask(r#"{"op":"subscribe","channel":"100001@video"}"#).await, r#"{"result":true}"#);
    let both = reply.replace("\"s\":1", "\"s\":2");
    assert_eq!(publish().await, both);
    assert_eq!(client.text().await, message);
    client.close().await;
    page.comment("Hello,World!").await;
    eventually("the page alone is reached", async || (publish().await == reply).then_some(())).await;

    // The edit that it names: `local OK = ...` becomes another.
    let mut edits = part.split('`').filter(|code| code.starts_with("local OK = "));
    let (from, to) = (edits.next().unwrap(), edits.next().unwrap());
    let script = dir.path().join("lua/entry.websocket.lua");
    let lines = engine.lines().len();
    let code = fs::read_to_string(&script).unwrap();
    assert_eq!(code.matches(from).count(), 1, "{from}");
    fs::write(&script, code.replace(from, to)).unwrap();
    engine.line_after(lines, "reloaded");
    page.until(&subscribed(r#"{"result":true,"color":"gold"}"#)).await;
    assert_eq!(publish().await, reply);
    page.until("[...document.querySelectorAll('#screen span')].some((line) => line.style.color === 'gold')").await;

    let ended = engine.stop();
    assert!(!ended.out.contains("ERROR"), "{}", ended.out);
    Ok(())
}

async fn the_first_minutes_of_the_readme_are_as_it_says() -> Outcome {
    first_minutes("README.md", "## Five minutes").await
}

async fn the_first_minutes_of_the_chinese_readme_are_as_it_says() -> Outcome {
    first_minutes("README.zh-CN.md", "## 五分钟").await
}

async fn a_page_that_is_not_listed_drives_no_api() -> Outcome {
    let browser = browser()?;
    let (dir, profile) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let engine = serve(dir.path(), 0);
    // Any page would do; a file's has the origin null.
    let url = format!(
        "file://{}?url=ws://{}/barrage-videos",
        root().join("docs/clients/browser.html").display(),
        engine.ws()
    );
    let mut page = Page::open(browser, profile.path(), &url).await;
    page.state("subscribed").await;
    let api = engine.api();
    let attack = format!(
        "(async () => {{
           const publish = {{method: 'POST', mode: 'no-cors', body: '{{\"c\":\"video:100001\",\"d\":\"x\"}}'}};
           await fetch('http://{api}/v1/mesh/publish', publish);
           return await new Promise((done) => {{
             const ws = new WebSocket('ws://{api}/ws/v1');
             ws.onopen = () => done('open');
             ws.onerror = () => done('refused');
           }});
         }})()"
    );
    let params = json!({"expression": attack, "returnByValue": true, "awaitPromise": true});
    assert_eq!(page.call("Runtime.evaluate", params).await["result"]["value"], "refused");
    let (_, figures) = get(api, "/metrics").await;
    for line in [
        "connmix_api_calls_total{call=\"mesh.publish\",result=\"forbidden\"} 1",
        "connmix_api_calls_total{call=\"ws\",result=\"forbidden\"} 1",
        "connmix_engine_publishes_total{origin=\"api\"} 0",
    ] {
        assert!(figures.lines().any(|l| l == line), "{line} is not in\n{figures}");
    }
    Ok(())
}

async fn a_browser_agrees_on_compression_and_sends_and_reads_so() -> Outcome {
    let browser = browser()?;
    let profile = tempfile::tempdir().unwrap();
    let script = "function on_message(msg, conn) conn:send(msg.data, msg.type) end";
    let engine = TestEngine::with(script, "compression: on", "workers: 1");
    let mut page = Page::open(browser, profile.path(), "about:blank").await;
    let talk = format!(
        "(async () => {{
           const ws = new WebSocket('ws://{}/ws');
           await new Promise((done, fail) => {{ ws.onopen = done; ws.onerror = fail; }});
           for (const size of [0, 10, 1000, 300000]) {{
             const text = 'a text, é, '.repeat(size).slice(0, size);
             ws.send(text);
             const echo = await new Promise((done, fail) => {{ ws.onmessage = (e) => done(e.data); ws.onclose = fail; }});
             if (echo !== text) return 'another text of ' + echo.length;
           }}
           return ws.extensions;
         }})()",
        engine.ws()
    );
    let params = json!({"expression": talk, "returnByValue": true, "awaitPromise": true});
    let said = page.call("Runtime.evaluate", params).await;
    let agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    assert_eq!(said["result"]["value"], agreed, "{said}");
    let (_, figures) = get(engine.at.api, "/metrics").await;
    let compressed = |direction: &str, count: u8| {
        let line = format!("connmix_engine_compressed_messages_total{{direction=\"{direction}\"}} {count}");
        assert!(figures.lines().any(|l| l == line), "{line} is not in\n{figures}");
    };
    compressed("out", 2);
    compressed("in", 4);
    Ok(())
}

optional_tests! {
    comments_arrive_in_the_page_and_again_after_the_engine_was_stopped,
    the_first_minutes_of_the_readme_are_as_it_says,
    the_first_minutes_of_the_chinese_readme_are_as_it_says,
    a_page_that_is_not_listed_drives_no_api,
    a_browser_agrees_on_compression_and_sends_and_reads_so,
}
