//! The process's figures: who counts what, and the page that `GET /metrics` answers with.
//!
//! Workers count in blocks of their own ([`blocks`]); whoever asks for the page sums them up. What is counted elsewhere,
//! or is known only at the moment, is read by a [`GaugeFunction`] that its owner leaves here.

pub mod counter;
pub mod counters;
pub mod labels;
mod page;
mod process;
mod render;
mod window;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::RuntimeMetrics;

use self::counters::{ApiCounts, PROTOCOLS, ReloadCounts, SCENARIOS, ServerCounts, ShardCounts};
use self::window::{Sums, Window};

pub use page::TEXT;

/// The most parts of the summaries' window.
const MAX_PARTS: usize = 100;

/// The process's figures. Any thread may read them.
pub struct Metrics {
    servers: Vec<ServerInfo>,
    workers: Mutex<Vec<WorkerCounts>>,
    watches: Mutex<Vec<GaugeFunction>>,
    /// By protocol and scenario.
    windows: Mutex<[[Window; SCENARIOS.len()]; PROTOCOLS.len()]>,
    /// Written by the thread that reloads, and by no other.
    pub reloads: ReloadCounts,
}

/// A configured server, as its figures are labelled.
pub struct ServerInfo {
    /// Its address.
    pub label: String,
    /// One of [`PROTOCOLS`].
    pub protocol: &'static str,
    /// Its hooks: each one's position in [`ServerCounts::handlers`] and its name.
    pub hooks: Vec<(usize, &'static str)>,
}

/// What one worker counts.
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

/// What a watched figure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up only.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A figure that is read when somebody asks for it.
pub struct GaugeFunction {
    /// On whose pages it is.
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

/// Whose figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The center's: on its page and on the engine's.
    Center,
    /// The engine's: on its page.
    Engine,
}

impl Metrics {
    /// The figures of these servers. Quantiles are those of the last `max_age`, which is forgotten in that many parts
    /// (at most 100).
    pub fn new(servers: Vec<ServerInfo>, max_age: Duration, parts: usize) -> Metrics {
        let now = Instant::now();
        let window = || Window::new(max_age, parts.min(MAX_PARTS), now);
        Metrics {
            servers,
            workers: Mutex::default(),
            watches: Mutex::default(),
            windows: Mutex::new(std::array::from_fn(|_| std::array::from_fn(|_| window()))),
            reloads: ReloadCounts::default(),
        }
    }

    /// A worker has begun; from here on it is on the page.
    pub fn add(&self, worker: WorkerCounts) {
        let mut workers = lock(&self.workers);
        workers.push(worker);
        workers.sort_by_key(|worker| worker.id);
    }

    /// From here on, that figure is on the page.
    pub fn watch(&self, watch: GaugeFunction) {
        lock(&self.watches).push(watch);
    }

    /// Forgets what has become too old. To be called several times a second, however rarely the page is asked for.
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
