//! What is known of a span, in OpenTelemetry's terms.

use std::borrow::Cow;

use super::context::TraceContext;

/// The longest text of an attribute or an error, in bytes; the rest is cut off.
const MAX_TEXT: usize = 1024;

/// What a span is to those on its other end (OpenTelemetry's `SpanKind`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Nobody else is concerned.
    Internal,
    /// Another program has asked, and waits for the answer.
    Server,
    /// Another program is asked.
    Client,
    /// A message is sent, and nobody answers.
    Producer,
    /// A message has come, and its sender waits for nothing.
    Consumer,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text, cut to 1 KiB.
    Text(Box<str>),
    /// A number.
    Integer(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Text(cut(text).into())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// An attribute: its name, as OpenTelemetry's semantic conventions have it or with `connmix.` before it, and its value.
pub type Attribute = (&'static str, Value);

/// Something that happened at one moment of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it was.
    pub name: &'static str,
    /// When, in nanoseconds of Unix time.
    pub at: u64,
    /// What is known of it.
    pub attributes: Vec<Attribute>,
}

/// A span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Its trace, and its own id there.
    pub context: TraceContext,
    /// The span that it is part of; None: the trace begins with it.
    pub parent: Option<u64>,
    /// The parent is another program's.
    pub is_remote: bool,
    /// What is done: one of a few names.
    pub name: Cow<'static, str>,
    /// What it is to others.
    pub kind: SpanKind,
    /// When it began and ended, in nanoseconds of Unix time.
    pub time: (u64, u64),
    /// What is known of it.
    pub attributes: Vec<Attribute>,
    /// What happened meanwhile.
    pub events: Vec<Event>,
    /// Why it failed, if it did.
    pub error: Option<Box<str>>,
}

/// The beginning of a text, in whole characters.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}
