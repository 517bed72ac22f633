//! The functions of this folder as scripts get them.

use mlua::ffi;

use super::{decode, encode, json_array, light_to_string, push_null, set_function};
use crate::script::push;
use crate::script::stack::State;

/// Adds `json_decode`, `json_encode`, `json_array` and `null` to the table at the top of the stack.
///
/// # Safety
/// `state` must be valid and in a protected call.
pub unsafe fn register(state: State) {
    unsafe {
        ffi::luaL_checkstack(state, 4, c"json".as_ptr());
        let mix = ffi::lua_gettop(state);
        ffi::lua_createtable(state, 0, 0);
        set_function(state, mix, c"json_decode", decode::json_decode);
        set_function(state, mix, c"json_encode", encode::json_encode);
        set_function(state, mix, c"json_array", json_array);
        push::set_array_metatable(state);
        push_null(state);
        // Light userdata share one metatable, which only tells the null pointer how it prints.
        if ffi::lua_getmetatable(state, -1) != 0 {
            ffi::lua_pop(state, 1);
        } else {
            ffi::lua_createtable(state, 0, 1);
            ffi::lua_pushcclosure(state, light_to_string, 0);
            ffi::lua_setfield(state, -2, c"__tostring".as_ptr());
            ffi::lua_setmetatable(state, -2);
        }
        ffi::lua_setfield(state, mix, c"null".as_ptr());
    }
}
