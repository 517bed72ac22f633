//! `mix.timer`: functions of the script that run later, outside any connection.

use std::time::{Duration, Instant};

use super::conn::GONE;
use crate::script::current::{self, ConnRef};
use crate::script::push::{Table, table};
use crate::script::stack::{Args, Fallible, Raise};
use crate::shard::context::Value;
use crate::timers::{Call, MAX_CALL, SetBy};

/// The longest time, in seconds: a year.
const MAX_SECONDS: f64 = 31_536_000.0;
/// The shortest time between two runs, in seconds.
const MIN_PERIOD: f64 = 0.01;
/// The longest name of a function, in bytes.
const MAX_NAME: usize = 255;
/// The most arguments.
const MAX_ARGS: usize = 32;

/// The err of a call outside handlers.
pub(crate) const NOT_AT_TOP_LEVEL: &str = "timers can't be set while a script is loaded: set them in on_start";

/// Adds `timer` to the `mix` table.
pub fn register(mix: &Table<'_>) {
    mix.field(
        c"timer",
        table(3, |timer| {
            timer.native(c"after", |args: &Args| set(args, false));
            timer.native(c"every", |args: &Args| set(args, true));
            timer.native(c"cancel", cancel);
        }),
    );
}

/// What a timer is to call, and when.
pub(crate) struct Wanted {
    pub after: Duration,
    pub name: String,
    pub args: Vec<Value>,
}

/// The time and the name, and the values from argument `values` on.
pub(crate) fn timer_args(args: &Args, repeats: bool, values: i32) -> Fallible<Wanted> {
    let seconds = args.number(1)?;
    let least = if repeats { MIN_PERIOD } else { 0.0 };
    if !(least..=MAX_SECONDS).contains(&seconds) {
        let problem = format!("{least} to {MAX_SECONDS} seconds expected, got {seconds}");
        return Err(Raise::Argument { index: 1, problem });
    }
    if args.slots().string(args.slot(2)).is_none() {
        return Err(args.wrong(2, "the name of a global function"));
    }
    let name = args.text(2)?.into_owned();
    if !(1..=MAX_NAME).contains(&name.len()) {
        let problem = format!("name of 1 to {MAX_NAME} bytes expected, got one of {}", name.len());
        return Err(Raise::Argument { index: 2, problem });
    }
    let count = (args.count() - values + 1).max(0) as usize;
    if count > MAX_ARGS {
        return Ok(Err(format!("a timer's function gets {MAX_ARGS} arguments at most, not {count}")));
    }
    let (mut read, mut bytes) = (Vec::with_capacity(count), name.len());
    for index in values..=args.count() {
        let value = args.value(index)?;
        bytes += value.weight();
        read.push(value);
    }
    if bytes > MAX_CALL {
        return Ok(Err(format!("a timer's name and arguments take {bytes} bytes, more than {MAX_CALL}")));
    }
    Ok(Ok(Wanted { after: Duration::from_secs_f64(seconds), name, args: read }))
}

fn set(args: &Args, repeats: bool) -> Fallible<f64> {
    let tied = tied(args)?;
    let wanted = match timer_args(args, repeats, if tied.is_some() { 4 } else { 3 })? {
        Ok(wanted) => wanted,
        Err(e) => return Ok(Err(e)),
    };
    let (Some(current), Some(host)) = (current::get(), current::host()) else {
        return Ok(Err(NOT_AT_TOP_LEVEL.into()));
    };
    if let Some(conn) = tied
        && host.shard.get_at(conn.slot, conn.client_id).is_none_or(|conn| conn.is_closing())
    {
        return Ok(Err(GONE.into()));
    }
    let Wanted { after, name, args } = wanted;
    let conn = tied.map(|conn| (conn.client_id, conn.slot));
    let call = Call { name: name.into(), args: args.into(), conn };
    let by = SetBy { server: current.server, worker: host.worker, starts: current.starts };
    let set = host.timers.set(by, call, after, repeats, Instant::now());
    Ok(set.map(|id| id as f64).map_err(|e| e.to_string()))
}

/// The connection that the timer is to end with: argument 3 is `{connection = conn}`.
fn tied(args: &Args) -> Result<Option<ConnRef>, Raise> {
    Ok(args.handle_in::<ConnRef>(3, b"connection"))
}

/// The number of a timer.
pub(crate) fn cancel_arg(args: &Args) -> Result<u64, Raise> {
    args.exact_integer(1).ok_or_else(|| args.wrong(1, "the number of a timer"))
}

fn cancel(args: &Args) -> Fallible<bool> {
    let id = cancel_arg(args)?;
    Ok(match (current::get(), current::host()) {
        (Some(current), Some(host)) => Ok(host.timers.cancel(current.server, id)),
        _ => Err(NOT_AT_TOP_LEVEL.into()),
    })
}
