//! The barrage tutorial, step by step, with its exact texts: on the shipped files, and on its own Lua code.

mod common;

use common::*;
use serde_json::Value;
use std::path::Path;

const SUBSCRIBE: &str = r#"{"op":"subscribe","channel":"100001@video"}"#;
const UNSUBSCRIBE: &str = r#"{"op":"unsubscribe","channel":"100001@video"}"#;
const OK: &str = r#"{"result":true}"#;
const PUBLISH: &str = "{\n    \"c\": \"video:100001\",\n    \"d\": \"{\\\"event\\\":\\\"@video\\\",\\\"data\\\":{\\\"uid\\\":1001,\\\"video_id\\\":100001,\\\"msg\\\":\\\"Hello,World!\\\"}}\"\n}";
const BARRAGE: &str = r#"{"event":"@video","data":{"uid":1001,"video_id":100001,"msg":"Hello,World!"}}"#;

/// The handler that the tutorial prints.
const TUTORIAL: &str = include_str!("fixtures/tutorial.on_message.lua");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The shipped configuration and scripts, on free ports; `entry` replaces the shipped one.
fn shipped(entry: Option<&str>) -> TestEngine {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("lua")).unwrap();
    let shipped = std::fs::read_to_string(root().join("lua/entry.websocket.lua")).unwrap();
    std::fs::write(dir.path().join("lua/entry.websocket.lua"), entry.unwrap_or(&shipped)).unwrap();
    let config = std::fs::read_to_string(root().join("connmix.yaml")).unwrap();
    let config = ["6787", "6789", "6790"].iter().fold(config, |text, port| {
        assert!(text.contains(&format!("port: {port}")), "the shipped configuration names port {port}");
        text.replace(&format!("port: {port}"), "port: 0")
    });
    let config = config.replace("bind: 0.0.0.0", "bind: 127.0.0.1");
    std::fs::write(dir.path().join("connmix.yaml"), config).unwrap();
    TestEngine::start(dir)
}

async fn steps(engine: &TestEngine) {
    let mut client = Client::connect(engine.ws(), "/barrage-videos").await;
    assert_eq!(client.ask(SUBSCRIBE).await, OK);
    let (status, reply) = post(engine.at.api, "/v1/mesh/publish", PUBLISH).await;
    assert_eq!((status, reply.as_str()), (200, r#"{"E":null,"r":{"s":1,"f":0}}"#));
    assert_eq!(client.text().await, BARRAGE);
    assert_eq!(client.ask(UNSUBSCRIBE).await, OK);
    let (status, reply) = post(engine.at.api, "/v1/mesh/publish", PUBLISH).await;
    assert_eq!((status, reply.as_str()), (200, r#"{"E":null,"r":{"s":0,"f":0}}"#));
    // Nothing of the second publish arrives before the answer to a later message.
    assert_eq!(client.ask(SUBSCRIBE).await, OK);
    client.close().await;
}

#[tokio::test]
async fn the_tutorial_works_on_the_shipped_files() {
    steps(&shipped(None)).await;
}

#[tokio::test]
async fn the_tutorial_works_with_its_own_code_as_the_whole_file() {
    steps(&shipped(Some(TUTORIAL))).await;
}

#[tokio::test]
async fn the_tutorial_works_with_its_own_code_over_the_shipped_handler() {
    let shipped_entry = std::fs::read_to_string(root().join("lua/entry.websocket.lua")).unwrap();
    let start = shipped_entry.find("function on_message").unwrap();
    let end = start + shipped_entry[start..].find("\nend\n").unwrap() + 5;
    let pasted = format!("{}{TUTORIAL}\n{}", &shipped_entry[..start], &shipped_entry[end..]);
    steps(&shipped(Some(&pasted))).await;
}

#[tokio::test]
async fn a_fault_in_the_tutorials_code_costs_one_connection() {
    // Its code closes a connection for a binary message before it has one: `conn` is nil there.
    let engine = shipped(Some(TUTORIAL));
    let mut other = Client::connect(engine.ws(), "/barrage-videos").await;
    assert_eq!(other.ask(SUBSCRIBE).await, OK);
    let mut client = Client::connect(engine.ws(), "/barrage-videos").await;
    client.send_binary(b"\x00\x01").await;
    assert_eq!(client.close_frame().await.0, 1011);
    engine.publish_to("video:100001", "still here", 1).await;
    assert_eq!(other.text().await, "still here");
}

#[tokio::test]
async fn the_shipped_handler_answers_what_it_does_not_understand() {
    let engine = shipped(None);
    let mut client = Client::connect(engine.ws(), "/barrage-videos").await;
    for wrong in [
        "no json",
        "null",
        "1",
        "[]",
        "{}",
        r#"{"op":"dance"}"#,
        r#"{"op":"subscribe"}"#,
        r#"{"op":"subscribe","channel":7}"#,
        r#"{"op":"subscribe","channel":"100001"}"#,
        r#"{"op":"subscribe","channel":"100001@radio"}"#,
        r#"{"op":"subscribe","channel":"@video"}"#,
        r#"{"op":"subscribe","channel":"a b@video"}"#,
    ] {
        let reply: Value = serde_json::from_str(&client.ask(wrong).await).unwrap();
        assert_eq!(reply["code"], 1, "{wrong}");
        assert!(reply["msg"].as_str().is_some_and(|m| !m.is_empty()), "{wrong}");
    }
    client.send_binary(b"{}").await;
    assert_eq!(serde_json::from_str::<Value>(&client.text().await).unwrap()["code"], 1);
    assert_eq!(client.ask(SUBSCRIBE).await, OK, "the connection lives on");
}
