//! Who is in the mesh, as others need to know it: for `/v1/nodes`, metrics, and for publishes and sends.

use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::cluster::interest::others::{Others, Slot, Slots};
use crate::cluster::interest::own::Own;
use crate::cluster::link::Link;
use crate::cluster::protocol::{Hello, Run};
use crate::cluster::stats::Stats;

/// The most nodes of a mesh.
pub const MAX_NODES: usize = 1023;

/// How far a node has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No center has been found yet.
    Seeking,
    /// Others are told of its channels, and it of theirs.
    Joining,
    /// It serves clients.
    Serving,
    /// It ends.
    Leaving,
}

/// What the mesh's own thread shares with all others.
pub struct Shared {
    /// The channels of this node.
    pub own: Own,
    /// The channels of other nodes.
    pub others: Others,
    /// The figures.
    pub stats: Arc<Stats>,
    directory: RwLock<Directory>,
    clock: AtomicU64,
    /// Engines that a center knows and this node has no link to.
    missed: AtomicUsize,
    draining: AtomicBool,
    /// How often the engines have changed that there are, or that serve.
    changes: AtomicU64,
}

struct Directory {
    phase: Phase,
    links: Vec<Option<Arc<Link>>>,
    numbers: HashMap<u16, SmallVec<[Slot; 1]>>,
    members: Arc<[Hello]>,
}

impl Directory {
    fn link_to(&self, run: Run) -> Option<&Arc<Link>> {
        self.links.iter().flatten().find(|link| link.peer == run)
    }

    /// The engine with the largest hash of node and id, of those that serve.
    fn first_of(&self, id: &str, except: Option<Run>) -> Option<Run> {
        let own = self.members.first()?.run;
        let rank = |run: &Run| xxhash_rust::xxh3::xxh3_64_with_seed(id.as_bytes(), run.0);
        let serving = || self.members.iter().filter(|hello| hello.engine && hello.serving).map(|hello| hello.run);
        let others = || serving().filter(|run| Some(*run) != except);
        // The link to a node that has just gone ends a moment before it is no member any more.
        let is_there = |run: &Run| *run == own || self.link_to(*run).is_some();
        others().max_by_key(rank).filter(is_there).or_else(|| others().filter(is_there).max_by_key(rank))
    }
}

impl Default for Shared {
    fn default() -> Shared {
        let directory =
            Directory { phase: Phase::Seeking, links: Vec::new(), numbers: HashMap::new(), members: Arc::new([]) };
        Shared {
            own: Own::default(),
            others: Others::default(),
            stats: Arc::default(),
            directory: RwLock::new(directory),
            clock: AtomicU64::new(0),
            missed: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            changes: AtomicU64::new(0),
        }
    }
}

impl Shared {
    /// The mesh's clock, in milliseconds. It moves several times in a second.
    pub fn now(&self) -> u64 {
        self.clock.load(Relaxed)
    }

    /// Moves the clock.
    pub fn set_now(&self, now: u64) {
        self.clock.store(now, Relaxed);
    }

    /// How many engines there are that this node has no link to: what is published does not reach their clients.
    pub fn missed(&self) -> usize {
        self.missed.load(Relaxed)
    }

    /// So many there are; gives how many there were.
    pub fn set_missed(&self, missed: usize) -> usize {
        self.missed.swap(missed, Relaxed)
    }

    /// This node's clients are asked to leave: others need to know that it takes no new ones.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Whether this node's clients are asked to leave.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// How far this node has come.
    pub fn phase(&self) -> Phase {
        self.read().phase
    }

    /// This node has come so far.
    pub fn set_phase(&self, phase: Phase) {
        self.write().phase = phase;
    }

    /// The links to nodes that have subscribers of a channel.
    pub fn links_of(&self, hash: u64) -> SmallVec<[Arc<Link>; 2]> {
        let nodes = self.others.nodes(hash);
        if nodes.is_empty() { SmallVec::new() } else { self.links(&nodes) }
    }

    /// The links to nodes whose clients have that number in their ids.
    pub fn links_of_number(&self, number: u16) -> SmallVec<[Arc<Link>; 2]> {
        let nodes: Slots = self.read().numbers.get(&number).into_iter().flatten().copied().collect();
        self.links(&nodes)
    }

    fn links(&self, nodes: &[Slot]) -> SmallVec<[Arc<Link>; 2]> {
        let directory = self.read();
        nodes.iter().filter_map(|slot| directory.links.get(usize::from(*slot))?.clone()).collect()
    }

    /// The link to the node that knows whether something with that id has been done; None: this node does. Chosen among the
    /// nodes that serve, by the largest hash of node and id: so it stays the same for most ids when nodes come and go.
    pub fn owner_of(&self, id: &str) -> Option<Arc<Link>> {
        let directory = self.read();
        directory.link_to(directory.first_of(id, None)?).cloned()
    }

    /// The link to the node that is next in line to lead a channel which this node leads; None: there is no other.
    pub fn second_of(&self, channel: &str) -> Option<Arc<Link>> {
        let directory = self.read();
        let own = directory.members.first()?.run;
        directory.link_to(directory.first_of(channel, Some(own))?).cloned()
    }

    /// How often the engines have changed that there are, or that serve.
    pub fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// All links.
    pub fn all_links(&self) -> Vec<Arc<Link>> {
        self.read().links.iter().flatten().cloned().collect()
    }

    /// All nodes, this one too.
    pub fn members(&self) -> Arc<[Hello]> {
        self.read().members.clone()
    }

    /// The nodes are those, and these the numbers of those that have clients.
    pub fn set_members(&self, members: Vec<Hello>, numbers: impl Iterator<Item = (u16, Slot)>) {
        let directory = &mut *self.write();
        // One that stops does not serve any more, and goes later: only then is lost what it has a copy of.
        let engines = |members: &[Hello]| -> Vec<_> {
            members.iter().filter(|hello| hello.engine).map(|hello| (hello.run, hello.serving)).collect()
        };
        if engines(&directory.members) != engines(&members) {
            self.changes.fetch_add(1, Relaxed);
        }
        directory.members = members.into();
        directory.numbers.clear();
        for (number, slot) in numbers {
            directory.numbers.entry(number).or_default().push(slot);
        }
    }

    /// A link opens, in a place of its own.
    pub fn open(&self, make: impl FnOnce(Slot) -> Link) -> Option<Arc<Link>> {
        let links = &mut self.write().links;
        let free = links.iter().position(Option::is_none).unwrap_or(links.len());
        let link = Arc::new(make(Slot::try_from(free).ok()?));
        if free == links.len() {
            links.push(None);
        }
        links[free] = Some(link.clone());
        Some(link)
    }

    /// A link has ended: its place is free for another.
    pub fn end(&self, link: &Link) {
        link.close();
        self.others.clear(link.slot);
        if let Some(place) = self.write().links.get_mut(usize::from(link.slot)) {
            *place = None;
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Directory> {
        self.directory.write().unwrap_or_else(PoisonError::into_inner)
    }
}
