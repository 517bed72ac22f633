//! The wiring: from a configuration and its listeners to running workers, and back to a clean end.

mod certificates;
mod counted;
mod error;
mod exporter;
mod faults;
mod figures;
mod handover;
mod listeners;
mod member;
mod mesh;
mod metrics;
mod reload;
mod scripts;
mod stand_in;
mod stop;
mod stuck;
mod succession;
mod successor;

use arc_swap::ArcSwap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, watch};

use self::certificates::Certificates;
use self::exporter::Exporter;
use self::handover::Kept;
use self::member::Member;
use self::scripts::{check_script, compile};
use self::stand_in::Doors;
use crate::admission::Admission;
use crate::api::idempotency::IdempotencyTable;
use crate::api::{Callers, LoginThrottle, OnceHere, Stage, Verifier};
use crate::cluster::clients::PublishOnce;
use crate::cluster::drive::Driver;
use crate::cluster::members::Shared;
use crate::cluster::protocol::Run;
use crate::cluster::{Interest, Mesh};
use crate::config::{Config, QueueFull};
use crate::hub::Hub;
use crate::ids::{MAX_WORKERS, NodeId, NodeNumber, WorkerId};
use crate::memory::{self, Memory};
use crate::outbound::Outbound;
use crate::queue::Queue;
use crate::script::watchdog;
use crate::shared;
use crate::telemetry::language::{Both, Language};
use crate::telemetry::spans::SpanQueue;
use crate::timers::Timers;
use crate::worker::thread::{self, Spec};
use crate::worker::{self, Peers, Reserve};

pub use certificates::check_certificates;
pub use error::StartError;
pub use handover::{Estate, Summary};
pub use listeners::{Addresses, BindError, Listeners};
pub use mesh::{HAS_CLUSTER, Link, WITHOUT_CLUSTER};
pub use reload::OnLevel;
pub use scripts::check_scripts;
pub use successor::Before;

/// Whether a script that loops without end can be stopped here. If not, such a script holds its worker and all of its
/// clients until the process is killed; the error names possible causes. Takes some 20 ms.
pub fn check_watchdog() -> Result<(), String> {
    if watchdog::self_test() {
        return Ok(());
    }
    Err("runaway scripts cannot be stopped in this process. Either LuaJIT was built without LUAJIT_ENABLE_CHECKHOOK (it must be \
         the one that connmix builds: build.rs), or the signal SIGURG is blocked"
        .into())
}

/// A running engine.
pub struct Engine {
    addresses: Addresses,
    /// How far the stop has come.
    stage: watch::Sender<Stage>,
    peers: Arc<Peers>,
    workers: Vec<JoinHandle<()>>,
    /// Connections of each server.
    clients: Vec<Arc<AtomicUsize>>,
    queue: Arc<Queue>,
    timers: Arc<Timers>,
    config: Arc<ArcSwap<Config>>,
    /// The thread that watches the process's memory ends with it.
    memory: Option<std::sync::mpsc::Sender<()>>,
    supervisor: Option<(mpsc::Sender<reload::Command>, JoinHandle<()>)>,
    watcher: Option<stuck::Watcher>,
    doors: Arc<Doors>,
    /// What a successor process gets.
    estate: Estate,
    /// The mesh of all nodes.
    nodes: Arc<Mesh>,
    /// The mesh's threads, if there are other nodes.
    mesh: Option<Driver>,
    /// What this node is to them.
    member: Option<Member>,
    /// With what a successor joins its cluster.
    joins: Option<(Arc<Shared>, Arc<dyn PublishOnce>)>,
    /// Sends spans to a collector.
    exporter: Arc<Exporter>,
}

impl Engine {
    /// Starts an engine: compiles the scripts, starts the workers, and returns when all of them serve. A configuration
    /// that came from a file is reloaded when that file changes; `on_level` is told of a new log level. `workers` wins
    /// over `engine.workers`.
    pub fn start(
        config: Config,
        listeners: Listeners,
        workers: Option<usize>,
        on_level: OnLevel,
    ) -> Result<Engine, StartError> {
        Engine::start_on(Link::Network, config, listeners, workers, on_level)
    }

    /// The same, with `link` as the connection to other nodes, if there may be any.
    pub fn start_on(
        link: Link,
        config: Config,
        listeners: Listeners,
        workers: Option<usize>,
        on_level: OnLevel,
    ) -> Result<Engine, StartError> {
        Engine::start_as(link, None, config, listeners, workers, on_level)
    }

    /// The same as the successor of a process, whose number it gets: it serves once it has taken over
    /// ([`Engine::succeed`]).
    pub fn start_after(
        before: &Before,
        config: Config,
        listeners: Listeners,
        workers: Option<usize>,
        on_level: OnLevel,
    ) -> Result<Engine, StartError> {
        let run = before.member.as_ref().map(|member| member.run);
        Engine::start_as(Link::Network, Some((before.node(), run)), config, listeners, workers, on_level)
    }

    fn start_as(
        link: Link,
        succeeds: Option<(NodeNumber, Option<Run>)>,
        config: Config,
        listeners: Listeners,
        workers: Option<usize>,
        on_level: OnLevel,
    ) -> Result<Engine, StartError> {
        let reserve = Reserve::of(raise_file_limit());
        let configured = workers.unwrap_or(config.workers);
        let workers = match configured {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        }
        .min(MAX_WORKERS);
        let programs = compile(&config, |vm| check_script(vm, configured)).map_err(StartError::Script)?;
        let certificates = Certificates::load(&config);
        let certificates = certificates.map_err(|wrong| {
            StartError::Certificate(Both {
                en: certificates::lines(&wrong, Language::English),
                zh: certificates::lines(&wrong, Language::Chinese),
            })
        })?;
        let tls = certificates.ports().clone();
        let (node, run) = succeeds.unwrap_or_else(|| (NodeNumber::random(), None));
        let others: Option<Arc<Shared>> = config.is_of_mesh().then(Arc::default);
        let hub = match &others {
            Some(others) => Hub::new(node, workers).telling(Arc::new(Interest(others.clone()))),
            None => Hub::new(node, workers),
        };
        let hub = Arc::new(hub);
        hub.bound_subscriptions(config.max_subscriptions);
        hub.history().bound(config.history_limit);
        hub.history().set_rules(&config.channels);
        let memory = Arc::new(Memory::new(workers));
        let mesh = Mesh::new(hub.clone(), run.map_or_else(NodeId::random, |run| NodeId(run.0)));
        let mesh = Arc::new(match &others {
            Some(others) if !config.role.engine => mesh.with_others(others.clone()).without_clients(),
            Some(others) => mesh.with_others(others.clone()),
            None => mesh,
        });
        let outbound = Arc::new(Outbound::new(&config.luavm.redis, reserve.scripts_below()));
        let queue = Queue::new(config.luavm.queue_topic_size, config.luavm.queue_max_topics);
        let queue = Arc::new(queue.waiting_for_room(config.luavm.queue_full == QueueFull::Block));
        let shared = Arc::new(shared::Shared::new(config.luavm.shared_limit));
        let timers = Arc::new(Timers::new(workers));
        let repeats = Arc::new(IdempotencyTable::default());
        let clients: Vec<Arc<AtomicUsize>> = config.servers.iter().map(|_| Arc::default()).collect();
        let admissions: Vec<Arc<Admission>> = config.servers.iter().map(|_| Arc::default()).collect();
        let (stage, stages) = watch::channel(Stage::Serving);
        let (peers, lanes) = Peers::new(workers);
        let peers = Arc::new(peers);
        let addresses = listeners.addresses.clone();
        let metrics = metrics::metrics(&config, &addresses, &hub, &queue, &clients, &peers, &mesh);
        metrics::of_scripts(&metrics, &shared, &timers);
        let spans = Arc::new(SpanQueue::default());
        metrics::of_spans(&metrics, &spans);
        let metrics = Arc::new(metrics);
        certificates::measure(&metrics, &tls);
        let logins = Arc::new(LoginThrottle::default());
        let verifier = Arc::new(Verifier::default());
        let callers = Arc::new(Callers::new(reserve.for_a_port()));
        let config = Arc::new(ArcSwap::from_pointee(config));
        let exporter = Exporter::new(spans.clone(), outbound.clone(), config.clone(), node.get().to_string());

        let api_doors = listeners.for_worker().map_err(|e| StartError::System(e.to_string()))?;
        let doors = Arc::new(Doors::new(api_doors, tls.clone()));
        let estate = Estate {
            peers: peers.clone(),
            stage: stage.clone(),
            hub: hub.clone(),
            queue: queue.clone(),
            shared: shared.clone(),
            timers: timers.clone(),
            repeats: repeats.clone(),
            admissions: admissions.clone(),
            metrics: metrics.clone(),
            listeners: Kept::default(),
            mesh: None,
        };
        let mut engine = Engine {
            addresses,
            stage,
            estate,
            peers: peers.clone(),
            workers: Vec::with_capacity(workers),
            clients: clients.clone(),
            queue: queue.clone(),
            timers: timers.clone(),
            config: config.clone(),
            memory: None,
            supervisor: None,
            watcher: None,
            doors: doors.clone(),
            nodes: mesh.clone(),
            mesh: None,
            member: None,
            joins: None,
            exporter: exporter.clone(),
        };
        exporter.start().map_err(|e| StartError::System(e.to_string()))?;
        let mut starting = Vec::with_capacity(workers);
        for (i, control) in lanes.into_iter().enumerate() {
            let spec = Spec {
                id: WorkerId(i as u16),
                hub: hub.clone(),
                mesh: mesh.clone(),
                outbound: outbound.clone(),
                queue: queue.clone(),
                shared: shared.clone(),
                timers: timers.clone(),
                repeats: repeats.clone(),
                memory: memory.clone(),
                config: config.clone(),
                programs: programs.clone(),
                clients: clients.clone(),
                admissions: admissions.clone(),
                peers: peers.clone(),
                listeners: listeners.for_worker().map_err(|e| StartError::System(e.to_string()))?,
                api_addr: engine.addresses.api,
                metrics: metrics.clone(),
                spans: spans.clone(),
                logins: logins.clone(),
                verifier: verifier.clone(),
                callers: callers.clone(),
                tls: tls.clone(),
                reserve,
                control,
                stage: stages.clone(),
                succeeds: succeeds.is_some(),
            };
            let (ready, started) = std::sync::mpsc::channel();
            let thread = std::thread::Builder::new()
                .name(format!("worker-{i}"))
                .stack_size(worker::STACK)
                .spawn(move || thread::run(spec, ready))
                .map_err(|e| StartError::System(format!("a worker's thread could not start: {e}")))?;
            engine.workers.push(thread);
            starting.push(started);
        }
        *engine.estate.listeners.lock().unwrap_or_else(PoisonError::into_inner) = listeners.into_list();
        for started in starting {
            // Dropping the engine ends the workers that have started.
            started
                .recv()
                .unwrap_or_else(|_| Err("a worker ended while it started".into()))
                .map_err(|why: String| StartError::Script(why.into()))?;
        }
        if let Some(others) = others {
            let (config, addresses) = (config.load(), &engine.addresses);
            let once = Arc::new(OnceHere { repeats, mesh: mesh.clone() });
            let clients = clients.clone();
            if succeeds.is_some() {
                engine.joins = Some((others, once));
            } else {
                let parts = mesh::Parts { config: &config, addresses, hub: &hub, mesh: &mesh, clients, once };
                let (driver, member) = mesh::join(parts, others, &link)?;
                (engine.mesh, engine.member) = (Some(driver), Some(member));
            }
        }
        let stuck_after = config.load().stuck_after;
        let watcher = stuck::Watcher::spawn(peers.clone(), hub.clone(), doors, timers, stuck_after);
        engine.watcher = Some(watcher.map_err(|e| StartError::System(e.to_string()))?);
        let system = |e: std::io::Error| StartError::System(e.to_string());
        engine.memory = Some(memory::watch(memory, config.clone()).map_err(system)?);
        let (at_start, measured) = (config.load_full(), metrics.clone());
        let supervisor = reload::Supervisor::new(config, peers, programs, certificates, metrics, on_level, configured);
        let supervisor = supervisor.exporting(exporter);
        figures::tell(figures::Parts {
            config: at_start,
            addresses: engine.addresses.clone(),
            hub,
            mesh,
            clients,
            metrics: measured,
            scripts: supervisor.told(),
        });
        engine.supervisor = Some(supervisor.spawn().map_err(|e| StartError::System(e.to_string()))?);
        Ok(engine)
    }

    /// The addresses that it listens on.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Whether it serves: a node of a cluster serves once it has joined.
    pub fn is_serving(&self) -> bool {
        self.nodes.is_serving()
    }

    /// All that it hands over to a successor process.
    pub fn estate(&self) -> Estate {
        let mesh = self.mesh.as_ref().map(Driver::orders).zip(self.member.clone());
        Estate { mesh, ..self.estate.clone() }
    }

    /// How many workers it has.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Reads the configuration file again now, as if it had changed.
    pub fn reload(&self) {
        if let Some((commands, _)) = &self.supervisor {
            let _ = commands.try_send(reload::Command::Reload);
        }
    }
}

/// Raises the limit of open files to the most that the system allows: each connection is one. Returns the limit.
fn raise_file_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call fills in what it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return u64::MAX;
    }
    let hard = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: the call reads what it is given.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &hard) } == 0 { hard.rlim_cur } else { limit.rlim_cur }
}
