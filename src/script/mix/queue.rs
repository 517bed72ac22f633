//! `mix.queue`: from handlers to the back ends that consume a topic.

use super::json;
use crate::message::Channel;
use crate::queue::Pushed;
use crate::script::current;
use crate::script::push::{Table, table};
use crate::script::stack::{Args, Fallible, Raise};
use crate::script::wait::{Outcome, waiting};

/// Adds `queue` to the `mix` table, after [`json::register`].
pub fn register(mix: &Table<'_>) {
    // SAFETY: `waiting` makes a function for Lua, which wants its name as first upvalue.
    mix.field(c"queue", table(1, |queue| unsafe { json::set_encoding(queue, c"push", waiting(push)) }));
}

/// The topic that a push names; or what is wrong with its name.
pub fn push_args(args: &Args) -> Fallible<Channel> {
    let topic = Channel::from_script(&args.bytes(1)?);
    if args.count() < 2 && topic.is_ok() {
        return Err(args.wrong(2, "value"));
    }
    Ok(topic.map_err(|e| format!("topics are named as channels are: {e}")))
}

/// `mix.queue.push(topic, data)` -> `n, err`. Waits for room in the topic where the configuration says so.
fn push(args: &Args) -> Result<Outcome<Result<f64, String>>, Raise> {
    let now = |result: Result<f64, String>| Ok(Outcome::Now(result));
    let topic = match push_args(args)? {
        Ok(topic) => topic,
        Err(e) => return now(Err(e)),
    };
    let data = match json::encoded(args, 2) {
        Ok(data) => data,
        Err(e) => return now(Err(e)),
    };
    let (Some(conn), Some(host)) = (current::get().and_then(|current| current.conn), current::host()) else {
        return now(Err("no client to push for: not inside a handler".into()));
    };
    match host.queue.push_or_wait(&topic, conn.client_id, data) {
        Ok(Pushed::Now(waiting)) => now(Ok(waiting as f64)),
        Ok(Pushed::Waits(room)) => {
            Ok(Outcome::later(async move { room.await.map(|waiting| waiting as f64).map_err(|e| e.to_string()) }))
        }
        Err(e) => now(Err(e.to_string())),
    }
}
