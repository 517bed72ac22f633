//! How connections come into channels and leave them, why some are not let in, and how a log line shows channels.

use std::sync::Arc;

use super::Shard;
use super::conn::Conn;
use crate::hub::topics::Topics;
use crate::hub::{Joined, Left};
use crate::message::Channel;

impl Shard {
    /// Subscribes a connection to channels; it may be in some of them already. When it returns, every later publish
    /// reaches it. On an error, there would be too many subscriptions, and none was added.
    pub fn subscribe(&self, conn: &Conn, channels: &[Channel]) -> Result<(), TooMany> {
        self.subscribe_with(conn, channels, None)
    }

    /// The same with what is told of the connection in these channels from now on, as JSON; kept where the channel's rule
    /// says `presence`.
    pub fn subscribe_with(&self, conn: &Conn, channels: &[Channel], info: Option<&Arc<str>>) -> Result<(), TooMany> {
        let mut topics = self.topics.borrow_mut();
        let before = topics.count_of(conn.slot);
        let refused = |new: usize| match before + new {
            wanted if wanted > MAX_SUBSCRIPTIONS => Some(TooMany::OfConnection),
            wanted if !self.hub.may_subscribe(wanted, new) => Some(TooMany::OfAll(self.hub.max_subscriptions())),
            _ => None,
        };
        // How many of them are new only matters here.
        if refused(channels.len()).is_some() {
            let mut new: Vec<_> = channels.iter().filter(|c| !topics.contains(conn.slot, c.as_str())).collect();
            new.sort_unstable();
            new.dedup();
            if let Some(too_many) = refused(new.len()).filter(|_| !new.is_empty()) {
                return Err(self.refused(conn, channels, too_many));
            }
        }
        let has_rules = !topics.rules().is_empty();
        let told = match has_rules {
            true => self.enter_rooms(conn, channels, &topics).map_err(|full| self.refused(conn, channels, full))?,
            false => Vec::new(),
        };
        for channel in channels {
            if topics.insert(conn.slot, channel) == Joined::First
                && self.hub.join(channel, self.worker) == Joined::First
            {
                self.counts.channels_opened.add(1);
            }
        }
        if has_rules {
            self.entered_rooms(conn, (channels, told), info, &mut topics);
        }
        self.count_subscriptions(&topics);
        if self.tap.is_on() {
            self.see_turn(conn, true, channels);
        }
        tracing::debug!(target: "connmix::shard", client_id = conn.client_id.get(), channels = %Names(channels), "subscribed");
        Ok(())
    }

    pub(super) fn refused(&self, conn: &Conn, channels: &[Channel], why: TooMany) -> TooMany {
        self.past.refused(conn.client_id, channels, &why.to_string());
        why
    }

    /// Unsubscribes a connection from channels.
    pub fn unsubscribe(&self, conn: &Conn, channels: &[Channel]) {
        let mut topics = self.topics.borrow_mut();
        for channel in channels {
            match topics.remove(conn.slot, channel.as_str()) {
                Left::Absent => continue,
                Left::Last => drop(self.hub.leave(channel.as_str(), self.worker)),
                Left::Removed => {}
            }
            self.past.left(conn.client_id, channel);
        }
        self.leave_rooms(conn, &mut topics);
        self.count_subscriptions(&topics);
        if self.tap.is_on() {
            self.see_turn(conn, false, channels);
        }
        tracing::debug!(target: "connmix::shard", client_id = conn.client_id.get(), channels = %Names(channels), "unsubscribed");
    }

    pub(super) fn count_subscriptions(&self, topics: &Topics) {
        let now = topics.subscriptions();
        self.hub.count_subscriptions(self.counts.subscriptions.get() as usize, now);
        self.counts.subscriptions.set(now as u64);
    }
}

/// Channels as a log line shows them: not all, if there are many.
struct Names<'a>(&'a [Channel]);

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
