//! What marks a table as an array even while it is empty: a metatable that all arrays of a VM share.

use mlua::ffi;
use std::ffi::c_int;

/// The registry keeps the metatable of arrays under this number; references (`luaL_ref`) are above 0. A text as key would have
/// to be pushed, which may raise.
const METATABLE: c_int = -0x0a77a1;

/// Pops the table at the top of the stack and makes it the metatable of tables that are arrays even while they are
/// empty.
///
/// # Safety
/// `state` must be alive and in a protected call, with a table at the top of its stack.
pub unsafe fn set_metatable(state: *mut ffi::lua_State) {
    // SAFETY: the caller's.
    unsafe { ffi::lua_rawseti(state, ffi::LUA_REGISTRYINDEX, METATABLE.into()) }
}

/// Pushes that metatable; nil in a VM without [`crate::script::mix`].
///
/// # Safety
/// `state` must be alive, and in a protected call unless its stack has a free slot.
pub unsafe fn push_metatable(state: *mut ffi::lua_State) {
    // SAFETY: the caller's.
    unsafe { ffi::lua_rawgeti_(state, ffi::LUA_REGISTRYINDEX, METATABLE) }
}

/// Whether the table at a stack index, which must be absolute, is marked as an array. Raises nothing.
///
/// # Safety
/// `state` must be alive and have two free slots on its stack, and a table at that index.
pub unsafe fn is_marked(state: *mut ffi::lua_State, table: c_int) -> bool {
    // SAFETY: the caller's; what is pushed is popped.
    unsafe {
        if ffi::lua_getmetatable(state, table) == 0 {
            return false;
        }
        push_metatable(state);
        let marked = ffi::lua_rawequal(state, -1, -2) != 0;
        ffi::lua_pop(state, 2);
        marked
    }
}
