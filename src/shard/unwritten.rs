//! Which connections have something to be written at the end of the event loop turn, and in which order.
//!
//! Writing a message to ten thousand sockets takes tens of milliseconds. So that nobody else waits for that, connections
//! that have only messages for crowds stand in a queue of their own. It gets what the others leave of each slice, and now and
//! then a slice of its own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// A message for more connections of one worker than this is one for a crowd.
pub(super) const CROWD: usize = 256;
/// So many slices of others may pass a crowd. Then it has one, so that it gets a fifth of all in any case; what is written for a
/// few is seldom so long that it is interrupted.
const PASS: usize = 4;
/// How many connections of a crowd are written before the time is looked at.
const UNTIMED: usize = 4;

/// What may stand in the queues: a connection.
pub(super) trait Writable {
    /// Where it stands.
    fn queued(&self) -> &Queued;
}

/// Which queues a connection stands in. It is in a queue once at most.
#[derive(Default)]
pub(super) struct Queued {
    prompt: Cell<bool>,
    crowd: Cell<bool>,
}

/// A worker's connections that have something to be written.
pub(super) struct Unwritten<C> {
    prompt: RefCell<VecDeque<Rc<C>>>,
    crowd: RefCell<VecDeque<Rc<C>>>,
    /// The slices that others have had since the crowd had the last one.
    passed: Cell<usize>,
}

impl<C> Default for Unwritten<C> {
    fn default() -> Unwritten<C> {
        Unwritten { prompt: RefCell::default(), crowd: RefCell::default(), passed: Cell::default() }
    }
}

impl<C: Writable> Unwritten<C> {
    /// Puts a connection behind the others of its queue; false if it is written by then anyway.
    pub(super) fn add(&self, conn: &Rc<C>, is_for_crowd: bool) -> bool {
        let queued = conn.queued();
        if queued.prompt.get() {
            return false;
        }
        let (mark, queue) = match is_for_crowd {
            true => (&queued.crowd, &self.crowd),
            false => (&queued.prompt, &self.prompt),
        };
        let is_new = !mark.replace(true);
        if is_new {
            queue.borrow_mut().push_back(conn.clone());
        }
        is_new
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.prompt.borrow().is_empty() && self.crowd.borrow().is_empty()
    }

    /// Whether no connection waits for the message of a crowd alone.
    pub(super) fn has_no_crowd(&self) -> bool {
        self.crowd.borrow().is_empty()
    }

    /// Hands out the next connections, at most so many. Those of a crowd only until `enough` says so, which is asked now and then.
    pub(super) fn take(&self, most: usize, mut enough: impl FnMut() -> bool, mut write: impl FnMut(&Rc<C>)) {
        let mut left = most;
        while left > 0 && (self.passed.get() < PASS || self.has_no_crowd()) {
            let Some(conn) = self.prompt.borrow_mut().pop_front() else { break };
            conn.queued().prompt.set(false);
            write(&conn);
            left -= 1;
        }
        self.passed.set(if left > 0 { 0 } else { self.passed.get() + 1 });
        for n in 1..=left {
            let Some(conn) = self.crowd.borrow_mut().pop_front() else { break };
            conn.queued().crowd.set(false);
            // It may have been written in the other queue: then nothing waits.
            write(&conn);
            if n % UNTIMED == 0 && enough() {
                break;
            }
        }
    }

    /// Frees the memory of a crowd that is written.
    pub(super) fn shrink(&self) {
        for queue in [&self.prompt, &self.crowd] {
            let mut queue = queue.borrow_mut();
            if queue.is_empty() && queue.capacity() > 1024 {
                *queue = VecDeque::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Numbered(usize, Queued);

    impl Writable for Numbered {
        fn queued(&self) -> &Queued {
            &self.1
        }
    }

    fn numbered(numbers: std::ops::Range<usize>) -> Vec<Rc<Numbered>> {
        numbers.map(|n| Rc::new(Numbered(n, Queued::default()))).collect()
    }

    fn take(unwritten: &Unwritten<Numbered>, most: usize) -> Vec<usize> {
        let mut taken = Vec::new();
        unwritten.take(most, || false, |conn| taken.push(conn.0));
        taken
    }

    #[test]
    fn a_crowd_lets_others_pass_and_gets_its_share() {
        let (unwritten, crowd, others) = (Unwritten::default(), numbered(0..100), numbered(100..150));
        crowd.iter().for_each(|conn| assert!(unwritten.add(conn, true)));
        others.iter().for_each(|conn| assert!(unwritten.add(conn, false)));
        assert_eq!(take(&unwritten, 8), (100..108).collect::<Vec<_>>());
        for first in [108, 116, 124] {
            assert_eq!(take(&unwritten, 8), (first..first + 8).collect::<Vec<_>>());
        }
        assert_eq!(take(&unwritten, 8), (0..8).collect::<Vec<_>>());
        assert_eq!(take(&unwritten, 16), (132..148).collect::<Vec<_>>());
        assert_eq!(take(&unwritten, 8), [148, 149, 8, 9, 10, 11, 12, 13]);
        assert_eq!(take(&unwritten, 1000), (14..100).collect::<Vec<_>>());
        assert!(unwritten.is_empty());
    }

    #[test]
    fn without_a_crowd_nobody_waits_for_it() {
        let (unwritten, few) = (Unwritten::default(), numbered(0..100));
        few.iter().for_each(|conn| assert!(unwritten.add(conn, false)));
        (0..10).for_each(|n| assert_eq!(take(&unwritten, 10), (n * 10..n * 10 + 10).collect::<Vec<_>>()));
    }

    #[test]
    fn a_slice_of_a_crowd_ends_in_time() {
        let (unwritten, crowd, few) = (Unwritten::default(), numbered(0..100), numbered(100..110));
        crowd.iter().for_each(|conn| assert!(unwritten.add(conn, true)));
        few.iter().for_each(|conn| assert!(unwritten.add(conn, false)));
        let mut taken = Vec::new();
        unwritten.take(64, || true, |conn| taken.push(conn.0));
        assert_eq!(taken, (100..110).chain(0..UNTIMED).collect::<Vec<_>>());
    }

    #[test]
    fn one_of_a_crowd_that_gets_something_else_passes_too() {
        let (unwritten, crowd) = (Unwritten::default(), numbered(0..3));
        crowd.iter().for_each(|conn| assert!(unwritten.add(conn, true)));
        assert!(unwritten.add(&crowd[2], false));
        // It is written soon enough for whatever comes.
        assert!(!unwritten.add(&crowd[2], false) && !unwritten.add(&crowd[2], true));
        assert_eq!(take(&unwritten, 1), [2]);
        assert!(unwritten.add(&crowd[2], false), "it is in no queue for prompt writes any more");
        assert_eq!(take(&unwritten, 8), [2, 0, 1, 2]);
        assert!(unwritten.is_empty());
    }
}
