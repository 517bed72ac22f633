//! Error hints: failed lookups in the engine's tables. A successful lookup costs nothing extra. A failed one gives nil,
//! as in any table, so that a script may write `if mix.redis then`. The lookup is remembered. If the handler then fails
//! by calling that nil, the error says what was probably meant. The suggestion itself comes from `lint`, which checks
//! scripts.

use mlua::{Lua, ffi};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{CStr, c_int};

use super::hook::Hook;
use super::push::{Stack, Table, table, with};
use super::slots::{Slots, State};

/// The key in an engine's metatable that holds the name of its table.
const OWNER: &CStr = c"connmix";
/// Engine's classes stand in the registry under names with this prefix.
const CLASS: &str = "connmix.";
/// Longer names are not taken for typing errors.
const LONGEST: usize = 64;

thread_local! {
    /// The last failed lookup.
    static MISSED: RefCell<Missed> = const { RefCell::new(Missed { owner: String::new(), name: String::new() }) };
}

/// A lookup that failed in one of the engine's tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missed {
    /// The table: `mix.mesh`, `conn`. Empty if no lookup has failed.
    pub owner: String,
    /// The name that was looked up.
    pub name: String,
}

/// A script's error, with what its likely fix depends on.
#[derive(Debug)]
pub struct Mistake<'a> {
    /// Its text: `FILE:LINE: attempt to call field 'x' (a nil value)`
    pub message: &'a str,
    /// The hook that has failed; None: a file's top level.
    pub hook: Option<Hook>,
    /// The last failed lookup before it.
    pub missed: Missed,
}

/// Suggests what a script most likely meant. `lint` makes it and hands it to the version it belongs to
/// ([`super::program::Program::hint_with`]). The workers only ask it.
pub trait Hints: Send + Sync {
    /// The likely fix of an error; None: nothing to add.
    fn fix(&self, mistake: &Mistake<'_>) -> Option<String>;
}

/// Returns this thread's last failed lookup and forgets it.
pub(super) fn take_missed() -> Missed {
    MISSED.take()
}

/// Records failed lookups in `mix` (which must be complete), in the tables in it, and among the methods of the engine's
/// classes.
pub(super) fn watch(mix: &Table<'_>) {
    watch_table(mix, b"mix");
    mix.each_table(|name, table| watch_table(table, &[b"mix.", name].concat()));
    mix.stack().registry(|registry| {
        registry.each_table(|name, class| {
            let Some(name) = name.strip_prefix(CLASS.as_bytes()) else { return };
            class.each_table(|field, methods| {
                if field == b"__index" {
                    watch_table(methods, name);
                }
            });
        });
    });
}

/// Records failed lookups in a table, unless it has a metatable of its own.
fn watch_table(watched: &Table<'_>, owner: &[u8]) {
    if watched.has_metatable() {
        return;
    }
    watched.set_metatable(table(2, |metatable| {
        metatable.field(OWNER, owner);
        // SAFETY: `missing` is a function for Lua with the owner as upvalue.
        metatable
            .field(c"__index", with(|stack| unsafe { stack.push_closure(missing, |stack| stack.push_bytes(owner)) }));
    }));
}

/// `__index` of what is watched: upvalue 1 is the owner.
///
/// # Safety
/// For Lua to call.
unsafe extern "C-unwind" fn missing(state: State) -> c_int {
    // SAFETY: Lua's call lasts as long as this function.
    let slots = unsafe { Slots::new(state) };
    if let (Some(owner), Some(name)) = (slots.upvalue_string(1), slots.string(2))
        && name.len() <= LONGEST
    {
        MISSED.with(|missed| {
            let missed = &mut *missed.borrow_mut();
            missed.owner.clear();
            missed.owner.push_str(&String::from_utf8_lossy(owner));
            missed.name.clear();
            missed.name.push_str(&String::from_utf8_lossy(name));
        });
    }
    // SAFETY: a native function's stack has room.
    unsafe { ffi::lua_pushnil(state) };
    1
}

/// The name of the engine's table in a slot, if it is one: `mix.mesh`.
pub(super) fn owner_at(stack: Stack<'_>, slot: c_int) -> Option<String> {
    if stack.kind(slot) != ffi::LUA_TTABLE {
        return None;
    }
    let metatable = stack.top() + 1;
    // SAFETY: a table in a slot above 0; then its metatable. What is pushed is popped when its text has been copied.
    unsafe {
        if ffi::lua_getmetatable(stack.state(), slot) == 0 {
            return None;
        }
        ffi::lua_pushstring(stack.state(), OWNER.as_ptr());
        ffi::lua_rawget(stack.state(), metatable);
        let owner = stack.string(metatable + 1).map(|owner| String::from_utf8_lossy(owner).into_owned());
        ffi::lua_settop(stack.state(), metatable - 1);
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
    // SAFETY: it pushes one value, the result.
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
            // A table that a script put there is not the engine's.
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
