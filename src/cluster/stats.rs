//! The figures of the mesh. Senders and the mesh's thread count; a scrape of the metrics reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What goes one way.
#[derive(Debug, Default)]
pub struct Traffic {
    frames: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Traffic {
    /// A frame of so many messages and bytes.
    pub fn add(&self, messages: usize, bytes: usize) {
        self.frames.fetch_add(1, Relaxed);
        self.messages.fetch_add(messages as u64, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// A message more in a frame that was counted.
    pub fn message(&self) {
        self.messages.fetch_add(1, Relaxed);
    }

    /// Frames, messages and bytes so far.
    pub fn get(&self) -> [u64; 3] {
        [&self.frames, &self.messages, &self.bytes].map(|count| count.load(Relaxed))
    }
}

/// All figures, since the start.
#[derive(Debug, Default)]
pub struct Stats {
    /// To other nodes.
    pub sent: Traffic,
    /// From other nodes.
    pub received: Traffic,
    replies: AtomicU64,
    reply_micros: AtomicU64,
    unanswered: AtomicU64,
    restarts: AtomicU64,
    refused: AtomicU64,
}

impl Stats {
    /// A node has answered after that time.
    pub fn replied(&self, after: Duration) {
        self.replies.fetch_add(1, Relaxed);
        self.reply_micros.fetch_add(u64::try_from(after.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Requests were not answered in time.
    pub fn unanswered(&self, requests: usize) {
        self.unanswered.fetch_add(requests as u64, Relaxed);
    }

    /// Something was lost on the way to a node, which is told all anew.
    pub fn restarted(&self) {
        self.restarts.fetch_add(1, Relaxed);
    }

    /// A link was refused.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Links that were refused.
    pub fn refusals(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Replies that have come, and the seconds that they took together.
    pub fn replies(&self) -> (f64, f64) {
        (self.replies.load(Relaxed) as f64, self.reply_micros.load(Relaxed) as f64 / 1e6)
    }

    /// Requests that were not answered in time, and streams that were begun anew.
    pub fn losses(&self) -> (f64, f64) {
        (self.unanswered.load(Relaxed) as f64, self.restarts.load(Relaxed) as f64)
    }
}
