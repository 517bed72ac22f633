//! Channels whose messages have an order of their own: a message gets its position, is kept, and goes into the mailboxes in
//! one step, so that all of the channel's connections get all of its messages in the order of their positions.

use std::future::poll_fn;
use std::sync::Arc;
use tokio::sync::oneshot;

use super::delivery::{Backlog, Delivery, Publication};
use super::history::{At, Envelope, From, Kept, Most, Placed, Position, Stream, gap, now};
use super::pending::PendingCounts;
use super::workers::WorkerSet;
use super::{Ack, Hub};
use crate::config::{ChannelRule, Envelope as EnvelopeKind};
use crate::ids::{ClientId, WorkerId};
use crate::message::{Channel, Counted, Message};

/// A connection that waits for what a channel has kept.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// Its worker.
    pub worker: WorkerId,
    /// Its client.
    pub client: ClientId,
    /// Which of its subscribes waits.
    pub ticket: u64,
    /// Its server's script encodes messages.
    pub is_scripted: bool,
    /// How much it takes.
    pub most: Most,
}

/// A publication that was ordered.
pub struct Ordered {
    /// Where it stands.
    pub position: Position,
    /// The workers whose mailboxes have it.
    pub workers: WorkerSet,
}

/// A message as the connections of a channel with that rule get it.
pub fn enveloped(channel: &Channel, rule: &ChannelRule, message: &Message, position: Option<Position>) -> Message {
    match rule.envelope {
        EnvelopeKind::None => message.clone(),
        EnvelopeKind::Json => Envelope::new(channel, message).seal(position),
    }
}

/// One that stands in the channel's order, and may stand for several publishes.
pub fn enveloped_at(channel: &Channel, rule: &ChannelRule, message: &Counted, position: Position) -> Message {
    let (whole, count) = (message.message(), message.count());
    match rule.envelope {
        EnvelopeKind::None => whole,
        EnvelopeKind::Json => Envelope::new(channel, &whole).counting(count).seal(Some(position)),
    }
}

impl Hub {
    /// Waits until the mailboxes of these workers have room for a publication. A publisher that has ordered a message can't wait any
    /// more: so this comes before, and is what slows publishers down.
    pub async fn room_for(&self, publication: &Publication, workers: &WorkerSet) {
        for worker in workers.iter() {
            poll_fn(|cx| self.mailbox(worker).poll_room_for(publication.weight(), cx)).await;
        }
    }

    /// Orders a publication, keeps its message, and puts it into the mailboxes of the workers that have subscribers, and of
    /// those of `behind`. `elsewhere` sends it to other nodes, of which `replica` keeps a copy of the log. After [`Hub::room_for`]. None: this node does not lead the channel.
    pub fn order(
        &self,
        publication: &Publication,
        rule: &ChannelRule,
        (pending_counts, behind): (&PendingCounts, &WorkerSet),
        replica: Option<Stream>,
        elsewhere: impl FnOnce(Placed),
    ) -> Option<Ordered> {
        let Publication { channel, message, count, .. } = publication;
        let envelope = (rule.envelope == EnvelopeKind::Json).then(|| Envelope::new(channel, message).counting(*count));
        let kept = (Counted::new(message.clone(), *count), self.node().get(), now());
        self.history.order((channel, rule), kept, replica, |placed, missing| {
            let position = placed.at;
            pending_counts.place(position);
            elsewhere(placed);
            let mut publication = Publication { position: Some(position), ..publication.clone() };
            if let Some(envelope) = envelope {
                publication.message = envelope.seal(Some(position));
            }
            let mut workers = self.workers_of(channel.as_str());
            behind.iter().for_each(|worker| workers.add(worker));
            let workers = self.force_all(Arc::new(publication), workers, pending_counts, (rule, position, missing));
            Ordered { position, workers }
        })
    }

    /// Puts an ordered publication into mailboxes. Connections of a worker that has not got one before are told so. Returns
    /// the workers that have it.
    pub(super) fn force_all(
        &self,
        publication: Arc<Publication>,
        workers: WorkerSet,
        pending_counts: &PendingCounts,
        (rule, position, missing): (&ChannelRule, Position, &mut WorkerSet),
    ) -> WorkerSet {
        let mut enqueued = workers.clone();
        for worker in workers.iter() {
            if missing.contains(worker) && rule.envelope == EnvelopeKind::Json {
                let before = Position { offset: position.offset - 1, ..position };
                let notice = Publication::new(publication.channel.clone(), gap(&publication.channel, before));
                let ack = PendingCounts::ignored().ack();
                if !self.mailbox(worker).force(Delivery::Publish(Arc::new(notice), ack)) {
                    enqueued.remove(worker);
                    continue;
                }
            }
            missing.remove(worker);
            if !self.mailbox(worker).force(Delivery::Publish(publication.clone(), pending_counts.ack())) {
                missing.add(worker);
                enqueued.remove(worker);
            }
        }
        enqueued
    }

    /// Reads what a channel has kept for a connection that has come into it, and puts that into its worker's mailbox: what
    /// is in there before is older, and the connection gets nothing of it; what comes behind is newer. `done` is told when the
    /// connection has it. Err: this node does not lead the channel.
    pub fn catch_up(
        &self,
        channel: &Channel,
        rule: &ChannelRule,
        from: From,
        recipient: &Recipient,
        done: oneshot::Sender<At>,
    ) -> Result<(), oneshot::Sender<At>> {
        let clock = (self.node().get(), now());
        let mut waiting = Some(done);
        let read = self.history.read((channel, rule), (from, recipient.most), clock, |at, kept| {
            if let Some(done) = waiting.take() {
                self.put_backlog((channel, rule), recipient, (at, kept), done);
            }
        });
        match (read, waiting) {
            (None, Some(done)) => Err(done),
            _ => Ok(()),
        }
    }

    /// Puts what a channel has kept into the mailbox of a connection's worker.
    pub fn put_backlog(
        &self,
        (channel, rule): (&Channel, &ChannelRule),
        recipient: &Recipient,
        (at, kept): (At, Vec<Kept>),
        done: oneshot::Sender<At>,
    ) {
        let shown = |Kept { at, message, .. }: &Kept| enveloped_at(channel, rule, message, *at);
        let mut messages: Vec<Message> = kept.iter().map(shown).collect();
        let mailbox = self.mailbox(recipient.worker);
        // A script encodes one message at a time.
        let sent = if recipient.is_scripted { std::mem::take(&mut messages) } else { Vec::new() };
        let Recipient { client, ticket, .. } = *recipient;
        let backlog = Backlog { client, channel: channel.clone(), ticket, messages, at, done };
        // Only the worker itself, which is running, waits for it.
        mailbox.force(Delivery::Backlog(Box::new(backlog)));
        let ack = || -> Ack { PendingCounts::ignored().ack() };
        for message in sent {
            mailbox.force(Delivery::Send(client, message, ack()));
        }
    }
}
