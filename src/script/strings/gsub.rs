//! `string.gsub`.

use mlua::ffi;
use std::cell::Cell;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::slice;

use super::{STEPS_LEFT, argument, budget, push_capture, push_captures, raise, visible};
use crate::script::pattern::{self, Capture, Matcher};
use crate::script::push::push_bytes;
use crate::script::stack::State;

/// gsub's stack: the three arguments that are read again and again, then the [`Output`]'s memory.
const REPLACEMENT: c_int = 3;
const MEMORY: c_int = 4;

/// How many bytes of gsub's result are gathered in its own frame before it takes memory of Lua's.
const IN_FRAME: usize = 1024;

/// gsub's result in the making: short ones in gsub's frame, longer ones in a userdata anchored on the stack. That counts against
/// the script's limit of memory, as every string does, which a `Vec` would not.
///
/// `start` is the beginning of `capacity` bytes, of which the first `length` are written: in a frame that outlives this, or in the
/// userdata at [`MEMORY`], which only `grow` replaces. `state` is the running function's.
struct Output {
    state: State,
    start: *mut u8,
    length: usize,
    capacity: usize,
}

impl Output {
    /// Appends bytes. May raise a memory error.
    ///
    /// # Safety
    /// [`MEMORY`] must be a slot of its own, and `bytes` must not be of this very output.
    #[inline]
    unsafe fn append(&mut self, bytes: &[u8]) {
        // SAFETY: the caller's. There is room behind what is written.
        unsafe {
            if bytes.len() > self.capacity - self.length {
                self.grow(bytes.len());
            }
            self.start.add(self.length).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        self.length += bytes.len();
    }

    /// Makes room for so many bytes more.
    ///
    /// # Safety
    /// As [`Output::append`].
    #[cold]
    unsafe fn grow(&mut self, more: usize) {
        // SAFETY: the caller's. The new memory is larger than what is copied into it, and takes the place of the old one.
        unsafe {
            // A size that can't be had raises in lua_newuserdata.
            let capacity = self.length.saturating_add(more).max(self.capacity.saturating_mul(2));
            let start = ffi::lua_newuserdata(self.state, capacity).cast::<u8>();
            start.copy_from_nonoverlapping(self.start, self.length);
            ffi::lua_replace(self.state, MEMORY);
            (self.start, self.capacity) = (start, capacity);
        }
    }
}

/// How much of the native stack gsub calls within gsub's callbacks may take: some 200 levels, and a fraction of what a
/// thread has.
const STACK_LIMIT: usize = 512 * 1024;

thread_local! {
    /// The highest stack address that a call was seen at on this thread.
    static STACK_TOP: Cell<usize> = const { Cell::new(0) };
}

/// How far down the native stack this call is, roughly. Each callback that calls gsub again takes some more of it.
/// LuaJIT's own limit would not protect a thread of common size: a script's endless recursion would end the process. A
/// plain count of the levels would not work, since nothing counts down when an error unwinds them.
pub(in crate::script) fn native_stack_used() -> usize {
    let marker = 0u8;
    let here = (&raw const marker).addr();
    let top = STACK_TOP.get();
    if here > top {
        STACK_TOP.set(here);
    }
    top.saturating_sub(here)
}

/// # Safety
/// For Lua to call.
pub(super) unsafe extern "C-unwind" fn gsub(state: State) -> c_int {
    // SAFETY: called by Lua. The arguments keep their slots until the end, and with them subject, pattern and replacement; the slot
    // behind them is the output's, which is not used by anybody else. `frame` outlives the output.
    unsafe {
        let subject = argument(state, 1);
        let pattern = visible(argument(state, 2));
        let kind = ffi::lua_type(state, REPLACEMENT);
        // The cut to 32 bits is LuaJIT's.
        let limit = ffi::luaL_optinteger(state, 4, subject.len() as ffi::lua_Integer + 1) as i32;
        let replacement = match kind {
            ffi::LUA_TSTRING | ffi::LUA_TNUMBER => argument(state, REPLACEMENT),
            ffi::LUA_TFUNCTION | ffi::LUA_TTABLE => &[],
            _ => {
                ffi::luaL_argerror(state, REPLACEMENT, c"string/function/table expected".as_ptr());
                return 0;
            }
        };
        ffi::lua_settop(state, REPLACEMENT);
        ffi::lua_pushnil(state);
        if native_stack_used() > STACK_LIMIT {
            ffi::luaL_error(state, c"stack overflow".as_ptr());
            return 0;
        }
        let mut frame = MaybeUninit::<[u8; IN_FRAME]>::uninit();
        let mut output = Output { state, start: frame.as_mut_ptr().cast(), length: 0, capacity: IN_FRAME };
        let (anchored, pattern) = pattern::split_anchor(pattern);
        let mut matcher = Matcher::new(subject, pattern, budget());
        let literal = memchr::memchr(b'%', replacement).is_none();
        let mut count = 0;
        // How far the subject was searched, and how far it was copied. Text between the matches, and matches that are
        // kept, are copied together in front of the next replacement.
        let (mut from, mut done) = (0, 0);
        while count < limit && from <= subject.len() {
            let found = if anchored { matcher.match_at(from) } else { matcher.find(from) };
            match found {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => raise(state, error),
            }
            let whole = matcher.whole();
            count += 1;
            let kept = subject.get(done..whole.start).unwrap_or_default();
            let replaced = if kind == ffi::LUA_TFUNCTION || kind == ffi::LUA_TTABLE {
                computed(&mut output, kind, &matcher, subject, kept)
            } else {
                output.append(kept);
                if literal {
                    output.append(replacement);
                } else {
                    expanded(&mut output, replacement, &matcher, subject);
                }
                true
            };
            if replaced {
                done = whole.end;
            }
            from = if whole.is_empty() { whole.end + 1 } else { whole.end };
            if anchored {
                break;
            }
        }
        STEPS_LEFT.set(matcher.steps_left());
        if done == 0 && output.length == 0 {
            ffi::lua_pushvalue(state, 1);
        } else {
            output.append(subject.get(done..).unwrap_or_default());
            push_bytes(state, slice::from_raw_parts(output.start, output.length));
        }
        ffi::lua_pushinteger(state, count as ffi::lua_Integer);
        2
    }
}

/// Appends what a replacement function or table says, with `kept` in front of it; or nothing at all, and returns false,
/// if it says to leave the match alone.
///
/// # Safety
/// As [`Output::append`]; the replacement must be a function or a table, as `kind` says.
unsafe fn computed(output: &mut Output, kind: c_int, matcher: &Matcher, subject: &[u8], kept: &[u8]) -> bool {
    let state = output.state;
    // SAFETY: the caller's. The captures are all of the function's arguments, and it returns one value, as the table does; that stays
    // on the stack while its bytes are copied.
    unsafe {
        if kind == ffi::LUA_TFUNCTION {
            ffi::lua_pushvalue(state, REPLACEMENT);
            let arguments = push_captures(state, matcher, subject, matcher.captures().max(1));
            ffi::lua_call(state, arguments, 1);
        } else {
            push_capture(state, matcher, subject, 0);
            ffi::lua_gettable(state, REPLACEMENT);
        }
        let replaced = ffi::lua_toboolean(state, -1) != 0;
        if replaced {
            let mut length = 0;
            let start = ffi::lua_tolstring(state, -1, &mut length);
            if start.is_null() {
                let got = ffi::luaL_typename(state, -1);
                ffi::luaL_error(state, c"invalid replacement value (a %s)".as_ptr(), got);
                return false;
            }
            output.append(kept);
            // The value stays on the stack, so that its bytes stay where they are.
            output.append(slice::from_raw_parts(start.cast(), length));
        }
        ffi::lua_pop(state, 1);
        replaced
    }
}

/// Appends a replacement string: `%0` is the match, `%1` to `%9` are captures, and any other character behind a `%`
/// stands for itself.
///
/// # Safety
/// As [`Output::append`], of the replacement and the subject.
unsafe fn expanded(output: &mut Output, replacement: &[u8], matcher: &Matcher, subject: &[u8]) {
    let mut rest = replacement;
    // SAFETY: the caller's.
    unsafe {
        while let Some(percent) = rest.iter().position(|&c| c == b'%') {
            let (plain, escape) = rest.split_at(percent);
            output.append(plain);
            // A `%` at the very end escapes the zero byte that ends every Lua string.
            let c = escape.get(1).copied().unwrap_or(0);
            rest = escape.get(2..).unwrap_or_default();
            if !c.is_ascii_digit() {
                output.append(&[c]);
                continue;
            }
            let capture = match c {
                b'0' => Ok(Capture::Text(matcher.whole())),
                _ => matcher.capture(usize::from(c - b'1')),
            };
            match capture {
                Ok(Capture::Text(range)) => output.append(subject.get(range).unwrap_or_default()),
                Ok(Capture::Position(offset)) => append_number(output, offset + 1),
                Err(error) => raise(output.state, error),
            }
        }
        output.append(rest);
    }
}

/// Appends a number's decimal digits.
///
/// # Safety
/// As [`Output::append`].
unsafe fn append_number(output: &mut Output, mut number: usize) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    while let Some(digit) = start.checked_sub(1).and_then(|i| digits.get_mut(i)) {
        *digit = b'0' + (number % 10) as u8;
        start -= 1;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    // SAFETY: the caller's; the digits are of this frame.
    unsafe { output.append(digits.get(start..).unwrap_or_default()) }
}
