//! Commands: what a back end can tell one connection, or all connections of a channel, to do, apart from taking a message.

use tokio::sync::oneshot;

use crate::ids::{ClientId, WorkerId};
use crate::message::close_code::may_be_sent;
use crate::message::{Channel, Message};
use crate::secret::token::Token;
use crate::telemetry::spans::TraceContext;
use crate::value::Value;
use crate::wire::frame::MAX_REASON;

/// A connection command.
#[derive(Debug, Clone, PartialEq)]
pub enum ConnCommand {
    /// Set these values of its context; [`Value::Nil`] removes one.
    SetContext(Vec<(String, Value)>),
    /// Enter these channels.
    Subscribe(Vec<Channel>),
    /// Leave these channels.
    Unsubscribe(Vec<Channel>),
    /// Close, once what was sent before has gone out.
    Close {
        /// The close code, one that an endpoint may send.
        code: u16,
        /// The reason, at most 123 bytes.
        reason: Box<str>,
    },
    /// Take a message that the client of an event stream has sent by a request of its own.
    Receive {
        /// What the client was told, and nobody else.
        token: Token,
        /// What it sent.
        message: Message,
        /// The trace that this message belongs to, if its request has named one. It does not go to other nodes.
        trace: Option<Box<TraceContext>>,
    },
}

impl ConnCommand {
    /// How many entries it changes: what it takes to apply it, compared with deliveries to connections.
    pub fn entries(&self) -> usize {
        match self {
            ConnCommand::SetContext(values) => values.len(),
            ConnCommand::Subscribe(channels) | ConnCommand::Unsubscribe(channels) => channels.len(),
            ConnCommand::Close { .. } | ConnCommand::Receive { .. } => 1,
        }
    }

    /// The bytes it counts for in a mailbox.
    pub(super) fn weight(&self) -> usize {
        match self {
            ConnCommand::SetContext(values) => values.iter().map(|(key, value)| key.len() + value.weight()).sum(),
            ConnCommand::Subscribe(channels) | ConnCommand::Unsubscribe(channels) => {
                channels.iter().map(|channel| size_of::<Channel>() + channel.as_str().len()).sum()
            }
            ConnCommand::Close { reason, .. } => reason.len(),
            ConnCommand::Receive { message, trace, .. } => {
                message.data().len() + trace.as_ref().map_or(0, |trace| trace.bytes())
            }
        }
    }
}

/// A command to all connections of a channel.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelCommand {
    /// The channel.
    pub channel: Channel,
    /// What to do.
    pub action: ChannelAction,
}

/// What all connections of a channel are to do.
#[derive(Debug, Clone, PartialEq)]
pub enum ChannelAction {
    /// Nothing: they are only counted.
    Count,
    /// Close, once what was sent before has gone out.
    Close {
        /// The close code, one that an endpoint may send.
        code: u16,
        /// The reason, at most 123 bytes.
        reason: Box<str>,
    },
}

impl ChannelAction {
    /// Whether its parts are within their bounds: another node may have sent it.
    pub fn is_valid(&self) -> bool {
        match self {
            ChannelAction::Count => true,
            ChannelAction::Close { code, reason } => may_be_sent(*code) && reason.len() <= MAX_REASON,
        }
    }
}

impl ChannelCommand {
    /// The bytes it counts for in a mailbox.
    pub(super) fn weight(&self) -> usize {
        match &self.action {
            ChannelAction::Count => 0,
            ChannelAction::Close { reason, .. } => reason.len(),
        }
    }
}

/// Why a connection has not applied a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no client with that id, or not any more.
    #[error("client {0} is not connected")]
    NotConnected(u64),
    /// The client's connection is about to end.
    #[error("client {0} is closing")]
    Closing(ClientId),
    /// The client is connected, but its worker is stuck. The command may be applied once the worker goes on.
    #[error("worker {}, which serves client {client}, is stuck", worker.0)]
    Stuck {
        /// The client.
        client: ClientId,
        /// Its worker.
        worker: WorkerId,
    },
    /// The client is on another node, which did not answer in time or can't be reached. The command may be applied all
    /// the same.
    #[error("the node of client {0} does not answer")]
    Unanswered(ClientId),
    /// Too many messages of this client wait for its handler.
    #[error("too much of what client {0} has sent waits for its handler")]
    Busy(ClientId),
    /// The command would break a limit of the connection or of the engine; the sentence names it.
    #[error("{0}")]
    Bound(String),
}

impl CommandError {
    /// The error with that text, as another node has said it of a command to that client.
    pub fn read(client: ClientId, text: &str) -> CommandError {
        [CommandError::NotConnected(client.get()), CommandError::Closing(client), CommandError::Busy(client)]
            .into_iter()
            .find(|error| error.to_string() == text)
            .unwrap_or_else(|| CommandError::Bound(text.to_owned()))
    }
}

/// Where the outcome of a command goes. Dropped unused, it says that there is no such client.
pub type CommandReply = oneshot::Sender<Result<(), CommandError>>;
