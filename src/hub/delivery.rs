//! The contents of workers' mailboxes.

use std::sync::Arc;
use tokio::sync::oneshot;

use super::command::{ChannelCommand, CommandReply, ConnCommand};
use super::history::{At, Position};
use super::pending::Ack;
use super::question::{AnswerTo, Question};
use crate::ids::{ClientId, NodeId};
use crate::message::{Channel, Key, Message};

/// A message on its way to all of a channel's connections.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The channel.
    pub channel: Channel,
    /// What to deliver.
    pub message: Message,
    /// What its publisher wants besides.
    pub options: PublishOptions,
    /// It tells that the one connection that it leaves out came to the channel, or went: it is not among the channel's messages.
    pub moved: Option<Moved>,
    /// Where it stands among the channel's messages, if they have an order.
    pub position: Option<Position>,
    /// So many publishes that were alike and over the channel's limit: they were added up. None: it is a single one.
    pub count: Option<u64>,
}

/// What a connection did in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It came.
    Came,
    /// It went.
    Went,
}

/// What the publisher of a message may want besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishOptions {
    /// Who is left out.
    pub except: Except,
    /// What the message is about, where the channel's rule asks for it.
    pub key: Option<Key>,
    /// How much it matters, where the channel's rule has a limit.
    pub priority: Priority,
}

/// How much a message matters among those of its channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Priority {
    /// It is the first to be left out.
    Low,
    /// As most.
    #[default]
    Normal,
    /// It is the last to be left out.
    High,
}

impl Priority {
    const ALL: [(Priority, &str); 3] = [(Priority::Low, "low"), (Priority::Normal, "normal"), (Priority::High, "high")];

    /// The word that scripts and back ends use.
    pub fn as_str(self) -> &'static str {
        Priority::ALL[self as usize].1
    }

    /// Reads the word that scripts and back ends use.
    pub fn parse(word: &[u8]) -> Option<Priority> {
        Priority::ALL.iter().find(|(_, known)| known.as_bytes() == word).map(|(priority, _)| *priority)
    }

    /// That of a number, as nodes tell it each other.
    pub fn of(number: u8) -> Option<Priority> {
        Priority::ALL.get(usize::from(number)).map(|(priority, _)| *priority)
    }
}

impl Publication {
    /// A message to all connections of a channel.
    pub fn new(channel: Channel, message: Message) -> Publication {
        Publication { channel, message, options: PublishOptions::default(), moved: None, count: None, position: None }
    }

    /// The same with these options.
    pub fn with(self, options: PublishOptions) -> Publication {
        Publication { options, ..self }
    }

    /// The bytes that it counts for in a mailbox.
    pub(super) fn weight(&self) -> usize {
        let PublishOptions { except, key, .. } = &self.options;
        let key = key.as_ref().map_or(0, |key| key.as_str().len());
        WEIGHT + self.message.data().len() + except.0.len() * size_of::<ClientId>() + key
    }
}

/// What each delivery counts for besides its payload.
const WEIGHT: usize = 128;

/// Clients that a publication leaves out: the one who caused it, say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Except(Box<[ClientId]>);

/// The most clients that a publication leaves out.
pub const MAX_EXCEPT: usize = 1000;

impl Except {
    /// These clients; the callers bound their number to [`MAX_EXCEPT`].
    pub fn new(clients: impl IntoIterator<Item = ClientId>) -> Except {
        let mut clients: Box<[ClientId]> = clients.into_iter().collect();
        clients.sort_unstable();
        Except(clients)
    }

    /// Whether nobody is left out.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a client is left out.
    pub fn contains(&self, client: ClientId) -> bool {
        !self.0.is_empty() && self.0.binary_search(&client).is_ok()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = ClientId> {
        self.0.iter().copied()
    }
}

/// What a channel has kept for a connection that comes into it. Until the connection has it, it gets nothing of the channel;
/// what is behind it in the mailbox is newer.
pub struct Backlog {
    /// The connection.
    pub client: ClientId,
    /// The channel.
    pub channel: Channel,
    /// Which of the connection's subscribes waits for it.
    pub ticket: u64,
    /// The messages, as the channel's connections get them.
    pub messages: Vec<Message>,
    /// Where the connection is with them.
    pub at: At,
    /// Who waits until the connection has it.
    pub done: oneshot::Sender<At>,
}

/// One item in a worker's mailbox. The other way into a worker is its control lane.
pub enum Delivery {
    /// To all connections of this worker that are in the channel.
    Publish(Arc<Publication>, Ack),
    /// To all connections of this worker that are in the channel: a command. The ack counts those that it was for.
    ChannelCommand(Arc<ChannelCommand>, Ack),
    /// To one connection of this worker.
    Send(ClientId, Message, Ack),
    /// To one connection of this worker: a command to apply.
    ConnCommand(ClientId, ConnCommand, CommandReply),
    /// To one connection of this worker: what a channel has kept.
    Backlog(Box<Backlog>),
    /// What does this worker know of it? With the id of this node.
    Ask(Arc<Question>, NodeId, AnswerTo),
}

impl Delivery {
    /// The bytes it counts for in a mailbox: its payload and its own size.
    pub(super) fn weight(&self) -> usize {
        WEIGHT
            + match self {
                Delivery::Publish(publication, _) => return publication.weight(),
                Delivery::ChannelCommand(command, _) => command.weight(),
                Delivery::Send(_, message, _) => message.data().len(),
                Delivery::ConnCommand(_, order, _) => order.weight(),
                Delivery::Backlog(backlog) => backlog.messages.iter().map(|message| message.data().len()).sum(),
                Delivery::Ask(question, ..) => question.weight(),
            }
    }
}
