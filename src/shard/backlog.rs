//! Connections that come into a channel and first get what it has kept: until they have it, they get nothing of the channel.

use std::rc::Rc;
use std::sync::Arc;

use super::conn::Conn;
use super::framing::Framing;
use super::{Shard, TooMany};
use crate::hub::history::Most;
use crate::hub::{Backlog, Recipient};
use crate::message::Channel;
use crate::wire::{event_stream, frame};

impl Shard {
    /// Subscribes a connection to channels, as [`Shard::subscribe_with`] does. In each of them it gets nothing before the
    /// [`Backlog`] of that recipient, which the caller sees to, or calls [`Shard::unmute`].
    pub fn subscribe_muted(
        &self,
        conn: &Conn,
        channels: &[Channel],
        info: Option<&Arc<str>>,
        messages: usize,
    ) -> Result<Vec<Recipient>, TooMany> {
        self.subscribe_with(conn, channels, info)?;
        let mut topics = self.topics.borrow_mut();
        let most = Most { messages, bytes: conn.served.limits.get().outbox_limit };
        let recipient = |channel: &Channel| {
            let ticket = self.tickets.get() + 1;
            self.tickets.set(ticket);
            topics.mute(conn.slot, channel.as_str(), ticket);
            let is_scripted = conn.framing == Framing::Script;
            Recipient { worker: self.worker, client: conn.client_id, ticket, is_scripted, most }
        };
        Ok(channels.iter().map(recipient).collect())
    }

    /// A connection gets a channel's messages from now on, if it waits with that ticket.
    pub fn unmute(&self, recipient: &Recipient, channel: &Channel) -> Option<Rc<Conn>> {
        let conn = self.get(recipient.client)?;
        let was_muted = self.topics.borrow_mut().unmute(conn.slot, channel.as_str(), recipient.ticket);
        was_muted.then_some(conn)
    }

    /// Gives a connection what a channel has kept: in one piece, so that it is written at once.
    #[inline(never)]
    pub(super) fn deliver_backlog(&self, backlog: Backlog) -> usize {
        let Backlog { client, channel, ticket, messages, at, done } = backlog;
        let Some(conn) = self.get(client) else { return 0 };
        if !self.topics.borrow_mut().unmute(conn.slot, channel.as_str(), ticket) {
            return 0;
        }
        let mut bytes = Vec::with_capacity(messages.iter().map(|message| message.data().len() + 8).sum());
        for message in &messages {
            match conn.framing {
                Framing::WebSocket(None) => frame::append(&mut bytes, message.kind(), message.data()),
                Framing::WebSocket(Some(_)) | Framing::EventStream | Framing::Script => {
                    bytes.extend_from_slice(&self.frame(&conn, message.kind(), message.data()));
                }
            }
        }
        if conn.framing == Framing::EventStream {
            bytes.extend_from_slice(&event_stream::encode_id(&at.position.to_string()));
        }
        let pushed = bytes.is_empty() || self.push(&conn, bytes.into());
        match pushed {
            true => self.counts_of(&conn).sent.add(messages.len() as u64),
            false => self.count_dropped(&conn),
        }
        // The caller may have gone.
        let _ = done.send(at);
        messages.len()
    }
}
