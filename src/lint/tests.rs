//! Scripts with one mistake each, and scripts that only look as if they had one.

mod handlers;

use super::*;
use crate::script::vm::VmLimits;
use std::sync::Arc;

/// The warnings of an entry file and its modules.
fn warned(files: &[(&str, &str)]) -> Vec<String> {
    warned_with("", files)
}

/// The same where the system has that path for modules.
fn warned_with(system: &str, files: &[(&str, &str)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let file = dir.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let program = Arc::new(Program::new(crate::config::Protocol::Websocket, dir.path().join("entry.lua"), vec![]));
    program.allow(system.as_bytes());
    let vm = Vm::new(program, &VmLimits { memory: 64 << 20, waiting: 1, ..VmLimits::default() }).unwrap();
    let folder = format!("{}/", dir.path().display());
    let warnings = Lints::of(&vm).warnings(0);
    let has_chinese = |text: &str| text.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
    for both in &warnings {
        let zh = both.zh.replace(&folder, "").replace(": 警告：", ": ");
        assert!(!has_chinese(&both.en.replace(&folder, "")) && zh.split('；').all(has_chinese), "{both:?}");
    }
    warnings.into_iter().map(|w| w.en.replace(&folder, "").replace(": warning: ", ": ")).collect()
}

/// The warnings of an entry file that has an `on_message` as its last line.
fn of(script: &str) -> Vec<String> {
    warned(&[("entry.lua", &format!("{script}\nfunction on_message(msg, conn) end"))])
}

#[test]
fn a_global_that_nothing_defines_is_told_with_its_line_and_the_likely_fix() {
    for (script, wanted) in [
        (
            "function f()\n\n  conn:close()\n\n\n  local conn = mix.websocket()\nend",
            "entry.lua:3: global 'conn' is read but nothing defines it; 'conn' becomes a local on line 6",
        ),
        (
            "function f()\n  helper()\nend\nlocal function helper()\n  return 1\nend",
            "entry.lua:2: global 'helper' is read but nothing defines it; \
             'helper' becomes a local on line 4, after this function: declare it above",
        ),
        (
            "local f = function(n)\n  return n == 0 or f(n - 1)\nend",
            "entry.lua:2: global 'f' is read but nothing defines it; write local function f, so that it knows itself",
        ),
        (
            "function f()\n  do\n    local x = 1\n  end\n  return x\nend",
            "entry.lua:5: global 'x' is read but nothing defines it; the local 'x' of line 3 ends with its block",
        ),
        (
            "function f(data)\n  return dta.op\nend",
            "entry.lua:2: global 'dta' is read but nothing defines it; did you mean 'data'?",
        ),
        (
            "local limits = {}\nfunction f()\n  return function() return limit end\nend",
            "entry.lua:3: global 'limit' is read but nothing defines it; did you mean 'limits'?",
        ),
        (
            "function f(x)\n  return tostrng(x)\nend",
            "entry.lua:2: global 'tostrng' is read but nothing defines it; did you mean 'tostring'?",
        ),
        (
            "function f(x)\n  return json_decode(x)\nend",
            "entry.lua:2: global 'json_decode' is read but nothing defines it; did you mean mix.json_decode?",
        ),
        (
            "function f()\n  if err_text then return 1 end\nend",
            "entry.lua:2: global 'err_text' is read but nothing defines it",
        ),
        (
            "function f()\n  return io.open('x')\nend",
            "entry.lua:2: io.open is not in the sandbox; engine.luavm.libraries can let it in",
        ),
        (
            "function f()\n  os.execute('x')\nend",
            "entry.lua:2: os.execute is not in the sandbox; engine.luavm.libraries can let it in",
        ),
        (
            "local x64 = x64",
            "entry.lua:1: global 'x64' is read but nothing defines it; 'x64' becomes a local later on this line",
        ),
        ("local a, b = unpack and table.unpack, 1", "entry.lua:1: table has no 'unpack'"),
        ("function f()\n  return string.dump(f)\nend", "entry.lua:2: string.dump is not in the sandbox"),
        ("function f()\n  return os.tiem()\nend", "entry.lua:2: os has no 'tiem'; did you mean 'time'?"),
        ("function f(x)\n  return string.spilt(x)\nend", "entry.lua:2: string has no 'spilt'"),
    ] {
        assert_eq!(of(script), [wanted], "{script}");
    }
}

#[test]
fn a_field_that_mix_does_not_have_is_told() {
    for (call, wanted) in [
        ("mix.json_decod('x')", "mix has no 'json_decod'; did you mean 'json_decode'?"),
        (
            "local d = mix.json_decode(mix.json_encod({})) return d",
            "mix has no 'json_encod'; did you mean 'json_encode'?",
        ),
        ("mix.mesh.publsh('c', 'd')", "mix.mesh has no 'publsh'; did you mean 'publish'?"),
        ("mix.publish('c', 'd')", "mix has no 'publish'; did you mean mix.mesh.publish?"),
        ("mix.send('c', 'd')", "mix has no 'send'; did you mean conn:send?"),
        ("mix.frobnicate.deeply()", "mix has no 'frobnicate'"),
        (
            "mix.redis.llen('jobs')",
            "mix.redis has no 'llen'; today it is mix.redis.connection(\"default\"):command(\"llen\", ...)",
        ),
        (
            "mix.queue.consume('login')",
            "mix.queue has no 'consume'; back ends consume topics, by queue.pop of the WebSocket API",
        ),
        ("mix.log(mix.WARNING, 'x')", "mix has no 'WARNING'"),
    ] {
        assert_eq!(of(&format!("function f()\n  {call}\nend")), [format!("entry.lua:2: {wanted}")], "{call}");
    }
}

#[test]
fn a_hook_that_nothing_calls_is_told() {
    for (script, wanted) in [
        (
            "function on_colse() end",
            "entry.lua:1: nothing calls the global function 'on_colse'; did you mean the hook 'on_close'?",
        ),
        (
            "function onHandshake() end",
            "entry.lua:1: nothing calls the global function 'onHandshake'; did you mean the hook 'on_handshake'?",
        ),
        (
            "\nfunction on_open() end",
            "entry.lua:2: nothing calls the global function 'on_open'; \
             the hooks of a websocket server are on_start, on_handshake, on_message, on_close",
        ),
        (
            "\nlocal function on_close() end",
            "entry.lua:2: on_close is a local function; the engine calls global ones; \
             write function on_close(...) without local",
        ),
        (
            "function on_close(err, conn) end",
            "entry.lua:1: on_close(err, conn) is the older form, which is still called with these arguments; \
             write function on_close(client_id, err, conn)",
        ),
        (
            "function on_close(conn) end",
            "entry.lua:1: the first argument of on_close is the client's id, not 'conn'; \
             write function on_close(client_id, err, conn)",
        ),
    ] {
        assert_eq!(of(script), [wanted], "{script}");
    }
    assert_eq!(
        warned(&[("entry.lua", "function on_message(conn, msg) end")]),
        [
            "entry.lua:1: the first argument of on_message is the message, not 'conn'; write function on_message(msg, conn)"
        ]
    );
}

#[test]
fn what_only_the_bundled_luajit_takes_is_told_once_a_file() {
    let found = of("local a, n = 1, 0\n-- a != b\nif a != 2 && a then n += 1 end\nlocal s = 'a != b' .. [[ && ]]\n\
                    if a != 3 then n = n + 1 end");
    let says = |spelt: &str, instead: &str| {
        format!(
            "entry.lua:3: '{spelt}' is neither Lua 5.1 nor stock LuaJIT: such a script runs nowhere else; {instead}"
        )
    };
    assert_eq!(found, [says("!=", "write ~="), says("&&", "write and"), says("+=", "write a = a + b")]);
    // A module from elsewhere is not warned of; one of the script's own is.
    let entry = "local m = require('m')\nfunction on_message() return m end";
    let found = warned(&[("entry.lua", entry), ("m.lua", "return { a = 1 ?? 2 }")]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("m.lua:1: '??' is neither"), "{found:?}");
}

#[test]
fn what_is_assigned_in_a_function_and_read_nowhere_is_told() {
    assert_eq!(
        of("function f()\n  local count = 0\n  cuont = count + 1\n  total = 1\nend"),
        [
            "entry.lua:3: global 'cuont' is assigned but nothing reads it; did you mean 'count'?",
            "entry.lua:4: global 'total' is assigned but nothing reads it; write local total if it is meant for this function"
        ]
    );
}

#[test]
fn the_connection_at_a_files_top_level_is_told() {
    let wanted = "entry.lua:2: mix.websocket() gives nil at a file's top level, where there is no connection; \
                  call mix.websocket() inside the hook";
    assert_eq!(of("\nlocal conn = mix.websocket()"), [wanted]);
    assert_eq!(of("function f() local conn = mix.websocket() return conn end"), [""; 0]);
}

#[test]
fn what_is_defined_or_asked_for_is_no_slip() {
    for script in [
        // Defined anywhere, whenever: here, later, in a function, through _G, in a module, by the VM.
        "function f() return later end\nlater = 1",
        "function init() state = {} end\nfunction f() return state end",
        "_G.here = 1\nfunction f() return here end",
        "function f() _G.here = _G.here or 1; return here end",
        "function f() _G['there'] = 1 return there end",
        "local g = _G\nfunction f(k, v) g[k] = v end\nfunction h() return anything end",
        "rawset(_G, 'x', 1)\nfunction f() return x, y end",
        "setmetatable(_G, { __index = function() return 1 end })\nfunction f() return anything end",
        "local function f() setfenv(1, { x = 1 }) return x end",
        "function f() return unpack, table.getn, loadstring, bit.band, mix_log, string.format, math.huge, _VERSION end",
        "function string.trim(s) return s end\nfunction f(s) return string.trim(s) end",
        "mix = setmetatable({}, { __index = mix })\nfunction f() return mix.anything, mix.mesh.anything end",
        "mix.mine = { a = 1 }\nfunction f() return mix.mine.a, mix.mine.b end",
        "function f() mix.late = 1 end\nfunction g() return mix.late end",
        // Asked for first.
        "if mix.redis2 then mix.redis2.push() end",
        "local f = mix.json_null or mix.null",
        "local has = mix.frob ~= nil",
        "local has = not mix.frob",
        "if type(mix.frob) == 'function' then mix.frob() end",
        "local unpack = table.unpack or unpack",
        "local unpack = unpack or table.unpack",
        "local a, b = 1, unpack or table.unpack\nfunction f(x) return x or a or mix.later end",
        "function f(...) local x = (unpack or table.unpack)(...) return x end",
        "local char = utf8 and utf8.char",
        "if jit then jit.off() end",
        "local b = bit32 or bit",
        // Not those names at all.
        "local function f(x) local mix = { foo = 1 } return mix.bar, x end",
        "local function f(mesh) return (mesh or mix.mesh).whatever end",
        "local t = { conn = 1 }\nfunction f() return t.conn, t.op end",
        "function f(a) ::again:: if a then a = nil goto again end end",
        "function f() counter = (counter or 0) + 1 end",
        "function f() protocol_encode_shared = true end",
        "function f() hidden = 1 return loadstring('return hidden')() end",
        "function on_handshake() on_message = function() end end",
        "function on_tick() end\nfunction f() on_tick() end",
        "function on_message_of(kind) end\nfunction f() on_message_of(1) end",
        "function once() end",
        "function on_close(id, err) end\nfunction on_handshake(id, headers) end",
    ] {
        assert_eq!(of(script), [""; 0], "{script}");
    }
}

#[test]
fn modules_are_checked_with_the_script_and_those_of_others_are_not() {
    let entry =
        "local a = require('lib.a')\nfunction on_message(msg, conn)\n  return require('late').f(shared, a)\nend";
    let found = warned(&[
        ("entry.lua", entry),
        ("lib/a.lua", "shared = 1\nlocal M = {}\nfunction M.f() return usre end\nreturn M"),
        ("late.lua", "local M = {}\nfunction M.f()\n  return missing, shared\nend\nreturn M"),
        ("unused.lua", "return nothing_of_this"),
    ]);
    assert_eq!(
        found,
        [
            "late.lua:3: global 'missing' is read but nothing defines it",
            "lib/a.lua:3: global 'usre' is read but nothing defines it"
        ]
    );
    // A module from elsewhere: its own mistakes are not reported to the script's author, but what it defines counts.
    let elsewhere = tempfile::tempdir().unwrap();
    let text = "local M = {}\nfunction M.f() made_there = 1 return nothing_of_this end\nreturn M";
    std::fs::write(elsewhere.path().join("other.lua"), text).unwrap();
    let system = format!("{}/?.lua", elsewhere.path().display());
    let entry = format!(
        "package.path = '{system}'\nlocal other = require('other')\nfunction on_message() return made_there, other, slip end"
    );
    assert_eq!(
        warned_with(&system, &[("entry.lua", &entry)]),
        ["entry.lua:3: global 'slip' is read but nothing defines it"]
    );
}

#[test]
fn a_local_of_a_module_may_have_a_hooks_name() {
    let module = "local function on_close() end\nreturn { on_close = on_close }";
    let entry = "local m = require('m')\nfunction on_message() return m end";
    assert_eq!(warned(&[("entry.lua", entry), ("m.lua", module)]), [""; 0]);
}

#[test]
fn the_same_slip_is_told_once_a_file() {
    let found = of("function f()\n  foo()\n  foo()\nend\nfunction g()\n  foo()\nend");
    assert_eq!(found, ["entry.lua:2: global 'foo' is read but nothing defines it"]);
}

#[test]
fn a_loop_that_nothing_ends_is_told() {
    let told = |line: u32| {
        format!(
            "entry.lua:{line}: this loop never ends: nothing leaves it, and it calls nothing that could; \
             the handler that comes to it is stopped by its time budget"
        )
    };
    for (body, line) in [
        ("while true do end", 2),
        ("local n = 0\n  while true do\n    n = n + 1\n  end", 3),
        ("local n = 0\n  repeat\n    if n > 5 then n = 0 else n = n + 1 end\n  until false", 3),
        ("::again::\n  goto again", 3),
        ("local n = 0\n  while 1 do\n    while n < 5 do n = n + 1 end\n  end", 3),
        ("local f\n  while true do\n    local x = f\n    f = function() return x end\n  end", 3),
    ] {
        assert_eq!(of(&format!("function f()\n  {body}\nend")), [told(line)], "{body}");
    }
}

#[test]
fn a_loop_that_may_end_is_not_told() {
    for body in [
        "while true do break end",
        "while true do return end",
        "while true do mix.sleep(1) end",
        "while true do if x then break end end",
        "while true do if x then return 1 end end",
        "while true do if x then goto out end end ::out::",
        "while true do error('x') end",
        "while true do local v = t.next end",
        "while true do t.n = 1 end",
        "local s = '' while true do s = s .. 'x' end",
        "while x do end",
        "repeat local done = x until done",
        "for i = 1, 10 do end",
        "for k, v in pairs(t) do end",
        "for i = 1, 3 do while true do break end end",
        "while true do for i = 1, 10 do if i > x then return end end end",
        "local function g() while true do if x then break end end end return g",
        "while true do local f = function() return 1 end if x then break end end",
    ] {
        let found = of(&format!("x, t = 1, {{}}\nfunction f()\n  {body}\nend"));
        assert!(!found.iter().any(|warning| warning.contains("never ends")), "{body}: {found:?}");
    }
}

#[test]
fn a_timer_that_runs_no_global_function_is_told() {
    for (script, wanted) in [
        (
            "function tick() end\nfunction on_start()\n  mix.timer.every(1, 'tikc')\nend",
            "entry.lua:3: mix.timer.every runs 'tikc', and nothing defines a global function of that name; \
             did you mean 'tick'?",
        ),
        (
            "local function tick() end\nfunction on_start()\n  mix.timer.after(1, 'tick', tick)\nend",
            "entry.lua:3: mix.timer.after runs 'tick', which is a local; timers run global functions; \
             write function tick(...) without local",
        ),
    ] {
        assert_eq!(of(script), [wanted]);
    }
    for script in [
        "function on_tick() end\nfunction on_start() mix.timer.every(1, 'on_tick') end",
        "function on_tick() end\nfunction on_start() mix.timer.every(1, mix.server.option('x') or 'on_tick') end",
        "local cache\nfunction on_start() cache = {} end\nfunction show() return cache end",
    ] {
        assert_eq!(of(script), [] as [String; 0], "{script}");
    }
}
