//! Who waits for a context value to be set. Kept beside the connections, since few ever wait.

use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Shard;
use super::conn::Conn;
use super::context::{Full, Value};
use crate::ids::ClientId;

/// The tasks that wait for values, by connection.
#[derive(Default)]
pub struct Waits(HashMap<ClientId, Vec<Waker>, RandomState>);

impl Waits {
    /// Wakes all who wait on a connection; each looks again.
    pub(super) fn wake(&mut self, client_id: ClientId) {
        if let Some(wakers) = self.0.remove(&client_id) {
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// The connection has ended.
    pub(super) fn end(&mut self, client_id: ClientId) {
        self.wake(client_id);
        if self.0.is_empty() {
            self.0 = HashMap::default();
        }
    }
}

/// Waits till a key of a connection's context is set: its value, or nil when the connection closes first.
pub struct ContextWait {
    shard: Rc<Shard>,
    conn: Rc<Conn>,
    key: Box<str>,
}

impl Future for ContextWait {
    type Output = Value;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Value> {
        if let Some(value) = self.conn.context.borrow().get(&self.key) {
            return Poll::Ready(value.clone());
        }
        if self.conn.is_closing() || self.shard.get(self.conn.client_id).is_none() {
            return Poll::Ready(Value::Nil);
        }
        let mut waits = self.shard.waits.borrow_mut();
        let wakers = waits.0.entry(self.conn.client_id).or_default();
        if !wakers.iter().any(|w| w.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Shard {
    /// Sets a value of a connection's context and wakes who waits for it.
    pub fn set_context(&self, conn: &Conn, key: &str, value: Value) -> Result<(), Full> {
        conn.context.borrow_mut().set(key, value)?;
        self.waits.borrow_mut().wake(conn.client_id);
        Ok(())
    }

    /// Sets several values, or none of them.
    pub fn merge_context(&self, conn: &Conn, values: Vec<(String, Value)>) -> Result<(), Full> {
        conn.context.borrow_mut().merge(values)?;
        self.waits.borrow_mut().wake(conn.client_id);
        Ok(())
    }

    /// Waits till a value is set.
    pub fn wait_context(self: &Rc<Self>, conn: Rc<Conn>, key: &str) -> ContextWait {
        ContextWait { shard: self.clone(), conn, key: key.into() }
    }
}
