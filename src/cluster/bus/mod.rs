//! What carries frames from node to node.
//!
//! A bus gives little, and promises less: bytes to one node or to all, in order while a link lasts. Bytes may be lost when a
//! link ends; the numbers of frames tell ([`super::node`]). Everything else is ours, and knows no bus.

pub mod memory;
#[cfg(feature = "cluster")]
pub mod zenoh;

use bytes::Bytes;

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
}

/// A node's place on a bus. Any thread may call it.
pub trait Bus: Send + Sync + 'static {
    /// Sends a frame to a node. It may take until the node has read what is before it; so only a thread that serves this
    /// node alone calls it. What can't be sent is lost.
    fn send(&self, to: Run, frame: Vec<u8>);
    /// Says something to all nodes.
    fn announce(&self, hello: Vec<u8>);
}
