//! Handlers of a VM without an engine around it.

use super::*;
use crate::message::Kind;
use crate::script::hints::{Hints, Missed};

/// A VM of that `on_message`.
fn vm(body: &str) -> Rc<Vm> {
    let dir = tempfile::tempdir().unwrap();
    let entry = dir.path().join("entry.lua");
    std::fs::write(&entry, format!("function on_message(msg)\n{body}\nend")).unwrap();
    let program = Arc::new(Program::new(Protocol::Websocket, entry, Vec::new()));
    Vm::new(program, &VmLimits { memory: 64 << 20, ..VmLimits::default() }).unwrap()
}

/// How that handler fails.
fn failure(vm: &Rc<Vm>, budget: Duration) -> Failure {
    match vm.start(Hook::Message, None, HookArgs::message(Kind::Text, b""), budget) {
        Started::Done(Err(failure)) => failure,
        Started::Done(Ok(_)) => panic!("it has returned"),
        Started::Suspended(_) => panic!("it waits"),
    }
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn only_the_watchdog_says_that_a_handler_was_over_its_budget() {
    let over = failure(&vm("while true do end"), Duration::from_millis(20));
    assert!(over.over_budget && over.message.contains(watchdog::OVER_BUDGET), "{over:?}");
    for forged in [format!("error('{}')", watchdog::OVER_BUDGET), format!("error('{}', 0)", watchdog::OVER_BUDGET)] {
        let vm = vm(&forged);
        // As often as it takes for an overrun to cost a hook half of its budget.
        for _ in 0..10 {
            let failure = failure(&vm, LONG);
            assert!(failure.message.contains(watchdog::OVER_BUDGET), "{failure:?}");
            assert!(!failure.over_budget && failure.budget_cut.is_none(), "{failure:?}");
        }
    }
}

#[test]
fn an_entry_file_cannot_say_that_it_took_too_long() {
    let dir = tempfile::tempdir().unwrap();
    let entry = dir.path().join("entry.lua");
    std::fs::write(&entry, format!("error('{}')", watchdog::OVER_BUDGET)).unwrap();
    let program = Arc::new(Program::new(Protocol::Websocket, entry, Vec::new()));
    let error = Vm::new(program, &VmLimits::default()).err().unwrap().to_string();
    assert!(error.contains(watchdog::OVER_BUDGET) && !error.contains("took longer"), "{error}");
}

/// Says all that it is asked.
struct Echo;

impl Hints for Echo {
    fn fix(&self, mistake: &Mistake<'_>) -> Option<String> {
        let Missed { owner, name } = &mistake.missed;
        Some(format!("{} {owner} {name}", mistake.hook?.name()))
    }
}

#[test]
fn an_error_asks_for_a_hint_that_was_made_elsewhere() {
    let vm = vm("mix.mesh.publsh('c', 'x')");
    let bare = "entry.lua:2: attempt to call field 'publsh' (a nil value)";
    let told = failure(&vm, LONG).message;
    assert!(told.ends_with(bare), "{told}");
    vm.program.hint_with(Box::new(Echo));
    let told = failure(&vm, LONG).message;
    assert!(told.ends_with(&format!("{bare}; on_message mix.mesh publsh")), "{told}");
}
