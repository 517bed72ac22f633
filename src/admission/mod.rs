//! Admission of a server's clients: how many connect in a time, from anywhere and from one address, and how many
//! connections one address has. All workers share it; only connects ask it, and only where a rate or a bound is set.

mod addresses;
pub mod bucket;
mod saved;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use self::addresses::Addresses;
use self::bucket::Bucket;
use crate::config::Rate;

pub use self::addresses::Beyond;

/// The admission to one server.
pub struct Admission {
    began: Instant,
    /// Of `rate.connects`.
    connects: Mutex<Bucket>,
    addresses: Mutex<Addresses>,
}

impl Default for Admission {
    fn default() -> Admission {
        Admission { began: Instant::now(), connects: Mutex::default(), addresses: Mutex::default() }
    }
}

impl Admission {
    /// Somebody connects. False: there have been as many as that rate lets in. Costs nothing without a rate.
    pub fn connect(&self, rate: Rate) -> bool {
        rate.is_none() || lock(&self.connects).take_one(rate, self.now())
    }

    /// That address connects; of its connections only `most` may be open, 0 = any number. The connection counts as long
    /// as its permit is there; without a bound there is none.
    pub fn enter(self: &Arc<Self>, address: IpAddr, rate: Rate, most: usize) -> Result<Option<AddressPermit>, Beyond> {
        if rate.is_none() && most == 0 {
            return Ok(None);
        }
        let address = network(address);
        lock(&self.addresses).enter(address, rate, most, self.now())?;
        Ok((most > 0).then(|| AddressPermit { admission: self.clone(), address }))
    }

    /// A connection of that address that another process has let in: it counts, even if there are more than may be.
    pub fn arrive(self: &Arc<Self>, address: IpAddr, most: usize) -> Option<AddressPermit> {
        if most == 0 {
            return None;
        }
        let address = network(address);
        lock(&self.addresses).arrive(address, self.now());
        Some(AddressPermit { admission: self.clone(), address })
    }

    /// Nanoseconds since the beginning.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A connection's place among those of its address, freed when dropped.
pub struct AddressPermit {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let now = self.admission.now();
        lock(&self.admission.addresses).leave(self.address, now);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here can panic halfway through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The network that limits for an address apply to: a client that has one IPv6 address usually has all of its /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_connections_and_a_network_of_ipv6_counts_as_one() {
        let admission = Arc::new(Admission::default());
        let enter = |from: &str| admission.enter(ip(from), Rate::NONE, 2);
        let first = enter("2001:db8::1").unwrap();
        let second = enter("2001:db8::2").unwrap();
        assert!(first.is_some() && second.is_some());
        assert_eq!(enter("2001:db8::ffff").err(), Some(Beyond::Connections));
        assert!(enter("2001:db8:0:1::1").is_ok() && enter("::ffff:10.0.0.1").is_ok() && enter("10.0.0.1").is_ok());
        drop(first);
        assert!(enter("2001:db8::3").unwrap().is_some());
        assert!(enter("2001:db8::3").unwrap().is_some(), "permits that are dropped count no more");
    }

    #[test]
    fn without_a_rate_and_a_bound_nothing_is_kept() {
        let admission = Arc::new(Admission::default());
        assert!(admission.connect(Rate::NONE));
        assert!(admission.enter(ip("10.0.0.1"), Rate::NONE, 0).unwrap().is_none());
        assert_eq!(lock(&admission.addresses).known(), 0);
        let rate = Rate { count: 2, per: Duration::from_secs(3600) };
        assert!(admission.connect(rate) && admission.connect(rate) && !admission.connect(rate));
    }
}
