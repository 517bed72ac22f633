//! How far the stop of an engine has come.

/// A stage of the stop; they come in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// There is none: the engine serves.
    Serving,
    /// A successor process is about to take the connections: no call begins until it has, or has not.
    Moving,
    /// `/readyz` says so, and callers are asked to connect elsewhere; then clients are closed a few at a time. Who is
    /// connected is served as ever.
    Leaving,
    /// Everything ends.
    Draining,
}

impl Stage {
    /// Whether the stop has begun.
    pub fn is_leaving(&self) -> bool {
        matches!(self, Stage::Leaving | Stage::Draining)
    }

    /// Whether callers' connections have to look up from what they wait for.
    pub fn interrupts(&self) -> bool {
        matches!(self, Stage::Moving | Stage::Draining)
    }

    /// Whether everything ends.
    pub fn is_draining(&self) -> bool {
        *self == Stage::Draining
    }
}
