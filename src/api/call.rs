//! The calls of the mesh and their replies. Knows no HTTP, so that all transports share it.

use std::fmt;

use super::error::ApiError;
use super::fields::Addressee;
use crate::cluster::Mesh;
use crate::hub::history::Position;
use crate::hub::{CommandError, ConnCommand, Counts};
use crate::ids::ClientId;
use crate::telemetry::metrics::labels::ApiCall;

/// The calls that HTTP carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `mesh.publish`
    Publish,
    /// `mesh.send`
    Send,
    /// `mesh.count`
    Count,
    /// `mesh.close`
    Close,
    /// `mesh.presence`
    Presence,
    /// `mesh.history`
    History,
    /// `conn.call`
    Conn,
}

/// Where each is.
const PATHS: [(&str, Call); 7] = [
    ("/v1/mesh/publish", Call::Publish),
    ("/v1/mesh/send", Call::Send),
    ("/v1/mesh/count", Call::Count),
    ("/v1/mesh/close", Call::Close),
    ("/v1/mesh/presence", Call::Presence),
    ("/v1/mesh/history", Call::History),
    ("/v1/conn/call", Call::Conn),
];

impl Call {
    /// The label that it is counted under.
    pub fn label(self) -> ApiCall {
        match self {
            Call::Publish => ApiCall::Publish,
            Call::Send => ApiCall::Send,
            Call::Count => ApiCall::Count,
            Call::Close => ApiCall::Close,
            Call::Presence => ApiCall::Presence,
            Call::History => ApiCall::History,
            Call::Conn => ApiCall::Conn,
        }
    }

    /// Where it is.
    pub(super) fn path(self) -> &'static str {
        PATHS.iter().find(|(_, call)| *call == self).map_or("", |(path, _)| path)
    }

    /// The call at that path.
    pub fn find(path: &str) -> Option<Call> {
        PATHS.iter().find(|(known, _)| *known == path).map(|(_, call)| *call)
    }
}

/// The error for a message that was not sent.
pub(super) fn not_sent(client: impl fmt::Display) -> ApiError {
    ApiError::NotSent(format!("client {client} is not connected, or can't take the message"))
}

/// The reply to `mesh.publish`: how many connections were reached and how many were not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Published {
    /// Connections reached.
    pub s: u64,
    /// Connections not reached.
    pub f: u64,
    /// Nodes that did not answer in time; left out where there are none.
    #[serde(skip_serializing_if = "is_none")]
    pub u: u64,
    /// Where the message stands in the order of its channel; left out where that has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p: Option<Position>,
    /// 1: it was over the limit of its channel, and left out or added to others; left out where it was not.
    #[serde(skip_serializing_if = "is_none")]
    pub l: u64,
    /// 1: it was added to others, which are delivered with their number; left out where it was not.
    #[serde(skip_serializing_if = "is_none")]
    pub m: u64,
}

/// Whether the number is zero, so that its field is left out.
pub(super) fn is_none(number: &u64) -> bool {
    *number == 0
}

/// The reply to a publish that may have named several channels.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub(super) enum Outcome {
    /// The counts for the one channel that was named.
    One(Published),
    /// The counts for each channel of a list, in its order.
    Each(Vec<Published>),
}

impl Outcome {
    /// The counts for each channel.
    pub(super) fn as_slice(&self) -> &[Published] {
        match self {
            Outcome::One(published) => std::slice::from_ref(published),
            Outcome::Each(published) => published,
        }
    }
}

impl From<Counts> for Published {
    fn from(Counts { reached, failed, unanswered, at, left_out, merged }: Counts) -> Published {
        Published { s: reached, f: failed, u: unanswered, p: at, l: left_out, m: merged }
    }
}

impl From<Published> for Counts {
    fn from(Published { s, f, u, p, l, m }: Published) -> Counts {
        Counts { reached: s, failed: f, unanswered: u, at: p, left_out: l, merged: m }
    }
}

/// The reply to `mesh.send` and `conn.call`: always true, since a failure is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Sent {
    /// Sent.
    pub s: bool,
}

/// Has one client's connection do something.
pub(super) async fn command(mesh: &Mesh, (client, command): (Addressee, ConnCommand)) -> Result<Sent, ApiError> {
    let client = client.map_err(|n| ApiError::NotObeyed(CommandError::NotConnected(n)))?;
    let receipt = mesh.command(client, command).await;
    receipt.await.map(|()| Sent { s: true }).map_err(ApiError::NotObeyed)
}

/// What a send came to.
pub(super) fn sent(client: ClientId, is_sent: bool) -> Result<Sent, ApiError> {
    if is_sent { Ok(Sent { s: true }) } else { Err(not_sent(client)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::labels::Label;

    #[test]
    fn every_call_is_in_the_documents_and_has_its_name_in_the_path() {
        let (document, page) = (include_str!("../../docs/openapi.yaml"), include_str!("../../docs/server-api.md"));
        for (path, call) in PATHS {
            assert!(document.contains(&format!("\n  {path}:\n")), "docs/openapi.yaml lacks {path}");
            assert!(page.contains(&format!("## POST {path}\n")), "docs/server-api.md lacks {path}");
            assert_eq!(path, format!("/v1/{}", call.label().word().replace('.', "/")));
        }
    }
}
