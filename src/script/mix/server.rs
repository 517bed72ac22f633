//! `mix.server`: what the configuration says of the server that the script belongs to.

use mlua::ffi;
use std::ffi::c_int;

use crate::script::program::Program;
use crate::script::push::{Table, table, with};
use crate::script::stack::{Args, Push, State, throw};

/// Adds `server` to the `mix` table.
pub fn register(mix: &Table<'_>, program: &Program) {
    let options = table(program.options.len(), |options| {
        program.options.iter().for_each(|(name, value)| options.set(name.as_str(), value.as_str()));
    });
    // SAFETY: `option` is a function for Lua with these upvalues.
    let function = with(|stack| unsafe { stack.push_closure(option, |stack| ("option", options).push_to(stack)) });
    mix.field(c"server", table(1, |server| server.field(c"option", function)));
}

/// `mix.server.option(name)`: upvalue 2 holds the options.
///
/// # Safety
/// For Lua to call, as a closure with its name and a table as upvalues.
unsafe extern "C-unwind" fn option(state: State) -> c_int {
    // SAFETY: Lua's call lasts as long as this function.
    let args = unsafe { Args::new(state, 0) };
    if args.slots().string(1).is_none() {
        // SAFETY: as Lua calls it.
        unsafe { throw(state, args.wrong(1, "string")) }
    }
    // SAFETY: the arguments are not in use any more; the upvalue is a table.
    unsafe {
        ffi::lua_settop(state, 1);
        ffi::lua_rawget(state, ffi::lua_upvalueindex(2));
    }
    1
}
