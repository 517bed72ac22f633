//! What registers hold, as far as it is certain: constants, functions, fields of globals, connections, and values from
//! a file's top-level variables. It follows variables that are assigned once into the functions that use them, and
//! connections into the functions that they are passed to.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::bytecode::{Ins, Proto, Upvalue, op};
use super::scan::Facts;

/// A local variable: its function, and its place among that function's locals.
pub(super) type Var = (usize, usize);

/// A variable that outlives calls.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Root {
    /// A local of a file's top level.
    Local(Var),
    Global(String),
}

/// What a register holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum LintContext {
    /// A global, or a field of one.
    Path(String),
    Text(String),
    /// A concatenation in which that stands.
    Piece(String),
    /// A number, a boolean, nil, or a new table.
    Plain,
    Function(usize),
    /// A value of one of the engine's classes, by its name: `conn`.
    Object(&'static str),
    /// A method of such a class.
    Method(&'static str, String),
    /// What a variable of the top level holds.
    Variable(Var),
    /// Something inside what a variable holds.
    Within(Root),
}

impl LintContext {
    /// The variable that it is in, if that outlives calls.
    pub fn root(self) -> Option<Root> {
        match self {
            LintContext::Variable(var) => Some(Root::Local(var)),
            LintContext::Within(root) => Some(root),
            LintContext::Path(path) => Some(Root::Global(first(&path).to_owned())),
            _ => None,
        }
    }
}

/// One file.
pub(super) struct Flow<'a> {
    pub facts: &'a Facts,
    /// What variables hold that are assigned once.
    values: BTreeMap<Var, LintContext>,
    /// For each function the variables that its upvalues are.
    upvalues: Vec<Vec<Option<Var>>>,
    /// Parameters that are known to get an object, or as `self` the table of a variable.
    given: BTreeMap<Var, LintContext>,
    /// Functions that the top level puts into the tables of its variables, by their keys, once each.
    methods: BTreeMap<(Var, &'a str), Option<usize>>,
    changed: BTreeSet<Var>,
    /// Global functions that are written once in the file.
    globals: BTreeMap<&'a str, usize>,
}

/// The state of a walk before an instruction.
pub(super) struct Registers<'a> {
    flow: &'a Flow<'a>,
    number: usize,
    at: usize,
    temps: Vec<Option<LintContext>>,
    /// For each register the local that it was given to last.
    active: Vec<Option<usize>>,
}

/// Loops write some registers beyond those that a function counts.
const ROOM: usize = 8;

/// Each round follows a value by one more variable or call; scripts need three or four.
const MOST_ROUNDS: usize = 16;

impl<'a> Flow<'a> {
    /// `objects`: parameters that get one, by function and position.
    pub fn of(facts: &'a Facts, objects: impl Iterator<Item = (Var, &'static str)>) -> Flow<'a> {
        let upvalues = upvalues(facts);
        let given = objects.map(|(var, class)| (var, LintContext::Object(class))).collect();
        let mut globals: BTreeMap<&str, Option<usize>> = BTreeMap::new();
        for write in &facts.writes {
            globals.entry(&write.path).and_modify(|function| *function = None).or_insert(write.function);
        }
        let globals = globals.into_iter().filter_map(|(name, function)| Some((name, function?))).collect();
        let (values, methods, changed) = Default::default();
        let mut flow = Flow { facts, values, upvalues, given, methods, changed, globals };
        flow.changed = flow.changed();
        flow.methods = flow.methods();
        for _ in 0..MOST_ROUNDS {
            let before = (flow.given.len(), flow.values.len());
            // The functions around come before those in them.
            for number in (0..facts.protos.len()).rev() {
                let (mut values, mut passed) = (Vec::new(), Vec::new());
                flow.walk_with(number, |r, ins| passed.extend(r.passed(ins)), |var, known| values.push((var, known)));
                flow.values.extend(values);
                flow.given.extend(passed);
            }
            if (flow.given.len(), flow.values.len()) == before {
                break;
            }
        }
        flow
    }

    /// Visits each instruction of a function with what the registers hold before it.
    pub fn walk(&self, number: usize, visit: impl FnMut(&Registers<'_>, Ins)) {
        self.walk_with(number, visit, |_, _| ());
    }

    /// The variable that an upvalue is.
    pub fn upvalue(&self, number: usize, upvalue: usize) -> Option<Var> {
        self.upvalues.get(number)?.get(upvalue).copied().flatten()
    }

    /// A variable that outlives calls, if that is one.
    pub fn root(&self, var: Var) -> Option<Root> {
        self.facts.is_top(var.0).then_some(Root::Local(var))
    }

    /// The function that a variable holds.
    pub fn function(&self, var: Var) -> Option<usize> {
        match self.values.get(&var) {
            Some(LintContext::Function(function)) => Some(*function),
            _ => None,
        }
    }

    /// Variables that are assigned after their declaration, anywhere.
    fn changed(&self) -> BTreeSet<Var> {
        let mut changed = BTreeSet::new();
        for (number, proto) in self.facts.protos.iter().enumerate() {
            self.walk_with(
                number,
                |r, ins| {
                    if (op::USETV..=op::USETP).contains(&ins.op()) {
                        changed.extend(self.upvalue(number, ins.a()));
                    }
                    for register in written(ins).take_while(|register| *register < r.temps.len()) {
                        changed.extend(r.local(register).filter(|_| !opens(proto, r.at)).map(|local| (number, local)));
                    }
                },
                |_, _| (),
            );
        }
        changed
    }

    /// What the top level puts into its variables' tables.
    fn methods(&self) -> BTreeMap<(Var, &'a str), Option<usize>> {
        let mut methods: BTreeMap<(Var, &str), Option<usize>> = BTreeMap::new();
        let facts = self.facts;
        let Some(top) = facts.protos.len().checked_sub(1) else { return methods };
        let Some(proto) = facts.protos.get(top) else { return methods };
        self.walk(top, |r, ins| {
            if ins.op() == op::TSETS
                && let (Some(table), Some(key)) = (r.local(ins.b()), proto.text(ins.c()))
            {
                let function = match r.get(ins.a()) {
                    Some(LintContext::Function(function)) => Some(function),
                    _ => None,
                };
                methods.entry(((top, table), key)).and_modify(|before| *before = None).or_insert(function);
            }
        });
        methods
    }

    fn walk_with(
        &self,
        number: usize,
        mut visit: impl FnMut(&Registers<'_>, Ins),
        mut declared: impl FnMut(Var, LintContext),
    ) {
        let Some(proto) = self.facts.protos.get(number) else { return };
        let back = |(at, ins): (usize, &Ins)| ins.target(at).filter(|target| *target <= at);
        let loops: BTreeSet<usize> = proto.code.iter().enumerate().filter_map(back).collect();
        // What the registers hold where jumps forward arrive.
        let mut joins: BTreeMap<usize, Vec<(usize, LintContext)>> = BTreeMap::new();
        let mut is_reached = true;
        let registers = proto.registers + ROOM;
        let mut r =
            Registers { flow: self, number, at: 0, temps: vec![None; registers], active: vec![None; registers] };
        let mut next = 0;
        for (at, ins) in proto.code.iter().copied().enumerate() {
            r.at = at;
            if let Some(arriving) = joins.remove(&at) {
                let here = std::mem::replace(&mut r.temps, vec![None; registers]);
                for (register, known) in arriving {
                    if !is_reached || here[register].as_ref() == Some(&known) {
                        r.temps[register] = Some(known);
                    }
                }
                is_reached = true;
            }
            while let Some(local) = proto.locals.get(next).filter(|local| local.from <= at) {
                let var = (number, next);
                let known = match self.given.get(&var) {
                    Some(given) if next < proto.params => Some(given.clone()),
                    _ => r.temps.get(local.slot).cloned().flatten(),
                };
                if let Some(known) = known.filter(|_| !self.changed.contains(&var)) {
                    declared(var, known);
                }
                if let Some(active) = r.active.get_mut(local.slot) {
                    *active = Some(next);
                }
                next += 1;
            }
            if loops.contains(&at) {
                r.temps.fill(None);
            }
            visit(&r, ins);
            let set = r.result(proto, ins);
            if let Some(target) = ins.target(at).filter(|_| ins.op() != op::ISNEXT) {
                let is_jump = ins.op() == op::JMP;
                if is_jump && target > at {
                    let known = r.temps.iter().enumerate().filter_map(|(n, known)| Some((n, known.clone()?)));
                    match joins.entry(target) {
                        Entry::Vacant(vacant) => drop(vacant.insert(known.collect())),
                        Entry::Occupied(mut other) => other.get_mut().retain(|(n, k)| r.temps[*n].as_ref() == Some(k)),
                    }
                } else if target > at {
                    joins.insert(target, Vec::new());
                }
                // A test stands before a jump that may not be taken.
                let before = at.checked_sub(1).and_then(|before| proto.code.get(before));
                is_reached = !is_jump || before.is_some_and(|before| before.op() <= op::ISF);
                if !is_jump || !is_reached || target <= at {
                    r.temps.fill(None);
                }
            }
            for register in written(ins) {
                let Some(slot) = r.temps.get_mut(register) else { break };
                *slot = None;
            }
            if let Some(slot) = r.temps.get_mut(ins.a()).filter(|_| set.is_some()) {
                *slot = set;
            }
        }
    }
}

impl Registers<'_> {
    /// The number of the instruction.
    pub fn at(&self) -> usize {
        self.at
    }

    /// What a register holds.
    pub fn get(&self, register: usize) -> Option<LintContext> {
        match self.local(register) {
            Some(local) => self.flow.values.get(&(self.number, local)).cloned(),
            None => self.temps.get(register)?.clone(),
        }
    }

    /// The local variable whose register that is here.
    fn local(&self, register: usize) -> Option<usize> {
        let local = self.active.get(register).copied().flatten()?;
        let proto = self.flow.facts.protos.get(self.number)?;
        proto.locals.get(local).is_some_and(|l| self.at < l.to).then_some(local)
    }

    /// The registers of a call's arguments, as far as their count is fixed.
    pub fn arguments(&self, ins: Ins) -> Range<usize> {
        let count = match ins.op() {
            op::CALL => ins.c().saturating_sub(1),
            op::CALLT => ins.d().saturating_sub(1),
            op::CALLM => ins.c(),
            op::CALLMT => ins.d(),
            _ => 0,
        };
        ins.a() + 2..ins.a() + 2 + count
    }

    /// Parameters that get an object by a call, or as `self` the table that the function stands in.
    fn passed(&self, ins: Ins) -> Vec<(Var, LintContext)> {
        let is_call = (op::CALLM..=op::CALLT).contains(&ins.op());
        let Some(LintContext::Function(function)) = is_call.then(|| self.callee(ins)).flatten() else {
            return Vec::new();
        };
        let arguments = self.arguments(ins).enumerate();
        let is_self = |position| {
            let proto = self.flow.facts.protos.get(function);
            position == 0 && proto.is_some_and(|proto| proto.first_param() == Some("self"))
        };
        let given = arguments.filter_map(|(position, register)| match self.get(register)? {
            LintContext::Variable(var) if is_self(position) => {
                Some(((function, position), LintContext::Within(self.flow.root(var)?)))
            }
            object @ LintContext::Object(_) => Some(((function, position), object)),
            _ => None,
        });
        given.collect()
    }

    /// What a call calls. A global function that is written in the same file is that function.
    fn callee(&self, ins: Ins) -> Option<LintContext> {
        let known = self.get(ins.a())?;
        let written = match &known {
            LintContext::Path(name) => self.flow.globals.get(name.as_str()),
            _ => None,
        };
        Some(written.map_or(known.clone(), |function| LintContext::Function(*function)))
    }

    /// What an instruction puts into its register.
    fn result(&self, proto: &Proto, ins: Ins) -> Option<LintContext> {
        let text = |number: usize| proto.text(number).map(str::to_owned);
        match ins.op() {
            op::KSTR => text(ins.d()).map(LintContext::Text),
            op::KSHORT..=op::KPRI | op::TNEW | op::TDUP => Some(LintContext::Plain),
            op::MOV => self.get(ins.d()),
            op::FNEW => proto.function(ins.d()).map(LintContext::Function),
            op::GGET => text(ins.d()).map(LintContext::Path),
            op::UGET => {
                let var = self.flow.upvalue(self.number, ins.d())?;
                let known = self.flow.values.get(&var).filter(|known| **known != LintContext::Plain).cloned();
                known.or_else(|| self.flow.root(var).map(|_| LintContext::Variable(var)))
            }
            op::TGETV..=op::TGETR => {
                let key = match (ins.op(), self.get(ins.c())) {
                    (op::TGETS, _) => text(ins.c()),
                    (op::TGETV, Some(LintContext::Text(key))) => Some(key),
                    _ => None,
                };
                match (self.get(ins.b())?, key) {
                    (LintContext::Path(path), Some(key)) if path == "_G" => Some(LintContext::Path(key)),
                    (LintContext::Path(path), Some(key)) => Some(LintContext::Path(format!("{path}.{key}"))),
                    (LintContext::Path(path), None) => Some(LintContext::Within(Root::Global(first(&path).to_owned()))),
                    (LintContext::Object(class), Some(key)) => Some(LintContext::Method(class, key)),
                    (LintContext::Variable(var), key) => {
                        let method = key.and_then(|key| self.flow.methods.get(&(var, key.as_str())).copied().flatten());
                        method.map(LintContext::Function).or_else(|| self.flow.root(var).map(LintContext::Within))
                    }
                    (LintContext::Within(root), _) => Some(LintContext::Within(root)),
                    _ => None,
                }
            }
            op::CAT => {
                let pieces = (ins.b()..=ins.c()).filter_map(|register| match self.get(register) {
                    Some(LintContext::Text(text) | LintContext::Piece(text)) => Some(text),
                    _ => None,
                });
                Some(LintContext::Piece(pieces.collect()))
            }
            op::CALL | op::CALLM if ins.b() != 1 => match self.get(ins.a())? {
                LintContext::Path(path) => match path.as_str() {
                    "mix.websocket" | "mix.socket.tcp" => Some(LintContext::Object("conn")),
                    "mix.redis.connection" => Some(LintContext::Object("redis")),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }
}

/// The global of a path.
pub(super) fn first(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

/// Whether an instruction only asks whether a register holds something.
pub(super) fn asks(ins: Ins, register: usize) -> bool {
    match ins.op() {
        op::ISTC..=op::ISF | op::NOT => ins.d() == register,
        op::ISEQP | op::ISNEP => ins.a() == register,
        _ => false,
    }
}

/// The registers that an instruction writes.
fn written(ins: Ins) -> Range<usize> {
    let a = ins.a();
    match ins.op() {
        0..op::ISTC | op::IST..=op::ISNUM | op::USETV..=op::UCLO | op::GSET | op::TSETV..=op::TSETR => a..a,
        op::KNIL => a..ins.d().min(255) + 1,
        op::CALLM | op::CALL | op::ITERC..=op::VARG => a..256,
        op::CALLMT | op::CALLT | op::ISNEXT..op::FORI => a..a,
        op::FORI..op::JMP => a..a + 4,
        op::JMP => a..a,
        _ => a..a + 1,
    }
}

/// Whether that instruction begins or goes round a loop: what it writes are the loop's own variables.
fn opens(proto: &Proto, at: usize) -> bool {
    proto
        .code
        .get(at)
        .is_some_and(|ins| (op::FORI..op::JMP).contains(&ins.op()) || (op::ITERC..op::VARG).contains(&ins.op()))
}

/// For each function the variables that its upvalues are.
fn upvalues(facts: &Facts) -> Vec<Vec<Option<Var>>> {
    let mut resolved: Vec<Vec<Option<Var>>> = vec![Vec::new(); facts.protos.len()];
    for number in (0..facts.protos.len()).rev() {
        let Some((around, at)) = facts.parents.get(number).copied().flatten() else { continue };
        let (Some(proto), Some(outer)) = (facts.protos.get(number), facts.protos.get(around)) else { continue };
        let found = proto.upvalues.iter().map(|upvalue| match *upvalue {
            Upvalue::Local(slot) => {
                // A local function sees itself before its scope begins.
                let seen = |l: &super::bytecode::Local| l.slot == slot && l.from <= at + 1 && at < l.to;
                outer.locals.iter().rposition(seen).map(|local| (around, local))
            }
            Upvalue::Outer(upvalue) => resolved.get(around)?.get(upvalue).copied().flatten(),
        });
        let found = found.collect();
        if let Some(slot) = resolved.get_mut(number) {
            *slot = found;
        }
    }
    resolved
}
