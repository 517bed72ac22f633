//! What centers say of engines, and which of these this node does not know.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::protocol::Run;

/// What centers say, and what of it is not known here.
#[derive(Default)]
pub(super) struct Missing {
    /// The engines that each center knows.
    pub(super) seen: BTreeMap<Run, BTreeSet<Run>>,
    /// Those of them that are not known here, and since when.
    pub(super) since: BTreeMap<Run, u64>,
    /// What other nodes were told last, if this one is a center.
    pub(super) told: BTreeSet<Run>,
}
