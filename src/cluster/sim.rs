//! A whole mesh in one thread under a seed: nodes that come, are killed, freeze and come back; links that lose, delay and are
//! cut; clients that subscribe, leave and publish; all of it against a naive model ([`model`]). Time, order and faults come
//! from the seed alone, so a seed that fails fails again: `MESH_SEED=N cargo test --lib the_mesh_keeps_its_word` replays it, and
//! `MESH_SEEDS` and `MESH_STEPS` say how many seeds and how many steps of each are tried.

pub(super) mod clients;
mod model;
mod world;

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
        for _ in 0..1 + world.random.below(8) {
            match world.random.below(10) {
                0 => world.subscribe(),
                1 => world.unsubscribe(),
                _ => world.publish(),
            }
        }
        if world.random.below(200) == 0 {
            let Some(run) = world.any_serving() else { continue };
            let busy = world.random.below(100);
            world.nodes[&run].clients.local().busy = busy;
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
    world.cut.extend([(a, b), (b, a)]);
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
    world.cut.clear();
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
