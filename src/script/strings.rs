//! `string.find`, `match`, `gmatch` and `gsub` with a matcher that can be stopped.
//!
//! They behave as LuaJIT's own functions, down to the error messages. The difference: a match that outlasts the running
//! handler's time raises an error instead of blocking the worker's thread.
//!
//! The functions are written for the raw stack, and own nothing on the heap: subject and pattern are slices of Lua strings
//! that the stack (or an upvalue) keeps alive, the matcher and the counters are plain data in the frame, and what `gsub` gathers
//! stands in the frame or in a Lua userdata (`gsub::Output` tells more). Nothing here panics.
//!
//! Each of them is for Lua to call: that is what protects it, and gives it a stack of its own with room for 20 values.

mod functions;
mod gsub;
#[cfg(test)]
mod tests;

pub use functions::register;
pub(super) use gsub::native_stack_used;
use mlua::ffi;
use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::slice;

use crate::script::pattern::{self, Budget, Capture, Error, Matcher, STEPS_PER_CHECK};
use crate::script::push::push_bytes;
use crate::script::stack::State;
use crate::script::watchdog;

/// Whether the running handler is over its time.
fn time_is_up() -> bool {
    watchdog::expired()
}

thread_local! {
    /// The steps until the next check of the clock. They carry over from call to call, since many short matches take as
    /// long as one long match.
    static STEPS_LEFT: Cell<u32> = const { Cell::new(STEPS_PER_CHECK) };
}

fn budget() -> Budget<'static> {
    Budget::new(STEPS_LEFT.get(), &time_is_up)
}

/// Raises a matcher's error with the script's position in front.
///
/// # Safety
/// `state` must be the running native function's.
unsafe fn raise(state: State, error: Error) -> ! {
    // SAFETY: the caller's. The two that are joined are those that are pushed; the format takes one text.
    unsafe {
        if error == Error::OutOfTime {
            // The same text as for any other script that exceeds its time.
            ffi::luaL_where(state, 1);
            push_bytes(state, watchdog::OVER_BUDGET.as_bytes());
            ffi::lua_concat(state, 2);
            ffi::lua_error(state)
        }
        ffi::luaL_error(state, c"%s".as_ptr(), error.text().as_ptr());
        // luaL_error never returns, though its declaration says so.
        ffi::lua_error(state)
    }
}

/// The string argument at `slot`; a number there becomes its text in place, and what is no string is an error.
///
/// # Safety
/// `state` must be the running native function's; `slot` must be above 0, and must keep its value as long as the slice is used.
#[inline]
unsafe fn argument<'a>(state: State, slot: c_int) -> &'a [u8] {
    // SAFETY: the caller's. LuaJIT returns the start of as many bytes as it tells, or raises.
    unsafe {
        let mut length = 0;
        let start = ffi::luaL_checklstring(state, slot, &mut length);
        slice::from_raw_parts(start.cast(), length)
    }
}

/// The part of a pattern that the matcher sees: a zero byte ends patterns in LuaJIT (`%z` matches one).
#[inline]
fn visible(pattern: &[u8]) -> &[u8] {
    let end = pattern.iter().position(|&c| c == 0).unwrap_or(pattern.len());
    pattern.get(..end).unwrap_or_default()
}

/// Pushes one capture of the last match.
///
/// # Safety
/// `state` must be the running native function's.
#[inline]
unsafe fn push_capture(state: State, matcher: &Matcher, subject: &[u8], index: usize) {
    // SAFETY: the caller's.
    unsafe {
        match matcher.capture(index) {
            Ok(Capture::Text(range)) => push_bytes(state, subject.get(range).unwrap_or_default()),
            Ok(Capture::Position(offset)) => ffi::lua_pushinteger(state, offset as ffi::lua_Integer + 1),
            Err(error) => raise(state, error),
        }
    }
}

/// Pushes the first `count` captures of the last match.
///
/// # Safety
/// `state` must be the running native function's.
#[inline]
unsafe fn push_captures(state: State, matcher: &Matcher, subject: &[u8], count: usize) -> c_int {
    // SAFETY: the caller's.
    unsafe {
        // A native function has 20 slots for the asking; none of ours holds more than 8 otherwise.
        if count > 12 {
            ffi::luaL_checkstack(state, count as c_int, c"too many captures".as_ptr());
        }
        for index in 0..count {
            push_capture(state, matcher, subject, index);
        }
        count as c_int
    }
}

/// From how many bytes on a search for plain text is counted. A single search is quick and can't explode, but a loop of
/// them may take long.
const LONG: usize = 4096;

/// # Safety
/// For Lua to call.
unsafe extern "C-unwind" fn find(state: State) -> c_int {
    // SAFETY: called by Lua.
    unsafe { find_or_match::<true>(state) }
}

/// # Safety
/// For Lua to call.
unsafe extern "C-unwind" fn match_(state: State) -> c_int {
    // SAFETY: called by Lua.
    unsafe { find_or_match::<false>(state) }
}

/// # Safety
/// `state` must be the running native function's.
#[inline(always)]
unsafe fn find_or_match<const FIND: bool>(state: State) -> c_int {
    // SAFETY: the caller's. The arguments keep their slots until the end, and with them the subject and the pattern.
    unsafe {
        let subject = argument(state, 1);
        let pattern = argument(state, 2);
        let from = start_of_search(ffi::luaL_optinteger(state, 3, 1) as i64, subject.len());
        if FIND && (ffi::lua_toboolean(state, 4) != 0 || !pattern::has_specials(pattern)) {
            let rest = subject.get(from..).unwrap_or_default();
            if rest.len() > LONG {
                let mut budget = budget();
                let paid = budget.spend(rest.len() / 64);
                STEPS_LEFT.set(budget.left());
                if let Err(error) = paid {
                    raise(state, error);
                }
            }
            let Some(offset) = memchr::memmem::find(rest, pattern) else {
                ffi::lua_pushnil(state);
                return 1;
            };
            let start = from + offset;
            ffi::lua_pushinteger(state, start as ffi::lua_Integer + 1);
            ffi::lua_pushinteger(state, (start + pattern.len()) as ffi::lua_Integer);
            return 2;
        }
        let (anchored, pattern) = pattern::split_anchor(visible(pattern));
        let mut matcher = Matcher::new(subject, pattern, budget());
        let found = if anchored { matcher.match_at(from) } else { matcher.find(from) };
        STEPS_LEFT.set(matcher.steps_left());
        match found {
            Ok(true) => {}
            Ok(false) => {
                ffi::lua_pushnil(state);
                return 1;
            }
            Err(error) => raise(state, error),
        }
        if FIND {
            let whole = matcher.whole();
            ffi::lua_pushinteger(state, whole.start as ffi::lua_Integer + 1);
            ffi::lua_pushinteger(state, whole.end as ffi::lua_Integer);
            2 + push_captures(state, &matcher, subject, matcher.captures())
        } else {
            push_captures(state, &matcher, subject, matcher.captures().max(1))
        }
    }
}

/// The offset that a search from Lua's `init` starts at: it counts from 1, or from the end if it is negative. A number
/// beyond 32 bits counts as the most negative one, as LuaJIT's own conversion has it on x86-64.
fn start_of_search(init: i64, length: usize) -> usize {
    let init = i64::from(i32::try_from(init).unwrap_or(i32::MIN));
    let start = if init < 0 { init.saturating_add_unsigned(length as u64) } else { init - 1 };
    (start.max(0) as usize).min(length)
}

/// gmatch's Lua half. A native closure for each iteration would be slow: LuaJIT compiles a loop for the one native
/// function that it saw there, and would compile the loop again for each new closure, hundreds of times. It recognizes
/// closures of Lua code by their code. Both natives are tail-called, so errors name the caller: its position, and
/// gmatch by the name that it was called by.
const GMATCH: &CStr = c"
local step, converter, type = ...
local convert
local function gmatch(...)
    local subject, pattern = ...
    if type(subject) ~= 'string' or type(pattern) ~= 'string' then return convert(...) end
    local place = { subject, pattern, 0 }
    return function() return step(place[1], place[2], place[3], place) end
end
convert = converter(gmatch)
return gmatch";

/// Sets gmatch in the `string` table.
///
/// # Safety
/// `state` must be alive and in a protected call, with that table at the top of its stack.
unsafe fn set_gmatch(state: State) {
    // SAFETY: the caller's. The code takes three arguments and returns one value; both natives are functions for Lua.
    unsafe {
        let code = GMATCH.to_bytes();
        if ffi::luaL_loadbuffer(state, code.as_ptr().cast(), code.len(), c"=string.gmatch".as_ptr()) != 0 {
            ffi::lua_error(state);
        }
        ffi::lua_pushcfunction(state, gmatch_step);
        ffi::lua_pushcfunction(state, gmatch_converter);
        ffi::lua_getglobal(state, c"type".as_ptr());
        ffi::lua_call(state, 3, 1);
        ffi::lua_setfield(state, -2, c"gmatch".as_ptr());
    }
}

/// # Safety
/// For Lua to call.
unsafe extern "C-unwind" fn gmatch_converter(state: State) -> c_int {
    // SAFETY: called by Lua; the closure has the upvalue that it wants.
    unsafe {
        ffi::lua_settop(state, 1);
        ffi::lua_pushcclosure(state, gmatch_convert, 1);
        1
    }
}

/// Calls gmatch, upvalue 1, with its arguments made strings, or raises that they can't be.
///
/// # Safety
/// For Lua to call.
unsafe extern "C-unwind" fn gmatch_convert(state: State) -> c_int {
    // SAFETY: called by Lua. The slices of the arguments are not used, so they need not stay.
    unsafe {
        argument(state, 1);
        argument(state, 2);
        ffi::lua_settop(state, 2);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        ffi::lua_insert(state, 1);
        ffi::lua_call(state, 2, 1);
        1
    }
}

/// # Safety
/// For Lua to call.
unsafe extern "C-unwind" fn gmatch_step(state: State) -> c_int {
    // SAFETY: called by Lua. The arguments keep their slots until the end, and the fourth is a table, or an error is raised.
    unsafe {
        let subject = argument(state, 1);
        let pattern = visible(argument(state, 2));
        let from = ffi::lua_tonumber(state, 3) as usize;
        ffi::luaL_checktype(state, 4, ffi::LUA_TTABLE);
        // No anchor here: it would end every iteration at its first match, so `^` stands for itself.
        let mut matcher = Matcher::new(subject, pattern, budget());
        let found = matcher.find(from);
        STEPS_LEFT.set(matcher.steps_left());
        match found {
            Ok(true) => {}
            Ok(false) => return 0,
            Err(error) => raise(state, error),
        }
        let whole = matcher.whole();
        // An empty match would be found again without end.
        let next = if whole.is_empty() { whole.end + 1 } else { whole.end };
        ffi::lua_pushnumber(state, next as ffi::lua_Number);
        ffi::lua_rawseti_(state, 4, 3);
        push_captures(state, &matcher, subject, matcher.captures().max(1))
    }
}
