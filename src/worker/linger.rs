//! The time after a connection's end in which its client may still take what it is owed: which clients get it, and for
//! how long.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::ReadBuf;
use tokio::time::{Sleep, sleep};

use super::Worker;
use crate::shard::conn::Conn;
use crate::telemetry::metrics::labels::EndReason;

/// How long a socket may take to end after its connection has: what is owed is written, and the client's end is
/// awaited. It takes longer only while something is owed and the client takes it.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// Ends that get no grace: the client took too little, or sent nothing, for the whole timeout.
const NO_GRACE: [EndReason; 4] =
    [EndReason::TooSlow, EndReason::Memory, EndReason::ReadTimeout, EndReason::MessageTimeout];

/// The longest that a client may go on taking what it is owed.
const LONGEST: Duration = Duration::from_secs(300);

/// A connection that has ended, except for its socket.
pub(super) struct Lingering {
    /// When the worker next checks whether the client still takes something.
    pub(super) timer: Pin<Box<Sleep>>,
    owed: Owed,
}

/// The progress of a client that is owed something. Times are the shard's clock.
struct Owed {
    ended_at: u32,
    taken_at: u32,
    /// The bytes that the system held for the client at the last check.
    queued: u32,
}

impl Lingering {
    /// Begins lingering: the connection has just ended.
    pub(super) fn new(conn: &Conn, now: u32) -> Box<Lingering> {
        let owed = Owed { ended_at: now, taken_at: now, queued: conn.transport.queued() };
        Box::new(Lingering { timer: Box::pin(sleep(LINGER)), owed })
    }
}

impl Owed {
    /// Whether the client still takes what the system holds for it, with no pause longer than `grace`.
    fn is_taken(&mut self, conn: &Conn, now: u32, grace: Duration) -> bool {
        let queued = conn.transport.queued();
        if queued < std::mem::replace(&mut self.queued, queued) {
            self.taken_at = now;
        }
        queued > 1 && within(now, self.taken_at, grace)
    }
}

fn within(now: u32, since: u32, limit: Duration) -> bool {
    u128::from(now.wrapping_sub(since)) < limit.as_millis()
}

impl Worker {
    /// Reads and discards what a client still sends. Ready when the client has ended its socket.
    pub(super) fn poll_drain(&self, conn: &Conn, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut buffer = self.take_read_buffer();
            let mut chunk = ReadBuf::new(&mut buffer);
            let result = conn.transport.poll_read(cx, &mut chunk);
            let ended = chunk.filled().is_empty();
            self.put_read_buffer(buffer);
            match ready!(result) {
                Ok(()) if !ended => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                _ => return Poll::Ready(()),
            }
        }
    }

    /// For a client that was too slow: whether it has taken nothing for the usual timeout, and there is still no room
    /// for its close frame. Then its socket is reset.
    pub(super) fn takes_nothing(&self, conn: &Conn) -> bool {
        let now = self.shard.now();
        let stalled = conn.stalled_since().is_some_and(|since| !within(now, since, LINGER));
        conn.probe_write(self.shard.scratch(), now);
        let nothing = stalled && conn.waiting() > 0;
        if nothing {
            conn.transport.reset();
        }
        nothing
    }

    /// The time to linger is up: returns whether to go on, because the client still takes what it is owed, if slowly. A
    /// stop of the engine does not wait for such clients.
    pub(super) fn outlasts(&self, conn: &Conn, lingering: &mut Lingering) -> bool {
        let ended_by = conn.ended_by();
        let grace = match ended_by.is_some_and(|reason| NO_GRACE.contains(&reason)) {
            true => LINGER,
            false => conn.served.limits.get().write_timeout.max(LINGER),
        };
        let now = self.shard.now();
        let recently = |since| within(now, since, grace);
        let owed = &mut lingering.owed;
        let too_slow = matches!(ended_by, Some(EndReason::TooSlow | EndReason::Memory));
        if too_slow {
            // The client has had its time. There may be room for its close frame meanwhile, even if the kernel has not
            // said so.
            conn.probe_write(self.shard.scratch(), now);
        }
        let taking = || conn.stalled_since().is_some_and(recently) || conn.probe_write(self.shard.scratch(), now);
        let draining = self.stage.borrow().is_draining();
        let takes = match conn.waiting() {
            0 => owed.is_taken(conn, now, grace),
            _ => !too_slow && taking(),
        };
        let outlasts = takes && !draining && within(now, owed.ended_at, LONGEST);
        if !outlasts {
            conn.leave(grace, draining);
        }
        outlasts
    }
}
