//! Into the mailboxes, and onto the links to other nodes: the first stage of whatever is told to clients. It waits while a
//! mailbox or a link is full, which is what slows publishers down when workers or nodes don't keep up.

use bytes::Bytes;
use smallvec::SmallVec;
use std::future::{Future, poll_fn};
use std::sync::Arc;

use super::link::{Full, Link, Request};
use super::members::Shared;
use super::protocol;
use crate::hub::{
    Ack, ChannelAction, ChannelCommand, Delivery, Hub, Line, Mailbox, Moved, PendingCounts, Publication, Refused,
    WorkerSet,
};
use crate::ids::{ClientId, WorkerId};
use crate::message::{Channel, Key, Kind};

/// The other nodes that something is for.
#[derive(Default)]
pub(super) struct Remote {
    links: SmallVec<[Arc<Link>; 2]>,
    shared: Option<Arc<Shared>>,
}

impl Remote {
    /// Those of these links.
    pub(super) fn new(links: SmallVec<[Arc<Link>; 2]>, shared: &Arc<Shared>) -> Remote {
        Remote { links, shared: Some(shared.clone()) }
    }

    /// And those of these links, once each.
    pub(super) fn add(&mut self, links: impl IntoIterator<Item = Arc<Link>>, shared: &Arc<Shared>) {
        self.shared.get_or_insert_with(|| shared.clone());
        for link in links {
            if !self.links.iter().any(|known| Arc::ptr_eq(known, &link)) {
                self.links.push(link);
            }
        }
    }

    /// The links to them.
    pub(super) fn into_links(self) -> SmallVec<[Arc<Link>; 2]> {
        self.links
    }

    fn now(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.now())
    }

    /// Whether it is for no other node.
    pub(super) fn is_nobody(&self) -> bool {
        self.links.is_empty()
    }

    /// Puts a message onto each link, waiting while one is full.
    pub(super) async fn put(&mut self, message: &Bytes, mut request: impl FnMut() -> Option<Request>) {
        while let Some(link) = self.links.first().cloned() {
            let mut request = request();
            while let Err(Full(back)) = link.offer(message, request, self.now()) {
                request = back;
                poll_fn(|cx| link.poll_room(message.len(), cx)).await;
            }
            self.links.remove(0);
        }
    }
}

/// Puts a delivery into a mailbox, waiting while it is full. False: the mailbox does not take it, and it is dropped.
pub(super) async fn put(mailbox: &Mailbox, mut delivery: Delivery) -> bool {
    let mut line = Line::default();
    loop {
        match mailbox.offer(delivery, line) {
            Ok(()) => return true,
            Err(Refused::Full(back)) => delivery = back,
            Err(Refused::Stuck | Refused::Closed) => return false,
        }
        poll_fn(|cx| mailbox.poll_room(&delivery, &mut line, cx)).await;
    }
}

/// What goes to all connections of a channel.
#[derive(Clone)]
pub(super) enum ToChannel {
    /// A message.
    Publish(Arc<Publication>),
    /// A command.
    Command(Arc<ChannelCommand>),
}

impl ToChannel {
    /// The channel.
    pub(super) fn channel(&self) -> &Channel {
        match self {
            ToChannel::Publish(publication) => &publication.channel,
            ToChannel::Command(command) => &command.channel,
        }
    }

    /// As a worker gets it.
    fn delivery(&self, ack: Ack) -> Delivery {
        match self {
            ToChannel::Publish(publication) => Delivery::Publish(publication.clone(), ack),
            ToChannel::Command(command) => Delivery::ChannelCommand(command.clone(), ack),
        }
    }

    /// As other nodes get it.
    fn message(&self) -> Bytes {
        match self {
            ToChannel::Publish(publication) => {
                let Publication { channel, message, options, moved, .. } = &**publication;
                let (binary, data) = (message.kind() == Kind::Binary, message.data());
                if let (Some(moved), Some(client)) = (moved, options.except.iter().next()) {
                    let (channel, client, came) = (channel.as_str(), client.get(), *moved == Moved::Came);
                    return protocol::Message::Moved { channel, data, client, came }.to_bytes();
                }
                let except = &protocol::longs(options.except.iter().map(ClientId::get));
                let key = options.key.as_ref().map(Key::as_str);
                protocol::Message::Publish { channel: channel.as_str(), binary, data, except, key }.to_bytes()
            }
            ToChannel::Command(command) => {
                let channel = command.channel.as_str();
                match &command.action {
                    ChannelAction::Count => protocol::Message::Count { channel }.to_bytes(),
                    ChannelAction::Close { code, reason } => {
                        protocol::Message::Close { channel, code: *code, reason }.to_bytes()
                    }
                }
            }
        }
    }
}

/// Puts something for a channel into the mailboxes of these workers, lowest first, and then onto the links to other nodes, with a
/// share of the pending counts each. Gives those of the workers that have it: the others have failed. Nothing is done before it is
/// polled.
pub(super) fn put_all(
    hub: Arc<Hub>,
    workers: WorkerSet,
    what: ToChannel,
    pending_counts: PendingCounts,
    remote: Remote,
) -> impl Future<Output = WorkerSet> + Send {
    let mut handing_out = HandingOut { hub, what, pending_counts, workers, passed: 0, remote };
    // A block: an async function would hold its arguments twice. What is rare is boxed, so that no publication carries what
    // that needs: nearly always all mailboxes have room, and often there is no other node.
    async move {
        if let Some(refused) = handing_out.offer() {
            Box::pin(handing_out.put_rest(refused)).await;
        }
        if !handing_out.remote.is_nobody() {
            Box::pin(handing_out.put_remote()).await;
        }
        std::mem::take(&mut handing_out.workers)
    }
}

/// Something for a channel on its way into mailboxes and onto links. Once one has it, all get it: if it is dropped then, since its
/// publisher has gone, the rest get it at once.
struct HandingOut {
    hub: Arc<Hub>,
    what: ToChannel,
    pending_counts: PendingCounts,
    /// The workers that have it, and those that do not have it yet.
    workers: WorkerSet,
    /// Workers with a lower number do not get it any more. 0: nobody has it.
    passed: u16,
    /// The nodes that do not have it yet.
    remote: Remote,
}

impl HandingOut {
    /// The lowest worker that does not have it yet.
    fn next(&self) -> Option<WorkerId> {
        self.workers.iter().find(|worker| worker.0 >= self.passed)
    }

    /// A worker has it, or does not take it.
    fn pass(&mut self, worker: WorkerId, has_it: bool) {
        if !has_it {
            self.workers.remove(worker);
        }
        self.passed = worker.0 + 1;
    }

    /// Puts it into mailboxes, up to one that is full: returns what that one has refused.
    fn offer(&mut self) -> Option<Delivery> {
        while let Some(worker) = self.next() {
            match self.hub.mailbox(worker).offer(self.delivery(), Line::default()) {
                Ok(()) => self.pass(worker, true),
                Err(Refused::Full(delivery)) => return Some(delivery),
                Err(Refused::Stuck | Refused::Closed) => self.pass(worker, false),
            }
        }
        None
    }

    /// Goes on with what a mailbox has refused, and waits where one is full.
    async fn put_rest(&mut self, refused: Delivery) {
        let mut refused = Some(refused);
        while let Some(worker) = self.next() {
            let delivery = refused.take().unwrap_or_else(|| self.delivery());
            let has_it = put(self.hub.mailbox(worker), delivery).await;
            self.pass(worker, has_it);
        }
    }

    async fn put_remote(&mut self) {
        let (message, pending_counts) = (self.what.message(), &self.pending_counts);
        self.remote.put(&message, || request(pending_counts)).await;
    }

    fn delivery(&self) -> Delivery {
        self.what.delivery(self.pending_counts.ack())
    }
}

impl Drop for HandingOut {
    fn drop(&mut self) {
        if self.passed > 0 {
            while let Some(worker) = self.next() {
                // One that is refused fails its part of the counts.
                let has_it = self.hub.mailbox(worker).force(self.delivery());
                self.pass(worker, has_it);
            }
            if !self.remote.is_nobody() {
                let (message, now) = (self.what.message(), self.remote.now());
                self.remote.links.iter().for_each(|link| link.force(&message, request(&self.pending_counts), now));
            }
        }
    }
}

/// A node's part of the counts; None where nobody counts.
fn request(pending_counts: &PendingCounts) -> Option<Request> {
    pending_counts.is_counted().then(|| Request::Counts(pending_counts.ack()))
}
