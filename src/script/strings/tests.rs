//! The replaced functions against LuaJIT's own: one VM with them, one without, the same calls, the same outcome down to
//! the error messages and the positions in them.

use super::*;
use crate::script::doing::Doing;
use crate::script::stack::{Stack, protect};
use mlua::{Function, Lua, LuaString, MultiValue, Value};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::time::{Duration, Instant};

/// Calls are made here so that both VMs have the same names and lines to tell of. An outcome is one string.
const HARNESS: &str = r#"
    local format, type, tostring, select, pcall, error = string.format, type, tostring, select, pcall, error
    local rep, concat = string.rep, table.concat

    local function show(...)
        local parts = {}
        for i = 1, select('#', ...) do
            local v = select(i, ...)
            local t = type(v)
            if t == 'string' then parts[i] = format('%q', v)
            elseif t == 'number' or t == 'boolean' or t == 'nil' then parts[i] = tostring(v)
            else parts[i] = t end
        end
        return concat(parts, ', ')
    end

    local function run(f, ...) return show(pcall(f, ...)) end

    function do_find(...) return run(function(...) return show(string.find(...)) end, ...) end
    function do_match(...) return run(function(...) return show(string.match(...)) end, ...) end
    function do_gsub(...) return run(function(...) return show(string.gsub(...)) end, ...) end
    function do_gmatch(...)
        return run(function(...)
            local seen, n = {}, 0
            local function add(...)
                n = n + 1
                seen[n] = show(...)
                return select('#', ...) > 0 and n < 40
            end
            local next = string.gmatch(...)
            while add(next()) do end
            return concat(seen, '; ')
        end, ...)
    end

    replacements = {
        upper = string.upper,
        nothing = function() end,
        no = function() return false end,
        number = function() return 12.5 end,
        all = function(...) return show(...) end,
        nested = function(s) return (tostring(s):gsub('%w', '<%0>')) end,
        sometimes = function(s) if s == 'a' then return 'AA' end end,
        table = function() return {} end,
        yes = function() return true end,
        raise = function() error('raised') end,
        raise_value = function() error({}) end,
        lookup = { a = 'A', b = false, ab = 1, [1] = 'one', c = {}, [''] = '-' },
        meta = setmetatable({}, { __index = function(_, k) return '[' .. tostring(k) .. ']' end }),
        meta_raises = setmetatable({}, { __index = function() error('no index') end }),
        long = function(s) return rep(tostring(s), 700) end,
    }

    function eval(code)
        local f, e = loadstring(code, '=case')
        if not f then return e end
        return run(f)
    end
"#;

fn register_in(lua: &Lua) {
    // SAFETY: `exec_raw` protects the call; nothing is left on the stack.
    unsafe { lua.exec_raw::<()>((), |state| register(Stack::new(state))) }.unwrap();
}

struct Pair {
    ours: Lua,
    stock: Lua,
}

impl Pair {
    fn new() -> Pair {
        // What cases call from the string library besides must be the same function in both.
        // SAFETY: the scripts below do no harm with the libraries that they get.
        let (ours, stock) = unsafe { (Lua::unsafe_new(), Lua::unsafe_new()) };
        register_in(&ours);
        for lua in [&ours, &stock] {
            lua.load(HARNESS).set_name("=harness").exec().unwrap();
        }
        Pair { ours, stock }
    }

    /// The outcome of a call in both VMs.
    fn call(&self, name: &str, arguments: impl Fn(&Lua) -> MultiValue) -> (String, String) {
        let call = |lua: &Lua| {
            let function: Function = lua.globals().get(name).unwrap();
            let shown: LuaString = function.call(arguments(lua)).unwrap();
            String::from_utf8_lossy(&shown.as_bytes()).into_owned()
        };
        (call(&self.ours), call(&self.stock))
    }
}

fn string(lua: &Lua, bytes: &[u8]) -> Value {
    Value::String(lua.create_string(bytes).unwrap())
}

fn subjects() -> impl Strategy<Value = Vec<u8>> {
    let c = prop_oneof![
        6 => prop::sample::select(&b"ab"[..]),
        4 => prop::sample::select(&b"c1A_ .,()[]%^$-*+?=\n"[..]),
        1 => prop::sample::select(&[0u8, 11, 127, 128, 255][..]),
    ];
    prop::collection::vec(c, 0..14)
}

fn patterns() -> impl Strategy<Value = Vec<u8>> {
    let whole: &[&str] = &[
        "a", "b", "a", "b", "c", ".", "%a", "%w", "%s", "%d", "%p", "%x", "%u", "%l", "%c", "%g", "%z", "%A", "%W",
        "%S", "%D", "%P", "%X", "%U", "%L", "%C", "%G", "%Z", "%.", "%%", "%(", "%b()", "%bab", "%baa", "%f[a]",
        "%f[%w]", "%f[%z]", "%f[^a]", "[ab]", "[^ab]", "[a-c]", "[%w_]", "[^%s]", "[]]", "[^]]", "[a-]", "[%-a]",
        "[-a]", "[%a-z]", "[a-%%]", "()", "%1", "%2", "(a)", "(.)", "(.-)", "(.*)", "(a*)", "((a)b)",
    ];
    let partial: &[&str] =
        &["(", ")", "[", "]", "%", "^", "$", "*", "+", "-", "?", "%b", "%f", "%b(", "[^", "[%", "%0", "%9", "\0"];
    let quantifier: &[&str] = &["", "", "", "*", "+", "-", "?"];
    let piece = prop_oneof![
        8 => (prop::sample::select(whole), prop::sample::select(quantifier)).prop_map(|(a, b)| [a, b].concat()),
        2 => prop::sample::select(whole).prop_map(|a| format!("({a}")),
        2 => Just(")".to_string()),
        1 => prop::sample::select(partial).prop_map(String::from),
        1 => any::<char>().prop_map(String::from),
    ];
    let anchor = prop_oneof![4 => Just(""), 1 => Just("^")];
    let end = prop_oneof![4 => Just(""), 1 => Just("$")];
    (anchor, prop::collection::vec(piece, 0..7), end)
        .prop_map(|(anchor, pieces, end)| [anchor, &pieces.concat(), end].concat().into_bytes())
}

fn inits() -> impl Strategy<Value = Option<f64>> {
    prop_oneof![
        4 => Just(None),
        6 => (-16i8..17).prop_map(|n| Some(n.into())),
        1 => prop::sample::select(&[1.5, -2.5, 1e9, -1e9, 2147483647.0, 2147483648.0, -2147483649.0, 4294967297.0, 1e300,
            -1e300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN][..]).prop_map(Some),
    ]
}

fn number(n: Option<f64>) -> Value {
    n.map_or(Value::Nil, Value::Number)
}

fn check<S: Strategy>(cases: u32, strategy: S, test: impl Fn(&Pair, S::Value) -> (String, String)) {
    let pair = Pair::new();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&strategy, |value| {
        let (ours, stock) = test(&pair, value);
        prop_assert_eq!(ours, stock);
        Ok(())
    });
    if let Err(e) = outcome {
        panic!("{e}");
    }
}

#[test]
fn find_is_as_the_original() {
    check(4000, (subjects(), patterns(), inits(), prop::bool::weighted(0.1)), |pair, (s, p, init, plain)| {
        pair.call("do_find", |lua| {
            MultiValue::from_iter([string(lua, &s), string(lua, &p), number(init), Value::Boolean(plain)])
        })
    });
}

#[test]
fn match_is_as_the_original() {
    check(4000, (subjects(), patterns(), inits()), |pair, (s, p, init)| {
        pair.call("do_match", |lua| MultiValue::from_iter([string(lua, &s), string(lua, &p), number(init)]))
    });
}

#[test]
fn gmatch_is_as_the_original() {
    check(4000, (subjects(), patterns()), |pair, (s, p)| {
        pair.call("do_gmatch", |lua| MultiValue::from_iter([string(lua, &s), string(lua, &p)]))
    });
}

#[test]
fn gsub_is_as_the_original_with_strings() {
    let piece = prop::sample::select(&["x", "yz", "%0", "%1", "%2", "%9", "%%", "%a", "%", "\0", ""][..]);
    let replacements = prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat().into_bytes());
    check(4000, (subjects(), patterns(), replacements, inits()), |pair, (s, p, r, n)| {
        pair.call("do_gsub", |lua| {
            MultiValue::from_iter([string(lua, &s), string(lua, &p), string(lua, &r), number(n)])
        })
    });
}

#[test]
fn gsub_is_as_the_original_with_functions_and_tables() {
    let names: &[&str] = &[
        "upper",
        "nothing",
        "no",
        "number",
        "all",
        "nested",
        "sometimes",
        "table",
        "yes",
        "raise",
        "raise_value",
        "lookup",
        "meta",
        "meta_raises",
        "long",
    ];
    check(4000, (subjects(), patterns(), prop::sample::select(names), inits()), |pair, (s, p, name, n)| {
        pair.call("do_gsub", |lua| {
            let replacements: mlua::Table = lua.globals().get("replacements").unwrap();
            let replacement = replacements.get::<Value>(name).unwrap();
            MultiValue::from_iter([string(lua, &s), string(lua, &p), replacement, number(n)])
        })
    });
}

#[test]
fn calls_of_every_kind_are_as_the_original() {
    let pair = Pair::new();
    let mut cases = vec![];
    for f in ["find", "match", "gmatch", "gsub", "gfind"] {
        for arguments in [
            "",
            "nil",
            "'a'",
            "'a', nil",
            "{}, 'a'",
            "'a', {}",
            "'a', print",
            "nil, nil",
            "12, 1",
            "'a1', 1, '1'",
            "'aa', 'a', 'x'",
            "'aa', 'a', {}",
            "'aa', 'a', nil",
            "'aa', 'a', true",
            "'aa', 'a', 'b', 'x'",
            "'aa', 'a', 'b', {}",
            "'aa', 'a', 7",
            "'aa', 'a', '2', '1'",
            "'aa', 'a', nil, 'x'",
            "'aa', 'a', print, {}",
            "'aa', 'a', 1, 1, 1",
            "io.stdout, 'a'",
            "coroutine.create(print), 'a'",
            "1.5, '%.'",
            "-0, '0', '0'",
            "1e15, '1', 1e100",
            "'aa', '[', 3",
            "'aa', '(', '%1'",
            "'aa', '(a', 'x'",
            "'aa', '(a', '%2'",
        ] {
            cases.push(format!("local r, a, b, c = string.{f}({arguments}) return type(r), a, b, c"));
            cases.push(format!("return string.{f}({arguments})"));
            cases.push(format!("local f = string.{f} local r, a = f({arguments}) return type(r), a"));
            cases.push(format!("local r, a = ('a'):{f}({arguments}) return type(r), a"));
            cases.push(format!("return pcall(string.{f}, {arguments})"));
        }
    }
    for n in 195..205 {
        for p in ["a?", "a*", "a-", "(a)", "()", "a", "%f[a]", "[a]?"] {
            cases.push(format!("return (('a'):rep({n})):find(('{p}'):rep({n}))"));
            cases.push(format!("return (('a'):rep({n})):match('b' .. ('{p}'):rep({n}))"));
        }
    }
    for n in 30..35 {
        for p in ["()", "(a)", "(a?)", "("] {
            cases.push(format!("return (('a'):rep({n})):find(('{p}'):rep({n}))"));
            cases.push(format!("return (('a'):rep({n})):match(('{p}'):rep({n}))"));
            cases.push(format!(
                "return (('a'):rep(99)):gsub(('{p}'):rep({n}), function(...) return select('#', ...) end)"
            ));
            cases.push(format!("return (('a'):rep(99)):gmatch(('{p}'):rep({n}))()"));
        }
    }
    for case in [
        // The iterator after its end, and one shared by two loops.
        "local f = ('aXa'):gmatch('a') return f(), f(), f(), f()",
        "local f = ('a b c'):gmatch('%a') local t = {} for w in f do t[#t + 1] = w .. (f() or '!') end return unpack(t)",
        "local t = {} for a, b in ('a=1,b=2'):gmatch('(%w)=(%w)') do t[#t + 1] = a t[#t + 1] = b end return unpack(t)",
        "return string.gfind == string.gmatch, type(string.gfind)",
        // No yield from a callback, and the coroutine is still good for an answer.
        "return coroutine.resume(coroutine.create(function() return ('a'):gsub('a', coroutine.yield) end))",
        "return coroutine.wrap(function() return pcall(string.gsub, 'a', 'a', function() coroutine.yield() end) end)()",
        "local t = setmetatable({}, { __index = coroutine.yield })
         return coroutine.resume(coroutine.create(function() return ('a'):gsub('a', t) end))",
        // Callbacks within callbacks.
        "local function f(s) return (s:gsub('.', function(c) return s == 'a' and 'b' or c end)) end return f('a'), f('b')",
        "return ('abc'):gsub('%w', '%%%0%%')",
        "return ('abc'):gsub('', '-')",
        "return ('abc'):gsub('b*', '-')",
        "return ('hello world'):gsub('o', { o = '0' }, 1)",
        "return ('x'):rep(5000):gsub('x', ('y'):rep(3))",
        "return ('x'):rep(3000):gsub('x', function(c) return c .. c end)",
        "return ('x'):rep(5000):gsub('x', { x = false })",
        "return ('x'):rep(5000):gsub('z', '')",
        "return ('abc'):find('b', 1, true), ('a.c'):find('.', 1, true), ('abc'):find('', 10), ('abc'):find('', 10, true)",
        "return ('a\\0b'):find('\\0', 1, true), ('a\\0b'):find('a\\0b'), ('a\\0b'):find('.\\0x'), ('a\\0b'):match('a\\0x')",
        "return ('a]b'):find(']'), ('a)b'):find(')'), pcall(string.match, 'a)b', ')')",
        "return pcall(string.gsub, 'abc', 'b', function() error('deep', 0) end)",
        "return select(2, pcall(error)), string.gsub('a', 'a', string.gsub('b', 'b', '%%0'))",
    ] {
        cases.push(case.into());
    }
    for case in cases {
        let (ours, stock) = pair.call("eval", |lua| MultiValue::from_iter([string(lua, case.as_bytes())]));
        assert_eq!(ours, stock, "{case}");
    }
}

#[test]
fn methods_of_strings_are_replaced_too() {
    // SAFETY: the scripts below do no harm with the libraries that they get.
    let lua = unsafe { Lua::unsafe_new() };
    let stock: Function = lua.load("return ('x').find").eval().unwrap();
    register_in(&lua);
    let same = "return ('x').find == string.find and getmetatable('').__index == string";
    assert!(lua.load(same).eval::<bool>().unwrap());
    let ours: Function = lua.load("return ('x').find").eval().unwrap();
    assert_ne!(ours, stock);
}

#[test]
fn endless_recursion_through_callbacks_is_an_error() {
    let lua = Lua::new();
    register_in(&lua);
    let code = "local n = 0
        local function f() n = n + 1 return (('a'):gsub('a', f)) end
        local ok, e = pcall(f)
        return ok, e, n";
    // Twice: the first overflow leaves nothing behind.
    for _ in 0..2 {
        let (ok, error, levels) = lua.load(code).set_name("=deep").eval::<(bool, String, u32)>().unwrap();
        assert!(!ok);
        assert_eq!(error, "deep:2: stack overflow");
        assert!(levels >= 50, "{levels}");
    }
    assert_eq!(lua.load("return (('abc'):gsub('b', string.upper))").eval::<String>().unwrap(), "aBc");
}

#[test]
fn an_error_in_a_callback_leaks_nothing() {
    let lua = Lua::new();
    register_in(&lua);
    // Each call gathers more than fits in the frame before it fails.
    let work = lua
        .load(
            "local long = ('x'):rep(200000)
             return function(times)
                 for _ = 1, times do
                     local n = 0
                     local ok = pcall(string.gsub, long, '.', function(c)
                         n = n + 1
                         if n == 20000 then error('enough') end
                         return c .. c
                     end)
                     assert(not ok)
                 end
             end",
        )
        .eval::<Function>()
        .unwrap();
    let settle = || {
        lua.gc_collect().unwrap();
        lua.gc_collect().unwrap();
        lua.used_memory()
    };
    work.call::<()>(2).unwrap();
    let before = settle();
    work.call::<()>(40).unwrap();
    let after = settle();
    assert!(after <= before + 16 * 1024, "{before} bytes in use, then {after}");
    // What a callback holds on to is let go of, too.
    let held = std::rc::Rc::new(());
    let witness = held.clone();
    let callback = lua
        .create_function(move |_, ()| -> mlua::Result<()> {
            let _ = &witness;
            Err(mlua::Error::runtime("no"))
        })
        .unwrap();
    let gsub: Function = lua.load("return string.gsub").eval().unwrap();
    for _ in 0..100 {
        assert!(gsub.call::<String>(("aaa", "a", &callback)).is_err());
    }
    drop((gsub, callback));
    settle();
    assert_eq!(std::rc::Rc::strong_count(&held), 1);
}

#[test]
fn what_explodes_is_stopped_in_time() {
    let lua = Lua::new();
    register_in(&lua);
    for code in [
        "(('a'):rep(30)):find(('a?'):rep(30) .. ('a'):rep(30))",
        "(('a'):rep(100000)):match('.-.-.-b')",
        "(('a'):rep(100000)):gmatch('.-.-.-b')()",
        "(('a'):rep(100000)):gsub('.-.-.-b', '')",
        // Each of them is quick; their loop is not.
        "(function() local s = ('a'):rep(4000000) while true do s:find('ab', 1, true) end end)()",
    ] {
        let function = lua.load(format!("local _ = {code}")).set_name("=slow").into_function().unwrap();
        let begin = Instant::now();
        let mut state = std::ptr::null_mut();
        // SAFETY: the closure only takes the pointer.
        unsafe { lua.exec_raw::<()>((), |s| state = s) }.unwrap();
        let outcome = {
            // SAFETY: `lua` lives until the end of this function.
            let _run = unsafe { watchdog::enter(state, Duration::from_millis(50), Doing::TESTING) };
            function.call::<()>(())
        };
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(&format!("slow:1: {}", watchdog::OVER_BUDGET)), "{code}: {error}");
        assert!(begin.elapsed() < Duration::from_secs(5), "{code}");
    }
}

#[test]
fn a_limit_of_memory_holds() {
    let lua = Lua::new();
    register_in(&lua);
    let limit = lua.used_memory() + 4 * 1024 * 1024;
    if lua.set_memory_limit(limit).is_err() {
        return;
    }
    let outcome =
        lua.load("return pcall(string.gsub, ('x'):rep(100000), 'x', ('y'):rep(1000))").eval::<(bool, Value)>();
    assert!(!matches!(outcome, Ok((true, _))), "{outcome:?}");
    assert_eq!(lua.load("return (('abc'):gsub('b', 'x'))").eval::<String>().unwrap(), "axc");
}

#[test]
fn registering_keeps_the_stack() {
    let lua = Lua::new();
    // SAFETY: the state runs nothing, and nothing is left on the stack.
    unsafe {
        lua.exec_raw::<()>((), |state| {
            let outcome = protect(state, |stack| {
                let top = stack.top();
                register(stack);
                assert_eq!(stack.top(), top);
            });
            assert_eq!(outcome, Ok(()));
        })
        .unwrap();
    }
}
