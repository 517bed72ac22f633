//! Fairness between connections: which one may hold the worker next. They share time, not messages: one handler may
//! take as long as a hundred thousand others.
//!
//! Each connection has an [`Account`] of the time that it took lately. While that is little, and its last handlers were
//! short, its task runs whenever something has come, as any task does. Otherwise it needs a grant. Tasks that need one
//! stand in a queue, those that took least first. In each event loop turn they run for a millisecond, or for one
//! handler. Then the sockets are polled, and all light connections run. So light connections wait for the handler that
//! is running, never for everything that is queued for the others. A new connection needs a grant too, since nothing is
//! known of its handlers yet.
//!
//! All handshakes share one account, since a connection in its handshake has no history of its own. Back ends' connections
//! have accounts as clients have (`api/work_time`), and share the same grants.
//!
//! This costs a typical connection a few additions per message, and no clock read: hooks are timed anyway.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::task::yield_now;

use crate::handover::{Damaged, Decoder, Encoder};

/// The time that a connection may take in one stretch before others run, in nanoseconds.
pub const STRETCH: u32 = 1_000_000;
/// The time that a connection may have taken lately and still run without a grant, in nanoseconds.
const LITTLE: u32 = 4_000_000;
/// A connection's debt shrinks by this part of the time that passes. A connection that takes less than this part of all
/// time needs no grants.
const SHARE: u32 = 16;
/// The cost of reading a frame, in nanoseconds: it is not measured.
pub const FRAME: u32 = 100;

/// The time that one connection took lately.
#[derive(Debug, Default, Clone, Copy)]
pub struct Account {
    /// The last stretch had the full length, or there was none yet: the next one may have it too.
    long: bool,
    /// In nanoseconds; at most 4.3 s.
    debt: u32,
    /// [`Fair::now`] when the debt was last updated, in milliseconds.
    seen: u32,
}

impl Account {
    /// An empty account; `now` as of [`Fair::now`].
    pub fn new(now: u32) -> Account {
        Account { long: true, debt: 0, seen: now }
    }

    /// Writes it for a successor process, in which it goes on: if all connections were new there, they would wait for each other.
    pub fn save(&self, out: &mut Encoder) {
        out.byte(self.long.into());
        out.u32(self.debt);
    }

    /// Reads what another process has written; `now` as of [`Fair::now`].
    pub fn read(from: &mut Decoder<'_>, now: u32) -> Result<Account, Damaged> {
        Ok(Account { long: from.flag()?, debt: from.u32()?, seen: now })
    }

    /// A stretch has ended that took that many nanoseconds.
    pub fn end_stretch(&mut self, taken: u32) {
        if taken > 0 {
            self.long = taken >= STRETCH;
        }
    }

    /// Adds time that was taken, in nanoseconds.
    pub fn charge(&mut self, taken: u32) {
        self.debt = self.debt.saturating_add(taken);
    }

    /// Adds time that was taken, in nanoseconds, but owes at most so much.
    pub fn charge_up_to(&mut self, most: u32, taken: u32) {
        self.debt = self.debt.saturating_add(taken).min(most);
    }

    /// Whether a grant may be needed.
    fn may_be_heavy(&self) -> bool {
        self.long || self.debt > LITTLE
    }

    /// Whether a grant is needed, after the time that has passed is taken off the debt.
    fn is_heavy(&mut self, now: u32) -> bool {
        let passed = (now.wrapping_sub(self.seen) as i32).max(0) as u32;
        self.seen = now;
        self.debt = self.debt.saturating_sub(passed.saturating_mul(1_000_000 / SHARE));
        self.long || self.debt > LITTLE
    }
}

/// A duration in nanoseconds, at most 4.3 s.
pub fn nanoseconds(time: Duration) -> u32 {
    let whole = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).saturating_mul(1_000_000_000);
    whole.saturating_add(time.subsec_nanos())
}

/// The time of the request plus the debt of its connection, in milliseconds; then the order of requests.
type Key = (u64, u64);

/// A worker's queue for grants.
#[derive(Default)]
pub struct Fair {
    /// The shard's clock at its last tick, in milliseconds.
    clock: Cell<u32>,
    /// What has been taken since, in nanoseconds.
    taken: Cell<u64>,
    waiting: RefCell<BTreeMap<Key, Rc<Grant>>>,
    asked: Cell<u64>,
    /// Deliveries are under way.
    delivers: Cell<bool>,
    /// Nobody holds a grant, or the grant has been used.
    used: Cell<bool>,
    /// Wakes the task that grants.
    granter: RefCell<Option<Waker>>,
}

struct Grant {
    fair: Rc<Fair>,
    key: Key,
    given: Cell<bool>,
    task: RefCell<Waker>,
}

/// A place in the queue, or the grant itself. Dropping it gives up the place or ends the grant.
pub struct Ticket(Rc<Grant>);

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
    /// Adds time that any connection has taken, in nanoseconds.
    pub fn pass(&self, taken: u32) {
        self.taken.set(self.taken.get() + u64::from(taken));
    }

    /// The shard's clock has ticked; in milliseconds.
    pub fn tick(&self, clock: u32) {
        self.clock.set(clock);
        self.taken.set(0);
    }

    /// The time in milliseconds. The shard's clock ticks once a second or so; between ticks, at least the time that
    /// connections have taken has passed.
    pub fn now(&self) -> u32 {
        self.clock.get().wrapping_add((self.taken.get() / 1_000_000) as u32)
    }

    /// Ready when the calling task may run a stretch. Until then `ticket` is its place in the queue; after that, drop
    /// it at the end of the stretch.
    #[inline]
    pub fn poll_turn(
        self: &Rc<Self>,
        account: &mut Account,
        ticket: &mut Option<Ticket>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if ticket.is_none() && !account.may_be_heavy() { Poll::Ready(()) } else { self.poll_grant(account, ticket, cx) }
    }

    /// The same where a grant may be needed.
    fn poll_grant(
        self: &Rc<Self>,
        account: &mut Account,
        ticket: &mut Option<Ticket>,
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
            None if account.is_heavy(self.now()) => {
                let asked = self.asked.get();
                self.asked.set(asked + 1);
                let key = (u64::from(self.now()) + u64::from(account.debt / 1_000_000), asked);
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

    /// Says whether deliveries are under way, which come in slices with an event loop turn between them.
    pub fn delivers(&self, under_way: bool) {
        self.delivers.set(under_way);
    }

    /// Gives the grants: in each event loop turn as many as take a stretch together, at least one. Runs as long as the
    /// worker does.
    pub async fn run(self: Rc<Self>) {
        let stretch = Duration::from_nanos(STRETCH.into());
        loop {
            poll_fn(|cx| self.poll_any(cx)).await;
            let began = Instant::now();
            while let Some(grant) = self.next() {
                grant.task.borrow().wake_by_ref();
                drop(grant);
                poll_fn(|cx| self.poll_used(cx)).await;
                if began.elapsed() >= stretch {
                    break;
                }
            }
            // Lets the runtime poll the sockets; the tasks that they wake run before this continues. Deliveries may
            // take as much time as the grants did: otherwise each of their slices would wait for one grant.
            let (used, took) = (Instant::now(), began.elapsed());
            yield_now().await;
            while self.delivers.get() && used.elapsed() < took {
                yield_now().await;
            }
        }
    }

    fn next(&self) -> Option<Rc<Grant>> {
        let (_, grant) = self.waiting.borrow_mut().pop_first()?;
        self.used.set(false);
        grant.given.set(true);
        Some(grant)
    }

    fn poll_any(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting.borrow().is_empty() { self.wait(cx) } else { Poll::Ready(()) }
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
