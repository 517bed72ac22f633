//! Writing to a connection: its outbox, what happens when that is full, and the end of its socket.

use std::cell::RefCell;
use std::io;
use std::task::{Context as TaskContext, Poll};

use super::super::outbox::{FRAME, Frame, Policy};
use super::{Conn, Pushed};
use crate::message::CloseReason;
use crate::telemetry::metrics::counters::ShardCounts;
use crate::telemetry::metrics::labels::DropCause;

/// From this many waiting bytes on, a push writes at once instead of waiting for the end of the event loop turn: so the
/// bytes that wait show how fast the client is, not how busy the worker.
const WRITE_AT_ONCE: usize = 64 * 1024;

impl Conn {
    /// Puts a frame into the outbox, of a message with that policy; [`super::Shard::push`] is the way to call it.
    pub(in crate::shard) fn push(
        &self,
        frame: Frame,
        policy: &Policy,
        scratch: &RefCell<Vec<u8>>,
        now: u32,
        counts: &ShardCounts,
    ) -> Pushed {
        if self.is_closing() {
            return Pushed::Refused;
        }
        if let Policy::Latest(subject) = policy
            && self.is_behind()
            && self.outbox.borrow_mut().replace(&frame, subject)
        {
            self.count_dropped(DropCause::Latest, 1, counts);
            // It may be larger.
            self.make_room(0, counts);
            return Pushed::Taken;
        }
        if !self.fits(&frame)
            && let Some(refused) = self.find_room(&frame, policy, scratch, now, counts)
        {
            return refused;
        }
        let mut outbox = self.outbox.borrow_mut();
        outbox.push_as(frame, policy);
        let full = outbox.weight() >= WRITE_AT_ONCE;
        drop(outbox);
        if full && !self.blocked.get() {
            self.flush(scratch, now);
        }
        Pushed::Taken
    }

    /// Whether there is room for a frame. One that is larger than the limit still gets in when nothing else waits.
    fn fits(&self, frame: &Frame) -> bool {
        self.waiting() == 0 || self.has_room_for(frame)
    }

    /// Whether what waits stays within the limit with that frame.
    pub(in crate::shard) fn has_room_for(&self, frame: &Frame) -> bool {
        self.waiting() + frame.len() + FRAME <= self.served.limits.get().outbox_limit
    }

    /// Looks for room in a full outbox. Returns what becomes of the frame, if there is none.
    #[cold]
    fn find_room(
        &self,
        frame: &Frame,
        policy: &Policy,
        scratch: &RefCell<Vec<u8>>,
        now: u32,
        counts: &ShardCounts,
    ) -> Option<Pushed> {
        if !self.blocked.get() {
            // What waits may be there only because the event loop turn has not ended.
            self.flush(scratch, now);
        }
        if !self.fits(frame) {
            self.make_room(frame.len() + FRAME, counts);
        }
        if !self.fits(frame) {
            if !matches!(policy, Policy::Keep) {
                return Some(Pushed::LeftOut);
            }
            self.close(CloseReason::TooSlow);
        }
        self.is_closing().then_some(Pushed::Refused)
    }

    /// Drops messages that may be dropped, the oldest first, until so many bytes more may wait.
    fn make_room(&self, more: usize, counts: &ShardCounts) {
        let excess = (self.waiting() + more).saturating_sub(self.served.limits.get().outbox_limit);
        if excess > 0 {
            let dropped = self.outbox.borrow_mut().drop_oldest(excess);
            self.count_dropped(DropCause::Oldest, dropped, counts);
        }
    }

    /// Counts messages that waited for the client and were dropped.
    fn count_dropped(&self, cause: DropCause, many: u64, counts: &ShardCounts) {
        self.framing.counts(counts).dropped.add(cause, many);
    }

    /// Puts a frame of the protocol itself (pong, close) into the outbox, past the bound and past `close`.
    pub fn push_control(&self, frame: Frame) {
        self.outbox.borrow_mut().push(frame);
    }

    /// Drops what waits, except the rest of a frame that is partly written.
    pub fn discard_waiting(&self) {
        self.outbox.borrow_mut().clear_whole_frames();
    }

    /// What waits for the client: bytes, and [`FRAME`] for each frame. It is what `outboxLimit` bounds.
    pub fn waiting(&self) -> usize {
        self.outbox.borrow().weight() + self.transport.owes()
    }

    /// Writes what waits, as far as the socket takes it. When it does not take all, the connection's task is woken to
    /// wait for room.
    pub fn flush(&self, scratch: &RefCell<Vec<u8>>, now: u32) {
        let mut outbox = self.outbox.borrow_mut();
        let mut scratch = scratch.borrow_mut();
        while !outbox.is_empty() || self.transport.owes() > 0 {
            match self.transport.try_write(outbox.next_write(&mut scratch)) {
                // After a short write, asking again is what makes the runtime wait for room.
                Ok(written) => {
                    outbox.advance(written);
                    outbox.set_taken(now);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !self.blocked.replace(true) {
                        outbox.set_taken(now);
                        self.wake();
                    }
                    return;
                }
                Err(e) => {
                    drop(outbox);
                    // A broken pipe means that the client ended its socket in order: reading reports it.
                    let told = e.kind() == io::ErrorKind::BrokenPipe;
                    self.lose((!told).then(|| CloseReason::Lost(e.to_string().into())));
                    return;
                }
            }
        }
        self.blocked.set(false);
    }

    /// Goes on writing while the socket has room. Ready when nothing waits, or nothing can be written any more. Not to
    /// be called while the connection is corked.
    pub fn poll_flush(&self, cx: &mut TaskContext<'_>, scratch: &RefCell<Vec<u8>>, now: u32) -> Poll<()> {
        loop {
            if self.outbox.borrow().is_empty() && self.transport.owes() == 0 {
                self.blocked.set(false);
                return Poll::Ready(());
            }
            match self.transport.poll_write_ready(cx) {
                Poll::Pending => {
                    self.blocked.set(true);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) => self.flush(scratch, now),
                Poll::Ready(Err(e)) => {
                    self.forget_waiting();
                    self.close(CloseReason::Lost(e.to_string().into()));
                }
            }
        }
    }

    /// Tries to write to a socket that is full, although the system has not said that there is room; true if the client
    /// has taken something since.
    pub fn probe_write(&self, scratch: &RefCell<Vec<u8>>, now: u32) -> bool {
        let mut outbox = self.outbox.borrow_mut();
        let sent = self.transport.probe_write(outbox.next_write(&mut scratch.borrow_mut()));
        let Some(written) = sent else { return false };
        outbox.advance(written);
        outbox.set_taken(now);
        // The last of it may be written.
        self.wake();
        true
    }

    /// Whether the client does not take what is sent, though it could.
    fn is_behind(&self) -> bool {
        self.blocked.get() && !self.corked.get()
    }

    /// Whether the client's socket is full.
    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// The clock when the client last took something, while it does not take what waits.
    pub fn stalled_since(&self) -> Option<u32> {
        self.is_behind().then(|| self.outbox.borrow().taken())
    }

    /// Whether it is in its handshake.
    pub fn is_corked(&self) -> bool {
        self.corked.get()
    }

    /// Uncorks the connection: `head` goes before everything that waits.
    pub(in crate::shard) fn uncork(&self, head: Option<Frame>) {
        if let Some(head) = head {
            self.outbox.borrow_mut().push_front(head);
        }
        self.corked.set(false);
        self.blocked.set(false);
    }

    /// Leaves the socket's end to the kernel. The socket is reset if the client has not taken everything that it was
    /// owed: the kernel would hold that for a long time. At a stop (`hurry`) there has been no time for the client to
    /// take it, so the kernel goes on, as long as the client takes something within `patience`.
    pub fn leave(&self, patience: std::time::Duration, hurry: bool) {
        if self.waiting() > 0 || (!hurry && self.transport.has_queued()) {
            self.transport.reset();
        } else {
            self.transport.give_up_after(patience);
        }
    }
}
