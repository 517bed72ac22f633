//! Clients that do not keep up (`slow` of `engine.channels`): what they miss, that others miss nothing, and exact counters.

mod common;

use common::raw::*;
use common::scripts::RUN;
use common::*;
use flate2::{Decompress, FlushDecompress};
use serde_json::{Value, json};

/// Little may wait, with the system too.
const SMALL: &str = "outboxLimit: 16KiB\nunsentLimit: 4KiB\nwriteTimeout: 0";
const RULES: &str =
    "workers: 1\nchannels:\n  - {match: 'drop:', slow: dropOldest}\n  - {match: 'latest:', slow: latest}";

/// A client that is in that channel and will read nothing.
async fn stalled(engine: &TestEngine, channel: &str) -> Raw {
    let mut raw = Raw::narrow(engine.ws()).await.opened().await;
    assert_eq!(raw.ask(&format!("return conn:subscribe('{channel}')")).await, "nil");
    raw
}

async fn member(engine: &TestEngine, channel: &str) -> Client {
    let mut client = engine.connect().await;
    assert_eq!(client.ask(&format!("return conn:subscribe('{channel}')")).await, "nil");
    client
}

/// A message that tells its number; it takes about a kilobyte.
fn data(n: usize) -> String {
    format!("{n} {}", "x".repeat(1000))
}

fn number(data: &[u8]) -> usize {
    let data = std::str::from_utf8(data).unwrap();
    let (n, filling) = data.split_once(' ').unwrap();
    assert!(filling.len() == 1000 && filling.bytes().all(|b| b == b'x'), "a whole message: {data}");
    n.parse().unwrap()
}

/// Publishes so many messages of about a kilobyte, each when the well-behaved client has the one before. Returns the counts.
async fn publish(
    engine: &TestEngine,
    channel: &str,
    (count, key): (usize, impl Fn(usize) -> Option<String>),
    member: &mut Client,
) -> (u64, u64) {
    let mut api = Client::connect(engine.at.api, "/ws/v1").await;
    let (mut reached, mut failed) = (0, 0);
    for n in 0..count {
        let mut params = json!({"c": channel, "d": data(n)});
        if let Some(key) = key(n) {
            params["k"] = json!(key);
        }
        let reply = api.ask(&json!({"m": "mesh.publish", "p": params}).to_string()).await;
        let reply: Value = serde_json::from_str(&reply).unwrap();
        reached += reply["r"]["s"].as_u64().unwrap();
        failed += reply["r"]["f"].as_u64().unwrap();
        assert_eq!(number(member.text().await.as_bytes()), n, "a well-behaved client gets all of it");
    }
    (reached, failed)
}

async fn dropped(engine: &TestEngine, cause: &str) -> usize {
    let (_, page) = get(engine.at.api, "/metrics").await;
    let sample = format!("connmix_engine_dropped_messages_total{{cause=\"{cause}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&sample)).unwrap().parse().unwrap()
}

/// What waits for a client.
async fn waiting(engine: &TestEngine, id: &str) -> u64 {
    let (_, reply) = get(engine.at.api, &format!("/v1/clients/{id}")).await;
    serde_json::from_str::<Value>(&reply).unwrap()["r"]["waiting"].as_u64().unwrap()
}

/// The numbers of the messages that a client gets, up to that one.
async fn numbers(raw: &mut Raw, last: usize) -> Vec<usize> {
    let mut all = Vec::new();
    while all.last() != Some(&last) {
        let (opcode, payload) = raw.frame().await.expect("it is still connected");
        assert_eq!(opcode, TEXT);
        all.push(number(&payload));
    }
    all
}

/// Where numbers that begin at 0 miss one for the first time.
fn gap(numbers: &[usize]) -> usize {
    numbers.iter().enumerate().position(|(at, n)| at != *n).unwrap_or(numbers.len())
}

const MANY: usize = 300;

#[tokio::test]
async fn the_oldest_make_room_for_newer_ones() {
    let engine = TestEngine::with(RUN, SMALL, RULES);
    let (mut slow, mut fast) = (stalled(&engine, "drop:1").await, member(&engine, "drop:1").await);
    let id = slow.ask("return conn:client_id()").await;
    assert_eq!(publish(&engine, "drop:1", (MANY, |_| None), &mut fast).await, (2 * MANY as u64, 0));
    assert!(waiting(&engine, &id).await <= 16 * 1024);
    let got = numbers(&mut slow, MANY - 1).await;
    let begin = gap(&got);
    assert_eq!(got[begin..], ((MANY - (got.len() - begin))..MANY).collect::<Vec<_>>(), "one gap");
    assert!(got.len() - begin > 8, "the room was used: {got:?}");
    assert_eq!((got.len() + dropped(&engine, "oldest").await, dropped(&engine, "latest").await), (MANY, 0));
    // It has caught up, and misses nothing any more.
    publish(&engine, "drop:1", (3, |_| None), &mut fast).await;
    assert_eq!(numbers(&mut slow, 2).await, [0, 1, 2]);
    assert_eq!(waiting(&engine, &id).await, 0);
}

#[tokio::test]
async fn a_newer_one_takes_the_place_of_an_older_one_with_its_key() {
    let engine = TestEngine::with(RUN, SMALL, RULES);
    let mut replaced = 0;
    for keys in [5, 1] {
        let (mut slow, mut fast) = (stalled(&engine, "latest:1").await, member(&engine, "latest:1").await);
        let key = |n| (keys > 1).then(|| format!("key {}", n % keys));
        assert_eq!(publish(&engine, "latest:1", (MANY, key), &mut fast).await, (2 * MANY as u64, 0));
        slow.write(text("return 'all'")).await;
        let mut got = Vec::new();
        loop {
            match slow.frame().await.unwrap() {
                (TEXT, payload) if payload == b"all" => break,
                (_, payload) => got.push(number(&payload)),
            }
        }
        // In the order in which they first came: what did not wait long, then the newest of each key.
        let (first, last) = got.split_at(got.len() - keys);
        assert_eq!(gap(first), first.len(), "{got:?}");
        assert!(first.len() < MANY / 2);
        let newest = |at: usize| (MANY - keys..MANY).find(|n| n % keys == (first.len() + at) % keys).unwrap();
        assert_eq!(last, (0..keys).map(newest).collect::<Vec<_>>());
        replaced += MANY - got.len();
        assert_eq!((dropped(&engine, "latest").await, dropped(&engine, "oldest").await), (replaced, 0));
        slow.write(close(1000)).await;
        slow.close_frame().await;
        fast.close().await;
    }
}

/// Otherwise the list would still have who has been told to be gone.
#[tokio::test]
async fn who_goes_does_not_come_before_a_list_that_is_older() {
    let rules = "workers: 1\nchannels: [{match: 'latest:', slow: latest, joinLeave: true, presence: true}]";
    let engine = TestEngine::with(RUN, SMALL, rules);
    let mut slow = stalled(&engine, "latest:1").await;
    let slow_id = slow.ask("return conn:client_id()").await;
    let mut fast = member(&engine, "latest:1").await;
    let fast_id = fast.ask("return conn:client_id()").await;
    publish(&engine, "latest:1", (MANY, |_| None), &mut fast).await;
    assert!(waiting(&engine, &slow_id).await > 0);
    let mut other = member(&engine, "latest:1").await;
    let other_id = other.ask("return conn:client_id()").await;
    let event = |name: &str| format!(r#"{{"event":"{name}","data":{{"c":"{other_id}"}}}}"#);
    assert_eq!(fast.text().await, event("@join"));
    let list = "conn:send(mix.json_encode(mix.mesh.presence('latest:1')))";
    slow.write(text(&format!("{list} mix.mesh.send('{fast_id}', 'listed') return 'end'"))).await;
    assert_eq!(fast.text().await, "listed");
    assert_eq!(other.ask("return conn:unsubscribe('latest:1')").await, "nil");
    assert_eq!(fast.text().await, event("@leave"));
    let mut told = Vec::new();
    while !told.iter().any(|text| text == "end") || !told.contains(&event("@leave")) {
        let (_, payload) = slow.frame().await.expect("it is still connected");
        let text = String::from_utf8(payload).unwrap();
        if !text.ends_with("xxx") {
            told.push(text);
        }
    }
    let at = |wanted: &str| told.iter().position(|text| text.contains(wanted)).unwrap();
    let places = [at(&event("@join")), at("\"clients\""), at(&event("@leave"))];
    assert!(places.is_sorted() && told[places[1]].contains(&other_id), "{told:?}");
}

#[tokio::test]
async fn the_newest_of_too_many_keys_do_not_take_more_room() {
    let engine = TestEngine::with(RUN, SMALL, RULES);
    let (mut slow, mut fast) = (stalled(&engine, "latest:1").await, member(&engine, "latest:1").await);
    let id = slow.ask("return conn:client_id()").await;
    let key = |n: usize| Some((n % 100).to_string());
    assert_eq!(publish(&engine, "latest:1", (MANY, key), &mut fast).await, (2 * MANY as u64, 0));
    assert!(waiting(&engine, &id).await <= 16 * 1024);
    let got = numbers(&mut slow, MANY - 1).await;
    assert!(got.is_sorted() && got.len() < 100);
    assert_eq!(got.len() + dropped(&engine, "oldest").await + dropped(&engine, "latest").await, MANY);
}

#[tokio::test]
async fn what_may_not_be_dropped_is_not_and_closes_a_client_as_ever() {
    let engine = TestEngine::with(RUN, SMALL, RULES);
    let mut slow = stalled(&engine, "drop:1").await;
    let mut fast = member(&engine, "drop:1").await;
    let id = slow.ask("return conn:subscribe('latest:1', 'plain:1') or conn:client_id()").await;
    publish(&engine, "drop:1", (MANY, |_| None), &mut fast).await;
    // It finds room among what may be dropped, and so do channels with another rule.
    for n in 0..4 {
        let send = json!({"c": id, "d": data(1000 + n)}).to_string();
        assert_eq!(post(engine.at.api, "/v1/mesh/send", &send).await.1, r#"{"E":null,"r":{"s":true}}"#);
        engine.publish_to("latest:1", &data(2000 + n), 1).await;
        engine.publish_to("plain:1", &data(3000 + n), 1).await;
    }
    assert_eq!(dropped(&engine, "latest").await, 3);
    engine.publish_to("drop:1", &data(4000), 2).await;
    let got = numbers(&mut slow, 4000).await;
    let late: Vec<_> = got.iter().copied().filter(|n| *n >= 1000).collect();
    assert_eq!(late, [1000, 2003, 3000, 1001, 3001, 1002, 3002, 1003, 3003, 4000]);
    assert_eq!(got.len() + dropped(&engine, "oldest").await + 3, MANY + 4 * 3 + 1);

    // Full of what may not be dropped: what may be is left out, and the next that may not be closes the client.
    assert_eq!(fast.text().await, data(4000));
    let rest = eventually("there is no room", async || {
        engine.publish_to("plain:1", &data(0), 1).await;
        let left = 16 * 1024 - waiting(&engine, &id).await;
        (left < 1200).then_some(left)
    })
    .await;
    let oldest = dropped(&engine, "oldest").await;
    assert_eq!(engine.publish("drop:1", &data(1)).await["r"], json!({"s": 1, "f": 1}), "{rest} bytes are free");
    assert_eq!(dropped(&engine, "oldest").await, oldest + 1);
    let refused = eventually("it is closed", async || {
        let reply = engine.publish("plain:1", &data(2)).await;
        (reply["r"]["f"] == 1).then_some(reply)
    });
    assert_eq!(refused.await["r"], json!({"s": 0, "f": 1}));
    assert!(dropped(&engine, "too_slow").await >= 1);
}

#[tokio::test]
async fn a_client_that_takes_nothing_at_all_is_closed_in_the_end() {
    let engine = TestEngine::with(RUN, "outboxLimit: 16KiB\nunsentLimit: 4KiB\nwriteTimeout: 300ms", RULES);
    let _slow = stalled(&engine, "latest:1").await;
    let full = data(0);
    eventually("it is closed", async || {
        (engine.publish("latest:1", &full).await["r"] == json!({"s": 0, "f": 0})).then_some(())
    })
    .await;
    let (_, page) = get(engine.at.api, "/metrics").await;
    let of =
        |reason: &str| page.lines().find(|line| line.contains("connections_closed_total{") && line.contains(reason));
    assert!(of("write_timeout").unwrap().ends_with(" 1"), "{page}");
    assert!(of("too_slow").unwrap().ends_with(" 0"), "{page}");
}

/// Random-looking text, which compression leaves large.
fn noise(n: usize) -> String {
    let mut state = n as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:016x}", state)
    };
    let filling: String = (0..120).map(|_| next()).collect();
    format!("{n} {filling}")
}

#[tokio::test]
async fn compressed_and_binary_messages_are_whole_too() {
    let engine = TestEngine::with(RUN, &format!("{SMALL}\ncompression: on"), RULES);
    let mut slow = Raw::narrow(engine.ws()).await;
    slow.write(upgrade_with("Sec-WebSocket-Extensions: permessage-deflate\r\n")).await;
    assert_eq!(slow.head().await.status, 101);
    slow.write(text("return conn:subscribe('drop:1', 'latest:1')")).await;
    assert_eq!(slow.frame().await, Some((TEXT, b"nil".to_vec())));
    let mut want = 0;
    for n in 0..MANY {
        let (channel, kind) = if n % 2 == 0 { ("drop:1", "binary") } else { ("latest:1", "text") };
        let text = noise(n);
        // The filling is base64, too.
        let data = if kind == "text" { &text } else { text.split_once(' ').unwrap().1 };
        let body = json!({"c": channel, "d": data, "t": kind});
        let (_, reply) = post(engine.at.api, "/v1/mesh/publish", &body.to_string()).await;
        assert_eq!(reply, r#"{"E":null,"r":{"s":1,"f":0}}"#);
        want += 1;
    }
    let (mut got, mut last) = (0, 0);
    while last != MANY - 1 {
        let head = slow.take(4).await;
        assert_eq!((head[0] & 0xF0, head[1]), (0xC0, 126), "compressed, in one frame");
        let payload = slow.take(usize::from(u16::from_be_bytes([head[2], head[3]]))).await;
        let mut plain = Vec::with_capacity(1 << 16);
        let payload = [&payload[..], b"\x00\x00\xff\xff"].concat();
        Decompress::new(false).decompress_vec(&payload, &mut plain, FlushDecompress::Sync).unwrap();
        if head[0] & 0x0F == TEXT {
            let plain = String::from_utf8(plain).unwrap();
            last = plain.split_once(' ').unwrap().0.parse().unwrap();
            assert_eq!(plain, noise(last));
        }
        got += 1;
    }
    // The newest of one channel came where its first one stood: some of the other channel follow it.
    let more = dropped(&engine, "oldest").await + dropped(&engine, "latest").await;
    assert!(more > 0 && got + more <= want && want - got - more < 20, "{got} and {more} of {want}");
}

#[tokio::test]
async fn packages_of_a_socket_server_are_whole_too() {
    let script = "
        function protocol_input(buf) return buf:find('\\n') or 0 end
        function protocol_decode(s) return s:sub(1, -2) end
        function protocol_encode(s) return s .. '\\n' end
        function on_message(line, conn) conn:subscribe(line) conn:send('ok\\n') end";
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    let file = dir.path().join("connmix.yaml");
    write_config(&file, SMALL, RULES, "");
    let config = std::fs::read_to_string(&file).unwrap().replace("protocol: websocket", "protocol: socket");
    std::fs::write(&file, config).unwrap();
    let engine = TestEngine::start(dir);
    let mut slow = Raw::narrow(engine.at.servers[0]).await;
    slow.write("drop:1\n").await;
    assert_eq!(slow.take(3).await, b"ok\n");
    for n in 0..MANY {
        engine.publish_to("drop:1", &data(n), 1).await;
    }
    let mut got = Vec::new();
    while got.last() != Some(&(MANY - 1)) {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.extend(slow.take(1).await);
        }
        got.push(number(&line[..line.len() - 1]));
    }
    assert!(got.is_sorted());
    assert_eq!(got.len() + dropped(&engine, "oldest").await, MANY);
}

#[tokio::test]
async fn a_key_is_checked_wherever_it_comes_from() {
    let engine = TestEngine::with(RUN, "", RULES);
    let mut client = engine.connect().await;
    let publish = |key: &str| format!("return pcall(mix.mesh.publish, 'c', 'x', 'text', {{key = {key}}})");
    assert_eq!(client.ask(&publish("'a'")).await, "true 0 0");
    assert_eq!(client.ask(&publish("7")).await, "true 0 0");
    for wrong in ["''", "('x'):rep(256)", "'\\255'", "{}"] {
        let reply = client.ask(&publish(wrong)).await;
        assert!(reply.starts_with("false ") && reply.contains("bad argument #4 to 'publish' ("), "{reply}");
    }
    for (key, right) in
        [(json!("a"), true), (json!(7), true), (Value::Null, true), (json!(""), false), (json!([]), false)]
    {
        let body = json!({"c": "c", "d": "x", "k": key}).to_string();
        let (status, reply) = post(engine.at.api, "/v1/mesh/publish", &body).await;
        assert_eq!(status, if right { 200 } else { 400 }, "{reply}");
        assert!(right || reply.contains(r#"field \"k\""#), "{reply}");
    }
}

/// On several nodes as one mesh, over a bus in memory.
mod mesh {
    use super::{data, dropped, number};
    use crate::common::cluster::*;
    use crate::common::raw::*;
    use serde_json::json;

    #[tokio::test]
    async fn a_key_goes_along_to_other_nodes() {
        let rules = "workers: 1\nchannels: [{match: room, slow: latest}]";
        let nodes = Nodes::with_engine(2, rules, "cluster: {secret: s3cret}").await;
        let mut slow = Raw::narrow(nodes.engines[0].ws()).await.opened().await;
        assert_eq!(slow.ask("join room").await, "joined room");
        let mut api = back_end(nodes.engines[1].at.api).await;
        for n in 0..1000 {
            let reply = call(&mut api, "mesh.publish", json!({"c": "room", "d": data(n), "k": n % 2})).await;
            assert_eq!(reply["r"]["s"], 1, "{reply}");
        }
        let mut got = Vec::new();
        while got.last() != Some(&998) && got.last() != Some(&999) {
            got.push(number(slow.text().await.as_bytes()));
        }
        got.push(number(slow.text().await.as_bytes()));
        let last = got.split_off(got.len() - 2);
        assert!(last == [998, 999] || last == [999, 998], "{last:?}");
        assert_eq!(dropped(&nodes.engines[0], "latest").await, 1000 - got.len() - 2);
    }
}
