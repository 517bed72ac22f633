//! Into the mailboxes: the first stage of whatever is told to workers. It waits while a mailbox is full, which is what
//! slows publishers down when workers don't keep up.

use std::future::poll_fn;
use std::sync::Arc;

use crate::hub::{Delivery, Hub, Mailbox, Publication, Refused, Tally, WorkerSet};

/// Puts a delivery into a mailbox, waiting while it is full. False: the mailbox does not take it, and it is dropped.
pub(super) async fn put(mailbox: &Mailbox, mut delivery: Delivery) -> bool {
    loop {
        match mailbox.offer(delivery) {
            Ok(()) => return true,
            Err(Refused::Full(back)) => delivery = back,
            Err(Refused::Stuck | Refused::Closed) => return false,
        }
        poll_fn(|cx| mailbox.poll_room(&delivery, cx)).await;
    }
}

/// Puts a publication into the mailboxes of these workers, lowest first, with a share of the tally each. Returns those
/// of them that have it: the others have failed.
pub(super) async fn put_all(
    hub: Arc<Hub>,
    workers: WorkerSet,
    publication: Arc<Publication>,
    tally: Tally,
) -> WorkerSet {
    let mut enqueued = workers.clone();
    let mut handing_out = HandingOut { hub, publication, tally, left: workers, begun: false };
    while let Some(worker) = handing_out.left.first() {
        if !put(handing_out.hub.mailbox(worker), handing_out.delivery()).await {
            enqueued.remove(worker);
        }
        handing_out.left.remove(worker);
        handing_out.begun = true;
    }
    enqueued
}

/// A publication on its way into mailboxes. Once one has it, all get it: if it is dropped then, since its publisher has
/// gone, the rest get it at once.
struct HandingOut {
    hub: Arc<Hub>,
    publication: Arc<Publication>,
    tally: Tally,
    /// The workers that do not have it yet.
    left: WorkerSet,
    /// A worker has it.
    begun: bool,
}

impl HandingOut {
    fn delivery(&self) -> Delivery {
        Delivery::Publish(self.publication.clone(), self.tally.share())
    }
}

impl Drop for HandingOut {
    fn drop(&mut self) {
        if self.begun {
            self.left.iter().for_each(|worker| self.hub.mailbox(worker).force(self.delivery()));
        }
    }
}
