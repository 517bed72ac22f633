//! Functions of timers that wait, and whose waits end with a connection.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use tokio::sync::Notify;

use crate::ids::ClientId;

/// The ends of connections that functions wait with: those of timers that end with a connection.
#[derive(Default)]
pub(super) struct Tied(RefCell<HashMap<ClientId, Rc<Notify>>>);

impl Tied {
    /// Notified when that connection ends.
    pub(super) fn end_of(&self, client: ClientId) -> Rc<Notify> {
        self.0.borrow_mut().entry(client).or_default().clone()
    }

    /// Who waited waits no more.
    pub(super) fn leave(&self, client: ClientId, end: Rc<Notify>) {
        let mut ends = self.0.borrow_mut();
        // The table's and this one.
        if Rc::strong_count(&end) == 2 && ends.get(&client).is_some_and(|own| Rc::ptr_eq(own, &end)) {
            ends.remove(&client);
        }
    }

    /// A connection has ended.
    pub(super) fn ended(&self, client: ClientId) {
        let end = self.0.borrow_mut().remove(&client);
        if let Some(end) = end {
            end.notify_waiters();
        }
    }
}
