//! The frames that the server sends (RFC 6455, section 5.2): encoded once, shared by every connection that gets them.
//!
//! A server's frames are unmasked, so their bytes are the same for all clients, and they are never fragmented: a
//! message is whole before it is sent. The rule for callers: a frame leaves in one piece or its rest leaves next; no
//! other frame may stand between.

use crate::message::Kind;
use std::mem::MaybeUninit;
use std::rc::Rc;

/// The most bytes that a control frame carries (RFC 6455, section 5.5).
pub const MAX_CONTROL: usize = 125;
/// The most bytes of a close frame's reason: what its code leaves of [`MAX_CONTROL`].
pub const MAX_REASON: usize = MAX_CONTROL - 2;

/// The first byte's bit that says: the last frame of its message.
const FIN: u8 = 0x80;
/// The first byte's bit that says: the message is compressed (RFC 7692, section 6).
const COMPRESSED: u8 = 0x40;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// A message as one unmasked frame, in one allocation. Text must be UTF-8, as [`crate::message::Message`] sees to.
pub fn encode(kind: Kind, payload: &[u8]) -> Rc<[u8]> {
    build(opcode(kind), payload, &[])
}

/// A message whose payload is compressed already, as one unmasked frame.
pub fn encode_compressed(kind: Kind, payload: &[u8]) -> Rc<[u8]> {
    build(COMPRESSED | opcode(kind), payload, &[])
}

fn opcode(kind: Kind) -> u8 {
    match kind {
        Kind::Text => TEXT,
        Kind::Binary => BINARY,
    }
}

/// Appends a message as one unmasked frame to `out`. Text must be UTF-8.
pub fn append(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    let (header, len) = header(opcode(kind), payload.len());
    out.reserve(len + payload.len());
    out.extend_from_slice(&header[..len]);
    out.extend_from_slice(payload);
}

/// A close frame (RFC 6455, section 5.5.1). A reason longer than [`MAX_REASON`] is cut between two characters.
pub fn encode_close(code: u16, reason: &str) -> Rc<[u8]> {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    build(CLOSE, &code.to_be_bytes(), &reason.as_bytes()[..end])
}

/// The answer to a client's close frame: its own code, or nothing if it gave none (RFC 6455, section 5.5.1).
pub fn encode_close_reply(code: Option<u16>) -> Rc<[u8]> {
    match code {
        Some(code) => encode_close(code, ""),
        None => build(CLOSE, &[], &[]),
    }
}

/// A ping (RFC 6455, section 5.5.2). A payload longer than [`MAX_CONTROL`] is cut, since longer pings are not allowed.
pub fn encode_ping(payload: &[u8]) -> Rc<[u8]> {
    build(PING, control(payload), &[])
}

/// The answer to a ping: the same payload (RFC 6455, section 5.5.3). Cut as in [`encode_ping`].
pub fn encode_pong(payload: &[u8]) -> Rc<[u8]> {
    build(PONG, control(payload), &[])
}

/// The length of the header before a payload of that many bytes.
pub const fn header_len(payload_len: usize) -> usize {
    match payload_len {
        0..=125 => 2,
        126..=0xFFFF => 4,
        _ => 10,
    }
}

fn control(payload: &[u8]) -> &[u8] {
    &payload[..payload.len().min(MAX_CONTROL)]
}

/// The header of an unmasked frame with that many bytes of payload, and its own length. `opcode` may have other bits of the
/// first byte, too.
fn header(opcode: u8, len: usize) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let header = &mut bytes[..header_len(len)];
    header[0] = FIN | opcode;
    match header.len() {
        2 => header[1] = len as u8,
        4 => {
            header[1] = 126;
            header[2..].copy_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(len as u64).to_be_bytes());
        }
    }
    (bytes, header_len(len))
}

/// Header, `head` and `tail` in one allocation: written in place, since a copy through a `Vec` would double the cost
/// of a large publication.
fn build(opcode: u8, head: &[u8], tail: &[u8]) -> Rc<[u8]> {
    let len = head.len() + tail.len();
    let (header, header_len) = header(opcode, len);
    let header = &header[..header_len];

    let mut frame = Rc::<[u8]>::new_uninit_slice(header.len() + len);
    // Nobody else has this `Rc`, so `make_mut` copies nothing.
    let (header_slots, slots) = Rc::make_mut(&mut frame).split_at_mut(header.len());
    let (head_slots, tail_slots) = slots.split_at_mut(head.len());
    fill(header_slots, header);
    fill(head_slots, head);
    fill(tail_slots, tail);
    // SAFETY: the three parts are all of the slice, and `fill` has written each to its end: the lengths agree by the
    // splits above, `tail_slots` being what is left of `header.len() + head.len() + tail.len()`.
    unsafe { frame.assume_init() }
}

/// Writes `bytes` into slots of the same number; a panic if it is not the same. A loop would not become a `memcpy`.
fn fill(slots: &mut [MaybeUninit<u8>], bytes: &[u8]) {
    // SAFETY: the same bytes. What is initialized may pass for what need not be.
    slots.copy_from_slice(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_its_header_and_its_payload() {
        assert_eq!(*encode(Kind::Text, b"Hello"), *b"\x81\x05Hello", "the example of RFC 6455, section 5.7");
        assert_eq!(*encode(Kind::Binary, b""), *b"\x82\x00");
        assert_eq!(*encode_ping(b"Hello"), *b"\x89\x05Hello");
        assert_eq!(*encode_compressed(Kind::Text, b"x"), *b"\xc1\x01x");
        assert_eq!(*encode_pong(b"Hello"), *b"\x8a\x05Hello");
    }

    #[test]
    fn the_header_takes_the_shortest_form() {
        for (len, header) in [
            (125, &b"\x82\x7d"[..]),
            (126, b"\x82\x7e\x00\x7e"),
            (0xFFFF, b"\x82\x7e\xff\xff"),
            (0x1_0000, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        ] {
            let payload = vec![7; len];
            let frame = encode(Kind::Binary, &payload);
            assert_eq!(header_len(len), header.len());
            assert_eq!(frame[..header.len()], *header);
            assert_eq!(frame[header.len()..], *payload);
            let mut out = b"before".to_vec();
            append(&mut out, Kind::Binary, &payload);
            assert_eq!(out, [b"before", &*frame].concat());
        }
    }

    #[test]
    fn a_close_frame_carries_code_and_reason() {
        assert_eq!(*encode_close(1001, "bye"), *b"\x88\x05\x03\xe9bye");
        assert_eq!(*encode_close_reply(Some(4000)), *b"\x88\x02\x0f\xa0");
        assert_eq!(*encode_close_reply(None), *b"\x88\x00");
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let frame = encode_close(1000, &"€".repeat(50));
        assert_eq!(frame.len(), 2 + 2 + 123);
        let frame = encode_close(1000, &format!("x{}", "€".repeat(50)));
        assert_eq!(frame.len(), 2 + 2 + 121, "122 and 123 would be inside a character");
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }

    #[test]
    fn control_frames_never_grow_over_their_limit() {
        assert_eq!(encode_ping(&[1; 300]).len(), 2 + MAX_CONTROL);
        assert_eq!(encode_pong(&[1; 300]).len(), 2 + MAX_CONTROL);
    }
}
