//! The functions of this folder as scripts get them.

use mlua::ffi;

use super::{find, gsub, match_, set_gmatch};
use crate::script::push::{Stack, Table};

/// Replaces the pattern functions in the global `string`, if that is a table. The methods of strings follow: their metatable's
/// `__index` is that table.
pub fn register(stack: Stack<'_>) {
    let (state, before) = (stack.state(), stack.top());
    // SAFETY: a stack's thread is alive and protected. The functions are for Lua, and don't panic. What is pushed is popped.
    unsafe {
        ffi::lua_getglobal(state, c"string".as_ptr());
        if stack.kind(before + 1) == ffi::LUA_TTABLE {
            let string = Table::at_top(stack);
            string.raw(c"find", find);
            string.raw(c"match", match_);
            string.raw(c"gsub", gsub::gsub);
            set_gmatch(state);
        }
        ffi::lua_settop(state, before);
    }
}
