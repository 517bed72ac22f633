//! `mix.php_unpack(fmt, s)`: bytes to a table.

use super::code::{Kind, Padding, Repeat};
use super::{PackError, code, format_length, push_made};
use crate::script::mix::query;
use crate::script::push::{One, Push, Stack};
use crate::script::stack::{Args, Raise, throw};
use crate::script::watchdog;

/// Names are cut to this length, in bytes, as in PHP.
const MAX_NAME: usize = 200;

/// About how many bytes are unpacked between two checks of the handler's time.
const BYTES_PER_LOOK: usize = 64 * 1024;

/// What each value adds to that count, besides its bytes.
const VALUE_WEIGHT: usize = 16;

/// The integers that a Lua number holds exactly.
const EXACT: u64 = 1 << 53;

/// A call that has been checked and can be carried out.
pub(super) struct Unpacked;

/// Checks the format against the data.
pub(super) fn check(args: &Args) -> Result<Unpacked, PackError> {
    let (format, data) = (args.bytes(1)?, args.bytes(2)?);
    format_length(&format)?;
    let mut runs = Runs { rest: &format, position: 0, end: data.len() };
    while runs.next()?.is_some() {}
    Ok(Unpacked)
}

impl Push for Unpacked {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        // Read from their slots once more, so that nothing has to be copied.
        let (format, data) = (stack.bytes(1).unwrap_or_default(), stack.bytes(2).unwrap_or_default());
        stack.push_table(0, 0, |table| {
            let mut runs = Runs { rest: &format, position: 0, end: data.len() };
            let mut since_look = 0;
            // Can't fail: it has been checked.
            while let Ok(Some(run)) = runs.next() {
                for index in 0..run.count {
                    let start = run.start + index * run.length;
                    let bytes = data.get(start..start + run.length).unwrap_or_default();
                    table.set(Key(&run, index + 1), Element(&run, bytes));
                    since_look += VALUE_WEIGHT + run.length;
                    if since_look > BYTES_PER_LOOK {
                        since_look = 0;
                        if watchdog::expired() {
                            // SAFETY: a native function pushes its results, with its name as upvalue.
                            unsafe { throw(stack.state(), Raise::Message(watchdog::OVER_BUDGET.into())) }
                        }
                    }
                }
            }
        })
    }
}

/// What one element of a format unpacks: values of one kind, one after the other.
struct Run<'a> {
    kind: Kind,
    name: &'a [u8],
    /// Whether the keys end in the values' numbers, from 1.
    numbered: bool,
    /// Where the first one begins.
    start: usize,
    /// Bytes of each.
    length: usize,
    count: usize,
    /// For hexadecimal values: how many digits are wanted.
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
                    // PHP stops at the beginning too, without a warning.
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
            // The counts of numbers have been checked.
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

/// The key of a run's value: the name, with the value's number if the run is numbered. A key that looks like an integer
/// is one.
struct Key<'a>(&'a Run<'a>, usize);

impl Push for Key<'_> {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        let Key(run, number) = self;
        let mut key = [0; MAX_NAME + 20];
        let mut digits = itoa::Buffer::new();
        let suffix = if run.numbered { digits.format(number).as_bytes() } else { &[] };
        let length = run.name.len() + suffix.len();
        key.iter_mut().zip(run.name.iter().chain(suffix)).for_each(|(to, byte)| *to = *byte);
        let key = key.get(..length).unwrap_or_default();
        match query::integer_key(key).filter(|i| i.unsigned_abs() <= EXACT) {
            Some(integer) => (integer as f64).push_to(stack),
            None => stack.push_bytes(key),
        }
    }
}

/// The value of a run that these bytes are.
struct Element<'a>(&'a Run<'a>, &'a [u8]);

impl Push for Element<'_> {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        let Element(run, bytes) = self;
        match run.kind {
            Kind::Text(padding) => stack.push_bytes(without_padding(bytes, padding)),
            Kind::Hex { low_first } => push_made(stack, run.digits, |digits| {
                put_digits(bytes, low_first, digits);
                run.digits
            }),
            Kind::Integer { width, signed, order } => {
                let unused = 64 - 8 * width as u32;
                let bits = order.read(bytes);
                push_integer(stack, if signed { ((bits << unused) as i64) >> unused } else { bits as i64 })
            }
            Kind::Float { width: 4, order } => f64::from(f32::from_bits(order.read(bytes) as u32)).push_to(stack),
            Kind::Float { order, .. } => f64::from_bits(order.read(bytes)).push_to(stack),
            // These have no values.
            Kind::Skip | Kind::Back | Kind::Jump => stack.push_nil(),
        }
    }
}

/// A number, or the decimal text of one that a Lua number does not hold.
fn push_integer(stack: Stack<'_>, integer: i64) -> One {
    if integer.unsigned_abs() <= EXACT {
        (integer as f64).push_to(stack)
    } else {
        itoa::Buffer::new().format(integer).push_to(stack)
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
