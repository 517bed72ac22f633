//! Setting values of connections' contexts, and waiting until one is set.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::Shard;
use super::conn::Conn;
use super::context::{Full, Value};
use super::waits::Waiter;

/// Waits until a key of a connection's context is set. Gives its value, or nil if the connection closes first. It sees
/// every value set after its creation.
pub struct ContextWait {
    shard: Rc<Shard>,
    conn: Rc<Conn>,
    waiter: Rc<Waiter>,
}

impl Future for ContextWait {
    type Output = Value;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Value> {
        if let Some(value) = self.conn.context.borrow().get(&self.waiter.key) {
            return Poll::Ready(value.clone());
        }
        let seen = self.waiter.poll(cx);
        let over = self.conn.is_closing() || self.shard.get(self.conn.client_id).is_none();
        if seen.is_pending() && over { Poll::Ready(Value::Nil) } else { seen }
    }
}

impl Drop for ContextWait {
    fn drop(&mut self) {
        self.shard.waits.borrow_mut().forget(self.conn.client_id, &self.waiter);
    }
}

impl Shard {
    /// Sets a value of a connection's context and wakes the handlers that wait for it.
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
        let waiter = self.waits.borrow_mut().begin(conn.client_id, key);
        ContextWait { shard: self.clone(), conn, waiter }
    }
}
