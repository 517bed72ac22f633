//! The ends of connections, for those who watch and for what is remembered.

use super::Shard;
use super::conn::Conn;
use super::past::{Gone, now};
use crate::hub::{ENDED_CHANNELS, Story};
use crate::ids::ClientId;
use crate::message::CloseReason;
use crate::telemetry::metrics::labels::{EndReason, Label};
use std::borrow::Cow;

/// The most bytes of the words of an end; those of a close frame are fewer.
const WORDS: usize = 256;

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
        };
        drop(topics);
        self.see_end(conn, &gone);
        self.past.ended(conn.client_id, gone);
    }

    /// What is remembered of a client.
    pub(super) fn story(&self, client: ClientId) -> Story {
        let issued = self.ids.borrow().issued(client);
        self.past.story(client, issued)
    }
}

/// The close code and the words of an end.
fn words(reason: Option<&CloseReason>) -> (u16, Box<str>) {
    let (code, words) = match reason {
        Some(CloseReason::Peer(Some((code, words)))) => (*code, Cow::from(&**words)),
        Some(CloseReason::Lost(words)) => (0, Cow::from(&**words)),
        Some(reason) => reason.frame().unwrap_or_default(),
        None => Default::default(),
    };
    (code, words[..words.floor_char_boundary(WORDS)].into())
}
