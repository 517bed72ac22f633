//! `mesh.history`: what a channel has kept. Knows no HTTP, so that all transports share it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::future::Future;

use super::error::ApiError;
use super::fields::{Field, Identified, RequestId, channel, invalid, limit, read};
use crate::cluster::{Mesh, keeps_nothing};
use crate::hub::history::{At, Kept, Position};
use crate::message::{Channel, Kind};

/// A call whose parameters have been checked.
pub(super) struct HistoryCall {
    channel: Channel,
    since: Option<Position>,
    limit: usize,
}

/// What it came to.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    /// Where the next page begins.
    p: Position,
    /// Nothing is missing since the position that was asked for.
    recovered: bool,
    m: Vec<Message>,
}

/// A message that was kept.
#[derive(Debug, Serialize)]
struct Message {
    p: Position,
    d: String,
    t: &'static str,
    /// So many publishes that were added up.
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Params<'a> {
    #[serde(borrow)]
    c: Option<Field<'a>>,
    #[serde(borrow)]
    since: Option<Field<'a>>,
    #[serde(borrow)]
    limit: Option<Field<'a>>,
    #[serde(borrow)]
    i: Option<Field<'a>>,
}

impl Identified for Params<'_> {
    fn id(&self) -> &Option<Field<'_>> {
        &self.i
    }
}

impl Params<'_> {
    fn call(&self) -> Result<HistoryCall, ApiError> {
        let since = match &self.since {
            None | Some(Field::Other("null")) => None,
            // What is no position is one that nobody knows: clients have it from elsewhere.
            Some(Field::Text(text)) => Some(Position::parse(text.as_bytes()).unwrap_or(Position::UNKNOWN)),
            Some(other) => return Err(invalid(format!("field \"since\" must be a position, not {}", other.name()))),
        };
        Ok(HistoryCall { channel: channel(&self.c)?, since, limit: limit(&self.limit)? })
    }
}

impl HistoryCall {
    /// Reads parameters; `what` names them in error messages. With the caller's request id.
    pub(super) fn read(text: &[u8], what: &str) -> (Result<HistoryCall, ApiError>, Option<RequestId>) {
        read((text, what, r#"{"c": "channel"}"#), |params: Params<'_>| params.call())
    }

    /// Carries it out.
    pub(super) fn begin(self, mesh: &Mesh) -> impl Future<Output = Result<Page, ApiError>> + Send + use<> {
        let HistoryCall { channel, since, limit } = self;
        let keeps = mesh.keeps(&channel).is_some();
        let page = mesh.history(&channel, since, limit);
        async move {
            if !keeps {
                return Err(invalid(format!("field \"c\": {}", keeps_nothing(&channel))));
            }
            page.await.map(Page::from).map_err(ApiError::Unanswered)
        }
    }
}

impl From<(At, Vec<Kept>)> for Page {
    fn from((at, kept): (At, Vec<Kept>)) -> Page {
        let message = |Kept { at, message, .. }: &Kept| {
            let d = match message.kind() {
                Kind::Text => String::from_utf8_lossy(message.data()).into_owned(),
                Kind::Binary => STANDARD.encode(message.data()),
            };
            Message { p: *at, d, t: message.kind().as_str(), n: message.count() }
        };
        Page { p: at.position, recovered: at.recovered, m: kept.iter().map(message).collect() }
    }
}
