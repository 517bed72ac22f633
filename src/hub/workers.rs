//! A set of workers.

use smallvec::SmallVec;

use crate::ids::WorkerId;

/// A set of workers: one bit each, in place for up to 128 of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct WorkerSet(SmallVec<[u64; 2]>);

impl Clone for WorkerSet {
    fn clone(&self) -> WorkerSet {
        // A copy of its words. What is derived would push them one by one, for each publish.
        WorkerSet(SmallVec::from_slice(&self.0))
    }
}

impl WorkerSet {
    /// Adds a worker.
    pub fn add(&mut self, worker: WorkerId) {
        let (word, bit) = place(worker);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= bit;
    }

    /// Removes a worker.
    pub fn remove(&mut self, worker: WorkerId) {
        let (word, bit) = place(worker);
        if let Some(bits) = self.0.get_mut(word) {
            *bits &= !bit;
        }
    }

    /// Whether a worker is in the set.
    pub fn contains(&self, worker: WorkerId) -> bool {
        let (word, bit) = place(worker);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// The lowest worker in the set.
    pub fn first(&self) -> Option<WorkerId> {
        self.iter().next()
    }

    /// The workers in the set, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = WorkerId> {
        self.0.iter().enumerate().flat_map(|(i, &word)| {
            let some = |rest: u64| (rest != 0).then_some(rest);
            std::iter::successors(some(word), move |&rest| some(rest & (rest - 1)))
                .map(move |rest| WorkerId(i as u16 * 64 + rest.trailing_zeros() as u16))
        })
    }
}

/// The word and the bit of a worker.
fn place(worker: WorkerId) -> (usize, u64) {
    (usize::from(worker.0 / 64), 1 << (worker.0 % 64))
}
