//! `mix.buffer`: what a socket server's client has sent and its script has not consumed, as `protocol_input` sees it. It is
//! a view: nothing is copied till the script reads.

use mlua::ffi;
use std::cell::Cell;
use std::ffi::{CStr, c_int};

use crate::script::current::{self, ConnRef};
use crate::script::stack::{Args, Raise, State, push_bytes, set_method, set_raw, throw, type_name};

/// What a buffer's userdata holds. The tag tells it from any other userdata.
#[repr(C)]
struct Handle {
    tag: *const u8,
    conn: ConnRef,
    /// Bytes that `read` has passed.
    position: Cell<usize>,
}

static TAG: u8 = 0;

/// The name under which the registry keeps the metatable.
const METATABLE: &CStr = c"connmix.buffer";

/// Makes the metatable.
///
/// # Safety
/// `state` must be valid and in a protected call.
pub unsafe fn register(state: State) {
    unsafe {
        ffi::lua_createtable(state, 0, 3);
        ffi::lua_createtable(state, 0, 5);
        set_raw(state, c"tostring", to_string);
        set_raw(state, c"read", read);
        set_method(state, c"position", position);
        set_method(state, c"length", length);
        set_method(state, c"find", find);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        set_method(state, c"__tostring", describe);
        ffi::lua_pushboolean(state, 0);
        ffi::lua_setfield(state, -2, c"__metatable".as_ptr());
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());
    }
}

/// Pushes a buffer over what a connection has not consumed, at its beginning.
///
/// # Safety
/// `state` must be valid and in a protected call, after [`register`].
pub unsafe fn push_buffer(state: State, conn: ConnRef) {
    unsafe {
        let handle = ffi::lua_newuserdata(state, size_of::<Handle>()).cast::<Handle>();
        handle.write(Handle { tag: &raw const TAG, conn, position: Cell::new(0) });
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());
        ffi::lua_setmetatable(state, -2);
    }
}

/// `self`.
fn this(args: &Args) -> Result<&Handle, Raise> {
    unsafe {
        let state = args.state();
        if ffi::lua_type(state, 1) == ffi::LUA_TUSERDATA && ffi::lua_objlen(state, 1) == size_of::<Handle>() {
            let handle = &*ffi::lua_touserdata(state, 1).cast::<Handle>();
            if std::ptr::eq(handle.tag, &raw const TAG) {
                return Ok(handle);
            }
        }
        Err(Raise::Message(format!(
            "not a buffer: got {} where buf was expected (call methods with a colon: buf:read(n))",
            type_name(state, 1)
        )))
    }
}

/// What the connection has not consumed, lent to `look`; nothing when it has ended.
fn bytes<T>(handle: &Handle, look: impl FnOnce(&[u8]) -> T) -> T {
    let host = current::host();
    let conn = host.and_then(|host| host.shard.get_at(handle.conn.slot, handle.conn.client_id));
    match conn.as_ref().and_then(|conn| conn.received()) {
        Some(received) => look(&received.borrow()),
        None => look(&[]),
    }
}

/// The same as a place in memory, which stays as it is until the script goes on: pushing may raise, and must not leave
/// anything borrowed.
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

/// `buf:tostring()`: all of it, wherever the position is.
unsafe extern "C-unwind" fn to_string(state: State) -> c_int {
    unsafe {
        match this(&Args::new(state, 1)).map(place) {
            Ok(place) => push_bytes(state, &*place),
            Err(raise) => throw(state, raise),
        }
    }
    1
}

/// `s, err = buf:read(n)`: the next `n` bytes; all or none.
unsafe extern "C-unwind" fn read(state: State) -> c_int {
    let args = unsafe { Args::new(state, 1) };
    // Where all of them are, and which to take; none when there are too few.
    type Wanted = (*const [u8], Option<std::ops::Range<usize>>);
    let wanted = || -> Result<Wanted, Raise> {
        let (handle, n) = (this(&args)?, args.number(1)?);
        if !(n >= 0.0 && n.fract() == 0.0) {
            return Err(Raise::Argument { index: 1, problem: format!("number of bytes expected, got {n}") });
        }
        let place = place(handle);
        let start = handle.position.get().min(place.len());
        // A number beyond all memory saturates, and is more than there is.
        let end = start.saturating_add(n as usize);
        if end > place.len() {
            return Ok((place, None));
        }
        handle.position.set(end);
        Ok((place, Some(start..end)))
    };
    unsafe {
        match wanted() {
            Ok((place, Some(range))) => {
                push_bytes(state, (&*place).get(range).unwrap_or_default());
                ffi::lua_pushnil(state);
            }
            Ok((place, None)) => {
                ffi::lua_pushnil(state);
                ffi::lua_pushfstring(state, c"only %d bytes have come".as_ptr(), place.len() as c_int);
            }
            Err(raise) => throw(state, raise),
        }
    }
    2
}
