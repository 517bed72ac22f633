//! `mix.redis`: the connections of the configuration by name, their commands, and the older `mix.redis.push`.

use mlua::ffi;
use serde_json::value::RawValue;
use std::ffi::CStr;

use super::json;
use crate::outbound;
use crate::outbound::redis::{Command, Reply};
use crate::script::current;
use crate::script::push::{One, Stack, Table, table};
use crate::script::stack::{Args, Fallible, Push, Raise};
use crate::script::wait::{self, Outcome, waiting};

/// The longest name of a Redis, in bytes.
const MAX_NAME: usize = 255;
/// The largest integer up to which a double holds every integer: 2^53.
const MAX_EXACT: u64 = 1 << 53;
/// The name under which the registry keeps the metatable.
const METATABLE: &CStr = c"connmix.redis";
/// The first word of each of our userdata. It identifies them without a look at metatables. The name follows it.
static TAG: u8 = 0;
const TAG_BYTES: usize = size_of::<*const u8>();

/// Adds `redis` to the `mix` table, after [`json::register`].
pub fn register(mix: &Table<'_>) {
    let class = table(3, |class| {
        class.field(c"__index", table(1, |methods| methods.waiting_method(c"command", command)));
        class.method(c"__tostring", to_string);
        // Scripts can't reach the metatable and change what other handlers call.
        class.field(c"__metatable", false);
    });
    mix.stack().register(METATABLE, class);
    let redis = table(2, |redis| {
        redis.native(c"connection", connection);
        // SAFETY: `waiting` makes a function for Lua, which wants its name as first upvalue.
        unsafe { json::set_encoding(redis, c"push", waiting(push)) };
    });
    mix.field(c"redis", redis);
}

/// A Redis as scripts hold it: only its name, so nothing has to be closed.
struct Named(String);

impl Push for Named {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        let name = self.0.as_bytes();
        // SAFETY: it pushes a userdata of as many bytes as are written, aligned for a pointer, and gives it the metatable, which
        // `register` has made.
        unsafe {
            stack.by_hand(|state| {
                let place = ffi::lua_newuserdata(state, TAG_BYTES + name.len()).cast::<u8>();
                place.cast::<*const u8>().write(&raw const TAG);
                place.add(TAG_BYTES).copy_from_nonoverlapping(name.as_ptr(), name.len());
                ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());
                ffi::lua_setmetatable(state, -2);
            })
        }
    }
}

/// The name of `self`.
fn this(args: &Args) -> Result<&str, Raise> {
    let slots = args.slots();
    let length = if slots.kind(1) == ffi::LUA_TUSERDATA { slots.length(1) } else { 0 };
    let name = length.checked_sub(TAG_BYTES).and_then(|length| {
        let place = slots.userdata(1).cast::<u8>();
        // SAFETY: a full userdata of at least a pointer's length, aligned for one. Where the tag is ours, the rest is the name, which
        // stays while the argument does.
        unsafe {
            let ours = std::ptr::eq(place.cast::<*const u8>().read(), &raw const TAG);
            ours.then(|| std::slice::from_raw_parts(place.add(TAG_BYTES), length))
        }
    });
    name.and_then(|name| std::str::from_utf8(name).ok()).ok_or_else(|| {
        Raise::Message(format!(
            "not a Redis: got {} where one was expected (call methods with a colon: r:command(\"get\", \"k\"))",
            slots.type_name(1)
        ))
    })
}

/// `mix.redis.connection(name)` -> `r, err`. At a file's top level, where there may be no engine, any name is accepted.
fn connection(args: &Args) -> Fallible<Named> {
    let name = String::from_utf8_lossy(&args.bytes(1)?).into_owned();
    let known = match current::host() {
        Some(host) => host.outbound.has_redis(&name),
        None => name.len() <= MAX_NAME,
    };
    Ok(if known { Ok(Named(name)) } else { Err(outbound::unknown(&name)) })
}

fn to_string(args: &Args) -> Result<String, Raise> {
    Ok(format!("redis {}", this(args)?))
}

/// The words of a command and its encoded form, or why it can't be sent.
pub fn command_args(args: &Args) -> Fallible<(Vec<Vec<u8>>, Command)> {
    let words = (1..=args.count().max(1)).map(|i| word(args, i)).collect::<Result<Vec<_>, Raise>>()?;
    Ok(Command::new(&words).map(|command| (words, command)))
}

/// `r:command(name, ...)` -> `v, err`
fn command(args: &Args) -> Result<Outcome<Result<Reply, String>>, Raise> {
    let name = this(args)?;
    let command = match command_args(args)? {
        Ok((_, command)) => command,
        Err(e) => return Ok(Outcome::Now(Err(format!("redis {name}: {e}")))),
    };
    let host = current::host().ok_or(wait::NOT_AT_TOP_LEVEL)?;
    Ok(Outcome::later(host.outbound.command(name, command)))
}

/// An argument's bytes. A number is written with all its digits; Lua's own text has only 14.
fn word(args: &Args, index: i32) -> Result<Vec<u8>, Raise> {
    if args.slots().kind(args.slot(index)) != ffi::LUA_TNUMBER {
        return args.bytes(index).map(|bytes| bytes.into_owned());
    }
    let n = args.number(index)?;
    Ok(if n.fract() == 0.0 && n.abs() <= MAX_EXACT as f64 {
        (n as i64).to_string()
    } else if n.is_finite() && (1e-5..1e17).contains(&n.abs()) {
        n.to_string()
    } else {
        format!("{n:e}")
    }
    .into_bytes())
}

/// What `mix.redis.push` puts into a list.
#[derive(serde::Serialize)]
struct Pushed<'a> {
    n: String,
    c: String,
    t: &'a str,
    d: &'a RawValue,
}

/// `mix.redis.push(queue, data)` -> `n, err`
fn push(args: &Args) -> Result<Outcome<Result<Reply, String>>, Raise> {
    let queue = args.text(1)?;
    if args.count() < 2 {
        return Err(args.wrong(2, "value"));
    }
    let now = |e: String| Ok(Outcome::Now(Err(e)));
    let (Some(current), Some(host)) = (current::get(), current::host()) else {
        return Err(wait::NOT_AT_TOP_LEVEL.into());
    };
    let data = match json::encoded(args, 2) {
        Ok(data) => data,
        Err(e) => return now(e),
    };
    let text = serde_json::from_slice::<&RawValue>(&data).and_then(|data| {
        // Without a connection the handler can't wait, so the call raises.
        let client = current.conn.map(|conn| conn.client_id.to_string()).unwrap_or_default();
        serde_json::to_vec(&Pushed { n: host.mesh.node().to_string(), c: client, t: &queue, d: data })
    });
    let command = text.map_err(|e| e.to_string());
    match command.and_then(|text| Command::new(&[b"LPUSH", queue.as_bytes(), &text])) {
        Ok(command) => Ok(Outcome::later(host.outbound.command("default", command))),
        Err(e) => now(format!("redis default: {e}")),
    }
}

/// A number that a double can't hold comes as its decimal text.
impl Push for Reply {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        (&self).push_to(stack)
    }
}

impl Push for &Reply {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        match self {
            Reply::Nil => stack.push_nil(),
            Reply::Integer(n) if n.unsigned_abs() <= MAX_EXACT => (*n as f64).push_to(stack),
            Reply::Integer(n) => itoa::Buffer::new().format(*n).push_to(stack),
            Reply::Bytes(bytes) => stack.push_bytes(bytes),
            // As scripts in Redis have it.
            Reply::Error(text) => stack.push_table(0, 1, |table| table.field(c"err", text.as_str())),
            Reply::Array(list) => stack.push_table(list.len(), 0, |table| {
                list.iter().enumerate().for_each(|(i, reply)| table.element(i + 1, reply));
                table.mark_array();
            }),
        }
    }
}
