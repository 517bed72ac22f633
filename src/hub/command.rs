//! Connection commands: what a back end can tell one connection to do, apart from taking a message.

use tokio::sync::oneshot;

use crate::ids::{ClientId, WorkerId};
use crate::message::Channel;
use crate::value::Value;

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
}

impl ConnCommand {
    /// How many entries it changes: what it takes to apply it, compared with deliveries to connections.
    pub fn entries(&self) -> usize {
        match self {
            ConnCommand::SetContext(values) => values.len(),
            ConnCommand::Subscribe(channels) | ConnCommand::Unsubscribe(channels) => channels.len(),
            ConnCommand::Close { .. } => 1,
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
    /// The command would break a limit of the connection or of the engine; the sentence names it.
    #[error("{0}")]
    Bound(String),
}

/// Where the outcome of a command goes. Dropped unused, it says that there is no such client.
pub type CommandReply = oneshot::Sender<Result<(), CommandError>>;
