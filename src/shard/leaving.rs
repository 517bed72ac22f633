//! Connections that leave while they are in very many channels: they are taken out of some at a time, so that others
//! are served in between.

use std::task::{Context, Poll};

use super::Shard;
use super::conn::Conn;
use crate::message::CloseReason;

/// The channels that a connection is taken out of at once.
const AT_ONCE: usize = 512;

impl Shard {
    /// Takes a connection out of its channels, and then out of its slot: now, or through calls of
    /// [`Shard::leave_some`].
    pub(super) fn leave(&self, conn: &Conn) {
        if self.unlink(conn) {
            return;
        }
        let Some(conn) = self.conns.borrow().get(conn.slot as usize).cloned() else { return };
        // It has ended; nothing must reach it while its slot is still taken.
        conn.close(CloseReason::Lost("the connection has left".into()));
        self.leaving.borrow_mut().push_back(conn);
        if let Some(task) = self.leaver.take() {
            task.wake();
        }
    }

    /// Ready when there is a connection that still has to leave channels.
    pub fn poll_leaving(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.leaving.borrow().is_empty() {
            return Poll::Ready(());
        }
        self.leaver.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Takes the next leaving connection out of some of its channels.
    pub fn leave_some(&self) {
        let next = self.leaving.borrow_mut().pop_front();
        if let Some(conn) = next
            && !self.unlink(&conn)
        {
            self.leaving.borrow_mut().push_back(conn);
        }
    }

    /// True if the connection is out of all channels, and of its slot.
    fn unlink(&self, conn: &Conn) -> bool {
        let mut topics = self.topics.borrow_mut();
        let (gone, whole) = topics.remove_member(conn.slot, AT_ONCE);
        self.leave_rooms(conn, &mut topics);
        for channel in gone {
            self.hub.leave(channel.as_str(), self.worker);
        }
        self.count_subscriptions(&topics);
        if whole {
            self.conns.borrow_mut().remove(conn.slot as usize);
        }
        whole
    }
}
