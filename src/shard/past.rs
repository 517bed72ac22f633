//! What a worker remembers of connections that are gone and of channels that were left: enough to say why a message did not
//! arrive. The newest of each are kept, and since when all are.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::hub::{Ended, MAX_TURNS, Story, Turn};
use crate::ids::{ClientId, Issued};
use crate::message::Channel;

/// As many ends are remembered, and as many turns with channels.
pub const REMEMBERED: usize = 1000;

/// How a connection ended.
pub(super) struct Gone {
    pub(super) at: u64,
    pub(super) by: &'static str,
    pub(super) code: u16,
    pub(super) words: Box<str>,
    pub(super) channels: Box<[Channel]>,
    pub(super) subscriptions: u64,
}

/// A channel that was left, or that a connection was not let into.
struct Turned {
    at: u64,
    channel: Channel,
    refused: Option<Box<str>>,
}

/// The newest of something, by client.
struct Newest<T> {
    kept: VecDeque<(ClientId, T)>,
    /// When the last one happened that is not kept any more.
    since: u64,
}

impl<T> Default for Newest<T> {
    fn default() -> Newest<T> {
        Newest { kept: VecDeque::new(), since: 0 }
    }
}

impl<T> Newest<T> {
    fn add(&mut self, client: ClientId, one: T, at: impl Fn(&T) -> u64) {
        if self.kept.len() >= REMEMBERED
            && let Some((_, oldest)) = self.kept.pop_front()
        {
            self.since = at(&oldest);
        }
        self.kept.push_back((client, one));
    }

    /// Those of a client, newest first.
    fn of(&self, client: ClientId) -> impl Iterator<Item = &T> {
        self.kept.iter().rev().filter(move |(of, _)| *of == client).map(|(_, one)| one)
    }
}

/// What is remembered.
#[derive(Default)]
pub(super) struct Past {
    gone: RefCell<Newest<Gone>>,
    turned: RefCell<Newest<Turned>>,
}

/// Milliseconds of Unix time.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Past {
    /// A connection has left a channel.
    pub(super) fn left(&self, client: ClientId, channel: &Channel) {
        self.turn(client, std::slice::from_ref(channel), None);
    }

    /// A connection was not let into these channels.
    pub(super) fn refused(&self, client: ClientId, channels: &[Channel], why: &str) {
        self.turn(client, channels, Some(why));
    }

    fn turn(&self, client: ClientId, channels: &[Channel], refused: Option<&str>) {
        let (at, mut turned) = (now(), self.turned.borrow_mut());
        // The first would be forgotten at once.
        for channel in &channels[channels.len().saturating_sub(REMEMBERED)..] {
            let one = Turned { at, channel: channel.clone(), refused: refused.map(Box::from) };
            turned.add(client, one, |turned| turned.at);
        }
    }
}

impl Past {
    /// A connection has ended.
    pub(super) fn ended(&self, client: ClientId, gone: Gone) {
        self.gone.borrow_mut().add(client, gone, |gone| gone.at);
    }

    /// What is remembered of a client.
    pub(super) fn story(&self, client: ClientId, issued: Issued) -> Story {
        let (gone, turned) = (self.gone.borrow(), self.turned.borrow());
        let names = |channels: &[Channel]| channels.iter().map(|channel| channel.as_str().to_owned()).collect();
        let ended = gone.of(client).next().map(|gone| Ended {
            at: gone.at,
            reason: gone.by.to_owned(),
            code: gone.code,
            text: gone.words.to_string(),
            channels: names(&gone.channels),
            subscriptions: gone.subscriptions,
        });
        let turn = |turned: &Turned| Turn {
            at: turned.at,
            channel: turned.channel.as_str().to_owned(),
            refused: turned.refused.as_deref().map(str::to_owned),
        };
        let mut turns: Vec<Turn> = turned.of(client).take(MAX_TURNS).map(turn).collect();
        turns.reverse();
        Story { ended, turns, issued, ends_since: gone.since, turns_since: turned.since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered_and_since_when_all_are() {
        let (past, channel) = (Past::default(), Channel::parse(b"c").unwrap());
        let client = |n: u64| ClientId::new(n).unwrap();
        let gone = |at| Gone {
            at,
            by: "peer",
            code: 1000,
            words: "".into(),
            channels: [channel.clone()].into(),
            subscriptions: 1,
        };
        for n in 1..=REMEMBERED as u64 {
            past.ended(client(n), gone(n));
        }
        assert_eq!(past.story(client(1), Issued::Here).ends_since, 0, "all of them");
        past.ended(client(5000), gone(5000));
        let story = past.story(client(1), Issued::Here);
        assert_eq!((story.ended, story.ends_since), (None, 1));
        assert_eq!(past.story(client(2), Issued::Here).ended.unwrap().channels, ["c"]);
        past.left(client(7), &channel);
        past.refused(client(7), &vec![channel.clone(); 3 * REMEMBERED], "it is full");
        let story = past.story(client(7), Issued::Here);
        assert_eq!(story.turns.len(), MAX_TURNS);
        assert!(story.is_valid() && story.turns_since > 0 && story.turns[0].refused.is_some());
    }
}
