//! Rate-limited log lines, for causes that strangers can trigger in numbers. One line a second is written for each
//! cause; the others are counted, and the next line says how many were left out. If no line follows, [`tell`] reports
//! them.
//!
//! A cause is a name in the code, and a text that tells apart cases of it (a hook and a line of a script, for example).

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::Level;

/// Between two lines of one cause.
const PAUSE: Duration = Duration::from_secs(1);
/// The most texts that are told apart for one name; all others share a place.
const MOST: usize = 64;
/// The bytes of a text by which causes are told apart.
const LONGEST: usize = 128;

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);

/// Writes a line, unless one of the same cause was written within a second: `rate_limited!(WARN, "what happens", "of
/// what"; the rest as of tracing's macros)`, after which `target: "...",` may stand.
macro_rules! rate_limited {
    ($level:ident, $cause:literal, $of:expr; target: $target:literal, $($line:tt)+) => {
        if tracing::enabled!(target: $target, tracing::Level::$level)
            && let Some(left_out) = $crate::telemetry::rate_limited::due($cause, $of, tracing::Level::$level)
        {
            tracing::event!(target: $target, tracing::Level::$level, left_out, $($line)+)
        }
    };
    ($level:ident, $cause:literal, $of:expr; $($line:tt)+) => {
        if tracing::enabled!(tracing::Level::$level)
            && let Some(left_out) = $crate::telemetry::rate_limited::due($cause, $of, tracing::Level::$level)
        {
            tracing::event!(tracing::Level::$level, left_out, $($line)+)
        }
    };
}
pub(crate) use rate_limited;

#[derive(Default)]
struct Table {
    causes: HashMap<&'static str, HashMap<Box<str>, State>>,
}

struct State {
    level: Level,
    /// When the last line was written.
    last: Instant,
    left_out: u64,
}

/// Lines that were left out, and of what.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    level: Level,
    cause: &'static str,
    of: Box<str>,
    lines: u64,
}

impl Table {
    fn due(&mut self, cause: &'static str, of: &str, level: Level, now: Instant) -> Option<Option<u64>> {
        let states = self.causes.entry(cause).or_default();
        let of = match of.get(..of.floor_char_boundary(LONGEST)) {
            Some(of) if states.len() < MOST || states.contains_key(of) => of,
            _ => "others",
        };
        let Some(state) = states.get_mut(of) else {
            states.insert(of.into(), State { level, last: now, left_out: 0 });
            return Some(None);
        };
        if now.saturating_duration_since(state.last) < PAUSE {
            state.left_out += 1;
            return None;
        }
        state.last = now;
        let left_out = std::mem::take(&mut state.left_out);
        Some((left_out > 0).then_some(left_out))
    }

    /// The lines that were left out and have waited long enough for another line to report them; also forgets causes
    /// that are over. `all`: those that have not waited that long, too.
    fn left(&mut self, now: Instant, all: bool) -> Vec<Left> {
        let mut list = Vec::new();
        for (&cause, states) in &mut self.causes {
            states.retain(|of, state| {
                if !all && now.saturating_duration_since(state.last) < PAUSE {
                    return true;
                }
                let lines = std::mem::take(&mut state.left_out);
                if lines > 0 {
                    list.push(Left { level: state.level, cause, of: of.clone(), lines });
                    // This is its line of this second.
                    state.last = now;
                }
                lines > 0
            });
        }
        list
    }
}

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a line of that cause may be written now, and how many were left out before it.
pub(crate) fn due(cause: &'static str, of: &str, level: Level) -> Option<Option<u64>> {
    table().due(cause, of, level, Instant::now())
}

/// Reports the lines left out of causes that have come to rest. To be called several times a second; with `all` at the
/// end.
pub fn tell(all: bool) {
    let left = table().left(Instant::now(), all);
    for Left { level, cause, of, lines: left_out } in left {
        let of = if of.is_empty() { String::new() } else { format!(" ({of})") };
        match level {
            Level::ERROR => tracing::error!(left_out, "{cause}{of}: lines were left out"),
            Level::WARN => tracing::warn!(left_out, "{cause}{of}: lines were left out"),
            _ => tracing::debug!(left_out, "{cause}{of}: lines were left out"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_has_one_line_a_second_that_tells_what_was_left_out() {
        let (mut table, start) = (Table::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(table.due("a", "x", Level::WARN, at(0)), Some(None));
        for ms in [0, 1, 999] {
            assert_eq!(table.due("a", "x", Level::WARN, at(ms)), None);
        }
        assert_eq!(table.due("a", "y", Level::WARN, at(5)), Some(None), "what is told apart");
        assert_eq!(table.due("b", "x", Level::WARN, at(5)), Some(None), "another cause");
        assert_eq!(table.due("a", "x", Level::WARN, at(1000)), Some(Some(3)));
        assert_eq!(table.due("a", "x", Level::WARN, at(2500)), Some(None));
    }

    #[test]
    fn what_no_line_follows_is_told_and_what_is_over_is_forgotten() {
        let (mut table, start) = (Table::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for _ in 0..5 {
            table.due("a", "x", Level::ERROR, at(0));
        }
        assert_eq!(table.left(at(900), false), []);
        let left = Left { level: Level::ERROR, cause: "a", of: "x".into(), lines: 4 };
        assert_eq!(table.left(at(1000), false), [left]);
        assert_eq!(table.due("a", "x", Level::ERROR, at(1500)), None, "that was a line, too");
        assert_eq!(table.left(at(1600), true).len(), 1);
        assert_eq!(table.left(at(3000), false), []);
        assert!(table.causes["a"].is_empty());
    }

    #[test]
    fn strangers_do_not_choose_how_many_causes_there_are() {
        let (mut table, now) = (Table::default(), Instant::now());
        let lines = (0..1000).filter(|n| table.due("a", &format!("{n}é").repeat(60), Level::WARN, now).is_some());
        assert_eq!(lines.count(), MOST + 1);
        assert!(table.causes["a"].keys().all(|of| of.len() <= LONGEST));
    }
}
