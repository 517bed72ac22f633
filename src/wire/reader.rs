//! The parser of the frames that one client sends, fed with bytes as they arrive (RFC 6455, section 5).
//!
//! There are many connections, mostly silent, so a [`Reader`] is two words while nothing is incomplete. The bytes are
//! in a buffer that the connections of a thread share, and a whole frame is unmasked there. Only what is incomplete (or
//! what a busy connection must leave for later) moves to a buffer of the connection's own, which is freed as soon as it
//! is used up. No buffer is larger than twice what has arrived.
//!
//! The rule for callers: call [`Reader::next`] until it says `None`, or [`Reader::keep`], before the bytes of the
//! [`Input`] are overwritten; and don't read on from a client while kept bytes wait, since they have no other bound.
//! After a [`Violation`] or a close frame nothing more is taken.

mod head;
mod input;
mod saved;
mod violation;

use crate::message::{Kind, close_code, utf8};
use std::io::Cursor;
use std::ops::Range;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use head::{Form, Head, Rules, head_len};
pub use input::Input;
pub use violation::Violation;

/// What a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A complete text message, already checked to be UTF-8.
    Text(&'a [u8]),
    /// A complete binary message.
    Binary(&'a [u8]),
    /// A complete message that is compressed (RFC 7692), and not checked in any way. Only of [`Reader::of_compressed`].
    Compressed(Kind, &'a [u8]),
    /// To be answered by a pong with the same payload.
    Ping(&'a [u8]),
    /// An answer to a ping, or a sign of life.
    Pong(&'a [u8]),
    /// The client closes: its code and reason, if it gave one. The last event.
    Close(Option<(u16, &'a str)>),
}

/// The longest header of a frame: two bytes, the longest length, and a mask.
const MAX_HEADER: usize = 14;

/// The parser of one connection.
#[derive(Debug, Default)]
pub struct Reader {
    /// Only while something is incomplete or kept.
    pending: Option<Box<Pending>>,
    /// A close frame or a violation was met.
    ended: bool,
    /// Messages may be compressed.
    takes_compressed: bool,
}

#[derive(Debug, Default)]
struct Pending {
    /// Input that could not be used yet: `held[pos..]` stands before what the next [`Input`] brings.
    held: Vec<u8>,
    pos: usize,
    /// The payload of the unfinished message's fragments so far.
    message: Vec<u8>,
    /// What that message is; `None` while no message is unfinished.
    fragmented: Option<Form>,
    /// `message` was given out and can be freed.
    spent: bool,
}

/// Where the payload of an event lies.
enum Place {
    Input(Range<usize>),
    Held(Range<usize>),
    Message,
}

/// A whole frame, its payload still masked.
struct Frame {
    head: Head,
    place: Place,
}

impl Reader {
    /// A parser at the start of a connection.
    pub fn new() -> Reader {
        Reader::default()
    }

    /// The same for a connection on which messages may be compressed.
    pub fn of_compressed() -> Reader {
        Reader { takes_compressed: true, ..Reader::default() }
    }

    /// The next event, or `None` when the input is used up. A message over `limit` bytes is a [`Violation`] as soon
    /// as a header announces it. One that is compressed is only held against what so many bytes may take then: the
    /// code that decompresses it holds the result against `limit`.
    ///
    /// An event's bytes live until the next call; a handler that waits must have copied them.
    pub fn next<'a>(&'a mut self, input: &'a mut Input<'_>, limit: usize) -> Result<Option<Event<'a>>, Violation> {
        let (opcode, compressed, place) = match self.advance(input, limit) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(violation) => {
                self.ended = true;
                self.pending = None;
                return Err(violation);
            }
        };
        let payload = match (place, &self.pending) {
            (Place::Input(range), _) => &input.chunk[range],
            (Place::Held(range), Some(pending)) => &pending.held[range],
            (Place::Message, Some(pending)) => &pending.message[..],
            (_, None) => &[],
        };
        let event = event(opcode, compressed, payload);
        self.ended |= matches!(event, Ok(Event::Close(_)) | Err(_));
        event.map(Some)
    }

    /// Moves all unused input to the connection's own memory: for a caller that can't take events now, and whose
    /// buffer others need. It may be several frames. [`Reader::next`] goes on with it, with or without new input.
    pub fn keep(&mut self, input: &mut Input<'_>) {
        self.tidy();
        let rest = input.take(usize::MAX);
        if self.ended || rest.is_empty() {
            return;
        }
        let pending = self.pending.get_or_insert_default();
        if pending.pos > pending.held.len() / 2 {
            pending.compact();
        }
        pending.held.extend_from_slice(rest);
    }

    /// The bytes held for later: unused input, and the fragments of an unfinished message.
    pub fn waiting(&self) -> usize {
        match &self.pending {
            Some(pending) if pending.spent => pending.held.len() - pending.pos,
            Some(pending) => pending.held.len() - pending.pos + pending.message.len(),
            None => 0,
        }
    }

    /// The memory allocated for them.
    pub fn capacity(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.held.capacity() + pending.message.capacity())
    }

    /// Whether a message has begun whose last fragment has not come.
    pub fn is_within_message(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.fragmented.is_some())
    }

    /// Whether a close frame begins in the held bytes or in `ahead`, which follows them: bytes that a client has sent
    /// while it is not read. Only headers are examined, and nothing is consumed.
    pub fn closes_in(&self, ahead: &[u8]) -> bool {
        let held = self.pending.as_ref().map_or(&[][..], |pending| &pending.held[pending.pos..]);
        let mut at = 0;
        while at < held.len() + ahead.len() {
            let rest = held.iter().skip(at).chain(ahead.iter().skip(at.saturating_sub(held.len())));
            let mut header = [0; MAX_HEADER];
            let len = header.iter_mut().zip(rest).map(|(to, from)| *to = *from).count();
            let mut cursor = Cursor::new(&header[..len]);
            // An error is reported when the bytes are read.
            let Ok(Some((frame, payload))) = FrameHeader::parse(&mut cursor) else { return false };
            if frame.opcode == OpCode::Control(Control::Close) {
                return true;
            }
            at = at.saturating_add(cursor.position() as usize).saturating_add(payload as usize);
        }
        false
    }

    /// Frees what the last event used.
    fn tidy(&mut self) {
        let Some(pending) = &mut self.pending else { return };
        if pending.spent {
            pending.message = Vec::new();
            pending.spent = false;
        }
        if pending.pos == pending.held.len() {
            pending.held = Vec::new();
            pending.pos = 0;
        }
        if self.ended || (pending.held.is_empty() && pending.fragmented.is_none()) {
            self.pending = None;
        }
    }

    /// Advances to the next event: its opcode, whether it is compressed, and its payload, which is whole and unmasked, but
    /// not yet checked.
    fn advance(&mut self, input: &mut Input<'_>, limit: usize) -> Result<Option<(OpCode, bool, Place)>, Violation> {
        loop {
            self.tidy();
            if self.ended {
                input.take(usize::MAX);
                return Ok(None);
            }
            let Some(Frame { head, place }) = self.frame(input, limit)? else { return Ok(None) };
            input.frames += 1;
            if let (OpCode::Control(_), _) | (OpCode::Data(Data::Text | Data::Binary), true) = (head.opcode, head.fin) {
                return Ok(Some((head.opcode, head.compressed, place)));
            }

            let pending = self.pending.get_or_insert_default();
            let Pending { held, message, fragmented, spent, .. } = &mut **pending;
            let part = match place {
                Place::Input(range) => &input.chunk[range],
                Place::Held(range) => &held[range],
                Place::Message => &[],
            };
            let form = match head.opcode {
                OpCode::Data(Data::Text) => Form { kind: Kind::Text, compressed: head.compressed },
                OpCode::Data(Data::Binary) => Form { kind: Kind::Binary, compressed: head.compressed },
                _ => fragmented.unwrap_or(Form { kind: Kind::Binary, compressed: false }),
            };
            append(message, part, form.most(limit));
            *fragmented = (!head.fin).then_some(form);
            if head.fin {
                *spent = true;
                let opcode = match form.kind {
                    Kind::Text => Data::Text,
                    Kind::Binary => Data::Binary,
                };
                return Ok(Some((OpCode::Data(opcode), form.compressed, Place::Message)));
            }
        }
    }

    /// Takes a whole frame and unmasks it, or holds what there is of one.
    fn frame(&mut self, input: &mut Input<'_>, limit: usize) -> Result<Option<Frame>, Violation> {
        let fragments = self.pending.as_ref().and_then(|p| p.fragmented.map(|form| (form, p.message.len())));
        let rules = Rules { fragments, limit, takes_compressed: self.takes_compressed };
        if let Some(pending) = self.pending.as_mut().filter(|p| !p.held.is_empty()) {
            return pending.frame(input, &rules);
        }
        match Head::parse(input.rest(), &rules)? {
            Some(head) if head.total() <= input.rest().len() => {
                let payload = input.pos + head.len..input.pos + head.total();
                input.pos = payload.end;
                unmask(&mut input.chunk[payload.clone()], head.mask);
                Ok(Some(Frame { head, place: Place::Input(payload) }))
            }
            _ => {
                let rest = input.take(usize::MAX);
                if !rest.is_empty() {
                    self.pending.get_or_insert_default().held.extend_from_slice(rest);
                }
                Ok(None)
            }
        }
    }
}

impl Pending {
    /// [`Reader::frame`] where `held` is not empty: takes from the input only what completes the frame in `held`, so
    /// that the frames after it are used where they are.
    fn frame(&mut self, input: &mut Input<'_>, rules: &Rules) -> Result<Option<Frame>, Violation> {
        loop {
            let bytes = &self.held[self.pos..];
            let wanted = match Head::parse(bytes, rules)? {
                Some(head) if head.total() <= bytes.len() => {
                    let payload = self.pos + head.len..self.pos + head.total();
                    self.pos = payload.end;
                    unmask(&mut self.held[payload.clone()], head.mask);
                    return Ok(Some(Frame { head, place: Place::Held(payload) }));
                }
                Some(head) => head.total(),
                None => head_len(bytes),
            };
            if input.rest().is_empty() {
                return Ok(None);
            }
            if self.pos > 0 {
                self.compact();
            }
            let missing = wanted - self.held.len();
            append(&mut self.held, input.take(missing), wanted);
        }
    }

    /// Forgets the used bytes, and their memory too.
    fn compact(&mut self) {
        self.held = self.held[self.pos..].to_vec();
        self.pos = 0;
    }
}

/// Appends to a buffer that is to hold at most `end` bytes: it doubles, so that many small parts cost no more than one
/// large, but never beyond that end.
fn append(buffer: &mut Vec<u8>, part: &[u8], end: usize) {
    let len = buffer.len() + part.len();
    if len > buffer.capacity() {
        let room = buffer.capacity().saturating_mul(2).min(end).max(len);
        buffer.reserve_exact(room - buffer.len());
    }
    buffer.extend_from_slice(part);
}

/// Takes the mask off (RFC 6455, section 5.3). In words of 8, which the compiler turns into wider ones.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let key = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ key).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// Checks what a whole payload means.
fn event(opcode: OpCode, compressed: bool, payload: &[u8]) -> Result<Event<'_>, Violation> {
    match opcode {
        OpCode::Data(Data::Text) if compressed => Ok(Event::Compressed(Kind::Text, payload)),
        OpCode::Data(_) if compressed => Ok(Event::Compressed(Kind::Binary, payload)),
        OpCode::Data(Data::Text) => match utf8(payload) {
            Some(_) => Ok(Event::Text(payload)),
            None => Err(Violation::invalid("text message is not UTF-8")),
        },
        OpCode::Data(_) => Ok(Event::Binary(payload)),
        OpCode::Control(Control::Ping) => Ok(Event::Ping(payload)),
        OpCode::Control(Control::Pong) => Ok(Event::Pong(payload)),
        OpCode::Control(_) => match payload {
            [] => Ok(Event::Close(None)),
            [_] => Err(Violation::protocol("close frame of one byte")),
            [high, low, reason @ ..] => {
                let code = u16::from_be_bytes([*high, *low]);
                if !close_code::may_be_sent(code) {
                    return Err(Violation::protocol("invalid close code"));
                }
                match std::str::from_utf8(reason) {
                    Ok(reason) => Ok(Event::Close(Some((code, reason)))),
                    Err(_) => Err(Violation::invalid("close reason is not UTF-8")),
                }
            }
        },
    }
}

#[cfg(test)]
mod tests;
