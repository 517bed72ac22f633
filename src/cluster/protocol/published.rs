//! What a publish to one channel came to on all nodes, as nodes tell it each other.

use serde::{Deserialize, Serialize};

use crate::hub::Counts;
use crate::hub::history::Position;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Connections that took it.
    pub reached: u64,
    /// Connections that could not.
    pub failed: u64,
    /// Nodes that did not answer.
    pub unanswered: u64,
    /// Where the message stands, if it has been ordered: its term and its offset.
    pub at: Option<(u64, u64)>,
    /// It was over the channel's limit.
    pub left_out: bool,
    /// Then it was added to others.
    pub merged: bool,
}

impl From<Counts> for Published {
    fn from(Counts { reached, failed, unanswered, at, left_out, merged }: Counts) -> Published {
        let at = at.map(|at| (at.term, at.offset));
        Published { reached, failed, unanswered, at, left_out: left_out > 0, merged: merged > 0 }
    }
}

impl From<Published> for Counts {
    fn from(Published { reached, failed, unanswered, at, left_out, merged }: Published) -> Counts {
        let at = at.map(|(term, offset)| Position { term, offset });
        Counts { reached, failed, unanswered, at, left_out: left_out.into(), merged: merged.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_node_is_told_all_that_a_publish_came_to() {
        let at = Some(Position { term: 7, offset: 1 });
        let passed = Counts { reached: 1, failed: 2, unanswered: 3, at, ..Counts::default() };
        let merged = Counts { left_out: 1, merged: 1, ..Counts::default() };
        for counts in [passed, merged, Counts::default()] {
            assert_eq!(Counts::from(Published::from(counts)), counts);
        }
    }
}
