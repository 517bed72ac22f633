//! Whether a client's silence counts. A client that is not read, since much waits for its handler, may have sent bytes.
//! Through its [`super::transport::Transport`] the worker sees that more has come, that the client ends, or that its
//! machine does not answer any more. Nothing here reads from the socket.

use std::time::Duration;

use super::conn::{Conn, Hearing};

/// The most unread bytes that are examined; those beyond are seen when the client is read again.
pub const LOOK: usize = 64 * 1024;

impl Conn {
    /// The client is read from now on: its silence counts.
    pub fn resume_reading(&self, now: u32) {
        if self.hearing.get() == Hearing::Paused {
            self.hearing.set(Hearing::Reading);
            self.last_read.set(now);
            // The client could not go on with a message either.
            if self.unfinished.get() {
                self.begun.set(now);
            }
        }
    }

    /// The client is not read for now. Its silence does not count, unless it sends no more.
    pub fn pause_reading(&self) {
        if self.hearing.get() == Hearing::Reading {
            self.hearing.set(Hearing::Paused);
            self.unread.set(0);
            self.look_due.set(true);
        }
    }

    /// The client sends no more, as far as is known: it is silent from now on.
    pub fn sends_no_more(&self, now: u32) {
        if self.hearing.replace(Hearing::Over) != Hearing::Over {
            self.last_read.set(now);
        }
    }

    /// The clock when bytes last came, where silence counts.
    pub fn silent_since(&self) -> Option<u32> {
        (self.hearing.get() != Hearing::Paused).then(|| self.last_read.get())
    }

    /// Whether the client is not read for now.
    pub fn is_paused(&self) -> bool {
        self.hearing.get() == Hearing::Paused
    }

    /// For a timer, while the client is not read: wakes the connection's task to examine the unread bytes, if there are
    /// more than last time.
    pub fn look_again(&self) {
        let before = self.unread.get();
        if before as usize >= LOOK {
            return;
        }
        let unread = self.transport.unread();
        if unread > before {
            self.unread.set(unread);
            self.look_due.set(true);
            self.wake();
        }
    }

    /// Whether the unread bytes have to be examined; resets the flag.
    pub fn take_look(&self) -> bool {
        self.look_due.take()
    }

    /// Makes the system ask the client's machine for a sign of life whenever it has heard nothing for `idle` (at least
    /// a second), and raises the receive buffer: an end that stands behind more than the system takes can't arrive.
    pub fn attend(&self, idle: Duration) {
        if !self.attended.replace(true) {
            self.transport.make_receive_room();
            self.transport.keep_alive(idle);
        }
    }
}
