//! The linter (`connmix check`): mistakes in a script that still compiles, such as names that nothing defines and hooks
//! that nothing calls. It knows what a VM offers and what the script's files assign, and warns only of what is certain.
//! It reads text and bytecode, and runs nothing.

mod bytecode;
mod calls;
mod dialect;
mod files;
mod flow;
mod found;
mod hints;
mod hooks;
mod loops;
mod names;
mod scan;
mod shared;
#[cfg(test)]
mod tests;
mod tokens;

use std::collections::BTreeSet;

use crate::script::hints::{Hints, Mistake};
use crate::script::inspect::Globals;
use crate::script::program::Program;
use crate::script::vm::{BuildError, Vm};
use crate::telemetry::language::{Both, both};
use files::{File, files};
use flow::Flow;
use found::{Found, Lint};
use hooks::Hooks;
use names::Names;

/// What a check of one version of a script has found.
#[derive(Debug)]
pub struct Lints {
    /// By file and line.
    slips: Vec<Lint>,
    /// What the engine offers scripts.
    offered: BTreeSet<String>,
}

impl Lints {
    /// Checks the version that a VM runs.
    pub fn of(vm: &Vm) -> Lints {
        Lints::with(&vm.program, &vm.globals())
    }

    fn with(program: &Program, globals: &Globals) -> Lints {
        Lints { slips: slips(program, globals), offered: globals.offered.clone() }
    }

    /// One line of text each, with file and line. The same finding is reported once in a file, at its first line.
    /// `workers` is how many are configured, 0 for one for each core: with a single worker there is no state that
    /// others do not see.
    pub fn warnings(&self, workers: usize) -> Vec<Both> {
        let mut seen = BTreeSet::new();
        let told = self.slips.iter().filter(|slip| workers != 1 || !slip.is_split);
        let first = told.filter(|slip| seen.insert((&slip.file, &slip.name, &slip.what, &slip.fix)));
        first.map(Lint::warning).collect()
    }
}

impl Lints {
    fn fix_of(&self, mistake: &Mistake<'_>) -> Option<Both> {
        hints::fix(mistake, &self.slips, &self.offered)
    }
}

/// For the log.
impl Hints for Lints {
    fn fix(&self, mistake: &Mistake<'_>) -> Option<String> {
        self.fix_of(mistake).map(|fix| fix.en)
    }
}

/// Why a VM could not be built, with the likely fix if the linter finds it. The error itself is English, as scripts see it.
pub fn explained(program: &Program, error: &BuildError) -> Both {
    let text = error.to_string();
    match error {
        BuildError::NoHook { hook, globals, .. } => {
            let slips = slips(program, globals);
            let why = slips.iter().find(|slip| slip.name == *hook || slip.fix.en.contains(&format!("'{hook}'")));
            let Some(slip) = why else { return text.into() };
            let (line, said) = (slip.line, slip.said());
            Both {
                en: format!("{text} (line {line}: {})", said.en),
                zh: format!("{text}（第 {line} 行：{}）", said.zh),
            }
        }
        BuildError::Script { missed, globals, .. } => {
            let first = text.lines().next().unwrap_or_default();
            let mistake = Mistake { message: first, hook: None, missed: missed.clone() };
            let Some(fix) = Lints::with(program, globals).fix_of(&mistake) else { return text.into() };
            Both {
                en: text.replacen(first, &format!("{first}; {}", fix.en), 1),
                zh: text.replacen(first, &format!("{first}；{}", fix.zh), 1),
            }
        }
        BuildError::Other(_) => text.into(),
    }
}

/// All lints of a version whose entry file has run in a VM with these globals, by file and line.
fn slips(program: &Program, globals: &Globals) -> Vec<Lint> {
    let files = files(program);
    let names = Names::of(globals, &files);
    let hooks = Hooks::of(program);
    let mut slips = Vec::new();
    let own: Vec<&File> = files.iter().filter(|file| file.own).collect();
    let flows: Vec<Flow<'_>> =
        own.iter().map(|file| Flow::of(&file.facts, calls::objects(&file.facts, &hooks).into_iter())).collect();
    let mut changed = shared::changed(&own, &flows, &hooks).into_iter();
    for (file, flow) in own.iter().zip(&flows) {
        let mut found: Vec<Found> = file.dialect.iter().map(Found::of_dialect).collect();
        found.extend(names.wrong_reads(&file.facts));
        found.extend(names.wrong_timers(&file.facts));
        found.extend(names.wrong_writes(&file.facts, &hooks));
        found.extend(file.facts.connection_at_top.iter().map(|(line, path)| {
            let what = both!(
                "{path}() gives nil at a file's top level, where there is no connection",
                "{path}() 在文件顶层得到 nil，那里没有连接"
            );
            Found::new(*line, path, what, both!("call {path}() inside the hook", "请在钩子里调用 {path}()"))
        }));
        found.extend(hooks.wrong_order(&file.facts));
        found.extend(hooks.older(&file.facts));
        found.extend(calls::wrong(flow, &names.offered));
        if !globals.are_watched {
            found.extend(loops::endless(&file.facts));
        }
        // A global that nothing reads has already been reported.
        let is_told = |new: &Found| found.iter().any(|told| (told.line, &told.name) == (new.line, &new.name));
        let changed: Vec<Found> = changed.next().into_iter().flatten().filter(|new| !is_told(new)).collect();
        found.extend(changed);
        if file.is_entry {
            // In other files such a name may mean anything.
            found.extend(hooks.local(&file.facts, &names.functions));
        }
        slips.extend(found.into_iter().map(|found| found.slip(&file.shown)));
    }
    slips.sort_by(|a, b| (&a.file, a.line, &a.name).cmp(&(&b.file, b.line, &b.name)));
    slips.dedup();
    slips
}
