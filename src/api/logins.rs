//! Failed logins. Whoever guesses passwords waits for each answer; nobody else does.
//!
//! Only the answer to wrong credentials waits, and right ones are never asked about here: so an attacker who shares an
//! address with a back end cannot lock it out. What waits is bounded, for an address and in all; beyond that the answer
//! comes at once and its connection ends, so that waiting connections can't be piled up.

use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// As many wrong logins of an address are answered at once.
const FREE: u32 = 4;
/// After so long without another one, they are forgotten.
const MEMORY: Duration = Duration::from_secs(60);
/// How long each further answer waits.
const DELAY: Duration = Duration::from_secs(1);
/// The most answers that wait at once, for one address.
const WAITING: u32 = 8;
/// The same for all addresses together.
const WAITING_IN_ALL: u32 = 256;
/// The most addresses that are told apart; those beyond them share a place.
const ADDRESSES: usize = 4096;

/// The failed logins of the process. Touched only when one fails.
#[derive(Default)]
pub struct Logins(Mutex<Table>);

#[derive(Default)]
struct Table {
    by_address: HashMap<IpAddr, Entry, RandomState>,
    /// For the addresses that found no place.
    rest: Option<Entry>,
    waiting: u32,
}

struct Entry {
    failed: u32,
    last: Instant,
    waiting: u32,
}

impl Entry {
    fn is_over(&self, now: Instant) -> bool {
        self.waiting == 0 && now.saturating_duration_since(self.last) >= MEMORY
    }
}

/// What becomes of the answer to a failed login.
pub(super) enum Verdict<'a> {
    /// It is given.
    Now,
    /// It is given after [`Waiting::rest`].
    Later(Waiting<'a>),
    /// It is given, and the connection ends.
    End,
}

/// An answer that waits. It counts as long as this lives.
pub(super) struct Waiting<'a> {
    logins: &'a Logins,
    place: Option<IpAddr>,
}

impl Logins {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing below can panic halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A login from there has failed.
    pub(super) fn failed(&self, from: IpAddr) -> Verdict<'_> {
        self.failed_at(from, Instant::now())
    }

    fn failed_at(&self, from: IpAddr, now: Instant) -> Verdict<'_> {
        let mut table = self.table();
        let Table { by_address, rest, waiting } = &mut *table;
        let address = network(from);
        if by_address.len() >= ADDRESSES && !by_address.contains_key(&address) {
            by_address.retain(|_, entry| !entry.is_over(now));
        }
        let fresh = || Entry { failed: 0, last: now, waiting: 0 };
        let (entry, place) = if by_address.len() < ADDRESSES || by_address.contains_key(&address) {
            (by_address.entry(address).or_insert_with(fresh), Some(address))
        } else {
            (rest.get_or_insert_with(fresh), None)
        };
        if entry.is_over(now) {
            entry.failed = 0;
        }
        entry.failed = entry.failed.saturating_add(1);
        entry.last = now;
        if entry.failed <= FREE {
            return Verdict::Now;
        }
        if entry.failed == FREE + 1 {
            tracing::warn!(peer = %from, "logins to the API have failed {} times; answers to this address wait", FREE + 1);
        }
        if entry.waiting >= WAITING || *waiting >= WAITING_IN_ALL {
            return Verdict::End;
        }
        entry.waiting += 1;
        *waiting += 1;
        Verdict::Later(Waiting { logins: self, place })
    }
}

/// Whoever has one IPv6 address usually has all of its /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

impl Waiting<'_> {
    /// Lets the time pass.
    pub(super) async fn rest(self) {
        tokio::time::sleep(DELAY).await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut table = self.logins.table();
        let Table { by_address, rest, waiting } = &mut *table;
        let entry = match &self.place {
            Some(address) => by_address.get_mut(address),
            None => rest.as_mut(),
        };
        if let Some(entry) = entry {
            entry.waiting -= 1;
        }
        *waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn the_fifth_failure_of_an_address_waits_and_a_pause_forgives() {
        let (logins, now) = (Logins::default(), Instant::now());
        for i in 0..4 {
            assert!(matches!(logins.failed_at(v4(7), now), Verdict::Now), "{i}");
        }
        assert!(matches!(logins.failed_at(v4(7), now), Verdict::Later(_)));
        assert!(matches!(logins.failed_at(v4(8), now), Verdict::Now), "another address");
        assert!(matches!(logins.failed_at(v4(7), now + MEMORY / 2), Verdict::Later(_)));
        assert!(matches!(logins.failed_at(v4(7), now + MEMORY * 2), Verdict::Now));
    }

    #[test]
    fn no_more_answers_wait_than_may() {
        let (logins, now) = (Logins::default(), Instant::now());
        let mut waiting = Vec::new();
        for address in 0..100 {
            for _ in 0..FREE {
                assert!(matches!(logins.failed_at(v4(address), now), Verdict::Now));
            }
            let mut here = 0;
            while let Verdict::Later(one) = logins.failed_at(v4(address), now) {
                waiting.push(one);
                here += 1;
            }
            assert_eq!(here, if address < 32 { 8 } else { 0 }, "{address}");
        }
        waiting.truncate(8);
        assert!(matches!(logins.failed_at(v4(50), now), Verdict::Later(_)), "there is room again");
        waiting.clear();
        assert_eq!(logins.table().waiting, 0);
    }

    #[test]
    fn addresses_beyond_the_table_share_a_place_and_an_old_one_makes_room() {
        let (logins, now) = (Logins::default(), Instant::now());
        for address in 0..ADDRESSES as u32 {
            assert!(matches!(logins.failed_at(v4(address), now), Verdict::Now));
        }
        let stranger = |n: u32| v4(0x0A00_0000 + n);
        for n in 0..FREE {
            assert!(matches!(logins.failed_at(stranger(n), now), Verdict::Now));
        }
        assert!(matches!(logins.failed_at(stranger(FREE), now), Verdict::Later(_)));
        assert!(matches!(logins.failed_at(v4(1), now), Verdict::Now), "one that is known keeps its own");
        assert_eq!(logins.table().by_address.len(), ADDRESSES);
        let later = now + MEMORY * 2;
        assert!(matches!(logins.failed_at(stranger(9), later), Verdict::Now));
        assert_eq!(logins.table().by_address.len(), 1);
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let (logins, now) = (Logins::default(), Instant::now());
        let host = |n: u128| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0DB8 << 96) + n));
        for n in 0..u128::from(FREE) {
            assert!(matches!(logins.failed_at(host(n), now), Verdict::Now));
        }
        assert!(matches!(logins.failed_at(host(99), now), Verdict::Later(_)));
        assert!(matches!(logins.failed_at(host(1 << 64), now), Verdict::Now));
    }
}
