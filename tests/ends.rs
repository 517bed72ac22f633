//! How connections end while nobody reads from them: the client's end is noticed all the same, its place becomes free,
//! and the script is called once.

mod common;

use common::raw::{FIN, PING, PONG, Raw, TEXT, close, frame, text, upgrade_with};
use common::{Client, PATIENCE, TestEngine, eventually, get};
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// Messages in [`much`].
const MUCH: usize = 9;

/// More than is read ahead of a handler, and the system takes it.
fn much() -> Vec<u8> {
    frame(FIN | TEXT, &[b'x'; 16 * 1024]).repeat(MUCH)
}

/// A client that sends "watch" hears of every end; "wait" waits without end.
const SCRIPT: &str = r#"
    function on_handshake(client_id, headers)
      if headers.wait then
        mix.mesh.publish("log", "asked")
        mix.websocket():wait_context_value("never")
      end
    end
    local handled = 0
    function on_message(msg, conn)
      if msg.data == "watch" then
        conn:subscribe("log")
        conn:send("watching")
      elseif msg.data == "wait" then
        handled = 0
        conn:send("waiting")
        conn:wait_context_value("never")
      else
        handled = handled + 1
      end
    end
    function on_close(id, err) mix.mesh.publish("log", handled .. " " .. tostring(err)) end
"#;

const SILENTLY: &str = "the client ended the connection without a close frame";
const EARLY: &str = "the client ended the connection during its handshake";
/// Nothing ends by time.
const NO_TIMES: &str = "readTimeout: 0\npingInterval: 0\nmaxConnections: 2";

async fn watching(engine: &TestEngine) -> Client {
    let mut watcher = engine.connect().await;
    assert_eq!(watcher.ask("watch").await, "watching");
    watcher
}

/// A client whose handler waits, and that has sent far more than is read meanwhile.
async fn waiting(addr: SocketAddr) -> Raw {
    let mut raw = Raw::open(addr).await;
    assert_eq!(raw.ask("wait").await, "waiting");
    raw.write(much()).await;
    raw
}

fn reset(raw: Raw) {
    socket2::SockRef::from(&raw.stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// From here on the client answers nothing, and nothing sent to it arrives, as if its machine were off.
fn vanish(raw: &Raw) {
    let drop_all = socket2::SockFilter::new(6, 0, 0, 0);
    socket2::SockRef::from(&raw.stream).attach_filter(&[drop_all]).unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_while_much_waits_for_its_handler_is_noticed() {
    let engine = TestEngine::with(SCRIPT, NO_TIMES, "workers: 1");
    let mut watcher = watching(&engine).await;
    drop(waiting(engine.ws()).await);
    // What it sent before is handled.
    assert_eq!(watcher.text().await, format!("{MUCH} {SILENTLY}"));
    // Its end stands behind more than the system usually takes.
    let mut raw = waiting(engine.ws()).await;
    raw.write(much().repeat(4)).await;
    drop(raw);
    assert_eq!(watcher.text().await, format!("{} {SILENTLY}", MUCH * 5));
    reset(waiting(engine.ws()).await);
    let end = watcher.text().await;
    assert!(end.ends_with(" Connection reset by peer (os error 104)"), "{end}");
    // It closes in order and waits for the answer: its socket goes on.
    let mut raw = Raw::open(engine.ws()).await;
    assert_eq!(raw.ask("wait").await, "waiting");
    raw.write([much(), close(1000)].concat()).await;
    assert_eq!(watcher.text().await, format!("{MUCH} nil"));
    assert_eq!(raw.close_frame().await.0, 1000);
    // The place of each was given back.
    eventually("the place is free", async || Client::try_connect(engine.ws(), "/ws").await.ok()).await;
}

#[tokio::test]
async fn a_client_that_closes_after_a_while_in_what_is_not_read_is_noticed() {
    let engine = TestEngine::with(SCRIPT, NO_TIMES, "workers: 1");
    let mut watcher = watching(&engine).await;
    let mut raw = Raw::open(engine.ws()).await;
    assert_eq!(raw.ask("wait").await, "waiting");
    raw.write(much()).await;
    // The connection is not read any more when this arrives.
    tokio::time::sleep(Duration::from_millis(100)).await;
    raw.write(close(1000)).await;
    assert_eq!(watcher.text().await, format!("{MUCH} nil"));
}

#[tokio::test]
async fn a_client_that_leaves_with_more_than_the_system_holds_is_noticed_at_the_next_ping() {
    // Its end stands behind what has no room here, so that only an answer can tell.
    let engine = TestEngine::with(SCRIPT, "readTimeout: 0\npingInterval: 200ms", "workers: 1");
    let mut watcher = watching(&engine).await;
    let mut raw = Raw::open(engine.ws()).await;
    assert_eq!(raw.ask("wait").await, "waiting");
    let _ = timeout(Duration::from_millis(300), raw.stream.write_all(&much().repeat(100))).await;
    drop(raw);
    // It hears pings meanwhile, so that it would wait without end.
    let end = timeout(PATIENCE, watcher.text()).await.unwrap();
    assert!(end.ends_with(" Connection reset by peer (os error 104)"), "{end}");
}

#[tokio::test]
async fn a_client_that_leaves_with_much_behind_its_handshake_is_noticed_and_on_close_is_told_once() {
    let engine = TestEngine::with(SCRIPT, NO_TIMES, "workers: 1");
    let mut watcher = watching(&engine).await;
    for way in ["end", "reset", "close frame", "little", "little reset"] {
        let mut raw = Raw::dial(engine.ws()).await;
        raw.write(upgrade_with("wait: yes\r\n")).await;
        assert_eq!(watcher.text().await, "asked");
        match way {
            "end" | "reset" => raw.write(much().repeat(5)).await,
            "close frame" => raw.write(close(1000)).await,
            _ => raw.write(text("early")).await,
        }
        if way.ends_with("reset") {
            reset(raw);
        } else if way != "close frame" {
            drop(raw);
        }
        assert_eq!(watcher.text().await, format!("0 {EARLY}"), "{way}");
    }
    // Once each, and the place is free.
    let mut other = eventually("the place is free", async || Client::try_connect(engine.ws(), "/ws").await.ok()).await;
    other.send("something").await;
    other.close().await;
    assert_eq!(watcher.text().await, "1 nil");
}

#[tokio::test]
async fn a_machine_that_is_off_is_silent_while_much_waits_too() {
    let engine = TestEngine::with(SCRIPT, "readTimeout: 2s\npingInterval: 200ms", "workers: 1");
    let mut watcher = Raw::open(engine.ws()).await;
    assert_eq!(watcher.ask("watch").await, "watching");
    let (gone, mut alive) = (waiting(engine.ws()).await, waiting(engine.ws()).await);
    vanish(&gone);
    let end = heard(&mut watcher).await;
    assert!(end.ends_with(" read timeout"), "{end}");
    // The other is not read either, but its machine answers; and it hears pings.
    assert_eq!(alive.frame().await, Some((PING, Vec::new())));
    assert_eq!(alive.frame().await, Some((PING, Vec::new())));
    // In a handshake too, where no pings go.
    let mut early = Raw::dial(engine.ws()).await;
    early.write([upgrade_with("wait: yes\r\n").as_bytes(), &much()].concat()).await;
    assert_eq!(heard(&mut watcher).await, "asked");
    vanish(&early);
    let end = heard(&mut watcher).await;
    assert!(end.ends_with(" read timeout"), "{end}");
}

/// The next text that comes to a client, which answers the pings before it.
async fn heard(raw: &mut Raw) -> String {
    let heard = async {
        loop {
            match raw.frame().await {
                Some((PING, payload)) => raw.write(frame(FIN | PONG, &payload)).await,
                Some((TEXT, text)) => break String::from_utf8(text).unwrap(),
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(PATIENCE, heard).await.unwrap()
}

// Socket servers.

const LINES: &str = r#"
    function protocol_input(buf)
      local at = buf:tostring():find("\n", 1, true)
      return at or 0
    end
    function protocol_decode(line) return line:sub(1, -2) end
    function protocol_encode(data) return data .. "\n" end
    function on_connect(id, conn) mix.mesh.publish("log", "connect") end
    function on_message(msg, conn)
      if msg == "watch" then
        conn:subscribe("log")
        conn:send("watching\n")
      elseif msg == "wait" then
        conn:send("waiting\n")
        conn:wait_context_value("never")
      elseif msg ~= "" then
        conn:send(("."):rep(1000) .. "\n")
      end
    end
    function on_close(id, err) mix.mesh.publish("log", "close " .. tostring(err)) end
"#;

fn lines(server: &str) -> TestEngine {
    lines_with(LINES, server)
}

fn lines_with(script: &str, server: &str) -> TestEngine {
    TestEngine::start(lines_folder(script, server))
}

fn lines_folder(script: &str, server: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    common::write_config(&dir.path().join("connmix.yaml"), server, "workers: 1", "");
    let file = dir.path().join("connmix.yaml");
    let config = std::fs::read_to_string(&file).unwrap();
    // The watching clients use a server without these timeouts.
    let more = "    - {port: 0, bind: 127.0.0.1, protocol: socket, entry: entry.lua, readTimeout: 0}\n";
    std::fs::write(&file, config.replace("protocol: websocket", "protocol: socket") + more).unwrap();
    dir
}

async fn line_watcher(engine: &TestEngine) -> Raw {
    let mut watcher = Raw::dial(engine.at.servers[1]).await;
    watcher.write("watch\n").await;
    assert_eq!(watcher.line().await, "watching");
    watcher
}

async fn line_waiting(engine: &TestEngine, watcher: &mut Raw) -> Raw {
    let mut raw = Raw::dial(engine.ws()).await;
    raw.write("wait\n").await;
    assert_eq!(raw.line().await, "waiting");
    assert_eq!(watcher.line().await, "connect");
    raw.write(vec![b'\n'; 700 * 1024]).await;
    raw
}

#[tokio::test]
async fn a_socket_servers_client_that_is_reset_while_much_waits_is_noticed() {
    let engine = lines("readTimeout: 0");
    let mut watcher = line_watcher(&engine).await;
    reset(line_waiting(&engine, &mut watcher).await);
    assert_eq!(watcher.line().await, "close Connection reset by peer (os error 104)");
}

#[tokio::test]
async fn a_socket_servers_client_that_ends_or_vanishes_while_much_waits_is_silent() {
    let engine = lines("readTimeout: 1s");
    let mut watcher = line_watcher(&engine).await;
    // One that only sends no more, and one whose machine is off.
    for way in ["end", "vanish"] {
        let mut raw = line_waiting(&engine, &mut watcher).await;
        if way == "end" {
            raw.stream.shutdown().await.unwrap();
        } else {
            vanish(&raw);
        }
        assert_eq!(watcher.line().await, "close read timeout", "{way}");
    }
}

#[tokio::test]
async fn what_came_before_the_end_is_handled_though_nobody_takes_the_answers() {
    const ALL: usize = 3000;
    let script = r#"
        local handled = 0
        function on_message(msg, conn)
          if msg.data == "watch" then
            conn:subscribe("log")
            return conn:send("watching")
          end
          handled = handled + 1
          conn:send(("."):rep(1000))
        end
        function on_close(id, err)
          mix.mesh.publish("log", handled .. " " .. tostring(err))
          handled = 0
        end"#;
    // Its end comes before the reset that answers gone astray cause.
    let leave = |socket: std::net::TcpStream| socket.shutdown(std::net::Shutdown::Write).unwrap();
    let engine = TestEngine::with(script, "outboxLimit: 64MiB", "workers: 1");
    let mut watcher = watching(&engine).await;
    for (last, end) in [(close(1000), "nil"), (Vec::new(), SILENTLY)] {
        let mut socket = std::net::TcpStream::connect(engine.ws()).unwrap();
        let request = upgrade_with("");
        socket.write_all(&[request.as_bytes(), &text("x").repeat(ALL), &last].concat()).unwrap();
        leave(socket);
        assert_eq!(watcher.text().await, format!("{ALL} {end}"));
    }
    let engine = lines("outboxLimit: 64MiB");
    let mut watcher = line_watcher(&engine).await;
    let mut socket = std::net::TcpStream::connect(engine.ws()).unwrap();
    socket.write_all("x\n".repeat(ALL).as_bytes()).unwrap();
    leave(socket);
    assert_eq!(watcher.line().await, "connect");
    assert_eq!(watcher.line().await, "close nil");
}

// A VM that is full.

/// The value of a figure on the engine's page.
const FULL: &str = r#"
    function on_handshake(id, headers) if headers.ask then return false, 418 end end
    function on_message(msg, conn)
      if msg.data == "wait" then
        conn:send("waiting")
        conn:wait_context_value("never")
      end
      conn:send("VERSION " .. msg.data)
    end
    function on_close(id, err) end
"#;

#[tokio::test]
async fn clients_that_leave_while_a_vm_is_full_are_not_counted_any_more() {
    let engine = TestEngine::with_waiting(FULL, 1, "readTimeout: 0\npingInterval: 0");
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Raw::open(engine.ws()).await);
    }
    let mut first = engine.connect().await;
    assert_eq!(first.ask("wait").await, "waiting");
    for client in &mut clients {
        client.write([text("one"), text("two")].concat()).await;
    }
    // These wait for a place even to be asked.
    for _ in 0..20 {
        let mut raw = Raw::dial(engine.ws()).await;
        raw.write(upgrade_with("") + "and early").await;
        clients.push(raw);
    }
    eventually("all are there", async || (engine.figure("connmix_engine_servers_clients").await == 41.0).then_some(()))
        .await;
    drop(clients);
    eventually("they are gone", async || (engine.figure("connmix_engine_servers_clients").await == 1.0).then_some(()))
        .await;
}

#[tokio::test]
async fn a_reload_lets_go_on_who_waits_for_a_place_and_what_still_runs_is_measured() {
    let engine = TestEngine::with_waiting(&FULL.replace("VERSION", "1"), 1, "readTimeout: 0\npingInterval: 0");
    let mut second = engine.connect().await;
    let mut first = engine.connect().await;
    assert_eq!(first.ask("wait").await, "waiting");
    second.send("hello").await;
    let mut third = Raw::dial(engine.ws()).await;
    third.write(upgrade_with("ask: yes\r\n")).await;
    eventually("they wait", async || {
        let there = engine.figure("connmix_engine_servers_clients").await == 3.0;
        (there && engine.figure("connmix_engine_waiting_handlers{worker=\"0\"}").await == 1.0).then_some(())
    })
    .await;
    let before = engine.figure("connmix_engine_lua_memory_bytes{worker=\"0\"}").await;
    std::fs::write(engine.path("entry.lua"), FULL.replace("VERSION", "2")).unwrap();
    assert_eq!(second.text().await, "2 hello");
    assert_eq!(third.head().await.status, 418);
    // The first still waits in the VM that was replaced.
    eventually("both are measured", async || {
        let memory = engine.figure("connmix_engine_lua_memory_bytes{worker=\"0\"}").await;
        (memory > before * 1.5 && engine.figure("connmix_engine_waiting_handlers{worker=\"0\"}").await == 1.0)
            .then_some(())
    })
    .await;
    first.close().await;
    eventually("it has ended", async || {
        let memory = engine.figure("connmix_engine_lua_memory_bytes{worker=\"0\"}").await;
        (memory < before * 1.5 && engine.figure("connmix_engine_waiting_handlers{worker=\"0\"}").await == 0.0)
            .then_some(())
    })
    .await;
}

// What is begun, and what is waited for.

#[tokio::test]
async fn a_publish_that_waits_for_room_reaches_all_though_its_client_has_gone() {
    const LARGE: usize = 9 * 1024 * 1024;
    let script = format!(
        r#"
        local large = ("x"):rep({LARGE})
        function on_message(msg, conn)
          if msg.data == "join" then
            conn:subscribe("news")
            conn:send(conn:client_id())
          elseif msg.data == "busy" then
            conn:send("busy")
            mix.sleep(0.01)
            local deadline = mix.now() + 1
            while mix.now() < deadline do end
          else
            if msg.data == "close" then conn:close() end
            for i = 1, 3 do mix.mesh.publish("news", i .. large) end
            mix.mesh.publish("news", "4")
            mix.mesh.publish("news", "5", "text", {{counts = false}})
          end
        end"#
    );
    let server = "outboxLimit: 64MiB\nhandlerTimeout: 10s\nwriteTimeout: 60s";
    let engine = TestEngine::with(&script, server, "workers: 2");
    // Two on each worker: one that listens, and one that keeps its worker busy or publishes.
    let mut clients: Vec<Vec<Client>> = vec![Vec::new(), Vec::new()];
    for _ in 0..6 {
        let mut client = engine.connect().await;
        let id: usize = client.ask("join").await.parse().unwrap();
        clients[id % 2].push(client);
    }
    let [here, there] = &mut clients[..] else { panic!() };
    for how in ["leave", "close"] {
        assert_eq!(there[0].ask("busy").await, "busy");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut publisher = here.pop().unwrap();
        publisher.send(how).await;
        if how == "leave" {
            drop(publisher);
        }
        for member in [&mut here[0], &mut there[1]] {
            for n in ["1", "2", "3", "4", "5"] {
                let text = member.text().await;
                assert!(text.starts_with(n) && (text.len() > LARGE || n > "3"), "{how}: {n}, got {}", &text[..1]);
            }
        }
        for n in ["1", "2", "3", "4", "5"] {
            assert!(there[0].text().await.starts_with(n));
        }
    }
}

#[tokio::test]
async fn a_value_that_is_set_and_removed_at_once_ends_the_wait_for_it() {
    let script = r#"
        function on_message(msg, conn)
          conn:send(conn:client_id())
          conn:send("got " .. tostring(conn:wait_context_value("key")))
        end"#;
    let engine = TestEngine::with(script, "", "workers: 2");
    let mut api = Client::connect(engine.at.api, "/ws/v1").await;
    for n in 0..20 {
        let mut client = engine.connect().await;
        let id = client.ask("wait").await;
        let set = |value: &str| {
            format!(r#"{{"m":"conn.call","p":{{"c":"{id}","f":"set_context_value","a":["key",{value}]}},"i":1}}"#)
        };
        for request in [set(&n.to_string()), set("null")] {
            futures_util::SinkExt::feed(&mut api.0, request.into()).await.unwrap();
        }
        futures_util::SinkExt::flush(&mut api.0).await.unwrap();
        assert_eq!(client.text().await, format!("got {n}"));
        assert!(api.text().await.contains(r#""s":true"#) && api.text().await.contains(r#""s":true"#));
    }
}

#[tokio::test]
async fn small_messages_count_for_what_they_take() {
    let script = r#"
        function on_handshake(id, headers, server, conn)
          local taken = 0
          while taken < 30000 and not conn:send("") do taken = taken + 1 end
          conn:set_context_value("taken", taken)
        end
        function on_message() end
        function on_close(id, err, conn) mix.mesh.publish("log", conn:context_value("taken") .. " " .. err) end
        "#;
    let watched = format!(
        "{script}\nlocal f = on_handshake function on_handshake(id, headers, server, conn) if headers.watch then conn:subscribe('log') else f(id, headers, server, conn) end end"
    );
    let engine = TestEngine::with(&watched, "outboxLimit: 64KiB\nhandlerTimeout: 10s", "workers: 1");
    let mut watcher = Raw::dial(engine.ws()).await;
    assert_eq!(watcher.call(upgrade_with("watch: yes\r\n")).await.status, 101);
    let mut raw = Raw::dial(engine.ws()).await;
    raw.write(upgrade_with("")).await;
    // Frames of two bytes: without what each takes besides, 32,768 would have room.
    assert_eq!(watcher.text().await, "1927 client too slow: outbox limit reached");
}

#[tokio::test]
async fn subscribing_again_at_the_limit_of_channels_is_no_error() {
    let script = r#"
        function on_message(msg, conn)
          for i = 1, 65535, 1285 do
            local names = {}
            for j = i, i + 1284 do names[#names + 1] = "c" .. j end
            assert(not conn:subscribe(unpack(names)))
          end
          local function try(...) return tostring(conn:subscribe(...)):match("nil") or "err" end
          conn:send(table.concat({
            try("a", "b"), try("a", "a", "c1"), try("a", "c1", "c2"), try("b"), try("c1", "b"), #conn:channels(),
          }, " "))
        end"#;
    let engine = TestEngine::with(script, "handlerTimeout: 20s", "workers: 1");
    assert_eq!(engine.connect().await.ask("go").await, "err nil nil err err 65536");
}

#[tokio::test]
async fn an_error_of_the_decoding_is_counted_as_that() {
    let script = LINES.replace(
        "return line:sub(1, -2)",
        "if line == 'bad\\n' then mix.sleep(0.001) error('not that') end return line:sub(1, -2)",
    );
    let script = script.replace("if msg == \"watch\"", "if msg == 'oops' then error('oops') end if msg == \"watch\"");
    let engine = lines_with(&script, "");
    let figure = async |hook: &str| {
        let (_, page) = get(engine.at.api, "/metrics").await;
        let wanted = format!("hook=\"{hook}\"");
        let lines =
            page.lines().filter(|l| l.starts_with("connmix_engine_handler_errors_total") && l.contains(&wanted));
        lines.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    for (package, decode, message) in [("bad\n", 1, 0), ("oops\n", 1, 1)] {
        let mut raw = Raw::dial(engine.ws()).await;
        raw.write(package).await;
        raw.ends().await;
        assert_eq!((figure("protocol_decode").await, figure("on_message").await), (decode, message));
    }
}

#[tokio::test]
async fn a_connection_that_ends_before_on_connect_ran_is_none_for_on_close() {
    let engine = {
        let dir = lines_folder(LINES, "readTimeout: 1s");
        TestEngine::try_start_with(dir, |config| config.luavm.waiting = 1).unwrap()
    };
    let mut watcher = line_watcher(&engine).await;
    let mut first = Raw::dial(engine.ws()).await;
    first.write("wait\n").await;
    assert_eq!(first.line().await, "waiting");
    assert_eq!(watcher.line().await, "connect");
    // There is no place for its on_connect.
    let mut second = Raw::dial(engine.ws()).await;
    eventually("it is there", async || (engine.figure("connmix_engine_servers_clients").await == 3.0).then_some(()))
        .await;
    second.stream.shutdown().await.unwrap();
    eventually("it has gone", async || {
        first.write("\n").await;
        (engine.figure("connmix_engine_servers_clients").await == 2.0).then_some(())
    })
    .await;
    drop(first);
    assert_eq!(watcher.line().await, "close read timeout");
    let _third = Raw::dial(engine.ws()).await;
    assert_eq!(watcher.line().await, "connect");
}
