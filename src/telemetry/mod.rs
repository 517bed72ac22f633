//! The log and the metrics.

pub mod language;
pub mod log;
pub mod metrics;
pub mod rate_limited;
pub(crate) mod terminal;
