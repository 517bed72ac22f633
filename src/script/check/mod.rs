//! Slips in a script that compile: names that nothing defines, hooks that nothing calls. It knows what the VM offers and
//! what the script's files assign, and warns only of what is certain. It reads text and runs nothing.

mod bytecode;
mod hooks;
mod scan;
#[cfg(test)]
mod tests;

use mlua::Lua;
use std::collections::BTreeSet;
use std::path::Path;

use super::program::{Program, shown};
use super::teach::{instead_of, nearest, offered};
use hooks::Hooks;
use scan::{Facts, Read};

/// One slip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slip {
    /// The file, as messages show it.
    pub file: String,
    /// Its line.
    pub line: u32,
    /// The name in question: a global, a hook, or a path such as `mix.mesh.publsh`.
    pub name: String,
    /// What is wrong.
    pub what: String,
    /// The likely fix; may be empty.
    pub fix: String,
    /// It is about the order of a hook's arguments.
    pub is_order: bool,
}

impl std::fmt::Display for Slip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: warning: {}", self.file, self.line, self.what)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, "; {}", self.fix) }
    }
}

/// Tables of the language whose fields are all known; with `mix` and what is in it.
const LIBRARIES: [&str; 9] = ["string", "table", "math", "os", "io", "coroutine", "debug", "bit", "package"];
/// Names of the language that the sandbox keeps from scripts.
const KEPT: [&str; 6] = ["io", "jit", "ffi", "newproxy", "dofile", "loadfile"];
/// Names of other versions of the language, for which portable modules ask.
const FOREIGN: [&str; 4] = ["utf8", "bit32", "warn", "_ENV"];
/// Globals that the engine reads, besides the hooks.
const ENGINE_READS: [&str; 4] = ["protocol_input", "protocol_decode", "protocol_encode", "protocol_encode_shared"];
/// Modules that are required only inside functions are followed so many.
const MOST_FILES: usize = 1000;

/// One file of the script.
struct File {
    shown: String,
    facts: Facts,
    /// It lies in the script's folder; others are not warned of.
    own: bool,
    is_entry: bool,
}

/// What is known of all files together.
struct Names {
    /// Globals of the VM after the files have run, and what any file assigns anywhere.
    defined: BTreeSet<String>,
    /// Globals that any file reads.
    read: BTreeSet<String>,
    /// What the engine offers.
    offered: BTreeSet<String>,
    /// Tables whose fields are all known.
    closed: BTreeSet<String>,
    /// Globals of the VM.
    globals: BTreeSet<String>,
    /// Those that are functions.
    functions: BTreeSet<String>,
    /// Globals are defined or read in ways that can't be followed.
    opaque: bool,
    compiles: bool,
}

/// All slips of a version whose entry file has run in `lua`, by file and line.
pub(super) fn slips(lua: &Lua, program: &Program) -> Vec<Slip> {
    let files = files(program);
    let names = Names::of(lua, &files);
    let hooks = Hooks::of(program);
    let mut slips = Vec::new();
    for file in files.iter().filter(|file| file.own) {
        let mut slip = |line: u32, name: &str, what: String, fix: String, is_order: bool| {
            slips.push(Slip { file: file.shown.clone(), line, name: name.into(), what, fix, is_order });
        };
        for read in &file.facts.reads {
            if let Some((what, fix)) = names.wrong_read(&file.facts, read) {
                slip(read.line, &read.path, what, fix, false);
            }
        }
        for (line, name, what, fix) in names.wrong_writes(&file.facts, &hooks) {
            slip(line, &name, what, fix, false);
        }
        for (line, path) in &file.facts.connection_at_top {
            let what = format!("{path}() gives nil at a file's top level, where there is no connection");
            slip(*line, path, what, format!("call {path}() inside the hook"), false);
        }
        for (line, hook, what, fix) in hooks.wrong_order(&file.facts) {
            slip(line, hook, what, fix, true);
        }
        // Elsewhere such a name may be anything.
        let local = file.is_entry.then(|| hooks.local(&file.facts, &names.functions));
        for (line, hook, what, fix) in local.into_iter().flatten() {
            slip(line, hook, what, fix, false);
        }
    }
    slips.sort_by(|a, b| (&a.file, a.line, &a.name).cmp(&(&b.file, b.line, &b.name)));
    slips.dedup();
    slips
}

/// The same for reading: each thing once a file, at its first line.
pub(super) fn told_once(slips: &[Slip]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let first = slips.iter().filter(|slip| seen.insert((&slip.file, &slip.name, &slip.what, &slip.fix)));
    first.map(ToString::to_string).collect()
}

/// Why a script has no `on_message`, where its text tells. The entry file has run.
pub(super) fn why_no_hook(lua: &Lua, program: &Program, hook: &str) -> Option<String> {
    slips(lua, program)
        .into_iter()
        .find(|slip| slip.name == hook || slip.fix.contains(&format!("'{hook}'")))
        .map(|slip| format!("line {}: {}; {}", slip.line, slip.what, slip.fix))
}

/// What was read for this version, and what its functions require besides.
fn files(program: &Program) -> Vec<File> {
    let folder = program.folder();
    let file = |path: &Path, text: &[u8]| {
        let facts = Facts::of(bytecode::read(text)?);
        let is_entry = path == program.entry;
        Some(File { shown: shown(path), facts, own: path.starts_with(folder), is_entry })
    };
    let mut files: Vec<File> = Vec::new();
    let mut known: BTreeSet<_> = BTreeSet::new();
    for (path, text) in program.texts() {
        files.extend(file(&path, &text));
        known.insert(path);
    }
    let mut next = 0;
    while let Some(requires) = files
        .get(next)
        .filter(|f| f.own)
        .map(|f| f.facts.requires.clone())
        .or_else(|| (next < files.len()).then(Vec::new))
    {
        next += 1;
        for name in requires {
            let name = name.replace('.', "/");
            for path in [folder.join(format!("{name}.lua")), folder.join(format!("{name}/init.lua"))] {
                if files.len() < MOST_FILES
                    && known.insert(path.clone())
                    && path.is_file()
                    && let Ok(Some(text)) = program.source(&path)
                {
                    files.extend(file(&path, &text));
                }
            }
        }
    }
    files
}

impl Names {
    fn of(lua: &Lua, files: &[File]) -> Names {
        let offered = offered(lua);
        let (mut defined, mut globals, mut functions) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let closed = offered.iter().filter_map(|name| Some(name.rsplit_once('.')?.0.to_owned()));
        let mut closed: BTreeSet<String> = closed.chain(["mix".to_owned()]).collect();
        defined.extend(offered.iter().filter(|name| !name.contains(':')).cloned());
        for (key, value) in lua.globals().pairs::<mlua::Value, mlua::Value>().flatten() {
            let mlua::Value::String(key) = key else { continue };
            let key = key.to_string_lossy();
            match value {
                mlua::Value::Table(library) if LIBRARIES.contains(&key.as_str()) => {
                    for (field, _) in library.pairs::<mlua::Value, mlua::Value>().flatten() {
                        if let mlua::Value::String(field) = field {
                            defined.insert(format!("{key}.{}", field.to_string_lossy()));
                        }
                    }
                    closed.insert(key.clone());
                }
                mlua::Value::Function(_) => drop(functions.insert(key.clone())),
                _ => {}
            }
            globals.insert(key);
        }
        defined.extend(globals.iter().cloned());
        let reads = files.iter().flat_map(|f| &f.facts.reads);
        let read = reads.map(|r| r.path.clone()).collect();
        let written: BTreeSet<String> = files.iter().flat_map(|f| &f.facts.writes).map(|w| w.path.clone()).collect();
        // A table that a script replaces is the script's own affair.
        let is_replaced = |table: &str| {
            let mut around = std::iter::successors(Some(table), |t| Some(t.rsplit_once('.')?.0));
            around.any(|table| written.contains(table))
        };
        closed.retain(|table| !is_replaced(table));
        defined.extend(written);
        let own = || files.iter().filter(|f| f.own);
        Names {
            defined,
            read,
            offered,
            closed,
            globals,
            functions,
            opaque: own().any(|f| f.facts.opaque) || lua.globals().metatable().is_some(),
            compiles: own().any(|f| f.facts.compiles),
        }
    }

    /// What is wrong with reading that, and the fix.
    fn wrong_read(&self, facts: &Facts, read: &Read) -> Option<(String, String)> {
        let path = read.path.as_str();
        if self.defined.contains(path) {
            return None;
        }
        if let Some((table, name)) = path.rsplit_once('.') {
            if !self.closed.contains(table) || facts.tested.contains(path) {
                return None;
            }
            let prefix = format!("{table}.");
            let fields = || self.defined.iter().filter_map(|d| d.strip_prefix(&prefix));
            let lacks = format!("{table} has no '{name}'");
            return Some(match table {
                "string" if name == "dump" => (format!("{path} is not in the sandbox"), String::new()),
                _ if table.starts_with("mix") => (lacks, instead_of(table, name, &self.offered)),
                _ => match nearest(name, fields()) {
                    None if matches!(table, "os" | "io" | "debug" | "package") => {
                        (format!("{path} is not in the sandbox"), libraries_hint(table).into())
                    }
                    near => (lacks, did_you_mean(near)),
                },
            });
        }
        if self.opaque || facts.environments {
            return None;
        }
        let is_standard = KEPT.contains(&path) || FOREIGN.contains(&path);
        if is_standard && facts.tested.contains(path) {
            return None;
        }
        if KEPT.contains(&path) {
            return Some((format!("the global '{path}' is not in the sandbox"), libraries_hint(path).into()));
        }
        Some((format!("global '{path}' is read but nothing defines it"), self.fix_of(facts, read)))
    }

    /// The likely fix of a global that nothing defines.
    fn fix_of(&self, facts: &Facts, read: &Read) -> String {
        let name = read.path.as_str();
        for (depth, (proto, at)) in facts.around(read.proto, read.at).enumerate() {
            for local in proto.locals.iter().filter(|l| l.name == name) {
                let line = facts.declared(proto, local);
                if local.from > at && line == read.line {
                    return format!("'{name}' becomes a local later on this line");
                } else if local.from > at && depth == 0 {
                    return format!("'{name}' becomes a local on line {line}");
                } else if local.from == at + 1 {
                    return format!("write local function {name}, so that it knows itself");
                } else if local.from > at {
                    return format!("'{name}' becomes a local on line {line}, after this function: declare it above");
                } else if local.to <= at {
                    return format!("the local '{name}' of line {line} ends with its block");
                }
            }
        }
        let visible = facts.around(read.proto, read.at).flat_map(|(proto, at)| {
            let seen = proto.locals.iter().filter(move |l| l.from <= at && at < l.to);
            seen.map(|l| l.name.as_str())
        });
        let near = nearest(name, visible)
            .or_else(|| nearest(name, self.defined.iter().map(String::as_str).filter(|d| !d.contains('.'))));
        if near.is_some() {
            return did_you_mean(near);
        }
        // A function of mix that is called without it.
        match self.offered.iter().find(|full| full.rsplit('.').next() == Some(name)) {
            Some(full) => format!("did you mean {full}?"),
            None => String::new(),
        }
    }

    /// Globals that are assigned and never read, with line, name, what is wrong and the fix: functions that look like hooks
    /// anywhere, and anything inside functions.
    fn wrong_writes(&self, facts: &Facts, hooks: &Hooks) -> Vec<(u32, String, String, String)> {
        let mut wrong = Vec::new();
        for write in &facts.writes {
            let name = write.path.as_str();
            let is_known = hooks.names.contains(&name) || ENGINE_READS.contains(&name) || name.contains('.');
            if is_known || self.read.contains(name) || self.opaque || facts.environments {
                continue;
            }
            let uncalled = format!("nothing calls the global function '{name}'");
            let free = hooks.names.iter().copied().filter(|hook| !self.functions.contains(*hook));
            if write.function.is_none() && !self.functions.contains(name) {
                if !facts.is_top(write.proto) && !self.compiles && !self.globals.contains(name) {
                    let what = format!("global '{name}' is assigned but nothing reads it");
                    let visible = facts.around(write.proto, write.at).flat_map(|(proto, at)| {
                        proto.locals.iter().filter(move |l| l.from <= at && at < l.to).map(|l| l.name.as_str())
                    });
                    let fix = nearest(name, visible).or_else(|| nearest(name, self.read.iter().map(String::as_str)));
                    let fix = fix.map_or_else(
                        || format!("write local {name} if it is meant for this function"),
                        |near| did_you_mean(Some(near)),
                    );
                    wrong.push((write.line, name.to_owned(), what, fix));
                }
            } else if let Some(hook) = nearest(name, free) {
                wrong.push((write.line, name.to_owned(), uncalled, format!("did you mean the hook '{hook}'?")));
            } else if facts.is_top(write.proto) && hooks::looks_like_one(name) {
                wrong.push((write.line, name.to_owned(), uncalled, hooks.all()));
            }
        }
        wrong
    }
}

fn did_you_mean(near: Option<&str>) -> String {
    near.map_or_else(String::new, |near| format!("did you mean '{near}'?"))
}

fn libraries_hint(table: &str) -> &'static str {
    if matches!(table, "io" | "os") { "engine.luavm.libraries can let it in" } else { "" }
}
