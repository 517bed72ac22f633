//! What a file does with globals: which ones it reads, writes and calls, and on which lines. Fields of globals are
//! followed as paths (`mix.mesh.publish`) as long as they are certain, from one jump to the next.

use std::collections::BTreeSet;

use super::bytecode::{Ins, Local, Proto, op};

/// A global, or a field of one, that is read.
#[derive(Debug)]
pub(super) struct Read {
    pub path: String,
    pub line: u32,
    pub proto: usize,
    pub at: usize,
}

/// A global, or a field of one, that is assigned.
#[derive(Debug)]
pub(super) struct Write {
    pub path: String,
    pub line: u32,
    pub proto: usize,
    pub at: usize,
    /// The function that is assigned, where it is written there.
    pub function: Option<usize>,
}

/// A call of `mix.timer.after` or `every`.
#[derive(Debug)]
pub(super) struct TimerCall {
    /// What is called.
    pub path: String,
    pub line: u32,
    /// The function that the timer is to run, where its name is spelt out.
    pub function: Option<String>,
}

/// All of one file.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub protos: Vec<Proto>,
    /// For each function the one that it is written in, and at which of its instructions.
    pub parents: Vec<Option<(usize, usize)>>,
    pub reads: Vec<Read>,
    pub writes: Vec<Write>,
    /// Paths that the file tests for before it uses them: `if mix.x then`, `x or y`, `type(x)`.
    pub tested: BTreeSet<String>,
    /// Names of modules, where they are spelt out.
    pub requires: Vec<String>,
    /// Calls that set timers.
    pub timers: Vec<TimerCall>,
    /// Where the top level asks for the connection: the line, and `mix.websocket` or `mix.socket.tcp`.
    pub connection_at_top: Vec<(u32, String)>,
    /// Its functions may have globals of their own.
    pub environments: bool,
    /// The globals of all files are reached in ways that can't be followed.
    pub opaque: bool,
    /// Text is compiled, which may read any global.
    pub compiles: bool,
}

/// What a register holds, as far as it is known.
#[derive(Clone)]
enum LintContext {
    Path(String),
    Text(String),
    Function(usize),
}

impl Facts {
    pub fn of(protos: Vec<Proto>) -> Facts {
        let mut facts = Facts { parents: vec![None; protos.len()], ..Facts::default() };
        for number in 0..protos.len() {
            scan(&mut facts, &protos, number);
        }
        facts.protos = protos;
        facts
    }

    /// Whether that function is the file itself.
    pub fn is_top(&self, proto: usize) -> bool {
        proto + 1 == self.protos.len()
    }

    /// The function and those around it, each with the instruction of it that leads inwards.
    pub fn around(&self, proto: usize, at: usize) -> impl Iterator<Item = (&Proto, usize)> {
        std::iter::successors(Some((proto, at)), |(proto, _)| self.parents.get(*proto).copied().flatten())
            .filter_map(|(proto, at)| Some((self.protos.get(proto)?, at)))
    }

    /// The line on which a local is declared.
    pub fn declared(&self, proto: &Proto, local: &Local) -> u32 {
        match local.from.checked_sub(1).and_then(|before| proto.code.get(before)) {
            None => proto.first_line,
            Some(ins) if ins.op() == op::FNEW => {
                let function = proto.function(ins.d()).and_then(|f| self.protos.get(f));
                function.map_or(ins.line, |f| f.first_line)
            }
            Some(ins) => ins.line,
        }
    }
}

/// The globals of the environment are reached by these.
const ENVIRONMENT: [&str; 3] = ["setfenv", "getfenv", "module"];
/// Text becomes code by these.
const COMPILERS: [&str; 2] = ["load", "loadstring"];
/// The functions that set timers.
pub(super) const SETS_TIMERS: [&str; 2] = ["mix.timer.after", "mix.timer.every"];
/// The table of all globals.
const GLOBALS: &str = "_G";

fn scan(facts: &mut Facts, protos: &[Proto], number: usize) {
    let Some(proto) = protos.get(number) else { return };
    let is_top = number + 1 == protos.len();
    let fallbacks = fallbacks(proto);
    let targets: BTreeSet<usize> = proto.code.iter().enumerate().filter_map(|(at, ins)| ins.target(at)).collect();
    let mut registers: Vec<Option<LintContext>> = vec![None; proto.registers + 8];
    // How often the table of globals is fetched, and how often something by name in it.
    let (mut fetched, mut followed) = (0, 0);
    for (at, ins) in proto.code.iter().copied().enumerate() {
        if targets.contains(&at) {
            registers.fill(None);
        }
        let path_of = |registers: &[Option<LintContext>], r: usize| match registers.get(r) {
            Some(Some(LintContext::Path(path))) => Some(path.clone()),
            _ => None,
        };
        let text_of = |registers: &[Option<LintContext>], r: usize| match registers.get(r) {
            Some(Some(LintContext::Text(text))) => Some(text.clone()),
            _ => None,
        };
        let key = || match ins.op() {
            op::TGETS | op::TSETS => proto.text(ins.c()).map(str::to_owned),
            _ => text_of(&registers, ins.c()),
        };
        let mut set = None;
        match ins.op() {
            op::GGET => {
                let Some(name) = proto.text(ins.d()) else { continue };
                facts.environments |= ENVIRONMENT.contains(&name);
                facts.compiles |= COMPILERS.contains(&name);
                fetched += usize::from(name == GLOBALS);
                read(facts, proto, number, at, name.to_owned(), &fallbacks);
                set = Some(LintContext::Path(name.to_owned()));
            }
            op::GSET => {
                let Some(name) = proto.text(ins.d()) else { continue };
                let function = match registers.get(ins.a()) {
                    Some(Some(LintContext::Function(f))) => Some(*f),
                    _ => None,
                };
                facts.writes.push(Write { path: name.to_owned(), line: ins.line, proto: number, at, function });
                continue;
            }
            op::KSTR => set = proto.text(ins.d()).map(|text| LintContext::Text(text.to_owned())),
            op::MOV => set = registers.get(ins.d()).cloned().flatten(),
            op::FNEW => {
                let function = proto.function(ins.d());
                if let Some(parent) = function.and_then(|f| facts.parents.get_mut(f)) {
                    *parent = Some((number, at));
                }
                set = function.map(LintContext::Function);
            }
            op::TGETS | op::TGETV => {
                if let (Some(path), Some(key)) = (path_of(&registers, ins.b()), key()) {
                    let (path, is_global) = field(&path, &key);
                    followed += usize::from(is_global);
                    if is_global {
                        facts.tested.insert(path.clone());
                    }
                    read(facts, proto, number, at, path.clone(), &fallbacks);
                    set = Some(LintContext::Path(path));
                }
            }
            op::TSETS | op::TSETV => {
                if let (Some(path), Some(key)) = (path_of(&registers, ins.b()), key()) {
                    let (path, is_global) = field(&path, &key);
                    followed += usize::from(is_global);
                    facts.writes.push(Write { path, line: ins.line, proto: number, at, function: None });
                }
                continue;
            }
            op::CALLM | op::CALL | op::CALLMT | op::CALLT => {
                let argument = ins.a() + 2;
                match path_of(&registers, ins.a()).as_deref() {
                    Some("require") => facts.requires.extend(text_of(&registers, argument)),
                    Some(path) if SETS_TIMERS.contains(&path) => {
                        let function = text_of(&registers, argument + 1);
                        facts.timers.push(TimerCall { path: path.to_owned(), line: ins.line, function });
                    }
                    Some("type") => facts.tested.extend(path_of(&registers, argument)),
                    Some(path @ ("mix.websocket" | "mix.socket.tcp")) if is_top => {
                        facts.connection_at_top.push((ins.line, path.to_owned()));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        forget(&mut registers, ins);
        if let Some(slot) = registers.get_mut(ins.a()).filter(|_| set.is_some()) {
            *slot = set;
        }
    }
    facts.opaque |= followed < fetched;
}

/// A field's path, and whether it is a global reached through the table of globals.
fn field(path: &str, key: &str) -> (String, bool) {
    if path == GLOBALS { (key.to_owned(), true) } else { (format!("{path}.{key}"), false) }
}

/// The last instructions of `b` in `a or b`, each with the register of both: `b` is meant for where there is no `a`.
fn fallbacks(proto: &Proto) -> BTreeSet<(usize, usize)> {
    let pairs = proto.code.iter().zip(proto.code.iter().skip(1)).enumerate();
    let found = pairs.filter_map(|(at, (test, jump))| {
        let register = match test.op() {
            op::ISTC => test.a(),
            op::IST => test.d(),
            _ => return None,
        };
        let target = jump.target(at + 1).filter(|_| jump.op() == op::JMP)?;
        Some((target.checked_sub(1)?, register))
    });
    found.collect()
}

fn read(
    facts: &mut Facts,
    proto: &Proto,
    number: usize,
    at: usize,
    path: String,
    fallbacks: &BTreeSet<(usize, usize)>,
) {
    let Some(ins) = proto.code.get(at) else { return };
    // Only tested: the value goes straight into a condition.
    let asked = proto.code.get(at + 1).is_some_and(|next| match next.op() {
        op::ISTC..=op::ISF | op::NOT => next.d() == ins.a(),
        op::ISEQP | op::ISNEP => next.a() == ins.a(),
        _ => false,
    });
    if asked || fallbacks.contains(&(at, ins.a())) {
        facts.tested.insert(path.clone());
    }
    facts.reads.push(Read { path, line: ins.line, proto: number, at });
}

/// Forgets what an instruction overwrites; after a jump nothing is certain.
fn forget(registers: &mut [Option<LintContext>], ins: Ins) {
    let from = ins.a().min(registers.len());
    match ins.op() {
        // Compare, store or return: they write no register.
        0..op::ISTC | op::ISF | op::ISNUM | op::USETV..op::UCLO | op::TSETV..=op::TSETR => {}
        op::KNIL | op::CALLM..op::FORI => registers[from..].fill(None),
        op::UCLO | op::FORI..=op::JMP => registers.fill(None),
        _ => registers[from..].iter_mut().take(1).for_each(|r| *r = None),
    }
}
