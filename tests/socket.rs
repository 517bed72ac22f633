//! Socket servers: the wire protocol is Lua. Splitting bytes into packets, encoding of deliveries by scripts, and how
//! connections end.

mod common;

use common::raw::Raw;
use common::{Client, TestEngine, eventually, post};
use serde_json::json;
use std::fs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Packets are a length of four digits and then that many bytes; answered in the same form.
const COUNTED: &str = r#"
function protocol_input(buf)
  local digits = buf:read(4)
  if not digits then return 0 end
  local n = tonumber(digits)
  return n and n + 4 or -1
end
function protocol_decode(package) return package:sub(5) end
function protocol_encode(data) return string.format("%04d", #data) .. data end
function on_message(msg, conn)
  if msg == "boom" then error("boom it is") end
  if msg == "sleep" then mix.sleep(0.2) end
  if msg:sub(1, 4) == "join" then assert(not conn:subscribe(msg:sub(6))) end
  if msg == "id" then msg = conn:client_id() end
  if msg == "bye" then conn:send(protocol_encode("farewell")) conn:close() return end
  conn:send(protocol_encode(msg))
end
"#;

/// An engine with a socket server that speaks what `script` says, and a websocket server at `/ws` with the same channels.
fn engine(script: &str, server: &str) -> TestEngine {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("entry.lua"), script).unwrap();
    fs::write(
        dir.path().join("ws.lua"),
        "function on_message(msg) local conn = mix.websocket() conn:subscribe(msg.data) conn:send('joined') end",
    )
    .unwrap();
    let lines: String = server.lines().map(|line| format!("      {line}\n")).collect();
    let text = format!(
        "logging: {{filename: ''}}\ncenter: {{apiServer: {{port: 0, bind: 127.0.0.1}}}}\nengine:\n  workers: 2\n  \
         apiServer: {{port: 0, bind: 127.0.0.1}}\n  servers:\n    - port: 0\n      bind: 127.0.0.1\n      protocol: socket\n      \
         entry: entry.lua\n{lines}    - {{port: 0, bind: 127.0.0.1, entry: ws.lua, options: [{{name: path, value: /ws}}]}}\n"
    );
    fs::write(dir.path().join("connmix.yaml"), text).unwrap();
    TestEngine::start(dir)
}

fn counted(text: &str) -> String {
    format!("{:04}{text}", text.len())
}

impl Raw {
    async fn counted(&mut self) -> String {
        let length: usize = String::from_utf8(self.take(4).await).unwrap().parse().unwrap();
        String::from_utf8(self.take(length).await).unwrap()
    }

    async fn count(&mut self, text: &str) -> String {
        self.write(counted(text)).await;
        self.counted().await
    }
}

#[tokio::test]
async fn packages_come_out_of_bytes_however_they_arrive() {
    let engine = engine(COUNTED, "");
    let mut raw = Raw::dial(engine.at.servers[0]).await;
    // Byte by byte; several at once; the end of one with the beginning of the next.
    for byte in counted("hello").into_bytes() {
        raw.write([byte]).await;
    }
    assert_eq!(raw.counted().await, "hello");
    raw.write(counted("one") + &counted("") + &counted("two") + "00").await;
    assert_eq!([raw.counted().await, raw.counted().await, raw.counted().await], ["one", "", "two"]);
    raw.write("03end").await;
    assert_eq!(raw.counted().await, "end");
}

#[tokio::test]
async fn a_package_of_a_megabyte_comes_back_whole() {
    let script = COUNTED
        .replace("read(4)", "read(8)")
        .replace("n + 4", "n + 8")
        .replace("sub(5)", "sub(9)")
        .replace("%04d", "%08d");
    let engine = engine(&script, "maxMessageSize: 2MiB\noutboxLimit: 4MiB");
    let mut raw = Raw::dial(engine.at.servers[0]).await;
    let body: Vec<u8> = (0..1_048_576u32).map(|i| (i % 251) as u8).collect();
    for _ in 0..3 {
        raw.write(format!("{:08}", body.len())).await;
        let (mut reader, mut writer) = raw.stream.split();
        let mut back = vec![0; body.len() + 8];
        let (wrote, read) = tokio::join!(writer.write_all(&body), reader.read_exact(&mut back));
        wrote.unwrap();
        read.unwrap();
        assert!(back[8..] == body[..]);
    }
}

#[tokio::test]
async fn garbage_costs_only_its_own_connection() {
    let engine = engine(COUNTED, "maxMessageSize: 100");
    let mut good = Raw::dial(engine.at.servers[0]).await;
    for bytes in ["garbage", "9999", &format!("0200{}", "x".repeat(200)), &counted("boom")] {
        let mut bad = Raw::dial(engine.at.servers[0]).await;
        bad.write(bytes).await;
        assert_eq!(bad.rest().await, b"", "{bytes}");
    }
    assert_eq!(good.count("still here").await, "still here");
}

#[tokio::test]
async fn what_makes_no_package_is_bounded() {
    let engine = engine(&COUNTED.replace("local digits", "do return 0 end local digits"), "maxMessageSize: 1000");
    let mut raw = Raw::dial(engine.at.servers[0]).await;
    raw.write("x".repeat(999)).await;
    let mut other = Raw::dial(engine.at.servers[0]).await;
    other.write("x".repeat(1000)).await;
    assert_eq!(other.rest().await, b"");
    raw.write("x").await;
    assert_eq!(raw.rest().await, b"");
}

#[tokio::test]
async fn a_client_that_only_stops_sending_still_gets_the_answers() {
    let engine = engine(COUNTED, "");
    let mut raw = Raw::dial(engine.at.servers[0]).await;
    raw.write(counted("sleep") + &counted("last") + "00").await;
    raw.stream.shutdown().await.unwrap();
    assert_eq!([raw.counted().await, raw.counted().await], ["sleep", "last"]);
    raw.ends().await;
}

#[tokio::test]
async fn a_client_that_has_ended_does_not_hold_its_place_while_a_handler_waits_for_ever() {
    let script = format!(
        "{COUNTED}
         local answer = on_message
         function on_message(msg, conn)
           if msg == 'forever' then
             conn:send(protocol_encode('waiting'))
             conn:wait_context_value('never')
             conn:send(protocol_encode('too late'))
           end
           answer(msg, conn)
         end
         function on_close(client_id, err) mix.mesh.publish('log', tostring(err)) end"
    );
    let engine = engine(&script, "readTimeout: 300ms");
    let mut web = Client::connect(engine.at.servers[1], "/ws").await;
    web.ask("log").await;
    // One that only stops sending, and one that has gone.
    let mut half = Raw::dial(engine.at.servers[0]).await;
    assert_eq!(half.count("forever").await, "waiting");
    half.stream.shutdown().await.unwrap();
    half.ends().await;
    assert_eq!(web.text().await, "read timeout");
    let mut gone = Raw::dial(engine.at.servers[0]).await;
    assert_eq!(gone.count("forever").await, "waiting");
    drop(gone);
    assert_eq!(web.text().await, "read timeout");
}

#[tokio::test]
async fn a_flood_of_small_packages_does_not_keep_others_waiting() {
    let script = "
        local handled = 0
        function protocol_input() return 1 end
        function protocol_decode(byte) return byte end
        function protocol_encode(data) return data end
        function on_message(byte, conn)
          if byte == '?' then return conn:send(string.format('%07d', handled)) end
          handled = handled + 1
          if handled == 1 then conn:send('!') end
        end";
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("entry.lua"), script).unwrap();
    let config = "center: {apiServer: {port: 0}}\nengine:\n  workers: 1\n  apiServer: {port: 0}\n  servers: [{port: 0, protocol: socket, entry: entry.lua}]\n";
    fs::write(dir.path().join("connmix.yaml"), config).unwrap();
    let engine = TestEngine::start(dir);
    let (mut flood, mut other) = (Raw::dial(engine.ws()).await, Raw::dial(engine.ws()).await);
    const ALL: usize = 400_000;
    let (mut reader, mut writer) = flood.stream.split();
    let ask = async {
        reader.read_u8().await.unwrap();
        other.write("?").await;
        String::from_utf8(other.take(7).await).unwrap().parse::<usize>().unwrap()
    };
    let bytes = vec![b'x'; ALL];
    let (wrote, handled) = tokio::join!(writer.write_all(&bytes), ask);
    wrote.unwrap();
    assert!(handled < ALL / 2, "it was answered after {handled} packages of another");
    eventually("all of it is handled", async || {
        other.write("?").await;
        (other.take(7).await == format!("{ALL:07}").as_bytes()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_hook_may_wait_but_the_encoding() {
    let script = "
        function on_connect(id, conn) mix.sleep(0.01) conn:send('c') end
        function protocol_input(buf, conn)
          local before = buf:length()
          mix.sleep(0.01)
          -- What came meanwhile is there too.
          assert(buf:length() >= before)
          local head = buf:read(1)
          if not head then return 0 end
          return buf:length() > head:byte() and head:byte() + 1 or 0
        end
        function protocol_decode(s, conn) mix.sleep(0.01) assert(conn == mix.socket.tcp()) return s:sub(2) end
        function protocol_encode(s) return string.char(#s) .. s end
        function on_message(msg, conn) mix.sleep(0.01) conn:send(protocol_encode(msg)) end
        function on_close(id, err, conn) mix.sleep(0.01) mix.mesh.publish('log', conn:client_id() == id and 'closed' or '?') end";
    let engine = engine(script, "");
    let mut web = Client::connect(engine.at.servers[1], "/ws").await;
    web.ask("log").await;
    let mut raw = Raw::dial(engine.at.servers[0]).await;
    raw.write(b"\x03abc\x00\x02d").await;
    assert_eq!(raw.take(1).await, b"c");
    for byte in *b"e\x01f" {
        raw.write([byte]).await;
    }
    assert_eq!(raw.take(10).await, b"\x03abc\x00\x02de\x01f");
    drop(raw);
    assert_eq!(web.text().await, "closed");
}

#[tokio::test]
async fn an_error_in_any_hook_costs_the_connection_alone_and_on_close_is_told() {
    for (at, sends) in [
        ("function on_connect() error('on_connect') end", "0001x"),
        ("function protocol_input() error('protocol_input') end", "0001x"),
        ("function protocol_input() return 'four' end", "0001x"),
        ("function protocol_input() return 4.5 end", "0001x"),
        ("function protocol_input() return 0/0 end", "0001x"),
        ("function protocol_input() return {} end", "0001x"),
        ("function protocol_input() end", "0001x"),
        ("function protocol_input() while true do end end", "0001x"),
        ("function protocol_input() coroutine.yield() end", "0001x"),
        ("function protocol_decode() error('protocol_decode') end", "0001x"),
        ("function protocol_decode() error({}) end", "0001x"),
        ("function protocol_decode() error(nil) end", "0001x"),
    ] {
        let script = format!(
            "{COUNTED} {at}
             function on_close(id, err, conn) mix.mesh.publish('log', tostring(err)) end"
        );
        let engine = engine(&script, "handlerTimeout: 50ms");
        let mut web = Client::connect(engine.at.servers[1], "/ws").await;
        web.ask("log").await;
        let mut raw = Raw::dial(engine.at.servers[0]).await;
        raw.write_into_the_dark(sends).await;
        assert_eq!(raw.rest().await, b"", "{at}");
        assert_eq!(web.text().await, "handler error", "{at}");
    }
}

#[tokio::test]
async fn lengths_out_of_all_bounds_close_the_connection() {
    for length in ["-1", "-1e300", "1e300", "math.huge", "-math.huge", "2^53", "1025"] {
        let script = COUNTED.replace("local digits", &format!("do return {length} end local digits"));
        let engine = engine(&script, "maxMessageSize: 1KiB");
        let mut raw = Raw::dial(engine.at.servers[0]).await;
        raw.write_into_the_dark("x").await;
        assert_eq!(raw.rest().await, b"", "{length}");
    }
}

#[tokio::test]
async fn an_encoding_may_do_what_a_handler_may_and_does_not_disturb_the_delivery() {
    let script = COUNTED.replace(
        "function protocol_encode(data)",
        "function protocol_encode(data, conn)
           if data == 'join' then assert(not conn:subscribe('second')) end
           if data == 'quit' then assert(not conn:unsubscribe('c')) end
           if data == 'send' then conn:send('before') end
           if data == 'publish' then mix.mesh.publish('second', 'from the encoding', 'text', {counts = false}) end
           if data == 'close' then conn:close() end",
    );
    let engine = engine(&script, "");
    let mut raw = Raw::dial(engine.at.servers[0]).await;
    assert_eq!(raw.count("join c").await, "join c");
    engine.publish_to("c", "join", 1).await;
    assert_eq!(raw.counted().await, "join");
    engine.publish_to("c", "send", 1).await;
    assert_eq!(raw.take(6).await, b"before");
    assert_eq!(raw.counted().await, "send");
    engine.publish_to("c", "publish", 1).await;
    assert_eq!([raw.counted().await, raw.counted().await], ["publish", "from the encoding"]);
    engine.publish_to("c", "quit", 1).await;
    assert_eq!(raw.counted().await, "quit");
    engine.publish_to("c", "unheard", 0).await;
    assert_eq!(engine.publish("second", "close").await["r"], json!({"s": 0, "f": 1}));
    raw.ends().await;
}

#[tokio::test]
async fn packages_longer_than_what_may_wait_come_whole_while_a_handler_waits() {
    let script = COUNTED
        .replace("read(4)", "read(8)")
        .replace("n + 4", "n + 8")
        .replace("sub(5)", "sub(9)")
        .replace("%04d", "%08d");
    let engine = engine(&script, "maxMessageSize: 1MiB");
    let mut raw = Raw::dial(engine.at.servers[0]).await;
    let long = "y".repeat(300_000);
    let all = format!("00000005sleep00300000{long}00000005sleep00300000{long}00000003end");
    let (mut reader, mut writer) = raw.stream.split();
    let mut back = vec![0; all.len()];
    let (wrote, read) = tokio::join!(writer.write_all(all.as_bytes()), reader.read_exact(&mut back));
    wrote.unwrap();
    read.unwrap();
    assert!(back == all.as_bytes());
}

#[tokio::test]
async fn a_buffer_that_a_script_keeps_never_shows_another_connections_bytes() {
    let script = format!(
        "{COUNTED}
         local kept
         local input = protocol_input
         function protocol_input(buf, conn)
           kept = kept or buf
           return input(buf)
         end
         local answer = on_message
         function on_message(msg, conn)
           answer(msg == 'kept' and kept:tostring() .. '|' .. kept:length() or msg, conn)
         end"
    );
    let engine = engine(&script, "");
    let mut first = Raw::dial(engine.at.servers[0]).await;
    let mut same = Raw::dial(engine.at.servers[0]).await;
    assert_eq!([first.count("secret").await, same.count("x").await], ["secret", "x"]);
    drop(first);
    for _ in 0..20 {
        let mut other = Raw::dial(engine.at.servers[0]).await;
        other.write(counted("kept") + "00").await;
        let told = other.counted().await;
        assert!(told == "|0" || told == "00|2", "{told}");
    }
}

#[tokio::test]
async fn a_script_may_end_the_connection_after_its_answer() {
    let engine = engine(COUNTED, "");
    let mut raw = Raw::dial(engine.at.servers[0]).await;
    assert_eq!(raw.count("bye").await, "farewell");
    raw.ends().await;
}

#[tokio::test]
async fn a_publish_reaches_both_protocols_each_in_its_own_encoding() {
    let engine = engine(COUNTED, "");
    // On both workers.
    let (mut a, mut b) = (Raw::dial(engine.at.servers[0]).await, Raw::dial(engine.at.servers[0]).await);
    assert_eq!(a.count("join room").await, "join room");
    assert_eq!(b.count("join room").await, "join room");
    let mut web = Client::connect(engine.at.servers[1], "/ws").await;
    assert_eq!(web.ask("room").await, "joined");
    engine.publish_to("room", "to all", 3).await;
    assert_eq!([a.counted().await, b.counted().await, web.text().await], ["to all", "to all", "to all"]);
    // To one alone, from outside and from a script.
    let id = a.count("id").await;
    let (status, reply) = post(engine.at.api, "/v1/mesh/send", &json!({"c": id, "d": "to one"}).to_string()).await;
    assert_eq!((status, reply.as_str()), (200, r#"{"E":null,"r":{"s":true}}"#));
    assert_eq!(a.counted().await, "to one");
}

#[tokio::test]
async fn publishing_from_a_script_is_encoded_and_sending_is_raw() {
    let script = COUNTED.replace(
        "if msg == \"boom\"",
        "if msg == \"publish\" then
           assert(not conn:subscribe('c'))
           local reached, failed = mix.mesh.publish('c', 'from lua')
           assert(reached == 1 and failed == 0)
           assert(not mix.mesh.send(conn:client_id(), 'sent'))
           conn:send('raw!')
           return
         end
         if msg == \"boom\"",
    );
    let engine = engine(&script, "");
    let mut raw = Raw::dial(engine.at.servers[0]).await;
    raw.write(counted("publish")).await;
    assert_eq!([raw.counted().await, raw.counted().await], ["from lua", "sent"]);
    assert_eq!(raw.take(4).await, b"raw!");
}

#[tokio::test]
async fn an_encoding_that_fails_fails_its_delivery_alone() {
    let script = COUNTED.replace(
        "function protocol_encode(data)",
        "function protocol_encode(data, conn)
           if data == 'err' then error('can not') end
           if data == 'nil' then return nil end
           if data == 'empty' then return '' end
           if data == 'wait' then mix.sleep(0) end
           if data == 'loop' then while true do end end
           if data == 'who' then return conn and '0003yes' or '0002no' end",
    );
    let engine = engine(&script, "handlerTimeout: 50ms");
    let mut raw = Raw::dial(engine.at.servers[0]).await;
    assert_eq!(raw.count("join c").await, "join c");
    for data in ["err", "nil", "empty", "wait", "loop"] {
        let reply = engine.publish("c", data).await;
        assert_eq!(reply["r"], json!({"s": 0, "f": 1}), "{data}");
    }
    engine.publish_to("c", "who", 1).await;
    assert_eq!(raw.counted().await, "yes");
}

#[tokio::test]
async fn a_shared_encoding_is_made_once_for_all() {
    let script = COUNTED.replace(
        "function protocol_encode(data)",
        "protocol_encode_shared = true
         local calls = 0
         function protocol_encode(data, conn)
           calls = calls + 1
           data = data .. calls .. tostring(conn) .. tostring(mix.socket.tcp())",
    );
    let engine = engine(&script.replace("conn:send(protocol_encode(msg))", "conn:send('0002ok')"), "");
    let mut all = Vec::new();
    for _ in 0..6 {
        let mut raw = Raw::dial(engine.at.servers[0]).await;
        assert_eq!(raw.count("join c").await, "ok");
        all.push(raw);
    }
    for round in 1..=3 {
        engine.publish_to("c", "n", 6).await;
        for raw in &mut all {
            // Two workers, each with its own VM.
            assert_eq!(raw.counted().await, format!("n{round}nilnil"));
        }
    }
}

#[tokio::test]
async fn hooks_of_a_connections_life_run_in_order() {
    let script = format!(
        "{COUNTED}
         function on_connect(client_id, conn)
           assert(client_id == conn:client_id() and conn == mix.socket.tcp())
           mix.sleep(0.05)
           conn:set_context_value('greeted', true)
           conn:send('0005hello')
         end
         function on_close(client_id, err, conn)
           mix.mesh.publish('log', client_id .. ' ' .. tostring(err) .. ' ' .. tostring(conn:context_value('greeted')))
         end"
    );
    let engine = engine(&script, "");
    let mut web = Client::connect(engine.at.servers[1], "/ws").await;
    web.ask("log").await;
    let mut raw = Raw::dial(engine.at.servers[0]).await;
    // What comes before on_connect has returned waits for it.
    raw.write(counted("id")).await;
    assert_eq!(raw.counted().await, "hello");
    let id = raw.counted().await;
    drop(raw);
    assert_eq!(web.text().await, format!("{id} nil true"));
    let mut bad = Raw::dial(engine.at.servers[0]).await;
    assert_eq!(bad.counted().await, "hello");
    bad.write("junk").await;
    let told = web.text().await;
    assert!(told.ends_with("protocol_input found the client's bytes wrong true"), "{told}");
}

#[tokio::test]
async fn a_silent_client_is_closed_and_pings_are_none() {
    let engine = engine(COUNTED, "readTimeout: 300ms\npingInterval: 100ms");
    let mut raw = Raw::dial(engine.at.servers[0]).await;
    assert_eq!(raw.rest().await, b"");
}

#[tokio::test]
async fn beyond_max_connections_a_socket_is_closed_at_once() {
    let engine = engine(COUNTED, "maxConnections: 1");
    let mut first = Raw::dial(engine.at.servers[0]).await;
    assert_eq!(first.count("x").await, "x");
    assert_eq!(Raw::dial(engine.at.servers[0]).await.rest().await, b"");
    assert_eq!(first.count("y").await, "y");
    drop(first);
    eventually("a place is free again", async || {
        let mut raw = Raw::dial(engine.at.servers[0]).await;
        let _ = raw.stream.write_all(counted("z").as_bytes()).await;
        (raw.rest_of(5).await == counted("z").as_bytes()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed_as_too_slow() {
    let engine = engine(COUNTED, "outboxLimit: 64KiB\nwriteTimeout: 0");
    let mut slow = Raw::narrow(engine.at.servers[0]).await;
    assert_eq!(slow.count("join c").await, "join c");
    let big = "x".repeat(9000);
    eventually("it is refused", async || (engine.publish("c", &big).await["r"]["f"] == 1).then_some(())).await;
    eventually("it is gone", async || (engine.publish("c", &big).await["r"] == json!({"s": 0, "f": 0})).then_some(()))
        .await;
}

#[tokio::test]
async fn the_buffer_is_read_searched_and_cleared() {
    let script = "
        function protocol_input(buf)
          assert(buf:position() == 0 and buf:length() == #buf:tostring())
          local at = buf:find('\\n')
          if not at then return 0 end
          if buf:find('clear') then
            assert(not mix.socket.tcp():clear_buffer())
            assert(buf:length() == 0 and buf:tostring() == '')
            mix.socket.tcp():send('cleared\\n')
            return 0
          end
          local s, err = buf:read(2)
          assert(#s == 2 and err == nil and buf:position() == 2)
          s, err = buf:read(1000000)
          assert(s == nil and err:find('have come') and buf:position() == 2)
          assert(buf:find('\\n', at + 1) == nil)
          assert(not pcall(buf.read, buf, -1) and not pcall(buf.read, 'x', 1))
          return at
        end
        function protocol_decode(s) return s end
        function protocol_encode(s) return s end
        function on_message(line, conn) conn:send(line) end";
    let engine = engine(script, "");
    let mut raw = Raw::dial(engine.at.servers[0]).await;
    raw.write("abc\n").await;
    assert_eq!(raw.take(4).await, b"abc\n");
    raw.write("clear\n").await;
    assert_eq!(raw.take(8).await, b"cleared\n");
    raw.write("def\n").await;
    assert_eq!(raw.take(4).await, b"def\n");
}

#[tokio::test]
async fn a_package_that_began_in_one_version_of_a_script_ends_in_it() {
    let version = |n: u8| {
        let script = COUNTED.replace("return package:sub(5)", &format!("return 'v{n} ' .. package:sub(5)"));
        // The script reports when it was asked for a packet that is not complete yet.
        script.replace(
            "local n = tonumber(digits)",
            "local n = tonumber(digits) if buf:length() == 6 then mix.socket.tcp():send('?') end",
        )
    };
    let engine = engine(&version(1), "");
    let mut raw = Raw::dial(engine.at.servers[0]).await;
    assert_eq!(raw.count("x").await, "v1 x");
    let mut midway = Raw::dial(engine.at.servers[0]).await;
    midway.write("0003ab").await;
    assert_eq!(midway.take(1).await, b"?");
    fs::write(engine.path("entry.lua"), version(2)).unwrap();
    eventually("the new version is live", async || (raw.count("z").await == "v2 z").then_some(())).await;
    midway.write("c").await;
    assert_eq!(midway.counted().await, "v1 abc");
    assert_eq!(midway.count("d").await, "v2 d");
}

#[tokio::test]
async fn a_handler_that_waits_holds_its_connection_back_and_no_other() {
    let engine = engine(COUNTED, "");
    let (mut slow, mut quick) = (Raw::dial(engine.at.servers[0]).await, Raw::dial(engine.at.servers[0]).await);
    slow.write(counted("sleep") + &counted("after")).await;
    assert_eq!(quick.count("now").await, "now");
    assert_eq!([slow.counted().await, slow.counted().await], ["sleep", "after"]);
}

#[test]
fn a_script_without_its_hooks_is_refused_and_told_which() {
    for name in ["protocol_input", "protocol_decode", "protocol_encode", "on_message"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("entry.lua"), COUNTED.replace(&format!("function {name}"), "function other"))
            .unwrap();
        let config = "center: {apiServer: {port: 0}}\nengine:\n  apiServer: {port: 0}\n  servers: [{port: 0, protocol: socket, entry: entry.lua}]\n";
        fs::write(dir.path().join("connmix.yaml"), config).unwrap();
        let error = TestEngine::try_start(dir).err().unwrap();
        let want = format!("entry.lua: no global function {name}; a socket server's script must define it");
        assert!(error.contains(&want), "{error}");
    }
}
