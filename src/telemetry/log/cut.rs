//! Limits lines of the log to [`MAX_LINE`], whatever they hold. The part that is cut off is not even formatted, and the
//! line says that it was cut.

use std::fmt::{self, Write};

use super::escape::is_harmful;

/// The longest line, in bytes.
pub const MAX_LINE: usize = 64 * 1024;
/// The mark at the end of a text that was cut.
pub const MARK: &str = " [cut]";
/// The part of a line for its texts; the rest is for time, level, module and names of fields.
pub(super) const TEXTS: usize = MAX_LINE - 4096;
/// What each string of a line of JSON may have, however long the line is already: names of fields must stay whole.
const SHORT: usize = 128;

/// Writes so many bytes through, and fails at the first that is beyond.
pub(super) struct Limited<'a, W> {
    pub out: &'a mut W,
    pub left: &'a mut usize,
}

impl<W: Write> Write for Limited<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = text.floor_char_boundary(*self.left);
        self.out.write_str(&text[..fits])?;
        *self.left -= fits;
        if fits == text.len() {
            return Ok(());
        }
        // Nothing more, even if it is shorter than what did not fit.
        *self.left = 0;
        Err(fmt::Error)
    }
}

/// A JSON text on its way into a string, with its long strings cut where the line is full, so that it stays JSON.
#[derive(Default)]
pub(super) struct CutStrings {
    pub out: String,
    /// What it will have when harmful characters are escaped.
    length: usize,
    in_string: bool,
    /// An escape that has begun.
    escape: String,
    /// Bytes of the string so far.
    string: usize,
    cut: bool,
}

impl CutStrings {
    fn keep(&mut self, unit: &str, length: usize) {
        self.cut |= self.string + length > SHORT && self.length + length > TEXTS;
        if !self.cut {
            self.out.push_str(unit);
            self.length += length;
            self.string += length;
        }
    }

    fn structure(&mut self, c: char) {
        self.out.push(c);
        self.length += c.len_utf8();
        if c == '"' {
            self.in_string = !self.in_string;
            (self.string, self.cut) = (0, false);
        }
    }
}

impl Write for CutStrings {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if !self.in_string {
                self.structure(c);
            } else if !self.escape.is_empty() {
                self.escape.push(c);
                let whole = if self.escape.as_bytes().get(1) == Some(&b'u') { 6 } else { 2 };
                if self.escape.len() >= whole {
                    let escape = std::mem::take(&mut self.escape);
                    self.keep(&escape, escape.len());
                }
            } else if c == '\\' {
                self.escape.push(c);
            } else if c == '"' {
                if self.cut {
                    self.out.push_str(MARK);
                }
                self.structure(c);
            } else if !self.cut {
                self.keep(c.encode_utf8(&mut [0; 4]), if is_harmful(c) { 6 } else { c.len_utf8() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(json: &str) -> String {
        let mut cut = CutStrings::default();
        // In pieces, as it comes.
        json.chars().for_each(|c| cut.write_char(c).unwrap());
        cut.out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// A line of JSON stays JSON, with all of its names, whatever is cut.
        #[test]
        fn json_that_was_cut_is_json(
            texts in proptest::collection::vec((0usize..100_000, "[a\"\\\\\n\u{1}é弹\u{202e}]{1,9}"), 1..5)
        ) {
            let texts: Vec<String> = texts.into_iter().map(|(n, text)| text.repeat(n / text.len() + 1)).collect();
            let fields: serde_json::Map<_, _> =
                texts.iter().enumerate().map(|(i, text)| (format!("field{i}"), text.as_str().into())).collect();
            let line = cut(&serde_json::to_string(&fields).unwrap());
            let mut escaped = String::new();
            super::super::escape::write_json(&mut escaped, &line).unwrap();
            prop_assert!(escaped.len() < MAX_LINE, "{}", escaped.len());
            let back: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&line).unwrap();
            for (i, text) in texts.iter().enumerate() {
                let got = back[&format!("field{i}")].as_str().unwrap();
                match got.strip_suffix(MARK) {
                    Some(begin) => prop_assert!(text.starts_with(begin) && begin.len() < text.len()),
                    None => prop_assert_eq!(got, text),
                }
            }
        }
    }
}
