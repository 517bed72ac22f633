//! How connmix.yaml is spelt, and where each value stands. The only place that knows YAML.
//!
//! Three steps, none of which stops at the first fault: `tree` turns the text into nodes with places, `section` reads
//! them key by key, `schema` says which keys there are, their defaults and bounds. What one value can't tell (two
//! listeners on one port, a file that must exist) is left to `load`, which gets the places it needs as `At`.

use super::Problem;
use std::cell::RefCell;

mod address;
mod schema;
mod section;
mod tree;
pub mod units;

pub use schema::{Raw, RawServer, UNSENT_LIMIT};

/// The longest text that is read. A real file is a few KiB; this bounds what a wrong `-f` can cost.
pub const MAX_BYTES: usize = 1024 * 1024;

/// The most problems that are listed: beyond that the file is something else than a configuration.
const MAX_PROBLEMS: usize = 100;

/// Where something stands, both from 1. Line 0: the file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// A value with its place and its key's path, for checks that come later.
#[derive(Debug, Clone)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands, or where it would if it were not left to its default.
    pub place: Place,
    /// `engine.servers[0].port`
    pub key: String,
}

impl<T> At<T> {
    /// A part of the value with the same place and key.
    pub fn as_ref<'a, U>(&'a self, part: impl FnOnce(&'a T) -> U) -> At<U> {
        At { value: part(&self.value), place: self.place, key: self.key.clone() }
    }

    /// Reports a problem at this value.
    pub fn report(&self, sink: &Sink, message: impl Into<String>) {
        sink.report(self.place, &self.key, message);
    }
}

/// Collects what is wrong, from every step.
#[derive(Debug, Default)]
pub struct Sink(RefCell<Vec<Problem>>);

impl Sink {
    /// Adds a problem. The message must hold no secret.
    pub fn report(&self, place: Place, key: &str, message: impl Into<String>) {
        let Place { line, column } = place;
        self.0.borrow_mut().push(Problem { line, column, key: key.to_owned(), message: message.into() });
    }

    /// All problems in the file's order. One that an alias brought in twice is told once.
    pub fn into_list(self) -> Vec<Problem> {
        let mut list = self.0.into_inner();
        list.sort_by_key(|p| (p.line, p.column));
        list.dedup();
        let more = list.len().saturating_sub(MAX_PROBLEMS);
        if more > 0 {
            list.truncate(MAX_PROBLEMS);
            list.push(Problem { line: 0, column: 0, key: String::new(), message: format!("and {more} more problems") });
        }
        list
    }
}

/// Reads the whole text. None if there is nothing to read keys from; the sink then says why.
pub fn read(text: &str, sink: &Sink) -> Option<Raw> {
    if text.len() > MAX_BYTES {
        sink.report(Place::default(), "", format!("larger than {}; this is no configuration", units::size(MAX_BYTES)));
        return None;
    }
    let root = tree::parse(text, sink)?;
    Some(schema::read(&root, sink))
}

/// A text as messages show it: escaped, cut when long, and without what may be a password in an address.
fn quoted(text: &str) -> String {
    const LONGEST: usize = 48;
    if text.contains('@') {
        return "\"***\"".to_owned();
    }
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}", format!("{}...", &text[..end])),
        None => format!("{text:?}"),
    }
}

/// A key as messages show it. `password:secret` without the space is one key to YAML, so what follows the colon is cut.
fn shown_key(name: &str) -> String {
    const LONGEST: usize = 48;
    let (head, cut) = match name.split_once(':') {
        Some((head, _)) => (head, ":..."),
        None => (name, ""),
    };
    let (head, cut) = match head.char_indices().nth(LONGEST) {
        Some((end, _)) => (&head[..end], "..."),
        None => (head, cut),
    };
    format!("{}{cut}", head.escape_debug())
}

/// `engine` and `workers` -> `engine.workers`; the root has no name.
fn join(parent: &str, name: &str) -> String {
    match parent {
        "" => shown_key(name),
        _ => format!("{parent}.{}", shown_key(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_password_is_not_shown() {
        assert_eq!(quoted("redis://:secret@host"), "\"***\"");
        assert_eq!(shown_key("password:secret"), "password:...");
        assert_eq!(join("access.users[0]", "password:secret"), "access.users[0].password:...");
    }

    #[test]
    fn long_and_odd_text_is_cut_and_escaped() {
        assert_eq!(quoted(&"é".repeat(60)), format!("\"{}...\"", "é".repeat(48)));
        assert_eq!(shown_key("a\nb"), "a\\nb");
        assert_eq!(shown_key(&"k".repeat(60)), format!("{}...", "k".repeat(48)));
    }

    #[test]
    fn problems_come_in_the_files_order_once_and_bounded() {
        let sink = Sink::default();
        for line in (1..=150).rev() {
            sink.report(Place { line, column: 1 }, "k", "wrong");
            sink.report(Place { line, column: 1 }, "k", "wrong");
        }
        let list = sink.into_list();
        assert_eq!(list[0].line, 1);
        assert_eq!(list.len(), MAX_PROBLEMS + 1);
        assert_eq!(list[MAX_PROBLEMS].message, "and 50 more problems");
    }
}
