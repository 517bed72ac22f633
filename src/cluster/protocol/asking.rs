//! Questions and answers between nodes. An answer comes from outside: what is read of it is bounded to a page.

use serde::{Deserialize, Serialize};

use super::append::append;
use super::lists::MOST_CHANNELS;
use crate::hub::{Answer, MAX_INFO, MAX_PAGE, NodeFigures, PastPublish, Question, Wanted, Watch};
use crate::ids::ClientId;
use crate::message::{Channel, MAX_CHANNEL_LEN};

/// The longest answer, in bytes: a page with all that its entries may hold.
const MAX_ANSWER: usize = MAX_PAGE * (MAX_INFO + MAX_CHANNEL_LEN + 64);

/// A question as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asking<'a> {
    /// See [`Question::Presence`].
    Presence {
        /// The channel's name.
        channel: &'a str,
        /// Behind this id.
        after: u64,
        /// The most entries.
        limit: u32,
    },
    /// See [`Question::Channels`].
    Channels {
        /// How their names begin.
        prefix: &'a str,
        /// Behind this name.
        after: &'a str,
        /// The most entries.
        limit: u32,
    },
    /// See [`Question::Client`].
    Client {
        /// The client's id.
        client: u64,
    },
    /// See [`Question::Story`].
    Story {
        /// The client's id.
        client: u64,
    },
    /// See [`Question::Tail`].
    Tail {
        /// The watcher's number.
        watch: u64,
        /// The channel, or how its name begins.
        channel: Option<&'a str>,
        /// The client's id.
        client: Option<u64>,
        /// Only what went wrong.
        errors: bool,
        /// With the beginning of messages.
        bodies: bool,
    },
    /// See [`Question::Places`].
    Places {
        /// The channel's name.
        channel: &'a str,
    },
}

impl Asking<'_> {
    /// A question as it travels; None: it has a message of its own.
    pub fn of(question: &Question) -> Option<Asking<'_>> {
        let limit = question.limit() as u32;
        Some(match question {
            Question::Presence { channel, after, .. } => {
                Asking::Presence { channel: channel.as_str(), after: *after, limit }
            }
            Question::Channels { prefix, after, .. } => Asking::Channels { prefix, after, limit },
            Question::Client(client) => Asking::Client { client: client.get() },
            Question::Story(client) => Asking::Story { client: client.get() },
            Question::Tail(Watch { id, wanted }) => Asking::Tail {
                watch: *id,
                channel: wanted.channel.as_deref(),
                client: wanted.client.map(ClientId::get),
                errors: wanted.errors,
                bodies: wanted.bodies,
            },
            Question::Places(channel) => Asking::Places { channel: channel.as_str() },
            Question::Figures | Question::Publish(_) => return None,
        })
    }

    /// The question; None: it is none.
    pub fn question(&self) -> Option<Question> {
        let is_name = |name: &str| name.len() <= MAX_CHANNEL_LEN;
        Some(match *self {
            Asking::Presence { channel, after, limit } => {
                Question::Presence { channel: Channel::parse(channel.as_bytes()).ok()?, after, limit: limit as usize }
            }
            Asking::Channels { prefix, after, limit } if is_name(prefix) && is_name(after) => {
                Question::Channels { prefix: prefix.into(), after: after.into(), limit: limit as usize }
            }
            Asking::Channels { .. } => return None,
            Asking::Client { client } => Question::Client(ClientId::new(client)?),
            Asking::Story { client } => Question::Story(ClientId::new(client)?),
            Asking::Tail { channel: Some(name), .. } if !is_name(name) => return None,
            Asking::Tail { watch: id, channel, client, errors, bodies } => {
                let client = match client {
                    Some(client) => Some(ClientId::new(client)?),
                    None => None,
                };
                Question::Tail(Watch { id, wanted: Wanted { channel: channel.map(Box::from), client, errors, bodies } })
            }
            Asking::Places { channel } => Question::Places(Channel::parse(channel.as_bytes()).ok()?),
        })
    }
}

/// The bytes of an answer. Figures stand behind all else, and a publish behind these, and only where there are any: so that nodes
/// which do not know them read the rest.
pub fn write_answer(answer: &Answer) -> Vec<u8> {
    let mut out = Vec::new();
    append(&mut out, answer);
    if !answer.nodes.is_empty() || answer.publish.is_some() {
        append(&mut out, &answer.nodes);
    }
    if let Some(publish) = &answer.publish {
        append(&mut out, publish);
    }
    out
}

/// Whether it is what a node may remember of a publish.
fn is_publish(publish: &PastPublish) -> bool {
    publish.channels.len() <= MOST_CHANNELS
        && publish.channels.iter().all(|name| Channel::parse(name.as_bytes()).is_ok())
        && publish.outcome.as_ref().is_none_or(|json| serde_json::from_str::<serde::de::IgnoredAny>(json).is_ok())
}

/// The answer that such bytes are; None: they are none, or more than there may be.
pub fn read_answer(bytes: &[u8]) -> Option<Answer> {
    let (mut answer, rest) = postcard::take_from_bytes::<Answer>(bytes).ok().filter(|_| bytes.len() <= MAX_ANSWER)?;
    if !rest.is_empty() {
        let (nodes, rest) = postcard::take_from_bytes::<Vec<NodeFigures>>(rest).ok()?;
        if !rest.is_empty() {
            answer.publish = Some(postcard::from_bytes(rest).ok()?);
        }
        // A node tells of itself alone.
        answer.nodes = Some(nodes).filter(|nodes| nodes.len() == usize::from(answer.publish.is_none()))?;
    }
    let infos = answer.clients.iter().filter_map(|present| present.info.as_deref());
    let channels = answer.channels.iter().map(|crowd| crowd.channel.as_str());
    let of_client = answer.client.iter().flat_map(|client| &client.channels);
    let is_page = answer.nodes.iter().all(NodeFigures::is_bounded)
        && answer.clients.len().max(answer.channels.len()) <= MAX_PAGE
        && of_client.clone().count() <= MAX_PAGE
        && channels.chain(of_client.map(String::as_str)).all(|name| Channel::parse(name.as_bytes()).is_ok())
        && infos
            .clone()
            .all(|info| info.len() <= MAX_INFO && serde_json::from_str::<serde::de::IgnoredAny>(info).is_ok())
        && answer.publish.as_deref().is_none_or(is_publish)
        && answer.seen.is_valid()
        && answer.story.as_ref().is_none_or(|story| story.is_valid());
    is_page.then_some(answer)
}
