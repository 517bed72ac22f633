//! A worker's thread from its start to its end: its parts, and the tasks that it runs.

use arc_swap::ArcSwap;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_local;

use super::backpressure::Backpressure;
use super::tied::Tied;
use super::{Control, Listener, Peers, Reserve, Server, Worker};
use super::{control, leaving, memory, moves, places, renew, starting, sweep, timers, turn};
use crate::admission::Admission;
use crate::api::idempotency::IdempotencyTable;
use crate::api::{Api, Callers, LoginThrottle, Parts, Stage, Verifier};
use crate::cluster::{Mesh, online};
use crate::config::Config;
use crate::hub::Hub;
use crate::ids::WorkerId;
use crate::memory::Memory;
use crate::message::Channel;
use crate::outbound::Outbound;
use crate::queue::Queue;
use crate::script::current::{self, Host};
use crate::script::mix;
use crate::script::program::Program;
use crate::script::vm::{Vm, VmLimits};
use crate::shard::Shard;
use crate::shard::fair::Fair;
use crate::shard::hold::Hold;
use crate::shard::server_context::ServerContext;
use crate::shared::Shared;
use crate::telemetry::metrics::{Metrics, WorkerCounts};
use crate::telemetry::spans::SpanQueue;
use crate::timers::Timers;
use crate::tls::Ports;

/// The parts of a worker, most of them shared by all workers.
pub struct Spec {
    /// Which one.
    pub id: WorkerId,
    /// The hub.
    pub hub: Arc<Hub>,
    /// The mesh.
    pub mesh: Arc<Mesh>,
    /// HTTP and Redis, for scripts.
    pub outbound: Arc<Outbound>,
    /// The queue from handlers to back ends.
    pub queue: Arc<Queue>,
    /// What scripts share.
    pub shared: Arc<Shared>,
    /// The timers of all scripts.
    pub timers: Arc<Timers>,
    /// The table of publishes with an id.
    pub repeats: Arc<IdempotencyTable>,
    /// The process's memory.
    pub memory: Arc<Memory>,
    /// The TLS of all ports.
    pub tls: Arc<Ports>,
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// The scripts, by server.
    pub programs: Vec<Arc<Program>>,
    /// Connections of each server over all workers.
    pub clients: Vec<Arc<AtomicUsize>>,
    /// Who may connect, by server.
    pub admissions: Vec<Arc<Admission>>,
    /// Connections of each worker, and how to reach the others.
    pub peers: Arc<Peers>,
    /// The listeners, shared by all workers.
    pub listeners: Vec<Listener>,
    /// Where the API is reached (for `/v1/nodes`).
    pub api_addr: SocketAddr,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// Spans that wait for the exporter.
    pub spans: Arc<SpanQueue>,
    /// Failed logins of all workers.
    pub logins: Arc<LoginThrottle>,
    /// Passwords that are known by their hashes, of all workers.
    pub verifier: Arc<Verifier>,
    /// Connections of callers, of all workers.
    pub callers: Arc<Callers>,
    /// The descriptors that clients do not get.
    pub reserve: Reserve,
    /// Its own control lane.
    pub control: mpsc::Receiver<Control>,
    /// How far the stop of the engine has come.
    pub stage: watch::Receiver<Stage>,
    /// It serves only when it is told so: a process before it hands its connections over.
    pub succeeds: bool,
}

/// Runs a worker on this thread until it has drained. `ready` is told first whether it could start: the error comes
/// from its scripts or from the system.
pub fn run(spec: Spec, ready: std::sync::mpsc::Sender<Result<(), String>>) {
    let mut builder = Builder::new_current_thread();
    if spec.hub.workers() > 1 {
        // Before it sleeps: a thread that waits for this core may be about to give it something to do.
        builder.on_thread_park(std::thread::yield_now);
    }
    let runtime = match builder.enable_all().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(e) => {
            let _ = ready.send(Err(format!("a worker's runtime could not start: {e}")));
            return;
        }
    };
    runtime.block_on(async move {
        let hub = spec.hub.clone();
        let id = spec.id;
        match start(spec) {
            Ok((worker, control, listeners)) => {
                spawn_tasks(&worker);
                let started = starting::on_start_of_all(&worker).await;
                let serves = started.is_ok();
                let _ = ready.send(started);
                if serves {
                    serve(worker, control, listeners).await;
                }
            }
            Err(e) => {
                let _ = ready.send(Err(e));
            }
        }
        hub.mailbox(id).close();
    });
    // Remaining tasks hold connections and VMs: they are dropped with the runtime, while the host still exists.
    drop(runtime);
    current::uninstall();
}

type Started = (Rc<Worker>, mpsc::Receiver<Control>, Vec<Listener>);

fn start(spec: Spec) -> Result<Started, String> {
    let config = spec.config.load_full();
    let shard = Rc::new(Shard::new(spec.id, spec.hub.clone()));
    shard.set_rules(&config.channels);
    shard.traces.turn(config.tracing.ratio(), &spec.spans);
    let (mesh, queue, outbound) = (spec.mesh.clone(), spec.queue.clone(), spec.outbound);
    let (timers, worker) = (spec.timers.clone(), spec.id);
    current::install(Host { shard: shard.clone(), mesh: mesh.clone(), queue, outbound, timers, worker });
    mix::shared::install(spec.shared.clone(), Instant::now);
    let vm_limits = VmLimits::of(&config.luavm);
    let mut servers = Vec::with_capacity(config.servers.len());
    for (i, (server, program)) in config.servers.iter().zip(&spec.programs).enumerate() {
        servers.push(Server {
            served: Rc::new(ServerContext::new(i, server, spec.clients[i].clone())),
            admission: spec.admissions[i].clone(),
            vm: RefCell::new(Vm::new(program.clone(), &vm_limits)?),
            next: RefCell::default(),
            replaced: RefCell::default(),
            worn: RefCell::default(),
            renewed: Cell::default(),
        });
    }
    spec.memory.add(spec.id, shard.counts.clone());
    let clients = spec.clients.clone();
    let fair: Rc<Fair> = Rc::default();
    let hold = Rc::new(if spec.succeeds { Hold::arriving() } else { Hold::default() });
    let api = Rc::new(Api::new(Parts {
        mesh: spec.mesh,
        queue: spec.queue,
        repeats: spec.repeats,
        config: spec.config.clone(),
        clients,
        api_addr: spec.api_addr,
        metrics: spec.metrics.clone(),
        logins: spec.logins,
        verifier: spec.verifier,
        callers: spec.callers,
        tls: spec.tls.clone(),
        stage: spec.stage.clone(),
        fair: fair.clone(),
        hold: hold.clone(),
        tracer: shard.traces.tracer.clone(),
    }));
    spec.metrics.add(WorkerCounts {
        id: spec.id.0,
        shard: shard.counts.clone(),
        servers: servers.iter().map(|server| server.served.counts.clone()).collect(),
        api: api.counts(),
        runtime: tokio::runtime::Handle::current().metrics(),
    });
    let backpressure = Backpressure::new(spec.memory.clone(), shard.clone());
    let worker = Rc::new(Worker {
        mesh,
        id: spec.id,
        shard,
        hub: spec.hub,
        config: spec.config,
        servers,
        api,
        peers: spec.peers,
        memory: spec.memory,
        backpressure,
        tls: spec.tls,
        shared: spec.shared,
        timers: spec.timers,
        tied: Tied::default(),
        spans: spec.spans,
        stage: spec.stage,
        read_buffer: Cell::default(),
        fair,
        newcomers: Cell::default(),
        unbound: Cell::default(),
        unbound_runs: Rc::default(),
        vm_limits,
        reserve: spec.reserve,
        turned_away: Cell::default(),
        hold,
        retry_over: Cell::default(),
        worn: Notify::new(),
    });
    worker.measure();
    Ok((worker, spec.control, spec.listeners))
}

/// The tasks that a worker has before it takes connections.
fn spawn_tasks(worker: &Rc<Worker>) {
    spawn_local(turn::run(worker.clone()));
    spawn_local(sweep::run(worker.clone()));
    spawn_local(worker.fair.clone().run());
    spawn_local(beat(worker.clone()));
    spawn_local(leaving::run(worker.clone()));
    spawn_local(memory::run(worker.clone()));
    spawn_local(worker.backpressure.clone().run());
    spawn_local(renew::run(worker.clone()));
    spawn_local(timers::run(worker.clone()));
    spawn_local(moves::run(worker.clone()));
    spawn_local(places::run(worker.clone()));
    if worker.id == WorkerId(0) {
        spawn_local(tell_numbers(worker.clone()));
        spawn_local(worker.mesh.clone().send_merged());
    }
}

/// Tells channels how many are in them, for the whole node. Never returns.
async fn tell_numbers(worker: Rc<Worker>) {
    let config = worker.config.clone();
    let every = move |channel: &Channel| {
        let config = config.load();
        config.rule_of(channel.as_str()).filter(|rule| rule.online.is_on()).map(|rule| rule.online.every)
    };
    online::run(worker.mesh.clone(), every).await;
}

/// All of a worker's life: its tasks run until it has drained.
async fn serve(worker: Rc<Worker>, control: mpsc::Receiver<Control>, listeners: Vec<Listener>) {
    control::run(worker.clone(), control, listeners).await;
    worker.peers.pulses[usize::from(worker.id.0)].end();
}

/// Shows that the worker lives. Never returns.
async fn beat(worker: Rc<Worker>) {
    worker.peers.pulses[usize::from(worker.id.0)].beat(&worker.hub).await;
}
