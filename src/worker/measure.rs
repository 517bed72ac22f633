//! The cost of hook calls and the memory of the worker's VMs, counted for the metrics.

use std::rc::Weak;
use std::time::{Duration, Instant};

use super::Worker;
use crate::script::vm::{Failure, Hook, Returned, Vm};
use crate::shard::conn::Conn;
use crate::telemetry::metrics::counters::ServerCounts;

/// When a hook was called; None: the script does not define it.
#[derive(Clone, Copy)]
pub(super) struct Began(Option<Instant>);

impl Began {
    /// The hook is called now.
    pub(super) fn now(vm: &Vm, hook: Hook) -> Began {
        Began(vm.has(hook).then(Instant::now))
    }

    /// The time since the call.
    pub(super) fn so_far(self) -> Duration {
        self.0.map_or(Duration::ZERO, |began| began.elapsed())
    }

    /// The hook has ended; returns how long it took, its waits included.
    pub(super) fn ended(self, hook: Hook, result: &Result<Returned, Failure>, conn: &Conn) -> Duration {
        self.ended_of(hook, result, &conn.served.counts)
    }

    /// The same for a hook of that server.
    pub(super) fn ended_of(self, hook: Hook, result: &Result<Returned, Failure>, counts: &ServerCounts) -> Duration {
        let took = self.so_far();
        if self.0.is_some() {
            let over_budget = result.as_ref().is_err_and(|failure| failure.over_budget);
            let budget_cut = result.as_ref().is_err_and(|failure| failure.budget_cut.is_some());
            let hook = result.as_ref().map_or_else(|failure| failure.hook(hook), |_| hook);
            counts.handlers[hook as usize].ended(took, result.is_err(), over_budget, budget_cut);
        }
        took
    }
}

impl Worker {
    /// Updates the metrics that can't be counted as they change. Called by a timer.
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
    use crate::telemetry::metrics::labels::{EndReason, Label};

    #[test]
    fn every_end_of_a_connection_has_its_place() {
        let what = || Box::<str>::from("x");
        let reasons = [
            CloseReason::Peer(None),
            CloseReason::Requested { code: 1000, reason: what() },
            CloseReason::Shutdown { retry: 0 },
            CloseReason::Lost(what()),
            CloseReason::Violation { code: 1002, what: what() },
            CloseReason::HandlerFailed,
            CloseReason::ReadTimeout,
            CloseReason::WriteTimeout,
            CloseReason::TooSlow,
            CloseReason::MessageTimeout,
            CloseReason::Memory,
        ];
        // The last one is not a close reason: it is a defect.
        assert_eq!(reasons.each_ref().map(EndReason::from)[..], EndReason::ALL[..EndReason::ALL.len() - 1]);
    }
}
