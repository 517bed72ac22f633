//! Renews worn VMs. A VM whose memory is nearly full of live data (many handlers that wait with much, or data that a
//! script gathers without end) is replaced by a fresh one of the same version, as a reload does. The old one ends with
//! its last handler.

use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

use super::{Worker, starting};
use crate::script::program::shown;
use crate::script::vm::Vm;
use crate::telemetry::rate_limited::rate_limited;

/// The pause between two fresh VMs of a server: a script may fill one while it is loaded, or soon after.
const PAUSE: Duration = Duration::from_secs(10);
/// How often the worker retries a VM that could not be replaced.
const AGAIN: Duration = Duration::from_secs(1);

/// Replaces VMs whenever it is told that one has worn, until the worker ends.
pub(super) async fn run(worker: Rc<Worker>) {
    loop {
        worker.worn.notified().await;
        while !renew_all(&worker).await {
            sleep(AGAIN).await;
        }
    }
}

/// False: a VM is worn and can't be replaced yet.
async fn renew_all(worker: &Rc<Worker>) -> bool {
    // All servers are tried, whatever the first result is.
    let mut all = true;
    for server in 0..worker.servers.len() {
        all &= renew(worker, server).await;
    }
    all
}

async fn renew(worker: &Rc<Worker>, position: usize) -> bool {
    let server = &worker.servers[position];
    let vm = server.vm.borrow().clone();
    if !vm.is_worn() {
        return true;
    }
    let (entry, mib) = (shown(&vm.program.entry), vm.memory() >> 20);
    // Otherwise a crowd that fills one VM after the other would take all memory of the machine.
    let before = server.worn.borrow().strong_count() > 0;
    if before || server.renewed.get().is_some_and(|then| then.elapsed() < PAUSE) {
        rate_limited!(WARN, "VMs are nearly full", &entry; target: "script",
            "the memory of {entry} is nearly full ({mib} MiB) with what is in use, and so it was lately: its next VM waits");
        return false;
    }
    if !vm.is_worn_out() {
        return true;
    }
    server.renewed.set(Some(Instant::now()));
    let fresh = match Vm::new(vm.program.clone(), &worker.vm_limits) {
        Ok(fresh) => starting::on_start(worker, position, &fresh).await.map(|()| fresh),
        Err(e) => Err(e.to_string()),
    };
    if !Rc::ptr_eq(&vm, &server.vm.borrow()) {
        // A reload was quicker.
        return true;
    }
    match fresh {
        Ok(fresh) if fresh.memory() < vm.memory() / 2 => {
            rate_limited!(WARN, "VMs are replaced", &entry; target: "script",
                waiting = vm.waiting(), "the memory of {entry} is nearly full ({mib} MiB) with what is in use: a fresh VM takes \
                over, without what the script has kept in variables");
            server.worn.replace(Rc::downgrade(&vm));
            server.replace_vm(fresh);
            true
        }
        Ok(_) => {
            rate_limited!(ERROR, "VMs are full from the start", &entry; target: "script",
                "{entry} takes half of the memory of a VM to be loaded (engine.luavm.memoryLimit): it is not replaced");
            false
        }
        Err(e) => {
            rate_limited!(ERROR, "VMs cannot be replaced", &entry; target: "script", "{entry} could not be loaded anew: {e}");
            false
        }
    }
}
