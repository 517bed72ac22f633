//! What Lua itself does for scripts: errors and where they were, coroutines, the console, numbers of chance.

mod common;

use common::*;
use std::collections::BTreeSet;

/// Runs what it is sent, with `conn` as a local, and sends back the texts of what that returns, or its error.
const EVAL: &str = r#"
    local function pack(...) return { n = select('#', ...), ... } end
    function on_message(msg, conn)
      local f, e = loadstring("local conn = ... " .. msg.data, "@t.lua")
      local results = pack(pcall(f or error, f and conn or e))
      for i = 1, results.n do results[i] = tostring(results[i]) end
      conn:send(table.concat(results, "|", 2, results.n))
    end"#;

/// Runs each code, and compares what it gives.
async fn check(rows: &[(&str, &str)]) {
    let engine = TestEngine::with(EVAL, "handlerTimeout: 10s", "workers: 1");
    engine.connect().await.ask_all(rows).await;
}

/// What fails in these tests.
const FAILS: &str = "local function inner() error('boom') end local function outer() inner() return 1 end ";

/// What a message handler sees of it.
const FAILED: &str = "t.lua:1: boom\nstack traceback:\n\t[C]: in function 'error'\n\tt.lua:1: in function 'inner'\n\t";

#[tokio::test]
async fn a_message_handler_runs_where_the_error_is_raised() {
    let engine = TestEngine::with(EVAL, "handlerTimeout: 10s", "workers: 1");
    let mut client = engine.connect().await;
    let mut wrong = Vec::new();
    for (code, wanted) in [
        (
            "return select(2, xpcall(outer, debug.traceback))",
            "t.lua:1: in function <t.lua:1>\n\t[C]: in function 'xpcall'\n\tt.lua:1: in main chunk\n\t[C]: in function 'pcall'\n\t",
        ),
        (
            "return select(2, xpcall(outer, function(e) local text = debug.traceback(e, 2) return text end))",
            "t.lua:1: in function <t.lua:1>\n\t[C]: in function 'xpcall'\n\tt.lua:1: in main chunk\n",
        ),
        (
            "return select(2, xpcall(function() mix.sleep(0.001) outer() end, debug.traceback))",
            "t.lua:1: in function 'outer'\n\tt.lua:1: in function <t.lua:1>\n\t[C]: in function 'xpcall'\n",
        ),
        (
            "return coroutine.wrap(function() return select(2, xpcall(function() mix.sleep(0.001) outer() end, debug.traceback)) end)()",
            "t.lua:1: in function 'outer'\n\tt.lua:1: in function <t.lua:1>\n\t[C]: in function 'xpcall'\n\tt.lua:1: in function <t.lua:1>",
        ),
        (
            "return select(2, xpcall(function() xpcall(error, print) outer() end, debug.traceback))",
            "t.lua:1: in function 'outer'\n\tt.lua:1: in function <t.lua:1>\n\t[C]: in function 'xpcall'\n",
        ),
        // One inside another: the inner one's stack stands on that which has failed.
        (
            "return select(2, xpcall(outer, function() return select(2, xpcall(function() inner() end, debug.traceback)) end))",
            "t.lua:1: in function <t.lua:1>\n\t[C]: in function 'xpcall'\n\tt.lua:1: in function <t.lua:1>\n\t\
             [C]: in function 'error'\n\tt.lua:1: in function 'inner'\n\tt.lua:1: in function <t.lua:1>\n\t\
             [C]: in function 'xpcall'\n\tt.lua:1: in main chunk\n",
        ),
    ] {
        let got = client.ask(&format!("{FAILS}{code}")).await;
        if !got.starts_with(&format!("{FAILED}{wanted}")) {
            wrong.push(format!("{code}\n  gave {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Errors of every origin.
    for (code, first) in [
        (
            "local x = nil x.y = 1",
            "t.lua:1: attempt to index local 'x' (a nil value)\nstack traceback:\n\tt.lua:1: in function <",
        ),
        (
            "mix.json_decode({})",
            "t.lua:1: bad argument #1 to 'json_decode' (string expected, got table)\nstack traceback:\n\t\
             [C]: in function 'json_decode'\n\tt.lua:1: in function <",
        ),
        (
            "('x'):gsub('x', function() error('deep', 0) end)",
            "deep\nstack traceback:\n\t[C]: in function 'error'\n\tt.lua:1: in function <t.lua:1>\n\t[C]: in function 'gsub'\n\t",
        ),
        (
            "mix.sleep()",
            "t.lua:1: bad argument #1 to 'sleep' (number expected, got no value)\nstack traceback:\n\t[C]: in function 'sleep'",
        ),
        ("require('nothing.at.all')", "t.lua:1: module 'nothing.at.all' not found"),
        (
            "local t = {} for i = 1, 1e4 do t[i] = i % 7 end table.sort(t, function() error('s', 0) end)",
            "s\nstack traceback:\n\t[C]: in function 'error'\n\tt.lua:1: in function <t.lua:1>\n\t[C]: in function 'sort'",
        ),
        (
            "local f f = function() return 1 + f() end f()",
            "t.lua:1: stack overflow\nstack traceback:\n\tt.lua:1: in function 'f'",
        ),
    ] {
        let got = client.ask(&format!("return select(2, xpcall(function() {code} end, debug.traceback))")).await;
        assert!(got.starts_with(first), "{code}\n{got}");
        assert!(got.contains("\n\t[C]: in function 'xpcall'\n\tt.lua:1: in main chunk\n"), "{code}\n{got}");
        assert!(!got.contains("connmix:"), "{code}\n{got}");
    }
}

#[tokio::test]
async fn xpcall_is_that_of_lua_5_1() {
    check(&[
        ("return xpcall(function(...) return select('#', ...), ... end, print, 1, nil, 3, nil)", "true|4|1|nil|3|nil"),
        ("return xpcall(error, function(e) return e, 'more' end, 'x')", "false|x"),
        ("return xpcall(error, function() end, 'x')", "false|nil"),
        ("return xpcall(error, function(e) return type(e) .. e.code end, { code = 7 })", "false|table7"),
        ("return xpcall(nil, function(e) return '<' .. e .. '>' end)", "false|<attempt to call a nil value>"),
        ("local ok = xpcall(print)", "t.lua:1: bad argument #2 to 'xpcall' (function expected, got nil)"),
        ("local ok = xpcall(print, 5)", "t.lua:1: bad argument #2 to 'xpcall' (function expected, got number)"),
        ("return xpcall(error, function() error('mine') end, 'x')", "false|error in error handling: t.lua:1: mine"),
        ("return xpcall(error, function() error({}) end, 'x')", "false|error in error handling"),
        ("return xpcall(error, error)", "false|error in error handling"),
        // The one inside handles its own errors, and what it leaves is the outer one's.
        (
            "return xpcall(function() local ok, e = xpcall(error, function(e) return e .. 1 end, 'a') error(e .. 'b', 0) end, \
             function(e) return e .. 2 end)",
            "false|a1b2",
        ),
        ("return pcall(xpcall, error, function(e) return e .. '!' end, 'x')", "true|false|x!"),
        // Locals of the failed function are as they were.
        (
            "local seen local function f() local mine = 5 seen = function() return mine end error('x') end \
             return xpcall(f, function() return seen() end)",
            "false|5",
        ),
        (
            "return xpcall(function() error('x') end, function() local i, j = debug.getinfo(2), debug.getinfo(1) \
             return i.name .. i.what .. tostring(i.func) .. j.what .. j.currentline .. type(j.func) end)",
            "false|errorCnilLua1function",
        ),
        // Its waits, when the failed stack is gone, and a wait where there can be none.
        ("return xpcall(error, function(e) mix.sleep(0.001) mix.sleep(0.001) return e .. '!' end, 'x')", "false|x!"),
        ("return xpcall(error, function(e) mix.sleep(0.001) error(e) end, 'x')", "false|error in error handling: t.lua:1: x"),
        (
            "return coroutine.wrap(function() return xpcall(error, function(e) mix.sleep(0.001) return e .. '!' end, 'x') end)()",
            "false|x!",
        ),
        (
            "local r = {} table.sort({ 2, 1 }, function() r = { xpcall(error, function() mix.sleep(0.001) end, 'x') } end) \
             return r[1], r[2]",
            "false|error in error handling: this function waits, which is not possible inside a callback of table.sort or \
             string.gsub; call it before or after",
        ),
        (
            "return xpcall(error, function() coroutine.yield() end)",
            "false|error in error handling: t.lua:1: attempt to yield from outside a coroutine (a handler is none: mix.sleep waits)",
        ),
        (
            "return xpcall(error, function() return coroutine.wrap(function() mix.sleep(0.001) coroutine.yield(8) end)() end)",
            "false|8",
        ),
        (
            "local function h() return select(2, xpcall(error, h)) end return xpcall(error, h)",
            "false|error in error handling: stack overflow (message handlers inside one another)",
        ),
        ("local ok, e = xpcall(function() mix.sleep(0.001) return 5, mix.websocket() == conn end, print) return ok, e", "true|5"),
    ])
    .await;
}

#[tokio::test]
async fn a_traceback_is_of_the_thread_and_from_the_level_that_it_is_asked_for() {
    let co = "local co = coroutine.create(function() local function deep() coroutine.yield(1) end deep() end) coroutine.resume(co) ";
    let all =
        "stack traceback:\n\t[C]: in function 'yield'\n\tt.lua:1: in function 'deep'\n\tt.lua:1: in function <t.lua:1>";
    let engine = TestEngine::with(EVAL, "handlerTimeout: 10s", "workers: 1");
    let mut client = engine.connect().await;
    let deep = all.replacen("\n\t[C]: in function 'yield'", "", 1);
    for (code, wanted) in [
        ("return debug.traceback(co)", all.to_owned()),
        ("return debug.traceback(co, 'm')", format!("m\n{all}")),
        ("return debug.traceback(co, 'm', 1)", format!("m\n{deep}")),
        ("return debug.traceback(co, nil, 1)", deep),
        ("return debug.traceback(co, 'm', 9)", "m\nstack traceback:".into()),
        ("return debug.traceback(co, co) == co, debug.traceback(co, 7, 9)", "true|7\nstack traceback:".into()),
        ("return debug.traceback('m', 1e308), debug.traceback('m', 0/0) ~= nil", "m\nstack traceback:|true".into()),
    ] {
        assert_eq!(client.ask(&format!("{co}{code}")).await, wanted, "{code}");
    }
    let deep = "local function f(n) if n == 0 then return debug.traceback('m') .. '' end return f(n - 1) .. '' end return f(5000)";
    let lines = client.ask(deep).await;
    assert_eq!(lines.lines().count(), 2 + 12 + 1 + 10, "{lines}");
    assert!(lines.lines().nth(14) == Some("\t...") && lines.contains("entry.lua:5: in function <"), "{lines}");
}

#[tokio::test]
async fn debug_getinfo_says_where_functions_stand_and_gives_none_away() {
    let info = "local function show(i) return i and ('%s %s %s %s %s %s %s %s'):format(i.source, i.short_src, i.what, \
        i.currentline, i.linedefined, i.name, i.nparams, i.isvararg) end ";
    let rows = [
        ("return show(debug.getinfo(1))", "@t.lua t.lua main 1 0 nil 0 true"),
        (
            "local function f(a, b) local i = debug.getinfo(1) return i end local i = f() return show(i)",
            "@t.lua t.lua Lua 1 1 f 2 false",
        ),
        (
            "local function f() local i = debug.getinfo(2, 'Sl') return i end local i = f() return show(i)",
            "@t.lua t.lua main 1 0 nil nil nil",
        ),
        ("return show(debug.getinfo(print)), debug.getinfo(print).func == print", "=[C] [C] C -1 -1 nil 0 true|true"),
        ("return show(debug.getinfo(string.rep))", "=[C] [C] C -1 -1 nil 0 true"),
        (
            "return show(debug.getinfo(require, 'S')), show(debug.getinfo(0, 'Sn'))",
            "=[C] [C] C nil -1 nil nil nil|=[C] [C] C nil -1 getinfo nil nil",
        ),
        ("return debug.getinfo(99), debug.getinfo(-1), debug.getinfo(1e300), debug.getinfo(0/0)", "nil|nil|nil|nil"),
        (
            "return next(debug.getinfo(1, 'L').activelines), debug.getinfo(1, 'f').func == debug.getinfo(1).func",
            "1|true",
        ),
        ("local i = debug.getinfo(1, 'x')", "t.lua:1: bad argument #2 to 'getinfo' (invalid option)"),
        ("local i = debug.getinfo(1, '>S')", "t.lua:1: bad argument #2 to 'getinfo' (invalid option)"),
        (
            "local i = debug.getinfo({})",
            "t.lua:1: bad argument #1 to 'getinfo' (function or level expected, got table)",
        ),
        (
            "local co = coroutine.create(function() coroutine.yield() end) coroutine.resume(co) \
             return show(debug.getinfo(co, 1)), debug.getinfo(co, 0, 'n').name, debug.getinfo(co, 0, 'f').func, debug.getinfo(co, 7)",
            "@t.lua t.lua Lua 1 1 nil 0 false|yield|nil|nil",
        ),
        // Of what the engine keeps to itself, nothing: neither on the stack, nor below a message handler.
        (
            "local found = {} local function look(of) for level = 0, 40 do \
             local i = of and debug.getinfo(of, level, 'f') or not of and debug.getinfo(level, 'f') \
             if i and i.func and debug.getinfo(i.func, 'S').what == 'C' then found[#found + 1] = i.name end end end \
             xpcall(error, function() look() look(coroutine.running()) end) \
             pcall(coroutine.wrap(function() require('no such module') end)) \
             local main = coroutine.running() coroutine.wrap(function() look() look(main) mix.sleep(0) look(main) end)() \
             table.sort({ 1, 2, 3 }, function(a, b) look() return a < b end) \
             return #found",
            "0",
        ),
    ];
    let engine = TestEngine::with(EVAL, "handlerTimeout: 10s", "workers: 1");
    let mut client = engine.connect().await;
    for (code, wanted) in rows {
        assert_eq!(client.ask(&format!("{info}{code}")).await, wanted, "{code}");
    }
}

#[tokio::test]
async fn a_handler_is_no_coroutine_of_the_scripts() {
    check(&[
        ("return coroutine.isyieldable(), pcall(coroutine.yield, 1)", "false|false|attempt to yield from outside a coroutine (a handler is none: mix.sleep waits)"),
        ("coroutine.yield(1)", "t.lua:1: attempt to yield from outside a coroutine (a handler is none: mix.sleep waits)"),
        ("return pcall(function() local x = coroutine.yield(1) return x end)", "false|t.lua:1: attempt to yield from outside a coroutine (a handler is none: mix.sleep waits)"),
        ("local f = coroutine.wrap(function(...) local y = coroutine.isyieldable() return y, coroutine.yield(...) end) return f(1, nil, 3), f(4)", "1|true|4"),
        ("return coroutine.resume(coroutine.running())", "false|cannot resume running coroutine"),
        ("mix.sleep(0.001) return coroutine.isyieldable(), (pcall(coroutine.yield))", "false|false"),
    ])
    .await;
}

#[tokio::test]
async fn nobody_else_resumes_a_handler_that_waits() {
    let script = r#"
        saved = {}
        function on_message(msg, conn)
          if msg.data == "wait" then
            saved.handler = coroutine.running()
            saved.inner = coroutine.create(function() return conn:wait_context_value("go") end)
            saved.wrapped = coroutine.wrap(function() return select(2, coroutine.resume(saved.inner)) end)
            saved.message_handler = nil
            local got = saved.wrapped()
            local _, handled = xpcall(error, function()
              saved.message_handler = coroutine.running()
              return conn:wait_context_value("on")
            end)
            return conn:send(got .. " " .. handled)
          end
          local name, value = msg.data:match("^set (%w+) (%w+)")
          if name then
            return conn:send(tostring(saved.conn and saved.conn:set_context_value(name, value)))
          end
          local results = {}
          for _, name in ipairs({ "handler", "inner", "wrapped", "message_handler" }) do
            local co = saved[name]
            if type(co) == "thread" then
              local ok, e = pcall(function() return select(2, coroutine.resume(co, "forged")) end)
              results[#results + 1] = name .. ": " .. tostring(e) .. " " .. #debug.traceback(co, "", 0) % 1
            elseif co then
              local ok, e = pcall(function() local r = co("forged") return r end)
              results[#results + 1] = name .. ": " .. tostring(e)
            end
          end
          conn:send(table.concat(results, "\n"))
        end
        function on_handshake(id, headers, server, conn)
          if server.RequestUri == "/ws?saved" then saved.conn = conn end
        end"#;
    let engine = TestEngine::new(script);
    let mut waits = Client::connect(engine.ws(), "/ws?saved").await;
    let mut other = engine.connect().await;
    waits.send("wait").await;
    let refused = "cannot resume a coroutine that waits for the engine: it is a handler's, or a wait in it is not over";
    let is_refused = |text: &str, names: &[&str]| {
        assert_eq!(text.lines().count(), names.len(), "{text}");
        for (line, name) in text.lines().zip(names) {
            assert!(
                line.starts_with(&format!("{name}: ")) && line.contains("entry.lua:") && line.contains(refused),
                "{text}"
            );
        }
    };
    let text = eventually("the handler waits", async || Some(other.ask("try").await).filter(|t| !t.is_empty())).await;
    is_refused(&text, &["handler", "inner", "wrapped"]);
    assert_eq!(other.ask("set go real").await, "nil");
    let text = eventually("the message handler waits", async || {
        Some(other.ask("try").await).filter(|t| t.contains("message_handler"))
    })
    .await;
    assert!(text.contains("inner: cannot resume dead coroutine"), "{text}");
    for name in ["handler", "message_handler"] {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}: "))).unwrap();
        assert!(line.contains(refused) && line.contains("entry.lua:"), "{text}");
    }
    assert_eq!(other.ask("set on again").await, "nil");
    assert_eq!(waits.text().await, "real again");
    // What has ended says so.
    assert!(other.ask("try").await.contains("message_handler: cannot resume dead coroutine"));
}

#[tokio::test]
async fn every_vm_has_numbers_of_its_own() {
    let script = "local first = math.random(1e9) function on_message(msg, conn) \
        math.randomseed(7) conn:send(first .. ' ' .. math.random(1e9)) end";
    let mut firsts = BTreeSet::new();
    let mut seeded = BTreeSet::new();
    let mut note = |answer: String| {
        let (first, repeatable) = answer.split_once(' ').unwrap();
        seeded.insert(repeatable.to_owned());
        firsts.insert(first.to_owned())
    };
    let engine = TestEngine::with(script, "", "workers: 2");
    let (mut one, mut two) = (engine.connect().await, engine.connect().await);
    assert!(note(one.ask("").await));
    assert!(note(two.ask("").await), "the two workers have the same numbers");
    assert!(note(TestEngine::new(script).connect().await.ask("").await), "two starts have the same numbers");
    std::fs::write(engine.path("entry.lua"), format!("{script} -- anew")).unwrap();
    let before = one.ask("").await;
    let after = eventually("the reload", async || Some(one.ask("").await).filter(|answer| *answer != before)).await;
    assert!(note(after), "a version has the numbers of the one before");
    assert_eq!(seeded.len(), 1, "math.randomseed makes them repeatable: {seeded:?}");
}

#[tokio::test]
async fn a_module_that_the_engine_ships_is_there_for_every_script() {
    check(&[
        ("return require('prettyprint') == require('utils.prettyprint'), require('utils/prettyprint') == require('prettyprint')", "true|true"),
        ("return require('prettyprint').line({ 1, { a = 'x\\n\"' }, b = true })", "{1, {a = \"x\\n\\\"\"}, b = true}"),
        ("local t = {} t.t = t return require('prettyprint')(t)", "{\n  t = <cycle>,\n}"),
        ("local t = {} for i = 1, 1e5 do t[i] = i end local s = require('prettyprint').line(t) return #s < 70000, s:sub(-9)", "true|000, ...}"),
        ("local t = 1 for i = 1, 1000 do t = { t } end local s = require('prettyprint').line(t) return s", &("{".repeat(16) + "{...}" + &"}".repeat(16))),
        ("local t = {} for i = 1, 60 do t = { t, t } end return #require('prettyprint').line(t) < 2e6", "true"),
        ("return #require('prettyprint').line({ ('x'):rep(1e7) }) < 70000", "true"),
    ])
    .await;
    // One of the script's own comes first.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("prettyprint.lua"), "return 'mine'").unwrap();
    std::fs::write(dir.path().join("entry.lua"), "function on_message(_, conn) conn:send(require('prettyprint')) end")
        .unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", "");
    assert_eq!(TestEngine::start(dir).connect().await.ask("").await, "mine");
}

#[tokio::test]
async fn print_and_io_write_go_to_the_console() {
    let script = r#"
        print("top level", { 1, { a = "x\ny" }, n = 2 })
        io.write("begun at the top level")
        function on_message(msg, conn)
          local t = { "two", deep = { 3 } }
          t.self = t
          print(t, setmetatable({}, { __tostring = function() return "as it says" end }), nil)
          io.write("one ", 2, " three\nfour") io.write(" five\n", "\n")
          io.stderr:write("to "):write("stderr\n")
          io.stdout:write("not yet ended") print("printed")
          io.write("before the wait") mix.sleep(0.001)
          io.write("flushed") io.flush() io.write("at the end")
          local ok, e = pcall(io.write, {})
          conn:send(tostring(io.stdout) .. tostring(io.type(io.stderr)) .. tostring(io.type(5)) .. e
            .. select(2, pcall(io.stdout.write, 5, "x")) .. tostring(select(2, io.stdout:close())))
        end"#;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("entry.lua"), script).unwrap();
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", "");
    let process = process::Process::ready(dir.path(), &["dev"]);
    let mut client = Client::connect(process.ws(), "/ws").await;
    let answer = client.ask("").await;
    assert_eq!(
        answer,
        "file (stdout)filenilbad argument #1 to 'write' (string expected, got table)\
         bad argument #1 to 'write' (io.stdout or io.stderr expected, got number)the log's console stays open"
    );
    process.line("at the end");
    client.close().await;
    let out = process.stop().out;
    let at = |text: &str| {
        let line = out
            .lines()
            .find(|line| line.split(" client_id=").next().unwrap().ends_with(text))
            .unwrap_or_else(|| panic!("no line ends with {text:?} in\n{out}"));
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    for text in [
        "entry.lua:2: top level\t{1, {a = \"x\\ny\"}, n = 2}",
        "entry.lua:3: begun at the top level",
        "entry.lua:7: {\"two\", deep = {3}, self = <cycle>}\tas it says\tnil",
        "entry.lua:8: one 2 three",
        "entry.lua:8: four five",
        "entry.lua:8: ",
        "entry.lua:10: not yet ended",
        "entry.lua:10: printed",
        "entry.lua:11: before the wait",
        "entry.lua:12: flushed",
        "entry.lua:12: at the end",
    ] {
        assert_eq!(at(text), "INFO", "{text}");
    }
    assert_eq!(at("entry.lua:9: to stderr"), "WARN");
}

#[tokio::test]
async fn on_close_is_told_the_clients_code_and_reason() {
    use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
    let hooks = |close: &str| {
        format!(
            "function on_message(msg, conn) conn:subscribe('ends') conn:send('watching') end
            {close}"
        )
    };
    let told = "function on_close(client_id, err, conn, code, reason)
        mix.mesh.publish('ends', tostring(err) .. '|' .. type(client_id) .. type(conn) .. '|' .. tostring(code) .. '|' .. tostring(reason))
      end";
    // Older scripts: the compiler knows what the first parameter is called.
    let older = "function on_close(err, conn, ...)
        mix.mesh.publish('ends', tostring(err) .. '|' .. conn:client_id():gsub('%d', '') .. type(conn:context()) .. select('#', ...))
      end";
    let close =
        |code: u16, reason: &'static str| Some(CloseFrame { code: CloseCode::from(code), reason: reason.into() });
    for (script, ends) in [
        (
            told,
            [
                "nil|stringuserdata|4321|bye",
                "nil|stringuserdata|1001|",
                "nil|stringuserdata|nil|nil",
                "LOST|stringuserdata|nil|nil",
            ],
        ),
        (older, ["nil|table0", "nil|table0", "nil|table0", "LOST|table0"]),
    ] {
        let engine = TestEngine::new(&hooks(script));
        let mut watcher = engine.connect().await;
        assert_eq!(watcher.ask("").await, "watching");
        for (frame, wanted) in [close(4321, "bye"), close(1001, ""), None].into_iter().zip(ends) {
            let mut client = engine.connect().await;
            client.0.close(frame).await.unwrap();
            assert_eq!(watcher.text().await, wanted, "{script}");
        }
        drop(engine.connect().await);
        let lost = ends[3].replace("LOST", "the client ended the connection without a close frame");
        assert_eq!(watcher.text().await, lost);
    }
}
