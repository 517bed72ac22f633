//! Who came to channels whose rule says `joinLeave`, and who went, until it is told.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::ids::ClientId;
use crate::message::Channel;
use crate::telemetry::rate_limited::rate_limited;

/// As many wait to be told at most; more are left out.
const MOST: usize = 65_536;

/// A connection that came to a channel, or went.
pub struct Move {
    /// The channel.
    pub channel: Channel,
    /// Its client.
    pub client: ClientId,
    /// It came; else it went.
    pub came: bool,
    /// What its script told of it, as JSON.
    pub info: Option<Arc<str>>,
}

impl Move {
    /// What the channel is told, as JSON.
    pub fn text(&self) -> String {
        let Move { client, came, info, .. } = self;
        let event = if *came { "@join" } else { "@leave" };
        let info = info.as_ref().map_or_else(String::new, |info| format!(r#","i":{info}"#));
        format!(r#"{{"event":"{event}","data":{{"c":"{client}"{info}}}}}"#)
    }
}

/// Those who came and went, in their order.
#[derive(Default)]
pub(super) struct Moves {
    waiting: RefCell<VecDeque<Move>>,
    teller: Cell<Option<Waker>>,
}

impl Moves {
    /// One more.
    pub(super) fn add(&self, moved: Move) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= MOST {
            let channel = &moved.channel;
            rate_limited!(WARN, "channels are not told who came and went", ""; "too many came and went: {channel} is not told of all");
            return;
        }
        waiting.push_back(moved);
        if let Some(teller) = self.teller.take() {
            teller.wake();
        }
    }

    /// Whether all are told.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Ready with the next one.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Move> {
        let mut waiting = self.waiting.borrow_mut();
        match waiting.pop_front() {
            Some(moved) => Poll::Ready(moved),
            None => {
                if waiting.capacity() > 1024 {
                    *waiting = VecDeque::new();
                }
                self.teller.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}
