//! Channels whose rule shapes what is published to them: their messages may have an order of their own, be kept, and come in
//! an envelope. And what such channels have kept, for those who come late or come back.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::oneshot;

use super::enqueue::ToChannel;
use super::interest::hash;
use super::link::ReadFor;
use super::ordered::Wanted;
use super::receipt::{Receipt, Told};
use super::{Behind, Mesh};
use crate::config::ChannelRule;
use crate::hub::history::{At, From, Kept, Most, Position};
use crate::hub::{ChannelAction, PendingCounts, Publication, Recipient, WorkerSet, enveloped};
use crate::message::Channel;

/// The bytes of a page of what a channel keeps, roughly.
const PAGE_BYTES: usize = 4 << 20;

/// Why a connection has not got what a channel has kept.
const NOT_GIVEN: &str = "the connection has closed, left the channel or was subscribed again, or the node that keeps its messages does not answer";
/// Why there is no page.
const UNANSWERED: &str = "the node that keeps the channel's messages does not answer";

impl Mesh {
    /// The rule of a channel whose messages are kept.
    pub fn keeps(&self, channel: &Channel) -> Option<Arc<ChannelRule>> {
        self.hub.history().rule_of(channel.as_str()).filter(|rule| rule.keeps())
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
        enqueued.map(move |(workers, _)| Receipt::new(hub, workers, counts, so_far, told))
    }

    /// The workers whose mailboxes have it, and its position. Boxed and apart, so that publishes to other channels carry nothing
    /// of it, not even on the stack.
    #[inline(never)]
    pub(super) fn enqueue_by(
        &self,
        rule: Arc<ChannelRule>,
        mut publication: Publication,
        behind: Behind,
        pending_counts: PendingCounts,
    ) -> BoxFuture<'static, (WorkerSet, Option<Position>)> {
        if publication.moved.is_some() || !rule.is_ordered() {
            publication.message = enveloped(&publication.channel, &rule, &publication.message, None);
            let what = ToChannel::Publish(Arc::new(publication));
            return self.enqueue(what, behind, pending_counts).map(|workers| (workers, None)).boxed();
        }
        let nodes = self.nodes();
        match self.subscribed(&publication.channel, behind.clone()) {
            None => nodes.publish(rule, publication, (pending_counts, behind.workers), 0).boxed(),
            Some(subscribed) => async move {
                subscribed.await;
                nodes.publish(rule, publication, (pending_counts, behind.workers), 0).await
            }
            .boxed(),
        }
    }

    /// Waits until commands to subscribe clients have been carried out, and the node that leads a channel knows of it. None:
    /// there are none, or this node is by itself.
    fn subscribed(&self, channel: &Channel, behind: Behind) -> Option<impl Future<Output = ()> + Send + use<>> {
        self.others.as_ref().filter(|_| !behind.is_empty())?;
        let counted = self.command_channel(channel.clone(), ChannelAction::Count, behind);
        let (mesh, channel) = (self.nodes(), channel.clone());
        Some(async move {
            counted.await.await;
            let told = mesh.others.as_ref().and_then(|others| others.own.told(hash(channel.as_str())));
            if let Some(told) = told {
                // It is dropped only with the mesh.
                let _ = told.await;
            }
        })
    }

    /// Gives a connection that has come into channels what they have kept. Ready with where it is in each when it has that;
    /// or with why it has not.
    pub fn catch_up(
        &self,
        channels: Vec<(Channel, Recipient)>,
        from: From,
    ) -> impl Future<Output = Result<Vec<At>, String>> + Send + use<> {
        let nodes = self.nodes();
        let all: Vec<_> =
            channels.into_iter().map(|(channel, recipient)| (self.keeps(&channel), channel, recipient)).collect();
        async move {
            let mut waits = Vec::with_capacity(all.len());
            for (rule, channel, recipient) in all {
                let rule = rule.ok_or_else(|| keeps_nothing(&channel))?;
                let (done, at) = oneshot::channel();
                let what = ReadFor::Backlog { from, recipient, done };
                nodes.clone().read(Wanted { channel, rule, what }).await;
                waits.push(at);
            }
            let mut places = Vec::with_capacity(waits.len());
            for at in waits {
                places.push(at.await.map_err(|_| NOT_GIVEN.to_owned())?);
            }
            Ok(places)
        }
    }

    /// A page of what a channel keeps: behind a position, or the newest.
    pub fn history(
        &self,
        channel: &Channel,
        since: Option<Position>,
        messages: usize,
    ) -> impl Future<Output = Result<(At, Vec<Kept>), String>> + Send + use<> {
        let (rule, nodes, channel) = (self.keeps(channel), self.nodes(), channel.clone());
        async move {
            let rule = rule.ok_or_else(|| keeps_nothing(&channel))?;
            let most = Most { messages, bytes: PAGE_BYTES };
            let (answer, page) = oneshot::channel();
            nodes.read(Wanted { channel, rule, what: ReadFor::Page { since, most, answer } }).await;
            page.await.map_err(|_| UNANSWERED.to_owned())
        }
    }
}

/// What to do where a channel keeps nothing.
pub fn keeps_nothing(channel: &Channel) -> String {
    format!("no rule of engine.channels says \"history\" for channel {channel}")
}
