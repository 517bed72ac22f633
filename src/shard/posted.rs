//! What the client of an event stream has sent: by requests of its own, which other tasks leave here until the connection's
//! task handles them.

use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::handover::{Damaged, Decoder, Encoder};
use crate::message::{Kind, Message};
use crate::secret::token::Token;
use crate::telemetry::spans::TraceContext;

/// The bytes that may wait for a connection's handler; at this limit a client is told to wait.
const POSTED_BYTES: usize = 64 * 1024;
/// What a message takes besides its bytes, roughly.
const MESSAGE: usize = 64;

/// A message, and the trace that it belongs to, if that is another one than its connection's.
type Waiting = (Message, Option<Box<TraceContext>>);

/// The messages of one connection that wait for its handler. One that has none owns no memory for them.
pub struct Posted {
    /// What the client was told, and nobody else.
    token: Cell<Token>,
    waiting: RefCell<VecDeque<Waiting>>,
    bytes: Cell<usize>,
}

impl Posted {
    /// None yet; the token is new.
    pub(super) fn new() -> Posted {
        Posted { token: Cell::new(Token::random()), waiting: RefCell::default(), bytes: Cell::default() }
    }

    /// What the client has to show.
    pub fn token(&self) -> Token {
        self.token.get()
    }

    /// Writes it for a successor process, but for the traces.
    pub(super) fn save(&self, out: &mut Encoder) {
        out.data(&self.token().to_bits().to_le_bytes());
        let waiting = self.waiting.borrow();
        out.count(waiting.len());
        for (message, _) in waiting.iter() {
            out.byte((message.kind() == Kind::Binary).into());
            out.data(message.data());
        }
    }

    /// Reads what [`Posted::save`] has written.
    pub(super) fn read(from: &mut Decoder<'_>) -> Result<(Token, Vec<Message>), Damaged> {
        let token = from.data()?.try_into().map_err(|_| Damaged("a token"))?;
        let messages = from.list(|from| {
            let kind = if from.flag()? { Kind::Binary } else { Kind::Text };
            Message::new(kind, Bytes::copy_from_slice(from.data()?)).map_err(|_| Damaged("a text"))
        })?;
        Ok((Token::from_bits(u128::from_le_bytes(token)), messages))
    }

    /// Takes up what another process had.
    pub(super) fn restore(&self, token: Token, messages: Vec<Message>) {
        self.token.set(token);
        for message in messages {
            // It was within the bound.
            self.push(message, None);
        }
    }

    /// Takes a message; false: too much waits already.
    pub(super) fn push(&self, message: Message, trace: Option<Box<TraceContext>>) -> bool {
        if self.bytes.get() >= POSTED_BYTES {
            return false;
        }
        let waiting = (message, trace);
        self.bytes.set(self.bytes.get() + bytes(&waiting));
        self.waiting.borrow_mut().push_back(waiting);
        true
    }

    /// The next message for the handler.
    pub fn pop(&self) -> Option<Waiting> {
        let mut waiting = self.waiting.borrow_mut();
        let message = waiting.pop_front()?;
        self.bytes.set(self.bytes.get().saturating_sub(bytes(&message)));
        if waiting.is_empty() {
            *waiting = VecDeque::new();
        }
        Some(message)
    }

    /// Drops all that waits.
    pub fn clear(&self) {
        self.bytes.set(0);
        self.waiting.take();
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// The memory that the messages take, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }
}

/// What a message takes while it waits.
fn bytes((message, trace): &Waiting) -> usize {
    message.data().len() + MESSAGE + trace.as_ref().map_or(0, |trace| trace.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_leaves_nothing_behind() {
        let posted = Posted::new();
        let large = Message::binary(vec![0; POSTED_BYTES]);
        let trace = TraceContext { trace_id: 1, span_id: 2, sampled: true, state: Some("a=1".into()) };
        assert!(posted.push(Message::text(""), Some(trace.clone().into())) && posted.push(large.clone(), None));
        assert!(!posted.push(Message::text(""), None), "too much waits");
        assert_eq!(posted.bytes(), POSTED_BYTES + 2 * MESSAGE + trace.bytes());
        assert_eq!(posted.pop(), Some((Message::text(""), Some(trace.into()))));
        assert_eq!(posted.pop(), Some((large, None)));
        assert_eq!((posted.pop(), posted.is_empty(), posted.bytes()), (None, true, 0));
        assert_eq!(posted.waiting.borrow().capacity(), 0);
        assert!(posted.push(Message::text("again"), None));
        posted.clear();
        assert!(posted.is_empty() && posted.bytes() == 0);
    }
}
