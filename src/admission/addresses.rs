//! The addresses that have connected: how often lately, and how many of their connections are open.
//!
//! An address with open connections is kept for as long. The others are kept in two generations, of which the older one
//! goes as a whole when the younger one is full: so what is kept is bounded, no list is searched, and the address that
//! has been silent for longest is forgotten first. An address that is not known counts as one that has been silent. So a
//! flood from very many addresses shuts nobody out here; `rate.connects` is what bounds it.

use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::net::IpAddr;

use super::bucket::Bucket;
use crate::config::Rate;

/// The most addresses of a generation.
const GENERATION: usize = 32_768;

/// What an address has too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beyond {
    /// Connects in a time.
    Rate,
    /// Open connections.
    Connections,
}

/// An address that has open connections.
#[derive(Debug, Clone, Copy, Default)]
struct Present {
    connections: usize,
    bucket: Bucket,
}

type Buckets = HashMap<IpAddr, Bucket, RandomState>;

/// The addresses of one server.
#[derive(Default)]
pub(super) struct Addresses {
    present: HashMap<IpAddr, Present, RandomState>,
    /// Addresses without connections whose buckets are not full.
    young: Buckets,
    old: Buckets,
}

impl Addresses {
    /// An address connects. With a bound (`most` is not 0), it has one connection more until [`Addresses::leave`].
    pub(super) fn enter(&mut self, address: IpAddr, rate: Rate, most: usize, now: u64) -> Result<(), Beyond> {
        let mut present = self.of(address);
        let entered = match present.bucket.take_one(rate, now) {
            false => Err(Beyond::Rate),
            true if most > 0 && present.connections >= most => Err(Beyond::Connections),
            true => Ok(()),
        };
        if entered.is_ok() && most > 0 {
            present.connections += 1;
        }
        self.keep(address, present, now);
        entered
    }

    /// A connection of that address that has been let in by another process: it counts, however many there are.
    pub(super) fn arrive(&mut self, address: IpAddr, now: u64) {
        let mut present = self.of(address);
        present.connections += 1;
        self.keep(address, present, now);
    }

    /// What that address has used, as another process knows.
    pub(super) fn remember(&mut self, address: IpAddr, bucket: Bucket, now: u64) {
        let connections = self.of(address).connections;
        self.keep(address, Present { connections, bucket }, now);
    }

    /// The addresses whose buckets are not full, those that have been silent for longest first.
    pub(super) fn used(&self, now: u64) -> Vec<(IpAddr, Bucket)> {
        let absent = self.old.iter().chain(&self.young).map(|(address, bucket)| (*address, *bucket));
        let present = self.present.iter().map(|(address, present)| (*address, present.bucket));
        absent.chain(present).filter(|(_, bucket)| !bucket.is_full(now)).collect()
    }

    fn of(&self, address: IpAddr) -> Present {
        let known = self.present.get(&address).copied();
        let absent = || self.young.get(&address).or_else(|| self.old.get(&address)).copied();
        known.unwrap_or_else(|| Present { connections: 0, bucket: absent().unwrap_or_default() })
    }

    /// One of its connections has ended.
    pub(super) fn leave(&mut self, address: IpAddr, now: u64) {
        if let Some(mut present) = self.present.get(&address).copied() {
            present.connections = present.connections.saturating_sub(1);
            self.keep(address, present, now);
            let few = self.present.len() < self.present.capacity() / 8;
            if few && self.present.capacity() > 1024 {
                // A crowd has left.
                self.present.shrink_to_fit();
            }
        }
    }

    fn keep(&mut self, address: IpAddr, present: Present, now: u64) {
        if present.connections > 0 {
            self.present.insert(address, present);
            return;
        }
        self.present.remove(&address);
        if present.bucket.is_full(now) {
            return;
        }
        if self.young.len() >= GENERATION && !self.young.contains_key(&address) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(address, present.bucket);
    }

    /// How many addresses it keeps.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.present.len() + self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const HOUR: Rate = Rate { count: 2, per: Duration::from_secs(3600) };

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn a_million_addresses_take_bounded_memory_and_shut_nobody_out() {
        let mut all = Addresses::default();
        for n in 0..1_000_000 {
            assert_eq!(all.enter(v4(n), HOUR, 0, u64::from(n)), Ok(()), "{n}");
        }
        assert!(all.known() <= 2 * GENERATION, "{}", all.known());
        // Those that came last are still known.
        let last = v4(999_999);
        assert_eq!(all.enter(last, HOUR, 0, 1_000_000), Ok(()));
        assert_eq!(all.enter(last, HOUR, 0, 1_000_000), Err(Beyond::Rate));
    }

    #[test]
    fn an_address_with_connections_is_never_forgotten() {
        let mut all = Addresses::default();
        all.enter(v4(1), HOUR, 2, 0).unwrap();
        all.enter(v4(1), HOUR, 2, 0).unwrap();
        for n in 2..100_000 {
            all.enter(v4(n), HOUR, 0, 0).unwrap();
        }
        assert_eq!(all.enter(v4(1), Rate::NONE, 2, 0), Err(Beyond::Connections));
        assert_eq!(all.enter(v4(1), HOUR, 2, 0), Err(Beyond::Rate));
        all.leave(v4(1), 0);
        assert_eq!(all.enter(v4(1), Rate::NONE, 2, 0), Ok(()));
        all.leave(v4(1), 0);
        all.leave(v4(1), 0);
        assert_eq!(all.present.len(), 0);
        assert_eq!(all.enter(v4(1), HOUR, 2, 0), Err(Beyond::Rate), "what it did lately is known");
    }

    #[test]
    fn what_rests_is_forgotten() {
        let mut all = Addresses::default();
        let rate = Rate { count: 1, per: Duration::from_secs(1) };
        all.enter(v4(1), rate, 5, 0).unwrap();
        all.leave(v4(1), 2_000_000_000);
        assert_eq!(all.known(), 0);
    }
}
