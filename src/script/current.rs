//! The connection whose handler runs on this thread, and the parts of the engine that native functions use.
//!
//! The current connection is set around each stretch of a handler, so that it is right after every wait and inside
//! coroutines that the script makes.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;

use crate::cluster::Mesh;
use crate::hub::topics::Member;
use crate::ids::{ClientId, WorkerId};
use crate::outbound::Outbound;
use crate::queue::Queue;
use crate::shard::Shard;
use crate::shard::conn::Conn;
use crate::timers::Timers;

/// What native functions may call. A thread that only compiles scripts has none.
pub struct Host {
    /// This worker's connections.
    pub shard: Rc<Shard>,
    /// Publishing and sending, to any node.
    pub mesh: Arc<Mesh>,
    /// HTTP and Redis.
    pub outbound: Arc<Outbound>,
    /// From handlers to back ends.
    pub queue: Arc<Queue>,
    /// The timers of all workers.
    pub timers: Arc<Timers>,
    /// Which worker this is.
    pub worker: WorkerId,
}

/// A connection as Lua holds it: enough to find it, nothing that keeps it alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ConnRef {
    /// Its number.
    pub client_id: ClientId,
    /// Its slot in the shard.
    pub slot: Member,
}

impl ConnRef {
    /// A connection's.
    pub fn of(conn: &Conn) -> ConnRef {
        ConnRef { client_id: conn.client_id, slot: conn.slot }
    }

    /// Its client's address, while it is there.
    pub fn address(self) -> Option<IpAddr> {
        Some(host()?.shard.get_at(self.slot, self.client_id)?.remote().ip())
    }
}

/// The handler that is running.
#[derive(Clone, Copy)]
pub struct Current {
    /// Its connection; none for what is done for all of a server's, or for none of them.
    pub conn: Option<ConnRef>,
    /// The position of its server.
    pub server: usize,
    /// Of `on_start`: its version.
    pub starts: Option<NonZeroU64>,
    /// Whether the handler may wait.
    pub may_wait: bool,
    /// The connection ended while the handler waited; one without a connection is to end. Every further wait fails at once.
    pub interrupted: bool,
    /// A new process takes the connection, or the node.
    pub is_replaced: bool,
    /// How many waits have failed for that reason.
    pub in_vain: u32,
}

impl Current {
    /// A handler that starts.
    pub fn new(conn: Option<ConnRef>, server: usize, may_wait: bool) -> Current {
        Current { conn, server, starts: None, may_wait, interrupted: false, is_replaced: false, in_vain: 0 }
    }

    /// Why its waits end, once it is interrupted.
    pub fn gone(&self) -> &'static str {
        if self.is_replaced {
            "a new process takes over: the wait has ended, and nobody knows how it would have"
        } else if self.conn.is_some() {
            "the connection has closed"
        } else {
            "its time is over, or the engine is stopping"
        }
    }
}

thread_local! {
    static HOST: RefCell<Option<Rc<Host>>> = const { RefCell::new(None) };
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

/// Makes the engine reachable for native functions on this thread.
pub fn install(host: Host) {
    HOST.with(|h| *h.borrow_mut() = Some(Rc::new(host)));
}

/// Takes it away again, before the thread ends.
pub fn uninstall() {
    let host = HOST.with(|h| h.borrow_mut().take());
    drop(host);
}

/// The engine, where there is one.
pub fn host() -> Option<Rc<Host>> {
    HOST.with(|h| h.borrow().clone())
}

/// The handler that is running, if one is.
pub fn get() -> Option<Current> {
    CURRENT.with(Cell::get)
}

/// Counts a wait of the running handler that failed because its connection has ended. Returns the number so far.
pub fn count_in_vain() -> u32 {
    CURRENT.with(|c| {
        let current = c.get().map(|current| Current { in_vain: current.in_vain + 1, ..current });
        c.set(current);
        current.map_or(0, |current| current.in_vain)
    })
}

/// Makes a handler the current one until it is dropped.
pub struct Entered(Option<Current>);

/// Makes a handler the current one.
pub fn enter(current: Option<Current>) -> Entered {
    Entered(CURRENT.with(|c| c.replace(current)))
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with(|c| c.set(self.0));
    }
}
