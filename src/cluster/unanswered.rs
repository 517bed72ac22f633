//! Who waits for workers' answers. Usually an answer comes; one of a worker that is stuck may not. So the places where this
//! thread's tasks wait are known, and while a worker is stuck a timer has them look ([`look_again`]): no wait costs a timer.

use slab::Slab;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Poll, Waker};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;

/// The tasks of a thread that wait.
struct Waiting {
    /// Tells threads apart.
    thread: u64,
    tasks: Slab<Waker>,
}

thread_local! {
    static WAITING: RefCell<Waiting> = RefCell::new(Waiting::new());
}

impl Waiting {
    fn new() -> Waiting {
        static THREADS: AtomicU64 = AtomicU64::new(0);
        Waiting { thread: THREADS.fetch_add(1, Relaxed), tasks: Slab::new() }
    }
}

/// Has all tasks of this thread that wait for an answer look whether it can still come.
pub fn look_again() {
    let tasks: Vec<Waker> =
        WAITING.with_borrow(|waiting| waiting.tasks.iter().map(|(_, waker)| waker.clone()).collect());
    tasks.into_iter().for_each(Waker::wake);
}

/// A task's place among those that wait; given up when dropped.
#[derive(Default)]
struct Place(Option<(u64, usize)>);

impl Place {
    fn keep(&mut self, waker: &Waker) {
        WAITING.with_borrow_mut(|waiting| {
            let own = self.0.filter(|(thread, _)| *thread == waiting.thread);
            match own.and_then(|(_, at)| waiting.tasks.get_mut(at)) {
                Some(known) => known.clone_from(waker),
                None => self.0 = Some((waiting.thread, waiting.tasks.insert(waker.clone()))),
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((thread, at)) = self.0 else { return };
        // Elsewhere than where it waited (which the engine never does) the waker stays, and wakes nobody.
        let _ = WAITING.try_with(|waiting| {
            let mut waiting = waiting.borrow_mut();
            if waiting.thread == thread {
                waiting.tasks.try_remove(at);
            }
        });
    }
}

/// Waits for an answer, or until `lost` says what stands for it.
pub(super) async fn wait<T>(mut answer: oneshot::Receiver<T>, lost: impl Fn() -> Option<T>) -> Result<T, RecvError> {
    let mut place = Place::default();
    poll_fn(|cx| {
        if let Poll::Ready(answer) = Pin::new(&mut answer).poll(cx) {
            return Poll::Ready(answer);
        }
        if let Some(instead) = lost() {
            return Poll::Ready(Ok(instead));
        }
        place.keep(cx.waker());
        Poll::Pending
    })
    .await
}
