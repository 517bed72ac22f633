//! The head of a frame: from whom to whom it is, and how it is numbered.

use serde::{Deserialize, Serialize};

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends within its header, or within a message.
    #[error("it ends too early")]
    Short,
    /// The first byte names no kind of frame.
    #[error("its kind is unknown")]
    Kind,
    /// A message is none of this version.
    #[error("a message in it is malformed")]
    Message,
    /// A text or list is longer than it may be.
    #[error("a text or list in it is too long")]
    TooLong,
}

/// One run of one node. The number is drawn at random at its start, and is its address on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Run(pub u64);

/// How the frames of one node to another are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Part of the stream: its numbers have no gap.
    Stream,
    /// Outside of the stream: what may be lost, since it is said again.
    Aside,
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether it has a place in the stream.
    pub kind: Kind,
    /// Who sent it.
    pub from: Run,
    /// For whom it is.
    pub to: Run,
    /// Which of the sender's streams to this node it belongs to, counted from 1. A new one begins after a gap.
    pub epoch: u32,
    /// Its number in the stream, counted from 0; outside of it, the number that the stream's next frame will have.
    pub seq: u64,
    /// The stream in the other direction, as far as it was read: its epoch, and how many frames of it were worked off.
    pub read_epoch: u32,
    /// See `read_epoch`.
    pub read: u64,
}

/// Bytes of a header.
pub const HEADER: usize = 1 + 8 + 8 + 4 + 8 + 4 + 8;

impl Header {
    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(match self.kind {
            Kind::Stream => 0xC1,
            Kind::Aside => 0xC2,
        });
        out.extend_from_slice(&self.from.0.to_le_bytes());
        out.extend_from_slice(&self.to.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.read_epoch.to_le_bytes());
        out.extend_from_slice(&self.read.to_le_bytes());
    }

    /// Reads it, and what follows.
    pub fn read(frame: &[u8]) -> Result<(Header, &[u8]), Malformed> {
        let (head, rest) = frame.split_first_chunk::<HEADER>().ok_or(Malformed::Short)?;
        let kind = match head[0] {
            0xC1 => Kind::Stream,
            0xC2 => Kind::Aside,
            _ => return Err(Malformed::Kind),
        };
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let short = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let header = Header {
            kind,
            from: Run(long(1)),
            to: Run(long(9)),
            epoch: short(17),
            seq: long(21),
            read_epoch: short(29),
            read: long(33),
        };
        Ok((header, rest))
    }
}
