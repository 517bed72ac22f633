//! What calls of hooks cost, and what the worker's VMs hold: counted for the metrics.

use std::rc::Weak;
use std::time::Instant;

use super::Worker;
use crate::script::vm::{Failure, Hook, Returned, Vm};
use crate::shard::conn::Conn;

/// When a hook was called; None: the script does not define it.
#[derive(Clone, Copy)]
pub(super) struct Began(Option<Instant>);

impl Began {
    /// It is called now.
    pub(super) fn now(vm: &Vm, hook: Hook) -> Began {
        Began(vm.has(hook).then(Instant::now))
    }

    /// It has ended.
    pub(super) fn ended(self, hook: Hook, result: &Result<Returned, Failure>, conn: &Conn) {
        if let Some(began) = self.0 {
            let over_budget = result.as_ref().is_err_and(|failure| failure.over_budget);
            let hook = result.as_ref().map_or_else(|failure| failure.hook(hook), |_| hook);
            conn.served.counts.handlers[hook as usize].ended(began.elapsed(), result.is_err(), over_budget);
        }
    }
}

impl Worker {
    /// Tells what can't be counted as it happens. For a timer.
    pub(super) fn measure(&self) {
        let (mut memory, mut waiting) = (0, 0);
        for server in &self.servers {
            let (live, next) = (server.vm.borrow(), server.next.borrow());
            memory += next.as_ref().map_or(0, |vm| vm.memory());
            let replaced = server.replaced.borrow();
            for vm in replaced.iter().filter_map(Weak::upgrade).chain([live.clone()]) {
                waiting += vm.waiting();
                memory += vm.memory();
            }
        }
        self.shard.counts.lua_memory.set(memory as u64);
        self.shard.counts.waiting_handlers.set(waiting as u64);
    }
}

#[cfg(test)]
mod tests {
    use crate::message::CloseReason;
    use crate::telemetry::metrics::blocks::ENDS;

    #[test]
    fn every_end_of_a_connection_has_its_place() {
        let what = || Box::<str>::from("x");
        let reasons = [
            CloseReason::Peer(None),
            CloseReason::Requested { code: 1000, reason: what() },
            CloseReason::Shutdown,
            CloseReason::Lost(what()),
            CloseReason::Violation { code: 1002, what: what() },
            CloseReason::HandlerFailed,
            CloseReason::ReadTimeout,
            CloseReason::WriteTimeout,
            CloseReason::TooSlow,
        ];
        assert_eq!(reasons.each_ref().map(CloseReason::label)[..], ENDS[..ENDS.len() - 1]);
    }
}
