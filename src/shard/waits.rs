//! Who waits for a context value to be set. Kept beside the connections, since few ever wait.

use foldhash::fast::RandomState;
use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Shard;
use super::conn::Conn;
use super::context::{Full, Value};
use crate::ids::ClientId;

/// The waits for values, by connection.
#[derive(Default)]
pub struct Waits(HashMap<ClientId, Vec<Rc<Waiter>>, RandomState>);

/// A wait for a value, as those see it who set values.
struct Waiter {
    key: Box<str>,
    /// What was last set since the wait began; it may have been removed again.
    seen: RefCell<Option<Value>>,
    task: RefCell<Option<Waker>>,
}

impl Waiter {
    fn wake(&self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

impl Waits {
    /// Whether a connection's handlers wait for that key.
    fn is_awaited(&self, client_id: ClientId, key: &str) -> bool {
        self.0.get(&client_id).is_some_and(|waiters| waiters.iter().any(|waiter| *waiter.key == *key))
    }

    /// A value is set: whoever waits for it has it, even if it is removed before they look.
    fn tell(&self, client_id: ClientId, key: &str, value: &Value) {
        for waiter in self.0.get(&client_id).into_iter().flatten() {
            if *waiter.key == *key && *value != Value::Nil {
                waiter.seen.replace(Some(value.clone()));
                waiter.wake();
            }
        }
    }

    /// The connection has ended.
    pub(super) fn end(&mut self, client_id: ClientId) {
        for waiter in self.0.remove(&client_id).into_iter().flatten() {
            waiter.wake();
        }
        self.tidy();
    }

    fn forget(&mut self, client_id: ClientId, waiter: &Rc<Waiter>) {
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

/// Waits until a key of a connection's context is set: its value, or nil when the connection closes first. It sees what is
/// set from the moment that it is made.
pub struct ContextWait {
    shard: Rc<Shard>,
    conn: Rc<Conn>,
    waiter: Rc<Waiter>,
}

impl Future for ContextWait {
    type Output = Value;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Value> {
        let waiter = &self.waiter;
        if let Some(value) = self.conn.context.borrow().get(&waiter.key) {
            return Poll::Ready(value.clone());
        }
        if let Some(value) = waiter.seen.take() {
            return Poll::Ready(value);
        }
        if self.conn.is_closing() || self.shard.get(self.conn.client_id).is_none() {
            return Poll::Ready(Value::Nil);
        }
        let mut task = waiter.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for ContextWait {
    fn drop(&mut self) {
        self.shard.waits.borrow_mut().forget(self.conn.client_id, &self.waiter);
    }
}

impl Shard {
    /// Sets a value of a connection's context and wakes who waits for it.
    pub fn set_context(&self, conn: &Conn, key: &str, value: Value) -> Result<(), Full> {
        let told = self.waits.borrow().is_awaited(conn.client_id, key).then(|| value.clone());
        conn.context.borrow_mut().set(key, value)?;
        if let Some(value) = told {
            self.waits.borrow().tell(conn.client_id, key, &value);
        }
        Ok(())
    }

    /// Sets several values, or none of them.
    pub fn merge_context(&self, conn: &Conn, values: Vec<(String, Value)>) -> Result<(), Full> {
        let expected = |(key, _): &&(String, Value)| self.waits.borrow().is_awaited(conn.client_id, key);
        let told: Vec<_> = values.iter().filter(expected).cloned().collect();
        conn.context.borrow_mut().merge(values)?;
        told.iter().for_each(|(key, value)| self.waits.borrow().tell(conn.client_id, key, value));
        Ok(())
    }

    /// Waits until a value is set.
    pub fn wait_context(self: &Rc<Self>, conn: Rc<Conn>, key: &str) -> ContextWait {
        let waiter = Rc::new(Waiter { key: key.into(), seen: RefCell::default(), task: RefCell::default() });
        self.waits.borrow_mut().0.entry(conn.client_id).or_default().push(waiter.clone());
        ContextWait { shard: self.clone(), conn, waiter }
    }
}
