//! Compressed messages (permessage-deflate, RFC 7692, section 7.2), always without context takeover: each message stands
//! for itself. So one compressor serves all connections of a thread, its result is the same for all of them, and a
//! connection keeps nothing between messages.

use zlib_rs::{Deflate, DeflateFlush, Inflate, InflateFlush, Status};

/// How far back a compressor may refer, as the base-2 logarithm of bytes (RFC 7692, section 7.1.2). 8 is missing: no zlib
/// compresses so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Window {
    /// 512 bytes.
    Bits9 = 9,
    /// 1 KiB.
    Bits10 = 10,
    /// 2 KiB.
    Bits11 = 11,
    /// 4 KiB.
    Bits12 = 12,
    /// 8 KiB.
    Bits13 = 13,
    /// 16 KiB.
    Bits14 = 14,
    /// 32 KiB: what clients get that do not ask for less.
    Bits15 = 15,
}

/// How many windows there are.
pub const WINDOWS: usize = 7;

impl Window {
    const ALL: [Window; WINDOWS] =
        [Window::Bits9, Window::Bits10, Window::Bits11, Window::Bits12, Window::Bits13, Window::Bits14, Window::Bits15];

    /// The window of that many bits, if it can be had.
    pub fn of(bits: u8) -> Option<Window> {
        Window::ALL.into_iter().find(|window| window.bits() == bits)
    }

    /// Its bits.
    pub fn bits(self) -> u8 {
        self as u8
    }

    /// Its position among [`WINDOWS`].
    pub fn position(self) -> usize {
        usize::from(self.bits() - Window::Bits9.bits())
    }
}

/// The effort of compressing, from 1 to 9: zlib's own choice.
const LEVEL: i32 = 6;

/// What ends each message that is flushed, and is left out on the wire (RFC 7692, section 7.2.1).
const FLUSHED: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// The same, and an empty last block: it ends the data if, and only if, the message was whole.
const END: [u8; 9] = [0x00, 0x00, 0xFF, 0xFF, 0x01, 0x00, 0x00, 0xFF, 0xFF];

/// The most last blocks within one message. Each has a price, and may be as short as two bytes.
const MAX_LAST_BLOCKS: usize = 1000;

/// Compresses messages, one after the other. It takes some 370 KiB.
pub struct Compressor {
    deflate: Deflate,
    window: Window,
}

impl Compressor {
    /// A compressor that refers no further back than that.
    pub fn new(window: Window) -> Compressor {
        Compressor { deflate: Deflate::new(LEVEL, false, window.bits()), window }
    }

    /// The payload of a compressed message, within `buffer`, which grows to little more than the payload's length. None: it would
    /// be no shorter, and the message is to be sent as it is.
    pub fn compress<'b>(&mut self, payload: &[u8], buffer: &'b mut Vec<u8>) -> Option<&'b [u8]> {
        // The whole result fits in. What is abandoned halfway stays in the library's own buffer, over its `reset`, too
        // (zlib-rs 0.6.8, `Pending::reset_keep`), and it panics when the rest of that gets too small.
        let room = most_compressed(payload.len());
        if buffer.len() < room {
            buffer.resize(room, 0);
        }
        let room = &mut buffer[..room];
        self.deflate.reset();
        let flushed = self.deflate.compress(payload, room, DeflateFlush::SyncFlush);
        let (read, written) = (self.deflate.total_in() as usize, self.deflate.total_out() as usize);
        if !matches!(flushed, Ok(Status::Ok)) || read < payload.len() || written >= room.len() {
            self.deflate = Deflate::new(LEVEL, false, self.window.bits());
            return None;
        }
        room[..written].strip_suffix(&FLUSHED).filter(|_| written < payload.len())
    }
}

/// What is wrong with a compressed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It is larger than it may be.
    TooBig,
    /// It is not valid DEFLATE data (RFC 1951).
    Invalid,
}

/// Decompresses messages, one after the other. It takes some 50 KiB.
pub struct Inflator(Inflate);

impl Default for Inflator {
    fn default() -> Inflator {
        // Whatever the client's window is, it is no larger.
        Inflator(Inflate::new(false, Window::Bits15.bits()))
    }
}

impl Inflator {
    /// Decompresses the payload of a message into `out`, from its start. `out` becomes no larger than one byte more than
    /// `limit`, and nothing is decompressed beyond that.
    pub fn inflate(&mut self, payload: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), Wrong> {
        let mut used = 0;
        let result = self.run(payload, out, &mut used, limit);
        out.truncate(used);
        result
    }

    fn run(&mut self, payload: &[u8], out: &mut Vec<u8>, used: &mut usize, limit: usize) -> Result<(), Wrong> {
        // Most messages are no more than four times as long as what they were compressed to.
        out.resize(payload.len().saturating_mul(4).max(out.len()).min(limit.saturating_add(1)), 0);
        self.0.reset(false);
        let mut last_blocks = 0;
        let mut rest = payload;
        loop {
            match self.part(&mut rest, out, used, limit)? {
                // A last block may stand anywhere; what follows begins anew.
                Ended::LastBlock if last_blocks < MAX_LAST_BLOCKS => last_blocks += 1,
                Ended::LastBlock => return Err(Wrong::Invalid),
                Ended::Input => break,
            }
            self.0.reset(false);
            if rest.is_empty() {
                // Nothing is left for `END` to end.
                return Ok(());
            }
        }
        if payload.is_empty() {
            return Ok(());
        }
        let mut rest = &END[..];
        match self.part(&mut rest, out, used, limit)? {
            Ended::LastBlock if rest.is_empty() => Ok(()),
            Ended::LastBlock | Ended::Input => Err(Wrong::Invalid),
        }
    }

    /// Decompresses `rest`, up to its end or that of a last block.
    fn part(&mut self, rest: &mut &[u8], out: &mut Vec<u8>, used: &mut usize, limit: usize) -> Result<Ended, Wrong> {
        loop {
            if *used == out.len() {
                out.resize(out.len().saturating_mul(2).max(256).min(limit.saturating_add(1)), 0);
            }
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let status = self.0.decompress(rest, &mut out[*used..], InflateFlush::NoFlush);
            let read = (self.0.total_in() - read) as usize;
            let written = (self.0.total_out() - written) as usize;
            *rest = &rest[read..];
            *used += written;
            match status {
                Err(_) => return Err(Wrong::Invalid),
                Ok(_) if *used > limit => return Err(Wrong::TooBig),
                Ok(Status::StreamEnd) => return Ok(Ended::LastBlock),
                // With room left, nothing is held back.
                Ok(_) if rest.is_empty() && *used < out.len() => return Ok(Ended::Input),
                // With both it would have gone on.
                Ok(_) if read == 0 && written == 0 && *used < out.len() => return Err(Wrong::Invalid),
                Ok(_) => {}
            }
        }
    }
}

/// What [`Inflator::part`] came to.
enum Ended {
    /// The end of a last block.
    LastBlock,
    /// All of the input was used.
    Input,
}

/// The most bytes that a message of up to `limit` bytes may take compressed. The longest codes that need no table have 9
/// bits for a byte; whatever is longer has been made longer on purpose.
pub const fn most_compressed(limit: usize) -> usize {
    limit.saturating_add(limit / 8).saturating_add(64)
}

#[cfg(test)]
mod tests;
