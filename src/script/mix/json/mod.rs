//! JSON (RFC 8259) for scripts: `mix.json_decode`, `mix.json_encode`, `mix.json_array` and `mix.null`.
//!
//! Both directions work on the raw Lua stack, with no tree of Rust values between text and tables, since a script
//! decodes every message it gets and encodes every one it sends. The parser is our own: integers of any size and
//! doubles must come out exact, and the depth limit must be the documented one.
//!
//! Tables are read and written raw: no metamethod is called. Empty arrays are told from empty objects by a metatable
//! that all decoded arrays share.

mod decode;
mod encode;
mod functions;
mod trouble;

use mlua::ffi;
use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::ptr;

use crate::script::push::{One, Pushed, Stack, Table, with};
use crate::script::stack::{Args, Raise, State, throw};

/// The deepest nesting of arrays and objects, in both directions.
const MAX_DEPTH: usize = 128;

/// The largest integer up to which a double holds every integer: 2^53.
const MAX_EXACT: u64 = 1 << 53;

/// Where each function finds the metatable of empty arrays; its name is at upvalue 1, as [`throw`] wants it.
const ARRAY_METATABLE: c_int = ffi::lua_upvalueindex(2);

pub(super) use encode::encoded;
pub use functions::register;

/// Sets a function that may call [`encoded`]: its upvalues are its name and the metatable of arrays. After [`register`].
///
/// # Safety
/// `function` must be one for Lua to call; it must not panic.
pub(super) unsafe fn set_encoding(table: &Table<'_>, name: &CStr, function: ffi::lua_CFunction) {
    let upvalues = |stack: Stack<'_>| (stack.push_bytes(name.to_bytes()), stack.push_array_metatable());
    // SAFETY: the caller's.
    table.field(name, with(|stack| unsafe { stack.push_closure(function, upvalues) }));
}

/// Pushes `mix.null`: the null pointer, so that it equals itself in every version of a script.
fn push_null(stack: Stack<'_>) -> One {
    stack.push_pointer(ptr::null_mut())
}

/// Marks the table at a stack index as an array even while it is empty.
///
/// # Safety
/// `state` must be that of a running function that [`set_encoding`] has set, with a table at that index.
unsafe fn mark_array(state: State, table: c_int) {
    // SAFETY: the caller's; the upvalue is a metatable.
    unsafe {
        ffi::lua_pushvalue(state, ARRAY_METATABLE);
        ffi::lua_setmetatable(state, table - c_int::from(table < 0));
    }
}

/// Whether the table at a stack index is marked as an array.
///
/// # Safety
/// As [`mark_array`]; there must be one free slot.
unsafe fn is_marked_array(state: State, table: c_int) -> bool {
    // SAFETY: the caller's; what is pushed is popped.
    unsafe {
        if ffi::lua_getmetatable(state, table) == 0 {
            return false;
        }
        let marked = ffi::lua_rawequal(state, -1, ARRAY_METATABLE) != 0;
        ffi::lua_pop(state, 1);
        marked
    }
}

/// `mix.json_array(t)`: marks `t` as an array and returns it.
///
/// # Safety
/// For Lua to call, as [`set_encoding`] makes it.
unsafe extern "C-unwind" fn json_array(state: State) -> c_int {
    // SAFETY: called by Lua, with a stack of its own. What is marked is a table.
    unsafe {
        if ffi::lua_type(state, 1) != ffi::LUA_TTABLE {
            throw(state, Args::new(state, 0).wrong(1, "table"));
        }
        ffi::lua_settop(state, 1);
        if !is_marked_array(state, 1) {
            // Replacing the metatable of an object with methods would cause errors far from here.
            if ffi::lua_getmetatable(state, 1) != 0 {
                throw(state, Raise::Argument { index: 1, problem: "table has a metatable already".into() });
            }
            mark_array(state, 1);
        }
    }
    1
}

/// `tostring` of a light userdata.
///
/// # Safety
/// For Lua to call.
unsafe extern "C-unwind" fn light_to_string(state: State) -> c_int {
    // SAFETY: Lua protects the call, which lasts as long as this function.
    let stack = unsafe { Stack::new(state) };
    let pointer = stack.userdata(1);
    _ = if pointer.is_null() {
        stack.push_bytes(b"null")
    } else {
        stack.push_bytes(format!("userdata: {pointer:p}").as_bytes())
    };
    One::COUNT
}

/// How many bytes from the start can stand in a JSON string as they are: no quote, backslash or control character.
#[inline]
fn plain_run(bytes: &[u8]) -> usize {
    // Eight bytes at a time: subtracting borrows into the top bit of each byte that is below the limit. Bytes after the
    // first hit may be flagged wrongly, but only the first is used.
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    let (words, rest) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        let hits = (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        if hits & TOPS != 0 {
            return i * 8 + (hits & TOPS).trailing_zeros() as usize / 8;
        }
    }
    let special = |b: &u8| matches!(b, b'"' | b'\\' | 0..0x20);
    words.len() * 8 + rest.iter().position(special).unwrap_or(rest.len())
}

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The largest scratch buffer that is kept.
const MAX_SCRATCH: usize = 64 * 1024;

/// Takes the thread's scratch buffer, empty. It is taken rather than borrowed: a raise skips its return, which then
/// costs only an allocation.
fn take_scratch() -> Vec<u8> {
    SCRATCH.try_with(Cell::take).unwrap_or_default()
}

/// Returns a scratch buffer, unless it has grown large.
fn give_scratch(mut buffer: Vec<u8>) {
    if buffer.capacity() <= MAX_SCRATCH {
        buffer.clear();
        // Fails only while the thread ends, when the buffer is not needed any more.
        _ = SCRATCH.try_with(|s| s.set(buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::lua_with;
    use super::*;
    use mlua::Lua;
    use proptest::prelude::*;
    use serde_json::Value;

    /// A VM with the functions in the global `mix`, and `show`, which prints a table with its keys in order.
    pub(super) fn vm() -> Lua {
        let lua = lua_with(register);
        let show = r#"
            function show(v)
                if type(v) == "string" then return "'" .. v .. "'" end
                if type(v) ~= "table" then return tostring(v) end
                local parts = {}
                for k, x in pairs(v) do parts[#parts + 1] = tostring(k) .. "=" .. show(x) end
                table.sort(parts)
                return "{" .. table.concat(parts, ",") .. "}"
            end"#;
        lua.load(show).exec().unwrap();
        lua
    }

    /// Runs `work` on a VM, and checks that what `json` stands for still goes there and back after it.
    pub(super) fn with_json(json: &str, work: impl FnOnce(&Lua)) {
        let lua = vm();
        work(&lua);
        lua.set_memory_limit(0).unwrap();
        let back: String = lua.load("return mix.json_encode((mix.json_decode(...)))").call(json).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&back).unwrap(), serde_json::from_str::<Value>(json).unwrap());
    }

    /// Equal but for how a number is held, and the last bit of a double, which serde_json reads a little off; that
    /// doubles are exact is tested elsewhere.
    fn same(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => {
                let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
                a == b || (a - b).abs() <= 4.0 * f64::EPSILON * a.abs()
            }
            (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|w| same(v, w)))
            }
            _ => a == b,
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-(1i64 << 53)..=1 << 53).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[a-z\"\\\\\n\u{1}\u{e9}]{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 10, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..10).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..10)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn null_is_one_value_that_prints_as_such() {
        let code = "return tostring(mix.null), mix.null == mix.json_decode('null', {null = true}), type(mix.null)";
        let (text, equal, kind) = vm().load(code).eval::<(String, bool, String)>().unwrap();
        assert_eq!((text.as_str(), equal, kind.as_str()), ("null", true, "userdata"));
        // A second registration, and mlua's own null, are the same value.
        assert_eq!(vm().load("return mix.null").eval::<mlua::Value>().unwrap(), mlua::Value::NULL);
    }

    #[test]
    fn json_array_returns_its_argument() {
        let code = "local t = {} return mix.json_array(t) == t and mix.json_array(t, 1) == t";
        assert!(vm().load(code).eval::<bool>().unwrap());
    }

    #[test]
    fn empty_arrays_and_objects_stay_apart() {
        for json in ["[]", "{}", "[[],{},[[]]]", r#"{"a":[]}"#, r#"{"a":{}}"#, "[[],[],{}]"] {
            with_json(json, |_| ());
        }
        let nulls: String = vm().load("return mix.json_encode((mix.json_decode('[null,null]')))").eval().unwrap();
        assert_eq!(nulls, "[]");
    }

    #[test]
    fn plain_runs_end_at_the_first_special_byte() {
        for special in (0..=255u8).filter(|b| matches!(b, b'"' | b'\\' | 0..0x20)) {
            for before in 0..20 {
                for filler in [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xff] {
                    let mut text = vec![filler; before];
                    assert_eq!(plain_run(&text), before);
                    text.push(special);
                    text.extend([filler; 11]);
                    text.push(b'"');
                    assert_eq!(plain_run(&text), before, "{text:?}");
                }
            }
        }
    }

    #[test]
    fn thousands_of_calls_leave_the_stack_as_it_was() {
        let lua = vm();
        let mix: mlua::Table = lua.globals().get("mix").unwrap();
        let texts = [r#"{"a":[1,{"b":null}],"c":"\n"}"#, r#"[[{"a":[1,"#, "\"\\ud800\"", "[1,[2,[3,?", ""];
        // SAFETY: `exec_raw` protects the call, with the table in slot 1; each call gets a function and its argument, and what it leaves
        // is taken off.
        let tops = unsafe {
            lua.exec_raw::<mlua::Variadic<i32>>(mix, move |state| {
                let calls = |name: &CStr, push: &dyn Fn()| {
                    for _ in 0..2_000 {
                        let top = ffi::lua_gettop(state);
                        ffi::lua_getfield(state, 1, name.as_ptr());
                        push();
                        ffi::lua_call(state, 1, ffi::LUA_MULTRET);
                        assert_eq!(ffi::lua_gettop(state), top + 2);
                        ffi::lua_settop(state, top);
                    }
                };
                for text in texts {
                    calls(c"json_decode", &|| crate::script::push::push_bytes(state, text.as_bytes()));
                    calls(c"json_encode", &|| crate::script::push::push_bytes(state, text.as_bytes()));
                }
                calls(c"json_encode", &|| {
                    // {{{f}}}
                    ffi::lua_getfield(state, 1, c"json_array".as_ptr());
                    for _ in 0..3 {
                        ffi::lua_createtable(state, 1, 0);
                        ffi::lua_pushvalue(state, -2);
                        ffi::lua_rawseti(state, -2, 1);
                        ffi::lua_replace(state, -2);
                    }
                });
                ffi::lua_settop(state, 0);
                ffi::lua_pushinteger(state, ffi::lua_gettop(state).into());
            })
        };
        assert_eq!(tops.unwrap().as_slice(), [0]);
    }

    #[test]
    fn works_on_coroutines() {
        let code = r#"
            local text = string.rep("[", 100) .. string.rep("]", 100)
            local run = coroutine.wrap(function()
                for _ = 1, 3 do coroutine.yield(mix.json_encode((mix.json_decode(text)))) end
            end)
            return run() == text and run() == text"#;
        assert!(vm().load(code).eval::<bool>().unwrap());
    }

    proptest! {
        #[test]
        fn there_and_back(value in any_json()) {
            let lua = vm();
            let text = value.to_string();
            let code = "return mix.json_encode((mix.json_decode(..., {null = true})))";
            let back: String = lua.load(code).call(text.as_str()).unwrap();
            let got = serde_json::from_str(&back).unwrap();
            prop_assert!(same(&value, &got), "{} became {}", text, back);
        }

        #[test]
        fn accepts_what_another_parser_accepts(
            value in any_json(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 0..3),
            noise in "[\\[\\]{}:,\"0-9eE+.\\\\untrfalse -]{0,12}",
        ) {
            let mut text = value.to_string().into_bytes();
            for (place, byte, kind) in edits {
                let at = place.index(text.len() + 1);
                match kind {
                    0 => text.insert(at, byte),
                    1 => text.truncate(at),
                    _ => _ = text.get_mut(at).map(|b| *b = byte),
                }
            }
            let lua = vm();
            let decode: mlua::Function = lua.load("return mix.json_decode").eval().unwrap();
            for text in [text.as_slice(), noise.as_bytes()] {
                let (_, err): (mlua::Value, Option<String>) = decode.call(lua.create_string(text).unwrap()).unwrap();
                let other = serde_json::from_slice::<Value>(text);
                prop_assert_eq!(err.is_none(), other.is_ok(), "{:?}: {:?}, {:?}", text, err, other);
            }
        }

        #[test]
        fn any_bytes_do_no_harm(bytes: Vec<u8>) {
            let lua = vm();
            let decode: mlua::Function = lua.load("return mix.json_decode").eval().unwrap();
            let encode: mlua::Function = lua.load("return mix.json_encode").eval().unwrap();
            let text = lua.create_string(&bytes).unwrap();
            let _: mlua::MultiValue = decode.call(&text).unwrap();
            let (encoded, _): (Option<String>, mlua::Value) = encode.call(&text).unwrap();
            prop_assert_eq!(encoded, str::from_utf8(&bytes).ok().map(|s| serde_json::to_string(s).unwrap()));
        }
    }
}
