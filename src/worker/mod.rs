//! The worker threads. Each is a current-thread runtime with its own connections and its own Lua VMs, and shares
//! nothing with other workers except the hub. A worker is reached in two ways only: its mailbox (deliveries) and its
//! control lane ([`Control`]). API connections are served here too, adopted like any other.

mod accept;
mod admit;
mod arrivals;
mod backpressure;
mod control;
mod defect;
mod drain;
mod encode;
mod event_stream;
mod failures;
mod handover;
mod handshake;
mod inbox;
mod leaving;
mod linger;
mod load;
mod measure;
mod memory;
mod moves;
mod newcomers;
mod peers;
mod places;
mod post;
mod protocol;
mod proxy;
pub mod pulse;
mod refusal;
mod renew;
mod request;
mod reserve;
mod role;
mod session;
mod socket;
mod starting;
mod step;
mod sweep;
mod task;
pub mod thread;
mod tied;
mod timers;
mod tls;
mod trace;
mod turn;
mod websocket;

use arc_swap::ArcSwap;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::tied::Tied;
use crate::admission::Admission;
use crate::api::{Api, Stage};
use crate::cluster::Mesh;
use crate::config::Config;
use crate::hub::Hub;
use crate::ids::WorkerId;
use crate::memory::Memory;
use crate::script::vm::{Vm, VmLimits};
use crate::shard::Shard;
use crate::shard::conn::Conn;
use crate::shard::fair::{Account, Fair};
use crate::shard::hold::Hold;
use crate::shard::peer::LOOK;
use crate::shard::server_context::ServerContext;
use crate::shared::Shared;
use crate::telemetry::spans::SpanQueue;
use crate::timers::Timers;
use crate::tls::Ports;

use backpressure::Backpressure;
pub use peers::{Control, Peers};
pub use reserve::Reserve;
pub use role::{Listener, Role};
pub use step::{Arrived, ArrivedCaller, Offers, Places, Step};

/// The size of the read buffer that all connections of a worker share.
const READ_BUFFER: usize = LOOK;
/// A worker thread's stack. Lua limits how deep a script recurses, but where the recursion goes through native
/// functions (a `__tostring` that calls `string.format`), that limit allows up to 4 MiB of the native stack.
pub const STACK: usize = 8 * 1024 * 1024;

/// One of `engine.servers` on this worker.
pub(crate) struct Server {
    served: Rc<ServerContext>,
    /// Who may connect, of all workers.
    admission: Arc<Admission>,
    vm: RefCell<Rc<Vm>>,
    /// The VM built in a reload's first phase.
    next: RefCell<Option<Rc<Vm>>>,
    /// The VMs that reloads replaced, for as long as they run handlers.
    replaced: RefCell<Vec<Weak<Vm>>>,
    /// The last VM that was replaced because its memory was nearly full, and when.
    worn: RefCell<Weak<Vm>>,
    renewed: Cell<Option<Instant>>,
}

impl Server {
    /// From now on, handlers start in that VM. The previous one lives until its running handlers end.
    fn replace_vm(&self, vm: Rc<Vm>) {
        let old = self.vm.replace(vm);
        // Connections that waited for a place in the old VM get one in the new VM.
        old.end_queue();
        let mut replaced = self.replaced.borrow_mut();
        replaced.retain(|vm| vm.strong_count() > 0);
        replaced.push(Rc::downgrade(&old));
    }
}

/// One worker, as its tasks share it.
pub(crate) struct Worker {
    mesh: Arc<Mesh>,
    id: WorkerId,
    shard: Rc<Shard>,
    hub: Arc<Hub>,
    config: Arc<ArcSwap<Config>>,
    servers: Vec<Server>,
    api: Rc<Api>,
    peers: Arc<Peers>,
    memory: Arc<Memory>,
    backpressure: Rc<Backpressure>,
    shared: Arc<Shared>,
    timers: Arc<Timers>,
    /// The TLS of all ports.
    tls: Arc<Ports>,
    tied: Tied,
    /// Spans that wait for the exporter.
    spans: Arc<SpanQueue>,
    /// How far the stop of the engine has come.
    stage: watch::Receiver<Stage>,
    /// The read buffer, while no connection reads.
    read_buffer: Cell<Vec<u8>>,
    /// Decides which connection may hold the worker next.
    fair: Rc<Fair>,
    /// The time that all handshakes together took lately.
    newcomers: Cell<Account>,
    /// The time that all handlers without a connection together took lately.
    unbound: Cell<Account>,
    /// One for each of them that runs or waits, and one more.
    unbound_runs: Rc<()>,
    vm_limits: VmLimits,
    reserve: Reserve,
    /// Clients that are being told that there is no place for them.
    turned_away: Cell<usize>,
    /// Whether it holds still, for a successor process.
    hold: Rc<Hold>,
    /// How long the clients are closed over, once the engine stops.
    retry_over: Cell<Duration>,
    /// Notified when the memory of some VM is nearly full.
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

    /// Takes a connection out of the shard, with what ends with it. False: it is out already.
    fn remove(&self, conn: &Conn) -> bool {
        self.timers.ended(conn.client_id);
        self.tied.ended(conn.client_id);
        self.shard.remove(conn)
    }

    /// Takes the shared buffer out for one read.
    fn take_read_buffer(&self) -> Vec<u8> {
        let mut buffer = self.read_buffer.take();
        buffer.resize(READ_BUFFER, 0);
        buffer
    }

    fn put_read_buffer(&self, buffer: Vec<u8>) {
        self.read_buffer.set(buffer);
    }
}
