//! The nodes that can be dialled: where each is, and when it is dialled next.

use std::collections::BTreeMap;

use crate::cluster::members::MAX_NODES;
use crate::cluster::protocol::{Run, read_addresses};

/// Milliseconds until the first repetition. Each pause is twice the one before.
pub(super) const FIRST_PAUSE: u64 = 1000;

/// A node that can be dialled.
pub(super) struct Known {
    pub(super) center: bool,
    pub(super) at: Vec<String>,
    /// When it was linked or listed last.
    pub(super) seen: u64,
    /// Since when there is no link to it.
    pub(super) unlinked: Option<u64>,
    pub(super) next: u64,
    pub(super) pause: u64,
}

/// All nodes that can be dialled.
#[derive(Default)]
pub(super) struct Dials(pub(super) BTreeMap<Run, Known>);

impl Dials {
    /// A node is at one of these addresses.
    pub(super) fn know(&mut self, run: Run, center: bool, at: &[&str], now: u64) {
        let new = read_addresses(at);
        let is_full = self.0.len() >= MAX_NODES;
        match self.0.get_mut(&run) {
            Some(known) => {
                known.seen = now;
                if !known.at.iter().map(String::as_str).eq(new.clone()) {
                    known.at = new.map(str::to_owned).collect();
                }
            }
            None if !is_full => {
                let at = new.map(str::to_owned).collect();
                let known = Known { center, at, seen: now, unlinked: None, next: now, pause: FIRST_PAUSE };
                self.0.insert(run, known);
            }
            None => {}
        }
    }

    /// A node has said that it ends.
    pub(super) fn forget(&mut self, run: Run) {
        self.0.remove(&run);
    }
}
