//! A whole mesh in one thread under a seed: nodes that come, are killed, freeze and come back; links that lose, delay and are
//! cut; clients that subscribe, leave and publish; all of it against a naive model ([`model`]). Time, order and faults come
//! from the seed alone, so a seed that fails fails again: `MESH_SEED=N cargo test --lib the_mesh_keeps_its_word` replays it, and
//! `MESH_SEEDS` and `MESH_STEPS` say how many seeds and how many steps of each are tried.

pub(super) mod clients;
mod history;
mod hostile;
mod model;
mod moves;
mod network;
mod world;

use crate::cluster::link::{QUEUE, WINDOW};
use crate::cluster::members::Phase;
use crate::cluster::node::MAX_CHANNELS;
use crate::cluster::protocol::Run;
use world::World;

fn run(seed: u64, steps: u64, faults: bool) -> (u64, u64, u64) {
    let mut world = World::new(seed, faults);
    for _ in 0..3 {
        world.start();
    }
    for _ in 0..600 {
        world.step();
    }
    for _ in 0..steps {
        clients_act(&mut world);
        if world.random.below(200) == 0 {
            let Some(run) = world.any_serving() else { continue };
            let busy = world.random.below(100);
            world.nodes[&run].clients.local().busy = busy;
        }
        if world.random.below(300) == 0 {
            world.begin_move();
        }
        if faults && world.random.below(1000) == 0 {
            world.fault();
        }
        world.step();
    }
    world.check_order();
    world.check_quiet();
    world.check_order();
    (world.done, world.unanswered, world.subscribed)
}

/// Some of what clients do in a step.
fn clients_act(world: &mut World) {
    for _ in 0..1 + world.random.below(8) {
        match world.random.below(10) {
            0 => world.subscribe(),
            1 => world.unsubscribe(),
            _ => world.publish(),
        }
    }
}

/// So many nodes that serve, with clients that act for a while.
fn settled(seed: u64, nodes: u64) -> World {
    let mut world = World::new(seed, false);
    (0..nodes).for_each(|_| world.start());
    (0..600).for_each(|_| world.step());
    assert!(world.nodes.values().all(|node| node.shared.phase() == Phase::Serving));
    act_for(&mut world, 1000);
    world
}

/// Clients act for so many milliseconds.
fn act_for(world: &mut World, millis: u64) {
    let end = world.now + millis;
    while world.now < end {
        clients_act(world);
        world.step();
        // Whatever happens, publishers have their answers soon.
        let oldest = world.published.iter().map(|published| published.at).min();
        assert!(oldest.is_none_or(|at| world.now <= at + REPLY + 100), "asked at {oldest:?}, now {}", world.now);
        for link in world.nodes.values().flat_map(|node| &node.links) {
            let (waits, under_way) = link.holds();
            assert!(waits <= 2 * QUEUE && under_way <= 2 * WINDOW, "{waits} {under_way}");
        }
    }
}

/// `cluster.replyTimeout` of the simulated nodes.
const REPLY: u64 = 500;

/// Whether all nodes know of all others' channels.
fn is_whole(world: &World) -> bool {
    let knows = |run: &Run| world.nodes.keys().all(|other| other == run || world.nodes[run].core.is_complete(*other));
    world.nodes.keys().all(knows)
}

/// Frames to and from it take longer than `replyTimeout`, and then longer than `leave`.
#[test]
fn a_node_that_answers_late_for_minutes_slows_nobody_down() {
    for (seed, late) in [(1, 700), (2, 4000)] {
        let mut world = settled(seed, 3);
        let slow = *world.nodes.keys().next_back().unwrap();
        (world.faulty, world.late) = (true, Some((slow, late)));
        let (done, unanswered) = (world.done, world.unanswered);
        // Time costs nothing here but what happens in it.
        for round in 0..20 {
            act_for(&mut world, 500);
            let end = world.now + 9_000;
            while world.now < end {
                world.step();
            }
            // At first nothing comes from it for so long that it may count as gone; then it joins again.
            assert!(round == 0 || is_whole(&world), "it is a member, however late");
        }
        let (done, unanswered) = (world.done - done, world.unanswered - unanswered);
        assert!(unanswered > done / 10, "{unanswered} of {done} were for it, and are told as not answered");
        // As soon as it is quick again, and what was under way has come, all is as before.
        world.late = None;
        let end = world.now + late + 2000;
        while world.now < end {
            world.step();
        }
        world.faulty = false;
        act_for(&mut world, 1000);
        world.check_order();
        world.check_quiet();
    }
}

/// Two halves that go on by themselves, and find each other again.
#[test]
fn a_partition_into_halves_heals() {
    let mut world = settled(3, 4);
    let runs: Vec<Run> = world.nodes.keys().copied().collect();
    world.faulty = true;
    for (at, from) in runs.iter().enumerate() {
        for to in runs.iter().skip(at % 2 + 1).step_by(2) {
            if (at % 2) != runs.iter().position(|run| run == to).unwrap() % 2 {
                world.network.cut.extend([(*from, *to), (*to, *from)]);
            }
        }
    }
    act_for(&mut world, 10_000);
    assert!(!is_whole(&world));
    world.network.cut.clear();
    let healed = world.now;
    while !is_whole(&world) {
        world.step();
        assert!(world.now < healed + 3000, "not whole after {} ms", world.now - healed);
    }
    world.check_order();
    world.check_quiet();
}

/// Whatever the others and its own clients do, and however long it takes, as long as that is less than `leave`.
#[test]
fn a_node_that_hands_over_to_a_successor_process_costs_nobody_an_answer() {
    let seeds = std::env::var("MESH_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let first: u64 = std::env::var("MESH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for seed in first..first + seeds {
        let moves = || {
            let mut world = settled(seed, 3);
            let end = world.now + 30_000;
            while world.now < end {
                clients_act(&mut world);
                if world.random.below(100) == 0 {
                    world.begin_move();
                }
                world.step();
            }
            world.check_order();
            world.check_quiet();
            assert_eq!(world.unanswered, 0);
            assert!(world.moved > 3 && world.failed > 0, "{} moved, {} failed", world.moved, world.failed);
        };
        assert!(std::panic::catch_unwind(moves).is_ok(), "MESH_SEED={seed}");
    }
}

/// A node that has the secret, and whose frames are altered, cut, put together anew and made up: the others keep their word
/// to each other, whatever it says.
#[test]
fn a_hostile_node_harms_nobody_else() {
    let seeds = std::env::var("MESH_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let first: u64 = std::env::var("MESH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for seed in first..first + seeds {
        let attack = || {
            let mut world = settled(seed, 4);
            let hostile = *world.nodes.keys().next_back().unwrap();
            (world.faulty, world.hostile) = (true, Some(hostile));
            act_for(&mut world, 6000);
            world.check_order();
            world.nodes.remove(&hostile);
            world.check_quiet();
        };
        assert!(std::panic::catch_unwind(attack).is_ok(), "MESH_SEED={seed}");
    }
}

/// One malformed message: its sender is dropped, and taken in again.
#[test]
fn a_node_that_sends_something_malformed_is_dropped_and_may_come_back() {
    let mut world = settled(5, 2);
    let (one, other) = (*world.nodes.keys().next().unwrap(), *world.nodes.keys().next_back().unwrap());
    world.faulty = true;
    let is_frame = |(_, bytes, hello): &(u64, bytes::Bytes, bool)| !hello && bytes.len() > 60 && bytes[0] == 0xC1;
    while !world.network.under_way.get(&(other, one)).is_some_and(|queue| queue.iter().any(is_frame)) {
        clients_act(&mut world);
        world.step();
    }
    let queue = world.network.under_way.get_mut(&(other, one)).unwrap();
    let frame = queue.iter_mut().find(|waiting| is_frame(waiting)).unwrap();
    frame.1 = frame.1.slice(..frame.1.len() - 1);
    let sent = world.now;
    while world.nodes[&one].core.is_complete(other) {
        world.step();
        assert!(world.now < sent + 1000, "it is not dropped");
    }
    while !is_whole(&world) {
        world.step();
        assert!(world.now < sent + 5000, "it does not come back");
    }
    world.check_order();
    world.check_quiet();
}

/// The others go on without it.
#[test]
fn a_node_with_more_channels_than_there_is_room_for_is_dropped() {
    let mut world = settled(6, 3);
    let greedy = *world.nodes.keys().next_back().unwrap();
    world.faulty = true;
    (0..MAX_CHANNELS as u64 + 1).for_each(|n| world.nodes[&greedy].shared.own.first(n));
    for _ in 0..20 {
        act_for(&mut world, 100);
        let others = world.nodes.iter().filter(|(run, _)| **run != greedy);
        others.for_each(|(_, node)| assert!(node.shared.others.len() <= MAX_CHANNELS));
    }
    world.nodes.remove(&greedy);
    world.check_order();
    world.check_quiet();
}

#[test]
fn the_mesh_keeps_its_word() {
    let seeds = std::env::var("MESH_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let steps = std::env::var("MESH_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(1500);
    let first: u64 = std::env::var("MESH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for seed in first..first + seeds {
        for faults in [false, true] {
            let result = std::panic::catch_unwind(|| run(seed, steps, faults));
            match result {
                Ok((done, silent, subscribed)) => println!(
                    "seed {seed} faults {faults}: {done} published, {silent} not answered, {subscribed} subscribed"
                ),
                Err(_) => panic!("MESH_SEED={seed} (faults: {faults}, MESH_STEPS={steps})"),
            }
        }
    }
}

/// A center and two engines that can't reach each other.
#[test]
fn engines_without_a_link_dial_each_other_until_it_stands() {
    let mut world = World::new(1, false);
    (0..3).for_each(|_| world.start());
    let (a, b) = (Run(2), Run(3));
    world.network.cut.extend([(a, b), (b, a)]);
    let dials = |world: &World, run: Run, to: Run| -> Vec<u64> {
        world.nodes[&run].dialled.iter().filter(|(_, dialled, _)| *dialled == to).map(|(at, ..)| *at).collect()
    };
    while world.now < 60_000 {
        world.step();
    }
    let (smaller, greater) = (dials(&world, a, b), dials(&world, b, a));
    // Before it serves, at once, and then with growing pauses.
    assert!(greater[0] < 1000 && greater.len() > 5, "{greater:?}");
    let pauses: Vec<u64> = greater.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses[0] < pauses[1] && pauses.iter().all(|pause| *pause < 11_000), "{pauses:?}");
    // The other end leaves it to this one at first.
    assert!(smaller[0] > 3000 && smaller.len() > 4, "{smaller:?}");
    assert!(world.nodes[&b].dialled.iter().all(|(_, to, at)| *at == [format!("node-{}:1", to.0)]));
    assert!(dials(&world, Run(1), a).is_empty(), "a center dials nobody");
    world.network.cut.clear();
    while world.now < 65_000 {
        world.step();
    }
    let stands = |world: &World| (dials(world, a, b), dials(world, b, a));
    let so_far = stands(&world);
    while world.now < 90_000 {
        world.step();
    }
    assert_eq!(stands(&world), so_far, "a link that stands is dialled no more");
    // The engine that ends is dialled no more, either.
    world.end(b);
    while world.now < 120_000 {
        world.step();
    }
    assert_eq!(dials(&world, a, b), so_far.0);
}
