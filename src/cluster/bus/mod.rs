//! What carries frames from node to node.
//!
//! A bus gives little, and promises less: bytes to one node or to all, in order while a link lasts. Bytes may be lost when a
//! link ends; the numbers of frames tell ([`super::node`]). Everything else is ours, and knows no bus.

pub mod memory;
#[cfg(feature = "cluster")]
pub mod zenoh;

use bytes::Bytes;
use std::net::SocketAddr;

use super::protocol::Run;

/// Events that wait for the mesh. What comes beyond is lost, and asked for again.
pub const WAITING: usize = 8192;

/// What a bus brings.
pub enum Event {
    /// A node has said something to all.
    Hello(Bytes),
    /// A frame for this node.
    Frame(Bytes),
    /// The link to a node has ended. It may come back, or the node is reached by another way.
    Closed(Run),
    /// A link that somebody wanted to make was refused.
    Refused(Refusal),
}

/// Why somebody's link was refused, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The address that the link came from, where it is known.
    pub from: Option<SocketAddr>,
    /// Why, in words: the end of a sentence that begins "a link is refused: ".
    pub why: &'static str,
}

/// A node's place on a bus. Any thread may call it.
pub trait Bus: Send + Sync + 'static {
    /// Sends a frame to a node. It may take until the node has read what is before it; so only a thread that serves this
    /// node alone calls it. What can't be sent is lost.
    fn send(&self, to: Run, frame: Vec<u8>);
    /// Says something to all nodes. It does not wait: what can't be sent is lost.
    fn announce(&self, hello: Vec<u8>);
    /// Sends a frame to a node without waiting: what can't be sent is lost.
    fn greet(&self, to: Run, frame: Vec<u8>);
    /// Makes a link to a node, unless there is one: tries these addresses, `host:port` each, one after the other. It does
    /// not wait for that.
    fn dial(&self, to: Run, at: &[String]);
    /// Nothing more is sent to that node by [`Bus::send`].
    fn forget(&self, to: Run);
}
