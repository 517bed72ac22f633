//! `mix.str_split` and `mix.bytes_tostring`.

use memchr::{memchr_iter, memmem};
use mlua::ffi;
use std::ffi::c_int;

use crate::script::push::{One, Pushed, Stack, Table};
use crate::script::stack::{Args, Raise, Slots, State, VALUES_PER_LOOK, in_time, throw};

/// Adds this file's functions to the `mix` table.
pub fn register(mix: &Table<'_>) {
    // SAFETY: a function for Lua, which does not panic.
    unsafe { mix.raw(c"str_split", str_split) };
    mix.native(c"bytes_tostring", bytes_tostring);
}

/// The pieces of `text` between the separators. Empty pieces are kept. An empty separator splits into UTF-8 characters;
/// each byte that belongs to none is a piece of its own. Allocates nothing.
pub fn pieces<'a>(text: &'a [u8], separator: &'a [u8]) -> Pieces<'a> {
    Pieces { rest: Some(text), cut: Cut::new(separator) }
}

/// The iterator of [`pieces`].
pub struct Pieces<'a> {
    /// None after the last piece.
    rest: Option<&'a [u8]>,
    cut: Cut<'a>,
}

/// How pieces are found. One is made for each call of [`str_split`], so the large variant is not boxed.
#[allow(clippy::large_enum_variant)]
enum Cut<'a> {
    Characters,
    Byte(u8),
    Text(memmem::Finder<'a>),
}

impl<'a> Cut<'a> {
    fn new(separator: &'a [u8]) -> Cut<'a> {
        match separator {
            [] => Cut::Characters,
            [byte] => Cut::Byte(*byte),
            text => Cut::Text(memmem::Finder::new(text)),
        }
    }

    /// The number of pieces, or an estimate.
    fn count(&self, text: &[u8]) -> usize {
        match self {
            // All bytes but those that continue a character.
            Cut::Characters => text.iter().filter(|b| **b & 0xC0 != 0x80).count(),
            Cut::Byte(b) => memchr_iter(*b, text).count() + 1,
            Cut::Text(finder) => finder.find_iter(text).count() + 1,
        }
    }
}

/// The length of the character that `text` starts with: 1 for a byte that starts none, 0 for no text.
fn character_length(text: &[u8]) -> usize {
    let length = match text {
        [] => return 0,
        [0xC2..=0xDF, ..] => 2,
        [0xE0..=0xEF, ..] => 3,
        [0xF0..=0xF4, ..] => 4,
        _ => return 1,
    };
    text.get(..length).filter(|c| std::str::from_utf8(c).is_ok()).map_or(1, <[u8]>::len)
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.rest?;
        let found = match &self.cut {
            Cut::Characters => {
                let (character, rest) = text.split_at_checked(character_length(text))?;
                self.rest = Some(rest);
                return (!character.is_empty()).then_some(character);
            }
            Cut::Byte(b) => memchr::memchr(*b, text).map(|at| (at, 1)),
            Cut::Text(finder) => finder.find(text).map(|at| (at, finder.needle().len())),
        };
        match found {
            Some((at, length)) => {
                self.rest = Some(&text[at + length..]);
                Some(&text[..at])
            }
            None => {
                self.rest = None;
                Some(text)
            }
        }
    }
}

/// `mix.str_split(s, sep)`: written for the raw stack, since it pushes the pieces straight from the argument's bytes.
///
/// # Safety
/// For Lua to call, with its name as upvalue.
unsafe extern "C-unwind" fn str_split(state: State) -> c_int {
    // SAFETY: Lua protects the call, which lasts as long as this function.
    let (args, stack) = unsafe { (Args::new(state, 0), Stack::new(state)) };
    let (text, separator) = match args.bytes(1).and_then(|text| Ok((text, args.bytes(2)?))) {
        Ok(arguments) => arguments,
        // SAFETY: as Lua calls it.
        Err(raise) => unsafe { throw(state, raise) },
    };
    let pieces = pieces(&text, &separator);
    _ = stack.push_table(pieces.cut.count(&text), 0, |table| {
        for (i, piece) in pieces.enumerate() {
            if i % VALUES_PER_LOOK == 0
                && let Err(over) = in_time()
            {
                // SAFETY: as Lua calls it.
                unsafe { throw(state, over) }
            }
            table.element(i + 1, piece);
        }
        table.mark_array();
    });
    One::COUNT
}

/// `mix.bytes_tostring(t)`: the bytes whose values are `t[1]` to `t[#t]`. As for `string.char`, a string may spell a
/// number.
fn bytes_tostring(args: &Args) -> Result<Vec<u8>, Raise> {
    let (slots, table) = (args.slots(), args.slot(1));
    if slots.kind(table) != ffi::LUA_TTABLE {
        return Err(args.wrong(1, "table"));
    }
    let (length, element) = (slots.length(table), slots.top() + 1);
    // A table with holes can claim any length. Reading it ends at the first hole.
    let mut bytes = Vec::with_capacity(length.min(1 << 16));
    for i in 1..=length {
        if i % VALUES_PER_LOOK == 0 {
            in_time()?;
        }
        // SAFETY: a table, read raw, which raises nothing; a native function's stack has room for one value.
        unsafe { ffi::lua_rawgeti(slots.state(), table, i as ffi::lua_Integer) };
        let byte = byte_at(slots, element).ok_or_else(|| describe(slots, element));
        // SAFETY: takes off the element, of which nothing is lent.
        unsafe { ffi::lua_settop(slots.state(), element - 1) };
        bytes.push(byte.map_err(|got| Raise::Argument {
            index: 1,
            problem: format!("element {i} must be an integer from 0 to 255, got {got}"),
        })?);
    }
    Ok(bytes)
}

fn byte_at(slots: Slots<'_>, slot: c_int) -> Option<u8> {
    slots.number(slot).filter(|n| n.fract() == 0.0 && (0.0..=255.0).contains(n)).map(|n| n as u8)
}

/// A value as an error message shows it.
fn describe(slots: Slots<'_>, slot: c_int) -> String {
    match (slots.string(slot), slots.bytes(slot)) {
        (Some(s), _) => format!("'{}'", s[..s.len().min(40)].escape_ascii()),
        (_, Some(number)) => String::from_utf8_lossy(&number).into_owned(),
        _ => slots.type_name(slot).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lua_with, raised};
    use super::*;
    use proptest::prelude::*;

    fn split<'a>(text: &'a str, separator: &'a str) -> Vec<&'a str> {
        pieces(text.as_bytes(), separator.as_bytes()).map(|p| std::str::from_utf8(p).unwrap()).collect()
    }

    #[test]
    fn empty_pieces_are_kept() {
        assert_eq!(split("a@@b", "@"), ["a", "", "b"]);
        assert_eq!(split("", "@"), [""]);
        assert_eq!(split("@", "@"), ["", ""]);
        assert_eq!(split("@@a", "@@"), ["", "a"]);
        assert_eq!(split("a@@@b", "@@"), ["a", "@b"]);
        assert_eq!(split("a.b%c", ".b%"), ["a", "c"]);
        assert_eq!(split("abc", "abcd"), ["abc"]);
    }

    #[test]
    fn an_empty_separator_gives_characters() {
        assert_eq!(split("aä漢😀", ""), ["a", "ä", "漢", "😀"]);
        assert!(split("", "").is_empty());
        // A stray continuation byte, a surrogate, an overlong form, a cut-off character.
        let bytes = b"\x80a\xED\xA0\x80\xC0\xAF\xE6\xBC";
        let expected: Vec<&[u8]> = vec![b"\x80", b"a", b"\xED", b"\xA0", b"\x80", b"\xC0", b"\xAF", b"\xE6", b"\xBC"];
        assert_eq!(pieces(bytes, b"").collect::<Vec<_>>(), expected);
    }

    #[test]
    fn scripts_get_arrays() {
        let lua = lua_with(register);
        let get = |code: &str| lua.load(code).eval::<Vec<mlua::LuaString>>().unwrap();
        assert_eq!(get("return mix.str_split('a@@b', '@')"), ["a", "", "b"]);
        assert_eq!(get("return mix.str_split(10203, 0)"), ["1", "2", "3"]);
        assert_eq!(get("return mix.str_split('a\\0b\\255', '\\0')"), [&b"a"[..], b"b\xFF"]);
        assert_eq!(get("return mix.str_split('', '@')"), [""]);
        assert_eq!(get("return mix.str_split('äb', '')"), ["ä", "b"]);
        let n: i64 = lua.load("return #mix.str_split(string.rep('a,', 100000), ',')").eval().unwrap();
        assert_eq!(n, 100_001);
    }

    #[test]
    fn wrong_arguments_of_str_split_raise() {
        let lua = lua_with(register);
        assert_eq!(
            raised(&lua, "mix.str_split(nil, '@')"),
            "app.lua:1: bad argument #1 to 'str_split' (string expected, got nil)"
        );
        assert_eq!(
            raised(&lua, "mix.str_split('a')"),
            "app.lua:1: bad argument #2 to 'str_split' (string expected, got no value)"
        );
        assert_eq!(
            raised(&lua, "mix.str_split('a', {})"),
            "app.lua:1: bad argument #2 to 'str_split' (string expected, got table)"
        );
    }

    #[test]
    fn bytes_become_a_string() {
        let lua = lua_with(register);
        let get = |code: &str| lua.load(code).eval::<mlua::LuaString>().unwrap();
        assert_eq!(get("return mix.bytes_tostring({72, 105})"), "Hi");
        assert_eq!(get("return mix.bytes_tostring({0, 255, '65'})"), &b"\0\xFFA"[..]);
        assert_eq!(get("return mix.bytes_tostring({})"), "");
        for (call, problem) in [
            ("{72, 256}", "element 2 must be an integer from 0 to 255, got 256"),
            ("{-1}", "element 1 must be an integer from 0 to 255, got -1"),
            ("{1.5}", "element 1 must be an integer from 0 to 255, got 1.5"),
            ("{0/0}", "element 1 must be an integer from 0 to 255, got nan"),
            ("{1, 'x'}", "element 2 must be an integer from 0 to 255, got 'x'"),
            ("{nil, 1}", "element 1 must be an integer from 0 to 255, got nil"),
            ("{1, {}}", "element 2 must be an integer from 0 to 255, got table"),
            ("'Hi'", "table expected, got string"),
            ("", "table expected, got no value"),
        ] {
            let text = raised(&lua, &format!("mix.bytes_tostring({call})"));
            // The C library prints the sign of a NaN.
            let text = text.replace("-nan", "nan");
            assert_eq!(text, format!("app.lua:1: bad argument #1 to 'bytes_tostring' ({problem})"));
        }
    }

    proptest! {
        #[test]
        fn joined_pieces_are_the_text(text in "[ab@\u{e4}]{0,60}", separator in "[ab@]{0,3}") {
            prop_assert_eq!(split(&text, &separator).join(&separator), text);
        }

        #[test]
        fn pieces_are_those_of_the_standard_library(text in "[ab@]{0,60}", separator in "[ab@]{1,3}") {
            prop_assert_eq!(split(&text, &separator), text.split(&separator).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_split(text: Vec<u8>, separator in proptest::collection::vec(any::<u8>(), 0..3)) {
            prop_assert_eq!(pieces(&text, &separator).collect::<Vec<_>>().join(&separator[..]), text);
        }
    }
}
