//! What clients make the process hold by what they have sent: unfinished messages, and what waits for a handler.

use std::ops::Range;
use std::rc::Rc;

use super::Shard;
use super::conn::Conn;

impl Shard {
    /// A connection holds so many bytes of what its client sent. They are counted where they changed alone.
    pub fn hold(&self, conn: &Conn, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let before = conn.holding.get();
        if before != bytes {
            conn.holding.set(bytes);
            let held = &self.counts.held;
            held.set((held.get() + u64::from(bytes)).saturating_sub(before.into()));
        }
    }

    /// How many slots there are, used or not.
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
    /// The bytes that it holds of what its client sent, and has not been handled.
    pub fn holding(&self) -> usize {
        self.holding.get() as usize
    }

    /// The same and, if the client does not take what is sent, what waits for it.
    pub fn holding_both_ways(&self) -> usize {
        self.holding() + if self.stalled_since().is_some() { self.waiting() } else { 0 }
    }

    /// A message of the client's is unfinished from now on, if none was before.
    pub fn begin_message(&self, now: u32) {
        if self.unfinished.get().is_none() {
            self.unfinished.set(Some(now));
        }
    }

    /// No message of the client's is unfinished.
    pub fn end_message(&self) {
        self.unfinished.set(None);
    }

    /// The clock when the client began the message that it has not finished. None: there is none, or the client is not read,
    /// and can't go on with it.
    pub fn unfinished_since(&self) -> Option<u32> {
        self.unfinished.get().filter(|_| !self.is_paused())
    }
}
