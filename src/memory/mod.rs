//! The memory of the process and its high-water mark: how it is watched, and what happens above the mark.
//!
//! A thread looks at the memory in use fifty times a second, more often near the mark. Above it, new clients are refused,
//! and the workers close the clients that hold the most of what is unfinished or unread. Each worker first reports how
//! much its clients hold, by size ([`Sizes`]), so that the largest clients of all workers are closed, not the largest
//! of each.
//!
//! A crowd may send faster than a thread looks. So the workers ask [`Memory::is_full`] before they read more of a client
//! that has something unfinished already, and leave it unread until others have been closed.

mod sizes;
mod system;

use arc_swap::ArcSwap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::watch;

use crate::config::Config;
use crate::ids::WorkerId;
use crate::telemetry::metrics::counters::ShardCounts;
pub use sizes::{Cut, LEAST, Sizes};
pub use system::give_back;

/// How often the thread looks at the memory in use. In a small control group a crowd on the same machine goes from
/// nothing to the limit within a few tenths of a second.
const LOOK: Duration = Duration::from_millis(20);
/// The same when it is near a bound.
const LOOK_CLOSELY: Duration = Duration::from_millis(5);
/// The least time between two orders to free memory: the first takes that long to show an effect.
const EFFECT: Duration = Duration::from_millis(300);
/// The same where it shows in what clients hold: that is counted, and falls as soon as they are closed.
const EFFECT_HELD: Duration = Duration::from_millis(60);
/// The least time between two lines in the log.
const LINE: Duration = Duration::from_secs(1);
/// How often the thread asks how much memory there is.
const ASK: Duration = Duration::from_secs(10);
/// Client data that is not handled yet may take this part of the mark.
const UNFINISHED_PART: usize = 4;
/// Over that part by this part of it, what is unfinished gets no longer.
const OVER_PART: usize = 4;

/// What the workers should free. They also give back what is free already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Order {
    /// How many bytes.
    pub bytes: usize,
    /// Also by closing clients that do not take what is sent to them.
    pub unread: bool,
}

/// One worker's report to the other workers and the watching thread.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Told {
    /// What its clients hold, by size, as of the last order.
    pub sizes: Sizes,
    /// Clients that it has closed.
    pub closed: AtomicU64,
    /// What those held, in bytes.
    pub freed: AtomicUsize,
}

/// The state of the process's memory, as all threads know it.
pub struct Memory {
    above: AtomicBool,
    refused: AtomicU64,
    orders: watch::Sender<Order>,
    told: Box<[Told]>,
    /// By worker, once it has started.
    counts: Box<[OnceLock<Arc<ShardCounts>>]>,
    /// The bytes of unhandled data from which on no more is read of those that have sent some.
    full: AtomicUsize,
}

impl Memory {
    /// For that many workers.
    pub fn new(workers: usize) -> Memory {
        Memory {
            above: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            orders: watch::Sender::new(Order::default()),
            told: (0..workers).map(|_| Told::default()).collect(),
            counts: (0..workers).map(|_| OnceLock::new()).collect(),
            full: AtomicUsize::new(usize::MAX),
        }
    }

    /// Registers a worker; `counts` says what its clients hold.
    pub fn add(&self, worker: WorkerId, counts: Arc<ShardCounts>) {
        if let Some(place) = self.counts.get(usize::from(worker.0)) {
            let _ = place.set(counts);
        }
    }

    /// Whether clients have sent so much that is unfinished or waits for handlers that no more is to be read of those
    /// who hold some of it. The watching thread then has the largest of them closed.
    pub fn is_full(&self) -> bool {
        self.held() > self.full.load(Relaxed)
    }

    /// Whether a new client is to be refused; if so, it counts as refused.
    pub fn refuses(&self) -> bool {
        let above = self.above.load(Relaxed);
        if above {
            self.refused.fetch_add(1, Relaxed);
        }
        above
    }

    /// The current order, and its changes.
    pub fn orders(&self) -> watch::Receiver<Order> {
        self.orders.subscribe()
    }

    /// The workers' reports, by worker.
    pub fn told(&self) -> &[Told] {
        &self.told
    }

    /// Which clients to close, over all workers, to free that many bytes.
    pub fn cut(&self, bytes: usize) -> Cut {
        sizes::cut(self.told.iter().map(|told| &told.sizes), bytes)
    }

    /// The bytes of unhandled data that clients have sent.
    fn held(&self) -> usize {
        self.counts.iter().filter_map(OnceLock::get).map(|counts| counts.held.get() as usize).sum()
    }
}

/// Starts the watching thread; it ends when the returned value is dropped.
pub fn watch(memory: Arc<Memory>, config: Arc<ArcSwap<Config>>) -> std::io::Result<mpsc::Sender<()>> {
    let (alive, end) = mpsc::channel();
    let mut watcher = Watcher { memory, config, asked: None, ordered: None, logged: None, left_out: Left::default() };
    let usage = system::Usage::open();
    if usage.resident().is_none() && watcher.config.load().memory.mark(Some(usize::MAX)).is_some() {
        tracing::warn!("the memory in use is not known (/proc/self/statm): engine.memory.high has no effect");
    }
    std::thread::Builder::new().name("memory".into()).spawn(move || {
        let mut pause = LOOK;
        while let Err(mpsc::RecvTimeoutError::Timeout) = end.recv_timeout(pause) {
            pause = watcher.look(usage.resident());
        }
    })?;
    Ok(alive)
}

/// What has happened since the last line in the log.
#[derive(Debug, Default)]
struct Left {
    refused: u64,
    closed: u64,
    freed: usize,
}

struct Watcher {
    memory: Arc<Memory>,
    config: Arc<ArcSwap<Config>>,
    /// When the memory limit was last asked for, and the answer.
    asked: Option<(Instant, Option<usize>)>,
    ordered: Option<Instant>,
    logged: Option<Instant>,
    left_out: Left,
}

impl Watcher {
    /// Looks once; says when to look again.
    fn look(&mut self, resident: Option<usize>) -> Duration {
        let now = Instant::now();
        let settings = self.config.load().memory;
        let all = match self.asked {
            Some((at, all)) if now.duration_since(at) < ASK => all,
            // Where it is not known now, it is as it was.
            before => self.asked.insert((now, system::available().or(before.and_then(|(_, all)| all)))).1,
        };
        let Some((mark, resident)) = settings.mark(all).zip(resident) else {
            self.memory.above.store(false, Relaxed);
            self.memory.full.store(usize::MAX, Relaxed);
            return LOOK;
        };
        let (held, bound) = (self.memory.held(), mark / UNFINISHED_PART);
        self.memory.full.store(bound.saturating_add(bound / OVER_PART), Relaxed);
        // Once above the mark, memory must fall a little below it before clients are let in again.
        let was_above = self.memory.above.load(Relaxed);
        let above = resident > if was_above { mark - mark / 32 } else { mark };
        self.memory.above.store(above, Relaxed);
        // Above the mark the two orders take turns: the one for all that is used spares those who hold little, but they are
        // not read until what is unfinished has fallen.
        let unread = resident > mark && (held <= bound || !self.memory.orders.borrow().unread);
        let bytes = if unread { resident - mark } else { held.saturating_sub(bound) };
        let order = Order { bytes, unread };
        let effect = if order.unread { EFFECT } else { EFFECT_HELD };
        if (above || order.bytes > 0) && self.ordered.is_none_or(|at| now.duration_since(at) >= effect) {
            self.ordered = Some(now);
            self.memory.orders.send_replace(order);
            give_back();
        }
        self.log(now, was_above, above, resident, mark);
        let near = resident > mark - mark / 4 || held > bound / 2;
        if near { LOOK_CLOSELY } else { LOOK }
    }

    /// One line a second at most, with all that happened since the last one.
    fn log(&mut self, now: Instant, was_above: bool, above: bool, resident: usize, mark: usize) {
        let left = &mut self.left_out;
        left.refused += self.memory.refused.swap(0, Relaxed);
        for told in self.memory.told() {
            left.closed += told.closed.swap(0, Relaxed);
            left.freed += told.freed.swap(0, Relaxed);
        }
        let happened = above || left.refused > 0 || left.closed > 0;
        if happened && self.logged.is_none_or(|at| now.duration_since(at) >= LINE) {
            let Left { refused, closed, freed } = std::mem::take(left);
            self.logged = Some(now);
            let (resident, freed, mark_mib, bound) =
                (resident >> 20, freed >> 20, mark >> 20, (mark / UNFINISHED_PART) >> 20);
            if above || refused > 0 {
                tracing::warn!(
                    refused,
                    closed,
                    freed_mib = freed,
                    "memory is short: {resident} MiB are in use, engine.memory.high is {mark_mib} MiB"
                );
            } else {
                tracing::warn!(
                    closed,
                    freed_mib = freed,
                    "clients have sent more than {bound} MiB that is unfinished or waits for handlers, a quarter of engine.memory.high: \
                     those with the most were closed"
                );
            }
        }
        if was_above && !above {
            tracing::info!("memory is enough again: {} MiB in use", resident >> 20);
        }
    }
}

#[cfg(test)]
mod tests;
