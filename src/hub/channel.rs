//! One channel as the node sees it, and how it changes. What belongs to a channel and not to a connection (rules, an order
//! of its messages, what is kept of them) is a field here and a step of these transitions, which run under the lock of the
//! channel's entry in the hub's map. Knows neither the map nor who hears of changes.

use super::workers::WorkerSet;
use crate::ids::WorkerId;

/// What a subscribe did: to the channel in a worker's index, or to the channel of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// Nobody was in the channel before.
    First,
    /// The channel had others, and now this one too.
    Added,
    /// It was in the channel already.
    Already,
}

/// What an unsubscribe did: to the channel in a worker's index, or to the channel of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// That was the last: nobody is in the channel now.
    Last,
    /// The channel has others.
    Removed,
    /// It was not in the channel.
    Absent,
}

/// A channel of this node. It is in the hub's map until [`ChannelState::is_unused`].
#[derive(Default)]
pub(super) struct ChannelState {
    /// The workers that have subscribers. Each knows its own ([`super::topics`]).
    workers: WorkerSet,
}

impl ChannelState {
    /// A worker has its first subscriber.
    pub(super) fn join(&mut self, worker: WorkerId) -> Joined {
        let joined = match self.workers.contains(worker) {
            true => return Joined::Already,
            false if self.workers.is_empty() => Joined::First,
            false => Joined::Added,
        };
        self.workers.add(worker);
        joined
    }

    /// A worker has lost its last subscriber.
    pub(super) fn leave(&mut self, worker: WorkerId) -> Left {
        if !self.workers.contains(worker) {
            return Left::Absent;
        }
        self.workers.remove(worker);
        if self.workers.is_empty() { Left::Last } else { Left::Removed }
    }

    /// The workers that have subscribers.
    pub(super) fn workers(&self) -> &WorkerSet {
        &self.workers
    }

    /// Whether there is nothing to be kept of it. Who adds what outlives the last subscriber says so here.
    pub(super) fn is_unused(&self) -> bool {
        self.workers.is_empty()
    }
}
