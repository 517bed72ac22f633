//! Every `curl` of the documentation, carried out by curl as it stands there against an engine, and every answer of
//! docs/server-api.md, which must have the form of what comes. And the back ends of the first tutorial.

mod common;

use common::links::pages;
use common::optional::{Outcome, need};
use common::{Client, TestEngine};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

optional_tests! {
    every_call_of_the_page_is_answered_as_it_shows,
    every_call_of_all_pages_is_taken,
    a_user_with_a_password_or_a_token_calls_as_the_page_says,
    the_back_ends_of_the_first_tutorial_publish,
}

/// The client whose id all pages show, and a position.
const ID: &str = "3668201644240134";
const POSITION: &str = "7yxwcgl8g7-1f";

/// Subscribes to the channels that a message lists.
const SCRIPT: &str = "function on_message(msg, conn)
  for _, channel in ipairs(mix.json_decode(msg.data)) do
    conn:subscribe(channel, {info = {name = 'Ann'}})
  end
  conn:send(conn:client_id())
end";

const RULES: &str = "workers: 2\nchannels: [{match: 'room:', presence: true, history: {size: 10}}]";

/// A block of code of a page, and the JSON that stands right behind it.
struct Block {
    code: String,
    shown: Option<Value>,
}

/// The blocks for a shell of a page.
fn blocks(page: &str) -> Vec<Block> {
    let mut parts = page.split("\n```sh\n");
    parts.next();
    let block = |part: &str| {
        let (code, rest) = part.split_once("\n```").unwrap();
        let json = rest.strip_prefix("\n```json\n").map(|json| json.split("\n```").next().unwrap());
        Block { code: code.to_owned(), shown: json.map(|json| serde_json::from_str(json).unwrap()) }
    };
    parts.map(block).collect()
}

/// The commands of a block: lines, and those that follow one that ends in a backslash.
fn commands(code: &str) -> Vec<String> {
    let mut commands = vec![String::new()];
    for line in code.lines() {
        let last = commands.last_mut().unwrap();
        last.push_str(line);
        last.push('\n');
        // The body of a call may have lines of its own.
        if !line.ends_with('\\') && last.matches('\'').count() % 2 == 0 {
            commands.push(String::new());
        }
    }
    commands
}

/// Carries a command out as it stands there, at this engine.
async fn carry_out(engine: &TestEngine, command: &str) -> String {
    let here = command
        .replace("127.0.0.1:6789", &engine.at.api.to_string())
        .replace("127.0.0.1:6787", &engine.at.center.to_string());
    let mut shell = Command::new("sh");
    shell.args(["-ec", &here]);
    for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        shell.env_remove(proxy);
    }
    let done = tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap();
    // 28: what has no end is cut off here.
    let is_good = done.status.success() || here.contains("--max-time") && done.status.code() == Some(28);
    assert!(is_good, "{here}\n{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Which kinds of values stand where.
fn form(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), form(value))).collect(),
        // Of some places an example has one more or less.
        Value::Array(all) => all.first().map_or(json!([]), |first| json!([form(first)])),
        Value::Number(_) => json!(0),
        Value::String(_) => json!(""),
        other => other.clone(),
    }
}

async fn joined(engine: &TestEngine, channels: &[&str]) -> (Client, String) {
    let mut client = engine.connect().await;
    let id = client.ask(&json!(channels).to_string()).await;
    (client, id)
}

/// An engine in which there is all that the pages ask for, and its clients.
async fn scene() -> (TestEngine, Vec<Client>, String, String) {
    let engine = TestEngine::with(SCRIPT, "", RULES);
    let channels = ["video:1", "video:2", "video:100001", "video:100002", "news", "room:7"];
    let (ann, id) = joined(&engine, &channels).await;
    let (bob, _) = joined(&engine, &["room:7", "video:100001"]).await;
    let (cid, _) = joined(&engine, &["user:42"]).await;
    let mut position = String::new();
    for text in ["one", "two"] {
        let (_, reply) =
            common::post(engine.at.api, "/v1/mesh/publish", &json!({"c": "room:7", "d": text}).to_string()).await;
        let reply: Value = serde_json::from_str(&reply).unwrap();
        let first = std::mem::take(&mut position);
        position = if first.is_empty() { reply["r"]["p"].as_str().unwrap().to_owned() } else { first };
    }
    (engine, vec![ann, bob, cid], id, position)
}

async fn every_call_of_the_page_is_answered_as_it_shows() -> Outcome {
    need("curl", &["--version"])?;
    let (engine, _clients, id, position) = scene().await;
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/server-api.md")).unwrap();
    let mut compared = 0;
    for block in blocks(&page) {
        let Some(shown) = block.shown else { continue };
        if block.code.contains("/v1/why") {
            let leave = json!({"c": id, "f": "unsubscribe", "a": ["room:7"]}).to_string();
            assert_eq!(common::post(engine.at.api, "/v1/conn/call", &leave).await.0, 200);
        }
        let code = block.code.replace(ID, &id).replace(POSITION, &position);
        let got = carry_out(&engine, &code).await;
        let got: Value = serde_json::from_str(&got).unwrap_or_else(|_| panic!("{code}: {got}"));
        // Where nothing is said of a client it is in no channel, or in one.
        let loose = |value: &Value| form(value).to_string().replace(r#""channels":[""]"#, r#""channels":[]"#);
        assert_eq!(loose(&got), loose(&shown), "{code}\n{got}");
        compared += 1;
    }
    assert!(compared >= 14, "{compared}");
    Ok(())
}

async fn every_call_of_all_pages_is_taken() -> Outcome {
    need("curl", &["--version"])?;
    let (engine, _clients, id, position) = scene().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut taken = 0;
    for page in pages(root) {
        let text = fs::read_to_string(&page).unwrap();
        for block in blocks(&text) {
            for command in commands(&block.code).iter().filter(|command| command.starts_with("curl ")) {
                let is_own = command.contains("127.0.0.1:6789") || command.contains("127.0.0.1:6787");
                // Logins have a test of their own; a docker's engine has a token.
                if !is_own || ["-u ", "Authorization"].iter().any(|part| command.contains(part)) {
                    continue;
                }
                let endless = command.contains("-N");
                let command = command.replace(ID, &id).replace(POSITION, &position);
                let command = if endless { command.replace("-N", "-N --max-time 1") } else { command };
                let got = carry_out(&engine, &command).await;
                let what = format!("{}: {command}{got}", page.display());
                if command.contains("/readyz") || command.contains("/healthz") {
                    assert_eq!(got, r#"{"status":"ok"}"#, "{what}");
                } else if endless {
                    assert!(got.starts_with("{\"event\":\"watching\"}\n"), "{what}");
                } else if block.shown.as_ref().is_none_or(|shown| shown["E"].is_null()) {
                    let reply: Value = serde_json::from_str(&got).unwrap_or_else(|_| panic!("{what}"));
                    assert!(reply["E"].is_null(), "{what}");
                }
                taken += 1;
            }
        }
    }
    assert!(taken > 40, "{taken}");
    Ok(())
}

async fn a_user_with_a_password_or_a_token_calls_as_the_page_says() -> Outcome {
    need("curl", &["--version"])?;
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/server-api.md")).unwrap();
    let access = page.split("## Access\n").nth(1).unwrap();
    let users = access.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    // Tests call from this machine.
    let users = users.replace("10.0.0.0/8", "127.0.0.0/8");
    let engine = TestEngine::with_top(SCRIPT, "", RULES, &users);
    let block = &blocks(access)[0];
    assert_eq!(block.code.lines().count(), 2);
    for command in block.code.lines() {
        assert_eq!(carry_out(&engine, command).await, r#"{"E":null,"r":{"s":0,"f":0}}"#, "{command}");
        let got = carry_out(&engine, &command.replace("change-me", "x").replace("a-long-random-token", "x")).await;
        assert!(got.contains(r#""c":401"#), "{got}");
    }
    Ok(())
}

async fn the_back_ends_of_the_first_tutorial_publish() -> Outcome {
    need("php", &["-r", ""])?;
    need("python3", &["-c", ""])?;
    let engine = TestEngine::with(SCRIPT, "", RULES);
    let (mut client, _) = joined(&engine, &["video:100001"]).await;
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tutorial-barrage.md")).unwrap();
    for (language, program) in [("php", ["php", "-r"]), ("python", ["python3", "-c"])] {
        let block = page.split(&format!("\n```{language}\n")).nth(1).unwrap().split("\n```").next().unwrap();
        assert!(block.contains("http://127.0.0.1:6789/"), "{block}");
        let code = block.replace("127.0.0.1:6789", &engine.at.api.to_string());
        let done = tokio::process::Command::new(program[0]).args([program[1], &code]).output().await.unwrap();
        assert!(done.status.success(), "{done:?}");
        let got: Value = serde_json::from_str(&client.text().await).unwrap();
        let comment = json!({"uid": 1001, "video_id": 100001, "msg": "Hello,World!"});
        assert_eq!(got, json!({"event": "@video", "data": comment}), "{language}");
    }
    Ok(())
}
