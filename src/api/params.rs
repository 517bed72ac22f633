//! What the JSON of a call says: the parameters of the mesh's calls, each converted to its type. Knows no HTTP, so that
//! all transports share it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::call::not_sent;
use super::error::ApiError;
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

/// The most messages that one request publishes: the channels of all its objects.
pub(super) const MAX_MESSAGES: usize = 1000;
/// The longest `id` of a publish, in bytes.
const MAX_ID: usize = 128;

/// A request id, as the reply repeats it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum RequestId {
    /// An integer.
    Integer(u64),
    /// An integer below zero.
    Negative(i64),
    /// A string.
    Text(String),
}

/// A field's value, as far as any call reads it.
pub(super) enum Field<'a> {
    Text(Cow<'a, str>),
    Integer(u64),
    Negative(i64),
    /// A list, where one is accepted: `c`. If it is too long, it holds one more than the limit.
    List(Box<[Field<'a>]>),
    /// Something that no field accepts; says what it is.
    Other(&'static str),
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Field<'a>, D::Error> {
        deserializer.deserialize_any(Any::<false>)
    }
}

/// Reads a field that may be a list.
pub(super) fn list_or_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Field<'de>>, D::Error> {
    deserializer.deserialize_any(Any::<true>).map(Some)
}

/// Reads a sequence to its end, and keeps at most one more item than a request may have.
pub(super) fn bounded<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(mut seq: A) -> Result<Vec<T>, A::Error> {
    let mut items = Vec::new();
    while items.len() <= MAX_MESSAGES {
        match seq.next_element()? {
            Some(item) => items.push(item),
            None => return Ok(items),
        }
    }
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(items)
}

/// Takes any value; keeps a list's items if told.
struct Any<const LISTS: bool>;

impl<'de, const LISTS: bool> Visitor<'de> for Any<LISTS> {
    type Value = Field<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Field<'de>, E> {
        Ok(Field::Text(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Field<'de>, E> {
        Ok(Field::Text(Cow::Owned(text.to_owned())))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Field<'de>, E> {
        Ok(Field::Integer(n))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Field<'de>, E> {
        Ok(Field::Negative(n))
    }
    fn visit_f64<E>(self, n: f64) -> Result<Field<'de>, E> {
        // Some encoders write every number as a float.
        let whole = n.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&n);
        Ok(if whole { Field::Integer(n as u64) } else { Field::Other("a number") })
    }
    fn visit_bool<E>(self, _: bool) -> Result<Field<'de>, E> {
        Ok(Field::Other("a boolean"))
    }
    fn visit_unit<E>(self) -> Result<Field<'de>, E> {
        Ok(Field::Other("null"))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Field<'de>, A::Error> {
        if LISTS {
            return Ok(Field::List(bounded(seq)?.into()));
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::Other("an array"))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::Other("an object"))
    }
}

pub(super) fn invalid(what: impl Into<String>) -> ApiError {
    ApiError::InvalidArgument(what.into())
}

impl Field<'_> {
    /// A request id: an integer or a string.
    pub(super) fn request_id(&self) -> Option<RequestId> {
        match self {
            Field::Integer(n) => Some(RequestId::Integer(*n)),
            Field::Negative(n) => Some(RequestId::Negative(*n)),
            Field::Text(text) => Some(RequestId::Text(text.to_string())),
            Field::List(_) | Field::Other(_) => None,
        }
    }

    /// The kind of JSON value, for messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Field::Text(_) => "a string",
            Field::Integer(_) => "a number",
            Field::Negative(_) => "a negative number",
            Field::List(_) => "an array",
            Field::Other(what) => what,
        }
    }
}

/// The text of an object. In PHP an empty object is an empty array, and `json_encode` writes `[]` for both.
pub(super) fn object_of(text: &[u8]) -> &[u8] {
    let inner = text.trim_ascii().strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    if inner.is_some_and(|inner| inner.trim_ascii().is_empty()) { b"{}" } else { text }
}

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
        if !text.trim_ascii_start().starts_with(b"{") {
            return Err(invalid(format!(
                "{what} must be a JSON object such as {{\"c\": \"channel\", \"d\": \"text\"}}"
            )));
        }
        // One look at the whole is faster than one at each string in it. Where it fails, the parser says where.
        let params = match std::str::from_utf8(text) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(text),
        };
        params.map_err(|e| invalid(format!("{what} is not valid JSON: {e}")))
    }

    /// The request id, if there is one that is an integer or a string.
    pub fn request_id(&self) -> Option<RequestId> {
        self.i.as_ref()?.request_id()
    }

    fn text<'f>(field: &'f Option<Field<'a>>, name: &str, what: &str) -> Result<&'f str, ApiError> {
        match field {
            Some(Field::Text(text)) => Ok(text),
            Some(other) => Err(invalid(format!("field \"{name}\" ({what}) must be a string, not {}", other.name()))),
            None => Err(invalid(format!("field \"{name}\" ({what}) is missing"))),
        }
    }

    /// `c` as a channel's name.
    pub(super) fn channel(&self) -> Result<Channel, ApiError> {
        let name = Self::text(&self.c, "c", "channel")?;
        Channel::parse_text(name).map_err(|e| invalid(format!("field \"c\": {e}")))
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
    pub(super) fn send(&self) -> Result<(ClientId, Message), ApiError> {
        let (client, message) = (addressee(&self.c)?, self.message()?);
        Ok((client.map_err(not_sent)?, message))
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
        let data = Self::text(&self.d, "d", "data")?;
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

/// A client's id as a caller gives it. Below 2^53 it may be one of ours; above, it is not, so there is no such client.
pub(super) type Addressee = Result<ClientId, u64>;

/// Field `c` as a client's id, given as a string or a number.
pub(super) fn addressee(c: &Option<Field<'_>>) -> Result<Addressee, ApiError> {
    let field = c.as_ref().ok_or_else(|| invalid("field \"c\" (client_id) is missing"))?;
    let number = client_id(field).ok_or_else(|| invalid(format!("field \"c\" (client_id) {CLIENT_ID}")))?;
    Ok(ClientId::new(number).ok_or(number))
}

/// What a client's id is, for messages.
const CLIENT_ID: &str = "must be a whole number from 1 to 2^64 - 1, as a string or a number";

fn client_id(field: &Field<'_>) -> Option<u64> {
    let number = match field {
        Field::Integer(n) => *n,
        // `parse` alone would take a sign, too.
        Field::Text(text) if text.bytes().all(|b| b.is_ascii_digit()) && text.len() <= 20 => text.parse().ok()?,
        _ => return None,
    };
    (number > 0).then_some(number)
}

/// A field as the names of channels: one, or a list.
pub(super) fn channel_list(field: &Option<Field<'_>>, name: &str) -> Result<Vec<Channel>, ApiError> {
    let names = match field {
        Some(Field::List(names)) => &names[..],
        Some(one) => std::slice::from_ref(one),
        None => return Err(invalid(format!("field \"{name}\" (channel) is missing"))),
    };
    if names.is_empty() || names.len() > MAX_MESSAGES {
        return Err(invalid(format!("field \"{name}\": 1 to {MAX_MESSAGES} channels are expected")));
    }
    let channel = |(at, channel): (usize, &Field<'_>)| {
        let wrong = |what: String| invalid(format!("field \"{name}\", channel {}: {what}", at + 1));
        match channel {
            Field::Text(channel) => Channel::parse_text(channel).map_err(|e| wrong(e.to_string())),
            other => Err(wrong(format!("it must be a string, not {}", other.name()))),
        }
    };
    names.iter().enumerate().map(channel).collect()
}
