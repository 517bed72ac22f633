//! Lua errors pass through native functions and drop what these own. (`tests/tools/sanitizers.sh` looks for leaks of
//! memory that no counter here sees.)

use mlua::Lua;
use std::cell::Cell;

use super::mix::tests::lua_with;
use super::mix::{codec, json, php_pack, text, url};
use super::push::{One, table};
use super::stack::{Args, Push, Stack, protect};
use super::strings;
use super::wait::Outcome;
use crate::shard::context::Value;

thread_local! {
    /// How many of [`Owned`] there are.
    static OWNED: Cell<i32> = const { Cell::new(0) };
}

/// What must be dropped.
struct Owned;

impl Owned {
    fn new() -> Owned {
        OWNED.set(OWNED.get() + 1);
        Owned
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        OWNED.set(OWNED.get() - 1);
    }
}

/// A result that takes some memory of Lua's to push.
struct Large(Owned);

impl Push for Large {
    type Pushed = (One, One);
    fn push_to(self, stack: Stack<'_>) -> (One, One) {
        let list = Value::Array((1..20).map(|i| (Value::Number(i.into()), Value::str("an element"))).collect());
        (list.push_to(stack), stack.push_bytes(&[b'x'; 4000]))
    }
}

/// Calls a function with little memory left, and a little more each time, until it succeeds twice. Returns how often it
/// failed.
fn with_falling_memory(lua: &Lua, call: &str) -> usize {
    let call: mlua::Function = lua.load(call).set_name("@app.lua").into_function().unwrap();
    let (mut failed, mut well) = (0, 0);
    for more in 0..4000 {
        lua.gc_collect().unwrap();
        lua.set_memory_limit(lua.used_memory() + more * 40).unwrap();
        let outcome = call.call::<()>(());
        lua.set_memory_limit(0).unwrap();
        match outcome {
            Ok(()) => well += 1,
            Err(e) => {
                // Of the second kind is one for whose traceback there is no memory.
                let said = e.to_string();
                assert!(
                    said.contains("not enough memory") || said.contains("error in error handling"),
                    "{call:?}: {said}"
                );
                failed += 1;
            }
        }
        if well == 2 {
            return failed;
        }
    }
    panic!("it never had enough memory");
}

#[test]
fn an_error_drops_what_native_functions_own() {
    let lua = lua_with(|mix| {
        mix.native(c"large", |_: &Args| Ok(Large(Owned::new())));
        mix.native(c"fails", |_: &Args| Ok(Err::<(), String>("x".repeat(3000))));
        mix.waiting(c"waits", |_: &Args| Ok(Outcome::Now(Value::str("x".repeat(3000)))));
        mix.native(c"raises", |args: &Args| {
            let _owned = Owned::new();
            Err::<(), _>(args.wrong(1, &"y".repeat(3000)))
        });
    });
    for call in ["mix.large()", "mix.fails()", "mix.waits()"] {
        assert!(with_falling_memory(&lua, call) > 5, "{call}");
        assert_eq!(OWNED.get(), 0, "{call}");
    }
    assert!(with_falling_memory(&lua, "local _, e = pcall(mix.raises) if #e < 3000 then error(e, 0) end") > 5);
    assert_eq!(OWNED.get(), 0);
}

#[test]
fn an_error_drops_what_a_protected_call_owns() {
    let lua = Lua::new();
    let mut state = std::ptr::null_mut();
    // SAFETY: the closure only takes the pointer.
    unsafe { lua.exec_raw::<()>((), |s| state = s) }.unwrap();
    // Room for the protected call itself.
    lua.set_memory_limit(lua.used_memory() + 2000).unwrap();
    let answer: Box<dyn FnOnce(Stack<'_>)> = {
        let owned = Large(Owned::new());
        Box::new(move |stack| _ = owned.push_to(stack))
    };
    let outer = Owned::new();
    // SAFETY: the VM lives, and runs nothing.
    let outcome = unsafe {
        protect(state, move |stack| {
            let _outer = &outer;
            answer(stack);
        })
    };
    assert_eq!(outcome, Err("not enough memory".into()));
    assert_eq!(OWNED.get(), 0);
}

/// When memory runs out at any point of a call, the VM goes on as before.
#[test]
fn natives_bear_that_memory_ends_anywhere() {
    let lua = lua_with(|mix| {
        json::register(mix);
        text::register(mix);
        codec::register(mix);
        php_pack::register(mix);
        url::register(mix);
        mix.field(c"list", table(0, |_| ()));
    });
    // SAFETY: `exec_raw` protects the call; nothing is left on the stack.
    unsafe { lua.exec_raw::<()>((), |state| strings::register(Stack::new(state))) }.unwrap();
    lua.load(
        r#"
        long = ("a\\n,"):rep(500)
        document = '{"a":[1,2,{"b":"' .. ("\\n\\u00e9x"):rep(200) .. '"}],"c":["x","y",null],"d":12345678901234567890}'
        value = { list = { 1, 2, 3 }, text = ("\1\2x"):rep(300), deep = { { {} } } }
        value = { list = value, text = value.text }
        "#,
    )
    .exec()
    .unwrap();
    for call in [
        "assert(mix.json_decode(document))",
        "assert(mix.json_encode(value))",
        "mix.json_encode({ [true] = ('x'):rep(1000) })",
        "mix.str_split(long, ',')",
        "mix.str_split(12345678, 4)",
        "mix.base64_encode(long)",
        "mix.base64_decode(('!'):rep(2000))",
        "mix.bytes_tostring({ 65, 66, 67 })",
        "mix.php_pack('H*', ('ab'):rep(1000))",
        "mix.php_unpack('C100a/H*b', long)",
        "mix.parse_url('http://a.b/' .. ('%20'):rep(300) .. '?x[a]=1&x[b]=2')",
        "local s = long:gsub('a', function(a) return a:rep(20) end)",
        "local s = long:gsub('(a)(.)', '%2%1%0')",
        "for a in long:gmatch('(a.n)') do local b = a .. 'x' end",
    ] {
        assert!(with_falling_memory(&lua, call) > 0, "{call}");
    }
}

/// LuaJIT told the allocator a wrong size, and its own count of bytes was wrong from then on. A build with assertions
/// fails there when the VM ends.
#[test]
fn a_function_that_was_not_finished_is_freed_with_its_size() {
    let lua = Lua::new();
    let call = "for i = 1, 100 do local t, u = i, i local function f() t = t + u return t end f() end";
    assert!(with_falling_memory(&lua, call) > 0);
    lua.gc_collect().unwrap();
    let used = lua.used_memory();
    for _ in 0..3 {
        with_falling_memory(&lua, call);
    }
    lua.gc_collect().unwrap();
    assert!(lua.used_memory() < used + 1000, "{used} bytes, then {}", lua.used_memory());
}
