//! Receipts: the second stage of a publish, a send or a command. Who holds one knows that the mailboxes have it, so that
//! whatever is enqueued from then on comes behind it. Awaiting a receipt tells what came of it; dropping one undoes
//! nothing. A receipt may be awaited on any thread that calls [`super::look_again`] while a worker is stuck.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;

use super::interest::hash;
use super::members::Shared;
use super::unanswered::Place;
use crate::hub::{CommandError, Counts, Hub, Publication, SoFar, WorkerSet, publishes};
use crate::ids::{ClientId, WorkerId};
use crate::message::Channel;

/// The receipt of a publication: awaiting it gives how many connections were reached. A worker that is stuck is not
/// waited for; it counts as one failure.
pub struct Receipt {
    counts: oneshot::Receiver<Counts>,
    so_far: SoFar,
    /// The workers whose mailboxes have it.
    workers: WorkerSet,
    hub: Arc<Hub>,
    told: Option<Told>,
    place: Place,
}

impl Receipt {
    pub(super) fn new(
        hub: Arc<Hub>,
        workers: WorkerSet,
        counts: oneshot::Receiver<Counts>,
        so_far: SoFar,
        told: Option<Told>,
    ) -> Receipt {
        Receipt { counts, so_far, workers, hub, told, place: Place::default() }
    }
}

impl Future for Receipt {
    type Output = Counts;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Counts> {
        let Receipt { counts, so_far, workers, hub, told, place } = &mut *self;
        // The sender lives until the last share is gone; if it vanished, nobody was reached.
        let answer = Pin::new(counts).poll(cx).map(Result::unwrap_or_default);
        let lost = || match hub.stuck_among(workers) {
            0 => None,
            stuck => so_far.without(stuck),
        };
        let counts = ready!(place.wait(answer, lost, cx));
        if let Some(told) = told.take() {
            told.counted(counts);
        }
        Poll::Ready(counts)
    }
}

/// The receipt of a message to one client: awaiting it gives whether the client's outgoing buffer has it. False: there is
/// no such client, it can't take the message, or its worker is stuck.
pub struct SendReceipt {
    counts: oneshot::Receiver<Counts>,
    /// None: it is a client of another node.
    worker: Option<WorkerId>,
    hub: Arc<Hub>,
    place: Place,
}

impl SendReceipt {
    pub(super) fn new(hub: Arc<Hub>, worker: Option<WorkerId>, counts: oneshot::Receiver<Counts>) -> SendReceipt {
        SendReceipt { counts, worker, hub, place: Place::default() }
    }
}

impl Future for SendReceipt {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let SendReceipt { counts, worker, hub, place } = &mut *self;
        let answer = Pin::new(counts).poll(cx).map(Result::unwrap_or_default);
        let lost = || worker.is_some_and(|worker| hub.mailbox(worker).is_stuck()).then(Counts::default);
        place.wait(answer, lost, cx).map(|counts| counts.reached > 0)
    }
}

/// The receipt of a command to one client's connection: awaiting it gives whether the connection has done it.
pub struct CommandReceipt {
    reply: oneshot::Receiver<Result<(), CommandError>>,
    client: ClientId,
    /// None: it is a client of another node.
    worker: Option<WorkerId>,
    hub: Arc<Hub>,
    place: Place,
    /// What is to be known to other nodes when it is done.
    subscribed: Option<Subscribed>,
}

impl CommandReceipt {
    pub(super) fn new(
        hub: Arc<Hub>,
        client: ClientId,
        worker: Option<WorkerId>,
        reply: oneshot::Receiver<Result<(), CommandError>>,
        subscribed: Option<Subscribed>,
    ) -> CommandReceipt {
        CommandReceipt { reply, client, worker, hub, place: Place::default(), subscribed }
    }
}

impl Future for CommandReceipt {
    type Output = Result<(), CommandError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), CommandError>> {
        let CommandReceipt { reply, client, worker, hub, place, subscribed } = &mut *self;
        let (client, worker) = (*client, *worker);
        if let Some(subscribed) = subscribed.as_mut().filter(|subscribed| subscribed.done) {
            return subscribed.poll_told(cx).map(Ok);
        }
        let stuck = || worker.filter(|worker| hub.mailbox(*worker).is_stuck());
        let lost = || stuck().map(|worker| Err(CommandError::Stuck { client, worker }));
        let answer = Pin::new(reply).poll(cx).map(|reply| match reply {
            Ok(done) => done,
            // It was dropped: there is no such client, or the full mailbox of a stuck worker did not take it.
            Err(_) => lost().unwrap_or(Err(CommandError::NotConnected(client.get()))),
        });
        let outcome = ready!(place.wait(answer, lost, cx));
        match subscribed {
            Some(subscribed) if outcome.is_ok() => {
                subscribed.done = true;
                subscribed.poll_told(cx).map(Ok)
            }
            _ => Poll::Ready(outcome),
        }
    }
}

/// The channels that a command has subscribed a client to.
pub(super) struct Subscribed {
    others: Arc<Shared>,
    channels: Vec<Channel>,
    /// The client is in them.
    done: bool,
    waits: Option<Vec<oneshot::Receiver<()>>>,
}

impl Subscribed {
    pub(super) fn new(others: Arc<Shared>, channels: Vec<Channel>) -> Subscribed {
        Subscribed { others, channels, done: false, waits: None }
    }

    /// Ready when the other nodes know of it.
    fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Subscribed { others, channels, waits, .. } = self;
        let told = || channels.iter().filter_map(|channel| others.own.told(hash(channel.as_str()))).collect();
        let waits = waits.get_or_insert_with(told);
        while let Some(wait) = waits.last_mut() {
            // It is dropped only with the mesh.
            let _ = ready!(Pin::new(wait).poll(cx));
            waits.pop();
        }
        Poll::Ready(())
    }
}

/// What the log says of a publish, and those who watch see.
pub(super) struct Told {
    channel: Channel,
    bytes: usize,
}

impl Told {
    /// None where the log says nothing and nobody watches: then it costs a look at both.
    pub(super) fn of(publication: &Publication) -> Option<Told> {
        let told = || Told { channel: publication.channel.clone(), bytes: publication.message.data().len() };
        (tracing::enabled!(tracing::Level::DEBUG) || publishes::are_watched()).then(told)
    }

    /// It came to that.
    fn counted(self, counts: Counts) {
        let Told { channel, bytes } = self;
        // Under the room's name, as what is not counted.
        tracing::debug!(target: "connmix::cluster", %channel, bytes, reached = counts.reached, failed = counts.failed,
            "published");
        publishes::note(channel, bytes, Some(counts));
    }

    /// Nobody counts what it comes to.
    pub(super) fn uncounted(self) {
        let Told { channel, bytes } = self;
        tracing::debug!(target: "connmix::cluster", %channel, bytes, "published, uncounted");
        publishes::note(channel, bytes, None);
    }
}
