//! The codes of a format, and their repeaters.

/// The greatest repeater: PHP's have 32 bits.
const MAX_REPEATER: usize = i32::MAX as usize;

/// Which end of a number comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Little,
    Big,
}

impl Order {
    /// This machine's.
    const MACHINE: Order = if cfg!(target_endian = "big") { Order::Big } else { Order::Little };

    /// The number that these bytes, 8 at the most, stand for.
    pub(super) fn read(self, bytes: &[u8]) -> u64 {
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        match self {
            Order::Little => bytes.iter().rev().fold(0, add),
            Order::Big => bytes.iter().fold(0, add),
        }
    }

    /// Fills `bytes`, 8 at the most, with the lowest bits of a number.
    pub(super) fn write(self, number: u64, bytes: &mut [u8]) {
        let lowest_first = number.to_le_bytes().into_iter();
        match self {
            Order::Little => bytes.iter_mut().zip(lowest_first).for_each(|(to, byte)| *to = byte),
            Order::Big => bytes.iter_mut().rev().zip(lowest_first).for_each(|(to, byte)| *to = byte),
        }
    }
}

/// What fills a text that is shorter than its field, and what unpacking takes off again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Padding {
    /// `a`: NUL bytes, which stay.
    Nul,
    /// `A`: spaces; white space and NUL bytes are taken off.
    Space,
    /// `Z`: at least one NUL byte, which ends the text.
    Terminator,
}

/// What a code stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A text.
    Text(Padding),
    /// Hexadecimal digits, two to a byte.
    Hex {
        /// Whether the first digit is the lower half of its byte.
        low_first: bool,
    },
    /// An integer of `width` bytes.
    Integer {
        /// 1, 2, 4 or 8
        width: usize,
        /// Whether the highest bit is a sign. It always is in 64 bits, as PHP has no greater integer.
        signed: bool,
        /// Its bytes' order.
        order: Order,
    },
    /// An IEEE 754 number of `width` bytes.
    Float {
        /// 4 or 8
        width: usize,
        /// Its bytes' order.
        order: Order,
    },
    /// `x`: NUL bytes, or bytes to pass over.
    Skip,
    /// `X`: bytes to go back.
    Back,
    /// `@`: the position to go to.
    Jump,
}

fn kind(code: u8) -> Option<Kind> {
    let integer = |width, signed, order| Kind::Integer { width, signed, order };
    let float = |width, order| Kind::Float { width, order };
    Some(match code {
        b'a' => Kind::Text(Padding::Nul),
        b'A' => Kind::Text(Padding::Space),
        b'Z' => Kind::Text(Padding::Terminator),
        b'h' => Kind::Hex { low_first: true },
        b'H' => Kind::Hex { low_first: false },
        b'c' => integer(1, true, Order::MACHINE),
        b'C' => integer(1, false, Order::MACHINE),
        b's' => integer(2, true, Order::MACHINE),
        b'S' => integer(2, false, Order::MACHINE),
        b'n' => integer(2, false, Order::Big),
        b'v' => integer(2, false, Order::Little),
        b'i' | b'l' => integer(4, true, Order::MACHINE),
        b'I' | b'L' => integer(4, false, Order::MACHINE),
        b'N' => integer(4, false, Order::Big),
        b'V' => integer(4, false, Order::Little),
        b'q' | b'Q' => integer(8, true, Order::MACHINE),
        b'J' => integer(8, true, Order::Big),
        b'P' => integer(8, true, Order::Little),
        b'f' => float(4, Order::MACHINE),
        b'g' => float(4, Order::Little),
        b'G' => float(4, Order::Big),
        b'd' => float(8, Order::MACHINE),
        b'e' => float(8, Order::Little),
        b'E' => float(8, Order::Big),
        b'x' => Kind::Skip,
        b'X' => Kind::Back,
        b'@' => Kind::Jump,
        _ => return None,
    })
}

/// How often a code applies, or how long its field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// 1 where no repeater is written.
    Times(usize),
    /// `*`: as often or as long as the data allows.
    All,
}

/// A code with its repeater.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element {
    /// The letter as it is written.
    pub code: char,
    pub kind: Kind,
    pub repeat: Repeat,
}

impl Element {
    /// The repeater of a code for which `*` means nothing.
    pub(super) fn times(&self) -> Result<usize, String> {
        match self.repeat {
            Repeat::Times(times) => Ok(times),
            Repeat::All => Err(format!("code '{}' takes no '*'", self.code)),
        }
    }
}

/// The first element of a format, and the rest behind it; None at the format's end.
pub(super) fn first(format: &[u8]) -> Result<Option<(Element, &[u8])>, String> {
    let Some((code, rest)) = format.split_first() else { return Ok(None) };
    let Some(kind) = kind(*code) else {
        return Err(format!("unknown code '{}'", code.escape_ascii()));
    };
    let code = char::from(*code);
    if let Some((b'*', rest)) = rest.split_first() {
        return Ok(Some((Element { code, kind, repeat: Repeat::All }, rest)));
    }
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let (digits, rest) = rest.split_at_checked(digits).unwrap_or((rest, &[]));
    let mut times = usize::from(digits.is_empty());
    for digit in digits {
        times = times * 10 + usize::from(digit - b'0');
        if times > MAX_REPEATER {
            return Err(format!("the repeater of code '{code}' is larger than {MAX_REPEATER}"));
        }
    }
    Ok(Some((Element { code, kind, repeat: Repeat::Times(times) }, rest)))
}
