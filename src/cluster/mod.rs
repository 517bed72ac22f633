//! Any client on any node: publishing, sending, and which nodes there are. With the memory engine this process is the
//! whole mesh.

mod unanswered;

use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::oneshot;

use crate::hub::{Counts, Delivery, Hub, Mailbox, Order, Publication, Refused, Tally, WorkerSet};
use crate::ids::{ClientId, NodeId, WorkerId};
use crate::message::{Channel, Message};

pub use unanswered::look_again;

/// The mesh as this node sees it. Any thread may call it.
pub struct Mesh {
    hub: Arc<Hub>,
    node: NodeId,
    started: SystemTime,
}

/// Where a publication must go besides the workers that have subscribers: to those that its caller has ordered to
/// subscribe a client before. The order may still wait in the worker's mailbox; behind it, the publication finds
/// the client subscribed. A worker that has no subscriber after all delivers nothing.
#[derive(Debug, Clone, Default)]
pub struct Behind(WorkerSet);

impl Mesh {
    /// A mesh of this process alone.
    pub fn new(hub: Arc<Hub>, node: NodeId) -> Mesh {
        Mesh { hub, node, started: SystemTime::now() }
    }

    /// The workers of this node that are stuck: no client of theirs is served until they go on.
    pub fn stuck(&self) -> impl Iterator<Item = WorkerId> {
        self.hub.stuck()
    }

    /// This node's number.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// When this node started.
    pub fn started(&self) -> SystemTime {
        self.started
    }

    /// Delivers to every connection in a channel, and says how many were reached. Waits while a mailbox is full, then
    /// until each worker has taken it into its outboxes. A worker that is stuck is not waited for: it counts as one
    /// failure. Messages that one caller publishes one after the other arrive in that order.
    pub fn publish(&self, channel: Channel, message: Message) -> impl Future<Output = Counts> + Send + use<> {
        self.publish_then(channel, message, Behind::default(), || ())
    }

    /// What a publication must not overtake: orders to subscribe these clients, which its caller has under way.
    pub fn behind(&self, clients: impl IntoIterator<Item = ClientId>) -> Behind {
        let mut behind = Behind::default();
        for client in clients {
            behind.0.add(self.hub.worker_of(client));
        }
        behind
    }

    /// The same as [`Mesh::publish`] for a caller that has many under way: `handed` is called when the mailboxes have
    /// it. If the next is begun only then, order is kept; from then on it gets on without being polled.
    pub fn publish_then<H: FnOnce()>(
        &self,
        channel: Channel,
        message: Message,
        behind: Behind,
        handed: H,
    ) -> impl Future<Output = Counts> + use<H> {
        let (tally, counts) = Tally::new();
        let told = Told::of(&channel, &message);
        let so_far = tally.so_far();
        let sent = self.hand_out(channel, message, behind, tally);
        let hub = self.hub.clone();
        async move {
            let workers = sent.await;
            handed();
            let lost = || match hub.stuck_among(&workers) {
                0 => None,
                stuck => so_far.without(stuck),
            };
            // The sender lives till the last share is gone; if it vanished, nobody was reached.
            let counts = unanswered::wait(counts, lost).await.unwrap_or_default();
            if let Some(Told { channel, bytes }) = told {
                tracing::debug!(%channel, bytes, reached = counts.reached, failed = counts.failed, "published");
            }
            counts
        }
    }

    /// The same without counts: done when the mailboxes have it.
    pub fn publish_uncounted(&self, channel: Channel, message: Message) -> impl Future<Output = ()> + Send + use<> {
        if let Some(Told { channel, bytes }) = Told::of(&channel, &message) {
            tracing::debug!(%channel, bytes, "published, uncounted");
        }
        let sent = self.hand_out(channel, message, Behind::default(), Tally::ignored());
        async move { drop(sent.await) }
    }

    /// The workers that have it, and will answer.
    fn hand_out(
        &self,
        channel: Channel,
        message: Message,
        behind: Behind,
        tally: Tally,
    ) -> impl Future<Output = WorkerSet> + Send + use<> {
        let mut workers = self.hub.workers_of(channel.as_str());
        behind.0.iter().for_each(|worker| workers.add(worker));
        let hub = self.hub.clone();
        async move {
            let publication = Arc::new(Publication { channel, message });
            let mut handing_out = HandingOut { hub, publication, tally, left: workers, begun: false };
            let mut answering = handing_out.left.clone();
            while let Some(worker) = handing_out.left.first() {
                let mailbox = handing_out.hub.mailbox(worker);
                if mailbox.is_stuck() {
                    // It counts as failed from the beginning.
                    answering.remove(worker);
                }
                put(mailbox, handing_out.delivery()).await;
                handing_out.left.remove(worker);
                handing_out.begun = true;
            }
            answering
        }
    }

    /// Delivers to one client; false if there is no such client, it can't take it, or its worker is stuck.
    pub fn send(&self, client_id: ClientId, message: Message) -> impl Future<Output = bool> + Send + use<> {
        self.send_then(client_id, message, || ())
    }

    /// The same with `handed` as in [`Mesh::publish_then`].
    pub fn send_then<H: FnOnce()>(
        &self,
        client_id: ClientId,
        message: Message,
        handed: H,
    ) -> impl Future<Output = bool> + use<H> {
        let hub = self.hub.clone();
        async move {
            let (tally, counts) = Tally::new();
            put(hub.mailbox_of(client_id), Delivery::Send(client_id, message, tally.share())).await;
            drop(tally);
            handed();
            let worker = hub.mailbox_of(client_id);
            let lost = || worker.is_stuck().then(Counts::default);
            unanswered::wait(counts, lost).await.is_ok_and(|c| c.reached > 0)
        }
    }

    /// Has one client's connection do something, with `handed` as in [`Mesh::publish_then`]. Err says what failed.
    pub fn order_then<H: FnOnce()>(
        &self,
        client_id: ClientId,
        order: Order,
        handed: H,
    ) -> impl Future<Output = Result<(), String>> + use<H> {
        let hub = self.hub.clone();
        async move {
            let (obeyed, outcome) = oneshot::channel();
            put(hub.mailbox_of(client_id), Delivery::Order(client_id, order, obeyed)).await;
            handed();
            let worker = hub.worker_of(client_id);
            let stuck = || Err(format!("worker {}, which serves client {client_id}, is stuck", worker.0));
            let lost = || hub.mailbox(worker).is_stuck().then(stuck);
            match unanswered::wait(outcome, lost).await {
                Ok(outcome) => outcome,
                // A mailbox of a stuck worker that is full drops it.
                Err(_) => lost().unwrap_or_else(|| Err(format!("client {client_id} is not connected"))),
            }
        }
    }
}

/// What the log says of a publish.
struct Told {
    channel: Channel,
    bytes: usize,
}

impl Told {
    /// None where the log says nothing: then it costs a look at its level.
    fn of(channel: &Channel, message: &Message) -> Option<Told> {
        let told = || Told { channel: channel.clone(), bytes: message.data().len() };
        tracing::enabled!(tracing::Level::DEBUG).then(told)
    }
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

/// Puts a delivery into a mailbox, waiting while it is full.
async fn put(mailbox: &Mailbox, mut delivery: Delivery) {
    while let Err(Refused::Full(back)) = mailbox.offer(delivery) {
        delivery = back;
        poll_fn(|cx| mailbox.poll_room(&delivery, cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::MAILBOX_BYTES;
    use crate::ids::NodeNumber;
    use std::collections::VecDeque;
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::task::{Context, Waker};

    #[test]
    fn a_publish_goes_behind_the_orders_that_it_must_not_overtake() {
        let hub = Arc::new(Hub::new(NodeNumber::random(), 3));
        let mesh = Mesh::new(hub.clone(), NodeId(1));
        let channel = Channel::parse(b"c").unwrap();
        let client = ClientId::new(7).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let mut ordered = pin!(mesh.order_then(client, Order::Subscribe(vec![channel.clone()]), || ()));
        assert!(ordered.as_mut().poll(&mut cx).is_pending());
        let mut published = pin!(mesh.publish_then(channel, Message::text("x"), mesh.behind([client]), || ()));
        assert!(published.as_mut().poll(&mut cx).is_pending());
        let mut taken = VecDeque::new();
        hub.mailbox(hub.worker_of(client)).take(&mut taken, Waker::noop());
        assert!(matches!(taken.pop_front(), Some(Delivery::Order(..))));
        assert!(matches!(taken.pop_front(), Some(Delivery::Publish(..))));
        assert!(taken.is_empty());
    }

    #[test]
    fn a_publish_that_one_worker_has_reaches_the_others_though_its_publisher_goes() {
        let hub = Arc::new(Hub::new(NodeNumber::random(), 3));
        let mesh = Mesh::new(hub.clone(), NodeId(1));
        let channel = Channel::parse(b"c").unwrap();
        let taken = |worker| {
            let mut taken = VecDeque::new();
            hub.mailbox(WorkerId(worker)).take(&mut taken, Waker::noop());
            taken.len()
        };
        // First the second worker's mailbox is full, then the first one's.
        for (full, others) in [(1, [1, 1]), (0, [0, 0])] {
            for worker in 0..3 {
                hub.leave("c", WorkerId(worker));
            }
            hub.join(&channel, WorkerId(full));
            let mut cx = Context::from_waker(Waker::noop());
            let large = Message::binary(vec![0; MAILBOX_BYTES]);
            assert!(pin!(mesh.publish_uncounted(channel.clone(), large)).poll(&mut cx).is_ready());
            for worker in 0..3 {
                hub.join(&channel, WorkerId(worker));
            }
            let mut publish = Box::pin(mesh.publish(channel.clone(), Message::text("x")));
            assert!(publish.as_mut().poll(&mut cx).is_pending());
            drop(publish);
            // All, or none of them.
            assert_eq!((taken(full), [taken(1 - full), taken(2)]), (1 + others[0], others));
        }
    }

    #[test]
    fn a_publish_is_handed_over_when_the_mailbox_has_it_and_counted_later() {
        let hub = Arc::new(Hub::new(NodeNumber::random(), 1));
        let mesh = Mesh::new(hub.clone(), NodeId(1));
        let channel = Channel::parse(b"c").unwrap();
        hub.join(&channel, WorkerId(0));
        let mut cx = Context::from_waker(Waker::noop());
        let mut large = pin!(mesh.publish(channel.clone(), Message::binary(vec![0; MAILBOX_BYTES])));
        assert!(large.as_mut().poll(&mut cx).is_pending());
        let handed = AtomicBool::new(false);
        let mut next =
            pin!(mesh.publish_then(channel, Message::text("x"), Behind::default(), || handed.store(true, Relaxed)));
        assert!(next.as_mut().poll(&mut cx).is_pending());
        assert!(!handed.load(Relaxed), "the mailbox is full");
        let mut taken = VecDeque::new();
        hub.mailbox(WorkerId(0)).take(&mut taken, Waker::noop());
        assert!(next.as_mut().poll(&mut cx).is_pending());
        assert!(handed.load(Relaxed));
        hub.mailbox(WorkerId(0)).close();
        assert_eq!(next.as_mut().poll(&mut cx), std::task::Poll::Ready(Counts { reached: 0, failed: 1 }));
    }
}
