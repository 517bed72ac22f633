//! What matches one character in a Lua pattern: a character, a class, a set.

/// The part of a pattern that matches one character, ahead of its quantifier.
#[derive(Clone, Copy)]
pub(super) enum Item<'p> {
    Any,
    Byte(u8),
    /// The bits of [`KINDS`] that are tested, and whether one of them must be set or none.
    Class(u16, bool),
    /// What stands between the brackets.
    Set(&'p [u8]),
}

const ALPHA: u16 = 1;
const CNTRL: u16 = 1 << 1;
const DIGIT: u16 = 1 << 2;
const GRAPH: u16 = 1 << 3;
const LOWER: u16 = 1 << 4;
const PUNCT: u16 = 1 << 5;
const SPACE: u16 = 1 << 6;
const UPPER: u16 = 1 << 7;
const HEXA: u16 = 1 << 8;
const ZERO: u16 = 1 << 9;

/// The classes that each byte belongs to.
static KINDS: [u16; 256] = {
    let mut kinds = [0; 256];
    let mut i = 0;
    while i < 256 {
        let c = i as u8;
        let mut kind = 0;
        if c.is_ascii_alphabetic() {
            kind |= ALPHA;
        }
        if c.is_ascii_control() {
            kind |= CNTRL;
        }
        if c.is_ascii_digit() {
            kind |= DIGIT;
        }
        if c.is_ascii_graphic() {
            kind |= GRAPH;
        }
        if c.is_ascii_lowercase() {
            kind |= LOWER;
        }
        if c.is_ascii_punctuation() {
            kind |= PUNCT;
        }
        // Vertical tab included, which Rust's notion of white space leaves out.
        if matches!(c, b' ' | 9..=13) {
            kind |= SPACE;
        }
        if c.is_ascii_uppercase() {
            kind |= UPPER;
        }
        if c.is_ascii_hexdigit() {
            kind |= HEXA;
        }
        if c == 0 {
            kind |= ZERO;
        }
        kinds[i] = kind;
        i += 1;
    }
    kinds
};

/// What `%` and a character mean: a class, or the character itself.
#[inline]
pub(super) fn escaped(c: u8) -> Item<'static> {
    // Only letters become letters by this; their case tells the class from its complement.
    let bits = match c | 0x20 {
        b'a' => ALPHA,
        b'c' => CNTRL,
        b'd' => DIGIT,
        b'g' => GRAPH,
        b'l' => LOWER,
        b'p' => PUNCT,
        b's' => SPACE,
        b'u' => UPPER,
        b'w' => ALPHA | DIGIT,
        b'x' => HEXA,
        b'z' => ZERO,
        _ => return Item::Byte(c),
    };
    Item::Class(bits, c & 0x20 != 0)
}

#[inline(always)]
fn in_class(bits: u16, wanted: bool, c: u8) -> bool {
    (KINDS[c as usize] & bits != 0) == wanted
}

/// What stands between the brackets of the set whose `[` ends at `start`, and where the pattern goes on behind it. None
/// if it has no end.
#[inline]
pub(super) fn set_at(pattern: &[u8], start: usize) -> Option<(&[u8], usize)> {
    let mut p = if pattern.get(start) == Some(&b'^') { start + 1 } else { start };
    // The first character is part of the set even if it is a `]`.
    loop {
        p += if *pattern.get(p)? == b'%' { 2 } else { 1 };
        if pattern.get(p) == Some(&b']') {
            return Some((pattern.get(start..p)?, p + 1));
        }
    }
}

/// Whether a set, given by what stands between its brackets, has `c`.
pub(super) fn in_set(set: &[u8], c: u8) -> bool {
    let (mut rest, found) = match set {
        [b'^', rest @ ..] => (rest, false),
        _ => (set, true),
    };
    loop {
        rest = match rest {
            [] => return !found,
            // The end of a range that was itself escaped, as in `[a-%%]`: its second `%` escapes the closing bracket,
            // though that closes the set all the same. The original behaves so, too.
            [b'%'] => return (c == b']') == found,
            [b'%', e, rest @ ..] => {
                if escaped(*e).matches(c) {
                    return found;
                }
                rest
            }
            [low, b'-', high, rest @ ..] => {
                if (*low..=*high).contains(&c) {
                    return found;
                }
                rest
            }
            [b, rest @ ..] => {
                if *b == c {
                    return found;
                }
                rest
            }
        }
    }
}

impl Item<'_> {
    #[inline(always)]
    pub(super) fn matches(self, c: u8) -> bool {
        match self {
            Item::Any => true,
            Item::Byte(b) => b == c,
            Item::Class(bits, wanted) => in_class(bits, wanted, c),
            Item::Set(set) => in_set(set, c),
        }
    }

    /// How many of the first bytes match, or how many don't.
    #[inline(always)]
    pub(super) fn run_length(self, bytes: &[u8], among: bool) -> usize {
        let end = match self {
            Item::Any if among => None,
            Item::Any => Some(0),
            Item::Byte(b) if among => bytes.iter().position(|&c| c != b),
            Item::Byte(b) => memchr::memchr(b, bytes),
            Item::Class(bits, wanted) => bytes.iter().position(|&c| in_class(bits, wanted, c) != among),
            // All up to a delimiter, as in `[^,]*`: the most common set.
            Item::Set(&[b'^', b]) if among => memchr::memchr(b, bytes),
            Item::Set(set) => bytes.iter().position(|&c| in_set(set, c) != among),
        };
        end.unwrap_or(bytes.len())
    }

    /// How many characters to compare between two checks of the budget, and how many steps each of them costs: sets are
    /// searched one by one.
    #[inline(always)]
    pub(super) fn piece_and_cost(self) -> (usize, usize) {
        match self {
            Item::Set(set) if set.len() > 64 => (1, set.len()),
            Item::Set(set) => (64, set.len() + 1),
            _ => (4096, 1),
        }
    }
}

/// Whether a pattern has characters that mean more than themselves to a search. (A `)` without `(` does not count, in
/// the original either.)
pub fn has_specials(pattern: &[u8]) -> bool {
    pattern.iter().any(|c| matches!(c, b'^' | b'$' | b'*' | b'+' | b'?' | b'.' | b'(' | b'[' | b'%' | b'-'))
}

/// Splits a leading `^` off a pattern, and tells whether there was one. [`Matcher`] takes the rest.
pub fn split_anchor(pattern: &[u8]) -> (bool, &[u8]) {
    match pattern {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    }
}
