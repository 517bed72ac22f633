//! What stands on a Lua stack, read without a call that may raise. Below all that is made of it: arguments, watching,
//! tracebacks.

use mlua::ffi;
use std::borrow::Cow;
use std::ffi::c_int;

/// The Lua thread (coroutine or main) that a native function runs on.
pub type State = *mut ffi::lua_State;

/// What Lua calls the type of the value at a stack index.
///
/// # Safety
/// `state` must be valid.
pub unsafe fn type_name(state: State, slot: c_int) -> &'static str {
    match unsafe { ffi::lua_type(state, slot) } {
        ffi::LUA_TNONE => "no value",
        ffi::LUA_TNIL => "nil",
        ffi::LUA_TBOOLEAN => "boolean",
        ffi::LUA_TNUMBER => "number",
        ffi::LUA_TSTRING => "string",
        ffi::LUA_TTABLE => "table",
        ffi::LUA_TFUNCTION => "function",
        ffi::LUA_TTHREAD => "thread",
        _ => "userdata",
    }
}

/// Lua's own text of a number (`%.14g`).
pub fn number_text(n: f64) -> Vec<u8> {
    let mut buf = [0u8; 40];
    let len = unsafe { libc::snprintf(buf.as_mut_ptr().cast(), buf.len(), c"%.14g".as_ptr(), n) };
    buf[..(len.max(0) as usize).min(buf.len() - 1)].to_vec()
}

/// The bytes of a string or number at a stack index, without converting it in place (that would allocate in Lua).
///
/// # Safety
/// `state` must be valid; the result must not outlive the stack slot.
pub unsafe fn bytes_at<'a>(state: State, slot: c_int) -> Option<Cow<'a, [u8]>> {
    unsafe {
        match ffi::lua_type(state, slot) {
            ffi::LUA_TSTRING => {
                let mut len = 0;
                let p = ffi::lua_tolstring(state, slot, &mut len);
                Some(Cow::Borrowed(std::slice::from_raw_parts(p.cast(), len)))
            }
            ffi::LUA_TNUMBER => Some(Cow::Owned(number_text(ffi::lua_tonumber(state, slot)))),
            _ => None,
        }
    }
}
