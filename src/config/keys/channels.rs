//! The rows of `engine.channels`: what holds for channels whose names begin alike.

use super::bounds::TIMEOUT;
use crate::config::changes::{Changes, Effect, Effect::Live};
use crate::config::kinds::{Leaf, duration, flag, number, required, text};
use crate::config::raw::units;
use crate::config::raw::value::Value;
use crate::config::rows::{Head, Kind, Row, section};
use crate::config::sections::{Entry, named, part};
use crate::message::Channel;
use std::time::Duration;

section! {
    /// What holds for channels whose names begin alike.
    #[derive(Debug, Clone, PartialEq)]
    pub struct ChannelRule {
        /// How their names begin. Of several rules the one with the longest match counts, as a whole.
        pub prefix: String = "match", prefix(), Live;
        /// Whether it is told who is in such a channel, with the info that conn:subscribe gave.
        pub presence: bool = "presence", flag(), Live;
        /// Whether such a channel is told who came and who went.
        pub join_leave: bool = "joinLeave", flag(), Live;
        /// The number of connections, as they are told.
        pub online: Online = "online", part();
        /// The most connections in such a channel, on all nodes; 0 = no bound. The same on all nodes.
        pub max_subscribers: usize = "maxSubscribers", number(0..=100_000_000, 0), Live;
    }
}

section! {
    /// The number of connections in a channel, as they are told.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Online {
        /// How often it is told at most, when it has changed; 0 = never. The same on all nodes.
        pub every: Duration = "every", duration(TIMEOUT, Duration::ZERO), Live;
        /// The text that is told; %n is the number.
        pub message: String = "message", text(ONLINE).checked(|text| {
            (!text.contains("%n")).then_some("must hold %n, in whose place the number is put")
        }), Live;
    }
}

/// The text that tells a number, unless told.
const ONLINE: &str = r#"{"event":"@online","data":{"n":%n}}"#;

impl Online {
    /// Whether it is told.
    pub fn is_on(&self) -> bool {
        !self.every.is_zero()
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
    /// One that says nothing for channels that begin so.
    pub fn of(prefix: impl Into<String>) -> ChannelRule {
        let online = Online { every: Duration::ZERO, message: ONLINE.to_owned() };
        ChannelRule { prefix: prefix.into(), presence: false, join_leave: false, online, max_subscribers: 0 }
    }

    /// Whether the node counts the connections of each of these channels.
    pub fn is_counted(&self) -> bool {
        self.max_subscribers > 0 || self.online.is_on()
    }
}

impl Entry for ChannelRule {
    fn summary(&self) -> String {
        let every = units::duration(self.online.every);
        format!(
            "presence {}, joinLeave {}, online every {every}, maxSubscribers {}",
            self.presence, self.join_leave, self.max_subscribers
        )
    }
}
