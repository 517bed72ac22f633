//! How far a node is in handing over to a successor process, and what it keeps meanwhile: see [`super::moving`].

use bytes::Bytes;

use crate::cluster::protocol::Run;

/// How far a node is in handing over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Pace {
    /// It serves.
    #[default]
    Serving,
    /// The same, while a successor reaches the others.
    Preceding,
    /// It begins nothing new.
    Finishing,
    /// It does nothing.
    Still,
}

impl Pace {
    /// Whether it works as ever.
    pub(super) fn serves(self) -> bool {
        matches!(self, Pace::Serving | Pace::Preceding)
    }
}

/// What has come for a node that is still. Others send no more than their windows hold.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) frames: Vec<Bytes>,
    /// Links that have ended.
    pub(super) closed: Vec<Run>,
}
