//! Which channels have subscribers on this node, reported to a sink: other nodes send their publications here because
//! of it.

use crate::message::Channel;

/// Is told of a channel's first subscriber on this node, and of its last.
///
/// Events of one channel come one at a time, in their true order: `gained` and `lost` alternate, `gained` first. Events
/// of several channels may come at once, from several threads. When a [`Hub::join`](super::Hub::join) returns, `gained`
/// has been called, whichever worker was the first.
///
/// The methods are called under the lock of a part of the hub's map, on workers' threads. So they must be short, must
/// not wait, and must not call the hub: that would deadlock.
pub trait InterestSink: Send + Sync {
    /// This node had no subscriber of the channel, and now has one.
    fn gained(&self, channel: &Channel);

    /// This node has lost its last subscriber of the channel.
    fn lost(&self, channel: &Channel);
}
