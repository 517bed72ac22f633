//! Handlers that wait for a context value to be set. Kept apart from the connections, since few ever wait.

use foldhash::fast::RandomState;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::context::Value;
use crate::ids::ClientId;

/// The waits for values, by connection.
#[derive(Default)]
pub struct Waits(HashMap<ClientId, Vec<Rc<Waiter>>, RandomState>);

/// A wait for a value, as seen by the code that sets values.
pub(super) struct Waiter {
    pub(super) key: Box<str>,
    /// What was last set since the wait began; it may have been removed again.
    seen: RefCell<Option<Value>>,
    task: RefCell<Option<Waker>>,
}

impl Waiter {
    fn new(key: &str) -> Rc<Waiter> {
        Rc::new(Waiter { key: key.into(), seen: RefCell::default(), task: RefCell::default() })
    }

    /// The value that was set since, if any; otherwise the task is woken when one is set.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Value> {
        if let Some(value) = self.seen.take() {
            return Poll::Ready(value);
        }
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn wake(&self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

impl Waits {
    /// Whether a connection's handlers wait for that key.
    pub(super) fn is_awaited(&self, client_id: ClientId, key: &str) -> bool {
        self.0.get(&client_id).is_some_and(|waiters| waiters.iter().any(|waiter| *waiter.key == *key))
    }

    /// A value is set: the handlers that wait for it get it, even if it is removed before they look.
    pub(super) fn tell(&self, client_id: ClientId, key: &str, value: &Value) {
        for waiter in self.0.get(&client_id).into_iter().flatten() {
            if *waiter.key == *key && *value != Value::Nil {
                waiter.seen.replace(Some(value.clone()));
                waiter.wake();
            }
        }
    }

    /// A wait begins.
    pub(super) fn begin(&mut self, client_id: ClientId, key: &str) -> Rc<Waiter> {
        let waiter = Waiter::new(key);
        self.0.entry(client_id).or_default().push(waiter.clone());
        waiter
    }

    /// The connection has ended.
    pub(super) fn end(&mut self, client_id: ClientId) {
        for waiter in self.0.remove(&client_id).into_iter().flatten() {
            waiter.wake();
        }
        self.tidy();
    }

    pub(super) fn forget(&mut self, client_id: ClientId, waiter: &Rc<Waiter>) {
        if let Some(waiters) = self.0.get_mut(&client_id) {
            waiters.retain(|other| !Rc::ptr_eq(other, waiter));
            if waiters.is_empty() {
                self.0.remove(&client_id);
                self.tidy();
            }
        }
    }

    /// Nothing is kept when nobody waits.
    fn tidy(&mut self) {
        if self.0.is_empty() {
            self.0 = HashMap::default();
        }
    }
}
