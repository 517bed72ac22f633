//! `mix.json_decode`: from text to Lua tables in one pass.
//!
//! Pushing may raise a memory error anywhere in a parse. Half-built values are then dropped with the Lua stack. The
//! only thing that Rust owns is the scratch buffer, once a string had escapes; it is dropped.

use mlua::ffi;
use std::ffi::{CStr, c_int};
use std::{slice, str};

use super::trouble::position;
use super::{MAX_DEPTH, MAX_EXACT, give_scratch, mark_array, plain_run, push_null, take_scratch};
use crate::script::push::{Stack, push_bytes};
use crate::script::stack::{Args, BYTES_PER_LOOK, Push, State, VALUES_PER_LOOK, throw};
use crate::script::watchdog;

/// `mix.json_decode(s[, {null = true}])` -> `v, err`.
///
/// # Safety
/// For Lua to call, as [`super::set_encoding`] makes it.
pub(super) unsafe extern "C-unwind" fn json_decode(state: State) -> c_int {
    // SAFETY: called by Lua, with a stack of its own. Slot 1 keeps the text until the end; what is above it is the parser's, which
    // takes off nothing of what was there before.
    unsafe {
        if !matches!(ffi::lua_type(state, 1), ffi::LUA_TSTRING | ffi::LUA_TNUMBER) {
            throw(state, Args::new(state, 0).wrong(1, "string"));
        }
        let keep_null = match ffi::lua_type(state, 2) {
            ffi::LUA_TNONE | ffi::LUA_TNIL => false,
            ffi::LUA_TTABLE => {
                push_bytes(state, b"null");
                ffi::lua_rawget_(state, 2);
                ffi::lua_toboolean(state, -1) != 0
            }
            _ => throw(state, Args::new(state, 0).wrong(2, "table")),
        };
        ffi::lua_settop(state, 1);
        // A number is converted in its slot; either way the slot keeps the text alive.
        let mut len = 0;
        let start = ffi::lua_tolstring(state, 1, &mut len);
        let text = slice::from_raw_parts(start.cast::<u8>(), len);

        let mut parser =
            Parser { stack: Stack::new(state), text, at: 0, depth: 0, keep_null, values: 0, scratch: Vec::new() };
        let outcome = parser.document();
        let Parser { at, scratch, .. } = parser;
        if scratch.capacity() > 0 {
            give_scratch(scratch);
        }
        match outcome {
            Ok(()) => ffi::lua_pushnil(state),
            Err(problem) => {
                ffi::lua_settop(state, 1);
                ffi::lua_pushnil(state);
                let (line, column) = position(text, at);
                ffi::lua_pushfstring(state, c"%s at line %d column %d".as_ptr(), problem.as_ptr(), line, column);
            }
        }
        2
    }
}

/// What is wrong at [`Parser::at`].
type Problem = &'static CStr;

/// Hardly ever visible: the handler is stopped as soon as it is back in Lua.
const OUT_OF_TIME: Problem = c"the handler's time is over";

/// What parses a text, in a function that [`super::set_encoding`] has set. Each of its methods pushes one value, or none after a
/// failure but for what is half built, and takes off only what it has pushed.
struct Parser<'a> {
    stack: Stack<'a>,
    text: &'a [u8],
    /// The next byte to read.
    at: usize,
    depth: usize,
    keep_null: bool,
    /// Values read so far.
    values: u32,
    /// Holds a string with escapes while it is put together.
    scratch: Vec<u8>,
}

impl Parser<'_> {
    /// The whole text: pushes one value.
    fn document(&mut self) -> Result<(), Problem> {
        // Checked at once for the whole text: a byte beyond ASCII outside a string is wrong anyway.
        if !self.text.is_ascii()
            && let Err(e) = str::from_utf8(self.text)
        {
            self.at = e.valid_up_to();
            return Err(c"invalid UTF-8");
        }
        if !self.value()? {
            _ = self.stack.push_nil();
        }
        if self.token().is_some() {
            return Err(c"trailing characters");
        }
        Ok(())
    }

    /// The byte at [`Parser::at`].
    #[inline]
    fn byte(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Skips white space and tells which byte follows.
    #[inline]
    fn token(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.byte() {
            self.at += 1;
            if self.at.is_multiple_of(BYTES_PER_LOOK) && watchdog::expired() {
                // The text ends here, as the error no longer matters.
                self.text = self.text.get(..self.at).unwrap_or_default();
            }
        }
        self.byte()
    }

    /// Pushes the next value. For a null that is to be nil it pushes nothing and returns false.
    fn value(&mut self) -> Result<bool, Problem> {
        self.values = self.values.wrapping_add(1);
        if self.values.is_multiple_of(VALUES_PER_LOOK as u32) && watchdog::expired() {
            return Err(OUT_OF_TIME);
        }
        match self.token() {
            Some(b'"') => self.string()?,
            Some(b'{') => self.object()?,
            Some(b'[') => self.array()?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => {
                self.word(b"true")?;
                _ = true.push_to(self.stack);
            }
            Some(b'f') => {
                self.word(b"false")?;
                _ = false.push_to(self.stack);
            }
            Some(b'n') => {
                self.word(b"null")?;
                if !self.keep_null {
                    return Ok(false);
                }
                _ = push_null(self.stack);
            }
            Some(_) => return Err(c"expected value"),
            None => return Err(c"EOF while parsing a value"),
        }
        Ok(true)
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Problem> {
        for &wanted in word {
            match self.byte() {
                Some(b) if b == wanted => self.at += 1,
                Some(_) => return Err(c"expected ident"),
                None => return Err(c"EOF while parsing a value"),
            }
        }
        Ok(())
    }

    /// Goes past an opening bracket.
    fn enter(&mut self) -> Result<(), Problem> {
        if self.depth == MAX_DEPTH {
            return Err(c"nested deeper than 128");
        }
        // Table, key and value, and one more to look up a key.
        // SAFETY: the thread is alive. It raises nothing: it returns 0 when the stack can't grow.
        if unsafe { ffi::lua_checkstack(self.stack.state(), 4) } == 0 {
            return Err(c"out of Lua stack");
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Goes past a closing bracket.
    fn leave(&mut self) {
        self.depth -= 1;
        self.at += 1;
    }

    /// Pushes an empty table with room for so many elements and fields.
    #[inline]
    fn table(&self, elements: c_int, fields: c_int) {
        // SAFETY: a stack's thread is alive and protected; `enter` has seen to the room.
        unsafe { ffi::lua_createtable(self.stack.state(), elements, fields) }
    }

    fn object(&mut self) -> Result<(), Problem> {
        self.enter()?;
        if self.token() == Some(b'}') {
            self.table(0, 0);
            self.leave();
            return Ok(());
        }
        self.table(0, 4);
        loop {
            match self.token() {
                Some(b'"') => self.string()?,
                Some(_) => return Err(c"key must be a string"),
                None => return Err(c"EOF while parsing an object"),
            }
            match self.token() {
                Some(b':') => self.at += 1,
                Some(_) => return Err(c"expected `:`"),
                None => return Err(c"EOF while parsing an object"),
            }
            if self.value()? {
                // SAFETY: at the top are the table, a key and a value, each pushed by a method that pushes one.
                unsafe { ffi::lua_rawset(self.stack.state(), -3) };
            } else {
                // SAFETY: at the top are the table and a key.
                unsafe { self.forget() };
            }
            match self.token() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.leave();
                    return Ok(());
                }
                Some(_) => return Err(c"expected `,` or `}`"),
                None => return Err(c"EOF while parsing an object"),
            }
            if self.token() == Some(b'}') {
                return Err(c"trailing comma");
            }
        }
    }

    /// Pops a key whose value is nil, and removes that key from the table below: of equal keys the last one counts.
    ///
    /// # Safety
    /// Both must be at the top of the stack.
    unsafe fn forget(&mut self) {
        let state = self.stack.state();
        // SAFETY: the caller's.
        unsafe {
            ffi::lua_pushvalue(state, -1);
            // Setting an absent key to nil would make room for it.
            if ffi::lua_rawget(state, -3) == ffi::LUA_TNIL {
                ffi::lua_pop(state, 2);
            } else {
                ffi::lua_pop(state, 1);
                ffi::lua_pushnil(state);
                ffi::lua_rawset(state, -3);
            }
        }
    }

    fn array(&mut self) -> Result<(), Problem> {
        self.enter()?;
        if self.token() == Some(b']') {
            self.table(0, 0);
            // SAFETY: the table has just been pushed, in a function that has the metatable.
            unsafe { mark_array(self.stack.state(), -1) };
            self.leave();
            return Ok(());
        }
        self.table(4, 0);
        // A Lua string is shorter than 2 GiB, and each element takes two bytes of it.
        let mut index: c_int = 0;
        loop {
            index += 1;
            if self.value()? {
                // SAFETY: at the top are the table and a value.
                unsafe { ffi::lua_rawseti_(self.stack.state(), -2, index) };
            }
            match self.token() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                Some(_) => return Err(c"expected `,` or `]`"),
                None => return Err(c"EOF while parsing a list"),
            }
            if self.token() == Some(b']') {
                return Err(c"trailing comma");
            }
        }
        // It may hold nothing but nulls, or be emptied by the script later. It must not turn into an object then.
        // SAFETY: the table is at the top, in a function that has the metatable.
        unsafe { mark_array(self.stack.state(), -1) };
        self.leave();
        Ok(())
    }

    /// A string, from its opening quote.
    fn string(&mut self) -> Result<(), Problem> {
        self.at += 1;
        let rest = self.text.get(self.at..).unwrap_or_default();
        let run = plain_run(rest);
        self.at += run;
        if self.byte() == Some(b'"') {
            self.at += 1;
            _ = self.stack.push_bytes(rest.get(..run).unwrap_or_default());
            return Ok(());
        }
        self.string_with_escapes(rest.get(..run).unwrap_or_default())
    }

    /// The rest of a string whose plain beginning has been read.
    #[cold]
    fn string_with_escapes(&mut self, beginning: &[u8]) -> Result<(), Problem> {
        if self.scratch.capacity() == 0 {
            self.scratch = take_scratch();
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(beginning);
        let mut escapes = 0;
        loop {
            match self.byte() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escapes += 1;
                    if escapes % VALUES_PER_LOOK == 0 && watchdog::expired() {
                        return Err(OUT_OF_TIME);
                    }
                    self.escape()?;
                }
                Some(_) => return Err(c"control character (\\u0000-\\u001F) found while parsing a string"),
                None => return Err(c"EOF while parsing a string"),
            }
            let rest = self.text.get(self.at..).unwrap_or_default();
            let run = plain_run(rest);
            self.scratch.extend_from_slice(rest.get(..run).unwrap_or_default());
            self.at += run;
        }
        self.at += 1;
        _ = self.stack.push_bytes(&self.scratch);
        Ok(())
    }

    /// One escape sequence, from its backslash.
    fn escape(&mut self) -> Result<(), Problem> {
        self.at += 1;
        let byte = match self.byte() {
            Some(b @ (b'"' | b'\\' | b'/')) => b,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                self.at += 1;
                let c = self.unicode_escape()?;
                self.scratch.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            Some(_) => return Err(c"invalid escape"),
            None => return Err(c"EOF while parsing a string"),
        };
        self.at += 1;
        self.scratch.push(byte);
        Ok(())
    }

    /// The character of a `\u` escape, or of two that make a surrogate pair (RFC 8259, section 7).
    fn unicode_escape(&mut self) -> Result<char, Problem> {
        const LONE: Problem = c"lone surrogate in hex escape";
        let start = self.at;
        let first = self.hex()?;
        let code = if let 0xd800..0xdc00 = first {
            if self.text.get(self.at..).is_none_or(|t| !t.starts_with(b"\\u")) {
                self.at = start;
                return Err(LONE);
            }
            self.at += 2;
            match self.hex()? {
                second @ 0xdc00..0xe000 => 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00),
                _ => first,
            }
        } else {
            first
        };
        char::from_u32(code).ok_or_else(|| {
            self.at = start;
            LONE
        })
    }

    fn hex(&mut self) -> Result<u32, Problem> {
        let mut code = 0;
        for _ in 0..4 {
            let byte = self.byte().ok_or(c"EOF while parsing a string")?;
            code = code * 16 + (byte as char).to_digit(16).ok_or(c"invalid escape")?;
            self.at += 1;
        }
        Ok(code)
    }

    fn number(&mut self) -> Result<(), Problem> {
        let start = self.at;
        let negative = self.byte() == Some(b'-');
        if negative {
            self.at += 1;
        }
        let mut magnitude = 0u64;
        let digits = self.digits(&mut magnitude)?;
        if digits > 1 && self.text.get(self.at - digits) == Some(&b'0') {
            self.at -= digits - 1;
            return Err(c"invalid number");
        }
        let fraction = self.byte() == Some(b'.');
        if fraction {
            self.at += 1;
            self.digits(&mut 0)?;
        }
        let exponent = matches!(self.byte(), Some(b'e' | b'E'));
        if exponent {
            self.at += 1;
            if let Some(b'+' | b'-') = self.byte() {
                self.at += 1;
            }
            self.digits(&mut 0)?;
        }
        let literal = self.text.get(start..self.at).unwrap_or_default();
        let number = if fraction || exponent {
            // The standard library rounds correctly, and has a fast way for the usual short literals.
            let number = str::from_utf8(literal).ok().and_then(|l| l.parse::<f64>().ok());
            number.filter(|n| n.is_finite()).ok_or(c"number out of range")?
        } else if digits <= 16 && magnitude <= MAX_EXACT {
            if negative { -(magnitude as f64) } else { magnitude as f64 }
        } else {
            // Most likely an id. As a double it would change. The literal has no leading zeros.
            _ = self.stack.push_bytes(literal);
            return Ok(());
        };
        _ = number.push_to(self.stack);
        Ok(())
    }

    /// Goes past one or more digits and returns how many; their value, if it fits, goes to `value`.
    #[inline]
    fn digits(&mut self, value: &mut u64) -> Result<usize, Problem> {
        let start = self.at;
        while let Some(digit @ b'0'..=b'9') = self.byte() {
            *value = value.wrapping_mul(10).wrapping_add((digit - b'0').into());
            self.at += 1;
        }
        match self.at - start {
            0 if self.byte().is_none() => Err(c"EOF while parsing a value"),
            0 => Err(c"invalid number"),
            digits => Ok(digits),
        }
    }
}

#[cfg(test)]
mod tests;
