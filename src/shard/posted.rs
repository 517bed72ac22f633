//! What the client of an event stream has sent: by requests of its own, which other tasks leave here until the connection's
//! task handles them.

use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::handover::{Damaged, Decoder, Encoder};
use crate::message::{Kind, Message};
use crate::secret::token::Token;

/// The bytes that may wait for a connection's handler; at this limit a client is told to wait.
const POSTED_BYTES: usize = 64 * 1024;
/// What a message takes besides its bytes, roughly.
const MESSAGE: usize = 64;

/// The messages of one connection that wait for its handler. One that has none owns no memory for them.
pub struct Posted {
    /// What the client was told, and nobody else.
    token: Cell<Token>,
    waiting: RefCell<VecDeque<Message>>,
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

    /// Writes it for a successor process.
    pub(super) fn save(&self, out: &mut Encoder) {
        out.data(&self.token().to_bits().to_le_bytes());
        let waiting = self.waiting.borrow();
        out.count(waiting.len());
        for message in waiting.iter() {
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
            self.push(message);
        }
    }

    /// Takes a message; false: too much waits already.
    pub(super) fn push(&self, message: Message) -> bool {
        if self.bytes.get() >= POSTED_BYTES {
            return false;
        }
        self.bytes.set(self.bytes.get() + message.data().len() + MESSAGE);
        self.waiting.borrow_mut().push_back(message);
        true
    }

    /// The next message for the handler.
    pub fn pop(&self) -> Option<Message> {
        let mut waiting = self.waiting.borrow_mut();
        let message = waiting.pop_front()?;
        self.bytes.set(self.bytes.get().saturating_sub(message.data().len() + MESSAGE));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_leaves_nothing_behind() {
        let posted = Posted::new();
        let large = Message::binary(vec![0; POSTED_BYTES]);
        assert!(posted.push(Message::text("")) && posted.push(large.clone()));
        assert!(!posted.push(Message::text("")), "too much waits");
        assert_eq!(posted.bytes(), POSTED_BYTES + 2 * MESSAGE);
        assert_eq!(posted.pop(), Some(Message::text("")));
        assert_eq!(posted.pop(), Some(large));
        assert_eq!((posted.pop(), posted.is_empty(), posted.bytes()), (None, true, 0));
        assert_eq!(posted.waiting.borrow().capacity(), 0);
        assert!(posted.push(Message::text("again")));
        posted.clear();
        assert!(posted.is_empty() && posted.bytes() == 0);
    }
}
