//! Ordered channels in a simulated mesh, with the real mesh, hub and index of channels: publishers, and clients that drop and come
//! back with their position on any node, while nodes are killed, end, start and hand over to successor processes, and frames are late and lost. No client gets a
//! message twice or out of order, and it misses none unless it was told so. `MESH_SEED=N cargo test --lib
//! clients_miss_nothing_unknowingly` replays a seed; `MESH_SEEDS` and `MESH_STEPS` say how many are tried, and for how long.

mod moves;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Waker};

use self::moves::Move;
use super::clients::Random;
use super::world::settings;
use crate::cluster::clients::{Channels, LocalClients, PublishOnce};
use crate::cluster::link::Link;
use crate::cluster::members::{Phase, Shared};
use crate::cluster::node::{Node as Core, Output, Settings};
use crate::cluster::protocol::Run;
use crate::cluster::{Behind, Interest, Mesh};
use crate::config::{ChannelRule, Envelope, HistoryRule};
use crate::hub::history::{self, At, From, Most, Position};
use crate::hub::topics::{Member, Topics};
use crate::hub::{Counts, Delivery, Hub, Joined, Left, Publication, PublishOptions, Recipient};
use crate::ids::{ClientId, NodeId, NodeNumber, WorkerId};
use crate::message::{Channel, Message};

const CHANNELS: u64 = 4;
const CLIENTS: u64 = 12;
/// What each channel keeps: less than some clients miss.
const SIZE: usize = 60;
/// The clock of the simulation begins there, in milliseconds of Unix time.
const BEGAN: u64 = 1_800_000_000_000;

struct Once;

impl PublishOnce for Once {
    fn publish(&self, _: Arc<str>, _: Channels, _: Message, _: PublishOptions) -> BoxFuture<'static, Vec<Counts>> {
        std::future::ready(Vec::new()).boxed()
    }
}

struct Node {
    core: Core<LocalClients>,
    shared: Arc<Shared>,
    hub: Arc<Hub>,
    mesh: Arc<Mesh>,
    links: Vec<Arc<Link>>,
    topics: Topics,
    ticked: u64,
    frozen_until: u64,
    mailbox: VecDeque<Delivery>,
    /// It hands over to a successor process.
    moving: Option<Move>,
}

type Subscribing = BoxFuture<'static, Result<Vec<At>, String>>;

/// When something comes, its bytes, and whether it is a hello.
type UnderWay = (u64, Bytes, bool);

/// A client of one channel.
#[derive(Default)]
struct Client {
    channel: u64,
    node: Option<Run>,
    member: Member,
    tickets: u64,
    subscribing: Option<Subscribing>,
    position: Option<Position>,
    /// What it was told, in its order.
    seen: Vec<u64>,
    /// It misses nothing that was published later.
    clean: Option<u64>,
}

struct Published {
    number: u64,
    channel: u64,
    by: Run,
    began: u64,
    receipt: BoxFuture<'static, Counts>,
}

struct World {
    random: Random,
    now: u64,
    nodes: BTreeMap<Run, Node>,
    network: BTreeMap<(Run, Run), VecDeque<UnderWay>>,
    clients: Vec<Client>,
    published: Vec<Published>,
    /// What publishers were told is published: its channel, number, and when it began.
    acked: Vec<(u64, u64, u64)>,
    /// Where each message stands, for all clients alike.
    places: HashMap<u64, Position>,
    next_run: u64,
    next_number: u64,
    faults: bool,
    /// Nodes freeze and links are cut, so that several nodes lead a channel for a while: then there is no one order.
    splits: bool,
    cut: HashSet<(Run, Run)>,
    killed: usize,
    moved: usize,
    told: usize,
    recovered: usize,
}

/// What a process of a node consists of.
fn parts(run: Run, number: NodeNumber) -> (Arc<Shared>, Arc<Hub>, Arc<Mesh>, LocalClients) {
    let shared = Arc::new(Shared::default());
    let hub = Arc::new(Hub::new(number, 1).telling(Arc::new(Interest(shared.clone()))));
    let rule = ChannelRule {
        history: HistoryRule { size: SIZE, age: std::time::Duration::ZERO },
        envelope: Envelope::Json,
        ..ChannelRule::of("c:")
    };
    hub.history().set_rules(&[rule]);
    let mesh = Arc::new(Mesh::new(hub.clone(), NodeId(run.0)).with_others(shared.clone()));
    let clients = LocalClients::new(mesh.clone(), Vec::new(), Arc::new(Once));
    (shared, hub, mesh, clients)
}

fn channel(n: u64) -> Channel {
    Channel::parse(format!("c:{n}").as_bytes()).unwrap()
}

impl World {
    fn new(seed: u64) -> World {
        World {
            random: Random::new(seed),
            now: 1,
            nodes: BTreeMap::new(),
            network: BTreeMap::new(),
            clients: (0..CLIENTS).map(|n| Client { channel: n % CHANNELS, ..Client::default() }).collect(),
            published: Vec::new(),
            acked: Vec::new(),
            places: HashMap::new(),
            next_run: 1,
            next_number: 1,
            faults: false,
            splits: false,
            cut: HashSet::new(),
            killed: 0,
            moved: 0,
            told: 0,
            recovered: 0,
        }
    }

    fn start(&mut self) {
        let run = Run(self.next_run);
        self.next_run += 1;
        let number = NodeNumber::new((run.0 % 1000 + 1) as u16).unwrap();
        let (shared, hub, mesh, clients) = parts(run, number);
        let settings = Settings { number: number.get(), ..settings(run, self.now) };
        let core = Core::new(settings, shared.clone(), clients, self.now);
        let (links, topics, mailbox) = (Vec::new(), Topics::default(), VecDeque::new());
        let (ticked, frozen_until, moving) = (0, 0, None);
        self.nodes.insert(run, Node { core, shared, hub, mesh, links, topics, ticked, frozen_until, mailbox, moving });
    }

    fn any_serving(&mut self) -> Option<Run> {
        let serves = |(run, node): (&Run, &Node)| {
            (node.shared.phase() == Phase::Serving && node.moving.is_none()).then_some(*run)
        };
        let serving: Vec<Run> = self.nodes.iter().filter_map(serves).collect();
        (!serving.is_empty()).then(|| serving[self.random.below(serving.len() as u64) as usize])
    }

    fn publish(&mut self) {
        let Some(by) = self.any_serving() else { return };
        let (number, of) = (self.next_number, self.random.below(CHANNELS));
        self.next_number += 1;
        let mesh = self.nodes[&by].mesh.clone();
        let publication = Publication::new(channel(of), Message::text(number.to_string()));
        let receipt = async move { mesh.publish(publication, Behind::default()).await.await }.boxed();
        self.published.push(Published { number, channel: of, by, began: self.now, receipt });
    }

    /// A client comes to some node, with its position if it has one.
    fn connect(&mut self, at: usize) {
        let Some(run) = self.any_serving() else { return };
        let (client, node) = (&mut self.clients[at], self.nodes.get_mut(&run).unwrap());
        let name = channel(client.channel);
        client.member = at as Member;
        if node.topics.insert(client.member, &name) == Joined::First {
            node.hub.join(&name, WorkerId(0));
        }
        client.tickets += 1;
        node.topics.mute(client.member, name.as_str(), client.tickets);
        let recipient = Recipient {
            worker: WorkerId(0),
            client: ClientId::new(1 + at as u64).unwrap(),
            ticket: client.tickets,
            is_scripted: false,
            most: Most { messages: usize::MAX, bytes: usize::MAX },
        };
        let from = client.position.map_or(From::Last(SIZE), |position| From::Since(position, None));
        client.node = Some(run);
        let (mesh, told) = (node.mesh.clone(), node.mesh.told(std::slice::from_ref(&name)));
        client.subscribing = Some(
            async move {
                if let Some(told) = told {
                    told.await;
                }
                mesh.catch_up(vec![(name, recipient)], from).await
            }
            .boxed(),
        );
    }

    fn disconnect(&mut self, at: usize) {
        let client = &mut self.clients[at];
        client.subscribing = None;
        let Some(node) = client.node.take().and_then(|run| self.nodes.get_mut(&run)) else { return };
        let name = channel(client.channel);
        if node.topics.remove(client.member, name.as_str()) == Left::Last {
            node.hub.leave(name.as_str(), WorkerId(0));
        }
    }

    /// A client gets a message, or is told that something may be missing.
    fn tell(&mut self, at: usize, text: &[u8]) {
        let told: serde_json::Value = serde_json::from_slice(text).unwrap();
        let position = Position::parse(told["p"].as_str().unwrap().as_bytes()).unwrap();
        let client = &mut self.clients[at];
        let Some(data) = told["d"].as_str() else {
            assert_eq!(told["recovered"], false);
            client.clean = Some(self.now);
            client.position = Some(position);
            self.told += 1;
            return;
        };
        let number: u64 = data.parse().unwrap();
        assert!(!client.seen.contains(&number), "client {at} gets {number} twice");
        let place = *self.places.entry(number).or_insert(position);
        assert_eq!(place, position, "{number} stands in two places");
        if let Some(before) = client.seen.last().map(|last| self.places[last]) {
            assert!(self.splits || before < position, "client {at} gets {number} at {position:?} behind {before:?}");
        }
        client.seen.push(number);
        client.position = Some(position);
    }

    fn deliver(&mut self, run: Run) {
        let Some(node) = self.nodes.get_mut(&run) else { return };
        let mut mailbox = std::mem::take(&mut node.mailbox);
        node.hub.mailbox(WorkerId(0)).take(&mut mailbox, 0, Waker::noop());
        for delivery in mailbox.drain(..) {
            let node = self.nodes.get_mut(&run).unwrap();
            match delivery {
                Delivery::Publish(publication, ack) => {
                    let (members, muted, _) = node.topics.audience(publication.channel.as_str());
                    let is_muted = |member: &Member| muted.is_some_and(|muted| muted.contains_key(member));
                    let members: Vec<Member> = members.iter().copied().filter(|member| !is_muted(member)).collect();
                    ack.settle(Counts { reached: members.len() as u64, ..Counts::default() });
                    for member in members {
                        self.tell(member as usize, publication.message.data());
                    }
                }
                Delivery::Backlog(backlog) => {
                    let at = backlog.client.get() as usize - 1;
                    let member = at as Member;
                    if !node.topics.unmute(member, backlog.channel.as_str(), backlog.ticket) {
                        continue;
                    }
                    let client = &mut self.clients[at];
                    match (backlog.at.recovered, client.position) {
                        (true, Some(_)) => self.recovered += 1,
                        (true, None) => client.clean = Some(self.now),
                        (false, _) => {
                            client.clean = Some(self.now);
                            self.told += 1;
                        }
                    }
                    for message in &backlog.messages {
                        self.tell(at, message.data());
                    }
                    self.clients[at].position = Some(backlog.at.position);
                    // One that waits no more needs no answer.
                    let _ = backlog.done.send(backlog.at);
                }
                _ => {}
            }
        }
        self.nodes.get_mut(&run).unwrap().mailbox = mailbox;
    }

    fn step(&mut self) {
        self.now += 1 + self.random.below(4);
        history::set_clock(BEGAN + self.now);
        let runs: Vec<Run> = self.nodes.keys().copied().collect();
        for &run in &runs {
            self.arrive(run);
            self.run_node(run);
            self.deliver(run);
            self.go_on_moving(run);
        }
        let mut cx = Context::from_waker(Waker::noop());
        for at in 0..self.clients.len() {
            let Some(subscribing) = &mut self.clients[at].subscribing else { continue };
            match subscribing.poll_unpin(&mut cx) {
                std::task::Poll::Ready(Ok(_)) => self.clients[at].subscribing = None,
                std::task::Poll::Ready(Err(_)) => self.disconnect(at),
                std::task::Poll::Pending => {}
            }
        }
        let mut left = Vec::new();
        for mut published in std::mem::take(&mut self.published) {
            match published.receipt.poll_unpin(&mut cx) {
                std::task::Poll::Ready(counts) => {
                    if counts.unanswered == 0 && counts.at.is_some() {
                        self.acked.push((published.channel, published.number, published.began));
                    }
                }
                std::task::Poll::Pending => left.push(published),
            }
        }
        self.published = left;
    }

    fn arrive(&mut self, to: Run) {
        let Some(node) = self.nodes.get_mut(&to).filter(|node| node.frozen_until <= self.now) else { return };
        for ((_, whom), queue) in &mut self.network {
            while *whom == to && queue.front().is_some_and(|(at, ..)| *at <= self.now) {
                let (_, bytes, hello) = queue.pop_front().unwrap();
                node.moving.iter_mut().filter(|_| !hello).for_each(|moving| moving.heir.frame(bytes.clone()));
                if hello { node.core.hear(&bytes, self.now) } else { node.core.frame(bytes, self.now) }
            }
        }
    }

    fn run_node(&mut self, run: Run) {
        let Some(node) = self.nodes.get_mut(&run).filter(|node| node.frozen_until <= self.now) else { return };
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
                Output::Greet(to, frame) => sent.push((Some(to), Bytes::from(frame))),
                Output::Number(number) => node.hub.set_node(NodeNumber::new(number).unwrap()),
                Output::Dial(..) => {}
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
            for to in to.map_or_else(|| others.clone(), |one| vec![one]) {
                let lost = self.faults && self.random.below(3000) == 0;
                if lost || self.cut.contains(&(run, to)) || !self.nodes.contains_key(&to) {
                    continue;
                }
                let delay = if self.random.chance(2) { 100 } else { 5 };
                let queue = self.network.entry((run, to)).or_default();
                let at = queue.back().map_or(0, |(at, ..)| *at).max(self.now + self.random.below(delay));
                queue.push_back((at, bytes.clone(), hello));
            }
        }
    }

    /// A node is killed, ends or starts.
    fn fault(&mut self) {
        let runs: Vec<Run> = self.nodes.keys().copied().collect();
        if self.splits && self.random.chance(60) {
            let pick = |random: &mut Random| runs[random.below(runs.len() as u64) as usize];
            match self.random.below(3) {
                0 => {
                    let (one, other) = (pick(&mut self.random), pick(&mut self.random));
                    self.cut.extend([(one, other), (other, one)]);
                }
                1 => self.cut.clear(),
                _ => {
                    let until = self.now + self.random.below(8000);
                    self.nodes.get_mut(&pick(&mut self.random)).unwrap().frozen_until = until;
                }
            }
            return;
        }
        match self.random.below(3) {
            0 if runs.len() > 2 => {
                // Two at once may be the one that leads and the one that has the copy.
                for _ in 0..1 + self.random.below(2) {
                    self.kill();
                }
            }
            _ if runs.len() < 5 => self.start(),
            _ => {}
        }
    }

    fn kill(&mut self) {
        let runs: Vec<Run> = self.nodes.keys().copied().collect();
        let run = runs[self.random.below(runs.len() as u64) as usize];
        for at in 0..self.clients.len() {
            if self.clients[at].node == Some(run) {
                self.disconnect(at);
            }
        }
        self.killed += 1;
        // Its publishers are not told what came of it.
        self.published.retain(|published| published.by != run);
        let mut node = self.nodes.remove(&run).unwrap();
        if self.random.chance(30) {
            node.core.leave();
        }
    }

    /// When all is quiet, each client has what was published since it was told last that something may be missing.
    fn check(&mut self) {
        self.faults = false;
        self.cut.clear();
        self.nodes.values_mut().for_each(|node| node.frozen_until = 0);
        for _ in 0..4000 {
            self.step();
            for at in 0..self.clients.len() {
                if self.clients[at].node.is_none() {
                    self.connect(at);
                }
            }
        }
        assert!(self.published.is_empty(), "{} publishes never end", self.published.len());
        for (at, client) in self.clients.iter().enumerate() {
            assert!(client.subscribing.is_none(), "client {at} waits without an end");
            if self.splits {
                continue;
            }
            let clean = client.clean.unwrap();
            for (of, number, began) in &self.acked {
                if *of == client.channel && *began > clean {
                    assert!(
                        client.seen.contains(number),
                        "client {at} misses {number} of {began}, clean since {clean}"
                    );
                }
            }
        }
    }
}

fn run(seed: u64, steps: u64, splits: bool) -> String {
    let mut world = World::new(seed);
    (0..3).for_each(|_| world.start());
    (0..600).for_each(|_| world.step());
    (world.faults, world.splits) = (true, splits);
    for _ in 0..steps {
        for _ in 0..world.random.below(3) {
            world.publish();
        }
        let at = world.random.below(CLIENTS) as usize;
        if world.clients[at].node.is_none() {
            world.connect(at);
        } else if world.random.below(40) == 0 && world.clients[at].subscribing.is_none() {
            world.disconnect(at);
        }
        if world.random.below(250) == 0 {
            world.fault();
        }
        if world.random.below(150) == 0 {
            world.begin_move();
        }
        world.step();
    }
    world.check();
    let seen: usize = world.clients.iter().map(|client| client.seen.len()).sum();
    let World { acked, told, recovered, killed, moved, .. } = &world;
    let acked = acked.len();
    format!(
        "{killed} killed, {moved} moved, {acked} acknowledged, {seen} seen, {told} told of a gap, {recovered} recovered"
    )
}

fn run_all(splits: bool) {
    let number = |name: &str, usual| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (first, seeds, steps) = (number("MESH_SEED", 1), number("MESH_SEEDS", 4), number("MESH_STEPS", 2500));
    for seed in first..first + seeds {
        match std::panic::catch_unwind(|| run(seed, steps, splits)) {
            Ok(what) => println!("seed {seed}: {what}"),
            Err(_) => panic!("MESH_SEED={seed} (MESH_STEPS={steps})"),
        }
    }
}

#[test]
fn clients_miss_nothing_unknowingly() {
    run_all(false);
}

/// No node dies, and nothing is lost on the way: so nobody is told of a gap, and every publish is answered, whichever nodes hand
/// over to successors.
#[test]
fn nobody_is_told_of_a_gap_since_a_node_handed_over() {
    let mut world = World::new(7);
    (0..3).for_each(|_| world.start());
    (0..600).for_each(|_| world.step());
    for at in 0..CLIENTS as usize {
        world.connect(at);
    }
    let asked = world.next_number;
    for _ in 0..4000 {
        world.publish();
        if world.random.below(60) == 0 {
            world.begin_move();
        }
        world.step();
        let told = world.told;
        assert_eq!(told, 0);
    }
    world.check();
    assert_eq!(world.acked.len() as u64, world.next_number - asked, "every publish was answered");
    assert!(world.moved > 10 && world.told == 0, "{} moved", world.moved);
}

/// While nodes don't see each other, each of them may lead a channel: what was published on one side is not known on the other.
#[test]
fn clients_get_nothing_twice_however_nodes_lose_each_other() {
    run_all(true);
}
