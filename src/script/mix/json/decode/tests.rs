//! Tests of decoding.

use super::super::tests::{vm, with_json};
use proptest::prelude::*;

/// Decodes `text` and shows what came out as the Lua function `show` in the test VM does.
fn decode_with(text: impl AsRef<[u8]>, options: &str) -> String {
    let lua = vm();
    lua.globals().set("text", lua.create_string(text).unwrap()).unwrap();
    let code = format!("local v, err = mix.json_decode(text{options}) return err and 'err: ' .. err or show(v)");
    lua.load(code).eval::<mlua::LuaString>().unwrap().to_string_lossy()
}

fn decode(text: impl AsRef<[u8]>) -> String {
    decode_with(text, "")
}

#[test]
fn values() {
    for (json, lua) in [
        ("null", "nil"),
        (" \t\r\n true \n", "true"),
        ("false", "false"),
        ("0", "0"),
        ("-0", "-0"),
        ("-0.0", "-0"),
        ("12", "12"),
        ("-1.5e3", "-1500"),
        ("1E+2", "100"),
        ("1e-400", "0"),
        ("\"\"", "''"),
        ("\"plain text of some length\"", "'plain text of some length'"),
        ("[]", "{}"),
        ("{}", "{}"),
        ("[1,[2],\"x\"]", "{1=1,2={1=2},3='x'}"),
        ("{\"a\":{\"b\":[true]}}", "{a={b={1=true}}}"),
        ("{\"1\":1}", "{1=1}"),
        ("{\"\":0}", "{=0}"),
        ("[1,2,3,4,5,6,7,8,9]", "{1=1,2=2,3=3,4=4,5=5,6=6,7=7,8=8,9=9}"),
        // Nulls are holes, or absent.
        ("[1,null,3]", "{1=1,3=3}"),
        ("[null]", "{}"),
        ("{\"a\":null,\"b\":1}", "{b=1}"),
        // Of equal keys the last counts.
        ("{\"a\":1,\"a\":2}", "{a=2}"),
        ("{\"a\":1,\"\\u0061\":null}", "{}"),
        ("{\"a\":null,\"a\":1}", "{a=1}"),
    ] {
        assert_eq!(decode(json), lua, "{json}");
    }
    assert_eq!(decode_with("[1,null,{\"a\":null}]", ", {null = true}"), "{1=1,2=null,3={a=null}}");
    assert_eq!(decode_with("null", ", {null = true}"), "null");
    assert_eq!(decode_with("{\"a\":1,\"a\":null}", ", {null = true}"), "{a=null}");
    assert_eq!(decode_with("[null]", ", {null = false}"), "{}");
    assert_eq!(decode_with("[1]", ", nil"), "{1=1}");
}

#[test]
fn integers_that_a_double_cannot_hold_are_strings() {
    let long = "9".repeat(500);
    for (json, lua) in [
        ("9007199254740991", "9.007199254741e+15"),
        ("9007199254740992", "9.007199254741e+15"),
        ("-9007199254740992", "-9.007199254741e+15"),
        ("9007199254740993", "'9007199254740993'"),
        ("-9007199254740993", "'-9007199254740993'"),
        ("18446744073709551615", "'18446744073709551615'"),
        ("18446744073709551616", "'18446744073709551616'"),
        ("-9223372036854775809", "'-9223372036854775809'"),
        ("36893488147419103233", "'36893488147419103233'"),
        ("100000000000000000000000000000001", "'100000000000000000000000000000001'"),
        ("[12345678901234567890]", "{1='12345678901234567890'}"),
        (long.as_str(), &format!("'{long}'")),
        // With a fraction or an exponent it is no integer but a measure.
        ("9007199254740993.0", "9.007199254741e+15"),
        ("1e20", "1e+20"),
    ] {
        assert_eq!(decode(json), lua, "{json}");
    }
    let exact =
        "return mix.json_decode('9007199254740991') == 2^53 - 1 and mix.json_decode('9007199254740992') == 2^53";
    assert!(vm().load(exact).eval::<bool>().unwrap());
}

#[test]
fn strings() {
    for (json, text) in [
        (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
        (r#""a\u0000b""#, "a\0b"),
        (r#""\u00e9\u20AC""#, "\u{e9}\u{20ac}"),
        (r#""\uD83D\uDE00!""#, "\u{1f600}!"),
        (r#""\uDBFF\uDFFF""#, "\u{10ffff}"),
        (r#""\uFFFF""#, "\u{ffff}"),
        ("\"\u{7f}\u{e9}\u{1f600}\"", "\u{7f}\u{e9}\u{1f600}"),
        (r#""12345678\n12345678\n""#, "12345678\n12345678\n"),
    ] {
        assert_eq!(decode(json), format!("'{text}'"), "{json}");
    }
}

#[test]
fn failures_tell_line_and_column() {
    for (json, err) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        (" ", "EOF while parsing a value at line 1 column 1"),
        ("[1, ?]", "expected value at line 1 column 5"),
        ("{\n  \"a\": 1,\n  b\n}", "key must be a string at line 3 column 3"),
        ("{\"a\" 1}", "expected `:` at line 1 column 6"),
        ("{\"a\"", "EOF while parsing an object at line 1 column 4"),
        ("{\"a\":", "EOF while parsing a value at line 1 column 5"),
        ("{\"a\":1", "EOF while parsing an object at line 1 column 6"),
        ("{", "EOF while parsing an object at line 1 column 1"),
        ("{\"a\":1]", "expected `,` or `}` at line 1 column 7"),
        ("{\"a\":1,}", "trailing comma at line 1 column 8"),
        ("{,}", "key must be a string at line 1 column 2"),
        ("[1,]", "trailing comma at line 1 column 4"),
        ("[,]", "expected value at line 1 column 2"),
        ("[1 2]", "expected `,` or `]` at line 1 column 4"),
        ("[1", "EOF while parsing a list at line 1 column 2"),
        ("[", "EOF while parsing a value at line 1 column 1"),
        ("]", "expected value at line 1 column 1"),
        ("1 2", "trailing characters at line 1 column 3"),
        ("{} \n x", "trailing characters at line 2 column 2"),
        ("[]]", "trailing characters at line 1 column 3"),
        ("nul", "EOF while parsing a value at line 1 column 3"),
        ("nil", "expected ident at line 1 column 2"),
        ("True", "expected value at line 1 column 1"),
        ("NaN", "expected value at line 1 column 1"),
        ("-Infinity", "invalid number at line 1 column 2"),
        ("-", "EOF while parsing a value at line 1 column 1"),
        ("+1", "expected value at line 1 column 1"),
        ("01", "invalid number at line 1 column 2"),
        ("-00", "invalid number at line 1 column 3"),
        (".5", "expected value at line 1 column 1"),
        ("1.", "EOF while parsing a value at line 1 column 2"),
        ("[1.]", "invalid number at line 1 column 4"),
        ("[1.e1]", "invalid number at line 1 column 4"),
        ("1e+", "EOF while parsing a value at line 1 column 3"),
        ("0x10", "trailing characters at line 1 column 2"),
        ("1e400", "number out of range at line 1 column 5"),
        ("[-1e400]", "number out of range at line 1 column 8"),
        ("\"a", "EOF while parsing a string at line 1 column 2"),
        ("\"a\\", "EOF while parsing a string at line 1 column 3"),
        ("\"a\tb\"", "control character (\\u0000-\\u001F) found while parsing a string at line 1 column 3"),
        ("\"\\x\"", "invalid escape at line 1 column 3"),
        ("\"\\u12g4\"", "invalid escape at line 1 column 6"),
        ("\"\\u12", "EOF while parsing a string at line 1 column 5"),
        ("\"\\ud800\"", "lone surrogate in hex escape at line 1 column 4"),
        ("\"\\ud800\\u0041\"", "lone surrogate in hex escape at line 1 column 4"),
        ("\"\\ud800\\ud800\"", "lone surrogate in hex escape at line 1 column 4"),
        ("\"\\udc00\"", "lone surrogate in hex escape at line 1 column 4"),
        ("'a'", "expected value at line 1 column 1"),
        ("\u{feff}1", "expected value at line 1 column 1"),
        ("[1]//", "trailing characters at line 1 column 4"),
    ] {
        assert_eq!(decode(json), format!("err: {err}"), "{json}");
    }
    assert_eq!(decode(b"[\"\xff\"]"), "err: invalid UTF-8 at line 1 column 3");
    assert_eq!(decode(b"\"\xed\xa0\x80\""), "err: invalid UTF-8 at line 1 column 2");
    assert_eq!(decode(b"[\0]"), "err: expected value at line 1 column 2");
}

#[test]
fn depth_is_bounded() {
    let nested =
        |depth: usize, open: &str, close: &str| decode(format!("{}1{}", open.repeat(depth), close.repeat(depth)));
    assert!(nested(128, "[", "]").starts_with("{1={1="));
    assert_eq!(nested(129, "[", "]"), "err: nested deeper than 128 at line 1 column 129");
    assert!(nested(128, "{\"a\":", "}").starts_with("{a={a="));
    assert_eq!(nested(129, "{\"a\":", "}"), "err: nested deeper than 128 at line 1 column 641");
    assert_eq!(decode("[".repeat(100_000)), "err: nested deeper than 128 at line 1 column 129");
    // Breadth is not depth.
    assert_eq!(decode(format!("[{}1]", "[[]],{},".repeat(500))).matches("={").count(), 1500);
}

#[test]
fn arguments_are_checked() {
    let lua = vm();
    for (call, err) in [
        ("mix.json_decode()", "bad argument #1 to 'json_decode' (string expected, got no value)"),
        ("mix.json_decode(nil)", "bad argument #1 to 'json_decode' (string expected, got nil)"),
        ("mix.json_decode({})", "bad argument #1 to 'json_decode' (string expected, got table)"),
        ("mix.json_decode('1', true)", "bad argument #2 to 'json_decode' (table expected, got boolean)"),
        ("mix.json_array()", "bad argument #1 to 'json_array' (table expected, got no value)"),
        ("mix.json_array('')", "bad argument #1 to 'json_array' (table expected, got string)"),
        ("mix.json_array(setmetatable({}, {}))", "bad argument #1 to 'json_array' (table has a metatable already)"),
    ] {
        let code = format!("local ok, err = pcall(function() local v = {call} end) return err");
        let got: String = lua.load(code).set_name("@t.lua").eval().unwrap();
        assert_eq!(got, format!("t.lua:1: {err}"));
    }
    let number = "local n = 5 return mix.json_decode(n) + n, (select('#', mix.json_decode('1')))";
    assert_eq!(lua.load(number).eval::<(f64, i32)>().unwrap(), (10.0, 2));
}

#[test]
fn the_memory_limit_raises_and_no_more() {
    with_json(r#"{"a":[1,2,3],"b":"te\nxt"}"#, |lua| {
        for element in ["[1,2]", "{\"k\":\"v\\n\"}", "\"\\n0123456789\"", "12345678901234567890"] {
            let text = format!("[{}{element}]", format!("{element},").repeat(20_000));
            lua.globals().set("text", text).unwrap();
            // Every amount of memory left ends the parse elsewhere.
            for left in (0..200_000).step_by(7_001) {
                lua.gc_collect().unwrap();
                lua.set_memory_limit(lua.used_memory() + 4_000 + left).unwrap();
                let err = lua.load("return mix.json_decode(text)").eval::<mlua::Value>().unwrap_err().to_string();
                assert!(err.contains("not enough memory"), "{err}");
                lua.set_memory_limit(0).unwrap();
            }
        }
        lua.gc_collect().unwrap();
    });
}

proptest! {
    #[test]
    fn doubles_are_exact_in_both_directions(bits: u64) {
        let wanted = f64::from_bits(bits);
        prop_assume!(wanted.is_finite());
        let lua = vm();
        let decode: mlua::Function = lua.load("return mix.json_decode").eval().unwrap();
        for text in [format!("{wanted:e}"), format!("{wanted:.20e}"), format!("{wanted:.400}")] {
            if text.contains(['.', 'e']) {
                let got: f64 = decode.call(text.as_str()).unwrap();
                prop_assert_eq!(got.to_bits(), bits, "{}", text);
            }
        }
        let encode: mlua::Function = lua.load("return mix.json_encode").eval().unwrap();
        let text: String = encode.call(wanted).unwrap();
        prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits, "{}", text);
    }

    #[test]
    fn integers_are_exact(n: i128) {
        for n in [n, n >> 40, n >> 72, n >> 76, n >> 100] {
            let shown = decode(n.to_string());
            if n.unsigned_abs() <= 1 << 53 {
                prop_assert_eq!(shown.parse::<f64>().is_ok(), true, "{}", shown);
            } else {
                prop_assert_eq!(shown, format!("'{n}'"));
            }
        }
    }
}
