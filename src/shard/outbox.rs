//! What waits to be written to one connection: references to encoded frames, in order. An outbox that is empty or holds
//! one frame owns no memory.

use smallvec::SmallVec;
use std::rc::Rc;

/// An encoded frame. All subscribers of a message on a thread share one.
pub type Frame = Rc<[u8]>;

/// What a waiting frame takes besides its bytes, roughly: its place in the list, and its own allocation. It counts
/// against the limit, so that many small frames can't bypass it.
pub const FRAME: usize = 32;

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
}

impl Outbox {
    /// Puts a frame at the end. An empty one is nothing to write.
    pub fn push(&mut self, frame: Frame) {
        if frame.is_empty() {
            return;
        }
        self.bytes = self.bytes.saturating_add(frame.len() as u32);
        self.frames.push(frame);
    }

    /// Puts a frame, which is not empty, before all others. Nothing must have been written yet.
    pub fn push_front(&mut self, frame: Frame) {
        debug_assert!(self.done == 0 && self.offset == 0);
        self.bytes = self.bytes.saturating_add(frame.len() as u32);
        self.frames.insert(0, frame);
    }

    /// The bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// What the waiting frames count for: their bytes, and [`FRAME`] for each. 0 when nothing waits.
    pub fn weight(&self) -> usize {
        self.bytes() + FRAME * (self.frames.len() - self.done as usize)
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
        if self.done as usize == self.frames.len() {
            *self = Outbox::default();
        } else if self.done >= 32 && self.done as usize * 2 > self.frames.len() {
            self.frames.drain(..self.done as usize);
            self.done = 0;
        }
    }

    /// The frames that wait, and how many bytes of the first are written already.
    pub fn waiting(&self) -> (usize, &[Frame]) {
        (self.offset as usize, &self.frames[self.done as usize..])
    }

    /// As many bytes of the first frame are written already: fewer than it has. For an outbox that nothing was written of.
    pub fn begin(&mut self, written: usize) {
        debug_assert!(self.done == 0 && self.offset == 0);
        if self.frames.first().is_some_and(|first| written < first.len()) {
            self.offset = written as u32;
            self.bytes -= written as u32;
        }
    }

    /// Drops everything that waits.
    pub fn clear(&mut self) {
        *self = Outbox::default();
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever is pushed comes out once, in order, however short the writes are.
        #[test]
        fn bytes_come_out_as_they_went_in(
            sizes in prop::collection::vec(0..200usize, 0..80),
            writes in prop::collection::vec(1..500usize, 1..50),
            capacity in 1..300usize,
        ) {
            let (mut outbox, mut want, mut got) = (Outbox::default(), Vec::new(), Vec::new());
            let mut scratch = Vec::with_capacity(capacity);
            let mut writes = writes.iter().cycle();
            for (i, size) in sizes.iter().enumerate() {
                let frame = vec![i as u8; *size];
                want.extend_from_slice(&frame);
                outbox.push(frame.into());
                if i % 3 == 0 {
                    let next = outbox.next_write(&mut scratch);
                    let n = next.len().min(*writes.next().unwrap());
                    got.extend_from_slice(&next[..n]);
                    outbox.advance(n);
                }
                prop_assert_eq!(outbox.bytes(), want.len() - got.len());
                prop_assert_eq!(outbox.weight() == 0, outbox.is_empty());
            }
            while !outbox.is_empty() {
                let next = outbox.next_write(&mut scratch);
                prop_assert!(!next.is_empty());
                let n = next.len().min(*writes.next().unwrap());
                got.extend_from_slice(&next[..n]);
                outbox.advance(n);
            }
            prop_assert_eq!(got, want);
            prop_assert!(!outbox.frames.spilled());
        }
    }

    #[test]
    fn small_frames_weigh_what_they_take_and_empty_ones_are_not_kept() {
        let mut outbox = Outbox::default();
        for _ in 0..1000 {
            outbox.push(Frame::default());
        }
        assert_eq!((outbox.weight(), outbox.frames.len()), (0, 0));
        for _ in 0..1000 {
            outbox.push(b"x".to_vec().into());
        }
        assert_eq!((outbox.bytes(), outbox.weight()), (1000, 1000 * (1 + FRAME)));
        outbox.advance(999);
        assert_eq!(outbox.weight(), 1 + FRAME);
    }

    #[test]
    fn an_outbox_goes_on_elsewhere_where_it_stood() {
        let mut outbox = Outbox::default();
        for frame in ["gone", "first", "second"] {
            outbox.push(frame.as_bytes().into());
        }
        outbox.advance(6);
        let (written, frames) = outbox.waiting();
        let mut other = Outbox::default();
        frames.iter().for_each(|frame| other.push(frame.clone()));
        other.begin(written);
        assert_eq!((other.bytes(), other.weight()), (outbox.bytes(), outbox.weight()));
        assert_eq!(other.next_write(&mut Vec::with_capacity(99)), b"rstsecond");
        other.clear_whole_frames();
        assert_eq!(other.next_write(&mut Vec::new()), b"rst");
    }

    #[test]
    fn a_frame_that_is_begun_is_finished() {
        let mut outbox = Outbox::default();
        outbox.push(b"first".to_vec().into());
        outbox.push(b"second".to_vec().into());
        outbox.advance(2);
        outbox.clear_whole_frames();
        assert_eq!(outbox.next_write(&mut Vec::new()), b"rst");
        assert_eq!(outbox.bytes(), 3);
    }
}
