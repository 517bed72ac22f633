//! Connections that a back end has brought into channels with a bound, until other nodes have been asked for their places.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use crate::hub::CommandReply;
use crate::ids::ClientId;
use crate::message::Channel;

/// Channels with their bounds.
pub type Bounded = Vec<(Channel, usize)>;

/// A connection that a back end has brought into channels with a bound: it is in them, and leaves them again if other nodes
/// have taken their places.
pub struct Unsettled {
    /// The client.
    pub client: ClientId,
    /// The channels with a bound.
    pub bounded: Bounded,
    /// All channels that it was not in before.
    pub new: Vec<Channel>,
    /// Who waits for the outcome.
    pub reply: CommandReply,
}

/// Those that wait until other nodes have been asked: no more than there are calls under way.
#[derive(Default)]
pub(super) struct AllUnsettled {
    waiting: RefCell<VecDeque<Unsettled>>,
    asker: Cell<Option<Waker>>,
}

impl AllUnsettled {
    pub(super) fn add(&self, one: Unsettled) {
        self.waiting.borrow_mut().push_back(one);
        if let Some(asker) = self.asker.take() {
            asker.wake();
        }
    }

    /// Ready with the next one.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Unsettled> {
        match self.waiting.borrow_mut().pop_front() {
            Some(one) => Poll::Ready(one),
            None => {
                self.asker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}
