//! What watchers of an engine see: events of its connections, as they happen. A worker keeps them for each watcher until it is
//! asked for them ([`super::Question::Tail`]); all of it is bounded, and what did not fit is counted.

use serde::{Deserialize, Serialize};

use crate::ids::{ClientId, NodeId};

/// The most events that one answer has; so many are kept for a watcher by each worker, too.
pub const MAX_EVENTS: usize = 1000;
/// The most bytes of the events of one answer.
pub const MAX_EVENT_BYTES: usize = 512 * 1024;
/// The longest event, in bytes.
pub const MAX_EVENT: usize = 8 * 1024;

/// A watcher, and what it wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// A number that no other watcher has; the upper half is that of the user whose watcher it is.
    pub id: u64,
    /// What it wants to see.
    pub wanted: Wanted,
}

impl Watch {
    /// A watcher of that user, by a number that all nodes have for it.
    pub fn new(user: u32, wanted: Wanted) -> Watch {
        let random = NodeId::random().0 & u64::from(u32::MAX);
        Watch { id: u64::from(user) << 32 | random, wanted }
    }
}

/// Which events a watcher wants; an event must fit all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of this channel, or of channels that begin so if it ends in `*`; and of clients that are in such a channel.
    pub channel: Option<Box<str>>,
    /// Of this client.
    pub client: Option<ClientId>,
    /// Only what went wrong.
    pub errors: bool,
    /// With the beginning of messages.
    pub bodies: bool,
}

impl Wanted {
    /// Whether a channel is one of those that are wanted.
    pub fn takes(&self, channel: &str) -> bool {
        match self.channel.as_deref() {
            None => true,
            Some(wanted) => match wanted.strip_suffix('*') {
                Some(beginning) => channel.starts_with(beginning),
                None => channel == wanted,
            },
        }
    }

    /// Whether lines of the log are wanted: they belong to no channel and no client.
    pub fn takes_log(&self) -> bool {
        self.channel.is_none() && self.client.is_none()
    }
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Event {
    /// When it happened, in microseconds of Unix time.
    pub at: u64,
    /// A JSON object on one line.
    pub text: String,
}

/// The events since a watcher has asked last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The events, oldest first.
    pub events: Vec<Event>,
    /// Events that did not fit.
    pub lost: u64,
    /// Workers that did not know the watcher: it has not asked for a long time, or never.
    pub new: u64,
    /// A worker has too many watchers, and keeps nothing for this one.
    pub refused: bool,
}

impl Seen {
    /// Puts another part to it.
    pub(super) fn add(&mut self, other: Seen) {
        self.events.extend(other.events);
        self.lost = self.lost.saturating_add(other.lost);
        self.new = self.new.saturating_add(other.new);
        self.refused |= other.refused;
    }

    /// Sorts it, and keeps what one answer may have.
    pub(super) fn page(&mut self) {
        self.events.sort();
        let mut bytes = 0;
        let fits = |event: &&Event| {
            bytes += event.text.len();
            bytes <= MAX_EVENT_BYTES
        };
        let most = self.events.iter().take(MAX_EVENTS).take_while(fits).count();
        self.lost = self.lost.saturating_add((self.events.len() - most) as u64);
        self.events.truncate(most);
    }

    /// Whether it is one that a node may have made: events of one line each that are JSON, and no more than there may be.
    pub fn is_valid(&self) -> bool {
        let is_event = |event: &Event| {
            event.text.len() <= MAX_EVENT
                && event.text.starts_with('{')
                && !event.text.contains(['\n', '\r'])
                && serde_json::from_str::<serde::de::IgnoredAny>(&event.text).is_ok()
        };
        self.events.len() <= MAX_EVENTS && self.events.iter().all(is_event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: u64, bytes: usize) -> Event {
        Event { at, text: format!("{{\"x\":\"{}\"}}", "x".repeat(bytes)) }
    }

    #[test]
    fn an_answer_is_sorted_and_bounded_and_tells_what_is_missing() {
        let mut seen = Seen { events: vec![event(3, 1), event(1, 1)], lost: 2, new: 1, refused: false };
        seen.add(Seen { events: vec![event(2, 1)], lost: 1, new: 0, refused: true });
        seen.page();
        assert_eq!(seen.events.iter().map(|event| event.at).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((seen.lost, seen.new, seen.refused), (3, 1, true));
        let mut many = Seen { events: (0..2500).map(|at| event(at, 1)).collect(), ..Seen::default() };
        many.page();
        assert_eq!((many.events.len(), many.lost), (MAX_EVENTS, 1500));
        let mut large = Seen { events: (0..200).map(|at| event(at, 4000)).collect(), ..Seen::default() };
        large.page();
        assert!(large.events.len() < 140 && large.events.len() as u64 + large.lost == 200);
        assert!(large.is_valid() && many.is_valid());
        for wrong in ["{\"a\":1}\n", "[]", "{", ""] {
            let seen = Seen { events: vec![Event { at: 1, text: wrong.into() }], ..Seen::default() };
            assert!(!seen.is_valid(), "{wrong:?}");
        }
    }

    #[test]
    fn channels_are_wanted_by_name_or_by_how_they_begin() {
        let wanted = |channel: &str| Wanted { channel: Some(channel.into()), ..Wanted::default() };
        assert!(wanted("a:*").takes("a:1") && !wanted("a:*").takes("b") && wanted("*").takes("x"));
        assert!(wanted("a").takes("a") && !wanted("a").takes("ab") && Wanted::default().takes("x"));
    }
}
