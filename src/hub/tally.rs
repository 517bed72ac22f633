//! Counting where a publication arrived: one share for each worker that it went to; when the last share is gone, the
//! counts reach whoever waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::oneshot;

/// How many connections a publication reached, and how many it did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Taken into their outgoing buffers.
    pub reached: u64,
    /// Closing, or too slow.
    pub failed: u64,
}

impl Counts {
    /// Counts one connection.
    pub fn add(&mut self, reached: bool) {
        match reached {
            true => self.reached += 1,
            false => self.failed += 1,
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.reached += other.reached;
        self.failed += other.failed;
    }
}

struct Sum {
    reached: AtomicU64,
    failed: AtomicU64,
    done: Option<oneshot::Sender<Counts>>,
}

impl Drop for Sum {
    /// Runs with the last share.
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            let counts = Counts { reached: *self.reached.get_mut(), failed: *self.failed.get_mut() };
            // Nobody waits any more: then nobody needs to know.
            let _ = done.send(counts);
        }
    }
}

/// The shares of one publication, before they are handed out.
pub struct Tally(Option<Arc<Sum>>);

impl Tally {
    /// A tally, and where its counts will arrive.
    pub fn new() -> (Tally, oneshot::Receiver<Counts>) {
        let (done, counts) = oneshot::channel();
        (Tally(Some(Arc::new(Sum { reached: 0.into(), failed: 0.into(), done: Some(done) }))), counts)
    }

    /// A tally that nobody waits for.
    pub fn ignored() -> Tally {
        Tally(None)
    }

    /// One more share.
    pub fn share(&self) -> Share {
        Share(self.0.clone(), false)
    }
}

/// One worker's part of a tally. Dropped without [`Share::settle`], it counts as one failure: a publication that a dead
/// worker never processed keeps no caller waiting.
pub struct Share(Option<Arc<Sum>>, bool);

impl Share {
    /// Reports this worker's counts.
    pub fn settle(mut self, counts: Counts) {
        self.1 = true;
        if let Some(sum) = &self.0 {
            sum.reached.fetch_add(counts.reached, Relaxed);
            sum.failed.fetch_add(counts.failed, Relaxed);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let (Some(sum), false) = (&self.0, self.1) {
            sum.failed.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_arrive_with_the_last_share() {
        let (tally, mut counts) = Tally::new();
        let (a, b) = (tally.share(), tally.share());
        drop(tally);
        a.settle(Counts { reached: 3, failed: 1 });
        assert!(counts.try_recv().is_err());
        b.settle(Counts { reached: 2, failed: 0 });
        assert_eq!(counts.try_recv(), Ok(Counts { reached: 5, failed: 1 }));
    }

    #[test]
    fn a_share_that_is_dropped_counts_as_failed() {
        let (tally, mut counts) = Tally::new();
        drop(tally.share());
        drop(tally);
        assert_eq!(counts.try_recv(), Ok(Counts { reached: 0, failed: 1 }));
    }
}
