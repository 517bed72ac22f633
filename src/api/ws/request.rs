//! A request of the WebSocket API: what its JSON says, and what is to be done for it.

use futures_util::FutureExt;
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::api::asking::{Asking, Kind, Told};
use crate::api::call::{Outcome as Several, Published, is_none, not_sent};
use crate::api::channel_call::{ChannelCall, Counted};
use crate::api::command;
use crate::api::error::ApiError;
use crate::api::fields::{Field, RequestId, invalid, object_of};
use crate::api::history::{HistoryCall, Page};
use crate::api::params::Params;
use crate::api::publish;
use crate::api::state::Api;
use crate::api::trace::{Parent, delivered};
use crate::cluster::{Behind, CommandReceipt, Receipt, SendReceipt};
use crate::hub::history::Position;
use crate::hub::{CommandError, ConnCommand, Publication};
use crate::ids::ClientId;
use crate::queue::{Consumer, PopError, Topic};
use crate::telemetry::metrics::labels::{ApiCall, Label};

/// The outcome of a request.
pub(super) type Outcome = Result<Reply, ApiError>;

/// The value of `r`.
#[derive(Debug, serde::Serialize)]
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
        /// Nodes that did not answer in time.
        #[serde(skip_serializing_if = "is_none")]
        u: u64,
        /// Where the message stands in the order of its channel.
        #[serde(skip_serializing_if = "Option::is_none")]
        p: Option<Position>,
        /// It was over the limit of its channel.
        #[serde(skip_serializing_if = "is_none")]
        l: u64,
        /// It was added to others.
        #[serde(skip_serializing_if = "is_none")]
        m: u64,
    },
    /// `mesh.publish` to several channels.
    Each(Vec<Published>),
    /// `mesh.count` and `mesh.close`.
    Counted(Counted),
    /// `mesh.presence`, `mesh.channels` and `mesh.client`.
    Told(Box<Told>),
    /// `mesh.history`.
    History(Page),
}

impl From<Published> for Reply {
    fn from(Published { s, f, u, p, l, m }: Published) -> Reply {
        Reply::Published { s, f, t: s.saturating_add(f), u, p, l, m }
    }
}

/// Done.
pub(super) const DONE: Reply = Reply::Done { s: true };

/// A request and its progress.
pub(super) struct Call {
    /// The method, as the metrics call it.
    pub method: ApiCall,
    /// The caller's request id.
    pub request_id: Option<RequestId>,
    /// How far it has come.
    pub work: Work,
    /// The client that it subscribes: until the request is answered, publishes must stay behind it.
    pub joins: Option<ClientId>,
}

impl Call {
    /// A request whose method the metrics do not list, without a request id.
    fn of(work: Work) -> Call {
        Call { method: ApiCall::Other, request_id: None, work, joins: None }
    }

    fn ready(ready: Ready) -> Call {
        Call::of(Work::Ready(ready))
    }

    fn enqueue(enqueued: impl Future<Output = Enqueued> + 'static) -> Call {
        Call::of(Work::Enqueue(Box::pin(enqueued)))
    }

    /// A request that is wrong.
    pub(super) fn wrong(error: ApiError) -> Call {
        Call::ready(Ready::Done(Err(error)))
    }
}

/// How far a request is.
pub(super) enum Work {
    /// On its way into mailboxes: no other call may overtake it.
    Enqueue(Pin<Box<dyn Future<Output = Enqueued>>>),
    /// In the mailboxes: only its answer is waited for.
    Wait(Enqueued),
    /// It only waits until all requests before it are answered.
    Ready(Ready),
}

/// What is to be done for a request once all before it are answered.
pub(super) enum Ready {
    /// Nothing more: this is the answer.
    Done(Outcome),
    /// A change of the connection's consumer. It is done here so that a topic's messages stand between the answers that
    /// begin and end its consumption.
    Queue(QueueCall),
    /// The text `ping` is answered.
    Ping,
}

/// A call that the mailboxes have, and its answer.
pub(super) enum Enqueued {
    /// A publish to one channel.
    Publish(Receipt),
    /// Any other publish.
    Publishes(Pin<Box<dyn Future<Output = Several>>>),
    /// A call about the connections of channels.
    Channel(Pin<Box<dyn Future<Output = Result<Counted, ApiError>>>>),
    /// A question.
    Asked(Pin<Box<dyn Future<Output = Result<Told, ApiError>>>>),
    /// What a channel has kept.
    History(Pin<Box<dyn Future<Output = Result<Page, ApiError>>>>),
    /// A message to a client.
    Send(ClientId, SendReceipt),
    /// A command to a client's connection.
    Command(CommandReceipt),
}

impl Enqueued {
    /// Ready with the answer.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        match self {
            Enqueued::Publish(receipt) => Pin::new(receipt).poll(cx).map(|counts| Ok(Published::from(counts).into())),
            Enqueued::Publishes(outcome) => outcome.as_mut().poll(cx).map(|outcome| {
                Ok(match outcome {
                    Several::One(published) => published.into(),
                    Several::Each(published) => Reply::Each(published),
                })
            }),
            Enqueued::Channel(outcome) => outcome.as_mut().poll(cx).map(|counted| counted.map(Reply::Counted)),
            Enqueued::Asked(outcome) => {
                outcome.as_mut().poll(cx).map(|told| told.map(|told| Reply::Told(Box::new(told))))
            }
            Enqueued::History(outcome) => outcome.as_mut().poll(cx).map(|page| page.map(Reply::History)),
            Enqueued::Send(client, receipt) => {
                Pin::new(receipt).poll(cx).map(|sent| if sent { Ok(DONE) } else { Err(not_sent(*client)) })
            }
            Enqueued::Command(receipt) => {
                Pin::new(receipt).poll(cx).map(|done| done.map(|()| DONE).map_err(ApiError::NotObeyed))
            }
        }
    }
}

/// What parameters are called in error messages.
const PARAMS: &str = "field \"p\"";

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
    /// The trace that the request belongs to, as HTTP's headers of these names say it.
    #[serde(borrow)]
    traceparent: Option<Field<'a>>,
    #[serde(borrow)]
    tracestate: Option<Field<'a>>,
}

impl Envelope<'_> {
    /// What it says of its trace; None: nothing is traced.
    fn parent(&self, api: &Api) -> Option<Box<Parent>> {
        let text = |field: &'_ Option<Field<'_>>| match field {
            Some(Field::Text(text)) => Some(text.to_string()),
            _ => None,
        };
        let is_traced = api.tracer.is_on();
        is_traced.then(|| Parent::of_texts(text(&self.traceparent).as_deref(), text(&self.tracestate).as_deref()))
    }
}

/// Reads a request. `behind`: what its publish must not overtake, if it is a publish.
pub(super) fn read(text: &[u8], api: &Api, behind: impl FnOnce() -> Behind) -> Call {
    if text == b"ping" {
        return Call::ready(Ready::Ping);
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
    let request_id = request.i.as_ref().or(request.id.as_ref()).and_then(Field::request_id);
    let method = match &request.m {
        Some(Field::Text(method)) => &**method,
        Some(other) => {
            let error = invalid(format!("field \"m\" (method) must be a string, not {}", other.name()));
            return Call { request_id, ..Call::wrong(error) };
        }
        None => return Call { request_id, ..Call::wrong(invalid("field \"m\" (method) is missing")) },
    };
    let params = request.p.map(RawValue::get);
    let call = call(method, params, api, behind, || request.parent(api)).unwrap_or_else(Call::wrong);
    // Methods without a dot exist for HTTP alone.
    let known = ApiCall::find(method).filter(|_| method.contains('.'));
    Call { method: known.unwrap_or(ApiCall::Other), request_id, ..call }
}

fn call(
    method: &str,
    params: Option<&str>,
    api: &Api,
    behind: impl FnOnce() -> Behind,
    parent: impl FnOnce() -> Option<Box<Parent>>,
) -> Result<Call, ApiError> {
    let given = || params.ok_or_else(|| invalid("field \"p\" (parameters) is missing"));
    let object = || given().map(|params| object_of(params.as_bytes()));
    let queue_call = match method {
        "mesh.publish" => {
            let params = Params::parse(object()?, PARAMS)?;
            if let Some(parent) = parent() {
                return traced(api, &params, &parent, behind());
            }
            if !params.is_plain() {
                let enqueued = publish::begin(api, params.publish()?, behind());
                return Ok(Call::enqueue(async move { Enqueued::Publishes(Box::pin(enqueued.await.outcome())) }));
            }
            let (channel, message) = (params.channel()?, params.message()?);
            api.counts.published.add(1);
            let receipt = api.mesh.publish(Publication::new(channel, message), behind());
            return Ok(Call::enqueue(async move { Enqueued::Publish(receipt.await) }));
        }
        "mesh.send" => {
            let params = Params::parse(object()?, PARAMS)?;
            let (client, message) = (params.client()?, params.message()?);
            let client = client.map_err(not_sent)?;
            let receipt = api.mesh.send(client, message);
            return Ok(Call::enqueue(async move { Enqueued::Send(client, receipt.await) }));
        }
        "mesh.count" | "mesh.close" => {
            let read = if method == "mesh.count" { ChannelCall::count } else { ChannelCall::close };
            let enqueued = read(object()?, PARAMS).0?.begin(&api.mesh, behind());
            return Ok(Call::enqueue(async move { Enqueued::Channel(Box::pin(enqueued.await.outcome())) }));
        }
        "mesh.presence" | "mesh.channels" | "mesh.client" => {
            let kind = match method {
                "mesh.presence" => Kind::Presence,
                "mesh.channels" => Kind::Channels,
                _ => Kind::Client,
            };
            let asking = Asking::read(kind, object()?, PARAMS, &api.config.load()).0?;
            let enqueued = asking.begin(&api.mesh, behind());
            return Ok(Call::enqueue(async move { Enqueued::Asked(Box::pin(enqueued.await.outcome(kind))) }));
        }
        "mesh.history" => {
            let page = HistoryCall::read(object()?, PARAMS).0?.begin(&api.mesh);
            return Ok(Call::enqueue(async move {
                // What is published behind it is not on the page.
                let mut page = Box::pin(page);
                match (&mut page).now_or_never() {
                    Some(page) => Enqueued::History(Box::pin(std::future::ready(page))),
                    None => Enqueued::History(page),
                }
            }));
        }
        "conn.call" => {
            let (client, order) = command::parse(object()?, PARAMS).0?;
            let client = client.map_err(|n| ApiError::NotObeyed(CommandError::NotConnected(n)))?;
            let joins = matches!(order, ConnCommand::Subscribe(_)).then_some(client);
            let receipt = api.mesh.command(client, order);
            return Ok(Call { joins, ..Call::enqueue(async move { Enqueued::Command(receipt.await) }) });
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
    Ok(Call::ready(Ready::Queue(queue_call)))
}

/// A publish that belongs to a trace.
fn traced(api: &Api, params: &Params<'_>, parent: &Parent, behind: Behind) -> Result<Call, ApiError> {
    let publish = params.publish();
    let span = publish::span(api, parent, &publish);
    let publish = match publish {
        Ok(publish) => publish,
        Err(error) => {
            delivered(span, Err(&error));
            return Err(error);
        }
    };
    let enqueued = publish::begin(api, publish, behind);
    Ok(Call::enqueue(async move {
        let outcome = enqueued.await.outcome();
        Enqueued::Publishes(Box::pin(async move {
            let outcome = outcome.await;
            delivered(span, Ok(outcome.as_slice()));
            outcome
        }))
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
    /// Carries it out.
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
