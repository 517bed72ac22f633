//! Lists in messages, as they are read. Each item may take a byte or a few, and in memory many times more: so there is a bound
//! for their number.

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// The most channels of one publish, as for the callers of the API.
pub(super) const MOST_CHANNELS: usize = 1000;
/// The most nodes of which a center tells, centers among them; a node takes in no more than
/// [`MAX_NODES`](crate::cluster::node::MAX_NODES).
pub(super) const MOST_NODES: usize = 2048;
/// The most addresses of one node that are read.
pub(super) const MOST_ADDRESSES: usize = 256;

struct Items<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Items<T, MOST> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MOST} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            if items.len() == MOST {
                return Err(A::Error::invalid_length(items.len() + 1, &self));
            }
            items.push(item);
        }
        Ok(items)
    }
}

/// Reads a list of at most that many items.
pub(super) fn read<'de, T: Deserialize<'de>, D: Deserializer<'de>, const MOST: usize>(
    reader: D,
) -> Result<Vec<T>, D::Error> {
    reader.deserialize_seq(Items::<T, MOST>(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::protocol::{Listed, Malformed, Message, Messages, Run, envelop};
    use crate::hub::Counts;

    fn read_back(message: &Message<'_>) -> Option<Malformed> {
        let mut bytes = Vec::new();
        envelop(&message.to_bytes(), 1, &mut bytes);
        Messages::new(&bytes).next().unwrap().err()
    }

    #[test]
    fn lists_longer_than_their_bound_are_not_read() {
        let once = |many| Message::PublishOnce {
            id: "i",
            channels: vec!["a"; many],
            list: true,
            binary: false,
            data: b"x",
            except: &[],
            key: None,
            priority: 1,
        };
        let listed = |at| Listed { run: Run(1), center: false, serving: true, at };
        let nodes = |many| Message::Nodes { nodes: vec![listed(vec!["a:1"]); many] };
        let reached = |many| Message::Reached { at: vec!["a:1"; many] };
        let done = |many| Message::OnceReply { request: 1, counts: vec![Counts::default().into(); many] };
        for (longest, longer) in [
            (once(MOST_CHANNELS), once(MOST_CHANNELS + 1)),
            (done(MOST_CHANNELS), done(MOST_CHANNELS + 1)),
            (nodes(MOST_NODES), nodes(MOST_NODES + 1)),
            (reached(MOST_ADDRESSES), reached(MOST_ADDRESSES + 1)),
            (
                Message::Nodes { nodes: vec![listed(vec!["a:1"; MOST_ADDRESSES])] },
                Message::Nodes { nodes: vec![listed(vec!["a:1"; MOST_ADDRESSES + 1])] },
            ),
        ] {
            assert_eq!((read_back(&longest), read_back(&longer)), (None, Some(Malformed::Message)));
        }
    }
}
