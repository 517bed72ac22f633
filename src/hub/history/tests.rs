//! Tests of `history`: what is kept, for how long, and what goes when there is no room.

mod nodes;

use super::*;
use crate::config::HistoryRule;
use crate::message::Message;
use std::time::Duration;

fn channel(name: &str) -> Channel {
    Channel::parse(name.as_bytes()).unwrap()
}

fn rule(size: usize, age: u64) -> ChannelRule {
    let history = HistoryRule { size, age: Duration::from_millis(age) };
    ChannelRule { history, envelope: crate::config::Envelope::Json, ..ChannelRule::of("c") }
}

fn history(rule: &ChannelRule) -> History {
    let history = History::default();
    history.set_rules(std::slice::from_ref(rule));
    history
}

fn publish(history: &History, name: &str, bytes: usize, now: u64) -> Position {
    let channel = channel(name);
    let rule = history.rule_of(name).unwrap();
    history.order((&channel, &rule), (Message::binary(vec![0; bytes]), 3, now), None, |placed, _| placed.at).unwrap()
}

fn since(history: &History, name: &str, position: Position, now: u64) -> At {
    let rule = history.rule_of(name).unwrap();
    let most = Most { messages: 1000, bytes: usize::MAX };
    let at = history.read((&channel(name), &rule), (From::Since(position, None), most), (3, now), |at, kept| {
        assert_eq!(at.count, kept.len());
        at
    });
    at.unwrap()
}

#[test]
fn only_channels_whose_rule_says_so_are_looked_at() {
    let history = History::default();
    assert!(history.rule_of("c").is_none());
    history.set_rules(&[ChannelRule::of("a"), rule(5, 0)]);
    assert!(history.rule_of("c:1").is_some() && history.rule_of("a").is_none() && history.rule_of("b").is_none());
}

#[test]
fn messages_are_kept_until_they_are_too_many_or_too_old() {
    let history = history(&rule(3, 100));
    let first = publish(&history, "c", 1, EPOCH);
    assert_eq!((first.offset, first.term & 1023), (1, 3));
    for at in [10, 20] {
        publish(&history, "c", 1, EPOCH + at);
    }
    let found = since(&history, "c", first, EPOCH + 30);
    assert_eq!((found.recovered, found.count, found.position.offset), (true, 2, 3));
    publish(&history, "c", 1, EPOCH + 40);
    let before = Position { offset: 0, ..first };
    assert_eq!(
        (since(&history, "c", before, EPOCH + 40).recovered, since(&history, "c", first, EPOCH + 40).count),
        (false, 3)
    );
    assert_eq!(since(&history, "c", first, EPOCH + 115).count, 2);
    // A timer forgets them, too.
    let bytes = history.figures().bytes;
    history.sweep(EPOCH + 1000);
    assert!(history.figures().bytes < bytes);
    let last = Position { offset: 4, ..first };
    assert!(since(&history, "c", last, EPOCH + 1000).recovered, "nothing is missing");
}

#[test]
fn the_channel_that_was_used_the_longest_ago_loses_its_log() {
    let history = history(&rule(100, 0));
    let a = publish(&history, "ca", 1000, EPOCH);
    let b = publish(&history, "cb", 1000, EPOCH);
    let full = history.figures().bytes;
    history.bound(full);
    // `ca` is used, so `cb` goes.
    assert!(since(&history, "ca", a, EPOCH).recovered);
    publish(&history, "cc", 1000, EPOCH);
    assert_eq!(history.figures(), Figures { bytes: full, channels: 2, evicted: 1 });
    assert!(since(&history, "ca", a, EPOCH).recovered);
    let new = publish(&history, "cb", 1, EPOCH);
    assert!(new.term > b.term && new.offset == 1);
    assert!(!since(&history, "cb", b, EPOCH).recovered);
    // One that is too large by itself keeps its newest.
    for _ in 0..10 {
        publish(&history, "ca", 1000, EPOCH);
    }
    let figures = history.figures();
    assert!(figures.bytes <= full && figures.channels == 1, "{figures:?}");
    let last = publish(&history, "ca", full + 1, EPOCH);
    let before = Position { offset: last.offset - 1, ..last };
    assert_eq!((since(&history, "ca", before, EPOCH).recovered, history.figures().bytes), (false, EMPTY + 2));
    history.set_rules(&[]);
    assert_eq!((history.figures().bytes, history.figures().channels), (0, 0));
}

#[test]
fn a_term_is_never_given_twice() {
    let history = History::default();
    let mut last = 0;
    for (now, after) in [(EPOCH + 5, 0), (EPOCH + 5, 0), (EPOCH, 0), (EPOCH + 9, 0), (EPOCH, 1 << 40)] {
        let term = history.new_term(3, now, after);
        assert!(term > last && term > after);
        last = term;
    }
}

/// What one node has of a channel goes to another.
#[test]
fn the_log_goes_to_the_node_that_leads() {
    let [a, b, c] = [(); 3].map(|()| history(&rule(100, 0)));
    let (name, rule) = (channel("c"), rule(100, 0));
    for history in [&a, &b, &c] {
        history.share();
        assert!(!history.leads(&name));
    }
    let ignore = |_: &mut WorkerSet, _: Position, _: bool, _: &[Kept]| {};
    a.lead((&name, &rule), Vec::new(), (1, EPOCH), ignore);
    let order = |history: &History, text: &str, replica| {
        let message = (Message::text(text), 1, EPOCH);
        history.order((&name, &rule), message, replica, |placed, _| (placed.at, placed.copy))
    };
    assert!(order(&b, "x", None).is_none(), "it does not lead");
    let (first, copy) = order(&a, "1", Some((3, 1))).unwrap();
    assert_eq!(copy.as_ref().map(|copy| copy.head), Some(0));
    c.keep_copy(&name, copy.unwrap(), (1, 1), (3, EPOCH));
    let follow = |history: &History, at: Position, text: &str| {
        let keep = Some((Message::text(text).into(), EPOCH));
        let followed = history.follow((&name, &rule), (at, &[], (1, 1)), keep, (3, EPOCH, 1000), |_| true);
        (followed.follow, followed.is_kept)
    };
    assert_eq!(follow(&c, first, "1"), (Follow::Next, true));
    let (second, copy) = order(&a, "2", Some((3, 1))).unwrap();
    assert!(copy.is_none(), "it has one");
    assert_eq!((follow(&c, second, "2"), follow(&c, second, "2")), ((Follow::Next, true), (Follow::Known, true)));
    let third = Position { offset: second.offset + 2, ..second };
    // The leader is gone: the copy has all. A reader misses nothing.
    let (copy, _) = c.give(&name).unwrap();
    assert!(copy.complete && c.give(&name).is_none());
    b.lead((&name, &rule), vec![copy], (2, EPOCH), ignore);
    let read = |history: &History, from| {
        let most = Most { messages: 100, bytes: 1000 };
        history.read((&name, &rule), (From::Since(from, None), most), (2, EPOCH), |at, _| (at.recovered, at.count))
    };
    assert_eq!((read(&b, first), read(&c, first)), (Some((true, 1)), None));
    // One that follows asks for what it has missed.
    let later = order(&b, "3", None).unwrap().0;
    assert!(later.term > second.term && later.offset == 3);
    assert_eq!(c.cursor(&name), Some(second));
    let next = c.follow((&name, &rule), (later, &[], (2, 1)), None, (3, EPOCH, 1000), |_| true);
    assert_eq!(next, Followed { follow: Follow::Ask(second), is_kept: true, beside: None });
    let mut reading = None;
    let nothing = (From::Last(0), Most { messages: 0, bytes: 0 }, false);
    b.read_for((&name, &rule), nothing, (Some(second), 2, EPOCH), |read| reading = Some(read)).unwrap();
    let reading = reading.unwrap();
    assert_eq!((reading.is_whole, reading.missed.len(), reading.head), (true, 1, later));
    let mut delivered = 0;
    assert!(c.catch_up_to(&name, (Some(second), &reading), (3, EPOCH), |_, is_whole, missed| {
        delivered = missed.len();
        is_whole
    }));
    assert_eq!((delivered, c.cursor(&name)), (1, Some(later)));
    // The one before still leads in its own eyes: nobody follows it.
    let stale = c.follow((&name, &rule), (third, &[], (1, 1)), None, (3, EPOCH, 1000), |_| true);
    assert_eq!(stale.follow, Follow::Stale(later));
    assert_eq!(a.outdated(&name, later, false), Some(second));
    assert!(!a.leads(&name));
}

/// When another node is the next in line, the one before has nothing that could pass for the whole.
#[test]
fn who_keeps_the_copy_no_more_has_none() {
    let [a, b, c] = [(); 3].map(|()| history(&rule(100, 0)));
    let (name, rule) = (channel("c"), rule(100, 0));
    [&a, &b, &c].into_iter().for_each(History::share);
    a.lead((&name, &rule), Vec::new(), (1, EPOCH), |_, _, _, _| {});
    let order = |replica| {
        let message = (Message::text("x"), 1, EPOCH);
        a.order((&name, &rule), message, replica, |placed, _| (placed.copy, placed.released)).unwrap()
    };
    let (copy, released) = order(Some((2, 1)));
    assert!(released.is_empty(), "nobody had one");
    b.keep_copy(&name, copy.unwrap(), (1, 1), (2, EPOCH));
    let (copy, released) = order(Some((3, 1)));
    assert_eq!(released, [2]);
    c.keep_copy(&name, copy.unwrap(), (1, 1), (3, EPOCH));
    // Only the node that has sent the copy can say so.
    b.release(&name, 3);
    let (stale, _) = b.give(&name).unwrap();
    assert!(stale.complete, "it does not know of the message that it lacks");
    b.keep_copy(&name, stale, (1, 1), (2, EPOCH));
    b.release(&name, 1);
    assert!(b.give(&name).is_none());
    let (copy, released) = order(Some((3, 2)));
    assert!(copy.is_some(), "the same node, on a new stream");
    // Until it has said so: what was published first may be under way, and this is not answered before, either.
    assert_eq!(released, [2]);
    assert!(!a.lacks(&name, 2), "it was not to have one");
    assert_eq!(order(None), (None, vec![3]), "there is no other node any more");
    assert!(order(Some((3, 3))).1.is_empty(), "it has one again");
}

/// There is no room: a node keeps nothing, but knows how far its connections are, and gets a copy again.
#[test]
fn a_node_without_room_for_a_copy_gets_another_one_later() {
    let [a, b] = [(); 2].map(|()| history(&rule(100, 0)));
    let (name, rule) = (channel("c"), rule(100, 0));
    [&a, &b].into_iter().for_each(History::share);
    a.lead((&name, &rule), Vec::new(), (1, EPOCH), |_, _, _, _| {});
    let order = || {
        let message = (Message::text("x"), 1, EPOCH);
        a.order((&name, &rule), message, Some((2, 1)), |placed, _| (placed.at, placed.copy)).unwrap()
    };
    let follow = |at: Position| {
        let keep = Some((Message::text("x").into(), EPOCH));
        let followed = b.follow((&name, &rule), (at, &[], (1, 1)), keep, (2, EPOCH, 1000), |_| true);
        (followed.follow, followed.is_kept)
    };
    let (first, copy) = order();
    b.keep_copy(&name, copy.unwrap(), (1, 1), (2, EPOCH));
    assert_eq!(follow(first), (Follow::Next, true));
    publish_elsewhere(&b);
    b.bound(EMPTY);
    assert_eq!((b.cursor(&name), b.figures().evicted), (Some(first), 1));
    let (second, copy) = order();
    assert_eq!((copy, follow(second)), (None, (Follow::Next, false)));
    b.bound(1 << 20);
    a.lacks(&name, 7);
    assert_eq!(order().1, None, "another node lacks something");
    a.lacks(&name, 2);
    let (last, copy) = order();
    b.keep_copy(&name, copy.unwrap(), (1, 1), (2, EPOCH));
    let at = b.cursor(&name).unwrap();
    assert_eq!((at, follow(last)), (second, (Follow::Ask(second), true)), "it has that in its copy");
    b.unfollow("c");
    assert!(b.cursor(&name).is_none() && b.give(&name).unwrap().0.head() == last);
}

/// Another channel is used.
fn publish_elsewhere(history: &History) {
    let rule = history.rule_of("c:other").unwrap();
    history.lead((&channel("c:other"), &rule), Vec::new(), (2, EPOCH), |_, _, _, _| {});
    publish(history, "c:other", 1, EPOCH);
}

#[test]
fn a_log_that_may_lack_something_begins_anew() {
    let (a, name, rule) = (history(&rule(100, 0)), channel("c"), rule(100, 0));
    a.share();
    a.lead((&name, &rule), Vec::new(), (1, EPOCH), |_, _, _, _| {});
    let order =
        |text: &str| a.order((&name, &rule), (Message::text(text), 1, EPOCH), None, |placed, _| placed.at).unwrap();
    let before = order("1");
    // Another node may have led it for a while.
    assert_eq!(a.contest(|_| Some(2)), [(name.clone(), before)]);
    assert!(!a.leads(&name) && a.cursor(&name) == Some(before));
    let mut missed = None;
    a.lead((&name, &rule), Vec::new(), (1, EPOCH), |_, _, is_whole, kept| missed = Some((is_whole, kept.len())));
    assert_eq!(missed, Some((false, 0)), "its connections are told");
    assert!(order("2").term > before.term);
    let most = Most { messages: 100, bytes: 1000 };
    let at = a.read((&name, &rule), (From::Since(before, None), most), (1, EPOCH), |at, _| at).unwrap();
    assert!(!at.recovered);
}
