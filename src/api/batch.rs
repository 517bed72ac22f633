//! Publishing more than one message in a request, or one message once only. The plain publish, which is nearly all of the
//! traffic, comes by without this.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, maybe_done};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;

use super::Api;
use super::answer::Answer;
use super::call::{Mark, Params, Published, bounded, invalid};
use super::error::ApiError;
use crate::cluster::Behind;
use crate::message::{Channel, Message};

/// The most messages that one request publishes: the channels of all its objects.
pub(super) const MAX_MESSAGES: usize = 1000;

/// What a publish came to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub(super) enum Outcome {
    /// To the one channel that was named.
    One(Published),
    /// To each of a list of channels, in its order.
    Each(Vec<Published>),
}

/// A publish whose parameters are as they should be.
pub(super) struct Publish {
    /// At least one.
    pub(super) channels: Vec<Channel>,
    /// They came as a list.
    pub(super) list: bool,
    pub(super) message: Message,
    /// With it, it is done once.
    pub(super) id: Option<Arc<str>>,
}

/// A publish under way: done when the mailboxes have it, so that the next one may be begun without overtaking it.
pub(super) type UnderWay = BoxFuture<'static, Handed>;

/// A publish that the mailboxes have. Its counts come without being waited for.
#[derive(Clone)]
pub(super) struct Handed(Shared<BoxFuture<'static, Outcome>>);

impl Handed {
    /// A publish whose counts are those.
    pub(super) fn new(counts: impl Future<Output = Outcome> + Send + 'static) -> Handed {
        Handed(counts.boxed().shared())
    }

    /// What it came to.
    pub(super) async fn outcome(self) -> Outcome {
        self.0.await
    }
}

/// Begins a publish, or joins the one with its id.
pub(super) fn begin(api: &Api, publish: Publish, behind: Behind) -> UnderWay {
    match publish.id.clone() {
        Some(id) => api.repeats.once(id, publish, |publish| hand_out(api, publish, behind)),
        None => hand_out(api, publish, behind),
    }
}

/// Publishes to several channels, or once only.
pub(super) async fn publish(api: &Api, params: &Params<'_>) -> Result<Outcome, ApiError> {
    Ok(begin(api, params.publish()?, Behind::default()).await.outcome().await)
}

/// Gives each channel its message, one after the other.
fn hand_out(api: &Api, publish: Publish, behind: Behind) -> UnderWay {
    let Publish { channels, list, message, .. } = publish;
    // Counted here, since another worker may drive what follows.
    api.counts.published.add(channels.len() as u64);
    let mesh = api.mesh.clone();
    let handed_out = async move {
        let mut counts = Vec::with_capacity(channels.len());
        for channel in channels {
            let handed = Arc::new(AtomicBool::new(false));
            let hand_over = {
                let handed = handed.clone();
                move || handed.store(true, Relaxed)
            };
            let mut counted =
                Box::pin(maybe_done(mesh.publish_then(channel, message.clone(), behind.clone(), hand_over)));
            poll_fn(|cx| match counted.as_mut().poll(cx) {
                Poll::Pending if !handed.load(Relaxed) => Poll::Pending,
                _ => Poll::Ready(()),
            })
            .await;
            counts.push(counted);
        }
        Handed::new(async move {
            let mut published = Vec::with_capacity(counts.len());
            for mut counted in counts {
                counted.as_mut().await;
                published.push(Published::from(counted.as_mut().take_output().unwrap_or_default()));
            }
            match published.first() {
                Some(&one) if !list => Outcome::One(one),
                _ => Outcome::Each(published),
            }
        })
    };
    handed_out.boxed()
}

/// Whether that begins as an array does.
pub(super) fn is_array(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"[")
}

/// The objects of a body, not looked into yet; if they are too many, one more than may be.
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

/// Carries out an array of publishes, all or, if the array itself is wrong, none; answers each of them.
pub(super) async fn answer(api: &Api, body: &[u8]) -> Answer {
    match answers(api, body).await {
        Ok(answers) => Answer::to_calls(answers),
        Err(error) => Answer::failure(&error, None),
    }
}

async fn answers(api: &Api, body: &[u8]) -> Result<Vec<(Result<Outcome, ApiError>, Option<Mark>)>, ApiError> {
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
    let mut handed = Vec::with_capacity(publishes.len());
    for (publish, mark) in publishes {
        let begun = match publish {
            Ok(publish) => Ok(begin(api, publish, Behind::default()).await),
            Err(error) => Err(error),
        };
        handed.push((begun, mark));
    }
    let mut answers = Vec::with_capacity(handed.len());
    for (begun, mark) in handed {
        let outcome = match begun {
            Ok(handed) => Ok(handed.outcome().await),
            Err(error) => Err(error),
        };
        answers.push((outcome, mark));
    }
    Ok(answers)
}

fn read(object: &RawValue) -> (Result<Publish, ApiError>, Option<Mark>) {
    match Params::parse(object.get().as_bytes(), "each item") {
        Ok(params) => (params.publish(), params.mark()),
        Err(error) => (Err(error), None),
    }
}
