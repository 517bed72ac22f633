//! Sums over all workers, for those who want few figures and often.

use super::counted::Totals;
use super::counter::Counter;
use super::counters::ProtocolCounts;
use super::process::Process;
use super::{Metrics, lock};

impl Metrics {
    /// The sums at this moment. They may be a few events apart.
    pub fn totals(&self) -> Totals {
        let mut totals = lock(&self.totals_before).clone();
        for worker in lock(&self.workers).iter() {
            let sum = |figure: fn(&ProtocolCounts) -> u64| worker.shard.protocols.iter().map(figure).sum::<u64>();
            totals.read += sum(|counts| counts.read.get());
            totals.sent += sum(|counts| counts.sent.get());
            totals.delivered += sum(|counts| counts.delivered.get());
            totals.dropped += sum(|counts| counts.dropped.sum()) + worker.shard.no_client.get();
            totals.published += worker.shard.published.get() + worker.api.published.get();
            totals.subscriptions += worker.shard.subscriptions.get();
            totals.waiting += worker.shard.waiting_handlers.get();
            totals.lua += worker.shard.lua_memory.get();
            for hook in worker.servers.iter().flat_map(|server| &server.handlers) {
                hook.durations.add_to(&mut totals.handlers, &mut totals.handlers_nanos);
                totals.errors += Counter::get(&hook.errors);
            }
        }
        let (memory, cpu) = Process::usage();
        totals.memory = memory.unwrap_or_default() as u64;
        totals.cpu_micros += (cpu.unwrap_or_default() * 1e6) as u64;
        totals
    }
}
