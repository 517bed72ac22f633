//! The functions of this folder as scripts get them.

use mlua::ffi;

use super::{decode, encode, json_array, light_to_string, push_null, set_encoding};
use crate::script::arrays;
use crate::script::push::{Table, with};

/// Adds `json_decode`, `json_encode`, `json_array` and `null` to the `mix` table.
pub fn register(mix: &Table<'_>) {
    // SAFETY: the metatable is the value that has just been pushed, which is taken.
    unsafe {
        _ = mix.stack().push_table(0, 0, |_| ());
        arrays::set_metatable(mix.stack().state());
    }
    // SAFETY: these are functions for Lua that want no more than what they get, and don't panic.
    unsafe {
        set_encoding(mix, c"json_decode", decode::json_decode);
        set_encoding(mix, c"json_encode", encode::json_encode);
        set_encoding(mix, c"json_array", json_array);
    }
    // SAFETY: what is pushed besides the null is taken: a metatable, or one that is made here.
    let null = with(|stack| unsafe {
        stack.by_hand(|state| {
            _ = push_null(stack);
            // Light userdata share one metatable, which only tells the null pointer how it prints.
            if ffi::lua_getmetatable(state, -1) != 0 {
                ffi::lua_pop(state, 1);
            } else {
                let tostring = with(|stack| stack.push_closure(light_to_string, |_| ()));
                _ = stack.push_table(0, 1, |metatable| metatable.field(c"__tostring", tostring));
                ffi::lua_setmetatable(state, -2);
            }
        })
    });
    mix.field(c"null", null);
}
