//! Nodes that were heard, and that have not proved yet that they know the cluster's secret. Nothing costly is done for
//! them: each is a few hundred bytes, there is a bound for all together, and one that falls silent is soon forgotten. A
//! stranger is greeted with our own proof. When its proof has come, it becomes a peer: with a link, a thread that sends,
//! and a stream that begins with all of our channels.

use bytes::Bytes;

use super::heard::Stranger;
use super::peer::{Incoming, Peer};
use super::{Clients, Node, Output};
use crate::cluster::link::Link;
use crate::cluster::members::{MAX_NODES, Phase};
use crate::cluster::proof;
use crate::cluster::protocol::{Header, Hello, Kind, MAJOR, Message, Run, envelop};
use crate::telemetry::rate_limited::rate_limited;

/// A stranger is greeted no more often than so many milliseconds.
const GREETED: u64 = 250;
/// A peer that still greets us has not got the beginning of our stream, if that was sent so many milliseconds ago.
const LOST: u64 = 500;

impl<C: Clients> Node<C> {
    /// Whether this is a node that we can work with.
    fn is_one_of_us(&mut self, hello: &Hello) -> bool {
        if hello.run == self.settings.run || self.phase == Phase::Leaving {
            return false;
        }
        if hello.major != MAJOR {
            if self.refused.insert(hello.run) {
                let (theirs, api) = (hello.major, hello.api.escape_debug());
                rate_limited!(WARN, "nodes of another version are refused", "";
                    node = %api, "a node is refused: its program speaks version {theirs} of the mesh, this one {MAJOR}");
            }
            return false;
        }
        true
    }

    /// A node has said hello to all.
    pub(super) fn meet(&mut self, hello: Hello, now: u64) {
        if !self.is_one_of_us(&hello) {
            return;
        }
        let run = hello.run;
        if let Some(peer) = self.peers.get_mut(&run) {
            (peer.heard, peer.closed) = (now, false);
            self.changed |= peer.update(hello);
            return;
        }
        let strangers = &mut self.strangers.0;
        if let Some(stranger) = strangers.get_mut(&run) {
            stranger.heard = now;
            if stranger.hello.nonce == hello.nonce {
                stranger.hello = hello;
            }
        } else if strangers.len() < MAX_NODES {
            strangers.insert(run, Stranger { hello, heard: now, greeted: 0, refused: false });
            // It hears us, too.
            self.greet = true;
        }
        self.greet_stranger(run, now);
    }

    /// Shows a stranger that this node knows the secret.
    pub(super) fn greet_stranger(&mut self, run: Run, now: u64) {
        let Some(stranger) = self.strangers.0.get_mut(&run) else { return };
        if stranger.greeted > 0 && now < stranger.greeted + GREETED {
            return;
        }
        stranger.greeted = now;
        let epoch = self.new_epoch(now);
        let mine = self.hello();
        let Some(stranger) = self.strangers.0.get(&run) else { return };
        let proof = proof::of(self.settings.secret.expose().as_bytes(), &mine, &stranger.hello, epoch);
        let mut frame = Vec::new();
        let from = self.settings.run;
        Header { kind: Kind::Aside, from, to: run, epoch, seq: 0, read_epoch: 0, read: 0 }.write(&mut frame);
        envelop(&Message::Begin { hello: mine, proof }.to_bytes(), 0, &mut frame);
        self.output.push(Output::Greet(run, frame));
    }

    /// A node has shown that it knows the secret, or that it does not. True: it is a peer now, if it was none before.
    pub(super) fn proves(&mut self, hello: Hello, epoch: u32, proof: &[u8; 32], now: u64) -> bool {
        if !self.is_one_of_us(&hello) {
            return false;
        }
        if !proof::verify(self.settings.secret.expose().as_bytes(), &hello, &self.hello(), epoch, proof) {
            if let Some(stranger) = self.strangers.0.get_mut(&hello.run) {
                stranger.refused = true;
            }
            if self.refused.insert(hello.run) {
                let api = hello.api.escape_debug();
                rate_limited!(WARN, "nodes with another secret are refused", "";
                    node = %api, "a node is refused: its cluster.secret is another one");
            }
            return false;
        }
        if let Some(peer) = self.peers.get_mut(&hello.run) {
            (peer.heard, peer.closed) = (now, false);
            self.changed |= peer.update(hello);
            return true;
        }
        self.admit(hello, now)
    }

    /// A node that has proved itself becomes a peer. False: there are too many.
    fn admit(&mut self, hello: Hello, now: u64) -> bool {
        let run = hello.run;
        if self.peers.len() >= MAX_NODES {
            return false;
        }
        let epoch = self.new_epoch(now);
        let (me, stats) = (self.settings.run, self.shared.stats.clone());
        let Some(link) = self.shared.open(|slot| Link::new(me, run, slot, epoch, stats)) else { return false };
        let first = self.first_messages(&hello, epoch, None);
        link.restart_with(epoch, &first);
        self.output.push(Output::Send(link.clone()));
        (self.greet, self.changed) = (true, true);
        self.strangers.remove(run);
        tracing::info!(node = %hello.api.escape_debug(), number = hello.number, "a node has joined the mesh");
        let peer = Peer {
            hello,
            heard: now,
            closed: false,
            patience: 0,
            link,
            reached: Vec::new(),
            restarted: now,
            greeting: 0,
            incoming: Incoming::default(),
            complete: false,
            version: 0,
            knows: None,
        };
        self.peers.insert(run, peer);
        true
    }

    /// A node greets us: it does not know yet that we are there, or has lost the beginning of our stream.
    pub(super) fn is_greeted(&mut self, hello: Hello, epoch: u32, proof: &[u8; 32], now: u64) {
        let run = hello.run;
        if self.peers.get(&run).is_some_and(|peer| epoch <= peer.greeting) || !self.proves(hello, epoch, proof, now) {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&run) {
            peer.greeting = epoch;
            if now >= peer.restarted + LOST {
                self.restart(run, now);
            }
        }
    }

    /// What a stream to a node begins with besides its channels and the proof: where this node is dialled.
    pub(super) fn reached_message(&self) -> Option<Bytes> {
        let at: Vec<&str> = self.settings.reached.iter().map(String::as_str).collect();
        (!at.is_empty()).then(|| Message::Reached { at }.to_bytes())
    }
}
