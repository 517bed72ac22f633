//! Channels that have a rule (`engine.channels`): who may come in, and what is counted of them.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::conn::Conn;
use super::moves::Move;
use super::{Shard, TooMany};
use crate::config::{ChannelRule, Rules};
use crate::hub::topics::{Departure, Topics};
use crate::message::Channel;

impl Shard {
    /// These rules hold from now on, for connections that are there, too. Those that are in a channel stay in it.
    pub fn set_rules(&self, rules: &[ChannelRule]) {
        let (rules, mut topics) = (Rules::new(rules), self.topics.borrow_mut());
        if **topics.rules() == rules {
            return;
        }
        let was_counted = |rule: Option<&ChannelRule>| rule.is_some_and(ChannelRule::is_counted);
        topics.set_rules(Arc::new(rules), |channel, members, before, rule| {
            match (was_counted(before), rule.filter(|rule| rule.is_counted())) {
                (false, Some(rule)) => self.hub.rooms().begin(channel, members, rule),
                (true, Some(rule)) => self.hub.rooms().begin(channel, 0, rule),
                (true, None) => self.hub.rooms().leave(channel, members),
                (false, None) => {}
            }
        });
    }

    /// Takes a place for a connection in each of these channels that it is not in yet; in none of them if one is full.
    /// Gives those that are told of it.
    pub(super) fn enter_rooms(
        &self,
        conn: &Conn,
        channels: &[Channel],
        topics: &Topics,
    ) -> Result<Vec<Channel>, TooMany> {
        let is_new = |channel: &&Channel| !topics.contains(conn.slot, channel.as_str());
        let mut new: Vec<&Channel> = channels.iter().filter(is_new).collect();
        new.sort_unstable();
        new.dedup();
        let rule = |channel: &&Channel| topics.rule_of(channel.as_str());
        let counted = |channel: &&Channel| rule(channel).filter(|rule| rule.is_counted());
        let counted: Vec<_> = new.iter().filter_map(|channel| Some((*channel, counted(channel)?))).collect();
        for (at, (channel, rule)) in counted.iter().enumerate() {
            if !self.hub.rooms().enter(channel, rule) {
                counted[..at].iter().for_each(|(entered, _)| self.hub.rooms().leave(entered, 1));
                return Err(TooMany::OfChannel((*channel).clone(), rule.max_subscribers));
            }
        }
        let told = new.iter().filter(|channel| rule(channel).is_some_and(|rule| rule.join_leave));
        Ok(told.map(|channel| (*channel).clone()).collect())
    }

    /// A connection is in these channels now; `told`: those that are told of it, with what its script tells.
    pub(super) fn entered_rooms(
        &self,
        conn: &Conn,
        (channels, told): (&[Channel], Vec<Channel>),
        info: Option<&Arc<str>>,
        topics: &mut Topics,
    ) {
        if let Some(info) = info {
            channels.iter().for_each(|channel| topics.set_info(conn.slot, channel.as_str(), info));
        }
        for channel in told {
            let info = topics.info(conn.slot, channel.as_str()).map(Arc::from);
            self.moves.add(Move { channel, client: conn.client_id, came: true, info });
        }
        for channel in channels {
            if let Some(rule) = topics.rule_of(channel.as_str()).filter(|rule| rule.online.is_on()) {
                self.hub.rooms().entered(channel, rule);
            }
        }
    }

    /// Whether it is told who is in a channel.
    pub fn has_presence(&self, channel: &Channel) -> bool {
        self.topics.borrow().rule_of(channel.as_str()).is_some_and(|rule| rule.presence)
    }

    /// Gives up the places that a connection has left.
    pub(super) fn leave_rooms(&self, conn: &Conn, topics: &mut Topics) {
        for Departure { channel, rule, info } in topics.departures() {
            if rule.is_counted() {
                self.hub.rooms().leave(&channel, 1);
            }
            if rule.join_leave {
                self.moves.add(Move { channel, client: conn.client_id, came: false, info });
            }
        }
    }

    /// Whether somebody came or went, and is not told of yet.
    pub fn has_moves(&self) -> bool {
        !self.moves.is_empty()
    }

    /// Ready with the next of those who came to channels that are told so, or went.
    pub fn poll_move(&self, cx: &mut Context<'_>) -> Poll<Move> {
        self.moves.poll(cx)
    }
}
