//! `mix.json_encode`: from Lua values to text in one pass.
//!
//! Nothing is allocated in Lua and nothing raises while the text is put together; only then is it pushed.

use bytes::Bytes;
use mlua::ffi;
use std::ffi::c_int;
use std::str;

use super::trouble::EncodeError;
use super::{MAX_DEPTH, MAX_EXACT, give_scratch, is_marked_array, plain_run, take_scratch};
use crate::message::utf8;
use crate::script::push::{One, Pushed, Stack};
use crate::script::slots::{Plain, Slots};
use crate::script::stack::{Args, BYTES_PER_LOOK, State, number_text};
use crate::script::watchdog;

/// The longest text that is made. Tables that contain one another many times can stand for an endless text, and a
/// native function can't be interrupted.
const MAX_LENGTH: usize = 64 << 20;

/// Whole numbers below this have all their digits and no exponent, as JavaScript writes them (ECMA-262, Number::toString).
const ALL_DIGITS: f64 = 1e21;

/// How many elements are put together between two looks at the handler's time.
const ELEMENTS_PER_LOOK: u32 = 4096;

/// `mix.json_encode(v)` -> `s, err`.
///
/// # Safety
/// For Lua to call, as [`super::set_encoding`] makes it.
pub(super) unsafe extern "C-unwind" fn json_encode(state: State) -> c_int {
    // SAFETY: Lua protects the call, which lasts as long as this function.
    let stack = unsafe { Stack::new(state) };
    // SAFETY: in such a function, with one value in its slot.
    let outcome = unsafe {
        ffi::lua_settop(state, 1);
        encode(*stack, 1)
    };
    let (out, err) = match outcome {
        Ok(out) => {
            _ = (stack.push_bytes(&out), stack.push_nil());
            (out, None)
        }
        Err((out, trouble)) => (out, Some(trouble.message())),
    };
    if let Some(err) = err {
        // SAFETY: nothing is lent of the slots any more.
        unsafe { ffi::lua_settop(state, 0) };
        _ = (stack.push_nil(), stack.push_bytes(err.as_bytes()));
    }
    give_scratch(out);
    <(One, One)>::COUNT
}

/// The JSON text of argument `index`, which must be the last, for another function that takes any value: to be set by
/// [`super::set_encoding`].
pub(in crate::script::mix) fn encoded(args: &Args, index: c_int) -> Result<Bytes, String> {
    let slot = args.slot(index);
    // SAFETY: in such a function, with one value in its slot at the top.
    let outcome = unsafe {
        ffi::lua_settop(args.state(), slot);
        encode(args.slots(), slot)
    };
    let (out, result) = match outcome {
        Ok(out) => {
            let text = Bytes::copy_from_slice(&out);
            (out, Ok(text))
        }
        Err((out, trouble)) => (out, Err(trouble.message())),
    };
    give_scratch(out);
    result
}

/// The JSON text of the value in a slot, in the thread's scratch buffer. After an error there may be more on the stack.
///
/// # Safety
/// The slots must be those of a running function that [`super::set_encoding`] has set, and `slot` the top one.
unsafe fn encode(slots: Slots<'_>, slot: c_int) -> Result<Vec<u8>, (Vec<u8>, Box<EncodeError>)> {
    let mut encoder = Encoder { slots, out: take_scratch(), elements: 0 };
    // SAFETY: the caller's.
    match unsafe { encoder.value(slot, 0) } {
        Ok(()) => Ok(encoder.out),
        Err(trouble) => Err((encoder.out, trouble)),
    }
}

#[cold]
fn too_long() -> Box<EncodeError> {
    EncodeError::new("table", format!("its text is longer than {} MiB", MAX_LENGTH >> 20))
}

fn index_text(index: f64) -> String {
    String::from_utf8_lossy(&number_text(index)).into_owned()
}

type Encoded = Result<(), Box<EncodeError>>;

/// What encodes a value, in a function that [`super::set_encoding`] has set. Nothing here raises.
struct Encoder<'a> {
    slots: Slots<'a>,
    out: Vec<u8>,
    /// Elements put together so far.
    elements: u32,
}

impl Encoder<'_> {
    /// Appends the value in a slot, which must be the top one; `depth` tables are around it. After an error there may be more on the
    /// stack.
    ///
    /// # Safety
    /// As [`encode`].
    unsafe fn value(&mut self, slot: c_int, depth: usize) -> Encoded {
        let slots = self.slots;
        match slots.plain(slot) {
            Plain::Nil => self.out.extend_from_slice(b"null"),
            Plain::Bool(true) => self.out.extend_from_slice(b"true"),
            Plain::Bool(false) => self.out.extend_from_slice(b"false"),
            Plain::Number(n) => return self.number(n),
            Plain::Text(text) => {
                if !self.string(text)? {
                    return Err(EncodeError::new("string", "not valid UTF-8"));
                }
            }
            // SAFETY: the caller's, and a table.
            Plain::Other(ffi::LUA_TTABLE) => return unsafe { self.table(slot, depth) },
            Plain::Other(ffi::LUA_TLIGHTUSERDATA) if slots.userdata(slot).is_null() => {
                self.out.extend_from_slice(b"null");
            }
            Plain::Other(_) => return Err(EncodeError::new(slots.type_name(slot), "")),
        }
        Ok(())
    }

    fn number(&mut self, n: f64) -> Encoded {
        // Saturates, and is 0 for NaN, so that neither compares equal by chance within the bounds.
        let integer = n as i64;
        // Writing to a Vec doesn't fail.
        _ = if integer as f64 == n && integer.unsigned_abs() <= MAX_EXACT {
            if integer == 0 && n.is_sign_negative() {
                self.out.push(b'-');
            }
            serde_json::to_writer(&mut self.out, &integer)
        } else if n.abs() < ALL_DIGITS && n.trunc() == n {
            // The standard library writes the shortest digits that mean this number, and zeros up to the point.
            std::io::Write::write_fmt(&mut self.out, format_args!("{n}")).map_err(serde_json::Error::io)
        } else if n.is_finite() {
            serde_json::to_writer(&mut self.out, &n)
        } else {
            return Err(EncodeError::new("number", if n.is_nan() { "NaN" } else { "infinite" }));
        };
        Ok(())
    }

    /// False if the string is not UTF-8, which RFC 8259, section 8.1 requires.
    fn string(&mut self, text: &[u8]) -> Result<bool, Box<EncodeError>> {
        if text.len() > BYTES_PER_LOOK {
            return self.long_string(text);
        }
        if utf8(text).is_none() {
            return Ok(false);
        }
        // One check of the capacity for the usual string, which needs no escapes.
        self.out.reserve(text.len() + 2);
        self.out.push(b'"');
        self.escaped(text);
        self.out.push(b'"');
        Ok(true)
    }

    /// As [`Encoder::string`], with looks at length and time.
    #[cold]
    fn long_string(&mut self, text: &[u8]) -> Result<bool, Box<EncodeError>> {
        if text.len() > MAX_LENGTH {
            return Err(too_long());
        }
        if str::from_utf8(text).is_err() {
            return Ok(false);
        }
        self.out.push(b'"');
        for piece in text.chunks(BYTES_PER_LOOK) {
            self.escaped(piece);
            if self.out.len() > MAX_LENGTH {
                return Err(too_long());
            }
            if watchdog::expired() {
                return Err(EncodeError::new("string", watchdog::OVER_BUDGET));
            }
        }
        self.out.push(b'"');
        Ok(true)
    }

    /// The characters of a string as they stand between its quotes.
    #[inline]
    fn escaped(&mut self, text: &[u8]) {
        let mut rest = text;
        loop {
            let (plain, after) = rest.split_at_checked(plain_run(rest)).unwrap_or((rest, &[]));
            self.out.extend_from_slice(plain);
            let Some((&special, after)) = after.split_first() else { break };
            self.escape(special);
            rest = after;
        }
    }

    fn escape(&mut self, byte: u8) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let short = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            _ => {
                let digit = |n: u8| HEX[usize::from(n & 15)];
                self.out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte)]);
                return;
            }
        };
        self.out.extend_from_slice(&[b'\\', short]);
    }

    /// # Safety
    /// As [`encode`], of a table.
    unsafe fn table(&mut self, slot: c_int, depth: usize) -> Encoded {
        if depth == MAX_DEPTH {
            return Err(EncodeError::new("table", format!("nested deeper than {MAX_DEPTH} (a cycle?)")));
        }
        let state = self.slots.state();
        // A key, a value, and one more to compare a metatable.
        // SAFETY: the thread is alive. It raises nothing: it returns 0 when the stack can't grow.
        if unsafe { ffi::lua_checkstack(state, 4) } == 0 {
            return Err(EncodeError::new("table", "out of Lua stack"));
        }
        // SAFETY: there is room.
        unsafe { ffi::lua_pushnil(state) };
        // SAFETY: the caller's; the key is nil, with which the first one is asked for.
        if !unsafe { self.next(slot) } {
            // SAFETY: the caller's; there is room.
            let empty: &[u8] = if unsafe { is_marked_array(state, slot) } { b"[]" } else { b"{}" };
            self.out.extend_from_slice(empty);
            return self.check();
        }
        match self.slots.kind(slot + 1) {
            // SAFETY: the caller's, with the first key and value above the table.
            ffi::LUA_TSTRING => unsafe { self.object(slot, depth) },
            // SAFETY: the same.
            ffi::LUA_TNUMBER => unsafe { self.array(slot, depth) },
            _ => Err(self.wrong_key(slot + 1)),
        }
    }

    /// Replaces the key above a table by the next key and its value; false after the last one.
    ///
    /// # Safety
    /// There must be a table in the slot, and above it, at the top, a key that it gave, or nil.
    #[inline]
    unsafe fn next(&self, slot: c_int) -> bool {
        // SAFETY: the caller's. It raises only for a key that is not in the table.
        unsafe { ffi::lua_next(self.slots.state(), slot) != 0 }
    }

    /// Takes off what is above a slot.
    ///
    /// # Safety
    /// The slot must be in use, and nothing may be lent of those above it.
    #[inline]
    unsafe fn drop_above(&self, slot: c_int) {
        // SAFETY: the caller's.
        unsafe { ffi::lua_settop(self.slots.state(), slot) }
    }

    /// A table with its first key and value above it on the stack.
    ///
    /// # Safety
    /// As [`encode`], but for these two.
    unsafe fn object(&mut self, slot: c_int, depth: usize) -> Encoded {
        let key_slot = slot + 1;
        let mut before = b'{';
        loop {
            // Asking a number for its text would turn it into a string in its slot and lead lua_next astray.
            let Some(key) = self.slots.string(key_slot) else { return Err(self.wrong_key(key_slot)) };
            self.out.push(before);
            if !self.string(key).map_err(|e| e.at_key(key))? {
                return Err(EncodeError::new("table", "a key is not valid UTF-8"));
            }
            self.out.push(b':');
            // SAFETY: the caller's: the key's value is at the top.
            unsafe { self.value(key_slot + 1, depth + 1) }.map_err(|e| e.at_key(key))?;
            self.check()?;
            before = b',';
            // SAFETY: the value has been encoded; then the key is at the top, as the table gave it.
            let more = unsafe {
                self.drop_above(key_slot);
                self.next(slot)
            };
            if !more {
                break;
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    /// A table with its first key and value above it on the stack.
    ///
    /// # Safety
    /// As [`encode`], but for these two.
    unsafe fn array(&mut self, slot: c_int, depth: usize) -> Encoded {
        let key_slot = slot + 1;
        self.out.push(b'[');
        // Lua goes through the array part of a table in order, which is nearly always all of it.
        let mut len = 0;
        loop {
            match self.slots.exact_number(key_slot) {
                None => return Err(self.wrong_key(key_slot)),
                Some(key) if key == (len + 1) as f64 => len += 1,
                // SAFETY: the caller's.
                Some(_) => return unsafe { self.array_rest(slot, depth, len) },
            }
            // SAFETY: the caller's: the key's value is at the top. When it has been encoded, the key is, as the table gave it.
            let more = unsafe {
                self.element(key_slot + 1, depth, len)?;
                self.drop_above(key_slot);
                self.next(slot)
            };
            if !more {
                break;
            }
        }
        self.out.push(b']');
        Ok(())
    }

    /// The rest of an array after `len` elements that came in order, with an out-of-order key and value above it on the
    /// stack. Checks first that the keys are 1 to n, then fetches the elements in order.
    ///
    /// # Safety
    /// As [`encode`], but for these two.
    #[cold]
    unsafe fn array_rest(&mut self, slot: c_int, depth: usize, mut len: usize) -> Encoded {
        let key_slot = slot + 1;
        let mut values = len;
        let mut highest = len as f64;
        loop {
            let Some(key) = self.slots.exact_number(key_slot) else { return Err(self.wrong_key(key_slot)) };
            if key < 1.0 || key.trunc() != key {
                return Err(EncodeError::new("table", format!("index {} in an array", index_text(key))));
            }
            values += 1;
            highest = highest.max(key);
            self.check()?;
            // SAFETY: nothing is lent of the value; then the key is at the top, as the table gave it.
            let more = unsafe {
                self.drop_above(key_slot);
                self.next(slot)
            };
            if !more {
                break;
            }
        }
        if highest != values as f64 {
            let plural = if values == 1 { "" } else { "s" };
            let highest = index_text(highest);
            let reason = format!("sparse array ({values} value{plural}, highest index {highest})");
            return Err(EncodeError::new("table", reason));
        }
        while len < values {
            len += 1;
            // SAFETY: the caller's, and there is room above the table. (As many as there are keys in a table: they fit.)
            unsafe {
                ffi::lua_rawgeti_(self.slots.state(), slot, len as c_int);
                self.element(key_slot, depth, len)?;
                self.drop_above(slot);
            }
        }
        self.out.push(b']');
        Ok(())
    }

    /// Appends element `index` of an array, at the top of the stack.
    ///
    /// # Safety
    /// As [`encode`].
    unsafe fn element(&mut self, slot: c_int, depth: usize, index: usize) -> Encoded {
        if index > 1 {
            self.out.push(b',');
        }
        // SAFETY: the caller's.
        unsafe { self.value(slot, depth + 1) }.map_err(|e| e.at_index(index))?;
        self.check()
    }

    /// Called after each element. Checks the text's length and, at intervals, the time, since Lua calls no hook
    /// meanwhile.
    fn check(&mut self) -> Encoded {
        self.elements = self.elements.wrapping_add(1);
        if self.out.len() > MAX_LENGTH {
            return Err(too_long());
        }
        if self.elements.is_multiple_of(ELEMENTS_PER_LOOK) && watchdog::expired() {
            return Err(EncodeError::new("table", watchdog::OVER_BUDGET));
        }
        Ok(())
    }

    /// Why the key in a slot fits neither an object nor an array.
    #[cold]
    fn wrong_key(&self, key_slot: c_int) -> Box<EncodeError> {
        let reason = match self.slots.kind(key_slot) {
            ffi::LUA_TSTRING | ffi::LUA_TNUMBER => "both string and number keys".into(),
            _ => format!("a {} as key", self.slots.type_name(key_slot)),
        };
        EncodeError::new("table", reason)
    }
}

#[cfg(test)]
mod tests;
