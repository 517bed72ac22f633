//! The process's metrics: the counters, and the page that `GET /metrics` answers with.
//!
//! Workers count in blocks of their own ([`counters`]); the page sums them up. Values that are counted elsewhere, or
//! are known only at the moment, are read by a [`GaugeFunction`] that their owner registers.

pub mod counted;
pub mod counter;
pub mod counters;
pub mod labels;
mod page;
mod process;
mod render;
mod totals;
mod window;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::RuntimeMetrics;

use self::counted::{Before, Counted};
use self::counters::{ApiCounts, PROTOCOLS, ReloadCounts, SCENARIOS, ServerCounts, ShardCounts};
use self::window::{Sums, Window};

pub use counted::Totals;
pub use page::TEXT;

/// The most parts of the summaries' window.
const MAX_PARTS: usize = 100;

/// The process's metrics. Any thread may read them.
pub struct Metrics {
    servers: Vec<ServerInfo>,
    /// Some server's clients may have event streams, or could.
    streams: AtomicBool,
    workers: Mutex<Vec<WorkerCounts>>,
    watches: Mutex<Vec<GaugeFunction>>,
    /// By protocol and scenario.
    windows: Mutex<[[Window; SCENARIOS.len()]; PROTOCOLS.len()]>,
    /// What the processes before this one have counted.
    before: Mutex<Arc<Before>>,
    totals_before: Mutex<Totals>,
    /// Written only by the thread that reloads.
    pub reloads: ReloadCounts,
}

/// A configured server, as its metrics are labelled.
pub struct ServerInfo {
    /// Its address.
    pub label: String,
    /// One of [`PROTOCOLS`].
    pub protocol: &'static str,
    /// Its hooks: each one's position in [`ServerCounts::handlers`] and its name.
    pub hooks: Vec<(usize, &'static str)>,
}

/// The counters of one worker.
pub struct WorkerCounts {
    /// Its number.
    pub id: u16,
    /// Of its connections.
    pub shard: Arc<ShardCounts>,
    /// Of each server, in their order.
    pub servers: Vec<Arc<ServerCounts>>,
    /// Of the APIs.
    pub api: Arc<ApiCounts>,
    /// Of its tasks.
    pub runtime: RuntimeMetrics,
}

/// The type of a metric that a [`GaugeFunction`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up only.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A metric that is read when somebody asks for the page.
pub struct GaugeFunction {
    /// The pages that it appears on.
    pub of: Of,
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// The name of its label; None: it has one value and no label.
    pub label: Option<&'static str>,
    /// Reads its values, each with its label. Called on any thread; it must neither wait nor return without bound.
    pub read: Box<dyn Fn() -> Vec<(String, f64)> + Send + Sync>,
}

/// The pages that metrics appear on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The center's metrics: on its page and on the engine's.
    Center,
    /// The engine's metrics: on its page only.
    Engine,
}

impl Metrics {
    /// The metrics of these servers. Quantiles cover the last `max_age`, which is forgotten in that many parts (at most
    /// 100).
    pub fn new(servers: Vec<ServerInfo>, max_age: Duration, parts: usize) -> Metrics {
        let now = Instant::now();
        let window = || Window::new(max_age, parts.min(MAX_PARTS), now);
        Metrics {
            servers,
            streams: AtomicBool::default(),
            workers: Mutex::default(),
            watches: Mutex::default(),
            windows: Mutex::new(std::array::from_fn(|_| std::array::from_fn(|_| window()))),
            before: Mutex::default(),
            totals_before: Mutex::default(),
            reloads: ReloadCounts::default(),
        }
    }

    /// Adds what the process before had counted under one name and labels.
    pub fn go_on(&self, counted: Counted) {
        let mut before = lock(&self.before);
        Arc::make_mut(&mut before).entry(counted.name.clone()).or_default().push(counted);
    }

    /// Adds what it had counted in all.
    pub fn go_on_totals(&self, totals: &Totals) {
        *lock(&self.totals_before) = totals.counted();
    }

    /// Some server's clients may have event streams: from now on they are on the page.
    pub fn show_streams(&self) {
        self.streams.store(true, Relaxed);
    }

    /// Registers a worker that has begun; from now on it is on the page.
    pub fn add(&self, worker: WorkerCounts) {
        let mut workers = lock(&self.workers);
        workers.push(worker);
        workers.sort_by_key(|worker| worker.id);
    }

    /// Registers a metric; from now on it is on the page.
    pub fn watch(&self, watch: GaugeFunction) {
        lock(&self.watches).push(watch);
    }

    /// Forgets values that are too old. To be called several times a second, however rarely the page is asked for.
    pub fn tick(&self) {
        let sums = self.delays();
        drop(self.turn(&sums));
    }

    fn turn(&self, sums: &[[Sums; SCENARIOS.len()]; PROTOCOLS.len()]) -> MutexGuard<'_, Windows> {
        let now = Instant::now();
        let mut windows = lock(&self.windows);
        for (window, sums) in windows.iter_mut().flatten().zip(sums.iter().flatten()) {
            window.turn(now, sums);
        }
        windows
    }

    /// The delays of all workers, by protocol and scenario.
    fn delays(&self) -> Box<[[Sums; SCENARIOS.len()]; PROTOCOLS.len()]> {
        let mut sums: Box<[[Sums; SCENARIOS.len()]; PROTOCOLS.len()]> = Box::default();
        for worker in lock(&self.workers).iter() {
            let delays = worker.shard.protocols.iter().flat_map(|protocol| &protocol.delays);
            delays.zip(sums.iter_mut().flatten()).for_each(|(delays, sums)| delays.add_to(sums));
        }
        sums
    }
}

type Windows = [[Window; SCENARIOS.len()]; PROTOCOLS.len()];

/// Nothing that holds one of these locks can panic halfway through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
