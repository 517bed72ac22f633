//! Names that nothing defines, and globals that nothing reads: judged by what the VM offers and what the script's files assign.

use std::collections::BTreeSet;

use super::files::File;
use super::found::Found;
use super::hints::{did_you_mean, in_quotes, instead_of, lacks, nearest};
use super::hooks::{self, ENGINE_READS, Hooks};
use super::scan::{self, Facts, Read};
use crate::script::inspect::Globals;
use crate::telemetry::language::{Both, both};

/// Names of the language that the sandbox keeps from scripts.
const KEPT: [&str; 6] = ["io", "jit", "ffi", "newproxy", "dofile", "loadfile"];
/// Names of other versions of Lua that portable modules test for.
const FOREIGN: [&str; 4] = ["utf8", "bit32", "warn", "_ENV"];
/// What is known of all files together.
pub(super) struct Names {
    /// Globals of the VM after the files have run, and what any file assigns anywhere.
    defined: BTreeSet<String>,
    /// Globals that any file reads.
    read: BTreeSet<String>,
    /// What the engine offers.
    pub offered: BTreeSet<String>,
    /// Tables whose fields are all known.
    closed: BTreeSet<String>,
    /// Globals of the VM.
    globals: BTreeSet<String>,
    /// Those that are functions.
    pub functions: BTreeSet<String>,
    /// Globals are defined or read in ways that can't be followed.
    opaque: bool,
    compiles: bool,
    /// Some timer runs a function whose name is not spelt out.
    any_timer: bool,
}

impl Names {
    pub fn of(globals: &Globals, files: &[File]) -> Names {
        let Globals { names, functions, libraries, offered, are_watched } = globals;
        let closed = offered.iter().filter_map(|name| Some(name.rsplit_once('.')?.0.to_owned()));
        let mut closed: BTreeSet<String> = closed.chain(["mix".to_owned()]).chain(libraries.keys().cloned()).collect();
        let fields = libraries.iter().flat_map(|(name, fields)| fields.iter().map(move |f| format!("{name}.{f}")));
        let mut defined: BTreeSet<String> = fields.chain(names.iter().cloned()).collect();
        defined.extend(offered.iter().filter(|name| !name.contains(':')).cloned());
        let reads = files.iter().flat_map(|f| &f.facts.reads);
        let by_timers: Vec<String> =
            files.iter().flat_map(|f| &f.facts.timers).filter_map(|timer| timer.function.clone()).collect();
        let sets = reads.clone().filter(|read| scan::SETS_TIMERS.contains(&read.path.as_str())).count();
        let any_timer = sets > by_timers.len();
        let read = reads.map(|r| r.path.clone()).chain(by_timers).collect();
        let written: BTreeSet<String> = files.iter().flat_map(|f| &f.facts.writes).map(|w| w.path.clone()).collect();
        // The linter does not know a table that a script replaces.
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
            offered: offered.clone(),
            closed,
            globals: names.clone(),
            functions: functions.clone(),
            opaque: own().any(|f| f.facts.opaque) || *are_watched,
            compiles: own().any(|f| f.facts.compiles),
            any_timer,
        }
    }

    /// Fields and globals that are read and are not there.
    pub fn wrong_reads(&self, facts: &Facts) -> Vec<Found> {
        let wrong = facts.reads.iter().filter_map(|read| {
            let (what, fix) = self.wrong_read(facts, read)?;
            Some(Found::new(read.line, &read.path, what, fix))
        });
        wrong.collect()
    }

    /// What is wrong with reading that name, and the fix.
    fn wrong_read(&self, facts: &Facts, read: &Read) -> Option<(Both, Both)> {
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
            let outside = || both!("{path} is not in the sandbox", "{path} 不在沙箱里");
            return Some(match table {
                "string" if name == "dump" => (outside(), Both::default()),
                _ if table.starts_with("mix") => (lacks(table, name), instead_of(table, name, &self.offered)),
                _ => match nearest(name, fields()) {
                    None if matches!(table, "os" | "io" | "debug" | "package") => (outside(), libraries_hint(table)),
                    near => (lacks(table, name), did_you_mean(near.map(in_quotes))),
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
            let what = both!("the global '{path}' is not in the sandbox", "全局变量 '{path}' 不在沙箱里");
            return Some((what, libraries_hint(path)));
        }
        let what = both!("global '{path}' is read but nothing defines it", "读取了全局变量 '{path}'，但没有地方定义它");
        Some((what, self.fix_of(facts, read)))
    }

    /// The likely fix of a global that nothing defines.
    fn fix_of(&self, facts: &Facts, read: &Read) -> Both {
        let name = read.path.as_str();
        for (depth, (proto, at)) in facts.around(read.proto, read.at).enumerate() {
            for local in proto.locals.iter().filter(|l| l.name == name) {
                let line = facts.declared(proto, local);
                if local.from > at && line == read.line {
                    return both!(
                        "'{name}' becomes a local later on this line",
                        "'{name}' 在这一行的后面才成为局部变量"
                    );
                } else if local.from > at && depth == 0 {
                    return both!("'{name}' becomes a local on line {line}", "'{name}' 在第 {line} 行才成为局部变量");
                } else if local.from == at + 1 {
                    return both!(
                        "write local function {name}, so that it knows itself",
                        "请写成 local function {name}，这样它才能调用自己"
                    );
                } else if local.from > at {
                    return both!(
                        "'{name}' becomes a local on line {line}, after this function: declare it above",
                        "'{name}' 在这个函数之后的第 {line} 行才成为局部变量：请在前面声明"
                    );
                } else if local.to <= at {
                    return both!(
                        "the local '{name}' of line {line} ends with its block",
                        "第 {line} 行的局部变量 '{name}' 到它的块结束就没有了"
                    );
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
            return did_you_mean(near.map(in_quotes));
        }
        // A function of mix that is called without it.
        did_you_mean(self.offered.iter().find(|full| full.rsplit('.').next() == Some(name)).cloned())
    }

    /// Timers that run what no global function is.
    pub fn wrong_timers(&self, facts: &Facts) -> Vec<Found> {
        let top = facts.protos.last();
        let wrong = facts.timers.iter().filter_map(|timer| {
            let name = timer.function.as_deref()?;
            if self.defined.contains(name) || self.opaque || self.compiles || facts.environments {
                return None;
            }
            let path = &timer.path;
            let (what, fix) = match top.and_then(|top| top.locals.iter().find(|local| local.name == name)) {
                Some(_) => (
                    both!(
                        "{path} runs '{name}', which is a local; timers run global functions",
                        "{path} 运行 '{name}'，它是局部变量；定时器运行的是全局函数"
                    ),
                    hooks::without_local(name),
                ),
                None => (
                    both!(
                        "{path} runs '{name}', and nothing defines a global function of that name",
                        "{path} 运行 '{name}'，但没有地方定义这个名称的全局函数"
                    ),
                    did_you_mean(nearest(name, self.functions.iter().map(String::as_str)).map(in_quotes)),
                ),
            };
            Some(Found::new(timer.line, name, what, fix))
        });
        wrong.collect()
    }

    /// Globals that are assigned and never read: functions that look like hooks anywhere, and anything inside functions.
    pub fn wrong_writes(&self, facts: &Facts, hooks: &Hooks) -> Vec<Found> {
        let mut wrong = Vec::new();
        for write in &facts.writes {
            let name = write.path.as_str();
            let is_known = hooks.names.contains(&name) || ENGINE_READS.contains(&name) || name.contains('.');
            if is_known || self.read.contains(name) || self.opaque || facts.environments {
                continue;
            }
            let uncalled = both!("nothing calls the global function '{name}'", "没有地方调用全局函数 '{name}'");
            let free = hooks.names.iter().copied().filter(|hook| !self.functions.contains(*hook));
            if write.function.is_none() && !self.functions.contains(name) {
                if !facts.is_top(write.proto) && !self.compiles && !self.globals.contains(name) {
                    let what = both!(
                        "global '{name}' is assigned but nothing reads it",
                        "给全局变量 '{name}' 赋了值，但没有地方读取它"
                    );
                    let visible = facts.around(write.proto, write.at).flat_map(|(proto, at)| {
                        proto.locals.iter().filter(move |l| l.from <= at && at < l.to).map(|l| l.name.as_str())
                    });
                    let fix = nearest(name, visible).or_else(|| nearest(name, self.read.iter().map(String::as_str)));
                    let fix = fix.map_or_else(
                        || {
                            both!(
                                "write local {name} if it is meant for this function",
                                "如果它只用于这个函数，请写成 local {name}"
                            )
                        },
                        |near| did_you_mean(Some(in_quotes(near))),
                    );
                    wrong.push(Found::new(write.line, name, what, fix));
                }
            } else if self.any_timer {
                // It may be one that a timer runs.
            } else if let Some(hook) = nearest(name, free) {
                let fix = both!("did you mean the hook '{hook}'?", "是不是钩子 '{hook}'？");
                wrong.push(Found::new(write.line, name, uncalled, fix));
            } else if facts.is_top(write.proto) && hooks::looks_like_one(name) {
                wrong.push(Found::new(write.line, name, uncalled, hooks.all()));
            }
        }
        wrong
    }
}

fn libraries_hint(table: &str) -> Both {
    match table {
        "io" | "os" => both!("engine.luavm.libraries can let it in", "engine.luavm.libraries 可以放开它"),
        _ => Both::default(),
    }
}
