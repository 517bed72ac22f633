//! Calls that ask what there is: who is in a channel, which channels there are, what is known of a client. Knows no HTTP, so
//! that all transports share it. Like a publish they take two stages: into the mailboxes, then the answer.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::future::Future;

use super::call::is_none;
use super::error::ApiError;
use super::fields::{Addressee, Field, Identified, RequestId, addressee, channel, invalid, is_given, limit, read};
use super::query::pairs;
use crate::cluster::{Asked, Behind, Mesh};
use crate::config::Config;
use crate::hub::{Answer, CommandError, Question};
use crate::ids::ClientId;
use crate::message::{Channel, MAX_CHANNEL_LEN};

/// A call whose parameters have been checked.
pub(super) enum Asking {
    /// A question.
    Of(Question),
    /// Of a client whose id is none of ours.
    Nobody(u64),
}

/// What a call came to.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Told {
    /// `mesh.presence`
    Presence {
        clients: Vec<Client>,
        n: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        #[serde(skip_serializing_if = "is_none")]
        u: u64,
    },
    /// `mesh.channels`
    Channels {
        channels: Vec<Crowd>,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
        #[serde(skip_serializing_if = "is_none")]
        u: u64,
    },
    /// `mesh.client`
    Client {
        c: String,
        node: String,
        server: u32,
        address: String,
        channels: Vec<String>,
        subscriptions: u64,
        waiting: u64,
        since: u64,
        #[serde(rename = "in")]
        read: u64,
        #[serde(rename = "out")]
        sent: u64,
    },
}

/// A connection in a channel.
#[derive(Debug, Serialize)]
pub(super) struct Client {
    c: String,
    node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    i: Option<Box<RawValue>>,
}

/// A channel.
#[derive(Debug, Serialize)]
pub(super) struct Crowd {
    c: String,
    n: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Params<'a> {
    #[serde(borrow)]
    c: Option<Field<'a>>,
    #[serde(borrow)]
    prefix: Option<Field<'a>>,
    #[serde(borrow)]
    after: Option<Field<'a>>,
    #[serde(borrow)]
    limit: Option<Field<'a>>,
    #[serde(borrow)]
    i: Option<Field<'a>>,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Presence,
    Channels,
    Client,
}

impl Identified for Params<'_> {
    fn id(&self) -> &Option<Field<'_>> {
        &self.i
    }
}

impl Params<'_> {
    /// A field that holds the beginning of a channel's name, or a whole one.
    fn name(field: &Option<Field<'_>>, what: &str) -> Result<Box<str>, ApiError> {
        match field {
            field if !is_given(field) => Ok("".into()),
            Some(Field::Text(text)) if text.len() <= MAX_CHANNEL_LEN => Ok((&**text).into()),
            _ => Err(invalid(format!("field \"{what}\" must be a string of at most {MAX_CHANNEL_LEN} bytes"))),
        }
    }

    fn question(self, kind: Kind, config: &Config) -> Result<Asking, ApiError> {
        Ok(match kind {
            Kind::Presence => {
                let channel = channel(&self.c)?;
                if !config.rule_of(channel.as_str()).is_some_and(|rule| rule.presence) {
                    return Err(invalid(format!("field \"c\": {}", no_presence(&channel))));
                }
                let after = match &self.after {
                    after if !is_given(after) => 0,
                    after => match addressee(after).map_err(|_| invalid("field \"after\" must be a client_id"))? {
                        Ok(client) => client.get(),
                        Err(number) => number,
                    },
                };
                Asking::Of(Question::Presence { channel, after, limit: limit(&self.limit)? })
            }
            Kind::Channels => Asking::Of(Question::Channels {
                prefix: Params::name(&self.prefix, "prefix")?,
                after: Params::name(&self.after, "after")?,
                limit: limit(&self.limit)?,
            }),
            Kind::Client => Asking::client(addressee(&self.c)?),
        })
    }
}

/// What to do where it is not told who is in a channel.
pub(super) fn no_presence(channel: &Channel) -> String {
    format!("no rule of engine.channels says \"presence: true\" for channel {channel}")
}

impl Asking {
    /// Reads parameters; `what` names them in error messages. With the caller's request id.
    pub(super) fn read(
        kind: Kind,
        text: &[u8],
        what: &str,
        config: &Config,
    ) -> (Result<Asking, ApiError>, Option<RequestId>) {
        read((text, what, r#"{"c": "channel"}"#), |params: Params<'_>| params.question(kind, config))
    }

    /// Reads the query of a request for channels.
    pub(super) fn channels(query: &str, config: &Config) -> Result<Asking, ApiError> {
        let mut params = Params::default();
        for pair in pairs(query) {
            let (name, value) = pair?;
            match name {
                "prefix" => params.prefix = Some(Field::Text(value.into_owned().into())),
                "after" => params.after = Some(Field::Text(value.into_owned().into())),
                "limit" => params.limit = Some(value.parse().map_or(Field::Other("a text"), Field::Integer)),
                _ => {}
            }
        }
        params.question(Kind::Channels, config)
    }

    /// A client by the text of its id.
    pub(super) fn client_of(id: &str) -> Result<Asking, ApiError> {
        Ok(Asking::client(addressee(&Some(Field::Text(id.into())))?))
    }

    fn client(client: Addressee) -> Asking {
        client.map_or_else(Asking::Nobody, |client| Asking::Of(Question::Client(client)))
    }

    /// Puts it into the mailboxes; none of it before what it must stay `behind`.
    pub(super) fn begin(self, mesh: &Mesh, behind: Behind) -> impl Future<Output = Enqueued> + use<> {
        let begun = match self {
            Asking::Of(question) => {
                let client = if let Question::Client(client) = question { Some(client) } else { None };
                Ok((mesh.ask(question, behind), client))
            }
            Asking::Nobody(number) => Err(number),
        };
        async move {
            match begun {
                Ok((asked, client)) => Enqueued::Of(Box::new(asked.await), client),
                Err(number) => Enqueued::Nobody(number),
            }
        }
    }
}

/// A call that the mailboxes have.
pub(super) enum Enqueued {
    Of(Box<Asked>, Option<ClientId>),
    Nobody(u64),
}

impl Enqueued {
    /// The answer.
    pub(super) async fn outcome(self, kind: Kind) -> Result<Told, ApiError> {
        let gone = |number: u64| ApiError::NotSent(format!("client {number} is not connected"));
        let (answer, client) = match self {
            Enqueued::Of(asked, client) => (asked.await, client),
            Enqueued::Nobody(number) => return Err(gone(number)),
        };
        let Answer { clients, channels, count, more, client: info, unanswered, .. } = answer;
        Ok(match (kind, client) {
            (Kind::Client, Some(client)) => match info {
                Some(info) => Told::Client {
                    c: client.to_string(),
                    node: info.node.to_string(),
                    server: info.server,
                    address: info.address,
                    channels: info.channels,
                    subscriptions: info.subscriptions,
                    waiting: info.waiting,
                    since: info.since,
                    read: info.read,
                    sent: info.sent,
                },
                None if unanswered > 0 => return Err(ApiError::NotObeyed(CommandError::Unanswered(client))),
                None => return Err(gone(client.get())),
            },
            (Kind::Channels, _) => {
                let after = channels.last().filter(|_| more).map(|last| last.channel.clone());
                let crowd = |crowd: crate::hub::Crowd| Crowd { c: crowd.channel, n: crowd.count };
                Told::Channels { channels: channels.into_iter().map(crowd).collect(), after, u: unanswered }
            }
            (Kind::Presence | Kind::Client, _) => {
                let after = clients.last().filter(|_| more).map(|last| last.client.to_string());
                let client = |present: crate::hub::Present| Client {
                    c: present.client.to_string(),
                    node: present.node.to_string(),
                    // It is JSON: it was checked where it came in.
                    i: present.info.and_then(|info| RawValue::from_string(info).ok()),
                };
                let clients = clients.into_iter().map(client).collect();
                Told::Presence { clients, n: count, after, u: unanswered }
            }
        })
    }
}
