//! `mix.php_unpack(fmt, s)`: bytes to a table.

use std::ffi::c_int;

use mlua::ffi;

use super::code::{Kind, Padding, Repeat};
use super::{Trouble, code, format_length, push_made};
use crate::script::guard;
use crate::script::mix::query;
use crate::script::push::Push;
use crate::script::stack::{Args, Raise, State, push_bytes, throw};

/// As much of a name as counts, in bytes: PHP's rule too.
const MAX_NAME: usize = 200;

/// About how many bytes are unpacked between two looks at the handler's time.
const BYTES_PER_LOOK: usize = 64 * 1024;

/// What one value counts for among these bytes, besides its own.
const VALUE_WEIGHT: usize = 16;

/// The integers that a Lua number holds exactly.
const EXACT: u64 = 1 << 53;

/// A call that has been checked, to be made.
pub(super) struct Unpacked;

/// Checks the format against the data.
pub(super) fn check(args: &Args) -> Result<Unpacked, Trouble> {
    let (format, data) = (args.bytes(1)?, args.bytes(2)?);
    format_length(&format)?;
    let mut runs = Runs { rest: &format, position: 0, end: data.len() };
    while runs.next()?.is_some() {}
    Ok(Unpacked)
}

impl Push for Unpacked {
    const COUNT: c_int = 1;
    unsafe fn push_to(self, state: State) -> c_int {
        unsafe {
            // In their slots, so that nothing of ours is lost when Lua has no memory left.
            let (format, data) = (string_at(state, 1), string_at(state, 2));
            ffi::lua_createtable(state, 0, 0);
            let mut runs = Runs { rest: format, position: 0, end: data.len() };
            let mut since_look = 0;
            // It has been checked that this does not fail.
            while let Ok(Some(run)) = runs.next() {
                for index in 0..run.count {
                    let start = run.start + index * run.length;
                    let bytes = data.get(start..start + run.length).unwrap_or_default();
                    push_key(state, &run, index + 1);
                    push_value(state, &run, bytes);
                    ffi::lua_rawset(state, -3);
                    since_look += VALUE_WEIGHT + run.length;
                    if since_look > BYTES_PER_LOOK {
                        since_look = 0;
                        if guard::expired() {
                            throw(state, Raise::Message(guard::OVER_BUDGET.into()));
                        }
                    }
                }
            }
        }
        1
    }
}

/// The bytes of the string in a slot, which must outlive the result; a number there becomes its text.
unsafe fn string_at<'a>(state: State, slot: c_int) -> &'a [u8] {
    unsafe {
        let mut length = 0;
        let start = ffi::lua_tolstring(state, slot, &mut length);
        if start.is_null() { &[] } else { std::slice::from_raw_parts(start.cast(), length) }
    }
}

/// What one element of a format unpacks: values of one kind, one behind the other.
struct Run<'a> {
    kind: Kind,
    name: &'a [u8],
    /// Whether the values are counted in their keys, from 1.
    numbered: bool,
    /// Where the first one begins.
    start: usize,
    /// Bytes of each.
    length: usize,
    count: usize,
    /// How many digits are wanted of hexadecimal ones.
    digits: usize,
}

/// The runs of a format on data that end at `end`.
struct Runs<'a> {
    rest: &'a [u8],
    position: usize,
    end: usize,
}

impl<'a> Runs<'a> {
    fn next(&mut self) -> Result<Option<Run<'a>>, String> {
        while let Some((element, behind)) = code::first(self.rest)? {
            let slash = memchr::memchr(b'/', behind).unwrap_or(behind.len());
            let name = behind.get(..slash.min(MAX_NAME)).unwrap_or(behind);
            self.rest = behind.get(slash + 1..).unwrap_or_default();
            let left = self.end - self.position;
            let numbered = name.is_empty();
            let mut run =
                Run { kind: element.kind, name, numbered, start: self.position, length: 0, count: 1, digits: 0 };
            let short = |wanted: usize, offset: usize, left: usize| {
                format!("code '{}' wants {wanted} bytes at offset {offset}, but {left} are left", element.code)
            };
            match element.kind {
                Kind::Skip => {
                    let skipped = if element.repeat == Repeat::All { left } else { element.times()? };
                    if skipped > left {
                        return Err(short(skipped, self.position, left));
                    }
                    self.position += skipped;
                    continue;
                }
                Kind::Back => {
                    // PHP goes no further than the beginning either, and has no warning for it here.
                    self.position = self.position.saturating_sub(element.times()?);
                    continue;
                }
                Kind::Jump => {
                    self.position = element.times()?;
                    if self.position > self.end {
                        return Err(format!("code '@' goes to {}, beyond the {} bytes", self.position, self.end));
                    }
                    continue;
                }
                Kind::Text(_) => {
                    run.length = if let Repeat::Times(length) = element.repeat { length } else { left };
                }
                Kind::Hex { .. } => {
                    run.digits = if let Repeat::Times(digits) = element.repeat { digits } else { left * 2 };
                    run.length = run.digits.div_ceil(2);
                }
                Kind::Integer { width, .. } | Kind::Float { width, .. } => {
                    run.length = width;
                    run.numbered |= element.repeat != Repeat::Times(1);
                    let there = left / width;
                    run.count = if let Repeat::Times(times) = element.repeat { times } else { there };
                    if run.count > there {
                        return Err(short(width, self.position + there * width, left % width));
                    }
                }
            }
            // Counts of numbers have been looked at.
            let length = run.length * run.count;
            if length > left {
                return Err(short(length, self.position, left));
            }
            self.position += length;
            return Ok(Some(run));
        }
        Ok(None)
    }
}

/// Pushes the key of a run's value: the name, and its number where they are numbered. What looks like an integer is one.
unsafe fn push_key(state: State, run: &Run, number: usize) {
    let mut key = [0; MAX_NAME + 20];
    let mut digits = itoa::Buffer::new();
    let suffix = if run.numbered { digits.format(number).as_bytes() } else { &[] };
    let length = run.name.len() + suffix.len();
    key.iter_mut().zip(run.name.iter().chain(suffix)).for_each(|(to, byte)| *to = *byte);
    let key = key.get(..length).unwrap_or_default();
    match query::integer_key(key).filter(|i| i.unsigned_abs() <= EXACT) {
        Some(integer) => unsafe { ffi::lua_pushnumber(state, integer as f64) },
        None => unsafe { push_bytes(state, key) },
    }
}

unsafe fn push_value(state: State, run: &Run, bytes: &[u8]) {
    unsafe {
        match run.kind {
            Kind::Text(padding) => push_bytes(state, without_padding(bytes, padding)),
            Kind::Hex { low_first } => push_made(state, run.digits, |digits| {
                put_digits(bytes, low_first, digits);
                run.digits
            }),
            Kind::Integer { width, signed, order } => {
                let unused = 64 - 8 * width as u32;
                let bits = order.read(bytes);
                push_integer(state, if signed { ((bits << unused) as i64) >> unused } else { bits as i64 });
            }
            Kind::Float { width: 4, order } => {
                ffi::lua_pushnumber(state, f32::from_bits(order.read(bytes) as u32).into());
            }
            Kind::Float { order, .. } => ffi::lua_pushnumber(state, f64::from_bits(order.read(bytes))),
            // These have no values.
            Kind::Skip | Kind::Back | Kind::Jump => ffi::lua_pushnil(state),
        }
    }
}

/// A number, or the decimal text of one that a Lua number does not hold.
unsafe fn push_integer(state: State, integer: i64) {
    if integer.unsigned_abs() <= EXACT {
        unsafe { ffi::lua_pushnumber(state, integer as f64) };
    } else {
        unsafe { push_bytes(state, itoa::Buffer::new().format(integer).as_bytes()) };
    }
}

fn without_padding(bytes: &[u8], padding: Padding) -> &[u8] {
    let end = match padding {
        Padding::Nul => None,
        Padding::Space => Some(bytes.iter().rposition(|b| !b"\0\t\n\r ".contains(b)).map_or(0, |last| last + 1)),
        Padding::Terminator => memchr::memchr(0, bytes),
    };
    end.and_then(|end| bytes.get(..end)).unwrap_or(bytes)
}

/// Writes the first so many hexadecimal digits of some bytes.
fn put_digits(bytes: &[u8], low_first: bool, digits: &mut [u8]) {
    for (pair, byte) in digits.chunks_mut(2).zip(bytes) {
        let halves = if low_first { [byte & 15, byte >> 4] } else { [byte >> 4, byte & 15] };
        for (to, half) in pair.iter_mut().zip(halves) {
            *to = if half < 10 { b'0' + half } else { b'a' + half - 10 };
        }
    }
}
