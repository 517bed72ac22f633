//! Hooks and their conventions over real connections: what waits and what does not, whose connection a handler sees,
//! how errors and ends reach it, and what it can do to connections, its own and others.

mod common;

use common::*;
use futures_util::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

/// The message that comes next, of any kind.
async fn any(client: &mut Client) -> Message {
    timeout(PATIENCE, client.0.next()).await.expect("a message in time").expect("a message").expect("no error")
}

/// Asks until the answer is `wanted`.
async fn ask_until(client: &mut Client, question: &str, wanted: &str) {
    let mut last = String::new();
    let found = timeout(PATIENCE, async {
        while last != wanted {
            last = client.ask(question).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    if found.await.is_err() {
        panic!("{question}: {last:?} instead of {wanted:?}");
    }
}

/// Closes with a close frame, without waiting for the answer.
async fn leave(mut client: Client) {
    client.0.close(None).await.unwrap();
}

// Waiting.

#[tokio::test]
async fn handlers_that_wait_delay_nobody_and_keep_their_connection() {
    let engine = TestEngine::new(
        r#"
        waiting, released = {}, 0
        function on_message(msg, conn)
          if msg.data == "ping" then
            return conn:send("pong " .. #waiting)
          elseif msg.data == "go" then
            for _, other in ipairs(waiting) do other:set_context_value("go", msg.data) end
            return
          end
          if msg.data == "long" then
            conn:send("sleeping")
            return mix.sleep(600)
          end
          local me = conn:client_id()
          conn:set_context_value("name", msg.data)
          local function check(where)
            local now = mix.websocket()
            if now ~= conn or now:client_id() ~= me or now:context_value("name") ~= msg.data then
              conn:send("another connection after " .. where)
            end
          end
          for i = 1, 3 do
            mix.sleep(0.005)
            check("sleep")
          end
          coroutine.wrap(function()
            mix.sleep(0.005)
            check("wrap")
            coroutine.wrap(function()
              mix.sleep(0.005)
              check("wrap in wrap")
            end)()
            check("the inner wrap")
          end)()
          local co = coroutine.create(function(a)
            mix.sleep(0.005)
            local b = coroutine.yield(a + 1)
            mix.sleep(0.005)
            check("resume")
            return b * 2
          end)
          local _, two = coroutine.resume(co, 1)
          mix.sleep(0.005)
          local _, six = coroutine.resume(co, 3)
          local ok, e = pcall(function()
            mix.sleep(0.005)
            check("pcall")
            error("mine", 0)
          end)
          local _, handled = xpcall(function()
            mix.sleep(0.005)
            error("mine", 0)
          end, function(e)
            mix.sleep(0.005)
            check("xpcall's handler")
            return e .. "!"
          end)
          local words = {}
          for word in coroutine.wrap(function()
            for i = 1, 3 do
              mix.sleep(0.002)
              coroutine.yield(i)
            end
          end) do
            words[#words + 1] = word
          end
          waiting[#waiting + 1] = conn
          local go = conn:wait_context_value("go")
          check("wait_context_value")
          conn:send(table.concat({ msg.data, two, six, tostring(ok), e, handled, table.concat(words), go }, " "))
        end"#,
    );
    // If one of these held the worker, no client would get an answer any more.
    let mut long = Vec::new();
    for _ in 0..20 {
        let mut client = engine.connect().await;
        assert_eq!(client.ask("long").await, "sleeping");
        long.push(client);
    }
    let mut sleepers = Vec::new();
    for i in 0..20 {
        let mut client = engine.connect().await;
        client.send(&format!("c{i}")).await;
        sleepers.push(client);
    }
    let mut other = engine.connect().await;
    for _ in 0..40 {
        assert!(other.ask("ping").await.starts_with("pong "));
    }
    ask_until(&mut other, "ping", "pong 20").await;
    other.send("go").await;
    for (i, client) in sleepers.iter_mut().enumerate() {
        assert_eq!(client.text().await, format!("c{i} 2 6 false mine mine! 123 go"));
    }
}

#[tokio::test]
async fn one_connections_messages_wait_for_each_other() {
    let engine = TestEngine::new(
        r#"
        local running = {}
        function on_message(msg, conn)
          local id = conn:client_id()
          if running[id] then conn:send("overlap") end
          running[id] = true
          local n = tonumber(msg.data:match("^%d+"))
          if n == 0 then mix.sleep(0.1) elseif n % 100 == 0 then mix.sleep(0) end
          running[id] = nil
          conn:send(tostring(n) .. " " .. #msg.data)
        end"#,
    );
    // Far more than a connection's inbox holds, and the last ones larger than it each.
    let sizes: Vec<usize> = (0..2000).map(|i| if i < 1990 { 200 } else { 60_000 }).collect();
    let client = engine.connect().await;
    let (mut to, mut from) = client.0.split();
    let send = async {
        for (i, size) in sizes.iter().enumerate() {
            to.send(Message::text(format!("{i:<size$}"))).await.unwrap();
        }
    };
    let receive = async {
        for (i, size) in sizes.iter().enumerate() {
            let reply = timeout(PATIENCE, from.next()).await.expect("a reply in time").unwrap().unwrap();
            assert_eq!(reply, Message::text(format!("{i} {size}")));
        }
    };
    tokio::join!(send, receive);
}

#[tokio::test]
async fn pings_are_answered_while_a_handler_waits() {
    let engine = TestEngine::new("function on_message(msg, conn) conn:wait_context_value('never') end");
    let mut client = engine.connect().await;
    client.send("wait").await;
    client.send("queued").await;
    for payload in ["a", "b"] {
        client.0.send(Message::Ping(payload.into())).await.unwrap();
        assert_eq!(any(&mut client).await, Message::Pong(payload.into()));
    }
}

/// A script whose `wait` hangs, and whose `report` says what became of the ones that did.
const ENDS: &str = r#"
    local events, started = {}, 0
    local function note(...)
      local words = { ... }
      for i = 1, select('#', ...) do words[i] = tostring(words[i]) end
      events[#events + 1] = table.concat(words, " ")
    end
    function on_message(msg, conn)
      if msg.data == "report" then
        return conn:send(started .. ": " .. table.concat(events, ", "))
      end
      started = started + 1
      if msg.data == "sleep" then
        note("sleep", mix.sleep(60))
        note("again", mix.sleep(60))
        note("value", conn:wait_context_value("never"))
        note("publish", mix.mesh.publish("nobody", "x"))
        note("send", mix.mesh.send(conn:client_id(), "x"))
        note("conn:send", conn:send("x"))
      elseif msg.data == "value" then
        note("value", conn:wait_context_value("never"))
        note("sleep", mix.sleep(60))
      elseif msg.data == "nested" then
        local ok, a, b = pcall(coroutine.wrap(function()
          local inner = coroutine.wrap(function() return mix.sleep(60) end)
          return inner(), mix.sleep(60)
        end))
        note("nested", ok, a, b)
      elseif msg.data == "heartbeat" then
        while true do mix.sleep(0.01) end
      end
    end
    function on_close(client_id, err, conn)
      note("close", err)
    end"#;

#[tokio::test]
async fn a_wait_ends_when_its_connection_does() {
    const GONE: &str = "the connection has closed";
    for (how, events) in [
        (
            "sleep",
            format!(
                "sleep {GONE}, again {GONE}, value nil, publish 0 0 nil nil nil nil, send {GONE}, conn:send {GONE}, close nil"
            ),
        ),
        ("value", format!("value nil, sleep {GONE}, close nil")),
        ("nested", format!("nested true {GONE} {GONE}, close nil")),
    ] {
        let engine = TestEngine::new(ENDS);
        let mut other = engine.connect().await;
        let mut client = engine.connect().await;
        client.send(how).await;
        ask_until(&mut other, "report", "1: ").await;
        client.close().await;
        ask_until(&mut other, "report", &format!("1: {events}")).await;
        // Once, and not again.
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(other.ask("report").await, format!("1: {events}"));
    }
}

#[tokio::test]
async fn a_wait_ends_when_the_socket_just_ends() {
    let engine = TestEngine::new(ENDS);
    let mut other = engine.connect().await;
    let mut client = engine.connect().await;
    client.send("value").await;
    ask_until(&mut other, "report", "1: ").await;
    drop(client);
    let events = "1: value nil, sleep the connection has closed, \
                  close the client ended the connection without a close frame";
    ask_until(&mut other, "report", events).await;
}

#[tokio::test]
async fn messages_that_came_before_the_end_are_handled() {
    let engine = TestEngine::new(
        r#"
        function on_message(msg, conn)
          if msg.data == "watch" then
            conn:subscribe("log")
            return conn:send("watching")
          end
          mix.mesh.publish("log", msg.data .. " begins")
          mix.mesh.publish("log", msg.data .. " ends")
        end
        function on_close() mix.mesh.publish("log", "close") end"#,
    );
    let mut watcher = engine.connect().await;
    assert_eq!(watcher.ask("watch").await, "watching");
    let mut client = engine.connect().await;
    for text in ["one", "two", "three"] {
        client.0.feed(Message::text(text)).await.unwrap();
    }
    client.0.feed(Message::Close(None)).await.unwrap();
    client.0.flush().await.unwrap();
    for text in ["one begins", "one ends", "two begins", "two ends", "three begins", "three ends", "close"] {
        assert_eq!(watcher.text().await, text);
    }
}

#[tokio::test]
async fn a_loop_that_waits_without_looking_ends_soon_after_its_connection() {
    // Only the end of the wait can end it: the time budget is no help here.
    let engine = TestEngine::with(ENDS, "handlerTimeout: 60s", "workers: 1");
    let mut other = engine.connect().await;
    let mut client = engine.connect().await;
    client.send("heartbeat").await;
    ask_until(&mut other, "report", "1: ").await;
    client.close().await;
    ask_until(&mut other, "report", "1: close nil").await;
}

#[tokio::test]
async fn the_last_hook_can_wait_too() {
    let engine = TestEngine::new(
        r#"
        function on_message(msg, conn)
          if msg.data == "watch" then
            conn:subscribe("ends")
            return conn:send("watching")
          end
          conn:set_context({ name = msg.data })
          conn:subscribe("a", "b")
          conn:send("ready")
        end
        function on_close(client_id, err, conn)
          local slept = mix.sleep(0.03)
          local same = mix.websocket() == conn and conn:client_id() == client_id
          local channels = conn:channels()
          table.sort(channels)
          local sent = conn:send("too late")
          local reached = mix.mesh.publish("ends", conn:context_value("name") .. " " .. tostring(slept) .. " "
            .. tostring(same) .. " " .. table.concat(channels, "+") .. " " .. tostring(sent))
          coroutine.wrap(function() mix.sleep(0.01) end)()
          mix.mesh.publish("ends", tostring(reached) .. " " .. tostring(conn:wait_context_value("never")))
        end"#,
    );
    let mut watcher = engine.connect().await;
    assert_eq!(watcher.ask("watch").await, "watching");
    let mut client = engine.connect().await;
    assert_eq!(client.ask("ann").await, "ready");
    engine.publish_to("a", "x", 1).await;
    client.close().await;
    assert_eq!(watcher.text().await, "ann nil true a+b the connection has closed");
    assert_eq!(watcher.text().await, "1 nil");
    eventually("the subscriptions have gone", async || (engine.publish("a", "x").await["r"]["s"] == 0).then_some(()))
        .await;
}

#[tokio::test]
async fn the_handshake_can_wait() {
    let engine = TestEngine::new(
        r#"
        function on_handshake(client_id, headers, server, conn)
          mix.sleep(0.02)
          conn:subscribe("news")
          conn:set_context_value("host", headers.HOST == server.Host)
          conn:send("early")
          mix.sleep(0.02)
          if server.RequestUri:find("refuse") then return false, 418, "no tea" end
        end
        function on_message(msg, conn) conn:send(tostring(conn:context_value("host")) .. msg.data) end"#,
    );
    let mut client = engine.connect().await;
    client.send("!").await;
    assert_eq!(client.text().await, "early");
    assert_eq!(client.text().await, "true!");
    engine.publish_to("news", "x", 1).await;
    let refused = Client::try_connect(engine.ws(), "/ws?refuse").await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("418"), "{refused}");
    engine.publish_to("news", "x", 1).await;
}

#[tokio::test]
async fn waiting_where_lua_cannot_is_an_error_that_says_so() {
    let engine = TestEngine::new(
        r#"function on_message(msg, conn) if msg.data == "yield" then return coroutine.yield() end
          local function wait() mix.sleep(0) end
          local function nested() coroutine.wrap(wait)() end
          local places = {
            sort = function(f) table.sort({ 1, 2, 3 }, f) end,
            gsub = function(f) string.gsub("abc", ".", f) end,
            index = function(f) string.gsub("abc", ".", setmetatable({}, { __index = f })) end,
            format = function(f) string.format("%s", setmetatable({}, { __tostring = f })) end,
          }
          local place, how = msg.data:match("(%w+) (%w+)")
          local ok, e = pcall(places[place], how == "plain" and wait or nested)
          conn:send(tostring(ok) .. " " .. e)
        end"#,
    );
    let mut client = engine.connect().await;
    for place in ["sort", "gsub", "index", "format"] {
        for (how, line) in [("plain", 2), ("nested", 3)] {
            let error = client.ask(&format!("{place} {how}")).await;
            assert!(
                error.starts_with("false ")
                    && error.contains(&format!("entry.lua:{line}: this function waits, which is not possible inside")),
                "{place} {how}: {error}"
            );
        }
    }
    // A wait that was begun there and failed must not reach another handler.
    let mut yielding = engine.connect().await;
    assert!(client.ask("sort nested").await.starts_with("false "));
    yielding.send("yield").await;
    assert_eq!(yielding.close_frame().await.0, 1011);
}

#[tokio::test]
async fn waiting_at_a_files_top_level_is_refused() {
    for (script, module, place) in [
        ("\nmix.sleep(1)", "", "entry.lua:2: "),
        ("pcall(mix.sleep, 0)\n\nmix.mesh.publish('a', 'b')", "", "entry.lua:3: "),
        ("mix.mesh.send('1', 'b')", "", "entry.lua:1: "),
        ("require 'm'", "\n\nmix.sleep(0)", "m.lua:3: "),
        ("coroutine.wrap(function() mix.sleep(0) end)()", "", "entry.lua:1: "),
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("entry.lua"), script).unwrap();
        std::fs::write(dir.path().join("m.lua"), module).unwrap();
        write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", "");
        let error = TestEngine::try_start(dir).map(drop).expect_err(script);
        assert!(error.contains(place) && error.contains("not a file's top level"), "{script}: {error}");
    }
}

#[tokio::test]
async fn three_thousand_handlers_wait_at_once() {
    let engine = TestEngine::new(
        r#"
        local waiting = 0
        function on_message(msg, conn)
          if msg.data == "count" then return conn:send(tostring(waiting)) end
          waiting = waiting + 1
          local id = conn:client_id()
          conn:set_context_value("n", msg.data)
          mix.sleep(0.3)
          coroutine.wrap(function() mix.sleep(0.3) end)()
          waiting = waiting - 1
          local now = mix.websocket()
          if now:client_id() == id and now:context_value("n") == msg.data then conn:send("done " .. msg.data) end
        end"#,
    );
    let mut clients = Vec::new();
    for _ in 0..3000 {
        clients.push(engine.connect().await);
    }
    for (i, client) in clients.iter_mut().enumerate() {
        client.send(&i.to_string()).await;
    }
    for (i, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.text().await, format!("done {i}"));
    }
    assert_eq!(clients[7].ask("count").await, "0");
}

// Errors.

#[tokio::test]
async fn an_error_costs_its_connection_and_no_other() {
    let engine = TestEngine::new(
        r#"
        function on_message(msg, conn)
          if msg.data == "ping" then return conn:send("pong") end
          if msg.data:find("later") then mix.sleep(0.001) end
          conn:send("last words")
          assert(loadstring(msg.data:gsub("later ", "")))()
        end
        function on_close(client_id, err, conn)
          if err ~= "handler error" then error("unexpected end: " .. tostring(err)) end
          closed = (closed or 0) + 1
          error("and once more")
        end
        function on_handshake(client_id, headers, server)
          if server.RequestUri:find("fail") then error("in the handshake") end
        end"#,
    );
    let mut other = engine.connect().await;
    for raise in [
        "error('text')",
        "error({ code = 1 })",
        "error(setmetatable({}, { __tostring = function() error('again') end }))",
        "error(nil)",
        "error()",
        "error(mix.null)",
        "error(print)",
        "local x = nil + 1",
        "local function f() return 1 + f() end f()",
        "local function f() local ok, e = pcall(f) error(e, 0) end f()",
        "coroutine.wrap(function() local function f() return 1 + f() end f() end)()",
        "local t t = setmetatable({}, { __index = function(_, k) return t[k + 1] end }) return t[1]",
        "nothing()",
        "coroutine.yield(1)",
        "coroutine.wrap(function() mix.sleep(0.001) error('inner') end)()",
        "mix.json_decode(nil)",
    ] {
        for when in ["", "later "] {
            let mut client = engine.connect().await;
            client.send(&format!("{when}{raise}")).await;
            assert_eq!(client.text().await, "last words");
            assert_eq!(client.close_frame().await, (1011, "handler error".into()), "{when}{raise}");
            assert_eq!(other.ask("ping").await, "pong", "{when}{raise}");
        }
    }
    let refused = Client::try_connect(engine.ws(), "/ws?fail").await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("500"), "{refused}");
    assert_eq!(other.ask("ping").await, "pong");
}

#[tokio::test]
async fn a_connection_whose_handler_failed_handles_nothing_more() {
    let engine = TestEngine::new(
        r#"
        function on_message(msg, conn)
          if msg.data == "count" then return conn:send(tostring(count)) end
          count = (count or 0) + 1
          mix.sleep(0.02)
          error("now")
        end
        function on_close() closes = (closes or 0) + 1 count = count .. "," .. closes end"#,
    );
    let mut client = engine.connect().await;
    for _ in 0..5 {
        client.send("x").await;
    }
    assert_eq!(client.close_frame().await.0, 1011);
    let mut other = engine.connect().await;
    ask_until(&mut other, "count", "1,1").await;
}

// Publishing and sending.

/// Runs what it is sent, and sends back what that returns.
const EVAL: &str = r#"
    held = {}
    local function pack(...) return { n = select('#', ...), ... } end
    function on_message(msg, conn)
      local f, e = loadstring("local conn = ... " .. msg.data, "@chunk.lua")
      local results = pack(pcall(f or error, f and conn or e))
      local words = {}
      for i = 2, results.n do
        local v = results[i]
        words[#words + 1] = type(v) == "table" and mix.json_encode(v) or tostring(v)
      end
      if not mix.websocket():send(table.concat(words, " ")) then return end
      conn:send("reply is not UTF-8")
    end"#;

#[tokio::test]
async fn a_publish_counts_whom_it_reached() {
    let engine = TestEngine::new(EVAL);
    let mut a = engine.connect().await;
    let mut b = engine.connect().await;
    let publish = "local s, f, e = mix.mesh.publish('room', 'hello') return s, f, e";
    assert_eq!(a.ask(publish).await, "0 0 nil");
    assert_eq!(b.ask("return conn:subscribe('room', 'room')").await, "nil");
    assert_eq!(a.ask(publish).await, "1 0 nil");
    assert_eq!(b.text().await, "hello");
    assert_eq!(a.ask("return conn:subscribe('other', 'room')").await, "nil");
    // Its own copy comes before the answer.
    a.send(publish).await;
    assert_eq!((a.text().await, a.text().await), ("hello".into(), "2 0 nil".into()));
    assert_eq!(b.text().await, "hello");
    a.send("local s, f, e = mix.mesh.publish('room', 'fast', 'text', { counts = false }) return tostring(s), e").await;
    let mut got = [a.text().await, a.text().await];
    got.sort();
    assert_eq!(got, ["fast", "nil nil"]);
    assert_eq!(b.text().await, "fast");
    a.send("local s = mix.mesh.publish('room', '\\255\\0', 'binary', {}) return s").await;
    assert_eq!(any(&mut a).await, Message::binary(vec![255, 0]));
    assert_eq!(a.text().await, "2");
    assert_eq!(any(&mut b).await, Message::binary(vec![255, 0]));
    assert_eq!(a.ask("return conn:unsubscribe('room')").await, "nil");
    assert_eq!(a.ask(publish).await, "1 0 nil");
    assert_eq!(b.text().await, "hello");
    b.close().await;
    ask_until(&mut a, publish, "0 0 nil").await;
}

#[tokio::test]
async fn publishes_of_one_handler_arrive_in_order() {
    let engine = TestEngine::new(EVAL);
    let mut reader = engine.connect().await;
    assert_eq!(reader.ask("return conn:subscribe('seq')").await, "nil");
    let mut writer = engine.connect().await;
    writer
        .send(
            "for i = 1, 300 do \
               local e = select(3, mix.mesh.publish('seq', i, 'text', { counts = i % 3 == 0 })) \
               if e then return e end \
               if i % 50 == 0 then coroutine.wrap(function() mix.sleep(0) end)() end \
             end return 'all'",
        )
        .await;
    for i in 1..=300 {
        assert_eq!(reader.text().await, i.to_string());
    }
    assert_eq!(writer.text().await, "all");
}

#[tokio::test]
async fn a_client_can_be_sent_to_by_its_number() {
    let engine = TestEngine::new(EVAL);
    let mut a = engine.connect().await;
    let mut b = engine.connect().await;
    let id = b.ask("return conn:client_id()").await;
    assert_eq!(a.ask(&format!("local e = mix.mesh.send('{id}', 'as text') return e")).await, "nil");
    assert_eq!(b.text().await, "as text");
    // As a number, which Lua does not print in full.
    assert_eq!(
        a.ask(&format!("local e = mix.mesh.send(string.format('%d', {id}), 'as number') return e")).await,
        "nil"
    );
    assert_eq!(b.text().await, "as number");
    assert_eq!(a.ask(&format!("local e = mix.mesh.send('{id}', '\\254', 'binary') return e")).await, "nil");
    assert_eq!(any(&mut b).await, Message::binary(vec![254]));
    a.send("local e = mix.mesh.send(conn:client_id(), 'myself') return e").await;
    assert_eq!((a.text().await, a.text().await), ("myself".into(), "nil".into()));
    for (id, error) in [
        ("123", "client 123 is not connected, or can't take the message"),
        ("0", "\"0\" is no client_id"),
        ("abc", "\"abc\" is no client_id"),
        ("9007199254740992", "\"9007199254740992\" is no client_id"),
    ] {
        assert_eq!(a.ask(&format!("local e = mix.mesh.send('{id}', 'x') return e")).await, error);
    }
    assert_eq!(
        a.ask(&format!("local e = mix.mesh.send('{id}', '\\254') return e")).await,
        "a text message must be valid UTF-8; send it as \"binary\""
    );
    b.close().await;
    ask_until(
        &mut a,
        &format!("local e = mix.mesh.send('{id}', 'x') return e"),
        &format!("client {id} is not connected, or can't take the message"),
    )
    .await;
}

#[tokio::test]
async fn a_client_id_is_taken_as_a_number() {
    let engine = TestEngine::new(EVAL);
    let mut a = engine.connect().await;
    let mut b = engine.connect().await;
    let id = b.ask("return conn:client_id()").await;
    assert_eq!(a.ask(&format!("local e = mix.mesh.send({id}, 'hello') return e")).await, "nil");
    assert_eq!(b.text().await, "hello");
}

#[tokio::test]
async fn subscribing_is_all_or_nothing() {
    let engine = TestEngine::with(EVAL, "handlerTimeout: 10s", "workers: 1");
    let mut client = engine.connect().await;
    let channels = "local c = conn:channels() table.sort(c) return table.concat(c, ',')";
    for (names, error) in [
        ("'a', 'b c'", "channel name \"b c\" holds a space or control character"),
        ("'a', 'b\\n'", "channel name \"b\\n\" holds a space or control character"),
        ("'a', ''", "a channel name is empty"),
        ("'a', ('x'):rep(256)", "a channel name has 256 bytes, more than 255"),
        ("'a', '\\255'", "a channel name is not valid UTF-8"),
        (
            "'a', 'user:' .. 123456789012345678",
            "channel name \"user:1.2345678901235e+17\" holds a number that lost digits when it was concatenated; \
             write string.format(\"%d\", n)",
        ),
    ] {
        for subscribe in ["conn:subscribe", "mix.subscribe"] {
            assert_eq!(client.ask(&format!("local e = {subscribe}({names}) return e")).await, error);
            assert_eq!(client.ask(channels).await, "", "{names}");
        }
        assert_eq!(client.ask(&format!("local e = conn:unsubscribe({names}) return e")).await, error);
        let name = names.strip_prefix("'a', ").unwrap();
        assert_eq!(
            client.ask(&format!("local s, f, e = mix.mesh.publish({name}, 'x') return s, f, e")).await,
            format!("nil nil {error}")
        );
    }
    assert_eq!(client.ask("local e = conn:subscribe('a', 'b', 5, ('x'):rep(255), '弹幕:1') return e").await, "nil");
    assert_eq!(client.ask("return #conn:channels()").await, "5");
    assert_eq!(client.ask("local e = mix.unsubscribe('b', 'never', ('x'):rep(255)) return e").await, "nil");
    assert_eq!(client.ask(channels).await, "5,a,弹幕:1");
    let many = "local names = {} for i = 1, 7000 do names[i] = 'c' .. i end \
                for k = 0, 9 do for i = 1, 7000 do names[i] = k .. ':' .. i end \
                local e = conn:subscribe(unpack(names)) if e then return #conn:channels(), e end end";
    assert_eq!(client.ask(many).await, "63003 a connection can be in 65536 channels at most");
}

// The context.

#[tokio::test]
async fn a_context_holds_plain_values_by_copy() {
    let engine = TestEngine::new(EVAL);
    let mut client = engine.connect().await;
    for (code, result) in [
        ("return conn:context()", "{}"),
        ("return conn:context_value('x')", "nil"),
        ("local e = conn:set_context_value('n', 1.5) return e, conn:context_value('n')", "nil 1.5"),
        ("conn:set_context_value('b', false) return conn:context_value('b')", "false"),
        ("conn:set_context_value('s', '\\0\\255') return conn:context_value('s') == '\\0\\255'", "true"),
        ("conn:set_context_value('', 'empty') return conn:context_value('')", "empty"),
        ("conn:set_context_value(7, 'seven') return conn:context_value('7'), conn:context_value(7)", "seven seven"),
        (
            "local t = { 1, 2, x = { y = { true } } } conn:set_context_value('t', t) t.x.y[1] = 'changed' \
             local c = conn:context_value('t') c[1] = 'changed' \
             local d = conn:context_value('t') return d[1], d[2], #d, d.x.y[1]",
            "1 2 2 true",
        ),
        ("conn:context().n = 'changed' return conn:context_value('n')", "1.5"),
        (
            "local e = conn:set_context({ n = 2, new = 'x' }) local c = conn:context() return e, c.n, c.new, c.b",
            "nil 2 x false",
        ),
        ("conn:set_context({}) return conn:context_value('n')", "2"),
        ("conn:set_context_value('n', nil) return conn:context_value('n'), conn:context().n", "nil nil"),
        ("conn:set_context_value('n') return conn:context_value('n')", "nil"),
        ("for k in pairs(conn:context()) do conn:set_context_value(k) end return conn:context()", "{}"),
        (
            "local e = conn:set_context_value('big', ('x'):rep(300000)) return e, conn:context_value('big')",
            "the context would hold more than 262144 bytes nil",
        ),
        (
            "for i = 1, 1024 do local e = conn:set_context_value('k' .. i, i) if e then return i, e end end \
             local e = conn:set_context_value('more', 1) local f = conn:set_context_value('k1', 'new') \
             local g = conn:set_context({ another = 1 }) return e, f, g, conn:context_value('k1')",
            "the context already holds 1024 keys nil the context already holds 1024 keys new",
        ),
        (
            "conn:set_context_value('f', print)",
            "chunk.lua:1: bad argument #2 to 'set_context_value' (plain value expected, got a function)",
        ),
        (
            "conn:set_context_value('c', { conn })",
            "chunk.lua:1: bad argument #2 to 'set_context_value' (plain value expected, got a userdata)",
        ),
        (
            "local t = {} t.t = t conn:set_context_value('t', t)",
            "chunk.lua:1: bad argument #2 to 'set_context_value' (plain value expected, got a table nested deeper than 64 (a cycle?))",
        ),
        ("conn:set_context('x')", "chunk.lua:1: bad argument #1 to 'set_context' (table expected, got string)"),
        (
            "conn:set_context({ 'x' })",
            "chunk.lua:1: bad argument #1 to 'set_context' (keys must be strings, got the number 1)",
        ),
        ("conn:context_value()", "chunk.lua:1: bad argument #1 to 'context_value' (string expected, got no value)"),
        ("return conn:context_value('f'), conn:context_value('k2')", "nil 2"),
    ] {
        assert_eq!(client.ask(code).await, result, "{code}");
    }
}

#[tokio::test]
async fn a_context_value_is_waited_for() {
    let engine = TestEngine::new(EVAL);
    let mut a = engine.connect().await;
    let mut b = engine.connect().await;
    assert_eq!(
        a.ask("held.a = conn conn:set_context_value('set', 1) return conn:wait_context_value('set')").await,
        "1"
    );
    a.send("return conn:wait_context_value('uid'), conn:context_value('uid')").await;
    // Other values are set before it; none of them ends the wait.
    assert_eq!(b.ask("held.a:set_context_value('else', 1) return held.a:set_context({ more = 2 })").await, "nil");
    assert_eq!(b.ask("return held.a:set_context_value('uid', { 1, 2 })").await, "nil");
    assert_eq!(a.text().await, "[1,2] [1,2]");
    // One handler waits on another's connection.
    b.send("return held.a:wait_context_value('later')").await;
    assert_eq!(a.ask("return conn:set_context_value('later', false)").await, "nil");
    assert_eq!(b.text().await, "false");
    // Which then ends.
    b.send("local v = held.a:wait_context_value('never') return v, 'over'").await;
    assert_eq!(a.ask("return 1").await, "1");
    leave(a).await;
    assert_eq!(b.text().await, "nil over");
}

// A connection's methods.

#[tokio::test]
async fn a_connection_that_has_gone_gives_errors() {
    let engine = TestEngine::new(EVAL);
    let mut gone = engine.connect().await;
    let id =
        gone.ask("held.gone = conn conn:subscribe('x') conn:set_context_value('k', 1) return conn:client_id()").await;
    let mut client = engine.connect().await;
    gone.close().await;
    ask_until(&mut client, "return (held.gone:send('x'))", "the connection has closed").await;
    for (code, result) in [
        ("return held.gone:client_id()", id.as_str()),
        ("return tostring(held.gone)", &format!("connection {id}")),
        ("return held.gone:remote_addr()", "nil"),
        ("return held.gone:context()", "{}"),
        ("return held.gone:context_value('k')", "nil"),
        ("local e = held.gone:set_context({ k = 2 }) return e", "the connection has closed"),
        ("local e = held.gone:set_context_value('k', 2) return e", "the connection has closed"),
        ("return held.gone:wait_context_value('k')", "nil"),
        ("local e = held.gone:subscribe('x') return e", "the connection has closed"),
        ("local e = held.gone:unsubscribe('x') return e", "the connection has closed"),
        ("return #held.gone:channels()", "0"),
        ("local e = held.gone:send('x') return e", "the connection has closed"),
        ("local e = held.gone:close() return e", "the connection has closed"),
        ("local e = held.gone:close(4000, 'x') return e", "the connection has closed"),
    ] {
        assert_eq!(client.ask(code).await, result, "{code}");
    }
    // The connection that gets its slot is not taken for it.
    let mut next = engine.connect().await;
    assert_eq!(next.ask("return mix.websocket() == held.gone, conn == held.gone").await, "false false");
    assert_eq!(client.ask("local e = held.gone:send('x') return e").await, "the connection has closed");
}

#[tokio::test]
async fn methods_want_a_colon() {
    let engine = TestEngine::new(EVAL);
    let mut client = engine.connect().await;
    for (code, got) in [
        ("conn.send('x')", "string"),
        ("conn.send()", "no value"),
        ("conn.client_id()", "no value"),
        ("conn.subscribe('a', 'b')", "string"),
        ("conn.wait_context_value('a')", "string"),
        ("conn.close(1000)", "number"),
        ("conn.context({})", "table"),
        ("conn.send(mix.null, 'x')", "userdata"),
    ] {
        assert_eq!(
            client.ask(code).await,
            format!(
                "chunk.lua:1: not a connection: got {got} where conn was expected (call methods with a colon: conn:send(data))"
            ),
            "{code}"
        );
    }
    assert_eq!(
        client.ask("conn.send(conn)").await,
        "chunk.lua:1: bad argument #1 to 'send' (string expected, got no value)"
    );
    assert_eq!(
        client.ask("return getmetatable(conn), pcall(setmetatable, conn, {})").await.get(..11),
        Some("false false")
    );
    assert!(client.ask("conn.x = 1").await.contains("attempt to index local 'conn' (a userdata value)"));
    assert_eq!(client.ask("return conn.nothing").await, "nil");
    assert_eq!(client.ask("return conn:clear_buffer()").await, "a WebSocket has no such buffer: messages come whole");
}

#[tokio::test]
async fn bytes_go_out_as_they_are() {
    let engine = TestEngine::new(EVAL);
    let mut client = engine.connect().await;
    client
        .send("local all = {} for i = 0, 255 do all[i + 1] = string.char(i) end return conn:send(table.concat(all), 'binary')")
        .await;
    assert_eq!(any(&mut client).await, Message::binary((0..=255).collect::<Vec<u8>>()));
    assert_eq!(client.text().await, "nil");
    for (code, sent) in [
        ("conn:send('弹幕')", "弹幕"),
        ("conn:send('')", ""),
        ("conn:send(12.5)", "12.5"),
        ("conn:send(1e15)", "1e+15"),
        ("conn:send('a\\0b', 'text')", "a\0b"),
        ("conn:send('x', nil)", "x"),
    ] {
        client.send(&format!("local e = {code} return e")).await;
        assert_eq!(client.text().await, sent, "{code}");
        assert_eq!(client.text().await, "nil", "{code}");
    }
    let long = "x".repeat(300_000);
    assert_eq!(client.ask("conn:send(('x'):rep(300000)) return 1").await, long);
    assert_eq!(client.text().await, "1");
    for (code, error) in [
        ("local e = conn:send('\\255') return e", "a text message must be valid UTF-8; send it as \"binary\""),
        ("conn:send()", "chunk.lua:1: bad argument #1 to 'send' (string expected, got no value)"),
        ("conn:send({})", "chunk.lua:1: bad argument #1 to 'send' (string expected, got table)"),
        (
            "conn:send('x', 'blob')",
            "chunk.lua:1: bad argument #2 to 'send' (\"text\" or \"binary\" expected, got \"blob\")",
        ),
        ("conn:send('x', {})", "chunk.lua:1: bad argument #2 to 'send' (string expected, got table)"),
    ] {
        assert_eq!(client.ask(code).await, error, "{code}");
    }
    client.send_binary(b"conn:send(conn:client_id() and '\xff\x00', 'binary') return 2").await;
    assert_eq!(any(&mut client).await, Message::binary(vec![255, 0]));
}

#[tokio::test]
async fn messages_carry_their_kind() {
    let engine = TestEngine::new(
        "function on_message(msg, ...) local conn = ... \
         conn:send(msg.type .. ' ' .. #msg.data .. ' ' .. tostring(msg.finish) .. ' ' .. select('#', ...)) \
         conn:send(msg.data, msg.type) end",
    );
    let mut client = engine.connect().await;
    assert_eq!(client.ask("").await, "text 0 true 1");
    assert_eq!(client.text().await, "");
    client.send_binary(&[0, 255, 128]).await;
    assert_eq!(client.text().await, "binary 3 true 1");
    assert_eq!(any(&mut client).await, Message::binary(vec![0, 255, 128]));
}

#[tokio::test]
async fn a_handler_can_close_its_connection() {
    let engine = TestEngine::new(EVAL);
    for (code, frame) in [
        ("conn:close()", (1000, "")),
        ("conn:close(nil, 'bye')", (1000, "bye")),
        ("conn:close(1001)", (1001, "")),
        ("conn:close(4999, '再见')", (4999, "再见")),
        ("conn:close('3000', 5)", (3000, "5")),
        ("conn:close(1013, ('x'):rep(123))", (1013, &"x".repeat(123))),
        ("conn:close(4001, 'first') conn:close(4002, 'second')", (4001, "first")),
        ("conn:close(4001) error('x')", (4001, "")),
        ("conn:close(4001) mix.sleep(60)", (4001, "")),
    ] {
        let mut client = engine.connect().await;
        client.send(&format!("conn:send('before') {code} held.after = conn:send('after')")).await;
        assert_eq!(client.text().await, "before", "{code}");
        assert_eq!(client.close_frame().await, (frame.0, frame.1.to_owned()), "{code}");
    }
    let mut client = engine.connect().await;
    assert_eq!(client.ask("return held.after").await, "the connection has closed");
    for code in ["999", "1004", "1005", "1006", "1015", "2000", "2999", "5000", "66536", "1000.5", "-1", "0/0", "1e300"]
    {
        let error = client.ask(&format!("conn:close({code})")).await;
        assert!(
            error.starts_with("chunk.lua:1: bad argument #1 to 'close' (close code expected (1000, 3000 to 4999), got"),
            "{code}: {error}"
        );
    }
    for (arguments, problem) in [
        ("'x'", "bad argument #1 to 'close' (number expected, got string)"),
        ("1000, {}", "bad argument #2 to 'close' (string expected, got table)"),
        ("1000, '\\255'", "bad argument #2 to 'close' (the reason is not valid UTF-8)"),
        ("1000, ('x'):rep(124)", "bad argument #2 to 'close' (the reason has more than 123 bytes)"),
    ] {
        assert_eq!(client.ask(&format!("conn:close({arguments})")).await, format!("chunk.lua:1: {problem}"));
    }
    // Another's.
    let mut victim = engine.connect().await;
    assert_eq!(victim.ask("held.victim = conn return 1").await, "1");
    assert_eq!(client.ask("local e = held.victim:close(4005, 'go') return e").await, "nil");
    assert_eq!(victim.close_frame().await, (4005, "go".into()));
}

// What stands around the handlers.

#[tokio::test]
async fn scripts_can_log_what_they_like() {
    let engine = TestEngine::new(EVAL);
    let mut client = engine.connect().await;
    for (code, result) in [
        ("return mix.log(mix.INFO, 'x')", "true"),
        ("return mix.log(mix.ERROR, '\\255\\0\\n'), mix.log(mix.WARN, 1.5), mix.log(mix.DEBUG, '')", "true true true"),
        ("return mix.log('warn', 'x'), mix_log(mix_DEBUG, ('x'):rep(200000))", "true true"),
        (
            "mix.log(9, 'x')",
            "chunk.lua:1: bad argument #1 to 'log' (level expected (mix.DEBUG, mix.INFO, mix.WARN, mix.ERROR), got 9)",
        ),
        (
            "mix.log()",
            "chunk.lua:1: bad argument #1 to 'log' (level (mix.DEBUG, mix.INFO, mix.WARN, mix.ERROR) expected, got no value)",
        ),
        ("return print(), print(nil, nil), print({}, print, conn, '\\255', 1e15, true)", "nil"),
        ("print(setmetatable({}, { __tostring = function() error('no text', 0) end }))", "no text"),
        (
            "print(setmetatable({}, { __tostring = function() return nil end })) return 1",
            "'tostring' must return a string to 'print'",
        ),
    ] {
        let got = client.ask(code).await;
        assert!(got.ends_with(result), "{code}: {got}");
    }
}

#[tokio::test]
async fn outside_a_handler_there_is_no_connection() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
        local conn, err = mix.websocket()
        local path, none = mix.server.option("path"), mix.server.option("none")
        local subscribed, reached = mix.subscribe("a"), nil
        function on_message(msg)
          local c = mix.websocket()
          c:send(table.concat({ tostring(conn), tostring(err), path, tostring(none), tostring(subscribed),
            mix.server.option("color"), mix.server.option("size"), #c:channels() }, "|"))
        end"#;
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    let file = dir.path().join("connmix.yaml");
    write_config(&file, "", "workers: 1", "");
    let config = std::fs::read_to_string(&file).unwrap();
    let more = "value: /ws}, {name: color, value: blue}, {name: size, value: 42}]";
    std::fs::write(&file, config.replace("value: /ws}]", more)).unwrap();
    let engine = TestEngine::start(dir);
    let mut client = engine.connect().await;
    assert_eq!(
        client.ask("").await,
        "nil|no connection: not inside a handler|/ws|nil|no connection: not inside a handler|blue|42|0"
    );
}

#[tokio::test]
async fn on_close_hears_how_it_ended() {
    let engine = TestEngine::new(
        r#"
        function on_message(msg, conn)
          if msg.data == "watch" then
            conn:subscribe("ends")
            return conn:send("watching")
          end
          conn:close(4000)
        end
        function on_close(client_id, err, conn, ...)
          mix.mesh.publish("ends", type(client_id) .. " " .. tostring(err) .. " " .. tostring((...)) .. " " .. tostring(select(2, ...)))
        end"#,
    );
    let mut watcher = engine.connect().await;
    assert_eq!(watcher.ask("watch").await, "watching");
    engine.connect().await.close().await;
    assert_eq!(watcher.text().await, "string nil nil nil");
    let mut client = engine.connect().await;
    client.send("close me").await;
    assert_eq!(client.close_frame().await.0, 4000);
    assert_eq!(watcher.text().await, "string nil nil nil", "the close frame was ours");
    drop(engine.connect().await);
    assert_eq!(watcher.text().await, "string the client ended the connection without a close frame nil nil");
}
