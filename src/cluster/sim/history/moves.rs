//! Nodes that lead, follow, or keep copies, and hand over to a successor process.

use std::sync::Arc;
use std::task::Waker;

use super::world::{CHANNELS, Node, World, channel, parts};
use crate::cluster::heir::Heir;
use crate::cluster::members::Phase;
use crate::cluster::node::Node as Core;
use crate::cluster::protocol::Run;
pub(super) use crate::cluster::sim::moves::Who;
use crate::cluster::sim::network::settings;
use crate::handover::{Batch, Kind, Link, items};
use crate::hub::Hub;
use crate::ids::WorkerId;

/// How far a handover has come.
pub(super) struct Move {
    pub(super) heir: Heir,
    /// The successor stands still.
    pub(super) frozen_until: u64,
    stage: Stage,
}

enum Stage {
    /// What clients and publishers have asked of this node ends.
    Ending,
    /// The node finishes, until then.
    Finishing(u64),
    /// All of it is on its way, until then. The successor may fail.
    Still { until: u64, fails: bool },
}

impl World {
    /// Some node begins to hand over.
    pub(super) fn begin_move(&mut self) {
        let Some(run) = self.any_serving() else { return };
        let node = self.nodes.get_mut(&run).unwrap();
        if node.frozen_until > self.now {
            return;
        }
        if let Ok(others) = node.core.precede() {
            node.moving = Some(Move { heir: Heir::new(run, 1, others), frozen_until: 0, stage: Stage::Ending });
        }
    }

    pub(super) fn go_on_moving(&mut self, run: Run) {
        let now = self.now;
        let is_asked = self.published.iter().any(|published| published.by == run)
            || self.clients.iter().any(|client| client.node == Some(run) && client.subscribing.is_some());
        let Some(node) = self.nodes.get_mut(&run).filter(|node| node.frozen_until <= now) else { return };
        let Some(mut moving) = node.moving.take() else { return };
        if node.shared.phase() != Phase::Serving {
            return;
        }
        moving.stage = match moving.stage {
            Stage::Ending if is_asked => Stage::Ending,
            Stage::Ending => {
                node.core.finish();
                Stage::Finishing(now + 2000)
            }
            Stage::Finishing(_) if node.core.is_at_rest() => {
                node.core.be_still();
                Stage::Still { until: now + self.random.below(200), fails: self.random.chance(25) }
            }
            Stage::Finishing(until) if now < until => Stage::Finishing(until),
            Stage::Still { until, fails: false } if moving.frozen_until > now => Stage::Still { until, fails: false },
            // Not while something waits to be delivered.
            Stage::Still { until, fails: false } if now >= until && node.hub.mailbox(WorkerId(0)).is_empty() => {
                self.moved += 1;
                node.succeed(run, moving.heir, now);
                self.network.succeed(run);
                return;
            }
            Stage::Still { until, fails } if now < until || !fails => Stage::Still { until, fails },
            Stage::Finishing(_) | Stage::Still { .. } => return node.core.go_on(now),
        };
        node.moving = Some(moving);
    }
}

impl Node {
    /// It stands still until then; or its successor, if it hands over.
    pub(super) fn freeze(&mut self, until: u64, who: Who) {
        who.freeze(&mut self.frozen_until, self.moving.as_mut().map(|moving| &mut moving.frozen_until), until);
    }

    /// Another process is the node from now on.
    fn succeed(&mut self, run: Run, heir: Heir, now: u64) {
        let saved = self.core.save();
        let number = self.hub.node();
        let (shared, hub, mesh, clients) = parts(run, number);
        copy_history(&self.hub, &hub);
        let mut core = Core::restore(settings(run, number.get(), now), shared.clone(), clients, &saved, now).unwrap();
        for name in (0..CHANNELS).map(channel) {
            if !self.topics.audience(name.as_str()).0.is_empty() {
                hub.join(&name, WorkerId(0));
            }
        }
        heir.into_frames().for_each(|frame| core.frame(frame, now));
        let mut left = std::mem::take(&mut self.mailbox);
        self.hub.mailbox(WorkerId(0)).take(&mut left, 0, Waker::noop());
        assert!(left.is_empty());
        (self.core, self.shared, self.hub, self.mesh) = (core, shared, hub, mesh);
        self.links.clear();
    }
}

fn copy_history(from: &Arc<Hub>, to: &Hub) {
    let (mut one, mut other) = Link::pair().unwrap();
    let from = from.clone();
    let sender = std::thread::spawn(move || {
        let mut batch = Batch::new(&mut one, Kind::History);
        from.history().save(&mut batch).unwrap();
        batch.finish().unwrap();
    });
    while let Ok(frame) = other.receive() {
        items(&frame.bytes, |from| to.history().restore(from)).unwrap();
    }
    sender.join().unwrap();
}
