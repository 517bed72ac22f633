//! What a node delivers of a channel that another one leads, and what its connections are told.

use super::*;
use crate::config::HistoryRule;
use crate::hub::history::{At, Followed};
use crate::hub::mailbox::MAILBOX_BYTES;
use crate::hub::{Delivery, Joined};
use crate::ids::{NodeNumber, WorkerId};
use std::collections::VecDeque;
use std::task::Waker;
use tokio::sync::oneshot;

const TERM: u64 = 1 << 40;

fn at(offset: u64) -> Position {
    Position { term: TERM, offset }
}

fn kept(offset: u64) -> Kept {
    Kept { at: at(offset), when: now(), message: Message::text(offset.to_string()).into() }
}

struct Node {
    hub: Hub,
    channel: Channel,
    rule: ChannelRule,
}

/// A node that follows a channel, with a connection in each of two workers.
fn node() -> Node {
    let history = HistoryRule { size: 100, age: std::time::Duration::ZERO };
    let rule = ChannelRule { history, envelope: Envelope::Json, ..ChannelRule::of("c") };
    let hub = Hub::new(NodeNumber::new(7).unwrap(), 2);
    hub.history().set_rules(std::slice::from_ref(&rule));
    hub.history().share();
    let channel = Channel::parse(b"c").unwrap();
    assert_eq!(hub.join(&channel, WorkerId(0)), Joined::First);
    hub.join(&channel, WorkerId(1));
    Node { hub, channel, rule }
}

impl Node {
    /// The next message of the node that leads: what comes of it, and its counts once they are complete.
    fn follow(&self, position: Position, keep: bool) -> (Followed, oneshot::Receiver<Counts>) {
        let (pending, counts) = PendingCounts::new();
        let publication = Publication::new(self.channel.clone(), Message::text(position.offset.to_string()));
        let place = (position, now(), keep);
        let behind = WorkerSet::default();
        (self.hub.follow(publication, &self.rule, place, (&[], (1, 1)), (&pending, &behind)), counts)
    }

    fn catch_up_to(&self, asked: u64, (is_whole, missed): (bool, Vec<Kept>)) -> bool {
        let head = missed.last().map_or(at(asked), |last| last.at);
        let reader = At { position: head, recovered: true, count: 0 };
        let reading = Reading { head, at: reader, kept: Vec::new(), is_whole, missed };
        self.hub.catch_up_to((&self.channel, &self.rule), Some(at(asked)), &reading)
    }

    /// What a worker finds in its mailbox: the offset of each message, or `gap` with that of the position to go on from.
    fn taken(&self, worker: u16) -> Vec<String> {
        let mut taken = VecDeque::new();
        self.hub.mailbox(WorkerId(worker)).take(&mut taken, 0, Waker::noop());
        let shown = |delivery: Delivery| {
            let Delivery::Publish(publication, ack) = delivery else { panic!("a message") };
            ack.settle(Counts { reached: 1, ..Counts::default() });
            let envelope: serde_json::Value = serde_json::from_slice(publication.message.data()).unwrap();
            let position = Position::parse(envelope["p"].as_str().unwrap().as_bytes()).unwrap();
            assert_eq!(position.term, TERM);
            match envelope["d"].as_str() {
                Some(data) => data.to_owned(),
                None => format!("gap {}", position.offset),
            }
        };
        taken.into_iter().map(shown).collect()
    }

    /// The first worker is stuck, and has no room.
    fn stall(&self) {
        let publication = Publication::new(self.channel.clone(), Message::binary(vec![0; 2 * MAILBOX_BYTES]));
        let ack = PendingCounts::ignored().ack();
        assert!(self.hub.mailbox(WorkerId(0)).force(Delivery::Publish(Arc::new(publication), ack)));
        self.hub.stall(WorkerId(0));
    }

    /// It goes on.
    fn resume(&self) {
        let mut taken = VecDeque::new();
        self.hub.mailbox(WorkerId(0)).take(&mut taken, 0, Waker::noop());
        assert_eq!(taken.len(), 1);
        self.hub.resume(WorkerId(0));
    }
}

#[test]
fn connections_are_told_if_what_they_have_missed_is_not_all() {
    let node = node();
    assert_eq!(node.follow(at(1), false).0.follow, Follow::Next);
    assert_eq!(node.follow(at(3), false).0.follow, Follow::Ask(at(1)));
    assert!(node.catch_up_to(1, (true, vec![kept(2), kept(3)])));
    assert_eq!(node.taken(0), ["1", "2", "3"]);
    assert!(node.catch_up_to(3, (false, vec![kept(7), kept(8)])));
    assert_eq!(node.taken(0), ["gap 6", "7", "8"]);
    assert!(node.catch_up_to(8, (false, Vec::new())));
    assert_eq!((node.taken(0), node.taken(1).len()), (Vec::new(), 6), "it is there already");
}

/// A worker that is stuck gets nothing for which there is no room: its connections are told when it goes on.
#[test]
fn connections_of_a_worker_that_had_no_room_are_told_before_the_next_message() {
    let node = node();
    node.follow(at(1), false);
    assert_eq!((node.taken(0), node.taken(1)), (vec!["1".to_owned()], vec!["1".to_owned()]));
    node.stall();
    node.follow(at(2), false);
    node.resume();
    node.follow(at(3), false);
    node.follow(at(4), false);
    assert_eq!(node.taken(0), ["gap 2", "3", "4"]);
    // What is made good may find no room, either; nor may what tells of a gap.
    for is_whole in [true, false] {
        let asked = if is_whole { 4 } else { 7 };
        node.stall();
        assert!(node.catch_up_to(asked, (is_whole, vec![kept(asked + 1)])));
        node.resume();
        node.follow(at(asked + 2), false);
        node.follow(at(asked + 3), false);
        let numbers = [asked + 2, asked + 3].map(|offset| offset.to_string());
        assert_eq!(node.taken(0), [&[format!("gap {}", asked + 1)][..], &numbers].concat(), "{is_whole}");
    }
    assert_eq!(node.taken(1), ["2", "3", "4", "5", "6", "7", "gap 7", "8", "9", "10"]);
}

/// A publisher is told that not all is well: the copy is not whole, or another node leads.
#[test]
fn a_message_that_is_not_kept_or_refused_counts_as_not_answered() {
    let node = node();
    let unanswered = |(followed, mut counts): (Followed, oneshot::Receiver<Counts>)| {
        (0..2).for_each(|worker| drop(node.taken(worker)));
        (followed.follow, counts.try_recv().unwrap().unanswered)
    };
    assert_eq!(unanswered(node.follow(at(1), false)), (Follow::Next, 0));
    assert_eq!(unanswered(node.follow(at(2), true)), (Follow::Next, 1), "it has no copy");
    let earlier = Position { term: TERM - 1, offset: 9 };
    assert_eq!(unanswered(node.follow(earlier, false)), (Follow::Stale(at(2)), 1));
    let copy = LogCopy { terms: vec![(TERM, 1)], head: 2, kept: vec![kept(1), kept(2)], complete: true };
    assert_eq!(node.hub.history().keep_copy(&node.channel, copy, (1, 1), (7, now())), None);
    assert_eq!(unanswered(node.follow(at(3), true)), (Follow::Next, 0));
    assert_eq!(unanswered(node.follow(earlier, true)), (Follow::Stale(at(3)), 1));
}
