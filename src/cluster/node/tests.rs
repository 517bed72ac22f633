//! Tests of one node, to which a test says what others would.

use bytes::Bytes;
use std::sync::Arc;
use std::task::{Context, Waker};

use super::*;
use crate::cluster::heir::Heir;
use crate::cluster::proof;
use crate::cluster::protocol::{Header, Kind, MINOR, envelop};
use crate::cluster::sim::clients::{SimClients, data};

const SECRET: &[u8] = b"s";

fn settings() -> Settings {
    Settings {
        run: Run(1),
        secret: "s".into(),
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
    }
}

fn node() -> (Node<SimClients>, Arc<Shared>) {
    let shared = Arc::new(Shared::default());
    (Node::new(settings(), shared.clone(), SimClients::default(), 1), shared)
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
    begin(node, (from, secret), (Kind::Stream, 1), more)
}

/// The same of any epoch; or a greeting, outside of a stream.
fn begin(
    node: &Node<SimClients>,
    (from, secret): (&Hello, &[u8]),
    (kind, epoch): (Kind, u32),
    more: &[Bytes],
) -> Bytes {
    let mut frame = Vec::new();
    Header { kind, from: from.run, to: Run(1), epoch, seq: 0, read_epoch: 0, read: 0 }.write(&mut frame);
    let proof = proof::of(secret, from, &node.hello(), epoch);
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
        let frame = begin(node, (&hello(2), SECRET), (Kind::Aside, epoch), &[]);
        node.frame(frame, now);
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

/// A node has begun a stream anew while a successor listens, and was dropped before the process before handed over.
#[test]
fn a_successor_does_not_work_off_again_what_came_of_a_node_that_was_dropped() {
    let publish = |number: u64| {
        let data = &data("c", Run(2), number)[..];
        Message::Publish { channel: "c", binary: true, data, except: &[], key: None }.to_bytes()
    };
    for comes_back in [false, true] {
        let (mut before, _) = node();
        before.tick(2000);
        before.clients().local().subscribers.insert("c".into(), 1);
        before.frame(stream(&before, &hello(2), SECRET, &[snapshot()]), 2000);
        work(&mut before, 2000);
        let mut heir = Heir::new(Run(1), 7, before.precede().unwrap());
        let anew = begin(&before, (&hello(2), SECRET), (Kind::Stream, 2), &[snapshot(), publish(1)]);
        heir.frame(anew.clone());
        before.frame(anew, 2010);
        work(&mut before, 2010);
        // It stood still for too long.
        before.tick(6000);
        assert!(!before.is_complete(Run(2)));
        if comes_back {
            // As a peer without a stream.
            let greeting = begin(&before, (&hello(2), SECRET), (Kind::Aside, 3), &[]);
            heir.frame(greeting.clone());
            before.frame(greeting, 6000);
        }
        before.finish();
        assert!(before.is_at_rest());
        before.be_still();
        let (clients, shared) = (before.clients().clone(), Arc::new(Shared::default()));
        let mut node = Node::restore(settings(), shared, clients, &before.save(), 1).unwrap();
        heir.into_frames().for_each(|frame| node.frame(frame, 1));
        work(&mut node, 1);
        let came = |node: &mut Node<SimClients>| node.clients().local().came["c"].clone();
        assert_eq!((node.is_complete(Run(2)), came(&mut node)), (false, vec![(Run(2), 1)]), "{comes_back}");
        // What it begins then is heard.
        node.frame(begin(&node, (&hello(2), SECRET), (Kind::Stream, 4), &[snapshot(), publish(2)]), 1);
        work(&mut node, 1);
        assert_eq!((node.is_complete(Run(2)), came(&mut node).len()), (true, 2), "{comes_back}");
    }
}
