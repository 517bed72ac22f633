//! `mix.sleep`, `mix.now`, `mix.uuid`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::script::push::Table;
use crate::script::stack::{Args, Raise};
use crate::script::wait::Outcome;

/// The longest sleep, in seconds: a day.
const MAX_SLEEP: f64 = 86_400.0;

/// Adds its functions to the `mix` table.
pub fn register(mix: &Table<'_>) {
    mix.waiting(c"sleep", sleep);
    mix.native(c"now", now);
    mix.native(c"uuid", uuid);
}

/// How long to sleep, in seconds.
pub(crate) fn sleep_arg(args: &Args) -> Result<f64, Raise> {
    let seconds = args.number(1)?;
    if !(0.0..=MAX_SLEEP).contains(&seconds) {
        return Err(Raise::Argument { index: 1, problem: format!("0 to {MAX_SLEEP} seconds expected, got {seconds}") });
    }
    Ok(seconds)
}

fn sleep(args: &Args) -> Result<Outcome<Result<(), String>>, Raise> {
    let seconds = sleep_arg(args)?;
    Ok(Outcome::later(async move {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        Ok(())
    }))
}

/// Unix time in seconds, with microseconds as its fraction.
fn now(_: &Args) -> Result<f64, Raise> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_micros() as f64 / 1e6))
}

/// A random UUID, version 4 (RFC 9562, section 5.4).
fn uuid(_: &Args) -> Result<String, Raise> {
    Ok(uuid::Uuid::new_v4().to_string())
}
