//! What centers say of nodes, and which engines among them this node does not know.

use bytes::Bytes;
use std::collections::BTreeMap;

use crate::cluster::protocol::Run;

/// What centers say, and what of it is not known here.
#[derive(Default)]
pub(super) struct Missing {
    /// The nodes that each center lists: whether they are engines that serve.
    pub(super) seen: BTreeMap<Run, BTreeMap<Run, bool>>,
    /// The serving engines among them that are not known here, and since when.
    pub(super) since: BTreeMap<Run, u64>,
    /// What other nodes were told last, if this one is a center.
    pub(super) told: Bytes,
}

impl Missing {
    /// Whether a center lists a node.
    pub(super) fn is_listed(&self, run: Run) -> bool {
        self.seen.values().any(|nodes| nodes.contains_key(&run))
    }

    /// Whether any center lists nodes.
    pub(super) fn has_lists(&self) -> bool {
        !self.seen.is_empty()
    }
}
