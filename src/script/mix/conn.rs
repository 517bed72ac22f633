//! The connection as scripts see it: `mix.websocket()` and the methods of what it returns.

use futures_util::FutureExt;
use mlua::ffi;
use std::ffi::{CStr, c_int};
use std::rc::Rc;

use crate::message::{Channel, CloseReason, Kind, close_code};
use crate::script::current::{self, ConnRef, Host};
use crate::script::stack::{Args, Fallible, Push, Raise, State, set_method, type_name};
use crate::script::wait::{Outcome, can_wait, set_waiting_method};
use crate::shard::conn::Conn;
use crate::shard::context::Value;
use crate::wire::frame::MAX_REASON;

/// What a connection's userdata holds. The tag tells it from any other userdata without a look at metatables.
#[repr(C)]
struct Handle {
    tag: *const u8,
    conn: ConnRef,
}

static TAG: u8 = 0;

/// What fails when the connection has ended.
pub const GONE: &str = "the connection has closed";

/// Pushes a connection. The same connection is the same userdata for as long as a script holds it.
///
/// # Safety
/// To be called by a native function of [`with_conn`], in a protected call.
pub unsafe fn push_conn(state: State, conn: ConnRef) {
    let (metatable, cache) = (ffi::lua_upvalueindex(2), ffi::lua_upvalueindex(3));
    let place = i64::from(conn.slot) as ffi::lua_Integer + 1;
    unsafe {
        ffi::lua_rawgeti(state, cache, place);
        if handle_at(state, -1).is_some_and(|known| known == conn) {
            return;
        }
        ffi::lua_pop(state, 1);
        let handle = ffi::lua_newuserdata(state, size_of::<Handle>()).cast::<Handle>();
        handle.write(Handle { tag: &raw const TAG, conn });
        ffi::lua_pushvalue(state, metatable);
        ffi::lua_setmetatable(state, -2);
        ffi::lua_pushvalue(state, -1);
        ffi::lua_rawseti(state, cache, place);
    }
}

/// The connection at a stack index, if that is one.
unsafe fn handle_at(state: State, slot: c_int) -> Option<ConnRef> {
    unsafe {
        if ffi::lua_type(state, slot) != ffi::LUA_TUSERDATA || ffi::lua_objlen(state, slot) != size_of::<Handle>() {
            return None;
        }
        let handle = &*ffi::lua_touserdata(state, slot).cast::<Handle>();
        std::ptr::eq(handle.tag, &raw const TAG).then_some(handle.conn)
    }
}

/// The name under which the registry keeps the metatable and the cache.
const METATABLE: &CStr = c"connmix.conn";
const CACHE: &CStr = c"connmix.conns";

/// Pushes a function that may call [`push_conn`]: its upvalues are its name, the metatable and the cache.
///
/// # Safety
/// `state` must be valid, in a protected call, after [`register`].
pub unsafe fn with_conn(state: State, name: &CStr, function: ffi::lua_CFunction) {
    unsafe {
        ffi::lua_pushstring(state, name.as_ptr());
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, CACHE.as_ptr());
        ffi::lua_pushcclosure(state, function, 3);
    }
}

/// Adds `websocket` and `socket` to the `mix` table at the top of the stack.
///
/// # Safety
/// `state` must be valid and in a protected call.
pub unsafe fn register(state: State) {
    unsafe {
        ffi::lua_createtable(state, 0, 4);
        ffi::lua_createtable(state, 0, 16);
        set_method(state, c"client_id", client_id);
        set_method(state, c"remote_addr", remote_addr);
        set_method(state, c"context", context);
        set_method(state, c"context_value", context_value);
        set_method(state, c"set_context", set_context);
        set_method(state, c"set_context_value", set_context_value);
        set_waiting_method(state, c"wait_context_value", wait_context_value);
        set_waiting_method(state, c"subscribe", subscribe);
        set_method(state, c"unsubscribe", unsubscribe);
        set_method(state, c"channels", channels);
        set_method(state, c"send", send);
        set_method(state, c"close", close);
        set_method(state, c"clear_buffer", clear_buffer);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        set_method(state, c"__tostring", to_string);
        // Scripts can't reach the metatable and change what other handlers call.
        ffi::lua_pushboolean(state, 0);
        ffi::lua_setfield(state, -2, c"__metatable".as_ptr());
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());

        // Slot -> userdata, weak: a handle lives as long as a script holds it, or till the next collection.
        ffi::lua_createtable(state, 0, 0);
        ffi::lua_createtable(state, 0, 1);
        ffi::lua_pushstring(state, c"v".as_ptr());
        ffi::lua_setfield(state, -2, c"__mode".as_ptr());
        ffi::lua_setmetatable(state, -2);
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, CACHE.as_ptr());

        with_conn(state, c"websocket", this_conn);
        ffi::lua_setfield(state, -2, c"websocket".as_ptr());
        ffi::lua_createtable(state, 0, 1);
        with_conn(state, c"tcp", this_conn);
        ffi::lua_setfield(state, -2, c"tcp".as_ptr());
        ffi::lua_setfield(state, -2, c"socket".as_ptr());
    }
}

/// `mix.websocket()`, `mix.socket.tcp()` -> conn, or nil and why not. On the raw stack: every message calls it.
unsafe extern "C-unwind" fn this_conn(state: State) -> c_int {
    unsafe {
        match current::get().and_then(|current| current.conn) {
            Some(conn) => {
                push_conn(state, conn);
                1
            }
            None => {
                let result: Result<Option<f64>, String> = Err("no connection: not inside a handler".into());
                result.push_to(state)
            }
        }
    }
}

/// `self`, whether its connection still lives or not.
fn this(args: &Args) -> Result<ConnRef, Raise> {
    unsafe { handle_at(args.state(), 1) }.ok_or_else(|| {
        Raise::Message(format!(
            "not a connection: got {} where conn was expected (call methods with a colon: conn:send(data))",
            unsafe { type_name(args.state(), 1) }
        ))
    })
}

/// The engine and the connection of `self`; Err inside when it has ended.
fn live(args: &Args) -> Fallible<(Rc<Host>, Rc<Conn>)> {
    let this = this(args)?;
    let Some(host) = current::host() else { return Ok(Err(GONE.into())) };
    Ok(match host.shard.get_at(this.slot, this.client_id) {
        Some(conn) => Ok((host, conn)),
        None => Err(GONE.into()),
    })
}

fn to_string(args: &Args) -> Result<String, Raise> {
    Ok(format!("connection {}", this(args)?.client_id))
}

fn client_id(args: &Args) -> Result<String, Raise> {
    Ok(this(args)?.client_id.to_string())
}

fn remote_addr(args: &Args) -> Result<Option<String>, Raise> {
    Ok(live(args)?.ok().map(|(_, conn)| conn.remote().to_string()))
}

fn context(args: &Args) -> Result<Value, Raise> {
    let Ok((_, conn)) = live(args)? else { return Ok(Value::Table(Box::default())) };
    let context = conn.context.borrow();
    Ok(Value::Table(context.iter().map(|(k, v)| (Value::str(k), v.clone())).collect()))
}

fn context_value(args: &Args) -> Result<Value, Raise> {
    let (live, key) = (live(args)?, args.text(1)?);
    let Ok((_, conn)) = live else { return Ok(Value::Nil) };
    let context = conn.context.borrow();
    Ok(context.get(&key).cloned().unwrap_or(Value::Nil))
}

/// The names and values of a table, to be set in a context.
pub(crate) fn context_args(args: &Args) -> Result<Vec<(String, Value)>, Raise> {
    let problem = |problem: String| Err(Raise::Argument { index: 1, problem });
    let pairs = args.table(1)?;
    let mut named = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        match key {
            Value::Str(key) => match String::from_utf8(key.into()) {
                Ok(key) => named.push((key, value)),
                Err(_) => return problem("a key is not valid UTF-8".into()),
            },
            Value::Number(n) => return problem(format!("keys must be strings, got the number {n}")),
            _ => return problem("keys must be strings".into()),
        }
    }
    Ok(named)
}

fn set_context(args: &Args) -> Fallible<()> {
    let (live, named) = (live(args)?, context_args(args)?);
    Ok(live.and_then(|(host, conn)| host.shard.merge_context(&conn, named).map_err(|full| full.to_string())))
}

fn set_context_value(args: &Args) -> Fallible<()> {
    let (live, key, value) = (live(args)?, args.text(1)?, args.value(2)?);
    Ok(live.and_then(|(host, conn)| host.shard.set_context(&conn, &key, value).map_err(|full| full.to_string())))
}

fn wait_context_value(args: &Args) -> Result<Outcome<Value>, Raise> {
    let (live, key) = (live(args)?, args.text(1)?);
    let Ok((host, conn)) = live else { return Ok(Outcome::Now(Value::Nil)) };
    if let Some(value) = conn.context.borrow().get(&key) {
        return Ok(Outcome::Now(value.clone()));
    }
    Ok(Outcome::later(host.shard.wait_context(conn.clone(), &key)))
}

/// The channel names from argument 1 on.
pub(crate) fn channel_args(args: &Args) -> Fallible<Vec<Channel>> {
    if args.count() == 0 {
        return Err(args.wrong(1, "string"));
    }
    let mut channels = Vec::with_capacity(args.count() as usize);
    for i in 1..=args.count() {
        match Channel::from_script(&args.bytes(i)?) {
            Ok(channel) => channels.push(channel),
            Err(e) => return Ok(Err(e.to_string())),
        }
    }
    Ok(Ok(channels))
}

/// Subscribes, or says why not. Where there are other nodes that have to know of it, the handler waits until they do: from
/// then on a publish on any of them reaches the connection. Where a handler can't wait, they know a little later.
pub(super) fn subscribe_to(
    args: &Args,
    (host, conn): (Rc<Host>, Rc<Conn>),
    channels: &[Channel],
) -> Outcome<Result<(), String>> {
    if let Err(too_many) = host.shard.subscribe(&conn, channels) {
        return Outcome::Now(Err(too_many.to_string()));
    }
    match host.mesh.told(channels).filter(|_| can_wait(args)) {
        Some(told) => Outcome::later(told.map(Ok)),
        None => Outcome::Now(Ok(())),
    }
}

fn subscribe(args: &Args) -> Result<Outcome<Result<(), String>>, Raise> {
    let (live, channels) = (live(args)?, channel_args(args)?);
    Ok(match live.and_then(|live| Ok((live, channels?))) {
        Ok((live, channels)) => subscribe_to(args, live, &channels),
        Err(problem) => Outcome::Now(Err(problem)),
    })
}

fn unsubscribe(args: &Args) -> Fallible<()> {
    let (live, channels) = (live(args)?, channel_args(args)?);
    Ok(live.and_then(|(host, conn)| {
        host.shard.unsubscribe(&conn, &channels?);
        Ok(())
    }))
}

fn channels(args: &Args) -> Result<Vec<String>, Raise> {
    Ok(live(args)?.map(|(host, conn)| host.shard.channels_of(&conn)).unwrap_or_default())
}

/// The kind of message that an optional argument names; text unless told.
pub(crate) fn kind_arg(args: &Args, index: i32) -> Result<Kind, Raise> {
    let Some(word) = args.optional_bytes(index)? else { return Ok(Kind::Text) };
    Kind::parse(&word).ok_or_else(|| Raise::Argument {
        index,
        problem: format!("\"text\" or \"binary\" expected, got \"{}\"", String::from_utf8_lossy(&word).escape_debug()),
    })
}

fn send(args: &Args) -> Fallible<()> {
    let (live, data) = (live(args)?, args.bytes(1)?);
    let (host, conn) = match live {
        Ok(live) => live,
        Err(e) => return Ok(Err(e)),
    };
    let kind = if conn.framing.has_kinds() { kind_arg(args, 2)? } else { Kind::Binary };
    if kind == Kind::Text && std::str::from_utf8(&data).is_err() {
        return Ok(Err(crate::message::NotUtf8.to_string()));
    }
    Ok(if host.shard.send(&conn, kind, &data) {
        Ok(())
    } else {
        Err(conn.close_reason().and_then(|r| r.error()).unwrap_or_else(|| GONE.into()))
    })
}

/// Forgets what has come and is not consumed.
fn clear_buffer(args: &Args) -> Fallible<()> {
    Ok(live(args)?.and_then(|(_, conn)| match conn.received() {
        Some(received) => {
            received.take();
            Ok(())
        }
        None => Err("a WebSocket has no such buffer: messages come whole".into()),
    }))
}

/// The code and the reason to close with.
pub(crate) fn close_args(args: &Args) -> Result<(u16, Box<str>), Raise> {
    let code = if args.is_nil(1) { f64::from(close_code::NORMAL) } else { args.number(1)? };
    // The conversion saturates, at a code that is none.
    if code.fract() != 0.0 || !close_code::may_be_sent(code as u16) {
        return Err(Raise::Argument {
            index: 1,
            problem: format!("close code expected (1000, 3000 to 4999), got {code}"),
        });
    }
    let reason = args.optional_bytes(2)?.unwrap_or_default();
    let Ok(reason) = std::str::from_utf8(&reason) else {
        return Err(Raise::Argument { index: 2, problem: "the reason is not valid UTF-8".into() });
    };
    if reason.len() > MAX_REASON {
        return Err(Raise::Argument { index: 2, problem: format!("the reason has more than {MAX_REASON} bytes") });
    }
    Ok((code as u16, reason.into()))
}

fn close(args: &Args) -> Fallible<()> {
    let (live, (code, reason)) = (live(args)?, close_args(args)?);
    Ok(live.map(|(_, conn)| conn.close(CloseReason::Requested { code, reason })))
}
