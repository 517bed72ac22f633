//! What holds of any arguments of the native functions that scripts give clients' bytes to.

use mlua::{Function, Lua, MultiValue, Table, Value};
use serde_json::Value as Json;
use std::collections::BTreeSet;

use super::mix::{json as json_functions, php_pack, query};
use super::pattern::{Budget, Error, Matcher};
use super::push::{self, Stack};
use super::strings;
use crate::shard::context::Value as Plain;

mod packets;

pub use packets::packets;

/// A Lua state whose global `mix` holds what `register` adds.
fn lua_with(register: fn(&push::Table<'_>)) -> Lua {
    let lua = Lua::new();
    // SAFETY: `exec_raw` protects the call, and nothing is left on the stack.
    let made =
        unsafe { lua.exec_raw::<()>((), |state| Stack::new(state).set_global(c"mix", push::table(0, register))) };
    assert!(made.is_ok(), "{made:?}");
    lua
}

/// A function of the global `mix`.
fn function(lua: &Lua, name: &str) -> Function {
    let found = lua.globals().get::<Table>("mix").and_then(|mix| mix.get::<Function>(name));
    found.unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A call that raises nothing.
fn call(function: &Function, arguments: impl mlua::IntoLuaMulti) -> (Value, Value) {
    function.call(arguments).unwrap_or_else(|e| panic!("{e}"))
}

thread_local! {
    static JSON: Lua = lua_with(json_functions::register);
    static PHP: Lua = {
        let lua = lua_with(php_pack::register);
        let _ = lua.set_memory_limit(32 << 20);
        lua
    };
    static PATTERNS: [Lua; 2] = {
        let all = [Lua::new(), Lua::new()];
        // SAFETY: `exec_raw` protects the call, and nothing is left on the stack.
        let made = unsafe { all[0].exec_raw::<()>((), |state| strings::register(Stack::new(state))) };
        assert!(made.is_ok(), "{made:?}");
        all
    };
}

/// A text: it is JSON for us if it is for serde_json, and what is decoded is encoded to the same. As a string it is encoded if
/// it is UTF-8.
pub fn json(bytes: &[u8]) {
    JSON.with(|lua| {
        let (decode, encode) = (function(lua, "json_decode"), function(lua, "json_encode"));
        let text = lua.create_string(bytes).unwrap_or_else(|e| panic!("{e}"));
        let options = lua.create_table().and_then(|options| options.set("null", true).map(|()| options));
        let (value, err) = call(&decode, (&text, options.unwrap_or_else(|e| panic!("{e}"))));
        match (serde_json::from_slice::<Json>(bytes), err.is_nil()) {
            (Ok(given), true) => {
                let (back, err) = call(&encode, value);
                let Value::String(back) = back else { panic!("decoded, but not encoded: {err:?}") };
                match serde_json::from_slice::<Json>(&back.as_bytes()) {
                    Ok(back) => assert!(same(&given, &back), "{given} became {back}"),
                    Err(e) => panic!("{e}: {}", back.to_string_lossy()),
                }
            }
            (Err(_), false) => {}
            // Integers of any length are text to us, and we take one level more.
            (Err(e), true)
                if ["number out of range", "recursion limit"].iter().any(|it| e.to_string().contains(it)) => {}
            (theirs, _) => panic!("{:?}: {theirs:?}; ours: {err:?}", String::from_utf8_lossy(bytes)),
        }
        let (value, _) = call(&decode, &text);
        call(&encode, value);
        let (encoded, _) = call(&encode, &text);
        let wanted = str::from_utf8(bytes).ok().and_then(|text| serde_json::to_string(text).ok());
        assert_eq!(encoded.as_string().map(|text| text.to_string_lossy()), wanted);
    });
}

/// Whether a value is the same after it was in Lua: integers that a double does not hold are texts there.
fn same(given: &Json, back: &Json) -> bool {
    match (given, back) {
        (Json::Number(number), Json::String(text)) => text.parse().ok() == number.as_f64(),
        (Json::Number(one), Json::Number(other)) => one.as_f64() == other.as_f64(),
        (Json::Array(one), Json::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Json::Object(one), Json::Object(other)) => {
            let found = |(key, value)| other.get(key).is_some_and(|other| same(value, other));
            one.len() == other.len() && one.iter().all(found)
        }
        (one, other) => one == other,
    }
}

/// The length of a format, the format, and data: there is a table or an error, within the VM's memory.
pub fn php_unpack(bytes: &[u8]) {
    let Some((&length, rest)) = bytes.split_first() else { return };
    let (format, data) = rest.split_at(usize::from(length).min(rest.len()));
    PHP.with(|lua| {
        let text = |bytes: &[u8]| lua.create_string(bytes).unwrap_or_else(|e| panic!("{e}"));
        let outcome = |function: &Function, arguments: MultiValue| match function.call::<(Value, Value)>(arguments) {
            Ok((Value::Nil, err)) => {
                assert!(err.as_string().is_some_and(|err| !err.as_bytes().is_empty()), "{err:?}");
                None
            }
            Ok((value, err)) => {
                assert!(err.is_nil(), "{value:?} and {err:?}");
                Some(value)
            }
            Err(e) => {
                let e = e.to_string();
                assert!(["bad argument", "not enough memory"].iter().any(|known| e.contains(known)), "{e}");
                None
            }
        };
        let (format, data) = (Value::String(text(format)), Value::String(text(data)));
        let unpack = function(lua, "php_unpack");
        let unpacked = outcome(&unpack, MultiValue::from_iter([format.clone(), data.clone()]));
        assert!(unpacked.is_none_or(|unpacked| unpacked.is_table()));
        let numbers = [Value::Number(-1.5), Value::String(text(b"9007199254740993")), Value::Number(65.0)];
        let arguments = [format.clone(), data].into_iter().chain(numbers);
        if let Some(packed) = outcome(&function(lua, "php_pack"), arguments.collect()) {
            assert!(packed.is_string());
            outcome(&unpack, MultiValue::from_iter([format, packed]));
        }
    });
}

/// A query string: what is read of it, written as a query, is read as the same.
pub fn parse_str(bytes: &[u8]) {
    match query::parse(bytes) {
        Ok(value) => {
            let mut written = Vec::new();
            let Plain::Table(pairs) = &value else { panic!("no table: {value:?}") };
            for (name, value) in pairs {
                let mut path = Vec::new();
                escape(name, &mut path);
                write_query(&path, value, 0, &mut written);
            }
            assert_eq!(query::parse(&written), Ok(value), "{}", written.escape_ascii());
        }
        Err(e) => {
            assert!(e.starts_with("longer than") || e.starts_with("more than") || e.contains("nested deeper"), "{e}")
        }
    }
}

/// Appends what a variable holds, as `path=value` or as `path[key]` for each key.
fn write_query(path: &[u8], value: &Plain, depth: usize, out: &mut Vec<u8>) {
    assert!(depth <= query::MAX_NESTING);
    let Plain::Table(pairs) = value else {
        out.extend_from_slice(path);
        out.push(b'=');
        escape(value, out);
        out.push(b'&');
        return;
    };
    // A list begins with 1 here, and with 0 there.
    let is_list = pairs.iter().enumerate().all(|(i, (key, _))| *key == Plain::Number((i + 1) as f64));
    for (key, value) in pairs {
        let mut path = path.to_vec();
        path.push(b'[');
        match key {
            Plain::Number(n) if is_list => escape(&Plain::Number(n - 1.0), &mut path),
            key => escape(key, &mut path),
        }
        path.push(b']');
        write_query(&path, value, depth + 1, out);
    }
}

fn escape(value: &Plain, out: &mut Vec<u8>) {
    let text = match value {
        Plain::Str(text) => text.to_vec(),
        Plain::Number(n) => format!("{n}").into_bytes(),
        other => panic!("{other:?} in a query"),
    };
    text.iter().for_each(|byte| out.extend_from_slice(format!("%{byte:02x}").as_bytes()));
}

/// Calls a function of the string library. An outcome is one string.
const OUTCOME: &str = r#"
    local which, s, p, init, r = ...
    local function show(...)
        local parts = {}
        for i = 1, select('#', ...) do
            local v = select(i, ...)
            parts[i] = type(v) == 'string' and string.format('%q', v) or tostring(v)
        end
        return table.concat(parts, ', ')
    end
    return show(pcall(function()
        if which == 0 then return string.find(s, p, init) end
        if which == 1 then return string.match(s, p, init) end
        if which == 2 then return string.gsub(s, p, r, init > 0 and init or nil) end
        if which == 3 then return string.gsub(s, p, function(...) return show(...) end) end
        local seen = {}
        for a, b, c in string.gmatch(s, p) do
            seen[#seen + 1] = show(a, b, c)
            if #seen == 40 then break end
        end
        return table.concat(seen, '; ')
    end))
"#;

/// A function, where it begins, the lengths of pattern and replacement, both of them, and a subject: the functions on patterns
/// give what LuaJIT's own do.
pub fn pattern(bytes: &[u8]) {
    let [which, init, lengths, rest @ ..] = bytes else { return };
    let (pattern, rest) = rest.split_at(usize::from(lengths & 31).min(rest.len()));
    let (replacement, rest) = rest.split_at(usize::from(lengths >> 5).min(rest.len()));
    let subject = &rest[..rest.len().min(40)];
    // LuaJIT's own can't be stopped: only what costs few steps.
    let visible = pattern.split(|b| *b == 0).next().unwrap_or_default();
    for pattern in [visible, visible.strip_prefix(b"^").unwrap_or_default()] {
        for from in 0..=subject.len() {
            let budget = Budget::new(20_000, &|| true);
            if Matcher::new(subject, pattern, budget).match_at(from) == Err(Error::OutOfTime) {
                return;
            }
        }
    }
    let outcomes: BTreeSet<Vec<u8>> = PATTERNS.with(|both| {
        let outcome = |lua: &Lua| {
            let string = |bytes: &[u8]| lua.create_string(bytes);
            let arguments = (which % 5, string(subject)?, string(pattern)?, *init as i8, string(replacement)?);
            lua.load(OUTCOME).set_name("=outcome").call::<mlua::LuaString>(arguments).map(|s| s.as_bytes().to_vec())
        };
        both.iter().map(|lua| outcome(lua).unwrap_or_else(|e| panic!("{e}"))).collect()
    });
    let shown: Vec<_> = outcomes.iter().map(|outcome| outcome.escape_ascii().to_string()).collect();
    assert!(shown.len() == 1, "{shown:#?} for {} in {}", pattern.escape_ascii(), subject.escape_ascii());
}
