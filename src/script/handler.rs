//! Message handlers of `xpcall`. Lua runs a message handler where the error is raised, on top of the failed stack, so
//! that it can report where that was. LuaJIT alone could not stop a handler that loops: an error raised by a hook (the
//! watchdog's) is handled inside the hook, where no hook is called. So LuaJIT gets a native function instead. It checks
//! the time first and then runs the script's handler in a coroutine, which has its own errors and can be stopped.
//!
//! A handler that waits can't keep the failed stack, since `xpcall` has to return eventually. The stack is then
//! unwound, and the prelude continues the coroutine.

use mlua::ffi;
use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::ptr;

use super::push::{One, Stack, push_bytes, table};
use super::slots::Slots;
use super::stack::State;
use super::{strings, wait, watchdog};

/// How much of the native stack coroutines inside one another may take: far less than a worker has
/// ([`crate::worker::STACK`]), so that the innermost can still fill its Lua stack with native functions' callbacks.
pub(super) const CALLBACK_STACK: usize = 1024 * 1024;

/// The same for comparison functions of `table.sort` that call `table.sort` themselves.
pub(super) const SORT_STACK: usize = 256 * 1024;

/// The registry key of the set of coroutines that only the engine may resume: a table with weak keys.
const ENGAGED: &CStr = c"connmix's engaged coroutines";
/// The registry key of a handler that waits, between the native function and the prelude.
const WAITS: &CStr = c"connmix's waiting message handler";

/// A handler that runs, in the frame of the native function that runs it.
struct Handling {
    co: State,
    failed: State,
    outer: *const Handling,
}

thread_local! {
    /// The innermost running handler.
    static INNERMOST: Cell<*const Handling> = const { Cell::new(ptr::null()) };
}

/// The Lua thread whose error `co` handles, while its failed frames still exist. Its level 0 is the native function
/// that runs the handler.
pub(super) fn handled_by<'call>(co: Slots<'call>) -> Option<Slots<'call>> {
    let mut next = INNERMOST.get();
    // SAFETY: what stands in the list is in the frame of a native function that has not returned.
    while let Some(handling) = unsafe { next.as_ref() } {
        if handling.co == co.state() {
            // SAFETY: it runs the native function that runs the handler, which ends after all that runs in `co`.
            return Some(unsafe { Slots::new(handling.failed) });
        }
        next = handling.outer;
    }
    None
}

/// The most message handlers that may run inside one another. Each can fill a Lua stack of its own.
const MOST_HANDLERS: usize = 16;

/// How many handlers run inside one another.
fn inside_one_another() -> usize {
    let (mut count, mut next) = (0, INNERMOST.get());
    // SAFETY: as in `handled_by`.
    while let Some(handling) = unsafe { next.as_ref() } {
        (count, next) = (count + 1, handling.outer);
    }
    count
}

/// Makes the set of coroutines that only the engine may resume, and pushes it.
pub(super) fn push_engaged(stack: Stack<'_>) -> One {
    stack.register(ENGAGED, table(0, |set| set.set_metatable(table(1, |weak| weak.field(c"__mode", "k")))));
    stack.push_registered(ENGAGED)
}

/// From now on only the engine resumes the coroutine at the top of the stack, which stays there.
///
/// # Safety
/// There must be one, in a VM with the prelude, which wants the set.
pub(super) unsafe fn engage(stack: Stack<'_>) {
    let state = stack.state();
    _ = stack.push_registered(ENGAGED);
    // SAFETY: the caller's. The set is a table; what is pushed is popped.
    unsafe {
        ffi::lua_pushvalue(state, -2);
        ffi::lua_pushboolean(state, 1);
        ffi::lua_rawset(state, -3);
        ffi::lua_pop(state, 1);
    }
}

/// `guarded(handler)` -> the function that LuaJIT gets in its place.
///
/// # Safety
/// For Lua to call.
pub(super) unsafe extern "C-unwind" fn guarded(state: State) -> c_int {
    // SAFETY: called by Lua, with a stack of its own.
    unsafe {
        ffi::lua_settop(state, 1);
        ffi::lua_pushcclosure(state, handle, 1);
    }
    1
}

/// `taken()` -> the handler that waits.
///
/// # Safety
/// For Lua to call.
pub(super) unsafe extern "C-unwind" fn taken(state: State) -> c_int {
    // SAFETY: called by Lua, with a stack of its own.
    unsafe {
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, WAITS.as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, WAITS.as_ptr());
    }
    1
}

/// `failed_handler(err)` -> the message of an error whose handler has failed with `err`.
///
/// # Safety
/// For Lua to call.
pub(super) unsafe extern "C-unwind" fn failed_handler(state: State) -> c_int {
    // SAFETY: called by Lua, with a stack of its own.
    unsafe {
        ffi::lua_settop(state, 1);
        failed(state)
    }
}

/// Turns the handler's error at the top of the stack into what `xpcall` returns. Returns 1.
///
/// # Safety
/// `state` must be alive and in a protected call, with a value at its top.
unsafe fn failed(state: State) -> c_int {
    // SAFETY: the caller's. What is joined are two texts.
    unsafe {
        if matches!(ffi::lua_type(state, -1), ffi::LUA_TSTRING | ffi::LUA_TNUMBER) {
            push_bytes(state, b"error in error handling: ");
            ffi::lua_insert(state, -2);
            ffi::lua_concat(state, 2);
        } else {
            push_bytes(state, b"error in error handling");
        }
    }
    1
}

/// Runs the handler at upvalue 1 with the message, on top of the stack that has failed.
///
/// Pushing its values needs memory. A memory error ends the handling, as any error of a handler does in Lua.
///
/// # Safety
/// For Lua to call, as a closure with the handler as upvalue.
unsafe extern "C-unwind" fn handle(state: State) -> c_int {
    // SAFETY: called by Lua, with a stack of its own; `co` is kept by that stack as long as it is used. An error that is raised
    // while `handling` is in the list would leave it there; between the two changes of the list nothing raises.
    unsafe {
        ffi::lua_settop(state, 1);
        // The watchdog's own error, or one raised after the time was up: no more of the script runs.
        if watchdog::expired() {
            return 1;
        }
        if strings::native_stack_used() > CALLBACK_STACK || inside_one_another() >= MOST_HANDLERS {
            push_bytes(state, b"stack overflow (message handlers inside one another)");
            return failed(state);
        }
        let co = ffi::lua_newthread(state);
        engage(Stack::new(state));
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        ffi::lua_pushvalue(state, 1);
        ffi::lua_xmove(state, co, 2);
        let handling = Handling { co, failed: state, outer: INNERMOST.get() };
        INNERMOST.set(&raw const handling);
        // Raises nothing: what fails in there is its status.
        let status = ffi::lua_resume_(co, 1);
        INNERMOST.set(handling.outer);
        match status {
            ffi::LUA_OK => {
                ffi::lua_settop(co, 1);
                ffi::lua_xmove(co, state, 1);
                1
            }
            ffi::LUA_YIELD if ffi::lua_touserdata(co, 1) == wait::marker() => {
                ffi::lua_settop(co, 0);
                ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, WAITS.as_ptr());
                ffi::lua_pushlightuserdata(state, wait::marker());
                1
            }
            ffi::LUA_YIELD => {
                push_bytes(state, b"attempt to yield from outside a coroutine");
                failed(state)
            }
            _ => {
                ffi::lua_xmove(co, state, 1);
                failed(state)
            }
        }
    }
}
