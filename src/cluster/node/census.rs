//! Nodes that a center knows and this node does not: two engines whose link could not be made, or is cut, while both have
//! their center. Without a word from the center each would take the other one for gone. A publish counts them as nodes that do
//! not answer, and a node that joins waits for them.

use bytes::Bytes;
use std::collections::BTreeSet;

use super::{Clients, Node};
use crate::cluster::protocol::{self, Message, Run};

/// A node is missed when a center has known it for so many milliseconds longer than this node: the news of a node that
/// comes or goes takes a moment to each of them.
const PATIENCE: u64 = 1500;

impl<C: Clients> Node<C> {
    /// The engines that serve, as far as this node knows: itself as well.
    fn engines(&self) -> BTreeSet<Run> {
        let hello = self.hello();
        let own = (hello.engine && hello.serving).then_some(hello.run);
        let peers = self.peers.iter().filter(|(_, peer)| peer.proven && peer.hello.engine && peer.hello.serving);
        peers.map(|(run, _)| *run).chain(own).collect()
    }

    /// What a center's stream begins with, besides what all begin with.
    pub(super) fn members_message(&self) -> Option<Bytes> {
        let runs = protocol::longs(self.engines().into_iter().map(|run| run.0));
        self.settings.center.then(|| Message::Members { runs: &runs }.to_bytes())
    }

    /// Tells other nodes which engines there are, if this one is a center and that has changed.
    pub(super) fn tell_members(&mut self, now: u64) {
        if !self.settings.center {
            return;
        }
        let engines = self.engines();
        if engines == self.missing.told {
            return;
        }
        self.missing.told = engines;
        if let Some(message) = self.members_message() {
            self.peers.values().filter(|peer| peer.hello.engine).for_each(|peer| peer.link.force(&message, None, now));
        }
    }

    /// A center has said which engines there are.
    pub(super) fn center_knows(&mut self, center: Run, runs: &[u8]) {
        self.missing.seen.insert(center, protocol::read_longs(runs).take(super::MAX_NODES).map(Run).collect());
    }

    /// How many engines are missed: a center knows them, and this node has not for a while. `at_once`: those that it may still
    /// find in time count, too.
    pub(super) fn missed(&mut self, now: u64, at_once: bool) -> usize {
        let (peers, own) = (&self.peers, self.settings.run);
        self.missing.seen.retain(|center, _| peers.get(center).is_some_and(|peer| peer.proven && peer.hello.center));
        let is_known = |run: &Run| *run == own || peers.get(run).is_some_and(|peer| peer.proven);
        let unknown: BTreeSet<Run> =
            self.missing.seen.values().flatten().copied().filter(|run| !is_known(run)).collect();
        self.missing.since.retain(|run, _| unknown.contains(run));
        for run in unknown {
            self.missing.since.entry(run).or_insert(now);
        }
        self.missing.since.values().filter(|since| at_once || now >= **since + PATIENCE).count()
    }

    /// Lets publishers know how many nodes are missed.
    pub(super) fn look_for_missing(&mut self, now: u64) {
        let missed = self.missed(now, false);
        let before = self.shared.set_missed(missed);
        if missed > before {
            tracing::warn!(
                "the center knows {missed} engine(s) that this node has no link to: publishes do not reach their clients, and \
                 say so; can this machine reach their engine.meshPoint?"
            );
        } else if missed == 0 && before > 0 {
            tracing::info!("this node has links to all engines again");
        }
    }
}
