//! The table that all scripts of a process share (`mix.shared`): plain values by key, some of them for a while only. Any
//! thread may call it. It knows no VM and waits for nothing: one lock, held for one operation, so each is atomic.
//!
//! What it holds is bounded in bytes. Nothing is thrown out to make room: a full table refuses, and tells why. A value
//! whose time is over is not seen any more, and is removed by later calls.

mod saved;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::value::Value;

/// The longest key, in bytes.
pub const MAX_KEY: usize = 1024;
/// The most keys that [`Shared::keys`] lists.
pub const MAX_LISTED: usize = 10_000;
/// What an entry counts for besides its key and its value.
const OVERHEAD: usize = 160;
/// Values whose time is over that one call removes, unless it needs the room.
const REMOVED_AT_ONCE: usize = 16;

/// Why a call could not be carried out.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum SharedError {
    /// It would take more bytes than it may.
    #[error("mix.shared is full: it would hold {wanted} bytes, and may hold {limit} (engine.luavm.sharedLimit)")]
    Full {
        /// What it would hold.
        wanted: usize,
        /// What it may hold.
        limit: usize,
    },
    /// What is there can't be counted up.
    #[error("what is there is not a number")]
    NotANumber,
    /// The sum is infinite, or none.
    #[error("the sum is no finite number")]
    NotFinite,
    /// More keys than are listed at once.
    #[error("more than {MAX_LISTED} keys begin so")]
    TooManyKeys,
}

/// A process's table.
pub struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Arc<[u8]>, Entry>,
    /// The keys of those that end, by when they do and by a number of their own.
    ends: BTreeMap<(Instant, u64), Arc<[u8]>>,
    /// The last of these numbers.
    last: u64,
    bytes: usize,
    limit: usize,
}

struct Entry {
    value: Arc<Value>,
    weight: usize,
    /// When it ends, and its number in `ends`.
    end: Option<(Instant, u64)>,
}

impl Shared {
    /// An empty table of at most that many bytes.
    pub fn new(limit: usize) -> Shared {
        Shared { state: Mutex::new(State { limit, ..State::default() }) }
    }

    /// Sets how many bytes it may hold. What is there stays.
    pub fn bound(&self, limit: usize) {
        self.lock().limit = limit;
    }

    /// The bytes it holds, and the number of its keys.
    pub fn holds(&self) -> (usize, usize) {
        let state = self.lock();
        (state.bytes, state.entries.len())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A value.
    pub fn get(&self, key: &[u8], now: Instant) -> Option<Arc<Value>> {
        self.lock().get(key, now).map(|entry| entry.value.clone())
    }

    /// Sets a value, for `ttl` or for good; [`Value::Nil`] removes.
    pub fn set(&self, key: &[u8], value: Value, ttl: Option<Duration>, now: Instant) -> Result<(), SharedError> {
        self.lock().set(key, value, ttl.and_then(|ttl| now.checked_add(ttl)), now)
    }

    /// Sets a value where there is none. False: there is one.
    pub fn add(&self, key: &[u8], value: Value, ttl: Option<Duration>, now: Instant) -> Result<bool, SharedError> {
        let mut state = self.lock();
        if state.get(key, now).is_some() {
            return Ok(false);
        }
        state.set(key, value, ttl.and_then(|ttl| now.checked_add(ttl)), now).map(|()| true)
    }

    /// Adds to a number and returns the sum. A key that is not there begins with `init`, and ends after `ttl`; one that is
    /// there keeps its end.
    pub fn incr(
        &self,
        key: &[u8],
        by: f64,
        init: f64,
        ttl: Option<Duration>,
        now: Instant,
    ) -> Result<f64, SharedError> {
        let mut state = self.lock();
        let (before, end) = match state.get(key, now) {
            None => (init, ttl.and_then(|ttl| now.checked_add(ttl))),
            Some(entry) => match *entry.value {
                Value::Number(n) => (n, entry.end.map(|(at, _)| at)),
                _ => return Err(SharedError::NotANumber),
            },
        };
        let sum = before + by;
        if !sum.is_finite() {
            return Err(SharedError::NotFinite);
        }
        state.set(key, Value::Number(sum), end, now).map(|()| sum)
    }

    /// Sets a value if the one that is there equals `old`; [`Value::Nil`] stands for none, on both sides. False: it does not.
    /// Tables are equal where all that they hold is.
    pub fn cas(
        &self,
        key: &[u8],
        old: Value,
        new: Value,
        ttl: Option<Duration>,
        now: Instant,
    ) -> Result<bool, SharedError> {
        let mut state = self.lock();
        let is = state.get(key, now).map_or(old == Value::Nil, |entry| equal(&entry.value, &old));
        if !is {
            return Ok(false);
        }
        state.set(key, new, ttl.and_then(|ttl| now.checked_add(ttl)), now).map(|()| true)
    }

    /// Removes a value. False: there was none.
    pub fn delete(&self, key: &[u8], now: Instant) -> bool {
        let mut state = self.lock();
        let was_there = state.get(key, now).is_some();
        state.remove(key);
        was_there
    }

    /// The keys that begin with `prefix`, in the order of their bytes.
    pub fn keys(&self, prefix: &[u8], now: Instant) -> Result<Vec<Arc<[u8]>>, SharedError> {
        let state = self.lock();
        let from = state.entries.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        let own = from.take_while(|(key, _)| key.starts_with(prefix)).filter(|(_, entry)| entry.lives(now));
        let keys: Vec<Arc<[u8]>> = own.take(MAX_LISTED + 1).map(|(key, _)| key.clone()).collect();
        if keys.len() > MAX_LISTED { Err(SharedError::TooManyKeys) } else { Ok(keys) }
    }
}

impl Entry {
    fn lives(&self, now: Instant) -> bool {
        self.end.is_none_or(|(at, _)| now < at)
    }
}

impl State {
    fn get(&self, key: &[u8], now: Instant) -> Option<&Entry> {
        self.entries.get(key).filter(|entry| entry.lives(now))
    }

    fn set(&mut self, key: &[u8], value: Value, end: Option<Instant>, now: Instant) -> Result<(), SharedError> {
        self.remove_ended(now, REMOVED_AT_ONCE);
        if value == Value::Nil {
            self.remove(key);
            return Ok(());
        }
        let weight = OVERHEAD + key.len() + value.weight();
        let wanted = |state: &State| {
            let freed = state.entries.get(key).map_or(0, |entry| entry.weight);
            state.bytes - freed + weight
        };
        if wanted(self) > self.limit {
            self.remove_ended(now, usize::MAX);
        }
        let bytes = wanted(self);
        if bytes > self.limit {
            return Err(SharedError::Full { wanted: bytes, limit: self.limit });
        }
        self.remove(key);
        let key: Arc<[u8]> = key.into();
        let end = end.map(|at| {
            self.last += 1;
            self.ends.insert((at, self.last), key.clone());
            (at, self.last)
        });
        self.bytes = bytes;
        self.entries.insert(key, Entry { value: Arc::new(value), weight, end });
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.weight;
            if let Some(end) = entry.end {
                self.ends.remove(&end);
            }
        }
    }

    /// Removes values whose time is over, the oldest first.
    fn remove_ended(&mut self, now: Instant, most: usize) {
        for _ in 0..most {
            match self.ends.first_key_value() {
                Some(((at, _), key)) if *at <= now => {
                    let key = key.clone();
                    self.remove(&key);
                }
                _ => return,
            }
        }
    }
}

/// Whether two values are equal: tables are where all that they hold is.
fn equal(a: &Value, b: &Value) -> bool {
    let identified = |value: &Value| {
        let mut bytes = Vec::new();
        value.identify(&mut bytes);
        bytes
    };
    match (a, b) {
        (Value::Table(_) | Value::Array(_), Value::Table(_) | Value::Array(_)) => identified(a) == identified(b),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(n: f64) -> Value {
        Value::Number(n)
    }

    fn pairs(of: &[(&str, f64)]) -> Value {
        Value::Table(of.iter().map(|(key, n)| (Value::str(key), number(*n))).collect())
    }

    #[test]
    fn values_are_set_changed_and_removed() {
        let (shared, now) = (Shared::new(1 << 20), Instant::now());
        assert_eq!(shared.get(b"a", now), None);
        shared.set(b"a", number(1.0), None, now).unwrap();
        assert_eq!(shared.add(b"a", number(2.0), None, now), Ok(false));
        assert_eq!(shared.get(b"a", now).as_deref(), Some(&number(1.0)));
        assert_eq!(shared.add(b"b", Value::str("x"), None, now), Ok(true));
        assert_eq!(shared.incr(b"a", 2.5, 100.0, None, now), Ok(3.5));
        assert_eq!(shared.incr(b"c", 1.0, 100.0, None, now), Ok(101.0));
        assert_eq!(shared.incr(b"b", 1.0, 0.0, None, now), Err(SharedError::NotANumber));
        assert_eq!(shared.incr(b"a", f64::INFINITY, 0.0, None, now), Err(SharedError::NotFinite));
        assert!(shared.delete(b"b", now) && !shared.delete(b"b", now));
        shared.set(b"a", Value::Nil, None, now).unwrap();
        shared.set(b"c", Value::Nil, None, now).unwrap();
        assert_eq!(shared.holds(), (0, 0));
    }

    #[test]
    fn a_value_is_swapped_for_its_equal_alone() {
        let (shared, now) = (Shared::new(1 << 20), Instant::now());
        let cas = |old, new| shared.cas(b"k", old, new, None, now).unwrap();
        assert!(!cas(number(1.0), number(2.0)), "there is none");
        assert!(cas(Value::Nil, number(1.0)));
        assert!(!cas(Value::Nil, number(2.0)));
        assert!(cas(number(1.0), pairs(&[("a", 1.0), ("b", 2.0)])));
        assert!(!cas(pairs(&[("b", 2.0)]), Value::Nil));
        assert!(cas(pairs(&[("b", 2.0), ("a", 1.0)]), Value::Array(Box::default())), "in whichever order");
        assert!(cas(Value::Table(Box::default()), Value::Nil));
        assert_eq!(shared.holds(), (0, 0));
    }

    #[test]
    fn values_end_and_make_room() {
        let (shared, now) = (Shared::new(4 * (OVERHEAD + 64)), Instant::now());
        let second = Duration::from_secs(1);
        for key in [b"a", b"b", b"c"] {
            shared.set(key, number(1.0), Some(second), now).unwrap();
        }
        assert_eq!(shared.incr(b"a", 1.0, 0.0, Some(second * 9), now), Ok(2.0));
        assert_eq!(shared.keys(b"", now).unwrap().len(), 3);
        let later = now + second;
        assert_eq!((shared.get(b"a", later), shared.keys(b"", later).unwrap().len()), (None, 0), "it keeps its end");
        let large = || Value::str(vec![0; 3 * OVERHEAD]);
        let Err(SharedError::Full { wanted, limit }) = shared.set(b"d", large(), None, now) else { panic!("no room") };
        assert!(wanted > limit);
        assert_eq!(shared.holds().1, 3);
        shared.set(b"d", large(), None, later).unwrap();
        assert_eq!(shared.holds().1, 1);
        shared.bound(0);
        assert!(shared.get(b"d", later).is_some());
        assert!(shared.set(b"d", number(1.0), None, later).is_err());
    }

    #[test]
    fn keys_are_listed_by_their_beginning() {
        let (shared, now) = (Shared::new(1 << 30), Instant::now());
        for key in ["room:2", "room:1", "rooms", "a", "room:"] {
            shared.set(key.as_bytes(), Value::Bool(true), None, now).unwrap();
        }
        let keys = shared.keys(b"room:", now).unwrap();
        assert_eq!(keys, [&b"room:"[..], b"room:1", b"room:2"].map(Arc::from));
        for i in 0..=MAX_LISTED {
            shared.set(format!("x{i}").as_bytes(), Value::Bool(true), None, now).unwrap();
        }
        assert_eq!(shared.keys(b"x", now), Err(SharedError::TooManyKeys));
        assert_eq!(shared.keys(b"x1", now).unwrap().len(), 1112);
    }
}
