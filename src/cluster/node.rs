//! What a node of the mesh does, without I/O and without a clock of its own: what comes from other nodes goes in, what is
//! to be done comes out ([`Output`]), and what is to be sent is left in links. So a whole mesh runs in one thread under a
//! seed, as well as over a network.
//!
//! Every node says hello to all once a second. Two nodes that have heard each other exchange streams of frames, one each
//! way. A stream begins with the proof that its sender knows the cluster's secret, and with all of the sender's channels;
//! what follows are changes of these, publications, and replies. If a frame is lost, the receiver says so, and the sender
//! begins anew: so the table of channels is whole again, and what was on the way is told as unanswered.

use bytes::Bytes;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;

use crate::hub::{CommandError, Counts, Tally};
use crate::cluster::interest::own::Version;
use crate::cluster::link::{Link, Request, WINDOW};
use crate::cluster::members::{Phase, Shared};
use crate::cluster::proof;
use crate::cluster::protocol::{self, HEADER, Header, Hello, Kind, MAJOR, Malformed, Message, Messages, Reply, Run};

/// Milliseconds between two hellos.
const HELLO: u64 = 1000;
/// A newcomer is greeted so soon, if others were not greeted just before.
const GREETING: u64 = 50;
/// Others have so long to be heard before a node serves.
const SETTLE: u64 = 1200;
/// A node that joins waits no longer than this for one that does not answer.
const JOINING: u64 = 5000;
/// A node that finds no center says so this often.
const SEEKING: u64 = 4000;
/// A stream is begun anew no more often than this.
const RESTART: u64 = 100;
/// A command is waited for so many times as long as a publish.
const COMMAND: u64 = 3;
/// The most nodes of a mesh.
pub const MAX_NODES: usize = 1023;
/// Channels in a part of a snapshot.
const PART: usize = 4096;

/// What a node is to start with.
pub struct Settings {
    /// This run of it.
    pub run: Run,
    /// What all nodes of the mesh know.
    pub secret: Vec<u8>,
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
    /// `host:port` where others are to dial it; empty: where its bus listens.
    pub mesh: String,
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
    /// The node takes this number, since another has its own.
    Number(u16),
}

/// What comes from another node for the clients of this one.
pub enum Delivery {
    /// To all subscribers of a channel.
    Publish {
        /// Its name, as it came.
        channel: String,
        /// Binary data; else text.
        binary: bool,
        /// The data.
        data: Bytes,
        /// Where it is counted.
        counts: Option<Tally>,
    },
    /// To one client.
    Send {
        /// Its id.
        client: u64,
        /// Binary data; else text.
        binary: bool,
        /// The data.
        data: Bytes,
        /// Where it is counted.
        counts: Option<Tally>,
    },
    /// For one client's connection to do.
    Command {
        /// Its id.
        client: u64,
        /// In the form of its owner.
        command: Bytes,
        /// Who is told what came of it.
        reply: CommandReply,
    },
}

/// Who is told what came of a command.
pub struct CommandReply {
    link: Arc<Link>,
    request: u64,
}

impl CommandReply {
    /// What failed, if something did.
    pub fn answer(self, problem: Option<&str>, now: u64) {
        let reply = Message::CommandReply { request: self.request, problem };
        self.link.force(&reply.to_bytes(), None, now);
    }
}

/// A delivery that waits for room.
pub type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The clients of this node.
pub trait Clients {
    /// Delivers something. Some: it waits for room; nothing else of the same node comes before it is done.
    fn deliver(&mut self, delivery: Delivery) -> Option<Waiting>;
    /// How many there are.
    fn count(&self) -> u64;
    /// Goes on with what was begun.
    fn poll(&mut self, cx: &mut Context<'_>);
}

struct Peer {
    hello: Hello,
    /// It has proved that it knows the secret.
    proven: bool,
    /// When something of it came last.
    heard: u64,
    /// The link to it has ended, and nothing was heard since.
    closed: bool,
    link: Arc<Link>,
    restarted: u64,
    incoming: Incoming,
    /// All of its channels are known here.
    complete: bool,
    /// The version of its channels that is known here.
    version: Version,
    /// The version of our channels that it knows.
    knows: Option<Version>,
}

/// The stream from a node.
#[derive(Default)]
struct Incoming {
    epoch: u32,
    /// Frames that came.
    came: u64,
    /// Frames that were worked off, and how many of them the node was told.
    done: u64,
    told: u64,
    backlog: VecDeque<(Bytes, usize)>,
    bytes: usize,
    waiting: Option<Waiting>,
    snapshot: Vec<u64>,
    /// When it was told last that something was lost.
    complained: Option<u64>,
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
    cleaned: u64,
    last_epoch: u32,
    changed: bool,
    refused: HashSet<Run>,
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
            cleaned: now,
            last_epoch: 0,
            changed: true,
            refused: HashSet::new(),
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
        let Settings { run, nonce, engine, center, number, started, ref api, ref mesh, .. } = self.settings;
        Hello {
            major: MAJOR,
            minor: protocol::MINOR,
            run,
            number: if engine { number } else { 0 },
            engine,
            center,
            serving: self.phase == Phase::Serving,
            started,
            clients: self.clients.count(),
            nonce,
            api: api.clone(),
            mesh: mesh.clone(),
        }
    }

    /// What another node has said to all.
    pub fn hear(&mut self, bytes: &[u8], now: u64) {
        match Hello::read(bytes) {
            Ok(hello) => {
                self.meet(hello, now);
            }
            Err(error) => tracing::warn!(%error, "the mesh: a hello is malformed"),
        }
    }

    /// A node is there. None: it is none that we work with.
    fn meet(&mut self, hello: Hello, now: u64) -> Option<&mut Peer> {
        let run = hello.run;
        if run == self.settings.run || self.phase == Phase::Leaving {
            return None;
        }
        if hello.major != MAJOR {
            if self.refused.len() < MAX_NODES && self.refused.insert(run) {
                let (theirs, api) = (hello.major, hello.api.escape_debug());
                tracing::warn!(node = %api, "a node is refused: its program speaks version {theirs} of the mesh, this one {MAJOR}");
            }
            return None;
        }
        if let Some(peer) = self.peers.get_mut(&run) {
            (peer.heard, peer.closed) = (now, false);
            // What proves the node may not be changed by what is not proven.
            let same = peer.hello.nonce == hello.nonce;
            if same && peer.hello != hello {
                self.changed |= peer.proven;
                peer.hello = hello;
            }
        } else if self.peers.len() < MAX_NODES {
            let epoch = self.new_epoch(now);
            let link = self.shared.open(|slot| Link::new(self.settings.run, run, slot, epoch))?;
            let first = self.first_messages(&hello, epoch, None);
            link.restart_with(epoch, &first);
            self.output.push(Output::Send(link.clone()));
            self.greet = true;
            let peer = Peer {
                hello,
                proven: false,
                heard: now,
                closed: false,
                link,
                restarted: now,
                incoming: Incoming::default(),
                complete: false,
                version: 0,
                knows: None,
            };
            self.peers.insert(run, peer);
        }
        self.peers.get_mut(&run)
    }

    /// An epoch that no stream of this run had before.
    fn new_epoch(&mut self, now: u64) -> u32 {
        self.last_epoch = (self.last_epoch + 1).max(u32::try_from(now / 1000).unwrap_or(u32::MAX));
        self.last_epoch
    }

    /// What a stream to a node begins with. `known`: the version of its channels that is known here.
    fn first_messages(&self, to: &Hello, epoch: u32, known: Option<Version>) -> Vec<Bytes> {
        let hello = self.hello();
        let proof = proof::of(&self.settings.secret, &hello, to, epoch);
        let mut first = vec![Message::Begin { hello, proof }.to_bytes()];
        let (version, hashes) = if to.engine { self.shared.own.all() } else { (0, Vec::new()) };
        let mut parts = hashes.chunks(PART).peekable();
        loop {
            let part = parts.next().unwrap_or_default();
            let (hashes, last) = (protocol::hashes(part.iter().copied()), parts.peek().is_none());
            first.push(Message::Snapshot { version, hashes: &hashes, last }.to_bytes());
            if last {
                break;
            }
        }
        first.extend(known.map(|version| Message::InterestKnown { version }.to_bytes()));
        first
    }

    /// A frame has come.
    pub fn frame(&mut self, frame: Bytes, now: u64) {
        if let Err(error) = self.take(frame, now) {
            tracing::warn!(%error, "the mesh: a frame is malformed");
        }
    }

    fn take(&mut self, frame: Bytes, now: u64) -> Result<(), Malformed> {
        let (header, body) = Header::read(&frame)?;
        if header.to != self.settings.run || self.phase == Phase::Leaving {
            // For a run before this one.
            return Ok(());
        }
        let begins = header.kind == Kind::Stream && header.seq == 0;
        let newer = self.peers.get(&header.from).is_none_or(|peer| header.epoch > peer.incoming.epoch);
        if begins && newer {
            let Some((_, Message::Begin { hello, proof })) = Messages::new(body).next().transpose()? else {
                return Err(Malformed::Message);
            };
            if hello.run != header.from || !self.begins(hello, header.epoch, &proof, now) {
                return Ok(());
            }
        }
        // One whom we have not heard yet: it hears from us soon, and is heard again.
        let Some(peer) = self.peers.get_mut(&header.from) else {
            self.greet = true;
            return Ok(());
        };
        if !peer.proven {
            complain(peer, header.epoch, now);
            // It may have lost our first frame, as we lost its.
            if let Some((_, message @ Message::Lost { .. })) = Messages::new(body).next().transpose()? {
                self.aside(header.from, message, now);
            }
            return Ok(());
        }
        (peer.heard, peer.closed) = (now, false);
        peer.link.was_read(header.read_epoch, header.read);
        let (epoch, came) = (peer.incoming.epoch, peer.incoming.came);
        if header.epoch < epoch {
            // Of a stream that has ended.
            return Ok(());
        }
        let in_order = header.epoch == epoch && header.seq == came;
        // A node that sends more than it may is one whose frames are lost.
        let flooded = peer.incoming.bytes > 2 * WINDOW;
        if header.epoch > epoch || header.seq > came || flooded {
            complain(peer, header.epoch, now);
        }
        match header.kind {
            Kind::Aside => {
                for message in Messages::new(body) {
                    self.aside(header.from, message?.1, now);
                }
            }
            Kind::Stream if !in_order || flooded => {}
            Kind::Stream => {
                let incoming = &mut peer.incoming;
                incoming.came += 1;
                incoming.bytes += frame.len();
                incoming.backlog.push_back((frame, HEADER));
            }
        }
        Ok(())
    }

    /// A node begins a stream. False: it is refused.
    fn begins(&mut self, hello: Hello, epoch: u32, proof: &[u8; 32], now: u64) -> bool {
        let mine = self.hello();
        let proven = proof::verify(&self.settings.secret, &hello, &mine, epoch, proof);
        if !proven {
            if self.refused.len() < MAX_NODES && self.refused.insert(hello.run) {
                let api = hello.api.escape_debug();
                tracing::warn!(node = %api, "a node is refused: its cluster.secret is another one");
            }
            return false;
        }
        let Some(peer) = self.meet(hello, now) else { return false };
        if !std::mem::replace(&mut peer.proven, true) {
            let Hello { api, number, .. } = &peer.hello;
            tracing::info!(node = %api.escape_debug(), number, "a node has joined the mesh");
        }
        let complained = peer.incoming.complained;
        peer.incoming = Incoming { epoch, complained, ..Incoming::default() };
        self.changed = true;
        true
    }

    /// What a node says outside of its stream.
    fn aside(&mut self, from: Run, message: Message<'_>, now: u64) {
        match message {
            Message::Lost { epoch } => {
                let Some(peer) = self.peers.get(&from) else { return };
                if epoch == peer.link.epoch() && (now >= peer.restarted + RESTART || now < peer.restarted) {
                    self.restart(from, now);
                }
            }
            Message::Leave => self.remove(from, "it has left"),
            _ => {}
        }
    }

    /// Begins the stream to a node anew.
    fn restart(&mut self, to: Run, now: u64) {
        let epoch = self.new_epoch(now);
        let Some(peer) = self.peers.get(&to) else { return };
        let first = self.first_messages(&peer.hello, epoch, peer.complete.then_some(peer.version));
        let Some(peer) = self.peers.get_mut(&to) else { return };
        peer.restarted = now;
        peer.link.restart_with(epoch, &first);
        tracing::debug!(node = %peer.hello.api.escape_debug(), epoch, "something was lost on the way to a node; all is told anew");
    }

    /// The link to a node has ended: it is not waited for, and is gone if nothing is heard of it soon.
    pub fn link_closed(&mut self, run: Run, now: u64) {
        let leave = self.settings.leave;
        if let Some(peer) = self.peers.get_mut(&run) {
            peer.closed = true;
            peer.heard = peer.heard.min((now + HELLO + HELLO / 2).saturating_sub(leave));
            if peer.link.set_suspect(true) && peer.proven {
                suspect(peer);
            }
            peer.link.expire(u64::MAX, u64::MAX);
        }
    }

    fn remove(&mut self, run: Run, why: &str) {
        let Some(peer) = self.peers.remove(&run) else { return };
        if peer.proven {
            tracing::warn!(node = %peer.hello.api.escape_debug(), "a node is gone: {why}");
        }
        self.shared.end(&peer.link);
        if let Some(telling) = &mut self.telling {
            telling.left.remove(&run);
        }
        self.changed = true;
    }

    /// Does what has come, as far as there is room, and tells what has changed.
    pub fn work(&mut self, cx: &mut Context<'_>, now: u64) {
        let runs: Vec<Run> = self.peers.iter().filter(|(_, peer)| peer.has_work()).map(|(run, _)| *run).collect();
        for run in runs {
            self.work_off(run, cx, now);
        }
        self.clients.poll(cx);
        self.tell(now);
        self.publish_members();
    }

    /// Works off the frames of a node.
    fn work_off(&mut self, run: Run, cx: &mut Context<'_>, now: u64) {
        loop {
            let Some(peer) = self.peers.get_mut(&run) else { return };
            let incoming = &mut peer.incoming;
            if let Some(waiting) = &mut incoming.waiting {
                if waiting.as_mut().poll(cx).is_pending() {
                    return;
                }
                incoming.waiting = None;
            }
            let Some((frame, at)) = incoming.backlog.front() else { return };
            let (frame, at) = (frame.clone(), *at);
            let mut messages = Messages::new(&frame[at..]);
            let next = messages.next();
            if let Some((_, at)) = incoming.backlog.front_mut() {
                *at = frame.len() - messages.rest().len();
            }
            match next {
                Some(Ok((request, message))) => self.message(run, &frame, request, message, now),
                Some(Err(error)) => {
                    tracing::warn!(node = %peer.hello.api.escape_debug(), %error, "the mesh: a message is malformed");
                }
                None => {
                    incoming.backlog.pop_front();
                    incoming.bytes -= frame.len();
                    incoming.done += 1;
                    // A node that waits for room hears of it in time; one that idles, with the next heartbeat.
                    let soon = incoming.backlog.is_empty() || incoming.done - incoming.told > 16;
                    if soon {
                        incoming.told = incoming.done;
                    }
                    peer.link.has_read(incoming.epoch, incoming.done, soon);
                }
            }
        }
    }

    /// Does what a message of a node's stream says.
    fn message(&mut self, run: Run, frame: &Bytes, request: u64, message: Message<'_>, now: u64) {
        let Some(peer) = self.peers.get_mut(&run) else { return };
        let counts = || (request > 0).then(|| Tally::of_request(peer.link.clone(), request));
        let delivery = match message {
            Message::Publish { channel, binary, data } => {
                let data = frame.slice_ref(data);
                Delivery::Publish { channel: channel.to_owned(), binary, data, counts: counts() }
            }
            Message::Send { client, binary, data } => {
                Delivery::Send { client, binary, data: frame.slice_ref(data), counts: counts() }
            }
            Message::Command { client, command } => {
                let reply = CommandReply { link: peer.link.clone(), request };
                Delivery::Command { client, command: frame.slice_ref(command), reply }
            }
            Message::Replies(bytes) => {
                for Reply { request, reached, failed } in Reply::read_all(bytes) {
                    if let Some(Request::Counts(share)) = peer.link.take_request(request) {
                        share.settle(Counts { reached: reached.into(), failed: failed.into(), unanswered: 0 });
                    }
                }
                return;
            }
            Message::CommandReply { request, problem } => {
                if let Some(Request::Command(_, reply)) = peer.link.take_request(request) {
                    // One that waits no more needs no answer.
                    let _ = reply.send(match problem {
                        None => Ok(()),
                        Some(problem) => Err(CommandError::Bound(problem.to_owned())),
                    });
                }
                return;
            }
            Message::Snapshot { version, hashes, last } => {
                peer.incoming.snapshot.extend(protocol::read_hashes(hashes));
                if last {
                    let all = std::mem::take(&mut peer.incoming.snapshot);
                    if std::mem::replace(&mut peer.complete, true) {
                        self.shared.others.retain(peer.link.slot, &all.iter().copied().collect());
                    }
                    self.shared.others.come(peer.link.slot, all.into_iter());
                    peer.knows_ours(version, now);
                }
                return;
            }
            Message::Interest { version, gone, come } => {
                self.shared.others.gone(peer.link.slot, protocol::read_hashes(gone));
                self.shared.others.come(peer.link.slot, protocol::read_hashes(come));
                peer.knows_ours(version, now);
                return;
            }
            Message::InterestKnown { version } => {
                peer.knows = peer.knows.max(Some(version));
                if let Some(telling) = self.telling.as_mut().filter(|telling| version >= telling.version) {
                    telling.left.remove(&run);
                }
                return;
            }
            Message::Begin { .. } | Message::Lost { .. } | Message::Leave => return,
        };
        peer.incoming.waiting = self.clients.deliver(delivery);
    }

    /// Tells others which channels have come and gone, if they know of all before.
    fn tell(&mut self, now: u64) {
        let own = &self.shared.own;
        if let Some(telling) = &self.telling {
            let late = now >= telling.since + self.settings.reply_timeout;
            if !telling.left.is_empty() && !late {
                return;
            }
            for run in &telling.left {
                if let Some(peer) = self.peers.get(run)
                    && peer.link.set_suspect(true)
                {
                    suspect(peer);
                }
            }
            own.is_known(telling.version);
            self.telling = None;
        }
        if let Some(changes) = own.next() {
            let (gone, come) = (protocol::hashes(changes.gone), protocol::hashes(changes.come));
            let message = Message::Interest { version: changes.version, gone: &gone, come: &come }.to_bytes();
            let mut left = HashSet::new();
            for (run, peer) in self.peers.iter().filter(|(_, peer)| peer.hello.engine) {
                peer.link.force(&message, None, now);
                if peer.proven && !peer.link.is_suspect() {
                    left.insert(*run);
                }
            }
            if left.is_empty() {
                own.is_known(changes.version);
            } else {
                self.telling = Some(Telling { version: changes.version, since: now, left });
            }
        }
    }

    /// For a timer, several times in a second.
    pub fn tick(&mut self, now: u64) {
        self.shared.set_now(now);
        let (leave, reply_timeout) = (self.settings.leave, self.settings.reply_timeout);
        let gone: Vec<Run> =
            self.peers.iter().filter(|(_, peer)| now > peer.heard + leave).map(|(run, _)| *run).collect();
        gone.into_iter().for_each(|run| self.remove(run, "nothing was heard of it for cluster.leave"));
        for peer in self.peers.values() {
            // The answer to a command may have to wait for other nodes, each of which is waited for that long.
            let commands = if peer.link.is_suspect() { reply_timeout } else { COMMAND * reply_timeout };
            peer.link.expire(now.saturating_sub(reply_timeout), now.saturating_sub(commands));
            let silent = peer.closed || peer.link.unread_since().is_some_and(|since| now > since + reply_timeout);
            if peer.link.set_suspect(silent && peer.proven) && peer.proven {
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
        if now >= self.greeted + HELLO || (self.greet && now >= self.greeted + GREETING) || self.greeted == 0 {
            self.greeted = now;
            self.greet = false;
            let mut bytes = Vec::new();
            self.hello().write(&mut bytes);
            self.output.push(Output::Announce(bytes));
            for peer in self.peers.values() {
                peer.link.aside(None);
            }
        }
        self.advance(now);
        self.tell(now);
        self.publish_members();
    }

    /// Whether this node may serve now.
    fn advance(&mut self, now: u64) {
        let proven = || self.peers.values().filter(|peer| peer.proven);
        let phase = match self.phase {
            Phase::Seeking if proven().any(|peer| peer.hello.center) => Phase::Joining,
            Phase::Joining if !self.settings.engine => Phase::Serving,
            Phase::Joining if now >= self.since + SETTLE => {
                let exchanged = |peer: &Peer| peer.complete && peer.knows.is_some();
                let all = self.peers.values().filter(|peer| peer.hello.engine).all(exchanged);
                match all || now >= self.since + JOINING {
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
            (self.phase, self.since, self.greet, self.changed) = (phase, now, true, true);
            if phase == Phase::Serving {
                let (number, nodes) = (self.settings.number, 1 + self.peers.values().filter(|peer| peer.proven).count());
                tracing::info!(number, nodes, "this node serves in the mesh");
            }
            self.shared.set_phase(phase);
        }
    }

    /// Takes another number if a node that goes before has ours: one that serves, or began earlier.
    fn claim(&mut self) {
        let Settings { number, started, run, .. } = self.settings;
        let engines = || self.peers.values().filter(|peer| peer.proven && peer.hello.engine);
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
        self.peers.get(&run).is_some_and(|peer| peer.proven && peer.complete)
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
    fn publish_members(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let proven = || self.peers.values().filter(|peer| peer.proven);
        let mut members: Vec<Hello> = vec![self.hello()];
        members.extend(proven().map(|peer| peer.hello.clone()));
        let numbers = proven().filter(|peer| peer.hello.engine).map(|peer| (peer.hello.number, peer.link.slot));
        self.shared.set_members(members, numbers);
    }
}

impl Peer {
    fn has_work(&self) -> bool {
        self.incoming.waiting.is_some() || !self.incoming.backlog.is_empty()
    }

    /// Its channels are known here up to that version.
    fn knows_ours(&mut self, version: Version, now: u64) {
        self.version = version;
        self.link.force(&Message::InterestKnown { version }.to_bytes(), None, now);
    }
}

fn suspect(peer: &Peer) {
    tracing::warn!(node = %peer.hello.api.escape_debug(), "a node does not answer; it is not waited for until it does");
}

/// Tells a node that something of its stream was lost.
fn complain(peer: &mut Peer, epoch: u32, now: u64) {
    let complained = &mut peer.incoming.complained;
    if complained.is_none_or(|then| now >= then + RESTART || now < then) {
        *complained = Some(now);
        peer.link.aside(Some(&Message::Lost { epoch }));
    }
}
