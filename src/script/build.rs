//! Making a VM: the sandbox, the native functions, the prelude, the entry file, and the hooks that it defines.

use mlua::{Lua, LuaOptions, StdLib, ffi};
use std::ffi::c_int;
use std::sync::Arc;
use std::time::Duration;

use super::compile::{self, Loaded};
use super::doing::Doing;
use super::globals::Globals;
use super::hints::{self, Missed};
use super::hook::Hook;
use super::limits::VmLimits;
use super::program::{Program, shown};
use super::stack::{State, protect};
use super::{mix, natives, strings, watchdog};
use crate::config::{Library, Protocol};

/// The longest that an entry file may take to compile and run its top level while nobody waits for it.
pub(crate) const LOAD_BUDGET: Duration = Duration::from_secs(5);

/// A hook that the script defines.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// Registry reference of the prelude's function that enters it.
    pub enter: c_int,
    /// Registry reference of the hook.
    pub hook: c_int,
    /// Whether the hook uses its connection argument, which then has to be made.
    pub takes_conn: bool,
    /// What the watching threads see while the hook runs.
    pub doing: Doing,
}

/// The hooks that the script defines, indexed by [`Hook`].
pub(super) type Entries = [Option<Entry>; Hook::COUNT];

/// Why a VM could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The script's own error: its text does not compile, or its top level failed.
    #[error("{message}")]
    Script {
        /// With file and line.
        message: String,
        /// The last failed lookup before the error.
        missed: Missed,
        /// The globals that it had defined by then.
        globals: Box<Globals>,
    },
    /// The script lacks a hook that its server must have.
    #[error("{message}")]
    NoHook {
        /// With the file.
        message: String,
        /// Its name.
        hook: &'static str,
        /// What it defines.
        globals: Box<Globals>,
    },
    /// The file is missing, or there is not enough memory for the VM.
    #[error("{0}")]
    Other(String),
}

impl From<String> for BuildError {
    fn from(message: String) -> BuildError {
        BuildError::Other(message)
    }
}

/// Its text, for those who only pass it on.
impl From<BuildError> for String {
    fn from(error: BuildError) -> String {
        error.to_string()
    }
}

/// A VM that is ready to run hooks.
pub(super) struct Built {
    pub lua: Lua,
    /// Its main thread.
    pub main: State,
    /// By [`Hook`].
    pub entries: Entries,
    /// `protocol_encode_shared`
    pub encode_shared: bool,
}

/// Builds a VM and runs the entry file, for at most `budget`. The error names file and line.
pub(super) fn build(program: &Arc<Program>, limits: &VmLimits, budget: Duration) -> Result<Built, BuildError> {
    let (lua, main, prelude) = bare(program, limits)?;
    let wrong = |message| {
        let (missed, globals) = (hints::take_missed(), Box::new(Globals::of(&lua)));
        BuildError::Script { message, missed, globals }
    };
    {
        // SAFETY: `lua` lives longer than the run.
        let _run = unsafe { watchdog::enter(main, budget, Doing::loading(&program.entry)) };
        let chunk = match compile::file(&lua, program, &program.entry).map_err(|e| e.to_string())? {
            Loaded::Function(chunk) => chunk,
            Loaded::Absent => return Err(format!("{}: the entry file is not there", program.entry.display()).into()),
            Loaded::Unreadable(why) => return Err(why.into()),
            Loaded::Wrong(why) => return Err(wrong(over_time(budget, named(program, why)))),
        };
        let ran = chunk.call::<()>(());
        mix::console::end_of_stretch();
        ran.map_err(|e| wrong(over_time(budget, script_error(program, &e))))?;
    }
    let entries = find_hooks(&lua, &prelude, program)?;
    let encode_shared = matches!(lua.globals().raw_get("protocol_encode_shared"), Ok(mlua::Value::Boolean(true)));
    Ok(Built { lua, main, entries, encode_shared })
}

/// A VM in which nothing of the script has run. Returns its main thread and the table that the prelude returned, too.
pub(crate) fn bare(program: &Arc<Program>, limits: &VmLimits) -> Result<(Lua, State, mlua::Table), String> {
    let lua = sandboxed(limits).map_err(|e| e.to_string())?;
    let mut main = std::ptr::null_mut();
    // SAFETY: the closure only takes the pointer.
    unsafe { lua.exec_raw::<()>((), |state| main = state) }.map_err(|e| e.to_string())?;
    let prelude = prelude(&lua, main, program, limits)?;
    Ok((lua, main, prelude))
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
        // SAFETY: the main thread runs nothing; nothing is left on its stack.
        unsafe {
            protect(main, |stack| {
                strings::register(stack);
                mix::register(stack, program);
            })
        }
        .map_err(mlua::Error::runtime)?;
        let native = natives::table(lua, program.clone(), limits)?;
        lua.load(include_str!("prelude.lua")).set_name("=connmix:prelude").call(native)
    };
    run().map_err(|e| e.to_string())
}

/// Finds the script's hooks and anchors them.
fn find_hooks(lua: &Lua, prelude: &mlua::Table, program: &Program) -> Result<Entries, BuildError> {
    let mut entries = [None; Hook::COUNT];
    // The function that turns packets into messages.
    let decode = match program.protocol {
        Protocol::Websocket => None,
        Protocol::Socket => global_function(lua, program, Hook::Decode, true)?,
    };
    for &(hook, required) in Hook::of(program.protocol) {
        if hook == Hook::Decode {
            continue;
        }
        let Some(function) = global_function(lua, program, hook, required)? else { continue };
        let doing = defined_at(hook, &function, program);
        let find = || -> mlua::Result<Entry> {
            let (entrance, position) = hook.entrance();
            if let (Hook::Message, Some(decode)) = (hook, &decode) {
                let package: mlua::Function = prelude.get("package")?;
                let enter = anchor(lua, package.call(decode)?)?;
                return Ok(Entry { enter, hook: anchor(lua, function)?, takes_conn: true, doing });
            }
            let (entrance, position) = match hook {
                Hook::Close if is_older_close(prelude, &function)? => ("older_close", 2),
                _ => (entrance, position),
            };
            let takes: mlua::Function = prelude.get("takes")?;
            let takes_conn = takes.call((&function, position))?;
            Ok(Entry { enter: anchor(lua, prelude.get(entrance)?)?, hook: anchor(lua, function)?, takes_conn, doing })
        };
        entries[hook as usize] = Some(find().map_err(|e| e.to_string())?);
    }
    entries[Hook::Timer as usize] = Some(timer_entry(lua, prelude, program).map_err(|e| e.to_string())?);
    Ok(entries)
}

/// How timers are entered, which name their functions themselves.
fn timer_entry(lua: &Lua, prelude: &mlua::Table, program: &Program) -> mlua::Result<Entry> {
    let enter = anchor(lua, prelude.get(Hook::Timer.entrance().0)?)?;
    Ok(Entry { enter, hook: enter, takes_conn: false, doing: Doing::hook(Hook::Timer, &shown(&program.entry), 0) })
}

/// Where a hook is defined, by what the compiler wrote into it.
fn defined_at(hook: Hook, function: &mlua::Function, program: &Program) -> Doing {
    let info = function.info();
    let line = info.line_defined.and_then(|line| u32::try_from(line).ok()).unwrap_or(0);
    match info.source.as_deref().and_then(|source| source.strip_prefix('@')) {
        Some(file) => Doing::hook(hook, file, line),
        None => Doing::hook(hook, &shown(&program.entry), 0),
    }
}

/// Whether an `on_close` has the argument order from before CONNMIX 1.0, with the error first.
fn is_older_close(prelude: &mlua::Table, function: &mlua::Function) -> mlua::Result<bool> {
    prelude.get::<mlua::Function>("is_older_close")?.call(function)
}

/// A global that must be a function if it is there at all, and must be there if it is `required`.
fn global_function(
    lua: &Lua,
    program: &Program,
    hook: Hook,
    required: bool,
) -> Result<Option<mlua::Function>, BuildError> {
    let (entry, name, protocol) = (shown(&program.entry), hook.name(), program.protocol.name());
    match lua.globals().raw_get(name).map_err(|e| e.to_string())? {
        mlua::Value::Nil if required => {
            let message = format!("{entry}: no global function {name}; a {protocol} server's script must define it");
            Err(BuildError::NoHook { message, hook: name, globals: Box::new(Globals::of(lua)) })
        }
        mlua::Value::Nil => Ok(None),
        mlua::Value::Function(function) => Ok(Some(function)),
        other => {
            let got = if other.is_integer() { "number" } else { other.type_name() };
            Err(format!("{entry}: {name} must be a function, not a {got}").into())
        }
    }
}

/// A reference of the registry that keeps a function.
fn anchor(lua: &Lua, function: mlua::Function) -> mlua::Result<c_int> {
    let mut reference = 0;
    let slot = &mut reference;
    // SAFETY: the function is the only value on the stack, and is taken off.
    unsafe {
        lua.exec_raw::<()>(function, |state| {
            *slot = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
        })
    }?;
    Ok(reference)
}

/// A script error's text. The file's name is put in front if the text does not name a place.
fn script_error(program: &Program, e: &mlua::Error) -> String {
    let text = match e {
        mlua::Error::SyntaxError { message, .. } | mlua::Error::RuntimeError(message) => message.clone(),
        other => other.to_string(),
    };
    named(program, text)
}

/// The text, with the entry's name in front if it is not in it.
fn named(program: &Program, text: String) -> String {
    let entry = shown(&program.entry);
    if text.contains(&entry) { text } else { format!("{entry}: {text}") }
}

/// Adds the allowed time to the error of a top level that was stopped. Must be called before the run is left.
fn over_time(budget: Duration, text: String) -> String {
    if !watchdog::expired() {
        return text;
    }
    let whose = format!("the entry file's top level, with what it requires, took longer than {budget:?}");
    text.replacen(watchdog::OVER_BUDGET, &whose, 1)
}
