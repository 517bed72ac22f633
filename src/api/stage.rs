//! How far the stop of an engine has come.

/// A stage of the stop; they come in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// There is none: the engine serves.
    Serving,
    /// `/readyz` says so, and callers are asked to connect elsewhere; then clients are closed a few at a time. Whoever is
    /// connected is served as ever.
    Leaving,
    /// Everything ends.
    Draining,
}

impl Stage {
    /// Whether the stop has begun.
    pub fn is_leaving(&self) -> bool {
        *self != Stage::Serving
    }

    /// Whether everything ends.
    pub fn is_draining(&self) -> bool {
        *self == Stage::Draining
    }
}
