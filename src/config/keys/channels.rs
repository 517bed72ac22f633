//! The rows of `engine.channels`: what holds for channels whose names begin alike.

use crate::config::changes::{Changes, Effect::Live};
use crate::config::kinds::{Leaf, flag, number, required};
use crate::config::raw::value::Value;
use crate::config::rows::{Head, Kind, Row, section};
use crate::config::sections::{Entry, named};
use crate::message::Channel;

section! {
    /// What holds for channels whose names begin alike.
    #[derive(Debug, Clone, PartialEq)]
    pub struct ChannelRule {
        /// How their names begin. Of several rules the one with the longest match counts, as a whole.
        pub prefix: String = "match", prefix(), Live;
        /// Whether it is told who is in such a channel, with the info that conn:subscribe gave.
        pub presence: bool = "presence", flag(), Live;
        /// The most connections in such a channel, on each node; 0 = no bound.
        pub max_subscribers: usize = "maxSubscribers", number(0..=100_000_000, 0), Live;
    }
}

/// The kind of the list of rules.
pub fn rules() -> impl Kind<Value = Vec<ChannelRule>> {
    named("match", |rule: &ChannelRule| &rule.prefix)
}

/// How the name of a channel may begin.
fn prefix() -> Leaf<String> {
    required().checked(|prefix| {
        let wrong = !prefix.is_empty() && Channel::parse(prefix.as_bytes()).is_err();
        wrong.then_some("no channel's name begins so: it has 1 to 255 bytes without spaces or control characters")
    })
}

impl ChannelRule {
    /// Whether the node counts the connections of each of these channels.
    pub fn is_counted(&self) -> bool {
        self.max_subscribers > 0
    }
}

impl Entry for ChannelRule {
    fn summary(&self) -> String {
        format!("presence {}, maxSubscribers {}", self.presence, self.max_subscribers)
    }
}
