//! What a script can't do: hold its worker, take its memory, reach what is not its own, or start when it is broken.

mod common;

use common::*;
use std::time::{Duration, Instant};

/// Runs what it is sent, and sends back what that returns, or its error.
const EVAL: &str = r#"
    local function pack(...) return { n = select('#', ...), ... } end
    function on_message(msg, conn)
      if msg.data == "ping" then return conn:send("pong") end
      local how, code = msg.data:match("^(%w+): (.*)")
      if how == "caught" then
        pcall(loadstring(code))
        return
      elseif how == "uncaught" then
        return loadstring(code)()
      end
      local f, e = loadstring(msg.data, "@chunk.lua")
      local results = pack(pcall(f or error, not f and e or nil))
      for i = 1, results.n do results[i] = tostring(results[i]) end
      conn:send(table.concat(results, " ", 2, results.n))
    end"#;

/// Scripts that would never end, or not for a long time.
const RUNAWAYS: &[&str] = &[
    "while true do end",
    "repeat until false",
    "::again:: goto again",
    "for i = 1, 1e18 do local x = i * 2 end",
    "local function f() return f() end f()",
    "local x = 0 while true do x = x + math.sin(x) end",
    "while true do pcall(error) end",
    "while true do pcall(function() while true do end end) end",
    "local function f() pcall(f) while true do pcall(f) end end f()",
    "while true do xpcall(error, function() while true do end end) end",
    "xpcall(error, function() while true do end end)",
    // The watchdog's own error is not handled by what loops again.
    "xpcall(function() while true do end end, function() while true do end end)",
    "coroutine.wrap(function() xpcall(function() while true do end end, function() while true do end end) end)()",
    "xpcall(function() xpcall(function() while true do end end, function() while true do end end) end, function() while true do end end)",
    "xpcall(function() while true do end end, function() pcall(error) while true do end end)",
    "xpcall(error, function() pcall(error) while true do end end)",
    "xpcall(error, function() pcall(error) error('again') end) while true do xpcall(error, error) end",
    "while true do xpcall(function() while true do end end, debug.traceback) end",
    "local function h() pcall(error) return xpcall(error, h) end while true do xpcall(error, h) end",
    "xpcall(error, function() coroutine.wrap(function() while true do end end)() end)",
    "local f f = function() return 1 + f() end xpcall(f, function() while true do end end)",
    "xpcall(error, function() mix.sleep(0.001) while true do end end)",
    "local t = setmetatable({}, { __index = function() while true do end end }) xpcall(function() return t.x end, function() return t.x end)",
    "local function f(n) if n > 0 then return 1 + f(n - 1) end while true do debug.traceback() debug.getinfo(15000) end end f(15000)",
    "while true do coroutine.wrap(function() while true do end end)() end",
    "while true do coroutine.wrap(function() coroutine.yield() end)() end",
    "while true do coroutine.resume(coroutine.create(function() while true do pcall(error) end end)) end",
    "local co co = coroutine.wrap(function() while true do coroutine.yield() end end) while true do co() end",
    "while true do local s = ('x'):rep(100000) end",
    "local s = '' while true do s = ('x'):rep(10) .. #s end",
    "while true do local s = ('x'):rep(100000):upper():reverse():lower() end",
    "local s = ('a'):rep(100) return s:find(('a-'):rep(50) .. 'b')",
    "local s = ('a'):rep(30000) return s:find('.-.-.-b')",
    "local s = ('a'):rep(100) return s:match(('a*'):rep(50) .. 'b')",
    "local s = ('a'):rep(100) return s:gsub(('a?'):rep(100) .. ('a'):rep(100) .. 'b', '')",
    "for x in (('a'):rep(200)):gmatch(('.-'):rep(40) .. 'b') do end",
    "while true do (('x'):rep(1000)):gsub('x', '%0%0') end",
    "local s = ('x'):rep(2 ^ 21) while true do s:gsub('.', function(c) return c end) end",
    "local s = ('x'):rep(2 ^ 21) while true do s:gsub('.', { x = 'y' }) end",
    "local s = ('x'):rep(2 ^ 21) while true do s:find('y', 1, true) end",
    "(('x'):rep(100)):gsub('.', function() while true do end end)",
    "(('x'):rep(100)):gsub('.', setmetatable({}, { __index = function() while true do end end }))",
    "local t = {} for i = 1, 1e6 do t[i] = i * 7919 % 1000003 end while true do table.sort(t) end",
    "local t = {} for i = 1, 1e6 do t[i] = i * 7919 % 1000003 end table.sort(t, function(a, b) return a < b end) while true do end",
    "table.sort({ 1, 2, 3 }, function() while true do end end)",
    "while true do pcall(table.sort, { 3, 1, 2, 5, 4 }, function() return true end) end",
    "load(function() while true do end end)",
    "while true do load(function() return ' ' end) end",
    // Texts that take the parser minutes, where no hook reaches.
    "return loadstring('x=a' .. (' or a'):rep(1e6))",
    "return loadstring('x=a' .. (' and a'):rep(1e6))",
    "return load('if a then ' .. ('elseif a then '):rep(5e5) .. ' end')",
    "while true do loadstring('return ' .. ('1+'):rep(1000) .. '1') end",
    "local t = setmetatable({}, { __index = function(t, k) while true do end end }) return t.x",
    "local t = setmetatable({}, { __newindex = function(t, k) while true do end end }) t.x = 1",
    "local t = setmetatable({}, { __eq = function() while true do end end }) return t == setmetatable({}, getmetatable(t))",
    "local t = setmetatable({}, { __concat = function() while true do end end }) return t .. 'x'",
    "local t = setmetatable({}, { __tostring = function() while true do end end }) return tostring(t)",
    "local t = setmetatable({}, { __tostring = function() while true do end end }) return ('%s'):format(t)",
    "local t = setmetatable({}, { __tostring = function() while true do end end }) print(t)",
    "local t = setmetatable({}, { __call = function(self) return self() end }) t()",
    "for x in function() return 1 end do end",
    "local t = { 1 } for k in pairs(t) do while true do end end",
    "table.foreach({ 1 }, function() while true do end end)",
    "local t = {} for i = 1, 1e5 do t[i] = i end while true do table.insert(t, 1, 0) table.remove(t, 1) end",
    "while true do local t = {} for i = 1, 100 do t[i] = {} end end",
    "while true do collectgarbage() end",
    "while true do mix.json_decode('[' .. ('1,'):rep(1000) .. '1]') end",
    "while true do mix.json_encode({ 1, 2, 3 }) end",
    "while true do mix.str_split(('a,'):rep(1000), ',') end",
    "while true do mix.md5(('x'):rep(100000)) end",
    "while true do mix.websocket():subscribe('a', 'b') end",
    "while true do mix.websocket():set_context_value('x', 1) end",
    "while true do mix.mesh.publish('nobody', 'x', 'text', { counts = false }) end",
    "while true do pcall(mix.json_decode) end",
    "local t = { 1 } for i = 1, 60 do t = { t, t } end mix.json_encode(t) while true do end",
    "local s = '[' .. ('1,'):rep(4e6) .. '1]' while true do mix.json_decode(s) end",
    "while true do mix.php_pack('x1000000') end",
    "mix.php_unpack('C*' .. ('/@0/C*'):rep(9000), ('x'):rep(2 ^ 20)) while true do end",
    "while true do pcall(require, 'nothing') end",
    "setmetatable(_G, { __index = function() while true do end end }) local ok = pcall(function() return nothing end)",
];

#[tokio::test]
async fn a_runaway_costs_its_connection_and_nobody_else() {
    let engine =
        TestEngine::with(EVAL, "handlerTimeout: 100ms", "workers: 1\nluavm: {memoryLimit: 256MiB, loadLimit: 8MiB}");
    let mut witness = engine.connect().await;
    for (nth, script) in RUNAWAYS.iter().enumerate() {
        let mut client = engine.connect().await;
        let began = Instant::now();
        client.send(script).await;
        let end = client.next().await;
        let took = began.elapsed();
        match end {
            Ok(m) if m.is_close() => assert_eq!(m.to_string(), "handler error", "{script}"),
            other => panic!("{script}: {other:?} after {took:?}"),
        }
        // Those after it have less time, since they come so soon.
        assert!(nth > 0 || took >= Duration::from_millis(80), "{script}: stopped after {took:?}");
        assert!(took < Duration::from_secs(15), "{script}: stopped only after {took:?}");
        witness.expect_only_reply("ping", "pong").await;
        client.close().await;
    }
    // The last one has spoilt it for all, as scripts can.
    let mut client = engine.connect().await;
    assert_eq!(client.ask("setmetatable(_G, nil) return 1 + 1").await, "2");
    // All of them at once.
    let mut clients = Vec::new();
    for script in &RUNAWAYS[..10] {
        let mut client = engine.connect().await;
        client.send(script).await;
        clients.push(client);
    }
    for mut client in clients {
        assert_eq!(client.close_frame().await.0, 1011);
    }
    witness.expect_only_reply("ping", "pong").await;
}

#[tokio::test]
async fn each_stretch_between_waits_has_its_own_budget() {
    let engine = TestEngine::with(EVAL, "handlerTimeout: 150ms", "workers: 1");
    let mut client = engine.connect().await;
    let script = "local function work() local e = mix.now() + 0.04 while mix.now() < e do end end \
                  for i = 1, 10 do work() mix.sleep(0) end return 'done'";
    assert_eq!(client.ask(script).await, "done");
    // Neither does a wait count, nor what a coroutine did before it.
    let script = "coroutine.wrap(function() mix.sleep(0.3) end)() return 'slept'";
    assert_eq!(client.ask(script).await, "slept");
    client.send("mix.sleep(0.01) while true do end").await;
    assert_eq!(client.close_frame().await.0, 1011);
}

#[tokio::test]
async fn a_hook_that_ends_in_a_runaway_is_stopped_too() {
    let script = r#"
        function on_handshake(id, headers, server)
          if server.RequestUri:find("loop") then while true do end end
          if server.RequestUri:find("header") then headers.x = nil return headers[("x"):rep(10)] end
        end
        function on_message(msg, conn) conn:send("pong") end
        function on_close(id)
          while true do pcall(mix.websocket) end
        end"#;
    let engine = TestEngine::with(script, "handlerTimeout: 50ms", "workers: 1");
    let refused = Client::try_connect(engine.ws(), "/ws?loop").await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("500"), "{refused}");
    let mut client = Client::connect(engine.ws(), "/ws?header").await;
    assert_eq!(client.ask("ping").await, "pong");
    client.close().await;
    assert_eq!(engine.connect().await.ask("ping").await, "pong");
}

/// What fails at once, with an error that says why.
#[tokio::test]
async fn what_can_not_be_done_fails_with_an_error() {
    let engine = TestEngine::with(EVAL, "handlerTimeout: 5s", "workers: 1\nluavm: {memoryLimit: 64MiB}");
    let mut client = engine.connect().await;
    for (script, error) in [
        ("local function f() return 1 + f() end f()", "stack overflow"),
        ("local t = setmetatable({}, { __index = function(t, k) return t[k + 1] end }) return t[1]", "stack overflow"),
        ("local function f() (function() f() end)() local x end f()", "stack overflow"),
        ("local function f() return coroutine.wrap(f)() end f()", "stack overflow"),
        (
            "local function f() local ok, e = coroutine.resume(coroutine.create(f)) if not ok then error(e, 0) end end f()",
            "stack overflow",
        ),
        ("local function f() ('x'):gsub('x', f) end f()", "stack overflow"),
        ("local function f() table.sort({ 1, 2, 3 }, f) end f()", "stack overflow"),
        (
            "local t t = setmetatable({}, { __tostring = function() return ('%s'):format(t) end }) return tostring(t)",
            "stack overflow",
        ),
        (
            "local t t = setmetatable({}, { __tostring = function() return 'x' .. tostring(t) end }) return tostring(t)",
            "stack overflow",
        ),
        ("local f f = function() coroutine.wrap(function() ('x'):gsub('x', f) end)() end f()", "stack overflow"),
        ("local m = module local function f() m('some.name', f) end f()", "stack overflow"),
        ("local f f = function() table.sort({ 1, 2, 3 }, coroutine.wrap(f)) end f()", "stack overflow"),
        ("return unpack({}, 1, 1e7)", "too many results to unpack"),
        ("return ('x'):rep(1e9)", "not enough memory"),
        ("return ('x'):rep(1e300)", ""),
        (
            "local t = {} for i = 1, 1000 do t[i] = ('x'):rep(100000) end return #table.concat({ unpack(t, 1, 10) }, ('x'):rep(1e7))",
            "not enough memory",
        ),
        (
            "local s = ('x'):rep(1e6) local t = {} for i = 1, 100 do t[i] = s end return #table.concat(t)",
            "not enough memory",
        ),
        ("local s = 'x' while true do s = s .. s end", "not enough memory"),
        ("local t = {} while true do t[#t + 1] = {} end", "not enough memory"),
        ("return (('x'):rep(1e6)):gsub('.', ('y'):rep(1000))", "not enough memory"),
        ("return mix.json_decode('[' .. ('[],'):rep(2e6) .. '1]')", "not enough memory"),
        ("return mix.str_split(('a,'):rep(1e7), ',')", "not enough memory"),
        ("return loadstring((' '):rep(65537))", "chunk has more than 65536 bytes (engine.luavm.loadLimit)"),
        ("return load((' '):rep(65537))", "chunk has more than 65536 bytes (engine.luavm.loadLimit)"),
        ("return load(function() return (' '):rep(30000) end)", "chunk has more than 65536 bytes"),
        ("return loadstring(('x = 1 '):rep(1e7))", "not enough memory"),
        ("return ('%99999d'):format(1)", "invalid option '%999' to 'format'"),
        ("return ('%99.999f'):format(1)", "invalid option"),
        ("return loadstring(('('):rep(1000) .. '1' .. (')'):rep(1000))", "chunk has too many syntax levels"),
        ("return loadstring('local x ' .. (('local x '):rep(300)))", "has more than 200 local variables"),
        (
            "local t t = setmetatable({}, { __tostring = function() return string.format('%s%s', t, t) end }) \
             return ('%s'):format(t)",
            "stack overflow",
        ),
        ("local function f() table.sort({ 1, 2 }, f) end f()", "stack overflow"),
        ("local function f() return select(2, xpcall(error, f)) end return f()", "message handlers inside one another"),
        ("table.insert({}, -1, 1)", "bad argument #2 to 'insert' (index out of range)"),
        ("table.insert({ 1 }, -2 ^ 31, 1)", "bad argument #2 to 'insert' (index out of range)"),
        ("local t = { 1 } table.insert(t, 0, 5) return t[0] .. type(t[1]) .. t[2]", "5nil1"),
        ("return os.date(('x'):rep(65537))", "bad argument #1 to 'date' (a format of at most 65536 bytes expected)"),
        ("return #os.date(('x'):rep(65536)) .. type(os.date()) .. os.date('!%Y', 0)", "65536string1970"),
        ("return collectgarbage() .. collectgarbage('collect')", "00"),
        ("error(('x'):rep(1e6))", "xxxx"),
        ("coroutine.yield()", ""),
        ("return setfenv(0, {})", "setfenv(0) is not allowed: all handlers share those globals"),
        ("return setfenv('0', {})", "setfenv(0) is not allowed"),
        ("return setfenv(0.5, {})", "setfenv(0) is not allowed"),
        ("return setfenv(-1, {})", "bad argument #1 to 'setfenv' (invalid level)"),
        ("return setfenv(0 / 0, {})", "bad argument #1 to 'setfenv' (invalid level)"),
        ("return setfenv(1)", "bad argument #2 to 'setfenv' (table expected, got nil)"),
        ("return setfenv(pcall, {})", "'setfenv' cannot change environment of given object"),
        ("return load('\\27LJ\\2\\10')", "attempt to load a binary chunk"),
        ("return loadstring('\\27LJ\\2\\10')", "attempt to load a binary chunk"),
        ("return load(function() return nil end, 'x', 'b')", "attempt to load a chunk as bytecode"),
        (
            "local n = 0 return load(function() n = n + 1 return n == 1 and '\\27LJ' or nil end)",
            "attempt to load a binary chunk",
        ),
        ("return require('ffi')", "module 'ffi' not found"),
        ("return require('jit')", "module 'jit' not found"),
        ("return require('jit.util')", "module 'jit.util' not found"),
        ("return require('io').open('x')", "attempt to call field 'open'"),
        ("io.stdout.write = 1", "attempt to index field 'stdout'"),
        ("return require('string.buffer')", "module 'string.buffer' not found"),
        ("package.loadlib('/lib/x86_64-linux-gnu/libc.so.6', 'system')", "attempt to call field 'loadlib'"),
        ("package.cpath = '/?.so' return require('tmp')", "module 'tmp' not found"),
        ("package.path = nil require('tmp')", ""),
        ("mix.websocket().__index = 1", ""),
        ("getmetatable(mix.websocket()).__index = 1", ""),
        ("setmetatable(mix.websocket(), {})", "bad argument #1 to 'setmetatable'"),
        ("getmetatable(mix.null).__tostring = error return tostring(mix.null)", ""),
    ] {
        client.send(script).await;
        match client.next().await {
            Ok(m) if m.is_text() => assert!(m.to_text().unwrap().contains(error), "{script}: {m}"),
            // When memory is short, the error can't be shown.
            Ok(m) if m.is_close() && (error.is_empty() || error == "not enough memory") => {
                client = engine.connect().await
            }
            other => panic!("{script}: {other:?}"),
        }
        // The VM is as good as new.
        assert_eq!(client.ask("return #('x'):rep(8e6) + #mix.json_encode({ 1, 2, 3 })").await, "8000007", "{script}");
    }
}

#[tokio::test]
async fn dangerous_things_are_not_there() {
    let engine = TestEngine::new(EVAL);
    let mut client = engine.connect().await;
    for name in [
        "io.open",
        "io.popen",
        "io.lines",
        "io.read",
        "io.stdin",
        "io.stdout.read",
        "io.stdout.seek",
        "ffi",
        "jit",
        "dofile",
        "loadfile",
        "newproxy",
        "string.dump",
        "string.buffer",
        "os.execute",
        "os.exit",
        "os.getenv",
        "os.remove",
        "os.rename",
        "os.tmpname",
        "os.setlocale",
        "debug.getregistry",
        "debug.getmetatable",
        "debug.sethook",
        "debug.setmetatable",
        "debug.getupvalue",
        "debug.setupvalue",
        "debug.getlocal",
        "debug.getfenv",
        "debug.upvaluejoin",
        "package.loadlib",
        "package.cpath",
        "package.loaders",
        "package.searchers",
        "package.loaded.ffi",
        "package.loaded.jit",
        "package.loaded['jit.util']",
        "package.loaded.io.open",
        "package.preload.ffi",
        "package.preload['string.buffer']",
        "package.loaded.os.execute",
        "package.loaded.debug.sethook",
        "coroutine.close",
        "mix.buffer",
    ] {
        assert_eq!(client.ask(&format!("return type({name})")).await, "nil", "{name}");
    }
    for (script, result) in [
        (
            "local n = 0 for k in pairs(os) do n = n + 1 end return n, type(os.time() + os.clock()), os.date('!%Y', 0), os.difftime(3, 1)",
            "4 number 1970 2",
        ),
        ("local n = 0 for k in pairs(debug) do n = n + 1 end return n", "2"),
        ("return getmetatable('').__index == string, getmetatable(mix.websocket())", "true false"),
        // No way to the real registry, the prelude's own functions or their environment.
        (
            "return getfenv(0) == _G, getfenv(print) == _G, getfenv(mix.log) == _G, getfenv(coroutine.wrap) == _G",
            "true true true true",
        ),
        (
            "local seen = {} for level = 1, 20 do local ok, env = pcall(getfenv, level) if ok and env ~= _G then return env end end return 'none'",
            "none",
        ),
        // Finalizers never run.
        (
            "for i = 1, 100 do setmetatable({}, { __gc = function() collected = true end }) end collectgarbage() collectgarbage() return collected",
            "nil",
        ),
    ] {
        assert_eq!(client.ask(script).await, result, "{script}");
    }
}

#[tokio::test]
async fn memory_that_a_bomb_took_comes_back() {
    let engine = TestEngine::with(EVAL, "handlerTimeout: 10s", "workers: 1\nluavm: {memoryLimit: 16MiB}");
    let mut client = engine.connect().await;
    let count = "collectgarbage() collectgarbage() return math.floor(collectgarbage('count'))";
    assert_eq!(client.ask("return #('x'):rep(3e6)").await, "3000000");
    let before: i64 = client.ask(count).await.parse().unwrap();
    for bomb in [
        "local t = {} while true do t[#t + 1] = {} end",
        "local t = {} while true do t[#t + 1] = #t .. 'x' end",
        // These leave no room at all, not even for asking to collect.
        "local t = {} for i = 1, 1e9 do t[i] = {} end",
        "local t = {} for i = 1, 1e9 do t = {t} end",
        "mix.json_decode('[' .. ('[],'):rep(349000) .. '[]]')",
        "mix.php_pack('x60000000')",
        "mix.php_unpack('C*' .. ('n'):rep(200), ('x'):rep(1e6))",
        "local s = 'x' while true do s = s .. s end",
        "xpcall(error, function() local t = {} while true do t[#t + 1] = {} end end) local t = {} while true do t[#t + 1] = {} end",
        "local t = {} local function f() t[#t + 1] = {} return f() end f()",
        "local t = {} while true do t[#t + 1] = function() return t end end",
        "local t = {} while true do t[#t + 1] = coroutine.create(print) end",
        "local t = {} while true do t[#t + 1] = mix.json_decode('[{\"a\":[1,2,{\"b\":\"c\"}]}]') end",
        "local t = {} while true do t[#t + 1] = mix.str_split('a,b,c,' .. #t, ',') end",
        "local t = {} while true do t[#t + 1] = mix.parse_url('http://u:p@h/p?q=1#f' .. #t) end",
        "local t = {} while true do t[#t + 1] = mix.websocket():context() end",
        "local t = {} while true do t[#t + 1] = mix.base64_encode('x' .. #t) end",
    ] {
        // The error is caught and the handler returns normally: the next handler has room.
        client.send(&format!("caught: {bomb}")).await;
        assert_eq!(engine.connect().await.ask("return #('x'):rep(3e6)").await, "3000000", "after {bomb}");
        assert_eq!(client.ask("ping").await, "pong");
        let mut other = engine.connect().await;
        other.send(&format!("uncaught: {bomb}")).await;
        assert_eq!(other.close_frame().await.0, 1011, "{bomb}");
        assert_eq!(engine.connect().await.ask("return #('x'):rep(3e6)").await, "3000000", "after {bomb}, uncaught");
        // In a coroutine, by a handler that then goes on.
        let mut other = engine.connect().await;
        other.send(&format!("caught: coroutine.wrap(function() {bomb} end)() mix.sleep(60)")).await;
        assert_eq!(engine.connect().await.ask("return #('x'):rep(3e6)").await, "3000000", "after {bomb}, inside");
        let after: i64 = client.ask(count).await.parse().unwrap();
        assert!(after < before + 4096, "{after} KiB after {bomb}, {before} before");
    }
    // One that grows from wait to wait, never over its time budget.
    let mut other = engine.connect().await;
    other.send("uncaught: local t = {} for i = 1, 1e9 do t[i] = {} if i % 20000 == 0 then mix.sleep(0) end end").await;
    assert_eq!(other.close_frame().await.0, 1011);
    assert_eq!(engine.connect().await.ask("return #('x'):rep(3e6)").await, "3000000");
}

/// Whatever a script does to its globals, the engine's own Lua goes on.
#[tokio::test]
async fn a_script_may_spoil_its_globals() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
        local m, conn = mix, nil
        local names = {}
        for name in pairs(_G) do names[#names + 1] = name end
        local ask = { require = require, wrap = coroutine.wrap, resume = coroutine.resume, create = coroutine.create,
          print = print, sort = table.sort, load = load, xpcall = xpcall, loadstring = loadstring, setfenv = setfenv,
          error = error, gsub = string.gsub, upper = string.upper }
        for _, library in ipairs({ string, table, coroutine, os, debug, math, mix.mesh, mix.server }) do
          for name in pairs(library) do library[name] = false end
        end
        getmetatable("").__index = function() ask.error("strings are spoilt", 0) end
        getmetatable("").__concat = function() ask.error("strings are spoilt", 0) end
        local websocket, json_encode, sleep = m.websocket, m.json_encode, m.sleep
        for name in pairs(m) do m[name] = false end
        local globals = _G
        for i = 1, #names do globals[names[i]] = false end
        setmetatable = false

        function on_handshake(client_id, headers, server)
          seen = headers["X-nOtHiNg"] == nil and headers.hOsT == server.Host
        end
        function on_message(msg)
          local conn = websocket()
          local results = {}
          results[1] = seen
          results[2] = msg.type
          results[3] = ask.wrap(function() sleep(0.001) return websocket() == conn end)()
          local co = ask.create(function() sleep(0.001) return 7 end)
          local ok, seven = ask.resume(co)
          results[4] = seven
          ask.print("x", 1, nil, {})
          local t = { 3, 1, 2 }
          ask.sort(t)
          results[5] = t[1]
          results[6] = ask.load("return 5")()
          local ok, e = ask.xpcall(function() ask.error("x", 0) end, function(e) return e end)
          results[7] = e
          results[8] = ask.gsub("hello", "l+", ask.upper)
          local env = { five = 5 }
          results[9] = ask.setfenv(ask.loadstring("return five"), env)()
          results[10] = ask.require("m").name
          conn:send(json_encode(results))
        end
        function on_close(client_id, err, conn) conn:context() end"#;
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    std::fs::write(dir.path().join("m.lua"), "return { name = 'module' }").unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", "");
    let engine = TestEngine::start(dir);
    for _ in 0..3 {
        let mut client = engine.connect().await;
        assert_eq!(client.ask("x").await, r#"[true,"text",true,7,1,5,"x","heLLo",5,"module"]"#);
        client.close().await;
    }
}

#[tokio::test]
async fn libraries_let_in_what_they_name() {
    let libraries = |names: &str| format!("workers: 1\nluavm: {{libraries: [{names}]}}");
    let look = "return type(io.open), type(os.getenv), type(package.loaded.io.open), type(os.time)";
    for (names, found) in [
        ("", "nil nil nil function"),
        ("io", "function nil function function"),
        ("os", "nil function nil function"),
        ("io, os", "function function function function"),
    ] {
        let engine = TestEngine::with(EVAL, "", &libraries(names));
        assert_eq!(engine.connect().await.ask(look).await, found, "{names}");
    }
    let engine = TestEngine::with(EVAL, "", &libraries("io, os"));
    let mut client = engine.connect().await;
    let file = engine.path("written").display().to_string();
    let script = format!(
        "local f = assert(io.open('{file}', 'w')) f:write('hello') f:close() \
         local g = require('io').open('{file}') local text = g:read('*a') g:close() \
         return text, os.remove('{file}'), io.open('{file}'), os.getenv('PATH') ~= nil"
    );
    assert!(client.ask(&script).await.starts_with("hello true nil"), "files");
    // Its userdata are not taken for connections.
    assert!(client.ask("mix.websocket().send(io.stdout, 'x')").await.contains("not a connection: got userdata"));
    assert_eq!(
        client.ask("return type(package.loadlib), type(package.loaders), type(ffi), type(jit)").await,
        "nil nil nil nil"
    );
}

// Starting.

fn start_error(entry: Option<&str>, more: &[(&str, &str)]) -> String {
    let dir = tempfile::tempdir().unwrap();
    if let Some(entry) = entry {
        std::fs::write(dir.path().join("entry.lua"), entry).unwrap();
    }
    for (name, text) in more {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", "");
    TestEngine::try_start(dir).map(drop).expect_err("it must not start")
}

#[tokio::test]
async fn a_broken_script_does_not_start() {
    for (entry, problem) in [
        ("x = = 1", "entry.lua:1: unexpected symbol near '='"),
        ("\n\nfunction on_message(", "entry.lua:3: "),
        ("\nlocal x = nil + 1", "entry.lua:2: attempt to perform arithmetic on a nil value"),
        ("\nerror('mine')", "entry.lua:2: mine"),
        ("error({})", ""),
        ("error()", ""),
        ("", "entry.lua: no global function on_message; a websocket server's script must define it"),
        ("on_message = 1", "entry.lua: on_message must be a function, not a "),
        ("on_message = {}", "entry.lua: on_message must be a function, not a table"),
        ("local function on_message() end", "entry.lua: no global function on_message"),
        ("function on_message() end on_close = 'x'", "entry.lua: on_close must be a function, not a string"),
        ("function on_message() end on_handshake = true", "entry.lua: on_handshake must be a function, not a boolean"),
        ("\nrequire('nothing.here')", "entry.lua:2: module 'nothing.here' not found:"),
        ("\nrequire 'broken'", "entry.lua:2: error loading module 'broken':"),
        ("\nrequire 'broken'", "broken.lua:2: "),
        ("require 'raises'", "raises.lua:2: in the module"),
        ("\n\nrequire 'loop_a'", "loop_b.lua:1: loop, or an earlier error, in loading module 'loop_a'"),
        ("\u{1b}LJ\u{2}", "entry.lua"),
        ("coroutine.yield()", "attempt to yield"),
        ("local t = {} while true do t[#t + 1] = {} end", "not enough memory"),
        ("local function f() return 1 + f() end f()", "stack overflow"),
        (
            "on_message = setmetatable({}, { __call = function() end })",
            "entry.lua: on_message must be a function, not a table",
        ),
    ] {
        let more = [
            ("broken.lua", "\nx = = 1"),
            ("raises.lua", "\nerror('in the module')"),
            ("loop_a.lua", "require 'loop_b'"),
            ("loop_b.lua", "require 'loop_a'"),
        ];
        let error = start_error(Some(entry), &more);
        assert!(error.contains(problem) && !error.is_empty(), "{entry:?}: {error}");
    }
    let error = start_error(None, &[]);
    assert!(error.contains("entry.lua"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("entry.lua")).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", "");
    let error = TestEngine::try_start(dir).map(drop).expect_err("a folder is no script");
    assert!(error.contains("entry.lua"), "{error}");
}

#[tokio::test]
async fn an_endless_top_level_is_given_up() {
    let began = Instant::now();
    let error = start_error(Some("\nwhile true do pcall(error) end"), &[]);
    assert!(error.contains("entry.lua:2: "), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

/// Modules such as "strict" that forbid the use of globals that are not there.
#[tokio::test]
async fn strict_globals_are_no_obstacle() {
    let engine = TestEngine::new(
        "setmetatable(_G, { __index = function(_, name) error('undeclared ' .. name, 2) end, \
                            __newindex = function(_, name) error('undeclared ' .. name, 2) end }) \
         rawset(_G, 'on_message', function(msg, conn) conn:send(tostring(pcall(function() return nothing end))) end)",
    );
    assert_eq!(engine.connect().await.ask("x").await, "false");
}
