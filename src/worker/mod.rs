//! The worker threads: each a current-thread runtime with its own connections and its own Lua VMs, which share nothing
//! with another worker but the hub. A worker is reached in two ways only: its mailbox (deliveries) and its control lane
//! ([`Control`]). API connections are served here too, adopted like any other.

mod accept;
mod arrivals;
mod control;
mod defect;
mod encode;
mod fair;
mod handshake;
mod inbox;
mod incoming;
mod leaving;
mod linger;
mod measure;
mod memory;
mod newcomers;
pub mod pulse;
mod renew;
mod reserve;
mod session;
mod socket;
mod sweep;
mod turn;
mod websocket;

use arc_swap::ArcSwap;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::spawn_local;
use tokio::time::Instant;

use self::arrivals::Arrivals;
use self::fair::Fair;
use self::newcomers::Newcomers;
use self::pulse::Pulse;
use crate::api::repeats::Repeats;
use crate::api::{Api, Callers, Logins, Parts};
use crate::cluster::Mesh;
use crate::config::Config;
use crate::hub::Hub;
use crate::ids::WorkerId;
use crate::memory::Memory;
use crate::outbound::Outbound;
use crate::queue::Queue;
use crate::script::current::{self, Host};
use crate::script::program::Program;
use crate::script::vm::{Vm, VmLimits};
use crate::shard::Shard;
use crate::shard::peer::LOOK;
use crate::shard::served::Served;
use crate::telemetry::metrics::{Metrics, WorkerCounts};

pub use reserve::Reserve;

/// The longest control lane; a sender waits when it is full.
const CONTROL_LANE: usize = 1024;
/// The shared buffer that all connections of a worker are read through.
const READ_BUFFER: usize = LOOK;
/// A worker thread's stack. Lua limits how deep a script recurses, but where that goes through native functions (a
/// `__tostring` that calls `string.format`) its limit takes up to 4 MiB of the native stack.
pub const STACK: usize = 8 * 1024 * 1024;

/// What a listener's connections are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Clients of `engine.servers[i]`.
    Server(usize),
    /// Back ends on `engine.apiServer`.
    Api,
    /// Whoever looks for nodes, on `center.apiServer`.
    Center,
}

/// A bound listener and what it is for.
pub struct Listener {
    /// What its connections are.
    pub role: Role,
    /// The socket.
    pub socket: std::net::TcpListener,
}

impl Listener {
    /// The same socket for another worker.
    pub fn try_clone(&self) -> io::Result<Listener> {
        Ok(Listener { role: self.role, socket: self.socket.try_clone()? })
    }
}

/// The other way into a worker: a closed set of things it is told to do.
pub enum Control {
    /// Take over a socket that another worker accepted: the next of the [`arrivals`]. It may be gone, if this worker did not go on
    /// for a while.
    Adopt,
    /// First phase of a reload: build a VM of that version beside the one in use.
    Build {
        /// The server's position.
        server: usize,
        /// The new version.
        program: Arc<Program>,
        /// Says whether it worked.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// Second phase: use what was built (or drop it, if it failed somewhere).
    Swap {
        /// The server's position.
        server: usize,
        /// Use it.
        accept: bool,
    },
    /// The configuration in force has changed.
    Configure,
    /// Stop accepting, close every connection, and end when all have gone.
    Drain,
}

/// What all workers share, and what one is made of.
pub struct Spec {
    /// Which one.
    pub id: WorkerId,
    /// The hub.
    pub hub: Arc<Hub>,
    /// The mesh.
    pub mesh: Arc<Mesh>,
    /// HTTP and Redis, for scripts.
    pub outbound: Arc<Outbound>,
    /// From handlers to back ends.
    pub queue: Arc<Queue>,
    /// What back ends publish once only.
    pub repeats: Arc<Repeats>,
    /// The process's memory.
    pub memory: Arc<Memory>,
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// The scripts, by server.
    pub programs: Vec<Arc<Program>>,
    /// Connections of each server over all workers.
    pub clients: Vec<Arc<AtomicUsize>>,
    /// Connections of each worker, and how to reach the others.
    pub peers: Arc<Peers>,
    /// The listeners, shared by all workers.
    pub listeners: Vec<Listener>,
    /// Where the API is reached (for `/v1/nodes`).
    pub api_addr: SocketAddr,
    /// The process's figures.
    pub metrics: Arc<Metrics>,
    /// Failed logins of all workers.
    pub logins: Arc<Logins>,
    /// Connections of callers, of all workers.
    pub callers: Arc<Callers>,
    /// The descriptors that clients do not get.
    pub reserve: Reserve,
    /// Its own control lane.
    pub control: mpsc::Receiver<Control>,
    /// True while the engine drains.
    pub draining: watch::Receiver<bool>,
}

/// How workers reach each other.
pub struct Peers {
    /// By worker: its control lane.
    pub control: Vec<mpsc::Sender<Control>>,
    /// By worker: its connections.
    pub loads: Vec<Arc<AtomicUsize>>,
    /// By worker: sockets that others have accepted for it.
    arrivals: Vec<Arrivals>,
    /// By worker: its sign of life.
    pub pulses: Vec<Pulse>,
}

impl Peers {
    /// Lanes for that many workers, and each one's receiving end.
    pub fn new(workers: usize) -> (Peers, Vec<mpsc::Receiver<Control>>) {
        let (control, receivers) = (0..workers).map(|_| mpsc::channel(CONTROL_LANE)).unzip();
        let loads = (0..workers).map(|_| Arc::default()).collect();
        let (arrivals, pulses) = (0..workers).map(|_| Default::default()).unzip();
        (Peers { control, loads, arrivals, pulses }, receivers)
    }
}

/// One of `engine.servers` on this worker.
pub(crate) struct Server {
    served: Rc<Served>,
    vm: RefCell<Rc<Vm>>,
    /// Built in a reload's first phase.
    next: RefCell<Option<Rc<Vm>>>,
    /// Those that reloads replaced, for as long as they run handlers.
    replaced: RefCell<Vec<Weak<Vm>>>,
    /// The last that was replaced since its memory was nearly full, and when.
    worn: RefCell<Weak<Vm>>,
    renewed: Cell<Option<Instant>>,
}

impl Server {
    /// From here on, handlers are begun in that VM. The one before lives on in the handlers that it still runs.
    fn replace_vm(&self, vm: Rc<Vm>) {
        let old = self.vm.replace(vm);
        // Connections that waited for a place in it have one in the new VM.
        old.end_queue();
        let mut replaced = self.replaced.borrow_mut();
        replaced.retain(|vm| vm.strong_count() > 0);
        replaced.push(Rc::downgrade(&old));
    }
}

/// One worker, as its tasks share it.
pub(crate) struct Worker {
    id: WorkerId,
    shard: Rc<Shard>,
    hub: Arc<Hub>,
    config: Arc<ArcSwap<Config>>,
    servers: Vec<Server>,
    api: Rc<Api>,
    peers: Arc<Peers>,
    memory: Arc<Memory>,
    /// True while the engine drains.
    draining: watch::Receiver<bool>,
    /// The read buffer, while nobody reads.
    read_buffer: Cell<Vec<u8>>,
    /// Who may hold the worker next.
    fair: Rc<Fair>,
    newcomers: Newcomers,
    vm_limits: VmLimits,
    reserve: Reserve,
    /// Clients that are told there is no place for them.
    turned_away: Cell<usize>,
    /// The memory of some VM is nearly full.
    worn: Notify,
}

impl Worker {
    fn vm(&self, server: usize) -> Rc<Vm> {
        let vm = self.servers[server].vm.borrow().clone();
        if vm.has_worn() {
            self.worn.notify_one();
        }
        vm
    }

    /// The shared buffer, taken out for one read.
    fn take_read_buffer(&self) -> Vec<u8> {
        let mut buffer = self.read_buffer.take();
        buffer.resize(READ_BUFFER, 0);
        buffer
    }

    fn put_read_buffer(&self, buffer: Vec<u8>) {
        self.read_buffer.set(buffer);
    }
}

/// Runs a worker on this thread till it has drained. `ready` hears first whether it could start: the error of its
/// scripts, or of the system.
pub fn run(spec: Spec, ready: std::sync::mpsc::Sender<Result<(), String>>) {
    let mut builder = Builder::new_current_thread();
    if spec.hub.workers() > 1 {
        // Before it sleeps: whoever waits for this core may be about to give it something to do.
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
                let _ = ready.send(Ok(()));
                serve(worker, control, listeners).await;
            }
            Err(e) => {
                let _ = ready.send(Err(e));
            }
        }
        hub.mailbox(id).close();
    });
    // Tasks that are left hold connections and VMs: they go with the runtime, while the host is still there.
    drop(runtime);
    current::uninstall();
}

type Started = (Rc<Worker>, mpsc::Receiver<Control>, Vec<Listener>);

fn start(spec: Spec) -> Result<Started, String> {
    let config = spec.config.load_full();
    let shard = Rc::new(Shard::new(spec.id, spec.hub.clone()));
    let (mesh, queue, outbound) = (spec.mesh.clone(), spec.queue.clone(), spec.outbound);
    current::install(Host { shard: shard.clone(), mesh, queue, outbound });
    let vm_limits = VmLimits::of(&config.luavm);
    let mut servers = Vec::with_capacity(config.servers.len());
    for (i, (server, program)) in config.servers.iter().zip(&spec.programs).enumerate() {
        servers.push(Server {
            served: Rc::new(Served::new(i, server, spec.clients[i].clone())),
            vm: RefCell::new(Vm::new(program.clone(), &vm_limits)?),
            next: RefCell::default(),
            replaced: RefCell::default(),
            worn: RefCell::default(),
            renewed: Cell::default(),
        });
    }
    spec.memory.add(shard.counts.clone());
    let clients = spec.clients.clone();
    let draining = spec.draining;
    let api = Rc::new(Api::new(Parts {
        mesh: spec.mesh,
        queue: spec.queue,
        repeats: spec.repeats,
        config: spec.config.clone(),
        clients,
        api_addr: spec.api_addr,
        metrics: spec.metrics.clone(),
        logins: spec.logins,
        callers: spec.callers,
        draining: draining.clone(),
    }));
    spec.metrics.add(WorkerCounts {
        id: spec.id.0,
        shard: shard.counts.clone(),
        servers: servers.iter().map(|server| server.served.counts.clone()).collect(),
        api: api.counts(),
        runtime: tokio::runtime::Handle::current().metrics(),
    });
    let worker = Rc::new(Worker {
        id: spec.id,
        shard,
        hub: spec.hub,
        config: spec.config,
        servers,
        api,
        peers: spec.peers,
        memory: spec.memory,
        draining,
        read_buffer: Cell::default(),
        fair: Rc::default(),
        newcomers: Newcomers::default(),
        vm_limits,
        reserve: spec.reserve,
        turned_away: Cell::default(),
        worn: Notify::new(),
    });
    worker.measure();
    Ok((worker, spec.control, spec.listeners))
}

/// All of a worker's life: its tasks run until it has drained.
async fn serve(worker: Rc<Worker>, control: mpsc::Receiver<Control>, listeners: Vec<Listener>) {
    spawn_local(turn::run(worker.clone()));
    spawn_local(sweep::run(worker.clone()));
    spawn_local(worker.fair.clone().run());
    spawn_local(pulse::run(worker.clone()));
    spawn_local(leaving::run(worker.clone()));
    spawn_local(memory::run(worker.clone()));
    spawn_local(renew::run(worker.clone()));
    let accepting: Vec<_> =
        listeners.into_iter().map(|l| spawn_local(accept::run(worker.clone(), l)).abort_handle()).collect();
    control::run(worker.clone(), control, accepting).await;
    worker.peers.pulses[usize::from(worker.id.0)].end();
}
