//! The `mix` API, one file a topic. Each registers its functions in the `mix` table.

pub mod codec;
pub mod conn;
pub mod json;
pub mod log;
mod mesh;
pub mod query;
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
        text::register(state);
        codec::register(state);
        url::register(state);
        ffi::lua_setglobal(state, c"mix".as_ptr());
    }
}
