//! `mix.php_pack(fmt, ...)`: arguments to bytes.

use std::borrow::Cow;
use std::ffi::c_int;

use super::code::{Element, Kind, Order, Padding, Repeat};
use super::{PackError, cast, code, format_length, push_made};
use crate::script::push::{One, Push, Stack};
use crate::script::slots::Plain;
use crate::script::stack::{Args, Raise};

/// The most bytes that one call writes in all, those that `X` and `@` take back included.
const MAX_LENGTH: usize = 64 << 20;

/// A quiet NaN without a payload, of 8 and of 4 bytes. Lua's own has a sign that PHP's has not.
const NAN: u64 = 0x7FF8_0000_0000_0000;
const SHORT_NAN: u64 = 0x7FC0_0000;

/// A call that has been checked and can be carried out.
pub(super) struct Packed {
    /// How many arguments it has.
    arguments: c_int,
    /// The largest length that the output has at any time.
    room: usize,
}

/// Checks format and arguments.
pub(super) fn check(args: &Args) -> Result<Packed, PackError> {
    let arguments = args.count();
    let mut output = Output::default();
    Packer { args, next: 2, last: arguments, output: &mut output }.run()?;
    Ok(Packed { arguments, room: output.room })
}

impl Push for Packed {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        push_made(stack, self.room, |bytes| {
            // SAFETY: the function whose arguments have been checked still runs.
            let args = unsafe { Args::new(stack.state(), 0) };
            let mut output = Output { bytes, ..Output::default() };
            // Can't fail: it has been checked.
            _ = Packer { args: &args, next: 2, last: self.arguments, output: &mut output }.run();
            output.position
        })
    }
}

/// The bytes that are packed. Without a buffer it only counts.
#[derive(Default)]
struct Output<'a> {
    bytes: &'a mut [u8],
    position: usize,
    /// The furthest that the position has been.
    room: usize,
    /// Bytes written so far, including those that were taken back.
    written: usize,
}

impl Output<'_> {
    /// Moves forward by `count` bytes, and lends them if there is a buffer.
    fn advance(&mut self, count: usize) -> Result<&mut [u8], String> {
        self.written = self.written.saturating_add(count);
        if self.written > MAX_LENGTH {
            return Err(format!("it would write more than {} MiB", MAX_LENGTH >> 20));
        }
        let start = self.position;
        self.position += count;
        self.room = self.room.max(self.position);
        Ok(self.bytes.get_mut(start..self.position).unwrap_or_default())
    }

    /// Goes to a position. New bytes up to there become NUL.
    fn jump(&mut self, position: usize) -> Result<(), String> {
        match position.checked_sub(self.position) {
            Some(count) => self.advance(count)?.fill(0),
            None => self.position = position,
        }
        Ok(())
    }
}

struct Packer<'a, 'b> {
    args: &'a Args,
    /// The argument that the next code takes.
    next: c_int,
    last: c_int,
    output: &'a mut Output<'b>,
}

impl<'a> Packer<'a, '_> {
    fn run(&mut self) -> Result<(), PackError> {
        let format = self.args.bytes(1)?;
        format_length(&format)?;
        let mut rest = &*format;
        while let Some((element, behind)) = code::first(rest)? {
            rest = behind;
            self.element(&element)?;
        }
        match self.left() {
            0 => Ok(()),
            1 => Err(PackError::Fails("no code takes the last argument".into())),
            left => Err(PackError::Fails(format!("no code takes the last {left} arguments"))),
        }
    }

    fn left(&self) -> usize {
        usize::try_from(self.last - self.next + 1).unwrap_or(0)
    }

    fn element(&mut self, element: &Element) -> Result<(), PackError> {
        match element.kind {
            Kind::Skip => self.output.advance(element.times()?)?.fill(0),
            Kind::Jump => self.output.jump(element.times()?)?,
            Kind::Back => {
                let back = self.output.position.checked_sub(element.times()?);
                self.output.position = back.ok_or_else(|| "code 'X' goes back beyond the beginning".to_owned())?;
            }
            Kind::Text(padding) => {
                let text = self.text(element)?;
                let length = match element.repeat {
                    Repeat::Times(length) => length,
                    Repeat::All => text.len() + usize::from(padding == Padding::Terminator),
                };
                put_text(&text, padding, self.output.advance(length)?);
            }
            Kind::Hex { low_first } => {
                let text = self.text(element)?;
                let length = match element.repeat {
                    Repeat::Times(length) => length,
                    Repeat::All => text.len(),
                };
                let Some(digits) = text.get(..length) else {
                    let (code, there) = (element.code, text.len());
                    return Err(format!("code '{code}' wants {length} digits, but the string has {there}").into());
                };
                check_digits(digits, element.code)?;
                put_hex(digits, low_first, self.output.advance(length.div_ceil(2))?);
            }
            Kind::Integer { width, order, .. } => {
                for _ in 0..self.numbers(element)? {
                    let bits = self.integer(element.code)?;
                    self.put(bits, width, order)?;
                }
            }
            Kind::Float { width, order } => {
                for _ in 0..self.numbers(element)? {
                    let bits = float_bits(self.float()?, width);
                    self.put(bits, width, order)?;
                }
            }
        }
        Ok(())
    }

    /// How many arguments a code for numbers takes.
    fn numbers(&self, element: &Element) -> Result<usize, String> {
        let left = self.left();
        match element.repeat {
            Repeat::All => Ok(left),
            Repeat::Times(times) if times <= left => Ok(times),
            Repeat::Times(1) => Err(format!("no argument is left for code '{}'", element.code)),
            Repeat::Times(times) => {
                Err(format!("code '{}' wants {times} arguments, but {left} are left", element.code))
            }
        }
    }

    fn text(&mut self, element: &Element) -> Result<Cow<'a, [u8]>, PackError> {
        if self.left() == 0 {
            return Err(PackError::Fails(format!("no argument is left for code '{}'", element.code)));
        }
        self.next += 1;
        Ok(self.args.bytes(self.next - 1)?)
    }

    /// The next argument, which must be a number or a string.
    fn number<T>(&mut self, of_number: fn(f64) -> T, of_text: impl Fn(&[u8]) -> T) -> Result<T, Raise> {
        let argument = self.next;
        self.next += 1;
        match self.args.slots().plain(self.args.slot(argument)) {
            Plain::Number(n) => Ok(of_number(n)),
            Plain::Text(text) => Ok(of_text(text)),
            _ => Err(self.args.wrong(argument, "number")),
        }
    }

    fn integer(&mut self, code: char) -> Result<u64, PackError> {
        let bits = self.number(|n| Ok(cast::integer_of_number(n)), cast::integer_of_text)?;
        bits.map_err(|problem: String| PackError::Fails(format!("code '{code}': {problem}")))
    }

    fn float(&mut self) -> Result<f64, Raise> {
        self.number(|n| n, cast::float_of_text)
    }

    fn put(&mut self, bits: u64, width: usize, order: Order) -> Result<(), String> {
        order.write(bits, self.output.advance(width)?);
        Ok(())
    }
}

/// The bits of a number in IEEE 754's form of `width` bytes.
fn float_bits(number: f64, width: usize) -> u64 {
    match (width, number.is_nan()) {
        (4, true) => SHORT_NAN,
        (4, false) => u64::from((number as f32).to_bits()),
        (_, true) => NAN,
        (_, false) => number.to_bits(),
    }
}

fn put_text(text: &[u8], padding: Padding, field: &mut [u8]) {
    field.fill(if padding == Padding::Space { b' ' } else { 0 });
    let room = field.len().saturating_sub(usize::from(padding == Padding::Terminator));
    field.iter_mut().take(room).zip(text).for_each(|(to, byte)| *to = *byte);
}

fn check_digits(digits: &[u8], code: char) -> Result<(), String> {
    match digits.iter().enumerate().find(|(_, digit)| !digit.is_ascii_hexdigit()) {
        Some((offset, byte)) => {
            let byte = byte.escape_ascii();
            Err(format!("code '{code}': byte '{byte}' at offset {offset} is no hexadecimal digit"))
        }
        None => Ok(()),
    }
}

fn put_hex(digits: &[u8], low_first: bool, field: &mut [u8]) {
    let value = |digit: Option<&u8>| match digit {
        Some(digit @ b'0'..=b'9') => digit - b'0',
        Some(digit @ b'a'..=b'f') => digit - b'a' + 10,
        Some(digit @ b'A'..=b'F') => digit - b'A' + 10,
        _ => 0,
    };
    for (to, pair) in field.iter_mut().zip(digits.chunks(2)) {
        let (first, second) = (value(pair.first()), value(pair.get(1)));
        *to = if low_first { second << 4 | first } else { first << 4 | second };
    }
}
