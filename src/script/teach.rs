//! Errors that teach: what a script asked the engine's tables for in vain. A lookup that succeeds costs nothing more for it.
//! One that fails gives nil, as in any table, so that a script may ask `if mix.redis then`; it is remembered, and only when
//! the handler then fails by calling that nil, its error says what was probably meant. That is known above (`lint`), where
//! scripts are checked.

use mlua::{Lua, ffi};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{CStr, c_int};

use super::hook::Hook;
use super::push::push_bytes;
use super::state::{State, bytes_at};

/// What an engine's metatable has under this key: the name of its table.
const OWNER: &CStr = c"connmix";
/// Engine's classes stand in the registry under names with this prefix.
const CLASS: &str = "connmix.";
/// Longer names are nobody's slip of the pen.
const LONGEST: usize = 64;

thread_local! {
    /// The last one.
    static MISSED: RefCell<Missed> = const { RefCell::new(Missed { owner: String::new(), name: String::new() }) };
}

/// A lookup that failed in one of the engine's tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missed {
    /// In what: `mix.mesh`, `conn`; empty: none has failed.
    pub owner: String,
    /// For which name.
    pub name: String,
}

/// An error of a script, as far as its likely fix depends on it.
#[derive(Debug)]
pub struct Mistake<'a> {
    /// Its text: `FILE:LINE: attempt to call field 'x' (a nil value)`
    pub message: &'a str,
    /// The hook that has failed; None: a file's top level.
    pub hook: Option<Hook>,
    /// The lookup that failed last before it.
    pub missed: Missed,
}

/// Knows what a script most likely meant. It is made where scripts are checked, and handed to the version that it is of
/// ([`super::program::Program::hint_with`]): a worker only asks.
pub trait Hints: Send + Sync {
    /// The likely fix of an error; None: nothing to add.
    fn fix(&self, mistake: &Mistake<'_>) -> Option<String>;
}

/// The lookup on this thread that failed last, which is forgotten then.
pub(super) fn take_missed() -> Missed {
    MISSED.take()
}

/// Watches failing lookups in `mix`, the tables in it, and the methods of the engine's classes. The `mix` table is at the
/// top of the stack and complete.
///
/// # Safety
/// `state` must be valid and in a protected call.
pub(super) unsafe fn watch(state: State) {
    unsafe {
        watch_table(state, b"mix");
        each_field(state, -1, &mut |state, name| {
            if ffi::lua_type(state, -1) == ffi::LUA_TTABLE {
                watch_table(state, &[b"mix.", name].concat());
            }
        });
        each_field(state, ffi::LUA_REGISTRYINDEX, &mut |state, name| {
            let Some(class) = name.strip_prefix(CLASS.as_bytes()) else { return };
            if ffi::lua_type(state, -1) != ffi::LUA_TTABLE {
                return;
            }
            ffi::lua_pushstring(state, c"__index".as_ptr());
            ffi::lua_rawget(state, -2);
            if ffi::lua_type(state, -1) == ffi::LUA_TTABLE {
                watch_table(state, class);
            }
            ffi::lua_pop(state, 1);
        });
    }
}

/// Calls `visit` with each value that has a string as its key; the value is at the top of the stack.
unsafe fn each_field(state: State, table: c_int, visit: &mut dyn FnMut(State, &[u8])) {
    unsafe {
        let table = ffi::lua_absindex(state, table);
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, table) != 0 {
            if ffi::lua_type(state, -2) == ffi::LUA_TSTRING
                && let Some(name) = bytes_at(state, -2)
            {
                visit(state, &name);
            }
            ffi::lua_pop(state, 1);
        }
    }
}

/// Watches the table at the top of the stack, unless it has a metatable of its own.
unsafe fn watch_table(state: State, owner: &[u8]) {
    unsafe {
        if ffi::lua_getmetatable(state, -1) != 0 {
            ffi::lua_pop(state, 1);
            return;
        }
        ffi::lua_createtable(state, 0, 2);
        push_bytes(state, owner);
        ffi::lua_setfield(state, -2, OWNER.as_ptr());
        push_bytes(state, owner);
        ffi::lua_pushcclosure(state, missing, 1);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        ffi::lua_setmetatable(state, -2);
    }
}

/// `__index` of what is watched: upvalue 1 is the owner.
unsafe extern "C-unwind" fn missing(state: State) -> c_int {
    unsafe {
        if ffi::lua_type(state, 2) == ffi::LUA_TSTRING
            && let (Some(owner), Some(name)) = (bytes_at(state, ffi::lua_upvalueindex(1)), bytes_at(state, 2))
            && name.len() <= LONGEST
        {
            MISSED.with(|missed| {
                let missed = &mut *missed.borrow_mut();
                missed.owner.clear();
                missed.owner.push_str(&String::from_utf8_lossy(&owner));
                missed.name.clear();
                missed.name.push_str(&String::from_utf8_lossy(&name));
            });
        }
        ffi::lua_pushnil(state);
        1
    }
}

/// The name of the engine's table at a stack index, if it is one: `mix.mesh`.
///
/// # Safety
/// `state` must be the running native function's.
pub(super) unsafe fn owner_at(state: State, slot: c_int) -> Option<String> {
    unsafe {
        if ffi::lua_type(state, slot) != ffi::LUA_TTABLE || ffi::lua_getmetatable(state, slot) == 0 {
            return None;
        }
        ffi::lua_pushstring(state, OWNER.as_ptr());
        ffi::lua_rawget(state, -2);
        let owner = bytes_at(state, -1).map(|owner| String::from_utf8_lossy(&owner).into_owned());
        ffi::lua_pop(state, 2);
        owner
    }
}

/// Every function and constant that scripts get from the engine, by its full name: `mix.null`, `mix.mesh.publish`,
/// `conn:send`.
pub(super) fn offered(lua: &Lua) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    if let Ok(mix) = lua.globals().raw_get::<mlua::Table>("mix") {
        add_fields(&mix, "mix", '.', &mut names);
    }
    let registry =
        unsafe { lua.exec_raw::<mlua::Table>((), |state| ffi::lua_pushvalue(state, ffi::LUA_REGISTRYINDEX)) };
    for (key, value) in registry.iter().flat_map(|r| r.pairs::<mlua::Value, mlua::Value>().flatten()) {
        let (mlua::Value::String(key), mlua::Value::Table(class)) = (key, value) else { continue };
        let key = key.to_string_lossy();
        if let (Some(name), Ok(methods)) = (key.strip_prefix(CLASS), class.raw_get::<mlua::Table>("__index")) {
            add_fields(&methods, name, ':', &mut names);
        }
    }
    names
}

fn add_fields(table: &mlua::Table, owner: &str, dot: char, names: &mut BTreeSet<String>) {
    for (key, value) in table.pairs::<mlua::Value, mlua::Value>().flatten() {
        let mlua::Value::String(key) = key else { continue };
        let name = format!("{owner}{dot}{}", key.to_string_lossy());
        match value {
            // A table that a script put there is its own affair.
            mlua::Value::Table(inner)
                if inner.metatable().is_some_and(|m| m.contains_key("connmix").unwrap_or(false)) =>
            {
                add_fields(&inner, &name, '.', names);
                names.insert(name);
            }
            _ => drop(names.insert(name)),
        }
    }
}
