//! The rows of `engine.channels`: what holds for channels whose names begin alike.

use super::bounds::{AGE, TIMEOUT};
use crate::config::changes::{Changes, Effect, Effect::Live};
use crate::config::kinds::{Leaf, duration, flag, number, rate, required, text, word};
use crate::config::raw::rate::MAX_RATE;
use crate::config::raw::units;
use crate::config::raw::value::Value;
use crate::config::rows::{Head, Kind, Row, section};
use crate::config::sections::{Entry, named, part};
use crate::config::types::{Envelope, Over, Rate, Slow};
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
        /// How many publishes to such a channel are delivered. The same on all nodes.
        pub limit: LimitRule = "limit", part();
        /// What happens to the messages of such a channel that wait for a client which does not keep up.
        pub slow: Slow = "slow", word(&[Slow::Close, Slow::DropOldest, Slow::Latest], Slow::Close), Live;
        /// The most connections in such a channel, on all nodes; 0 = no bound. The same on all nodes.
        pub max_subscribers: usize = "maxSubscribers", number(0..=100_000_000, 0), Live;
        /// What is kept of such a channel's messages. The same on all nodes.
        pub history: HistoryRule = "history", part();
        /// How its connections get its messages: none, as they were published; json, as {"c":channel,"p":position,"d":data}.
        pub envelope: Envelope = "envelope", word(&[Envelope::None, Envelope::Json], Envelope::None), Live;
    }
}

section! {
    /// What is kept of a channel's messages.
    #[derive(Debug, Clone, PartialEq)]
    pub struct HistoryRule {
        /// The most messages, the newest; 0 = none are kept.
        pub size: usize = "size", number(0..=MAX_HISTORY, 0), Live;
        /// How long each is kept; 0 = for as long as there is room.
        pub age: Duration = "age", duration(AGE, Duration::ZERO), Live;
    }
}

section! {
    /// How many publishes to a channel are delivered.
    #[derive(Debug, Clone, PartialEq)]
    pub struct LimitRule {
        /// So many in each window; 0 = all.
        pub rate: Rate = "rate", rate(), Live;
        /// So many of them are for publishes of high priority alone.
        pub reserve: u64 = "reserve", number(0..=MAX_RATE, 0), Live;
        /// What happens to the others.
        pub over: Over = "over", word(&[Over::Drop, Over::Sample, Over::Merge], Over::Drop), Live;
    }
}

impl LimitRule {
    /// Whether there is a limit.
    pub fn is_on(&self) -> bool {
        !self.rate.is_none()
    }

    /// How many may be of any priority.
    pub fn open(&self) -> u64 {
        self.rate.count.saturating_sub(self.reserve)
    }
}

/// The most messages that are kept of a channel.
pub const MAX_HISTORY: usize = 10_000;

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

/// How the name of a channel may begin. An asterisk at the end says that anything may follow, as it does without; by itself it
/// is all channels.
fn prefix() -> Leaf<String> {
    let checked = required().checked(|prefix| {
        let wrong = !prefix.is_empty() && Channel::parse(prefix.as_bytes()).is_err();
        wrong.then_some("no channel's name begins so: it has 1 to 255 bytes without spaces or control characters")
    });
    let stripped = |prefix: String| prefix.strip_suffix('*').map(str::to_owned).unwrap_or(prefix);
    checked.map(stripped, |prefix| if prefix.is_empty() { "*".to_owned() } else { prefix.clone() })
}

impl ChannelRule {
    /// One that says nothing for channels that begin so.
    pub fn of(prefix: impl Into<String>) -> ChannelRule {
        let online = Online { every: Duration::ZERO, message: ONLINE.to_owned() };
        let history = HistoryRule { size: 0, age: Duration::ZERO };
        ChannelRule {
            prefix: prefix.into(),
            presence: false,
            join_leave: false,
            online,
            limit: LimitRule { rate: Rate::NONE, reserve: 0, over: Over::Drop },
            slow: Slow::Close,
            max_subscribers: 0,
            history,
            envelope: Envelope::None,
        }
    }

    /// Whether the messages of each of these channels have an order of their own, and positions in it.
    pub fn is_ordered(&self) -> bool {
        self.history.size > 0 || self.limit.is_on()
    }

    /// Whether the messages of each of these channels are kept.
    pub fn keeps(&self) -> bool {
        self.history.size > 0
    }

    /// Whether a publish has to look at the rule.
    pub fn shapes_publishes(&self) -> bool {
        self.is_ordered() || self.envelope != Envelope::None
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
            "presence {}, joinLeave {}, online every {every}, slow {}, maxSubscribers {}, history {} for {}, envelope {}, \
             limit {} in {}, {} of them reserved, over {}",
            self.presence,
            self.join_leave,
            self.slow,
            self.max_subscribers,
            self.history.size,
            units::duration(self.history.age),
            self.envelope,
            self.limit.rate.count,
            units::duration(self.limit.rate.per),
            self.limit.reserve,
            self.limit.over
        )
    }
}
