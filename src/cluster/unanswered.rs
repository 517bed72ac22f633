//! Who waits for workers' answers. Usually an answer comes; one of a worker that is stuck may not. So the places where this
//! thread's tasks wait are known, and while a worker is stuck a timer has them look ([`look_again`]): no wait costs a timer.

use slab::Slab;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// The tasks of a thread that wait.
struct Waiting {
    /// Tells threads apart.
    thread: u64,
    tasks: Slab<Waker>,
}

thread_local! {
    static WAITING: RefCell<Waiting> = RefCell::new(Waiting::new());
}

/// Places that were given up on another thread than their own: by thread and position. Their threads take them back before
/// they make room for more.
static GIVEN_UP: Mutex<Vec<(u64, usize)>> = Mutex::new(Vec::new());

impl Waiting {
    fn new() -> Waiting {
        static THREADS: AtomicU64 = AtomicU64::new(0);
        Waiting { thread: THREADS.fetch_add(1, Relaxed), tasks: Slab::new() }
    }

    fn insert(&mut self, waker: &Waker) -> usize {
        if self.tasks.len() == self.tasks.capacity() {
            self.take_back();
        }
        self.tasks.insert(waker.clone())
    }

    fn take_back(&mut self) {
        // Nothing is done under the lock that could leave it half done.
        let mut given_up = GIVEN_UP.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.retain(|&(thread, at)| {
            let own = thread == self.thread;
            if own {
                self.tasks.try_remove(at);
            }
            !own
        });
    }
}

/// Has all tasks of this thread that wait for an answer look whether it can still come. A thread on which receipts are
/// awaited calls it several times a second while a worker is stuck.
pub fn look_again() {
    let tasks: Vec<Waker> = WAITING.with_borrow_mut(|waiting| {
        waiting.take_back();
        waiting.tasks.iter().map(|(_, waker)| waker.clone()).collect()
    });
    tasks.into_iter().for_each(Waker::wake);
}

/// A task's place among those that wait; given up when dropped.
#[derive(Default)]
pub(super) struct Place(Option<(u64, usize)>);

impl Place {
    /// Ready with the answer, or with what stands for one that can't come (`lost`). Otherwise the task has its place.
    pub(super) fn wait<T>(
        &mut self,
        answer: Poll<T>,
        lost: impl FnOnce() -> Option<T>,
        cx: &mut Context<'_>,
    ) -> Poll<T> {
        if answer.is_ready() {
            return answer;
        }
        if let Some(instead) = lost() {
            return Poll::Ready(instead);
        }
        self.keep(cx.waker());
        Poll::Pending
    }

    fn keep(&mut self, waker: &Waker) {
        WAITING.with_borrow_mut(|waiting| {
            let own = self.0.filter(|(thread, _)| *thread == waiting.thread);
            match own.and_then(|(_, at)| waiting.tasks.get_mut(at)) {
                Some(known) => known.clone_from(waker),
                None => {
                    let elsewhere = self.0.replace((waiting.thread, waiting.insert(waker)));
                    elsewhere.into_iter().for_each(give_up);
                }
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((thread, at)) = self.0 else { return };
        // Not there: this thread is ending.
        let own = WAITING.try_with(|waiting| {
            let mut waiting = waiting.borrow_mut();
            let own = waiting.thread == thread;
            if own {
                waiting.tasks.try_remove(at);
            }
            own
        });
        if own == Ok(false) {
            give_up((thread, at));
        }
    }
}

/// Gives up a place of another thread.
#[cold]
fn give_up(place: (u64, usize)) {
    GIVEN_UP.lock().unwrap_or_else(PoisonError::into_inner).push(place);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn a_place_that_is_given_up_on_another_thread_is_taken_back() {
        let (moved, places) = mpsc::channel::<(Place, bool)>();
        let other = thread::spawn(move || {
            for (mut place, waits) in places {
                if waits {
                    place.keep(Waker::noop());
                }
            }
            WAITING.with_borrow(|waiting| waiting.tasks.len())
        });
        for i in 0..10_000 {
            let mut place = Place::default();
            place.keep(Waker::noop());
            moved.send((place, i % 2 == 0)).unwrap();
        }
        drop(moved);
        assert_eq!(other.join().unwrap(), 0);
        look_again();
        assert_eq!(WAITING.with_borrow(|waiting| waiting.tasks.len()), 0);
    }
}
