//! Scripts before any worker runs them: read, tried and checked, on the thread that asks.

use std::sync::Arc;

use crate::config::Config;
use crate::lint::{self, Lints};
use crate::script::ignored;
use crate::script::program::Program;
use crate::script::vm::{Vm, VmLimits};
use crate::telemetry::language::{Both, Language};

/// Checks every entry script as the workers will run it. Returns all errors at once, one a line; the warnings are lints
/// of scripts that compile.
pub fn check_scripts(config: &Config, language: Language) -> Result<Vec<String>, String> {
    let mut warnings = Vec::new();
    compile(config, |vm| {
        // Two servers may share a script.
        let all = Lints::of(vm).warnings(config.workers);
        let all = all.iter().map(|warning| warning.in_language(language).to_owned());
        let new: Vec<_> = all.filter(|w| !warnings.contains(w)).collect();
        warnings.extend(new);
    })
    .map_err(|errors| errors.in_language(language).to_owned())?;
    Ok(warnings)
}

/// Checks a script that works, so that its errors can hint at what was meant without a worker having to look. Logs the
/// lints for its author: when the log is at debug, as in `dev`.
pub(super) fn check_script(vm: &Vm, workers: usize) {
    ignored::forget();
    let lints = Lints::of(vm);
    if tracing::enabled!(target: "script", tracing::Level::DEBUG) {
        lints.warnings(workers).iter().for_each(|warning| tracing::warn!(target: "script", "{warning}"));
    }
    vm.program.hint_with(Box::new(lints));
}

/// Reads and tries each server's script, on this thread. `tried` sees those that work.
pub(super) fn compile(config: &Config, mut tried: impl FnMut(&Vm)) -> Result<Vec<Arc<Program>>, Both> {
    let limits = VmLimits::of(&config.luavm);
    let (mut programs, mut errors) = (Vec::new(), Vec::new());
    for (position, server) in config.servers.iter().enumerate() {
        let program = Program::new(server.protocol, server.entry.clone(), server.options.clone());
        let program = Arc::new(program.of_server(position));
        match Vm::new(program.clone(), &limits) {
            Ok(vm) => {
                tried(&vm);
                programs.push(program);
            }
            Err(e) => {
                let e = lint::explained(&program, &e);
                // Two servers may share a script.
                if !errors.contains(&e) {
                    errors.push(e);
                }
            }
        }
    }
    let lines = |language| errors.iter().map(|e| e.in_language(language)).collect::<Vec<_>>().join("\n");
    match errors.is_empty() {
        true => Ok(programs),
        false => Err(Both { en: lines(Language::English), zh: lines(Language::Chinese) }),
    }
}
