//! Nodes that hand over to a successor process, with frames under way. The successor may fail; what it sends may overtake what
//! the process before has sent.

use std::sync::Arc;

use super::clients::Random;
use super::network::settings;
use super::world::{Node, World, number};
use crate::cluster::heir::Heir;
use crate::cluster::interest::hash;
use crate::cluster::members::{Phase, Shared};
use crate::cluster::node::{Node as Core, Output};
use crate::cluster::protocol::Run;

/// How far a handover has come.
pub(super) struct Move {
    pub(super) heir: Heir,
    /// The successor stands still.
    pub(super) frozen_until: u64,
    stage: Stage,
}

/// Which process of a node that hands over stands still.
#[derive(Debug, Clone, Copy)]
pub(super) enum Who {
    Process,
    Successor,
    /// Both, as their machine.
    Both,
}

impl Who {
    pub(super) fn any(random: &mut Random) -> Who {
        [Who::Process, Who::Successor, Who::Both][random.below(3) as usize]
    }

    pub(super) fn freeze(self, process: &mut u64, successor: Option<&mut u64>, until: u64) {
        match (self, successor) {
            (Who::Successor, Some(successor)) => *successor = until,
            (Who::Both, Some(successor)) => (*process, *successor) = (until, until),
            (Who::Process, _) | (_, None) => *process = until,
        }
    }
}

enum Stage {
    /// The successor reaches the others, until then.
    Reaching(u64),
    /// Clients do nothing new; what they have asked is answered.
    Ending,
    /// The node finishes, until then.
    Finishing(u64),
    /// All of it is on its way, until then. The successor may fail.
    Still { parts: Vec<Vec<u8>>, until: u64, fails: bool },
}

impl Node {
    /// It stands still until then; or its successor, if it hands over.
    pub(super) fn freeze(&mut self, until: u64, who: Who) {
        who.freeze(&mut self.frozen_until, self.moving.as_mut().map(|moving| &mut moving.frozen_until), until);
    }

    /// Whether its clients do nothing, since it hands over.
    pub(super) fn holds_still(&self) -> bool {
        self.moving.as_ref().is_some_and(|moving| !matches!(moving.stage, Stage::Reaching(_)))
    }
}

impl World {
    /// Some node begins to hand over.
    pub(super) fn begin_move(&mut self) {
        let Some(run) = self.any_serving() else { return };
        let (token, now) = (self.random.next(), self.now);
        let node = self.nodes.get_mut(&run).unwrap();
        if node.moving.is_none()
            && let Ok(others) = node.core.precede()
        {
            let (heir, stage) = (Heir::new(run, token, others), Stage::Reaching(now + 3000));
            node.moving = Some(Move { heir, frozen_until: 0, stage });
        }
    }

    pub(super) fn go_on_moving(&mut self, run: Run) {
        let now = self.now;
        let is_asked = self.published.iter().any(|published| published.by == run);
        let Some(node) = self.nodes.get_mut(&run).filter(|node| node.frozen_until <= now) else { return };
        let Some(mut moving) = node.moving.take() else { return };
        if node.shared.phase() != Phase::Serving {
            return;
        }
        let mut sent = Vec::new();
        moving.stage = match moving.stage {
            Stage::Reaching(until) if moving.frozen_until > now && now < until => Stage::Reaching(until),
            Stage::Reaching(until) => {
                sent.extend(moving.heir.tick(now).into_iter().filter_map(|output| match output {
                    Output::Greet(to, frame) => Some((to, frame)),
                    _ => None,
                }));
                match moving.heir.missing().is_empty() {
                    true => Stage::Ending,
                    false if now < until => Stage::Reaching(until),
                    false => return self.stay(run),
                }
            }
            Stage::Ending if is_asked || !node.blocked.is_empty() => Stage::Ending,
            Stage::Ending => {
                node.core.finish();
                Stage::Finishing(now + 2000)
            }
            Stage::Finishing(_) if node.core.is_at_rest() => {
                node.core.be_still();
                let pause = if self.random.chance(80) { 200 } else { 1500 };
                let until = now + self.random.below(pause);
                Stage::Still { parts: node.core.save(), until, fails: self.random.chance(25) }
            }
            Stage::Finishing(until) if now < until => Stage::Finishing(until),
            Stage::Finishing(_) => return self.stay(run),
            Stage::Still { until, fails: true, .. } if now >= until => return self.stay(run),
            Stage::Still { parts, until, fails: false } if now >= until && moving.frozen_until <= now => {
                return self.succeed(run, moving.heir, &parts);
            }
            still => still,
        };
        node.moving = Some(moving);
        sent.into_iter().for_each(|(to, frame)| self.send(run, to, frame.into(), false));
    }

    /// There is no successor.
    fn stay(&mut self, run: Run) {
        self.failed += 1;
        self.nodes.get_mut(&run).unwrap().core.go_on(self.now);
    }

    /// Another process is the node from now on.
    fn succeed(&mut self, run: Run, heir: Heir, parts: &[Vec<u8>]) {
        self.moved += 1;
        let now = self.now;
        let node = self.nodes.get_mut(&run).unwrap();
        let shared = Arc::new(Shared::default());
        let settings = settings(run, number(run), now);
        let mut core = Core::restore(settings, shared.clone(), node.clients.clone(), parts, now).unwrap();
        for (channel, subscription) in &mut node.subscriptions {
            shared.own.first(hash(channel));
            if !subscription.complete {
                subscription.waits = shared.own.told(hash(channel));
            }
        }
        heir.into_frames().for_each(|frame| core.frame(frame, now));
        (node.core, node.shared) = (core, shared);
        node.links.clear();
        self.network.succeed(run);
    }
}
