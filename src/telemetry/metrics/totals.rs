//! Sums over all workers, for those who want few figures and often.

use super::counter::{BOUNDS, Counter};
use super::counters::ProtocolCounts;
use super::process::Process;
use super::{Metrics, lock};

/// What a process and those before it have counted, and what it uses now.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Messages from clients.
    pub read: u64,
    /// Messages that were put into outboxes.
    pub sent: u64,
    /// The part of them that came through the mesh.
    pub delivered: u64,
    /// Messages that no client was given.
    pub dropped: u64,
    /// Messages that were published here, by scripts and over the API.
    pub published: u64,
    /// Subscriptions there are now.
    pub subscriptions: u64,
    /// Calls of hooks that failed.
    pub errors: u64,
    /// How many calls of hooks were within each of [`BOUNDS`], and beyond.
    pub handlers: [u64; BOUNDS.len() + 1],
    /// What they took together, in nanoseconds.
    pub handlers_nanos: u64,
    /// Calls of hooks that wait now.
    pub waiting: u64,
    /// Bytes that the Lua VMs use.
    pub lua: u64,
    /// Bytes that the process uses; 0 where the system does not tell.
    pub memory: u64,
    /// Its processor time in microseconds, likewise.
    pub cpu_micros: u64,
}

impl Totals {
    /// What of it is counted, and so goes on in a successor process.
    pub(super) fn counted(&self) -> Totals {
        Totals { subscriptions: 0, waiting: 0, lua: 0, memory: 0, ..self.clone() }
    }
}

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
