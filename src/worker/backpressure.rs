//! Clients that are not read for now because all clients together hold too much of what they have sent.
//!
//! The watching thread of [`Memory`] closes those that hold the most; a crowd may send faster than it looks. Who holds
//! nothing is read as ever: a whole small message costs nothing.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::ids::ClientId;
use crate::memory::{LEAST, Memory};
use crate::shard::Shard;
use crate::shard::conn::Conn;

/// How often the worker checks whether they may be read again.
const CHECK: Duration = Duration::from_millis(10);

/// The clients of a worker that wait for memory.
pub(super) struct Backpressure {
    memory: Arc<Memory>,
    shard: Rc<Shard>,
    waiting: RefCell<HashMap<ClientId, Waker>>,
    came: Notify,
}

impl Backpressure {
    /// For the clients of that worker.
    pub(super) fn new(memory: Arc<Memory>, shard: Rc<Shard>) -> Rc<Backpressure> {
        Rc::new(Backpressure { memory, shard, waiting: RefCell::default(), came: Notify::new() })
    }

    /// Whether no more may be read of a client that holds `held` bytes: its task is woken when it may.
    pub(super) fn holds_back(&self, conn: &Conn, held: usize, cx: &Context<'_>) -> bool {
        if held < LEAST {
            return false;
        }
        // What it has sent since its task was woken counts, too.
        self.shard.hold(conn, held);
        let full = self.memory.is_full();
        if full {
            self.waiting.borrow_mut().insert(conn.client_id, cx.waker().clone());
            self.came.notify_one();
        }
        full
    }

    /// Wakes those that may be read again. Never returns.
    pub(super) async fn run(self: Rc<Backpressure>) {
        loop {
            self.came.notified().await;
            while self.memory.is_full() {
                sleep(CHECK).await;
            }
            self.waiting.take().into_values().for_each(Waker::wake);
        }
    }
}
