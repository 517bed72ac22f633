//! A message that may stand for several publishes.

use bytes::Bytes;
use std::num::NonZeroU32;

use super::{Kind, Message};

/// A message, and how many publishes it stands for, if they were added up. It takes no more room than the message alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    data: Bytes,
    kind: Kind,
    count: Option<NonZeroU32>,
}

impl Counted {
    /// A message that stands for so many publishes; None: it is a single one. Numbers from 2^32 on count as 2^32 - 1.
    pub fn new(Message { kind, data }: Message, count: Option<u64>) -> Counted {
        let count = count.and_then(|count| NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX)));
        Counted { data, kind, count }
    }

    /// The message. It shares its bytes.
    pub fn message(&self) -> Message {
        Message { kind: self.kind, data: self.data.clone() }
    }

    /// Text or binary.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The payload.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// How many publishes it stands for; None: it is a single one.
    pub fn count(&self) -> Option<u64> {
        self.count.map(|count| count.get().into())
    }
}

impl From<Message> for Counted {
    fn from(message: Message) -> Counted {
        Counted::new(message, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_takes_no_room_and_is_kept() {
        assert_eq!(size_of::<Counted>(), size_of::<Message>());
        let message = Message::text("x");
        for (count, want) in [(None, None), (Some(0), None), (Some(7), Some(7)), (Some(1 << 40), Some((1 << 32) - 1))] {
            let counted = Counted::new(message.clone(), count);
            assert_eq!((counted.message(), counted.count()), (message.clone(), want));
        }
    }
}
