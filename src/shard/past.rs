//! What a worker remembers of connections that are gone and of channels that were left: enough to say why a message did not
//! arrive. The newest of each are kept, and since when all are.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Shard;
use super::conn::Conn;
use crate::hub::{ENDED_CHANNELS, Ended, MAX_TURNS, Story, Turn};
use crate::ids::ClientId;
use crate::message::{Channel, CloseReason};
use crate::telemetry::metrics::labels::{EndReason, Label};

/// As many ends are remembered, and as many turns with channels.
pub const REMEMBERED: usize = 1000;
/// The most bytes of the words of an end; those of a close frame are fewer.
const WORDS: usize = 256;

/// How a connection ended.
pub(super) struct Gone {
    pub(super) at: u64,
    pub(super) by: &'static str,
    pub(super) code: u16,
    pub(super) words: Box<str>,
    pub(super) channels: Box<[Channel]>,
    pub(super) subscriptions: u64,
    pub(super) waiting: u64,
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

impl Shard {
    /// A connection that was open ends; it is still in its channels. To be told once, before [`Shard::remove`].
    pub fn ends(&self, conn: &Conn, by: EndReason) {
        self.end(conn, by.word(), conn.close_reason());
    }

    /// A connection is refused before it is open; `why` in words.
    pub fn refuses(&self, conn: &Conn, why: &str) {
        self.end(conn, "refused", Some(CloseReason::Lost(why.into())));
    }

    fn end(&self, conn: &Conn, by: &'static str, reason: Option<CloseReason>) {
        if !self.by_client.borrow().contains_key(&conn.client_id) {
            return;
        }
        let (code, words) = words(reason.as_ref());
        let topics = self.topics.borrow();
        let gone = Gone {
            at: now(),
            by,
            code,
            words,
            channels: topics.channels_of(conn.slot).take(ENDED_CHANNELS).cloned().collect(),
            subscriptions: topics.count_of(conn.slot) as u64,
            waiting: conn.waiting() as u64,
        };
        drop(topics);
        self.see_end(conn, &gone);
        self.past.gone.borrow_mut().add(conn.client_id, gone, |gone| gone.at);
    }

    /// What is remembered of a client.
    pub(super) fn story(&self, client: ClientId) -> Story {
        let (gone, turned) = (self.past.gone.borrow(), self.past.turned.borrow());
        let names = |channels: &[Channel]| channels.iter().map(|channel| channel.as_str().to_owned()).collect();
        let ended = gone.of(client).next().map(|gone| Ended {
            at: gone.at,
            reason: gone.by.to_owned(),
            code: gone.code,
            text: gone.words.to_string(),
            channels: names(&gone.channels),
            subscriptions: gone.subscriptions,
            waiting: gone.waiting,
        });
        let turn = |turned: &Turned| Turn {
            at: turned.at,
            channel: turned.channel.as_str().to_owned(),
            refused: turned.refused.as_deref().map(str::to_owned),
        };
        let mut turns: Vec<Turn> = turned.of(client).take(MAX_TURNS).map(turn).collect();
        turns.reverse();
        let issued = self.ids.borrow().issued(client);
        Story { ended, turns, issued, ends_since: gone.since, turns_since: turned.since }
    }
}

/// The close code and the words of an end.
fn words(reason: Option<&CloseReason>) -> (u16, Box<str>) {
    let (code, words) = match reason {
        Some(CloseReason::Peer(Some((code, words)))) => (*code, &**words),
        Some(CloseReason::Lost(words)) => (0, &**words),
        Some(reason) => reason.frame().unwrap_or_default(),
        None => (0, ""),
    };
    (code, words[..words.floor_char_boundary(WORDS)].into())
}
