//! What comes from the bus: who is there, and whether a frame is the next one of its stream.

use bytes::Bytes;

use super::pace::Pace;
use super::peer::{Incoming, RESTART, complain, suspect};
use super::{Clients, HELLO, Node};
use crate::cluster::interest::own::Version;
use crate::cluster::link::WINDOW;
use crate::cluster::members::Phase;
use crate::cluster::proof;
use crate::cluster::protocol::{self, HEADER, Header, Hello, Kind, Malformed, Message, Messages, Run};
use crate::telemetry::rate_limited::rate_limited;

/// Logs that something can't be read. Who sends such things can send many.
fn malformed(what: &str, error: Malformed) {
    rate_limited!(WARN, "something malformed comes from the mesh", what; %error, "the mesh: {what} is malformed");
}

/// Channels in a part of a snapshot.
const PART: usize = 4096;

impl<C: Clients> Node<C> {
    /// What another node has said to all.
    pub fn hear(&mut self, bytes: &[u8], now: u64) {
        if self.pace == Pace::Still {
            // It is said again.
            return;
        }
        match Hello::read(bytes) {
            Ok(hello) => self.meet(hello, now),
            Err(error) => malformed("a hello", error),
        }
    }

    /// An epoch that no stream of this run had before.
    pub(super) fn new_epoch(&mut self, now: u64) -> u32 {
        self.last_epoch = (self.last_epoch + 1).max(u32::try_from(now / 1000).unwrap_or(u32::MAX));
        self.last_epoch
    }

    /// What a stream to a node begins with. `known`: the version of its channels that is known here.
    pub(super) fn first_messages(&self, to: &Hello, epoch: u32, known: Option<Version>) -> Vec<Bytes> {
        let hello = self.hello();
        let proof = proof::of(self.settings.secret.expose().as_bytes(), &hello, to, epoch);
        let mut first = vec![Message::Begin { hello, proof }.to_bytes()];
        let (version, hashes) = if to.engine { self.shared.own.all() } else { (0, Vec::new()) };
        let mut parts = hashes.chunks(PART).peekable();
        loop {
            let part = parts.next().unwrap_or_default();
            let (hashes, last) = (protocol::longs(part.iter().copied()), parts.peek().is_none());
            first.push(Message::Snapshot { version, hashes: &hashes, last }.to_bytes());
            if last {
                break;
            }
        }
        first.extend(self.reached_message());
        first.extend(self.nodes_message());
        first.extend(known.map(|version| Message::InterestKnown { version }.to_bytes()));
        first
    }

    /// A frame has come.
    pub fn frame(&mut self, frame: Bytes, now: u64) {
        if self.pace == Pace::Still {
            return self.kept.frames.push(frame);
        }
        if let Err(error) = self.take(frame, now) {
            malformed("a frame", error);
        }
    }

    fn take(&mut self, frame: Bytes, now: u64) -> Result<(), Malformed> {
        let (header, body) = Header::read(&frame)?;
        self.shared.stats.received.add(0, frame.len());
        let (from, epoch) = (header.from, header.epoch);
        if header.to != self.settings.run || self.phase == Phase::Leaving {
            // For a run before this one.
            return Ok(());
        }
        let known = self.peers.get(&from).map(|peer| peer.incoming.epoch).max(self.dropped.get(&from).copied());
        let is_newer = known.is_none_or(|known| epoch > known);
        if header.kind == Kind::Stream && header.seq == 0 && is_newer {
            let Some((_, Message::Begin { hello, proof })) = Messages::new(body).next().transpose()? else {
                return Err(Malformed::Message);
            };
            if hello.run != from || !self.begins(hello, epoch, &proof, now) {
                return Ok(());
            }
        }
        if header.kind == Kind::Aside {
            match Messages::new(body).next().transpose()? {
                Some((_, Message::Begin { hello, proof })) => {
                    if hello.run == from {
                        self.is_greeted(hello, epoch, &proof, now);
                    }
                    return Ok(());
                }
                Some((_, Message::Probe { token })) => {
                    self.is_probed(from, token);
                    return Ok(());
                }
                _ => {}
            }
        }
        // One that is not known yet: it hears from us soon, and is heard again.
        let Some(peer) = self.peers.get_mut(&from) else {
            self.greet = true;
            self.greet_stranger(from, now);
            return Ok(());
        };
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
                    match message {
                        Ok((_, message)) => self.aside(header.from, message, now),
                        Err(error) => {
                            self.expel(header.from, error);
                            break;
                        }
                    }
                }
            }
            Kind::Stream if !in_order || flooded => {}
            Kind::Stream => {
                let incoming = &mut peer.incoming;
                incoming.came += 1;
                incoming.bytes += frame.len();
                incoming.backlog.push_back((frame, HEADER));
                if self.pace == Pace::Finishing {
                    incoming.split_last();
                }
            }
        }
        Ok(())
    }

    /// A node begins a stream. False: it is refused.
    fn begins(&mut self, hello: Hello, epoch: u32, proof: &[u8; 32], now: u64) -> bool {
        let run = hello.run;
        if !self.proves(hello, epoch, proof, now) {
            return false;
        }
        let Some(peer) = self.peers.get_mut(&run) else { return false };
        let complained = peer.incoming.complained;
        peer.incoming = Incoming { epoch, complained, ..Incoming::default() };
        self.clients.began(run.0, epoch);
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
            Message::Leave => {
                self.dials.forget(from);
                self.remove(from, None);
            }
            Message::Moving => self.moves(from, now),
            Message::Back => self.is_back(from, now),
            _ => {}
        }
    }

    /// Begins the stream to a node anew.
    pub(super) fn restart(&mut self, to: Run, now: u64) {
        let epoch = self.new_epoch(now);
        let Some(peer) = self.peers.get(&to) else { return };
        let first = self.first_messages(&peer.hello, epoch, peer.complete.then_some(peer.version));
        let Some(peer) = self.peers.get_mut(&to) else { return };
        peer.restarted = now;
        self.shared.stats.restarted();
        peer.link.restart_with(epoch, &first);
        tracing::debug!(node = %peer.hello.api.escape_debug(), epoch, "something was lost on the way to a node; all is told anew");
    }

    /// The link to a node has ended: it is not waited for, and is gone if nothing is heard of it soon.
    pub fn link_closed(&mut self, run: Run, now: u64) {
        if self.pace == Pace::Still {
            return self.kept.closed.push(run);
        }
        let leave = self.settings.leave;
        // The other end sees it as well: so each hears soon that the other one is still there, by another way.
        self.greet = true;
        self.strangers.remove(run);
        if let Some(peer) = self.peers.get_mut(&run) {
            (peer.closed, peer.patience) = (true, 0);
            peer.heard = peer.heard.min((now + HELLO + HELLO / 2).saturating_sub(leave));
            if peer.link.set_suspect(true) {
                suspect(peer);
            }
            peer.link.expire(u64::MAX, u64::MAX);
        }
    }

    /// A node has ended: it has said so, or is gone for that reason.
    pub(super) fn remove(&mut self, run: Run, why: Option<&str>) {
        let Some(peer) = self.peers.remove(&run) else { return };
        if let Some(last) = self.dropped.get_mut(&run) {
            *last = peer.incoming.epoch.max(*last);
        }
        let api = peer.hello.api.escape_debug();
        match why {
            None => tracing::info!(node = %api, "a node has left the mesh"),
            Some(why) => tracing::warn!(node = %api, "a node is gone: {why}"),
        }
        self.shared.end(&peer.link);
        if let Some(telling) = &mut self.telling {
            telling.left.remove(&run);
        }
        self.changed = true;
    }
}
