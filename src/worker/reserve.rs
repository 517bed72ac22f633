//! File descriptors that clients do not get. Otherwise silent connections to a public port would use up all of the
//! process's descriptors and block the APIs, the log and scripts' requests.
//!
//! The system gives a new descriptor the lowest free number, so no count is kept: a client is refused if its socket's
//! number lies in the reserve.

use std::os::fd::{AsRawFd, RawFd};

/// One in this many descriptors is kept back, up to [`MOST`].
const SHARE: u64 = 8;
/// The most that are kept back.
const MOST: u64 = 16_384;

/// Which descriptors clients may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserve {
    clients_below: RawFd,
    kept: usize,
}

impl Reserve {
    /// The reserve of a process that may have `limit` files open.
    pub fn of(limit: u64) -> Reserve {
        let kept = (limit / SHARE).min(MOST);
        Reserve { clients_below: RawFd::try_from(limit - kept).unwrap_or(RawFd::MAX), kept: kept as usize }
    }

    /// The connections that each API port may have: both ports together leave a quarter of the reserve to others.
    pub fn for_a_port(&self) -> usize {
        self.kept * 3 / 8
    }

    /// The number that connections of scripts' requests must be below: most of the reserve is not for them, so that the
    /// APIs and their probes are reached though a back end hangs.
    pub fn scripts_below(&self) -> RawFd {
        self.clients_below.saturating_add(RawFd::try_from(self.kept / 8).unwrap_or(0))
    }

    /// How many are kept back.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// Whether a client may have that socket.
    pub(super) fn has_room_for(&self, socket: &impl AsRawFd) -> bool {
        socket.as_raw_fd() < self.clients_below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_eighth_is_kept_back_and_most_of_it_is_for_the_apis() {
        let of = |limit| {
            let reserve = Reserve::of(limit);
            (reserve.clients_below, reserve.kept(), reserve.for_a_port())
        };
        assert_eq!(of(256), (224, 32, 12));
        assert_eq!(of(1024), (896, 128, 48));
        assert_eq!(of(1 << 20), ((1 << 20) - 16_384, 16_384, 6144));
        assert_eq!(of(u64::MAX), (RawFd::MAX, 16_384, 6144));
    }
}
