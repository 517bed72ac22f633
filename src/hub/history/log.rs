//! What is kept of one channel's messages: the newest, without a gap, in their order.

use std::collections::VecDeque;

use super::position::Position;
use crate::message::Counted;

/// What a message takes besides its bytes, roughly.
const MESSAGE: usize = 96;
/// The terms before the present one that are remembered, besides those of messages that are kept.
const TERMS: usize = 16;
/// No more terms are remembered in any case.
const MOST_TERMS: usize = 256;
/// No more bytes of messages go to another node as a copy: the newest.
const COPY: usize = 32 << 20;
/// What a log takes without messages, roughly; its channel's name counts besides.
pub(super) const LOG: usize = 400;

/// A message that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where it stands.
    pub at: Position,
    /// When it was published, in milliseconds of Unix time.
    pub when: u64,
    /// The message as it was published, with the count of those that were added up.
    pub message: Counted,
}

/// What a reader wants of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// So many of the newest messages.
    Last(usize),
    /// What came after a position; with a number, so many of the newest messages if that can't be complete.
    Since(Position, Option<usize>),
}

/// How much a reader takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// Messages.
    pub messages: usize,
    /// Bytes of their data.
    pub bytes: usize,
}

/// Where a reader of a channel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// The position behind all that it was given.
    pub position: Position,
    /// Nothing is missing.
    pub recovered: bool,
    /// The messages that it was given.
    pub count: usize,
}

/// A log as it goes to another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogCopy {
    /// Its terms, oldest first, each with its first offset.
    pub terms: Vec<(u64, u64)>,
    /// The offset of the last message.
    pub head: u64,
    /// The messages, the newest of them.
    pub kept: Vec<Kept>,
    /// It has all that publishers were told is published.
    pub complete: bool,
}

impl LogCopy {
    /// Where its last message stands.
    pub fn head(&self) -> Position {
        let (term, _) = self.terms.last().copied().unwrap_or_default();
        Position { term, offset: self.head }
    }

    /// Where the last message stands that it has, or had. None: it has never had one.
    pub(super) fn last(&self) -> Option<Position> {
        last(self.terms.iter(), self.head)
    }

    /// Whether it has all that was ordered up to a position, or had it once.
    pub fn extends(&self, other: Position) -> bool {
        let Some(at) = self.terms.iter().position(|(term, _)| *term == other.term) else { return false };
        other.offset <= self.terms.get(at + 1).map_or(self.head, |(_, first)| first - 1)
    }
}

/// The position of the last message; `head` is its offset. In a term that begins behind it nothing was ordered.
fn last<'a>(mut terms: impl DoubleEndedIterator<Item = &'a (u64, u64)>, head: u64) -> Option<Position> {
    let (term, _) = terms.rfind(|(_, first)| *first <= head)?;
    Some(Position { term: *term, offset: head })
}

/// A log. See the module.
#[derive(Debug)]
pub(super) struct Log {
    /// Its terms, oldest first, each with its first offset. Never empty.
    terms: VecDeque<(u64, u64)>,
    /// The offset of the last message.
    head: u64,
    /// The last of them has the offset `head`.
    kept: VecDeque<Kept>,
    bytes: usize,
}

impl Log {
    /// An empty log of that term.
    pub(super) fn new(term: u64) -> Log {
        Log { terms: VecDeque::from([(term, 1)]), head: 0, kept: VecDeque::new(), bytes: LOG }
    }

    /// One of which nothing is known.
    pub(super) fn unused() -> Log {
        Log::new(0)
    }

    /// Whether nothing is known of it.
    pub(super) fn is_unused(&self) -> bool {
        self.head().term == 0
    }

    /// Goes on under another term, with all that is kept.
    pub(super) fn go_on(&mut self, term: u64) {
        self.terms.push_back((term, self.head + 1));
        let oldest = self.head + 1 - self.kept.len() as u64;
        // The second one begins before what is kept: nothing of the first is.
        while self.terms.len() > MOST_TERMS || (self.terms.len() > TERMS && self.terms[1].1 <= oldest) {
            self.terms.pop_front();
        }
    }

    /// The earlier terms that have ended just before its last message: a reader that is at their end has all before that.
    pub(super) fn ended_before_last(&self) -> Vec<u64> {
        let mut ended = Vec::new();
        let mut terms = self.terms.iter().rev();
        if terms.next().is_none_or(|(_, first)| *first != self.head) {
            return ended;
        }
        for (term, first) in terms {
            ended.push(*term);
            if *first < self.head || ended.len() == TERMS {
                break;
            }
        }
        ended
    }

    /// What another node gets of it.
    pub(super) fn copy(&self) -> LogCopy {
        let (_, kept) = self.read(From::Last(self.kept.len()), Most { messages: usize::MAX, bytes: COPY });
        LogCopy { terms: self.terms.iter().copied().collect(), head: self.head, kept, complete: true }
    }

    /// The log that another node had. None: it is none.
    pub(super) fn of(copy: LogCopy) -> Option<Log> {
        let LogCopy { terms, head, kept, .. } = copy;
        let rises = terms.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let first = head.checked_add(1)?.checked_sub(kept.len() as u64)?;
        let in_order = kept.iter().zip(first..).all(|(kept, offset)| kept.at.offset == offset);
        let is_log = rises && in_order && terms.first()?.0 > 0 && terms.last()?.1 <= head.checked_add(1)?;
        let bytes = LOG + kept.iter().map(size).sum::<usize>();
        is_log.then(|| Log { terms: terms.into(), head, kept: kept.into(), bytes })
    }

    /// Where the last message stands.
    pub(super) fn head(&self) -> Position {
        let (term, _) = self.terms.back().copied().unwrap_or_default();
        Position { term, offset: self.head }
    }

    /// See [`LogCopy::last`].
    pub(super) fn last(&self) -> Option<Position> {
        last(self.terms.iter(), self.head)
    }

    /// The bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives the next message its position, and keeps it. None: it is not kept, nor is what was before it, since what is
    /// kept has no gaps.
    pub(super) fn append(&mut self, message: Option<Counted>, when: u64) -> Position {
        self.head += 1;
        let at = self.head();
        match message {
            Some(message) => {
                let kept = Kept { at, when, message };
                self.bytes += size(&kept);
                self.kept.push_back(kept);
            }
            None => while self.forget_first() {},
        }
        at
    }

    /// Forgets the oldest message. False: there is none.
    pub(super) fn forget_first(&mut self) -> bool {
        let first = self.kept.pop_front();
        self.bytes -= first.as_ref().map_or(0, size);
        if self.kept.is_empty() {
            self.kept = VecDeque::new();
        }
        first.is_some()
    }

    /// Forgets what is beyond that number, and what was published before that time.
    pub(super) fn trim(&mut self, most: usize, before: u64) {
        while self.kept.len() > most || self.kept.front().is_some_and(|first| first.when < before) {
            self.forget_first();
        }
    }

    /// A term's last offset here: another node may have given more of them, which nobody has any more.
    fn end_of(&self, term: usize) -> u64 {
        self.terms.get(term + 1).map_or(self.head, |(_, first)| first - 1)
    }

    /// Whether a reader with that position has read further elsewhere: in one of these terms, or in one that is later than the first of them.
    pub(super) fn ends_before(&self, position: Position) -> bool {
        match self.terms.iter().position(|(term, _)| *term == position.term) {
            Some(at) => position.offset > self.end_of(at),
            None => self.terms.front().is_some_and(|(first, _)| position.term > *first),
        }
    }

    /// The messages that a reader with that position has not had, from which index on, and whether these are all.
    fn after(&self, position: Position) -> (usize, bool) {
        let Some(at) = self.terms.iter().position(|(term, _)| *term == position.term) else {
            // What came in later terms is new to it in any case.
            return (self.kept.partition_point(|kept| kept.at.term <= position.term), false);
        };
        if position.offset > self.end_of(at) {
            // What came here instead it may have had by another way.
            return (self.kept.len(), false);
        }
        let seen = position.offset;
        let first = self.kept.partition_point(|kept| kept.at.offset <= seen);
        let forgotten = self.head - self.kept.len() as u64;
        (first, seen >= forgotten)
    }

    /// What a reader gets who wants all up to the present.
    pub(super) fn read(&self, from: From, most: Most) -> (At, Vec<Kept>) {
        let last = |count: usize| self.kept.len() - count.min(self.kept.len());
        let (mut first, mut recovered) = match from {
            From::Last(count) => (last(count), true),
            From::Since(position, or_last) => match (self.after(position), or_last) {
                ((_, false), Some(count)) => (last(count), false),
                (after, _) => after,
            },
        };
        let (mut count, mut bytes) = (0, 0);
        for kept in self.kept.range(first..).rev() {
            bytes += kept.message.data().len();
            if count == most.messages || bytes > most.bytes {
                break;
            }
            count += 1;
        }
        if count < self.kept.len() - first {
            first = self.kept.len() - count;
            recovered &= matches!(from, From::Last(_));
        }
        // Who has read further elsewhere is not sent back, so as not to get the same again there.
        let position = match from {
            From::Since(position, _) if !recovered => position.max(self.head()),
            _ => self.head(),
        };
        (At { position, recovered, count }, self.kept.range(first..).cloned().collect())
    }

    /// A page of it: behind a position, or the newest. The position is where the next page begins.
    pub(super) fn page(&self, since: Option<Position>, most: Most) -> (At, Vec<Kept>) {
        let Some((first, recovered)) = since.map(|position| self.after(position)) else {
            return self.read(From::Last(most.messages), most);
        };
        let mut bytes = 0;
        let fits = |(at, kept): &(usize, &Kept)| {
            bytes += kept.message.data().len();
            *at < most.messages && (*at == 0 || bytes <= most.bytes)
        };
        let page: Vec<Kept> =
            self.kept.range(first..).enumerate().take_while(fits).map(|(_, kept)| kept.clone()).collect();
        let whole = first + page.len() == self.kept.len();
        let position = page.last().filter(|_| !whole).map_or(self.head(), |last| last.at);
        (At { position, recovered, count: page.len() }, page)
    }
}

fn size(kept: &Kept) -> usize {
    MESSAGE + kept.message.data().len()
}

#[cfg(test)]
mod tests {
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
}
