//! What is kept of a channel, and what readers get of it.

use super::*;
use crate::message::Message;
use proptest::prelude::*;

const ALL: Most = Most { messages: usize::MAX, bytes: usize::MAX };

fn texts(kept: &[Kept]) -> Vec<String> {
    kept.iter().map(|kept| String::from_utf8(kept.message.data().to_vec()).unwrap()).collect()
}

fn filled(term: u64, count: u64, most: usize) -> Log {
    let mut log = Log::new(term);
    for n in 1..=count {
        log.append(Some(Message::text(n.to_string()).into()), n);
        log.trim(most, 0);
    }
    log
}

fn since(term: u64, offset: u64) -> From {
    From::Since(Position { term, offset }, None)
}

#[test]
fn a_reader_gets_what_came_after_its_position() {
    let log = filled(7, 10, 4);
    for (from, want, recovered) in [
        (From::Last(2), &["9", "10"][..], true),
        (From::Last(9), &["7", "8", "9", "10"], true),
        (since(7, 10), &[], true),
        (since(7, 8), &["9", "10"], true),
        (since(7, 6), &["7", "8", "9", "10"], true),
        (since(7, 5), &["7", "8", "9", "10"], false),
        // Beyond what there is, and of other terms.
        (since(7, 11), &[], false),
        (since(9, 3), &[], false),
        (since(3, 3), &["7", "8", "9", "10"], false),
        (From::Since(Position { term: 9, offset: 3 }, Some(1)), &["10"], false),
        (From::Since(Position { term: 7, offset: 9 }, Some(3)), &["10"], true),
    ] {
        let (at, kept) = log.read(from, ALL);
        assert_eq!(
            (texts(&kept), at.recovered, at.count),
            (want.iter().map(ToString::to_string).collect(), recovered, want.len()),
            "{from:?}"
        );
        let beyond = matches!(from, From::Since(position, _) if position > log.head());
        assert!(beyond || at.position == log.head(), "{from:?}");
    }
}

#[test]
fn what_was_added_up_keeps_its_count_and_takes_no_more_room() {
    assert_eq!(size_of::<Kept>(), size_of::<(Position, u64, Message)>());
    let mut log = Log::new(7);
    for count in [None, Some(5)] {
        log.append(Some(Counted::new(Message::text("x"), count)), 1);
    }
    let log = Log::of(log.copy()).unwrap();
    let counts = |kept: Vec<Kept>| kept.iter().map(|kept| kept.message.count()).collect::<Vec<_>>();
    assert_eq!(counts(log.read(since(7, 0), ALL).1), [None, Some(5)]);
    assert_eq!(counts(log.page(None, ALL).1), [None, Some(5)]);
}

#[test]
fn what_is_more_than_a_reader_takes_is_missing() {
    let log = filled(7, 10, 10);
    let (at, kept) = log.read(since(7, 2), Most { messages: 3, bytes: 100 });
    assert_eq!((texts(&kept), at.recovered), (vec!["8".into(), "9".into(), "10".into()], false));
    let (at, kept) = log.read(since(7, 2), Most { messages: 100, bytes: 3 });
    assert_eq!((texts(&kept), at.recovered), (vec!["9".into(), "10".into()], false));
}

#[test]
fn pages_are_the_whole() {
    let log = filled(7, 10, 8);
    let (mut position, mut seen) = (Position { term: 7, offset: 3 }, Vec::new());
    loop {
        let (at, page) = log.page(Some(position), Most { messages: 3, bytes: 2 });
        assert!(at.recovered);
        if page.is_empty() {
            break;
        }
        seen.extend(texts(&page));
        position = at.position;
    }
    assert_eq!((seen, position), ((4..=10).map(|n| n.to_string()).collect(), log.head()));
    let (at, page) = log.page(None, Most { messages: 2, bytes: 100 });
    assert_eq!((texts(&page), at.position), (vec!["9".into(), "10".into()], log.head()));
}

#[test]
fn a_later_term_goes_on_where_the_one_before_has_ended() {
    let mut log = filled(7, 5, 10);
    log.go_on(9);
    log.append(Some(Message::text("6").into()), 6);
    let log = Log::of(log.copy()).unwrap();
    let read = |from| {
        let (at, kept) = log.read(from, ALL);
        (texts(&kept).join(" "), at.recovered)
    };
    assert_eq!(read(since(7, 4)), ("5 6".into(), true));
    assert_eq!(read(since(7, 5)), ("6".into(), true));
    assert_eq!(read(since(9, 5)), ("6".into(), true));
    assert_eq!(read(since(9, 6)), (String::new(), true));
    // Another node has given more offsets in the first term: what it has read there is not known.
    assert_eq!(read(since(7, 6)), (String::new(), false));
    assert_eq!(read(since(8, 6)), ("6".into(), false));
    let copy = log.copy();
    assert_eq!((log.ended_before_last(), filled(7, 1, 5).ended_before_last()), (vec![7], vec![]));
    let extends = |term, offset| copy.extends(Position { term, offset });
    assert!(extends(7, 5) && extends(9, 6) && !extends(7, 6) && !extends(9, 7) && !extends(8, 1));
}

#[test]
fn what_is_no_log_is_not_taken() {
    let good = filled(7, 3, 2).copy();
    assert!(Log::of(good.clone()).is_some());
    for wrong in [
        LogCopy { terms: Vec::new(), ..good.clone() },
        LogCopy { terms: vec![(7, 1), (6, 2)], ..good.clone() },
        LogCopy { terms: vec![(7, 9)], ..good.clone() },
        LogCopy { head: 4, ..good.clone() },
        LogCopy { head: 0, ..good.clone() },
        LogCopy { head: u64::MAX, ..good.clone() },
    ] {
        assert!(Log::of(wrong.clone()).is_none(), "{wrong:?}");
    }
}

#[test]
fn what_is_not_kept_leaves_no_gap() {
    let mut log = filled(7, 3, 10);
    log.append(None, 4);
    assert_eq!(
        log.read(since(7, 3), ALL).0,
        At { position: Position { term: 7, offset: 4 }, recovered: false, count: 0 }
    );
    log.append(Some(Message::text("5").into()), 5);
    let (at, kept) = log.read(since(7, 3), ALL);
    assert_eq!((texts(&kept), at.recovered), (vec!["5".into()], false));
    while log.forget_first() {}
    assert_eq!(log.bytes(), LOG);
}

proptest! {
    /// Whatever is trimmed, a reader that reads again and again gets each message once, in order, and none is missing
    /// that it is not told of.
    #[test]
    fn readers_miss_nothing_unknowingly(steps in prop::collection::vec((0..4u8, 1..5usize), 0..60)) {
        let mut log = Log::new(7);
        let (mut position, mut next) = (log.head(), 1);
        for (step, number) in steps {
            match step {
                0 | 1 => for _ in 0..number {
                    let offset = log.head().offset + 1;
                    log.append(Some(Message::text(offset.to_string()).into()), offset);
                },
                2 => log.trim(number, 0),
                _ => {
                    let (at, kept) = log.read(From::Since(position, None), ALL);
                    let numbers: Vec<u64> = texts(&kept).iter().map(|text| text.parse().unwrap()).collect();
                    let first = numbers.first().copied().unwrap_or(at.position.offset + 1);
                    prop_assert_eq!(at.recovered, first == next);
                    prop_assert_eq!(numbers, (first..=at.position.offset).collect::<Vec<_>>());
                    position = at.position;
                    next = position.offset + 1;
                }
            }
        }
    }
}
