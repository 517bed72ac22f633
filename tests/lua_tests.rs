//! `connmix test` as authors of scripts use it: the real program in a folder with scripts and their tests. And that what
//! it fakes behaves as the engine does.

mod common;

use common::process::{Ended, run};
use common::*;
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

const ECHO: &str = "function on_message(msg, conn) conn:send(msg.data, msg.type) end";

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

/// Runs the tests of a script: `app.lua` and `app_test.lua`, which has it as `app`.
fn tested(script: &str, tests: &str) -> Ended {
    tested_with(script, tests, &[])
}

fn tested_with(script: &str, tests: &str, options: &[&str]) -> Ended {
    let tests = format!("local app = test.load('app.lua') {tests}");
    let dir = folder(&[("app.lua", script), ("app_test.lua", &tests)]);
    run(dir.path(), &[&["test", "app_test.lua"], options].concat())
}

/// The same, all of them expected to pass; `count` of them.
fn passes(script: &str, tests: &str, count: usize) {
    let ended = tested(script, tests);
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    assert!(ended.out.contains(&format!(": {count} passed, 0 failed")), "{}", ended.out);
}

/// What it printed, without the time it took.
fn timeless(out: &str) -> String {
    out.rsplit_once(" (").map_or(out, |(out, _)| out).to_owned()
}

// What is run, and how it is reported.

#[test]
fn passing_tests_are_listed_and_counted() {
    let ended = tested(
        ECHO,
        "
        test.describe('the echo', function()
          test.it('sends text back', function()
            local c = app:connect()
            c:message('hello')
            test.equal(c.sent, {{data = 'hello', type = 'text'}})
          end)
          test.describe('for bytes', function()
            test.it('keeps the type', function()
              local c = app:connect()
              c:message('\\0\\255', 'binary')
              test.equal(c.sent[1], {data = '\\0\\255', type = 'binary'})
            end)
          end)
        end)",
    );
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}");
    assert_eq!(
        timeless(&ended.out),
        "app_test.lua\n  ok    the echo > sends text back\n  ok    the echo > for bytes > keeps the type\n\n\
         2 tests: 2 passed, 0 failed"
    );
}

#[test]
fn a_failure_shows_where_what_and_the_log() {
    let ended = tested(
        "function on_message(msg, conn)\n  print('got', msg.data)\n  conn:send('pong')\nend",
        "
test.it('passes', function() end)
test.it('answers', function()
  local c = app:connect()
  c:message('ping')
  test.equal(c.sent, {{data = 'ping', type = 'text'}}, 'the answer')
end)",
    );
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), ""), "{ended:?}");
    assert_eq!(
        timeless(&ended.out),
        "\
app_test.lua
  ok    passes
  FAIL  answers

FAIL  app_test.lua:6: answers
  the answer
  expected: {{data = \"ping\", type = \"text\"}}
       got: {{data = \"pong\", type = \"text\"}}
   differs: [1].data should be \"ping\", is \"pong\"
  traceback:
    app_test.lua:6: in function <app_test.lua:3>
  log:
    info app.lua:2: got\tping

2 tests: 1 passed, 1 failed"
    );
}

#[test]
fn a_handlers_error_fails_the_test_with_both_tracebacks() {
    let ended = tested(
        "local function inner(msg)\n  error('no ' .. msg.data)\nend\nfunction on_message(msg)\n  inner(msg)\nend",
        "\ntest.it('fails', function()\n  app:connect():message('way')\nend)",
    );
    assert_eq!(ended.code, Some(1));
    let details = ended.out.split("\n\n").nth(1).unwrap();
    assert_eq!(
        details,
        "\
FAIL  app_test.lua:3: fails
  app.lua:2: no way
  traceback:
    app.lua:2: in function 'inner'
    app.lua:5: in function 'on_message'
    app_test.lua:3: in function <app_test.lua:2>"
    );
}

#[test]
fn what_runs_for_ever_is_stopped_and_the_next_test_runs() {
    let ended = tested_with(
        "function on_message(msg) if msg.data == 'spin' then while true do end end repeat mix.sleep(0) until false end",
        "
        test.it('spins', function() while true do pcall(function() while true do end end) end end)
        test.it('spins in the handler', function() app:connect():message('spin') end)
        test.it('turns in circles', function() while true do pcall(app.connect, app) end end)
        test.it('waits in vain', function() app:connect():message('wait') end)
        test.it('goes on', function() end)",
        &["--timeout", "0.3"],
    );
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.out.contains("5 tests: 1 passed, 4 failed"), "{}", ended.out);
    for (name, says) in [
        ("spins", "the test ran for longer than 0.3 s (--timeout)"),
        ("spins in the handler", "app.lua:1: handler exceeded its time budget"),
        ("turns in circles", "the test ran for longer than 0.3 s (--timeout)"),
        ("waits in vain", "the test ran for longer than 0.3 s (--timeout)"),
    ] {
        let detail =
            ended.out.split("\n\n").find(|d| d.lines().next().is_some_and(|l| l.ends_with(&format!(": {name}"))));
        assert!(detail.is_some_and(|d| d.contains(says)), "{name}: {}", ended.out);
    }
}

#[test]
fn a_file_that_cannot_run_is_a_failure_and_the_others_run() {
    let dir = folder(&[
        ("a_test.lua", "test.it('x', function( end)"),
        ("b_test.lua", "local t = nil\nt.x = 1"),
        ("c_test.lua", "test.load('none.lua')"),
        ("d_test.lua", "test.it('runs', function() end)"),
        ("e_test.lua", "test.load('bad.lua')"),
        ("bad.lua", "function on_message( end"),
        ("f_test.lua", "test.load('mute.lua')"),
        ("mute.lua", "x = 1"),
        ("g_test.lua", "test.it('twin', print)\ntest.it('twin', print)"),
    ]);
    let ended = run(dir.path(), &["test", "."]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), ""), "{ended:?}");
    assert!(ended.out.contains("\n1 test: 1 passed, 0 failed, 6 files could not be run ("), "{}", ended.out);
    for says in [
        "FAIL  a_test.lua: the file could not be run\n  a_test.lua:1: ",
        "FAIL  b_test.lua:2: the file could not be run\n  attempt to index local 't' (a nil value)",
        "FAIL  c_test.lua:1: the file could not be run\n  no such script: none.lua",
        "  ok    runs\n",
        "FAIL  e_test.lua:1: the file could not be run\n  bad.lua:1: ",
        "\n  mute.lua: no global function on_message; a websocket server's script must define it",
        "\n  another test is named \"twin\", in line 1",
    ] {
        assert!(ended.out.contains(says), "{says:?} in {}", ended.out);
    }
}

#[test]
fn without_tests_there_is_nothing_to_pass() {
    let dir = folder(&[("app.lua", ECHO), ("empty_test.lua", ""), ("sub/x.lua", "")]);
    write_config(&dir.path().join("other.yaml"), "", "", "");
    std::fs::write(dir.path().join("entry.lua"), ECHO).unwrap();
    for (args, code, says) in [
        (&["test", "none_test.lua"][..], 2, "no such file or folder: none_test.lua"),
        (&["test", "sub"], 2, "no tests: there is no *_test.lua in sub"),
        (&["test", "empty_test.lua"], 2, "no tests in empty_test.lua: they call test.it"),
        (&["test", "empty_test.lua", "--filter", "x"], 2, "no test's name holds \"x\" (--filter)"),
        (&["test", "--timeout", "soon"], 2, "a number from 0.01 to 3600 is expected"),
        (&["test", "-f", "none.yaml"], 1, "none.yaml: cannot be read"),
        (&["test"], 1, "connmix.yaml: cannot be read"),
    ] {
        let ended = run(dir.path(), args);
        assert_eq!((ended.code, ended.out.as_str()), (Some(code), ""), "{args:?}: {ended:?}");
        assert!(ended.err.contains(says), "{args:?}: {}", ended.err);
    }
    std::fs::remove_file(dir.path().join("empty_test.lua")).unwrap();
    let ended = run(dir.path(), &["test", "-f", "other.yaml"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert_eq!(ended.err, "no tests: there is no *_test.lua beside an entry script, nor in tests/lua");
}

#[test]
fn a_filter_chooses_by_name() {
    let tests =
        "test.describe('one', function() test.it('a', function() end) test.it('b', function() error('x') end) end)
        test.it('two a', function() end)";
    let ended = tested_with(ECHO, tests, &["--filter", "one > a"]);
    assert_eq!(timeless(&ended.out), "app_test.lua\n  ok    one > a\n\n1 test: 1 passed, 0 failed");
    assert_eq!(ended.code, Some(0));
    // Letters that mean something in patterns are letters here.
    assert_eq!(tested_with(ECHO, tests, &["--filter", "."]).code, Some(2));
}

#[test]
fn json_tells_all_of_it() {
    let tests = "\ntest.it('good', function() end)\ntest.it('bad', function() print('hi') test.truthy(nil) end)";
    let ended = tested_with(ECHO, tests, &["--json"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), ""));
    let mut report: Value = serde_json::from_str(&ended.out).unwrap();
    assert!(report["seconds"].take().as_f64().unwrap() > 0.0);
    for test in report["tests"].as_array_mut().unwrap() {
        assert!(test["seconds"].take().as_f64().unwrap() > 0.0);
    }
    assert_eq!(
        report,
        json!({
            "passed": 1, "failed": 1, "seconds": null, "errors": [],
            "tests": [
                {"file": "app_test.lua", "line": 2, "name": "good", "passed": true, "seconds": null},
                {
                    "file": "app_test.lua", "line": 3, "name": "bad", "passed": false, "seconds": null,
                    "place": "app_test.lua:3",
                    "message": "expected: neither false nor nil\n     got: nil",
                    "traceback": ["app_test.lua:3: in function <app_test.lua:3>"],
                    "log": ["info app_test.lua:3: hi"],
                },
            ],
        })
    );
    let dir = folder(&[("a_test.lua", "error('broken')")]);
    let ended = run(dir.path(), &["test", "--json", "a_test.lua"]);
    assert_eq!(ended.code, Some(1));
    let report: Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["errors"][0]["file"], "a_test.lua");
    assert_eq!(report["errors"][0]["message"], "broken");
}

#[test]
fn the_configuration_leads_to_files_options_and_limits() {
    let one = "test.it('has the options', function()
          test.load('../../../lua/app.lua')
          test.equal(mix.server.option('room'), 'blue')
          test.equal(require('helper'), 'from lua')
        end)
        test.it('may give others', function()
          test.load('../../../lua/app.lua', {options = {room = 7}})
          test.equal(mix.server.option('room'), '7')
          test.equal(mix.server.option('path'), nil)
        end)
        test.it('knows the names of Redis', function()
          test.load('../../../lua/app.lua')
          test.truthy(mix.redis.connection('cache'))
          test.equal({mix.redis.connection('cash')}, {nil, 'no Redis is called \"cash\" under engine.luavm.redis'})
        end)";
    let two = "test.it('has its time', function()
          local app = test.load('app.lua')
          test.errors(function() app:connect():message('x') end, 'time budget')
        end)";
    let dir = folder(&[
        ("conf/lua/app.lua", "function on_message(msg) local x = 0 for i = 1, 1e12 do x = x + 1 end end"),
        ("conf/lua/app_test.lua", two),
        ("conf/lua/helper.lua", "return 'from lua'"),
        ("conf/tests/lua/deep/one_test.lua", one),
        ("conf/tests/other_test.lua", "error('not ours')"),
        (
            "conf/my.yaml",
            "engine:\n  luavm: {redis: [{name: cache}]}\n  servers:\n    - {entry: ./lua/app.lua, handlerTimeout: 20ms, \
             options: [{name: room, value: blue}, {name: path, value: /x}]}\n",
        ),
    ]);
    let ended = run(dir.path(), &["test", "-f", "conf/my.yaml"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    assert!(ended.out.starts_with("conf/lua/app_test.lua\n"), "{}", ended.out);
    assert!(ended.out.contains("\nconf/tests/lua/deep/one_test.lua\n"), "{}", ended.out);
    assert!(ended.out.contains("\n4 tests: 4 passed"), "{}", ended.out);
}

#[test]
fn the_shipped_scripts_pass_their_tests() {
    let ended = run(Path::new(env!("CARGO_MANIFEST_DIR")), &["test"]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{}", ended.out);
    for file in ["lua/entry.socket_test.lua", "lua/entry.websocket_test.lua"] {
        assert!(ended.out.lines().any(|line| line == file), "{file}: {}", ended.out);
    }
}

// What tests can do.

#[test]
fn every_test_starts_afresh() {
    passes(
        "count = (count or 0) + 1 function on_message(msg, conn) count = count + 1 conn:send(tostring(count)) end",
        "
        local runs, order = 0, {}
        leaked = (leaked or 0) + 1
        test.before_each(function() order[#order + 1] = 'outer' runs = runs + 1 end)
        for i = 1, 3 do
          test.it('is the ' .. i .. 'th', function()
            test.equal({runs, leaked, #order}, {1, 1, 1})
            local c = app:connect()
            c:message('x')
            test.equal(c.sent[1].data, '2')
            -- What a test makes global, the handler does not see; what the handler does, the test sees.
            test.equal(rawget(getfenv(app.hooks.on_message), 'leaked'), nil)
            test.equal(count, 2)
          end)
        end
        test.describe('a group', function()
          test.before_each(function() order[#order + 1] = 'inner' end)
          test.it('has both', function() test.equal(order, {'outer', 'inner'}) end)
        end)",
        4,
    );
}

#[test]
fn checks_say_what_is_wrong() {
    for (check, says) in [
        ("test.equal(1, '1')", "expected: \"1\"\n       got: 1"),
        ("test.equal({a = {1, 2}}, {a = {1, 3}})", "differs: .a[2] should be 3, is 2"),
        ("test.equal({}, {['x y'] = 1})", "differs: [\"x y\"] should be 1, is nil"),
        ("test.equal({x = 1}, {})", "differs: .x should be nil, is 1"),
        ("test.equal('a\\n\\0\\255', 'b')", "got: \"a\\\\n\\\\000\\\\255\""),
        ("test.equal('弹幕', 'b')", "got: \"弹幕\""),
        ("test.equal(2^53 - 1, 1e300)", "expected: 1e+300\n       got: 9007199254740991"),
        ("local t = {} t.t = t test.equal(t, 1)", "got: {t = <a table that it is in>}"),
        ("test.equal(('x'):rep(3000), '')", "x\"... (3000 bytes)"),
        ("test.match('abc', '^b')", "expected: a match of \"^b\"\n       got: \"abc\""),
        ("test.match(nil, 'b')", "got: nil"),
        ("test.errors(function() end)", "expected: an error\n       got: none"),
        ("test.errors(function() error('a') end, 'b')", "expected: an error that matches \"b\"\n       got: "),
        ("test.truthy(false, 'about')", "about\n  expected: neither false nor nil\n       got: false"),
        ("error({code = 1})", "error object is a table value: {code = 1}"),
        ("test.it('x', print)", "test.it does not work inside a test"),
        ("test.load('app.lua')", "this test has loaded app.lua already"),
        ("test.advance(-1)", "test.advance wants a number of seconds, got -1"),
        ("mix.sleep(1)", "this function waits, and only a handler can"),
        ("coroutine.yield()", "attempt to yield from outside a coroutine"),
        ("test.http('GET', 'http://x')", "bad argument #3 to 'http' (table or function expected, got nil)"),
        ("app:connect():bytes('x')", "a client of a websocket server sends messages: c:message(data)"),
        ("local c = app:connect() c:close() c:message('x')", "this connection has ended"),
        ("local c = app:connect() c:message('\\255')", "a text message must be valid UTF-8"),
    ] {
        let says = says.replace("\\\\", "\\");
        let ended = tested(ECHO, &format!("test.it('x', function() {check} end)"));
        assert!(ended.code == Some(1) && ended.out.contains(&says), "{check}: {says:?} in {}", ended.out);
        assert!(ended.out.contains("FAIL  app_test.lua:1: x\n"), "{check}: {}", ended.out);
    }
    passes(
        ECHO,
        "test.it('x', function()
          test.equal(0/0, 0/0)
          local a, b = {}, {} a.a, b.a = a, b
          test.equal(a, b)
          test.equal(test.truthy(7), 7)
          test.match(test.errors(function() error('deep') end, 'ee'), '^app_test.lua:%d+: deep$')
        end)",
        1,
    );
}

#[test]
fn handshakes_are_answered_and_refused() {
    passes(
        "function on_handshake(id, headers, server, conn)
          conn:send('welcome ' .. server.RequestUri .. ' ' .. server.Host .. ' ' .. server.RemoteAddr)
          if headers['X-KEY'] == 'wait' then mix.sleep(1) end
          if headers['X-KEY'] == 'no' then return false end
          if headers['X-KEY'] == 'later' then return false, 429, 'later' end
          if headers['X-KEY'] == 'fail' then error('oops') end
        end
        closed = {}
        function on_message(msg, conn) conn:send(msg.data) end
        function on_close(id) closed[#closed + 1] = id end",
        "
        test.it('open', function()
          local c = app:connect({uri = '/a?b=c', remote_addr = '1.2.3.4:5'})
          test.equal(c.sent[1].data, 'welcome /a?b=c localhost 1.2.3.4:5')
          test.equal({c.refused, c.closed, c.waiting}, {nil, nil, false})
        end)
        test.it('refuse', function()
          test.equal(app:connect({headers = {['x-key'] = 'no'}}).refused, {status = 403, text = 'refused'})
          local c = app:connect({headers = {['x-key'] = 'later'}})
          test.equal({c.refused, c.sent, closed}, {{status = 429, text = 'later'}, {}, {}})
          test.errors(function() c:message('x') end, 'refused with status 429')
        end)
        test.it('fail', function()
          test.errors(function() app:connect({headers = {['x-key'] = 'fail'}}) end, 'oops')
          test.equal(closed, {})
        end)
        test.it('wait, and messages with them', function()
          local c = app:connect({headers = {['x-key'] = 'wait'}})
          c:message('early')
          test.equal({#c.sent, c.waiting}, {1, true})
          test.advance(1)
          test.equal(c.sent[2].data, 'early')
        end)
        test.it('end with the client', function()
          local c = app:connect({headers = {['x-key'] = 'wait'}})
          c:close()
          test.equal({closed, c.waiting}, {{}, false})
        end)",
        5,
    );
}

#[test]
fn the_clock_is_the_tests_and_one_connections_handlers_never_overlap() {
    passes(
        "steps = {}
        function on_message(msg, conn)
          local began = mix.now()
          steps[#steps + 1] = '+' .. msg.data
          local err = mix.sleep(tonumber(msg.data))
          steps[#steps + 1] = '-' .. msg.data .. (err and ' ' .. err or '')
          assert(err or mix.now() - began == tonumber(msg.data))
          assert(err or os.time() == math.floor(mix.now()) and os.date('!%Y') == '2026')
        end
        function on_close(id, err) mix.sleep(1) steps[#steps + 1] = 'closed ' .. tostring(err) end",
        "
        test.it('waits', function()
          local a, b = app:connect(), app:connect()
          a:message('2') a:message('1') b:message('2.5')
          test.equal(steps, {'+2', '+2.5'})
          test.advance(2.75)
          test.equal(steps, {'+2', '+2.5', '-2', '+1', '-2.5'})
          test.advance(100)
          test.equal(steps[6], '-1')
        end)
        test.it('ends waits with the connection', function()
          local c = app:connect()
          c:message('5') c:message('0')
          c:close('lost')
          -- What the client sent before it went is still handled.
          test.equal(steps, {'+5', '-5 the connection has closed', '+0', '-0'})
          test.equal(c.closed, {err = 'lost'})
          test.advance(1)
          test.equal(steps[5], 'closed lost')
        end)",
        2,
    );
}

#[test]
fn context_publishes_and_sends_connect_the_fakes() {
    passes(
        "function on_message(msg, conn)
          if msg.data == 'wait' then
            conn:send('uid ' .. tostring(conn:wait_context_value('uid')))
          elseif msg.data == 'all' then
            local s, f = mix.mesh.publish('room', 'hi')
            conn:send(s .. ' ' .. f)
          elseif msg.data == 'quiet' then
            mix.mesh.publish('room', 'psst', 'binary', {counts = false})
          elseif msg.data == 'close' then
            conn:subscribe('room') conn:send('bye') conn:close(4001, 'done')
          elseif msg.data:find('^to ') then
            conn:send(tostring(mix.mesh.send(msg.data:sub(4), 'for you')))
          else
            conn:subscribe('room')
          end
        end
        function on_close(id, err, conn) mix.mesh.publish('room', 'left ' .. #conn:channels()) end",
        "
        test.it('context', function()
          local c = app:connect()
          c:message('wait')
          test.equal(c.waiting, true)
          c:set_context({uid = 7, tags = {'a'}})
          test.equal(c.sent[1].data, 'uid 7')
          test.equal(c.context, {uid = 7, tags = {'a'}})
        end)
        test.it('publish', function()
          local a, b = app:connect(), app:connect()
          a:message('in') b:message('in')
          a:message('all')
          -- Delivered before the handler goes on.
          test.equal(a.sent, {{data = 'hi', type = 'text'}, {data = '2 0', type = 'text'}})
          b:message('quiet')
          test.equal(a.sent[3], {data = 'psst', type = 'binary'})
          test.equal(app.published, {
            {channel = 'room', data = 'hi', type = 'text', success = 2, fail = 0},
            {channel = 'room', data = 'psst', type = 'binary', success = 2, fail = 0},
          })
          a:message('to ' .. b.id)
          a:message('to 12')
          test.equal(b.sent[3].data, 'for you')
          test.equal(a.sent[5].data, 'client 12 is not connected, or can\\'t take the message')
          test.equal({test.send(a.id, 'direct'), test.send('12', 'x')}, {true, false})
          test.equal(a.sent[6].data, 'direct')
        end)
        test.it('close', function()
          local a, b = app:connect(), app:connect()
          a:message('in')
          b:message('close')
          test.equal(b.closed, {code = 4001, reason = 'done'})
          test.equal(b.sent, {{data = 'bye', type = 'text'}})
          test.equal(a.sent[1].data, 'left 1')
          test.equal(app.published[1].fail, 1, 'it is closing itself')
          test.equal({test.publish('room', 'x')}, {1, 0})
          test.equal(b:channels(), {})
        end)",
        3,
    );
}

#[test]
fn what_back_ends_would_never_be_asked_fails_as_in_the_engine() {
    let script = "function on_message(msg, conn)
          local f = assert(loadstring('return ' .. msg.data))
          local ok, v, err = pcall(f)
          conn:send(tostring(ok and err or v))
        end
        redis = mix.redis.connection('default')";
    passes(
        script,
        r#"
        local function ask(text)
          local c = app:connect()
          c:message(text)
          return c.sent[1].data
        end
        test.it('queue', function()
          test.match(ask('mix.queue.push("a b", 1)'), '^topics are named as channels are: ')
          test.match(ask('mix.queue.push("a")'), "bad argument #2 to 'push' %(value expected, got no value%)")
          test.match(ask('mix.queue.push({}, 1)'), "bad argument #1 to 'push' %(string expected, got table%)")
          test.equal(app.queued, {})
        end)
        test.it('redis', function()
          test.redis('set', 'OK')
          test.match(ask('redis:command("subscribe", "x")'), '^redis default: subscribe is not possible here')
          test.match(ask('redis:command("set", "k", {})'), "bad argument #3 to 'command' %(string expected, got table%)")
          test.match(ask('redis.command("set", "k")'), '^not a Redis: got string')
          ask('redis:command("set", "k", 1e15, 0.1)')
          test.equal(app.commands, {{'set', 'k', '1000000000000000', '0.1'}})
        end)
        test.it('http', function()
          test.http('GET', 'http://b/', {})
          test.match(ask('mix.http.request("GET", "ftp://b/")'), '^http: a URL begins with')
          test.match(ask('mix.http.request("GET", "http://b/", {headers = {a = "x\\ny"}})'), 'holds a line break')
          test.match(ask('mix.http.request("GET", "http://b/", {timeout = "soon"})'), "bad argument #3 to 'request'")
          test.match(ask('mix.http.request("GET")'), "bad argument #2 to 'request' %(string expected, got n")
          test.equal(app.requests, {})
          ask('mix.http.request("get", "http://b/?a=1")')
          test.equal(app.requests[1].url, 'http://b/?a=1')
        end)"#,
        3,
    );
}

#[test]
fn back_ends_answer_what_the_test_says() {
    let script = "function on_message(msg, conn)
          if msg.data == 'push' then
            conn:send(tostring(mix.redis.push('jobs', {1, 2})))
          elseif msg.data == 'queue' then
            local n, err = mix.queue.push('topic', {a = {1}})
            conn:send(tostring(n)) conn:send(tostring((mix.queue.push('topic', 'x')))) 
            conn:send(tostring(select(2, mix.queue.push('topic', print))))
          elseif msg.data == 'swallow' then
            pcall(mix.http.request, 'POST', 'http://unknown/')
          elseif msg.data:find('^http') then
            local r, err = mix.http.request('get', msg.data, {headers = {Authorization = 'me'}, query = 'q=1'})
            conn:send(r and r.status_code .. ' ' .. r.body_size .. ' ' .. r.body .. ' ' .. tostring(r.headers['X-A']) or err)
          else
            local v, err = mix.redis.connection('default'):command(unpack(mix.str_split(msg.data, ' ')))
            if type(v) == 'table' and type(v[2]) == 'table' then v = {v[1], v[2].err, v[3][1].err} end
            conn:send(type(v) == 'table' and table.concat(v, ',') or tostring(v) .. ' ' .. tostring(err))
          end
        end";
    passes(
        script,
        "
        local function ask(text)
          local c = app:connect()
          c:message(text)
          return c.sent[1] and c.sent[1].data
        end
        test.it('http', function()
          test.http('GET', 'http://b/1', {status_code = 404, body = 'none', headers = {['x-a'] = 'y'}})
          test.http('GET', 'http://b/2?q=1', {})
          test.http('GET', 'http://b/3', function(request)
            test.equal(request.headers.authorization, 'me')
            return nil, 'connection refused'
          end)
          test.equal(ask('http://b/1'), '404 4 none y')
          test.equal(ask('http://b/2'), '200 0  nil')
          test.equal(ask('http://b/3'), 'connection refused')
          test.equal(app.requests[2].url, 'http://b/2?q=1')
        end)
        test.it('late http', function()
          test.http('GET', 'http://b/', {body = 'x', delay = 2})
          local c = app:connect()
          c:message('http://b/')
          test.advance(1.5)
          test.equal({#c.sent, c.waiting}, {0, true})
          test.advance(0.5)
          test.equal(c.sent[1].data, '200 1 x nil')
        end)
        test.it('redis', function()
          test.redis('get', 'v')
          test.redis('GET', 'special', nil)
          test.redis('lrange', {'a', 'b'})
          test.redis('eval', 'one', {err = 'MY X'})
          test.redis('eval', 'two', {1, {err = 'MY X'}, {{err = 'DEEP'}}})
          test.redis('eval', 'three', function() return {err = 'OTHER'} end)
          test.redis('set', function(command, key, value) return nil, 'READONLY ' .. command .. key .. value end)
          test.redis('lpush', 'jobs', function(_, _, json) return #mix.json_decode(json).d end)
          test.equal(ask('get any'), 'v nil')
          test.equal(ask('get special'), 'nil nil')
          test.equal(ask('lrange l 0 -1'), 'a,b')
          test.equal(ask('set k 1'), 'nil READONLY setk1')
          test.equal(ask('push'), '2')
          test.equal(app.commands[2], {'get', 'special'})
          test.equal(ask('eval one'), 'nil MY X')
          test.equal(ask('eval two'), '1,MY X,DEEP')
          test.equal(ask('eval three'), 'nil OTHER')
        end)
        test.it('queue', function()
          local c = app:connect()
          c:message('queue')
          test.equal(c.sent[1].data .. c.sent[2].data, '12')
          test.match(c.sent[3].data, '^can.t encode function')
          test.equal(app.queued, {{topic = 'topic', data = {a = {1}}}, {topic = 'topic', data = 'x'}})
        end)",
        4,
    );
    for (message, says) in [
        ("http://b/", "app.lua:11: unexpected HTTP request: GET http://b/?q=1; answer it with test.http("),
        ("swallow", "unexpected HTTP request: POST http://unknown/; answer it with test.http("),
        ("hget k {x}", "app.lua:14: unexpected Redis command: hget k \"{x}\"; answer it with test.redis("),
        ("push", "unexpected Redis command: lpush jobs \"{"),
    ] {
        let ended = tested(script, &format!("test.it('x', function() app:connect():message('{message}') end)"));
        assert!(ended.code == Some(1) && ended.out.contains(says), "{message}: {}", ended.out);
    }
}

#[test]
fn a_socket_servers_hooks_are_driven_package_by_package() {
    passes(
        "function on_connect(id, conn) conn:send('hello') end
        function protocol_input(buf, conn)
          local head, err = buf:read(1)
          if not head then return 0 end
          assert(buf:position() == 1 and buf:length() == #buf:tostring())
          if head == '!' then return -1 end
          if head == '?' then error('bad byte') end
          if head == 'c' then conn:clear_buffer() return 0 end
          return 1 + tonumber(head)
        end
        function protocol_decode(str, conn) if str ~= '0' then return {text = str:sub(2)} end end
        function protocol_encode(data, conn)
          if data == 'empty' then return '' end
          if data == 'sleep' then mix.sleep(1) end
          return '<' .. data .. (conn and '' or ' to all') .. '>'
        end
        function on_message(msg, conn)
          assert(mix.socket.tcp() == conn)
          if msg.text == 'ww' then mix.sleep(1) end
          conn:subscribe('room')
          conn:send(msg.text)
          if msg.text == 'bye' then conn:close() end
        end
        ended = {}
        function on_close(id, err) ended[#ended + 1] = tostring(err) end",
        "
        local function texts(c)
          local list = {}
          for i, sent in ipairs(c.sent) do list[i] = sent.data test.equal(sent.type, nil) end
          return list
        end
        test.it('packages', function()
          test.equal(app.protocol, 'socket')
          local c = app:connect()
          c:bytes('2a') test.equal(#c.sent, 1)
          c:bytes('b1x03y')
          test.equal(texts(c), {'hello', 'ab', 'x'})
          c:bytes('zz')
          test.equal(texts(c), {'hello', 'ab', 'x', 'yzz'})
          c:bytes('cc') c:bytes('1q')
          test.equal(c.sent[5].data, 'q')
          test.errors(function() c:message('x') end, 'c:bytes')
        end)
        test.it('waits between packages', function()
          local c = app:connect()
          c:bytes('2ww1x')
          test.equal(#c.sent, 1)
          test.advance(1)
          test.equal(texts(c), {'hello', 'ww', 'x'})
        end)
        test.it('ends', function()
          local a, b, c = app:connect(), app:connect(), app:connect()
          a:bytes('!')
          test.equal(a.closed ~= nil, true)
          test.errors(function() b:bytes('1x?') end, 'bad byte')
          c:bytes('3bye1x')
          test.equal(texts(c), {'hello', 'bye'})
          test.equal(#ended, 3)
          test.equal({ended[2], ended[3]}, {'handler error', 'nil'})
        end)
        test.it('encodes what comes from elsewhere', function()
          local a, b = app:connect(), app:connect()
          a:bytes('1x') b:bytes('1y')
          test.equal({test.publish('room', 'hi')}, {2, 0})
          test.equal(a.sent[3].data, '<hi>')
          test.equal({test.publish('room', 'empty')}, {0, 2})
          test.match(app.logged[1].text, 'protocol_encode must return')
          test.equal({test.publish('room', 'sleep')}, {0, 2})
          test.match(app.logged[3].text, 'this function waits, which protocol_encode can')
          test.equal(test.send(b.id, 'you'), true)
          test.equal(b.sent[4].data, '<you>')
        end)",
        4,
    );
    passes(
        "protocol_encode_shared = true
        calls = 0
        function protocol_input(buf) return buf:length() end
        function protocol_decode(s) return s end
        function protocol_encode(data, conn) calls = calls + 1 assert(conn == nil) return '<' .. data .. '>' end
        function on_message(msg, conn) conn:subscribe(msg) end",
        "test.it('once for all', function()
          local a, b = app:connect(), app:connect()
          a:bytes('r') b:bytes('r')
          test.equal({test.publish('r', 'x')}, {2, 0})
          test.equal({calls, a.sent[1].data, b.sent[1].data}, {1, '<x>', '<x>'})
        end)",
        1,
    );
}

#[test]
fn what_a_script_prints_is_logged_as_in_the_engine() {
    passes(
        "function on_message(msg, conn)
          print({1, a = {}}, 'x') io.write('one ', 2) mix.sleep(1) io.write('a\\nb') io.stderr:write('bad\\n') io.write('c') print('d')
        end",
        "
        test.it('print and io.write', function()
          local c = app:connect()
          c:message('go')
          test.advance(1)
          local logged = {}
          for i, line in ipairs(app.logged) do logged[i] = line.level .. ' ' .. line.place .. ' ' .. line.text end
          test.equal(logged, {'info app.lua:2 {1, a = {}}\\tx', 'info app.lua:2 one 2', 'info app.lua:2 a', 'warn app.lua:2 bad',
            'info app.lua:2 bc', 'info app.lua:2 d'})
        end)",
        1,
    );
}

#[test]
fn on_close_is_told_the_clients_code_and_reason() {
    let tests = "
        test.it('each end', function()
          local last, ends = nil, {}
          for _, how in ipairs({{}, {4321, 'bye'}, {3000}, {'lost'}}) do
            local c = app:connect()
            c:close(unpack(how))
            ends[#ends + 1] = ended
            last = c
          end
          test.equal(last.closed, {err = 'lost'})
          local c = app:connect()
          c:message('close')
          ends[#ends + 1] = ended
          test.equal(ends, WANTED)
          test.errors(function() app:connect():close(5) end, 'close code expected')
        end)";
    let hooks = "function on_message(msg, conn) conn:close(4000, 'ours') end ";
    for (script, wanted) in [
        (
            "function on_close(id, err, conn, code, reason)
              ended = table.concat({type(conn), tostring(err), tostring(code), tostring(reason)}, '|')
            end",
            "{'userdata|nil|1000|', 'userdata|nil|4321|bye', 'userdata|nil|3000|', 'userdata|lost|nil|nil', 'userdata|nil|nil|nil'}",
        ),
        (
            "function on_close(err, conn, more) ended = tostring(err) .. type(conn:context()) .. tostring(more) end",
            "{'niltablenil', 'niltablenil', 'niltablenil', 'losttablenil', 'niltablenil'}",
        ),
    ] {
        passes(&format!("{hooks}{script}"), &tests.replace("WANTED", wanted), 1);
    }
}

#[test]
fn a_handler_that_is_stopped_inside_the_engines_own_lua_is_told_with_the_scripts_line() {
    passes(
        "function on_message()
          xpcall(function() while true do end end, function() while true do end end)
        end",
        "test.it('is stopped', function()
          test.errors(function() app:connect():message('x') end, '^app.lua:2: handler exceeded its time budget')
        end)",
        1,
    );
}

#[test]
fn numbers_of_chance_are_the_same_in_every_run() {
    let script = "first = math.random(1e9) function on_message() end";
    let dir = folder(&[
        ("app.lua", script),
        ("app_test.lua", "test.load('app.lua') test.it('fails', function() error('got ' .. first, 0) end)"),
    ]);
    let got = || run(dir.path(), &["test", "app_test.lua"]).out.lines().find(|l| l.contains("got ")).map(str::to_owned);
    let first = got();
    assert!(first.is_some() && first == got(), "{first:?}");
}

// The fakes against the engine itself.

/// Each is evaluated by a handler of the engine and by one of a test; the same must come of it.
const CALLS: [&str; 78] = [
    "xpcall(error, function(e) mix.sleep(0) return e .. '!' end, 'x')",
    "xpcall(function() conn:send() end, function(e) return #debug.traceback(e) > 40, e end)",
    "pcall(coroutine.yield, 1)",
    "coroutine.isyieldable()",
    "coroutine.wrap(function() return coroutine.isyieldable(), coroutine.yield() end)()",
    "debug.getinfo(1, 'S').short_src",
    "tostring(io.stdout)",
    "mix.url_parse('/a?b=1').raw_query",
    "conn:send()",
    "conn:send({})",
    "conn:send('x', 'y')",
    "conn:send('x', true)",
    "conn:send('\\255')",
    "conn:send(12, 'binary')",
    "conn.send('x')",
    "conn.close()",
    "type(conn)",
    "getmetatable(conn)",
    "conn == mix.websocket()",
    "tostring(conn) == 'connection ' .. conn:client_id()",
    "type(conn:client_id())",
    "conn.nothing",
    "conn:clear_buffer and 1",
    "conn:subscribe()",
    "conn:subscribe('')",
    "conn:subscribe('a', nil)",
    "conn:subscribe('a', 'b c')",
    "#conn:channels()",
    "conn:subscribe('u:' .. 1234567890123456)",
    "conn:subscribe(('x'):rep(256))",
    "conn:subscribe('a', 'b', 7)",
    "conn:unsubscribe('b', 'none')",
    "conn:unsubscribe({})",
    "(function() local t = conn:channels() table.sort(t) return table.concat(t, ' ') end)()",
    "mix.subscribe(nil)",
    "mix.subscribe('c')",
    "mix.unsubscribe('c', '')",
    "conn:set_context(1)",
    "conn:set_context({1})",
    "conn:set_context({['\\255'] = 1})",
    "conn:set_context({f = print})",
    "conn:set_context({a = 1, b = {c = 'x'}})",
    "conn:context_value('b').c",
    "conn:context_value()",
    "conn:context_value('\\255')",
    "conn:set_context_value('k', ('x'):rep(300000))",
    "conn:set_context_value('k', conn)",
    "conn:set_context_value('a', nil)",
    "conn:context_value('a')",
    "type(next(conn:context()))",
    "(function() for i = 1, 1100 do local e = conn:set_context_value('k' .. i, true) if e then return i, e end end end)()",
    "conn:wait_context_value('b').c",
    "conn:wait_context_value({})",
    "mix.mesh.publish()",
    "mix.mesh.publish('a b', 'x')",
    "mix.mesh.publish('c', '\\255')",
    "mix.mesh.publish('c', 'x', 'y')",
    "mix.mesh.publish('c', 'x')",
    "mix.mesh.publish('nobody', 'x')",
    "mix.mesh.publish('c', 'x', 'text', {counts = false})",
    "mix.mesh.publish('c', 'x', 'text', {counts = 1})",
    "mix.mesh.publish('c', 'x', 'text', 1)",
    "mix.mesh.send('x', 'y')",
    "mix.mesh.send(123, 'y')",
    "mix.mesh.send('123', {})",
    "mix.mesh.send(conn:client_id(), 'me')",
    "mix.sleep('x')",
    "mix.sleep(-1)",
    "mix.sleep('0')",
    "mix.log('x', 'y')",
    "mix.log(mix.INFO)",
    "mix.log(mix.DEBUG, 1)",
    "mix.log('info', 'y')",
    "mix.server.option('path')",
    "mix.server.option(nil)",
    "table.sort({3, 1, 2}, function() mix.sleep(0) return true end)",
    "coroutine.wrap(function() return mix.sleep(0), mix.websocket() == conn end)()",
    "coroutine.resume(coroutine.create(function() local s = mix.mesh.publish('nobody', 'x') coroutine.yield(s) end))",
];

/// The same while the connection closes.
const LATE_CALLS: [&str; 13] = [
    "conn:close('x')",
    "conn:close(1005)",
    "conn:close(4000.5)",
    "conn:close(4000, ('x'):rep(124))",
    "conn:close(4001, '\\255')",
    "conn:close(4001, 'bye')",
    "conn:send('late')",
    "conn:close(4002)",
    "conn:subscribe('late')",
    "conn:remote_addr() ~= nil",
    "conn:set_context_value('k1', nil)",
    "mix.sleep(100)",
    "conn:wait_context_value('never')",
];

const PROBE: &str = "
local lines, kept = {}, nil
local function put(code, ...)
  local words = {}
  for i = 1, select('#', ...) do words[i] = tostring((select(i, ...))) end
  lines[#lines + 1] = code .. ' -> ' .. table.concat(words, ', ')
end
local function try(conn, code)
  local f, err = loadstring('local conn = ... local function f() return ' .. code .. ' end return (function(...) return ... end)(f())', '=x')
  if not f then put(code, 'compile') else put(code, pcall(f, conn)) end
end
function on_message(msg, conn)
  if msg.data == 'report' then return conn:send(table.concat(lines, '\\n')) end
  for _, code in ipairs(CALLS) do try(conn, code) end
  kept = conn
  for _, code in ipairs(LATE_CALLS) do try(conn, code) end
end
function on_close(id, err, conn)
  put('on_close', err, #conn:channels(), conn:send('x'), mix.mesh.publish('c', 'left'))
  mix.sleep(0)
  local t = {} for k in pairs(kept:context()) do t[#t + 1] = k end
  put('context', #t, conn == kept)
end
";

/// What the script has put down, once the connection has ended.
const AFTER: &str = "after";

#[tokio::test]
async fn the_fakes_answer_as_the_engine_does() {
    let quoted = |calls: &[&str]| calls.iter().map(|c| format!("[==[{c}]==],")).collect::<String>();
    let script = PROBE
        .replace("LATE_CALLS", &format!("{{{}}}", quoted(&LATE_CALLS)))
        .replace("CALLS", &format!("{{{}}}", quoted(&CALLS)));
    let engine = TestEngine::new(&script);
    let (mut probed, mut asking) = (engine.connect().await, engine.connect().await);
    probed.send("probe").await;
    let frame = loop {
        match probed.next().await {
            Ok(tokio_tungstenite::tungstenite::Message::Close(Some(frame))) => break frame,
            Ok(_) => {}
            Err(e) => panic!("{e}"),
        }
    };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4001, "bye"));
    // The close frame may be there before on_close has slept.
    let report = loop {
        let report = asking.ask("report").await;
        if report.contains("\ncontext -> ") {
            break report;
        }
    };
    assert_eq!(report.lines().count(), CALLS.len() + LATE_CALLS.len() + 2, "{report}");
    let tests = format!(
        "local app = test.load('entry.lua', {{options = {{path = '/ws'}}}})
        test.it('{AFTER}', function()
          local c, asking = app:connect(), app:connect()
          c:message('probe')
          test.equal(c.closed, {{code = 4001, reason = 'bye'}})
          asking:message('report')
          local got, want = asking.sent[#asking.sent].data, [==[\n{report}]==]
          test.equal(mix.str_split(got, '\\n'), mix.str_split(want, '\\n'))
        end)"
    );
    std::fs::write(engine.path("app_test.lua"), tests.replace("[==[\n", "[=====[\n").replace("]==]\n", "]=====]\n"))
        .unwrap();
    let ended = run(engine.dir.path(), &["test", "app_test.lua"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
}

// Two workers.

/// A counter of clients that workers do not share.
const COUNTER: &str = "local online = 0
    function on_handshake() online = online + 1 end
    function on_message(msg, conn) conn:send('online ' .. online) end";

const COUNTED: &str = "
    test.it('counts', function()
      local a, b = app:connect(), app:connect()
      b:message('?')
      test.equal(b.sent[1].data, 'online 2')
    end)";

#[test]
fn a_counter_that_workers_do_not_share_fails_its_test() {
    let ended = tested(COUNTER, COUNTED);
    assert_eq!(ended.code, Some(1));
    for wanted in ["online 1", "with one worker it passes: the script keeps what workers do not share"] {
        assert!(ended.out.contains(wanted), "{}", ended.out);
    }
    // What fails with one worker too is not put down to two.
    let ended = tested(COUNTER, &COUNTED.replace("online 2", "online 7"));
    assert!(ended.code == Some(1) && !ended.out.contains("with one worker"), "{}", ended.out);
}

#[test]
fn one_worker_is_there_where_it_is_asked_for() {
    let load = "local app = test.load('app.lua', {workers = 1})";
    let dir = folder(&[("app.lua", COUNTER), ("app_test.lua", &format!("{load} {COUNTED}"))]);
    let ended = run(dir.path(), &["test", "app_test.lua"]);
    assert_eq!(ended.code, Some(0), "{}", ended.out);
    let tests = format!("local app = test.load('app.lua') {COUNTED}");
    let dir = folder(&[("entry.lua", ""), ("app.lua", COUNTER), ("app_test.lua", &tests)]);
    write_config(&dir.path().join("connmix.yaml"), "", "workers: 1", "");
    let ended = run(dir.path(), &["test", "app_test.lua"]);
    assert_eq!(ended.code, Some(0), "{}", ended.out);
}

#[test]
fn each_worker_has_globals_and_modules_of_its_own_and_takes_connections_in_turn() {
    let script = "
        local rooms, fake = require('rooms'), require('fake')
        print('loaded')
        seen = 0
        function on_message(msg, conn)
          seen = seen + 1
          compiled = loadstring('return seen')()
          local inner
          coroutine.wrap(function() inner = loadstring('return seen')() end)()
          conn:subscribe('room')
          conn:send(table.concat({ seen, compiled, inner, _G.seen, rooms.join(), require('rooms').n, fake.name,
            getfenv(1).seen, math.random() }, ' '))
        end";
    let tests = "
        math.random = function() return 'four' end
        package.loaded.fake = { name = 'fake' }
        local app = test.load('app.lua')
        test.it('is split', function()
          local a, b, c = app:connect(), app:connect(), app:connect()
          test.equal({ a.worker, b.worker, c.worker }, { 1, 2, 1 })
          a:message('') b:message('') c:message('')
          test.equal(a.sent[1].data, '1 1 1 1 1 1 fake 1 four')
          test.equal(b.sent[1].data, '1 1 1 1 1 1 fake 1 four')
          test.equal(c.sent[1].data, '2 2 2 2 2 2 fake 2 four')
          a:close() c:close()
          test.equal(app:connect().worker, 1)
          test.equal(app:connect({ worker = 2 }).worker, 2)
          test.errors(function() app:connect({ worker = 3 }) end, 'from 1 to 2')
          -- What is published reaches both.
          test.equal({ test.publish('room', 'x') }, { 1, 0 })
          -- What it says as it is loaded is seen once.
          test.equal(#app.logged, 1)
        end)";
    let module = "local M = { n = 0 }\nfunction M.join() M.n = M.n + 1 return M.n end\nreturn M";
    let dir = folder(&[("app.lua", script), ("app_test.lua", tests), ("rooms.lua", module)]);
    let ended = run(dir.path(), &["test", "app_test.lua"]);
    assert_eq!(ended.code, Some(0), "{}", ended.out);
}

#[test]
fn a_test_that_looks_at_what_the_script_keeps_runs_with_one_worker() {
    let script = "seen = {}\nlocal rooms = require('rooms')\n\
                  function on_message(msg) seen[#seen + 1] = msg.data rooms.n = rooms.n + 1 end";
    let tests = "
        local app = test.load('app.lua')
        test.it('by a global', function()
          local a, b = app:connect(), app:connect()
          a:message('1') b:message('2')
          test.equal(seen, { '1', '2' })
        end)
        test.it('by a module', function()
          local a, b = app:connect(), app:connect()
          a:message('1') b:message('2')
          test.equal(require('rooms').n, 2)
        end)";
    let dir = folder(&[("app.lua", script), ("app_test.lua", tests), ("rooms.lua", "return { n = 0 }")]);
    let ended = run(dir.path(), &["test", "app_test.lua"]);
    assert_eq!(ended.code, Some(0), "{}", ended.out);
}

// What runs outside any connection.

#[test]
fn timers_and_shared_values_go_by_the_fake_clock() {
    let script = "
        function on_start(worker)
          starts = (starts or 0) + 1
          id = mix.timer.every(60, 'tick', 'a')
          mix.timer.after(90, 'once')
        end
        function tick(what) mix.shared.incr('ticks ' .. what, 1, 0, 100) end
        function once() mix.sleep(5) mix.log(mix.INFO, 'once ' .. tostring(mix.websocket())) end
        function slow() mix.shared.incr('slow', 1) mix.sleep(25) end
        function kick(conn, why) conn:close(4000, why) end
        function fails() error('no') end
        function on_message(msg, conn)
          if msg.data == 'kick' then
            mix.timer.after(10, 'kick', {connection = conn}, 'time is up')
          elseif msg.data == 'slow' then
            mix.timer.every(10, 'slow')
          elseif msg.data == 'stop' then
            conn:send(tostring(mix.timer.cancel(id)) .. tostring(mix.timer.cancel(id)))
          else
            conn:send(tostring(mix.timer.after(1, msg.data)))
          end
        end";
    passes(
        script,
        "
        test.it('runs a timer once for all workers', function()
          app:start()
          test.advance(59)
          test.equal(mix.shared.get('ticks a'), nil)
          test.advance(1)
          test.equal(mix.shared.get('ticks a'), 1)
          test.advance(60)
          test.equal(mix.shared.get('ticks a'), 2)
          test.equal(app.logged[1].text, 'once nil')
          test.advance(40)
          test.equal(mix.shared.get('ticks a'), nil, 'a hundred seconds from the first')
        end)
        test.it('starts before the first connection', function()
          local c = app:connect()
          c:message('stop')
          test.equal(c.sent[1].data, 'truefalse')
          test.advance(60)
          test.equal(mix.shared.get('ticks a'), nil)
        end)
        test.it('ends with its connection', function()
          local c, d = app:connect(), app:connect()
          c:message('kick')
          d:message('kick')
          test.advance(5)
          d:close()
          test.advance(5)
          test.equal(c.closed, {code = 4000, reason = 'time is up'})
        end)
        test.it('leaves out what has not ended', function()
          app:connect():message('slow')
          test.advance(61)
          test.equal(mix.shared.get('slow'), 2)
        end)
        test.it('tells what fails', function()
          local c = app:connect()
          c:message('fails')
          test.errors(function() test.advance(1) end, 'app.lua:%d+: no')
          c:message('nobody')
          test.errors(function() test.advance(1) end, 'a timer is to run nobody, and app.lua defines no global function')
          test.errors(function() c:message('') end, 'name of 1 to 255 bytes expected')
        end)",
        5,
    );
}

#[test]
fn an_on_start_that_fails_fails_the_test() {
    let ended = tested(
        "function on_start() mix.sleep(1) error('no database') end function on_message() end",
        "test.it('starts', function() app:start() test.advance(1) end)",
    );
    assert_eq!(ended.code, Some(1), "{}", ended.out);
    assert!(ended.out.contains("app.lua:1: no database"), "{}", ended.out);
}

#[test]
fn who_is_in_a_channel_is_told_as_in_the_engine() {
    passes(
        "function on_message(msg, conn)
  if msg.data == 'who' then
    local page = mix.mesh.presence('room', 1)
    conn:send(page.n .. ' ' .. page.clients[1].i.name .. ' ' .. tostring(page.after == page.clients[1].c))
  else
    conn:subscribe('room', {info = {name = msg.data}})
  end
end",
        "
test.it('tells', function()
  local ann, bob = app:connect(), app:connect()
  ann:message('Ann')
  bob:message('Bob')
  ann:message('who')
  test.equal(ann.sent[1].data, '2 Ann true')
end)",
        1,
    );
}

#[test]
fn channels_are_told_who_comes_and_how_many_there_are_as_their_rules_say() {
    let dir = folder(&[
        (
            "entry.lua",
            "function on_message(msg, conn)
  local word, channel = msg.data:match('^(%S+) (.*)$')
  if word == 'join' then conn:subscribe(channel, {info = {name = 'Ann'}}) else conn:unsubscribe(channel) end
end",
        ),
        (
            "entry_test.lua",
            r#"
local app = test.load('entry.lua')
local function heard(client)
  local lines = {}
  for i, sent in ipairs(client.sent) do
    lines[i], client.sent[i] = sent.data, nil
  end
  return lines
end
test.it('tells who came and went', function()
  local ann, bob, eve = app:connect(), app:connect(), app:connect()
  ann:message('join told:1')
  ann:message('join told:1')
  bob:message('join told:1')
  eve:message('join told:2')
  test.equal(heard(bob), {})
  test.equal(heard(ann), {'{"event":"@join","data":{"c":"' .. bob.id .. '","i":{"name":"Ann"}}}'})
  ann:message('leave told:1')
  test.equal(heard(bob), {'{"event":"@leave","data":{"c":"' .. ann.id .. '","i":{"name":"Ann"}}}'})
  ann:message('join told:1')
  heard(bob)
  bob:close()
  test.equal(heard(ann), {'{"event":"@leave","data":{"c":"' .. bob.id .. '","i":{"name":"Ann"}}}'})
  test.equal(heard(eve), {})
end)
test.it('tells how many there are, once in a while', function()
  local ann, bob, eve = app:connect(), app:connect(), app:connect()
  ann:message('join room:1')
  test.equal(heard(ann), {'@1'})
  bob:message('join room:1')
  eve:message('join room:1')
  test.equal(heard(ann), {})
  test.advance(4.9)
  test.equal(heard(ann), {})
  test.advance(0.2)
  test.equal(heard(ann), {'@3'})
  test.equal(heard(eve), {'@3'})
  -- What is the same again is not told.
  eve:message('leave room:1')
  eve:message('join room:1')
  test.advance(60)
  test.equal(heard(ann), {})
  heard(bob)
  eve:close()
  test.equal(heard(bob), {'@2'})
end)
"#,
        ),
    ]);
    let rules = "channels:\n  - {match: 'told:', joinLeave: true, presence: true}\n  - {match: 'room:', online: {every: 5s, message: '@%n'}}";
    write_config(&dir.path().join("connmix.yaml"), "", rules, "");
    let ended = run(dir.path(), &["test", "-f", "connmix.yaml"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
    assert!(ended.out.contains("2 passed"), "{}", ended.out);
}

#[test]
fn channels_keep_messages() {
    passes(
        "function on_message(msg, conn)
  local word, rest = msg.data:match('^(%S+) ?(.*)$')
  if word == 'publish' then
    mix.mesh.publish('room', rest)
  elseif word == 'page' then
    local page = mix.mesh.history('room')
    conn:send(#page.m .. ' ' .. page.m[1].d)
  else
    local err, at = conn:subscribe('room', word == 'since' and {since = rest} or {last = 2})
    conn:send(at.count .. ' ' .. tostring(at.recovered) .. ' ' .. at.position)
  end
end",
        "
test.it('keeps', function()
  local ann, bob = app:connect(), app:connect()
  for _, text in ipairs({'a', 'b', 'c'}) do ann:message('publish ' .. text) end
  ann:message('last')
  test.equal(ann.sent[1].data, 'b')
  test.equal(ann.sent[2].data, 'c')
  local position = ann.sent[3].data:match('^2 true (.*)$')
  test.publish('room', 'd')
  test.equal(ann.sent[4].data, 'd')
  bob:message('since ' .. position)
  test.equal(bob.sent[1].data, 'd')
  test.equal(bob.sent[2].data:match('^1 true '), '1 true ')
  bob:message('page')
  test.equal(bob.sent[3].data, '4 a')
  bob:message('since nothing')
  test.equal(#bob.sent, 8)
end)",
        1,
    );
}

#[test]
fn channels_have_their_limits() {
    let config = "
engine:
  channels: [{match: room, envelope: json, history: {size: 9}, limit: {rate: 3/1s, reserve: 1, over: merge}}]
  servers: [{port: 6790, protocol: websocket, entry: entry.lua, options: [{name: path, value: /ws}]}]";
    let script = "function on_message(msg, conn)
  if msg.data == 'join' then return conn:subscribe('room') end
  if msg.data == 'late' then return conn:subscribe('room', {last = 1}) end
  local r, f, err, u, over = mix.mesh.publish('room', msg.data, 'text', {key = 'k', priority = msg.data == 'vip' and 'high' or nil})
  conn:send(tostring(r) .. ' ' .. tostring(over))
end";
    let tests = "
local app = test.load('entry.lua')
test.it('limits', function()
  local ann, bob = app:connect(), app:connect()
  ann:message('join')
  for _ = 1, 5 do bob:message('like') end
  bob:message('vip')
  local replies = {}
  for i, reply in ipairs(bob.sent) do replies[i] = reply.data end
  test.equal(replies, {'1 nil', '1 nil', '0 1', '0 1', '0 1', '1 nil'})
  test.equal(#ann.sent, 3)
  test.equal({app.published[3].left_out, app.published[3].merged}, {1, 1})
  test.equal({test.publish('room', 'like', 'text', {key = 'k'})}, {0, 0, 1, 1})
  test.advance(1)
  local added = mix.json_decode(ann.sent[4].data)
  test.equal({added.d, added.n}, {'like', 4})
  local late = app:connect()
  late:message('late')
  test.equal(late.sent[1].data, ann.sent[4].data)
  test.equal({test.publish('room', 'word')}, {2, 0})
  test.equal({test.publish('room', 'word')}, {0, 0, 1})
  test.equal({test.publish('other', 'word', 'text', {priority = 'low'})}, {0, 0})
end)";
    let files = [("connmix.yaml", config), ("entry.lua", script), ("entry_test.lua", tests)];
    let dir = folder(&files);
    let ended = run(dir.path(), &["test", "-f", "connmix.yaml"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.out, ended.err);
}
