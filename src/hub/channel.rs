//! The state of one channel on the node, and how it changes. What belongs to a channel rather than a connection (rules,
//! an order of its messages, what is kept of them) is a field here and a step of these transitions, which run under the
//! lock of the channel's entry in the hub's map. This module knows neither the map nor the listeners for changes.

use super::workers::WorkerSet;
use crate::ids::WorkerId;

/// The result of a subscribe, for the channel in a worker's index or for the channel of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// Nobody was in the channel before.
    First,
    /// The channel had others, and now this one too.
    Added,
    /// It was in the channel already.
    Already,
}

/// The result of an unsubscribe, for the channel in a worker's index or for the channel of the node.
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

    /// Whether the entry can be dropped. Code that adds anything that outlives the last subscriber must check it here.
    pub(super) fn is_unused(&self) -> bool {
        self.workers.is_empty()
    }
}
