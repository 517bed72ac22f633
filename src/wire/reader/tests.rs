//! Tests of the frame reader.

use super::*;

/// A masked client frame: its first byte and its payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xFA, 0x21, 0x3D];
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, k)| b ^ k));
    bytes
}

/// What the reader says to these bytes: the number of events before the violation.
#[track_caller]
fn violation(bytes: &[u8]) -> (usize, Violation) {
    let mut bytes = bytes.to_vec();
    let mut reader = Reader::new();
    let mut input = Input::new(&mut bytes);
    let mut events = 0;
    loop {
        match reader.next(&mut input, 1000) {
            Ok(Some(_)) => events += 1,
            Ok(None) => panic!("no violation after {events} events"),
            Err(violation) => {
                assert_eq!(reader.next(&mut input, 1000), Ok(None), "nothing comes after a violation");
                assert!(input.rest().is_empty());
                assert_eq!(reader.waiting(), 0);
                assert!(violation.what.len() <= crate::wire::frame::MAX_REASON);
                return (events, violation);
            }
        }
    }
}

#[track_caller]
fn refused(bytes: &[u8], code: u16, what: &str) {
    let (events, violation) = violation(bytes);
    assert_eq!((events, violation.code), (0, code), "{violation}");
    assert!(violation.what.contains(what), "{violation}");
}

#[test]
fn an_idle_reader_is_two_words() {
    assert!(size_of::<Reader>() <= 16);
}

#[test]
fn the_example_of_the_rfc_is_read() {
    let mut bytes = *b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    let mut input = Input::new(&mut bytes);
    let mut reader = Reader::new();
    assert_eq!(reader.next(&mut input, 5), Ok(Some(Event::Text(b"Hello"))));
    assert_eq!(reader.next(&mut input, 5), Ok(None));
}

#[test]
fn reserved_bits_and_opcodes_are_refused() {
    for bit in [0x40, 0x20, 0x10] {
        refused(&frame(0x81 | bit, b"x"), 1002, "reserved bit");
    }
    for opcode in (0x3..=0x7).chain(0xB..=0xF) {
        refused(&frame(0x80 | opcode, b"x"), 1002, "reserved opcode");
    }
}

#[test]
fn unmasked_frames_are_refused() {
    refused(b"\x81\x00", 1002, "not masked");
    refused(b"\x81\x05Hello", 1002, "not masked");
}

#[test]
fn control_frames_are_short_and_whole() {
    refused(&frame(0x09, b"x"), 1002, "fragmented control");
    refused(&frame(0x89, &[0; 126]), 1002, "longer than 125");
}

#[test]
fn fragments_come_in_order() {
    refused(&frame(0x80, b"x"), 1002, "without a message");
    refused(&[frame(0x01, b"a"), frame(0x81, b"b")].concat(), 1002, "before the fragmented one");
    let (events, _) = violation(&[frame(0x01, b"a"), frame(0x80, b"b"), frame(0x80, b"c")].concat());
    assert_eq!(events, 1, "the message was finished by its last fragment");
}

#[test]
fn lengths_have_their_shortest_form() {
    refused(b"\x82\xfe\x00\x7dmask", 1002, "shortest");
    refused(b"\x82\xff\x00\x00\x00\x00\x00\x00\xff\xffmask", 1002, "shortest");
    refused(b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00mask", 1002, "top bit");
}

#[test]
fn a_message_over_the_limit_is_refused_by_its_header() {
    refused(&frame(0x82, &[0; 1001])[..8], 1009, "larger than 1000 bytes");
    refused(b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xffmask", 1009, "larger");
    let parts = [frame(0x02, &[0; 600]), frame(0x00, &[0; 400]), frame(0x80, &[0; 1])[..6].to_vec()].concat();
    refused(&parts, 1009, "larger than 1000 bytes");
}

#[test]
fn close_frames_are_checked() {
    refused(&frame(0x88, b"x"), 1002, "one byte");
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 0xFFFF] {
        refused(&frame(0x88, &code.to_be_bytes()), 1002, "close code");
    }
    refused(&frame(0x88, b"\x03\xe8\xff"), 1007, "reason");
    for code in [1000u16, 1003, 1007, 1014, 3000, 4999] {
        let mut bytes = [frame(0x88, &code.to_be_bytes()), frame(0x81, b"late")].concat();
        let mut input = Input::new(&mut bytes);
        let mut reader = Reader::new();
        assert_eq!(reader.next(&mut input, 10), Ok(Some(Event::Close(Some((code, ""))))));
        assert_eq!(reader.next(&mut input, 10), Ok(None), "nothing comes after a close");
        assert!(input.rest().is_empty());
    }
}

#[test]
fn text_is_checked_when_it_is_complete() {
    refused(&frame(0x81, b"\xc3"), 1007, "UTF-8");
    refused(&[frame(0x01, b"\xc3"), frame(0x80, b"x")].concat(), 1007, "UTF-8");
    let mut bytes = [frame(0x01, b"\xc3"), frame(0x80, b"\xa9")].concat();
    assert_eq!(Reader::new().next(&mut Input::new(&mut bytes), 10), Ok(Some(Event::Text("é".as_bytes()))));
}

#[test]
fn kept_frames_come_before_new_ones() {
    let mut reader = Reader::new();
    let mut first = [frame(0x81, b"a"), frame(0x81, b"b"), frame(0x81, b"c")[..3].to_vec()].concat();
    let mut input = Input::new(&mut first);
    assert_eq!(reader.next(&mut input, 10), Ok(Some(Event::Text(b"a"))));
    reader.keep(&mut input);
    assert_eq!(reader.waiting(), 7 + 3);
    let mut second = [&frame(0x81, b"c")[3..], &frame(0x81, b"d")].concat();
    let mut input = Input::new(&mut second);
    for expected in [b"b", b"c", b"d"] {
        assert_eq!(reader.next(&mut input, 10), Ok(Some(Event::Text(expected))));
    }
    assert_eq!(reader.next(&mut input, 10), Ok(None));
    assert!(reader.pending.is_none(), "nothing is held when nothing waits");
}

#[test]
fn a_close_frame_is_found_ahead_wherever_the_rest_begins() {
    let close = frame(0x88, b"");
    let before = [frame(0x01, &[0x88; 300]), frame(0x89, b"ping"), frame(0x80, &[0x88; 70_000])].concat();
    let bytes = [&before[..], &close].concat();
    for at in (0..bytes.len()).step_by(97).chain(before.len() - 8..bytes.len()) {
        let (mut held, ahead) = (bytes[..at].to_vec(), &bytes[at..]);
        let mut reader = Reader::new();
        reader.keep(&mut Input::new(&mut held));
        assert!(reader.closes_in(ahead), "{at}");
        assert!(!reader.closes_in(&ahead[..before.len().saturating_sub(at)]), "{at}");
        assert!(!reader.closes_in(&ahead[..ahead.len().saturating_sub(7)]), "{at}");
        assert_eq!(reader.waiting(), at, "nothing is taken");
    }
    assert!(!Reader::new().closes_in(b"garbage that is no frame"));
}

/// The first byte's bit of a compressed message.
const COMPRESSED: u8 = 0x40;

#[test]
fn a_compressed_message_is_told_by_its_first_frame() {
    let parts = [frame(0x01 | COMPRESSED, b"ab"), frame(0x89, b""), frame(0x80, b"c"), frame(0x82, b"plain")];
    let mut bytes = parts.concat();
    let (mut input, mut reader) = (Input::new(&mut bytes), Reader::of_compressed());
    assert_eq!(reader.next(&mut input, 10), Ok(Some(Event::Ping(b""))));
    assert_eq!(reader.next(&mut input, 10), Ok(Some(Event::Compressed(Kind::Text, b"abc"))));
    assert_eq!(reader.next(&mut input, 10), Ok(Some(Event::Binary(b"plain"))));
    for wrong in [
        frame(0x89 | COMPRESSED, b""),
        frame(0xA1, b""),
        [frame(0x01 | COMPRESSED, b"a"), frame(0x80 | COMPRESSED, b"b")].concat(),
        [frame(0x01, b"a"), frame(0x80 | COMPRESSED, b"b")].concat(),
    ] {
        let mut wrong = wrong.clone();
        let refused = Reader::of_compressed().next(&mut Input::new(&mut wrong), 10).unwrap_err();
        assert!(refused.code == 1002 && refused.what.contains("reserved bit"), "{refused}");
    }
}

#[test]
fn a_compressed_message_may_be_a_little_longer_than_what_it_holds() {
    let next = |first: u8, len: usize| {
        let mut bytes = frame(first, &vec![0; len]);
        Reader::of_compressed().next(&mut Input::new(&mut bytes), 800).map(|event| event.is_some())
    };
    let most = 800 + 100 + 64;
    assert_eq!((next(0x82, 800), next(0xC2, most)), (Ok(true), Ok(true)));
    for (first, len) in [(0x82, 801), (0xC2, most + 1)] {
        assert_eq!(next(first, len).unwrap_err().what, "message larger than 800 bytes");
    }
}
