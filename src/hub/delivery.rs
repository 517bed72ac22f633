//! The contents of workers' mailboxes.

use std::sync::Arc;

use super::command::{CommandReply, ConnCommand};
use super::pending::Ack;
use crate::ids::ClientId;
use crate::message::{Channel, Message};

/// A message on its way to all of a channel's connections.
#[derive(Debug)]
pub struct Publication {
    /// The channel.
    pub channel: Channel,
    /// What to deliver.
    pub message: Message,
}

/// One item in a worker's mailbox. The other way into a worker is its control lane.
pub enum Delivery {
    /// To all connections of this worker that are in the channel.
    Publish(Arc<Publication>, Ack),
    /// To one connection of this worker.
    Send(ClientId, Message, Ack),
    /// To one connection of this worker: a command to apply.
    ConnCommand(ClientId, ConnCommand, CommandReply),
}

impl Delivery {
    /// The bytes it counts for in a mailbox: its payload and its own size.
    pub(super) fn weight(&self) -> usize {
        128 + match self {
            Delivery::Publish(publication, _) => publication.message.data().len(),
            Delivery::Send(_, message, _) => message.data().len(),
            Delivery::ConnCommand(_, order, _) => order.weight(),
        }
    }
}
