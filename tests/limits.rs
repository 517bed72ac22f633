//! Limits for the publishes to a channel (`limit` of `engine.channels`): what receivers get, what publishers are told, and that
//! other rooms notice nothing.

mod common;

use common::*;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Each message is Lua, run with `conn`; its results come back, joined by spaces.
const SCRIPT: &str = r#"
function on_message(msg, conn)
  local results = {assert(loadstring("local conn = ...\n" .. msg.data))(conn)}
  for i = 1, 6 do results[i] = tostring(results[i]) end
  conn:send(table.concat(results, " "))
end
"#;

fn engine(rules: &str) -> TestEngine {
    TestEngine::with(SCRIPT, "", &format!("workers: 2\nchannels: [{rules}]"))
}

async fn member(engine: &TestEngine, channel: &str) -> Client {
    let mut client = engine.connect().await;
    assert_eq!(client.ask(&format!("return conn:subscribe('{channel}')")).await, "nil nil nil nil nil nil");
    client
}

async fn publish(engine: &TestEngine, params: Value) -> Value {
    let (status, reply) = post(engine.at.api, "/v1/mesh/publish", &params.to_string()).await;
    assert_eq!(status, 200, "{reply}");
    serde_json::from_str::<Value>(&reply).unwrap()["r"].take()
}

async fn figure(engine: &TestEngine, name: &str) -> u64 {
    engine.figure(name).await as u64
}

/// The windows are so long that a test sees one of them.
const HOUR: &str = "{match: room, limit: {rate: 4/1h, reserve: 2}}";

#[tokio::test]
async fn publishers_are_told_what_was_left_out() {
    let engine = engine(HOUR);
    let mut reader = member(&engine, "room").await;
    let reached = |reply: &Value| (reply["s"].as_u64().unwrap(), reply["f"].as_u64().unwrap(), reply["l"].as_u64());
    let (passed, over) = ((1, 0, None), (0, 0, Some(1)));
    // Two of any priority; those of high priority have two more.
    let one = async |priority: Value| reached(&publish(&engine, json!({"c": "room", "d": "x", "pr": priority})).await);
    assert_eq!((one(Value::Null).await, one(json!("low")).await, one(json!("normal")).await), (passed, passed, over));
    assert_eq!(one(json!("high")).await, passed);
    // In an array, to several channels, with an id (whose answer is remembered), over the WebSocket API and from Lua.
    let batch = json!([{"c": "room", "d": "x"}, {"c": ["room", "other"], "d": "x", "id": "1"}, {"c": "room", "d": "x", "id": "1"}]);
    let (_, replies) = post(engine.at.api, "/v1/mesh/publish", &batch.to_string()).await;
    let replies: Vec<Value> = serde_json::from_str(&replies).unwrap();
    assert_eq!(reached(&replies[0]["r"]), over);
    assert_eq!((reached(&replies[1]["r"][0]), reached(&replies[1]["r"][1])), (over, (0, 0, None)));
    assert_eq!(replies[2]["r"], replies[1]["r"]);
    let mut api = Client::connect(engine.at.api, "/ws/v1").await;
    for (params, left_out) in [(json!({"c": "room", "d": "x"}), 1), (json!({"c": "room", "d": "x", "pr": "high"}), 0)] {
        let reply: Value =
            serde_json::from_str(&api.ask(&json!({"m": "mesh.publish", "p": params}).to_string()).await).unwrap();
        assert_eq!((reply["r"]["t"].as_u64(), reply["r"]["l"].as_u64().unwrap_or(0)), (Some(1 - left_out), left_out));
    }
    for _ in 0..4 {
        assert_eq!(reader.text().await, "x");
    }
    let mut other = engine.connect().await;
    let lua = |priority| format!("return mix.mesh.publish('room', 'x', 'text', {{priority = '{priority}'}})");
    assert_eq!(other.ask(&lua("low")).await, "0 0 nil nil 1 nil");
    assert_eq!(other.ask(&lua("high")).await, "0 0 nil nil 1 nil");
    let lua = "return mix.mesh.publish('room', 'x', 'text', {counts = false})";
    assert_eq!(other.ask(lua).await, "nil nil nil nil nil nil");
    reader.expect_only_reply("return 1", "1 nil nil nil nil nil").await;
    assert_eq!(figure(&engine, "connmix_engine_publishes_left_out_total").await, 7);
    // What the engine tells of a channel does not count, and a wrong priority is none.
    let wrong = other.ask("return pcall(mix.mesh.publish, 'c', 'x', 'text', {priority = 'urgent'})").await;
    assert!(wrong.starts_with("false ") && wrong.contains("bad argument #4 to 'publish' (priority must be"), "{wrong}");
    for wrong in [json!("urgent"), json!(1)] {
        let body = json!({"c": "c", "d": "x", "pr": wrong}).to_string();
        let (status, reply) = post(engine.at.api, "/v1/mesh/publish", &body).await;
        assert!(status == 400 && reply.contains(r#"field \"pr\" (priority) must be"#), "{reply}");
    }
}

#[tokio::test]
async fn a_flood_from_several_publishers_is_cut_to_the_limit() {
    const PER: Duration = Duration::from_millis(200);
    let engine = engine("{match: room, limit: {rate: 40/200ms, reserve: 20}}");
    let mut readers = Vec::new();
    for _ in 0..3 {
        readers.push(member(&engine, "room").await);
    }
    let mut other = member(&engine, "other").await;
    let mut publishers = Vec::new();
    for _ in 0..4 {
        publishers.push(Client::connect(engine.at.api, "/ws/v1").await);
    }
    let begun = Instant::now();
    let (mut offered, mut reached, mut left_out) = (HashMap::<&str, u64>::new(), 0, 0);
    while begun.elapsed() < PER * 5 {
        for (at, publisher) in publishers.iter_mut().enumerate() {
            for n in 0..20 {
                let priority = if (n + at) % 4 == 0 { "high" } else { "normal" };
                let call = json!({"m": "mesh.publish", "p": {"c": "room", "d": priority, "pr": priority}});
                publisher.send(&call.to_string()).await;
                *offered.entry(priority).or_default() += 1;
            }
        }
        for publisher in &mut publishers {
            for _ in 0..20 {
                let reply: Value = serde_json::from_str(&publisher.text().await).unwrap();
                reached += reply["r"]["s"].as_u64().unwrap();
                left_out += reply["r"]["l"].as_u64().unwrap_or(0);
            }
        }
        // Another room gets all of its messages meanwhile.
        engine.publish_to("other", "x", 1).await;
        assert_eq!(other.text().await, "x");
    }
    // A window begins with its first publish, so there are as many as fit, and the last one.
    let windows = begun.elapsed().as_millis() as u64 / PER.as_millis() as u64 + 1;
    let mut all = Vec::new();
    for reader in &mut readers {
        reader.send("return 'end'").await;
        let mut got = HashMap::<String, u64>::new();
        loop {
            match reader.text().await {
                text if text.starts_with("end ") => break,
                text => *got.entry(text).or_default() += 1,
            }
        }
        all.push(got);
    }
    let got = &all[0];
    assert!(all.iter().all(|other| other == got), "{all:?}");
    let passed: u64 = got.values().sum();
    assert!(passed <= 40 * windows && got["normal"] <= 20 * windows, "{got:?} in {windows} windows of {offered:?}");
    // Of each loop, which is within two windows at most, more of high priority has passed.
    assert!(got["high"] * offered["normal"] > got["normal"] * offered["high"], "{got:?} of {offered:?}");
    assert_eq!((reached, passed + left_out), (3 * passed, offered.values().sum()));
    assert_eq!(figure(&engine, "connmix_engine_publishes_left_out_total").await, left_out);
}

#[tokio::test]
async fn a_sample_is_spread_over_the_windows() {
    let engine = engine("{match: room, limit: {rate: 10/500ms, over: sample}}");
    let mut reader = member(&engine, "room").await;
    let mut publisher = Client::connect(engine.at.api, "/ws/v1").await;
    let call = json!({"m": "mesh.publish", "p": {"c": "room", "d": "x"}}).to_string();
    let (begun, mut passed) = (Instant::now(), Vec::new());
    while begun.elapsed() < Duration::from_millis(1500) {
        for _ in 0..4 {
            publisher.send(&call).await;
        }
        for _ in 0..4 {
            let reply: Value = serde_json::from_str(&publisher.text().await).unwrap();
            passed.push(reply["r"]["s"] == 1);
        }
    }
    let all = passed.iter().filter(|passed| **passed).count();
    for _ in 0..all {
        assert_eq!(reader.text().await, "x");
    }
    // In the first window the first ones pass. Later, what passes has others around it that do not.
    assert!(passed[..10].iter().all(|passed| *passed) && all <= 50, "{passed:?}");
    let pairs = passed[10..].windows(2).filter(|pair| pair[0] && pair[1]).count();
    assert!(all > 12 && pairs * 3 < all - 10, "{pairs} pairs of {all}: {passed:?}");
}

#[tokio::test]
async fn what_is_alike_is_added_up() {
    let engine = engine("{match: room, envelope: json, limit: {rate: 2/500ms, over: merge}}");
    let mut reader = member(&engine, "room").await;
    let mut publisher = Client::connect(engine.at.api, "/ws/v1").await;
    let call =
        |data: &str, key: Value| json!({"m": "mesh.publish", "p": {"c": "room", "d": data, "k": key}}).to_string();
    let mut offered = HashMap::<&str, u64>::new();
    let mut dropped = 0;
    for n in 0..100 {
        let (data, key) = [("like", json!("l")), ("gift", json!("g")), ("word", Value::Null)][n % 3].clone();
        let reply: Value = serde_json::from_str(&publisher.ask(&call(data, key)).await).unwrap();
        let left_out = reply["r"]["l"].as_u64().unwrap_or(0);
        assert_eq!(reply["r"]["s"].as_u64().unwrap() + left_out, 1, "{reply}");
        if data == "word" {
            dropped += left_out;
        }
        // Who has published it knows whether it is lost.
        let merged = reply["r"]["m"].as_u64().unwrap_or(0);
        assert_eq!(merged, if data == "word" { 0 } else { left_out }, "{reply}");
        *offered.entry(data).or_default() += 1;
    }
    let mut got = HashMap::<String, u64>::new();
    let is_all = |got: &HashMap<String, u64>| {
        ["like", "gift"].iter().all(|data| got.get(*data).copied().unwrap_or(0) == offered[*data])
    };
    while !is_all(&got) {
        let message: Value = serde_json::from_str(&reader.text().await).unwrap();
        assert!(message["c"] == "room" && message["p"].is_string(), "{message}");
        *got.entry(message["d"].as_str().unwrap().to_owned()).or_default() += message["n"].as_u64().unwrap_or(1);
    }
    assert_eq!(got.get("word").copied().unwrap_or(0) + dropped, offered["word"], "without a key it is left out");
    let merged = figure(&engine, "connmix_engine_publishes_merged_total").await;
    assert!(merged > 50, "{merged} of {offered:?}");
    assert_eq!(figure(&engine, "connmix_engine_publishes_left_out_total").await, dropped);
}

#[tokio::test]
async fn what_was_added_up_is_kept_with_its_number() {
    let rule = "{match: room, history: {size: 100}, envelope: json, limit: {rate: 2/200ms, over: merge}}";
    let engine = engine(rule);
    let mut reader = member(&engine, "room").await;
    // As many as it takes until some are added up.
    let lua = "local n, last = 0 repeat n = n + 1
                 last = {mix.mesh.publish('room', 'like', 'text', {key = 'k'})}
               until last[6] and n > 5 return n, unpack(last, 1, 6)";
    let mut publisher = engine.connect().await;
    let reply = publisher.ask(lua).await;
    let (count, last) = reply.split_once(' ').unwrap();
    assert_eq!(last, "0 0 nil nil 1 1");
    let count: u64 = count.parse().unwrap();
    let (mut live, mut sum) = (Vec::<Value>::new(), 0);
    while sum < count {
        let message: Value = serde_json::from_str(&reader.text().await).unwrap();
        sum += message["n"].as_u64().unwrap_or(1);
        live.push(message);
    }
    assert!(live.iter().any(|message| message["n"].is_u64()), "some were added up: {live:?}");
    let first = live[0]["p"].as_str().unwrap();
    for (options, want) in [("{last = 100}".to_owned(), &live[..]), (format!("{{since = '{first}'}}"), &live[1..])] {
        let mut late = engine.connect().await;
        late.send(&format!("return conn:subscribe('room', {options})")).await;
        for message in want {
            assert_eq!(serde_json::from_str::<Value>(&late.text().await).unwrap(), *message);
        }
        assert!(late.text().await.starts_with("nil table"));
    }
    let (_, page) = post(engine.at.api, "/v1/mesh/history", r#"{"c":"room"}"#).await;
    let page: Value = serde_json::from_str(&page).unwrap();
    let numbers: Vec<u64> = live.iter().map(|message| message["n"].as_u64().unwrap_or(0)).collect();
    let kept: Vec<u64> =
        page["r"]["m"].as_array().unwrap().iter().map(|message| message["n"].as_u64().unwrap_or(0)).collect();
    assert_eq!(kept, numbers);
    let lua =
        "local all = {} for i, m in ipairs(mix.mesh.history('room').m) do all[i] = m.n or 0 end return unpack(all)";
    let kept = publisher.ask(lua).await;
    assert!(numbers.iter().zip(kept.split(' ')).all(|(want, n)| want.to_string() == n), "{kept} {numbers:?}");
    // Without a key it is lost, which the script is told.
    let lua = "for i = 1, 5 do mix.mesh.publish('room', 'x') end return mix.mesh.publish('room', 'word')";
    eventually("one is over", async || (publisher.ask(lua).await == "0 0 nil nil 1 nil").then_some(())).await;
}

#[test]
fn a_limit_that_makes_no_sense_is_a_problem() {
    let problem = |rule: &str| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("entry.lua"), SCRIPT).unwrap();
        write_config(&dir.path().join("connmix.yaml"), "", &format!("channels: [{{match: a, {rule}}}]"), "");
        match connmix::config::load::load(&dir.path().join("connmix.yaml")) {
            Ok(_) => String::new(),
            Err(problems) => problems.to_string(),
        }
    };
    assert_eq!(problem("limit: {rate: 40/200ms, reserve: 40, over: sample}"), "");
    assert_eq!(problem("envelope: json, limit: {rate: 40/200ms, over: merge}"), "");
    assert!(problem("limit: {rate: 40/200ms, reserve: 41}").contains("limit.reserve"));
    assert!(problem("limit: {rate: 40/200ms, over: merge}").contains("merge needs envelope: json"));
}

/// On several nodes as one mesh, over a bus in memory.
mod mesh {
    use super::figure;
    use crate::common::cluster::*;
    use serde_json::json;

    #[tokio::test]
    async fn what_is_lost_is_told_from_what_is_added_up_on_all_nodes() {
        let rules = "workers: 1\nchannels: [{match: room, envelope: json, limit: {rate: 3/300ms, over: merge}}]";
        let nodes = Nodes::with_engine(3, rules, "cluster: {secret: s3cret}").await;
        let mut reader = member(nodes.engines[0].ws(), "room").await;
        let mut back_ends = Vec::new();
        for node in &nodes.engines {
            back_ends.push(back_end(node.at.api).await);
        }
        let (mut offered, mut lost, mut merged) = (0, 0, 0);
        while lost < 3 || merged < 3 {
            // Some of them are carried out where their id belongs, and some have no key.
            let id = (offered % 2 == 0).then(|| offered.to_string());
            let params = json!({"c": "room", "d": "x", "k": (offered % 5 > 0).then_some("k"), "id": id});
            let reply = call(&mut back_ends[offered as usize % 3], "mesh.publish", params).await["r"].take();
            let [l, m] = ["l", "m"].map(|field| reply[field].as_u64().unwrap_or(0));
            assert!(m <= l && reply["s"].as_u64().unwrap() + l == 1, "{reply}");
            (offered, lost, merged) = (offered + 1, lost + l - m, merged + m);
        }
        let mut got = 0;
        while got + lost < offered {
            let message: serde_json::Value = serde_json::from_str(&reader.text().await).unwrap();
            got += message["n"].as_u64().unwrap_or(1);
        }
        assert_eq!(got + lost, offered);
        let mut told = (0, 0);
        for node in &nodes.engines {
            told.0 += figure(node, "connmix_engine_publishes_left_out_total").await;
            told.1 += figure(node, "connmix_engine_publishes_merged_total").await;
        }
        assert_eq!(told, (lost, merged));
    }

    #[tokio::test]
    async fn one_limit_holds_for_all_nodes() {
        let rules = "workers: 1\nchannels: [{match: room, limit: {rate: 10/1h, reserve: 4}}]";
        let nodes = Nodes::with_engine(3, rules, "cluster: {secret: s3cret}").await;
        let mut readers = Vec::new();
        for node in &nodes.engines {
            readers.push(member(node.ws(), "room").await);
        }
        let (mut reached, mut left_out) = (0, 0);
        for n in 0..30 {
            let mut api = back_end(nodes.engines[n % 3].at.api).await;
            let priority = if n < 15 { "normal" } else { "high" };
            let params =
                json!({"c": "room", "d": n.to_string(), "pr": priority, "id": (n % 2 == 0).then(|| n.to_string())});
            let reply = call(&mut api, "mesh.publish", params).await["r"].take();
            reached += reply["s"].as_u64().unwrap();
            left_out += reply["l"].as_u64().unwrap_or(0);
            assert!(reply.get("u").is_none(), "{reply}");
        }
        assert_eq!((reached, left_out), (3 * 10, 20));
        for reader in &mut readers {
            for n in (0..6).chain(15..19) {
                assert_eq!(reader.text().await, n.to_string());
            }
        }
        let mut told = 0;
        for node in &nodes.engines {
            told += figure(node, "connmix_engine_publishes_left_out_total").await;
        }
        assert_eq!(told, left_out);
    }
}
