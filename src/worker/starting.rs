//! `on_start`: the first that runs in a VM, before any connection is served by it. It is a part of loading the script: if
//! it fails, the script is not loaded.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::sleep;

use super::Worker;
use super::measure::Began;
use crate::script::hooks::HookArgs;
use crate::script::program::shown;
use crate::script::vm::{Hook, Started, Vm};

/// How long a script's top level may run in a worker at a reload, and `on_start` from one wait to the next, even where
/// handlers have less time.
pub(super) const BUILD: Duration = Duration::from_millis(200);
/// How long `on_start` may take with all of its waits. After that they end with an error.
const LONGEST: Duration = Duration::from_secs(5);

/// Runs `on_start` of all servers, one after the other.
pub(super) async fn on_start_of_all(worker: &Rc<Worker>) -> Result<(), String> {
    for position in 0..worker.servers.len() {
        let vm = worker.vm(position);
        on_start(worker, position, &vm).await?;
    }
    Ok(())
}

/// Runs `on_start` of that server in a VM, if its script defines it. The error names file and line.
pub(super) async fn on_start(worker: &Rc<Worker>, position: usize, vm: &Rc<Vm>) -> Result<(), String> {
    if !vm.has(Hook::Start) {
        return Ok(());
    }
    let server = &worker.servers[position];
    let turn = worker.shared_turn(&worker.unbound).await;
    let budget = server.served.limits.get().handler_timeout.max(BUILD);
    let began = Began::now(vm, Hook::Start);
    let started = vm.start(Hook::Start, None, HookArgs::start(worker.id.0 + 1), budget);
    worker.charge_shared(&worker.unbound, began.so_far());
    drop(turn);
    let result = match started {
        Started::Done(result) => result,
        Started::Suspended(mut handler) => {
            let (mut ticket, mut over, mut end) = (None, false, pin!(sleep(LONGEST)));
            poll_fn(|cx| {
                over = over || end.as_mut().poll(cx).is_ready();
                worker.poll_shared(&worker.unbound, &mut ticket, &mut handler, over, cx)
            })
            .await
        }
    };
    began.ended_of(Hook::Start, &result, &server.served.counts);
    result.map(drop).map_err(|failure| {
        let entry = shown(&vm.program.entry);
        let text = failure.to_string();
        let named = if text.contains(&entry) { text } else { format!("{entry}: {text}") };
        format!("on_start: {named}")
    })
}
