//! Tests of encoding.

use super::super::tests::{vm, with_json};
use super::*;

/// The text of a Lua expression, or `err: ` and why there is none.
fn encode(expression: &str) -> String {
    let code = format!("local s, err = mix.json_encode({expression}) return s or 'err: ' .. err");
    vm().load(code).eval::<mlua::LuaString>().unwrap().to_string_lossy()
}

#[test]
fn scalars() {
    for (lua, json) in [
        ("", "null"),
        ("nil", "null"),
        ("mix.null", "null"),
        ("true", "true"),
        ("false", "false"),
        ("0", "0"),
        ("-0.0", "-0"),
        ("1", "1"),
        ("-7", "-7"),
        ("1e15", "1000000000000000"),
        ("2^53", "9007199254740992"),
        ("-2^53", "-9007199254740992"),
        ("2^53 + 2", "9007199254740994"),
        ("-2^53 - 2", "-9007199254740994"),
        ("1e16", "10000000000000000"),
        ("-1e16", "-10000000000000000"),
        ("2^63", "9223372036854776000"),
        ("123456789012345680000", "123456789012345680000"),
        ("999999999999999868928", "999999999999999900000"),
        ("1e21", "1e+21"),
        ("-1e21", "-1e+21"),
        ("1.5", "1.5"),
        ("1e15 + 0.5", "1000000000000000.5"),
        ("0.1", "0.1"),
        ("-1/3", "-0.3333333333333333"),
        ("5e-324", "5e-324"),
        ("''", r#""""#),
        ("'a/b'", r#""a/b""#),
        (r#"'"\\\8\9\10\11\12\13\0\31\127'"#, r#""\"\\\b\t\n\u000b\f\r\u0000\u001f\u007f""#),
        ("'h\u{fc}\u{1f600}'", "\"h\u{fc}\u{1f600}\""),
    ] {
        assert_eq!(encode(lua), json.replace("\\u007f", "\u{7f}"), "{lua}");
    }
    for large in ["2^53 + 2", "1e300", "-1e16", "1.7976931348623157e308"] {
        let lua = vm();
        let same: bool = lua.load(format!("return tonumber(mix.json_encode({large})) == {large}")).eval().unwrap();
        assert!(same, "{large}");
        assert!(serde_json::from_str::<f64>(&encode(large)).is_ok(), "{large}");
    }
}

#[test]
fn tables() {
    for (lua, json) in [
        ("{}", "{}"),
        ("mix.json_array({})", "[]"),
        ("{mix.json_array({}), {}}", "[[],{}]"),
        ("{1, 2, {3, 'x'}}", r#"[1,2,[3,"x"]]"#),
        ("{[1] = 1, [2] = 2, [3] = 3}", "[1,2,3]"),
        ("{[4] = 4, [3] = 3, [2] = 2, [1] = {1}}", "[[1],2,3,4]"),
        ("{1, 2, [4] = 4, [3] = 3}", "[1,2,3,4]"),
        ("{a = 1}", r#"{"a":1}"#),
        ("{a = {b = {mix.null, c}}}", r#"{"a":{"b":[null]}}"#),
        ("{['1'] = 1}", r#"{"1":1}"#),
        ("mix.json_array({x = 1})", r#"{"x":1}"#),
        ("mix.json_array({1})", "[1]"),
        ("setmetatable({a = 1}, {__index = error, __pairs = error, __len = error})", r#"{"a":1}"#),
        (
            "(function() local t = {} for i = 1, 20 do t[i] = i end for i = 6, 20 do t[i] = nil end return t end)()",
            "[1,2,3,4,5]",
        ),
        ("(function() local t = mix.json_decode('[]') t.a = 1 return t end)()", r#"{"a":1}"#),
        ("(function() local t = mix.json_decode('[]') t[1] = 1 return t end)()", "[1]"),
        ("(function() local t = mix.json_decode('[7]') t[1] = nil return t end)()", "[]"),
        (
            "(function() local t = mix.json_decode('[[1,2],3]') table.remove(t) table.remove(t[1]) table.remove(t[1]) return t end)()",
            "[[]]",
        ),
        ("(function() local t = mix.json_decode('[1]') t[1] = nil t.a = 1 return t end)()", r#"{"a":1}"#),
        ("(function() local t = mix.json_decode('{\"a\":1}') t.a = nil return t end)()", "{}"),
    ] {
        assert_eq!(encode(lua), json, "{lua}");
    }
}

#[test]
fn failures_say_what_why_and_where() {
    for (lua, err) in [
        ("print", "can't encode function"),
        ("{a = {1, {b = print}}}", "can't encode function at .a[2].b"),
        ("coroutine.create(print)", "can't encode thread"),
        ("{x = 0/0}", "can't encode number at .x: NaN"),
        ("{1/0}", "can't encode number at [1]: infinite"),
        ("-1/0", "can't encode number: infinite"),
        ("{s = '\\255'}", "can't encode string at .s: not valid UTF-8"),
        ("{t = {['\\255'] = 1}}", "can't encode table at .t: a key is not valid UTF-8"),
        ("{['a b'] = {['\\255'] = 1}}", "can't encode table at [\"a b\"]: a key is not valid UTF-8"),
        ("{[''] = print}", "can't encode function at [\"\"]"),
        (
            "{data = {list = {1, 2, [5] = 5}}}",
            "can't encode table at .data.list: sparse array (3 values, highest index 5)",
        ),
        ("{[3] = 1}", "can't encode table: sparse array (1 value, highest index 3)"),
        ("{[2^60] = 1}", "can't encode table: sparse array (1 value, highest index 1.1529215046068e+18)"),
        ("{1, [1.5] = 1}", "can't encode table: index 1.5 in an array"),
        ("{[0] = 1}", "can't encode table: index 0 in an array"),
        ("{[-1] = 1}", "can't encode table: index -1 in an array"),
        ("{[1/0] = 1}", "can't encode table: sparse array (1 value, highest index inf)"),
        ("mix.json_decode('[1,null,3]')", "can't encode table: sparse array (2 values, highest index 3)"),
        ("{1, a = 2}", "can't encode table: both string and number keys"),
        ("{1, 2, [9] = 1, a = 2}", "can't encode table: both string and number keys"),
        ("{a = 2, [7] = 1}", "can't encode table: both string and number keys"),
        ("{[true] = 1}", "can't encode table: a boolean as key"),
        (
            "(function() local t = {} t.t = t return t end)()",
            "can't encode table at .t.t.t.t.t.t.t.t... (128 levels down): nested deeper than 128 (a cycle?)",
        ),
    ] {
        assert_eq!(encode(lua), format!("err: {err}"), "{lua}");
    }
    let long = encode(&format!("{{['{}'] = print}}", "k".repeat(99)));
    assert_eq!(long, format!("err: can't encode function at .{}...", "k".repeat(40)));
}

#[test]
fn depth_and_length_are_bounded() {
    let nested =
        |depth| encode(&format!("(function() local t = 1 for _ = 1, {depth} do t = {{t}} end return t end)()"));
    assert_eq!(nested(128), format!("{}1{}", "[".repeat(128), "]".repeat(128)));
    assert!(nested(129).ends_with("nested deeper than 128 (a cycle?)"));
    let doubled = encode("(function() local t = {} for _ = 1, 60 do t = {t, t} end return t end)()");
    assert!(doubled.ends_with("its text is longer than 64 MiB"), "{doubled}");
    assert!(take_scratch().capacity() <= 64 * 1024);
}

#[test]
fn a_light_userdata_that_is_not_null_is_refused() {
    let lua = vm();
    lua.globals().set("p", mlua::LightUserData(8 as *mut _)).unwrap();
    let (text, shown) =
        lua.load("return select(2, mix.json_encode({p})), tostring(p)").eval::<(String, String)>().unwrap();
    assert_eq!(text, "can't encode userdata at [1]");
    assert!(shown.starts_with("userdata: 0x"), "{shown}");
}

#[test]
fn the_memory_limit_raises_and_no_more() {
    with_json(r#"{"a":[1,2,3],"b":"text"}"#, |lua| {
        lua.load("big = {string.rep('x', 400000)}").exec().unwrap();
        lua.gc_collect().unwrap();
        let used = lua.used_memory();
        lua.set_memory_limit(used + 100_000).unwrap();
        let err = lua.load("return mix.json_encode(big)").eval::<String>().unwrap_err().to_string();
        assert!(err.contains("not enough memory"), "{err}");
        lua.gc_collect().unwrap();
    });
}
