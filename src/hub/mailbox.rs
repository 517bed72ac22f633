//! A worker's mailbox for deliveries. Any thread offers; the worker takes everything at once. It is bounded in bytes: a
//! full mailbox takes nothing, and a publisher waits for room without blocking its thread. Nobody waits for the mailbox
//! of a stuck worker.
//!
//! Bytes say little of the time that deliveries take: a few may be for very many connections. So the bound follows from what
//! the worker has delivered last.
//!
//! Publishers that found it full come first when there is room again, so that one that has always something to publish does not
//! keep the others out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::delivery::Delivery;

/// The bytes that may wait in one worker's mailbox. A message larger than that still gets in when the box is empty.
pub const MAILBOX_BYTES: usize = 16 * 1024 * 1024;
/// The connections that what waits is for, all deliveries together, if they are as those that were delivered last.
const PUSHES: usize = 256 * 1024;
/// The bytes that may wait in any case.
const LEAST_BYTES: usize = 4 * 1024;

struct Lane {
    waiting: VecDeque<Delivery>,
    bytes: usize,
    /// The bytes that may wait now.
    room: usize,
    /// The bytes that the worker took last.
    taken: usize,
    closed: bool,
    /// Wakes the worker; called only when the first delivery arrives, since the worker then takes everything.
    worker: Option<Waker>,
    /// Publishers that found it full.
    publishers: Vec<Waker>,
    /// How often the worker has taken what was there.
    takes: u64,
    /// So many publishers waited then, and have not come back yet: they go first.
    expected: usize,
}

impl Default for Lane {
    fn default() -> Lane {
        let (waiting, publishers) = (VecDeque::new(), Vec::new());
        let room = MAILBOX_BYTES;
        Lane { waiting, bytes: 0, room, taken: 0, closed: false, worker: None, publishers, takes: 0, expected: 0 }
    }
}

impl Lane {
    fn has_room(&self, weight: usize) -> bool {
        self.bytes == 0 || self.bytes + weight <= self.room
    }

    /// Whether a publisher may come in, as far as others are concerned who came before it.
    fn is_turn_of(&self, line: Line) -> bool {
        self.expected == 0 || self.bytes == 0 || line.0.is_some_and(|since| since < self.takes)
    }
}

/// Since when a publisher waits for room for one delivery: when the worker had taken what was there so many times. None: not yet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line(Option<u64>);

/// A worker's mailbox.
#[derive(Default)]
pub struct Mailbox {
    lane: Mutex<Lane>,
    /// The worker is stuck. Changed under the lock.
    stuck: AtomicBool,
}

/// Why a delivery was not taken.
pub enum Refused {
    /// No room now; the delivery comes back. Wait with [`Mailbox::poll_room`].
    Full(Delivery),
    /// No room, and the worker is stuck; the delivery was dropped, which fails its pending count.
    Stuck,
    /// The worker has ended; the delivery was dropped, which fails its pending count.
    Closed,
}

impl Mailbox {
    fn lane(&self) -> MutexGuard<'_, Lane> {
        // Nothing below can panic halfway through a change.
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a delivery in, unless publishers have to go first that found the mailbox full before.
    pub fn offer(&self, delivery: Delivery, line: Line) -> Result<(), Refused> {
        self.put(delivery, Some(line))
    }

    /// Puts a delivery in even if the mailbox is full. False: the worker has ended, or is stuck and there is no room. For
    /// the rest of a publication whose publisher has gone, and for what has to keep an order once it was given: it takes no
    /// more memory than its publisher did.
    pub fn force(&self, delivery: Delivery) -> bool {
        self.put(delivery, None).is_ok()
    }

    /// Without a line: whether there is room or not.
    fn put(&self, delivery: Delivery, line: Option<Line>) -> Result<(), Refused> {
        let mut lane = self.lane();
        if lane.closed {
            return Err(Refused::Closed);
        }
        let weight = delivery.weight();
        let has_room = lane.has_room(weight);
        if !has_room && self.is_stuck() {
            return Err(Refused::Stuck);
        }
        if let Some(line) = line {
            // Nobody waits for a stuck worker, so there is no line.
            if !has_room || !(self.is_stuck() || lane.is_turn_of(line)) {
                return Err(Refused::Full(delivery));
            }
            lane.expected -= usize::from(line.0.is_some() && lane.expected > 0);
        }
        lane.bytes += weight;
        lane.waiting.push_back(delivery);
        let wake = if lane.waiting.len() == 1 { lane.worker.clone() } else { None };
        drop(lane);
        if let Some(worker) = wake {
            worker.wake();
        }
        Ok(())
    }

    /// Ready when that delivery, which was refused, may be offered again.
    pub fn poll_room(&self, delivery: &Delivery, line: &mut Line, cx: &mut Context<'_>) -> Poll<()> {
        let mut lane = self.lane();
        if lane.closed || self.is_stuck() || (lane.has_room(delivery.weight()) && lane.is_turn_of(*line)) {
            return Poll::Ready(());
        }
        line.0 = Some(lane.takes);
        lane.publishers.push(cx.waker().clone());
        Poll::Pending
    }

    /// Ready when a delivery of that weight has room, or is not waited for.
    pub(super) fn poll_room_for(&self, weight: usize, cx: &mut Context<'_>) -> Poll<()> {
        let mut lane = self.lane();
        if lane.closed || self.is_stuck() || lane.has_room(weight) {
            return Poll::Ready(());
        }
        lane.publishers.push(cx.waker().clone());
        Poll::Pending
    }

    /// Moves everything, in order, into `into`, which must be empty; its allocation stays here for the next deliveries.
    /// The worker is woken at the next first delivery. `pushes`: the connections that all that was taken the last time was
    /// for.
    pub fn take(&self, into: &mut VecDeque<Delivery>, pushes: usize, worker: &Waker) {
        debug_assert!(into.is_empty());
        let mut lane = self.lane();
        if lane.taken > 0 {
            lane.room = (lane.taken.saturating_mul(PUSHES) / pushes.max(1)).clamp(LEAST_BYTES, MAILBOX_BYTES);
        }
        std::mem::swap(&mut lane.waiting, into);
        lane.taken = std::mem::take(&mut lane.bytes);
        if !lane.worker.as_ref().is_some_and(|w| w.will_wake(worker)) {
            lane.worker = Some(worker.clone());
        }
        let publishers = std::mem::take(&mut lane.publishers);
        lane.takes += 1;
        lane.expected = publishers.len();
        drop(lane);
        publishers.into_iter().for_each(Waker::wake);
    }

    /// Whether nothing waits in it, nor for room in it.
    pub fn is_empty(&self) -> bool {
        let lane = self.lane();
        lane.waiting.is_empty() && lane.publishers.is_empty()
    }

    /// Whether the worker is stuck.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Acquire)
    }

    /// The worker is stuck: publishers stop waiting for room. What is in the mailbox, and what still finds room, is
    /// delivered once the worker goes on.
    pub(super) fn stall(&self) {
        let mut lane = self.lane();
        self.stuck.store(true, Release);
        let publishers = std::mem::take(&mut lane.publishers);
        drop(lane);
        publishers.into_iter().for_each(Waker::wake);
    }

    /// The worker goes on.
    pub(super) fn resume(&self) {
        let _lane = self.lane();
        self.stuck.store(false, Release);
    }

    /// The worker ends: nothing more is taken, and what waits is dropped, which fails its pending counts.
    pub fn close(&self) {
        let (waiting, publishers) = {
            let mut lane = self.lane();
            lane.closed = true;
            lane.bytes = 0;
            (std::mem::take(&mut lane.waiting), std::mem::take(&mut lane.publishers))
        };
        drop(waiting);
        publishers.into_iter().for_each(Waker::wake);
    }
}
