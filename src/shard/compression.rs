//! Compression within one worker: its connections share the compressors and the decompressor, since no message refers to
//! one before it.

use std::cell::{Cell, RefCell};

use super::outbox::Frame;
use crate::config::Limits;
use crate::hub::history::Position;
use crate::message::Kind;
use crate::telemetry::metrics::counters::ShardCounts;
use crate::wire::deflate::{Compressor, Inflator, WINDOWS, Window, Wrong};
use crate::wire::reader::Violation;
use crate::wire::{event_stream, frame};

/// The memory that is kept for the next message; that of a larger one is freed.
const KEPT: usize = 64 * 1024;
/// To compress a message takes roughly as long as to put so many frames into outboxes, whatever its length.
const BASE_WORK: usize = 32;
/// And one more for so many of its bytes.
const BYTES_PER_FRAME: usize = 8;

/// What a worker needs to compress and to decompress. All of it is made when it is first used.
#[derive(Default)]
pub struct Compression {
    compressors: RefCell<[Option<Box<Compressor>>; WINDOWS]>,
    inflator: RefCell<Option<Box<Inflator>>>,
    /// What a message is compressed into.
    compressed: RefCell<Vec<u8>>,
    /// What a message is decompressed into, unless it is lent.
    inflated: Cell<Vec<u8>>,
    /// The work that compressing was so far, in frames that are put into outboxes.
    work: Cell<usize>,
}

impl Compression {
    /// A message as one compressed frame; None: it is no shorter so.
    pub(super) fn frame(&self, window: Window, kind: Kind, data: &[u8], counts: &ShardCounts) -> Option<Frame> {
        self.work.set(self.work.get().wrapping_add(BASE_WORK + data.len() / BYTES_PER_FRAME));
        let (mut compressors, mut buffer) = (self.compressors.borrow_mut(), self.compressed.borrow_mut());
        let compressor = compressors.get_mut(window.position())?;
        let compressor = compressor.get_or_insert_with(|| Box::new(Compressor::new(window)));
        let frame = compressor.compress(data, &mut buffer).map(|payload| {
            counts.compressed.one(data.len(), payload.len());
            frame::encode_compressed(kind, payload)
        });
        if buffer.len() > KEPT {
            *buffer = Vec::new();
        }
        frame
    }

    /// The work that compressing was since the worker began, in frames that are put into outboxes: differences count.
    pub(super) fn work(&self) -> usize {
        self.work.get()
    }

    /// A client's message decompressed: text is checked to be UTF-8. To be given back by [`Compression::give_back`].
    pub fn inflate(&self, kind: Kind, data: &[u8], limit: usize, counts: &ShardCounts) -> Result<Vec<u8>, Violation> {
        let mut out = self.inflated.take();
        let result = self.inflator.borrow_mut().get_or_insert_default().inflate(data, &mut out, limit);
        let violation = match result {
            Ok(()) if kind == Kind::Text && std::str::from_utf8(&out).is_err() => {
                Violation::invalid("text message is not UTF-8")
            }
            Ok(()) => {
                counts.decompressed.one(out.len(), data.len());
                return Ok(out);
            }
            Err(Wrong::TooBig) => Violation::too_big(limit),
            Err(Wrong::Invalid) => Violation::invalid("compressed message is not valid DEFLATE data"),
        };
        self.give_back(out);
        Err(violation)
    }

    /// Takes back what a message was decompressed into, for the next one.
    pub fn give_back(&self, out: Vec<u8>) {
        if out.capacity() <= KEPT {
            self.inflated.set(out);
        }
    }
}

/// One message's frames, each encoded when the first connection needs it.
pub(super) struct MessageFrames<'a> {
    kind: Kind,
    data: &'a [u8],
    plain: Option<Frame>,
    event: Option<Frame>,
    /// Where it stands among its channel's messages: the id of the event.
    position: Option<Position>,
    /// What connections with that window get: the plain frame, if it is shorter.
    compressed: Vec<(Window, Frame)>,
}

impl<'a> MessageFrames<'a> {
    /// Of a message; text must be UTF-8.
    pub(super) fn new(kind: Kind, data: &'a [u8]) -> MessageFrames<'a> {
        MessageFrames { kind, data, plain: None, event: None, position: None, compressed: Vec::new() }
    }

    /// The same of a message that has a position.
    pub(super) fn at(self, position: Option<Position>) -> MessageFrames<'a> {
        MessageFrames { position, ..self }
    }

    /// The frame for connections whose messages are not compressed.
    pub(super) fn plain(&mut self) -> &Frame {
        self.plain.get_or_insert_with(|| frame::encode(self.kind, self.data))
    }

    /// The event for connections that are event streams.
    pub(super) fn event(&mut self) -> &Frame {
        let id = || self.position.map(|position| position.to_string());
        self.event.get_or_insert_with(|| event_stream::encode_with(id().as_deref(), self.kind, self.data))
    }

    /// The frame for connections with that window, whose server has these limits.
    pub(super) fn compressed(
        &mut self,
        window: Window,
        limits: &Limits,
        compression: &Compression,
        counts: &ShardCounts,
    ) -> Frame {
        let len = self.data.len();
        // The upper bound is one for the time that it takes.
        if len <= limits.compress_above || len > limits.max_message_size {
            return self.plain().clone();
        }
        if let Some((_, frame)) = self.compressed.iter().find(|(of, _)| *of == window) {
            return frame.clone();
        }
        let frame = compression.frame(window, self.kind, self.data, counts);
        let frame = frame.unwrap_or_else(|| self.plain().clone());
        self.compressed.push((window, frame.clone()));
        frame
    }
}
