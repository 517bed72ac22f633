//! Waiting for a place in a VM, among those of handlers that wait.

use std::rc::Rc;
use std::task::{Context, Poll};

use super::{Hook, Vm};
use crate::script::places::{Full, Whose};
use crate::script::program::shown;
use crate::shard::conn::Conn;
use crate::telemetry::rate_limited::rate_limited;

impl Vm {
    /// Handlers that wait.
    pub fn waiting(&self) -> usize {
        self.places.taken()
    }

    /// Whether another handler of that hook may start for that connection: there are places left for it to wait.
    pub fn may_start(&self, hook: Hook, conn: &Conn) -> bool {
        self.places.is_roomy() || self.places.full_for(Whose::new(hook, Some(conn.remote().ip()))).is_none()
    }

    /// The same for a handler that belongs to no connection.
    pub fn has_place(&self, hook: Hook) -> bool {
        self.places.full_for(Whose::new(hook, None)).is_none()
    }

    /// Ready when another handler may start. Until then, `turn` keeps the caller's place in the queue. The caller drops
    /// it when it no longer waits.
    pub fn poll_turn(
        self: &Rc<Self>,
        hook: Hook,
        conn: &Conn,
        turn: &mut Option<Turn>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if self.places.is_roomy() {
            *turn = None;
            return Poll::Ready(());
        }
        let Some(full) = self.places.full_for(Whose::new(hook, Some(conn.remote().ip()))) else {
            *turn = None;
            return Poll::Ready(());
        };
        // It keeps its number when it begins to wait for a place of another kind.
        let number = match turn {
            Some(Turn(queued)) if Rc::ptr_eq(&queued.vm, self) => queued.number,
            _ => {
                self.tell_full(full);
                self.places.number()
            }
        };
        self.places.queue(full, number, cx.waker().clone());
        if turn.as_ref().is_none_or(|Turn(queued)| queued.full != full || !Rc::ptr_eq(&queued.vm, self)) {
            *turn = Some(Turn(Box::new(Queued { vm: self.clone(), number, full })));
        }
        Poll::Pending
    }

    fn tell_full(&self, full: Full) {
        let (most, entry) = (self.places.most(full), shown(&self.program.entry));
        match full {
            Full::All => rate_limited!(WARN, "handlers wait for places", &entry; target: "script",
                "{most} handlers of {entry} wait, as many as may on a worker: further ones begin when others have ended"),
            Full::Hook(hook) => {
                rate_limited!(WARN, "handlers wait for places", &format!("{entry} {}", hook.name()); target: "script",
                hook = hook.name(), "{most} handlers of {entry} wait in one hook, as many as may on a worker: further ones of it \
                begin when others have ended")
            }
            Full::Address(address) => {
                rate_limited!(WARN, "handlers wait for places", &format!("{entry} of addresses"); target: "script",
                remote = %address, "{most} handlers of {entry} wait for clients of one address, as many as may on a worker: \
                further ones begin when others have ended (of clients behind a proxy: trustedProxies)")
            }
        }
    }

    /// A reload has replaced this VM: waiters for a place in it have to queue in the new VM.
    pub fn end_queue(&self) {
        self.places.end();
    }
}

/// A place in the queue of handlers that wait until a VM may start them; given up when dropped. Boxed, since every
/// connection reserves room for one.
pub struct Turn(Box<Queued>);

struct Queued {
    vm: Rc<Vm>,
    number: u64,
    full: Full,
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.vm.places.leave(self.full, self.number);
    }
}
