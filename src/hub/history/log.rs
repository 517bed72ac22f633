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
mod tests;
