//! The state of the API on one worker: the engine's services, the configuration, and the counters.

use arc_swap::ArcSwap;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

use super::callers::Callers;
use super::idempotency::IdempotencyTable;
use super::login_throttle::LoginThrottle;
use super::stage::Stage;
use super::verifier::Verifier;
use super::work_time::WorkTime;
use crate::cluster::Mesh;
use crate::config::Config;
use crate::queue::Queue;
use crate::shard::fair::Fair;
use crate::shard::hold::Hold;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::counters::ApiCounts;
use crate::telemetry::spans::Tracer;
use crate::tls::Ports;

/// The API as one worker serves it.
pub struct Api {
    pub(super) mesh: Arc<Mesh>,
    pub(super) queue: Arc<Queue>,
    pub(super) repeats: Arc<IdempotencyTable>,
    pub(super) config: Arc<ArcSwap<Config>>,
    /// Connections of each server.
    pub(super) clients: Vec<Arc<AtomicUsize>>,
    /// Where `engine.apiServer` listens.
    pub(super) api_addr: SocketAddr,
    pub(super) stage: watch::Receiver<Stage>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) counts: Arc<ApiCounts>,
    /// Held while a page of metrics is made: one at a time.
    pub(super) scraping: Semaphore,
    /// Failed logins, of all workers.
    pub(super) logins: Arc<LoginThrottle>,
    /// Passwords that are known by their hashes, of all workers.
    pub(super) verifier: Arc<Verifier>,
    /// Tells WebSocket connections that another configuration is in force.
    pub(super) reconfigured: watch::Sender<()>,
    /// Connections under way, of all workers.
    pub(super) callers: Arc<Callers>,
    /// The TLS of all ports.
    pub(super) tls: Arc<Ports>,
    /// The read buffer that the worker's WebSocket connections share, while none of them reads.
    pub(super) read_buffer: Cell<Vec<u8>>,
    /// Whether the worker holds still, for a successor process.
    pub(super) hold: Rc<Hold>,
    /// The worker's time that callers use.
    pub(super) time: WorkTime,
    /// Which publishes are traced.
    pub(super) tracer: Rc<Tracer>,
}

/// What an API is made of.
pub struct Parts {
    /// The mesh.
    pub mesh: Arc<Mesh>,
    /// The queue.
    pub queue: Arc<Queue>,
    /// The table of publishes with an id.
    pub repeats: Arc<IdempotencyTable>,
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// Connections of each server.
    pub clients: Vec<Arc<AtomicUsize>>,
    /// Where `engine.apiServer` listens.
    pub api_addr: SocketAddr,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// Failed logins, of all workers.
    pub logins: Arc<LoginThrottle>,
    /// Passwords that are known by their hashes, of all workers.
    pub verifier: Arc<Verifier>,
    /// Connections of callers, of all workers.
    pub callers: Arc<Callers>,
    /// The TLS of all ports.
    pub tls: Arc<Ports>,
    /// How far the stop of the engine has come.
    pub stage: watch::Receiver<Stage>,
    /// Decides which connection may hold the worker next.
    pub fair: Rc<Fair>,
    /// Whether the worker holds still, for a successor process.
    pub hold: Rc<Hold>,
    /// Which publishes are traced.
    pub tracer: Rc<Tracer>,
}

/// The longest that a call may take to end once the engine drains.
pub(super) const DRAIN: Duration = Duration::from_secs(2);

impl Api {
    /// An API of those parts.
    pub fn new(parts: Parts) -> Api {
        let Parts {
            mesh,
            queue,
            config,
            clients,
            api_addr,
            repeats,
            metrics,
            logins,
            verifier,
            callers,
            tls,
            stage,
            fair,
            hold,
            tracer,
        } = parts;
        Api {
            mesh,
            queue,
            repeats,
            config,
            clients,
            api_addr,
            stage,
            metrics,
            counts: Arc::default(),
            scraping: Semaphore::new(1),
            logins,
            verifier,
            reconfigured: watch::Sender::new(()),
            callers,
            tls,
            read_buffer: Cell::default(),
            hold,
            time: WorkTime::new(fair),
            tracer,
        }
    }

    /// The counters of this API.
    pub fn counts(&self) -> Arc<ApiCounts> {
        self.counts.clone()
    }

    /// Another configuration is in force: connections check whether they may still call.
    pub fn reconfigured(&self) {
        self.reconfigured.send_replace(());
    }

    /// How long the parts of a request may take to arrive; None: no limit.
    pub(super) fn read_timeout(&self) -> Option<Duration> {
        let timeout = self.config.load().api.read_timeout;
        (!timeout.is_zero()).then_some(timeout)
    }

    /// How far the stop of the engine has come. A task that never pauses would not learn this by awaiting: once its
    /// budget for this poll is used up, tokio makes nothing ready.
    pub(super) fn stage(&self) -> Stage {
        *self.stage.borrow()
    }
}
