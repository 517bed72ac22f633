//! A consumer's side of the queue: which topics it consumes, what it takes, and how messages are settled.

use std::sync::Arc;
use std::task::Waker;

use super::{ConsumerState, PopError, Queue, QueuedMessage, State, Topic, UnpopError, Wakers};

/// One consumer.
pub struct Consumer {
    pub(super) queue: Arc<Queue>,
    pub(super) id: usize,
}

impl Queue {
    /// A new consumer, of no topic yet. What it still holds when it is dropped goes back to the heads of the topics.
    pub fn consumer(self: &Arc<Self>) -> Consumer {
        let id = self.lock().consumers.insert(ConsumerState::default());
        Consumer { queue: self.clone(), id }
    }
}

impl Consumer {
    /// Changes the state and then wakes those who have got something.
    fn change<R>(&self, change: impl FnOnce(&mut State, usize, &mut Wakers) -> R) -> R {
        let mut wakers = Wakers::new();
        let result = change(&mut self.queue.lock(), self.id, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    /// Starts to consume these topics, all or none of them; one named twice counts once. With `ack` the consumer has to
    /// settle each of their messages.
    pub fn pop(&self, topics: &[Topic], ack: bool) -> Result<(), PopError> {
        let most = self.queue.max_topics;
        self.change(|state, id, wakers| {
            let mut room = most.saturating_sub(state.topics.len());
            let mut names: Vec<&Topic> = topics.iter().collect();
            names.sort_unstable();
            names.dedup();
            for &name in &names {
                match state.names.get(name) {
                    Some(shelf) if state.consumers.get(id).is_some_and(|c| c.topics.contains_key(shelf)) => {
                        return Err(PopError::Already(name.clone()));
                    }
                    Some(_) => {}
                    None if room == 0 => return Err(PopError::Topics(name.clone(), most)),
                    None => room -= 1,
                }
            }
            for name in names {
                let shelf = state.names.get(name).copied().unwrap_or_else(|| state.add_topic(name));
                if let (Some(topic), Some(holder)) = (state.topics.get_mut(shelf), state.consumers.get_mut(id)) {
                    topic.consumers += 1;
                    holder.topics.insert(shelf, ack);
                    holder.passed.push(shelf);
                }
            }
            state.refill(id, wakers);
            Ok(())
        })
    }

    /// Stops consuming these topics (None: all topics), all or none of them. Prefetched messages go back; messages that
    /// were taken and have to be settled stay with the consumer.
    pub fn unpop(&self, topics: Option<&[Topic]>) -> Result<(), UnpopError> {
        self.change(|state, id, wakers| {
            let own: Vec<usize> =
                state.consumers.get(id).map_or_else(Vec::new, |holder| holder.topics.keys().copied().collect());
            let shelves = match topics {
                None if own.is_empty() => return Err(UnpopError::Nothing),
                None => own,
                Some(topics) => {
                    let find = |topic: &Topic| {
                        let shelf = state.names.get(topic).copied().filter(|shelf| own.binary_search(shelf).is_ok());
                        shelf.ok_or_else(|| UnpopError::NotThat(topic.clone()))
                    };
                    let mut shelves = topics.iter().map(find).collect::<Result<Vec<_>, _>>()?;
                    shelves.sort_unstable();
                    shelves.dedup();
                    shelves
                }
            };
            shelves.iter().for_each(|&shelf| state.leave(id, shelf));
            state.refill(id, wakers);
            shelves.into_iter().for_each(|shelf| state.hand_out(shelf, wakers));
            Ok(())
        })
    }

    /// Takes the next prefetched message. None: `waker` is called when there is one.
    pub fn take(&self, waker: &Waker) -> Option<QueuedMessage> {
        let mut state = self.queue.lock();
        let State { topics, consumers, .. } = &mut *state;
        let holder = consumers.get_mut(self.id)?;
        let Some((number, message)) = holder.inbox.pop_front() else {
            if !holder.waker.as_ref().is_some_and(|w| w.will_wake(waker)) {
                holder.waker = Some(waker.clone());
            }
            return None;
        };
        let topic = topics.get(message.shelf)?.name.clone();
        let ack = holder.topics.get(&message.shelf).copied().unwrap_or_default();
        let (client, data) = (message.client, message.data.clone());
        if ack {
            holder.unsettled.insert(number, message);
        } else {
            holder.unwritten.push_back((number, message));
        }
        Some(QueuedMessage { topic, client, data, key: ack.then_some(number) })
    }

    /// The first `count` messages that were taken and need no settling have been written: they are done.
    pub fn written(&self, count: usize) {
        self.change(|state, id, wakers| {
            for _ in 0..count {
                let next = state.consumers.get_mut(id).and_then(|holder| holder.unwritten.pop_front());
                let Some((_, message)) = next else { break };
                state.release(id, &message);
                state.tidy(message.shelf);
            }
            state.refill(id, wakers);
        });
    }

    /// Settles messages by their keys; returns the keys that this consumer can't settle.
    pub fn settle(&self, keys: &[u64]) -> Vec<u64> {
        self.change(|state, id, wakers| {
            let mut unknown = Vec::new();
            for &key in keys {
                let found = state.consumers.get_mut(id).and_then(|holder| holder.unsettled.remove(&key));
                let Some(message) = found else {
                    unknown.push(key);
                    continue;
                };
                state.release(id, &message);
                state.tidy(message.shelf);
            }
            state.refill(id, wakers);
            unknown
        })
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.change(|state, id, wakers| {
            let Some(holder) = state.consumers.get(id) else { return };
            let topics: Vec<usize> = holder.topics.keys().copied().collect();
            topics.iter().for_each(|&shelf| state.leave(id, shelf));
            let Some(holder) = state.consumers.try_remove(id) else { return };
            let mut shelves = topics;
            for (number, message) in holder.unwritten.into_iter().chain(holder.unsettled) {
                state.release(id, &message);
                shelves.push(message.shelf);
                state.put(number, message);
            }
            shelves.sort_unstable();
            shelves.dedup();
            shelves.into_iter().for_each(|shelf| state.hand_out(shelf, wakers));
        });
    }
}
