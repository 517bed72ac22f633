//! The number of connections of a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A connection's place among those of its worker, freed when dropped.
pub struct LoadPermit(Arc<AtomicUsize>);

impl LoadPermit {
    pub(super) fn take(count: &Arc<AtomicUsize>) -> LoadPermit {
        count.fetch_add(1, Relaxed);
        LoadPermit(count.clone())
    }
}

impl Drop for LoadPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
