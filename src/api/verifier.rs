//! Credentials whose password is known by its hash alone. Computing such a hash takes tens of milliseconds and many MiB,
//! on purpose. So it is done on threads of its own, a few at a time, and right credentials are remembered: the next call
//! costs as much as any.
//!
//! What is remembered is a keyed hash of the credentials and of the password's hash, with a key that only this process
//! has. So it tells nothing, and a changed user needs a new computation. Wrong credentials are not remembered.

use foldhash::fast::RandomState;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, watch};
use tokio::task::{spawn_blocking, spawn_local};
use zeroize::Zeroizing;

use crate::admission::network;
use crate::secret::{Secret, password};

/// The most credentials that are remembered.
const REMEMBERED: usize = 1024;
/// The most credentials that are computed, or wait for it; repeats of one count once.
const UNDER_WAY: usize = 64;
/// The same where it is a caller at an address of back ends that asks: guessers elsewhere do not lock it out.
const UNDER_WAY_EXPECTED: usize = 2 * UNDER_WAY;
/// The same for one address.
const UNDER_WAY_OF_ADDRESS: usize = 8;

/// Names credentials without telling them.
pub(super) type Key = [u8; 32];

/// The computations of the process.
pub struct Verifier {
    secret: [u8; 32],
    table: Mutex<Table>,
    places: Semaphore,
}

#[derive(Default)]
struct Table {
    /// Right credentials: two generations, of which the older one is forgotten when the younger one is full.
    young: HashSet<Key, RandomState>,
    old: HashSet<Key, RandomState>,
    under_way: HashMap<Key, UnderWay, RandomState>,
}

struct UnderWay {
    address: IpAddr,
    /// Whether the credentials are right, once it is known.
    result: watch::Receiver<Option<bool>>,
}

impl Default for Verifier {
    fn default() -> Verifier {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Verifier { secret: random(), table: Mutex::default(), places: Semaphore::new((cores / 4).max(1)) }
    }
}

/// 32 bytes that nobody can guess.
fn random() -> [u8; 32] {
    let [one, two] = [0; 2].map(|_: u8| uuid::Uuid::new_v4().into_bytes());
    std::array::from_fn(|i| if i < 16 { one[i] } else { two[i - 16] })
}

impl Verifier {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing below can panic halfway through a change.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the credentials of this header are known by, for a user whose password has that hash.
    pub(super) fn key(&self, hash: &Secret, authorization: &[u8]) -> Key {
        // A key of any length will do: the library's error has no cause here.
        let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.secret);
        let mut mac = mac.unwrap_or_else(|_| Hmac::new(&Default::default()));
        mac.update(&(hash.expose().len() as u64).to_le_bytes());
        mac.update(hash.expose().as_bytes());
        mac.update(authorization);
        mac.finalize().into_bytes().into()
    }

    /// Whether this header is known to have the password with that hash.
    pub(super) fn is_known(&self, hash: &Secret, authorization: &[u8]) -> bool {
        self.knows(&self.key(hash, authorization))
    }

    /// Whether the credentials with that key are known to be right.
    pub(super) fn knows(&self, key: &Key) -> bool {
        let table = self.table();
        table.young.contains(key) || table.old.contains(key)
    }

    /// Whether the password of this header has that hash. None: too many others wait for such an answer; `expected`: back
    /// ends call from that address. The computation goes on if the caller leaves.
    pub(super) async fn verify(
        self: &Arc<Self>,
        hash: &Secret,
        authorization: &[u8],
        password: Zeroizing<Vec<u8>>,
        from: IpAddr,
        expected: bool,
    ) -> Option<bool> {
        let mut result = self.begin(hash, authorization, password, network(from), expected)?;
        let known = result.wait_for(Option::is_some).await.ok()?;
        *known
    }

    fn begin(
        self: &Arc<Self>,
        hash: &Secret,
        authorization: &[u8],
        password: Zeroizing<Vec<u8>>,
        address: IpAddr,
        expected: bool,
    ) -> Option<watch::Receiver<Option<bool>>> {
        let key = self.key(hash, authorization);
        let mut table = self.table();
        if let Some(same) = table.under_way.get(&key) {
            return Some(same.result.clone());
        }
        let of_address = table.under_way.values().filter(|other| other.address == address).count();
        let most = if expected { UNDER_WAY_EXPECTED } else { UNDER_WAY };
        if table.under_way.len() >= most || of_address >= UNDER_WAY_OF_ADDRESS {
            return None;
        }
        let (tell, result) = watch::channel(None);
        table.under_way.insert(key, UnderWay { address, result: result.clone() });
        drop(table);
        let (ends, hash) = (Ends { verifier: self.clone(), key }, hash.clone());
        spawn_local(async move {
            // It is never closed.
            let _place = ends.verifier.places.acquire().await;
            let computed = spawn_blocking(move || password::verify(hash.expose(), &password)).await;
            let right = computed.unwrap_or(false);
            if right {
                ends.verifier.remember(key);
            }
            tell.send_replace(Some(right));
        });
        Some(result)
    }

    fn remember(&self, key: Key) {
        let mut table = self.table();
        if table.young.len() >= REMEMBERED / 2 {
            table.old = std::mem::take(&mut table.young);
        }
        table.young.insert(key);
    }
}

/// Takes a computation out of those under way when it ends, and when its worker does.
struct Ends {
    verifier: Arc<Verifier>,
    key: Key,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.verifier.table().under_way.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::runtime::{Builder, LocalOptions};

    fn local<F: Future>(body: F) -> F::Output {
        Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap().block_on(body)
    }

    fn hash() -> Secret {
        password::tests::quick("sesame").into()
    }

    fn given(text: &str) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(text.as_bytes().to_vec())
    }

    #[test]
    fn right_credentials_are_remembered_for_the_hash_that_they_have_and_wrong_ones_are_not() {
        local(async {
            let (verifier, hash, ip) = (Arc::new(Verifier::default()), hash(), IpAddr::from([10, 0, 0, 1]));
            assert!(!verifier.is_known(&hash, b"right"));
            assert_eq!(verifier.verify(&hash, b"right", given("sesame"), ip, false).await, Some(true));
            assert_eq!(verifier.verify(&hash, b"wrong", given("sesam"), ip, false).await, Some(false));
            assert!(verifier.is_known(&hash, b"right") && !verifier.is_known(&hash, b"wrong"));
            assert!(!verifier.is_known(&"another hash".into(), b"right"));
            assert!(verifier.table().under_way.is_empty());
        });
    }

    #[test]
    fn what_is_under_way_is_bounded_for_an_address_and_in_all_and_repeats_share_it() {
        local(async {
            let (verifier, hash) = (Arc::new(Verifier::default()), hash());
            let begin_as = |expected: bool, n: u8, header: u8| {
                verifier.begin(&hash, &[n, header], given("x"), IpAddr::from([10, 0, 0, n]), expected).is_some()
            };
            let begin = |n: u8, header: u8| begin_as(false, n, header);
            let many = UNDER_WAY_OF_ADDRESS as u8;
            assert_eq!((0..many + 5).filter(|header| begin(1, *header)).count(), UNDER_WAY_OF_ADDRESS);
            assert!(begin(1, 0), "the same once more");
            let others = (2..100).filter(|n| begin(*n, 0)).count();
            assert_eq!(others, UNDER_WAY - UNDER_WAY_OF_ADDRESS);
            assert_eq!(verifier.table().under_way.len(), UNDER_WAY);
            // Where back ends are expected there is room left, as much again.
            assert_eq!((0..many + 5).filter(|header| begin_as(true, 200, *header)).count(), UNDER_WAY_OF_ADDRESS);
            let others = (100..200).filter(|n| begin_as(true, *n, 0)).count();
            assert_eq!(others, UNDER_WAY_EXPECTED - UNDER_WAY - UNDER_WAY_OF_ADDRESS);
            while !verifier.table().under_way.is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            assert!(begin(1, 100));
        });
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let verifier = Verifier::default();
        for n in 0..3 * REMEMBERED as u32 {
            verifier.remember(std::array::from_fn(|i| n.to_le_bytes()[i % 4]));
        }
        let table = verifier.table();
        assert!(table.young.len() + table.old.len() <= REMEMBERED);
    }
}
