//! The queue's messages on their way to a successor process. Those that consumers hold go over as if they had gone back: the
//! consumers' connections do not.

use bytes::Bytes;
use std::io;

use super::{ConsumerState, Message, Queue, Topic};
use crate::handover::{Batch, Damaged, Decoder};
use crate::ids::ClientId;

impl Queue {
    /// Writes all messages, in the order of their numbers.
    pub fn save(&self, batch: &mut Batch<'_>) -> io::Result<()> {
        let state = self.lock();
        let mut all: Vec<(u64, &Message)> = Vec::new();
        for (_, topic) in &state.topics {
            all.extend(topic.waiting.iter().map(|(number, message)| (*number, message)));
        }
        for (_, ConsumerState { inbox, unwritten, unsettled, .. }) in &state.consumers {
            all.extend(inbox.iter().chain(unwritten).map(|(number, message)| (*number, message)));
            all.extend(unsettled.iter().map(|(number, message)| (*number, message)));
        }
        all.sort_unstable_by_key(|(number, _)| *number);
        for (number, message) in all {
            let Some(topic) = state.topics.get(message.shelf) else { continue };
            batch.item(|out| {
                out.u64(number);
                out.data(topic.name.as_str().as_bytes());
                out.u64(message.client.get());
                out.data(&message.data);
            })?;
        }
        Ok(())
    }

    /// Reads one of them. It is taken whatever the bounds are now: it has been taken before.
    pub fn restore(&self, from: &mut Decoder<'_>) -> Result<(), Damaged> {
        let number = from.u64()?;
        let topic = Topic::parse(from.data()?).map_err(|_| Damaged("a topic"))?;
        let client = ClientId::new(from.u64()?).ok_or(Damaged("a client's id"))?;
        let data = Bytes::copy_from_slice(from.data()?);
        let mut state = self.lock();
        let found = state.names.get(&topic).copied();
        let shelf = found.unwrap_or_else(|| state.add_topic(&topic));
        state.put(number, Message { shelf, client, data });
        state.last = state.last.max(number);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::{Kind, Link, items};
    use std::sync::Arc;
    use std::task::Waker;

    #[test]
    fn messages_go_over_in_their_order_and_those_that_are_held_go_back() {
        let (topic, other) = (Topic::parse(b"t").unwrap(), Topic::parse(b"u").unwrap());
        let client = ClientId::new(7).unwrap();
        let queue = Arc::new(Queue::new(10, 10));
        let (plain, acks) = (queue.consumer(), queue.consumer());
        for n in 0..3 {
            queue.push(&topic, client, Bytes::from(format!("t{n}"))).unwrap();
            queue.push(&other, client, Bytes::from(format!("u{n}"))).unwrap();
        }
        plain.pop(std::slice::from_ref(&topic), false).unwrap();
        acks.pop(std::slice::from_ref(&other), true).unwrap();
        // One is done, one is on its way, one is prefetched.
        assert!(plain.take(Waker::noop()).is_some() && plain.take(Waker::noop()).is_some());
        plain.written(1);
        let key = acks.take(Waker::noop()).unwrap().key.unwrap();
        assert!(acks.settle(&[key]).is_empty() && acks.take(Waker::noop()).is_some());

        let (mut one, mut end) = Link::pair().unwrap();
        let mut batch = Batch::new(&mut one, Kind::Queue);
        queue.save(&mut batch).unwrap();
        batch.finish().unwrap();
        let successor = Arc::new(Queue::new(1, 1));
        items(&end.receive().unwrap().bytes, |from| successor.restore(from)).unwrap();
        assert_eq!(successor.waiting(), [(topic.clone(), 2), (other.clone(), 2)]);
        let consumer = successor.consumer();
        consumer.pop(&[topic.clone(), other], false).unwrap();
        let came: Vec<_> = std::iter::from_fn(|| consumer.take(Waker::noop())).map(|m| m.data).collect();
        let mut sorted = came.clone();
        sorted.sort();
        assert_eq!(sorted, ["t1", "t2", "u1", "u2"]);
        assert!(came.iter().position(|d| d == "t1") < came.iter().position(|d| d == "t2"));
        // Later ones have later numbers.
        successor.push(&topic, client, Bytes::from_static(b"t3")).unwrap();
        assert_eq!(consumer.take(Waker::noop()).unwrap().data, "t3");
    }
}
