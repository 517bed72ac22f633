//! Which connections have something to be written at the end of the event loop turn, and in which order.
//!
//! Writing a message to ten thousand sockets takes tens of milliseconds. So that nobody else waits for that, connections
//! that have only messages for crowds stand in a queue of their own. It gets what the others leave of each slice, and a
//! part of the slice in any case.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// A message for more connections of one worker than this is one for a crowd.
pub(super) const CROWD: usize = 256;
/// The part of a slice that crowds get in any case.
const CROWDS_SHARE: usize = 4;

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
}

impl<C> Default for Unwritten<C> {
    fn default() -> Unwritten<C> {
        Unwritten { prompt: RefCell::default(), crowd: RefCell::default() }
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

    /// Hands out the next connections, `most` of them or a part more.
    pub(super) fn take(&self, most: usize, mut write: impl FnMut(&Rc<C>)) {
        let mut left = most;
        while left > 0 {
            let Some(conn) = self.prompt.borrow_mut().pop_front() else { break };
            conn.queued().prompt.set(false);
            write(&conn);
            left -= 1;
        }
        for _ in 0..left.max(most / CROWDS_SHARE) {
            let Some(conn) = self.crowd.borrow_mut().pop_front() else { break };
            conn.queued().crowd.set(false);
            // It may have been written in the other queue: then nothing waits.
            write(&conn);
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
        unwritten.take(most, |conn| taken.push(conn.0));
        taken
    }

    #[test]
    fn a_crowd_lets_others_pass_and_gets_its_share() {
        let (unwritten, crowd, others) = (Unwritten::default(), numbered(0..100), numbered(100..120));
        crowd.iter().for_each(|conn| assert!(unwritten.add(conn, true)));
        others.iter().for_each(|conn| assert!(unwritten.add(conn, false)));
        assert_eq!(take(&unwritten, 8), [100, 101, 102, 103, 104, 105, 106, 107, 0, 1]);
        assert_eq!(take(&unwritten, 16), [108, 109, 110, 111, 112, 113, 114, 115, 116, 117, 118, 119, 2, 3, 4, 5]);
        assert_eq!(take(&unwritten, 8), [6, 7, 8, 9, 10, 11, 12, 13]);
        assert_eq!(take(&unwritten, 1000), (14..100).collect::<Vec<_>>());
        assert!(unwritten.is_empty());
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
