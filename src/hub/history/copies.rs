//! The copies of logs, which nodes keep for those that lead: what is kept here for others, and what others keep of the logs that are led
//! here.

use std::sync::Arc;

use super::log::{Log, LogCopy};
use super::position::Position;
use super::role::{Complete, Stream};
use super::{Entry, History, lock};
use crate::message::Channel;

impl History {
    /// A node begins a new stream: what came on the ones before may not be all. Gives the channels whose logs this node has kept a copy of
    /// for it, and does no more.
    pub fn began(&self, stream: Stream) -> Vec<Channel> {
        let entries: Vec<Arc<Entry>> = self.logs.iter().map(|entry| entry.value().clone()).collect();
        let broken = |entry: &Arc<Entry>| {
            let mut state = lock(&entry.state);
            let is_broken = state.role.copy_of.is_some_and(|of| of.0 == stream.0 && of.1 < stream.1);
            if is_broken {
                (state.role.copy_of, state.role.complete) = (None, Complete::No);
            }
            is_broken
        };
        let mut all: Vec<Channel> = entries.iter().filter(|e| broken(e)).map(|entry| entry.channel.clone()).collect();
        all.sort_unstable();
        all
    }

    /// Has the log of a channel that this node leads sent to the node on that stream, if no node has a copy; `is_there` tells
    /// whether a run is. `send` must not wait.
    pub fn copy_to(
        &self,
        channel: &Channel,
        replica: Stream,
        is_there: impl Fn(u64) -> bool,
        send: impl FnOnce(LogCopy),
    ) {
        let Some(entry) = self.logs.get(channel).map(|entry| entry.value().clone()) else { return };
        let state = &mut *lock(&entry.state);
        state.released.retain(|run| is_there(*run));
        let has_copy = state.role.copied_to.is_some_and(|(run, epoch)| match run == replica.0 {
            true => epoch == replica.1,
            // It would have to be told that it is relieved, before anything else is published.
            false => is_there(run),
        });
        if state.evicted || !state.role.leads || has_copy || state.log.last().is_none() {
            return;
        }
        if let Some(copy) = state.copy_for(Some(replica)) {
            send(copy);
        }
    }

    /// The leader of a channel keeps a copy of its log here: this one. Some: it lacks something that stands in the log that is here
    /// already, which goes so far; that is not lost before the leader has taken it.
    pub fn keep_copy(&self, channel: &Channel, copy: LogCopy, of: Stream, (node, now): (u16, u64)) -> Option<Position> {
        self.with(channel, node, now, |state| {
            if state.log.last().is_some_and(|last| !copy.extends(last)) {
                return Some(state.log.head());
            }
            if let Some(log) = Log::of(copy).filter(|_| !state.role.leads) {
                state.log = log;
                (state.role.copy_of, state.role.complete) = (Some(of), Complete::Yes);
            }
            None
        })
    }

    /// A node has no whole copy of a log that this one leads. If it is to have one, it gets another one with the next message.
    /// True: it is.
    pub fn lacks(&self, channel: &Channel, run: u64) -> bool {
        let Some(entry) = self.logs.get(channel).map(|entry| entry.value().clone()) else { return false };
        let state = &mut *lock(&entry.state);
        state.released.retain(|released| *released != run);
        state.role.copied_to.take_if(|(to, _)| *to == run).is_some()
    }

    /// The leader of a channel keeps the copy of its log elsewhere from now on.
    pub fn release(&self, channel: &Channel, of: u64) {
        let Some(entry) = self.logs.get(channel).map(|entry| entry.value().clone()) else { return };
        let mut state = lock(&entry.state);
        if !state.evicted && state.role.copy_of.is_some_and(|(run, _)| run == of) {
            (state.role.copy_of, state.role.complete) = (None, Complete::No);
            state.log = Log::unused();
            self.count(&entry, &mut state, false);
        }
    }
}
