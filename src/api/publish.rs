//! Publishes to several channels or with an id, in two stages: first into the mailboxes, so that whatever begins then
//! comes after it; then the counts. The plain publish, which is nearly all of the traffic, does not use this.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, LocalBoxFuture};
use std::future::Future;
use std::sync::Arc;

use super::call::{Outcome, Published};
use super::error::ApiError;
use super::idempotency::{self, Done, IdempotencyTable};
use super::params::Publish;
use super::state::Api;
use super::trace::{Parent, delivered};
use crate::cluster::clients::{Channels, PublishOnce};
use crate::cluster::{Behind, Mesh, Receipt};
use crate::hub::{Counts, PastPublish, Publication, PublishOptions};
use crate::message::Message;
use crate::telemetry::spans::Recording;

/// A publish that the mailboxes have taken.
pub(super) enum Enqueued {
    /// A publish of this caller alone.
    Own(Receipts),
    /// A publish with an id; other callers may have asked for it too.
    Once(idempotency::Enqueued),
}

impl Enqueued {
    /// The outcome.
    pub(super) async fn outcome(self) -> Outcome {
        match self {
            Enqueued::Own(receipts) => receipts.outcome().await,
            Enqueued::Once(outcome) => outcome.await,
        }
    }
}

/// One receipt for each channel, in order.
pub(super) struct Receipts {
    receipts: Vec<Receipt>,
    /// The channels came as a list.
    list: bool,
}

impl Receipts {
    async fn outcome(self) -> Outcome {
        let mut counts = Vec::with_capacity(self.receipts.len());
        for receipt in self.receipts {
            counts.push(receipt.await);
        }
        outcome(counts, self.list)
    }
}

/// Begins a publish, or joins the one with its id. Ready when the mailboxes have it.
pub(super) fn begin(api: &Api, publish: Publish, behind: Behind) -> impl Future<Output = Enqueued> + use<> {
    api.time.charge_publishes(publish.channels.len().saturating_sub(1));
    let enqueuing = match publish.id.clone() {
        None => {
            // Counted here, since another worker may drive what follows.
            api.counts.published.add(publish.channels.len() as u64);
            Either::Left(enqueue(api.mesh.clone(), publish, behind))
        }
        Some(id) => {
            let (mesh, counts) = (api.mesh.clone(), api.counts.clone());
            Either::Right(api.repeats.once(id.clone(), publish, move |publish| {
                // Counted here, since another worker may drive what follows.
                counts.published.add(publish.channels.len() as u64);
                once(mesh, id, publish, behind)
            }))
        }
    };
    async move {
        match enqueuing {
            Either::Left(own) => Enqueued::Own(own.await),
            Either::Right(once) => Enqueued::Once(once.await),
        }
    }
}

/// Publishes to several channels, once only, or with a span, unless something is wrong with that. `parent`: what the request
/// says of its trace, if that is wanted.
#[inline(never)]
pub(super) fn publish(
    api: &Api,
    publish: Result<Publish, ApiError>,
    parent: Option<Box<Parent>>,
) -> LocalBoxFuture<'_, Result<Outcome, ApiError>> {
    Box::pin(async move {
        let span = parent.and_then(|parent| span(api, &parent, &publish));
        let outcome = match publish {
            Ok(publish) => Ok(begin(api, publish, Behind::default()).await.outcome().await),
            Err(error) => Err(error),
        };
        delivered(span, outcome.as_ref().map(Outcome::as_slice));
        outcome
    })
}

/// Begins the span of a publish.
pub(super) fn span(api: &Api, parent: &Parent, publish: &Result<Publish, ApiError>) -> Option<Recording> {
    api.publish_span(parent, publish.as_ref().map_or(&[], |publish| &publish.channels))
}

/// Publishes with an id that is new to this node: on the node that knows whether another has done it.
async fn once(mesh: Arc<Mesh>, id: Arc<str>, publish: Publish, behind: Behind) -> BoxFuture<'static, Done> {
    match mesh.publish_once_elsewhere(&id, (&publish.channels, publish.list), (&publish.message, &publish.options)) {
        None => enqueue(mesh, publish, behind).await.outcome().map(Done::Known).boxed(),
        // A publish on another node may be overtaken by what follows here, so this waits for it.
        Some(elsewhere) => {
            let count = publish.channels.len();
            let done = match elsewhere.await {
                Some(counts) if counts.len() == count => Done::Known(outcome(counts, publish.list)),
                _ => Done::Unknown(outcome(vec![Counts { unanswered: 1, ..Counts::default() }; count], publish.list)),
            };
            std::future::ready(done).boxed()
        }
    }
}

fn outcome(counts: Vec<Counts>, list: bool) -> Outcome {
    let published: Vec<Published> = counts.into_iter().map(Published::from).collect();
    match published.first() {
        Some(&one) if !list => Outcome::One(one),
        _ => Outcome::Each(published),
    }
}

/// Serves idempotent publishes that other nodes pass to this one.
pub struct OnceHere {
    /// The ids that are known.
    pub repeats: Arc<IdempotencyTable>,
    /// The mesh.
    pub mesh: Arc<Mesh>,
}

impl PublishOnce for OnceHere {
    fn find(&self, id: &str) -> Option<PastPublish> {
        self.repeats.find(id)
    }

    fn publish(
        &self,
        id: Arc<str>,
        to: Channels,
        message: Message,
        options: PublishOptions,
    ) -> BoxFuture<'static, Vec<Counts>> {
        let Channels { channels, list } = to;
        let publish = Publish { channels, list, message, options, id: Some(id.clone()) };
        let mesh = self.mesh.clone();
        let once = self.repeats.once(id, publish, move |publish| async move {
            enqueue(mesh, publish, Behind::default()).await.outcome().map(Done::Known).boxed()
        });
        async move { once.await.await.as_slice().iter().copied().map(Counts::from).collect() }.boxed()
    }
}

/// Enqueues the message for each channel, one after the other.
fn enqueue(mesh: Arc<Mesh>, publish: Publish, behind: Behind) -> impl Future<Output = Receipts> + Send + use<> {
    let Publish { channels, list, message, options, .. } = publish;
    async move {
        let mut receipts = Vec::with_capacity(channels.len());
        for channel in channels {
            let publication = Publication::new(channel, message.clone()).with(options.clone());
            receipts.push(mesh.publish(publication, behind.clone()).await);
        }
        Receipts { receipts, list }
    }
}
