//! Publishing to several channels, or once only, in two stages: into the mailboxes, so that what is begun then comes behind
//! it; then the counts. The plain publish, which is nearly all of the traffic, comes by without this.

use futures_util::future::Either;
use std::future::Future;

use super::call::{Outcome, Published};
use super::error::ApiError;
use super::params::{Params, Publish};
use super::repeats;
use super::state::Api;
use crate::cluster::{Behind, Receipt};

/// A publish that the mailboxes have.
pub(super) enum Enqueued {
    /// One of this caller alone.
    Own(Receipts),
    /// One with an id, for which others may have asked too.
    Once(repeats::Enqueued),
}

impl Enqueued {
    /// What it came to.
    pub(super) async fn outcome(self) -> Outcome {
        match self {
            Enqueued::Own(receipts) => receipts.outcome().await,
            Enqueued::Once(outcome) => outcome.await,
        }
    }
}

/// One for each channel, in their order.
pub(super) struct Receipts {
    receipts: Vec<Receipt>,
    /// The channels came as a list.
    list: bool,
}

impl Receipts {
    async fn outcome(self) -> Outcome {
        let mut published = Vec::with_capacity(self.receipts.len());
        for receipt in self.receipts {
            published.push(Published::from(receipt.await));
        }
        match published.first() {
            Some(&one) if !self.list => Outcome::One(one),
            _ => Outcome::Each(published),
        }
    }
}

/// Begins a publish, or joins the one with its id. Ready when the mailboxes have it.
pub(super) fn begin(api: &Api, publish: Publish, behind: Behind) -> impl Future<Output = Enqueued> + use<> {
    let enqueuing = match publish.id.clone() {
        None => Either::Left(enqueue(api, publish, behind)),
        Some(id) => Either::Right(api.repeats.once(id, publish, |publish| {
            let enqueued = enqueue(api, publish, behind);
            async move { enqueued.await.outcome() }
        })),
    };
    async move {
        match enqueuing {
            Either::Left(own) => Enqueued::Own(own.await),
            Either::Right(once) => Enqueued::Once(once.await),
        }
    }
}

/// Publishes to several channels, or once only.
pub(super) async fn publish(api: &Api, params: &Params<'_>) -> Result<Outcome, ApiError> {
    let enqueued = begin(api, params.publish()?, Behind::default()).await;
    Ok(enqueued.outcome().await)
}

/// Enqueues the message for each channel, one after the other.
fn enqueue(api: &Api, publish: Publish, behind: Behind) -> impl Future<Output = Receipts> + Send + use<> {
    let Publish { channels, list, message, .. } = publish;
    // Counted here, since another worker may drive what follows.
    api.counts.published.add(channels.len() as u64);
    let mesh = api.mesh.clone();
    async move {
        let mut receipts = Vec::with_capacity(channels.len());
        for channel in channels {
            receipts.push(mesh.publish(channel, message.clone(), behind.clone()).await);
        }
        Receipts { receipts, list }
    }
}
