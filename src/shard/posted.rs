//! What the client of an event stream has sent: by requests of its own, which other tasks leave here until the connection's
//! task handles them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::message::Message;
use crate::secret::token::Token;

/// The bytes that may wait for a connection's handler; at this limit a client is told to wait.
const POSTED_BYTES: usize = 64 * 1024;
/// What a message takes besides its bytes, roughly.
const MESSAGE: usize = 64;

/// The messages of one connection that wait for its handler. One that has none owns no memory for them.
pub struct Posted {
    /// What the client was told, and nobody else.
    token: Token,
    waiting: RefCell<VecDeque<Message>>,
    bytes: Cell<usize>,
}

impl Posted {
    /// None yet; the token is new.
    pub(super) fn new() -> Posted {
        Posted { token: Token::random(), waiting: RefCell::default(), bytes: Cell::default() }
    }

    /// What the client has to show.
    pub fn token(&self) -> Token {
        self.token
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
