//! A whole mesh in one thread under a seed: nodes that come, are killed and come back, links that lose, delay and are cut,
//! and clients that subscribe, leave and publish, against a naive model. Time, order and faults come from the seed alone, so
//! a seed that fails fails again.
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::cluster::node::{Clients, Node as Core, Delivery, Output, Settings, Waiting};
use crate::hub::{Counts, Tally};
use crate::cluster::interest::hash;
use crate::cluster::link::{Full, Link, Request};
use crate::cluster::members::{Phase, Shared};
use crate::cluster::protocol::{Message, Run};

/// A generator of numbers from a seed (SplitMix64, Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

const CHANNELS: u64 = 12;
fn name(channel: u64) -> String {
    format!("c:{channel}")
}

/// What the clients of a node have: subscribers of each channel, and what came to them.
#[derive(Default)]
struct Local {
    subscribers: HashMap<String, u64>,
    /// Publication numbers, with who published them, for each channel in the order in which they came.
    came: HashMap<String, Vec<(Run, u64)>>,
    /// No room for so many tries.
    busy: u64,
}

#[derive(Clone, Default)]
struct SimClients(Rc<RefCell<Local>>);

impl SimClients {
    fn publish(&self, channel: &str, data: &[u8]) -> Counts {
        let local = &mut *self.0.borrow_mut();
        let reached = local.subscribers.get(channel).copied().unwrap_or(0);
        if reached > 0 {
            let from = u64::from_le_bytes(data[..8].try_into().unwrap());
            let number = u64::from_le_bytes(data[8..16].try_into().unwrap());
            local.came.entry(channel.into()).or_default().push((Run(from), number));
        }
        Counts { reached, ..Counts::default() }
    }
}

impl Clients for SimClients {
    fn deliver(&mut self, delivery: Delivery) -> Option<Waiting> {
        let Delivery::Publish { channel, data, counts, .. } = delivery else { panic!() };
        let counts = counts.map(|counts| counts.share());
        if self.0.borrow().busy == 0 {
            let reached = self.publish(&channel, &data);
            counts.into_iter().for_each(|share| share.settle(reached));
            return None;
        }
        // The future is polled in this thread alone.
        let (clients, mut counts) = (Unsent(self.clone()), counts);
        Some(Box::pin(std::future::poll_fn(move |_| {
            let clients = &clients;
            let busy = clients.0.0.borrow().busy;
            if busy > 0 {
                clients.0.0.borrow_mut().busy -= 1;
                return Poll::Pending;
            }
            let reached = clients.0.publish(&channel, &data);
            counts.take().into_iter().for_each(|share| share.settle(reached));
            Poll::Ready(())
        })))
    }
    fn count(&self) -> u64 {
        self.0.borrow().subscribers.values().sum()
    }

    fn poll(&mut self, _: &mut Context<'_>) {}
}

struct Unsent(SimClients);
unsafe impl Send for Unsent {}

struct Subscription {
    id: u64,
    waits: Option<oneshot::Receiver<()>>,
    /// The version of this node's channels that tells of it.
    version: u64,
    complete: bool,
}

struct Node {
    core: Core<SimClients>,
    shared: Arc<Shared>,
    clients: SimClients,
    links: Vec<Arc<Link>>,
    subscriptions: HashMap<String, Subscription>,
    /// Publications for links that had no room: in order.
    blocked: VecDeque<(Arc<Link>, Bytes, Option<Request>)>,
    frozen_until: u64,
    ticked: u64,
}

/// A publication under way.
struct Published {
    by: Run,
    number: u64,
    channel: String,
    /// The nodes that must get it, by which subscription.
    must: Vec<(Run, u64)>,
    local: u64,
    counts: oneshot::Receiver<Counts>,
}

struct World {
    random: Random,
    now: u64,
    nodes: BTreeMap<Run, Node>,
    /// What is on its way: when it comes, in order for each pair.
    network: BTreeMap<(Run, Run), VecDeque<(u64, Bytes, bool)>>,
    cut: HashSet<(Run, Run)>,
    published: Vec<Published>,
    next_run: u64,
    next_number: u64,
    /// Faults happen now, and in this run.
    faults: bool,
    faulty: bool,
    done: u64,
    unanswered: u64,
    subscribed: u64,
}

impl World {
    fn new(seed: u64, faults: bool) -> World {
        World {
            random: Random(seed),
            now: 1,
            nodes: BTreeMap::new(),
            network: BTreeMap::new(),
            cut: HashSet::new(),
            published: Vec::new(),
            next_run: 1,
            next_number: 1,
            faults,
            faulty: faults,
            done: 0,
            unanswered: 0,
            subscribed: 0,
        }
    }

    fn start(&mut self) {
        let run = Run(self.next_run);
        self.next_run += 1;
        let (shared, clients) = (Arc::new(Shared::default()), SimClients::default());
        let settings = Settings {
            run,
            secret: b"s".to_vec(),
            nonce: [run.0 as u8; 16],
            engine: true,
            center: run.0 % 3 == 1,
            centers: Vec::new(),
            number: (run.0 % 4 + 1) as u16,
            started: self.now,
            api: format!("node-{}", run.0),
            mesh: String::new(),
            reply_timeout: 500,
            leave: 3000,
        };
        let core = Core::new(settings, shared.clone(), clients.clone(), self.now);
        let node = Node {
            core,
            shared,
            clients,
            links: Vec::new(),
            subscriptions: HashMap::new(),
            blocked: VecDeque::new(),
            frozen_until: 0,
            ticked: 0,
        };
        self.nodes.insert(run, node);
    }

    /// A step of some milliseconds.
    fn step(&mut self) {
        self.now += 1 + self.random.below(4);
        let runs: Vec<Run> = self.nodes.keys().copied().collect();
        for &run in &runs {
            self.arrive(run);
            self.run_node(run);
        }
        self.settle();
    }

    /// Frames and hellos that have come to a node.
    fn arrive(&mut self, to: Run) {
        let Some(node) = self.nodes.get_mut(&to) else { return };
        if node.frozen_until > self.now {
            return;
        }
        for ((_, for_whom), queue) in &mut self.network {
            if *for_whom != to {
                continue;
            }
            while queue.front().is_some_and(|(at, ..)| *at <= self.now) {
                let (_, bytes, hello) = queue.pop_front().unwrap();
                if hello { node.core.hear(&bytes, self.now) } else { node.core.frame(bytes, self.now) }
            }
        }
    }

    fn run_node(&mut self, run: Run) {
        let Some(node) = self.nodes.get_mut(&run) else { return };
        if node.frozen_until > self.now {
            return;
        }
        let mut cx = Context::from_waker(Waker::noop());
        node.core.work(&mut cx, self.now);
        if self.now >= node.ticked + 20 {
            node.ticked = self.now;
            node.core.tick(self.now);
        }
        let mut sent = Vec::new();
        for output in node.core.outputs() {
            match output {
                Output::Announce(bytes) => sent.push((None, Bytes::from(bytes))),
                Output::Send(link) => node.links.push(link),
                Output::Number(_) => {}
            }
        }
        // Those without room before: in their order.
        while let Some((link, bytes, request)) = node.blocked.pop_front() {
            if let Err(Full(request)) = link.offer(&bytes, request, self.now) {
                node.blocked.push_front((link, bytes, request));
                break;
            }
        }
        for link in &node.links {
            let mut out = Vec::new();
            let mut frames = 0;
            while frames < 4 && link.frame(self.now, &mut out) {
                sent.push((Some(link.peer), Bytes::from(std::mem::take(&mut out))));
                frames += 1;
            }
        }
        let others: Vec<Run> = self.nodes.keys().copied().filter(|other| *other != run).collect();
        for (to, bytes) in sent {
            let hello = to.is_none();
            let receivers = to.map_or_else(|| others.clone(), |to| vec![to]);
            for to in receivers {
                self.send(run, to, bytes.clone(), hello);
            }
        }
    }

    fn send(&mut self, from: Run, to: Run, bytes: Bytes, hello: bool) {
        let lost = self.faults && self.random.below(2000) == 0;
        if self.cut.contains(&(from, to)) || lost || !self.nodes.contains_key(&to) {
            return;
        }
        let delay = self.random.below(if self.random.0 % 50 == 0 { 100 } else { 5 });
        let queue = self.network.entry((from, to)).or_default();
        let at = queue.back().map_or(0, |(at, ..)| *at).max(self.now + delay);
        queue.push_back((at, bytes, hello));
    }

    fn any_serving(&mut self) -> Option<Run> {
        let serving: Vec<Run> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.shared.phase() == Phase::Serving && node.frozen_until <= self.now)
            .map(|(run, _)| *run)
            .collect();
        (!serving.is_empty()).then(|| serving[self.random.below(serving.len() as u64) as usize])
    }

    fn subscribe(&mut self) {
        let (Some(run), channel) = (self.any_serving(), name(self.random.below(CHANNELS))) else { return };
        let node = self.nodes.get_mut(&run).unwrap();
        let local = &mut *node.clients.0.borrow_mut();
        let count = local.subscribers.entry(channel.clone()).or_default();
        *count += 1;
        if *count == 1 {
            let key = hash(&channel);
            node.shared.own.first(key);
            let waits = node.shared.own.told(key);
            let version = node.shared.own.versions().0 + 1;
            node.subscriptions.insert(channel, Subscription { id: self.subscribed, complete: waits.is_none(), version, waits });
            self.subscribed += 1;
        }
    }

    fn unsubscribe(&mut self) {
        let (Some(run), channel) = (self.any_serving(), name(self.random.below(CHANNELS))) else { return };
        let node = self.nodes.get_mut(&run).unwrap();
        let local = &mut *node.clients.0.borrow_mut();
        if let Some(count) = local.subscribers.get_mut(&channel).filter(|count| **count > 0) {
            *count -= 1;
            if *count == 0 {
                node.shared.own.last(hash(&channel), self.now);
                node.subscriptions.remove(&channel);
            }
        }
    }

    fn publish(&mut self) {
        let (Some(by), channel) = (self.any_serving(), name(self.random.below(CHANNELS))) else { return };
        if self.nodes[&by].blocked.len() > 50 {
            return;
        }
        let number = self.next_number;
        self.next_number += 1;
        let key = hash(&channel);
        let must = self.must(by, &channel);
        let node = self.nodes.get_mut(&by).unwrap();
        let size = if self.random.chance(1) { 200_000 } else { 16 };
        let mut data = [by.0.to_le_bytes(), number.to_le_bytes()].concat();
        data.resize(size, 0);
        let (counts, receipt) = Tally::new();
        let local = node.clients.publish(&channel, &data);
        counts.share().settle(local);
        let message = Message::Publish { channel: &channel, binary: true, data: &data }.to_bytes();
        for link in node.shared.links_of(key) {
            let request = Some(Request::Counts(counts.share()));
            if !node.blocked.is_empty() {
                node.blocked.push_back((link, message.clone(), request));
            } else if let Err(Full(request)) = link.offer(&message, request, self.now) {
                node.blocked.push_back((link, message.clone(), request));
            }
        }
        self.published.push(Published { by, number, channel, must, local: local.reached, counts: receipt });
    }

    /// The nodes that a publish must reach now: their subscriber was told that it is subscribed, `by` has said that it
    /// knows of it, and has not given the node up.
    fn must(&self, by: Run, channel: &str) -> Vec<(Run, u64)> {
        let publisher = &self.nodes[&by].core;
        let reached = |(run, node): (&Run, &Node)| {
            let subscription = node.subscriptions.get(channel)?;
            let knows = !self.faulty || node.core.knows(by).is_some_and(|version| version >= subscription.version);
            (*run != by && subscription.complete && knows && publisher.is_complete(*run)).then_some((*run, subscription.id))
        };
        self.nodes.iter().filter_map(reached).collect()
    }

    /// Looks at what has come to an end.
    fn settle(&mut self) {
        for node in self.nodes.values_mut() {
            for subscription in node.subscriptions.values_mut().filter(|subscription| !subscription.complete) {
                subscription.complete = subscription.waits.as_mut().is_none_or(|waits| waits.try_recv().is_ok());
            }
        }
        let mut open = Vec::new();
        for mut published in std::mem::take(&mut self.published) {
            let Ok(counts) = published.counts.try_recv() else {
                open.push(published);
                continue;
            };
            self.done += 1;
            self.unanswered += u64::from(counts.unanswered > 0);
            let Published { by, number, channel, must, local, .. } = published;
            let mut reached = 0;
            for (run, node) in &self.nodes {
                let local = node.clients.0.borrow();
                let times = local.came.get(&channel).map_or(0, |came| {
                    came.iter().rev().take(2000).filter(|it| **it == (by, number)).count()
                });
                assert!(times <= 1, "{channel} {number} of {by:?} came {times} times to {run:?}");
                reached += times;
            }
            if counts.unanswered == 0 && self.nodes.contains_key(&by) {
                for (run, id) in &must {
                    let Some(node) = self.nodes.get(run) else { continue };
                    let local = node.clients.0.borrow();
                    let came = local.came.get(&channel).is_some_and(|came| came.contains(&(by, number)));
                    let same = node.subscriptions.get(&channel).is_some_and(|it| it.id == *id);
                    assert!(came || !same,
                        "{channel} {number} of {by:?} did not come to {run:?}, and nothing says so: {counts:?}");
                }
                assert!(counts.reached >= local, "{counts:?} {local} {reached}");
            }
            if !self.faulty {
                assert_eq!((counts.unanswered, counts.failed), (0, 0));
            }
        }
        self.published = open;
    }

    fn fault(&mut self) {
        let runs: Vec<Run> = self.nodes.keys().copied().collect();
        let pick = |random: &mut Random| runs[random.below(runs.len() as u64) as usize];
        match self.random.below(8) {
            0 if runs.len() > 2 => {
                let run = pick(&mut self.random);
                let mut node = self.nodes.remove(&run).unwrap();
                if self.random.chance(50) {
                    // Told, or killed.
                    node.core.leave();
                    for link in &node.links {
                        let mut out = Vec::new();
                        link.frame(self.now, &mut out);
                        self.send(run, link.peer, out.into(), false);
                    }
                }
            }
            1 if runs.len() < 6 => self.start(),
            2 | 3 => {
                let pair = (pick(&mut self.random), pick(&mut self.random));
                self.cut.insert(pair);
                if self.random.chance(50) {
                    self.cut.insert((pair.1, pair.0));
                }
            }
            4 | 5 | 6 => self.cut.clear(),
            _ => {
                let run = pick(&mut self.random);
                let long = if self.random.chance(20) { 8000 } else { 1500 };
                self.nodes.get_mut(&run).unwrap().frozen_until = self.now + self.random.below(long);
            }
        }
    }

    fn check_order(&self) {
        for (run, node) in &self.nodes {
            for (channel, came) in &node.clients.0.borrow().came {
                let mut last = HashMap::new();
                for (by, number) in came {
                    let before = last.insert(*by, *number).unwrap_or(0);
                    assert!(before < *number, "{channel} at {run:?}: {number} of {by:?} after {before}");
                }
            }
        }
    }

    /// When all is quiet: every node knows the channels of all others, and nothing is held.
    fn check_quiet(&mut self) {
        self.cut.clear();
        self.faults = false;
        self.nodes.values_mut().for_each(|node| node.frozen_until = 0);
        for _ in 0..4000 {
            self.step();
        }
        assert!(self.published.is_empty(), "{} publications never end", self.published.len());
        for (run, node) in &self.nodes {
            assert_eq!(node.shared.phase(), Phase::Serving, "{run:?}");
            assert_eq!(node.shared.members().len(), self.nodes.len(), "{run:?}");
            for channel in (0..CHANNELS).map(name) {
                let mut want: Vec<Run> = self.nodes.iter()
                    .filter(|(other, node)| *other != run && node.subscriptions.contains_key(&channel))
                    .map(|(run, _)| *run).collect();
                let mut known: Vec<Run> = node.shared.links_of(hash(&channel)).iter().map(|link| link.peer).collect();
                want.sort();
                known.sort();
                assert_eq!(known, want, "{channel} at {run:?}");
            }
            for link in &node.links {
                let idle = !self.nodes.contains_key(&link.peer) || link.holds() == (0, 0);
                assert!(idle, "{run:?} to {:?} holds {:?}", link.peer, link.holds());
            }
            assert!(node.subscriptions.values().all(|subscription| subscription.complete));
        }
        // Numbers of clients' ids are of one node each.
        let numbers: HashSet<u16> = self.nodes.values().map(|node| node.shared.members()[0].number).collect();
        if !self.had_splits() {
            assert_eq!(numbers.len(), self.nodes.len());
        }
    }

    fn had_splits(&self) -> bool {
        self.unanswered > 0
    }
}

fn run(seed: u64, steps: u64, faults: bool) -> (u64, u64, u64) {
    let mut world = World::new(seed, faults);
    for _ in 0..3 {
        world.start();
    }
    for _ in 0..600 {
        world.step();
    }
    for _ in 0..steps {
        for _ in 0..1 + world.random.below(8) {
            match world.random.below(10) {
                0 => world.subscribe(),
                1 => world.unsubscribe(),
                _ => world.publish(),
            }
        }
        if world.random.below(200) == 0 {
            let Some(run) = world.any_serving() else { continue };
            let busy = world.random.below(100);
            world.nodes[&run].clients.0.borrow_mut().busy = busy;
        }
        if faults && world.random.below(1000) == 0 {
            world.fault();
        }
        world.step();
    }
    world.check_order();
    world.check_quiet();
    world.check_order();
    (world.done, world.unanswered, world.subscribed)
}

#[test]
fn the_mesh_keeps_its_word() {
    let seeds = std::env::var("MESH_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let steps = std::env::var("MESH_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(2000);
    let first: u64 = std::env::var("MESH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for seed in first..first + seeds {
        for faults in [false, true] {
            let result = std::panic::catch_unwind(|| run(seed, steps, faults));
            match result {
                Ok((done, silent, subscribed)) => println!("seed {seed} faults {faults}: {done} published, {silent} not answered, {subscribed} subscribed"),
                Err(_) => panic!("MESH_SEED={seed} (faults: {faults}, MESH_STEPS={steps})"),
            }
        }
    }
}
