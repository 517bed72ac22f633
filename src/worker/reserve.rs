//! Descriptors that clients do not get: else silent connections to a public port would use all of the process's, and shut
//! the APIs, the log and scripts' requests.
//!
//! The system gives a new descriptor the lowest free number. So no count is kept: a client whose socket has a number from
//! the reserve on is refused, and those numbers are for all others.

use std::os::fd::{AsRawFd, RawFd};

/// The share of the descriptors that is kept back: one in so many, up to [`MOST`].
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
    /// That of a process which may have `limit` files open.
    pub fn of(limit: u64) -> Reserve {
        let kept = (limit / SHARE).min(MOST);
        Reserve { clients_below: RawFd::try_from(limit - kept).unwrap_or(RawFd::MAX), kept: kept as usize }
    }

    /// Connections that each API port may have: both together leave a quarter of the reserve to others.
    pub fn for_a_port(&self) -> usize {
        self.kept * 3 / 8
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
