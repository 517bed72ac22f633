//! Any client on any node: publishing, sending, commands, and which nodes there are. With the memory engine this process
//! is the whole mesh.
//!
//! Whatever is told to clients takes two stages. The first is over when all mailboxes that it is for have it, and gives a
//! [`Receipt`]; the second is the receipt's answer. Who begins the next call when the first stage of the one before is
//! over keeps the order of both, and need not wait for answers.

mod ask;
pub mod bus;
pub mod clients;
mod command;
pub mod drive;
mod enqueue;
mod follow;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod heir;
mod history;
pub mod interest;
pub mod link;
pub mod members;
mod merged;
pub mod node;
pub mod online;
mod ordered;
mod proof;
pub mod protocol;
mod receipt;
mod refusals;
#[cfg(test)]
mod sim;
pub mod stats;
mod unanswered;

use futures_util::FutureExt;
use futures_util::future::Either;
use smallvec::SmallVec;
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;
use tokio::sync::oneshot;

use self::enqueue::{Remote, ToChannel, put, put_all};
use self::interest::hash;
use self::link::{Link, Request};
use self::members::{Phase, Shared};
use self::ordered::Nodes;
use self::receipt::{Subscribed, Told};
use crate::hub::publishes;
use crate::hub::{
    ChannelAction, ChannelCommand, ConnCommand, Counts, Delivery, Hub, InterestSink, NodeFigures, PendingCounts,
    Publication, PublishOptions, WorkerSet,
};
use crate::ids::{ClientId, NodeId, WorkerId};
use crate::message::{Channel, Key, Kind, Message};

pub use ask::Asked;
pub use history::keeps_nothing;
pub use receipt::{CommandReceipt, Receipt, SendReceipt};
pub use unanswered::look_again;

/// The mesh as this node sees it. Any thread may call it.
pub struct Mesh {
    hub: Arc<Hub>,
    node: NodeId,
    started: SystemTime,
    /// The other nodes; none with the memory engine.
    others: Option<Arc<Shared>>,
    /// Others do not tell this node of their channels, as it is no engine: what is for a channel goes to all of them.
    untold: bool,
    /// Tells how this node is.
    figures: OnceLock<Box<dyn Fn() -> NodeFigures + Send + Sync>>,
}

/// Tells the other nodes of this one's channels.
pub struct Interest(pub Arc<Shared>);

impl InterestSink for Interest {
    fn gained(&self, channel: &Channel) {
        self.0.own.first(hash(channel.as_str()));
    }

    fn lost(&self, channel: &Channel) {
        self.0.own.last(hash(channel.as_str()), self.0.now());
    }
}

/// What a publication must not overtake: commands to subscribe clients, which its caller has under way. Such a command may
/// still wait in its worker's mailbox, and no subscriber be known there yet. So the publication goes to that worker too: behind
/// the command, it finds the client subscribed. A worker that has no subscriber after all delivers nothing. The same holds for
/// the other nodes that have such clients.
#[derive(Clone, Default)]
pub struct Behind {
    workers: WorkerSet,
    others: SmallVec<[Arc<Link>; 2]>,
}

impl Behind {
    fn is_empty(&self) -> bool {
        self.workers.is_empty() && self.others.is_empty()
    }
}

/// Where the node is whose clients have such an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// It is this one.
    Here,
    /// This node has a link to it.
    Linked,
    /// There is none of that number, as far as this node knows.
    Elsewhere,
}

impl Mesh {
    /// A mesh of this process alone.
    pub fn new(hub: Arc<Hub>, node: NodeId) -> Mesh {
        Mesh { hub, node, started: SystemTime::now(), others: None, untold: false, figures: OnceLock::new() }
    }

    /// One with other nodes. The hub tells them of its channels by [`Interest`].
    pub fn with_others(self, others: Arc<Shared>) -> Mesh {
        self.hub.history().share();
        Mesh { others: Some(others), ..self }
    }

    /// All nodes, as channels need them whose messages have an order.
    fn nodes(&self) -> Nodes {
        Nodes { hub: self.hub.clone(), others: self.others.clone() }
    }

    /// The same for a node that has no clients: others do not tell it of their channels.
    pub fn without_clients(self) -> Mesh {
        Mesh { untold: true, ..self }
    }

    /// Sets what tells how this node is: called by any thread, without waiting. Only the first call counts.
    pub fn tell_figures(&self, figures: impl Fn() -> NodeFigures + Send + Sync + 'static) {
        let _ = self.figures.set(Box::new(figures));
    }

    /// The other nodes; None with the memory engine.
    pub fn others(&self) -> Option<&Arc<Shared>> {
        self.others.as_ref()
    }

    /// Whether this node serves: it has found the others, if there are any.
    pub fn is_serving(&self) -> bool {
        self.others.as_ref().is_none_or(|others| others.phase() == Phase::Serving)
    }

    /// Waits until all nodes know that clients of this one are in these channels: then a publish on any of them reaches
    /// them. None: they know already.
    pub fn told(&self, channels: &[Channel]) -> Option<impl Future<Output = ()> + Send + use<>> {
        let own = &self.others.as_ref()?.own;
        let waits: Vec<_> = channels.iter().filter_map(|channel| own.told(hash(channel.as_str()))).collect();
        let told = async |waits: Vec<oneshot::Receiver<()>>| {
            for wait in waits {
                // It is dropped only with the mesh.
                let _ = wait.await;
            }
        };
        if waits.is_empty() { None } else { Some(told(waits)) }
    }

    /// Publishes to these channels on the node that knows whether something with that id has been published, if it is not
    /// this one. Gives what it came to for each channel; nothing if that node did not answer.
    pub fn publish_once_elsewhere(
        &self,
        id: &str,
        (to, list): (&[Channel], bool),
        (message, options): (&Message, &PublishOptions),
    ) -> Option<impl Future<Output = Option<Vec<Counts>>> + Send + use<>> {
        let others = self.others.as_ref()?;
        let owner = others.owner_of(id)?;
        let channels = to.iter().map(Channel::as_str).collect();
        let (binary, data) = (message.kind() == Kind::Binary, message.data());
        let except = &protocol::longs(options.except.iter().map(ClientId::get));
        let (key, priority) = (options.key.as_ref().map(Key::as_str), options.priority as u8);
        let once = protocol::Message::PublishOnce { id, channels, list, binary, data, except, key, priority };
        let message = once.to_bytes();
        let mut owner = Remote::new(smallvec::smallvec![owner], others);
        // Who watches sees it where it was given, and not where it is done.
        let (told, bytes) = (publishes::are_watched().then(|| to.to_vec()), data.len());
        Some(async move {
            let (reply, counts) = oneshot::channel();
            let mut reply = Some(reply);
            owner.put(&message, || reply.take().map(Request::Once)).await;
            let counts: Option<Vec<Counts>> = counts.await.ok();
            for (at, channel) in told.into_iter().flatten().enumerate() {
                let missing = Counts { unanswered: 1, ..Counts::default() };
                let counts = counts.as_ref().and_then(|counts| counts.get(at)).copied().unwrap_or(missing);
                publishes::note(channel, bytes, Some(counts));
            }
            counts
        })
    }

    /// The other nodes that have subscribers of a channel, or may have some.
    fn others_of(&self, channel: &Channel) -> Remote {
        match &self.others {
            Some(others) if self.untold => Remote::new(others.all_links().into(), others),
            Some(others) => Remote::new(others.links_of(hash(channel.as_str())), others),
            None => Remote::default(),
        }
    }

    /// The other node that has a client; nobody: it is one of this node, or of none.
    fn other_of(&self, client: ClientId) -> Remote {
        match (&self.others, client.node()) {
            (Some(others), Some(node)) if node != self.hub.node() => {
                Remote::new(others.links_of_number(node.get()), others)
            }
            _ => Remote::default(),
        }
    }

    /// Where a client's node is.
    pub fn home_of(&self, client: ClientId) -> Home {
        match client.node() {
            Some(node) if node == self.hub.node() => Home::Here,
            _ if self.other_of(client).is_nobody() => Home::Elsewhere,
            _ => Home::Linked,
        }
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

    /// What a publication must not overtake: commands to subscribe these clients.
    pub fn behind(&self, clients: impl IntoIterator<Item = ClientId>) -> Behind {
        let mut behind = Behind::default();
        for client in clients {
            let other = self.other_of(client);
            match other.is_nobody() {
                true => behind.workers.add(self.hub.worker_of(client)),
                false => behind.others.extend(other.into_links()),
            }
        }
        behind
    }

    /// Publishes to every connection in a channel, and to none before what it must stay `behind`. Gives the receipt of
    /// its counts when all mailboxes have it; waits while one is full. Dropped before a mailbox has it, it is not
    /// published; from then on it is, whatever happens.
    pub fn publish(&self, publication: Publication, behind: Behind) -> impl Future<Output = Receipt> + Send + use<> {
        match self.hub.history().rule_of(publication.channel.as_str()) {
            Some(rule) => Either::Right(self.publish_by(rule, publication, behind)),
            None => {
                let told = Told::of(&publication);
                Either::Left(self.begin(ToChannel::Publish(Arc::new(publication)), behind, told))
            }
        }
    }

    /// Has every connection in a channel do something. Gives the receipt, as [`Mesh::publish`] does: how many it was for.
    pub fn command_channel(
        &self,
        channel: Channel,
        action: ChannelAction,
        behind: Behind,
    ) -> impl Future<Output = Receipt> + Send + use<> {
        self.begin(ToChannel::Command(Arc::new(ChannelCommand { channel, action })), behind, None)
    }

    fn begin(
        &self,
        what: ToChannel,
        behind: Behind,
        told: Option<Told>,
    ) -> impl Future<Output = Receipt> + Send + use<> {
        let (pending_counts, counts) = PendingCounts::new();
        let (so_far, hub) = (pending_counts.so_far(), self.hub.clone());
        let enqueued = self.enqueue(what, behind, pending_counts);
        enqueued.map(move |workers| Receipt::new(hub, workers, counts, so_far, told))
    }

    /// Publishes without counts, for less.
    pub fn publish_uncounted(&self, publication: Publication) -> impl Future<Output = ()> + Send + use<> {
        if let Some(told) = Told::of(&publication) {
            told.uncounted();
        }
        let ignored = PendingCounts::ignored();
        match self.hub.history().rule_of(publication.channel.as_str()) {
            Some(rule) => Either::Right(self.enqueue_by(rule, publication, Behind::default(), ignored).map(drop)),
            None => {
                let what = ToChannel::Publish(Arc::new(publication));
                Either::Left(self.enqueue(what, Behind::default(), ignored).map(drop))
            }
        }
    }

    /// The workers whose mailboxes have it.
    fn enqueue(
        &self,
        what: ToChannel,
        behind: Behind,
        pending_counts: PendingCounts,
    ) -> impl Future<Output = WorkerSet> + Send + use<> {
        let mut workers = self.hub.workers_of(what.channel().as_str());
        behind.workers.iter().for_each(|worker| workers.add(worker));
        if let Some(missed) = self.others.as_ref().map(|others| others.missed() as u64).filter(|missed| *missed > 0) {
            pending_counts.ack().settle(Counts { unanswered: missed, ..Counts::default() });
        }
        let mut others = self.others_of(what.channel());
        if let Some(shared) = self.others.as_ref().filter(|_| !behind.others.is_empty()) {
            others.add(behind.others, shared);
        }
        put_all(self.hub.clone(), workers, what, pending_counts, others)
    }

    /// Sends to one client. Gives the receipt when the mailbox of its worker has the message, or the link to its node; waits
    /// while that is full.
    pub fn send(&self, client: ClientId, message: Message) -> impl Future<Output = SendReceipt> + Send + use<> {
        let (hub, mut other) = (self.hub.clone(), self.other_of(client));
        async move {
            let (pending_counts, counts) = PendingCounts::new();
            if !other.is_nobody() {
                let (binary, data) = (message.kind() == Kind::Binary, message.data());
                let message = protocol::Message::Send { client: client.get(), binary, data }.to_bytes();
                Box::pin(other.put(&message, || Some(Request::Counts(pending_counts.ack())))).await;
                return SendReceipt::new(hub, None, counts);
            }
            let worker = hub.worker_of(client);
            put(hub.mailbox(worker), Delivery::Send(client, message, pending_counts.ack())).await;
            SendReceipt::new(hub, Some(worker), counts)
        }
    }

    /// Has one client's connection do something. Gives the receipt when the mailbox of its worker has the command, or the
    /// link to its node; waits while that is full.
    pub fn command(
        &self,
        client: ClientId,
        command: ConnCommand,
    ) -> impl Future<Output = CommandReceipt> + Send + use<> {
        let mut other = self.other_of(client);
        let (hub, here) = (self.hub.clone(), other.is_nobody().then(|| self.command_here(client, command.clone())));
        async move {
            if let Some(here) = here {
                return here.await;
            }
            let (done, reply) = oneshot::channel();
            let command = command::encode(&command);
            let message = protocol::Message::Command { client: client.get(), command: &command }.to_bytes();
            let mut done = Some(done);
            Box::pin(other.put(&message, || done.take().map(|done| Request::Command(client, done)))).await;
            CommandReceipt::new(hub, client, None, reply, None)
        }
    }

    /// The same for a client of this node.
    pub(in crate::cluster) fn command_here(
        &self,
        client: ClientId,
        command: ConnCommand,
    ) -> impl Future<Output = CommandReceipt> + Send + use<> {
        let hub = self.hub.clone();
        let subscribed = match (&command, &self.others) {
            (ConnCommand::Subscribe(channels), Some(others)) => Some(Subscribed::new(others.clone(), channels.clone())),
            _ => None,
        };
        async move {
            let (done, reply) = oneshot::channel();
            let worker = hub.worker_of(client);
            put(hub.mailbox(worker), Delivery::ConnCommand(client, command, done)).await;
            CommandReceipt::new(hub, client, Some(worker), reply, subscribed)
        }
    }
}

#[cfg(test)]
mod tests;
