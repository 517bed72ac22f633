//! What the center's console is told of the nodes, and what it does through them.

mod common;

use common::cluster::{Nodes, member};
use common::{TestEngine, eventually, get, post};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;

async fn figures(center: SocketAddr) -> Value {
    let (status, body) = get(center, "/console/v1/figures").await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str::<Value>(&body).unwrap()["r"].take()
}

/// How often a node has done that.
fn sum(values: &Value) -> u64 {
    values.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum()
}

#[tokio::test]
async fn one_process_tells_what_it_has_counted() {
    let script = "function on_message(msg, conn)\n if msg.data == 'fail' then error('x') end\n conn:send(conn:subscribe(msg.data) or 'ok') end";
    let engine = TestEngine::with(script, "", "workers: 2");
    let mut client = engine.connect().await;
    assert_eq!(client.ask("a").await, "ok");
    assert_eq!(client.ask("b").await, "ok");
    engine.publish_to("a", "x", 1).await;
    client.text().await;
    let told = figures(engine.at.center).await;
    assert_eq!((&told["write"], &told["dev"], &told["u"]), (&json!(true), &json!(false), &json!(0)));
    let [node] = &told["nodes"].as_array().unwrap()[..] else { panic!("{told}") };
    for (name, n) in [
        ("clients", 1),
        ("channels", 2),
        ("subscriptions", 2),
        ("read", 2),
        ("sent", 3),
        ("delivered", 1),
        ("published", 1),
        ("errors", 0),
        ("dropped", 0),
        ("workers", 2),
        ("stuck", 0),
    ] {
        assert_eq!(node[name], n, "{name}: {node}");
    }
    assert_eq!((&node["engine"], &node["center"]), (&json!(true), &json!(true)));
    assert_eq!(sum(&node["handlers"]), 2, "{node}");
    assert!(node["memory"].as_u64().unwrap() > 1 << 20 && node["cpu_micros"].as_u64().unwrap() > 0, "{node}");
    assert_eq!(node["api"], engine.at.api.to_string());
    let server = &node["servers"][0];
    assert_eq!(
        (&server["protocol"], &server["path"], &server["clients"]),
        (&json!("websocket"), &json!("/ws"), &json!(1))
    );
    assert_eq!(server["address"], engine.ws().to_string());
    let (status, nodes) = get(engine.at.center, "/v1/nodes").await;
    assert_eq!(status, 200);
    assert!(nodes.contains(node["node"].as_str().unwrap()), "{nodes}");

    // A version that is taken up, and one that is not.
    let since = server["script"]["since"].as_u64().unwrap();
    assert_eq!((&server["script"]["version"], &server["script"]["error"]), (&json!(1), &json!("")));
    let file = engine.path("entry.lua");
    let script_is = async |part: &str, version: u64| {
        let script = figures(engine.at.center).await["nodes"][0]["servers"][0]["script"].take();
        let is = script["version"] == version && script["error"].as_str().unwrap().contains(part);
        is.then_some(script)
    };
    fs::write(&file, "function on_message() end").unwrap();
    let script = eventually("the second version runs", async || script_is("", 2).await).await;
    assert!(script["since"].as_u64().unwrap() >= since, "{script}");
    fs::write(&file, "\n\nfunction on_message( end").unwrap();
    eventually("the error is told", async || script_is("entry.lua:3", 2).await).await;
    fs::write(&file, "function on_message() return end").unwrap();
    eventually("the third version runs", async || {
        let script = script_is("", 3).await?;
        (script["error"] == "").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_center_asks_all_nodes_and_publishes_through_them() {
    let nodes = Nodes::start(2).await;
    let center = nodes.center.at.center;
    let mut members = vec![member(nodes.engines[0].ws(), "room").await, member(nodes.engines[1].ws(), "room").await];
    let told = eventually("all nodes are told of", async || {
        let told = figures(center).await;
        let clients: u64 = told["nodes"].as_array().unwrap().iter().map(|node| node["clients"].as_u64().unwrap()).sum();
        (told["nodes"].as_array().unwrap().len() == 3 && clients == 2).then_some(told)
    })
    .await;
    assert_eq!(told["u"], 0, "{told}");
    let engines = told["nodes"].as_array().unwrap().iter().filter(|node| node["engine"] == true);
    let mut apis: Vec<&str> = engines.map(|node| node["api"].as_str().unwrap()).collect();
    let mut want: Vec<String> = nodes.engines.iter().map(|engine| engine.at.api.to_string()).collect();
    apis.sort_unstable();
    want.sort();
    assert_eq!(apis, want);

    let (status, reply) = post(center, "/console/v1/mesh/publish", r#"{"c":"room","d":"hello"}"#).await;
    assert_eq!((status, reply.as_str()), (200, r#"{"E":null,"r":{"s":2,"f":0}}"#));
    for member in &mut members {
        assert_eq!(member.text().await, "hello");
    }
    let (status, reply) = get(center, "/console/v1/channels?prefix=ro").await;
    assert_eq!((status, reply.as_str()), (200, r#"{"E":null,"r":{"channels":[{"c":"room","n":2}]}}"#));
    let id = members[0].ask("id").await;
    let (status, reply) = get(center, &format!("/console/v1/clients/{id}")).await;
    assert_eq!(status, 200, "{reply}");
    let (status, _) = post(center, "/console/v1/mesh/close", &format!(r#"{{"c":"{id}"}}"#)).await;
    assert_eq!(status, 200);
    assert_eq!(members[0].close_frame().await.0, 1000);
}

#[tokio::test]
async fn what_holds_for_a_channel_is_told() {
    let rules = "workers: 1\nchannels: [{match: 'room:', presence: true}, {match: 'kept:', history: {size: 3}}]";
    let engine = TestEngine::with("function on_message() end", "", rules);
    for (channel, presence, history) in [("room:7", true, false), ("kept:%201", false, true), ("other", false, false)] {
        let (status, reply) = get(engine.at.center, &format!("/console/v1/rule?c={channel}")).await;
        let reply: Value = serde_json::from_str(&reply).unwrap();
        assert_eq!((status, &reply["r"]), (200, &json!({"presence": presence, "history": history})), "{channel}");
    }
    for wrong in ["/console/v1/rule", "/console/v1/rule?c=%ff"] {
        assert_eq!(get(engine.at.center, wrong).await.0, 400, "{wrong}");
    }
}
