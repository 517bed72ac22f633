//! Channels that another node leads: what comes of it goes to the connections of this node in the leader's order, and what was
//! lost on the way is made good before anything newer.

use std::sync::Arc;

use super::Hub;
use super::delivery::Publication;
use super::history::{Follow, Followed, Kept, LogCopy, Position, Reading, Stream, gap, now};
use super::order::enveloped_at;
use super::pending::{Counts, PendingCounts};
use super::workers::WorkerSet;
use crate::config::{ChannelRule, Envelope};
use crate::message::{Channel, Counted, Message};

/// The leader is not asked again before so many milliseconds are over.
const PATIENCE: u64 = 1000;

impl Hub {
    /// A message of the node that leads its channel has come. `keep`: it goes into the copy that this node has. After [`Hub::room_for`].
    pub fn follow(
        &self,
        publication: Publication,
        rule: &ChannelRule,
        (at, when, keep): (Position, u64, bool),
        (ended, of): (&[u64], Stream),
        (pending_counts, behind): (&PendingCounts, &WorkerSet),
    ) -> Followed {
        let channel = publication.channel.clone();
        let counted = Counted::new(publication.message, publication.count);
        let message = enveloped_at(&channel, rule, &counted, at);
        let kept = keep.then_some((counted, when));
        let publication = Arc::new(Publication { message, position: Some(at), ..publication });
        let clock = (self.node().get(), now(), PATIENCE);
        let followed = self.history.follow((&channel, rule), (at, ended, of), kept, clock, |missing| {
            let mut workers = self.workers_of(channel.as_str());
            behind.iter().for_each(|worker| workers.add(worker));
            let is_anybody = workers.first().is_some();
            self.force_all(publication, workers, pending_counts, (rule, at, missing));
            is_anybody
        });
        if !followed.is_kept || matches!(followed.follow, Follow::Stale(_)) {
            // Who has published is not told that all is well.
            pending_counts.ack().settle(Counts { unanswered: 1, ..Counts::default() });
        }
        followed
    }

    /// What the leader has said of a channel has come; this node was at `asked`. False: the leader is to be asked again.
    pub fn catch_up_to(
        &self,
        (channel, rule): (&Channel, &ChannelRule),
        asked: Option<Position>,
        reading: &Reading,
    ) -> bool {
        self.history.catch_up_to(channel, (asked, reading), (self.node().get(), now()), |behind, is_whole, missed| {
            self.make_good((channel, rule), reading.head, behind, (is_whole, missed))
        })
    }

    /// This node leads a channel from now on, with the best of its own log and these copies. Some: it has led before, and another node
    /// beside it; from there on others may have missed something.
    pub fn lead(&self, channel: &Channel, rule: &ChannelRule, copies: Vec<LogCopy>) -> Option<Position> {
        self.history.lead((channel, rule), copies, (self.node().get(), now()), |behind, head, is_whole, missed| {
            self.make_good((channel, rule), head, behind, (is_whole, missed));
        })
    }

    /// Connections get what they have missed, and are told if that is not all of it. `behind`: the workers that have not got all, to be
    /// changed. Returns whether there are any.
    fn make_good(
        &self,
        (channel, rule): (&Channel, &ChannelRule),
        head: Position,
        behind: &mut WorkerSet,
        (is_whole, missed): (bool, &[Kept]),
    ) -> bool {
        let workers = self.workers_of(channel.as_str());
        let force = |message: Message, position: Position, behind: &mut WorkerSet| {
            let publication = Publication { position: Some(position), ..Publication::new(channel.clone(), message) };
            let counts = PendingCounts::ignored().forwarded();
            self.force_all(Arc::new(publication), workers.clone(), &counts, (rule, position, behind));
        };
        if !is_whole && rule.envelope == Envelope::Json {
            let before = missed.first().map_or(head, |first| Position { offset: first.at.offset - 1, ..first.at });
            // Those that are behind are told with the others.
            workers.iter().for_each(|worker| behind.remove(worker));
            force(gap(channel, before), before, behind);
        }
        for kept in missed {
            force(enveloped_at(channel, rule, &kept.message, kept.at), kept.at, behind);
        }
        workers.first().is_some()
    }
}

#[cfg(test)]
mod tests;
