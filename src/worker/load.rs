//! How many connections a worker has.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A connection's place among its worker's, given back when dropped.
pub struct Load(Arc<AtomicUsize>);

impl Load {
    pub(super) fn take(count: &Arc<AtomicUsize>) -> Load {
        count.fetch_add(1, Relaxed);
        Load(count.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
