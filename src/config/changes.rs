//! The differences between two configurations, as the log shows them, and when each takes effect.

use std::fmt::{self, Display};

/// The text that stands for any secret.
pub const HIDDEN: &str = "***";

/// When a change to a running engine's file takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// At once, for connections that are already there too.
    Live,
    /// With the next start; holds the part that is only set up then.
    Restart(&'static str),
    /// Never: the key is checked and not used.
    Unused,
}

impl Effect {
    /// The word in the documentation.
    pub fn word(self) -> &'static str {
        match self {
            Effect::Live => "live",
            Effect::Restart(_) => "restart",
            Effect::Unused => "unused",
        }
    }
}

/// What differs between two configurations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// In force at once.
    pub live: Vec<Change>,
    /// In force after a restart.
    pub restart: Vec<Change>,
}

/// One key that differs. Secrets read `***`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key's path.
    pub key: String,
    /// What it was.
    pub old: String,
    /// What it is in the new file.
    pub new: String,
}

impl Display for Change {
    /// `engine.apiServer.port: 6789 -> 6790`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.key, self.old, self.new)
    }
}

impl Changes {
    /// Adds a key's change to those of its kind.
    pub fn add(&mut self, effect: Effect, key: &str, old: String, new: String) {
        let list = match effect {
            Effect::Live => &mut self.live,
            Effect::Restart(_) => &mut self.restart,
            // The key is not used, so nothing changes.
            Effect::Unused => return,
        };
        list.push(Change { key: key.to_owned(), old, new });
    }

    /// Adds a change whose values are not shown.
    pub fn add_hidden(&mut self, effect: Effect, key: &str) {
        self.add(effect, key, HIDDEN.to_owned(), HIDDEN.to_owned());
    }
}
