//! What a back end can tell one connection to do, besides taking a message.

use tokio::sync::oneshot;

use crate::message::Channel;
use crate::value::Value;

/// Something that a connection is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
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

impl Order {
    /// The bytes it counts for in a mailbox.
    pub(super) fn weight(&self) -> usize {
        match self {
            Order::SetContext(values) => values.iter().map(|(key, value)| key.len() + value.weight()).sum(),
            Order::Subscribe(channels) | Order::Unsubscribe(channels) => {
                channels.iter().map(|channel| size_of::<Channel>() + channel.as_str().len()).sum()
            }
            Order::Close { reason, .. } => reason.len(),
        }
    }
}

/// Where the outcome of an order goes: nothing, or what failed. Dropped unused, it says that there is no such client.
pub type Obeyed = oneshot::Sender<Result<(), String>>;
