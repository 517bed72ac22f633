//! The queue between handlers and back ends: topics and their consumers. Any thread may call it. It knows no sockets
//! and waits for nothing. A consumer leaves a waker and takes the messages that were prefetched for it; a push that
//! waits for room leaves a waker too.
//!
//! Every message has a number, in the order of pushing. A topic is kept in that order, so a returned message finds its
//! place again. The invariant: while messages wait in a topic, none of its consumers has room. So neither a push nor a
//! consumer that gets room ever searches.

mod blocked;
mod consumer;
mod saved;

use bytes::Bytes;
use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::ids::ClientId;
use crate::message::Channel;

pub use blocked::{Closed, Pushed, Waiting};
pub use consumer::Consumer;

/// A topic's name: the rules are those of channels.
pub type Topic = Channel;

/// The most bytes that wait in one topic; a larger message is never taken.
pub const TOPIC_BYTES: usize = 64 * 1024 * 1024;
/// The most messages that one consumer holds: prefetched for it, on their way to it, or not settled.
pub const WINDOW: usize = 1024;
/// Above this many bytes a consumer gets nothing more. A single larger message is given to a consumer that holds
/// nothing.
pub const WINDOW_BYTES: usize = 1024 * 1024;
/// What a message counts for besides its data.
const OVERHEAD: usize = 128;

/// A message on its way to a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedMessage {
    /// Where it was pushed.
    pub topic: Topic,
    /// The client whose handler pushed it.
    pub client: ClientId,
    /// The text of a JSON value.
    pub data: Bytes,
    /// Its number, if the consumer has to settle it; otherwise the consumer reports it with [`Consumer::written`].
    pub key: Option<u64>,
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The topic is at its limit of messages.
    #[error("topic \"{0}\" is full: {1} messages wait (engine.luavm.queue.topicSize)")]
    Full(Topic, usize),
    /// Too many bytes would wait.
    #[error("topic \"{0}\" is full: more than {TOPIC_BYTES} bytes would wait")]
    Bytes(Topic),
    /// There are too many topics.
    #[error("topic \"{0}\" can't be made: there are {1} already (engine.luavm.queue.maxTopics)")]
    Topics(Topic, usize),
}

/// Why a consumer can't consume topics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PopError {
    /// This consumer consumes the topic already.
    #[error("this connection consumes topic \"{0}\" already")]
    Already(Topic),
    /// There would be too many topics.
    #[error("topic \"{0}\" can't be made: there are {1} already (engine.luavm.queue.maxTopics)")]
    Topics(Topic, usize),
}

/// Why a consumer can't stop consuming.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpopError {
    /// It does not consume this topic.
    #[error("this connection does not consume topic \"{0}\"")]
    NotThat(Topic),
    /// It consumes no topic at all.
    #[error("this connection consumes no topic")]
    Nothing,
}

/// The process's queue.
pub struct Queue {
    state: Mutex<State>,
    max_topics: usize,
    /// A push waits if its topic is full.
    waits: bool,
}

#[derive(Default)]
struct State {
    /// The most messages that wait in a topic.
    topic_size: usize,
    topics: Slab<TopicQueue>,
    names: HashMap<Topic, usize, RandomState>,
    consumers: Slab<ConsumerState>,
    /// The last number that was issued, to a message or to one that waits for room.
    last: u64,
    /// Messages that waited for room and got it, until their pushers learn of it: how many waited in the topic then.
    admitted: HashMap<u64, usize, RandomState>,
    /// Nothing waits for room any more.
    closed: bool,
}

/// Wakers to call after the lock is released.
type Wakers = SmallVec<[Waker; 2]>;

/// A message while it is in the queue.
struct Message {
    shelf: usize,
    client: ClientId,
    data: Bytes,
}

impl Message {
    fn weight(&self) -> usize {
        self.data.len() + OVERHEAD
    }
}

/// A topic. It exists as long as it has messages, waiting or held, or consumers.
struct TopicQueue {
    name: Topic,
    waiting: BTreeMap<u64, Message>,
    /// The bytes of the messages that wait.
    bytes: usize,
    /// Messages that wait for room, in the order of pushing. While there are any, there is no room for the first.
    blocked: BTreeMap<u64, Blocked>,
    /// The bytes of those messages.
    blocked_bytes: usize,
    /// The consumers that had room when last checked; the next one in turn first.
    turn: VecDeque<usize>,
    consumers: usize,
    /// Messages that consumers hold.
    held: usize,
}

/// A message that waits for room.
struct Blocked {
    message: Message,
    /// None until its pusher has been polled.
    waker: Option<Waker>,
}

/// A consumer and what it holds.
#[derive(Default)]
struct ConsumerState {
    /// The topics that it consumes, and whether it settles their messages.
    topics: BTreeMap<usize, bool>,
    /// The topics that have taken it out of their turn because it has no room.
    passed: Vec<usize>,
    /// Messages prefetched for it.
    inbox: VecDeque<(u64, Message)>,
    /// Taken, and not known to be written.
    unwritten: VecDeque<(u64, Message)>,
    /// Taken, and to be settled.
    unsettled: BTreeMap<u64, Message>,
    /// The bytes of all three.
    bytes: usize,
    waker: Option<Waker>,
}

impl ConsumerState {
    fn has_room(&self) -> bool {
        self.bytes < WINDOW_BYTES && self.inbox.len() + self.unwritten.len() + self.unsettled.len() < WINDOW
    }
}

impl Queue {
    /// A queue of at most `max_topics` topics, in each of which at most `topic_size` messages wait.
    pub fn new(topic_size: usize, max_topics: usize) -> Queue {
        Queue { state: Mutex::new(State { topic_size, ..State::default() }), max_topics, waits: false }
    }

    /// The same, in which a push can wait if its topic is full: see [`Queue::push_or_wait`].
    pub fn waiting_for_room(self, waits: bool) -> Queue {
        Queue { waits, ..self }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing below can panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a message into a topic. Returns how many messages wait there now: none if a consumer had room for it.
    pub fn push(&self, topic: &Topic, client: ClientId, data: Bytes) -> Result<usize, PushError> {
        let mut wakers = Wakers::new();
        let pushed = self.lock().push(topic, client, data, self.max_topics, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        pushed
    }

    /// All topics, each with how many messages wait in it, in the order of their names.
    pub fn waiting(&self) -> Vec<(Topic, usize)> {
        let state = self.lock();
        let mut list: Vec<_> = state.topics.iter().map(|(_, s)| (s.name.clone(), s.waiting.len())).collect();
        drop(state);
        list.sort_unstable();
        list
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// See [`Queue::push`].
    fn push(
        &mut self,
        topic: &Topic,
        client: ClientId,
        data: Bytes,
        max_topics: usize,
        wakers: &mut Wakers,
    ) -> Result<usize, PushError> {
        let weight = data.len() + OVERHEAD;
        let found = self.names.get(topic).copied();
        if found.is_none() && self.topics.len() >= max_topics {
            return Err(PushError::Topics(topic.clone(), max_topics));
        }
        if weight > TOPIC_BYTES {
            return Err(PushError::Bytes(topic.clone()));
        }
        let shelf = found.unwrap_or_else(|| self.add_topic(topic));
        let message = Message { shelf, client, data };
        if let Some(consumer) = self.next_in_turn(shelf) {
            let number = self.number();
            self.give(consumer, number, message, wakers);
            return Ok(0);
        }
        let Some(waiting) = self.topics.get(shelf) else { return Ok(0) };
        // Messages that wait for room go first.
        if waiting.waiting.len() >= self.topic_size || !waiting.blocked.is_empty() {
            return Err(PushError::Full(topic.clone(), self.topic_size));
        }
        if waiting.bytes + weight > TOPIC_BYTES {
            return Err(PushError::Bytes(topic.clone()));
        }
        let number = self.number();
        self.put(number, message);
        Ok(self.topics.get(shelf).map_or(0, |s| s.waiting.len()))
    }

    fn add_topic(&mut self, name: &Topic) -> usize {
        let shelf = self.topics.insert(TopicQueue {
            name: name.clone(),
            waiting: BTreeMap::new(),
            bytes: 0,
            blocked: BTreeMap::new(),
            blocked_bytes: 0,
            turn: VecDeque::new(),
            consumers: 0,
            held: 0,
        });
        self.names.insert(name.clone(), shelf);
        shelf
    }

    /// Removes a topic that is not needed any more.
    fn tidy(&mut self, shelf: usize) {
        if self
            .topics
            .get(shelf)
            .is_some_and(|s| s.consumers == 0 && s.held == 0 && s.waiting.is_empty() && s.blocked.is_empty())
        {
            let gone = self.topics.remove(shelf);
            self.names.remove(&gone.name);
        }
    }

    /// The consumer whose turn it is among those with room.
    fn next_in_turn(&mut self, shelf: usize) -> Option<usize> {
        let topic = self.topics.get_mut(shelf)?;
        while let Some(consumer) = topic.turn.pop_front() {
            let Some(holder) = self.consumers.get_mut(consumer) else { continue };
            if holder.has_room() {
                topic.turn.push_back(consumer);
                return Some(consumer);
            }
            holder.passed.push(shelf);
        }
        None
    }

    /// Prefetches a message for a consumer.
    fn give(&mut self, consumer: usize, number: u64, message: Message, wakers: &mut Wakers) {
        let Some(holder) = self.consumers.get_mut(consumer) else { return };
        if let Some(topic) = self.topics.get_mut(message.shelf) {
            topic.held += 1;
        }
        holder.bytes += message.weight();
        holder.inbox.push_back((number, message));
        wakers.extend(holder.waker.take());
    }

    /// Puts a message into its place in its topic.
    fn put(&mut self, number: u64, message: Message) {
        if let Some(topic) = self.topics.get_mut(message.shelf) {
            topic.bytes += message.weight();
            topic.waiting.insert(number, message);
        }
    }

    /// Takes the first message that waits in a topic; a message that waits for room gets its place.
    fn first(&mut self, shelf: usize, wakers: &mut Wakers) -> Option<(u64, Message)> {
        let topic = self.topics.get_mut(shelf)?;
        let (number, message) = topic.waiting.pop_first()?;
        topic.bytes -= message.weight();
        self.admit(shelf, wakers);
        Some((number, message))
    }

    /// Takes messages that wait for room into a topic, as far as there is room.
    fn admit(&mut self, shelf: usize, wakers: &mut Wakers) {
        while let Some(topic) = self.topics.get_mut(shelf)
            && let Some(first) = topic.blocked.first_entry()
            && topic.waiting.len() < self.topic_size
            && topic.bytes + first.get().message.weight() <= TOPIC_BYTES
        {
            let (ticket, Blocked { message, waker }) = first.remove_entry();
            topic.blocked_bytes -= message.weight();
            let number = self.number();
            self.put(number, message);
            let waiting = self.topics.get(shelf).map_or(0, |topic| topic.waiting.len());
            self.admitted.insert(ticket, waiting);
            wakers.extend(waker);
        }
    }

    /// Gives out what waits in a topic, as far as its consumers have room.
    fn hand_out(&mut self, shelf: usize, wakers: &mut Wakers) {
        while self.topics.get(shelf).is_some_and(|topic| !topic.waiting.is_empty())
            && let Some(consumer) = self.next_in_turn(shelf)
            && let Some((number, message)) = self.first(shelf, wakers)
        {
            self.give(consumer, number, message, wakers);
        }
        self.tidy(shelf);
    }

    /// A consumer may have room again: it gets what waits for it, from each of its topics in turn.
    fn refill(&mut self, consumer: usize, wakers: &mut Wakers) {
        let Some(holder) = self.consumers.get_mut(consumer) else { return };
        if holder.passed.is_empty() || !holder.has_room() {
            return;
        }
        let mut untried: VecDeque<usize> = std::mem::take(&mut holder.passed).into();
        let has_room = |state: &State| state.consumers.get(consumer).is_some_and(ConsumerState::has_room);
        while has_room(self)
            && let Some(shelf) = untried.pop_front()
        {
            if let Some((number, message)) = self.first(shelf, wakers) {
                self.give(consumer, number, message, wakers);
                untried.push_back(shelf);
            } else if let Some(topic) = self.topics.get_mut(shelf) {
                topic.turn.push_back(consumer);
            }
        }
        if let Some(holder) = self.consumers.get_mut(consumer) {
            holder.passed.extend(untried);
        }
    }

    /// A consumer no longer holds a message.
    fn release(&mut self, consumer: usize, message: &Message) {
        if let Some(holder) = self.consumers.get_mut(consumer) {
            holder.bytes -= message.weight();
        }
        if let Some(topic) = self.topics.get_mut(message.shelf) {
            topic.held -= 1;
        }
    }

    /// Takes a consumer out of a topic's turn; messages prefetched for it from there go back.
    fn leave(&mut self, consumer: usize, shelf: usize) {
        if let Some(topic) = self.topics.get_mut(shelf) {
            topic.turn.retain(|&c| c != consumer);
            topic.consumers -= 1;
        }
        let Some(holder) = self.consumers.get_mut(consumer) else { return };
        holder.topics.remove(&shelf);
        holder.passed.retain(|&s| s != shelf);
        let (back, rest): (VecDeque<_>, _) =
            std::mem::take(&mut holder.inbox).into_iter().partition(|(_, message)| message.shelf == shelf);
        holder.inbox = rest;
        for (number, message) in back {
            self.release(consumer, &message);
            self.put(number, message);
        }
    }
}

#[cfg(test)]
mod tests;
