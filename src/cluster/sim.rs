//! A whole mesh in one thread under a seed: nodes that come, are killed, freeze and come back; links that lose, delay and are
//! cut; clients that subscribe, leave and publish; all of it against a naive model ([`model`]). Time, order and faults come
//! from the seed alone, so a seed that fails fails again: `MESH_SEED=N cargo test --lib the_mesh_keeps_its_word` replays it, and
//! `MESH_SEEDS` and `MESH_STEPS` say how many seeds and how many steps of each are tried.

mod clients;
mod model;
mod world;

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
