//! Calls about all connections of a channel: `mesh.count` and `mesh.close`. Knows no HTTP, so that all transports share
//! it. Like a publish they take two stages: into the mailboxes, then the answer.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::future::Future;

use super::call::is_none;
use super::command::close_args;
use super::error::ApiError;
use super::fields::{Field, Identified, RequestId, addressee, channel_list, invalid, is_given, list_or_one, read};
use crate::cluster::{Behind, CommandReceipt, Mesh, Receipt};
use crate::hub::{ChannelAction, CommandError, ConnCommand, Counts};
use crate::ids::ClientId;
use crate::message::Channel;

/// A call whose parameters have been checked.
pub(super) enum ChannelCall {
    /// How many connections are in these channels?
    Count(Vec<Channel>),
    /// Close all connections of these channels.
    Close(Vec<Channel>, ChannelAction),
    /// Close one client; none: its id is none of ours.
    CloseClient(Option<ClientId>, ConnCommand),
}

/// What a call came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Counted {
    /// `mesh.count`
    Count {
        /// Connections. One that is in several of the channels counts for each.
        n: u64,
        /// Nodes that did not answer in time.
        #[serde(skip_serializing_if = "is_none")]
        u: u64,
    },
    /// `mesh.close`
    Close {
        /// Connections that are told to close.
        s: u64,
        /// Nodes that did not answer in time.
        #[serde(skip_serializing_if = "is_none")]
        u: u64,
    },
}

/// A call that the mailboxes have.
pub(super) enum Enqueued {
    /// One receipt for each channel.
    Count(Vec<Receipt>),
    /// The same.
    Close(Vec<Receipt>),
    /// A command to one client; none: there is no such client.
    CloseClient(Option<CommandReceipt>),
}

const EXAMPLE: &str = r#"{"c": "channel"}"#;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Params<'a> {
    #[serde(borrow, deserialize_with = "list_or_one")]
    c: Option<Field<'a>>,
    #[serde(borrow, deserialize_with = "list_or_one")]
    ch: Option<Field<'a>>,
    code: Option<Json>,
    reason: Option<Json>,
    #[serde(borrow)]
    i: Option<Field<'a>>,
}

impl Identified for Params<'_> {
    fn id(&self) -> &Option<Field<'_>> {
        &self.i
    }
}

impl Params<'_> {
    fn close(self) -> Result<ChannelCall, ApiError> {
        let (code, reason) = close_args(self.code, self.reason)?;
        match (is_given(&self.c), is_given(&self.ch)) {
            (false, true) => {
                Ok(ChannelCall::Close(channel_list(&self.ch, "ch")?, ChannelAction::Close { code, reason }))
            }
            (_, false) => Ok(ChannelCall::CloseClient(addressee(&self.c)?.ok(), ConnCommand::Close { code, reason })),
            (true, true) => {
                Err(invalid("either field \"c\" (client_id) or field \"ch\" (channel) is expected, not both"))
            }
        }
    }
}

impl ChannelCall {
    /// Reads the parameters of `mesh.count`; `what` names them in error messages. With the caller's request id.
    pub(super) fn count(text: &[u8], what: &str) -> (Result<ChannelCall, ApiError>, Option<RequestId>) {
        read((text, what, EXAMPLE), |params: Params<'_>| Ok(ChannelCall::Count(channel_list(&params.c, "c")?)))
    }

    /// Reads the parameters of `mesh.close`, as [`ChannelCall::count`] does.
    pub(super) fn close(text: &[u8], what: &str) -> (Result<ChannelCall, ApiError>, Option<RequestId>) {
        read((text, what, EXAMPLE), Params::close)
    }

    /// Puts it into the mailboxes; none of it before what it must stay `behind`.
    pub(super) fn begin(self, mesh: &Mesh, behind: Behind) -> impl Future<Output = Enqueued> + use<> {
        let of_channels = |channels: Vec<Channel>, action: ChannelAction| -> Vec<_> {
            let begin = |channel| mesh.command_channel(channel, action.clone(), behind.clone());
            channels.into_iter().map(begin).collect()
        };
        let (receipts, command, counts) = match self {
            ChannelCall::Count(channels) => (of_channels(channels, ChannelAction::Count), None, true),
            ChannelCall::Close(channels, action) => (of_channels(channels, action), None, false),
            ChannelCall::CloseClient(client, command) => {
                (Vec::new(), Some(client.map(|client| mesh.command(client, command))), false)
            }
        };
        async move {
            let mut enqueued = Vec::with_capacity(receipts.len());
            for receipt in receipts {
                enqueued.push(receipt.await);
            }
            match command {
                Some(Some(command)) => Enqueued::CloseClient(Some(command.await)),
                Some(None) => Enqueued::CloseClient(None),
                None if counts => Enqueued::Count(enqueued),
                None => Enqueued::Close(enqueued),
            }
        }
    }
}

impl Enqueued {
    /// The answer.
    pub(super) async fn outcome(self) -> Result<Counted, ApiError> {
        let sum = async |receipts: Vec<Receipt>| {
            let mut sum = Counts::default();
            for receipt in receipts {
                sum += receipt.await;
            }
            sum
        };
        Ok(match self {
            Enqueued::Count(receipts) => {
                let counts = sum(receipts).await;
                Counted::Count { n: counts.reached, u: counts.unanswered }
            }
            Enqueued::Close(receipts) => {
                let counts = sum(receipts).await;
                Counted::Close { s: counts.reached, u: counts.unanswered }
            }
            Enqueued::CloseClient(None) => Counted::Close { s: 0, u: 0 },
            Enqueued::CloseClient(Some(receipt)) => match receipt.await {
                Ok(()) => Counted::Close { s: 1, u: 0 },
                Err(CommandError::NotConnected(_) | CommandError::Closing(_)) => Counted::Close { s: 0, u: 0 },
                Err(error) => return Err(ApiError::NotObeyed(error)),
            },
        })
    }
}
