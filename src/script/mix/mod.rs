//! The `mix` API, one file a topic. Each registers its functions in the `mix` table.

pub mod codec;
pub mod conn;
pub mod json;
pub mod log;
mod mesh;
pub mod query;
mod queue;
mod server;
pub mod text;
mod time;
pub mod url;

use mlua::ffi;

use super::program::Program;
use super::stack::State;

/// Makes the global `mix`.
///
/// # Safety
/// `state` must be valid and in a protected call.
pub(super) unsafe fn register(state: State, program: &Program) {
    unsafe {
        ffi::lua_createtable(state, 0, 40);
        conn::register(state);
        mesh::register(state);
        log::register(state);
        time::register(state);
        server::register(state, program);
        json::register(state);
        queue::register(state);
        text::register(state);
        codec::register(state);
        url::register(state);
        ffi::lua_setglobal(state, c"mix".as_ptr());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    //! What the tests of this folder share.

    use super::*;

    /// A Lua state whose global `mix` holds what `register` adds, for the tests of this folder.
    pub(crate) fn lua_with(register: unsafe fn(State)) -> mlua::Lua {
        let lua = mlua::Lua::new();
        let mix: mlua::Table = unsafe {
            lua.exec_raw((), |state| {
                ffi::lua_newtable(state);
                register(state);
            })
        }
        .unwrap();
        lua.globals().set("mix", mix).unwrap();
        lua
    }

    /// The text of the error that this Lua expression raises, without the traceback.
    pub(crate) fn raised(lua: &mlua::Lua, expression: &str) -> String {
        let call = format!("return select(2, pcall(function() local r = {expression} return r end))");
        lua.load(call).set_name("@app.lua").eval().unwrap()
    }
}
