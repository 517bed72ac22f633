//! Making a VM: the sandbox, the native functions, the prelude, the entry file, and the hooks that it defines.

use mlua::{Lua, LuaOptions, StdLib, ffi};
use std::cell::OnceCell;
use std::ffi::c_int;
use std::sync::Arc;
use std::time::Duration;

use super::program::{Program, shown};
use super::stack::{State, protect};
use super::teach::Known;
use super::vm::Hook;
use super::{check, guard, mix, natives, strings, teach};
use crate::config::Library;

/// The longest an entry file's top level may run.
const LOAD_BUDGET: Duration = Duration::from_secs(5);

/// The limits of a VM.
#[derive(Debug, Clone)]
pub struct VmLimits {
    /// Bytes of Lua memory.
    pub memory: usize,
    /// What the sandbox lets in.
    pub libraries: Vec<Library>,
}

/// A hook that the script defines.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// Registry reference of the prelude's function that enters it.
    pub enter: c_int,
    /// Registry reference of the hook.
    pub hook: c_int,
    /// Whether it looks at its connection argument, which then has to be made.
    pub takes_conn: bool,
}

/// A VM that is ready to run hooks.
pub(super) struct Built {
    pub lua: Lua,
    /// Its main thread.
    pub main: State,
    /// By [`Hook`].
    pub entries: [Option<Entry>; 3],
}

/// Builds a VM and runs the entry file. The error says what is wrong with the script, with file and line.
pub(super) fn build(program: &Arc<Program>, limits: &VmLimits) -> Result<Built, String> {
    let text = program
        .source(&program.entry)?
        .ok_or_else(|| format!("{}: the entry file is not there", program.entry.display()))?;
    let lua = sandboxed(limits).map_err(|e| e.to_string())?;
    let mut main = std::ptr::null_mut();
    unsafe { lua.exec_raw::<()>((), |state| main = state) }.map_err(|e| e.to_string())?;
    let prelude = prelude(&lua, main, program, limits)?;
    let chunk = lua
        .load(&*text)
        .set_name(format!("@{}", shown(&program.entry)))
        .set_mode(mlua::chunk::ChunkMode::Text)
        .into_function()
        .map_err(|e| script_error(program, &e))?;
    {
        let _run = unsafe { guard::enter(main, LOAD_BUDGET) };
        chunk.call::<()>(()).map_err(|e| taught(&lua, program, script_error(program, &e)))?;
    }
    let entries = find_hooks(&lua, &prelude, program)?;
    Ok(Built { lua, main, entries })
}

/// A VM with the libraries that scripts may have.
fn sandboxed(limits: &VmLimits) -> mlua::Result<Lua> {
    let mut libraries =
        StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::BIT | StdLib::OS | StdLib::PACKAGE | StdLib::JIT;
    if limits.libraries.contains(&Library::Io) {
        libraries |= StdLib::IO;
    }
    let lua = Lua::new_with(libraries, LuaOptions::new())?;
    lua.set_memory_limit(limits.memory)?;
    Ok(lua)
}

/// Registers all native functions and runs the prelude, which returns how hooks are entered.
fn prelude(lua: &Lua, main: State, program: &Arc<Program>, limits: &VmLimits) -> Result<mlua::Table, String> {
    let run = || -> mlua::Result<mlua::Table> {
        unsafe {
            protect(main, |state| {
                ffi::lua_getglobal(state, c"string".as_ptr());
                strings::register(state);
                ffi::lua_pop(state, 1);
                mix::register(state, program);
            })
        }
        .map_err(mlua::Error::runtime)?;
        let native = natives::table(lua, program.clone(), limits)?;
        lua.load(include_str!("prelude.lua")).set_name("=connmix:prelude").call(native)
    };
    run().map_err(|e| e.to_string())
}

/// Finds the script's hooks and anchors them.
fn find_hooks(lua: &Lua, prelude: &mlua::Table, program: &Program) -> Result<[Option<Entry>; 3], String> {
    let mut entries = [None; 3];
    for hook in Hook::ALL {
        let value: mlua::Value = lua.globals().raw_get(hook.name()).map_err(|e| e.to_string())?;
        let function = match value {
            mlua::Value::Nil if hook == Hook::Message => {
                let file = shown(&program.entry);
                let why =
                    check::why_no_hook(lua, program, hook.name()).map_or_else(String::new, |why| format!(" ({why})"));
                return Err(format!(
                    "{file}: no global function on_message; a websocket server's script must define it{why}"
                ));
            }
            mlua::Value::Nil => continue,
            mlua::Value::Function(function) => function,
            other => {
                let got = if other.is_integer() { "number" } else { other.type_name() };
                return Err(format!("{}: {} must be a function, not a {got}", shown(&program.entry), hook.name()));
            }
        };
        let (entrance, position) = hook.entrance();
        let find = || -> mlua::Result<Entry> {
            let takes: mlua::Function = prelude.get("takes")?;
            let enter: mlua::Function = prelude.get(entrance)?;
            let takes_conn = takes.call((&function, position))?;
            let anchor = |f: mlua::Function| -> mlua::Result<c_int> {
                let mut reference = 0;
                let slot = &mut reference;
                unsafe {
                    lua.exec_raw::<()>(f, |state| {
                        *slot = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
                    })
                }?;
                Ok(reference)
            };
            Ok(Entry { enter: anchor(enter)?, hook: anchor(function.clone())?, takes_conn })
        };
        entries[hook as usize] = Some(find().map_err(|e| e.to_string())?);
    }
    Ok(entries)
}

/// Adds the likely fix to the text of an error of the entry file's top level.
fn taught(lua: &Lua, program: &Program, text: String) -> String {
    let first = text.lines().next().unwrap_or_default();
    let known = OnceCell::new();
    match teach::fix(first, || known.get_or_init(|| Known::of(lua, program))) {
        Some(fix) => text.replacen(first, &format!("{first}; {fix}"), 1),
        None => text,
    }
}

/// A script error's text: it has file and line, or gets the file's name.
fn script_error(program: &Program, e: &mlua::Error) -> String {
    let text = match e {
        mlua::Error::SyntaxError { message, .. } | mlua::Error::RuntimeError(message) => message.clone(),
        other => other.to_string(),
    };
    let entry = shown(&program.entry);
    if text.contains(&entry) { text } else { format!("{entry}: {text}") }
}
