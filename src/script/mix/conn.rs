//! The connection as scripts see it: `mix.websocket()` and the methods of what it returns.

use futures_util::FutureExt;
use mlua::ffi;
use std::ffi::{CStr, c_int};
use std::rc::Rc;

use super::subscribe::{Named, Subscribed, Subscription, names, subscribe_args, subscribe_from};
use crate::message::{CloseReason, Kind, close_code, utf8};
use crate::script::current::{self, ConnRef, Host};
use crate::script::push::{One, PushOne, Pushed, Stack, Table, table, with};
use crate::script::slots::Handle;
use crate::script::stack::{Args, Fallible, Push, Raise, State};
use crate::script::wait::{NOT_HERE, Outcome, can_wait};
use crate::shard::conn::Conn;
use crate::shard::context::Value;
use crate::wire::frame::MAX_REASON;

// SAFETY: the static is this type's alone.
unsafe impl Handle for ConnRef {
    fn tag() -> *const u8 {
        static TAG: u8 = 0;
        &raw const TAG
    }
}

/// The err of a call on a connection that has ended.
pub const GONE: &str = "the connection has closed";

/// Pushes a connection. The same connection is the same userdata for as long as a script holds it.
///
/// # Safety
/// To be called by a native function of [`with_conn`].
pub unsafe fn push_conn(stack: Stack<'_>, conn: ConnRef) -> One {
    let (state, metatable, cache) = (stack.state(), ffi::lua_upvalueindex(2), ffi::lua_upvalueindex(3));
    let place = (conn.slot as c_int).wrapping_add(1);
    // SAFETY: the upvalues are those tables. The first value that is pushed is the result, or is taken off; then the new handle is.
    unsafe {
        stack.by_hand(|_| {
            ffi::lua_rawgeti_(state, cache, place);
            if stack.handle_at::<ConnRef>(-1).is_some_and(|known| *known == conn) {
                return;
            }
            ffi::lua_pop(state, 1);
            _ = stack.push_handle(conn, with(|stack| stack.by_hand(|state| ffi::lua_pushvalue(state, metatable))));
            ffi::lua_pushvalue(state, -1);
            ffi::lua_rawseti(state, cache, place.into());
        })
    }
}

/// The name under which the registry keeps the metatable and the cache.
const METATABLE: &CStr = c"connmix.conn";
const CACHE: &CStr = c"connmix.conns";

/// A function that may call [`push_conn`]: its upvalues are its name, the metatable and the cache. After [`register`].
///
/// # Safety
/// `function` must be one for Lua to call; it must not panic.
pub unsafe fn with_conn(name: &CStr, function: ffi::lua_CFunction) -> impl PushOne {
    with(move |stack| {
        let upvalues = |stack: Stack<'_>| {
            let name = stack.push_bytes(name.to_bytes());
            (name, (stack.push_registered(METATABLE), stack.push_registered(CACHE)))
        };
        // SAFETY: the caller's.
        unsafe { stack.push_closure(function, upvalues) }
    })
}

/// Adds `websocket` and `socket` to the `mix` table.
pub fn register(mix: &Table<'_>) {
    let methods = table(16, |conn| {
        conn.method(c"client_id", client_id);
        conn.method(c"remote_addr", remote_addr);
        conn.method(c"context", context);
        conn.method(c"context_value", context_value);
        conn.method(c"set_context", set_context);
        conn.method(c"set_context_value", set_context_value);
        conn.waiting_method(c"wait_context_value", wait_context_value);
        conn.waiting_method(c"subscribe", subscribe);
        conn.method(c"unsubscribe", unsubscribe);
        conn.method(c"channels", channels);
        conn.method(c"send", send);
        conn.method(c"close", close);
        conn.method(c"clear_buffer", clear_buffer);
    });
    let class = table(4, |class| {
        class.field(c"__index", methods);
        class.method(c"__tostring", to_string);
        // Scripts can't reach the metatable and change what other handlers call.
        class.field(c"__metatable", false);
    });
    mix.stack().register(METATABLE, class);
    // Slot -> userdata, weak: a handle lives as long as a script holds it, or until the next collection.
    let cache = table(0, |cache| cache.set_metatable(table(1, |weak| weak.field(c"__mode", "v"))));
    mix.stack().register(CACHE, cache);
    // SAFETY: `this_conn` is such a function.
    let (websocket, tcp) = unsafe { (with_conn(c"websocket", this_conn), with_conn(c"tcp", this_conn)) };
    mix.field(c"websocket", websocket);
    mix.field(c"socket", table(1, |socket| socket.field(c"tcp", tcp)));
}

/// `mix.websocket()`, `mix.socket.tcp()` -> conn, or nil and an err. On the raw stack, since most handlers call it for
/// every message.
///
/// # Safety
/// For Lua to call, as [`with_conn`] makes it.
unsafe extern "C-unwind" fn this_conn(state: State) -> c_int {
    // SAFETY: Lua protects the call, which lasts as long as this function.
    let stack = unsafe { Stack::new(state) };
    match current::get().and_then(|current| current.conn) {
        Some(conn) => {
            // SAFETY: a function of `with_conn`.
            _ = unsafe { push_conn(stack, conn) };
            One::COUNT
        }
        None => {
            _ = (stack.push_nil(), "no connection: not inside a handler".push_to(stack));
            <(One, One)>::COUNT
        }
    }
}

/// `self`, whether its connection still lives or not.
fn this(args: &Args) -> Result<ConnRef, Raise> {
    args.slots().handle(1).copied().ok_or_else(|| {
        Raise::Message(format!(
            "not a connection: got {} where conn was expected (call methods with a colon: conn:send(data))",
            args.slots().type_name(1)
        ))
    })
}

/// The engine and the connection of `self`; an inner Err if the connection has ended.
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
pub(crate) fn channel_args(args: &Args) -> Fallible<Named> {
    names(args, args.count())
}

/// Subscribes, or returns why it can't. If other nodes have to know of the subscription, the handler waits until they
/// do: from then on a publish on any of them reaches the connection. Where the handler can't wait, they learn of it a
/// little later.
pub(super) fn subscribe_to(
    args: &Args,
    (host, conn): (Rc<Host>, Rc<Conn>),
    subscription: Subscription,
) -> Outcome<Subscribed> {
    if subscription.from.is_none() && !host.mesh.has_peers() {
        return subscribe_now(args, (&host, &conn), &subscription);
    }
    subscribe_and_wait(args, (host, conn), subscription)
}

/// Apart, since what it waits for makes its frame large.
#[inline(never)]
fn subscribe_and_wait(
    args: &Args,
    (host, conn): (Rc<Host>, Rc<Conn>),
    subscription: Subscription,
) -> Outcome<Subscribed> {
    let subscription = match subscribe_when_asked(args, (&host, &conn), subscription) {
        Ok(asked) => return asked,
        Err(subscription) => subscription,
    };
    if let Some(from) = subscription.from {
        if !can_wait(args) {
            // Before anything is done, it is told why.
            return Outcome::later(async { Subscribed(Err(NOT_HERE.into())) });
        }
        return match subscribe_from((host, conn), (subscription, from)) {
            Ok(subscribed) => Outcome::later(subscribed),
            Err(problem) => Outcome::Now(Subscribed(Err(problem))),
        };
    }
    subscribe_now(args, (&host, &conn), &subscription)
}

/// Nobody has to be asked.
fn subscribe_now(
    args: &Args,
    (host, conn): (&Rc<Host>, &Rc<Conn>),
    Subscription { channels, info, .. }: &Subscription,
) -> Outcome<Subscribed> {
    if let Err(too_many) = host.shard.subscribe_with(conn, channels, info.as_ref()) {
        return Outcome::Now(Subscribed(Err(too_many.to_string())));
    }
    match host.mesh.told(channels).filter(|_| can_wait(args)) {
        Some(told) => until_told(told),
        None => Outcome::Now(Subscribed(Ok(Vec::new()))),
    }
}

#[cold]
fn until_told(told: impl Future<Output = ()> + 'static) -> Outcome<Subscribed> {
    Outcome::later(told.map(|()| Subscribed(Ok(Vec::new()))))
}

fn subscribe(args: &Args) -> Result<Outcome<Subscribed>, Raise> {
    let (live, subscription) = (live(args)?, subscribe_args(args)?);
    Ok(match live.and_then(|live| Ok((live, subscription?))) {
        Ok((live, subscription)) => subscribe_to(args, live, subscription),
        Err(problem) => Outcome::Now(Subscribed(Err(problem))),
    })
}

/// Waits until other nodes have told whether there is a place for a connection in channels with a bound, and brings it into
/// them; Err: nobody has to be asked.
fn subscribe_when_asked(
    args: &Args,
    (host, conn): (&Rc<Host>, &Rc<Conn>),
    subscription: Subscription,
) -> Result<Outcome<Subscribed>, Subscription> {
    let is_bounded = || !host.shard.bounded(conn, &subscription.channels).is_empty();
    if !host.mesh.has_peers() || !is_bounded() || !can_wait(args) {
        return Err(subscription);
    }
    let reserved = match host.shard.reserve(conn, &subscription.channels) {
        Ok(Some(reserved)) => reserved,
        Ok(None) => return Err(subscription),
        Err(full) => return Ok(Outcome::Now(Subscribed(Err(full.to_string())))),
    };
    let (host, conn) = (host.clone(), conn.clone());
    let places = async move {
        if let Some(full) = host.mesh.find_full(&reserved.channels).await {
            return Err(host.shard.no_place(&conn, &subscription.channels, full).to_string());
        }
        drop(reserved);
        if host.shard.get_at(conn.slot, conn.client_id).is_none_or(|conn| conn.is_closing()) {
            return Err(GONE.into());
        }
        if let Some(from) = subscription.from {
            return subscribe_from((host, conn), (subscription, from))?.await.0;
        }
        let Subscription { channels, info, .. } = subscription;
        host.shard.subscribe_with(&conn, &channels, info.as_ref()).map_err(|too_many| too_many.to_string())?;
        if let Some(told) = host.mesh.told(&channels) {
            told.await;
        }
        Ok(Vec::new())
    };
    Ok(Outcome::later(places.map(Subscribed)))
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

/// The kind of message that an optional argument names; text by default.
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
    if kind == Kind::Text && utf8(&data).is_none() {
        return Ok(Err(crate::message::NotUtf8.to_string()));
    }
    Ok(if host.shard.send(&conn, kind, &data) {
        Ok(())
    } else {
        Err(conn.close_reason().and_then(|r| r.error()).unwrap_or_else(|| GONE.into()))
    })
}

/// Drops the received bytes that have not been consumed.
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
pub(crate) fn close_args(args: &Args, first: i32) -> Result<(u16, Box<str>), Raise> {
    let second = first + 1;
    let code = if args.is_nil(first) { f64::from(close_code::NORMAL) } else { args.number(first)? };
    // The conversion saturates to a code that is not valid.
    if code.fract() != 0.0 || !close_code::may_be_sent(code as u16) {
        return Err(Raise::Argument {
            index: first,
            problem: format!("close code expected (1000, 3000 to 4999), got {code}"),
        });
    }
    let reason = args.optional_bytes(second)?.unwrap_or_default();
    let Ok(reason) = std::str::from_utf8(&reason) else {
        return Err(Raise::Argument { index: second, problem: "the reason is not valid UTF-8".into() });
    };
    if reason.len() > MAX_REASON {
        return Err(Raise::Argument { index: second, problem: format!("the reason has more than {MAX_REASON} bytes") });
    }
    Ok((code as u16, reason.into()))
}

fn close(args: &Args) -> Fallible<()> {
    let (live, (code, reason)) = (live(args)?, close_args(args, 1)?);
    Ok(live.map(|(_, conn)| conn.close(CloseReason::Requested { code, reason })))
}
