//! Lua patterns over bytes: a backtracking matcher that counts its steps.
//!
//! The language is Lua 5.1's as LuaJIT 2.1 extends it (`%g`, `%f[set]`), with the classes of the "C" locale. Faults in a
//! pattern are found when the matcher reaches them, as in the original: scripts may depend on a broken tail that no
//! subject ever reaches.
//!
//! A backtracking matcher can take time exponential in its pattern, and the watchdog's hook can't interrupt it. So
//! every step is paid from a [`Budget`], which checks at intervals whether the time is up.

mod budget;
mod item;
#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;
use std::ops::Range;

pub use budget::{Budget, Error, STEPS_PER_CHECK};
use item::{Item, escaped, in_set, set_at};
pub use item::{has_specials, split_anchor};

/// The most captures that a pattern may have.
pub const MAX_CAPTURES: usize = 32;

/// How deep the matcher may recurse: LuaJIT's own limit. It bounds the use of the native stack.
const MAX_DEPTH: u32 = 200;

/// What a pair of parentheses caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capture {
    /// A part of the subject.
    Text(Range<usize>),
    /// `()`: an offset into the subject, from 0.
    Position(usize),
}

/// A capture in the making. `end` is an offset into the subject, or one of the two marks below.
#[derive(Clone, Copy)]
struct Slot {
    start: usize,
    end: usize,
}

/// The capture was opened and not closed yet.
const OPEN: usize = usize::MAX;
/// The capture is `()`.
const POSITION: usize = usize::MAX - 1;

/// Why the rest of a pattern gave no match.
enum Miss {
    /// It doesn't match here; there may be another way.
    Mismatch,
    /// The match can't succeed in any way.
    Fault(Error),
}

impl From<Error> for Miss {
    fn from(error: Error) -> Miss {
        Miss::Fault(error)
    }
}

/// Where a match of the rest of a pattern ends.
type Step = Result<usize, Miss>;

/// A pattern at work on a subject. Owns nothing, so that a Lua error may pass through its holder's frame.
pub struct Matcher<'a, 'c> {
    subject: &'a [u8],
    pattern: &'a [u8],
    budget: Budget<'c>,
    /// What [`Matcher::find_lead`] found, once a search asked for it.
    lead: Option<Option<Item<'a>>>,
    whole: (usize, usize),
    /// How many of the slots are in use; only these were ever written.
    level: usize,
    slots: [MaybeUninit<Slot>; MAX_CAPTURES],
}

impl<'a, 'c> Matcher<'a, 'c> {
    /// A matcher of a pattern whose anchor, if it has one, was split off; a `^` is a character like others here.
    #[inline]
    pub fn new(subject: &'a [u8], pattern: &'a [u8], budget: Budget<'c>) -> Self {
        Matcher {
            subject,
            pattern,
            budget,
            lead: None,
            whole: (0, 0),
            level: 0,
            slots: [const { MaybeUninit::uninit() }; MAX_CAPTURES],
        }
    }

    /// Looks for the first match that starts at `from` or behind it. [`Matcher::whole`] and the captures tell of it.
    #[inline]
    pub fn find(&mut self, from: usize) -> Result<bool, Error> {
        if from > self.subject.len() {
            return Ok(false);
        }
        // The first place may match, which saves the preparation for a search.
        Ok(self.match_at(from)? || (from < self.subject.len() && self.search(from + 1)?))
    }

    fn search(&mut self, from: usize) -> Result<bool, Error> {
        let mut start = from;
        let lead = match self.lead {
            Some(lead) => lead,
            None => {
                let lead = self.find_lead()?;
                self.lead = Some(lead);
                lead
            }
        };
        loop {
            if let Some(lead) = lead
                && !self.subject.get(start).is_some_and(|&c| lead.matches(c))
            {
                start += self.scan(start, lead, false)?;
                // Every match starts with that item, so none starts at the end.
                if start == self.subject.len() {
                    return Ok(false);
                }
            }
            if self.match_at(start)? {
                return Ok(true);
            }
            if start == self.subject.len() {
                return Ok(false);
            }
            start += 1;
        }
    }

    /// Whether there is a match that starts exactly at `start`.
    #[inline]
    pub fn match_at(&mut self, start: usize) -> Result<bool, Error> {
        self.level = 0;
        match self.run(start, 0, 0) {
            Ok(end) => {
                self.whole = (start, end);
                Ok(true)
            }
            Err(Miss::Mismatch) => Ok(false),
            Err(Miss::Fault(error)) => Err(error),
        }
    }

    /// The last match.
    #[inline]
    pub fn whole(&self) -> Range<usize> {
        self.whole.0..self.whole.1
    }

    /// As [`Budget::left`].
    pub fn steps_left(&self) -> u32 {
        self.budget.left()
    }

    /// How many captures the last match has.
    pub fn captures(&self) -> usize {
        self.level
    }

    /// Capture `index` (from 0) of the last match. A match without captures has one: the whole of it.
    #[inline]
    pub fn capture(&self, index: usize) -> Result<Capture, Error> {
        match self.slot(index) {
            Some(Slot { end: OPEN, .. }) => Err(Error::UnfinishedCapture),
            Some(Slot { start, end: POSITION }) => Ok(Capture::Position(start)),
            Some(Slot { start, end }) => Ok(Capture::Text(start..end)),
            None if index == 0 => Ok(Capture::Text(self.whole())),
            None => Err(Error::CaptureIndex),
        }
    }

    #[inline(always)]
    fn slot(&self, index: usize) -> Option<Slot> {
        match self.slots.get(index) {
            // SAFETY: below the level all slots are written: opening a capture writes its slot before it raises the level.
            Some(slot) if index < self.level => Some(unsafe { slot.assume_init() }),
            _ => None,
        }
    }

    #[inline(always)]
    fn at(&self, p: usize) -> Option<u8> {
        self.pattern.get(p).copied()
    }

    /// The item that every match starts with, if it is easy to determine. A search can then skip other places.
    #[inline]
    fn find_lead(&mut self) -> Result<Option<Item<'a>>, Error> {
        // One capture may open in front. (More of them may be too many, which must not go unnoticed.)
        let p = usize::from(self.at(0) == Some(b'('));
        match (self.at(p), self.at(p + 1)) {
            (Some(b'%'), Some(b'b')) if self.at(p + 3).is_some() => Ok(self.at(p + 2).map(Item::Byte)),
            (None | Some(b'(' | b')'), _) | (Some(b'$'), None) | (Some(b'%'), Some(b'b' | b'f' | b'0'..=b'9')) => {
                Ok(None)
            }
            _ => {
                let (item, next) = self.item(p)?;
                Ok((!matches!(self.at(next), Some(b'*' | b'?' | b'-'))).then_some(item))
            }
        }
    }

    /// Matches the pattern from `p` on against the subject from `s` on.
    fn run(&mut self, mut s: usize, mut p: usize, depth: u32) -> Step {
        if depth >= MAX_DEPTH {
            return Err(Miss::Fault(Error::TooComplex));
        }
        let depth = depth + 1;
        loop {
            self.budget.spend(1)?;
            match self.at(p) {
                None => return Ok(s),
                Some(b'(') => return self.open(s, p + 1, depth),
                Some(b')') => return self.close(s, p + 1, depth),
                Some(b'$') if p + 1 == self.pattern.len() => {
                    return if s == self.subject.len() { Ok(s) } else { Err(Miss::Mismatch) };
                }
                Some(b'%') => match self.at(p + 1) {
                    Some(b'b') => {
                        s = self.balance(s, p + 2)?;
                        p += 4;
                        continue;
                    }
                    Some(b'f') => {
                        p = self.frontier(s, p + 2)?;
                        continue;
                    }
                    Some(digit @ b'0'..=b'9') => {
                        s = self.back_reference(s, digit)?;
                        p += 2;
                        continue;
                    }
                    _ => {}
                },
                _ => {}
            }
            let (item, next) = self.item(p)?;
            let matches = self.subject.get(s).is_some_and(|&c| item.matches(c));
            match self.at(next) {
                Some(b'?') => {
                    if matches {
                        match self.run(s + 1, next + 1, depth) {
                            Err(Miss::Mismatch) => {}
                            done => return done,
                        }
                    }
                    p = next + 1;
                }
                Some(quantifier @ (b'*' | b'+')) if matches || quantifier == b'*' => {
                    return self.longest(s + usize::from(quantifier == b'+'), item, next + 1, depth);
                }
                Some(b'-') => return self.shortest(s, item, next + 1, depth),
                _ if !matches => return Err(Miss::Mismatch),
                _ => {
                    s += 1;
                    p = next;
                }
            }
        }
    }

    /// As [`Matcher::run`], but saves the call at the pattern's end, which most matches reach by a `+` or a `)`.
    #[inline(always)]
    fn go_on(&mut self, s: usize, p: usize, depth: u32) -> Step {
        if p == self.pattern.len() && depth < MAX_DEPTH { Ok(s) } else { self.run(s, p, depth) }
    }

    /// The item at `p` and where the pattern goes on behind it.
    #[inline(always)]
    fn item(&mut self, p: usize) -> Result<(Item<'a>, usize), Error> {
        match self.at(p) {
            Some(b'.') => Ok((Item::Any, p + 1)),
            Some(b'%') => match self.at(p + 1) {
                Some(c) => Ok((escaped(c), p + 2)),
                None => Err(Error::EndsWithPercent),
            },
            Some(b'[') => self.set(p + 1).map(|(set, next)| (Item::Set(set), next)),
            Some(c) => Ok((Item::Byte(c), p + 1)),
            None => Ok((Item::Any, p)),
        }
    }

    /// The set whose `[` ends at `start`, and where the pattern goes on behind its `]`.
    #[inline]
    fn set(&mut self, start: usize) -> Result<(&'a [u8], usize), Error> {
        let Some((set, next)) = set_at(self.pattern, start) else { return Err(Error::MissingBracket) };
        self.budget.spend(set.len())?;
        Ok((set, next))
    }

    /// How many characters from `s` on are all among `item`, or all not.
    #[inline(always)]
    fn scan(&mut self, s: usize, item: Item<'a>, among: bool) -> Result<usize, Error> {
        let mut rest = self.subject.get(s..).unwrap_or_default();
        // A long run is measured in pieces, so that the clock is checked in between.
        let (piece, cost) = item.piece_and_cost();
        let mut total = 0;
        loop {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            let length = item.run_length(now, among);
            total += length;
            self.budget.spend(length * cost)?;
            if length < piece {
                return Ok(total);
            }
            rest = later;
        }
    }

    /// As many of `item` as there are, then one fewer each time until the rest of the pattern matches.
    #[inline(always)]
    fn longest(&mut self, s: usize, item: Item<'a>, next: usize, depth: u32) -> Step {
        let mut end = s + self.scan(s, item, true)?;
        loop {
            match self.go_on(end, next, depth) {
                Err(Miss::Mismatch) if end > s => end -= 1,
                done => return done,
            }
        }
    }

    /// As few of `item` as let the rest of the pattern match.
    #[inline(always)]
    fn shortest(&mut self, mut s: usize, item: Item<'a>, next: usize, depth: u32) -> Step {
        let (_, cost) = item.piece_and_cost();
        loop {
            match self.run(s, next, depth) {
                Err(Miss::Mismatch) => {}
                done => return done,
            }
            self.budget.spend(cost)?;
            match self.subject.get(s) {
                Some(&c) if item.matches(c) => s += 1,
                _ => return Err(Miss::Mismatch),
            }
        }
    }

    /// A `(` that ends at `p`.
    fn open(&mut self, s: usize, p: usize, depth: u32) -> Step {
        let level = self.level;
        let Some(slot) = self.slots.get_mut(level) else { return Err(Miss::Fault(Error::TooManyCaptures)) };
        let (end, next) = if self.pattern.get(p) == Some(&b')') { (POSITION, p + 1) } else { (OPEN, p) };
        slot.write(Slot { start: s, end });
        self.level = level + 1;
        let found = self.go_on(s, next, depth);
        if found.is_err() {
            self.level = level;
        }
        found
    }

    /// A `)` that ends at `next`.
    fn close(&mut self, s: usize, next: usize, depth: u32) -> Step {
        let opened =
            (0..self.level).rev().find_map(|i| self.slot(i).filter(|slot| slot.end == OPEN).map(|slot| (i, slot)));
        let Some((index, Slot { start, .. })) = opened else { return Err(Miss::Fault(Error::UnopenedCapture)) };
        self.set_slot(index, Slot { start, end: s });
        let found = self.go_on(s, next, depth);
        if found.is_err() {
            self.set_slot(index, Slot { start, end: OPEN });
        }
        found
    }

    #[inline(always)]
    fn set_slot(&mut self, index: usize, to: Slot) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.write(to);
        }
    }

    /// `%bxy`, with its two characters at `p`: the end of the balanced stretch at `s`.
    #[inline(never)]
    fn balance(&mut self, s: usize, p: usize) -> Step {
        let (Some(opening), Some(closing)) = (self.at(p), self.at(p + 1)) else {
            return Err(Miss::Fault(Error::MissingBalance));
        };
        let rest = self.subject.get(s..).unwrap_or_default();
        let Some((&first, mut rest)) = rest.split_first() else { return Err(Miss::Mismatch) };
        if first != opening {
            return Err(Miss::Mismatch);
        }
        let (mut depth, mut end) = (1usize, s + 1);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(STEPS_PER_CHECK as usize));
            for (i, &c) in now.iter().enumerate() {
                // Closing first: the two may be the same character.
                if c == closing {
                    depth -= 1;
                    if depth == 0 {
                        self.budget.spend(i)?;
                        return Ok(end + i + 1);
                    }
                } else if c == opening {
                    depth += 1;
                }
            }
            self.budget.spend(now.len())?;
            end += now.len();
            rest = later;
        }
        Err(Miss::Mismatch)
    }

    /// `%f`, with its set at `p`: where the pattern goes on if `s` is where the set's characters begin. Both ends of
    /// the subject count as a zero byte.
    #[inline(never)]
    fn frontier(&mut self, s: usize, p: usize) -> Step {
        if self.at(p) != Some(b'[') {
            return Err(Miss::Fault(Error::MissingFrontierSet));
        }
        let (set, next) = self.set(p + 1)?;
        let before = s.checked_sub(1).and_then(|i| self.subject.get(i)).copied().unwrap_or(0);
        let here = self.subject.get(s).copied().unwrap_or(0);
        if !in_set(set, before) && in_set(set, here) { Ok(next) } else { Err(Miss::Mismatch) }
    }

    /// `%1` to `%9`: the end of the captured text's repetition at `s`.
    #[inline(never)]
    fn back_reference(&mut self, s: usize, digit: u8) -> Step {
        let index = usize::from(digit).checked_sub(usize::from(b'1'));
        let range = match index.and_then(|index| self.slot(index)) {
            None | Some(Slot { end: OPEN, .. }) => return Err(Miss::Fault(Error::CaptureIndex)),
            // A position has no text that could stand in the subject.
            Some(Slot { end: POSITION, .. }) => return Err(Miss::Mismatch),
            Some(Slot { start, end }) => start..end,
        };
        let text = self.subject.get(range).unwrap_or_default();
        // Comparing is far quicker than matching, but a capture may be as long as the subject.
        self.budget.spend(text.len() / 16)?;
        match self.subject.get(s..) {
            Some(rest) if rest.starts_with(text) => Ok(s + text.len()),
            _ => Err(Miss::Mismatch),
        }
    }
}
