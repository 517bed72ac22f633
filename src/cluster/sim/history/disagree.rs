//! Nodes that see each other, and do not agree for a moment which of them leads a channel: two of them take it at once.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::task::{Context, Waker};

use super::world::{World, channel};
use crate::cluster::protocol::{Hello, Run};

/// A node has not heard of another one yet, until then.
pub(super) struct Misled {
    node: Run,
    pub(super) until: u64,
    /// The members as they were before.
    members: Arc<[Hello]>,
    /// The members as it believes.
    believed: Arc<[Hello]>,
}

/// What happens when two nodes have taken a channel at once.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    /// The one that is not to lead it leads first: so the other one has the later term.
    other_first: bool,
    /// So many messages are published on the one that is to lead it, before the other one learns of that.
    on_leader: usize,
    /// The same of the other one.
    on_other: usize,
    /// The other one learns which is to lead when the first of them has led, and not only when both have.
    learns_early: bool,
    /// A client that has seen none of this comes back before.
    comes_back_first: bool,
}

/// The channel.
const OF: u64 = 0;
/// Clients of that channel: one that stays, one that has seen what the first of the two has led, and one that has seen nothing of
/// either.
const STAYS: usize = 0;
const LEAVES: usize = 4;
const AWAY: usize = 8;

impl World {
    /// Some node has not heard yet that another one serves, or believes that it is gone.
    pub(super) fn mislead(&mut self) {
        let (Some(node), Some(other)) = (self.any_serving(), self.any_serving()) else { return };
        let is_misled = self.misled.iter().any(|misled| misled.node == node);
        if node != other && !is_misled {
            let until = self.now + self.random.below(400);
            self.believe_gone(node, other, until);
        }
    }

    fn believe_gone(&mut self, node: Run, other: Run, until: u64) {
        let shared = &self.nodes[&node].shared;
        let members = shared.members();
        shared.set_members(members.iter().filter(|hello| hello.run != other).cloned().collect(), std::iter::empty());
        self.misled.push(Misled { node, until, members, believed: shared.members() });
    }

    /// Nodes learn how it is.
    pub(super) fn enlighten(&mut self) {
        let now = self.now;
        for Misled { node, members, believed, .. } in self.misled.extract_if(.., |misled| misled.until <= now) {
            let Some(node) = self.nodes.get(&node) else { continue };
            // It may have learnt by itself.
            if Arc::ptr_eq(&node.shared.members(), &believed) {
                node.shared.set_members(members.to_vec(), std::iter::empty());
            }
        }
    }

    fn leads(&self, run: Run) -> bool {
        self.nodes[&run].hub.history().leads(&channel(OF))
    }

    /// Steps until something holds, within that many milliseconds.
    pub(super) fn until(&mut self, within: u64, what: &str, mut holds: impl FnMut(&World) -> bool) {
        let end = self.now + within;
        while !holds(self) {
            assert!(self.now < end, "{what}");
            self.step();
        }
    }
}

fn run(Schedule { other_first, on_leader, on_other, learns_early, comes_back_first }: Schedule) -> usize {
    let mut world = World::new(3);
    (0..5).for_each(|_| world.start());
    (0..600).for_each(|_| world.step());
    let in_line = world.in_line(OF);
    let [before, leader, other, one, another] = in_line[..] else { panic!("five nodes") };
    for (at, run) in [(STAYS, one), (LEAVES, another), (AWAY, one)] {
        world.connect_to(run, at);
    }
    world.until(500, "clients are in", |world| world.clients.iter().filter(|client| client.is_in()).count() == 3);
    for _ in 0..5 {
        world.publish_on(another, OF);
        world.until(1000, "it is answered", |world| world.published.is_empty());
    }
    assert!(world.leads(before) && world.acked.len() == 5);
    world.disconnect(AWAY);
    // Its channels go to the next ones, who both believe to be the first.
    world.nodes.get_mut(&before).unwrap().core.leave();
    let held = [(one, leader), (another, leader), (one, other), (another, other)];
    world.step();
    world.network.held.extend(held);
    world.nodes.remove(&before);
    world.until(200, "they know that it is gone", |world| {
        world.nodes.values().all(|node| node.shared.members().len() == 4)
    });
    world.believe_gone(other, leader, u64::MAX);
    let lead = |world: &World, run: Run| -> BoxFuture<'static, ()> {
        let (nodes, name) = (world.nodes[&run].mesh.nodes(), channel(OF));
        let rule = nodes.hub.history().rule_of(name.as_str()).unwrap();
        async move { nodes.lead(&name, &rule).await }.boxed()
    };
    let mut taking = [lead(&world, leader), lead(&world, other)];
    let mut is_over = [false; 2];
    let mut has_taken = move |which: usize| {
        let mut cx = Context::from_waker(Waker::noop());
        for (taking, is_over) in taking.iter_mut().zip(&mut is_over) {
            *is_over = *is_over || taking.poll_unpin(&mut cx).is_ready();
        }
        is_over[which]
    };
    // Each answers the other one that it has nothing, or has it no more.
    let end = world.now + 150;
    while world.now < end {
        assert!(!has_taken(0) && !has_taken(1));
        world.step();
    }
    let publish = |world: &mut World, run: Run, count: usize| {
        (0..count).for_each(|_| world.publish_on(run, OF));
        world.until(1000, "it is answered", |world| world.published.is_empty());
    };
    let order = if other_first { [1, 0] } else { [0, 1] };
    for which in order {
        let (run, count) = [(leader, on_leader), (other, on_other)][which];
        world.network.held.retain(|(_, to)| *to != run);
        world.until(200, "it has taken it", |_| has_taken(which));
        publish(&mut world, run, count);
        world.disconnect(LEAVES);
        if comes_back_first && which == order[1] {
            world.connect_to(one, AWAY);
            (0..20).for_each(|_| world.step());
        }
        if learns_early || which == order[1] {
            world.misled.iter_mut().for_each(|misled| misled.until = 0);
            (0..20).for_each(|_| world.step());
        }
    }
    world.check();
    world.told
}

/// In whatever order: who misses something is told.
#[test]
fn clients_miss_nothing_unknowingly_though_two_nodes_take_a_channel_at_once() {
    for other_first in [false, true] {
        for (on_leader, on_other) in [(0, 0), (0, 1), (1, 0), (2, 2)] {
            for early in 0..4 {
                let (learns_early, comes_back_first) = (early % 2 == 1, early / 2 == 1);
                let schedule = Schedule { other_first, on_leader, on_other, learns_early, comes_back_first };
                match std::panic::catch_unwind(|| run(schedule)) {
                    Ok(told) => println!("{schedule:?}: {told} told of a gap"),
                    Err(_) => panic!("{schedule:?}"),
                }
            }
        }
    }
}
