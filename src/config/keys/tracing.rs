//! The rows of `tracing`: where spans go, and which.

use crate::config::changes::{Changes, Effect::Live, HIDDEN};
use crate::config::kinds::{Leaf, flag_or, parsed, required, secret, text};
use crate::config::raw::address::{ENDPOINT, NO_ENDPOINT, endpoint};
use crate::config::raw::value::Value;
use crate::config::rows::{Head, Kind, Row, section};
use crate::config::sections::{Entry, named};
use crate::secret::Secret;
use serde_json::Value as Json;

section! {
    /// Traces for OpenTelemetry. What is not given here is taken from the environment, where OpenTelemetry's own variables
    /// stand.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Tracing {
        /// The collector, by OTLP over HTTP; spans go to /v1/traces there. Unset: OTEL_EXPORTER_OTLP_ENDPOINT of the
        /// environment. Without both, and where it is empty, nothing is traced.
        pub endpoint: Option<String> = "endpoint", url(), Live;
        /// Headers of each request to the collector. Unset: OTEL_EXPORTER_OTLP_HEADERS.
        pub headers: Vec<TracingHeader> = "headers", named("name", |header: &TracingHeader| &header.name), Live;
        /// What this service is called in traces. Unset: OTEL_SERVICE_NAME.
        pub service_name: String = "serviceName", text("connmix"), Live;
        /// The part of the traces that begin here which is recorded. Unset: OTEL_TRACES_SAMPLER_ARG. Where a traceparent comes,
        /// its flag decides.
        pub sample_ratio: f64 = "sampleRatio", ratio(), Live;
        /// A traceparent in a client's handshake counts. With false, its messages begin traces of their own.
        pub from_clients: bool = "fromClients", flag_or(true), Live;
    }
}

section! {
    /// A header of the requests to the collector.
    #[derive(Debug, Clone, PartialEq)]
    pub struct TracingHeader {
        /// Its name, unique.
        pub name: String = "name", header_name(), Live;
        /// Its value; never shown.
        pub value: Secret = "value", secret().checked(|value| value_problem(value.expose())), Live;
    }
}

impl Entry for TracingHeader {
    fn summary(&self) -> String {
        HIDDEN.to_owned()
    }
}

/// The URL of a collector; empty is the same as none. A wrong one is not shown, since it may hold a password.
fn url() -> Leaf<Option<String>> {
    let read = |text: &str| Some((!text.is_empty()).then(|| text.to_owned()));
    parsed(ENDPOINT, None, read, |endpoint| endpoint.as_deref().into()).checked(|given| {
        let is_wrong = given.as_deref().is_some_and(|text| endpoint(text).is_none());
        is_wrong.then_some(NO_ENDPOINT)
    })
}

/// A part of all.
fn ratio() -> Leaf<f64> {
    let read = |at: &Value<'_>| at.parse("a number between 0 and 1", 1.0, read_ratio);
    let show = |ratio: &f64| if ratio.fract() == 0.0 { Json::from(*ratio as u64) } else { Json::from(*ratio) };
    Leaf::new("number", "between 0 and 1".to_owned(), Some(1.0), read, show)
}

/// A number between 0 and 1, both included.
pub fn read_ratio(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio))
}

fn header_name() -> Leaf<String> {
    required().checked(|name| {
        (!is_header_name(name)).then_some("expected the name of a header that the engine does not set itself")
    })
}

/// Whether it is a name of a header (RFC 9110, section 5.6.2), and none of those that the engine sets.
pub fn is_header_name(name: &str) -> bool {
    let is_own = ["content-type", "content-length", "transfer-encoding", "host", "connection"]
        .iter()
        .any(|own| name.eq_ignore_ascii_case(own));
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty() && name.len() <= 256 && name.bytes().all(token) && !is_own
}

/// What is wrong with a header's value.
pub fn value_problem(value: &str) -> Option<&'static str> {
    let is_wrong = value.is_empty() || value.len() > 8192 || value.contains(char::is_control);
    is_wrong.then_some("expected the value of a header: not empty, without a line break")
}
