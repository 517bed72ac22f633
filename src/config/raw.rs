//! How connmix.yaml is spelt, and where each value stands. The only place that knows YAML, and it knows no key.
//!
//! Three steps, none of which stops at the first fault: `tree` turns the text into nodes with places, `known` reports
//! the keys that there are not, `value` finds and reads single values. Which keys there are is told from above, by the
//! rows.

use super::problem::Problem;
use crate::telemetry::language::{Both, both};
use std::cell::RefCell;

pub mod address;
pub mod env;
pub mod known;
pub mod older;
pub mod rate;
pub mod tree;
pub mod units;
pub mod value;

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

/// Collects what is wrong, from every step.
#[derive(Debug, Default)]
pub struct Sink {
    problems: RefCell<Vec<Problem>>,
}

impl Sink {
    /// Adds a problem. The message must hold no secret.
    pub fn report(&self, place: Place, key: &str, message: impl Into<Both>) {
        let Place { line, column } = place;
        self.problems.borrow_mut().push(Problem { line, column, key: key.to_owned(), message: message.into() });
    }

    /// Adds the problems of another.
    pub fn append(&self, other: Sink) {
        self.problems.borrow_mut().append(&mut other.problems.into_inner());
    }

    /// All problems in the file's order. One that an alias brought in twice is told once.
    pub fn into_list(self) -> Vec<Problem> {
        let mut list = self.problems.into_inner();
        list.sort_by_key(|p| (p.line, p.column));
        list.dedup();
        let more = list.len().saturating_sub(MAX_PROBLEMS);
        if more > 0 {
            list.truncate(MAX_PROBLEMS);
            let message = both!("and {more} more problems", "还有 {more} 个问题");
            list.push(Problem { line: 0, column: 0, key: String::new(), message });
        }
        list
    }
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

/// The path of a key below another: `engine` and `workers` -> `engine.workers`; the root has no name.
pub fn join(parent: &str, name: &str) -> String {
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
        assert_eq!(list[MAX_PROBLEMS].message.en, "and 50 more problems");
    }
}
