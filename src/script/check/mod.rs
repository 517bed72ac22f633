//! Slips in a script that compile: names that nothing defines, hooks that nothing calls. It knows what the VM offers and
//! what the script's files assign, and warns only of what is certain. It reads text and runs nothing.

mod bytecode;
mod calls;
mod dialect;
mod files;
mod flow;
mod hooks;
mod names;
mod scan;
mod shared;
#[cfg(test)]
mod tests;
mod tokens;

use mlua::Lua;
use std::collections::BTreeSet;

use super::program::Program;
use files::{File, files};
use flow::Flow;
use hooks::Hooks;
use names::Names;

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
    /// It is about the order of this hook's arguments: its last line. [`Slip::line`] is its first.
    pub order: Option<u32>,
    /// It is state that each worker has of its own: with one worker no slip.
    pub is_split: bool,
}

impl std::fmt::Display for Slip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: warning: {}", self.file, self.line, self.what)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, "; {}", self.fix) }
    }
}

/// A slip as the parts of this module find it, in a file that they need not know.
struct Found {
    line: u32,
    name: String,
    what: String,
    fix: String,
    order: Option<u32>,
    is_split: bool,
}

impl Found {
    fn new(line: u32, name: &str, what: impl Into<String>, fix: impl Into<String>) -> Found {
        Found { line, name: name.into(), what: what.into(), fix: fix.into(), order: None, is_split: false }
    }

    fn of_dialect((line, spelt, instead): &dialect::Use) -> Found {
        let what = format!("'{spelt}' is neither Lua 5.1 nor stock LuaJIT: such a script runs nowhere else");
        Found::new(*line, spelt, what, instead.as_str())
    }

    fn slip(self, file: &str) -> Slip {
        let Found { line, name, what, fix, order, is_split } = self;
        Slip { file: file.into(), line, name, what, fix, order, is_split }
    }
}

/// All slips of a version whose entry file has run in `lua`, by file and line.
pub(super) fn slips(lua: &Lua, program: &Program) -> Vec<Slip> {
    let files = files(program);
    let names = Names::of(lua, &files);
    let hooks = Hooks::of(program);
    let mut slips = Vec::new();
    let own: Vec<&File> = files.iter().filter(|file| file.own).collect();
    let flows: Vec<Flow<'_>> =
        own.iter().map(|file| Flow::of(&file.facts, calls::objects(&file.facts, &hooks).into_iter())).collect();
    let mut changed = shared::changed(&own, &flows, &hooks).into_iter();
    for (file, flow) in own.iter().zip(&flows) {
        let mut found: Vec<Found> = file.dialect.iter().map(Found::of_dialect).collect();
        found.extend(names.wrong_reads(&file.facts));
        found.extend(names.wrong_writes(&file.facts, &hooks));
        found.extend(file.facts.connection_at_top.iter().map(|(line, path)| {
            let what = format!("{path}() gives nil at a file's top level, where there is no connection");
            Found::new(*line, path, what, format!("call {path}() inside the hook"))
        }));
        found.extend(hooks.wrong_order(&file.facts));
        found.extend(hooks.older(&file.facts));
        found.extend(calls::wrong(flow, &names.offered));
        // A global that nothing reads has been told already.
        let is_told = |new: &Found| found.iter().any(|told| (told.line, &told.name) == (new.line, &new.name));
        let changed: Vec<Found> = changed.next().into_iter().flatten().filter(|new| !is_told(new)).collect();
        found.extend(changed);
        if file.is_entry {
            // Elsewhere such a name may be anything.
            found.extend(hooks.local(&file.facts, &names.functions));
        }
        slips.extend(found.into_iter().map(|found| found.slip(&file.shown)));
    }
    slips.sort_by(|a, b| (&a.file, a.line, &a.name).cmp(&(&b.file, b.line, &b.name)));
    slips.dedup();
    slips
}

/// The same for reading: each thing once a file, at its first line.
pub(super) fn told_once<'a>(slips: impl Iterator<Item = &'a Slip>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let first = slips.filter(|slip| seen.insert((&slip.file, &slip.name, &slip.what, &slip.fix)));
    first.map(ToString::to_string).collect()
}

/// Why a script has no `on_message`, where its text tells. The entry file has run.
pub(super) fn why_no_hook(lua: &Lua, program: &Program, hook: &str) -> Option<String> {
    slips(lua, program)
        .into_iter()
        .find(|slip| slip.name == hook || slip.fix.contains(&format!("'{hook}'")))
        .map(|slip| format!("line {}: {}; {}", slip.line, slip.what, slip.fix))
}
