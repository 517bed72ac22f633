//! Traces in OpenTelemetry's terms: a [`Span`] is one thing that the engine does for a caller or a client, and belongs to the
//! trace of the one who asked for it ([`TraceContext`]). A worker's [`Tracer`] decides which spans are recorded; a [`Recording`] is
//! one that has not ended. Spans that have ended wait in the bounded [`SpanQueue`] for an exporter, which encodes them by
//! [`otlp`]. While nothing is traced, all of this costs a look at one cell.

mod context;
pub mod otlp;
mod queue;
mod recording;
mod span;
mod tracer;

pub use context::TraceContext;
pub use queue::{Figures, MAX_BATCH, MAX_QUEUED, SpanQueue};
pub use recording::Recording;
pub use span::{Attribute, Event, Span, SpanKind, Value};
pub use tracer::{Entered, Tracer};
