//! Callers share the worker's time with its clients, by the same rules and the same grants (`shard/fair`).
//!
//! What a call takes is estimated, from its bytes and from the publishes in it, so a call reads no clock. Only a large
//! call of the WebSocket API is timed, since its JSON may be expensive. The deliveries that a publish causes are not
//! charged: the mailbox is worked off in slices, whose time is bounded by itself (`worker/turn`).

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::task::yield_now;

use crate::shard::fair::{Account, FRAME, Fair, STRETCH, Ticket, nanoseconds};

/// A call, from its bytes to its answer; or one of many publishes in a call. In nanoseconds.
const CALL: u32 = 1_000;
/// Each byte of a call, in nanoseconds.
const BYTE: u32 = 2;
/// A message of a queue that a consumer gets, in nanoseconds.
const EVENT: u32 = 300;
/// A request in a form that only the general HTTP implementation reads, in nanoseconds.
const REQUEST: u32 = 8_000;
/// A call of that many bytes is timed.
const TIMED: usize = 16 * 1024;
/// Of the time that a caller takes, this part counts: back ends are few, and work for many clients. So one that takes less
/// than a quarter of the worker's time needs no grants, unless it takes whole stretches.
const COUNTED: u32 = 4;
/// The most that a caller owes, in nanoseconds: a busy one waits no longer for those that have taken less.
const MOST_OWED: u32 = 50_000_000;

/// The worker's time, as the API of this worker uses it.
pub(super) struct WorkTime {
    fair: Rc<Fair>,
    /// What the caller that runs now has taken in this stretch, in nanoseconds. Only one runs at a time.
    stretch: Cell<u32>,
    /// The account of all connections that have not called yet. One of its own would let a caller that connects anew
    /// for each call take any time.
    newcomers: Cell<Account>,
}

impl WorkTime {
    /// Time that is given out by `fair`.
    pub(super) fn new(fair: Rc<Fair>) -> WorkTime {
        WorkTime { fair, stretch: Cell::default(), newcomers: Cell::default() }
    }

    /// Charges the caller that runs: nanoseconds.
    fn charge(&self, taken: u32) {
        self.stretch.set(self.stretch.get().saturating_add(taken));
    }

    /// Charges a call of that many bytes.
    pub(super) fn charge_call(&self, bytes: usize) {
        self.charge(CALL.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX).saturating_mul(BYTE)));
    }

    /// Charges frames that have been read, and the answers to pings.
    pub(super) fn charge_frames(&self, count: u32) {
        self.charge(count.saturating_mul(FRAME));
    }

    /// Charges the publishes of a call that has more than one.
    pub(super) fn charge_publishes(&self, count: usize) {
        self.charge(u32::try_from(count).unwrap_or(u32::MAX).saturating_mul(CALL));
    }

    /// Charges a request before its body is known.
    pub(super) fn charge_request(&self) {
        self.charge(REQUEST);
    }

    /// Charges a message of a queue.
    pub(super) fn charge_event(&self) {
        self.charge(EVENT);
    }

    /// Does a call's work of so many bytes, and charges it: by the clock, if it is large.
    pub(super) fn timed(&self, bytes: usize, work: impl FnOnce()) {
        if bytes < TIMED {
            work();
            return self.charge_call(bytes);
        }
        let began = Instant::now();
        work();
        self.charge(nanoseconds(began.elapsed()));
    }

    /// Whether the caller that runs has used its stretch up, so that others run first.
    pub(super) fn is_others_turn(&self) -> bool {
        self.stretch.get() >= STRETCH
    }

    /// If the stretch is used up, lets others run. The caller goes on when it has its next one.
    pub(super) async fn pause(&self) {
        if self.is_others_turn() {
            // Unlike a plain wake-up, this lets the runtime poll the sockets.
            yield_now().await;
        }
    }

    /// Serves a caller's connection to its end, a stretch at a time. Boxed, since it would be held twice otherwise.
    pub(super) async fn share(&self, mut serving: Pin<Box<impl Future<Output = ()>>>) {
        // None until the connection has called.
        let mut own: Option<Account> = None;
        let mut ticket = None;
        poll_fn(|cx| {
            ready!(self.poll_turn(&mut own, &mut ticket, cx));
            self.stretch.set(0);
            let polled = serving.as_mut().poll(cx);
            // A grant is for one stretch.
            ticket = None;
            self.end_stretch(&mut own);
            polled
        })
        .await;
    }

    fn poll_turn(&self, own: &mut Option<Account>, ticket: &mut Option<Ticket>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(own) = own {
            return self.fair.poll_turn(own, ticket, cx);
        }
        let mut account = self.newcomers.get();
        let turn = self.fair.poll_turn(&mut account, ticket, cx);
        self.newcomers.set(account);
        turn
    }

    /// Charges the account for the stretch that has ended.
    fn end_stretch(&self, own: &mut Option<Account>) {
        let taken = self.stretch.get();
        if taken == 0 {
            return;
        }
        self.fair.pass(taken);
        if own.is_none() {
            let mut account = self.newcomers.get();
            settle(&mut account, taken);
            self.newcomers.set(account);
        }
        settle(own.get_or_insert_with(|| Account::new(self.fair.now())), taken);
    }
}

fn settle(account: &mut Account, taken: u32) {
    account.charge_up_to(MOST_OWED, taken / COUNTED);
    account.end_stretch(taken);
}
