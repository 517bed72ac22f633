//! Channels that keep messages, on several nodes: one order on all of them, and nothing lost when a node is.

mod common;

use common::cluster::*;
use common::*;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const RULES: &str = "workers: 2\nchannels: [{match: 'room', history: {size: 100}, envelope: json}]";
const SECRET: &str = "cluster: {secret: s3cret}";

/// Comes into a channel behind a position, or for the newest messages; gives what came first, the position and whether all did.
async fn since(client: &mut Client, channel: &str, position: &str) -> (Vec<Value>, String, bool) {
    client.send(&format!("since {channel} {position}")).await;
    let mut first = Vec::new();
    loop {
        let text = client.text().await;
        let Some(at) = text.strip_prefix("at ") else {
            first.push(serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}")));
            continue;
        };
        let words: Vec<&str> = at.split(' ').collect();
        assert_eq!(words.len(), 3, "{at}");
        return (first, words[0].to_owned(), words[1] == "true");
    }
}

async fn envelope(client: &mut Client) -> Value {
    serde_json::from_str(&client.text().await).unwrap()
}

fn data(envelopes: &[Value]) -> Vec<&str> {
    envelopes.iter().map(|envelope| envelope["d"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn all_nodes_have_one_order_and_any_of_them_gives_what_was_kept() {
    let nodes = Nodes::with_engine(3, RULES, SECRET).await;
    let mut members = Vec::new();
    for engine in &nodes.engines {
        members.push(member(engine.ws(), "room:1").await);
    }
    const COUNT: usize = 30;
    let mut publishers = JoinSet::new();
    for (at, engine) in nodes.engines.iter().enumerate() {
        let api = engine.at.api;
        publishers.spawn(async move {
            let mut positions = Vec::new();
            for n in 0..COUNT {
                let r = publish(api, "room:1", &format!("{at} {n}")).await;
                assert_eq!((&r["s"], &r["f"], r.get("u")), (&json!(3), &json!(0), None), "{r}");
                positions.push(r["p"].as_str().unwrap().to_owned());
            }
            positions
        });
    }
    let positions: Vec<String> = publishers.join_all().await.concat();
    let mut seen: Vec<Vec<Value>> = Vec::new();
    for member in &mut members {
        let mut all = Vec::new();
        for _ in 0..3 * COUNT {
            all.push(envelope(member).await);
        }
        seen.push(all);
    }
    assert!(seen[0] == seen[1] && seen[1] == seen[2], "one order");
    for position in &positions {
        assert!(seen[0].iter().any(|envelope| envelope["p"] == json!(position)), "{position}");
    }
    // What was kept, on each node the same.
    let middle = seen[0][49]["p"].as_str().unwrap();
    for engine in &nodes.engines {
        let mut late = engine.connect().await;
        let (first, position, recovered) = since(&mut late, "room:1", middle).await;
        assert_eq!((&first[..], recovered), (&seen[0][50..], true));
        assert_eq!(json!(position), seen[0][89]["p"]);
        let body = json!({"c": "room:1", "since": middle, "limit": 10}).to_string();
        let (_, reply) = post(engine.at.api, "/v1/mesh/history", &body).await;
        let page: Value = serde_json::from_str::<Value>(&reply).unwrap()["r"].take();
        assert_eq!(data(page["m"].as_array().unwrap()), data(&seen[0][50..60]), "{page}");
        assert_eq!((&page["p"], &page["recovered"]), (&seen[0][59]["p"], &json!(true)));
    }
    // Behind a subscribe that is under way, wherever the client and the leader are.
    for (at, engine) in nodes.engines.iter().enumerate() {
        for i in 0..4 {
            let mut client = nodes.engines[(at + 1) % 3].connect().await;
            let (id, channel) = (client.ask("id").await, format!("room:new:{at}:{i}"));
            let mut api = back_end(engine.at.api).await;
            api.send(&json!({"m": "conn.call", "p": {"c": id, "f": "subscribe", "a": [channel]}}).to_string()).await;
            api.send(&json!({"m": "mesh.publish", "p": {"c": channel, "d": "x"}}).to_string()).await;
            assert_eq!(api.text().await, r#"{"E":null,"r":{"s":true}}"#);
            let published: Value = serde_json::from_str(&api.text().await).unwrap();
            assert_eq!(published["r"]["s"], 1, "{published}");
            assert_eq!(envelope(&mut client).await["d"], "x");
        }
    }
}

#[tokio::test]
async fn a_node_that_comes_or_ends_loses_nothing() {
    let mut nodes = Nodes::with_engine(2, RULES, SECRET).await;
    let channels: Vec<String> = (0..12).map(|i| format!("room:{i}")).collect();
    let mut positions = Vec::new();
    for channel in &channels {
        positions.push(publish(nodes.engines[0].at.api, channel, "first").await["p"].as_str().unwrap().to_owned());
        publish(nodes.engines[1].at.api, channel, "second").await;
    }
    nodes.engines.push(node_with(&nodes.network, ENGINE, RULES, SECRET));
    nodes.settled().await;
    for (channel, position) in channels.iter().zip(&positions) {
        let mut client = nodes.engines[2].connect().await;
        let (first, _, recovered) = since(&mut client, channel, position).await;
        assert_eq!((data(&first), recovered), (vec!["second"], true), "{channel}");
        publish(nodes.engines[0].at.api, channel, "third").await;
        assert_eq!(envelope(&mut client).await["d"], "third");
    }
    // In its order: its channels go to those who are next in line.
    assert!(nodes.engines.remove(0).shutdown().await);
    nodes.settled().await;
    for (channel, position) in channels.iter().zip(&positions) {
        let mut client = nodes.engines[0].connect().await;
        let (first, _, recovered) = since(&mut client, channel, position).await;
        assert_eq!((data(&first), recovered), (vec!["second", "third"], true), "{channel}");
    }
}

#[tokio::test]
async fn what_was_added_up_keeps_its_number_wherever_it_is_kept() {
    let rules = "workers: 1\nchannels: [{match: 'room', history: {size: 100}, envelope: json, limit: {rate: 2/200ms, over: merge}}]";
    let mut nodes = Nodes::with_engine(3, rules, SECRET).await;
    let mut reader = member(nodes.engines[2].ws(), "room").await;
    let mut api = back_end(nodes.engines[0].at.api).await;
    // As many as it takes until some are added up.
    let (mut count, mut merged) = (0, 0);
    while merged < 5 {
        let reply = call(&mut api, "mesh.publish", json!({"c": "room", "d": "x", "k": "k"})).await;
        (count, merged) = (count + 1, merged + reply["r"]["m"].as_u64().unwrap_or(0));
    }
    let (mut live, mut sum) = (Vec::new(), 0);
    while sum < count {
        live.push(envelope(&mut reader).await);
        sum += live.last().unwrap()["n"].as_u64().unwrap_or(1);
    }
    assert!(live.iter().any(|envelope| envelope["n"].is_u64()), "{live:?}");
    let numbers = |messages: &[Value]| messages.iter().map(|message| message["n"].as_u64()).collect::<Vec<_>>();
    loop {
        for (at, engine) in nodes.engines.iter().enumerate() {
            let mut late = engine.connect().await;
            let (first, _, recovered) = since(&mut late, "room", "").await;
            assert_eq!((&first, recovered), (&live, true), "node {at} of {}", nodes.engines.len());
            let (_, reply) = post(engine.at.api, "/v1/mesh/history", r#"{"c":"room"}"#).await;
            let page: Value = serde_json::from_str(&reply).unwrap();
            assert_eq!(numbers(page["r"]["m"].as_array().unwrap()), numbers(&live), "{page}");
        }
        // Whichever leads the channel: the next one takes over what it has, and the one behind that gets a copy, though nothing is published.
        if nodes.engines.len() == 1 {
            break;
        }
        assert!(nodes.engines.remove(0).shutdown().await);
        nodes.settled().await;
    }
}

#[tokio::test]
async fn a_publish_with_an_id_tells_its_position_wherever_it_is_carried_out() {
    let nodes = Nodes::with_engine(3, RULES, SECRET).await;
    let mut positions = Vec::new();
    for n in 0..9 {
        let asked = async |node: usize, params: Value| {
            let (_, reply) = post(nodes.engines[node % 3].at.api, "/v1/mesh/publish", &params.to_string()).await;
            serde_json::from_str::<Value>(&reply).unwrap()["r"].take()
        };
        // The node that is asked, the one that knows of the id, and the one that leads the channel may be three.
        let params = json!({"c": format!("room:{}", n % 3), "d": "x", "id": n.to_string()});
        let first = asked(n / 3, params.clone()).await;
        assert!(first["p"].is_string(), "{first}");
        for again in 0..3 {
            assert_eq!(asked(again, params.clone()).await, first, "the same answer, whoever is asked again");
        }
        let several = json!({"c": ["room:0", "other"], "d": "x", "id": format!("several {n}")});
        let (first, again) = (asked(n, several.clone()).await, asked(n + 1, several).await);
        assert!(first[0]["p"].is_string() && first[1].get("p").is_none() && first == again, "{first} {again}");
        positions.push(first[0]["p"].clone());
    }
    let (_, reply) = post(nodes.engines[0].at.api, "/v1/mesh/history", r#"{"c":"room:0","limit":100}"#).await;
    let page: Value = serde_json::from_str::<Value>(&reply).unwrap()["r"].take();
    let kept: Vec<&Value> = page["m"].as_array().unwrap().iter().map(|message| &message["p"]).collect();
    assert!(positions.iter().all(|position| kept.contains(&position)), "{page}");
    assert_eq!(kept.len(), 3 + 9, "each once");
}

/// The real program: the process that leads channels is killed.
#[cfg(feature = "cluster")]
mod processes {
    use super::*;
    use crate::common::ports::free_port;
    use crate::common::process::Process;
    use std::net::SocketAddr;
    use tempfile::TempDir;

    struct Node {
        process: Process,
        api: SocketAddr,
        _dir: TempDir,
    }

    fn start(role: &str, registry: u16) -> Node {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
        let rules = RULES.replace('\n', "\n  ");
        let config = format!(
            "logging: {{filename: ''}}\ncluster: {{secret: s3cret, leave: 2s}}\n\
             center:\n  registry: {{port: {registry}, bind: 127.0.0.1}}\n  apiServer: {{port: 0, bind: 127.0.0.1}}\n\
             engine:\n  {rules}\n  centerRegistry: '127.0.0.1:{registry}'\n\
             \x20 meshPoint: {{port: {}, bind: 127.0.0.1}}\n  apiServer: {{port: 0, bind: 127.0.0.1}}\n\
             \x20 servers:\n    - port: 0\n      bind: 127.0.0.1\n      protocol: websocket\n      entry: entry.lua\n\
             \x20     options: [{{name: path, value: /ws}}]\n",
            free_port()
        );
        std::fs::write(dir.path().join("connmix.yaml"), config).unwrap();
        let process = Process::start(dir.path(), &[role]);
        let api = process.api();
        Node { process, api, _dir: dir }
    }

    #[tokio::test]
    async fn what_was_published_survives_the_kill_of_the_node_that_leads() {
        let registry = free_port();
        let center = start("center", registry);
        let mut engines: Vec<Node> = (0..3).map(|_| start("engine", registry)).collect();
        for engine in &engines {
            ready(engine.api).await;
        }
        listed(center.api, &engines.iter().map(|engine| engine.api).collect::<Vec<_>>()).await;
        // Each node leads some of these.
        let channels: Vec<String> = (0..9).map(|i| format!("room:{i}")).collect();
        let (mut members, mut positions) = (Vec::new(), Vec::new());
        for channel in &channels {
            let mut client = Client::connect(engines[0].process.ws(), "/ws").await;
            assert!(since(&mut client, channel, "").await.2);
            members.push(client);
            for n in 0..5 {
                let r = publish(engines[1].api, channel, &n.to_string()).await;
                assert_eq!((&r["s"], r.get("u")), (&json!(1), None), "{r}");
                if n == 1 {
                    positions.push(r["p"].as_str().unwrap().to_owned());
                }
            }
        }
        let killed = engines.pop().unwrap();
        killed.process.signal(libc::SIGKILL);
        // At once: the others may not know of it yet.
        for channel in &channels {
            let r = publish(engines[1].api, channel, "while it was killed").await;
            assert!(r.is_object(), "{r}");
        }
        listed(center.api, &engines.iter().map(|engine| engine.api).collect::<Vec<_>>()).await;
        for (at, channel) in channels.iter().enumerate() {
            // Until its node knows where the channel goes on, the member gets a message a moment later, and is not counted. What
            // went to the node that was killed is lost, and `u` tells so.
            let mut again: Vec<(String, bool)> = Vec::new();
            eventually("the member is counted", async || {
                let text = format!("again {}", again.len());
                let r = publish(engines[1].api, channel, &text).await;
                again.push((text, r.get("u").is_some()));
                (r["s"] == 1 && r.get("u").is_none()).then_some(())
            })
            .await;
            publish(engines[1].api, channel, "last").await;
            // Who was there has all, in order, and was told nothing else.
            let mut seen = Vec::new();
            while seen.last().is_none_or(|last: &Value| last["d"] != "last") {
                seen.push(envelope(&mut members[at]).await);
            }
            let mut want = vec!["0", "1", "2", "3", "4"];
            want.extend(data(&seen).contains(&"while it was killed").then_some("while it was killed"));
            let came = |text: &str| data(&seen).contains(&text);
            want.extend(
                again.iter().filter(|(text, is_unsure)| !is_unsure || came(text)).map(|(text, _)| text.as_str()),
            );
            want.push("last");
            assert_eq!(data(&seen), want, "{channel}");
            // And who comes back.
            let mut back = Client::connect(engines[1].process.ws(), "/ws").await;
            let (first, _, recovered) = since(&mut back, channel, &positions[at]).await;
            assert_eq!((data(&first), recovered), (want[2..].to_vec(), true), "{channel}");
        }
    }
}
