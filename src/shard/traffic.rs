//! What one connection has sent and got, and since when it is there: for those who ask.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::handover::Encoder;

/// The counts of one connection: small, since there may be a million of them.
pub struct Traffic {
    /// When it came, in seconds of Unix time.
    since: Cell<u32>,
    read: Cell<u32>,
    sent: Cell<u32>,
}

impl Traffic {
    /// Of a connection that comes now.
    pub(super) fn begin() -> Traffic {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Traffic {
            since: Cell::new(u32::try_from(now).unwrap_or(u32::MAX)),
            read: Cell::default(),
            sent: Cell::default(),
        }
    }

    /// When the connection came, in seconds of Unix time.
    pub fn since(&self) -> u64 {
        self.since.get().into()
    }

    /// Messages that its client has sent; those beyond 2^32 - 1 do not count.
    pub fn read(&self) -> u64 {
        self.read.get().into()
    }

    /// Messages that were put into its outbox; likewise.
    pub fn sent(&self) -> u64 {
        self.sent.get().into()
    }

    /// Writes it for a successor process.
    pub(super) fn save(&self, out: &mut Encoder) {
        [&self.since, &self.read, &self.sent].into_iter().for_each(|figure| out.u32(figure.get()));
    }

    /// Takes up what another process had counted.
    pub(super) fn restore(&self, figures: [u32; 3]) {
        [&self.since, &self.read, &self.sent].into_iter().zip(figures).for_each(|(figure, had)| figure.set(had));
    }

    /// Its client has sent a message.
    pub(super) fn count_read(&self) {
        self.read.set(self.read.get().saturating_add(1));
    }

    /// Its outbox has got so many messages.
    pub(super) fn count_sent(&self, messages: u32) {
        self.sent.set(self.sent.get().saturating_add(messages));
    }
}
