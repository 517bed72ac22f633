//! What holds of any bytes that a client sends: the upgrade request and the frames after it.

use std::io::{self, Read, Write};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::deflate::{Inflator, Wrong};
use super::event_stream::request as stream;
use super::handshake::{self, Parsed, Refusal, Request, Rules};
use super::proxy;
use super::reader::{Event, Input, Reader, Violation};
use crate::message::{Kind, close_code};

/// An upgrade request: each part of it is judged as the whole is, and no answer can be made to hold another header.
pub fn handshake(bytes: &[u8]) {
    let whole = handshake::parse(bytes);
    for end in [bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1)] {
        match (handshake::parse(&bytes[..end]), &whole) {
            (Ok(Parsed::Incomplete), _) => {}
            (Ok(Parsed::Complete { len, .. }), Ok(Parsed::Complete { len: all, .. })) => assert_eq!(len, *all),
            (Err(part), Err(all)) => assert_eq!(part.status, all.status, "{part} became {all}"),
            (part, _) => panic!("{part:?} of {end} bytes became {whole:?}"),
        }
    }
    let request = match &whole {
        Ok(Parsed::Incomplete) => {
            assert!(bytes.len() < handshake::MAX_HEAD);
            return;
        }
        Ok(Parsed::Complete { request, len }) => {
            assert!(*len <= bytes.len().min(handshake::MAX_HEAD) && bytes[..*len].ends_with(b"\n"));
            request
        }
        Err(refusal) => return refused(refusal),
    };
    let _ = (request.path(), request.query(), request.authority(), handshake::forwarded_for(request).count());
    streams(request);
    let origins = ["https://example.com".to_owned()];
    let spoken = ["chat".to_owned()];
    for (allowed_origins, subprotocols) in [(&[][..], None), (&origins[..], Some(&spoken[..]))] {
        let rules = Rules { path: "/ws", allowed_origins, subprotocols };
        match handshake::check(request, &rules) {
            Ok(mut upgrade) => {
                assert_eq!((request.method, request.path(), request.version), ("GET", "/ws", 1));
                let origin = request.header("Origin");
                assert!(
                    origin.is_none_or(|origin| handshake::is_listed(origin, &origins)) || allowed_origins.is_empty()
                );
                assert!(upgrade.chosen.is_none_or(|chosen| upgrade.protocols.contains(&chosen)));
                let lines = 5 + usize::from(upgrade.chosen.is_some());
                let response = handshake::accept_response(&upgrade, upgrade.chosen);
                assert_eq!(response.windows(2).filter(|two| two == b"\r\n").count(), lines, "{response:?}");
                match upgrade.agree(request) {
                    Ok(()) => {
                        let lines = lines + usize::from(upgrade.deflate.is_some());
                        let response = handshake::accept_response(&upgrade, upgrade.chosen);
                        assert_eq!(response.windows(2).filter(|two| two == b"\r\n").count(), lines, "{response:?}");
                    }
                    Err(refusal) => refused(&refusal),
                }
            }
            Err(refusal) => refused(&refusal),
        }
    }
}

/// The same request where there are event streams: no answer can be made to hold another header.
fn streams(request: &Request<'_>) {
    let lines = |response: &[u8]| response.windows(2).filter(|two| two == b"\r\n").count();
    let _ = (stream::opens(request), stream::sends(request), stream::keeps(request), stream::last_event_id(request));
    let rules = Rules { path: "/ws", allowed_origins: &[], subprotocols: None };
    match stream::check(request, &rules) {
        Ok(origin) => {
            let response = stream::accept_response(origin);
            assert!([7, 9].contains(&lines(&response)), "{response:?}");
            assert_eq!(lines(&stream::taken(origin, true)), lines(&response) - 4);
        }
        Err(refusal) => refused(&refusal),
    }
    match stream::post(request, &rules, 1000) {
        Ok(post) => assert!(post.length <= 1000),
        Err(refusal) => {
            refused(&refusal);
            let response = stream::refused(&refusal, Default::default(), false);
            assert_eq!(lines(&response), 6 + usize::from(refusal.status == 429), "{response:?}");
        }
    }
    match stream::preflight(request, &rules) {
        Ok(response) => assert!([8, 10].contains(&lines(&response)), "{response:?}"),
        Err(refusal) => refused(&refusal),
    }
}

/// The header that a proxy puts before a client's bytes: what is complete is not changed by what follows, and each part of it
/// is incomplete.
pub fn proxy(bytes: &[u8]) {
    match proxy::parse(bytes) {
        Ok(proxy::Parsed::Complete { client, len }) => {
            assert!(len <= bytes.len().min(proxy::MAX_HEADER));
            for end in 0..len {
                assert_eq!(proxy::parse(&bytes[..end]), Ok(proxy::Parsed::Incomplete), "{end} of {len} bytes");
            }
            assert_eq!(proxy::parse(&bytes[..len]), Ok(proxy::Parsed::Complete { client, len }));
        }
        Ok(proxy::Parsed::Incomplete) => assert!(bytes.len() < proxy::MAX_HEADER),
        Err(why) => {
            assert!(!why.is_empty());
            assert_eq!(proxy::parse(&[bytes, b"more"].concat()), Err(why), "it became right by more bytes");
        }
    }
}

/// A refusal is a whole response: its text, which may tell what the client wrote, stays in the body.
fn refused(refusal: &Refusal) {
    let response = refusal.response();
    let head = response.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
    let body = head.map(|head| &response[head..]);
    assert_eq!(body, Some([refusal.text.as_bytes(), b"\n"].concat().as_slice()));
    assert!((400..600).contains(&refusal.status));
}

/// What a reader says, as owned values.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Said {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Compressed(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

impl From<Event<'_>> for Said {
    fn from(event: Event<'_>) -> Said {
        match event {
            Event::Text(data) => Said::Text(data.to_vec()),
            Event::Binary(data) => Said::Binary(data.to_vec()),
            Event::Compressed(kind, data) => Said::Compressed(kind, data.to_vec()),
            Event::Ping(data) => Said::Ping(data.to_vec()),
            Event::Pong(data) => Said::Pong(data.to_vec()),
            Event::Close(close) => Said::Close(close.map(|(code, reason)| (code, reason.to_owned()))),
        }
    }
}

/// The largest message of a client here.
const LIMIT: usize = 300;

/// Frames of a client, after a byte that says in which pieces they come, and whether messages may be compressed: all
/// readers say the same, however the bytes are cut, and what tungstenite says where nothing may be compressed.
pub fn frames(bytes: &[u8]) {
    let Some((&cuts, frames)) = bytes.split_first() else { return };
    let reader = || if cuts & 0x40 == 0 { Reader::new() } else { Reader::of_compressed() };
    let whole = read(reader(), frames, frames.len().max(1), false);
    let piece = usize::from(cuts & 0x3F) + 1;
    assert_eq!(read(reader(), frames, piece, cuts & 0x80 != 0), whole, "in pieces of {piece}");
    let (events, violation) = whole;
    for event in &events {
        if let Said::Compressed(_, data) = event {
            inflate(data);
        }
    }
    if matches!(events.last(), Some(Said::Close(_))) && violation.is_none() {
        assert!(Reader::new().closes_in(frames), "a close frame was not seen ahead");
    }
    if cuts & 0x40 == 0 {
        like_tungstenite(frames, &events, violation.as_ref());
    }
}

/// No bytes make more than the limit, nor more than one byte more on the way there.
fn inflate(data: &[u8]) {
    let mut out = Vec::new();
    match Inflator::default().inflate(data, &mut out, LIMIT) {
        Ok(()) => assert!(out.len() <= LIMIT),
        Err(Wrong::TooBig) => assert_eq!(out.len(), LIMIT + 1),
        Err(Wrong::Invalid) => assert!(out.len() <= LIMIT + 1),
    }
}

/// What the reader says of bytes that come in pieces. With `keep` what is unused is kept after each event.
fn read(mut reader: Reader, frames: &[u8], piece: usize, keep: bool) -> (Vec<Said>, Option<Violation>) {
    let (mut events, mut came) = (Vec::new(), 0);
    for piece in frames.chunks(piece) {
        let mut piece = piece.to_vec();
        came += piece.len();
        let mut input = Input::new(&mut piece);
        loop {
            match reader.next(&mut input, LIMIT) {
                Ok(Some(event)) => events.push(event.into()),
                Ok(None) => break,
                Err(violation) => {
                    assert!(violation.what.len() <= super::frame::MAX_REASON);
                    assert_eq!(reader.next(&mut Input::new(&mut []), LIMIT), Ok(None));
                    assert_eq!(reader.waiting(), 0);
                    return (events, Some(violation));
                }
            }
            if keep {
                reader.keep(&mut input);
            }
        }
        assert!(input.rest().is_empty(), "unused bytes are given up");
        assert!(reader.waiting() <= came && reader.capacity() <= 2 * came + 64, "{} of {came}", reader.capacity());
    }
    (events, None)
}

/// Bytes that are read once; what is written is dropped.
struct Wire<'a>(&'a [u8]);

impl Read for Wire<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.0.read(into) }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// tungstenite reads the same messages from these bytes, and takes none that we refuse. It sees text that is not UTF-8
/// before the message is whole, so that it may stop earlier there. It takes lengths that are not in their shortest form,
/// and answers close codes that must not be sent. It does not know 1014 of IANA's registry, and answers it like those.
fn like_tungstenite(frames: &[u8], ours: &[Said], violation: Option<&Violation>) {
    let known = |said: &Said| match said {
        Said::Close(Some((1014, _))) => Said::Close(Some((close_code::PROTOCOL, "Protocol violation".to_owned()))),
        said => said.clone(),
    };
    let ours: &[Said] = &ours.iter().map(known).collect::<Vec<_>>();
    let config =
        WebSocketConfig::default().read_buffer_size(1024).max_message_size(Some(LIMIT)).max_frame_size(Some(LIMIT));
    let mut socket = WebSocket::from_raw_socket(Wire(frames), Role::Server, Some(config));
    let mut theirs = Vec::new();
    let error = loop {
        theirs.push(match socket.read() {
            Ok(Message::Text(text)) => Said::Text(text.as_bytes().to_vec()),
            Ok(Message::Binary(data)) => Said::Binary(data.to_vec()),
            Ok(Message::Ping(data)) => Said::Ping(data.to_vec()),
            Ok(Message::Pong(data)) => Said::Pong(data.to_vec()),
            Ok(Message::Close(close)) => Said::Close(close.map(|c| (c.code.into(), c.reason.to_string()))),
            Ok(Message::Frame(_)) => continue,
            Err(error) => break error,
        });
        if matches!(theirs.last(), Some(Said::Close(_))) {
            break io::Error::from(io::ErrorKind::WouldBlock).into();
        }
    };
    let prefix = theirs.len() <= ours.len() && theirs == ours[..theirs.len()];
    let violation = violation.map(|violation| &*violation.what);
    let is_lenient = matches!(violation, Some("frame length not in its shortest form" | "invalid close code"));
    match violation {
        // It looks at each fragment's text, we at the whole message's: it stops earlier, unless it went past what we refuse.
        _ if matches!(error, Error::Utf8(_)) && (prefix || !is_lenient) => {
            assert!(prefix, "{ours:?}; tungstenite: {theirs:?}");
        }
        None => {
            let waits = matches!(&error, Error::Io(e) if e.kind() == io::ErrorKind::WouldBlock);
            assert!(waits && theirs == ours, "{ours:?}; tungstenite: {theirs:?}, {error}");
        }
        Some(_) if is_lenient => {
            assert!(theirs.len() >= ours.len() && theirs[..ours.len()] == *ours, "{ours:?}; tungstenite: {theirs:?}");
        }
        // It waits for the whole frame before it looks at its header.
        Some(what) => assert!(prefix, "{what}: {ours:?}; tungstenite: {theirs:?}, {error}"),
    }
}
