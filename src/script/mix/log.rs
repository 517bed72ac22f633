//! `mix.log` and `print`: lines for the log, with the script's file and line.

use std::borrow::Cow;
use std::ffi::CStr;
use tracing::Level;

use crate::script::push::Table;
use crate::script::stack::{Args, Raise};
use crate::script::{current, trace};

/// The levels as scripts name them: the constants' values.
const LEVELS: [(&CStr, &str, Level); 4] = [
    (c"DEBUG", "debug", Level::DEBUG),
    (c"INFO", "info", Level::INFO),
    (c"WARN", "warn", Level::WARN),
    (c"ERROR", "error", Level::ERROR),
];

/// The longest text that one call logs, in bytes; the rest is cut off.
pub(super) const MAX_TEXT: usize = 64 * 1024;

/// Adds `log` and the levels to the `mix` table.
pub fn register(mix: &Table<'_>) {
    mix.native(c"log", log);
    for (i, (name, _, _)) in LEVELS.iter().enumerate() {
        mix.field(name, i as f64 + 1.0);
    }
}

/// The level to log at, and the text.
pub(crate) fn log_args<'a>(args: &'a Args) -> Result<(Level, Cow<'a, [u8]>), Raise> {
    let word = args.bytes(1).map_err(|_| args.wrong(1, "level (mix.DEBUG, mix.INFO, mix.WARN, mix.ERROR)"))?;
    let by_number =
        std::str::from_utf8(&word).ok().and_then(|w| w.parse::<usize>().ok()).and_then(|n| n.checked_sub(1));
    let level = by_number
        .and_then(|i| LEVELS.get(i))
        .or_else(|| LEVELS.iter().find(|(_, name, _)| word.eq_ignore_ascii_case(name.as_bytes())));
    let Some((_, _, level)) = level else {
        return Err(Raise::Argument {
            index: 1,
            problem: format!(
                "level expected (mix.DEBUG, mix.INFO, mix.WARN, mix.ERROR), got {}",
                String::from_utf8_lossy(&word).escape_debug()
            ),
        });
    };
    Ok((*level, args.bytes(2)?))
}

fn log(args: &Args) -> Result<bool, Raise> {
    let (level, text) = log_args(args)?;
    from_script(args, level, &String::from_utf8_lossy(&text));
    Ok(true)
}

/// Writes a line for the script that is running.
pub fn from_script(args: &Args, level: Level, text: &str) {
    if is_wanted(level) {
        line(level, trace::script_place(args.slots()).as_deref(), text);
    }
}

/// Whether the log takes lines of that level.
pub(super) fn is_wanted(level: Level) -> bool {
    // Not the log's greatest level, which is higher while a cluster's bus is listened to.
    match level {
        Level::ERROR => tracing::enabled!(target: "script", Level::ERROR),
        Level::WARN => tracing::enabled!(target: "script", Level::WARN),
        Level::INFO => tracing::enabled!(target: "script", Level::INFO),
        _ => tracing::enabled!(target: "script", Level::DEBUG),
    }
}

/// Writes a line for a script that stands, or stopped, at `place`: `file:line`.
pub(super) fn line(level: Level, place: Option<&str>, text: &str) {
    let end = (0..=text.len().min(MAX_TEXT)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
    let colon = if place.is_some() { ": " } else { "" };
    let line = format!("{}{colon}{}", place.unwrap_or_default(), &text[..end]);
    let client_id = current::get().and_then(|c| c.conn).map(|conn| conn.client_id.get());
    match level {
        Level::ERROR => tracing::error!(target: "script", client_id, "{line}"),
        Level::WARN => tracing::warn!(target: "script", client_id, "{line}"),
        Level::INFO => tracing::info!(target: "script", client_id, "{line}"),
        _ => tracing::debug!(target: "script", client_id, "{line}"),
    }
}
