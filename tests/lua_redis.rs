//! `mix.redis` against a real Redis that each test starts: values both ways, the pool and its ends, passwords, and a
//! server that is killed and comes back.

mod common;

use common::redis::Redis;
use common::*;
use std::time::{Duration, Instant};

/// Runs what it is sent as Lua and answers with all that it returns. `r` is the Redis "default".
const SCRIPT: &str = r#"
    local show
    function show(v)
      if type(v) == "number" then return string.format("%.17g", v) end
      if type(v) == "string" then return "'" .. v:gsub("[^\32-\126]", function(c) return ("\\x%02x"):format(c:byte()) end) .. "'" end
      if type(v) ~= "table" then return tostring(v) end
      if v.err then return "{err=" .. show(v.err) .. "}" end
      local n, words = table.maxn(v), {}
      for i = 1, n do words[i] = show(v[i]) end
      return "[" .. table.concat(words, " ") .. "]"
    end
    local function answer(...)
      local words = {}
      for i = 1, select('#', ...) do words[i] = show((select(i, ...))) end
      return table.concat(words, " ")
    end
    r = mix.redis.connection("default")
    function on_message(msg, conn)
      conn:send(answer(assert(loadstring(msg.data))()))
    end
"#;

fn engine(script: &str, redis: &str, workers: usize) -> TestEngine {
    TestEngine::with(script, "", &format!("workers: {workers}\nluavm:\n  redis:\n    - {{{redis}}}"))
}

fn rig_of(redis: &Redis, keys: &str) -> TestEngine {
    engine(SCRIPT, &format!("name: default, addr: '127.0.0.1:{}'{keys}", redis.port), 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_are_numbers_strings_tables_and_nil() {
    let redis = Redis::start(&[]);
    let engine = rig_of(&redis, "");
    let mut client = engine.connect().await;
    for (call, answer) in [
        ("r:command('set', 'k', 'v')", "'OK' nil"),
        ("r:command('GET', 'k')", "'v' nil"),
        ("r:command('get', 'none')", "nil nil"),
        ("r:command('del', 'k', 'none')", "1 nil"),
        ("r:command('set', 'b', '\\0\\255\\r\\n\\200')", "'OK' nil"),
        ("r:command('get', 'b')", "'\\x00\\xff\\x0d\\x0a\\xc8' nil"),
        ("r:command('set', 'n', 41)", "'OK' nil"),
        ("r:command('incr', 'n')", "42 nil"),
        ("r:command('set', 'n', 9007199254740991)", "'OK' nil"),
        ("r:command('incr', 'n')", "9007199254740992 nil"),
        ("r:command('incr', 'n')", "'9007199254740993' nil"),
        ("r:command('decrby', 'neg', 5)", "-5 nil"),
        ("r:command('incrbyfloat', 'f', 0.1)", "'0.1' nil"),
        ("r:command('echo', 1e300)", "'1e300' nil"),
        ("r:command('echo', '')", "'' nil"),
        ("r:command('mset', 'x', 1, 'z', 3)", "'OK' nil"),
        ("r:command('mget', 'x', 'y', 'z')", "['1' nil '3'] nil"),
        ("r:command('lrange', 'none', 0, -1)", "[] nil"),
        ("mix.json_encode((r:command('lrange', 'none', 0, -1)))", "'[]' nil"),
        ("r:command('eval', 'return {1, {2, {false, \"a\"}, {}}, 3}', 0)", "[1 [2 [nil 'a'] []] 3] nil"),
        // An error in an array is no string, however deep; alone it is the err.
        ("r:command('eval', 'return {1, redis.error_reply(\"MY X\"), \"MY X\"}', 0)", "[1 {err='MY X'} 'MY X'] nil"),
        (
            "r:command('eval', 'return {{{redis.pcall(\"lpush\", \"x\", 1)}, 2}, {err = \"ERR E\"}}', 0)",
            "[[[{err='WRONGTYPE Operation against a key holding the wrong kind of value'}] 2] {err='ERR E'}] nil",
        ),
        ("r:command('eval', 'return redis.error_reply(\"MY X\")', 0)", "nil 'MY X'"),
        ("r:command('lpush', 'x', 1)", "nil 'WRONGTYPE Operation against a key holding the wrong kind of value'"),
        ("r:command('get')", "nil 'ERR wrong number of arguments for 'get' command'"),
        ("tostring(r)", "'redis default'"),
    ] {
        assert_eq!(client.ask(&format!("return {call}")).await, answer, "{call}");
    }
    assert_eq!(
        client.ask("return mix.redis.connection('other')").await,
        "nil 'no Redis is called \"other\" under engine.luavm.redis'"
    );
    for (call, error) in [
        ("mix.redis.connection()", "bad argument #1 to 'connection' (string expected, got no value)"),
        ("r:command()", "bad argument #1 to 'command' (string expected, got no value)"),
        ("r:command('set', 'k', nil)", "bad argument #3 to 'command' (string expected, got nil)"),
        ("r:command('set', {})", "bad argument #2 to 'command' (string expected, got table)"),
        ("r.command('get', 'k')", "not a Redis: got string where one was expected"),
    ] {
        let answer = client.ask(&format!("return pcall(function() local v = {call} end)")).await;
        assert!(answer.starts_with("false '") && answer.contains(error), "{call}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_and_deep_replies_arrive_and_too_large_ones_are_an_err() {
    let redis = Redis::start(&[]);
    let engine = rig_of(&redis, "");
    let mut client = engine.connect().await;
    let deep = "local t = {} for i = 1, 90 do t = {t} end return t";
    assert_eq!(
        client.ask(&format!("local v, e = r:command('eval', '{deep}', 0) return e")).await,
        "nil",
        "tables inside one another"
    );
    let big = "redis.call('setrange', 'big', ARGV[1] - 1, 'x') return 1";
    for (bytes, answer) in [(15 << 20, format!("{} nil", 15 << 20)), (1 << 20, format!("{} nil", 1 << 20))] {
        let call = format!(
            "r:command('del', 'big') r:command('eval', \"{big}\", 0, {bytes}) \
             local v, e = r:command('get', 'big') return v and #v, e"
        );
        assert_eq!(client.ask(&call).await, answer);
    }
    let call = format!(
        "r:command('eval', \"{big}\", 0, {}) local v, e = r:command('get', 'big') return v and #v, e",
        17 << 20
    );
    let answer = client.ask(&call).await;
    assert!(answer.ends_with("the reply has more than 16777216 bytes'"), "{answer}");
    assert_eq!(client.ask("return r:command('echo', 'on')").await, "'on' nil", "the next command is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_handlers_share_a_few_connections() {
    const HANDLERS: usize = 1000;
    let redis = Redis::start(&[]);
    let script = r#"
        function on_message(msg, conn)
          local r = mix.redis.connection("default")
          local n, err = r:command("incr", "count")
          local mine = r:command("echo", conn:client_id())
          conn:send(err or mine ~= conn:client_id() and "another's reply" or "ok " .. n)
        end"#;
    let engine = engine(script, &format!("name: default, addr: 'localhost:{}', poolSize: 4", redis.port), 3);
    let mut clients = Vec::new();
    for _ in 0..HANDLERS {
        clients.push(engine.connect().await);
    }
    for client in &mut clients {
        client.send("go").await;
    }
    let mut counts = Vec::new();
    for client in &mut clients {
        let answer = client.text().await;
        counts.push(answer.strip_prefix("ok ").unwrap_or_else(|| panic!("{answer}")).parse::<usize>().unwrap());
    }
    counts.sort();
    assert_eq!(counts, (1..=HANDLERS).collect::<Vec<_>>(), "each command ran once");
    let open = redis.connections();
    assert!((1..=4).contains(&open), "{open} connections of 4 are open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_away_is_an_err_and_its_return_is_noticed() {
    let mut redis = Redis::start(&[]);
    let engine = rig_of(&redis, ", minIdleConns: 3");
    let mut client = engine.connect().await;
    assert_eq!(client.ask("return r:command('set', 'k', 1)").await, "'OK' nil");
    eventually("the pool holds idle connections", async || (redis.connections() >= 3).then_some(())).await;
    // A handler's command is under way when it goes.
    let mut waiting = engine.connect().await;
    waiting.send("return r:command('blpop', 'q', 0)").await;
    eventually("the command has arrived", async || redis.ask("CLIENT LIST").contains("cmd=blpop").then_some(())).await;
    redis.kill();
    let answer = waiting.text().await;
    let place = format!("redis default (127.0.0.1:{})", redis.port);
    assert_eq!(answer, format!("nil '{place}: the server closed the connection'"));
    for _ in 0..5 {
        let asked = Instant::now();
        let answer = client.ask("return r:command('get', 'k')").await;
        assert_eq!(answer, format!("nil '{place}: Connection refused (os error 111)'"));
        assert!(asked.elapsed() < Duration::from_secs(4), "told at once");
    }
    redis.restart();
    assert_eq!(client.ask("return r:command('set', 'k', 2)").await, "'OK' nil");
    // Again, but no command meanwhile: connections that died idle are not used.
    redis.kill();
    redis.restart();
    for _ in 0..5 {
        assert_eq!(client.ask("return r:command('get', 'k')").await, "nil nil");
    }
    eventually("idle connections are made anew", async || (redis.connections() >= 3).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn password_and_database_are_used_and_never_told() {
    let redis = Redis::start(&["--requirepass", "sesame-1"]);
    let engine = engine(
        SCRIPT,
        &format!(
            "name: default, addr: '127.0.0.1:{0}', password: sesame-1, db: 3}}\n    \
             - {{name: wrong, addr: '127.0.0.1:{0}', password: secret-2}}\n    \
             - {{name: far, addr: '127.0.0.1:{0}', password: sesame-1, db: 99}}\n    \
             - {{name: none, addr: '127.0.0.1:{0}'",
            redis.port
        ),
        1,
    );
    let mut client = engine.connect().await;
    assert_eq!(client.ask("return r:command('set', 'k', 'in 3')").await, "'OK' nil");
    let info = client.ask("return r:command('client', 'list')").await;
    assert!(info.contains(" db=3 "), "{info}");
    for (name, error) in [
        ("wrong", "WRONGPASS invalid username-password pair or user is disabled."),
        ("far", "ERR DB index is out of range"),
    ] {
        let answer = client.ask(&format!("return mix.redis.connection('{name}'):command('get', 'k')")).await;
        assert_eq!(answer, format!("nil 'redis {name} (127.0.0.1:{}): {error}'", redis.port));
    }
    let answer = client.ask("return mix.redis.connection('none'):command('get', 'k')").await;
    assert_eq!(answer, "nil 'NOAUTH Authentication required.'");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_all_connections_in_use_waits_and_then_gets_an_err() {
    let redis = Redis::start(&[]);
    let engine = rig_of(&redis, ", poolSize: 1, minIdleConns: 1");
    let (mut holder, mut waiter, mut late) = (engine.connect().await, engine.connect().await, engine.connect().await);
    holder.send("return r:command('blpop', 'q', 0)").await;
    eventually("the connection is in use", async || redis.ask("CLIENT LIST").contains("cmd=blpop").then_some(())).await;
    // Asked while all are in use, served when one is free.
    waiter.send("return r:command('echo', 'served')").await;
    assert_eq!(redis.ask("LPUSH q one"), ":1");
    assert_eq!(holder.text().await, "['q' 'one'] nil");
    assert_eq!(waiter.text().await, "'served' nil");

    holder.send("return r:command('blpop', 'q', 0)").await;
    eventually("the connection is in use", async || redis.ask("CLIENT LIST").contains("cmd=blpop").then_some(())).await;
    let answer = late.ask("return r:command('echo', 'never')").await;
    let place = format!("redis default (127.0.0.1:{})", redis.port);
    assert_eq!(answer, format!("nil '{place}: all 1 connections (poolSize) were in use for 4s'"));
    // Its client's end gives the blocked command up, and its connection is free for others; nothing is popped for nobody.
    holder.close().await;
    eventually("the command is given up", async || (!redis.ask("CLIENT LIST").contains("cmd=blpop")).then_some(()))
        .await;
    assert_eq!(late.ask("return r:command('lpush', 'q', 'two')").await, "1 nil");
    assert_eq!(late.ask("return r:command('blpop', 'q', 1)").await, "['q' 'two'] nil");
    assert_eq!(late.ask("return r:command('blpop', 'q', 0.05)").await, "nil nil", "its time is up");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_end_with_their_age() {
    let redis = Redis::start(&[]);
    let engine = rig_of(&redis, ", maxConnAge: 300ms, idleTimeout: 0, minIdleConns: 0");
    let mut client = engine.connect().await;
    let id = "return r:command('client', 'id')";
    let first = client.ask(id).await;
    assert_eq!(client.ask(id).await, first, "one that is free is used again");
    eventually("too old, it is closed though nobody asks for another", async || {
        (redis.connections() == 0).then_some(())
    })
    .await;
    assert_ne!(client.ask(id).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_beyond_the_least_number_end() {
    let redis = Redis::start(&[]);
    let engine = rig_of(&redis, ", idleTimeout: 300ms, minIdleConns: 1");
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = engine.connect().await;
        client.send("return r:command('blpop', 'q', 0)").await;
        clients.push(client);
    }
    eventually("four are in use", async || (redis.ask("CLIENT LIST").matches("cmd=blpop").count() == 4).then_some(()))
        .await;
    redis.ask("LPUSH q 1 2 3 4");
    for client in &mut clients {
        assert!(client.text().await.starts_with("['q' '"));
    }
    eventually("one is left", async || (redis.connections() == 1).then_some(())).await;
    assert!(engine.shutdown().await);
    eventually("none outlives the engine", async || (redis.connections() == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_would_change_a_shared_connection_are_refused() {
    let redis = Redis::start(&[]);
    let engine = rig_of(&redis, "");
    let mut client = engine.connect().await;
    for command in ["'subscribe', 'c'", "'MULTI'", "'select', 1", "'monitor'", "'client', 'reply', 'off'"] {
        let answer = client.ask(&format!("return r:command({command})")).await;
        assert!(
            answer.ends_with("is not possible here: it would change a connection that all scripts share'"),
            "{answer}"
        );
    }
    assert_eq!(client.ask("return r:command('publish', 'c', 'm')").await, "0 nil");
}

#[tokio::test(flavor = "multi_thread")]
async fn push_puts_data_and_whose_it_is_into_a_list() {
    let redis = Redis::start(&[]);
    let engine = rig_of(&redis, "");
    let mut client = engine.connect().await;
    let id = client.ask("return mix.websocket():client_id()").await.replace('\'', "");
    assert_eq!(client.ask("return mix.redis.push('q', 'a \"b\"')").await, "1 nil");
    assert_eq!(client.ask("return mix.redis.push('q', {list = mix.json_array({}), n = 1})").await, "2 nil");
    assert!(client.ask("return mix.redis.push('q', print)").await.starts_with("nil 'can"));
    let mut popped = Vec::new();
    for _ in 0..2 {
        let text = client.ask("return r:command('rpop', 'q')").await;
        let text = text.strip_prefix('\'').unwrap().strip_suffix("' nil").unwrap();
        popped.push(serde_json::from_str::<serde_json::Value>(text).unwrap());
    }
    let node = popped[0]["n"].as_str().expect("the node is text").to_owned();
    assert!(node.parse::<u64>().is_ok(), "{node}");
    assert_eq!(popped[0], serde_json::json!({"n": node, "c": id, "t": "q", "d": "a \"b\""}));
    assert_eq!(popped[1], serde_json::json!({"n": node, "c": id, "t": "q", "d": {"list": [], "n": 1}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_though_its_client_has_gone() {
    let redis = Redis::start(&[]);
    let script = r#"
        function on_message(msg, conn)
          local r = mix.redis.connection("default")
          r:command("set", "began", 1)
          mix.sleep(60)
          -- It takes a while, so that its reply is not there already when it is begun.
          local slow = "redis.call('set', 'during', 1) for i = 1, 1e7 do end"
          local _, err = r:command("eval", slow, 0)
          ended = err
        end
        function on_close(client_id, err, conn)
          local v, e = mix.redis.connection("default"):command("set", "closed", ended)
        end"#;
    let engine = engine(script, &format!("name: default, addr: '127.0.0.1:{}'", redis.port), 1);
    let mut client = engine.connect().await;
    client.send("go").await;
    eventually("the handler has begun", async || (redis.ask("GET began") != "$-1").then_some(())).await;
    client.close().await;
    eventually("on_close has run", async || (redis.ask("GET closed") != "$-1").then_some(())).await;
    assert!(redis.ask("GET closed").ends_with("the connection has closed"));
    eventually("what was not waited for was sent", async || (redis.ask("GET during") != "$-1").then_some(())).await;
}
