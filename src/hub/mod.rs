//! Channel -> workers: which workers have subscribers of a channel, and the mailbox of each. Any thread may call it. It
//! knows no sockets and waits for nothing; which of its connections a message is for, the worker knows ([`topics`]).

mod delivery;
mod mailbox;
mod order;
mod tally;
pub mod topics;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use foldhash::fast::RandomState;
use smallvec::{SmallVec, smallvec};
use std::sync::atomic::{AtomicUsize, Ordering::*};

use crate::ids::{ClientId, WorkerId, worker_of};
use crate::message::Channel;

pub use delivery::{Delivery, Publication};
pub use mailbox::{MAILBOX_BYTES, Mailbox, Refused};
pub use order::{Obeyed, Order};
pub use tally::{Counts, Scenario, Share, SoFar, Tally};

/// A set of workers: one bit each, in place for up to 64 of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerSet(SmallVec<[u64; 2]>);

impl WorkerSet {
    fn set(&mut self, worker: WorkerId, present: bool) {
        let (word, bit) = (usize::from(worker.0 / 64), 1u64 << (worker.0 % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if present { self.0[word] |= bit } else { self.0[word] &= !bit }
    }

    /// Takes a worker in.
    pub fn add(&mut self, worker: WorkerId) {
        self.set(worker, true);
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// The lowest of them.
    pub fn first(&self) -> Option<WorkerId> {
        self.iter().next()
    }

    /// Takes a worker out.
    pub fn remove(&mut self, worker: WorkerId) {
        self.set(worker, false);
    }

    /// The workers in the set, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = WorkerId> {
        self.0.iter().enumerate().flat_map(|(i, &word)| {
            let some = |rest: u64| (rest != 0).then_some(rest);
            std::iter::successors(some(word), move |&rest| some(rest & (rest - 1)))
                .map(move |rest| WorkerId(i as u16 * 64 + rest.trailing_zeros() as u16))
        })
    }
}

/// The process's hub.
pub struct Hub {
    channels: DashMap<Channel, WorkerSet, RandomState>,
    mailboxes: Box<[Mailbox]>,
    /// How many workers are stuck.
    stuck: AtomicUsize,
    /// Subscriptions of all workers' connections together.
    subscriptions: AtomicUsize,
    /// As many as there may be.
    max_subscriptions: AtomicUsize,
}

/// Of the subscriptions that are still free, one connection may have this part.
const SHARE: usize = 16;
/// So many one connection may have in any case, as long as any are free.
const FEW: usize = 64;

impl Hub {
    /// A hub for that many workers.
    pub fn new(workers: usize) -> Hub {
        Hub {
            channels: DashMap::with_hasher(RandomState::default()),
            mailboxes: (0..workers).map(|_| Mailbox::default()).collect(),
            stuck: AtomicUsize::new(0),
            subscriptions: AtomicUsize::new(0),
            max_subscriptions: AtomicUsize::new(usize::MAX),
        }
    }

    /// From here on there may be so many subscriptions, all connections together. Those that are there stay.
    pub fn bound_subscriptions(&self, most: usize) {
        self.max_subscriptions.store(most, Relaxed);
    }

    /// The bound on all subscriptions together.
    pub fn max_subscriptions(&self) -> usize {
        self.max_subscriptions.load(Relaxed)
    }

    /// How many subscriptions there are.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.load(Relaxed)
    }

    /// A worker's subscriptions were `before`, and are `now`.
    pub fn count_subscriptions(&self, before: usize, now: usize) {
        match now >= before {
            true => self.subscriptions.fetch_add(now - before, Relaxed),
            false => self.subscriptions.fetch_sub(before - now, Relaxed),
        };
    }

    /// Whether a connection may have so many subscriptions, `more` of which are new. The fewer are free, the fewer may one
    /// connection have: some with very many leave enough for all that have a few. Workers that ask at the same moment may
    /// pass the bound by what one call adds.
    pub fn may_subscribe(&self, wanted: usize, more: usize) -> bool {
        let free = self.max_subscriptions().saturating_sub(self.subscriptions());
        more <= free && (wanted <= FEW || wanted <= free / SHARE)
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.mailboxes.len()
    }

    /// A worker's mailbox.
    pub fn mailbox(&self, worker: WorkerId) -> &Mailbox {
        &self.mailboxes[usize::from(worker.0)]
    }

    /// The mailbox of the worker that has that client, if it is one of this process.
    pub fn mailbox_of(&self, client: ClientId) -> &Mailbox {
        self.mailbox(worker_of(client, self.workers()))
    }

    /// A worker takes nothing for the time being: nobody waits for it. To be told by one thread only, as is its end.
    pub fn stall(&self, worker: WorkerId) {
        self.mailbox(worker).stall();
        self.stuck.fetch_add(1, Release);
    }

    /// That worker goes on.
    pub fn resume(&self, worker: WorkerId) {
        self.stuck.fetch_sub(1, Release);
        self.mailbox(worker).resume();
    }

    /// The workers that are stuck, lowest first.
    pub fn stuck(&self) -> impl Iterator<Item = WorkerId> {
        let all = if self.stuck.load(Acquire) == 0 { 0 } else { self.workers() };
        (0..all).map(|at| WorkerId(at as u16)).filter(|worker| self.mailbox(*worker).is_stuck())
    }

    /// How many of these workers are stuck.
    pub fn stuck_among(&self, workers: &WorkerSet) -> usize {
        match self.stuck.load(Acquire) {
            0 => 0,
            _ => workers.iter().filter(|worker| self.mailbox(*worker).is_stuck()).count(),
        }
    }

    /// A worker has its first subscriber of a channel. Every publish that begins after this returns reaches the worker.
    /// True: no other worker had any.
    pub fn join(&self, channel: &Channel, worker: WorkerId) -> bool {
        match self.channels.entry(channel.clone()) {
            Entry::Occupied(mut e) => {
                e.get_mut().set(worker, true);
                false
            }
            Entry::Vacant(e) => {
                let mut set = WorkerSet(smallvec![]);
                set.set(worker, true);
                e.insert(set);
                true
            }
        }
    }

    /// A worker has lost its last subscriber of a channel. No trace is left of a channel that nobody is in.
    pub fn leave(&self, channel: &str, worker: WorkerId) {
        self.channels.remove_if_mut(channel, |_, set| {
            set.set(worker, false);
            set.is_empty()
        });
    }

    /// The workers that have subscribers of a channel.
    pub fn workers_of(&self, channel: &str) -> WorkerSet {
        self.channels.get(channel).map_or_else(WorkerSet::default, |set| set.clone())
    }

    /// Gives memory back after a crowd has left. For a timer: it visits every part of the map.
    pub fn give_back(&self) {
        let capacity = self.channels.capacity();
        if capacity > 4096 && self.channels.len() < capacity / 8 {
            self.channels.shrink_to_fit();
        }
    }

    /// How many channels have subscribers.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use std::sync::Arc;

    fn channel(name: &str) -> Channel {
        Channel::parse(name.as_bytes()).unwrap()
    }

    #[test]
    fn interest_comes_and_goes_without_a_trace() {
        let hub = Hub::new(130);
        let c = channel("video:1");
        for w in [0, 63, 64, 129] {
            hub.join(&c, WorkerId(w));
        }
        let workers: Vec<u16> = hub.workers_of("video:1").iter().map(|w| w.0).collect();
        assert_eq!(workers, [0, 63, 64, 129]);
        for w in [64, 0, 129, 63] {
            hub.leave("video:1", WorkerId(w));
        }
        assert_eq!(hub.channels(), 0);
        assert_eq!(hub.workers_of("video:1"), WorkerSet::default());
        hub.leave("never", WorkerId(1));
    }

    fn delivery(bytes: usize) -> (Delivery, tokio::sync::oneshot::Receiver<Counts>) {
        let (tally, counts) = Tally::new();
        let message = Message::binary(vec![0; bytes]);
        (Delivery::Publish(Arc::new(Publication { channel: channel("c"), message }), tally.share()), counts)
    }

    #[test]
    fn a_full_mailbox_refuses_and_has_room_again_once_taken() {
        let hub = Hub::new(1);
        let mailbox = hub.mailbox(WorkerId(0));
        assert!(mailbox.offer(delivery(MAILBOX_BYTES * 2).0).is_ok(), "an empty box takes a message of any size");
        let Err(Refused::Full(refused)) = mailbox.offer(delivery(1).0) else { panic!("there is no room") };
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(mailbox.poll_room(&refused, &mut cx).is_pending());
        let mut taken = std::collections::VecDeque::new();
        mailbox.take(&mut taken, std::task::Waker::noop());
        assert_eq!(taken.len(), 1);
        assert!(mailbox.poll_room(&refused, &mut cx).is_ready());
        assert!(mailbox.offer(refused).is_ok());
    }

    #[test]
    fn a_connection_with_few_subscriptions_finds_room_beside_those_with_many() {
        let hub = Hub::new(1);
        hub.bound_subscriptions(100_000);
        let mut taken = Vec::new();
        for _ in 0..50 {
            let (mut low, mut high) = (0, 100_000);
            while low + 1 < high {
                let middle = (low + high) / 2;
                if hub.may_subscribe(middle, middle) { low = middle } else { high = middle }
            }
            hub.count_subscriptions(0, low);
            taken.push(low);
        }
        assert_eq!(taken[0], 100_000 / SHARE);
        assert!(taken.is_sorted_by(|a, b| a >= b));
        assert!(hub.may_subscribe(FEW, FEW), "{} of {} are left", 100_000 - hub.subscriptions(), 100_000);
        hub.count_subscriptions(100_000 - hub.subscriptions(), 100_000);
        hub.count_subscriptions(hub.subscriptions(), 100_000);
        assert!(!hub.may_subscribe(1, 1));
    }

    #[test]
    fn room_is_what_the_refused_delivery_needs() {
        let hub = Hub::new(1);
        let mailbox = hub.mailbox(WorkerId(0));
        assert!(mailbox.offer(delivery(MAILBOX_BYTES / 3).0).is_ok());
        let Err(Refused::Full(refused)) = mailbox.offer(delivery(MAILBOX_BYTES).0) else { panic!("there is no room") };
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(mailbox.poll_room(&refused, &mut cx).is_pending(), "it would be refused again at once");
    }

    #[test]
    fn a_closed_mailbox_fails_what_waits_and_what_comes() {
        let hub = Hub::new(1);
        let mailbox = hub.mailbox(WorkerId(0));
        let (waiting, mut counts) = delivery(1);
        assert!(mailbox.offer(waiting).is_ok());
        mailbox.close();
        assert_eq!(counts.try_recv(), Ok(Counts { reached: 0, failed: 1 }));
        let (late, mut counts) = delivery(1);
        assert!(matches!(mailbox.offer(late), Err(Refused::Closed)));
        assert_eq!(counts.try_recv(), Ok(Counts { reached: 0, failed: 1 }));
    }
}
