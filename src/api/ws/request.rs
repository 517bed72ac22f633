//! A request of the WebSocket API: what its JSON says, and what is to be done for it.

use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use super::order;
use super::sequence::Sequence;
use crate::api::Api;
use crate::api::batch::{self, Outcome as Several, Publish};
use crate::api::call::{Field, Mark, Params, Published, invalid, not_sent, object_of};
use crate::api::error::ApiError;
use crate::hub::Order;
use crate::queue::{Consumer, PopError, Topic};
use crate::telemetry::metrics::labels::{ApiCall, Label};

/// What a request came to.
pub(super) type Outcome = Result<Reply, ApiError>;

/// What `r` holds.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub(super) enum Reply {
    /// It was done.
    Done {
        /// True.
        s: bool,
    },
    /// `mesh.publish`: connections reached, not reached, and the sum.
    Published {
        /// Reached.
        s: u64,
        /// Not reached.
        f: u64,
        /// Both.
        t: u64,
    },
    /// `mesh.publish` to several channels.
    Each(Vec<Published>),
}

impl From<Published> for Reply {
    fn from(Published { s, f }: Published) -> Reply {
        Reply::Published { s, f, t: s + f }
    }
}

/// Done.
pub(super) const DONE: Reply = Reply::Done { s: true };

/// A request, and what it waits for.
pub(super) struct Call {
    /// The method, as figures call it.
    pub method: ApiCall,
    /// The caller's mark.
    pub mark: Option<Mark>,
    /// What is to be done.
    pub work: Work,
}

impl Call {
    /// One that is wrong.
    pub(super) fn wrong(error: ApiError) -> Call {
        Call { method: ApiCall::Other, mark: None, work: Work::Done(Err(error)) }
    }
}

/// What is to be done for a request.
pub(super) enum Work {
    /// Nothing more: this is the answer.
    Done(Outcome),
    /// Wait for it.
    Wait(Pin<Box<dyn Future<Output = Outcome>>>),
    /// Something with the connection's consumer, once all before it is answered: so that the messages of a topic stand
    /// between the answers that begin and end it.
    Queue(QueueCall),
    /// The text `ping`.
    Ping,
}

/// Methods of older versions, and what they are called today.
const OLDER: [(&str, &str); 3] =
    [("queue.consume", "queue.pop"), ("queue.unconsume", "queue.unpop"), ("server.ping", "the text ping")];

/// A call of the queue.
pub(super) enum QueueCall {
    Pop { topics: Vec<Topic>, ack: bool },
    Unpop(Option<Vec<Topic>>),
    Ack(Vec<u64>),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Envelope<'a> {
    #[serde(borrow)]
    m: Option<Field<'a>>,
    #[serde(borrow)]
    p: Option<&'a RawValue>,
    #[serde(borrow)]
    i: Option<Field<'a>>,
    #[serde(borrow)]
    id: Option<Field<'a>>,
}

/// Reads a request and begins it, in `sequence` with those before it.
pub(super) fn begin(text: &[u8], api: &Api, sequence: &Rc<Sequence>) -> Call {
    if text == b"ping" {
        return Call { method: ApiCall::Other, mark: None, work: Work::Ping };
    }
    let text = object_of(text);
    if !text.trim_ascii_start().starts_with(b"{") {
        let wanted = "a request must be a JSON object such as {\"m\": method, \"p\": params, \"i\": id}";
        return Call::wrong(invalid(wanted));
    }
    let request: Envelope<'_> = match serde_json::from_slice(text) {
        Ok(request) => request,
        Err(e) => return Call::wrong(invalid(format!("the request is not valid JSON: {e}"))),
    };
    let mark = request.i.as_ref().or(request.id.as_ref()).and_then(Field::mark);
    let method = match &request.m {
        Some(Field::Text(method)) => &**method,
        Some(other) => {
            let error = invalid(format!("field \"m\" (method) must be a string, not {}", other.name()));
            return Call { mark, ..Call::wrong(error) };
        }
        None => return Call { mark, ..Call::wrong(invalid("field \"m\" (method) is missing")) },
    };
    let params = request.p.map(RawValue::get);
    let work = work(method, params, api, sequence).unwrap_or_else(|error| Work::Done(Err(error)));
    // Those without a dot are of HTTP alone.
    let known = ApiCall::find(method).filter(|_| method.contains('.'));
    Call { method: known.unwrap_or(ApiCall::Other), mark, work }
}

fn work(method: &str, params: Option<&str>, api: &Api, sequence: &Rc<Sequence>) -> Result<Work, ApiError> {
    let given = || params.ok_or_else(|| invalid("field \"p\" (parameters) is missing"));
    let object = || given().map(|params| object_of(params.as_bytes()));
    let call = match method {
        "mesh.publish" => {
            let params = Params::parse(object()?, "field \"p\"")?;
            if !params.is_plain() {
                return Ok(publish_more(api, params.publish()?, sequence));
            }
            let (channel, message, behind) = (params.channel()?, params.message()?, sequence.behind(&api.mesh));
            api.counts.published.add(1);
            let counts = api.mesh.publish_then(channel, message, behind, sequence.hand_over());
            return Ok(Work::Wait(Box::pin(async move { Ok(Published::from(counts.await).into()) })));
        }
        "mesh.send" => {
            let params = Params::parse(object()?, "field \"p\"")?;
            let (client, message) = (params.client()?, params.message()?);
            let client = client.map_err(not_sent)?;
            let sent = api.mesh.send_then(client, message, sequence.hand_over());
            return Ok(Work::Wait(Box::pin(async move { if sent.await { Ok(DONE) } else { Err(not_sent(client)) } })));
        }
        "conn.call" => {
            let (client, order) = order::parse(object()?)?;
            let client = client.map_err(|n| ApiError::NotObeyed(format!("client {n} is not connected")))?;
            let joined = matches!(order, Order::Subscribe(_)).then(|| sequence.joining(client));
            let obeyed = api.mesh.order_then(client, order, sequence.hand_over());
            return Ok(Work::Wait(Box::pin(async move {
                let outcome = obeyed.await;
                if let Some(joined) = joined {
                    joined();
                }
                outcome.map(|()| DONE).map_err(ApiError::NotObeyed)
            })));
        }
        "queue.pop" => {
            let (topics, ack) = match json(given()?)? {
                Json::Object(mut fields) => {
                    let ack = match fields.remove("ack") {
                        None | Some(Json::Null) => false,
                        Some(Json::Bool(ack)) => ack,
                        Some(_) => return Err(invalid("field \"ack\" must be true or false")),
                    };
                    (fields.remove("t").unwrap_or_default(), ack)
                }
                list => (list, false),
            };
            let topics = topics_of(topics)?;
            if topics.is_empty() {
                return Err(invalid("field \"t\": at least one topic is expected"));
            }
            QueueCall::Pop { topics, ack }
        }
        "queue.unpop" => {
            let named = match params.map(json).transpose()?.unwrap_or_default() {
                Json::Object(mut fields) => fields.remove("t").unwrap_or_default(),
                Json::Array(list) if list.is_empty() => Json::Null,
                list => list,
            };
            QueueCall::Unpop(if named.is_null() { None } else { Some(topics_of(named)?) })
        }
        "queue.ack" => {
            let keys = match json(given()?)? {
                Json::Object(mut fields) => fields.remove("k").unwrap_or_default(),
                list => list,
            };
            let Json::Array(keys) = keys else { return Err(invalid("field \"k\" (keys) must be an array")) };
            let key = |json: &Json| json.as_u64().or_else(|| json.as_str()?.parse().ok());
            let keys: Option<Vec<u64>> = keys.iter().map(key).collect();
            QueueCall::Ack(keys.ok_or_else(|| invalid("field \"k\": keys must be those of messages"))?)
        }
        unknown => {
            let shown: String = unknown.chars().take(100).flat_map(char::escape_debug).collect();
            let today = OLDER.iter().find(|(older, _)| *older == unknown);
            let today = today.map_or_else(String::new, |(_, today)| format!("; it is {today} today"));
            return Err(invalid(format!("field \"m\": there is no method \"{shown}\"{today}")));
        }
    };
    Ok(Work::Queue(call))
}

/// A publish to several channels, or once only.
fn publish_more(api: &Api, publish: Publish, sequence: &Rc<Sequence>) -> Work {
    let begun = batch::begin(api, publish, sequence.behind(&api.mesh));
    let handed = sequence.hand_over();
    Work::Wait(Box::pin(async move {
        let publish = begun.await;
        handed();
        Ok(match publish.outcome().await {
            Several::One(published) => published.into(),
            Several::Each(published) => Reply::Each(published),
        })
    }))
}

fn json(params: &str) -> Result<Json, ApiError> {
    serde_json::from_str(params).map_err(|e| invalid(format!("field \"p\": {e}")))
}

fn topics_of(json: Json) -> Result<Vec<Topic>, ApiError> {
    let Json::Array(names) = json else { return Err(invalid("field \"t\" (topics) must be an array of strings")) };
    let topic = |name: &Json| {
        let name = name.as_str().ok_or_else(|| invalid("field \"t\" (topics) must be an array of strings"))?;
        Topic::parse(name.as_bytes())
            .map_err(|e| invalid(format!("field \"t\": topics are named as channels are: {e}")))
    };
    names.iter().map(topic).collect()
}

impl QueueCall {
    /// Does it.
    pub(super) fn run(self, consumer: &Consumer) -> Outcome {
        match self {
            QueueCall::Pop { topics, ack } => consumer.pop(&topics, ack).map_err(|e| match e {
                PopError::Already(_) => ApiError::AlreadyPopped(e.to_string()),
                PopError::Topics(..) => ApiError::NotPopped(e.to_string()),
            })?,
            QueueCall::Unpop(topics) => {
                consumer.unpop(topics.as_deref()).map_err(|e| ApiError::NotConsumed(e.to_string()))?;
            }
            QueueCall::Ack(keys) => {
                if let Some(unknown) = consumer.settle(&keys).first() {
                    let what = "is not this connection's to settle (any more); all others are settled";
                    return Err(invalid(format!("field \"k\": {unknown} {what}")));
                }
            }
        }
        Ok(DONE)
    }
}
