//! What scripts write to `io.stdout` and `io.stderr`: lines for the log, which may come in pieces. A piece without a
//! line end is kept until the rest of the line comes, the script flushes, or its handler waits or ends.

use std::cell::{Cell, RefCell};
use tracing::Level;

use super::log::{MAX_TEXT, is_wanted, line};
use crate::script::stack::Args;
use crate::script::trace;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// `io.stdout`, at the level of `print`.
    Out,
    /// `io.stderr`, as warnings.
    Err,
}

impl Stream {
    /// The stream by its name in the prelude.
    pub fn named(name: &[u8]) -> Stream {
        if name == b"stderr" { Stream::Err } else { Stream::Out }
    }

    fn level(self) -> Level {
        match self {
            Stream::Out => Level::INFO,
            Stream::Err => Level::WARN,
        }
    }
}

/// A line whose end has not come.
#[derive(Default)]
struct Begun {
    text: Vec<u8>,
    place: Option<String>,
}

impl Begun {
    fn end(&mut self, level: Level) {
        line(level, self.place.take().as_deref(), &String::from_utf8_lossy(&self.text));
        self.text = Vec::new();
    }
}

thread_local! {
    static BEGUN: RefCell<[Begun; 2]> = RefCell::default();
    /// Whether a stream has text. Checked after every stretch of a handler.
    static WAITS: Cell<bool> = const { Cell::new(false) };
}

/// Takes a piece of text; lines that it completes are logged.
pub fn write(args: &Args, stream: Stream, mut text: &[u8]) {
    let level = stream.level();
    if !is_wanted(level) || text.is_empty() {
        return;
    }
    BEGUN.with_borrow_mut(|begun| {
        let begun = &mut begun[stream as usize];
        while !text.is_empty() {
            if begun.place.is_none() {
                begun.place = trace::script_place(args.slots());
            }
            let end = memchr::memchr(b'\n', text);
            let piece = &text[..end.unwrap_or(text.len())];
            // The log cuts off what is longer.
            begun.text.extend_from_slice(&piece[..piece.len().min((MAX_TEXT + 1).saturating_sub(begun.text.len()))]);
            text = end.map_or(&[][..], |end| &text[end + 1..]);
            if end.is_some() {
                begun.end(level);
            }
        }
        WAITS.set(true);
    });
}

/// Logs the text that has no line end yet.
pub fn flush(stream: Stream) {
    BEGUN.with_borrow_mut(|begun| {
        let begun = &mut begun[stream as usize];
        if !begun.text.is_empty() {
            begun.end(stream.level());
        }
    });
}

/// Flushes both streams when a handler waits or ends, so that its text is not joined with another handler's.
#[inline]
pub(in crate::script) fn end_of_stretch() {
    if WAITS.replace(false) {
        flush(Stream::Out);
        flush(Stream::Err);
    }
}
