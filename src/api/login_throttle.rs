//! The login throttle: a caller that guesses passwords waits for each answer; no other caller does.
//!
//! The answer to wrong credentials is delayed. The number of delayed answers is bounded, for an address and in all, so
//! that waiting connections can't pile up. Beyond that, credentials from that address are not checked, since each check
//! would allow another guess.
//!
//! An attacker who shares an address with a back end must not lock it out. So credentials are still checked on a
//! connection that has sent right ones before. They are also checked on a connection that has not guessed yet, if the
//! address has lately logged in on another connection, or if the configuration names it as a user's host. There,
//! guessers have to connect anew for each guess; anything slower would keep the back end out.

use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::callers::Seat;
use crate::admission::network;
use crate::telemetry::rate_limited::rate_limited;

/// That many wrong logins of an address are answered without delay.
const FREE: u32 = 4;
/// Failed logins are forgotten after that long without another one.
const MEMORY: Duration = Duration::from_secs(60);
/// How long each further answer waits.
const DELAY: Duration = Duration::from_secs(1);
/// The most answers that wait at once, for one address.
const WAITING: u32 = 8;
/// The same for all addresses together.
const WAITING_IN_ALL: u32 = 256;
/// The most addresses that are told apart; all others share one entry.
const ADDRESSES: usize = 4096;
/// How long an address counts as proven after right credentials came from it.
const PROVEN: Duration = Duration::from_secs(3600);

/// The failed logins of the process. Used when a login fails, and once by each connection that logs in.
#[derive(Default)]
pub struct LoginThrottle {
    table: Mutex<Table>,
    /// Answers to some address are delayed: before credentials are checked, the table has to be asked.
    guessed: AtomicBool,
}

#[derive(Default)]
struct Table {
    by_address: HashMap<IpAddr, Entry, RandomState>,
    /// When right credentials last came from an address.
    proven: HashMap<IpAddr, Instant, RandomState>,
    /// The shared entry of addresses that found no place.
    rest: Option<Entry>,
    waiting: u32,
}

impl Table {
    fn has_proven(&self, address: IpAddr, now: Instant) -> bool {
        self.proven.get(&address).is_some_and(|then| now.saturating_duration_since(*then) < PROVEN)
    }
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
pub(super) enum Verdict {
    /// It is given.
    Now,
    /// It is given after [`Waiting::rest`].
    Later(Waiting),
    /// It is given, and the connection ends.
    End,
}

/// A delayed answer. It counts as long as this value lives.
pub(super) struct Waiting {
    logins: Arc<LoginThrottle>,
    place: Option<IpAddr>,
}

impl LoginThrottle {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing below can panic halfway through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether credentials on that connection are checked. `is_known`: whether back ends are expected at that address.
    pub(super) fn may_try(&self, from: IpAddr, seat: &Seat, is_known: impl FnOnce() -> bool) -> bool {
        let guessed = seat.guessed.load(Relaxed);
        if !self.guessed.load(Relaxed) || seat.proven.load(Relaxed) && !guessed {
            return true;
        }
        self.may_try_at(from, guessed, Instant::now()) || !guessed && is_known()
    }

    fn may_try_at(&self, from: IpAddr, guessed: bool, now: Instant) -> bool {
        let mut table = self.table();
        if table.waiting == 0 {
            // Nobody guesses any more, or not that fast.
            self.guessed.store(false, Relaxed);
            return true;
        }
        let address = network(from);
        let full = table.waiting >= WAITING_IN_ALL;
        // Many addresses share this entry, and few of them guess.
        let Some(entry) = table.by_address.get_mut(&address) else { return true };
        let beyond = !entry.is_over(now) && entry.failed >= FREE && (full || entry.waiting >= WAITING);
        if beyond {
            entry.last = now;
        }
        !beyond || table.has_proven(address, now) && !guessed
    }

    /// Whether right credentials have lately come from there.
    pub(super) fn has_proven(&self, from: IpAddr) -> bool {
        self.table().has_proven(network(from), Instant::now())
    }

    /// The first right credentials of a connection came from there.
    pub(super) fn succeeded(&self, from: IpAddr) {
        let (mut table, now) = (self.table(), Instant::now());
        let (address, proven) = (network(from), &mut table.proven);
        if proven.len() >= ADDRESSES && !proven.contains_key(&address) {
            proven.retain(|_, then| now.saturating_duration_since(*then) < PROVEN);
        }
        if proven.len() < ADDRESSES || proven.contains_key(&address) {
            proven.insert(address, now);
        }
    }

    /// A login from there has failed.
    pub(super) fn failed(self: &Arc<Self>, from: IpAddr) -> Verdict {
        self.failed_at(from, Instant::now())
    }

    fn failed_at(self: &Arc<Self>, from: IpAddr, now: Instant) -> Verdict {
        let mut table = self.table();
        let Table { by_address, rest, waiting, .. } = &mut *table;
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
            rate_limited!(WARN, "logins to the API fail", "";
                peer = %from, "logins to the API have failed {} times; answers to this address wait", FREE + 1);
        }
        if entry.waiting >= WAITING || *waiting >= WAITING_IN_ALL {
            return Verdict::End;
        }
        entry.waiting += 1;
        *waiting += 1;
        self.guessed.store(true, Relaxed);
        Verdict::Later(Waiting { logins: self.clone(), place })
    }
}

impl Waiting {
    /// Waits. Run it as a task of its own: a caller that leaves before the answer has guessed all the same.
    pub(super) async fn rest(self) {
        tokio::time::sleep(DELAY).await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut table = self.logins.table();
        let Table { by_address, rest, waiting, .. } = &mut *table;
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
    use std::net::Ipv6Addr;

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn the_fifth_failure_of_an_address_waits_and_a_pause_forgives() {
        let (logins, now) = (Arc::new(LoginThrottle::default()), Instant::now());
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
        let (logins, now) = (Arc::new(LoginThrottle::default()), Instant::now());
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
    fn beyond_those_that_wait_credentials_are_not_looked_at_but_for_who_has_proven_itself() {
        let (logins, now) = (Arc::new(LoginThrottle::default()), Instant::now());
        assert!(logins.may_try_at(v4(1), true, now));
        let mut waiting = Vec::new();
        for _ in 0..FREE + WAITING {
            if let Verdict::Later(one) = logins.failed_at(v4(1), now) {
                waiting.push(one);
            }
        }
        assert!(logins.guessed.load(Relaxed));
        for guessed in [false, true] {
            assert!(!logins.may_try_at(v4(1), guessed, now));
            assert!(logins.may_try_at(v4(2), guessed, now), "another address");
        }
        logins.succeeded(v4(1));
        assert!(logins.may_try_at(v4(1), false, now), "a back end is there");
        assert!(!logins.may_try_at(v4(1), true, now), "a connection that has guessed");
        assert!(!logins.may_try_at(v4(1), false, now + PROVEN * 2));
        waiting.pop();
        assert!(logins.may_try_at(v4(1), true, now), "an answer may wait again");
        waiting.clear();
        assert!(logins.may_try_at(v4(1), true, now) && !logins.guessed.load(Relaxed));
    }

    #[test]
    fn addresses_beyond_the_table_share_a_place_and_an_old_one_makes_room() {
        let (logins, now) = (Arc::new(LoginThrottle::default()), Instant::now());
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
        let (logins, now) = (Arc::new(LoginThrottle::default()), Instant::now());
        let host = |n: u128| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0DB8 << 96) + n));
        for n in 0..u128::from(FREE) {
            assert!(matches!(logins.failed_at(host(n), now), Verdict::Now));
        }
        assert!(matches!(logins.failed_at(host(99), now), Verdict::Later(_)));
        assert!(matches!(logins.failed_at(host(1 << 64), now), Verdict::Now));
    }
}
