//! The log, the metrics, and the spans of traces.

pub mod language;
pub mod log;
pub mod metrics;
pub mod rate_limited;
pub mod spans;
pub(crate) mod terminal;
