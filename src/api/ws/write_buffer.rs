//! The write buffer for a back end: frames one after the other, so that one write takes many; and the JSON of a queue's
//! message.

use std::collections::VecDeque;

use crate::message::Kind;
use crate::queue::QueuedMessage;
use crate::wire::frame;

/// The capacity that an idle connection keeps.
const KEPT: usize = 4 * 1024;
/// From this size on, written bytes are removed from the buffer while more wait.
const COMPACT: usize = 64 * 1024;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// A message of a queue that its consumer does not settle.
    Event,
    /// Anything else.
    Other,
}

/// The frames that wait. Positions count the connection's bytes from its beginning.
#[derive(Default)]
pub(super) struct WriteBuffer {
    bytes: Vec<u8>,
    /// The position of the first byte of `bytes`.
    base: u64,
    /// Everything before this position is written.
    done: u64,
    /// The end of the last frame that is wholly written.
    whole: u64,
    /// The end of each frame that is not wholly written.
    ends: VecDeque<(u64, FrameKind)>,
}

impl WriteBuffer {
    /// Adds a text message.
    pub(super) fn text(&mut self, payload: &[u8], what: FrameKind) {
        frame::append(&mut self.bytes, Kind::Text, payload);
        self.end(what);
    }

    /// Adds a frame.
    pub(super) fn frame(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.end(FrameKind::Other);
    }

    fn end(&mut self, what: FrameKind) {
        self.ends.push_back((self.base + self.bytes.len() as u64, what));
    }

    /// The bytes to be written next.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get((self.done - self.base) as usize..).unwrap_or_default()
    }

    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - (self.done - self.base) as usize
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// That many bytes have been written. Returns how many events were wholly written with them.
    pub(super) fn advance(&mut self, written: usize) -> usize {
        self.done += written as u64;
        let mut events = 0;
        while let Some(&(end, what)) = self.ends.front()
            && end <= self.done
        {
            events += usize::from(what == FrameKind::Event);
            self.whole = end;
            self.ends.pop_front();
        }
        if self.is_empty() {
            self.bytes.clear();
            self.bytes.shrink_to(KEPT);
            self.ends.shrink_to(KEPT / 16);
            self.base = self.done;
        } else if self.done - self.base >= COMPACT as u64 {
            self.bytes.drain(..(self.done - self.base) as usize);
            self.base = self.done;
        }
        events
    }

    /// Drops everything but the rest of a frame that is partly written; returns that frame's kind.
    pub(super) fn cut(&mut self) -> Option<FrameKind> {
        let begun = self.ends.front().copied().filter(|_| self.whole < self.done);
        let end = begun.map_or(self.done, |(end, _)| end);
        self.bytes.truncate((end - self.base) as usize);
        self.ends.truncate(usize::from(begun.is_some()));
        begun.map(|(_, what)| what)
    }
}

/// Appends a queued message as its consumer gets it.
pub(super) fn write_event(given: &QueuedMessage, node: u64, out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(b"{\"e\":\"queue.pop\",\"p\":{\"n\":\"");
    out.extend_from_slice(digits.format(node).as_bytes());
    out.extend_from_slice(b"\",\"c\":\"");
    out.extend_from_slice(digits.format(given.client.get()).as_bytes());
    out.extend_from_slice(b"\",\"t\":");
    // Writing to a Vec doesn't fail.
    let _ = serde_json::to_writer(&mut *out, given.topic.as_str());
    out.extend_from_slice(b",\"d\":");
    out.extend_from_slice(&given.data);
    if let Some(key) = given.key {
        out.extend_from_slice(b",\"k\":");
        out.extend_from_slice(digits.format(key).as_bytes());
    }
    out.extend_from_slice(b"},\"id\":null}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_leave_in_order_and_events_are_counted() {
        let mut out = WriteBuffer::default();
        out.text(b"ab", FrameKind::Event);
        out.text(b"c", FrameKind::Other);
        out.text(b"d", FrameKind::Event);
        assert_eq!(out.rest(), b"\x81\x02ab\x81\x01c\x81\x01d");
        assert_eq!(out.advance(3), 0);
        assert_eq!(out.advance(1), 1);
        assert_eq!(out.advance(4), 0);
        assert_eq!((out.rest(), out.len()), (&b"\x01d"[..], 2));
        assert_eq!(out.advance(2), 1);
        assert!(out.is_empty());
    }

    #[test]
    fn what_is_begun_is_finished() {
        let mut out = WriteBuffer::default();
        out.text(b"ab", FrameKind::Event);
        out.text(b"cd", FrameKind::Event);
        assert_eq!(out.advance(5), 1);
        assert_eq!(out.cut(), Some(FrameKind::Event));
        assert_eq!(out.rest(), b"\x02cd");
        assert_eq!(out.advance(3), 1);
        out.text(b"x", FrameKind::Other);
        assert_eq!(out.cut(), None);
        assert!(out.is_empty());
        out.frame(b"yz");
        assert_eq!(out.rest(), b"yz");
    }

    proptest! {
        #[test]
        fn all_bytes_leave_once(sizes in prop::collection::vec(0..90_000usize, 1..20), cut in 1..100_000usize) {
            let (mut out, mut want, mut got, mut events) = (WriteBuffer::default(), Vec::new(), Vec::new(), 0);
            for (i, size) in sizes.iter().enumerate() {
                let payload = vec![b'a' + (i % 26) as u8; *size];
                out.text(&payload, FrameKind::Event);
                frame::append(&mut want, Kind::Text, &payload);
                let some = out.len().min(cut);
                got.extend_from_slice(&out.rest()[..some]);
                events += out.advance(some);
            }
            got.extend_from_slice(out.rest());
            events += out.advance(out.len());
            prop_assert!(got == want && events == sizes.len());
        }
    }
}
