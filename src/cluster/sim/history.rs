//! Ordered channels in a simulated mesh, with the real mesh, hub and index of channels: publishers, and clients that drop and come
//! back with their position on any node, some of them late, while nodes are killed, end, start and hand over to successor processes,
//! and frames are late and lost. No client gets a message twice or out of order, and it misses none unless it was told so.
//! `MESH_SEED=N cargo test --lib clients_miss_nothing_unknowingly` replays a seed; `MESH_SEEDS` and `MESH_STEPS` say how many are
//! tried, and for how long.

mod clients;
mod disagree;
mod faults;
mod moves;
mod quiet;
mod world;

use clients::CLIENTS;
use world::World;

/// What happens besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// Nodes freeze, and links are cut.
    Splits,
    /// The same, and no node dies.
    SplitsAlone,
    /// Nodes do not agree which of them there are.
    Disagreement,
}

fn run(seed: u64, steps: u64, trouble: Trouble) -> String {
    let mut world = World::new(seed);
    (0..3).for_each(|_| world.start());
    (0..600).for_each(|_| world.step());
    (world.faults, world.mortal) = (true, trouble != Trouble::SplitsAlone);
    world.splits = matches!(trouble, Trouble::Splits | Trouble::SplitsAlone);
    world.misleads = trouble == Trouble::Disagreement;
    for _ in 0..steps {
        for _ in 0..world.random.below(3) {
            world.publish();
        }
        let at = world.random.below(CLIENTS) as usize;
        if world.clients[at].node.is_none() {
            world.come(at);
        } else if world.random.below(40) == 0 {
            let away = if world.random.chance(20) { world.random.below(6000) } else { 0 };
            world.go(at, away);
        }
        if world.random.below(150) == 0 {
            world.fault();
        }
        if world.misleads && world.random.below(100) == 0 {
            world.mislead();
        }
        // Seldom during a plan: what is published then is to be answered in time.
        let pause = if world.plans.is_empty() { 250 } else { 1500 };
        if world.random.below(pause) == 0 {
            world.begin_move();
        }
        world.carry_out_plans();
        world.step();
    }
    world.check();
    let seen: usize = world.clients.iter().map(|client| client.seen.len()).sum();
    let World { acked, told, recovered, killed, moved, .. } = &world;
    let acked = acked.len();
    format!(
        "{killed} killed, {moved} moved, {acked} acknowledged, {seen} seen, {told} told of a gap, {recovered} recovered"
    )
}

fn run_all(trouble: Trouble) {
    let number = |name: &str, usual| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    // Among these are some whose plans meet every condition: a takeover from what is not whole is found at seeds 9, 11 and 12.
    let (first, seeds, steps) = (number("MESH_SEED", 9), number("MESH_SEEDS", 4), number("MESH_STEPS", 5000));
    for seed in first..first + seeds {
        match std::panic::catch_unwind(|| run(seed, steps, trouble)) {
            Ok(what) => println!("seed {seed}: {what}"),
            Err(_) => panic!("MESH_SEED={seed} (MESH_STEPS={steps})"),
        }
    }
}

#[test]
fn clients_miss_nothing_unknowingly() {
    run_all(Trouble::None);
}

/// Each of them may lead a channel for a moment, and tell publishers that something is published.
#[test]
fn clients_miss_nothing_unknowingly_though_nodes_disagree() {
    run_all(Trouble::Disagreement);
}

/// No node dies, and nothing is lost on the way: so nobody is told of a gap, and every publish is answered, whichever nodes hand
/// over to successors.
#[test]
fn nobody_is_told_of_a_gap_since_a_node_handed_over() {
    let mut world = World::new(7);
    (0..3).for_each(|_| world.start());
    (0..600).for_each(|_| world.step());
    for at in 0..CLIENTS as usize {
        world.connect(at);
    }
    let asked = world.next_number;
    for _ in 0..4000 {
        world.publish();
        if world.random.below(60) == 0 {
            world.begin_move();
        }
        world.step();
        let told = world.told;
        assert_eq!(told, 0);
    }
    world.check();
    assert_eq!(world.acked.len() as u64, world.next_number - asked, "every publish was answered");
    assert!(world.moved > 10 && world.told == 0, "{} moved", world.moved);
}

/// While nodes don't see each other, each of them may lead a channel: what was published on one side is not known on the other. If all
/// who know of it die before they see each other again, nobody can be told.
#[test]
fn clients_get_nothing_twice_however_nodes_lose_each_other() {
    run_all(Trouble::Splits);
}

/// When they see each other again, all who miss something are told.
#[test]
fn clients_miss_nothing_unknowingly_though_nodes_lose_each_other() {
    run_all(Trouble::SplitsAlone);
}
