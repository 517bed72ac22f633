//! Tests of one node, to which a test says what others would.

use bytes::Bytes;
use std::sync::Arc;
use std::task::{Context, Waker};

use super::*;
use crate::cluster::proof;
use crate::cluster::protocol::{Header, Kind, MINOR, envelop};
use crate::cluster::sim::clients::SimClients;

const SECRET: &[u8] = b"s";

fn node() -> (Node<SimClients>, Arc<Shared>) {
    let shared = Arc::new(Shared::default());
    let settings = Settings {
        run: Run(1),
        secret: SECRET.to_vec(),
        nonce: [1; 16],
        engine: true,
        center: false,
        centers: Vec::new(),
        number: 1,
        started: 1,
        api: "us".into(),
        reached: Vec::new(),
        hello: HELLO,
        reply_timeout: 500,
        leave: 3000,
    };
    (Node::new(settings, shared.clone(), SimClients::default(), 1), shared)
}

fn hello(run: u64) -> Hello {
    Hello {
        major: MAJOR,
        minor: MINOR,
        run: Run(run),
        number: 2,
        engine: true,
        center: false,
        serving: true,
        started: 0,
        clients: 0,
        nonce: [2; 16],
        api: "them".into(),
    }
}

fn bytes_of(hello: &Hello) -> Vec<u8> {
    let mut bytes = Vec::new();
    hello.write(&mut bytes);
    bytes
}

/// The beginning of a stream, with these messages behind its first one.
fn stream(node: &Node<SimClients>, from: &Hello, secret: &[u8], more: &[Bytes]) -> Bytes {
    let mut frame = Vec::new();
    let header = Header { kind: Kind::Stream, from: from.run, to: Run(1), epoch: 1, seq: 0, read_epoch: 0, read: 0 };
    header.write(&mut frame);
    let proof = proof::of(secret, from, &node.hello(), 1);
    envelop(&Message::Begin { hello: from.clone(), proof }.to_bytes(), 0, &mut frame);
    more.iter().for_each(|message| envelop(message, 0, &mut frame));
    frame.into()
}

fn snapshot() -> Bytes {
    Message::Snapshot { version: 1, hashes: &[], last: true }.to_bytes()
}

fn work(node: &mut Node<SimClients>, now: u64) {
    node.work(&mut Context::from_waker(Waker::noop()), now);
}

#[test]
fn who_has_not_proved_itself_costs_no_thread_no_link_and_no_snapshot() {
    let (mut node, shared) = node();
    shared.own.first(7);
    for run in 2..5000 {
        node.hear(&bytes_of(&hello(run)), 10);
        node.frame(stream(&node, &hello(run), b"another", &[snapshot()]), 10);
    }
    let outputs = node.outputs();
    assert!(!outputs.iter().any(|output| matches!(output, Output::Send(_))));
    assert_eq!(shared.all_links().len(), 0);
    // Each that there is room for is greeted once, in few bytes.
    let greetings: Vec<usize> = outputs
        .iter()
        .filter_map(|output| if let Output::Greet(_, frame) = output { Some(frame.len()) } else { None })
        .collect();
    assert_eq!(greetings.len(), MAX_NODES);
    assert!(greetings.iter().all(|length| *length < 200));
    // And they are forgotten when nothing more is heard of them.
    node.tick(20);
    assert!(node.strangers.contains(Run(2)));
    node.tick(4000);
    assert!(!node.strangers.contains(Run(2)));
    // One with a proof is a peer at once, whatever strangers there are.
    node.frame(stream(&node, &hello(2), SECRET, &[snapshot()]), 4000);
    work(&mut node, 4000);
    assert!(node.is_complete(Run(2)) && shared.all_links().len() == 1);
}

#[test]
fn neighbours_of_one_minor_version_work_together_and_another_major_one_is_refused() {
    let (mut node, shared) = node();
    let newer = Hello { minor: MINOR + 1, ..hello(2) };
    let mut announced = bytes_of(&newer);
    announced.extend_from_slice(b"more than this version knows");
    node.hear(&announced, 10);
    // With a kind of message that is not known here.
    let unknown = Bytes::from_static(&[120, 1, 2, 3]);
    node.frame(stream(&node, &newer, SECRET, &[unknown, snapshot()]), 10);
    work(&mut node, 10);
    assert!(node.is_complete(Run(2)));
    let other = Hello { major: MAJOR + 1, ..hello(3) };
    node.hear(&bytes_of(&other), 10);
    node.frame(stream(&node, &other, SECRET, &[snapshot()]), 10);
    work(&mut node, 10);
    assert!(!node.is_complete(Run(3)) && !node.strangers.contains(Run(3)));
    assert_eq!(shared.all_links().len(), 1);
}

#[test]
fn of_two_nodes_with_one_number_the_later_takes_another_before_it_serves() {
    let (mut node, shared) = node();
    let earlier = Hello { number: 1, started: 0, serving: false, ..hello(2) };
    node.frame(stream(&node, &earlier, SECRET, &[snapshot()]), 10);
    work(&mut node, 10);
    node.tick(20);
    let taken = node.outputs().iter().find_map(|output| if let Output::Number(n) = output { Some(*n) } else { None });
    assert!(taken.is_some_and(|number| number != 1), "{taken:?}");
    assert_eq!(shared.members()[0].number, taken.unwrap());
    assert_ne!(shared.phase(), Phase::Serving);
    // One that began later gives way itself.
    let later = Hello { run: Run(3), number: taken.unwrap(), started: 2, serving: false, ..hello(3) };
    node.frame(stream(&node, &later, SECRET, &[snapshot()]), 30);
    work(&mut node, 30);
    node.tick(40);
    assert_eq!(shared.members()[0].number, taken.unwrap());
}

/// It is a peer here, and has forgotten us: its greeting says so.
#[test]
fn a_peer_that_greets_is_told_all_anew() {
    let (mut node, shared) = node();
    node.frame(stream(&node, &hello(2), SECRET, &[snapshot()]), 10);
    work(&mut node, 10);
    let epoch = shared.all_links()[0].epoch();
    let greet = |node: &mut Node<SimClients>, epoch: u32, now: u64| {
        let mut frame = Vec::new();
        let from = hello(2);
        Header { kind: Kind::Aside, from: from.run, to: Run(1), epoch, seq: 0, read_epoch: 0, read: 0 }
            .write(&mut frame);
        let proof = proof::of(SECRET, &from, &node.hello(), epoch);
        envelop(&Message::Begin { hello: from, proof }.to_bytes(), 0, &mut frame);
        node.frame(frame.into(), now);
    };
    // The beginning of our stream is on its way.
    greet(&mut node, 5, 100);
    assert_eq!(shared.all_links()[0].epoch(), epoch);
    greet(&mut node, 6, 1000);
    let anew = shared.all_links()[0].epoch();
    assert!(anew > epoch);
    // Who repeats what was heard changes nothing.
    greet(&mut node, 6, 3000);
    assert_eq!(shared.all_links()[0].epoch(), anew);
}
