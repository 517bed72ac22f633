//! Channels whose rule shapes what is published to them: their messages may have an order of their own, be kept, and come in
//! an envelope. And what such channels have kept, for those who come late or come back.

use futures_util::future::Either;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::oneshot;

use super::enqueue::ToChannel;
use super::receipt::{Receipt, Told};
use super::{Behind, Mesh};
use crate::config::ChannelRule;
use crate::hub::history::{At, From, Kept, Most, Position, now};
use crate::hub::{Ordered, PendingCounts, Publication, Recipient, WorkerSet, enveloped};
use crate::message::Channel;

/// The bytes of a page of what a channel keeps, roughly.
const PAGE_BYTES: usize = 4 << 20;

/// Why a connection has not got what a channel has kept.
pub const NOT_GIVEN: &str = "the connection has closed, left the channel, or was subscribed again";

impl Mesh {
    /// The rule of a channel whose messages are kept. None among several nodes.
    pub fn keeps(&self, channel: &Channel) -> Option<Arc<ChannelRule>> {
        let rule = self.hub.history().rule_of(channel.as_str()).filter(|rule| rule.history.size > 0);
        rule.filter(|_| self.others.is_none())
    }

    /// Publishes to a channel that has such a rule, as [`Mesh::publish`] does.
    pub(super) fn publish_by(
        &self,
        rule: Arc<ChannelRule>,
        publication: Publication,
        behind: Behind,
    ) -> impl Future<Output = Receipt> + Send + use<> {
        let told = Told::of(&publication);
        let (pending_counts, counts) = PendingCounts::new();
        let (so_far, hub) = (pending_counts.so_far(), self.hub.clone());
        let enqueued = self.enqueue_by(rule, publication, behind, pending_counts);
        async move {
            let (workers, at) = enqueued.await;
            Receipt::new(hub, workers, counts, so_far, told).at(at)
        }
    }

    /// The workers whose mailboxes have it, and its position.
    pub(super) fn enqueue_by(
        &self,
        rule: Arc<ChannelRule>,
        mut publication: Publication,
        behind: Behind,
        pending_counts: PendingCounts,
    ) -> impl Future<Output = (WorkerSet, Option<Position>)> + Send + use<> {
        if publication.is_event || !rule.is_ordered() || self.others.is_some() {
            publication.message = enveloped(&publication.channel, &rule, &publication.message, None);
            let what = ToChannel::Publish(Arc::new(publication));
            let enqueued = self.enqueue(what, behind, pending_counts);
            return Either::Left(async move { (enqueued.await, None) });
        }
        let hub = self.hub.clone();
        Either::Right(async move {
            let mut workers = hub.workers_of(publication.channel.as_str());
            behind.workers.iter().for_each(|worker| workers.add(worker));
            hub.room_for(&publication, &workers).await;
            let Ordered { position, workers } = hub.order(publication, &rule, (&pending_counts, &behind.workers));
            (workers, Some(position))
        })
    }

    /// Gives a connection that has come into channels what they have kept. Ready with where it is in each when it has that;
    /// or with why it has not.
    pub fn catch_up(
        &self,
        channels: Vec<(Channel, Recipient)>,
        from: From,
    ) -> impl Future<Output = Result<Vec<At>, String>> + Send + use<> {
        let read = |(channel, recipient): &(Channel, Recipient)| {
            let rule = self.keeps(channel).ok_or_else(|| keeps_nothing(channel))?;
            Ok(self.hub.catch_up(channel, &rule, from, recipient))
        };
        let waits: Result<Vec<oneshot::Receiver<At>>, String> = channels.iter().map(read).collect();
        async move {
            let mut all = Vec::new();
            for wait in waits? {
                all.push(wait.await.map_err(|_| NOT_GIVEN.to_owned())?);
            }
            Ok(all)
        }
    }

    /// A page of what a channel keeps: behind a position, or the newest.
    pub fn history(
        &self,
        channel: &Channel,
        since: Option<Position>,
        messages: usize,
    ) -> impl Future<Output = Result<(At, Vec<Kept>), String>> + Send + use<> {
        let most = Most { messages, bytes: PAGE_BYTES };
        let clock = (self.hub.node().get(), now());
        let page = self.keeps(channel).ok_or_else(|| keeps_nothing(channel));
        let page = page.map(|rule| self.hub.history().page((channel, &rule), (since, most), clock));
        std::future::ready(page)
    }
}

/// What to do where a channel keeps nothing.
pub fn keeps_nothing(channel: &Channel) -> String {
    format!("no rule of engine.channels says \"history\" for channel {channel}")
}
