//! What keeps the calls of one connection in their order, though many are under way: one call is begun at a time, and a
//! publish does not overtake the subscriptions that were ordered before it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use crate::cluster::{Behind, Mesh};
use crate::ids::ClientId;

/// The order of one connection's calls.
#[derive(Default)]
pub(super) struct Sequence {
    /// The newest call has been begun only so far that no other may overtake it.
    held: Cell<bool>,
    /// The clients of the orders to subscribe that are not answered yet: at most as many as there may be calls.
    joining: RefCell<VecDeque<ClientId>>,
}

impl Sequence {
    /// Whether another call may be begun.
    pub(super) fn is_free(&self) -> bool {
        !self.held.get()
    }

    /// Notes that a call has been begun only so far that no other may overtake it; what to call when that is over.
    pub(super) fn hand_over(self: &Rc<Self>) -> impl FnOnce() + use<> {
        self.held.set(true);
        let sequence = self.clone();
        move || sequence.held.set(false)
    }

    /// Notes an order to subscribe a client; what to call when its answer is there.
    pub(super) fn joining(self: &Rc<Self>, client: ClientId) -> impl FnOnce() + use<> {
        self.joining.borrow_mut().push_back(client);
        let sequence = self.clone();
        move || {
            let mut joining = sequence.joining.borrow_mut();
            // Of two orders to one client either does: they are answered one after the other.
            if let Some(at) = joining.iter().position(|joining| *joining == client) {
                joining.remove(at);
            }
        }
    }

    /// What a publish that is begun now must not overtake. Other orders need no such care: they and what follows them go
    /// through the mailbox of the client's worker, which keeps their order.
    pub(super) fn behind(&self, mesh: &Mesh) -> Behind {
        mesh.behind(self.joining.borrow().iter().copied())
    }
}
