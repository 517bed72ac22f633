//! Who is in a channel, and who comes and goes meanwhile: a client that takes the list as it comes, and then what it is told, knows
//! who is there.

mod common;

use common::*;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;

const SCRIPT: &str = r#"
local here
function on_start(worker)
  here = worker
end
function on_message(msg, conn)
  local word, rest = msg.data:match("^(%S+) ?(.*)$")
  if word == "where" then
    conn:send("at " .. here)
  elseif word == "id" then
    conn:send(conn:client_id())
  elseif word == "join" then
    conn:send(conn:subscribe("room", {info = {name = rest}}) or "joined")
  elseif word == "leave" then
    conn:send(conn:unsubscribe("room") or "left")
  elseif word == "hold" then
    mix.shared.set("held", true)
    while not mix.shared.get("go") do end
  elseif word == "held" then
    conn:send(tostring(mix.shared.get("held")))
  elseif word == "go" then
    mix.shared.set("go", true)
    conn:send("goes")
  elseif word == "who" then
    conn:send("asks")
    conn:send("who " .. mix.json_encode((mix.mesh.presence("room"))))
  end
end
"#;

/// A client on such a worker of that node.
async fn on(servers: SocketAddr, wanted: impl Fn(&str) -> bool) -> (Client, String) {
    // The others stay meanwhile: the worker with the fewest gets the next one.
    let mut others = Vec::new();
    eventually("a worker gets a client", async || {
        let mut client = Client::connect(servers, "/ws").await;
        let worker = client.ask("where").await;
        let is_wanted = worker.starts_with("at ") && wanted(&worker);
        if !is_wanted {
            others.push(client);
            return None;
        }
        Some((client, worker))
    })
    .await
}

/// Reads up to that text; gives what came before.
async fn read_to(client: &mut Client, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut before = Vec::new();
    loop {
        match client.text().await {
            text if wanted(&text) => return before,
            text => before.push(text),
        }
    }
}

async fn join(client: &mut Client, name: &str) -> String {
    let id = client.ask("id").await;
    client.send(&format!("join {name}")).await;
    read_to(client, |text| text == "joined").await;
    id
}

/// What a client does with what comes, without any care: the list replaces what it knows, and each event changes it.
fn take(known: &mut BTreeMap<String, String>, text: &str) -> &'static str {
    let name = |info: &Value| info["name"].as_str().unwrap_or("nobody").to_owned();
    if let Some(page) = text.strip_prefix("who ") {
        let page: Value = serde_json::from_str(page).unwrap();
        let all = page["clients"].as_array().unwrap();
        assert_eq!(page["n"], all.len(), "{page}");
        assert!(all.iter().all(|one| one["node"].is_string()), "{page}");
        *known = all.iter().map(|one| (one["c"].as_str().unwrap().to_owned(), name(&one["i"]))).collect();
        return "who";
    }
    let told: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let told = match &told["d"] {
        Value::String(inner) => serde_json::from_str(inner).unwrap(),
        _ => told,
    };
    let client = told["data"]["c"].as_str().unwrap().to_owned();
    match told["event"].as_str().unwrap() {
        "@join" => {
            known.insert(client, name(&told["data"]["i"]));
            "join"
        }
        "@leave" => {
            known.remove(&client);
            "leave"
        }
        other => panic!("{other}"),
    }
}

/// One asks who is there on one node, where a worker does not answer for a while; one goes meanwhile and one comes, on another
/// node or the same.
async fn one_goes_and_one_comes_before_the_answer(asking: SocketAddr, other: SocketAddr) {
    let (mut held, worker) = on(asking, |_| true).await;
    let (mut asker, _) = on(asking, |other| other != worker).await;
    let (mut helper, _) = on(asking, |other| other != worker).await;
    let elsewhere = |at: &str| asking != other || at != worker;
    let (mut goes, _) = on(other, elsewhere).await;
    let (mut comes, _) = on(other, elsewhere).await;
    let mut truth = BTreeMap::new();
    truth.insert(join(&mut asker, "asker").await, "asker".to_owned());
    truth.insert(join(&mut held, "held").await, "held".to_owned());
    let gone = join(&mut goes, "gone").await;
    let mut known = BTreeMap::new();
    while !known.contains_key(&gone) {
        take(&mut known, &asker.text().await);
    }
    held.send("hold").await;
    eventually("the worker is held", async || (helper.ask("held").await == "true").then_some(())).await;
    asker.send("who").await;
    read_to(&mut asker, |text| text == "asks").await;
    // The others have answered by then.
    goes.ask("id").await;
    goes.send("leave").await;
    read_to(&mut goes, |text| text == "left").await;
    truth.insert(join(&mut comes, "new").await, "new".to_owned());
    let mut seen = Vec::new();
    while !seen.contains(&"leave") || !seen.contains(&"join") {
        seen.push(take(&mut known, &asker.text().await));
    }
    assert_eq!(helper.ask("go").await, "goes");
    while !seen.contains(&"who") {
        seen.push(take(&mut known, &asker.text().await));
    }
    assert_eq!(known, truth, "{seen:?}");
    // And without anybody that comes or goes.
    asker.send("who").await;
    read_to(&mut asker, |text| text == "asks").await;
    assert_eq!((take(&mut known, &asker.text().await), known), ("who", truth));
}

#[tokio::test]
async fn a_list_has_nobody_who_was_told_to_be_gone_before_it() {
    for rule in ["", ", envelope: json", ", slow: latest"] {
        let rules = format!("workers: 2\nchannels: [{{match: room, presence: true, joinLeave: true{rule}}}]");
        let engine = TestEngine::with(SCRIPT, "handlerTimeout: 60s", &rules);
        one_goes_and_one_comes_before_the_answer(engine.ws(), engine.ws()).await;
    }
}

/// On several nodes as one mesh, over a bus in memory.
mod mesh {
    use super::*;
    use crate::common::cluster::Nodes;

    #[tokio::test]
    async fn nor_has_one_of_all_nodes() {
        let rules = "workers: 2\nchannels: [{match: room, presence: true, joinLeave: true}]";
        let nodes = Nodes::with_engine(2, rules, "cluster: {secret: s3cret}").await;
        for engine in &nodes.engines {
            let file = engine.path("connmix.yaml");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(engine.path("entry.lua"), SCRIPT).unwrap();
            std::fs::write(&file, text.replace("eventStream: on", "eventStream: on\n      handlerTimeout: 60s"))
                .unwrap();
            engine.engine().reload();
        }
        one_goes_and_one_comes_before_the_answer(nodes.engines[0].ws(), nodes.engines[1].ws()).await;
    }
}
