//! Several nodes as one mesh: whole engines in one process, their links in its memory.

mod common;
#[cfg(feature = "cluster")]
#[path = "cluster/processes.rs"]
mod processes;

use common::cluster::*;
use common::raw::{self, Raw};
use common::*;
use connmix::cluster::bus::memory::Network;
use connmix::config::NodeRole;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

// Publishing.

#[tokio::test]
async fn a_publish_on_any_node_in_any_way_reaches_subscribers_on_all() {
    let nodes = Nodes::start(3).await;
    let mut members = Vec::new();
    for engine in &nodes.engines {
        for _ in 0..2 {
            members.push(member(engine.ws(), "room").await);
        }
    }
    let mut outsider = nodes.engines[1].connect().await;
    let mut sent = Vec::new();
    for (i, engine) in nodes.engines.iter().enumerate() {
        assert_eq!(publish(engine.at.api, "room", &format!("http {i}")).await, reached(6));
        let mut api = back_end(engine.at.api).await;
        let reply = call(&mut api, "mesh.publish", json!({"c": "room", "d": format!("ws {i}")})).await;
        assert_eq!(reply, json!({"E": null, "r": {"s": 6, "f": 0, "t": 6}, "i": 1}));
        let mut client = engine.connect().await;
        assert_eq!(client.ask(&format!("publish room lua {i}")).await, "published 6 0");
        sent.extend([format!("http {i}"), format!("ws {i}"), format!("lua {i}")]);
    }
    for member in &mut members {
        for text in &sent {
            assert_eq!(member.text().await, *text);
        }
        member.expect_only_reply("end", "echo end").await;
    }
    outsider.expect_only_reply("end", "echo end").await;
    // Leaving, one by one, then the last ones of a node by the end of their connections.
    for (left, member) in members.iter_mut().enumerate().take(3) {
        leave(member, "room").await;
        assert_eq!(publish(nodes.engines[2].at.api, "room", "x").await, reached(5 - left));
    }
    for member in members.drain(4..) {
        member.close().await;
    }
    publish_until(nodes.engines[0].at.api, "room", "x", reached(1)).await;
}

/// The central guarantee: a publish elsewhere reaches a subscriber as soon as the subscribe is answered.
#[tokio::test]
async fn what_is_published_anywhere_after_subscribe_has_returned_reaches_the_subscriber() {
    let nodes = Nodes::start(3).await;
    let mut tasks = Vec::new();
    for worker in 0..12usize {
        let (from, to) = (&nodes.engines[worker % 3], &nodes.engines[(worker + 1 + worker / 3 % 2) % 3]);
        let (ws, api) = (from.ws(), to.at.api);
        tasks.push(async move {
            let mut client = Client::connect(ws, "/ws").await;
            let mut publisher = back_end(api).await;
            for i in 0..80 {
                let channel = format!("fresh:{worker}:{i}");
                join(&mut client, &channel).await;
                let reply = call(&mut publisher, "mesh.publish", json!({"c": channel, "d": channel})).await;
                assert_eq!(reply["r"], json!({"s": 1, "f": 0, "t": 1}), "{channel}");
                assert_eq!(client.text().await, channel);
                // Sometimes it leaves, and comes back while the others still know of it.
                if i % 3 == 0 {
                    leave(&mut client, &channel).await;
                    let reply = call(&mut publisher, "mesh.publish", json!({"c": channel, "d": "nobody"})).await;
                    assert_eq!(reply["r"], json!({"s": 0, "f": 0, "t": 0}), "{channel}");
                    join(&mut client, &channel).await;
                    let reply = call(&mut publisher, "mesh.publish", json!({"c": channel, "d": "again"})).await;
                    assert_eq!(reply["r"], json!({"s": 1, "f": 0, "t": 1}), "{channel}");
                    assert_eq!(client.text().await, "again");
                }
            }
        });
    }
    join_all(tasks).await;
}

/// The same when others on this node have just entered the channel, and wait for the other nodes to know of it.
#[tokio::test]
async fn many_who_subscribe_at_once_are_all_told_when_all_nodes_know() {
    let nodes = Nodes::start(3).await;
    let mut clients = Vec::new();
    for i in 0..30 {
        clients.push(nodes.engines[i % 3].connect().await);
    }
    let mut publishers = Vec::new();
    for engine in &nodes.engines {
        publishers.push(back_end(engine.at.api).await);
    }
    for round in 0..30 {
        let channel = format!("crowd:{round}");
        join_all(clients.iter_mut().map(|client| join(client, &channel))).await;
        let asks = publishers.iter_mut().map(|api| call(api, "mesh.publish", json!({"c": channel, "d": "x"})));
        for reply in join_all(asks).await {
            assert_eq!(reply["r"], json!({"s": 30, "f": 0, "t": 30}), "{channel}");
        }
        for client in &mut clients {
            for _ in 0..3 {
                assert_eq!(client.text().await, "x");
            }
        }
    }
}

#[tokio::test]
async fn each_publisher_is_heard_in_order_on_every_node() {
    const EACH: usize = 400;
    let nodes = Nodes::start(3).await;
    let mut members = Vec::new();
    for engine in &nodes.engines {
        members.push(member(engine.ws(), "news").await);
    }
    let publish = |at: usize| {
        let api = nodes.engines[at].at.api;
        async move {
            let mut raw = Raw::dial(api).await;
            raw.write(raw::upgrade().replace("/ws", "/ws/v1")).await;
            assert_eq!(raw.head().await.status, 101);
            let requests: Vec<u8> = (0..EACH)
                .flat_map(|i| {
                    let params = json!({"c": "news", "d": format!("{at} {i}")});
                    raw::text(&json!({"m": "mesh.publish", "p": params, "i": i}).to_string())
                })
                .collect();
            // Replies are not awaited in between.
            raw.write(requests).await;
            for i in 0..EACH {
                let reply: Value = serde_json::from_str(&raw.text().await).unwrap();
                assert_eq!(reply, json!({"E": null, "r": {"s": 3, "f": 0, "t": 3}, "i": i}));
            }
        }
    };
    let read = |mut member: Client| async move {
        let mut next = [0; 3];
        for _ in 0..3 * EACH {
            let text = member.text().await;
            let (at, i) = text.split_once(' ').unwrap();
            let next = &mut next[at.parse::<usize>().unwrap()];
            assert_eq!(i.parse::<usize>().unwrap(), *next, "of publisher {at}");
            *next += 1;
        }
        member.expect_only_reply("end", "echo end").await;
    };
    tokio::join!(join_all((0..3).map(publish)), join_all(members.into_iter().map(read)));
}

#[tokio::test]
async fn nine_hundred_subscribers_on_three_nodes_are_all_reached_and_counted() {
    const EACH: usize = 300;
    let nodes = Nodes::start(3).await;
    let mut members = Vec::new();
    for engine in &nodes.engines {
        members.extend(join_all((0..EACH).map(|_| member(engine.ws(), "crowd"))).await);
    }
    for (i, engine) in nodes.engines.iter().enumerate() {
        assert_eq!(publish(engine.at.api, "crowd", &i.to_string()).await, reached(3 * EACH));
    }
    for member in &mut members {
        for i in 0..3 {
            assert_eq!(member.text().await, i.to_string());
        }
    }
    // The center lists how many clients each has, and sums them up.
    let center = nodes.center.at.center;
    eventually("the center knows how many clients there are", async || {
        let all = common::cluster::nodes(center).await;
        all.iter().all(|node| node["clients"] == json!(EACH)).then_some(())
    })
    .await;
    let (_, page) = get(center, "/metrics").await;
    for line in ["connmix_center_registry_engine_nodes 3", "connmix_center_registry_clients 900"] {
        assert!(page.lines().any(|have| have == line), "{line}:\n{page}");
    }
}

#[tokio::test]
async fn a_large_message_comes_whole() {
    let nodes = Nodes::start(2).await;
    let mut client = member(nodes.engines[0].ws(), "large").await;
    let text = "0123456789abcdef".repeat(60_000);
    assert_eq!(publish(nodes.engines[1].at.api, "large", &text).await, reached(1));
    assert_eq!(client.text().await, text);
}

// Sends and commands.

#[tokio::test]
async fn sends_and_commands_find_clients_of_other_nodes() {
    let nodes = Nodes::start(3).await;
    let mut client = nodes.engines[0].connect().await;
    let id = id(&mut client).await;
    let api = nodes.engines[1].at.api;
    let (status, reply) = post(api, "/v1/mesh/send", &json!({"c": id, "d": "by http"}).to_string()).await;
    assert_eq!((status, reply.as_str()), (200, r#"{"E":null,"r":{"s":true}}"#));
    assert_eq!(client.text().await, "by http");
    let mut api = back_end(api).await;
    let done = json!({"E": null, "r": {"s": true}, "i": 1});
    assert_eq!(call(&mut api, "mesh.send", json!({"c": id, "d": "AAH/", "t": "binary"})).await, done);
    assert_eq!(client.next().await.unwrap().into_data().as_ref(), [0, 1, 255]);
    let mut other = nodes.engines[2].connect().await;
    assert_eq!(other.ask(&format!("send {id} by lua")).await, "sent");
    assert_eq!(client.text().await, "by lua");

    let command = async |api: &mut Client, function: &str, args: Value| {
        call(api, "conn.call", json!({"c": id, "f": function, "a": args})).await
    };
    let value = json!({"a": [1, 2.5, "é"], "b": true});
    assert_eq!(command(&mut api, "set_context_value", json!(["k", value])).await, done);
    assert_eq!(serde_json::from_str::<Value>(&client.ask("context k").await).unwrap(), value);
    assert_eq!(command(&mut api, "set_context", json!([{"k": null, "l": "x"}])).await, done);
    assert_eq!(client.ask("context k").await, "null");
    assert_eq!(client.ask("context l").await, "\"x\"");
    assert_eq!(command(&mut api, "subscribe", json!(["one", "two"])).await, done);
    assert_eq!(client.ask("channels").await, "in one,two");
    // It was known to all when the answer came.
    assert_eq!(publish(nodes.engines[2].at.api, "one", "hello").await, reached(1));
    assert_eq!(client.text().await, "hello");
    assert_eq!(command(&mut api, "unsubscribe", json!(["one"])).await, done);
    assert_eq!(publish(nodes.engines[2].at.api, "one", "gone").await, reached(0));
    assert_eq!(client.ask("channels").await, "in two");
    assert_eq!(command(&mut api, "close", json!([4321, "enough"])).await, done);
    assert_eq!(client.close_frame().await, (4321, "enough".to_owned()));
}

/// A client that has gone is reported in the same words, whatever its node was.
#[tokio::test]
async fn errors_are_those_of_one_node() {
    let nodes = Nodes::start(2).await;
    let mut client = nodes.engines[0].connect().await;
    let id = id(&mut client).await;
    client.close().await;
    let (mut here, mut there) = (back_end(nodes.engines[0].at.api).await, back_end(nodes.engines[1].at.api).await);
    let commands = [
        ("mesh.send", json!({"c": id, "d": "x"})),
        ("conn.call", json!({"c": id, "f": "subscribe", "a": ["room"]})),
        ("conn.call", json!({"c": id, "f": "set_context_value", "a": ["k", 1]})),
        ("conn.call", json!({"c": id, "f": "close", "a": [1000, ""]})),
        // One that no node ever had.
        ("mesh.send", json!({"c": 7, "d": "x"})),
        ("conn.call", json!({"c": 7, "f": "subscribe", "a": ["room"]})),
    ];
    for (method, params) in commands {
        let want = eventually("the client is gone", async || {
            let reply = call(&mut here, method, params.clone()).await;
            reply["E"]["c"].as_u64().map(|_| reply)
        })
        .await;
        assert_eq!(call(&mut there, method, params.clone()).await, want, "{method} {params}");
    }
    // A bound of the client's node, in its words.
    let mut client = nodes.engines[0].connect().await;
    let params =
        json!({"c": common::cluster::id(&mut client).await, "f": "set_context_value", "a": ["k", "x".repeat(600_000)]});
    let want = call(&mut here, "conn.call", params.clone()).await;
    assert_eq!(want["E"]["c"], json!(301), "{want}");
    assert_eq!(call(&mut there, "conn.call", params).await, want);
}

#[tokio::test]
async fn a_publish_behind_a_command_to_subscribe_reaches_the_client_on_another_node() {
    let nodes = Nodes::start(3).await;
    let mut client = nodes.engines[0].connect().await;
    let id = id(&mut client).await;
    let mut api = Raw::dial(nodes.engines[1].at.api).await;
    api.write(raw::upgrade().replace("/ws", "/ws/v1")).await;
    assert_eq!(api.head().await.status, 101);
    for i in 0..100 {
        let channel = format!("behind:{i}");
        let requests = [
            json!({"m": "conn.call", "p": {"c": id, "f": "subscribe", "a": [channel]}, "i": 1}),
            json!({"m": "mesh.publish", "p": {"c": channel, "d": channel}, "i": 2}),
        ];
        let requests: Vec<u8> = requests.iter().flat_map(|request| raw::text(&request.to_string())).collect();
        api.write(requests).await;
        assert_eq!(api.text().await, r#"{"E":null,"r":{"s":true},"i":1}"#);
        assert_eq!(api.text().await, r#"{"E":null,"r":{"s":1,"f":0,"t":1},"i":2}"#, "{channel}");
        assert_eq!(client.text().await, channel);
    }
}

// Centers.

/// How many nodes a node knows, itself included.
async fn known(api: SocketAddr) -> usize {
    let (_, page) = get(api, "/metrics").await;
    let line = page.lines().find_map(|line| line.strip_prefix("connmix_engine_mesh_nodes "));
    line.unwrap().parse().unwrap()
}

/// Starts a node on a network of its own that waits for nobody, and waits until it serves.
async fn needs_no_center() {
    let alone = node(&network(), NodeRole::SINGLE, "cluster: {engine: mesh}");
    ready(alone.at.api).await;
}

/// A hello comes only once an hour here, besides those that tell news.
#[tokio::test]
async fn the_center_hears_at_once_that_an_engine_serves_and_that_it_stops() {
    let network = Arc::new(Network::with_hello(3_600_000));
    let top = "cluster: {secret: s3cret, leave: 3600s}\nshutdownTimeout: 2s";
    let center = node(&network, CENTER, top);
    let engines = [node(&network, ENGINE, top), node(&network, ENGINE, top)];
    let apis = [engines[0].at.api, engines[1].at.api];
    listed(center.at.center, &apis).await;
    // Its client is not closed before the stop has taken all of its time.
    let mut client = engines[1].connect().await;
    assert_eq!(client.ask("linger 60").await, "lingers");
    let [first, second] = engines;
    let stop = tokio::spawn(second.shutdown());
    listed(center.at.center, &[first.at.api]).await;
    assert!(!stop.is_finished());
    drop(client);
    stop.await.unwrap();
}

#[tokio::test]
async fn an_engine_serves_once_it_has_found_a_center() {
    let network = network();
    let top = "cluster: {secret: s3cret}";
    let engines = [node(&network, ENGINE, top), node(&network, ENGINE, top)];
    let api = engines[0].at.api;
    assert_eq!(get(api, "/readyz").await.0, 503);
    assert_eq!(get(api, "/healthz").await.0, 200);
    let (status, reply) = post(api, "/v1/mesh/publish", r#"{"c":"room","d":"x"}"#).await;
    assert_eq!(status, 503);
    assert!(reply.contains("has not joined its cluster yet"), "{reply}");
    // A client that comes now waits, and is served later.
    let early = tokio::spawn(member(engines[1].ws(), "room"));
    // They know each other, and have had as long as a node needs that waits for no center.
    eventually("they know each other", async || (known(api).await == 2).then_some(())).await;
    needs_no_center().await;
    assert_eq!(get(api, "/readyz").await.0, 503);
    assert!(!early.is_finished());
    let center = node(&network, CENTER, top);
    let mut early = early.await.unwrap();
    ready(api).await;
    assert_eq!(publish(api, "room", "x").await, reached(1));
    assert_eq!(early.text().await, "x");
    listed(center.at.center, &[engines[0].at.api, engines[1].at.api]).await;
}

#[tokio::test]
async fn a_center_that_ends_harms_nobody_and_the_next_one_knows_all() {
    let mut nodes = Nodes::start(2).await;
    let mut client = member(nodes.engines[0].ws(), "room").await;
    let next = nodes.more(CENTER);
    let first = std::mem::replace(&mut nodes.center, next);
    assert!(first.shutdown().await);
    let last = nodes.more(CENTER);
    assert!(std::mem::replace(&mut nodes.center, last).shutdown().await);
    for i in 0..20 {
        assert_eq!(publish(nodes.engines[1].at.api, "room", &i.to_string()).await, reached(1));
        assert_eq!(client.text().await, i.to_string());
        let channel = format!("fresh:{i}");
        join(&mut client, &channel).await;
        assert_eq!(publish(nodes.engines[1].at.api, &channel, "f").await, reached(1));
        assert_eq!(client.text().await, "f");
    }
    nodes.settled().await;
}

#[tokio::test]
async fn center_and_engine_in_one_process_are_a_mesh_too() {
    let network = network();
    let top = "cluster: {engine: mesh, secret: s3cret}";
    let all_in_one = [node(&network, NodeRole::SINGLE, top), node(&network, NodeRole::SINGLE, top)];
    let engine = node(&network, ENGINE, top);
    let apis = [all_in_one[0].at.api, all_in_one[1].at.api, engine.at.api];
    for api in apis {
        ready(api).await;
    }
    for center in [all_in_one[0].at.center, all_in_one[1].at.center] {
        listed(center, &apis).await;
    }
    let mut client = member(engine.ws(), "room").await;
    for api in apis {
        assert_eq!(publish(api, "room", "x").await, reached(1));
        assert_eq!(client.text().await, "x");
    }
}

#[tokio::test]
async fn an_engine_that_ends_takes_its_channels_along() {
    let mut nodes = Nodes::start(3).await;
    let mut members = Vec::new();
    for engine in &nodes.engines {
        members.push(member(engine.ws(), "room").await);
    }
    let api = nodes.engines[0].at.api;
    assert_eq!(publish(api, "room", "x").await, reached(3));
    let gone = nodes.engines.pop().unwrap();
    members.pop();
    assert!(gone.shutdown().await);
    // It has announced its end, so no node waits for it.
    assert_eq!(publish(api, "room", "x").await, reached(2));
    nodes.settled().await;
    let new = nodes.more(ENGINE);
    nodes.engines.push(new);
    nodes.settled().await;
    assert_eq!(publish(nodes.engines[2].at.api, "room", "x").await, reached(2));
}

// Secrets.

#[tokio::test]
async fn a_node_with_another_secret_does_not_join() {
    let nodes = Nodes::start(1).await;
    let mut client = member(nodes.engines[0].ws(), "room").await;
    let stranger = node(&nodes.network, ENGINE, "cluster: {secret: another}");
    let none = node(&nodes.network, ENGINE, "");
    // One that comes after them, and knows it.
    let another = nodes.more(ENGINE);
    ready(another.at.api).await;
    assert!(another.shutdown().await);
    for stranger in [&stranger, &none] {
        assert_eq!(get(stranger.at.api, "/readyz").await.0, 503);
    }
    listed(nodes.center.at.center, &[nodes.engines[0].at.api]).await;
    // And disturbs nobody.
    assert_eq!(publish(nodes.engines[0].at.api, "room", "x").await, reached(1));
    assert_eq!(client.text().await, "x");
    let instant = Instant::now();
    join(&mut client, "other").await;
    assert!(instant.elapsed() < Duration::from_millis(400), "{:?}", instant.elapsed());
}

// Cut links.

const SHORT: &str = "cluster: {secret: s3cret, leave: 2s}";

/// The subscriber's node hears nothing of the publisher's, or the other way round, or both.
#[tokio::test]
async fn cut_links_are_told_and_heal() {
    let ways = [(true, false), (false, true), (true, true)];
    join_all(ways.map(|(there, back)| cut_and_heal(there, back))).await;
}

async fn cut_and_heal(there: bool, back: bool) {
    let nodes = Nodes::with(2, SHORT).await;
    let (a, b) = (nodes.run(0).await, nodes.run(1).await);
    let mut member = member(nodes.engines[1].ws(), "room").await;
    let mut local = common::cluster::member(nodes.engines[0].ws(), "room").await;
    let api = nodes.engines[0].at.api;
    assert_eq!(publish(api, "room", "before").await, reached(2));
    if there {
        nodes.network.cut(a, b);
    }
    if back {
        nodes.network.cut(b, a);
    }
    // Answers come soon all the same, and tell it: until the node counts as gone, or for as long as it is heard.
    let (start, mut unanswered, mut gone) = (Instant::now(), 0, false);
    while !gone && (back || start.elapsed() < Duration::from_secs(4)) {
        let asked = Instant::now();
        let reply = publish(api, "room", "during").await;
        assert!(asked.elapsed() < ANSWERS_IN, "{:?}", asked.elapsed());
        assert!(start.elapsed() < PATIENCE, "{there} {back}: never gone: {reply}");
        gone = reply == reached(1);
        if !gone {
            assert_eq!(reply, json!({"s": 1, "f": 0, "u": 1}));
            unanswered += 1;
        }
        // What changes meanwhile is known afterwards.
        if unanswered == 1 {
            join(&mut local, "new:a").await;
            join(&mut member, "new:b").await;
            leave(&mut member, "room").await;
        }
    }
    assert!(unanswered > 0 && gone == back, "{there} {back}");
    nodes.network.heal();
    publish_until(api, "new:b", "x", reached(1)).await;
    publish_until(nodes.engines[1].at.api, "new:a", "x", reached(1)).await;
    publish_until(nodes.engines[1].at.api, "room", "x", reached(1)).await;
    publish_until(api, "room", "x", reached(1)).await;
    for i in 0..10 {
        let channel = format!("after:{i}");
        join(&mut member, &channel).await;
        assert_eq!(publish(api, &channel, "x").await, reached(1), "{there} {back}");
    }
}

/// Two engines that have lost each other, and have their center: each learns from it that the other one is still there.
#[tokio::test]
async fn an_engine_that_only_the_center_reaches_is_told_of() {
    let nodes = Nodes::with(2, SHORT).await;
    let (a, b) = (nodes.run(0).await, nodes.run(1).await);
    let _member = member(nodes.engines[1].ws(), "room").await;
    let api = nodes.engines[0].at.api;
    assert_eq!(publish(api, "room", "before").await, reached(1));
    nodes.network.cut(a, b);
    nodes.network.cut(b, a);
    publish_until(api, "room", "it counts as gone", reached(0)).await;
    publish_until(api, "room", "it is missed", json!({"s": 0, "f": 0, "u": 1})).await;
    publish_until(api, "another", "which may be there", json!({"s": 0, "f": 0, "u": 1})).await;
    nodes.network.heal();
    publish_until(api, "room", "it is back", reached(1)).await;
    publish_until(api, "another", "x", reached(0)).await;
}

/// A link that is cut only for a moment: no node counts as gone, and what was lost is reported as not answered.
#[tokio::test]
async fn a_link_that_is_cut_for_a_moment_comes_back_whole() {
    let nodes = Nodes::with(2, "cluster: {secret: s3cret, leave: 60s}").await;
    let (a, b) = (nodes.run(0).await, nodes.run(1).await);
    let mut member = member(nodes.engines[1].ws(), "room").await;
    let mut script = nodes.engines[0].connect().await;
    let api = nodes.engines[0].at.api;
    for round in 0..3 {
        nodes.network.cut(a, b);
        let reply = publish(api, "room", "lost").await;
        assert_eq!(reply, json!({"s": 0, "f": 0, "u": 1}));
        // A handler is told as well.
        assert_eq!(script.ask("publish room lost").await, "published 0 0 1");
        nodes.network.heal();
        publish_until(api, "room", "found", reached(1)).await;
        read_to(&mut member, "found").await;
        nodes.network.cut(b, a);
        // It arrives, and the answer does not.
        assert_eq!(publish(api, "room", "unknown").await, json!({"s": 0, "f": 0, "u": 1}));
        read_to(&mut member, "unknown").await;
        join(&mut member, &format!("during:{round}")).await;
        nodes.network.heal();
        publish_until(api, &format!("during:{round}"), "x", reached(1)).await;
        read_to(&mut member, "x").await;
        publish_until(api, "room", "last", reached(1)).await;
        read_to(&mut member, "last").await;
    }
}

/// A command that its node does not answer is no word about the client.
#[tokio::test]
async fn a_command_that_is_not_answered_says_so() {
    let nodes = Nodes::with(2, "cluster: {secret: s3cret, leave: 60s}").await;
    let (a, b) = (nodes.run(0).await, nodes.run(1).await);
    let mut client = nodes.engines[1].connect().await;
    let id = id(&mut client).await;
    let mut api = back_end(nodes.engines[0].at.api).await;
    nodes.network.cut(a, b);
    let reply = call(&mut api, "conn.call", json!({"c": id, "f": "subscribe", "a": ["room"]})).await;
    assert_eq!(reply["E"], json!({"c": 301, "m": format!("the node of client {id} does not answer")}));
}

/// Its answer waits for a third node, which does not answer.
#[tokio::test]
async fn a_command_to_subscribe_is_answered_though_a_third_node_is_silent() {
    let nodes = Nodes::with(3, "cluster: {secret: s3cret, leave: 60s}").await;
    let (a, c) = (nodes.run(0).await, nodes.run(2).await);
    let mut client = nodes.engines[0].connect().await;
    let id = id(&mut client).await;
    let mut api = back_end(nodes.engines[1].at.api).await;
    nodes.network.cut(a, c);
    nodes.network.cut(c, a);
    let reply = call(&mut api, "conn.call", json!({"c": id, "f": "subscribe", "a": ["room"]})).await;
    assert_eq!(reply, json!({"E": null, "r": {"s": true}, "i": 1}));
    assert_eq!(publish(nodes.engines[1].at.api, "room", "x").await, reached(1));
    assert_eq!(client.text().await, "x");
}

// Queues.

/// As a client library of back ends does it: it asks the center for the nodes, consumes on each, and answers on any.
#[tokio::test]
async fn a_back_end_that_asks_the_center_consumes_on_all_nodes_and_calls_on_any() {
    let nodes = Nodes::start(2).await;
    let mut consumers = Vec::new();
    for node in common::cluster::nodes(nodes.center.at.center).await {
        let mut api = back_end(node["api_server"].as_str().unwrap().parse().unwrap()).await;
        let done = json!({"E": null, "r": {"s": true}, "i": 1});
        assert_eq!(call(&mut api, "queue.pop", json!({"t": ["login"]})).await, done);
        consumers.push((node["id"].clone(), api));
    }
    assert_eq!(consumers.len(), 2);
    let mut clients = Vec::new();
    for (i, engine) in nodes.engines.iter().enumerate() {
        let mut client = engine.connect().await;
        let id = id(&mut client).await;
        assert_eq!(client.ask(&format!("push login user {i}")).await, "pushed");
        clients.push((client, id));
    }
    // Each consumer gets what was pushed on its node, and answers by the other's connection.
    let mut answers = Vec::new();
    for (node, api) in &mut consumers {
        let event: Value = serde_json::from_str(&api.text().await).unwrap();
        assert_eq!((&event["e"], &event["p"]["n"], &event["p"]["t"]), (&json!("queue.pop"), &*node, &json!("login")));
        answers.push((event["p"]["c"].clone(), event["p"]["d"].clone()));
    }
    for ((client, user), (_, api)) in answers.iter().zip(consumers.iter_mut().rev()) {
        let params = json!({"c": client, "f": "set_context_value", "a": ["user", user]});
        assert_eq!(call(api, "conn.call", params).await, json!({"E": null, "r": {"s": true}, "i": 1}));
        let params = json!({"c": client, "f": "subscribe", "a": ["members"]});
        assert_eq!(call(api, "conn.call", params).await, json!({"E": null, "r": {"s": true}, "i": 1}));
    }
    assert_eq!(publish(nodes.engines[0].at.api, "members", "welcome").await, reached(2));
    for (i, (client, id)) in clients.iter_mut().enumerate() {
        assert!(answers.iter().any(|(client, user)| *client == json!(id) && *user == json!(format!("user {i}"))));
        assert_eq!(client.text().await, "welcome");
        assert_eq!(client.ask("context user").await, format!("\"user {i}\""));
    }
}
