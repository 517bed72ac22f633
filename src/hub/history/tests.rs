//! Tests of `history`: what is kept, for how long, and what goes when there is no room.

use super::*;
use crate::config::HistoryRule;
use std::time::Duration;

fn channel(name: &str) -> Channel {
    Channel::parse(name.as_bytes()).unwrap()
}

fn rule(size: usize, age: u64) -> ChannelRule {
    ChannelRule { history: HistoryRule { size, age: Duration::from_millis(age) }, ..ChannelRule::of("c") }
}

fn history(rule: &ChannelRule) -> History {
    let history = History::default();
    history.set_rules(std::slice::from_ref(rule));
    history
}

fn publish(history: &History, name: &str, bytes: usize, now: u64) -> Position {
    let channel = channel(name);
    let rule = history.rule_of(name).unwrap();
    history.order((&channel, &rule), (Message::binary(vec![0; bytes]), 3, now), |position, _| position)
}

fn since(history: &History, name: &str, position: Position, now: u64) -> At {
    let rule = history.rule_of(name).unwrap();
    let most = Most { messages: 1000, bytes: usize::MAX };
    history.read((&channel(name), &rule), (From::Since(position, None), most), (3, now), |at, kept| {
        assert_eq!(at.count, kept.len());
        at
    })
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
