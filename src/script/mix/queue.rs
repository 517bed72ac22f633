//! `mix.queue`: from handlers to the back ends that consume a topic.

use mlua::ffi;

use super::json;
use crate::message::Channel;
use crate::script::current;
use crate::script::stack::{Args, Fallible, State, native};

/// Adds `queue` to the `mix` table at the top of the stack.
///
/// # Safety
/// `state` must be valid and in a protected call, after [`json::register`].
pub unsafe fn register(state: State) {
    unsafe {
        ffi::lua_createtable(state, 0, 1);
        json::set_encoding(state, c"push", native(push));
        ffi::lua_setfield(state, -2, c"queue".as_ptr());
    }
}

/// The topic that a push names; or what is wrong with its name.
pub fn push_args(args: &Args) -> Fallible<Channel> {
    let topic = Channel::from_script(&args.bytes(1)?);
    if args.count() < 2 && topic.is_ok() {
        return Err(args.wrong(2, "value"));
    }
    Ok(topic.map_err(|e| format!("topics are named as channels are: {e}")))
}

/// `mix.queue.push(topic, data)` -> `n, err`
fn push(args: &Args) -> Fallible<f64> {
    let topic = match push_args(args)? {
        Ok(topic) => topic,
        Err(e) => return Ok(Err(e)),
    };
    let data = match json::encoded(args, 2) {
        Ok(data) => data,
        Err(e) => return Ok(Err(e)),
    };
    let (Some(conn), Some(host)) = (current::get().and_then(|current| current.conn), current::host()) else {
        return Ok(Err("no client to push for: not inside a handler".into()));
    };
    let waiting = host.queue.push(&topic, conn.client_id, data);
    Ok(waiting.map(|n| n as f64).map_err(|e| e.to_string()))
}
