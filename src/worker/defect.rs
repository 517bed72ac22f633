//! Defects of the engine, that is panics in a connection's task. A panic ends that connection, and its script is still
//! told of the end.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::{Context, Poll};

/// Polls. After a panic `fail` is called to repair the state, and the poll is repeated. If `fail` reports an earlier
/// panic, the task ends. The process's panic hook logs both.
pub(super) fn poll<S>(
    state: &mut S,
    cx: &mut Context<'_>,
    poll: fn(&mut S, &mut Context<'_>) -> Poll<()>,
    fail: fn(&mut S) -> bool,
) -> Poll<()> {
    match catch_unwind(AssertUnwindSafe(|| poll(state, cx))) {
        Ok(poll) => poll,
        Err(panic) => {
            if fail(state) {
                resume_unwind(panic);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// Panics that many times; returns the results of two polls, and how often the state was repaired.
    fn outcome(panics: usize) -> (std::thread::Result<Poll<()>>, usize) {
        let mut left = (panics, 0);
        let poll = |left: &mut (usize, usize), _: &mut Context<'_>| {
            if left.0 > 0 {
                left.0 -= 1;
                panic!("a test's panic");
            }
            Poll::Ready(())
        };
        let fail = |left: &mut (usize, usize)| {
            left.1 += 1;
            left.1 > 1
        };
        let mut cx = Context::from_waker(Waker::noop());
        let mut once = || catch_unwind(AssertUnwindSafe(|| super::poll(&mut left, &mut cx, poll, fail)));
        let polled = match once() {
            Ok(Poll::Pending) => once(),
            polled => polled,
        };
        (polled, left.1)
    }

    #[test]
    fn one_panic_is_brought_in_order_and_a_second_one_ends_the_task() {
        assert!(matches!(outcome(0), (Ok(Poll::Ready(())), 0)));
        assert!(matches!(outcome(1), (Ok(Poll::Ready(())), 1)));
        assert!(matches!(outcome(2), (Err(_), 2)));
    }
}
