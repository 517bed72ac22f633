//! What the scripts of a VM may use, as plain data, for the linter.

use mlua::Lua;
use std::collections::{BTreeMap, BTreeSet};

use super::hints::offered;

/// Tables of the language whose fields are all known. `mix` and the tables in it belong to them.
pub(crate) const LIBRARIES: [&str; 9] = ["string", "table", "math", "os", "io", "coroutine", "debug", "bit", "package"];

/// A VM's globals at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Globals {
    /// All of their names.
    pub names: BTreeSet<String>,
    /// Those that are functions.
    pub functions: BTreeSet<String>,
    /// The fields of the language's [`LIBRARIES`] that are there.
    pub libraries: BTreeMap<String, BTreeSet<String>>,
    /// Every function and constant that the engine offers, by its full name: `mix.null`, `conn:send`.
    pub offered: BTreeSet<String>,
    /// A metatable of the script's watches the globals.
    pub are_watched: bool,
}

impl Globals {
    /// Those of a VM.
    pub(super) fn of(lua: &Lua) -> Globals {
        let mut found = Globals { offered: offered(lua), ..Globals::default() };
        let globals = lua.globals();
        for (key, value) in globals.pairs::<mlua::Value, mlua::Value>().flatten() {
            let Some(name) = text(&key) else { continue };
            match value {
                mlua::Value::Table(library) if LIBRARIES.contains(&name.as_str()) => {
                    let fields = library.pairs::<mlua::Value, mlua::Value>().flatten();
                    found.libraries.insert(name.clone(), fields.filter_map(|(field, _)| text(&field)).collect());
                }
                mlua::Value::Function(_) => drop(found.functions.insert(name.clone())),
                _ => {}
            }
            found.names.insert(name);
        }
        found.are_watched = globals.metatable().is_some();
        found
    }
}

fn text(value: &mlua::Value) -> Option<String> {
    match value {
        mlua::Value::String(text) => Some(text.to_string_lossy()),
        _ => None,
    }
}
