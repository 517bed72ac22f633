//! The simulated nodes and their faults.

use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Waker};
use tokio::sync::oneshot;

use super::clients::{Random, SimClients};
use super::hostile;
use super::moves::{Move, Who};
use super::network::{Network, said, settings};
use crate::cluster::link::{Full, Link, Request};
use crate::cluster::members::Shared;
use crate::cluster::node::{Node as Core, Output};
use crate::cluster::protocol::Run;
use crate::hub::Counts;

/// A channel that a node has subscribers of.
pub(super) struct Subscription {
    pub(super) id: u64,
    pub(super) waits: Option<oneshot::Receiver<()>>,
    /// The version of this node's channels that tells of it.
    pub(super) version: u64,
    pub(super) complete: bool,
}

/// A node.
pub(super) struct Node {
    pub(super) core: Core<SimClients>,
    pub(super) shared: Arc<Shared>,
    pub(super) clients: SimClients,
    pub(super) links: Vec<Arc<Link>>,
    pub(super) subscriptions: HashMap<String, Subscription>,
    /// Publications for links that had no room: in order.
    pub(super) blocked: VecDeque<(Arc<Link>, Bytes, Option<Request>)>,
    pub(super) frozen_until: u64,
    pub(super) ticked: u64,
    /// When it was to dial whom, and where.
    pub(super) dialled: Vec<(u64, Run, Vec<String>)>,
    /// It hands over to a successor process.
    pub(super) moving: Option<Move>,
}

/// The number for ids that a node begins with: several want the same.
pub(super) fn number(run: Run) -> u16 {
    (run.0 % 4 + 1) as u16
}

/// A publication under way.
pub(super) struct Published {
    pub(super) by: Run,
    pub(super) number: u64,
    /// When.
    pub(super) at: u64,
    pub(super) channel: String,
    /// The nodes that must get it, by which subscription.
    pub(super) must: Vec<(Run, u64)>,
    pub(super) local: u64,
    pub(super) counts: oneshot::Receiver<Counts>,
}

/// All of it.
pub(super) struct World {
    pub(super) random: Random,
    pub(super) now: u64,
    pub(super) nodes: BTreeMap<Run, Node>,
    pub(super) network: Network,
    pub(super) published: Vec<Published>,
    pub(super) next_run: u64,
    pub(super) next_number: u64,
    /// Faults happen now, and in this run.
    pub(super) faults: bool,
    pub(super) faulty: bool,
    /// All that goes to and from that node takes so many milliseconds more.
    pub(super) late: Option<(Run, u64)>,
    /// What that node sends is altered.
    pub(super) hostile: Option<Run>,
    /// What it sent lately.
    seen: VecDeque<Bytes>,
    pub(super) done: u64,
    pub(super) unanswered: u64,
    pub(super) subscribed: u64,
    /// Processes that have handed over, and those whose successors failed.
    pub(super) moved: u64,
    pub(super) failed: u64,
}

impl World {
    pub(super) fn new(seed: u64, faults: bool) -> World {
        World {
            random: Random::new(seed),
            now: 1,
            nodes: BTreeMap::new(),
            network: Network::default(),
            published: Vec::new(),
            next_run: 1,
            next_number: 1,
            faults,
            faulty: faults,
            late: None,
            hostile: None,
            seen: VecDeque::new(),
            done: 0,
            unanswered: 0,
            subscribed: 0,
            moved: 0,
            failed: 0,
        }
    }

    pub(super) fn start(&mut self) {
        let run = Run(self.next_run);
        self.next_run += 1;
        let (shared, clients) = (Arc::new(Shared::default()), SimClients::default());
        let core = Core::new(settings(run, number(run), self.now), shared.clone(), clients.clone(), self.now);
        let node = Node {
            core,
            shared,
            clients,
            links: Vec::new(),
            subscriptions: HashMap::new(),
            blocked: VecDeque::new(),
            frozen_until: 0,
            ticked: 0,
            dialled: Vec::new(),
            moving: None,
        };
        self.nodes.insert(run, node);
    }

    /// A step of some milliseconds.
    pub(super) fn step(&mut self) {
        self.now += 1 + self.random.below(4);
        let runs: Vec<Run> = self.nodes.keys().copied().collect();
        for &run in &runs {
            self.arrive(run);
            self.run_node(run);
            self.go_on_moving(run);
        }
        self.settle();
    }

    /// Frames and hellos that have come to a node.
    pub(super) fn arrive(&mut self, to: Run) {
        if let Some(node) = self.nodes.get_mut(&to) {
            let heir = node.moving.as_mut().map(|moving| (&mut moving.heir, moving.frozen_until <= self.now));
            self.network.arrive(to, (&mut node.core, node.frozen_until <= self.now), heir, self.now);
        }
    }

    pub(super) fn run_node(&mut self, run: Run) {
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
        // Those without room before: in their order.
        while let Some((link, bytes, request)) = node.blocked.pop_front() {
            if let Err(Full(request)) = link.offer(&bytes, request, self.now) {
                node.blocked.push_front((link, bytes, request));
                break;
            }
        }
        let sent = said(&mut node.core, &mut node.links, self.now, |output| {
            if let Output::Dial(to, at) = output {
                node.dialled.push((self.now, to, at));
            }
        });
        let others: Vec<Run> = self.nodes.keys().copied().filter(|other| *other != run).collect();
        for (to, bytes) in sent {
            let hello = to.is_none();
            let receivers = to.map_or_else(|| others.clone(), |to| vec![to]);
            for to in receivers {
                self.send(run, to, bytes.clone(), hello);
            }
        }
    }

    pub(super) fn send(&mut self, from: Run, to: Run, bytes: Bytes, hello: bool) {
        let lost = self.faults && self.random.below(2000) == 0;
        if self.network.cut.contains(&(from, to)) || lost || !self.nodes.contains_key(&to) {
            return;
        }
        let delay = if self.random.chance(2) { 100 } else { 5 };
        let late = self.late.filter(|(run, _)| *run == from || *run == to).map_or(0, |(_, late)| late);
        let delay = self.random.below(delay) + late;
        let bytes = if self.hostile == Some(from) { self.altered(bytes, hello) } else { bytes };
        self.network.send((from, to), (bytes, hello), (self.now, delay));
    }

    /// A node ends, and tells the others.
    pub(super) fn end(&mut self, run: Run) {
        let mut node = self.nodes.remove(&run).unwrap();
        node.core.leave();
        for link in &node.links {
            let mut out = Vec::new();
            link.frame(self.now, &mut out);
            self.send(run, link.peer, out.into(), false);
        }
    }

    /// What comes of that if its sender is hostile.
    fn altered(&mut self, bytes: Bytes, hello: bool) -> Bytes {
        self.seen.push_front(bytes.clone());
        self.seen.truncate(50);
        if self.random.chance(70) {
            return bytes;
        }
        let other = self.seen[self.random.below(self.seen.len() as u64) as usize].clone();
        hostile::alter(&mut self.random, &bytes, &other, hello).into()
    }

    pub(super) fn fault(&mut self) {
        let runs: Vec<Run> = self.nodes.keys().copied().collect();
        let pick = |random: &mut Random| runs[random.below(runs.len() as u64) as usize];
        match self.random.below(8) {
            0 if runs.len() > 2 => {
                let run = pick(&mut self.random);
                // Told, or killed.
                if self.random.chance(50) {
                    self.end(run);
                } else {
                    self.nodes.remove(&run);
                }
            }
            1 if runs.len() < 6 => self.start(),
            2 | 3 => {
                let pair = (pick(&mut self.random), pick(&mut self.random));
                self.network.cut.insert(pair);
                if self.random.chance(50) {
                    self.network.cut.insert((pair.1, pair.0));
                }
            }
            4..=6 => self.network.cut.clear(),
            _ => {
                let run = pick(&mut self.random);
                let long = if self.random.chance(20) { 8000 } else { 1500 };
                let until = self.now + self.random.below(long);
                let who = Who::any(&mut self.random);
                self.nodes.get_mut(&run).unwrap().freeze(until, who);
            }
        }
    }
}
