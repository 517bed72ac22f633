//! Many publishes at once to one channel with many connections, which go to them in pieces: each of them gets all of it, whole
//! and in order, in its own framing.

mod common;

use common::raw::*;
use common::scripts::RUN;
use common::*;
use flate2::{Decompress, FlushDecompress};
use serde_json::{Value, json};
use std::collections::HashMap;
use tokio::task::JoinSet;

/// Lines; each client is in the room from the start.
const LINES: &str = "
    function on_connect(id, conn) conn:subscribe('room') conn:send('hello\\n') end
    function protocol_input(buf) return buf:find('\\n') or 0 end
    function protocol_decode(s) return s:sub(1, -2) end
    function protocol_encode(s) return s .. '\\n' end
    function on_message(line, conn) end";

/// With a server for WebSocket and event streams, and one for lines; all who come by event streams are in the room.
fn engine() -> TestEngine {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "function on_handshake(id, headers, server, conn) if server.EventStream then conn:subscribe('room') end end\n{RUN}"
    );
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    std::fs::write(dir.path().join("lines.lua"), LINES).unwrap();
    let server = "eventStream: on\ncompression: on\ncompressAbove: 0\nunsentLimit: 0\noutboxLimit: 64MiB";
    write_config(&dir.path().join("connmix.yaml"), server, "workers: 2", "");
    let config = dir.path().join("connmix.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    let lines = "    - {port: 0, bind: 127.0.0.1, protocol: socket, entry: lines.lua, outboxLimit: 64MiB}\n";
    std::fs::write(config, text.trim_end().to_owned() + "\n" + lines).unwrap();
    TestEngine::start(dir)
}

/// A message that tells its number, and is the longer the higher that is.
fn data(n: usize) -> String {
    format!("{n} {}", "x".repeat(n / 4))
}

fn number(data: &str) -> usize {
    let n = data.split_once(' ').unwrap_or_else(|| panic!("{data}")).0.parse().unwrap();
    assert_eq!(data, self::data(n), "a whole message");
    n
}

/// A call of the WebSocket API that publishes, as a frame.
fn publish(channel: &str, n: usize, except: Option<&str>) -> Vec<u8> {
    let mut params = json!({"c": channel, "d": data(n)});
    if let Some(client) = except {
        params["x"] = json!([client]);
    }
    text(&json!({"m": "mesh.publish", "p": params, "i": n}).to_string())
}

async fn back_end(engine: &TestEngine) -> Raw {
    let mut back_end = Raw::dial(engine.at.api).await;
    back_end.write(upgrade().replace("/ws", "/ws/v1")).await;
    assert_eq!(back_end.head().await.status, 101);
    back_end
}

/// The number and the counts of the next answer.
async fn answer(back_end: &mut Raw) -> (usize, u64, u64) {
    let answer: Value = serde_json::from_str(&back_end.text().await).unwrap();
    let count = |name: &str| answer["r"][name].as_u64().unwrap_or_else(|| panic!("{answer}"));
    (answer["i"].as_u64().unwrap() as usize, count("s"), count("f"))
}

/// How many messages are published, and the last of them.
const MANY: usize = 1000;
const LAST: usize = MANY - 1;

/// The messages of a client, up to the last one.
async fn frames(raw: &mut Raw) -> Vec<usize> {
    let mut got = Vec::new();
    while got.last() != Some(&LAST) {
        got.push(number(&raw.text().await));
    }
    got
}

async fn compressed_frames(raw: &mut Raw) -> Vec<usize> {
    let (mut got, mut shorter) = (Vec::new(), 0);
    while got.last() != Some(&LAST) {
        let head = raw.take(2).await;
        let length = match head[1] {
            126 => u16::from_be_bytes(raw.take(2).await.try_into().unwrap()).into(),
            length => usize::from(length),
        };
        let payload = raw.take(length).await;
        let text = match head[0] {
            0xC1 => {
                let mut plain = Vec::with_capacity(1 << 12);
                let payload = [&payload[..], b"\x00\x00\xff\xff"].concat();
                Decompress::new(false).decompress_vec(&payload, &mut plain, FlushDecompress::Sync).unwrap();
                shorter += 1;
                plain
            }
            first => {
                assert_eq!(first, 0x81);
                payload
            }
        };
        got.push(number(std::str::from_utf8(&text).unwrap()));
    }
    assert!(shorter > MANY / 2, "{shorter} were compressed");
    got
}

/// The messages of a client that gets a line for each, behind that word.
async fn lines(raw: &mut Raw, word: &'static str) -> Vec<usize> {
    let mut got = Vec::new();
    while got.last() != Some(&LAST) {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.extend(raw.take(1).await);
        }
        let line = String::from_utf8(line).unwrap();
        got.extend(line.trim_end_matches('\n').strip_prefix(word).map(number));
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_reaches_everybody_whole_and_in_order() {
    let engine = engine();
    let mut plain = Vec::new();
    for _ in 0..40 {
        let mut raw = Raw::open(engine.ws()).await;
        assert_eq!(raw.ask("return conn:subscribe('room')").await, "nil");
        plain.push(raw);
    }
    // Both are left out now and then; one is in another channel, too.
    let left_out = plain[0].ask("return conn:client_id()").await;
    assert_eq!(plain[1].ask("return conn:subscribe('other')").await, "nil");
    let witness = plain[1].ask("return conn:client_id()").await;
    let mut reading = JoinSet::new();
    for (n, mut raw) in plain.into_iter().enumerate() {
        reading.spawn(async move { (n, (frames(&mut raw).await, raw)) });
    }
    for n in 100..120 {
        let mut raw = Raw::dial(engine.ws()).await;
        raw.write(upgrade_with("Sec-WebSocket-Extensions: permessage-deflate\r\n")).await;
        assert_eq!(raw.head().await.status, 101);
        raw.write(text("return conn:subscribe('room')")).await;
        assert_eq!(raw.frame().await, Some((TEXT, b"nil".to_vec())));
        reading.spawn(async move { (n, (compressed_frames(&mut raw).await, raw)) });
    }
    for n in 200..205 {
        let mut raw = Raw::dial(engine.ws()).await;
        raw.write("GET /ws HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").await;
        assert_eq!(raw.head().await.status, 200);
        while !raw.line().await.starts_with("data: ") {}
        reading.spawn(async move { (n, (lines(&mut raw, "data: ").await, raw)) });
    }
    for n in 300..305 {
        let mut raw = Raw::dial(engine.at.servers[1]).await;
        assert_eq!(raw.line().await, "hello");
        reading.spawn(async move { (n, (lines(&mut raw, "").await, raw)) });
    }

    let is_for_other = |n: usize| n % 70 == 69;
    let leaves_out = |n: usize| n % 50 == 48;
    let mut back_end = back_end(&engine).await;
    let calls = (0..MANY).map(|n| {
        let channel = if is_for_other(n) { "other" } else { "room" };
        publish(channel, n, leaves_out(n).then_some(left_out.as_str()))
    });
    back_end.write(calls.collect::<Vec<_>>().concat()).await;
    for n in 0..MANY {
        let all = if is_for_other(n) { 1 } else { 70 - u64::from(leaves_out(n)) };
        assert_eq!(answer(&mut back_end).await, (n, all, 0));
    }
    let got: HashMap<_, _> = reading.join_all().await.into_iter().collect();
    assert_eq!(got.len(), 70);
    for (client, (got, _)) in &got {
        let gets = |n: &usize| match client {
            0 => !is_for_other(*n) && !leaves_out(*n),
            1 => true,
            _ => !is_for_other(*n),
        };
        assert_eq!(*got, (0..MANY).filter(gets).collect::<Vec<_>>(), "client {client}");
    }
    // Each is counted, with the answers to what was asked.
    let room = (0..MANY).filter(|n| !is_for_other(*n)).count();
    let out = async |id: &str| {
        let (_, reply) = get(engine.at.api, &format!("/v1/clients/{id}")).await;
        serde_json::from_str::<Value>(&reply).unwrap()["r"]["out"].as_u64().unwrap() as usize
    };
    assert_eq!(out(&witness).await, MANY + 3);
    assert_eq!(out(&left_out).await, room - (0..MANY).filter(|n| leaves_out(*n)).count() + 2);
}

/// Little may wait, and one takes nothing.
#[tokio::test]
async fn a_burst_closes_who_takes_nothing_and_misses_nobody_else() {
    let server = "outboxLimit: 8KiB\nunsentLimit: 4KiB\nwriteTimeout: 0\npingInterval: 0";
    let engine = TestEngine::with(RUN, server, "workers: 1");
    let mut stalled = Raw::narrow(engine.ws()).await.opened().await;
    assert_eq!(stalled.ask("return conn:subscribe('room')").await, "nil");
    let mut reading = JoinSet::new();
    for _ in 0..30 {
        let mut raw = Raw::open(engine.ws()).await;
        assert_eq!(raw.ask("return conn:subscribe('room')").await, "nil");
        reading.spawn(async move { frames(&mut raw).await });
    }
    let mut back_end = back_end(&engine).await;
    let mut closed = None;
    for first in (0..MANY).step_by(20) {
        back_end.write((first..first + 20).map(|n| publish("room", n, None)).collect::<Vec<_>>().concat()).await;
        for n in first..first + 20 {
            match answer(&mut back_end).await {
                (i, 31, 0) if i == n && closed.is_none() => {}
                (i, 30, failed @ (0 | 1)) if i == n => {
                    closed.get_or_insert(n);
                    assert!(failed == 1 || closed < Some(n), "the first that it did not take");
                }
                other => panic!("{n}: {other:?}, closed at {closed:?}"),
            }
        }
    }
    assert!(closed.is_some(), "it was closed");
    for got in reading.join_all().await {
        assert_eq!(got, (0..MANY).collect::<Vec<_>>());
    }
}

/// A limit that a burst goes beyond is no reason to close a client that reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_closes_nobody_who_reads() {
    let engine = TestEngine::with(RUN, "outboxLimit: 4KiB\npingInterval: 0", "workers: 1");
    let mut reading = JoinSet::new();
    for _ in 0..60 {
        let mut raw = Raw::open(engine.ws()).await;
        assert_eq!(raw.ask("return conn:subscribe('room')").await, "nil");
        reading.spawn(async move {
            let (mut got, mut pongs) = (Vec::new(), 0);
            while got.last() != Some(&LAST) {
                match raw.frame().await {
                    Some((TEXT, payload)) => {
                        got.push(number(std::str::from_utf8(&payload).unwrap()));
                        if got.len() % 100 == 1 {
                            raw.write(frame(FIN | PING, b"")).await;
                        }
                    }
                    Some((PONG, _)) => pongs += 1,
                    other => panic!("{other:?}"),
                }
            }
            (got, pongs)
        });
    }
    let mut back_end = back_end(&engine).await;
    back_end.write((0..MANY).map(|n| publish("room", n, None)).collect::<Vec<_>>().concat()).await;
    for n in 0..MANY {
        assert_eq!(answer(&mut back_end).await, (n, 60, 0));
    }
    for (got, pongs) in reading.join_all().await {
        assert_eq!(got, (0..MANY).collect::<Vec<_>>());
        assert!(pongs > 0);
    }
}

/// Where a script encodes, it may change who is in the channel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_during_a_burst_gets_no_more_of_it() {
    let script = "
        function on_connect(id, conn) conn:subscribe('room') conn:send('hello\\n') end
        function protocol_input(buf) return buf:find('\\n') or 0 end
        function protocol_decode(s) return s:sub(1, -2) end
        function protocol_encode(s, conn)
          local t = mix.now()
          while mix.now() - t < 0.0002 do end
          return s .. '\\n'
        end
        function on_message(line, conn) conn:unsubscribe('room') conn:send('left\\n') end";
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    let file = dir.path().join("connmix.yaml");
    write_config(&file, "outboxLimit: 64MiB", "workers: 1", "");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("protocol: websocket", "protocol: socket")).unwrap();
    let engine = TestEngine::start(dir);
    let mut members = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::dial(engine.at.servers[0]).await;
        assert_eq!(raw.line().await, "hello");
        members.push(raw);
    }
    let mut back_end = back_end(&engine).await;
    back_end.write((0..300).map(|n| publish("room", n, None)).collect::<Vec<_>>().concat()).await;
    let leaves = &mut members[0];
    assert_eq!(number(&leaves.line().await), 0);
    leaves.write("leave\n").await;
    while leaves.line().await != "left" {}
    let mut reached = Vec::new();
    for n in 0..300 {
        let (number, to, failed) = answer(&mut back_end).await;
        assert_eq!((number, failed), (n, 0));
        reached.push(to);
    }
    let with_it = reached.iter().filter(|to| **to == 20).count();
    assert!(with_it < 300 && reached.is_sorted_by(|a, b| a >= b), "{reached:?}");
}

/// Of a channel that keeps its messages, somebody comes in the middle of a burst and gets what was before, and what follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_during_a_burst_misses_nothing() {
    let script = "
        function on_message(msg, conn)
          local err = conn:subscribe('room', {last = 2000})
          if err then conn:send(err) end
        end";
    let server = "outboxLimit: 64MiB";
    let engine =
        TestEngine::with(script, server, "workers: 2\nchannels: [{match: room, history: {size: 2000, age: 1h}}]");
    let mut reading = JoinSet::new();
    let come = async || {
        let mut raw = Raw::open(engine.ws()).await;
        raw.write(text("in")).await;
        raw
    };
    let read = async |mut raw: Raw| frames(&mut raw).await;
    for _ in 0..40 {
        reading.spawn(read(come().await));
    }
    let mut back_end = back_end(&engine).await;
    for first in (0..MANY).step_by(100) {
        back_end.write((first..first + 100).map(|n| publish("room", n, None)).collect::<Vec<_>>().concat()).await;
        for _ in 0..10 {
            reading.spawn(read(come().await));
        }
    }
    for n in 0..MANY {
        assert_eq!(answer(&mut back_end).await.0, n);
    }
    let all = reading.join_all().await;
    assert_eq!(all.len(), 140);
    for got in all {
        assert_eq!(got, (0..MANY).collect::<Vec<_>>());
    }
}
