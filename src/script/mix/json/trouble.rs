//! Where a value can't be encoded, or a text can't be decoded.

use std::ffi::c_int;
use std::fmt::Write;

/// What can't be encoded, why and where.
pub(super) struct EncodeError {
    /// The type of the value.
    what: &'static str,
    reason: String,
    /// The path to it, innermost step first: `.key` or `[index]`.
    path: Vec<String>,
}

impl EncodeError {
    #[cold]
    pub(super) fn new(what: &'static str, reason: impl Into<String>) -> Box<EncodeError> {
        Box::new(EncodeError { what, reason: reason.into(), path: Vec::new() })
    }

    #[cold]
    pub(super) fn at_key(mut self: Box<Self>, key: &[u8]) -> Box<EncodeError> {
        /// The most bytes of a key that are shown.
        const SHOWN: usize = 40;
        let shown = String::from_utf8_lossy(key.get(..SHOWN).unwrap_or(key));
        let ellipsis = if key.len() > SHOWN { "..." } else { "" };
        let name = shown.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        self.path.push(if name && !shown.is_empty() {
            format!(".{shown}{ellipsis}")
        } else {
            format!("[{:?}]", format!("{shown}{ellipsis}"))
        });
        self
    }

    #[cold]
    pub(super) fn at_index(mut self: Box<Self>, index: usize) -> Box<EncodeError> {
        self.path.push(format!("[{index}]"));
        self
    }

    /// `can't encode table at .data.list: sparse array (3 values, highest index 5)`
    pub(super) fn message(&self) -> String {
        /// The path around a cycle is long and says little.
        const STEPS: usize = 8;
        let mut message = format!("can't encode {}", self.what);
        if !self.path.is_empty() {
            message.push_str(" at ");
        }
        message.extend(self.path.iter().rev().take(STEPS).map(String::as_str));
        if self.path.len() > STEPS {
            // Writing to a String doesn't fail.
            _ = write!(message, "... ({} levels down)", self.path.len());
        }
        if !self.reason.is_empty() {
            message.push_str(": ");
            message.push_str(&self.reason);
        }
        message
    }
}

/// Line and column, both from 1, of the byte at `at`; of the last byte when the text has ended. Columns are bytes.
pub(super) fn position(text: &[u8], at: usize) -> (c_int, c_int) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
    let line_start = before.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
    let column = (at + 1).min(text.len()).saturating_sub(line_start);
    (line as c_int, column as c_int)
}
