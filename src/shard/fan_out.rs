//! Puts publishes into the outboxes of a channel's connections.
//!
//! When many publishes to one channel wait one behind the other, small ones go as one piece: each connection is looked at once
//! for all of them, its outbox holds one frame instead of many, and nothing needs to be copied when it is written. Not where a
//! script has to encode for one of them: it may change who is in the channel between two messages.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::Shard;
use super::compression::MessageFrames;
use super::conn::Conn;
use super::encoding::Encoding;
use super::framing::Framing;
use super::outbox::{FRAME, Frame, Policy, Subject};
use super::unwritten::CROWD;
use crate::config::Slow;
use crate::hub::{Ack, Counts, Delivery, Publication};

/// A channel with fewer members on this worker gets each message for itself: to put a piece together would take longer.
const MEMBERS: usize = 16;
/// The most messages in a piece: each may have to be compressed.
const MESSAGES: usize = 128;
/// The most bytes of messages in a piece, [`FRAME`] for each of them besides its own.
const PIECE: usize = 8 * 1024;
/// The most bytes that one piece is for all connections together while others wait to be written. An outbox that grows large is
/// written at once, and that is to take no longer than a slice may (`worker/turn`).
const AT_ONCE: usize = 8 * 1024 * 1024;

/// Publishes to one channel that go together, in their order.
type Run = Vec<(Arc<Publication>, Ack)>;

/// Whether a publish may be part of a piece: all connections of its channel get it, and nothing follows from it.
fn is_plain(publication: &Publication) -> bool {
    publication.options.except.is_empty() && publication.moved.is_none()
}

/// The most bytes in a piece for so many members. What is all written has room for any.
fn most_bytes(members: usize, all_written: bool) -> usize {
    if all_written { PIECE } else { PIECE.min(AT_ONCE / members) }
}

/// How many connections a publish has reached.
#[derive(Default, Clone, Copy)]
struct Reach {
    counts: Counts,
    /// Those among them that are event streams.
    streams: u64,
}

impl Reach {
    fn add(&mut self, conn: &Conn, reached: bool) {
        self.counts.add(reached);
        self.streams += u64::from(reached && conn.framing == Framing::EventStream);
    }
}

/// The pieces of a run, each put together when the first connection needs it.
struct Pieces<'a> {
    /// The frames of each publish.
    frames: Vec<MessageFrames<'a>>,
    /// By framing, and where messages are compressed by server: its limits say which.
    pieces: Vec<(Framing, Option<usize>, Frame)>,
}

impl<'a> Pieces<'a> {
    fn of(run: &'a Run) -> Pieces<'a> {
        Pieces { frames: run.iter().map(|(publication, _)| frames_of(publication)).collect(), pieces: Vec::new() }
    }

    /// All of the run for a connection, which must not be one of a script.
    fn piece(&mut self, shard: &Shard, conn: &Conn) -> Frame {
        let framing = conn.framing;
        let server = matches!(framing, Framing::WebSocket(Some(_))).then_some(conn.served.index);
        if let Some((.., piece)) = self.pieces.iter().find(|(of, by, _)| *of == framing && *by == server) {
            return piece.clone();
        }
        let frames: Vec<Frame> = self.frames.iter_mut().map(|frames| shard.frame_for(conn, frames)).collect();
        let piece: Frame = frames.concat().into();
        self.pieces.push((framing, server, piece.clone()));
        piece
    }
}

fn frames_of(publication: &Publication) -> MessageFrames<'_> {
    MessageFrames::new(publication.message.kind(), publication.message.data()).at(publication.position)
}

/// The members of a channel whose script has to encode a message, and what may be done with it while it waits for one of them.
type Rest = (Vec<Rc<Conn>>, Policy);

impl Shard {
    /// Handles a publish, and those that wait behind it and go with it. Returns for how many connections they were; compressing
    /// counts as so many more as it takes time.
    pub(super) fn deliver_publishes(&self, first: (Arc<Publication>, Ack), behind: &mut VecDeque<Delivery>) -> usize {
        let compressed = self.compression.work();
        let done = match self.companions(&first.0, behind) {
            0 => self.deliver_alone(first),
            more => {
                let publish = |delivery| match delivery {
                    Delivery::Publish(publication, ack) => Some((publication, ack)),
                    _ => None,
                };
                self.deliver_together(std::iter::once(first).chain(behind.drain(..more).filter_map(publish)).collect())
            }
        };
        done + self.compression.work().wrapping_sub(compressed)
    }

    /// How many of the deliveries behind a publish may go to its channel's connections in one piece with it.
    fn companions(&self, first: &Publication, behind: &VecDeque<Delivery>) -> usize {
        let follows = |delivery: &&Delivery| match delivery {
            Delivery::Publish(next, _) => next.channel == first.channel && is_plain(next),
            _ => false,
        };
        if !is_plain(first) || !behind.front().is_some_and(|next| follows(&next)) {
            return 0;
        }
        let (topics, conns) = (self.topics.borrow(), self.conns.borrow());
        let (members, _, rule) = topics.audience(first.channel.as_str());
        let is_kept = rule.is_none_or(|rule| rule.slow == Slow::Close);
        let those = || members.iter().filter_map(|&member| conns.get(member as usize));
        if members.len() < MEMBERS || !is_kept || those().any(|conn| conn.framing == Framing::Script) {
            return 0;
        }
        // Who has no room for a piece gets each message for itself. Nearly always all are of one server.
        let limit = those().next().map_or(usize::MAX, |conn| conn.served.limits.get().outbox_limit);
        let most = most_bytes(members.len(), self.unwritten.has_no_crowd()).min(limit / 2);
        let size = |publication: &Publication| publication.message.data().len() + FRAME;
        let mut room = most.saturating_sub(size(first));
        let fits = |delivery: &&Delivery| {
            let Delivery::Publish(next, _) = delivery else { return false };
            let left = room.checked_sub(size(next));
            room = left.unwrap_or(room);
            left.is_some()
        };
        behind.iter().take(MESSAGES - 1).take_while(follows).take_while(fits).count()
    }

    fn deliver_alone(&self, (publication, ack): (Arc<Publication>, Ack)) -> usize {
        let (mut frames, mut reach) = (frames_of(&publication), Reach::default());
        let rest = self.fan_out(&publication, |conn, policy, is_for_crowd| {
            let Some(conn) = conn else { return reach.counts.add(false) };
            let reached = self.push_as(conn, self.frame_for(conn, &mut frames), policy, is_for_crowd);
            reach.add(conn, reached);
            self.count_fan_out(conn, reached, 1);
        });
        if let Some(moved) = publication.moved {
            self.told_move(&publication, moved);
        }
        self.end_fan_out(&publication, ack, reach, rest)
    }

    fn deliver_together(&self, run: Run) -> usize {
        let mut pieces = Pieces::of(&run);
        // What holds for all publishes of the run, and what for each of them besides.
        let (mut all, mut reaches) = (Reach::default(), vec![Reach::default(); run.len()]);
        let rest = self.fan_out(&run[0].0, |conn, policy, is_for_crowd| {
            let Some(conn) = conn else { return all.counts.add(false) };
            let piece = pieces.piece(self, conn);
            if conn.has_room_for(&piece) {
                let reached = self.push_as(conn, piece, policy, is_for_crowd);
                all.add(conn, reached);
                return self.count_fan_out(conn, reached, run.len() as u32);
            }
            for (frames, reach) in pieces.frames.iter_mut().zip(&mut reaches) {
                let reached = self.push_as(conn, self.frame_for(conn, frames), policy, is_for_crowd);
                reach.add(conn, reached);
                self.count_fan_out(conn, reached, 1);
            }
        });
        let mut done = 0;
        for ((publication, ack), mut reach) in run.into_iter().zip(reaches) {
            reach.counts += all.counts;
            reach.streams += all.streams;
            // There is no script among them.
            done += self.end_fan_out(&publication, ack, reach, rest.clone());
        }
        done
    }

    /// Calls `put` for each connection of the channel that gets a publish, to be put into its outbox: with what may be done with it
    /// while it waits there, and whether it is for a crowd; None: the connection has gone. Returns those that it was not called
    /// for, since their script has to encode the message.
    fn fan_out(&self, publication: &Publication, mut put: impl FnMut(Option<&Rc<Conn>>, &Policy, bool)) -> Rest {
        let (topics, conns) = (self.topics.borrow(), self.conns.borrow());
        let (members, muted, rule) = topics.audience(publication.channel.as_str());
        let policy = match rule.map_or(Slow::Close, |rule| rule.slow) {
            Slow::Close => Policy::Keep,
            Slow::DropOldest => Policy::DropOldest,
            // In the place of an older one it might come before a list of who is there, which is older than it.
            Slow::Latest if publication.moved.is_some() => Policy::DropOldest,
            Slow::Latest => {
                let (channel, key) = (publication.channel.clone(), publication.options.key.clone());
                Policy::Latest(Rc::new(Subject { channel, key }))
            }
        };
        let (is_for_crowd, mut scripted) = (members.len() > CROWD, Vec::new());
        for &member in members {
            if muted.is_some_and(|muted| muted.contains_key(&member)) {
                continue;
            }
            match conns.get(member as usize) {
                Some(conn) if publication.options.except.contains(conn.client_id) => {}
                Some(conn) if conn.framing == Framing::Script => scripted.push(conn.clone()),
                conn => put(conn, &policy, is_for_crowd),
            }
        }
        (scripted, policy)
    }

    /// Tells what a publish has reached, or leaves the rest of it to scripts. Returns for how many connections it was.
    fn end_fan_out(&self, publication: &Publication, ack: Ack, reach: Reach, (scripted, policy): Rest) -> usize {
        let Reach { counts, streams } = reach;
        for (framing, reached) in
            [(Framing::WebSocket(None), counts.reached - streams), (Framing::EventStream, streams)]
        {
            framing.counts(&self.counts).sent.add(reached);
            self.count_delivered(framing, reached, &ack);
        }
        if self.tap.is_on() {
            self.see_publication(publication, (counts.reached + scripted.len() as u64, counts.failed));
        }
        match scripted.is_empty() {
            true => ack.settle(counts),
            false => self.encode_later(Encoding::new(scripted, publication.message.clone(), policy, ack, counts)),
        }
        (counts.reached + counts.failed) as usize
    }

    /// The frame of a message for a connection, which must not be one of a script.
    fn frame_for(&self, conn: &Conn, frames: &mut MessageFrames<'_>) -> Frame {
        match conn.framing {
            Framing::WebSocket(Some(window)) => self.compressed(conn, window, frames),
            Framing::EventStream => frames.event().clone(),
            Framing::WebSocket(None) | Framing::Script => frames.plain().clone(),
        }
    }

    /// Counts so many messages that a connection has taken, or not.
    fn count_fan_out(&self, conn: &Conn, reached: bool, messages: u32) {
        match reached {
            true => conn.traffic.count_sent(messages),
            false => (0..messages).for_each(|_| self.count_dropped(conn)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ChannelRule;
    use crate::hub::{Except, Hub, Moved, PendingCounts, PublishOptions};
    use crate::ids::{ClientId, NodeNumber, WorkerId};
    use crate::message::{Channel, Message};

    fn channel(name: &str) -> Channel {
        Channel::parse(name.as_bytes()).unwrap()
    }

    /// With members of channels.
    fn shard() -> Shard {
        let shard = Shard::new(WorkerId(0), Arc::new(Hub::new(NodeNumber::new(1).unwrap(), 1)));
        shard.set_rules(&[ChannelRule { slow: Slow::Latest, ..ChannelRule::of("latest") }]);
        for member in 0..MEMBERS as u32 {
            for name in ["room", "latest"] {
                shard.topics.borrow_mut().insert(member, &channel(name));
            }
            if member > 0 {
                shard.topics.borrow_mut().insert(member, &channel("few"));
            }
        }
        shard
    }

    fn publication(name: &str, length: usize) -> Publication {
        Publication::new(channel(name), Message::text("x".repeat(length).as_str()))
    }

    fn companions(shard: &Shard, first: Publication, behind: impl IntoIterator<Item = Publication>) -> usize {
        let delivery = |publication| Delivery::Publish(Arc::new(publication), PendingCounts::ignored().ack());
        shard.companions(&first, &behind.into_iter().map(delivery).collect())
    }

    #[test]
    fn plain_publishes_to_one_channel_go_together() {
        let shard = shard();
        let room = |length| publication("room", length);
        let all_but = |n| {
            let except = Except::new([ClientId::new(n).unwrap()]);
            room(1).with(PublishOptions { except, ..PublishOptions::default() })
        };
        let moved = || Publication { moved: Some(Moved::Came), ..room(1) };
        assert_eq!(companions(&shard, room(1), []), 0);
        assert_eq!(companions(&shard, room(1), [room(1), room(2), room(3)]), 3);
        assert_eq!(companions(&shard, room(1), [room(1), publication("few", 1), room(3)]), 1);
        assert_eq!(companions(&shard, room(1), [room(1), all_but(5), room(3)]), 1);
        assert_eq!(companions(&shard, room(1), [moved(), room(3)]), 0);
        assert_eq!(companions(&shard, all_but(5), [room(1)]), 0);
        assert_eq!(companions(&shard, moved(), [room(1)]), 0);
        // Of no more than a piece holds.
        let half = PIECE / 2 - FRAME;
        assert_eq!(companions(&shard, room(half), [room(half / 2), room(half / 2 - FRAME), room(0)]), 2);
        assert_eq!(companions(&shard, room(PIECE), [room(0)]), 0);
        assert_eq!(companions(&shard, room(0), (0..1000).map(|_| room(0))), MESSAGES - 1);
    }

    #[test]
    fn a_channel_with_few_members_or_a_policy_gets_each_for_itself() {
        let shard = shard();
        for name in ["few", "latest", "nobody"] {
            assert_eq!(companions(&shard, publication(name, 1), [publication(name, 1)]), 0, "{name}");
        }
    }

    #[test]
    fn a_piece_for_very_many_is_small_while_others_wait_to_be_written() {
        assert_eq!(most_bytes(20, false), PIECE);
        assert_eq!((most_bytes(AT_ONCE / 1000, false), most_bytes(AT_ONCE / 1000, true)), (1000, PIECE));
    }
}
