//! The nodes that were heard and have not proved themselves: what is kept of each.

use std::collections::BTreeMap;

use crate::cluster::protocol::{Hello, Run};

/// A stranger that was not heard for so many milliseconds is forgotten.
const FORGOTTEN: u64 = 3000;
/// A node that was heard.
pub(super) struct Stranger {
    pub(super) hello: Hello,
    pub(super) heard: u64,
    /// When it was greeted last.
    pub(super) greeted: u64,
    /// Its proof was wrong.
    pub(super) refused: bool,
}

/// All of them.
#[derive(Default)]
pub(super) struct Strangers(pub(super) BTreeMap<Run, Stranger>);

impl Strangers {
    /// Whether that one was heard lately.
    pub(super) fn contains(&self, run: Run) -> bool {
        self.0.contains_key(&run)
    }

    /// The engines that may soon be peers.
    pub(super) fn engines(&self) -> impl Iterator<Item = &Stranger> {
        self.0.values().filter(|stranger| stranger.hello.engine && !stranger.refused)
    }

    pub(super) fn remove(&mut self, run: Run) {
        self.0.remove(&run);
    }

    /// Those that have fallen silent are forgotten.
    pub(super) fn forget(&mut self, now: u64) {
        self.0.retain(|_, stranger| now <= stranger.heard + FORGOTTEN);
    }
}
