//! Pushes that wait for room in their topic. They get room in the order in which they came, one message at a time: the
//! call that frees the room moves the message and wakes its pusher, so that no wake-up can be lost.

use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::{Blocked, Message, PushError, Queue, TOPIC_BYTES, Topic, Wakers};
use crate::ids::ClientId;

/// A push that waits for room.
pub struct Waiting {
    queue: Arc<Queue>,
    topic: usize,
    ticket: u64,
}

/// A push that waited for room got none, because the engine stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the topic is full, and the engine stops")]
pub struct Closed;

/// The result of a push.
pub enum Pushed {
    /// The message is in the topic; that many messages wait there now.
    Now(usize),
    /// It waits for room.
    Waits(Waiting),
}

impl Queue {
    /// As [`Queue::push`], but if the topic is full and pushes may wait, the message waits for room behind those that
    /// wait already. It fails if there would be too many topics, or if more than [`TOPIC_BYTES`] would wait for room.
    pub fn push_or_wait(self: &Arc<Self>, topic: &Topic, client: ClientId, data: Bytes) -> Result<Pushed, PushError> {
        let mut wakers = Wakers::new();
        let mut state = self.lock();
        match state.push(topic, client, data.clone(), self.max_topics, &mut wakers) {
            Ok(waiting) => {
                drop(state);
                wakers.into_iter().for_each(Waker::wake);
                return Ok(Pushed::Now(waiting));
            }
            Err(PushError::Full(..) | PushError::Bytes(_)) if self.waits && !state.closed => {}
            Err(other) => return Err(other),
        }
        let ticket = state.number();
        let no_room = || PushError::Bytes(topic.clone());
        let place = state.names.get(topic).copied().ok_or_else(no_room)?;
        let message = Message { shelf: place, client, data };
        let weight = message.weight();
        let shelf = state.topics.get_mut(place).ok_or_else(no_room)?;
        if shelf.blocked_bytes + weight > TOPIC_BYTES {
            return Err(no_room());
        }
        shelf.blocked_bytes += weight;
        shelf.blocked.insert(ticket, Blocked { message, waker: None });
        drop(state);
        Ok(Pushed::Waits(Waiting { queue: self.clone(), topic: place, ticket }))
    }

    /// Ends all waiting for room, now and from now on: the engine stops, and nobody makes room any more.
    pub fn close(&self) {
        let mut wakers = Wakers::new();
        let mut state = self.lock();
        state.closed = true;
        for (_, topic) in &mut state.topics {
            wakers.extend(topic.blocked.values_mut().filter_map(|blocked| blocked.waker.take()));
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Future for Waiting {
    /// How many messages wait in the topic, once this one does.
    type Output = Result<usize, Closed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.queue.lock();
        if let Some(waiting) = state.admitted.remove(&self.ticket) {
            return Poll::Ready(Ok(waiting));
        }
        if state.closed {
            return Poll::Ready(Err(Closed));
        }
        let blocked = state.topics.get_mut(self.topic).and_then(|topic| topic.blocked.get_mut(&self.ticket));
        if let Some(blocked) = blocked {
            blocked.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Waiting {
    /// A pusher that gives up takes its message with it.
    fn drop(&mut self) {
        let mut wakers = Wakers::new();
        let mut state = self.queue.lock();
        if state.admitted.remove(&self.ticket).is_some() {
            return;
        }
        if let Some(topic) = state.topics.get_mut(self.topic)
            && let Some(blocked) = topic.blocked.remove(&self.ticket)
        {
            topic.blocked_bytes -= blocked.message.weight();
            // One behind it may be smaller.
            state.admit(self.topic, &mut wakers);
        }
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}
