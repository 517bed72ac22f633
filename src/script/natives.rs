//! The native functions that only the prelude calls: compiling, reading modules, printing.

use mlua::{Lua, ffi};
use std::ffi::{OsStr, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::hooks;
use super::mix::{conn, http, log};
use super::program::{Program, shown};
use super::stack::{Args, Raise, State, bytes_at, set_native, set_raw};
use super::vm::VmLimits;
use super::{strings, wait};
use crate::config::Library;

/// How much of the native stack coroutines inside one another may take: far less than a worker has
/// ([`crate::worker::STACK`]), so that the innermost can still fill its Lua stack with native functions' callbacks.
const CALLBACK_STACK: usize = 1024 * 1024;

/// The table that the prelude gets.
pub(super) fn table(lua: &Lua, program: Arc<Program>, limits: &VmLimits) -> mlua::Result<mlua::Table> {
    let table = lua.create_table()?;
    let libraries = lua.create_table()?;
    for library in &limits.libraries {
        match library {
            Library::Io => libraries.set("io", true)?,
            Library::Os => libraries.set("os", true)?,
        }
    }
    table.set("libraries", libraries)?;
    table.set("marker", mlua::LightUserData(wait::marker()))?;
    table.set("no_wait_here", wait::NOT_HERE)?;
    let folder = program.folder().display().to_string();
    table.set("path", format!("{folder}/?.lua;{folder}/?/init.lua"))?;
    // Rarely called and holding the program: through mlua's closures.
    let read =
        move |lua: &Lua, path: mlua::LuaString| match program.source(Path::new(OsStr::from_bytes(&path.as_bytes()))) {
            Ok(Some(text)) => Ok((Some(lua.create_string(&*text)?), None)),
            Ok(None) => Ok((None, None)),
            Err(e) => Ok((None, Some(e))),
        };
    table.set("read", lua.create_function(read)?)?;
    unsafe {
        lua.exec_raw::<()>(&table, |state| {
            conn::with_conn(state, c"fill", hooks::fill);
            ffi::lua_setfield(state, -2, c"fill".as_ptr());
            http::push_headers_metatable(state);
            ffi::lua_setfield(state, -2, c"headers_meta".as_ptr());
            set_raw(state, c"compile", compile);
            set_raw(state, c"traceback", traceback);
            set_native(state, c"chunk_name", chunk_name);
            set_native(state, c"print", print);
            set_native(state, c"stack_is_used_up", |_: &Args| Ok(strings::native_stack_used() > CALLBACK_STACK));
            ffi::lua_settop(state, 0);
        })?;
    }
    Ok(table)
}

fn chunk_name(args: &Args) -> Result<String, Raise> {
    Ok(format!("@{}", shown(Path::new(OsStr::from_bytes(&args.bytes(1)?)))))
}

fn print(args: &Args) -> Result<(), Raise> {
    log::from_script(args, tracing::Level::INFO, &String::from_utf8_lossy(&args.bytes(1)?));
    Ok(())
}

/// `compile(text, name)` -> function, or nil and an error. Text only: bytecode is not checked by anybody.
unsafe extern "C-unwind" fn compile(state: State) -> c_int {
    unsafe {
        let mut len = 0;
        let text = ffi::lua_tolstring(state, 1, &mut len);
        let name = ffi::lua_tolstring(state, 2, std::ptr::null_mut());
        if text.is_null() || name.is_null() {
            ffi::lua_pushnil(state);
            ffi::lua_pushstring(state, c"a chunk and its name must be strings".as_ptr());
            return 2;
        }
        if ffi::luaL_loadbufferx(state, text, len, name, c"t".as_ptr()) == 0 {
            return 1;
        }
        ffi::lua_pushnil(state);
        ffi::lua_insert(state, -2);
        2
    }
}

/// `debug.traceback([message])`
unsafe extern "C-unwind" fn traceback(state: State) -> c_int {
    unsafe {
        if ffi::lua_type(state, 1) > ffi::LUA_TNIL && bytes_at(state, 1).is_none() {
            ffi::lua_settop(state, 1);
            return 1;
        }
        let message = ffi::lua_tolstring(state, 1, std::ptr::null_mut());
        ffi::luaL_traceback(state, state, message, 1);
        1
    }
}
