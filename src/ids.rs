//! Who is who: nodes, workers, and clients whose numbers never come back.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A worker thread of this process, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

/// The most workers a process may have.
pub const MAX_WORKERS: usize = 1024;

/// A node of the cluster for one run of its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A client connection's number. Never given twice, and below 2^53, so that JSON readers of any language hold it
/// exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u64);

/// Numbers from here on don't fit a double exactly.
const LIMIT: u64 = 1 << 53;

impl ClientId {
    /// The number, if it can be a client's.
    pub fn new(number: u64) -> Option<ClientId> {
        (number > 0 && number < LIMIT).then_some(ClientId(number))
    }

    /// Reads the decimal text that scripts and back ends use.
    pub fn parse(text: &[u8]) -> Option<ClientId> {
        if text.is_empty() || text.len() > 16 || !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        std::str::from_utf8(text).ok()?.parse().ok().and_then(ClientId::new)
    }

    /// The number itself.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 2026-01-01T00:00:00Z, where the clock of client numbers starts, in seconds of Unix time.
const EPOCH: u64 = 1_767_225_600;
/// Ticks of that clock in a second.
const TICKS: u64 = 16;
/// Bits below the tick: 262,144 numbers in each sixteenth of a second.
const SEQUENCE_BITS: u32 = 18;

/// The first number of the present tick of the clock.
fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let ticks = since.saturating_sub(EPOCH * 1000) * TICKS / 1000;
    (ticks.max(1) << SEQUENCE_BITS) % LIMIT
}

/// A number for this run of the process: the clock's tick at its start.
pub fn new_node_id() -> NodeId {
    NodeId(clock() >> SEQUENCE_BITS)
}

/// Gives out client numbers for one worker.
///
/// A number is a time (35 bits, sixteenths of a second since 2026, good for 68 years) and a sequence (18 bits). The
/// time makes it unique over restarts without a file to keep; the worker is the number's remainder by the count of
/// workers, so that a number alone says which worker has the client.
pub struct ClientIds {
    worker: u64,
    workers: u64,
    last: u64,
}

impl ClientIds {
    /// The numbers of that worker among `workers`.
    pub fn new(worker: WorkerId, workers: usize) -> ClientIds {
        ClientIds { worker: u64::from(worker.0), workers: workers as u64, last: 0 }
    }

    /// A number that was never given before.
    pub fn issue(&mut self) -> ClientId {
        self.after(clock())
    }

    fn after(&mut self, floor: u64) -> ClientId {
        let aligned = floor - floor % self.workers + self.worker;
        let aligned = if aligned < floor { aligned + self.workers } else { aligned };
        self.last = aligned.max(self.last + self.workers);
        debug_assert_eq!(self.last % self.workers, self.worker);
        ClientId(self.last)
    }
}

/// The worker that has (or had) that client, given how many workers this process runs.
pub fn worker_of(client: ClientId, workers: usize) -> WorkerId {
    WorkerId((client.0 % workers as u64) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_ids_are_unique_and_name_their_worker() {
        let mut seen = std::collections::HashSet::new();
        for worker in 0..3 {
            let mut ids = ClientIds::new(WorkerId(worker), 3);
            for _ in 0..10_000 {
                let id = ids.issue();
                assert!(id.get() < LIMIT);
                assert_eq!(worker_of(id, 3), WorkerId(worker));
                assert!(seen.insert(id), "{id} was given twice");
            }
        }
    }

    #[test]
    fn the_clock_moves_numbers_forward_and_a_burst_runs_ahead_of_it() {
        let mut ids = ClientIds::new(WorkerId(1), 2);
        let first = ids.after(1000);
        assert_eq!(first.get(), 1001);
        assert_eq!(ids.after(1000).get(), 1003);
        assert_eq!(ids.after(5000).get(), 5001);
        assert_eq!(ids.after(1000).get(), 5003, "a clock set back gives no number again");
    }

    #[test]
    fn text_forms_are_checked() {
        assert_eq!(ClientId::parse(b"123").map(ClientId::get), Some(123));
        for bad in ["", "0", "-1", "1.5", "9007199254740992", "99999999999999999", "x", "+1"] {
            assert_eq!(ClientId::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
