//! Nodes that a center knows and this node does not: two engines whose link could not be made, or is cut, while both have
//! their center. Without a word from the center each would take the other one for gone. A publish counts them as nodes that do
//! not answer, and a node that joins waits for them.

use bytes::Bytes;
use std::collections::BTreeSet;

use super::peer::Peer;
use super::{Clients, Node};
use crate::cluster::members::MAX_NODES;
use crate::cluster::protocol::{Listed, Message, Run};

/// A node is missed when a center has known it for so many milliseconds longer than this node: the news of a node that
/// comes or goes takes a moment to each of them.
const PATIENCE: u64 = 1500;

impl<C: Clients> Node<C> {
    /// The nodes that this one, a center, has a link to: an element of each stream that it sends.
    pub(super) fn nodes_message(&self) -> Option<Bytes> {
        fn listed<'a>((run, peer): (&Run, &'a Peer)) -> Listed<'a> {
            let Peer { hello, reached, .. } = peer;
            let at = reached.iter().map(String::as_str).collect();
            Listed { run: *run, center: hello.center, serving: hello.engine && hello.serving, at }
        }
        let nodes = || self.peers.iter().map(listed).collect();
        self.settings.center.then(|| Message::Nodes { nodes: nodes() }.to_bytes())
    }

    /// Tells other nodes which nodes there are, if this one is a center and that has changed.
    pub(super) fn tell_nodes(&mut self, now: u64) {
        let Some(message) = self.nodes_message().filter(|message| *message != self.missing.told) else { return };
        self.peers.values().filter(|peer| peer.hello.engine).for_each(|peer| peer.link.force(&message, None, now));
        self.missing.told = message;
    }

    /// A center has said which nodes there are.
    pub(super) fn center_knows(&mut self, center: Run, nodes: &[Listed<'_>], now: u64) {
        let nodes = || nodes.iter().take(MAX_NODES);
        for Listed { run, center, at, .. } in nodes().filter(|node| node.run != self.settings.run) {
            self.dials.know(*run, *center, at, now);
        }
        self.missing.seen.insert(center, nodes().map(|node| (node.run, node.serving)).collect());
    }

    /// How many engines are missed: a center knows them, and this node has not for a while. `at_once`: those that it may still
    /// find in time count, too.
    pub(super) fn missed(&mut self, now: u64, at_once: bool) -> usize {
        let (peers, own) = (&self.peers, self.settings.run);
        self.missing.seen.retain(|center, _| peers.get(center).is_some_and(|peer| peer.hello.center));
        let is_known = |run: &Run| *run == own || peers.contains_key(run);
        let serving = self.missing.seen.values().flatten().filter(|(_, serving)| **serving).map(|(run, _)| *run);
        let unknown: BTreeSet<Run> = serving.filter(|run| !is_known(run)).collect();
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
                 say so; can this machine reach their engine.meshPoint, or cluster.advertise.mesh?"
            );
        } else if missed == 0 && before > 0 {
            tracing::info!("this node has links to all engines again");
        }
    }
}
