//! What the JSON of a call says, field by field, and the fields that several calls have. Knows no HTTP, so that all transports
//! share it.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

use super::error::ApiError;
use crate::hub::MAX_PAGE;
use crate::ids::ClientId;
use crate::message::{Channel, utf8};

/// Entries of a page, unless told.
const PAGE: usize = 100;
/// The most messages that one request publishes: the channels of all its objects.
pub(super) const MAX_MESSAGES: usize = 1000;

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

/// The object in a text; `what` names it in error messages, and `example` shows one.
pub(super) fn object<'a, T: Deserialize<'a>>(text: &'a [u8], what: &str, example: &str) -> Result<T, ApiError> {
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err(invalid(format!("{what} must be a JSON object such as {example}")));
    }
    // One look at the whole is faster than one at each string in it. Where it fails, the parser says where.
    let object = match utf8(text) {
        Some(text) => serde_json::from_str(text),
        None => serde_json::from_slice(text),
    };
    object.map_err(|e| invalid(format!("{what} is not valid JSON: {e}")))
}

/// The parameters of a call, with the caller's request id.
pub(super) trait Identified {
    /// Field `i`.
    fn id(&self) -> &Option<Field<'_>>;
}

/// A call from the text of its parameters, as [`object`] reads it, with the caller's request id; `call` checks them.
pub(super) fn read<'a, P: Deserialize<'a> + Identified, T>(
    (text, what, example): (&'a [u8], &str, &str),
    call: impl FnOnce(P) -> Result<T, ApiError>,
) -> (Result<T, ApiError>, Option<RequestId>) {
    match object::<P>(text, what, example) {
        Ok(params) => {
            let request_id = params.id().as_ref().and_then(Field::request_id);
            (call(params), request_id)
        }
        Err(error) => (Err(error), None),
    }
}

/// Whether a field is there, and not null.
pub(super) fn is_given(field: &Option<Field<'_>>) -> bool {
    !matches!(field, None | Some(Field::Other("null")))
}

/// A field that must be a string; `what` says of what.
pub(super) fn text<'f>(field: &'f Option<Field<'_>>, name: &str, what: &str) -> Result<&'f str, ApiError> {
    match field {
        Some(Field::Text(text)) => Ok(text),
        Some(other) => Err(invalid(format!("field \"{name}\" ({what}) must be a string, not {}", other.name()))),
        None => Err(invalid(format!("field \"{name}\" ({what}) is missing"))),
    }
}

/// Field `c` as a channel's name.
pub(super) fn channel(c: &Option<Field<'_>>) -> Result<Channel, ApiError> {
    let name = text(c, "c", "channel")?;
    Channel::parse_text(name).map_err(|e| invalid(format!("field \"c\": {e}")))
}

/// Field `limit`: how many entries a page has at most.
pub(super) fn limit(limit: &Option<Field<'_>>) -> Result<usize, ApiError> {
    let limit = match limit {
        limit if !is_given(limit) => return Ok(PAGE),
        Some(Field::Integer(limit)) => usize::try_from(*limit).ok(),
        _ => None,
    };
    let wanted = || invalid(format!("field \"limit\" must be a number from 1 to {MAX_PAGE}"));
    limit.filter(|limit| (1..=MAX_PAGE).contains(limit)).ok_or_else(wanted)
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
pub(super) const CLIENT_ID: &str = "must be a whole number from 1 to 2^64 - 1, as a string or a number";

/// A client's id, or a number that is none of ours.
pub(super) fn client_id(field: &Field<'_>) -> Option<u64> {
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
