//! The definitions for editors, `lua/library/mix.lua`: they name exactly what the VM offers, and the documentation does too.

use connmix::config::Protocol;
use connmix::script::program::Program;
use connmix::script::vm::{Vm, VmLimits};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// What the definitions have and the VM does not yet: a function, a table with all that is in it, or a class.
const NOT_BUILT: [&str; 0] = [];
/// Hooks of servers that are not built yet.
const HOOKS_NOT_BUILT: [&str; 0] = [];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn is_not_built(name: &str) -> bool {
    NOT_BUILT
        .iter()
        .any(|part| name.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', ':'])))
}

/// A definition: the annotations above it, and its parameters if it is a function.
struct Definition {
    notes: Vec<String>,
    parameters: Option<Vec<String>>,
}

/// The definitions by name, as scripts write it: `mix.mesh.publish`, `conn:send`, `on_message`.
fn definitions() -> BTreeMap<String, Definition> {
    let mut found = BTreeMap::new();
    let mut notes = Vec::new();
    for line in read("lua/library/mix.lua").lines() {
        if let Some(note) = line.strip_prefix("---") {
            notes.push(note.to_owned());
            continue;
        }
        let notes = std::mem::take(&mut notes);
        let (name, parameters) = if let Some(function) = line.strip_prefix("function ") {
            let (name, rest) = function.split_once('(').unwrap();
            let parameters = rest.strip_suffix(") end").unwrap_or_else(|| panic!("{line}"));
            let parameters = parameters.split(", ").filter(|p| !p.is_empty()).map(str::to_owned).collect();
            (name, Some(parameters))
        } else if let Some((name, _)) = line.split_once(" = ").filter(|(name, _)| !name.starts_with("local ")) {
            (name, None)
        } else {
            continue;
        };
        let name = name.replace("Connection:", "conn:").replace("Buffer:", "buffer:").replace("Redis:", "redis:");
        assert!(found.insert(name.clone(), Definition { notes, parameters }).is_none(), "{name} is defined twice");
    }
    assert!(found.len() > 60, "{:?}", found.keys());
    found
}

fn vm(entry: &Path) -> std::rc::Rc<Vm> {
    let limits = VmLimits { memory: 64 << 20, waiting: 1, ..VmLimits::default() };
    Vm::new(Arc::new(Program::new(Protocol::Websocket, entry.to_owned(), Vec::new())), &limits).unwrap()
}

/// What the VM offers to a script that adds nothing.
fn offered() -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let entry = folder.path().join("entry.lua");
    fs::write(&entry, "function on_message() end").unwrap();
    vm(&entry).offered().into_iter().collect()
}

#[test]
fn the_definitions_name_what_the_vm_offers_and_nothing_else() {
    let defined = definitions().into_keys().filter(|name| name.contains(['.', ':']));
    let (not_built, defined): (BTreeSet<String>, BTreeSet<String>) = defined.partition(|name| is_not_built(name));
    let offered = offered();
    for wanted in ["mix.null", "mix.WARN", "mix.mesh", "mix.mesh.publish", "conn:send"] {
        assert!(offered.contains(wanted), "{wanted} in {offered:?}");
    }
    let built: Vec<_> = offered.iter().filter(|name| is_not_built(name)).collect();
    assert!(built.is_empty(), "built by now, so take them off NOT_BUILT: {built:?}");
    assert_eq!(defined, offered);
    for part in NOT_BUILT {
        assert!(not_built.iter().any(|name| name.starts_with(part)), "{part} is defined nowhere");
    }
}

#[test]
fn the_documentation_names_each_of_them() {
    let docs = read("docs/lua-api.md");
    let is_named = |name: &str| {
        // Examples call it `buf`.
        let name = &name.replace("buffer:", "buf:")[..];
        docs.match_indices(name).any(|(at, _)| {
            let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
            !docs[..at].ends_with(part_of_word) && !docs[at + name.len()..].starts_with(part_of_word)
        })
    };
    let definitions = definitions();
    let named = definitions.keys().filter(|name| !is_not_built(name) && !HOOKS_NOT_BUILT.contains(&name.as_str()));
    // Its variable is `buf` everywhere.
    let missing: Vec<_> = named.filter(|n| *n != "mix" && !is_named(&n.replace("buffer:", "buf:"))).collect();
    assert!(missing.is_empty(), "docs/lua-api.md does not name {missing:?}");
}

#[test]
fn each_function_has_a_description_and_its_parameters_in_order() {
    for (name, Definition { notes, parameters }) in definitions() {
        let Some(parameters) = parameters else { continue };
        assert!(notes.first().is_some_and(|note| !note.starts_with('@')), "{name} has no description");
        let is_hook = !name.contains(['.', ':']);
        assert!(is_hook || notes.iter().any(|note| note.contains('`')), "{name} has no example");
        let annotated: Vec<_> = notes
            .iter()
            .filter_map(|note| note.strip_prefix("@param "))
            .map(|param| param.split(' ').next().unwrap().trim_end_matches('?').to_owned())
            .collect();
        assert_eq!(annotated, parameters, "{name}");
    }
}

#[test]
fn types_that_are_named_are_defined() {
    let library = read("lua/library/mix.lua");
    let defined: BTreeSet<&str> = library
        .lines()
        .filter_map(|line| line.strip_prefix("---@class ").or_else(|| line.strip_prefix("---@alias ")))
        .map(|rest| rest.split(' ').next().unwrap())
        .collect();
    for line in library.lines().filter(|line| line.starts_with("---@")) {
        for (at, _) in line.match_indices("mix.") {
            let name: String = line[at + 4..].chars().take_while(|c| c.is_alphanumeric()).collect();
            if name.starts_with(|c: char| c.is_uppercase()) {
                assert!(defined.contains(format!("mix.{name}").as_str()), "{line}");
            }
        }
    }
}

#[test]
fn the_definitions_are_lua() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("lua/library/mix.lua");
    assert!(vm(&library).offered().contains(&"mix.websocket".to_owned()));
}

#[test]
fn editors_are_pointed_to_the_definitions() {
    let settings: serde_json::Value = serde_json::from_str(&read(".luarc.json")).unwrap();
    assert_eq!(settings["runtime.version"], "LuaJIT");
    let library = settings["workspace.library"][0].as_str().unwrap();
    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(library).join("mix.lua").is_file());
    let globals: BTreeSet<&str> =
        settings["diagnostics.globals"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let definitions = definitions();
    let hooks = definitions.keys().filter(|name| name.starts_with("on_") || name.starts_with("protocol_"));
    assert_eq!(globals, hooks.map(String::as_str).collect());
}
