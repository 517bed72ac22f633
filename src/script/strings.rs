//! `string.find`, `match`, `gmatch` and `gsub` on the matcher that can be stopped.
//!
//! They do what LuaJIT's own do, to the letter of their error messages; what differs is that a match which outlasts the
//! running handler's time raises an error instead of keeping the worker's thread.
//!
//! The functions are written for the raw stack: each calls what may raise a Lua error in the midst of its work, and
//! LuaJIT then unwinds straight through its frame. So they own nothing that has a destructor: subject and pattern are
//! slices of Lua strings that the stack (or an upvalue) keeps alive, the matcher and the counters are plain data in the
//! frame, and what `gsub` gathers stands in the frame or in a Lua userdata (`gsub::Output` tells more). Nothing
//! here panics.

mod gsub;
#[cfg(test)]
mod tests;

use mlua::ffi;
use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::slice;

use crate::script::pattern::{self, Budget, Capture, Error, Matcher, STEPS_PER_CHECK};
use crate::script::stack::{State, set_raw};

/// Whether the running handler is over its time.
fn time_is_up() -> bool {
    crate::script::guard::expired()
}

thread_local! {
    /// The steps until the next look at the clock. They carry over from call to call: many short matches are as long as
    /// one long match.
    static STEPS_LEFT: Cell<u32> = const { Cell::new(STEPS_PER_CHECK) };
}

fn budget() -> Budget<'static> {
    Budget::new(STEPS_LEFT.get(), &time_is_up)
}

/// Replaces the pattern functions in the `string` table, which is at the top of the stack and stays there. The methods
/// of strings follow: their metatable's `__index` is that table.
///
/// # Safety
/// `state` must be valid and in a protected call.
pub unsafe fn register(state: State) {
    unsafe {
        set_raw(state, c"find", find);
        set_raw(state, c"match", match_);
        set_raw(state, c"gmatch", gmatch);
        set_raw(state, c"gsub", gsub::gsub);
        // The old name of gmatch, where the library was built to have it.
        ffi::lua_getfield(state, -1, c"gfind".as_ptr());
        if ffi::lua_type(state, -1) != ffi::LUA_TNIL {
            set_raw_below(state, c"gfind", gmatch);
        }
        ffi::lua_pop(state, 1);
    }
}

/// As [`set_raw`] for a table just below the top of the stack.
unsafe fn set_raw_below(state: State, name: &CStr, function: ffi::lua_CFunction) {
    unsafe {
        ffi::lua_pushvalue(state, -2);
        set_raw(state, name, function);
        ffi::lua_pop(state, 1);
    }
}

/// Raises a matcher's error with the script's position in front.
unsafe fn raise(state: State, error: Error) -> ! {
    unsafe {
        ffi::luaL_error(state, c"%s".as_ptr(), error.text().as_ptr());
        // luaL_error never returns, though its declaration says so.
        ffi::lua_error(state)
    }
}

/// The string argument at `slot`; a number there becomes its text in place. The slice lives while the slot keeps it.
#[inline]
unsafe fn argument<'a>(state: State, slot: c_int) -> &'a [u8] {
    unsafe {
        let mut length = 0;
        let start = ffi::luaL_checklstring(state, slot, &mut length);
        slice::from_raw_parts(start.cast(), length)
    }
}

/// As much of a pattern as the matcher is to see: a zero byte ends patterns in LuaJIT (`%z` is for matching one).
#[inline]
fn visible(pattern: &[u8]) -> &[u8] {
    let end = pattern.iter().position(|&c| c == 0).unwrap_or(pattern.len());
    pattern.get(..end).unwrap_or_default()
}

/// Pushes bytes by Lua's function itself: the binding's usual one reads back what it pushed, which shows in short calls.
#[inline]
unsafe fn push_slice(state: State, bytes: &[u8]) {
    unsafe { ffi::lua_pushlstring_(state, bytes.as_ptr().cast(), bytes.len()) }
}

/// Pushes one capture of the last match.
#[inline]
unsafe fn push_capture(state: State, matcher: &Matcher, subject: &[u8], index: usize) {
    unsafe {
        match matcher.capture(index) {
            Ok(Capture::Text(range)) => push_slice(state, subject.get(range).unwrap_or_default()),
            Ok(Capture::Position(offset)) => ffi::lua_pushinteger(state, offset as ffi::lua_Integer + 1),
            Err(error) => raise(state, error),
        }
    }
}

/// Pushes the first `count` captures of the last match.
#[inline]
unsafe fn push_captures(state: State, matcher: &Matcher, subject: &[u8], count: usize) -> c_int {
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

unsafe extern "C-unwind" fn find(state: State) -> c_int {
    unsafe { find_or_match::<true>(state) }
}

unsafe extern "C-unwind" fn match_(state: State) -> c_int {
    unsafe { find_or_match::<false>(state) }
}

#[inline(always)]
unsafe fn find_or_match<const FIND: bool>(state: State) -> c_int {
    unsafe {
        let subject = argument(state, 1);
        let pattern = argument(state, 2);
        let from = start_of_search(ffi::luaL_optinteger(state, 3, 1) as i64, subject.len());
        if FIND && (ffi::lua_toboolean(state, 4) != 0 || !pattern::has_specials(pattern)) {
            let rest = subject.get(from..).unwrap_or_default();
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

/// Where gmatch's iterator stands: upvalue 1, a userdata. The strings that it points into are upvalues 2 and 3.
struct Iteration {
    subject: *const [u8],
    pattern: *const [u8],
    /// Where the next search starts.
    offset: usize,
}

unsafe extern "C-unwind" fn gmatch(state: State) -> c_int {
    unsafe {
        let subject = argument(state, 1);
        let pattern = visible(argument(state, 2));
        ffi::lua_settop(state, 2);
        let iteration = ffi::lua_newuserdata(state, size_of::<Iteration>()).cast::<Iteration>();
        iteration.write(Iteration { subject, pattern, offset: 0 });
        ffi::lua_insert(state, 1);
        ffi::lua_pushcclosure(state, gmatch_next, 3);
        1
    }
}

unsafe extern "C-unwind" fn gmatch_next(state: State) -> c_int {
    unsafe {
        let iteration = ffi::lua_touserdata(state, ffi::lua_upvalueindex(1)).cast::<Iteration>();
        let Some(&Iteration { subject, pattern, offset }) = iteration.as_ref() else { return 0 };
        let subject = &*subject;
        // No anchor here: it would end every iteration at its first match, so `^` stands for itself.
        let mut matcher = Matcher::new(subject, &*pattern, budget());
        let found = matcher.find(offset);
        STEPS_LEFT.set(matcher.steps_left());
        match found {
            Ok(true) => {}
            Ok(false) => return 0,
            Err(error) => raise(state, error),
        }
        let whole = matcher.whole();
        // An empty match would be found again for ever.
        (*iteration).offset = if whole.is_empty() { whole.end + 1 } else { whole.end };
        push_captures(state, &matcher, subject, matcher.captures().max(1))
    }
}
