//! What watchers are told of this worker's connections, and which of them. Every function here is called only while somebody
//! watches ([`Tap::is_on`](super::tap::Tap::is_on)), but for those that ask so themselves.

use std::net::SocketAddr;
use std::time::Duration;

use super::Shard;
use super::conn::Conn;
use super::past::Gone;
use super::tap::Text;
use crate::hub::topics::Topics;
use crate::hub::{ENDED_CHANNELS, Publication, Wanted};
use crate::ids::ClientId;
use crate::message::{Channel, Kind};
use crate::telemetry::metrics::labels::{DropCause, EndReason, Label, RefusalCause};
use crate::wire::handshake::Refusal;

/// What failed in a script.
pub struct Failed<'a> {
    /// `hook` or `timer`.
    pub what: &'static str,
    /// Its name.
    pub name: &'a str,
    /// File and line, as `entry.lua:12`; empty: not known.
    pub place: &'a str,
    /// The error.
    pub text: &'a str,
    /// The functions on the stack, innermost first.
    pub traceback: &'a str,
}

impl Shard {
    /// A connection is open.
    #[cold]
    pub fn see_connect(&self, conn: &Conn) {
        self.see(conn, false, |text, _| {
            text.name("connect").id("client", conn.client_id);
            text.number("server", conn.served.index).text("address", &conn.remote().to_string());
        });
    }

    /// A client was refused before it had a connection.
    #[cold]
    pub fn see_refused(&self, server: usize, address: SocketAddr, refusal: &Refusal, cause: RefusalCause) {
        self.tap.keep(Wanted::takes_log, |text, _| {
            text.name("refused").number("server", server).text("address", &address.to_string());
            text.text("cause", cause.word()).number("status", refusal.status).text("text", &refusal.text);
        });
    }

    /// A message has come from a client.
    #[cold]
    pub fn see_message(&self, conn: &Conn, kind: Kind, data: &[u8]) {
        self.see(conn, false, |text, wanted| {
            text.name("message").id("client", conn.client_id).message(wanted, kind, data);
        });
    }

    /// A handler has ended, and how long it took with its waits.
    #[cold]
    pub fn see_handler(&self, conn: &Conn, hook: &str, took: Duration, ok: bool) {
        self.see(conn, false, |text, _| {
            text.name("handler").id("client", conn.client_id).text("hook", hook);
            text.number("ms", took.as_micros() as f64 / 1000.0).number("ok", ok);
        });
    }

    /// A script has failed, for that client or for none.
    #[cold]
    pub fn see_failure(&self, client: Option<&Conn>, failed: &Failed<'_>) {
        let (file, line) = failed.place.rsplit_once(':').unwrap_or_default();
        let write = |text: &mut Text, _: &Wanted| {
            text.name("error").text(failed.what, failed.name);
            if let Some(conn) = client {
                text.id("client", conn.client_id);
            }
            if !line.is_empty() && line.bytes().all(|b| b.is_ascii_digit()) {
                text.text("file", file).number("line", line);
            }
            text.text("text", failed.text).text("traceback", failed.traceback);
        };
        match client {
            Some(conn) => self.see(conn, true, write),
            None => self.tap.keep(Wanted::takes_log, write),
        }
    }

    /// A connection has entered channels, or left them.
    #[cold]
    pub(super) fn see_turn(&self, conn: &Conn, came: bool, channels: &[Channel]) {
        let wants = |wanted: &Wanted| {
            fits(wanted, conn.client_id, false) && channels.iter().any(|channel| wanted.takes(channel.as_str()))
        };
        self.tap.keep(wants, |text, _| {
            text.name(if came { "subscribe" } else { "unsubscribe" }).id("client", conn.client_id);
            let more = channels.len().saturating_sub(ENDED_CHANNELS);
            text.texts("channels", channels.iter().map(Channel::as_str).take(ENDED_CHANNELS), more);
        });
    }

    /// A publication is in the outboxes of its connections on this worker; `reached` and `failed` of them.
    #[cold]
    pub(super) fn see_publication(&self, publication: &Publication, (reached, failed): (u64, u64)) {
        let (channel, message) = (publication.channel.as_str(), &publication.message);
        let topics = self.topics.borrow();
        let is_in = |client: ClientId| {
            let slot = self.by_client.borrow().get(&client).copied();
            slot.is_some_and(|slot| topics.contains(slot, channel)) && !publication.options.except.contains(client)
        };
        let wants = |wanted: &Wanted| !wanted.errors && wanted.takes(channel) && wanted.client.is_none_or(is_in);
        self.tap.keep(wants, |text, wanted| {
            text.name("delivered").text("channel", channel);
            match wanted.client {
                Some(client) => text.id("client", client),
                None => text.number("reached", reached).number("failed", failed),
            };
            text.message(wanted, message.kind(), message.data());
        });
    }

    /// A message is in the outbox of one connection.
    #[cold]
    pub(super) fn see_sent(&self, conn: &Conn, kind: Kind, data: &[u8]) {
        self.see(conn, false, |text, wanted| {
            text.name("delivered").id("client", conn.client_id).message(wanted, kind, data);
        });
    }

    /// A message was not put into the outbox of a connection.
    #[cold]
    pub(super) fn see_dropped(&self, conn: &Conn, cause: DropCause) {
        self.see(conn, true, |text, _| {
            text.name("dropped").id("client", conn.client_id).text("cause", cause.word());
        });
    }

    /// The same for a client that is not here.
    #[cold]
    pub(super) fn see_nobody(&self, client: ClientId) {
        let wants = |wanted: &Wanted| wanted.channel.is_none() && fits(wanted, client, true);
        self.tap.keep(wants, |text, _| {
            text.name("dropped").id("client", client).text("cause", DropCause::NoClient.word());
        });
    }

    /// A connection ends.
    pub(super) fn see_end(&self, conn: &Conn, gone: &Gone) {
        if !self.tap.is_on() {
            return;
        }
        let usual = [EndReason::Peer, EndReason::Requested, EndReason::Shutdown].map(Label::word);
        self.see(conn, !usual.contains(&gone.by), |text, _| {
            text.name("closed").id("client", conn.client_id).text("reason", gone.by);
            if gone.code != 0 {
                text.number("code", gone.code);
            }
            if !gone.words.is_empty() {
                text.text("text", &gone.words);
            }
            let more = (gone.subscriptions as usize).saturating_sub(gone.channels.len());
            text.texts("channels", gone.channels.iter().map(Channel::as_str), more);
            text.number("subscriptions", gone.subscriptions);
        });
    }

    /// Keeps an event of a connection for those who want its client, its channels, or all.
    fn see(&self, conn: &Conn, is_problem: bool, text: impl Fn(&mut Text, &Wanted)) {
        let topics = self.topics.borrow();
        let is_in = |topics: &Topics, wanted: &Wanted| match &wanted.channel {
            None => true,
            Some(name) if !name.ends_with('*') => topics.contains(conn.slot, name),
            Some(_) => topics.channels_of(conn.slot).any(|channel| wanted.takes(channel.as_str())),
        };
        let wants = |wanted: &Wanted| fits(wanted, conn.client_id, is_problem) && is_in(&topics, wanted);
        self.tap.keep(wants, text);
    }
}

/// Whether an event of a client is wanted, its channels aside.
fn fits(wanted: &Wanted, client: ClientId, is_problem: bool) -> bool {
    (is_problem || !wanted.errors) && wanted.client.is_none_or(|wanted| wanted == client)
}
