//! What nodes say to each other, as bytes. Encodes and decodes only; what a message means, its reader decides.
//!
//! Bytes travel in frames, each from one node to one other. A frame has a header of fixed length ([`Header`]) and then
//! messages, each behind its length, so that a reader can skip a kind of message that it does not know: neighbours of one
//! minor version understand each other. All of it comes from outside: whatever bytes come, reading them costs no more than
//! their length, and an error says what was wrong.

mod append;
mod asking;
mod header;
mod lists;
pub mod ordered;
mod published;

use serde::{Deserialize, Serialize};

use append::append;

pub use asking::{Asking, read_answer, write_answer};
pub use header::{HEADER, Header, Kind, Malformed, Run};
pub use published::Published;

/// The protocol's major version: nodes of different ones do not work together.
pub const MAJOR: u16 = 2;
/// The minor version: a newer one adds kinds of messages, which older nodes skip.
pub const MINOR: u16 = 1;
/// From this minor version on a node knows that another one hands over to a successor process.
pub const KNOWS_MOVES: u16 = 1;

/// The longest frame, in bytes; a single message that is longer travels in a frame of its own.
pub const FRAME: usize = 64 * 1024;
/// The longest message that goes to another node, in bytes. One that is longer does not reach it, which its publisher is told.
pub const MAX_MESSAGE: usize = 64 << 20;
/// The longest text in a hello.
const MAX_TEXT: usize = 255;

/// What a node tells of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAJOR`] of its program.
    pub major: u16,
    /// [`MINOR`] of its program.
    pub minor: u16,
    /// Its run.
    pub run: Run,
    /// Its number in the ids of its clients; 0 for a node that has no clients.
    pub number: u16,
    /// It has clients and channels.
    pub engine: bool,
    /// It tells others who there is.
    pub center: bool,
    /// It serves clients: before, its number may still change.
    pub serving: bool,
    /// When it started, in milliseconds of Unix time by its own clock.
    pub started: u64,
    /// How many clients it has.
    pub clients: u64,
    /// What proves to others that they talk with one who has heard this.
    pub nonce: [u8; 16],
    /// `host:port` of its API, as others reach it.
    pub api: String,
}

impl Hello {
    /// Appends it, as a whole message of the bus.
    pub fn write(&self, out: &mut Vec<u8>) {
        append(out, self);
    }

    fn is_too_long(&self) -> bool {
        self.api.len() > MAX_TEXT
    }

    /// Reads one that stands alone.
    pub fn read(bytes: &[u8]) -> Result<Hello, Malformed> {
        let hello: Hello = postcard::from_bytes(bytes).map_err(|_| Malformed::Message)?;
        if hello.is_too_long() { Err(Malformed::TooLong) } else { Ok(hello) }
    }
}

/// A message in a frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message<'a> {
    /// The first of each stream: who sends it, and the proof that the sender knows the cluster's secret. Outside of a
    /// stream, a greeting: the receiver is not known yet, and may begin a stream of its own.
    Begin {
        /// The sender, as it is now.
        hello: Hello,
        /// See [`super::proof`].
        proof: [u8; 32],
    },
    /// Follows [`Message::Begin`]: all channels of the sender, as hashes of 8 bytes each. Several, of which the last says so.
    Snapshot {
        /// The version of the interest that they are.
        version: u64,
        /// The hashes, little-endian.
        #[serde(borrow)]
        hashes: &'a [u8],
        /// None follows.
        last: bool,
    },
    /// Changes of the sender's interest, which make the version from the one before.
    Interest {
        /// The version that they make.
        version: u64,
        /// Hashes of channels that it has no subscriber of any more.
        gone: &'a [u8],
        /// Hashes of channels that it has subscribers of.
        come: &'a [u8],
    },
    /// The receiver's interest is known up to that version.
    InterestKnown {
        /// The version.
        version: u64,
    },
    /// A message for all subscribers of a channel on the receiving node.
    Publish {
        /// The channel's name.
        channel: &'a str,
        /// The data is binary; else UTF-8.
        binary: bool,
        /// The data.
        data: &'a [u8],
        /// The ids of clients that are left out.
        except: &'a [u8],
        /// What it is about, if its publisher said so.
        key: Option<&'a str>,
    },
    /// A message for one client.
    Send {
        /// The client's id.
        client: u64,
        /// As above.
        binary: bool,
        /// The data.
        data: &'a [u8],
    },
    /// Something for one client's connection to do.
    Command {
        /// The client's id.
        client: u64,
        /// What is to be done, in the form of its owner.
        command: &'a [u8],
    },
    /// What publishes and sends came to: [`Reply`] after [`Reply`].
    Replies(&'a [u8]),
    /// What a command came to, with the number of its request.
    CommandReply {
        /// The number.
        request: u64,
        /// What failed, in words; none: it was done.
        problem: Option<&'a str>,
    },
    /// The receiver has lost a frame of the stream with that epoch, and waits for a new stream.
    Lost {
        /// The epoch.
        epoch: u32,
    },
    /// The sender is about to end.
    Leave,
    /// A message that is published once only: the receiver knows whether it has been.
    PublishOnce {
        /// What tells it from others.
        id: &'a str,
        /// The channels' names.
        #[serde(borrow, deserialize_with = "lists::read::<_, _, { lists::MOST_CHANNELS }>")]
        channels: Vec<&'a str>,
        /// They came as a list.
        list: bool,
        /// The data is binary; else UTF-8.
        binary: bool,
        /// The data.
        data: &'a [u8],
        /// The ids of clients that are left out.
        except: &'a [u8],
        /// What it is about, if its publisher said so.
        key: Option<&'a str>,
        /// How much it matters.
        priority: u8,
    },
    /// What that came to, for each channel in their order.
    OnceReply {
        /// The number of the request.
        request: u64,
        /// The counts.
        #[serde(deserialize_with = "lists::read::<_, _, { lists::MOST_CHANNELS }>")]
        counts: Vec<Published>,
    },
    /// The nodes that the sender, a center, has a link to, and itself.
    Nodes {
        /// The nodes.
        #[serde(borrow, deserialize_with = "lists::read::<_, _, { lists::MOST_NODES }>")]
        nodes: Vec<Listed<'a>>,
    },
    /// Where the sender can be dialled.
    Reached {
        /// `host:port` each: several ways to the same node.
        #[serde(borrow, deserialize_with = "lists::read::<_, _, { lists::MOST_ADDRESSES }>")]
        at: Vec<&'a str>,
    },
    /// How many connections of the receiving node are in a channel?
    Count {
        /// The channel's name.
        channel: &'a str,
    },
    /// All connections of the receiving node that are in a channel are to be closed.
    Close {
        /// The channel's name.
        channel: &'a str,
        /// The close code.
        code: u16,
        /// The reason.
        reason: &'a str,
    },
    /// What does the receiving node know of it?
    Ask {
        /// The question.
        #[serde(borrow)]
        asking: Asking<'a>,
    },
    /// What that came to.
    Answer {
        /// The number of the request.
        request: u64,
        /// As [`write_answer`] has written it.
        answer: &'a [u8],
    },
    /// The number of connections in a channel has changed on the sender's node; the receiver tells it.
    Stirred {
        /// The channel's name.
        channel: &'a str,
        /// It was told on the sender's node so many milliseconds ago, if it was.
        ago: Option<u64>,
    },
    /// So many connections are in a channel: those of the receiving node are told.
    Online {
        /// The channel's name.
        channel: &'a str,
        /// How many there are.
        count: u64,
    },
    /// How is the receiving node? Answered by [`Message::Answer`].
    Figures,
    /// Of a channel whose messages have an order.
    Ordered {
        /// The channel's name.
        channel: &'a str,
        /// What is said of it: [`ordered::Ordered`].
        body: &'a [u8],
    },
    /// The sender hands over to a successor process: for a moment it answers nothing.
    Moving,
    /// The sender, or its successor, answers again.
    Back,
    /// From a successor process, for its node: does the receiver reach it?
    Probe {
        /// To be answered with.
        token: u64,
    },
    /// The receiver is reached.
    Probed {
        /// As it was asked.
        token: u64,
    },
    /// To all subscribers of a channel on the receiving node: a connection came to it, or went.
    Moved {
        /// The channel's name.
        channel: &'a str,
        /// What they are told; UTF-8.
        data: &'a [u8],
        /// The id of the client, which is left out.
        client: u64,
        /// It came; else it went.
        came: bool,
    },
    /// What came of the publish with that id? Answered by [`Message::Answer`].
    Remember {
        /// The id.
        id: &'a str,
    },
}

/// A node as a center knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed<'a> {
    /// Its run.
    pub run: Run,
    /// It is a center.
    pub center: bool,
    /// It is an engine that serves clients.
    pub serving: bool,
    /// Where it can be dialled.
    #[serde(borrow, deserialize_with = "lists::read::<_, _, { lists::MOST_ADDRESSES }>")]
    pub at: Vec<&'a str>,
}

/// The most addresses of one node that others keep.
pub const MAX_ADDRESSES: usize = 16;

/// The addresses that are kept of those that came: neither too many nor too long ones.
pub fn read_addresses<'a>(at: &[&'a str]) -> impl Iterator<Item = &'a str> + Clone {
    at.iter().copied().filter(|at| !at.is_empty() && at.len() <= MAX_TEXT).take(MAX_ADDRESSES)
}

/// What a publish or a send came to on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The number that its sender gave it.
    pub request: u64,
    /// Connections that took it.
    pub reached: u32,
    /// Connections that could not.
    pub failed: u32,
}

impl Reply {
    /// Bytes of one.
    pub const LEN: usize = 16;

    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request.to_le_bytes());
        out.extend_from_slice(&self.reached.to_le_bytes());
        out.extend_from_slice(&self.failed.to_le_bytes());
    }

    /// Reads all that `bytes` holds.
    pub fn read_all(bytes: &[u8]) -> impl Iterator<Item = Reply> {
        let (replies, _) = bytes.as_chunks::<{ Reply::LEN }>();
        replies.iter().map(|bytes| Reply {
            request: u64::from_le_bytes(std::array::from_fn(|i| bytes[i])),
            reached: u32::from_le_bytes(std::array::from_fn(|i| bytes[8 + i])),
            failed: u32::from_le_bytes(std::array::from_fn(|i| bytes[12 + i])),
        })
    }
}

/// Numbers as bytes: the hashes of [`Message::Snapshot`] and [`Message::Interest`], ids of clients.
pub fn longs(of: impl IntoIterator<Item = u64>) -> Vec<u8> {
    of.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// The numbers that such bytes are.
pub fn read_longs(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (longs, _) = bytes.as_chunks::<8>();
    longs.iter().map(|bytes| u64::from_le_bytes(*bytes))
}

impl Message<'_> {
    /// Its bytes, which any number of frames may take: see [`envelop`].
    pub fn to_bytes(&self) -> bytes::Bytes {
        let mut out = Vec::new();
        append(&mut out, self);
        out.into()
    }
}

/// What an envelope adds to the bytes of a message.
pub const ENVELOPE: usize = 4 + 8;

/// Appends the bytes of a message to a frame. `request`: the sender's number for it; 0: no reply is wanted.
pub fn envelop(message: &[u8], request: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&request.to_le_bytes());
    out.extend_from_slice(message);
}

/// The messages of a frame, one after the other. A kind that this version does not know is passed over.
pub struct Messages<'a>(&'a [u8]);

impl<'a> Messages<'a> {
    /// Those of what follows a header.
    pub fn new(body: &'a [u8]) -> Messages<'a> {
        Messages(body)
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Iterator for Messages<'a> {
    /// The number of the request, and the message.
    type Item = Result<(u64, Message<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.0.is_empty() {
                return None;
            }
            let Some((head, rest)) = self.0.split_first_chunk::<ENVELOPE>() else {
                self.0 = &[];
                return Some(Err(Malformed::Short));
            };
            let length = u32::from_le_bytes(std::array::from_fn(|i| head[i])) as usize;
            let request = u64::from_le_bytes(std::array::from_fn(|i| head[4 + i]));
            let Some((message, rest)) = rest.split_at_checked(length) else {
                self.0 = &[];
                return Some(Err(Malformed::Short));
            };
            self.0 = rest;
            // The first byte is the kind, as long as there are fewer than 128 of them.
            if message.first().is_some_and(|kind| *kind >= KINDS) {
                continue;
            }
            return Some(match postcard::from_bytes(message) {
                Ok(Message::Begin { hello, .. }) if hello.is_too_long() => Err(Malformed::TooLong),
                Ok(message) => Ok((request, message)),
                Err(_) => Err(Malformed::Message),
            });
        }
    }
}

/// How many kinds of messages this version knows.
const KINDS: u8 = 29;

#[cfg(test)]
mod tests;
