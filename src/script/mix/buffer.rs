//! `mix.buffer`: the received bytes of a socket connection that its script has not consumed, as `protocol_input` gets
//! them. It is a view: nothing is copied until the script reads.

use std::cell::Cell;
use std::ffi::{CStr, c_int};

use crate::script::current::{self, ConnRef};
use crate::script::push::{One, Pushed, Stack, Table, table, with};
use crate::script::slots;
use crate::script::stack::{Args, Raise, State, throw};

/// What a buffer's userdata holds.
struct Handle {
    conn: ConnRef,
    /// Bytes that `read` has passed.
    position: Cell<usize>,
}

// SAFETY: the static is this type's alone.
unsafe impl slots::Handle for Handle {
    fn tag() -> *const u8 {
        static TAG: u8 = 0;
        &raw const TAG
    }
}

/// The name under which the registry keeps the metatable.
const METATABLE: &CStr = c"connmix.buffer";

/// Makes the metatable.
pub fn register(mix: &Table<'_>) {
    let methods = table(5, |buffer| {
        // SAFETY: both are functions for Lua, and don't panic.
        unsafe {
            buffer.raw(c"tostring", to_string);
            buffer.raw(c"read", read);
        }
        buffer.method(c"position", position);
        buffer.method(c"length", length);
        buffer.method(c"find", find);
    });
    let class = table(3, |class| {
        class.field(c"__index", methods);
        class.method(c"__tostring", describe);
        class.field(c"__metatable", false);
    });
    mix.stack().register(METATABLE, class);
}

/// Pushes a buffer over what a connection has not consumed, at its beginning. After [`register`].
pub fn push_buffer(stack: Stack<'_>, conn: ConnRef) -> One {
    stack.push_handle(Handle { conn, position: Cell::new(0) }, with(|stack| stack.push_registered(METATABLE)))
}

/// `self`.
fn this(args: &Args) -> Result<&Handle, Raise> {
    args.slots().handle(1).ok_or_else(|| {
        Raise::Message(format!(
            "not a buffer: got {} where buf was expected (call methods with a colon: buf:read(n))",
            args.slots().type_name(1)
        ))
    })
}

/// Lends the connection's unconsumed bytes to `look`; an empty slice if the connection has ended.
fn bytes<T>(handle: &Handle, look: impl FnOnce(&[u8]) -> T) -> T {
    let host = current::host();
    let conn = host.and_then(|host| host.shard.get_at(handle.conn.slot, handle.conn.client_id));
    match conn.as_ref().and_then(|conn| conn.received()) {
        Some(received) => look(&received.borrow()),
        None => look(&[]),
    }
}

/// The same as a place in memory, which stays valid until the script goes on. Pushing may raise, so nothing may stay
/// borrowed.
fn place(handle: &Handle) -> *const [u8] {
    bytes(handle, |bytes| &raw const *bytes)
}

fn position(args: &Args) -> Result<f64, Raise> {
    Ok(this(args)?.position.get() as f64)
}

fn length(args: &Args) -> Result<f64, Raise> {
    Ok(bytes(this(args)?, |bytes| bytes.len() as f64))
}

/// `buf:find(text[, from])`: where `text` first stands, from 1; nil if it is not there. Looks at the bytes as they are.
fn find(args: &Args) -> Result<Option<f64>, Raise> {
    let (handle, text) = (this(args)?, args.bytes(1)?);
    let from = if args.is_nil(2) { 1.0 } else { args.number(2)? };
    let skip = (from.max(1.0) - 1.0) as usize;
    Ok(bytes(handle, |bytes| memchr::memmem::find(bytes.get(skip..)?, &text)).map(|at| (skip + at + 1) as f64))
}

fn describe(args: &Args) -> Result<String, Raise> {
    Ok(format!("buffer of {} bytes", bytes(this(args)?, <[u8]>::len)))
}

/// `buf:tostring()`: all bytes, whatever the position.
///
/// # Safety
/// For Lua to call, with its name as upvalue.
unsafe extern "C-unwind" fn to_string(state: State) -> c_int {
    // SAFETY: Lua protects the call, which lasts as long as this function.
    let (args, stack) = unsafe { (Args::new(state, 1), Stack::new(state)) };
    match this(&args).map(place) {
        Ok(place) => {
            // SAFETY: nothing takes or adds bytes of the connection while its worker is in this function.
            _ = stack.push_bytes(unsafe { &*place });
            One::COUNT
        }
        // SAFETY: as Lua calls it.
        Err(raise) => unsafe { throw(state, raise) },
    }
}

/// `s, err = buf:read(n)`: the next `n` bytes; all or none.
///
/// # Safety
/// For Lua to call, with its name as upvalue.
unsafe extern "C-unwind" fn read(state: State) -> c_int {
    // SAFETY: Lua protects the call, which lasts as long as this function.
    let (args, stack) = unsafe { (Args::new(state, 1), Stack::new(state)) };
    _ = match wanted(&args) {
        Ok((place, Some(range))) => {
            // SAFETY: nothing takes or adds bytes of the connection while its worker is in this function.
            let bytes = unsafe { &*place }.get(range).unwrap_or_default();
            (stack.push_bytes(bytes), stack.push_nil())
        }
        Ok((place, None)) => {
            let nil = stack.push_nil();
            (nil, stack.push_bytes(format!("only {} bytes have come", place.len()).as_bytes()))
        }
        // SAFETY: as Lua calls it.
        Err(raise) => unsafe { throw(state, raise) },
    };
    <(One, One)>::COUNT
}

/// Where all bytes of a buffer are, and the range to read. Moves the position past that range. No range if there are
/// too few bytes.
fn wanted(args: &Args) -> Result<(*const [u8], Option<std::ops::Range<usize>>), Raise> {
    let (handle, n) = (this(args)?, args.number(1)?);
    if !(n >= 0.0 && n.fract() == 0.0) {
        return Err(Raise::Argument { index: 1, problem: format!("number of bytes expected, got {n}") });
    }
    let place = place(handle);
    let start = handle.position.get().min(place.len());
    // A number larger than any memory saturates, and so exceeds the length.
    let end = start.saturating_add(n as usize);
    if end > place.len() {
        return Ok((place, None));
    }
    handle.position.set(end);
    Ok((place, Some(start..end)))
}
