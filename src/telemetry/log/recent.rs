//! The last lines of the log, for those who watch a running process. A few are kept, also while nobody looks.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::access::TARGET;
use super::cut::Limited;

/// As many lines are kept.
pub const KEPT: usize = 200;
/// The longest text of a line that is kept, in bytes.
const LONGEST: usize = 1024;

/// A line.
#[derive(Debug, Clone)]
pub struct Line {
    /// When it was written, in microseconds of Unix time.
    pub at: u64,
    /// `error`, `warn`, `info` or `debug`.
    pub level: &'static str,
    /// It tells of something that is wrong.
    pub is_problem: bool,
    /// The module that it is of, or `script`.
    pub target: &'static str,
    /// Its text and its fields; cut if it is long. Nothing in it has been escaped.
    pub text: String,
}

struct Lines {
    /// The number of the next line; the first is 1.
    next: u64,
    kept: VecDeque<Line>,
}

static LINES: Mutex<Lines> = Mutex::new(Lines { next: 1, kept: VecDeque::new() });

fn lines() -> MutexGuard<'static, Lines> {
    // Nothing below can panic halfway through a change.
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lines from that number on, how many of them are not kept any more, and the number of the next. 0: the last ones.
pub fn since(number: u64) -> (Vec<Line>, u64, u64) {
    let lines = lines();
    let first = lines.next - lines.kept.len() as u64;
    let lost = if number == 0 { 0 } else { first.saturating_sub(number) };
    let skipped = usize::try_from(number.saturating_sub(first)).unwrap_or(usize::MAX);
    (lines.kept.iter().skip(skipped).cloned().collect(), lost, lines.next)
}

fn keep(line: Line) {
    let mut lines = lines();
    lines.next += 1;
    if lines.kept.len() >= KEPT {
        lines.kept.pop_front();
    }
    lines.kept.push_back(line);
}

/// Keeps what is logged.
pub(super) struct Recent;

impl<S: Subscriber> Layer<S> for Recent {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == TARGET {
            // They are many, and watchers see the same better.
            return;
        }
        let mut words = Words { text: String::new(), left: LONGEST };
        event.record(&mut words);
        let (metadata, now) = (event.metadata(), SystemTime::now());
        let level = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            _ => "debug",
        };
        keep(Line {
            at: now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64),
            level,
            is_problem: *metadata.level() <= Level::WARN,
            target: metadata.target(),
            text: words.text,
        });
    }
}

/// The text of an event with its fields; so many bytes of it.
struct Words {
    text: String,
    left: usize,
}

impl Words {
    fn write(&mut self, words: fmt::Arguments<'_>) {
        // An error: the line is full.
        let _ = Limited { out: &mut self.text, left: &mut self.left }.write_fmt(words);
    }
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let space = if self.text.is_empty() { "" } else { " " };
        match field.name() {
            "message" => self.write(format_args!("{space}{value:?}")),
            // The bridge from the log of libraries.
            name if name.starts_with("log.") => {}
            name => self.write(format_args!("{space}{name}={value:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn the_last_lines_are_kept_with_their_numbers() {
        let subscriber = tracing_subscriber::registry().with(Recent);
        let (_, _, begun) = since(0);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "script", n = 7, "a {}", "line");
            for n in 0..KEPT {
                tracing::info!("{n} {}", "x".repeat(2 * LONGEST));
            }
        });
        let (kept, lost, next) = since(begun);
        assert_eq!((kept.len(), lost, next), (KEPT, 1, begun + 1 + KEPT as u64));
        assert!(kept.iter().all(|line| line.text.len() <= LONGEST && line.level == "info" && !line.is_problem));
        let (last, lost, _) = since(next - 1);
        assert_eq!((last.len(), lost), (1, 0));
        assert!(last[0].text.starts_with("199 x"));
        assert!(since(next).0.is_empty() && since(next + 5).0.is_empty());
    }
}
