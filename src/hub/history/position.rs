//! Positions in the order of a channel's messages.

use serde::{Serialize, Serializer};
use std::fmt;

/// Where a message stands among those of its channel, or where a reader of the channel has come to.
///
/// Offsets count up. The term says who gave the offset: a term is never given twice, and a later one is larger. Where a
/// log begins anew, without what was before, it has another term; so a position of the one before is known to be old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The term.
    pub term: u64,
    /// The offset, from 1 on; 0: before the first message.
    pub offset: u64,
}

/// Clients and back ends see this base, so that positions are short.
const BASE: u64 = 36;
/// The digits of the largest number.
const MOST_DIGITS: usize = 13;

impl Position {
    /// That of a reader whose position says nothing to anybody.
    pub const UNKNOWN: Position = Position { term: 0, offset: 0 };

    /// Reads the text of one. None: it is none.
    pub fn parse(text: &[u8]) -> Option<Position> {
        let at = text.iter().position(|byte| *byte == b'-')?;
        Some(Position { term: number(&text[..at])?, offset: number(&text[at + 1..])? })
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > MOST_DIGITS {
        return None;
    }
    digits.iter().try_fold(0u64, |number, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'z' => byte - b'a' + 10,
            _ => return None,
        };
        number.checked_mul(BASE)?.checked_add(digit.into())
    })
}

/// Writes a number's digits so that they end before `end`; returns where they begin.
fn write(mut number: u64, text: &mut [u8], end: usize) -> usize {
    let mut at = end;
    loop {
        at -= 1;
        text[at] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % BASE) as usize];
        number /= BASE;
        if number == 0 {
            return at;
        }
    }
}

impl Position {
    /// Hands over the text that clients and back ends get.
    fn with_text<T>(&self, take: impl FnOnce(&str) -> T) -> T {
        let mut text = [b'-'; 2 * MOST_DIGITS + 1];
        let dash = write(self.offset, &mut text, 2 * MOST_DIGITS + 1) - 1;
        let at = write(self.term, &mut text, dash);
        // It is ASCII.
        take(std::str::from_utf8(&text[at..]).unwrap_or_default())
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.with_text(|text| serializer.serialize_str(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_as_they_are_written() {
        for (term, offset) in [(0, 0), (1, 35), (36, 36), (u64::MAX, u64::MAX), (1 << 50, 7)] {
            let position = Position { term, offset };
            assert_eq!(Position::parse(position.to_string().as_bytes()), Some(position));
        }
        assert_eq!(Position { term: 36, offset: 10 }.to_string(), "10-a");
        for wrong in ["", "-", "1", "1-", "-1", "1-2-3", "A-1", "1--1", "3w5e11264sgsg-1", "00000000000001-1"] {
            assert_eq!(Position::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
