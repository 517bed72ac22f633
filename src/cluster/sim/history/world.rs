//! The nodes, what is published on them, and what must have come of it.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Waker};

use super::clients::{Client, clients};
use super::disagree::Misled;
use super::faults::Plan;
use super::moves::{Move, Who};
use crate::cluster::clients::{Channels, LocalClients, PublishOnce};
use crate::cluster::link::Link;
use crate::cluster::members::{Phase, Shared};
use crate::cluster::node::{Node as Core, Output};
use crate::cluster::protocol::Run;
use crate::cluster::sim::clients::Random;
use crate::cluster::sim::network::{Network, said, settings};
use crate::cluster::{Behind, Interest, Mesh};
use crate::config::{ChannelRule, Envelope, HistoryRule};
use crate::hub::history::{self, Position};
use crate::hub::topics::Topics;
use crate::hub::{Counts, Delivery, Hub, PastPublish, Publication, PublishOptions};
use crate::ids::{NodeId, NodeNumber};
use crate::message::{Channel, Message};

pub(super) const CHANNELS: u64 = 4;
/// What each channel keeps: less than some clients miss.
pub(super) const SIZE: usize = 60;
/// The clock of the simulation begins there, in milliseconds of Unix time.
const BEGAN: u64 = 1_800_000_000_000;

struct Once;

impl PublishOnce for Once {
    fn publish(&self, _: Arc<str>, _: Channels, _: Message, _: PublishOptions) -> BoxFuture<'static, Vec<Counts>> {
        std::future::ready(Vec::new()).boxed()
    }

    fn find(&self, _: &str) -> Option<PastPublish> {
        None
    }
}

pub(super) struct Node {
    pub(super) core: Core<LocalClients>,
    pub(super) shared: Arc<Shared>,
    pub(super) hub: Arc<Hub>,
    pub(super) mesh: Arc<Mesh>,
    pub(super) links: Vec<Arc<Link>>,
    pub(super) topics: Topics,
    ticked: u64,
    pub(super) frozen_until: u64,
    pub(super) mailbox: VecDeque<Delivery>,
    /// It hands over to a successor process.
    pub(super) moving: Option<Move>,
}

/// What a process of a node consists of.
pub(super) fn parts(run: Run, number: NodeNumber) -> (Arc<Shared>, Arc<Hub>, Arc<Mesh>, LocalClients) {
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

pub(super) struct Published {
    number: u64,
    channel: u64,
    pub(super) by: Run,
    began: u64,
    receipt: BoxFuture<'static, Counts>,
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: u64,
    pub(super) nodes: BTreeMap<Run, Node>,
    pub(super) network: Network,
    pub(super) clients: Vec<Client>,
    pub(super) published: Vec<Published>,
    /// What publishers were told is published: its channel, number, and when it began.
    pub(super) acked: Vec<(u64, u64, u64)>,
    /// Where each message stands, for all clients alike.
    pub(super) places: HashMap<u64, Position>,
    pub(super) next_run: u64,
    pub(super) next_number: u64,
    pub(super) faults: bool,
    /// Nodes freeze and links are cut, so that several nodes lead a channel for a while: then there is no one order.
    pub(super) splits: bool,
    /// Nodes do not agree which of them there are, so that two of them lead a channel for a moment.
    pub(super) misleads: bool,
    /// Nodes die.
    pub(super) mortal: bool,
    /// Until then many frames are lost.
    pub(super) losing: u64,
    /// Until then nothing is published to a channel.
    pub(super) rests: [u64; CHANNELS as usize],
    pub(super) plans: Vec<Plan>,
    /// Nodes that believe for a moment that there are fewer than there are.
    pub(super) misled: Vec<Misled>,
    /// Until then nothing else happens to the nodes.
    pub(super) calm: u64,
    pub(super) killed: usize,
    pub(super) moved: usize,
    pub(super) told: usize,
    pub(super) recovered: usize,
}

pub(super) fn channel(n: u64) -> Channel {
    Channel::parse(format!("c:{n}").as_bytes()).unwrap()
}

impl World {
    pub(super) fn new(seed: u64) -> World {
        World {
            random: Random::new(seed),
            now: 1,
            nodes: BTreeMap::new(),
            network: Network::default(),
            clients: clients(),
            published: Vec::new(),
            acked: Vec::new(),
            places: HashMap::new(),
            next_run: 1,
            next_number: 1,
            faults: false,
            splits: false,
            misleads: false,
            mortal: true,
            losing: 0,
            rests: [0; CHANNELS as usize],
            plans: Vec::new(),
            misled: Vec::new(),
            calm: 0,
            killed: 0,
            moved: 0,
            told: 0,
            recovered: 0,
        }
    }

    pub(super) fn start(&mut self) {
        let run = Run(self.next_run);
        self.next_run += 1;
        let number = NodeNumber::new((run.0 % 1000 + 1) as u16).unwrap();
        let (shared, hub, mesh, clients) = parts(run, number);
        let core = Core::new(settings(run, number.get(), self.now), shared.clone(), clients, self.now);
        let (links, topics, mailbox) = (Vec::new(), Topics::default(), VecDeque::new());
        let (ticked, frozen_until, moving) = (0, 0, None);
        self.nodes.insert(run, Node { core, shared, hub, mesh, links, topics, ticked, frozen_until, mailbox, moving });
    }

    pub(super) fn any_serving(&mut self) -> Option<Run> {
        let serves = |(run, node): (&Run, &Node)| {
            (node.shared.phase() == Phase::Serving && node.moving.is_none()).then_some(*run)
        };
        let serving: Vec<Run> = self.nodes.iter().filter_map(serves).collect();
        (!serving.is_empty()).then(|| serving[self.random.below(serving.len() as u64) as usize])
    }

    pub(super) fn publish(&mut self) {
        let of = self.random.below(CHANNELS);
        if self.rests[of as usize] <= self.now {
            self.publish_to(of);
        }
    }

    fn publish_to(&mut self, of: u64) {
        if let Some(by) = self.any_serving() {
            self.publish_on(by, of);
        }
    }

    /// Publishes on that node.
    pub(super) fn publish_on(&mut self, by: Run, of: u64) {
        let number = self.next_number;
        self.next_number += 1;
        let mesh = self.nodes[&by].mesh.clone();
        let publication = Publication::new(channel(of), Message::text(number.to_string()));
        let receipt = async move { mesh.publish(publication, Behind::default()).await.await }.boxed();
        self.published.push(Published { number, channel: of, by, began: self.now, receipt });
    }

    pub(super) fn step(&mut self) {
        self.now += 1 + self.random.below(4);
        history::set_clock(BEGAN + self.now);
        self.enlighten();
        let runs: Vec<Run> = self.nodes.keys().copied().collect();
        for &run in &runs {
            self.arrive(run);
            self.run_node(run);
            self.deliver(run);
            self.go_on_moving(run);
        }
        let mut cx = Context::from_waker(Waker::noop());
        let frozen: Vec<Run> =
            self.nodes.iter().filter(|(_, node)| node.frozen_until > self.now).map(|(run, _)| *run).collect();
        for at in 0..self.clients.len() {
            if self.clients[at].node.is_some_and(|run| frozen.contains(&run)) {
                continue;
            }
            let Some(subscribing) = &mut self.clients[at].subscribing else { continue };
            match subscribing.poll_unpin(&mut cx) {
                std::task::Poll::Ready(Ok(_)) => self.clients[at].subscribing = None,
                std::task::Poll::Ready(Err(_)) => self.disconnect(at),
                std::task::Poll::Pending => {}
            }
        }
        let mut left = Vec::new();
        for mut published in std::mem::take(&mut self.published) {
            if frozen.contains(&published.by) {
                left.push(published);
                continue;
            }
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
        if let Some(node) = self.nodes.get_mut(&to) {
            let heir = node.moving.as_mut().map(|moving| (&mut moving.heir, moving.frozen_until <= self.now));
            self.network.arrive(to, (&mut node.core, node.frozen_until <= self.now), heir, self.now);
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
        self.say(run);
    }

    /// Sends what a node has to say.
    pub(super) fn say(&mut self, run: Run) {
        let Some(node) = self.nodes.get_mut(&run) else { return };
        let sent = said(&mut node.core, &mut node.links, self.now, |output| {
            if let Output::Number(number) = output {
                node.hub.set_node(NodeNumber::new(number).unwrap());
            }
        });
        let others: Vec<Run> = self.nodes.keys().copied().filter(|other| *other != run).collect();
        for (to, bytes) in sent {
            let hello = to.is_none();
            for to in to.map_or_else(|| others.clone(), |one| vec![one]) {
                let lost =
                    self.faults && (self.random.below(3000) == 0 || (self.now < self.losing && self.random.chance(30)));
                if lost || self.network.cut.contains(&(run, to)) || !self.nodes.contains_key(&to) {
                    continue;
                }
                let delay = if self.random.chance(2) { 100 } else { 5 };
                let delay = self.random.below(delay);
                self.network.send((run, to), (bytes.clone(), hello), (self.now, delay));
            }
        }
    }

    /// When all is quiet, each client has what was published since it was told last that something may be missing.
    pub(super) fn check(&mut self) {
        self.faults = false;
        self.network.cut.clear();
        self.misled.iter_mut().for_each(|misled| misled.until = 0);
        self.nodes.values_mut().for_each(|node| node.freeze(0, Who::Both));
        for _ in 0..4000 {
            self.step();
            for at in 0..self.clients.len() {
                if self.clients[at].node.is_none() {
                    self.connect(at);
                }
            }
        }
        assert!(self.published.is_empty(), "{} publishes never end", self.published.len());
        // What is published then is answered, and comes to all. The first ones may find that a copy has to be made, and that the term is over.
        let mut before = 0;
        for _ in 0..4 {
            before = self.acked.len();
            (0..CHANNELS).for_each(|of| self.publish_to(of));
            (0..400).for_each(|_| self.step());
        }
        assert_eq!(self.acked.len() - before, CHANNELS as usize, "not all is well again");
        for (of, number, _) in &self.acked[before..] {
            let all = self.clients.iter().filter(|client| client.channel == *of);
            all.for_each(|client| assert!(client.seen.contains(number), "{number} does not come to all"));
        }
        for (at, client) in self.clients.iter().enumerate() {
            assert!(client.subscribing.is_none(), "client {at} waits without an end");
            if self.splits && self.mortal {
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
