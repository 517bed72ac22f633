//! Errors that teach: what a script probably meant by a name that is not there. A lookup that succeeds costs nothing
//! more for it. One that fails gives nil, as in any table, so that a script may ask `if mix.redis then`; it is
//! remembered, and only when the handler then fails by calling that nil, its error says what is near.

use mlua::{Lua, ffi};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{CStr, c_int};

use super::check::{self, Slip};
use super::program::Program;
use super::push::{Stack, Table, table, with};
use super::slots::Slots;
use super::stack::State;
use super::vm::{Failure, Hook, Vm};

/// What an engine's metatable has under this key: the name of its table.
const OWNER: &CStr = c"connmix";
/// Engine's classes stand in the registry under names with this prefix.
const CLASS: &str = "connmix.";
/// Longer names are nobody's slip of the pen.
const LONGEST: usize = 64;

/// How an error ends that was given a table where a message belongs.
const TABLE_FOR_TEXT: [&str; 3] = [
    "bad argument #1 to 'send' (string expected, got table)",
    "bad argument #2 to 'send' (string expected, got table)",
    "bad argument #2 to 'publish' (string expected, got table)",
];

thread_local! {
    /// The lookup that failed last: in what (`mix.mesh`, `conn`), and for which name.
    static MISSED: RefCell<(String, String)> = const { RefCell::new((String::new(), String::new())) };
}

/// Watches failing lookups in `mix`, which is complete, the tables in it, and the methods of the engine's classes.
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

/// Watches a table, unless it has a metatable of its own.
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
            let (in_what, what) = &mut *missed.borrow_mut();
            in_what.clear();
            in_what.push_str(&String::from_utf8_lossy(owner));
            what.clear();
            what.push_str(&String::from_utf8_lossy(name));
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

/// The name that a misspelt one most likely stands for. Letter case and underscores count for nothing.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace('_', "");
    let wanted = plain(name);
    if name.len() > LONGEST || wanted.chars().count() < 3 {
        return None;
    }
    let near = known.filter(|k| k.len() <= LONGEST && *k != name);
    let (distance, near) = near.map(|k| (strsim::osa_distance(&wanted, &plain(k)), k)).min()?;
    (distance <= 1 + near.len() / 6).then_some(near)
}

/// What is known of a script, for its errors. Found out once, when somebody asks.
pub(super) struct Known {
    /// What a check of its text finds.
    pub slips: Vec<Slip>,
    /// [`offered`].
    pub offered: BTreeSet<String>,
}

impl Known {
    /// Of a script whose entry file has run.
    pub fn of(lua: &Lua, program: &Program) -> Known {
        Known { slips: check::slips(lua, program), offered: offered(lua) }
    }
}

/// The likely fix of an error, given its text: `FILE:LINE: attempt to call field 'x' (a nil value)`. None: nothing to add.
/// `known` is asked only for an error of that kind. `hook` is the one that has failed; None: a file's top level.
pub(super) fn fix<'a>(message: &str, hook: Option<&str>, known: impl FnOnce() -> &'a Known) -> Option<String> {
    if TABLE_FOR_TEXT.iter().any(|end| message.ends_with(end)) {
        return Some("mix.json_encode makes a string of a table".into());
    }
    let (place, what) = message.split_once(": attempt to ")?;
    let (file, line) = place.rsplit_once(':')?;
    if !what.ends_with(" (a nil value)") && !what.ends_with(" a nil value") {
        return None;
    }
    let known = known();
    let in_file: Vec<&Slip> = known.slips.iter().filter(|slip| is_shown_as(&slip.file, file)).collect();
    let here = || in_file.iter().filter(|slip| slip.line.to_string() == line);
    // What gives nil at a file's top level.
    let is_connection = |slip: &&&Slip| matches!(slip.name.as_str(), "mix.websocket" | "mix.socket.tcp");
    let Some((kind, name)) = subject(what) else {
        return here().find(is_connection).map(|slip| slip.fix.clone());
    };
    // Of several hooks with arguments in another order: the one in which the line stands, else the one that runs.
    let order = || {
        let line: u32 = line.parse().ok()?;
        let around = in_file.iter().find(|slip| slip.order.is_some_and(|last| (slip.line..=last).contains(&line)));
        let running = || known.slips.iter().find(|slip| slip.order.is_some() && Some(slip.name.as_str()) == hook);
        around.copied().or_else(running).map(|slip| slip.fix.clone())
    };
    match kind {
        "global" => {
            let slip = here().find(|slip| slip.name == name)?;
            Some(if slip.fix.is_empty() { "nothing defines it".into() } else { slip.fix.clone() })
        }
        "field" | "method" => {
            let (owner, missed) = MISSED.with(RefCell::take);
            if missed != name {
                // A message, say, that a hook takes for the connection.
                let is_method = kind == "method" && known.offered.contains(&format!("conn:{name}"));
                // Or what a library has not, or not here: io.open.
                let is_it = |slip: &&&Slip| slip.name.strip_suffix(name).is_some_and(|table| table.ends_with('.'));
                let with_fix = |slip: &Slip| match &*slip.fix {
                    "" => slip.what.clone(),
                    fix => format!("{}; {fix}", slip.what),
                };
                let of_library = || here().find(is_it).filter(|_| kind == "field").map(|slip| with_fix(slip));
                return order().filter(|_| is_method).or_else(of_library);
            }
            let fix = instead_of(&owner, name, &known.offered);
            Some(format!("{owner} has no '{name}'{}{fix}", if fix.is_empty() { "" } else { "; " }))
        }
        "local" | "upvalue" if matches!(name, "conn" | "connection") => {
            let at_top = || in_file.iter().find(is_connection).map(|slip| slip.fix.clone());
            let general = || format!("inside a hook, local {name} = mix.websocket() gives the connection");
            Some(order().or_else(at_top).unwrap_or_else(general))
        }
        _ => None,
    }
}

/// `index local 'conn' (a nil value)` is about the local `conn`.
fn subject(what: &str) -> Option<(&str, &str)> {
    let (before, rest) = what.split_once(" '")?;
    Some((before.rsplit(' ').next()?, rest.split_once('\'')?.0))
}

/// Lua cuts a long path down to its end.
fn is_shown_as(file: &str, shown: &str) -> bool {
    file == shown || shown.strip_prefix("...").is_some_and(|end| file.ends_with(end))
}

/// What was probably meant by a name that `owner` does not have: `did you mean 'json_decode'?`; empty if there is no
/// telling.
pub(super) fn instead_of(owner: &str, name: &str, offered: &BTreeSet<String>) -> String {
    match (owner, name) {
        // Names of older versions.
        ("mix.redis", "llen" | "set" | "get" | "incr" | "decr") => {
            return format!("today it is mix.redis.connection(\"default\"):command(\"{name}\", ...)");
        }
        ("mix.queue", "consume" | "pop") => {
            return "back ends consume topics, by queue.pop of the WebSocket API".into();
        }
        ("mix.queue", "new") => return "a topic is there from the first mix.queue.push on".into(),
        _ => {}
    }
    let fields = offered.iter().filter_map(|full| full.strip_prefix(owner)?.strip_prefix(['.', ':']));
    if let Some(near) = nearest(name, fields.filter(|field| !field.contains('.'))) {
        return format!("did you mean '{near}'?");
    }
    // It may be at home in another table: mix.publish, conn:publish.
    let elsewhere = offered.iter().find(|full| full.rsplit(['.', ':']).next() == Some(name));
    elsewhere.map_or_else(String::new, |full| format!("did you mean {full}?"))
}

impl Vm {
    /// Slips of the script that compile, such as names that nothing defines: a line of text each, with file and line.
    /// `workers` is how many are configured, 0 for one a core: with a single one there is no state that others do not see.
    pub fn warnings(&self, workers: usize) -> Vec<String> {
        check::told_once(self.known().slips.iter().filter(|slip| workers != 1 || !slip.is_split))
    }

    /// Every function and constant that scripts get from the engine, in full: `mix.mesh.publish`, `conn:send`.
    pub fn offered(&self) -> Vec<String> {
        self.known().offered.iter().cloned().collect()
    }

    fn known(&self) -> &Known {
        self.known.get_or_init(|| Known::of(&self.lua, &self.program))
    }

    /// Adds the likely fix to an error's text.
    pub(super) fn taught(&self, mut failure: Failure, hook: Hook) -> Failure {
        if let Some(fix) = fix(&failure.message, Some(hook.name()), || self.known()) {
            failure.message = format!("{}; {fix}", failure.message);
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_near_whatever_their_case_and_underscores() {
        let known = ["json_decode", "json_encode", "send", "on_message", "log"];
        for (name, near) in [
            ("json_decod", Some("json_decode")),
            ("jsonDecode", Some("json_decode")),
            ("onMessage", Some("on_message")),
            ("on_mesage", Some("on_message")),
            ("sned", Some("send")),
            ("send", None),
            ("lo", None),
            ("elephant", None),
        ] {
            assert_eq!(nearest(name, known.into_iter()), near, "{name}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), known.into_iter()), None);
    }

    #[test]
    fn a_path_that_was_cut_is_the_same_file() {
        let slip = Slip {
            file: "/a/very/long/way/down/to/entry.lua".into(),
            line: 7,
            name: "conn".into(),
            what: String::new(),
            fix: "the fix".into(),
            order: None,
            is_split: false,
        };
        let known = Known { slips: vec![slip], offered: BTreeSet::new() };
        let known = || &known;
        let what = "attempt to index global 'conn' (a nil value)";
        assert_eq!(fix(&format!("...down/to/entry.lua:7: {what}"), None, known).as_deref(), Some("the fix"));
        for other in ["...down/to/entry.lua:8", "...up/to/entry.lua:7", "entry.lua:7", "entry.lua"] {
            assert_eq!(fix(&format!("{other}: {what}"), None, known), None, "{other}");
        }
        assert_eq!(fix("no place at all", None, known), None);
    }
}
