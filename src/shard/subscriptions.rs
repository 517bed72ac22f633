//! The words about subscriptions: how a log line shows channels, and why a connection was not put into some.

use crate::message::Channel;

/// Channels as a log line shows them: not all, if there are many.
pub(super) struct Names<'a>(pub(super) &'a [Channel]);

impl std::fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const MOST: usize = 8;
        for (i, channel) in self.0.iter().take(MOST).enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, channel.as_str())?;
        }
        match self.0.len().checked_sub(MOST) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {more} more"),
        }
    }
}

/// Why a connection was not put into channels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// It would be in more than [`MAX_SUBSCRIPTIONS`].
    #[error("a connection can be in {MAX_SUBSCRIPTIONS} channels at most")]
    OfConnection,
    /// All connections together would have too many, or this one too large a part of the rest; holds the limit.
    #[error(
        "too many subscriptions: all clients together can have {0} (engine.maxSubscriptions), and one client a part of those that are free"
    )]
    OfAll(usize),
    /// The channel would have more than its rule allows; holds the channel and the bound.
    #[error("channel {0} is full: {1} connections may be in it (engine.channels, maxSubscribers)")]
    OfChannel(Channel, usize),
}

/// The most channels one connection may be in.
pub const MAX_SUBSCRIPTIONS: usize = 65_536;
