//! Rules for channels (`engine.channels`): how many connections may be in one.

mod common;

use common::scripts::RUN;
use common::*;
use serde_json::{Value, json};

fn engine(rules: &str) -> TestEngine {
    TestEngine::with(RUN, "", &format!("workers: 2\nchannels: {rules}"))
}

/// A call over HTTP: the status, and the whole reply.
async fn call(engine: &TestEngine, method: &str, params: Value) -> (u16, Value) {
    let path = format!("/v1/{}", method.replace('.', "/"));
    let (status, reply) = post(engine.at.api, &path, &params.to_string()).await;
    (status, serde_json::from_str(&reply).unwrap_or_else(|e| panic!("{e}: {reply}")))
}

fn full(channel: &str, most: usize) -> String {
    format!("channel {channel} is full: {most} connections may be in it (engine.channels, maxSubscribers)")
}

#[tokio::test]
async fn a_channel_takes_no_more_connections_than_its_rule_says() {
    let engine = engine("[{match: 'room:', maxSubscribers: 3}, {match: 'room:big:'}]");
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = engine.connect().await;
        // One that is in it already, and one name twice, take one place.
        assert_eq!(client.ask("return conn:subscribe('room:1', 'room:1') or conn:subscribe('room:1')").await, "nil");
        clients.push(client);
    }
    let mut late = engine.connect().await;
    assert_eq!(late.ask("return conn:subscribe('room:1')").await, full("room:1", 3));
    // All or none of them, and what was taken for the others is given back.
    for _ in 0..4 {
        assert_eq!(late.ask("return conn:subscribe('a', 'room:0', 'room:1')").await, full("room:1", 3));
    }
    assert_eq!(late.ask("return #conn:channels()").await, "0");
    let id = late.ask("return conn:client_id()").await;
    let params = json!({"c": id, "f": "subscribe", "a": ["room:1"]});
    let (status, reply) = call(&engine, "conn.call", params).await;
    assert_eq!((status, &reply["E"]), (400, &json!({"c": 301, "m": full("room:1", 3)})));
    // The longest match counts, and others have no rule.
    for client in clients.iter_mut().chain([&mut late]) {
        assert_eq!(client.ask("return conn:subscribe('room:big:1', 'other')").await, "nil");
    }
    // A place is free when one leaves, and when one ends.
    assert_eq!(clients[0].ask("return conn:unsubscribe('room:1')").await, "nil");
    assert_eq!(late.ask("return conn:subscribe('room:1')").await, "nil");
    assert_eq!(clients[0].ask("return conn:subscribe('room:1')").await, full("room:1", 3));
    late.close().await;
    let join = "return conn:subscribe('room:1')";
    eventually("there is a place", async || (clients[0].ask(join).await == "nil").then_some(())).await;
}

#[tokio::test]
async fn a_rule_that_changes_counts_who_is_there() {
    let engine = engine("[]");
    let file = engine.path("connmix.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = engine.connect().await;
        assert_eq!(client.ask("return conn:subscribe('room:1')").await, "nil");
        clients.push(client);
    }
    std::fs::write(&file, text.replace("channels: []", "channels: [{match: room, maxSubscribers: 3}]")).unwrap();
    engine.engine().reload();
    let mut late = engine.connect().await;
    let refused = async || {
        let err = late.ask("local err = conn:subscribe('room:1') conn:unsubscribe('room:1') return err").await;
        (err == full("room:1", 3)).then_some(())
    };
    eventually("the rule is in force", refused).await;
    // They stay; there is room once fewer than three are there.
    assert_eq!(call(&engine, "mesh.count", json!({"c": "room:1"})).await.1["r"]["n"], 4);
    for _ in 0..2 {
        let mut client = clients.pop().unwrap();
        assert_eq!(client.ask("return conn:unsubscribe('room:1')").await, "nil");
    }
    let join = "return conn:subscribe('room:1')";
    eventually("two are counted", async || (late.ask(join).await == "nil").then_some(())).await;
}

/// The pages of a list, and how many there were: `next` asks with `after`.
async fn pages(list: &str, mut next: impl AsyncFnMut(Value) -> Value) -> (Vec<Value>, usize) {
    let (mut all, mut after, mut pages) = (Vec::new(), Value::Null, 0);
    loop {
        let page = next(after).await;
        all.extend(page[list].as_array().unwrap_or_else(|| panic!("{page}")).iter().cloned());
        (after, pages) = (page["after"].clone(), pages + 1);
        if after.is_null() {
            return (all, pages);
        }
    }
}

#[tokio::test]
async fn it_is_told_who_is_in_a_channel() {
    let engine = engine("[{match: 'room:', presence: true}, {match: 'room:secret'}]");
    let mut ids = Vec::new();
    let mut clients = Vec::new();
    for i in 0..5 {
        let mut client = engine.connect().await;
        let join = format!("return conn:subscribe('room:1', 'room:secret', {{info = {{name = 'Ann', n = {{{i}}}}}}})");
        assert_eq!(client.ask(&join).await, "nil");
        let id = client.ask("return conn:client_id()").await;
        ids.push(id.clone());
        clients.push((id, client));
    }
    clients.sort_by_key(|(id, _)| id.parse::<u64>().unwrap());
    let presence = async |params: Value| call(&engine, "mesh.presence", params).await.1["r"].clone();
    let (all, count) =
        pages("clients", async |after| presence(json!({"c": "room:1", "limit": 2, "after": after})).await).await;
    assert_eq!(count, 3);
    let found: Vec<&str> = all.iter().map(|client| client["c"].as_str().unwrap()).collect();
    assert_eq!(found, clients.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>());
    for client in &all {
        let at = ids.iter().position(|id| *id == client["c"]).unwrap();
        assert_eq!(client["i"], json!({"name": "Ann", "n": [at]}));
    }
    // The same over the WebSocket API, from Lua, and behind a subscribe.
    let mut api = Client::connect(engine.at.api, "/ws/v1").await;
    let mut late = engine.connect().await;
    let id = late.ask("return conn:client_id()").await;
    api.send(&json!({"m": "conn.call", "p": {"c": id, "f": "subscribe", "a": ["room:1"]}}).to_string()).await;
    api.send(&json!({"m": "mesh.presence", "p": {"c": "room:1"}}).to_string()).await;
    assert_eq!(api.text().await, r#"{"E":null,"r":{"s":true}}"#);
    let page: Value = serde_json::from_str(&api.text().await).unwrap();
    assert_eq!((page["r"]["n"].as_u64(), page["r"]["clients"].as_array().unwrap().len()), (Some(6), 6));
    let own = page["r"]["clients"].as_array().unwrap().iter().find(|client| client["c"] == json!(id)).unwrap();
    assert!(own.get("i").is_none() && own["node"].is_string());
    let lua = "local p = mix.mesh.presence('room:1', 1) return p.n, #p.clients, p.clients[1].i.name, p.after";
    let want = format!("6 1 Ann {}", clients[0].0);
    assert_eq!(late.ask(lua).await, want);
    let lua = format!("local p = mix.mesh.presence('room:1', 2, '{}') return #p.clients", clients[4].0);
    let rest = usize::from(id.parse::<u64>().unwrap() > clients[4].0.parse().unwrap());
    assert_eq!(late.ask(&lua).await, rest.to_string());
    // Other info takes the place of what was told; one that has left is not there.
    assert_eq!(late.ask("return conn:subscribe('room:1', {info = 7})").await, "nil");
    let (_, gone) = clients.remove(0);
    gone.close().await;
    let gone = async || (presence(json!({"c": "room:1"})).await["n"] == 5).then_some(());
    eventually("it has left", gone).await;
    let page = presence(json!({"c": "room:1"})).await;
    let infos: Vec<&Value> = page["clients"].as_array().unwrap().iter().map(|client| &client["i"]).collect();
    assert!(infos.contains(&&json!(7)), "{page}");
    // Where no rule says so it is not told.
    for channel in ["room:secret", "other"] {
        let words = format!("no rule of engine.channels says \"presence: true\" for channel {channel}");
        let (status, reply) = call(&engine, "mesh.presence", json!({"c": channel})).await;
        assert_eq!((status, &reply["E"]), (400, &json!({"c": 101, "m": format!("field \"c\": {words}")})));
        let lua = format!("local page, err = mix.mesh.presence('{channel}') return err");
        assert_eq!(late.ask(&lua).await, words);
    }
    for (code, words) in [
        ("return conn:subscribe('a', {info = ('x'):rep(1023)})", "info has 1025 bytes as JSON, more than 1024"),
        ("return conn:subscribe('a', {info = 0/0})", "info can't be told as JSON: a number is not finite"),
        ("return select(2, pcall(conn.subscribe, conn, 'a', {first = 5}))", "there is no option \"first\""),
        ("return select(2, pcall(mix.mesh.presence, 'room:1', 1001))", "a number from 1 to 1000 expected, got 1001"),
    ] {
        let err = late.ask(code).await;
        assert!(err.contains(words), "{code}: {err}");
    }
    assert_eq!(late.ask("return #conn:channels()").await, "1");
}

#[tokio::test]
async fn channels_are_listed_by_prefix_and_clients_by_id() {
    let engine = engine("[]");
    let mut clients = Vec::new();
    for i in 0..4 {
        let mut client = engine.connect().await;
        let join = format!("return conn:subscribe('video:all', 'video:{i}', 'other', 'video:é')");
        assert_eq!(client.ask(&join).await, "nil");
        clients.push(client);
    }
    let list = async |query: String| {
        let (status, reply) = get(engine.at.api, &format!("/v1/channels{query}")).await;
        assert_eq!(status, 200, "{reply}");
        serde_json::from_str::<Value>(&reply).unwrap()["r"].take()
    };
    let want: Vec<Value> = [("video:0", 1), ("video:1", 1), ("video:2", 1), ("video:3", 1), ("video:all", 4)]
        .into_iter()
        .chain([("video:é", 4)])
        .map(|(c, n)| json!({"c": c, "n": n}))
        .collect();
    let (all, count) = pages("channels", async |after| {
        list(format!("?prefix=video%3A&limit=4&after={}", after.as_str().unwrap_or_default())).await
    })
    .await;
    assert_eq!((&all, count), (&want, 2));
    assert_eq!(list("".into()).await["channels"].as_array().unwrap().len(), 7);
    let mut api = Client::connect(engine.at.api, "/ws/v1").await;
    let reply = api.ask(&json!({"m": "mesh.channels", "p": {"prefix": "oth"}}).to_string()).await;
    assert_eq!(reply, r#"{"E":null,"r":{"channels":[{"c":"other","n":4}]}}"#);
    let id = clients[2].ask("return conn:client_id()").await;
    let (status, reply) = get(engine.at.api, &format!("/v1/clients/{id}")).await;
    let reply: Value = serde_json::from_str(&reply).unwrap();
    let address = clients[2].ask("return conn:remote_addr()").await;
    assert_eq!(status, 200);
    assert_eq!(
        (&reply["r"]["c"], &reply["r"]["address"], &reply["r"]["server"]),
        (&json!(id), &json!(address), &json!(0))
    );
    assert_eq!(reply["r"]["channels"], json!(["other", "video:2", "video:all", "video:é"]));
    let over_ws: Value =
        serde_json::from_str(&api.ask(&json!({"m": "mesh.client", "p": {"c": id}}).to_string()).await).unwrap();
    assert_eq!(over_ws["r"]["channels"], reply["r"]["channels"]);
    // What it has sent and got, and since when it is there.
    let figures = async || {
        let (_, reply) = get(engine.at.api, &format!("/v1/clients/{id}")).await;
        let reply: Value = serde_json::from_str(&reply).unwrap();
        ["since", "in", "out"].map(|figure| reply["r"][figure].as_u64().unwrap())
    };
    let before = figures().await;
    engine.publish_to("video:2", "published", 1).await;
    assert_eq!(clients[2].text().await, "published");
    clients[2].ask("return 'sent'").await;
    assert_eq!(figures().await, [before[0], before[1] + 1, before[2] + 2]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!((now - 3600..=now).contains(&before[0]), "{before:?} at {now}");
    clients.remove(2).close().await;
    let gone = async || (get(engine.at.api, &format!("/v1/clients/{id}")).await.0 == 404).then_some(());
    eventually("there is no such client", gone).await;
}

#[tokio::test]
async fn a_channel_is_told_how_many_are_in_it_when_that_has_changed() {
    let online = "online: {every: 300ms, message: '@%n of %n'}";
    let engine = engine(&format!("[{{match: 'room:', {online}}}, {{match: 'daily:', online: {{every: 1h}}}}]"));
    let mut first = engine.connect().await;
    assert_eq!(first.ask("return conn:subscribe('room:1', 'daily:1')").await, "nil");
    let mut told = [first.text().await, first.text().await];
    told.sort();
    assert_eq!(told, [r#"@1 of 1"#, r#"{"event":"@online","data":{"n":1}}"#]);
    // However many come and go: each text is told once, the last one is right, and each has another number.
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = engine.connect().await;
        client.send("return conn:subscribe('room:1', 'daily:1')").await;
        clients.push(client);
    }
    let mut numbers = vec![1];
    while numbers.last() != Some(&31) {
        let text = first.text().await;
        let number: usize = text[1..].split(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{text}"));
        assert_ne!(numbers.last(), Some(&number), "told twice");
        numbers.push(number);
    }
    // One that comes and one that goes within the interval change nothing that is told; those who leave do.
    clients.truncate(3);
    while first.text().await != "@4 of 4" {}
    assert_eq!(first.ask("return conn:unsubscribe('room:1')").await, "nil");
    let mut last = clients.pop().unwrap();
    while last.text().await != "@3 of 3" {}
    // Once in its hour.
    first.expect_only_reply("return 'no more'", "no more").await;
}

#[tokio::test]
async fn a_channel_is_told_who_came_and_who_went() {
    let engine = engine("[{match: 'room:', joinLeave: true, presence: true}]");
    let mut first = engine.connect().await;
    assert_eq!(first.ask("return conn:subscribe('room:1')").await, "nil");
    let mut other = engine.connect().await;
    let id = other.ask("return conn:client_id()").await;
    assert_eq!(other.ask("return conn:subscribe('room:1', 'silent', {info = {name = 'Ann'}})").await, "nil");
    let event = |event: &str| json!({"event": event, "data": {"c": id, "i": {"name": "Ann"}}});
    let told = async |client: &mut Client| serde_json::from_str::<Value>(&client.text().await).unwrap();
    assert_eq!(told(&mut first).await, event("@join"));
    // Once, and not to itself.
    assert_eq!(other.ask("return conn:subscribe('room:1') or conn:unsubscribe('room:1')").await, "nil");
    assert_eq!(told(&mut first).await, event("@leave"));
    assert_eq!(other.ask("return conn:subscribe('room:1')").await, "nil");
    let bare = |event: &str| json!({"event": event, "data": {"c": id}});
    assert_eq!(told(&mut first).await, bare("@join"));
    other.close().await;
    assert_eq!(told(&mut first).await, bare("@leave"));
    first.expect_only_reply("return 'no more'", "no more").await;
}

/// On several nodes as one mesh, over a bus in memory.
mod mesh {
    use super::call;
    use crate::common::cluster::*;
    use crate::common::*;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    const PRESENCE: &str = "cluster: {secret: s3cret}";

    #[tokio::test]
    async fn the_answers_of_all_nodes_are_put_together() {
        let nodes = Nodes::with_engine(3, "workers: 2\nchannels: [{match: room, presence: true}]", PRESENCE).await;
        let (mut members, mut ids) = (Vec::new(), BTreeSet::new());
        for engine in &nodes.engines {
            for _ in 0..2 {
                let mut member = member(engine.ws(), "room").await;
                ids.insert(id(&mut member).await.parse::<u64>().unwrap());
                members.push(member);
            }
        }
        for engine in &nodes.engines {
            let page = call(engine, "mesh.presence", json!({"c": "room"})).await.1["r"].take();
            let clients = page["clients"].as_array().unwrap();
            let found: Vec<u64> = clients.iter().map(|client| client["c"].as_str().unwrap().parse().unwrap()).collect();
            assert_eq!((found, &page["n"], page.get("u")), (ids.iter().copied().collect(), &json!(6), None), "{page}");
            let on: BTreeSet<&str> = clients.iter().map(|client| client["node"].as_str().unwrap()).collect();
            assert_eq!(on.len(), 3, "each tells its node");
            let (_, reply) = get(engine.at.api, "/v1/channels?limit=1").await;
            let reply: Value = serde_json::from_str(&reply).unwrap();
            assert_eq!(reply["r"], json!({"channels": [{"c": "room", "n": 6}]}));
            for id in &ids {
                let (status, reply) = get(engine.at.api, &format!("/v1/clients/{id}")).await;
                assert_eq!(status, 200, "{reply}");
            }
        }
        // A node that does not answer is counted, and not waited for beyond its time.
        let (asking, silent) = (nodes.run(0).await, nodes.run(2).await);
        nodes.network.cut(asking, silent);
        nodes.network.cut(silent, asking);
        let page = call(&nodes.engines[0], "mesh.presence", json!({"c": "room"})).await.1["r"].take();
        assert_eq!((&page["n"], &page["u"]), (&json!(4), &json!(1)), "{page}");
    }

    /// The next number that a client is told; nothing else comes.
    async fn number(client: &mut Client) -> usize {
        let text = client.text().await;
        text.strip_prefix('@').and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text}"))
    }

    #[tokio::test]
    async fn a_channel_has_no_more_connections_on_all_nodes_than_its_rule_says() {
        const MOST: usize = 4;
        let rule = "workers: 2\nchannels: [{match: room, maxSubscribers: 4}]";
        let nodes = Nodes::with_engine(3, rule, PRESENCE).await;
        let full = |channel: &str| super::full(channel, MOST);
        let mut members = Vec::new();
        for i in 0..MOST {
            members.push(member(nodes.engines[i % 3].ws(), "room").await);
        }
        let mut api = back_end(nodes.engines[0].at.api).await;
        for engine in &nodes.engines {
            let mut late = engine.connect().await;
            assert_eq!(late.ask("join room").await, full("room"));
            // A back end gets the same, and nothing of its call stays.
            let who = late.ask("id").await;
            let subscribe = json!({"c": who, "f": "subscribe", "a": ["other", "room"]});
            let reply = crate::common::cluster::call(&mut api, "conn.call", subscribe).await;
            assert_eq!((&reply["E"]["c"], &reply["E"]["m"]), (&json!(301), &json!(full("room"))), "{reply}");
            late.expect_only_reply("channels", "in ").await;
        }
        // Who is in it already may say so again. A place that is left is there for others, on any node.
        assert_eq!(members[0].ask("join room").await, "joined room");
        assert_eq!(members[0].ask("leave room").await, "left room");
        let mut late = nodes.engines[2].connect().await;
        let subscribe = json!({"c": late.ask("id").await, "f": "subscribe", "a": ["room"]});
        let reply = crate::common::cluster::call(&mut api, "conn.call", subscribe).await;
        assert_eq!(reply["r"], json!({"s": true}), "{reply}");
        assert_eq!(members[0].ask("join room").await, full("room"));

        // Of many who come at once there are never too many; what is left is there for those who come later.
        let mut crowd = Vec::new();
        for i in 0..12 {
            crowd.push(nodes.engines[i % 3].connect().await);
        }
        for round in 0..10 {
            let channel = format!("room:{round}");
            let join = format!("join {channel}");
            let said = futures_util::future::join_all(crowd.iter_mut().map(|client| client.ask(&join))).await;
            let joined = said.iter().filter(|said| **said == format!("joined {channel}")).count();
            assert!(
                joined <= MOST && said.iter().all(|s| s.starts_with("joined ") || *s == full(&channel)),
                "{said:?}"
            );
            let count = call(&nodes.engines[round % 3], "mesh.count", json!({"c": channel})).await;
            assert_eq!(count.1["r"]["n"], json!(joined));
            for (client, said) in
                crowd.iter_mut().zip(&said).filter(|(_, said)| !said.starts_with("joined")).take(MOST - joined)
            {
                assert_eq!(client.ask(&join).await, format!("joined {channel}"), "{said}");
            }
        }
    }

    #[tokio::test]
    async fn numbers_are_told_on_all_nodes_and_are_right_when_a_node_is_gone() {
        let rule = "workers: 2\nchannels: [{match: room, online: {every: 200ms, message: '@%n'}}]";
        let mut nodes = Nodes::with_engine(3, rule, PRESENCE).await;
        // Several channels, so that each node tells some of them.
        for channel in ["room:1", "room:2", "room:3", "room:4", "room:5", "room:6"] {
            let mut members = Vec::new();
            for engine in &nodes.engines {
                for _ in 0..2 {
                    // Those of the others may have been told meanwhile.
                    members.push(member(engine.ws(), channel).await);
                }
            }
            for member in &mut members {
                let mut numbers = vec![0];
                while *numbers.last().unwrap() != 6 {
                    let next = number(member).await;
                    assert_ne!(numbers.last(), Some(&next), "told twice");
                    numbers.push(next);
                }
            }
            drop(members);
        }
        let mut members = Vec::new();
        for i in 0..8 {
            for engine in &nodes.engines {
                members.push((i, member(engine.ws(), &format!("room:{i}")).await));
            }
        }
        for (_, member) in &mut members {
            while number(member).await != 3 {}
        }
        // A node that ends without a word: nothing reaches it, and nothing comes of it.
        let gone = nodes.run(2).await;
        for other in [nodes.run(0).await, nodes.run(1).await] {
            nodes.network.cut(gone, other);
            nodes.network.cut(other, gone);
        }
        for (at, (_, member)) in members.iter_mut().enumerate().filter(|(at, _)| at % 3 != 2) {
            assert_eq!(number(member).await, 2, "client {at}");
        }
        nodes.engines.truncate(2);
    }
}
