//! Messages that came while a handler was waiting. An empty inbox owns no memory.

use std::collections::VecDeque;

use crate::handover::{Damaged, Decoder, Encoder};
use crate::message::Kind;

/// The bytes that may wait for a connection's handler; at this limit its socket is not read.
const INBOX_BYTES: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Inbox(Option<Box<Waiting>>);

#[derive(Default)]
struct Waiting {
    messages: VecDeque<(Kind, Box<[u8]>)>,
    bytes: usize,
}

impl Inbox {
    pub(super) fn push(&mut self, kind: Kind, data: &[u8]) {
        let waiting = self.0.get_or_insert_default();
        // An empty message takes memory too.
        waiting.bytes += data.len() + 32;
        waiting.messages.push_back((kind, data.into()));
    }

    /// Writes the messages, for a successor process.
    pub(super) fn save(&self, out: &mut Encoder) {
        let messages = self.0.as_ref().map(|waiting| &waiting.messages);
        out.count(messages.map_or(0, VecDeque::len));
        for (kind, data) in messages.into_iter().flatten() {
            out.byte((*kind == Kind::Binary).into());
            out.data(data);
        }
    }

    /// Reads them.
    pub(super) fn restore(from: &mut Decoder<'_>) -> Result<Inbox, Damaged> {
        let mut inbox = Inbox::default();
        from.list(|from| {
            let kind = if from.flag()? { Kind::Binary } else { Kind::Text };
            inbox.push(kind, from.data()?);
            Ok(())
        })?;
        Ok(inbox)
    }

    pub(super) fn pop(&mut self) -> Option<(Kind, Box<[u8]>)> {
        let waiting = self.0.as_mut()?;
        let message = waiting.messages.pop_front();
        match &message {
            Some((_, data)) if !waiting.messages.is_empty() => waiting.bytes -= data.len() + 32,
            _ => self.0 = None,
        }
        message
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|w| w.bytes >= INBOX_BYTES)
    }

    /// The memory that the messages take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |w| w.bytes)
    }

    pub(super) fn clear(&mut self) {
        self.0 = None;
    }
}
