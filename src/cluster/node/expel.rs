//! Nodes that send what no node sends. They have the secret, so it is a defect, or somebody has taken the node over: nothing
//! more of theirs is read, and what they have told is forgotten. One that goes on may join again, and is heard from its beginning.

use std::fmt::Display;

use super::{Clients, Node};
use crate::cluster::protocol::{Message, Run};

/// The most channels that are known of all other nodes together. Fewer in tests, which have less memory.
pub(in crate::cluster) const MAX_CHANNELS: usize = if cfg!(test) { 1 << 12 } else { 1 << 27 };

impl<C: Clients> Node<C> {
    /// Drops a node for what it sent.
    pub(super) fn expel(&mut self, run: Run, why: impl Display) {
        self.remove(run, Some(&format!("what it sent is refused: {why}")));
    }

    /// Whether a message tells of more channels than there is room for.
    pub(super) fn is_too_much(&self, run: Run, message: &Message<'_>) -> bool {
        let Some(peer) = self.peers.get(&run) else { return false };
        let (told, known) = match message {
            // Those of a stream that begins anew take the place of what was known.
            Message::Snapshot { hashes, .. } if peer.complete => (hashes.len(), 0),
            Message::Snapshot { hashes, .. } => (hashes.len(), self.shared.others.len()),
            Message::Interest { come, .. } => (come.len(), self.shared.others.len()),
            _ => return false,
        };
        known + peer.incoming.snapshot.len() + told / size_of::<u64>() > MAX_CHANNELS
    }
}
