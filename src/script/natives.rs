//! The native functions that only the prelude calls: compiling, reading modules, printing.

use mlua::{Lua, ffi};
use std::ffi::{OsStr, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::compile::{self, Loaded};
use super::hooks;
use super::limits::VmLimits;
use super::mix::{conn, console, http, log};
use super::program::Program;
use super::push::{Stack, Table, with};
use super::stack::{Args, Raise, State};
use super::{frames, handler, strings, wait};
use crate::config::Library;

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
    // The system's setting (LUA_PATH, or LuaJIT's default) counts as it is now. Changes that a script makes later do
    // not.
    let system: mlua::LuaString = lua.globals().get::<mlua::Table>("package")?.get("path")?;
    program.allow(&system.as_bytes());
    program.allow(SYSTEM_PATH.as_bytes());
    table.set("system_path", SYSTEM_PATH)?;
    table.set("load_limit", limits.load)?;
    // Rarely called, and holds the program: so a closure of mlua's.
    table.set("module", lua.create_function(move |lua, path| module(lua, &program, path))?)?;
    table.set("part", lua.create_function(part)?)?;
    // As many random bits as a double holds.
    table.set("seed", (uuid::Uuid::new_v4().as_u128() >> 75) as f64)?;
    // SAFETY: `exec_raw` protects the call, with the table as the only value on the stack, which is taken off in the end.
    unsafe {
        lua.exec_raw::<()>(&table, |state| {
            fill(&Table::at_top(Stack::new(state)));
            ffi::lua_settop(state, 0);
        })?;
    }
    Ok(table)
}

/// Sets the functions in it.
fn fill(table: &Table<'_>) {
    table.field(c"headers_meta", http::headers_metatable());
    table.native(c"traceback", frames::traceback);
    table.native(c"level", frames::level);
    table.native(c"print", print);
    table.native(c"write", write);
    table.native(c"flush", flush);
    table.native(c"stack_is_used_up", |_: &Args| Ok(strings::native_stack_used() > handler::CALLBACK_STACK));
    // The time of unwinding grows with the square of these levels.
    table.native(c"sorts_too_deep", |_: &Args| Ok(strings::native_stack_used() > handler::SORT_STACK));
    table.field(c"engaged", with(handler::push_engaged));
    // SAFETY: all are functions for Lua with their names as upvalues, `fill` with those that it wants; none panics.
    unsafe {
        table.field(c"fill", conn::with_conn(c"fill", hooks::fill));
        table.raw(c"compile", compile::compile);
        table.raw(c"guarded", handler::guarded);
        table.raw(c"taken", handler::taken);
        table.raw(c"failed_handler", handler::failed_handler);
        table.raw(c"file", file);
    }
    // All of `debug`, of which the prelude gives scripts a small part.
    // SAFETY: LuaJIT's own function, which returns one value.
    let debug = with(|stack| unsafe {
        stack.by_hand(|state| {
            ffi::lua_pushcfunction(state, ffi::luaopen_debug);
            ffi::lua_call(state, 0, 1);
        })
    });
    table.field(c"debug", debug);
}

/// Where distributions keep Lua 5.1's modules.
const SYSTEM_PATH: &str = "/usr/share/lua/5.1/?.lua;/usr/share/lua/5.1/?/init.lua";

/// `module(path)` -> its main function; or nil if there is no such file; or nil, what kind of failure it is, and why.
fn module(
    lua: &Lua,
    program: &Program,
    path: mlua::LuaString,
) -> mlua::Result<(Option<mlua::Function>, Option<&'static str>, Option<String>)> {
    let path = path.as_bytes();
    let path = Path::new(OsStr::from_bytes(&path));
    if !program.may_be_module(path) {
        let why = "it is no .lua file below the script's folder or the system's Lua path";
        return Ok((None, Some("elsewhere"), Some(why.into())));
    }
    Ok(match compile::file(lua, program, path)? {
        Loaded::Function(function) => (Some(function), None, None),
        Loaded::Absent => (None, None, None),
        Loaded::Unreadable(why) => (None, Some("unreadable"), Some(why)),
        Loaded::Wrong(why) => (None, Some("wrong"), Some(why)),
    })
}

/// The prelude's other files, and the module that scripts get from the engine.
fn part(lua: &Lua, name: String) -> mlua::Result<mlua::Function> {
    let text = match name.as_str() {
        "debug" => include_str!("prelude/debug.lua"),
        "console" => include_str!("prelude/console.lua"),
        _ => include_str!("../../lua/utils/prettyprint.lua"),
    };
    lua.load(text).set_name(format!("=connmix:{name}")).into_function()
}

fn print(args: &Args) -> Result<(), Raise> {
    console::flush(console::Stream::Out);
    log::from_script(args, tracing::Level::INFO, &String::from_utf8_lossy(&args.bytes(1)?));
    Ok(())
}

/// `write(stream, text)`: what `io.write` of one of the console's two streams does.
fn write(args: &Args) -> Result<(), Raise> {
    console::write(args, console::Stream::named(&args.bytes(1)?), &args.bytes(2)?);
    Ok(())
}

/// `flush(stream)`
fn flush(args: &Args) -> Result<(), Raise> {
    console::flush(console::Stream::named(&args.bytes(1)?));
    Ok(())
}

/// `file(metatable)`: a value that has nothing but a metatable.
///
/// # Safety
/// For the prelude to call, with a table.
unsafe extern "C-unwind" fn file(state: State) -> c_int {
    // SAFETY: called by Lua, with a stack of its own; the metatable is one.
    unsafe {
        ffi::lua_settop(state, 1);
        ffi::lua_newuserdata(state, 0);
        ffi::lua_insert(state, 1);
        ffi::lua_setmetatable(state, 1);
    }
    1
}
