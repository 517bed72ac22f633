//! What a node of the mesh does, without I/O and without a clock of its own: what comes from other nodes goes in, what is
//! to be done comes out ([`Output`]), and what is to be sent is left in links. So a whole mesh runs in one thread under a
//! seed, as well as over a network.
//!
//! Every node says hello to all once a second. Two nodes that have heard each other show each other that they know the
//! cluster's secret ([`strangers`]), and then exchange streams of frames, one each way. A stream begins with the proof that its sender knows the cluster's secret, and with all of the sender's channels;
//! what follows are changes of these, publications, and replies. If a frame is lost, the receiver says so, and the sender
//! begins anew: so the table of channels is whole again, and what was on the way is told as unanswered.

mod census;
mod delivery;
mod dials;
mod expel;
mod heard;
mod known;
mod missing;
mod moving;
mod pace;
mod peer;
mod receive;
mod saved;
mod strangers;
mod work;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use self::heard::Strangers;
use self::known::Dials;
use self::missing::Missing;
use self::pace::{Kept, Pace};
use self::peer::{Peer, suspect};
use super::interest::own::Version;
use super::link::Link;
use super::members::{MAX_NODES, Phase, Shared};
use super::protocol::{self, Hello, MAJOR, Message, Run};
use crate::secret::Secret;

pub use delivery::{AnswerReply, Clients, CommandReply, Delivery, OnceReply, Payload, Waiting};
#[cfg(test)]
pub(in crate::cluster) use expel::MAX_CHANNELS;
pub use moving::Reach;

/// Others have so long to be heard before a node serves: a hello of each and some more.
const SETTLE: u64 = 1200;
/// Milliseconds between two hellos, unless a test is in a hurry.
pub const HELLO: u64 = 1000;
/// A newcomer is greeted so soon, if others were not greeted just before.
const GREETING: u64 = 50;
/// A node that joins waits no longer than this for one that does not answer.
const JOINING: u64 = 5000;
/// A node that finds no center says so this often.
const SEEKING: u64 = 4000;
/// A command is waited for so many times as long as a publish.
const COMMAND: u64 = 3;
/// What a node is to start with.
pub struct Settings {
    /// This run of it.
    pub run: Run,
    /// What all nodes of the mesh know.
    pub secret: Secret,
    /// Random bytes of this run.
    pub nonce: [u8; 16],
    /// It has clients.
    pub engine: bool,
    /// It is a center.
    pub center: bool,
    /// Where centers are looked for. If there are any, it does not serve before it has found one.
    pub centers: Vec<String>,
    /// Its number in the ids of its clients, unless another has that.
    pub number: u16,
    /// Unix time of its start, in milliseconds.
    pub started: u64,
    /// `host:port` of its API.
    pub api: String,
    /// `host:port` of this node as others dial it; several are several ways.
    pub reached: Vec<String>,
    /// Milliseconds between two hellos: [`HELLO`].
    pub hello: u64,
    /// Milliseconds after which a node that does not answer is not waited for.
    pub reply_timeout: u64,
    /// Milliseconds of silence after which a node is gone.
    pub leave: u64,
}

/// What is to be done for the node.
pub enum Output {
    /// Send this to all nodes.
    Announce(Vec<u8>),
    /// Send the frames of this link, until it ends.
    Send(Arc<Link>),
    /// Send this frame to a node that has no link yet, if that is possible without waiting.
    Greet(Run, Vec<u8>),
    /// Make a link to this node, which can be dialled at these addresses.
    Dial(Run, Vec<String>),
    /// The node takes this number, since another has its own.
    Number(u16),
}

/// A version of our channels that is on its way to all.
struct Telling {
    version: Version,
    since: u64,
    /// Who does not know it yet.
    left: HashSet<Run>,
}

/// A node. See the module.
pub struct Node<C> {
    settings: Settings,
    shared: Arc<Shared>,
    clients: C,
    peers: BTreeMap<Run, Peer>,
    output: Vec<Output>,
    telling: Option<Telling>,
    phase: Phase,
    /// When the phase began.
    since: u64,
    sought: u64,
    greeted: u64,
    greet: bool,
    /// Others should hear at once what has changed.
    news: bool,
    /// Its clients are asked to leave.
    draining: bool,
    cleaned: u64,
    last_epoch: u32,
    changed: bool,
    refused: Refused,
    strangers: Strangers,
    missing: Missing,
    dials: Dials,
    /// How far this node is in handing over to a successor process.
    pace: Pace,
    /// What has come since it is still.
    kept: Kept,
    /// The nodes to which a successor listens, with the epoch of the last stream of each that was dropped since; else 0: see [`moving`].
    dropped: BTreeMap<Run, u32>,
}

/// Nodes that were refused, each of which the log names once.
#[derive(Default)]
struct Refused(HashSet<Run>);

impl Refused {
    /// True: the log has not named it yet.
    fn insert(&mut self, run: Run) -> bool {
        if self.0.len() >= MAX_NODES {
            self.0.clear();
        }
        self.0.insert(run)
    }
}

impl<C: Clients> Node<C> {
    /// A node that has heard of nobody yet.
    pub fn new(settings: Settings, shared: Arc<Shared>, clients: C, now: u64) -> Node<C> {
        let phase = if settings.centers.is_empty() { Phase::Joining } else { Phase::Seeking };
        shared.set_phase(phase);
        shared.set_now(now);
        Node {
            settings,
            shared,
            clients,
            peers: BTreeMap::new(),
            output: Vec::new(),
            telling: None,
            phase,
            since: now,
            sought: now,
            greeted: 0,
            greet: true,
            news: false,
            draining: false,
            cleaned: now,
            last_epoch: 0,
            changed: true,
            refused: Refused::default(),
            strangers: Strangers::default(),
            missing: Missing::default(),
            dials: Dials::default(),
            pace: Pace::default(),
            kept: Kept::default(),
            dropped: BTreeMap::new(),
        }
    }

    /// What is to be done.
    pub fn outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.output)
    }

    /// This node's clients.
    pub fn clients(&mut self) -> &mut C {
        &mut self.clients
    }

    fn hello(&self) -> Hello {
        let Settings { run, nonce, engine, center, number, started, ref api, .. } = self.settings;
        Hello {
            major: MAJOR,
            minor: protocol::MINOR,
            run,
            number: if engine { number } else { 0 },
            engine,
            center,
            serving: self.phase == Phase::Serving && !self.draining,
            started,
            clients: self.clients.count(),
            nonce,
            api: api.clone(),
        }
    }

    /// For a timer, several times in a second.
    pub fn tick(&mut self, now: u64) {
        self.shared.set_now(now);
        if self.pace == Pace::Still {
            return;
        }
        let (leave, reply_timeout) = (self.settings.leave, self.settings.reply_timeout);
        let gone: Vec<Run> =
            self.peers.iter().filter(|(_, peer)| now > peer.heard + leave).map(|(run, _)| *run).collect();
        gone.into_iter().for_each(|run| self.remove(run, Some("nothing was heard of it for cluster.leave")));
        for peer in self.peers.values() {
            peer.link.look_at_clock(now);
            let is_patient = now < peer.patience;
            // The answer to a command may have to wait for other nodes, each of which is waited for that long.
            let commands = if peer.link.is_suspect() { reply_timeout } else { COMMAND * reply_timeout };
            if !is_patient {
                let expired = peer.link.expire(now.saturating_sub(reply_timeout), now.saturating_sub(commands));
                self.shared.stats.unanswered(expired);
            }
            let is_late = || peer.link.unread_since().is_some_and(|since| now > since + reply_timeout);
            let silent = peer.closed || (!is_patient && is_late());
            if peer.link.set_suspect(silent) {
                if silent {
                    suspect(peer);
                } else {
                    tracing::info!(node = %peer.hello.api.escape_debug(), "a node answers again");
                }
            }
        }
        if now >= self.cleaned + HELLO / 2 {
            self.cleaned = now;
            self.shared.own.forget(now);
        }
        self.strangers.forget(now);
        self.advance(now);
        let due = now >= self.greeted + self.settings.hello || (self.greet && now >= self.greeted + GREETING);
        if due || self.greeted == 0 || std::mem::take(&mut self.news) {
            self.greeted = now;
            self.greet = false;
            let mut bytes = Vec::new();
            self.hello().write(&mut bytes);
            self.output.push(Output::Announce(bytes));
            for peer in self.peers.values() {
                peer.link.aside(None);
            }
        }
        self.dial(now);
        self.look_for_missing(now);
        self.tell(now);
        self.publish_members(now);
    }

    /// Whether this node may serve now.
    fn advance(&mut self, now: u64) {
        if self.shared.is_draining() && !std::mem::replace(&mut self.draining, true) {
            (self.news, self.changed) = (true, true);
        }
        let settled = self.since + SETTLE.min(self.settings.hello * 6 / 5);
        let phase = match self.phase {
            Phase::Seeking if self.peers.values().any(|peer| peer.hello.center) => Phase::Joining,
            Phase::Joining if !self.settings.engine => Phase::Serving,
            Phase::Joining if now >= settled => {
                let exchanged = |peer: &Peer| peer.complete && peer.knows.is_some();
                let all = self.peers.values().filter(|peer| peer.hello.engine).all(exchanged)
                    && self.strangers.engines().next().is_none();
                match (all && self.missed(now, true) == 0) || now >= self.since + JOINING {
                    true => Phase::Serving,
                    false => Phase::Joining,
                }
            }
            Phase::Seeking if now >= self.sought + SEEKING => {
                self.sought = now;
                let centers = self.settings.centers.join(", ");
                tracing::warn!("no center is found yet at {centers}; does it run, and is its cluster.secret the same?");
                Phase::Seeking
            }
            same => same,
        };
        if self.phase != Phase::Serving && self.settings.engine {
            self.claim();
        }
        if phase != self.phase {
            (self.phase, self.since, self.news, self.changed) = (phase, now, true, true);
            if phase == Phase::Serving {
                let (number, nodes) = (self.settings.number, 1 + self.peers.len());
                tracing::info!(number, nodes, "this node serves in the mesh");
            }
            self.shared.set_phase(phase);
        }
    }

    /// Takes another number if a node that goes before has ours: one that serves, or began earlier.
    fn claim(&mut self) {
        let Settings { number, started, run, .. } = self.settings;
        let engines = || self.peers.values().filter(|peer| peer.hello.engine);
        let precedes = |peer: &&Peer| {
            let hello = &peer.hello;
            hello.number == number && (hello.serving || (hello.started, hello.run) < (started, run))
        };
        if engines().any(|peer| precedes(&peer)) {
            let taken: HashSet<u16> = engines().map(|peer| peer.hello.number).collect();
            let from = (number as usize * 31 + run.0 as usize % 1009) % MAX_NODES;
            let free = (0..MAX_NODES).map(|i| ((from + i) % MAX_NODES + 1) as u16).find(|n| !taken.contains(n));
            if let Some(free) = free {
                self.settings.number = free;
                self.greet = true;
                self.changed = true;
                self.output.push(Output::Number(free));
            }
        }
    }

    /// Which version of our channels a node knows, as far as it has told.
    pub fn knows(&self, run: Run) -> Option<Version> {
        self.peers.get(&run)?.knows
    }

    /// Whether a node is a member whose channels are known here.
    pub fn is_complete(&self, run: Run) -> bool {
        self.peers.get(&run).is_some_and(|peer| peer.complete)
    }

    /// This node ends: others need not wait for its silence.
    pub fn leave(&mut self) {
        self.phase = Phase::Leaving;
        self.shared.set_phase(self.phase);
        for peer in self.peers.values() {
            peer.link.aside(Some(&Message::Leave));
        }
    }

    /// Ends all links.
    pub fn end(&mut self) {
        for peer in std::mem::take(&mut self.peers).into_values() {
            self.shared.end(&peer.link);
        }
    }

    /// Lets other threads know who there is.
    fn publish_members(&mut self, now: u64) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        self.tell_nodes(now);
        let mut members: Vec<Hello> = vec![self.hello()];
        members.extend(self.peers.values().map(|peer| peer.hello.clone()));
        let numbers =
            self.peers.values().filter(|peer| peer.hello.engine).map(|peer| (peer.hello.number, peer.link.slot));
        self.shared.set_members(members, numbers);
    }
}

#[cfg(test)]
mod tests;
