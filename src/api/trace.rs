//! The spans of publishes: what a request says of its trace, and what a publish came to. While nothing is traced, a call costs a
//! look at one cell.

use hyper::header::HeaderMap;

use super::call::Published;
use super::error::ApiError;
use super::state::Api;
use crate::message::Channel;
use crate::telemetry::spans::{Recording, SpanKind, TraceContext};

/// The most headers of a request that are looked at.
const MAX_HEADERS: usize = 64;

/// What a request says of its trace: the publishes that it asks for belong to it. Boxed, so that a connection does not carry it.
pub(super) struct Parent(Option<TraceContext>);

impl Parent {
    /// That of the head of a request that has been parsed before.
    pub(super) fn of_head(head: &[u8]) -> Box<Parent> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let context = match request.parse(head) {
            Ok(_) => TraceContext::of_headers(request.headers.iter().map(|header| (header.name, header.value))),
            Err(_) => None,
        };
        Box::new(Parent(context))
    }

    /// That of a request's headers.
    pub(super) fn of_headers(headers: &HeaderMap) -> Box<Parent> {
        Box::new(Parent(TraceContext::of_headers(
            headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())),
        )))
    }

    /// What the fields of a request say.
    pub(super) fn of_texts(parent: Option<&str>, state: Option<&str>) -> Box<Parent> {
        Box::new(Parent(parent.and_then(|parent| TraceContext::of_texts(parent, state))))
    }
}

impl Api {
    /// Begins the span of a publish to channels, of which the first is given if it is known. None: it is not recorded.
    pub(super) fn publish_span(&self, parent: &Parent, channels: &[Channel]) -> Option<Recording> {
        let mut span = self.tracer.begin("publish", SpanKind::Server, parent.0.as_ref()).1?;
        span.publishes();
        match channels {
            [] => {}
            [channel] => span.set("messaging.destination.name", channel.as_str()),
            many => span.set("messaging.batch.message_count", many.len() as u64),
        }
        Some(span)
    }
}

/// A publish has come to that: its span ends.
pub(super) fn delivered(span: Option<Recording>, outcome: Result<&[Published], &ApiError>) {
    let Some(mut span) = span else { return };
    let published = match outcome {
        Ok(published) => published,
        Err(error) => return span.fail(&error.message()),
    };
    let sum = |of: fn(&Published) -> u64| published.iter().map(of).fold(0, u64::saturating_add);
    let (reached, failed) = (sum(|one| one.s), sum(|one| one.f));
    span.delivered((reached, failed), sum(|one| one.u), (sum(|one| one.l), sum(|one| one.m)));
}
