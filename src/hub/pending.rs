//! Pending counts of a publication: one ack for each worker that it went to. When the last ack is gone, the counts
//! reach the caller.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

use super::history::Position;

/// How many connections a publication reached, and how many it did not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Taken into their outboxes.
    pub reached: u64,
    /// Closing, or too slow.
    pub failed: u64,
    /// Nodes that did not answer in time or can't be reached: what their connections got is not known.
    pub unanswered: u64,
    /// Where the publication stands in the order of its channel, if that has one.
    pub at: Option<Position>,
    /// 1: it was over the limit of its channel, and left out or added to others.
    pub left_out: u64,
    /// 1: of these, it was added to others.
    pub merged: u64,
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
        self.unanswered += other.unanswered;
        self.at = self.at.max(other.at);
        self.left_out += other.left_out;
        self.merged += other.merged;
    }
}

/// Receives the counts of a publication on this node when another node asked for them.
pub trait ReplyTo: Send + Sync {
    /// All counts of that request have come. Called on any thread; must not wait.
    fn counts(&self, request: u64, counts: Counts);
}

/// Where the counts go.
enum Waiter {
    /// A caller on this node.
    Caller(oneshot::Sender<Counts>),
    /// Another node, by the number of its request.
    Node(Arc<dyn ReplyTo>, u64),
}

struct Sum {
    reached: AtomicU64,
    failed: AtomicU64,
    unanswered: AtomicU64,
    /// Where the publication stands in the order of its channel.
    at: OnceLock<Position>,
    /// A publish is left out once.
    left_out: AtomicBool,
    merged: AtomicBool,
    waiter: Option<Waiter>,
}

impl Drop for Sum {
    /// Runs when the last ack is gone.
    fn drop(&mut self) {
        let reached = *self.reached.get_mut();
        let (failed, unanswered) = (*self.failed.get_mut(), *self.unanswered.get_mut());
        let (left_out, merged) = (u64::from(*self.left_out.get_mut()), u64::from(*self.merged.get_mut()));
        let counts = Counts { reached, failed, unanswered, at: self.at.take(), left_out, merged };
        match self.waiter.take() {
            // If the caller has gone, the counts are not needed.
            Some(Waiter::Caller(caller)) => drop(caller.send(counts)),
            Some(Waiter::Node(node, request)) => node.counts(request, counts),
            None => {}
        }
    }
}

/// Where a publication was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// On this node.
    Local,
    /// On another node, which has passed it on.
    Forward,
}

/// The counts of one publication, before its acks are handed out. Made when the publication is accepted.
pub struct PendingCounts {
    sum: Option<Arc<Sum>>,
    accepted: Instant,
    scenario: Scenario,
}

impl PendingCounts {
    /// Pending counts, and the receiver of the result.
    pub fn new() -> (PendingCounts, oneshot::Receiver<Counts>) {
        let (done, counts) = oneshot::channel();
        (PendingCounts::told_to(Waiter::Caller(done)), counts)
    }

    /// Pending counts of a publication that another node has passed on; `node` is told the result as that of `request`.
    pub fn of_request(node: Arc<dyn ReplyTo>, request: u64) -> PendingCounts {
        PendingCounts::told_to(Waiter::Node(node, request)).forwarded()
    }

    fn told_to(waiter: Waiter) -> PendingCounts {
        let (at, left_out, merged) = (OnceLock::new(), false.into(), false.into());
        let (reached, failed, unanswered, waiter) = (0.into(), 0.into(), 0.into(), Some(waiter));
        let sum = Arc::new(Sum { reached, failed, unanswered, at, left_out, merged, waiter });
        PendingCounts { sum: Some(sum), ..PendingCounts::ignored() }
    }

    /// The publication stands there in the order of its channel.
    pub fn place(&self, at: Position) {
        if let Some(sum) = &self.sum {
            // It is ordered once.
            let _ = sum.at.set(at);
        }
    }

    /// Whether anybody waits for the counts.
    pub fn is_counted(&self) -> bool {
        self.sum.is_some()
    }

    /// Pending counts that nobody waits for.
    pub fn ignored() -> PendingCounts {
        PendingCounts { sum: None, accepted: Instant::now(), scenario: Scenario::Local }
    }

    /// The same for a publication that another node has passed on.
    pub fn forwarded(self) -> PendingCounts {
        PendingCounts { scenario: Scenario::Forward, ..self }
    }

    /// A view of the counts so far, which does not delay their completion.
    pub fn so_far(&self) -> SoFar {
        SoFar(self.sum.as_ref().map_or_else(Weak::new, Arc::downgrade))
    }

    /// One more ack.
    pub fn ack(&self) -> Ack {
        Ack { sum: self.sum.clone(), settled: false, accepted: self.accepted, scenario: self.scenario }
    }
}

/// A publication's counts before all of them have come.
pub struct SoFar(Weak<Sum>);

impl SoFar {
    /// The counts, if at most `missing` acks are still out; each of these counts as one failure.
    pub fn without(&self, missing: usize) -> Option<Counts> {
        let sum = self.0.upgrade()?;
        // One of the references is the one above.
        let out = Arc::strong_count(&sum) - 1;
        let counts = Counts {
            reached: sum.reached.load(Relaxed),
            failed: sum.failed.load(Relaxed) + out as u64,
            unanswered: sum.unanswered.load(Relaxed),
            at: sum.at.get().copied(),
            left_out: sum.left_out.load(Relaxed).into(),
            merged: sum.merged.load(Relaxed).into(),
        };
        (out <= missing).then_some(counts)
    }
}

/// One worker's part of the pending counts. Dropped without [`Ack::settle`], it counts as one failure: so a dead worker
/// keeps no caller waiting.
pub struct Ack {
    sum: Option<Arc<Sum>>,
    settled: bool,
    accepted: Instant,
    scenario: Scenario,
}

impl Ack {
    /// How long ago the publication was accepted, and where.
    pub fn age(&self) -> (Scenario, Duration) {
        (self.scenario, self.accepted.elapsed())
    }

    /// Reports this worker's counts.
    pub fn settle(mut self, counts: Counts) {
        self.settled = true;
        if let Some(sum) = &self.sum {
            if let Some(at) = counts.at {
                // It is ordered once.
                let _ = sum.at.set(at);
            }
            sum.reached.fetch_add(counts.reached, Relaxed);
            sum.failed.fetch_add(counts.failed, Relaxed);
            if counts.left_out > 0 {
                sum.left_out.store(true, Relaxed);
                sum.merged.store(counts.merged > 0, Relaxed);
            }
            if counts.unanswered > 0 {
                sum.unanswered.fetch_add(counts.unanswered, Relaxed);
            }
        }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if let (Some(sum), false) = (&self.sum, self.settled) {
            sum.failed.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_arrive_with_the_last_share() {
        let (pending_counts, mut counts) = PendingCounts::new();
        let (a, b) = (pending_counts.ack(), pending_counts.ack());
        drop(pending_counts);
        a.settle(Counts { reached: 3, failed: 1, ..Counts::default() });
        assert!(counts.try_recv().is_err());
        b.settle(Counts { reached: 2, failed: 0, ..Counts::default() });
        assert_eq!(counts.try_recv(), Ok(Counts { reached: 5, failed: 1, ..Counts::default() }));
    }

    #[test]
    fn a_share_knows_where_its_publication_came_from() {
        assert_eq!(PendingCounts::ignored().ack().age().0, Scenario::Local);
        let (pending_counts, _counts) = PendingCounts::new();
        assert_eq!(pending_counts.forwarded().ack().age().0, Scenario::Forward);
    }

    #[test]
    fn a_share_that_is_dropped_counts_as_failed() {
        let (pending_counts, mut counts) = PendingCounts::new();
        drop(pending_counts.ack());
        drop(pending_counts);
        assert_eq!(counts.try_recv(), Ok(Counts { reached: 0, failed: 1, ..Counts::default() }));
    }
}
