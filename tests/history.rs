//! What channels keep (`history` of `engine.channels`): for those who come late, and for those who come back.

mod common;

use common::*;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Each message is Lua, run with `conn`; its results come back, joined by spaces.
const SCRIPT: &str = r#"
function on_message(msg, conn)
  local results = {assert(loadstring("local conn = ...\n" .. msg.data))(conn)}
  for i = 1, 9 do results[i] = tostring(results[i]) end
  conn:send("= " .. table.concat(results, " "):gsub(" nil", ""))
end
"#;

fn engine(rules: &str) -> TestEngine {
    TestEngine::with(SCRIPT, "", &format!("workers: 2\nchannels: {rules}"))
}

/// A call over HTTP: its `r`.
async fn call(engine: &TestEngine, method: &str, params: Value) -> Value {
    let path = format!("/v1/{}", method.replace('.', "/"));
    let (status, reply) = post(engine.at.api, &path, &params.to_string()).await;
    assert_eq!(status, 200, "{reply}");
    serde_json::from_str::<Value>(&reply).unwrap_or_else(|e| panic!("{e}: {reply}"))["r"].take()
}

/// Publishes, and gives the position.
async fn publish(engine: &TestEngine, channel: &str, data: &str) -> String {
    let r = call(engine, "mesh.publish", json!({"c": channel, "d": data})).await;
    r["p"].as_str().unwrap_or_else(|| panic!("{r}")).to_owned()
}

/// Subscribes with options; gives what came first, and then position, recovered and count.
async fn subscribe(client: &mut Client, channel: &str, options: &str) -> (Vec<String>, String, bool) {
    let code = format!(
        "local err, at = conn:subscribe('{channel}', {options})
         if err then return err end return at.position, at.recovered, at.count"
    );
    client.send(&code).await;
    let mut first = Vec::new();
    loop {
        let text = client.text().await;
        let Some(result) = text.strip_prefix("= ") else {
            first.push(text);
            continue;
        };
        let words: Vec<&str> = result.split(' ').collect();
        assert_eq!(words.len(), 3, "{result}");
        assert_eq!(words[2], first.len().to_string(), "{first:?}");
        return (first, words[0].to_owned(), words[1] == "true");
    }
}

#[tokio::test]
async fn those_who_come_late_get_the_last_messages_first() {
    let engine = engine("[{match: 'room:', history: {size: 5}}, {match: 'room:none'}]");
    let mut positions = Vec::new();
    for n in 0..8 {
        positions.push(publish(&engine, "room:1", &n.to_string()).await);
    }
    let mut client = engine.connect().await;
    let (first, position, recovered) = subscribe(&mut client, "room:1", "{last = 3}").await;
    assert_eq!((first, recovered), (["5", "6", "7"].map(str::to_owned).to_vec(), true));
    assert_eq!(position, positions[7]);
    // What is published now comes once.
    positions.push(publish(&engine, "room:1", "8").await);
    assert_eq!(client.text().await, "8");
    // Another one comes back with its position.
    let mut back = engine.connect().await;
    let (first, position, recovered) = subscribe(&mut back, "room:1", &format!("{{since = '{}'}}", positions[5])).await;
    assert_eq!((first, recovered), (["6", "7", "8"].map(str::to_owned).to_vec(), true));
    assert_eq!(position, positions[8]);
    // Of one that is too old, some are missing; with `last`, as many as that come.
    for (options, want) in [
        (format!("{{since = '{}'}}", positions[1]), vec!["4", "5", "6", "7", "8"]),
        (format!("{{since = '{}', last = 1}}", positions[1]), vec!["8"]),
        ("{since = 'garbage', last = 0}".into(), vec![]),
    ] {
        let mut client = engine.connect().await;
        let (first, _, recovered) = subscribe(&mut client, "room:1", &options).await;
        assert_eq!((first, recovered), (want.iter().map(ToString::to_string).collect(), false), "{options}");
    }
    // A place in a channel of which nothing is known yet, and in several.
    let (first, _, recovered) = subscribe(&mut client, "room:2", "{last = 5}").await;
    assert_eq!((first.len(), recovered), (0, true));
    let several = "local err, at = conn:subscribe('room:2', 'room:3', {last = 0}) return at['room:2'].count, at['room:3'].recovered";
    assert_eq!(client.ask(several).await, "= 0 true");
    // Where nothing is kept, and with wrong options.
    let none = "no rule of engine.channels says \"history\" for channel room:none";
    assert_eq!(client.ask("return conn:subscribe('room:none', {last = 1})").await, format!("= {none}"));
    assert_eq!(client.ask("local page, err = mix.mesh.history('room:none') return err").await, format!("= {none}"));
    let reply = post(engine.at.api, "/v1/mesh/history", r#"{"c":"room:none"}"#).await;
    assert_eq!((reply.0, reply.1.contains("field \\\"c\\\": no rule of engine.channels")), (400, true), "{}", reply.1);
    for wrong in ["last = -1", "last = 1.5", "last = 10001", "last = 'x'", "since = 5", "first = 1"] {
        let code = format!("return select(2, pcall(conn.subscribe, conn, 'room:1', {{{wrong}}}))");
        let err = client.ask(&code).await;
        assert!(err.contains("last must be") || err.contains("since must be") || err.contains("no option"), "{err}");
    }
    client.expect_only_reply("return 'no more'", "= no more").await;
}

/// The frames of one write come in one segment, on loopback at least: what is read at once shows it.
#[tokio::test]
async fn what_was_kept_comes_in_one_write() {
    let engine = engine("[{match: 'room:', history: {size: 100}}]");
    for n in 0..100 {
        publish(&engine, "room:1", &format!("{n:0>50}")).await;
    }
    let mut socket = TcpStream::connect(engine.ws()).await.unwrap();
    socket.write_all(raw::upgrade().as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_buf(&mut head).await.unwrap();
    }
    let code = "local err, at = conn:subscribe('room:1', {last = 100}) return at.count";
    socket.write_all(&raw::text(code)).await.unwrap();
    let mut first = vec![0; 64 * 1024];
    let count = socket.read(&mut first).await.unwrap();
    assert!(count >= 100 * 52, "{count} bytes came at once");
}

#[tokio::test]
async fn nothing_is_missing_or_doubled_where_what_was_kept_meets_what_comes() {
    let engine = std::sync::Arc::new(engine("[{match: 'room:', history: {size: 1000}, envelope: json}]"));
    const COUNT: u64 = 400;
    let mut publishers = JoinSet::new();
    for publisher in 0..3 {
        let engine = engine.clone();
        publishers.spawn(async move {
            let mut api = Client::connect(engine.at.api, "/ws/v1").await;
            for n in 0..COUNT {
                let params = json!({"c": "room:1", "d": format!("{publisher} {n}")});
                let reply = api.ask(&json!({"m": "mesh.publish", "p": params}).to_string()).await;
                assert!(reply.contains("\"p\":"), "{reply}");
            }
        });
    }
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let engine = engine.clone();
        // Each comes and goes while messages are published, and has all of them once, in one order.
        clients.spawn(async move {
            let (mut seen, mut position) = (Vec::new(), None::<String>);
            while seen.len() < 3 * COUNT as usize {
                let mut client = engine.connect().await;
                let options = position.take().map_or("{last = 1000}".into(), |since| format!("{{since = '{since}'}}"));
                client.send(&format!("local err, at = conn:subscribe('room:1', {options}) return at.recovered")).await;
                let mut last = None;
                for _ in 0..60 {
                    let text = client.text().await;
                    let Ok(envelope) = serde_json::from_str::<Value>(&text) else {
                        assert_eq!(text, "= true");
                        continue;
                    };
                    assert_eq!(envelope["c"], "room:1");
                    seen.push(envelope["d"].as_str().unwrap().to_owned());
                    last = Some(envelope["p"].as_str().unwrap().to_owned());
                    if seen.len() == 3 * COUNT as usize {
                        break;
                    }
                }
                position = last;
            }
            seen
        });
    }
    let all = clients.join_all().await;
    publishers.join_all().await;
    for publisher in 0..3 {
        let of = |seen: &[String]| -> Vec<String> {
            seen.iter().filter(|text| text.starts_with(&format!("{publisher} "))).cloned().collect()
        };
        assert_eq!(of(&all[0]), (0..COUNT).map(|n| format!("{publisher} {n}")).collect::<Vec<_>>());
    }
    for seen in &all {
        assert!(*seen == all[0], "one order for all");
    }
}

#[tokio::test]
async fn envelopes_tell_channel_and_position() {
    let rules = "[{match: 'room:', history: {size: 9, age: 300ms}, envelope: json}, {match: 'plain:', envelope: json}]";
    let engine = engine(rules);
    let mut client = engine.connect().await;
    assert_eq!(client.ask("return conn:subscribe('room:1', 'plain:1')").await, "= nil");
    let position = publish(&engine, "room:1", "say \"hi\"").await;
    let envelope: Value = serde_json::from_str(&client.text().await).unwrap();
    assert_eq!(envelope, json!({"c": "room:1", "p": position, "d": "say \"hi\""}));
    let binary = call(&engine, "mesh.publish", json!({"c": "room:1", "d": "/w==", "t": "binary"})).await;
    let envelope: Value = serde_json::from_str(&client.text().await).unwrap();
    assert_eq!(envelope, json!({"c": "room:1", "p": binary["p"], "t": "binary", "d": "/w=="}));
    // A channel without an order has no positions.
    assert_eq!(call(&engine, "mesh.publish", json!({"c": "plain:1", "d": "x"})).await, json!({"s": 1, "f": 0}));
    assert_eq!(client.text().await, r#"{"c":"plain:1","d":"x"}"#);
    // Back ends and scripts get data as they were published.
    let m = json!([{"p": position, "d": "say \"hi\"", "t": "text"}, {"p": binary["p"], "d": "/w==", "t": "binary"}]);
    let page = call(&engine, "mesh.history", json!({"c": "room:1"})).await;
    assert_eq!(page, json!({"p": binary["p"], "recovered": true, "m": m}));
    let lua = "local p = mix.mesh.history('room:1') return #p.m, p.m[1].d, #p.m[2].d, p.m[2].t, p.recovered";
    assert_eq!(client.ask(lua).await, "= 2 say \"hi\" 1 binary true");
    let since = call(&engine, "mesh.history", json!({"c": "room:1", "since": position, "limit": 5})).await;
    assert_eq!((&since["m"], &since["recovered"]), (&json!([m[1]]), &json!(true)));
    let mut api = Client::connect(engine.at.api, "/ws/v1").await;
    api.send(&json!({"m": "mesh.publish", "p": {"c": "room:1", "d": "y"}}).to_string()).await;
    api.send(&json!({"m": "mesh.history", "p": {"c": "room:1", "since": binary["p"]}, "i": 7}).to_string()).await;
    let published: Value = serde_json::from_str(&api.text().await).unwrap();
    let page: Value = serde_json::from_str(&api.text().await).unwrap();
    assert_eq!((&page["r"]["p"], &page["r"]["m"][0]["d"], &page["i"]), (&published["r"]["p"], &json!("y"), &json!(7)));
    // What is too old is gone.
    let gone = async || {
        let page = call(&engine, "mesh.history", json!({"c": "room:1", "since": position})).await;
        (page["m"].as_array().unwrap().is_empty() && page["recovered"] == json!(false)).then_some(())
    };
    eventually("they are too old", gone).await;
}

#[tokio::test]
async fn what_is_kept_is_bounded_over_all_channels() {
    let engine = engine("[{match: 'room:', history: {size: 100}}]\nhistoryLimit: 1MiB");
    let big = "x".repeat(100_000);
    let mut positions = Vec::new();
    for n in 0..30 {
        positions.push(publish(&engine, &format!("room:{n}"), &big).await);
    }
    let page =
        async |n: usize| call(&engine, "mesh.history", json!({"c": format!("room:{n}"), "since": positions[n]})).await;
    let metrics = get(engine.at.api, "/metrics").await.1;
    let figure = |name: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(figure("connmix_engine_history_bytes ") <= 1_048_576.0);
    assert!(figure("connmix_engine_history_evictions_total ") >= 19.0);
    assert!(figure("connmix_engine_history_channels ") <= 11.0);
    assert_eq!(page(29).await["recovered"], true);
    let first = page(0).await;
    assert_eq!(first["recovered"], false, "those that were used the longest ago have lost theirs");
    // A new epoch: positions of the one before are known to be old.
    let new = publish(&engine, "room:0", "y").await;
    assert_ne!(new.split('-').next(), positions[0].split('-').next());
    assert_eq!(page(0).await["m"][0]["d"], "y");
}

#[tokio::test]
async fn back_ends_are_told_positions_for_each_channel() {
    let engine = engine("[{match: 'room:', history: {size: 5}}]");
    let r = call(&engine, "mesh.publish", json!({"c": ["room:1", "other"], "d": "x"})).await;
    assert!(r[0]["p"].is_string() && r[1].get("p").is_none(), "{r}");
    let once = json!({"c": "room:1", "d": "y", "id": "7"});
    let first = call(&engine, "mesh.publish", once.clone()).await;
    assert_eq!(first, call(&engine, "mesh.publish", once).await, "it was published once");
    assert_eq!(call(&engine, "mesh.history", json!({"c": "room:1"})).await["m"].as_array().unwrap().len(), 2);
    // The one who caused it is left out, and gets it if it comes back.
    let mut client = engine.connect().await;
    let id = client.ask("conn:subscribe('room:1') return conn:client_id()").await;
    call(&engine, "mesh.publish", json!({"c": "room:1", "d": "z", "x": id[2..]})).await;
    client.expect_only_reply("return 'nothing'", "= nothing").await;
    let (first, ..) = subscribe(&mut client, "room:1", &format!("{{since = {}}}", r[0]["p"])).await;
    assert_eq!(first, ["y", "z"]);
}

/// Those of a socket server are encoded by its script.
#[tokio::test]
async fn a_socket_server_encodes_what_was_kept() {
    let script = r#"
function protocol_input(buf, conn)
  local line = buf:find("\n")
  return line or 0
end
function protocol_decode(bytes) return bytes:sub(1, -2) end
function protocol_encode(data) return "<" .. data .. ">" end
function on_message(data, conn)
  local err, at = conn:subscribe("room:1", {last = 5})
  conn:send("done " .. tostring(err) .. " " .. at.count .. "\n")
end
"#;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 2\nchannels: [{match: room, history: {size: 9}}]", "");
    let file = dir.path().join("connmix.yaml");
    let text = std::fs::read_to_string(&file).unwrap().replace("protocol: websocket", "protocol: socket");
    std::fs::write(&file, text).unwrap();
    let engine = TestEngine::start(dir);
    publish(&engine, "room:1", "a").await;
    publish(&engine, "room:1", "b").await;
    let mut socket = TcpStream::connect(engine.ws()).await.unwrap();
    socket.write_all(b"x\n").await.unwrap();
    let mut got = Vec::new();
    let read = async {
        while !(got.ends_with(b"<c>")) {
            let had_done = got.windows(4).any(|w| w == b"done");
            socket.read_buf(&mut got).await.unwrap();
            if !had_done && got.windows(4).any(|w| w == b"done") && got.windows(3).any(|w| w == b"<b>") {
                publish(&engine, "room:1", "c").await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.unwrap();
    let text = String::from_utf8(got).unwrap();
    let data: String = text.replace("done nil 2\n", "");
    assert_eq!(data, "<a><b><c>", "{text}");
}
