//! Compares with the results of PHP itself, and tests where this implementation differs.

use mlua::{Function, Lua, LuaString, Table, Value};
use proptest::prelude::*;

use super::*;
use crate::script::mix::tests::{lua_with, php_cases, raised, unhex};

fn lua() -> Lua {
    lua_with(register)
}

fn function(lua: &Lua, name: &str) -> Function {
    lua.globals().get::<Table>("mix").unwrap().get(format!("php_{name}")).unwrap()
}

/// A value of PHP's as Lua has it: integers that a double does not hold are decimal strings.
fn value(lua: &Lua, tagged: &serde_json::Value) -> Value {
    let text = tagged[1].as_str().unwrap();
    let string = |bytes: &[u8]| Value::String(lua.create_string(bytes).unwrap());
    match tagged[0].as_str().unwrap() {
        "i" => match text.parse::<i64>().unwrap() {
            i if i.unsigned_abs() <= 1 << 53 => Value::Number(i as f64),
            _ => string(text.as_bytes()),
        },
        "d" if text == "nan" => Value::Number(f64::NAN),
        "d" => Value::Number(f64::from_be_bytes(unhex(text).try_into().unwrap())),
        _ => string(&unhex(text)),
    }
}

/// A value's text that tells all kinds and bits apart, but not one NaN from another.
fn show(value: &Value) -> String {
    match value {
        Value::Integer(i) => show(&Value::Number(*i as f64)),
        Value::Number(n) if n.is_nan() => "nan".into(),
        Value::Number(n) => format!("{n:?}"),
        Value::String(s) => format!("'{}'", s.as_bytes().escape_ascii()),
        Value::Table(t) => {
            let mut pairs: Vec<_> =
                t.pairs().map(|pair| pair.map(|(k, v)| format!("{}={}", show(&k), show(&v))).unwrap()).collect();
            pairs.sort();
            format!("{{{}}}", pairs.join(" "))
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn formats_mean_what_they_mean_to_php() {
    let lua = lua();
    let cases = php_cases("pack");
    assert!(cases.len() > 3000);
    let mut wrong = Vec::new();
    for case in &cases {
        let arguments: mlua::Variadic<Value> =
            case[1].as_array().unwrap().iter().map(|tagged| value(&lua, tagged)).collect();
        let (got, err): (Value, Value) = function(&lua, case[0].as_str().unwrap()).call(arguments).unwrap();
        let expected = match &case[2] {
            serde_json::Value::Null => "nil and an error".into(),
            serde_json::Value::Array(pairs) => {
                let table = lua.create_table().unwrap();
                for pair in pairs {
                    table.set(value(&lua, &pair[0]), value(&lua, &pair[1])).unwrap();
                }
                show(&Value::Table(table))
            }
            packed => show(&Value::String(lua.create_string(unhex(packed.as_str().unwrap())).unwrap())),
        };
        let got = match (&got, &err) {
            (Value::Nil, Value::String(e)) if !e.as_bytes().is_empty() => "nil and an error".into(),
            (_, Value::Nil) => show(&got),
            (_, err) => format!("{} and {}", show(&got), show(err)),
        };
        if got != expected {
            wrong.push(format!("{case}\n  gave   {got}\n  wanted {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Both results of a call.
fn call(lua: &Lua, call: &str) -> String {
    let (value, err): (Value, Value) = lua.load(format!("return mix.{call}")).eval().unwrap();
    format!("{}, {}", show(&value), show(&err))
}

#[test]
fn integers_of_64_bits_that_a_number_does_not_hold_are_strings() {
    let lua = lua();
    for (text, bytes) in [
        ("9007199254740993", "\\0\\32\\0\\0\\0\\0\\0\\1"),
        ("-9007199254740993", "\\255\\223\\255\\255\\255\\255\\255\\255"),
        ("9223372036854775807", "\\127\\255\\255\\255\\255\\255\\255\\255"),
        ("-9223372036854775808", "\\128\\0\\0\\0\\0\\0\\0\\0"),
    ] {
        assert_eq!(call(&lua, &format!("php_unpack('J', '{bytes}')")), format!("{{1.0='{text}'}}, Nil"));
        let same = format!("return mix.php_pack('J', '{text}') == '{bytes}'");
        assert!(lua.load(&same).eval::<bool>().unwrap(), "{same}");
    }
    assert_eq!(call(&lua, "php_unpack('J', '\\0\\32\\0\\0\\0\\0\\0\\0')"), "{1.0=9007199254740992.0}, Nil");
    // All 64 bits: PHP's integers have a sign.
    assert_eq!(call(&lua, "php_unpack('Q', ('\\255'):rep(8))"), "{1.0=-1.0}, Nil");
    assert_eq!(
        call(&lua, "php_pack('J', '18446744073709551615')"),
        format!("'{}', Nil", r"\xff".repeat(8)),
        "PHP would take the greatest integer"
    );
    assert_eq!(
        call(&lua, "php_pack('J', '18446744073709551616')"),
        "Nil, 'php_pack: code \\'J\\': 18446744073709551616 has more than 64 bits'"
    );
}

#[test]
fn positions_are_kept_where_php_loses_them() {
    assert_eq!(call(&lua(), "php_unpack('Ca/@0/nb', 'abc')"), "{'a'=97.0 'b'=24930.0}, Nil");
    assert_eq!(call(&lua(), "php_unpack('Ca/H*b/a*c', 'abc')"), "{'a'=97.0 'b'='6263' 'c'=''}, Nil");
}

#[test]
fn errors_name_what_is_wrong() {
    let lua = lua();
    for (code, problem) in [
        ("php_pack('Cy', 1)", "php_pack: unknown code 'y'"),
        ("php_pack('C\\0', 1)", "php_pack: unknown code '\\x00'"),
        ("php_pack('C')", "php_pack: no argument is left for code 'C'"),
        ("php_pack('a')", "php_pack: no argument is left for code 'a'"),
        ("php_pack('CN3', 1, 2, 3)", "php_pack: code 'N' wants 3 arguments, but 2 are left"),
        ("php_pack('C', 1, 2)", "php_pack: no code takes the last argument"),
        ("php_pack('', 1, 2)", "php_pack: no code takes the last 2 arguments"),
        ("php_pack('x*')", "php_pack: code 'x' takes no '*'"),
        ("php_pack('aX2', 'a')", "php_pack: code 'X' goes back beyond the beginning"),
        ("php_pack('H3', 'ab')", "php_pack: code 'H' wants 3 digits, but the string has 2"),
        ("php_pack('h*', 'ab!')", "php_pack: code 'h': byte '!' at offset 2 is no hexadecimal digit"),
        ("php_pack('x2147483648')", "php_pack: the repeater of code 'x' is larger than 2147483647"),
        ("php_pack('x' .. ('9'):rep(99))", "php_pack: the repeater of code 'x' is larger than 2147483647"),
        ("php_unpack('C/y', 'a')", "php_unpack: unknown code 'y'"),
        ("php_unpack('C/N2x', 'abcdef')", "php_unpack: code 'N' wants 4 bytes at offset 5, but 1 are left"),
        ("php_unpack('C/a9', 'abc')", "php_unpack: code 'a' wants 9 bytes at offset 1, but 2 are left"),
        ("php_unpack('H9', 'abc')", "php_unpack: code 'H' wants 5 bytes at offset 0, but 3 are left"),
        ("php_unpack('x4', 'abc')", "php_unpack: code 'x' wants 4 bytes at offset 0, but 3 are left"),
        ("php_unpack('@4', 'abc')", "php_unpack: code '@' goes to 4, beyond the 3 bytes"),
        ("php_unpack('X*', 'abc')", "php_unpack: code 'X' takes no '*'"),
    ] {
        let (value, err): (Value, String) = lua.load(format!("return mix.{code}")).eval().unwrap();
        assert!(value.is_nil());
        assert_eq!(err, problem);
    }
}

#[test]
fn arguments_of_a_wrong_type_raise() {
    let lua = lua();
    for (code, problem) in [
        ("php_pack()", "bad argument #1 to 'php_pack' (string expected, got no value)"),
        ("php_pack('C', {})", "bad argument #2 to 'php_pack' (number expected, got table)"),
        ("php_pack('C2', 1, true)", "bad argument #3 to 'php_pack' (number expected, got boolean)"),
        ("php_pack('Cd', 1, nil)", "bad argument #3 to 'php_pack' (number expected, got nil)"),
        ("php_pack('a', nil)", "bad argument #2 to 'php_pack' (string expected, got nil)"),
        ("php_pack('H*', {})", "bad argument #2 to 'php_pack' (string expected, got table)"),
        ("php_unpack('C')", "bad argument #2 to 'php_unpack' (string expected, got no value)"),
        ("php_unpack({}, '')", "bad argument #1 to 'php_unpack' (string expected, got table)"),
    ] {
        assert_eq!(raised(&lua, &format!("mix.{code}")), format!("app.lua:1: {problem}"));
    }
    // Numbers are strings where strings are wanted.
    assert_eq!(call(&lua, "php_pack('a*', 12)"), "'12', Nil");
    assert_eq!(call(&lua, "php_unpack('a*', 12)"), "{1.0='12'}, Nil");
}

#[test]
fn what_would_be_too_long_is_refused_before_it_is_made() {
    let lua = lua();
    let start = std::time::Instant::now();
    for format in ["x1000000000", "@1000000000", "x2147483647", "x60000000X60000000x60000000", "x2147483647x2147483647"]
    {
        assert_eq!(call(&lua, &format!("php_pack('{format}')")), "Nil, 'php_pack: it would write more than 64 MiB'");
    }
    assert_eq!(call(&lua, "php_pack('A1000000000', '')"), "Nil, 'php_pack: it would write more than 64 MiB'");
    assert_eq!(call(&lua, "php_pack(('x'):rep(65537))"), "Nil, 'php_pack: the format is longer than 65536 bytes'");
    assert_eq!(
        call(&lua, "php_unpack(('x'):rep(65537), '')"),
        "Nil, 'php_unpack: the format is longer than 65536 bytes'"
    );
    assert!(call(&lua, "php_unpack('C2147483647', 'a')").starts_with("Nil"));
    assert!(start.elapsed().as_secs() < 10, "none of it takes as long as making it would");
}

#[test]
fn what_is_made_counts_against_the_memory_of_the_vm() {
    let lua = lua();
    lua.load("data = ('x'):rep(1000000)").exec().unwrap();
    lua.set_memory_limit(lua.used_memory() + 4 * 1024 * 1024).unwrap();
    for code in
        ["php_pack('x50000000')", "php_unpack('C*' .. ('n'):rep(200), data)", "php_unpack('H*a/@0/H*b/@0/h*c', data)"]
    {
        let done: bool = lua.load(format!("return (pcall(function() return (mix.{code}) end))")).eval().unwrap();
        assert!(!done, "{code}");
        lua.set_memory_limit(0).unwrap();
        lua.gc_collect().unwrap();
        lua.set_memory_limit(lua.used_memory() + 4 * 1024 * 1024).unwrap();
    }
    assert_eq!(call(&lua, "php_pack('n', 258)"), "'\\x01\\x02', Nil", "it goes on");
}

#[test]
fn numbers_in_names_make_integer_keys() {
    let lua = lua();
    assert_eq!(
        call(&lua, "php_unpack('C2/C-3/C-0/C1x7', 'abcde')"),
        "{'-0'=100.0 'x7'=101.0 -3.0=99.0 1.0=97.0 2.0=98.0}, Nil"
    );
    assert_eq!(call(&lua, "php_unpack('C2x/Cx2', 'abc')"), "{'x1'=97.0 'x2'=99.0}, Nil", "the last one stays");
    assert_eq!(call(&lua, "php_unpack('C1-9007199254740993/', 'a')"), "{'-9007199254740993'=97.0}, Nil");
}

/// A code, and the range of the integers that come back as they were.
const INTEGERS: [(char, i64, i64); 16] = [
    ('c', -128, 127),
    ('C', 0, 255),
    ('s', -32768, 32767),
    ('S', 0, 65535),
    ('n', 0, 65535),
    ('v', 0, 65535),
    ('i', i32::MIN as i64, i32::MAX as i64),
    ('I', 0, u32::MAX as i64),
    ('l', i32::MIN as i64, i32::MAX as i64),
    ('L', 0, u32::MAX as i64),
    ('N', 0, u32::MAX as i64),
    ('V', 0, u32::MAX as i64),
    ('q', i64::MIN, i64::MAX),
    ('Q', i64::MIN, i64::MAX),
    ('J', i64::MIN, i64::MAX),
    ('P', i64::MIN, i64::MAX),
];

proptest! {
    #[test]
    fn integers_come_back(index in 0..INTEGERS.len(), seeds in proptest::collection::vec(any::<i64>(), 0..6)) {
        let lua = lua();
        let (code, least, greatest) = INTEGERS[index];
        let span = i128::from(greatest) - i128::from(least) + 1;
        let numbers: Vec<i64> = seeds.iter().map(|s| (i128::from(least) + i128::from(*s).rem_euclid(span)) as i64).collect();
        let arguments: mlua::Variadic<Value> = std::iter::once(format!("{code}*"))
            .chain(numbers.iter().map(i64::to_string))
            .map(|s| Value::String(lua.create_string(s).unwrap()))
            .collect();
        let packed: LuaString = function(&lua, "pack").call(arguments).unwrap();
        let back: Table = function(&lua, "unpack").call((format!("{code}*"), packed)).unwrap();
        prop_assert_eq!(back.raw_len(), numbers.len());
        for (i, number) in numbers.iter().enumerate() {
            let got = match back.get::<Value>(i + 1).unwrap() {
                Value::String(text) => text.to_str().unwrap().to_string(),
                _ => back.get::<f64>(i + 1).unwrap().to_string(),
            };
            prop_assert_eq!(got.parse::<i64>().unwrap(), *number);
        }
    }

    #[test]
    fn floats_come_back(doubles in proptest::collection::vec(any::<f64>(), 1..5), singles in proptest::collection::vec(any::<f32>(), 1..5)) {
        let lua = lua();
        for code in ["f", "g", "G", "d", "e", "E"] {
            let single = "fgG".contains(code);
            let numbers = if single { singles.iter().map(|n| f64::from(*n)).collect() } else { doubles.clone() };
            let arguments: mlua::Variadic<Value> = std::iter::once(Value::String(lua.create_string(format!("{code}*")).unwrap()))
                .chain(numbers.iter().map(|n| Value::Number(*n)))
                .collect();
            let packed: LuaString = function(&lua, "pack").call(arguments).unwrap();
            prop_assert_eq!(packed.as_bytes().len(), numbers.len() * if single { 4 } else { 8 });
            let back: Table = function(&lua, "unpack").call((format!("{code}*"), packed)).unwrap();
            for (i, number) in numbers.iter().enumerate() {
                let got = back.get::<f64>(i + 1).unwrap();
                prop_assert!(got.to_bits() == number.to_bits() || got.is_nan() && number.is_nan());
            }
        }
    }

    #[test]
    fn texts_and_digits_come_back(text: Vec<u8>) {
        let lua = lua();
        let bytes = lua.create_string(&text).unwrap();
        let packed: LuaString = function(&lua, "pack").call(("NZ*a*", text.len(), "name", &bytes)).unwrap();
        let back: Table = function(&lua, "unpack").call(("Nn/Z5name/a*rest", packed)).unwrap();
        prop_assert_eq!(back.get::<usize>("n").unwrap(), text.len());
        prop_assert_eq!(back.get::<String>("name").unwrap(), "name");
        prop_assert_eq!(&*back.get::<LuaString>("rest").unwrap().as_bytes(), &*text);
        for code in ["H", "h"] {
            let digits: Table = function(&lua, "unpack").call((format!("{code}*"), &bytes)).unwrap();
            let packed: LuaString =
                function(&lua, "pack").call((format!("{code}*"), digits.get::<LuaString>(1).unwrap())).unwrap();
            prop_assert_eq!(&*packed.as_bytes(), &*text);
        }
    }

    #[test]
    fn any_format_is_answered(format in "[aAZhHcCsSnviIlLNVqQJPfgGdeExX@0-3*/xy]{0,12}", text: Vec<u8>) {
        let lua = lua();
        let bytes = lua.create_string(&text).unwrap();
        let _: mlua::MultiValue = function(&lua, "unpack").call((format.as_str(), &bytes)).unwrap();
        let _: mlua::MultiValue = function(&lua, "pack").call((format, &bytes, 5, "a0", 1.5)).unwrap();
    }

    #[test]
    fn any_bytes_are_a_format(format: Vec<u8>, text: Vec<u8>) {
        let lua = lua();
        let (format, text) = (lua.create_string(&format).unwrap(), lua.create_string(&text).unwrap());
        let _: mlua::MultiValue = function(&lua, "unpack").call((&format, &text)).unwrap();
        let _: mlua::MultiValue = function(&lua, "pack").call((&format, &text, &text)).unwrap();
    }
}
