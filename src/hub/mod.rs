//! The hub: which workers have subscribers of a channel, and the mailbox of each worker. Any thread may call it. It
//! knows no sockets and waits for nothing; each worker knows which of its connections a message is for ([`topics`]).

mod channel;
mod command;
mod delivery;
mod figures;
mod follow;
pub mod history;
mod interest;
mod lanes;
mod limit;
mod mailbox;
mod order;
mod pending;
pub mod publishes;
mod question;
mod rooms;
mod story;
mod tail;
#[cfg(test)]
mod tests;
pub mod topics;
mod workers;

use dashmap::DashMap;
use foldhash::fast::RandomState;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::*};

use crate::ids::{ClientId, Lane, NodeNumber, WorkerId};
use crate::message::Channel;
use channel::ChannelState;
use history::History;
use lanes::LaneTable;
use rooms::Rooms;

pub use channel::{Joined, Left};
pub use command::{ChannelAction, ChannelCommand, CommandError, CommandReply, ConnCommand};
pub use delivery::{Backlog, Delivery, Except, MAX_EXCEPT, Moved, Priority, Publication, PublishOptions};
pub use figures::{MAX_FIGURE_TEXT, NodeFigures, ScriptFigures, ServerFigures};
pub use interest::InterestSink;
pub use limit::{PublishLimits, Verdict};
pub use mailbox::{Line, MAILBOX_BYTES, Mailbox, Refused};
pub use order::{Ordered, Recipient, enveloped, enveloped_at};
pub use pending::{Ack, Counts, PendingCounts, ReplyTo, Scenario, SoFar};
pub use question::{Answer, AnswerTo, ClientInfo, Crowd, MAX_INFO, MAX_PAGE, PastPublish, Present, Question};
pub use story::{ENDED_CHANNELS, Ended, MAX_TURNS, Story, Turn};
pub use tail::{Event, MAX_EVENT, MAX_EVENT_BYTES, MAX_EVENTS, Seen, Wanted, Watch};
pub use workers::WorkerSet;

/// The process's hub.
pub struct Hub {
    /// This node's number.
    node: AtomicU16,
    lanes: LaneTable,
    channels: DashMap<Channel, ChannelState, RandomState>,
    /// Is told of channels that are new on this node, and of those that are gone.
    interest: Option<Arc<dyn InterestSink>>,
    /// The channels whose connections are counted.
    rooms: Rooms,
    /// The messages that are kept of channels.
    history: History,
    /// The channels whose publishes are limited.
    limits: PublishLimits,
    mailboxes: Box<[Mailbox]>,
    /// How many workers are stuck.
    stuck: AtomicUsize,
    /// Subscriptions of all workers' connections together.
    subscriptions: AtomicUsize,
    /// The limit on all subscriptions.
    max_subscriptions: AtomicUsize,
}

/// One connection may have this part of the subscriptions that are still free.
const SHARE: usize = 16;
/// One connection may have this many in any case, as long as any are free.
const FEW: usize = 64;

impl Hub {
    /// A hub for that many workers, at most [`MAX_WORKERS`](crate::ids::MAX_WORKERS), on the node of that number.
    pub fn new(node: NodeNumber, workers: usize) -> Hub {
        Hub {
            node: AtomicU16::new(node.get()),
            lanes: LaneTable::even(workers),
            channels: DashMap::with_hasher(RandomState::default()),
            interest: None,
            rooms: Rooms::default(),
            history: History::default(),
            limits: PublishLimits::default(),
            mailboxes: (0..workers).map(|_| Mailbox::default()).collect(),
            stuck: AtomicUsize::new(0),
            subscriptions: AtomicUsize::new(0),
            max_subscriptions: AtomicUsize::new(usize::MAX),
        }
    }

    /// The same hub, which tells `sink` of each channel's first subscriber on this node, and of its last. Call it
    /// before anybody joins, so that the sink is told of all.
    pub fn telling(self, sink: Arc<dyn InterestSink>) -> Hub {
        Hub { interest: Some(sink), ..self }
    }

    /// The number of this node.
    pub fn node(&self) -> NodeNumber {
        NodeNumber::new(self.node.load(Relaxed)).unwrap_or(NodeNumber::MIN)
    }

    /// Sets this node's number: new clients get ids with it.
    pub fn set_node(&self, number: NodeNumber) {
        self.node.store(number.get(), Relaxed);
    }

    /// Sets the limit on all subscriptions together. Existing subscriptions stay.
    pub fn bound_subscriptions(&self, most: usize) {
        self.max_subscriptions.store(most, Relaxed);
    }

    /// The limit on all subscriptions together.
    pub fn max_subscriptions(&self) -> usize {
        self.max_subscriptions.load(Relaxed)
    }

    /// How many subscriptions there are.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.load(Relaxed)
    }

    /// Records that a worker's subscriptions have changed from `before` to `now`.
    pub fn count_subscriptions(&self, before: usize, now: usize) {
        match now >= before {
            true => self.subscriptions.fetch_add(now - before, Relaxed),
            false => self.subscriptions.fetch_sub(before - now, Relaxed),
        };
    }

    /// Whether a connection may have `wanted` subscriptions, `more` of which are new. The fewer are free, the fewer one
    /// connection may have: so a few connections with very many leave enough for all that have a few. Workers that ask
    /// at the same moment may together exceed the limit by what one call adds.
    pub fn may_subscribe(&self, wanted: usize, more: usize) -> bool {
        let free = self.max_subscriptions().saturating_sub(self.subscriptions());
        more <= free && (wanted <= FEW || wanted <= free / SHARE)
    }

    /// The channels whose connections are counted.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// The messages that are kept of channels.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The channels whose publishes are limited.
    pub fn limits(&self) -> &PublishLimits {
        &self.limits
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.mailboxes.len()
    }

    /// A worker's mailbox.
    pub fn mailbox(&self, worker: WorkerId) -> &Mailbox {
        &self.mailboxes[usize::from(worker.0)]
    }

    /// The worker that has (or had) that client, if the client is of this node; otherwise a worker that knows no such
    /// client.
    pub fn worker_of(&self, client: ClientId) -> WorkerId {
        self.lanes.worker(client.lane())
    }

    /// The lanes on which a worker issues client ids.
    pub fn lanes_of(&self, worker: WorkerId) -> impl Iterator<Item = Lane> {
        self.lanes.lanes_of(worker)
    }

    /// Marks a worker as stuck: nobody waits for it any more. Only one thread may call this and [`Hub::resume`].
    pub fn stall(&self, worker: WorkerId) {
        self.mailbox(worker).stall();
        self.stuck.fetch_add(1, Release);
    }

    /// The stuck worker goes on.
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
    /// [`Joined::First`]: it is the node's first, too.
    pub fn join(&self, channel: &Channel, worker: WorkerId) -> Joined {
        let mut state = self.channels.entry(channel.clone()).or_default();
        let joined = state.join(worker);
        if joined == Joined::First
            && let Some(sink) = &self.interest
        {
            sink.gained(channel);
        }
        joined
    }

    /// A worker has lost its last subscriber of a channel. [`Left::Last`]: it was the node's last, too. The hub keeps
    /// nothing of a channel without subscribers.
    pub fn leave(&self, channel: &str, worker: WorkerId) -> Left {
        let mut left = Left::Absent;
        self.channels.remove_if_mut(channel, |channel, state| {
            left = state.leave(worker);
            if left == Left::Last
                && let Some(sink) = &self.interest
            {
                sink.lost(channel);
            }
            state.is_unused()
        });
        if left == Left::Last {
            self.history.unfollow(channel);
        }
        left
    }

    /// The workers that have subscribers of a channel.
    pub fn workers_of(&self, channel: &str) -> WorkerSet {
        self.channels.get(channel).map_or_else(WorkerSet::default, |state| state.workers().clone())
    }

    /// Frees memory after a crowd has left. For a timer: it visits every part of the map.
    pub fn shrink(&self) {
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
