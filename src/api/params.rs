//! The parameters of `mesh.publish` and `mesh.send`, each converted to its type. Knows no HTTP, so that all transports share it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;

use super::error::ApiError;
use super::fields::{
    Addressee, CLIENT_ID, Field, RequestId, addressee, channel, channel_list, client_id, invalid, list_or_one, object,
    text,
};
use crate::hub::{Except, MAX_EXCEPT, Priority, Publication, PublishOptions};
use crate::ids::ClientId;
use crate::message::{Channel, Key, Kind, Message};

/// The parameters of `mesh.publish` and `mesh.send`. Every field takes any JSON, so that a wrong one can be named.
#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub struct Params<'a> {
    #[serde(borrow, deserialize_with = "list_or_one")]
    c: Option<Field<'a>>,
    #[serde(borrow)]
    d: Option<Field<'a>>,
    #[serde(borrow)]
    t: Option<Field<'a>>,
    /// The caller's request id, which the reply repeats.
    #[serde(borrow)]
    i: Option<Field<'a>>,
    /// The id that makes a publish idempotent.
    #[serde(borrow)]
    id: Option<Field<'a>>,
    /// The clients that a publish leaves out.
    #[serde(borrow, deserialize_with = "list_or_one")]
    x: Option<Field<'a>>,
    /// What a publish is about.
    #[serde(borrow)]
    k: Option<Field<'a>>,
    /// How much a publish matters.
    #[serde(borrow)]
    pr: Option<Field<'a>>,
}

/// The longest `id` of a publish, in bytes.
const MAX_ID: usize = 128;

/// A publish whose parameters have been checked.
pub(super) struct Publish {
    /// At least one.
    pub(super) channels: Vec<Channel>,
    /// The channels came as a list.
    pub(super) list: bool,
    pub(super) message: Message,
    pub(super) options: PublishOptions,
    /// With an id, the publish is done once.
    pub(super) id: Option<Arc<str>>,
}

impl<'a> Params<'a> {
    /// Reads parameters; `what` names them in error messages.
    pub fn parse(text: &'a [u8], what: &str) -> Result<Params<'a>, ApiError> {
        object(text, what, r#"{"c": "channel", "d": "text"}"#)
    }

    /// The request id, if there is one that is an integer or a string.
    pub fn request_id(&self) -> Option<RequestId> {
        self.i.as_ref()?.request_id()
    }

    /// `c` as a channel's name.
    pub(super) fn channel(&self) -> Result<Channel, ApiError> {
        channel(&self.c)
    }

    /// Whether it is one message to one channel, without an id and without options.
    pub(super) fn is_plain(&self) -> bool {
        let has_options = self.x.is_some() || self.k.is_some() || self.pr.is_some();
        self.id.is_none() && !has_options && !matches!(self.c, Some(Field::List(_)))
    }

    /// A plain publish.
    pub fn publication(&self) -> Result<Publication, ApiError> {
        Ok(Publication::new(self.channel()?, self.message()?))
    }

    /// A message to one client.
    pub(super) fn send(&self) -> Result<(Addressee, Message), ApiError> {
        Ok((self.client()?, self.message()?))
    }

    /// A publish that may have several channels, and an id.
    pub(super) fn publish(&self) -> Result<Publish, ApiError> {
        let list = matches!(self.c, Some(Field::List(_)));
        let channels = if list { channel_list(&self.c, "c")? } else { vec![self.channel()?] };
        let wrong = |what| invalid(format!("field \"id\" must be a string of 1 to {MAX_ID} bytes, {what}"));
        let id = match &self.id {
            None | Some(Field::Other("null")) => None,
            Some(Field::Text(id)) if (1..=MAX_ID).contains(&id.len()) => Some((&**id).into()),
            Some(Field::Text(id)) => return Err(wrong(format!("not of {}", id.len()))),
            Some(other) => return Err(wrong(format!("not {}", other.name()))),
        };
        let options = PublishOptions { except: self.except()?, key: self.key()?, priority: self.priority()? };
        Ok(Publish { channels, list, message: self.message()?, options, id })
    }

    /// `pr` as a priority.
    fn priority(&self) -> Result<Priority, ApiError> {
        let wanted = "field \"pr\" (priority) must be \"high\", \"normal\" or \"low\"";
        match &self.pr {
            None | Some(Field::Other("null")) => Ok(Priority::Normal),
            Some(Field::Text(word)) => {
                Priority::parse(word.as_bytes()).ok_or_else(|| invalid(format!("{wanted}, not {word:?}")))
            }
            Some(other) => Err(invalid(format!("{wanted}, not {}", other.name()))),
        }
    }

    /// `k` as a key.
    fn key(&self) -> Result<Option<Key>, ApiError> {
        let key = match &self.k {
            None | Some(Field::Other("null")) => return Ok(None),
            Some(Field::Text(key)) => Key::parse(key.as_bytes()),
            Some(Field::Integer(key)) => Key::parse(key.to_string().as_bytes()),
            Some(other) => return Err(invalid(format!("field \"k\" (key) must be a string, not {}", other.name()))),
        };
        key.map(Some).map_err(|e| invalid(format!("field \"k\": {e}")))
    }

    /// `x` as clients that are left out. An id that is none of ours leaves nobody out.
    fn except(&self) -> Result<Except, ApiError> {
        let clients = match &self.x {
            None | Some(Field::Other("null")) => return Ok(Except::default()),
            Some(Field::List(clients)) => &clients[..],
            Some(one) => std::slice::from_ref(one),
        };
        if clients.len() > MAX_EXCEPT {
            return Err(invalid(format!("field \"x\": at most {MAX_EXCEPT} clients are expected")));
        }
        let client = |(at, client)| {
            client_id(client).ok_or_else(|| invalid(format!("field \"x\", client {}: it {CLIENT_ID}", at + 1)))
        };
        let numbers = clients.iter().enumerate().map(client).collect::<Result<Vec<u64>, ApiError>>()?;
        Ok(Except::new(numbers.into_iter().filter_map(ClientId::new)))
    }

    /// `c` as a client's number.
    pub(super) fn client(&self) -> Result<Addressee, ApiError> {
        addressee(&self.c)
    }

    /// `d` and `t` as a message.
    pub(super) fn message(&self) -> Result<Message, ApiError> {
        let data = text(&self.d, "d", "data")?;
        let kind = match &self.t {
            None | Some(Field::Other("null")) => Kind::Text,
            Some(Field::Text(word)) => Kind::parse(word.as_bytes())
                .ok_or_else(|| invalid(format!("field \"t\" must be \"text\" or \"binary\", not {word:?}")))?,
            Some(other) => {
                return Err(invalid(format!("field \"t\" must be \"text\" or \"binary\", not {}", other.name())));
            }
        };
        Ok(match kind {
            Kind::Text => Message::text(data),
            Kind::Binary => Message::binary(
                STANDARD.decode(data).map_err(|e| invalid(format!("field \"d\" is not valid base64: {e}")))?,
            ),
        })
    }
}
