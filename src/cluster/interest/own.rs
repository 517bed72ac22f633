//! The channels that this node has subscribers of, and how far the others know of them.
//!
//! Changes gather until the version before is known to all; then they are told as the next version. So one telling is under
//! way at a time, however many channels come and go. A subscriber waits for the version that tells of its channel
//! ([`Own::told`]): after that, a publish on any node comes here.
//!
//! A channel whose last subscriber has left stays told for a while: many channels get a new subscriber soon.

mod saved;

use foldhash::fast::FixedState;
use futures_util::task::AtomicWaker;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use tokio::sync::oneshot;

/// A channel that has no subscriber any more stays told for so many milliseconds.
pub const LINGER: u64 = 5_000;

/// A version of this node's interest.
pub type Version = u64;

/// A hash in two halves: with its subscribers' count it takes 12 bytes instead of 16.
type Halves = [u32; 2];

fn halves(hash: u64) -> Halves {
    [hash as u32, (hash >> 32) as u32]
}

fn whole([low, high]: Halves) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// This node's interest. Any thread may call it.
#[derive(Default)]
pub struct Own {
    state: Mutex<State>,
    /// Some channel is not known to all.
    some_untold: AtomicBool,
    /// Something is to be told.
    changed: AtomicBool,
    /// Who tells it.
    teller: AtomicWaker,
}

#[derive(Default)]
struct State {
    /// The channels with that hash that have subscribers; 0: the last has left lately.
    channels: HashMap<Halves, u32, FixedState>,
    /// When those that are left are forgotten.
    ends: VecDeque<(u64, u64)>,
    /// What the next version changes: a hash comes (true) or goes.
    changes: HashMap<u64, bool, FixedState>,
    /// The hashes that not all know of, and the version that tells of them.
    untold: HashMap<u64, Version, FixedState>,
    /// The last version that was made.
    made: Version,
    /// Up to this version all is known to all.
    known: Version,
    waiting: Vec<(Version, oneshot::Sender<()>)>,
}

/// The changes that make a version.
#[derive(Debug, PartialEq, Eq)]
pub struct Changes {
    /// The version.
    pub version: Version,
    /// Hashes of channels that have subscribers now.
    pub come: Vec<u64>,
    /// Hashes of channels that have none any more.
    pub gone: Vec<u64>,
}

impl Own {
    /// A channel has its first subscriber on this node.
    pub fn first(&self, hash: u64) {
        let state = &mut *self.lock();
        let made = state.made;
        *state.channels.entry(halves(hash)).or_insert_with(|| {
            state.changes.insert(hash, true);
            state.untold.insert(hash, made + 1);
            self.some_untold.store(true, Relaxed);
            0
        }) += 1;
        if !state.changes.is_empty() && !self.changed.swap(true, Relaxed) {
            self.teller.wake();
        }
    }

    /// Wakes the one who tells others, when there is something to tell.
    pub fn wake_when_changed(&self, waker: &Waker) {
        self.teller.register(waker);
    }

    /// A channel has lost its last subscriber on this node.
    pub fn last(&self, hash: u64, now: u64) {
        let state = &mut *self.lock();
        if let Some(count) = state.channels.get_mut(&halves(hash)) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                state.ends.push_back((now + LINGER, hash));
            }
        }
    }

    /// Waits until all know of a channel. None: they do already.
    pub fn told(&self, hash: u64) -> Option<oneshot::Receiver<()>> {
        if !self.some_untold.load(Relaxed) {
            return None;
        }
        let state = &mut *self.lock();
        let version = *state.untold.get(&hash)?;
        let (known, wait) = oneshot::channel();
        state.waiting.push((version, known));
        Some(wait)
    }

    /// Whether there is something to tell, as it seems without a lock.
    pub fn has_changes(&self) -> bool {
        self.changed.load(Relaxed)
    }

    /// Forgets channels that nobody came back to.
    pub fn forget(&self, now: u64) {
        let state = &mut *self.lock();
        while let Some(&(end, hash)) = state.ends.front() {
            if end > now {
                break;
            }
            state.ends.pop_front();
            if state.channels.get(&halves(hash)) != Some(&0) {
                continue;
            }
            state.channels.remove(&halves(hash));
            // Told even if its coming was not told yet: one who was told all in between knows of it.
            state.changes.insert(hash, false);
        }
        self.changed.store(!state.changes.is_empty(), Relaxed);
        let capacity = state.channels.capacity();
        if capacity > 4096 && state.channels.len() < capacity / 8 {
            state.channels.shrink_to_fit();
        }
    }

    /// Makes the next version, if something has changed. Not before the version before is known to all.
    pub fn next(&self) -> Option<Changes> {
        let state = &mut *self.lock();
        self.changed.store(false, Relaxed);
        if state.changes.is_empty() {
            // What was to be told has ended meanwhile: nobody needs to wait for it.
            let made = state.made;
            for (_, waiter) in state.waiting.extract_if(.., |(waits, _)| *waits > made) {
                let _ = waiter.send(());
            }
            return None;
        }
        state.made += 1;
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        for (hash, comes) in std::mem::take(&mut state.changes) {
            if comes { come.push(hash) } else { gone.push(hash) }
        }
        Some(Changes { version: state.made, come, gone })
    }

    /// All that is to be told to one who knows nothing: the version, which is that of the last changes made, and the
    /// hashes of all channels.
    pub fn all(&self) -> (Version, Vec<u64>) {
        let state = self.lock();
        (state.made, state.channels.keys().copied().map(whole).collect())
    }

    /// All know that version, or are not waited for.
    pub fn is_known(&self, version: Version) {
        let state = &mut *self.lock();
        if version <= state.known {
            return;
        }
        state.known = version;
        state.untold.retain(|_, untold| *untold > version);
        if state.untold.is_empty() {
            state.untold = HashMap::default();
        }
        self.some_untold.store(!state.untold.is_empty(), Relaxed);
        for (_, waiter) in state.waiting.extract_if(.., |(waits, _)| *waits <= version) {
            // A subscriber that has gone meanwhile waits for nothing.
            let _ = waiter.send(());
        }
    }

    /// The last version that was made, and the last that is known to all.
    pub fn versions(&self) -> (Version, Version) {
        let state = self.lock();
        (state.made, state.known)
    }

    /// How many channels others are told of.
    pub fn len(&self) -> usize {
        self.lock().channels.len()
    }

    /// Whether there is no channel.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics unless memory runs out, and the state is whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn a_subscriber_waits_until_its_channel_is_known_and_the_next_one_for_the_same() {
        let own = Own::default();
        own.first(7);
        let mut wait = own.told(7).unwrap();
        let changes = own.next().unwrap();
        assert_eq!(changes, Changes { version: 1, come: vec![7], gone: vec![] });
        own.first(8);
        let mut later = own.told(8).unwrap();
        assert!(own.told(7).is_some(), "it is still on its way");
        assert!(wait.try_recv().is_err());
        own.is_known(1);
        assert_eq!(wait.try_recv(), Ok(()));
        assert!(own.told(7).is_none());
        assert!(later.try_recv().is_err());
        own.next();
        own.is_known(2);
        assert_eq!(later.try_recv(), Ok(()));
    }

    #[test]
    fn a_channel_that_is_left_stays_told_for_a_while() {
        let own = Own::default();
        own.first(7);
        own.next();
        own.is_known(1);
        own.last(7, 100);
        own.forget(100 + LINGER - 1);
        assert!(!own.has_changes());
        own.first(7);
        assert!(own.told(7).is_none(), "it has never been gone");
        own.last(7, 200);
        own.forget(200 + LINGER);
        assert!(own.has_changes());
        assert_eq!(own.next(), Some(Changes { version: 2, come: vec![], gone: vec![7] }));
        own.first(7);
        assert!(own.told(7).is_some());
        assert_eq!(own.next(), Some(Changes { version: 3, come: vec![7], gone: vec![] }));
    }

    proptest! {
        /// One that applies all changes, or begins with all channels and applies what follows, knows what there is.
        #[test]
        fn changes_tell_what_there_is(ops in proptest::collection::vec((0..4u8, 0..6u64), 0..200), from in 0..200usize) {
            let (own, mut counts, mut now) = (Own::default(), [0u32; 6], 0);
            let (mut known, mut late) = (HashSet::new(), None::<HashSet<u64>>);
            for (i, (op, hash)) in ops.into_iter().enumerate() {
                if i == from {
                    late = Some(own.all().1.into_iter().collect());
                }
                match op {
                    0 => {
                        own.first(hash);
                        counts[hash as usize] += 1;
                    }
                    1 if counts[hash as usize] > 0 => {
                        own.last(hash, now);
                        counts[hash as usize] -= 1;
                    }
                    2 => {
                        now += LINGER / 2;
                        own.forget(now);
                    }
                    _ => if let Some(changes) = own.next() {
                        for set in std::iter::once(&mut known).chain(&mut late) {
                            changes.gone.iter().for_each(|hash| { set.remove(hash); });
                            set.extend(&changes.come);
                        }
                        own.is_known(changes.version);
                    }
                }
                for hash in 0..6 {
                    let told = own.told(hash).is_none();
                    prop_assert!(counts[hash as usize] == 0 || !told || known.contains(&hash));
                }
            }
            own.forget(now + 2 * LINGER);
            if let Some(changes) = own.next() {
                for set in std::iter::once(&mut known).chain(&mut late) {
                    changes.gone.iter().for_each(|hash| { set.remove(hash); });
                    set.extend(&changes.come);
                }
            }
            let want: HashSet<u64> = (0..6).filter(|hash| counts[*hash as usize] > 0).collect();
            prop_assert_eq!(&known, &want);
            prop_assert!(late.is_none_or(|late| late == want));
            prop_assert_eq!(own.len(), want.len());
        }
    }
}
