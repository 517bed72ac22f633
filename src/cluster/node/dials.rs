//! Which nodes are dialled, and when. Centers tell engines where all nodes are, and nodes tell it themselves: so an engine
//! that has no link to a node dials it, and goes on with growing pauses until the link stands. Centers are dialled by
//! engines; of two engines, the one with the greater run dials, and the other one as well if that has not helped soon.

use super::known::FIRST_PAUSE;
use super::{Clients, Node, Output};

/// The longest pause between two attempts, in milliseconds.
const MAX_PAUSE: u64 = 10_000;
/// The engine with the smaller run dials if there has been no link for so many milliseconds.
const OTHER_END: u64 = 3000;
/// A node that no center lists any more is forgotten after so many milliseconds.
const UNLISTED: u64 = 60_000;
/// The same where there is no center that could list it.
const FORGOTTEN: u64 = 24 * 3_600_000;

impl<C: Clients> Node<C> {
    /// Dials what is to be dialled now.
    pub(super) fn dial(&mut self, now: u64) {
        if self.settings.center {
            return;
        }
        let (peers, strangers, missing, me) = (&self.peers, &self.strangers, &self.missing, self.settings.run);
        let a_center_lists = missing.has_lists();
        self.dials.0.retain(|run, known| {
            if peers.contains_key(run) || missing.is_listed(*run) {
                known.seen = now;
            }
            *run != me && now <= known.seen + if a_center_lists { UNLISTED } else { FORGOTTEN }
        });
        for (run, known) in &mut self.dials.0 {
            if peers.get(run).is_some_and(|peer| !peer.closed) || strangers.contains(*run) {
                (known.unlinked, known.next, known.pause) = (None, now, FIRST_PAUSE);
                continue;
            }
            let since = *known.unlinked.get_or_insert(now);
            let is_ours = known.center || me > *run || now >= since + OTHER_END;
            if is_ours && now >= known.next && !known.at.is_empty() {
                // Not quite the same at both ends: two links that are made at the same moment can end each other.
                known.next = now + known.pause + me.0 % 500;
                known.pause = (2 * known.pause).min(MAX_PAUSE);
                self.output.push(Output::Dial(*run, known.at.clone()));
            }
        }
    }
}
