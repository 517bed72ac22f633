//! What nodes say to each other of channels whose messages have an order: the body of
//! [`Message::Ordered`](super::Message::Ordered). It comes from outside: what is read of it is bounded, and checked.

use serde::{Deserialize, Serialize};

use super::append::append;
use super::lists;
use super::published::Published;
use crate::config::MAX_HISTORY;
use crate::hub::history::{At, Kept, LogCopy, Position, Reading};
use crate::message::{Counted, Kind, Message};
use bytes::Bytes;

/// A position: its term and its offset.
type Place = (u64, u64);

/// The most terms of a log that are read.
const MOST_TERMS: usize = 1 + MAX_HISTORY;

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ordered<'a> {
    /// A message to be published by the node that leads the channel. Its counts come as a [`Ordered::Published`].
    Publish {
        /// The data is binary; else UTF-8.
        binary: bool,
        /// The data.
        data: &'a [u8],
        /// The ids of clients that are left out, 8 bytes each.
        except: &'a [u8],
        /// What it is about, if its publisher said so.
        key: Option<&'a str>,
        /// How much it matters.
        priority: u8,
        /// So many publishes that were added up; none: it is a single one.
        count: Option<u64>,
        /// So many nodes have passed it on.
        hops: u8,
    },
    /// What that came to.
    Published {
        /// The number of the request.
        request: u64,
        /// Its counts.
        published: Published,
    },
    /// A message of the node that leads the channel.
    Next {
        /// The message.
        #[serde(borrow)]
        message: Copied<'a>,
        /// The ids of clients that are left out.
        except: &'a [u8],
        /// What it is about, if its publisher said so.
        key: Option<&'a str>,
        /// It goes into the copy of the receiver.
        keep: bool,
        /// The terms that ended just before it, if it is the first of its own.
        #[serde(deserialize_with = "lists::read::<_, _, { MOST_TERMS }>")]
        ended: Vec<u64>,
    },
    /// What has the channel kept, and what has the sender missed? The answer comes as a [`Ordered::Reading`].
    Read {
        /// How far the sender is.
        cursor: Option<Place>,
        /// The reader wants what is behind that; else the newest.
        since: Option<Place>,
        /// So many of the newest.
        last: Option<u32>,
        /// No more messages, and no more bytes of their data.
        most: (u32, u64),
        /// A page, from the oldest on.
        page: bool,
    },
    /// What that came to.
    Reading {
        /// The number of the request.
        request: u64,
        /// None: the sender does not lead the channel.
        #[serde(borrow)]
        reading: Option<Read<'a>>,
    },
    /// The sender is to lead the channel: what has the receiver of its log? The answer comes as a [`Ordered::Taken`].
    Take,
    /// That log.
    Taken {
        /// The number of the request.
        request: u64,
        /// Nothing, unless there is something.
        #[serde(borrow)]
        log: Option<Log<'a>>,
    },
    /// The sender leads the channel, and its receiver keeps a copy of the log.
    Copy {
        /// The log.
        #[serde(borrow)]
        log: Log<'a>,
    },
    /// The receiver keeps no copy of the log any more.
    Release,
    /// Another node has led the channel: if the receiver leads it, that was beside it, and it takes the channel again. If it follows,
    /// it may have missed something.
    Outdated {
        /// How far, as the sender knows.
        later: Place,
    },
    /// The sender has no whole copy of the log any more.
    Lacking,
}

/// A message that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied<'a> {
    at: Place,
    when: u64,
    binary: bool,
    data: &'a [u8],
    /// So many publishes that were added up; none: it is a single one.
    count: Option<u64>,
}

/// A log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log<'a> {
    #[serde(deserialize_with = "lists::read::<_, _, { MOST_TERMS }>")]
    terms: Vec<Place>,
    head: u64,
    #[serde(borrow, deserialize_with = "lists::read::<_, _, { MAX_HISTORY }>")]
    kept: Vec<Copied<'a>>,
    complete: bool,
}

/// What a reader gets, and its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read<'a> {
    head: Place,
    at: Place,
    recovered: bool,
    #[serde(borrow, deserialize_with = "lists::read::<_, _, { MAX_HISTORY }>")]
    kept: Vec<Copied<'a>>,
    is_whole: bool,
    #[serde(borrow, deserialize_with = "lists::read::<_, _, { MAX_HISTORY }>")]
    missed: Vec<Copied<'a>>,
}

/// As it travels.
pub fn place(position: Position) -> Place {
    (position.term, position.offset)
}

/// As it has come.
pub fn position((term, offset): Place) -> Position {
    Position { term, offset }
}

impl<'a> Copied<'a> {
    /// As it travels.
    pub fn of(kept: &'a Kept) -> Copied<'a> {
        let Kept { at, when, message } = kept;
        let (binary, count) = (message.kind() == Kind::Binary, message.count());
        Copied { at: place(*at), when: *when, binary, data: message.data(), count }
    }

    /// The same of its parts.
    pub fn new(at: Position, when: u64, message: &'a Message, count: Option<u64>) -> Copied<'a> {
        Copied { at: place(at), when, binary: message.kind() == Kind::Binary, data: message.data(), count }
    }

    /// As it is kept, with data of its own. None: it is no message.
    pub fn kept(&self) -> Option<Kept> {
        let kind = if self.binary { Kind::Binary } else { Kind::Text };
        let message = Message::new(kind, Bytes::copy_from_slice(self.data)).ok()?;
        Some(Kept { at: position(self.at), when: self.when, message: Counted::new(message, self.count) })
    }
}

fn copied(all: &[Kept]) -> Vec<Copied<'_>> {
    all.iter().map(Copied::of).collect()
}

fn kept(all: &[Copied<'_>]) -> Option<Vec<Kept>> {
    all.iter().map(Copied::kept).collect()
}

impl<'a> Log<'a> {
    /// As it travels.
    pub fn of(copy: &'a LogCopy) -> Log<'a> {
        let LogCopy { terms, head, kept, complete } = copy;
        Log { terms: terms.clone(), head: *head, kept: copied(kept), complete: *complete }
    }

    /// As it has come. None: it is none.
    pub fn copy(&self) -> Option<LogCopy> {
        let Log { terms, head, kept: all, complete } = self;
        Some(LogCopy { terms: terms.clone(), head: *head, kept: kept(all)?, complete: *complete })
    }
}

impl<'a> Read<'a> {
    /// As it travels.
    pub fn of(reading: &'a Reading) -> Read<'a> {
        let Reading { head, at, kept, is_whole, missed } = reading;
        let (head, recovered, at) = (place(*head), at.recovered, place(at.position));
        Read { head, at, recovered, kept: copied(kept), is_whole: *is_whole, missed: copied(missed) }
    }

    /// As it has come. None: it is none.
    pub fn reading(&self) -> Option<Reading> {
        let all = kept(&self.kept)?;
        let at = At { position: position(self.at), recovered: self.recovered, count: all.len() };
        Some(Reading { head: position(self.head), at, kept: all, is_whole: self.is_whole, missed: kept(&self.missed)? })
    }
}

impl Ordered<'_> {
    /// The whole message, of that channel.
    pub fn to_bytes(&self, channel: &str) -> Bytes {
        let mut body = Vec::new();
        append(&mut body, self);
        super::Message::Ordered { channel, body: &body }.to_bytes()
    }

    /// Reads a body. None: it is none.
    pub fn read(body: &[u8]) -> Option<Ordered<'_>> {
        postcard::from_bytes(body).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::protocol::{Message as Whole, Messages, envelop};
    use crate::hub::Counts;

    #[test]
    fn what_is_said_of_ordered_channels_is_read_as_it_is_written() {
        let kept = |offset, message| Kept { at: Position { term: 7, offset }, when: 5, message };
        let counted = Counted::new(Message::binary(vec![255]), Some(5));
        let messages = vec![kept(1, Message::text("a").into()), kept(2, counted)];
        let at = At { position: Position { term: 7, offset: 2 }, recovered: true, count: 2 };
        let (kept, missed) = (messages.clone(), messages.clone());
        let reading = Reading { head: at.position, at, kept, is_whole: false, missed };
        let copy = LogCopy { terms: vec![(7, 1)], head: 2, kept: messages.clone(), complete: true };
        let all = [
            Ordered::Publish {
                binary: true,
                data: b"x",
                except: &[1; 8],
                key: Some("k"),
                priority: 2,
                count: Some(3),
                hops: 1,
            },
            Ordered::Published { request: 7, published: Counts { merged: 1, ..Counts::default() }.into() },
            Ordered::Next { message: Copied::of(&messages[1]), except: &[], key: None, keep: true, ended: vec![5, 6] },
            Ordered::Read { cursor: None, since: Some((7, 1)), last: Some(3), most: (5, 6), page: true },
            Ordered::Reading { request: 3, reading: Some(Read::of(&reading)) },
            Ordered::Take,
            Ordered::Taken { request: 4, log: Some(Log::of(&copy)) },
            Ordered::Copy { log: Log::of(&copy) },
            Ordered::Release,
            Ordered::Outdated { later: (7, 8) },
            Ordered::Lacking,
        ];
        for message in &all {
            let mut bytes = Vec::new();
            envelop(&message.to_bytes("a"), 3, &mut bytes);
            let Some(Ok((3, Whole::Ordered { channel: "a", body }))) = Messages::new(&bytes).next() else {
                panic!("{message:?}")
            };
            assert_eq!(Ordered::read(body).as_ref(), Some(message));
        }
        assert_eq!(Log::of(&copy).copy(), Some(copy));
        assert_eq!(Read::of(&reading).reading(), Some(reading));
        let wrong = Copied { at: (7, 1), when: 0, binary: false, data: &[255], count: None };
        assert_eq!((wrong.kept(), Ordered::read(&[99])), (None, None));
    }
}
