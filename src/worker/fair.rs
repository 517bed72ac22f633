//! Who may hold the worker next. Time is what connections share, not messages: one handler may take as long as a hundred
//! thousand others.
//!
//! Each connection has an [`Account`] of the time that it took lately. As long as that is little, its task runs whenever
//! something has come, as any task does. Beyond that it needs a grant: those that need one stand in a queue, he who took least
//! in front, and one of them runs in a turn of the event loop. Between two grants the sockets are looked at and all who took
//! little run. So they wait for the handler that is running, never for all that the others have waiting.
//!
//! Handshakes have one account together, since a connection in its handshake has no past of its own.
//!
//! It costs the usual connection two additions a message, and no look at a clock: hooks are timed anyway.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::task::yield_now;

/// What a connection may take in one go before it is others' turn, in nanoseconds.
pub(super) const STRETCH: u32 = 1_000_000;
/// What a connection may have taken lately and still run without a grant, in nanoseconds.
const LITTLE: u32 = 4_000_000;
/// A connection pays its debt off by a part of the time that passes: one that takes less than this part of the worker in the
/// long run needs no grants.
const SHARE: u32 = 16;
/// What reading a frame counts for, in nanoseconds: its time is not measured.
pub(super) const FRAME: u32 = 100;

/// The time that somebody took lately.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Account {
    /// In nanoseconds; at most 4.3 s.
    debt: u32,
    /// The shard's clock when the debt was last looked at, in milliseconds.
    seen: u32,
}

impl Account {
    /// Nothing taken; `now` by the shard's clock.
    pub(super) fn new(now: u32) -> Account {
        Account { debt: 0, seen: now }
    }

    /// So much has been taken, in nanoseconds.
    pub(super) fn charge(&mut self, taken: u32) {
        self.debt = self.debt.saturating_add(taken);
    }

    /// Whether a grant is needed.
    fn is_heavy(&mut self, now: u32) -> bool {
        if self.debt <= LITTLE {
            return false;
        }
        let passed = now.wrapping_sub(self.seen);
        self.seen = now;
        self.debt = self.debt.saturating_sub(passed.saturating_mul(1_000_000 / SHARE));
        self.debt > LITTLE
    }
}

/// A time in nanoseconds, at most 4.3 s.
pub(super) fn nanoseconds(time: Duration) -> u32 {
    let whole = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).saturating_mul(1_000_000_000);
    whole.saturating_add(time.subsec_nanos())
}

/// By when it was asked for and how much its asker had taken, in milliseconds; then in order of asking.
type Key = (u64, u64);

/// A worker's queue for grants.
#[derive(Default)]
pub(super) struct Fair {
    waiting: RefCell<BTreeMap<Key, Rc<Grant>>>,
    asked: Cell<u64>,
    /// Nobody holds a grant, or he has used it.
    used: Cell<bool>,
    /// Wakes the one who grants.
    granter: RefCell<Option<Waker>>,
}

struct Grant {
    fair: Rc<Fair>,
    key: Key,
    given: Cell<bool>,
    task: RefCell<Waker>,
}

/// A place in the queue, or the grant itself. Dropped, it is given up or used.
pub(super) struct Ticket(Rc<Grant>);

impl Drop for Ticket {
    fn drop(&mut self) {
        let fair = &self.0.fair;
        if self.0.given.get() {
            fair.used.set(true);
            fair.wake();
        } else {
            fair.waiting.borrow_mut().remove(&self.0.key);
        }
    }
}

impl Fair {
    /// Ready when the task that asks may run a stretch. `ticket` is its place until then; when it is ready, it is to be
    /// dropped at the end of the stretch.
    pub(super) fn poll_turn(
        self: &Rc<Self>,
        account: &mut Account,
        ticket: &mut Option<Ticket>,
        now: u32,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        match ticket {
            Some(Ticket(grant)) if grant.given.get() => Poll::Ready(()),
            Some(Ticket(grant)) => {
                let mut task = grant.task.borrow_mut();
                if !task.will_wake(cx.waker()) {
                    *task = cx.waker().clone();
                }
                Poll::Pending
            }
            None if account.is_heavy(now) => {
                let asked = self.asked.get();
                self.asked.set(asked + 1);
                let key = (u64::from(now) + u64::from(account.debt / 1_000_000), asked);
                let task = RefCell::new(cx.waker().clone());
                let grant = Rc::new(Grant { fair: self.clone(), key, given: Cell::new(false), task });
                self.waiting.borrow_mut().insert(key, grant.clone());
                *ticket = Some(Ticket(grant));
                self.wake();
                Poll::Pending
            }
            None => Poll::Ready(()),
        }
    }

    fn wake(&self) {
        if let Some(granter) = &*self.granter.borrow() {
            granter.wake_by_ref();
        }
    }

    /// Gives the grants, one in a turn of the event loop. Runs as long as the worker does.
    pub(super) async fn run(self: Rc<Self>) {
        loop {
            poll_fn(|cx| self.poll_next(cx)).await.task.borrow().wake_by_ref();
            poll_fn(|cx| self.poll_used(cx)).await;
            // Lets the sockets be looked at; whom they wake runs before this goes on.
            yield_now().await;
        }
    }

    fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Rc<Grant>> {
        match self.waiting.borrow_mut().pop_first() {
            Some((_, grant)) => {
                self.used.set(false);
                grant.given.set(true);
                Poll::Ready(grant)
            }
            None => self.wait(cx),
        }
    }

    fn poll_used(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.used.get() { Poll::Ready(()) } else { self.wait(cx) }
    }

    fn wait<T>(&self, cx: &mut Context<'_>) -> Poll<T> {
        let mut granter = self.granter.borrow_mut();
        if !granter.as_ref().is_some_and(|granter| granter.will_wake(cx.waker())) {
            *granter = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}
