//! A connection of the WebSocket API while its worker holds still for a successor process: it stays here, and ends with 1012 once
//! the successor has everything else.

use std::rc::Rc;

use crate::shard::hold::{Counted, Held, Hold, UnderWay};

/// What a connection does while the worker holds still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Still {
    /// It goes on: what is under way is answered and written.
    No,
    /// Nothing: it may not even write.
    Pauses,
    /// It ends. What it has not written is with the successor, and must not come twice.
    Over,
}

/// What to do; `owes`: something is not written, other than the end.
pub(super) fn still(hold: &Hold, owes: bool) -> Still {
    match hold.held() {
        Held::Offered => Still::Pauses,
        Held::Moved | Held::Left if owes => Still::Over,
        _ => Still::No,
    }
}

/// What the worker waits for while it holds still: answers, and what is to be written (`owes`).
pub(super) fn counted(hold: &Rc<Hold>, calls: bool, owes: bool) -> Option<Counted> {
    let what = match (hold.is_on(), calls, owes) {
        (true, true, _) => UnderWay::Call,
        (true, false, true) => UnderWay::Other,
        _ => return None,
    };
    Some(Counted::new(hold, what))
}
