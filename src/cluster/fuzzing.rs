//! What holds of any bytes from another node, whether or not it has proven that it knows the secret.

use bytes::Bytes;
use std::sync::Arc;
use std::task::{Context, Waker};

use super::command;
use super::members::Shared;
use super::node::{Clients, Delivery, HELLO, Node, Output, Settings, Waiting};
use super::proof;
use super::protocol::{Header, Hello, Kind, MAJOR, MINOR, Message, Messages, Run, envelop, read_answer, write_answer};
use crate::hub::{Answer, Counts};

const SECRET: &[u8] = b"known to both";
/// The other node, and its stream.
const OTHER: Run = Run(2);
const EPOCH: u32 = 1;

/// Bytes that come over the bus. The first one says where they come in.
pub fn mesh(bytes: &[u8]) {
    let Some((&first, rest)) = bytes.split_first() else { return };
    match first & 3 {
        0 => there_and_back(rest),
        1 => stranger(rest),
        _ => neighbour(rest),
    }
}

/// What is read is written as it was read.
fn there_and_back(bytes: &[u8]) {
    if let Ok(hello) = Hello::read(bytes) {
        let mut written = Vec::new();
        hello.write(&mut written);
        assert_eq!(Hello::read(&written), Ok(hello));
    }
    if let Ok((header, rest)) = Header::read(bytes) {
        let mut written = Vec::new();
        header.write(&mut written);
        assert_eq!(written, bytes[..bytes.len() - rest.len()]);
    }
    for (_, message) in Messages::new(bytes).flatten() {
        let mut again = Vec::new();
        envelop(&message.to_bytes(), 7, &mut again);
        assert_eq!(Messages::new(&again).collect::<Vec<_>>(), [Ok((7, message))]);
    }
    if let Some(answer) = read_answer(bytes) {
        assert_eq!(read_answer(&write_answer(&answer)), Some(answer));
    }
    if let Some(command) = command::decode(bytes) {
        // By its bytes: there are numbers that do not equal themselves.
        let written = command::encode(&command);
        assert_eq!(command::decode(&written).map(|again| command::encode(&again)), Some(written));
    }
}

/// Frames and hellos of a node that proves nothing.
fn stranger(bytes: &[u8]) {
    let mut node = node();
    for (now, part) in bytes.split(|b| *b == 0xAA).take(20).enumerate() {
        node.hear(part, now as u64);
        node.frame(Bytes::copy_from_slice(part), now as u64);
        turn(&mut node, now as u64 * 500);
    }
    node.end();
}

/// Messages of a node that is one of the mesh.
fn neighbour(bytes: &[u8]) {
    let mut node = node();
    let mine = turn(&mut node, 1).unwrap_or_else(|| panic!("a node announces itself"));
    let hello = Hello {
        major: MAJOR,
        minor: MINOR,
        run: OTHER,
        number: 2,
        engine: true,
        center: true,
        serving: true,
        started: 1,
        clients: 0,
        nonce: [7; 16],
        api: "other:1".to_owned(),
    };
    let proof = proof::of(SECRET, &hello, &mine, EPOCH);
    let mut begin = Vec::new();
    envelop(&Message::Begin { hello, proof }.to_bytes(), 0, &mut begin);
    envelop(&Message::Snapshot { version: 1, hashes: &[1; 8], last: true }.to_bytes(), 0, &mut begin);
    node.frame(frame(Kind::Stream, 0, &begin), 2);
    turn(&mut node, 2);
    assert!(node.is_complete(OTHER), "it is taken in");
    let (mut now, mut seq) = (2, 1);
    // Each part of the bytes is a frame: in its order, outside of the stream, or with a number of its own.
    for part in bytes.split(|b| *b == 0xAA).take(20) {
        let Some((&how, body)) = part.split_first() else { continue };
        now += u64::from(how >> 4);
        match how & 3 {
            0 => node.frame(frame(Kind::Aside, seq, body), now),
            1 => node.frame(frame(Kind::Stream, u64::from(how), body), now),
            _ => {
                node.frame(frame(Kind::Stream, seq, body), now);
                seq += 1;
            }
        }
        turn(&mut node, now);
    }
    node.leave();
    node.end();
}

fn frame(kind: Kind, seq: u64, body: &[u8]) -> Bytes {
    let mut out = Vec::new();
    Header { kind, from: OTHER, to: Run(1), epoch: EPOCH, seq, read_epoch: 1, read: seq }.write(&mut out);
    out.extend_from_slice(body);
    out.into()
}

fn node() -> Node<Nobody> {
    let settings = Settings {
        run: Run(1),
        secret: "known to both".into(),
        nonce: [1; 16],
        engine: true,
        center: false,
        centers: Vec::new(),
        number: 1,
        started: 0,
        api: "this:1".to_owned(),
        reached: Vec::new(),
        hello: HELLO,
        reply_timeout: 500,
        leave: 3000,
    };
    Node::new(settings, Arc::new(Shared::default()), Nobody, 0)
}

/// Does what is to be done. Returns the hello, if there was one.
fn turn(node: &mut Node<Nobody>, now: u64) -> Option<Hello> {
    node.work(&mut Context::from_waker(Waker::noop()), now);
    node.tick(now);
    let mut said = None;
    for output in node.outputs() {
        match output {
            Output::Announce(bytes) => said = Hello::read(&bytes).ok(),
            Output::Send(link) => {
                let mut out = Vec::new();
                while link.frame(now, &mut out) {
                    assert!(Header::read(&out).is_ok());
                    out.clear();
                }
            }
            Output::Greet(..) | Output::Dial(..) | Output::Number(_) => {}
        }
    }
    said
}

/// The clients of a node that has none.
struct Nobody;

impl Clients for Nobody {
    fn deliver(&mut self, delivery: Delivery) -> Option<Waiting> {
        match delivery {
            // What counts it says that nobody was reached, when it is dropped.
            Delivery::Publish { .. } | Delivery::ChannelCommand { .. } | Delivery::Send { .. } => {}
            Delivery::Once { channels, reply, .. } => reply.answer(&vec![Counts::default(); channels.len()]),
            Delivery::Stirred { .. } | Delivery::Online { .. } | Delivery::Ordered { .. } | Delivery::Moved { .. } => {}
            Delivery::Ask { reply, .. } => reply.answer(&Answer::default()),
            Delivery::Command { command, reply, .. } => {
                let known = command::decode(&command).is_some();
                reply.answer(if known { None } else { Some("it is malformed") }, 0);
            }
        }
        None
    }

    fn count(&self) -> u64 {
        0
    }

    fn poll(&mut self, _: &mut Context<'_>) {}
}
