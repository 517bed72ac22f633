//! `mix.server`: what the configuration says of the server that the script belongs to.

use mlua::ffi;
use std::ffi::c_int;

use crate::script::program::Program;
use crate::script::stack::{Raise, State, push_bytes, throw, type_name};

/// Adds `server` to the `mix` table at the top of the stack.
///
/// # Safety
/// `state` must be valid and in a protected call.
pub unsafe fn register(state: State, program: &Program) {
    unsafe {
        ffi::lua_createtable(state, 0, 1);
        ffi::lua_pushstring(state, c"option".as_ptr());
        ffi::lua_createtable(state, 0, program.options.len() as c_int);
        for (name, value) in &program.options {
            push_bytes(state, name.as_bytes());
            push_bytes(state, value.as_bytes());
            ffi::lua_rawset(state, -3);
        }
        ffi::lua_pushcclosure(state, option, 2);
        ffi::lua_setfield(state, -2, c"option".as_ptr());
        ffi::lua_setfield(state, -2, c"server".as_ptr());
    }
}

/// `mix.server.option(name)`: upvalue 2 holds the options.
unsafe extern "C-unwind" fn option(state: State) -> c_int {
    unsafe {
        if ffi::lua_type(state, 1) != ffi::LUA_TSTRING {
            let problem = format!("string expected, got {}", type_name(state, 1));
            throw(state, Raise::Argument { index: 1, problem });
        }
        ffi::lua_settop(state, 1);
        ffi::lua_rawget(state, ffi::lua_upvalueindex(2));
        1
    }
}
