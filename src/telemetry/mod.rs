//! What the engine tells of itself.

pub mod log;
pub mod metrics;
pub mod rate_limited;
