//! A connection of the WebSocket API while its worker holds still for a successor process: it stays here, and ends with 1012 once
//! the successor has everything else.

use super::State;
use crate::shard::hold::{Counted, Held, UnderWay};

/// What a connection does while the worker holds still.
pub(super) enum Still {
    /// It goes on.
    No,
    /// Nothing: it may not even write.
    Pauses,
    /// It ends: what it has not written is with the successor.
    Over,
}

impl State {
    /// What to do while the worker holds still for a successor process. What is under way is answered and written first; a
    /// consumer that does not take what is written to it ends then, so that the message comes once, from the successor.
    pub(super) fn hold(&mut self) -> Still {
        match self.api.hold.held() {
            Held::Offered => Still::Pauses,
            Held::Moved | Held::Left if !self.out.is_empty() && !self.closed => Still::Over,
            _ => Still::No,
        }
    }

    /// The worker waits for what is under way here while it holds still.
    pub(super) fn count(&mut self) {
        let hold = &self.api.hold;
        let what = match (hold.is_on(), self.calls.is_empty(), self.out.is_empty()) {
            (true, false, _) => Some(UnderWay::Call),
            (true, true, false) => Some(UnderWay::Other),
            _ => None,
        };
        self.counted = what.map(|what| Counted::new(hold, what));
    }
}
