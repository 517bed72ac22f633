//! Counters that one thread writes and any thread reads, without locks, atomic read-modify-write instructions or
//! allocations.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A whole number. Only one thread may change it: concurrent additions would be lost.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Replaces it.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The upper bounds of a handler's durations, in nanoseconds: 10 µs to 10 s, two a decade.
pub const BOUNDS: [u64; 13] = [
    10_000,
    30_000,
    100_000,
    300_000,
    1_000_000,
    3_000_000,
    10_000_000,
    30_000_000,
    100_000_000,
    300_000_000,
    1_000_000_000,
    3_000_000_000,
    10_000_000_000,
];

/// A histogram of durations: how many were within each of [`BOUNDS`].
#[derive(Debug, Default)]
pub struct Durations {
    /// Not cumulative, unlike on the page; the last one is for durations beyond all bounds.
    counts: [Counter; BOUNDS.len() + 1],
    /// Nanoseconds.
    sum: Counter,
}

impl Durations {
    /// Records one duration.
    pub fn record(&self, took: Duration) {
        let took = nanos(took);
        self.counts[BOUNDS.iter().position(|bound| took <= *bound).unwrap_or(BOUNDS.len())].add(1);
        self.sum.add(took);
    }

    /// Adds the recorded counts, and their sum in nanoseconds.
    pub(super) fn add_to(&self, counts: &mut [u64; BOUNDS.len() + 1], sum: &mut u64) {
        counts.iter_mut().zip(&self.counts).for_each(|(sum, count)| *sum += count.get());
        *sum += self.sum.get();
    }
}

/// A duration in nanoseconds; 584 years at most.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_up_to_their_bound() {
        let durations = Durations::default();
        for micros in [0, 10, 11, 10_000_000, 10_000_001] {
            durations.record(Duration::from_micros(micros));
        }
        let (mut counts, mut sum) = ([0; BOUNDS.len() + 1], 0);
        durations.add_to(&mut counts, &mut sum);
        assert_eq!((counts[0], counts[1], counts[12], counts[13]), (2, 1, 1, 1));
        assert_eq!(sum, 20_000_022_000);
    }
}
