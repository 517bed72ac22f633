//! What other nodes have for the clients of this one: from the mesh's thread into the workers' mailboxes.

use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, future::BoxFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use super::command;
use super::enqueue::{Remote, ToChannel, put, put_all};
use super::follow::{Came, OrderedChannels};
use super::node::{Clients, CommandReply, Delivery, Payload, Waiting};
use super::protocol::read_longs;
use super::{Mesh, look_again};
use crate::hub::{
    self, Answer, ChannelCommand, ConnCommand, Counts, Except, Hub, MAX_EXCEPT, Moved, PastPublish, PendingCounts,
    Priority, Publication, PublishOptions, Question, WorkerSet,
};
use crate::ids::{ClientId, WorkerId};
use crate::message::{Channel, Key, Kind, Message};

/// Commands, questions, and publishes that are done once, of all other nodes together, that may be under way. Many more than links let come
/// at once.
const UNDER_WAY: usize = 1 << 18;

/// The channels of a publish.
pub struct Channels {
    /// At least one.
    pub channels: Vec<Channel>,
    /// They came as a list, and so go the counts.
    pub list: bool,
}

/// What publishes once only.
pub trait PublishOnce: Send + Sync {
    /// Publishes to these channels, unless something with that id has been published: then gives what that came to.
    fn publish(
        &self,
        id: Arc<str>,
        to: Channels,
        message: Message,
        options: PublishOptions,
    ) -> BoxFuture<'static, Vec<Counts>>;

    /// What came of the publish with that id, as far as this node remembers.
    fn find(&self, id: &str) -> Option<PastPublish>;
}

/// This node's clients, as the mesh sees them.
pub struct LocalClients {
    once: Arc<dyn PublishOnce>,
    mesh: Arc<Mesh>,
    /// How many each server has.
    counts: Vec<Arc<AtomicUsize>>,
    /// Commands that are carried out, with the worker of each that subscribes a client, and publishes that are done once.
    commands: FuturesUnordered<BoxFuture<'static, Option<WorkerId>>>,
    /// How many commands that subscribe are under way on each worker. Publications that come meanwhile go behind them.
    joining: Vec<usize>,
    /// The channels whose messages have an order.
    ordered: OrderedChannels,
}

impl LocalClients {
    /// Those of a mesh.
    pub fn new(mesh: Arc<Mesh>, counts: Vec<Arc<AtomicUsize>>, once: Arc<dyn PublishOnce>) -> LocalClients {
        let joining = vec![0; mesh.hub.workers()];
        let ordered = OrderedChannels::new(mesh.nodes());
        LocalClients { once, mesh, counts, commands: FuturesUnordered::new(), joining, ordered }
    }

    fn hub(&self) -> &Arc<Hub> {
        &self.mesh.hub
    }

    /// The workers that are about to have subscribers.
    fn joining(&self) -> WorkerSet {
        let mut workers = WorkerSet::default();
        let joining = self.joining.iter().enumerate().filter(|(_, commands)| **commands > 0);
        joining.for_each(|(worker, _)| workers.add(WorkerId(worker as u16)));
        workers
    }

    /// Puts something for a channel into the mailboxes of the workers that have subscribers, or are about to.
    fn put(&self, what: ToChannel, counts: Option<PendingCounts>) -> Option<Waiting> {
        let mut workers = self.hub().workers_of(what.channel().as_str());
        self.joining().iter().for_each(|worker| workers.add(worker));
        // Nobody: what is counted is settled as nothing.
        workers.first()?;
        let counts = counts.unwrap_or_else(|| PendingCounts::ignored().forwarded());
        begun(put_all(self.hub().clone(), workers, what, counts, Remote::default()).map(drop))
    }
}

fn message(binary: bool, data: bytes::Bytes) -> Option<Message> {
    // Text was checked where it came in; it is checked again, since it comes from outside.
    Message::new(if binary { Kind::Binary } else { Kind::Text }, data).ok()
}

/// A message, and what its publisher wants besides. If that is more than the node that it came from allows, it is none.
fn publication(Payload { binary, data, except, key, priority }: Payload) -> Option<(Message, PublishOptions)> {
    let left_out = read_longs(&except).take(MAX_EXCEPT).map(ClientId::new).collect::<Option<Vec<_>>>()?;
    let key = key.map(|key| Key::parse(key.as_bytes())).transpose().ok()?;
    Some((
        message(binary, data)?,
        PublishOptions { except: Except::new(left_out), key, priority: Priority::of(priority)? },
    ))
}

/// Polled once: there is nearly always room.
fn begun(future: impl Future<Output = ()> + Send + 'static) -> Option<Waiting> {
    let mut future: Waiting = Box::pin(future);
    match future.as_mut().now_or_never() {
        Some(()) => None,
        None => Some(future),
    }
}

impl Clients for LocalClients {
    fn deliver(&mut self, delivery: Delivery) -> Option<Waiting> {
        match delivery {
            Delivery::Publish { channel, message, counts } => {
                let channel = Channel::parse(channel.as_bytes()).ok()?;
                let (message, options) = publication(message)?;
                self.put(ToChannel::Publish(Arc::new(Publication::new(channel, message).with(options))), counts)
            }
            Delivery::Moved { channel, data, client, came } => {
                let channel = Channel::parse(channel.as_bytes()).ok()?;
                let options =
                    PublishOptions { except: Except::new(ClientId::new(client)), ..PublishOptions::default() };
                let moved = Some(if came { Moved::Came } else { Moved::Went });
                let publication = Publication::new(channel, message(false, data)?).with(options);
                self.put(ToChannel::Publish(Arc::new(Publication { moved, ..publication })), None)
            }
            Delivery::ChannelCommand { channel, action, counts } => {
                let channel = Channel::parse(channel.as_bytes()).ok()?;
                action.is_valid().then_some(())?;
                self.put(ToChannel::Command(Arc::new(ChannelCommand { channel, action })), counts)
            }
            Delivery::Send { client, binary, data, counts } => {
                let (client, message) = (ClientId::new(client)?, message(binary, data)?);
                let ack = counts.unwrap_or_else(|| PendingCounts::ignored().forwarded()).ack();
                let hub = self.hub().clone();
                let worker = hub.worker_of(client);
                begun(async move {
                    put(hub.mailbox(worker), hub::Delivery::Send(client, message, ack)).await;
                })
            }
            // What is lost shows as a gap.
            Delivery::Ordered { .. } if self.commands.len() >= UNDER_WAY => None,
            // Who asked is told that it was not answered.
            Delivery::Once { .. } | Delivery::Ask { .. } if self.commands.len() >= UNDER_WAY => None,
            Delivery::Command { reply, .. } if self.commands.len() >= UNDER_WAY => {
                reply.answer(Some("its node has too many commands under way"), 0);
                None
            }
            Delivery::Once { id, channels, list, message, reply } => {
                let channels: Option<Vec<Channel>> =
                    channels.iter().map(|channel| Channel::parse(channel.as_bytes()).ok()).collect();
                let to = Channels { channels: channels?, list };
                let (message, options) = publication(message)?;
                let publish = self.once.publish(id.into(), to, message, options);
                let answered = async move {
                    reply.answer(&publish.await);
                    None
                };
                self.commands.push(answered.boxed());
                None
            }
            Delivery::Ordered { channel, body, from, epoch, request } => {
                let (behind, commands) = (self.joining(), &mut self.commands);
                self.ordered.came((&channel, &body), Came { from, epoch, request }, behind, &mut |later| {
                    commands.push(later.map(|()| None).boxed());
                })
            }
            Delivery::Stirred { channel, ago } => {
                let channel = Channel::parse(channel.as_bytes()).ok()?;
                self.hub().rooms().to_tell(channel, ago.map(Duration::from_millis));
                None
            }
            Delivery::Online { channel, count } => {
                let channel = Channel::parse(channel.as_bytes()).ok()?;
                begun(self.mesh.tell_here(&channel, count)?)
            }
            Delivery::Ask { question: Question::Publish(id), reply } => {
                reply.answer(&Answer { publish: self.once.find(&id).map(Box::new), ..Answer::default() });
                None
            }
            Delivery::Ask { question, reply } => {
                let asked = self.mesh.ask_here(question);
                let answered = async move {
                    reply.answer(&asked.await.await);
                    None
                };
                self.commands.push(answered.boxed());
                None
            }
            Delivery::Command { client, command, reply } => {
                let Some((client, command)) = ClientId::new(client).zip(command::decode(&command)) else {
                    reply.answer(Some("the command is malformed"), 0);
                    return None;
                };
                // Carried out beside what comes next, but enqueued before it.
                let joining = matches!(command, ConnCommand::Subscribe(_)).then(|| self.hub().worker_of(client));
                joining.iter().for_each(|worker| self.joining[usize::from(worker.0)] += 1);
                let mut enqueued = self.mesh.command_here(client, command).boxed();
                let receipt = (&mut enqueued).now_or_never();
                let answered = async move {
                    let receipt = match receipt {
                        Some(receipt) => receipt,
                        None => enqueued.await,
                    };
                    answer(receipt, reply).await;
                    joining
                };
                self.commands.push(answered.boxed());
                None
            }
        }
    }

    fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed) as u64).sum()
    }

    fn began(&mut self, run: u64, epoch: u32) {
        self.ordered.began((run, epoch));
    }

    fn hold(&mut self, held: bool) {
        self.ordered.hold(held);
    }

    fn is_at_rest(&self) -> bool {
        self.commands.is_empty() && self.ordered.is_at_rest()
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        if self.hub().stuck().next().is_some() {
            // They wait for workers that may be stuck.
            look_again();
        }
        let commands = &mut self.commands;
        self.ordered.poll(cx, &mut |later| commands.push(later.map(|()| None).boxed()));
        while let Poll::Ready(Some(joined)) = Pin::new(&mut self.commands).poll_next_unpin(cx) {
            joined.iter().for_each(|worker| self.joining[usize::from(worker.0)] -= 1);
        }
    }
}

async fn answer(receipt: super::CommandReceipt, reply: CommandReply) {
    match receipt.await {
        Ok(()) => reply.answer(None, 0),
        Err(error) => reply.answer(Some(&error.to_string()), 0),
    }
}
