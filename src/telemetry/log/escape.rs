//! Text that is safe on one line: what clients, scripts, peers and files say must neither begin a line of the log nor
//! steer the terminal that shows it (CWE-117). Backslashes stay single, so that ordinary text reads as it was.

use std::fmt::{self, Write};

/// Whether a character ends lines, steers terminals or reorders text: the C0 and C1 controls but the tab, DEL, the line
/// and paragraph separators, and the marks that change the direction of text (Unicode's UAX 9).
pub fn is_harmful(c: char) -> bool {
    match c {
        '\t' | ' '..='~' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => true,
        c => c.is_control(),
    }
}

/// Bytes that are escaped at a time.
const PIECE: usize = 4096;

/// Writes text through to `0`, harmful characters as `\n`, `\r` and `\u{1b}`.
pub struct Escaping<W>(pub W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, mut text: &str) -> fmt::Result {
        // In pieces: once the writer takes no more, the rest of a long text is not examined.
        while !text.is_empty() {
            let (piece, rest) = text.split_at(text.floor_char_boundary(PIECE));
            write_escaped(&mut self.0, piece, |out, c| match c {
                '\n' => out.write_str("\\n"),
                '\r' => out.write_str("\\r"),
                c => write!(out, "\\u{{{:x}}}", u32::from(c)),
            })?;
            text = rest;
        }
        Ok(())
    }
}

/// Writes a line of JSON with its harmful characters as `\u001b`, which every reader turns back: they can stand nowhere
/// but within strings.
pub fn write_json(out: &mut impl Write, line: &str) -> fmt::Result {
    // All of them are in the Basic Multilingual Plane, so that one escape is enough.
    write_escaped(out, line, |out, c| write!(out, "\\u{:04x}", u32::from(c)))
}

/// Writes the stretches between harmful characters as they are, and those with `escape`.
fn write_escaped<W: Write>(out: &mut W, text: &str, escape: impl Fn(&mut W, char) -> fmt::Result) -> fmt::Result {
    let mut rest = text;
    while let Some((at, c)) = rest.char_indices().find(|&(_, c)| is_harmful(c)) {
        out.write_str(&rest[..at])?;
        escape(out, c)?;
        rest = &rest[at + c.len_utf8()..];
    }
    out.write_str(rest)
}

/// The same text for a terminal. Line ends stay, since it may have several lines.
pub fn for_terminal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        // A string takes everything.
        let _ = Escaping(&mut out).write_str(line);
    }
    out
}

/// A JSON text for a terminal, as [`write_json`] makes it.
pub fn json_for_terminal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // A string takes everything.
    let _ = write_json(&mut out, text);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(text: &str) -> String {
        let mut out = String::new();
        Escaping(&mut out).write_str(text).unwrap();
        out
    }

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(escaped("a\nb\r\u{1b}[31mc\td 弹幕 é \\n"), "a\\nb\\r\\u{1b}[31mc\td 弹幕 é \\n");
        assert_eq!(escaped("\0\x08\x7f\u{85}\u{9b}31m"), "\\u{0}\\u{8}\\u{7f}\\u{85}\\u{9b}31m");
        assert_eq!(
            escaped("\u{2028}\u{2029}\u{202e}x\u{202c}\u{2066}\u{2069}\u{200f}\u{61c}"),
            "\\u{2028}\\u{2029}\\u{202e}x\\u{202c}\\u{2066}\\u{2069}\\u{200f}\\u{61c}"
        );
        assert_eq!(for_terminal("a\r\nb\u{1b}[2J\n"), "a\\r\nb\\u{1b}[2J\n");
    }

    proptest! {
        /// Nothing harmful is left, in text or JSON, and JSON means what it meant.
        #[test]
        fn nothing_harmful_gets_through(text in "\\PC{0,20}|[\\x00-\\x20\\x7f-\\x{a0}\\x{2020}-\\x{2070}]{0,20}") {
            prop_assert!(!escaped(&text).chars().any(is_harmful));
            let (line, mut out) = (serde_json::to_string(&text).unwrap(), String::new());
            write_json(&mut out, &line).unwrap();
            prop_assert!(!out.chars().any(is_harmful));
            prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }
    }
}
