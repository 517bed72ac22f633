//! State that workers do not share: top-level variables, globals, and the tables in them, if handlers change them. Each
//! worker has a VM of its own, so a counter of clients counts only those of one worker.
//!
//! Handlers are the hooks and the functions that they reach, found by name. Functions that only the top level calls are
//! not handlers. State that is created once, when it is first needed, is the same in all workers and is not reported.

use std::collections::{BTreeMap, BTreeSet};

use super::bytecode::{Ins, op};
use super::files::File;
use super::flow::{Flow, LintContext, Registers, Root, asks, first};
use super::found::Found;
use super::hooks::{ENGINE_READS, Hooks};
use crate::script::inspect::LIBRARIES;
use crate::telemetry::language::{Both, both};

/// A function: its file and its number there.
type Function = (usize, usize);

/// Functions of the language that change their first argument.
const CHANGERS: [&str; 4] = ["table.insert", "table.remove", "table.sort", "rawset"];

/// The text of a comment, on the line of a variable or of its change, that says that each worker is meant to have its
/// own.
const MEANT: &str = "each worker";

/// By which names functions are reached.
#[derive(Default)]
struct Names {
    /// Global functions, and those in fields of any table.
    by_key: BTreeMap<String, Vec<Function>>,
    /// Those in the tables of top-level variables, by file and variable's register.
    in_table: BTreeMap<(usize, usize), Vec<Function>>,
}

/// A change of a variable.
struct Change {
    root: Root,
    line: u32,
    /// It is what it was and something more: a counter.
    counts: bool,
    /// The variable itself is assigned, not something in it.
    assigned: bool,
}

/// For each file what handlers change there. `files` and `flows` are the script's own.
pub(super) fn changed(files: &[&File], flows: &[Flow<'_>], hooks: &Hooks) -> Vec<Vec<Found>> {
    let names = Names::of(flows);
    let reached = reached(flows, &names, hooks);
    // Globals that some file assigns at its top level. Others are probably locals without the keyword.
    let mut made = BTreeSet::new();
    for flow in flows {
        let top = flow.facts.writes.iter().filter(|write| flow.facts.is_top(write.proto));
        made.extend(top.map(|write| first(&write.path).to_owned()));
    }
    let mut found: Vec<Vec<Found>> = files.iter().map(|_| Vec::new()).collect();
    for &(file, number) in &reached {
        let (Some(flow), Some(of), Some(found)) = (flows.get(file), files.get(file), found.get_mut(file)) else {
            continue;
        };
        for change in changes(flow, number, hooks) {
            let Change { root, line, .. } = change;
            match &root {
                Root::Local((proto, local)) => {
                    let Some(proto) = flow.facts.protos.get(*proto) else { continue };
                    let Some(local) = proto.locals.get(*local) else { continue };
                    let declared = flow.facts.declared(proto, local);
                    if !of.is_commented(line, MEANT) && !of.is_commented(declared, MEANT) {
                        let name = &local.name;
                        found.push(split(line, name, &both!("'{name}'", " '{name}'")));
                    }
                }
                Root::Global(name) if is_builtin(name) || of.is_commented(line, MEANT) || flow.facts.environments => {}
                Root::Global(name) if made.contains(name) => {
                    found.push(split(line, name, &both!("the global '{name}'", "全局变量 '{name}'")));
                }
                Root::Global(name) => {
                    let what = both!(
                        "the global '{name}' is changed by handlers: all connections of a worker share it",
                        "处理函数会改变全局变量 '{name}'：一个 worker 的所有连接共享它"
                    );
                    let fix = both!(
                        "write local {name} if it is meant for this call",
                        "如果它只用于这次调用，请写成 local {name}"
                    );
                    found.push(Found::new(line, name, what, fix));
                }
            }
        }
    }
    found.iter_mut().for_each(|found| found.iter_mut().for_each(|found| found.is_split = true));
    found
}

/// Tables that scripts may add to, which is not about their connections.
fn is_builtin(name: &str) -> bool {
    LIBRARIES.contains(&name) || matches!(name, "mix" | "_G")
}

fn split(line: u32, name: &str, shown: &Both) -> Found {
    let what = Both {
        en: format!("{} is changed by handlers, and each worker has its own", shown.en),
        zh: format!("处理函数会改变{}，而每个 worker 各有一份", shown.zh),
    };
    let fix = both!(
        "keep it in a connection's context (conn:set_context_value) or in Redis, or say that it is meant by the \
         comment \"-- each worker\"",
        "请放在连接的 context（conn:set_context_value）或 Redis 里；如果本意如此，请用注释 \"-- each worker\" 说明"
    );
    Found::new(line, name, what, fix)
}

impl Names {
    fn of(flows: &[Flow<'_>]) -> Names {
        let mut names = Names::default();
        for (file, flow) in flows.iter().enumerate() {
            for (number, proto) in flow.facts.protos.iter().enumerate() {
                flow.walk(number, |r, ins| {
                    let Some(LintContext::Function(function)) = r.get(ins.a()) else { return };
                    let key = match ins.op() {
                        op::GSET => proto.text(ins.d()),
                        op::TSETS => proto.text(ins.c()),
                        op::TSETV => None,
                        _ => return,
                    };
                    if let Some(key) = key {
                        names.by_key.entry(key.to_owned()).or_default().push((file, function));
                    }
                    if flow.facts.is_top(number) && matches!(ins.op(), op::TSETS | op::TSETV) {
                        names.in_table.entry((file, ins.b())).or_default().push((file, function));
                    }
                });
            }
        }
        names
    }
}

/// The hooks, and all functions that they may call.
fn reached(flows: &[Flow<'_>], names: &Names, hooks: &Hooks) -> BTreeSet<Function> {
    // What on_start sets is made once in each worker.
    let is_hook = |name: &str| name != "on_start" && (hooks.names.contains(&name) || ENGINE_READS.contains(&name));
    let mut open: Vec<Function> = Vec::new();
    for (file, flow) in flows.iter().enumerate() {
        let by_timers = flow.facts.timers.iter().filter_map(|timer| names.by_key.get(timer.function.as_deref()?));
        open.extend(by_timers.flatten().copied());
        let Some(top) = flow.facts.protos.len().checked_sub(1) else { continue };
        let Some(proto) = flow.facts.protos.get(top) else { continue };
        // The key of the field that was fetched last into each register: `on_message = module.handle`.
        let mut keys: BTreeMap<usize, String> = BTreeMap::new();
        flow.walk(top, |r, ins| match ins.op() {
            op::TGETS => drop(proto.text(ins.c()).map(|key| keys.insert(ins.a(), key.to_owned()))),
            op::GSET if proto.text(ins.d()).is_some_and(is_hook) => match r.get(ins.a()) {
                Some(LintContext::Function(function)) => open.push((file, function)),
                _ => open.extend(keys.get(&ins.a()).and_then(|key| names.by_key.get(key)).into_iter().flatten()),
            },
            _ => {}
        });
    }
    let mut reached = BTreeSet::new();
    while let Some((file, number)) = open.pop() {
        let Some(flow) = flows.get(file).filter(|_| reached.insert((file, number))) else { continue };
        let Some(proto) = flow.facts.protos.get(number) else { continue };
        flow.walk(number, |r, ins| {
            let by_key = |key: Option<&str>| key.and_then(|key| names.by_key.get(key)).into_iter().flatten().copied();
            match ins.op() {
                op::FNEW => open.extend(proto.function(ins.d()).map(|function| (file, function))),
                op::GGET => open.extend(by_key(proto.text(ins.d()))),
                op::UGET => {
                    let var = flow.upvalue(number, ins.d());
                    open.extend(var.and_then(|var| flow.function(var)).map(|function| (file, function)));
                }
                op::TGETS => open.extend(by_key(proto.text(ins.c()))),
                op::TGETV => {
                    if let Some(Root::Local((top, local))) = r.get(ins.b()).and_then(LintContext::root) {
                        let slot = flow.facts.protos.get(top).and_then(|top| top.locals.get(local)).map(|l| l.slot);
                        let table = slot.and_then(|slot| names.in_table.get(&(file, slot)));
                        open.extend(table.into_iter().flatten());
                    }
                }
                _ => {}
            }
        });
    }
    reached
}

/// What a function changes that outlives its call, except what it creates once.
fn changes(flow: &Flow<'_>, number: usize, hooks: &Hooks) -> Vec<Change> {
    let Some(proto) = flow.facts.protos.get(number) else { return Vec::new() };
    let (mut asked, mut changes) = (BTreeSet::new(), Vec::new());
    flow.walk(number, |r, ins| {
        let next = proto.code.get(r.at() + 1);
        if let Some(root) = read(flow, number, r, ins)
            && next.is_some_and(|next| asks(*next, ins.a()))
        {
            asked.insert(root);
        }
        // A value that is tested later, by the local that keeps it.
        if (op::ISTC..=op::ISF).contains(&ins.op()) || matches!(ins.op(), op::ISEQP | op::ISNEP) {
            let register = if ins.op() >= op::ISTC { ins.d() } else { ins.a() };
            asked.extend(r.get(register).and_then(LintContext::root));
        }
        let before = r.at().checked_sub(1).and_then(|before| proto.code.get(before));
        let is_sum = |register: usize| {
            before.is_some_and(|before| {
                let sums = (op::ADDVN..=op::CAT).contains(&before.op()) || (op::BNOT..=op::BSAR).contains(&before.op());
                sums && before.a() == register
            })
        };
        let changed = match ins.op() {
            op::USETV..=op::USETP => {
                let root = flow.upvalue(number, ins.a()).and_then(|var| flow.root(var));
                let is_function = ins.op() == op::USETV && matches!(r.get(ins.d()), Some(LintContext::Function(_)));
                root.filter(|_| !is_function).map(|root| (root, ins.op() == op::USETV && is_sum(ins.d())))
            }
            op::GSET => {
                let name =
                    proto.text(ins.d()).filter(|name| !hooks.names.contains(name) && !ENGINE_READS.contains(name));
                let is_function = matches!(r.get(ins.a()), Some(LintContext::Function(_)));
                name.filter(|_| !is_function).map(|name| (Root::Global(name.to_owned()), is_sum(ins.a())))
            }
            // A class uses this to make an object, perhaps many times.
            op::TSETS if proto.text(ins.c()).is_some_and(|key| key.starts_with("__")) => None,
            op::TSETV..=op::TSETR => {
                let root = r.get(ins.b()).and_then(|table| match table {
                    LintContext::Path(path) if path == "_G" && ins.op() == op::TSETS => {
                        proto.text(ins.c()).map(|name| Root::Global(name.to_owned()))
                    }
                    table => table.root(),
                });
                root.map(|root| (root, is_sum(ins.a())))
            }
            op::CALL | op::CALLM | op::CALLT | op::CALLMT => match r.get(ins.a()) {
                Some(LintContext::Path(path)) if CHANGERS.contains(&path.as_str()) => {
                    let table = r.arguments(ins).next().and_then(|register| r.get(register));
                    table.and_then(LintContext::root).map(|root| (root, false))
                }
                _ => None,
            },
            _ => None,
        };
        let assigned = (op::USETV..=op::USETP).contains(&ins.op()) || ins.op() == op::GSET;
        changes.extend(changed.map(|(root, counts)| Change { root, line: ins.line, counts, assigned }));
    });
    // Several variables may be created together, of which only one is tested.
    let makes = changes.iter().any(|change| change.assigned && !change.counts && asked.contains(&change.root));
    changes.retain(|change| change.counts || !(asked.contains(&change.root) || makes && change.assigned));
    changes
}

/// The variable that an instruction reads, or reads something in.
fn read(flow: &Flow<'_>, number: usize, r: &Registers<'_>, ins: Ins) -> Option<Root> {
    let proto = flow.facts.protos.get(number)?;
    match ins.op() {
        op::UGET => flow.root(flow.upvalue(number, ins.d())?),
        op::GGET => proto.text(ins.d()).map(|name| Root::Global(name.to_owned())),
        op::TGETV..=op::TGETR => r.get(ins.b())?.root(),
        _ => None,
    }
}
