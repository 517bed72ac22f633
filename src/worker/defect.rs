//! A defect of the engine, that is a panic in a connection's task: it costs that connection, and its script is told of the
//! end all the same.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::{Context, Poll};

/// Polls until it is ready. After a panic `fail` is called once, to bring the rest in order, and polling goes on; a second
/// panic ends the task. The process's panic hook logs both.
pub(super) async fn run<S>(state: &mut S, poll: fn(&mut S, &mut Context<'_>) -> Poll<()>, fail: fn(&mut S)) {
    let mut failed = false;
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| poll(state, cx))) {
        Ok(poll) => poll,
        Err(_) if !failed => {
            failed = true;
            fail(state);
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Err(again) => resume_unwind(again),
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::Waker;

    /// Panics until it has so few left; what it came to.
    fn outcome(panics: usize) -> (std::thread::Result<Poll<()>>, usize) {
        let mut left = (panics, 0);
        let polled = {
            let poll = |left: &mut (usize, usize), _: &mut Context<'_>| {
                if left.0 > 0 {
                    left.0 -= 1;
                    panic!("a test's panic");
                }
                Poll::Ready(())
            };
            let mut task = pin!(run(&mut left, poll, |left| left.1 += 1));
            let mut cx = Context::from_waker(Waker::noop());
            let mut poll = || catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(&mut cx)));
            match poll() {
                Ok(Poll::Pending) => poll(),
                polled => polled,
            }
        };
        (polled, left.1)
    }

    #[test]
    fn one_panic_is_brought_in_order_and_a_second_one_ends_the_task() {
        assert!(matches!(outcome(0), (Ok(Poll::Ready(())), 0)));
        assert!(matches!(outcome(1), (Ok(Poll::Ready(())), 1)));
        assert!(matches!(outcome(2), (Err(_), 1)));
    }
}
