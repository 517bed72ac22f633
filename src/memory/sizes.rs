//! How much clients hold, grouped by powers of two, so that the largest of all workers can be found without naming
//! clients.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Clients that hold less are not counted, nor closed: that is what any connection costs.
pub const LEAST: usize = 1024;
/// From [`LEAST`] to 2 GiB and beyond, each twice the one before.
const CLASSES: usize = 22;

/// The bytes that one worker's clients hold, by the size of each client's share.
#[derive(Debug, Default)]
pub struct Sizes([AtomicUsize; CLASSES]);

/// The class of a size; None: it is too small to count.
fn class(size: usize) -> Option<usize> {
    (size >= LEAST).then(|| ((size / LEAST).ilog2() as usize).min(CLASSES - 1))
}

impl Sizes {
    /// Resets all counts.
    pub fn clear(&self) {
        self.0.iter().for_each(|bytes| bytes.store(0, Relaxed));
    }

    /// Counts a client that holds that much.
    pub fn add(&self, size: usize) {
        if let Some(class) = class(size) {
            self.0[class].fetch_add(size, Relaxed);
        }
    }

    /// How many bytes the worker with these sizes has to free.
    pub fn share(&self, cut: &Cut) -> usize {
        let own = self.0.get(cut.class).map_or(0, |bytes| bytes.load(Relaxed));
        // Rounded up: all workers together free enough.
        (own as u128 * cut.bytes as u128).div_ceil(cut.of.max(1) as u128) as usize
    }
}

/// Which clients are closed: those above a class, and enough of that class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    class: usize,
    /// The bytes to free of the class,
    bytes: usize,
    /// out of this total in the class.
    of: usize,
}

impl Cut {
    /// Whether a client of that size is closed; `left` is what its worker still has to free of the boundary's class.
    pub fn takes(&self, size: usize, left: &mut usize) -> bool {
        match class(size) {
            Some(class) if class > self.class => true,
            Some(class) if class == self.class && *left > 0 => {
                *left = left.saturating_sub(size);
                true
            }
            _ => false,
        }
    }
}

/// The largest that hold `wanted` bytes together, or everybody.
pub(super) fn cut<'a>(all: impl Iterator<Item = &'a Sizes>, wanted: usize) -> Cut {
    let mut sums = [0usize; CLASSES];
    for sizes in all {
        sums.iter_mut().zip(&sizes.0).for_each(|(sum, bytes)| *sum = sum.saturating_add(bytes.load(Relaxed)));
    }
    let mut left = wanted;
    for class in (0..CLASSES).rev() {
        if sums[class] >= left {
            return Cut { class, bytes: left, of: sums[class] };
        }
        left -= sums[class];
    }
    Cut { class: 0, bytes: sums[0], of: sums[0] }
}
