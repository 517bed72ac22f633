//! An array of publishes in one request. Each is begun once the mailboxes have the previous one, and each is answered.

use futures_util::future::LocalBoxFuture;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

use super::answer::Answer;
use super::call::Outcome;
use super::error::ApiError;
use super::fields::{MAX_MESSAGES, RequestId, bounded, invalid};
use super::params::{Params, Publish};
use super::publish;
use super::state::Api;
use super::trace::{Parent, delivered};
use crate::cluster::Behind;

/// Whether the body begins as an array does.
pub(super) fn is_array(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"[")
}

/// The objects of a body, not parsed yet. If there are too many, it holds one more than the limit.
struct Objects<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Objects<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Objects<'a>, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Objects<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Objects<'de>, A::Error> {
                bounded(seq).map(Objects)
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// Carries out an array of publishes and answers each of them. If the array itself is wrong, none is carried out. `parent`:
/// what the request says of its trace, if that is wanted.
#[inline(never)]
pub(super) fn answer<'a>(api: &'a Api, body: &'a [u8], parent: Option<Box<Parent>>) -> LocalBoxFuture<'a, Answer> {
    Box::pin(async move {
        match answers(api, body, parent.as_deref()).await {
            Ok(answers) => Answer::to_calls(answers),
            Err(error) => Answer::failure(&error, None),
        }
    })
}

type Answers = Vec<(Result<Outcome, ApiError>, Option<RequestId>)>;

async fn answers(api: &Api, body: &[u8], parent: Option<&Parent>) -> Result<Answers, ApiError> {
    let Objects(objects) =
        serde_json::from_slice(body).map_err(|e| invalid(format!("the body is not valid JSON: {e}")))?;
    let wanted = "a JSON object, or an array of 1 to";
    if objects.is_empty() || objects.len() > MAX_MESSAGES {
        return Err(invalid(format!("the body must be {wanted} {MAX_MESSAGES} of them")));
    }
    let publishes: Vec<_> = objects.into_iter().map(read).collect();
    let messages: usize = publishes.iter().flat_map(|(publish, _)| publish).map(|p| p.channels.len()).sum();
    if messages > MAX_MESSAGES {
        let most = format!("a request publishes to {MAX_MESSAGES} channels at most, all of its objects together");
        return Err(invalid(format!("field \"c\": {most}; these are {messages}")));
    }
    let mut under_way = Vec::with_capacity(publishes.len());
    for (publish, request_id) in publishes {
        api.time.pause().await;
        api.time.charge_publishes(1);
        let span = parent.and_then(|parent| publish::span(api, parent, &publish));
        let enqueued = match publish {
            Ok(publish) => Ok(publish::begin(api, publish, Behind::default()).await),
            Err(error) => Err(error),
        };
        under_way.push((enqueued, request_id, span));
    }
    let mut answers = Vec::with_capacity(under_way.len());
    for (enqueued, request_id, span) in under_way {
        let outcome = match enqueued {
            Ok(enqueued) => Ok(enqueued.outcome().await),
            Err(error) => Err(error),
        };
        delivered(span, outcome.as_ref().map(Outcome::as_slice));
        answers.push((outcome, request_id));
    }
    Ok(answers)
}

fn read(object: &RawValue) -> (Result<Publish, ApiError>, Option<RequestId>) {
    match Params::parse(object.get().as_bytes(), "each item") {
        Ok(params) => (params.publish(), params.request_id()),
        Err(error) => (Err(error), None),
    }
}
