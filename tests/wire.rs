//! The wire format checked against arbitrary input, against how the input is cut into reads, and against tungstenite.

use connmix::message::Kind;
use connmix::wire::frame::{self, encode, encode_close, encode_close_reply, encode_ping, encode_pong};
use connmix::wire::handshake::{self, Parsed, Rules};
use connmix::wire::reader::{Event, Input, Reader};
use proptest::collection::vec;
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, Cursor, Read, Write};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocket};

/// Counts what each thread allocates: tests run side by side.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

fn count(allocations: usize, bytes: isize) {
    ALLOCATIONS.set(ALLOCATIONS.get() + allocations);
    LIVE.set(LIVE.get() + bytes);
}

// SAFETY: everything is left to the system's allocator; the counters have no destructor and allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as isize);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, -(layout.size() as isize));
        // SAFETY: the caller's, and what the system's allocator gave.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as isize - layout.size() as isize);
        // SAFETY: the caller's, and what the system's allocator gave.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LIMIT: usize = 1 << 20;

/// An event that outlives its reader.
#[derive(Debug, Clone, PartialEq)]
enum Got {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Event<'_>> for Got {
    fn from(event: Event<'_>) -> Got {
        match event {
            Event::Text(text) => Got::Text(text.into()),
            Event::Binary(data) => Got::Binary(data.into()),
            Event::Ping(payload) => Got::Ping(payload.into()),
            Event::Pong(payload) => Got::Pong(payload.into()),
            Event::Close(close) => Got::Close(close.map(|(code, reason)| (code, reason.into()))),
            Event::Compressed(..) => unreachable!("it was not agreed"),
        }
    }
}

/// A frame as a client sends it.
fn client_frame(fin: bool, opcode: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![opcode | if fin { 0x80 } else { 0 }];
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
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// What a client does, its masks and where it cuts a message into fragments; after each fragment but the last it may
/// send a control frame.
#[derive(Debug, Clone)]
struct Act {
    what: Got,
    cuts: Vec<(prop::sample::Index, Option<Got>)>,
    mask: [u8; 4],
}

impl Act {
    /// Appends its frames to `bytes` and the events that they mean to `events`.
    fn perform(&self, bytes: &mut Vec<u8>, events: &mut Vec<Got>) {
        let (opcode, payload) = match &self.what {
            Got::Text(text) => (1, text.clone()),
            Got::Binary(data) => (2, data.clone()),
            Got::Ping(payload) => (9, payload.clone()),
            Got::Pong(payload) => (10, payload.clone()),
            Got::Close(None) => (8, Vec::new()),
            Got::Close(Some((code, reason))) => (8, [&code.to_be_bytes(), reason.as_bytes()].concat()),
        };
        let mut start = 0;
        let mut cuts: Vec<_> = self.cuts.iter().map(|(at, then)| (at.index(payload.len() + 1), then)).collect();
        cuts.sort_by_key(|(at, _)| *at);
        for (n, (end, then)) in cuts.iter().enumerate() {
            bytes.extend(client_frame(false, if n == 0 { opcode } else { 0 }, self.mask, &payload[start..*end]));
            start = *end;
            if let Some(control) = then {
                Act { what: control.clone(), cuts: Vec::new(), mask: self.mask }.perform(bytes, events);
            }
        }
        bytes.extend(client_frame(true, if cuts.is_empty() { opcode } else { 0 }, self.mask, &payload[start..]));
        events.push(self.what.clone());
    }
}

/// Lengths on both sides of every change of the header's form.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 0..20usize, 4 => 100..140usize, 2 => 140..5000usize, 1 => 65_500..65_600usize]
}

fn binary() -> impl Strategy<Value = Vec<u8>> {
    (length(), any::<u8>()).prop_map(|(len, seed)| (0..len).map(|n| (n as u8).wrapping_mul(31) ^ seed).collect())
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    (length(), prop::sample::select(vec!["a", "é", "弹", "🦀"]))
        .prop_map(|(len, letter)| format!("{}{}", "x".repeat(len % 4), letter.repeat(len / letter.len())).into_bytes())
}

fn control() -> impl Strategy<Value = Got> {
    prop_oneof![vec(any::<u8>(), 0..=125).prop_map(Got::Ping), vec(any::<u8>(), 0..=125).prop_map(Got::Pong)]
}

fn act() -> impl Strategy<Value = Act> {
    let message = prop_oneof![text().prop_map(Got::Text), binary().prop_map(Got::Binary)];
    let cuts = vec((any::<prop::sample::Index>(), prop::option::weighted(0.3, control())), 0..4);
    prop_oneof![
        3 => (message, cuts, any::<[u8; 4]>()).prop_map(|(what, cuts, mask)| Act { what, cuts, mask }),
        1 => (control(), any::<[u8; 4]>()).prop_map(|(what, mask)| Act { what, cuts: Vec::new(), mask }),
    ]
}

fn close() -> impl Strategy<Value = Act> {
    // 1014 is valid too, but tungstenite doesn't know it.
    let code = prop_oneof![1000..=1003u16, 1007..=1013u16, 3000..=4999u16];
    let close = prop::option::of((code, "[a-zé]{0,60}"));
    (close, any::<[u8; 4]>()).prop_map(|(close, mask)| Act { what: Got::Close(close), cuts: Vec::new(), mask })
}

/// What a client sends, and what it means.
fn conversation() -> impl Strategy<Value = (Vec<u8>, Vec<Got>)> {
    (vec(act(), 0..8), prop::option::of(close())).prop_map(|(acts, close)| {
        let (mut bytes, mut events) = (Vec::new(), Vec::new());
        acts.iter().chain(&close).for_each(|act| act.perform(&mut bytes, &mut events));
        (bytes, events)
    })
}

/// How the bytes arrive: the lengths of the reads, over and over.
fn reads() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![1]), Just(vec![usize::MAX]), vec(1..20usize, 1..9), vec(1..20_000usize, 1..9)]
}

fn cut<'b>(mut bytes: &'b [u8], reads: &'b [usize]) -> impl Iterator<Item = &'b [u8]> {
    let mut reads = reads.iter().cycle();
    std::iter::from_fn(move || {
        let (chunk, rest) = bytes.split_at((*reads.next()?).min(bytes.len()));
        bytes = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// Reads it all. Wherever `keeps` says so the input is kept, and the reading goes on later: without input or with more.
fn read(reader: &mut Reader, bytes: &[u8], reads: &[usize], keeps: &[bool]) -> Vec<Got> {
    let mut events = Vec::new();
    let mut keeps = keeps.iter().copied().cycle();
    let mut read_on = |input: &mut Input<'_>| {
        while keeps.next() == Some(false) {
            match reader.next(input, LIMIT).expect("valid frames") {
                Some(event) => events.push(Got::from(event)),
                None => return,
            }
        }
        reader.keep(input);
    };
    let mut shared = Vec::new();
    for chunk in cut(bytes, reads) {
        shared.clear();
        shared.extend_from_slice(chunk);
        let mut input = Input::new(&mut shared);
        read_on(&mut input);
        assert!(input.rest().is_empty());
        // Others use the buffer now.
        shared.fill(0xAA);
        read_on(&mut Input::new(&mut []));
    }
    while let Some(event) = reader.next(&mut Input::new(&mut []), LIMIT).expect("valid frames") {
        events.push(event.into());
    }
    events
}

/// A socket that only gives.
struct Given(Cursor<Vec<u8>>);

impl Read for Given {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Given {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite makes of these bytes.
fn read_by_tungstenite(bytes: Vec<u8>, role: Role) -> Vec<Got> {
    let mut socket = WebSocket::from_raw_socket(Given(Cursor::new(bytes)), role, None);
    let mut events = Vec::new();
    while let Ok(message) = socket.read() {
        events.push(match message {
            Message::Text(text) => Got::Text(text.as_str().into()),
            Message::Binary(data) => Got::Binary(data.to_vec()),
            Message::Ping(payload) => Got::Ping(payload.to_vec()),
            Message::Pong(payload) => Got::Pong(payload.to_vec()),
            Message::Close(close) => Got::Close(close.map(|c| (c.code.into(), c.reason.as_str().into()))),
            Message::Frame(_) => unreachable!("a socket gives messages"),
        });
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_mean_the_same_however_they_arrive(
        (bytes, events) in conversation(),
        reads in reads(),
        keeps in prop_oneof![Just(vec![false]), Just(vec![true]), vec(any::<bool>(), 1..9)],
    ) {
        let mut reader = Reader::new();
        prop_assert_eq!(read(&mut reader, &bytes, &reads, &keeps), events);
        prop_assert_eq!(reader.waiting(), 0);
    }

    #[test]
    fn tungstenite_reads_the_same((bytes, events) in conversation()) {
        prop_assert_eq!(read_by_tungstenite(bytes, Role::Server), events);
    }

    #[test]
    fn a_tungstenite_client_reads_what_is_encoded(
        text in text(), data in binary(), control in vec(any::<u8>(), 0..=125), code in 3000..5000u16, reason in "[a-zé]{0,90}",
    ) {
        let frames = [
            encode(Kind::Text, &text),
            encode(Kind::Binary, &data),
            encode_ping(&control),
            encode_pong(&control),
            encode_close(code, &reason),
        ];
        let mut sent = reason.clone();
        while sent.len() > frame::MAX_REASON {
            sent.pop();
        }
        prop_assert_eq!(
            read_by_tungstenite(frames.concat(), Role::Client),
            [Got::Text(text), Got::Binary(data), Got::Ping(control.clone()), Got::Pong(control), Got::Close(Some((code, sent)))]
        );
        prop_assert_eq!(
            read_by_tungstenite(encode_close_reply(Some(code)).to_vec(), Role::Client),
            [Got::Close(Some((code, String::new())))]
        );
    }

    #[test]
    fn no_bytes_make_the_reader_panic_or_hold_more_than_the_limit(
        (mut bytes, _) in conversation(),
        noise in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        tail in vec(any::<u8>(), 0..200),
        reads in reads(),
        limit in prop_oneof![Just(0), 1..200usize, 200..70_000usize],
    ) {
        bytes.extend(tail);
        for (at, byte) in noise {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        let mut reader = Reader::new();
        let mut shared = Vec::with_capacity(bytes.len());
        let before = LIVE.get();
        'reads: for chunk in cut(&bytes, &reads) {
            shared.clear();
            shared.extend_from_slice(chunk);
            let mut input = Input::new(&mut shared);
            loop {
                match reader.next(&mut input, limit) {
                    Ok(Some(Event::Text(data) | Event::Binary(data))) => prop_assert!(data.len() <= limit),
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'reads,
                }
            }
            // Control frames are outside the limit.
            prop_assert!(reader.waiting() <= limit + frame::MAX_CONTROL + 14);
            // A half message and the next fragment, both with room to grow, but never over the limit.
            let held = LIVE.get() - before;
            prop_assert!(held <= (limit + limit / 2 + frame::MAX_CONTROL + 14 + 128) as isize, "{held} bytes for {limit}");
        }
    }

    #[test]
    fn no_bytes_make_the_handshake_panic(
        line in prop_oneof![4 => Just("GET /a HTTP/1.1"), 1 => Just("POST /b?c HTTP/1.0")],
        must in prop_oneof![
            4 => Just("Host: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
            1 => Just("Host: a\r\n"),
        ],
        may in "((Origin|Sec-WebSocket-Protocol|X-Forwarded-For): [ -~]{0,20}\r\n|Sec-WebSocket-Protocol: [a-c,]{0,9}\r\n){0,3}",
        noise in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        anything in vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = format!("{line}\r\n{must}{may}\r\n").into_bytes();
        for (at, byte) in noise {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let origins = ["https://example.com".to_string()];
        for bytes in [bytes, anything] {
            match handshake::parse(&bytes) {
                Ok(Parsed::Complete { request, len }) => {
                    prop_assert!(len <= bytes.len());
                    handshake::forwarded_for(&request).for_each(drop);
                    for allowed_origins in [&origins[..], &[]] {
                        match handshake::check(&request, &Rules { path: "/a", allowed_origins, subprotocols: None }) {
                            Ok(upgrade) => {
                                let response = handshake::accept_response(&upgrade, upgrade.chosen);
                                let lines = response.split(|b| *b == b'\n').count();
                                prop_assert_eq!(lines, 6 + usize::from(upgrade.chosen.is_some()));
                            }
                            Err(refusal) => prop_assert!((400..=599).contains(&refusal.status)),
                        }
                    }
                }
                Ok(Parsed::Incomplete) => {}
                Err(refusal) => prop_assert!(refusal.response().starts_with(b"HTTP/1.1 ")),
            }
        }
    }
}

#[test]
fn a_whole_frame_is_read_without_allocation() {
    let mut bytes = [
        client_frame(true, 1, [1, 2, 3, 4], "hello".as_bytes()),
        client_frame(true, 2, [5, 6, 7, 8], &[9; 70_000]),
        client_frame(true, 9, [5, 6, 7, 8], b"ping"),
        client_frame(true, 8, [5, 6, 7, 8], b"\x03\xe8bye"),
    ]
    .concat();
    let mut reader = Reader::new();
    let before = ALLOCATIONS.get();
    let mut input = Input::new(&mut bytes);
    let mut events = 0;
    while let Ok(Some(_)) = reader.next(&mut input, LIMIT) {
        events += 1;
    }
    assert_eq!((events, ALLOCATIONS.get() - before), (4, 0));
}

#[test]
fn a_frame_is_encoded_in_one_allocation() {
    let before = ALLOCATIONS.get();
    let frame = encode(Kind::Binary, &[7; 70_000]);
    assert_eq!(ALLOCATIONS.get() - before, 1);
    assert_eq!(frame.len(), frame::header_len(70_000) + 70_000);
}

#[test]
fn a_reader_goes_back_to_nothing() {
    let bytes = [
        client_frame(false, 2, [1, 2, 3, 4], &[1; 5000]),
        client_frame(true, 9, [1, 2, 3, 4], b"ping"),
        client_frame(true, 0, [1, 2, 3, 4], &[2; 5000]),
    ]
    .concat();
    let mut reader = Reader::new();
    let mut shared = [0; 100];
    let before = LIVE.get();
    for chunk in bytes.chunks(100) {
        let shared = &mut shared[..chunk.len()];
        shared.copy_from_slice(chunk);
        let mut input = Input::new(shared);
        while reader.next(&mut input, LIMIT).unwrap().is_some() {}
    }
    assert_eq!((reader.waiting(), LIVE.get() - before), (0, 0));
}

#[test]
fn a_large_message_leaves_no_memory_behind_while_a_little_waits() {
    let whole = client_frame(true, 2, [1, 2, 3, 4], &vec![1; LIMIT]);
    let fragments =
        [client_frame(false, 2, [1, 2, 3, 4], &vec![1; LIMIT / 2]), client_frame(true, 0, [1, 2, 3, 4], &[2; 9])]
            .concat();
    for bytes in [whole, fragments] {
        let mut bytes = [bytes, client_frame(true, 1, [1, 2, 3, 4], b"unfinished")[..9].to_vec()].concat();
        let (first, second) = bytes.split_at_mut(LIMIT / 4);
        let mut reader = Reader::new();
        let before = LIVE.get();
        assert_eq!(reader.next(&mut Input::new(first), LIMIT), Ok(None));
        let mut input = Input::new(second);
        assert!(matches!(reader.next(&mut input, LIMIT), Ok(Some(Event::Binary(_)))));
        assert_eq!(reader.next(&mut input, LIMIT), Ok(None));
        assert_eq!(reader.waiting(), 9);
        assert!(LIVE.get() - before < 256);
    }
}

#[test]
fn a_large_message_in_small_reads_costs_few_allocations() {
    let mut bytes = client_frame(true, 2, [1, 2, 3, 4], &vec![1; LIMIT]);
    let mut reader = Reader::new();
    let before = ALLOCATIONS.get();
    let mut last = 0;
    for chunk in bytes.chunks_mut(100) {
        let mut input = Input::new(chunk);
        while let Some(event) = reader.next(&mut input, LIMIT).unwrap() {
            let Event::Binary(data) = event else { panic!("{event:?}") };
            last = data.len();
        }
    }
    assert_eq!(last, LIMIT);
    assert!(ALLOCATIONS.get() - before < 20, "doubling, not growing with every read");
}

#[test]
fn an_announced_length_reserves_nothing() {
    let mut bytes = client_frame(true, 2, [1, 2, 3, 4], &vec![1; LIMIT])[..1000].to_vec();
    let mut reader = Reader::new();
    let before = LIVE.get();
    assert_eq!(reader.next(&mut Input::new(&mut bytes), LIMIT), Ok(None));
    assert!(LIVE.get() - before < 1500);
}

#[test]
fn empty_fragments_take_no_memory() {
    let mut bytes = client_frame(false, 1, [1, 2, 3, 4], b"");
    for _ in 0..10_000 {
        bytes.extend(client_frame(false, 0, [1, 2, 3, 4], b""));
    }
    let mut reader = Reader::new();
    let before = LIVE.get();
    for chunk in bytes.chunks_mut(1001) {
        assert_eq!(reader.next(&mut Input::new(chunk), LIMIT), Ok(None));
        assert!(LIVE.get() - before < 256);
    }
    let mut last = client_frame(true, 0, [1, 2, 3, 4], b"x");
    assert_eq!(reader.next(&mut Input::new(&mut last), LIMIT), Ok(Some(Event::Text(b"x"))));
}
