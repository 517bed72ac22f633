//! What waits to be written to one connection: references to encoded frames, in order. An outbox that is empty or holds
//! one frame owns no memory.

mod lag;
pub mod saved;
pub mod shelf;
#[cfg(test)]
mod tests;

use smallvec::SmallVec;
use std::rc::Rc;

use lag::Lag;
pub use lag::{Policy, Subject};

/// An encoded frame. All subscribers of a message on a thread share one.
pub type Frame = Rc<[u8]>;

/// What a waiting frame takes besides its bytes, roughly: its place in the list, and its own allocation. It counts
/// against the limit, so that many small frames can't bypass it.
pub const FRAME: usize = 32;

/// What a waiting frame takes in addition if it may be dropped.
const LOOSE: usize = 48;

/// The frames that wait for a connection. None of them is empty.
#[derive(Default)]
pub struct Outbox {
    frames: SmallVec<[Frame; 1]>,
    /// Frames at the front that are written already.
    done: u32,
    /// Bytes of the next frame that are written already.
    offset: u32,
    /// Bytes that wait.
    bytes: u32,
    /// The shard's clock when the client last took something, or stopped taking what waits. Here, where it takes no room.
    taken: u32,
    /// Which frames may be dropped, if any may. The frame at the front may not: nearly always it is about to be written.
    lag: Option<Box<Lag>>,
}

impl Outbox {
    /// An empty one of a client that has just come.
    pub fn new(now: u32) -> Outbox {
        Outbox { taken: now, ..Outbox::default() }
    }

    /// The shard's clock when the client last took something, or stopped taking what waits.
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// The client has taken something at that time, or stops taking what waits.
    pub fn set_taken(&mut self, now: u32) {
        self.taken = now;
    }

    /// Puts a frame at the end. An empty one is nothing to write.
    pub fn push(&mut self, frame: Frame) {
        self.push_as(frame, &Policy::Keep);
    }

    /// The same for a message with that policy.
    pub fn push_as(&mut self, frame: Frame, policy: &Policy) {
        if frame.is_empty() {
            return;
        }
        if !matches!(policy, Policy::Keep) && !self.is_empty() {
            self.lag.get_or_insert_default().add(self.frames.len(), policy);
        }
        self.bytes = self.bytes.saturating_add(frame.len() as u32);
        self.frames.push(frame);
    }

    /// Puts a frame, which is not empty, before all others. Nothing must have been written yet.
    pub fn push_front(&mut self, frame: Frame) {
        debug_assert!(self.offset == 0);
        self.bytes = self.bytes.saturating_add(frame.len() as u32);
        match self.done.checked_sub(1) {
            // Something was dropped.
            Some(place) => {
                self.frames[place as usize] = frame;
                self.done = place;
            }
            None => {
                self.frames.insert(0, frame);
                if let Some(lag) = &mut self.lag {
                    lag.unshift();
                }
            }
        }
    }

    /// Puts a frame in the place of the newest one of that subject that may be dropped. False: none waits.
    pub fn replace(&mut self, frame: &Frame, subject: &Rc<Subject>) -> bool {
        let lag = self.lag.as_mut().filter(|_| !frame.is_empty());
        let place = lag.and_then(|lag| lag.newest(subject));
        let Some(older) = place.and_then(|place| self.frames.get_mut(place)) else { return false };
        self.bytes = (self.bytes - older.len() as u32).saturating_add(frame.len() as u32);
        *older = frame.clone();
        true
    }

    /// Drops frames that may be dropped, the oldest first, until what waits weighs so much less, or there are no more of
    /// them. Returns how many were dropped.
    pub fn drop_oldest(&mut self, excess: usize) -> u64 {
        let (most, mut dropped) = (self.weight().saturating_sub(excess), 0);
        while self.weight() > most
            && let Some(place) = self.lag.as_mut().and_then(|lag| lag.take_oldest())
        {
            self.remove(place);
            dropped += 1;
        }
        dropped
    }

    /// Takes a frame out that has not begun to be written. What stands before it moves up, which is little: it may not be
    /// dropped.
    fn remove(&mut self, place: usize) {
        let done = self.done as usize;
        self.bytes -= self.frames[place].len() as u32;
        self.frames[done..=place].rotate_right(1);
        // A place that is done keeps its frame for a while. This one is to be freed now.
        if let Some(next) = self.frames.get(done + 1).cloned() {
            self.frames[done] = next;
        }
        self.done += 1;
        self.tidy();
    }

    /// The bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// What the waiting frames count for: their bytes, [`FRAME`] for each, and more for those that may be dropped. 0 when
    /// nothing waits.
    pub fn weight(&self) -> usize {
        let loose = self.lag.as_ref().map_or(0, |lag| lag.len());
        self.bytes() + FRAME * (self.frames.len() - self.done as usize) + LOOSE * loose
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// What to write next: the one frame that waits, or as many as fit `scratch`'s capacity, copied together there, so
    /// that many messages cost one system call.
    pub fn next_write<'a>(&'a self, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let waiting = &self.frames[self.done as usize..];
        let Some((first, rest)) = waiting.split_first() else { return &[] };
        let first = &first[self.offset as usize..];
        if rest.is_empty() || first.len() >= scratch.capacity() {
            return first;
        }
        scratch.clear();
        scratch.extend_from_slice(first);
        for frame in rest {
            if scratch.len() + frame.len() > scratch.capacity() {
                break;
            }
            scratch.extend_from_slice(frame);
        }
        scratch
    }

    /// Takes out `written` bytes from the front.
    pub fn advance(&mut self, mut written: usize) {
        self.bytes -= (written as u32).min(self.bytes);
        while let Some(frame) = self.frames.get(self.done as usize) {
            let left = frame.len() - self.offset as usize;
            if written < left {
                self.offset += written as u32;
                break;
            }
            written -= left;
            self.offset = 0;
            self.done += 1;
        }
        self.tidy();
    }

    /// Forgets what is done, and which of it might have been dropped.
    fn tidy(&mut self) {
        let done = self.done as usize;
        if done == self.frames.len() {
            self.frames = SmallVec::new();
            (self.done, self.offset, self.bytes) = (0, 0, 0);
            // Asked here, since to drop it is a call even where it is none.
            if self.lag.is_some() {
                self.lag = None;
            }
            return;
        }
        if let Some(lag) = &mut self.lag {
            lag.begun(done + usize::from(self.offset > 0));
        }
        // What is done is not kept for long: it may be much more than what waits.
        if done * 2 > self.frames.len() {
            self.frames.drain(..done);
            self.done = 0;
            if let Some(lag) = &mut self.lag {
                lag.shift(done);
            }
        }
    }

    /// Drops everything that waits.
    pub fn clear(&mut self) {
        *self = Outbox::new(self.taken);
    }

    /// Drops everything but the rest of a frame that is partly written: another frame may follow it.
    pub fn clear_whole_frames(&mut self) {
        let partial = (self.offset > 0).then(|| self.frames[self.done as usize].clone());
        let offset = self.offset;
        self.clear();
        if let Some(frame) = partial {
            self.push(frame);
            self.offset = offset;
            self.bytes -= offset;
        }
    }
}
