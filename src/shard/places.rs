//! Places in channels whose rule bounds their connections (`maxSubscribers`), over all nodes: a place is taken here first, then
//! other nodes are asked how many they have taken. One who asks later sees the places of those before. So there are never
//! too many, and of several who come for the last place at the same moment perhaps none gets it.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::conn::Conn;
use super::unsettled::{Bounded, Unsettled};
use super::{Shard, TooMany};
use crate::hub::Hub;
use crate::message::Channel;

/// Places that a connection has taken in channels that it is not in yet. Dropped, they are given up.
pub struct Reservation {
    hub: Arc<Hub>,
    /// The channels.
    pub channels: Bounded,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.channels.iter().for_each(|(channel, _)| self.hub.rooms().leave(channel, 1));
    }
}

impl Shard {
    /// Takes places for a connection in those of these channels that have a bound; None: there are none.
    pub fn reserve(&self, conn: &Conn, channels: &[Channel]) -> Result<Option<Reservation>, TooMany> {
        let topics = self.topics.borrow();
        let (mut reserved, bounded) =
            (Reservation { hub: self.hub.clone(), channels: Vec::new() }, self.bounded(conn, channels));
        for (channel, most) in bounded {
            let Some(rule) = topics.rule_of(channel.as_str()) else { continue };
            if !self.hub.rooms().enter(&channel, rule) {
                return Err(self.no_place(conn, channels, (channel, most)));
            }
            reserved.channels.push((channel, most));
        }
        Ok((!reserved.channels.is_empty()).then_some(reserved))
    }

    /// One of these channels has no place for a connection: it is remembered why.
    pub fn no_place(&self, conn: &Conn, channels: &[Channel], (channel, most): (Channel, usize)) -> TooMany {
        self.refused(conn, channels, TooMany::OfChannel(channel, most))
    }

    /// The channels with a bound that a connection is not in yet, each once.
    pub fn bounded(&self, conn: &Conn, channels: &[Channel]) -> Bounded {
        let topics = self.topics.borrow();
        if topics.rules().is_empty() {
            return Vec::new();
        }
        let most = |channel: &Channel| topics.rule_of(channel.as_str()).map_or(0, |rule| rule.max_subscribers);
        let new = channels.iter().filter(|channel| !topics.contains(conn.slot, channel.as_str()));
        let mut bounded: Bounded =
            new.map(|channel| (channel.clone(), most(channel))).filter(|(_, m)| *m > 0).collect();
        bounded.sort_unstable();
        bounded.dedup();
        bounded
    }

    /// The channels that a connection is not in yet.
    pub(super) fn new_among(&self, conn: &Conn, channels: &[Channel]) -> Vec<Channel> {
        let topics = self.topics.borrow();
        channels.iter().filter(|channel| !topics.contains(conn.slot, channel.as_str())).cloned().collect()
    }

    /// Ready with the next connection for which other nodes have to be asked.
    pub fn poll_unsettled(&self, cx: &mut Context<'_>) -> Poll<Unsettled> {
        self.unsettled.poll(cx)
    }
}
