//! The memory that clients occupy by what they have sent: unfinished messages, and messages that wait for a handler.

use std::ops::Range;
use std::rc::Rc;

use super::Shard;
use super::conn::Conn;

impl Shard {
    /// Records how many bytes a connection holds of what its client sent.
    pub fn hold(&self, conn: &Conn, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let before = conn.holding.get();
        if before != bytes {
            conn.holding.set(bytes);
            let held = &self.counts.held;
            held.set((held.get() + u64::from(bytes)).saturating_sub(before.into()));
        }
    }

    /// The number of slots, used or not.
    pub fn slots(&self) -> usize {
        self.conns.borrow().capacity()
    }

    /// Calls `visit` with each connection in these slots. It may close connections, but not insert or remove any.
    pub fn each_in(&self, slots: Range<usize>, mut visit: impl FnMut(&Rc<Conn>)) {
        let conns = self.conns.borrow();
        slots.filter_map(|slot| conns.get(slot)).for_each(&mut visit);
    }
}

impl Conn {
    /// The bytes that it holds of unhandled data from its client.
    pub fn holding(&self) -> usize {
        self.holding.get() as usize
    }

    /// The same plus what waits for the client, if it does not take what is sent.
    pub fn holding_both_ways(&self) -> usize {
        self.holding() + if self.stalled_since().is_some() { self.waiting() } else { 0 }
    }

    /// The client has begun a message, unless one was unfinished already.
    pub fn begin_message(&self, now: u32) {
        if !self.unfinished.replace(true) {
            self.begun.set(now);
        }
    }

    /// The client has no unfinished message any more.
    pub fn end_message(&self) {
        self.unfinished.set(false);
    }

    /// The clock when the client began its unfinished message. None: there is none, or the client is not read and so
    /// can't go on with it.
    pub fn unfinished_since(&self) -> Option<u32> {
        (self.unfinished.get() && !self.is_paused()).then(|| self.begun.get())
    }
}
