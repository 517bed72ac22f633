//! `mix.shared`: the table that all workers and VMs of the process share.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::script::push::{One, Stack, Table, table};
use crate::script::stack::{Args, Fallible, Push, Raise};
use crate::shard::context::Value;
use crate::shared::{MAX_KEY, Shared};

/// The longest time for which a value is kept, in seconds: ten years.
const MAX_TTL: f64 = 315_360_000.0;

/// What tells the time: that of the system, or that of a test.
pub type Clock = fn() -> Instant;

thread_local! {
    static SHARED: RefCell<Option<(Arc<Shared>, Clock)>> = const { RefCell::new(None) };
}

/// Gives the scripts of this thread that table.
pub fn install(shared: Arc<Shared>, clock: Clock) {
    SHARED.set(Some((shared, clock)));
}

/// Adds `shared` to the `mix` table.
pub fn register(mix: &Table<'_>) {
    mix.field(
        c"shared",
        table(7, |shared| {
            shared.native(c"get", get);
            shared.native(c"set", set);
            shared.native(c"add", add);
            shared.native(c"incr", incr);
            shared.native(c"cas", cas);
            shared.native(c"delete", delete);
            shared.native(c"keys", keys);
        }),
    );
}

/// The thread's table and the time.
fn here() -> Result<(Arc<Shared>, Instant), String> {
    let here = SHARED.with(|shared| shared.borrow().as_ref().map(|(shared, clock)| (shared.clone(), clock())));
    here.ok_or_else(|| "no engine: a script that is only checked can't reach mix.shared; use it in a hook".into())
}

fn key(args: &Args) -> Result<Vec<u8>, Raise> {
    let key = args.bytes(1)?;
    if !(1..=MAX_KEY).contains(&key.len()) {
        let problem = format!("key of 1 to {MAX_KEY} bytes expected, got one of {}", key.len());
        return Err(Raise::Argument { index: 1, problem });
    }
    Ok(key.into_owned())
}

/// How long a value is kept; nil: for good.
fn ttl(args: &Args, index: i32) -> Result<Option<Duration>, Raise> {
    if args.is_nil(index) {
        return Ok(None);
    }
    let seconds = args.number(index)?;
    if !(seconds > 0.0 && seconds <= MAX_TTL) {
        let problem = format!("more than 0 and at most {MAX_TTL} seconds expected, got {seconds}");
        return Err(Raise::Argument { index, problem });
    }
    Ok(Some(Duration::from_secs_f64(seconds)))
}

fn finite(args: &Args, index: i32) -> Result<f64, Raise> {
    let number = args.number(index)?;
    if number.is_finite() {
        return Ok(number);
    }
    Err(Raise::Argument { index, problem: format!("finite number expected, got {number}") })
}

/// A value that is there, or nil.
struct Found(Option<Arc<Value>>);

impl Push for Found {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        match self.0 {
            Some(value) => (&*value).push_to(stack),
            None => stack.push_nil(),
        }
    }
}

/// Keys, which may hold any bytes: an array.
struct Keys(Vec<Arc<[u8]>>);

impl Push for Keys {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        stack.push_table(self.0.len(), 0, |table| {
            self.0.iter().enumerate().for_each(|(i, key)| table.element(i + 1, &**key));
            table.mark_array();
        })
    }
}

fn get(args: &Args) -> Fallible<Found> {
    let key = key(args)?;
    Ok(here().map(|(shared, now)| Found(shared.get(&key, now))))
}

fn set(args: &Args) -> Fallible<()> {
    let (key, value, ttl) = (key(args)?, args.value(2)?, ttl(args, 3)?);
    Ok(here().and_then(|(shared, now)| shared.set(&key, value, ttl, now).map_err(|e| e.to_string())))
}

/// A value that is not nil.
fn some_value(args: &Args) -> Result<Value, Raise> {
    if args.is_nil(2) { Err(args.wrong(2, "value")) } else { args.value(2) }
}

fn add(args: &Args) -> Fallible<bool> {
    let (key, value, ttl) = (key(args)?, some_value(args)?, ttl(args, 3)?);
    Ok(here().and_then(|(shared, now)| shared.add(&key, value, ttl, now).map_err(|e| e.to_string())))
}

fn incr(args: &Args) -> Fallible<f64> {
    let (key, by) = (key(args)?, finite(args, 2)?);
    let init = if args.is_nil(3) { 0.0 } else { finite(args, 3)? };
    let ttl = ttl(args, 4)?;
    let name = || String::from_utf8_lossy(&key[..key.len().min(64)]).escape_debug().to_string();
    Ok(here().and_then(|(shared, now)| {
        shared.incr(&key, by, init, ttl, now).map_err(|e| format!("incr of \"{}\": {e}", name()))
    }))
}

fn cas(args: &Args) -> Fallible<bool> {
    let (key, old, new, ttl) = (key(args)?, args.value(2)?, args.value(3)?, ttl(args, 4)?);
    Ok(here().and_then(|(shared, now)| shared.cas(&key, old, new, ttl, now).map_err(|e| e.to_string())))
}

fn delete(args: &Args) -> Fallible<bool> {
    let key = key(args)?;
    Ok(here().map(|(shared, now)| shared.delete(&key, now)))
}

fn keys(args: &Args) -> Fallible<Keys> {
    let prefix = args.optional_bytes(1)?.unwrap_or_default();
    Ok(here().and_then(|(shared, now)| shared.keys(&prefix, now).map(Keys).map_err(|e| e.to_string())))
}
