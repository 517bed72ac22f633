//! Channels to which nothing is published while nodes come and go.

use super::world::{CHANNELS, World};
use crate::cluster::protocol::Run;

/// The first ones: one of each channel.
const CLIENTS: usize = CHANNELS as usize;

impl World {
    /// All clients are on that node, and have what there is.
    fn all_in(&mut self, run: Run) {
        (0..CLIENTS).for_each(|at| self.connect_to(run, at));
        self.until(2000, "clients are in", |world| (0..CLIENTS).all(|at| world.clients[at].is_in()));
        (0..100).for_each(|_| self.step());
    }

    /// Messages are published to all channels.
    fn publish_to_all(&mut self, count: usize) {
        for of in (0..CHANNELS).cycle().take(count * CHANNELS as usize) {
            let by = self.any_serving().unwrap();
            self.publish_on(by, of);
            self.until(2000, "it is answered", |world| world.published.is_empty());
        }
    }
}

/// What happens to the nodes.
#[derive(Debug, Clone, Copy)]
enum Course {
    /// They go, one after the other.
    Go,
    /// Before each that goes another one comes.
    Renewed,
    /// One comes that is to lead a channel; then those go that have led it, and kept the copy.
    Relieved,
}

fn run(seed: u64, course: Course) {
    let mut world = World::new(seed);
    (0..4).for_each(|_| world.start());
    (0..600).for_each(|_| world.step());
    let first = *world.nodes.keys().next().unwrap();
    world.publish_to_all(1);
    world.all_in(first);
    (0..CLIENTS).for_each(|at| world.disconnect(at));
    world.publish_to_all(3);
    let go = |world: &mut World, run: Run| {
        if seed.is_multiple_of(2) {
            // In order: it does not serve any more, and goes later.
            world.nodes[&run].shared.drain();
            (0..500).for_each(|_| world.step());
        }
        world.kill(run);
        (0..3000).for_each(|_| world.step());
    };
    match course {
        Course::Go | Course::Renewed => {
            for _ in 0..3 {
                if matches!(course, Course::Renewed) {
                    world.start();
                    (0..1500).for_each(|_| world.step());
                }
                let run = world.any_serving().unwrap();
                go(&mut world, run);
            }
        }
        Course::Relieved => {
            // One that is the first in line for a channel.
            let of = loop {
                let comes = Run(world.next_run);
                world.start();
                match (0..CHANNELS).find(|of| world.in_line(*of)[0] == comes) {
                    Some(of) => break of,
                    None => drop(world.nodes.remove(&comes)),
                }
            };
            (0..1500).for_each(|_| world.step());
            let in_line = world.in_line(of);
            in_line[1..3].iter().for_each(|run| go(&mut world, *run));
        }
    }
    let last = *world.nodes.keys().next_back().unwrap();
    world.all_in(last);
    assert_eq!(world.acked.len(), 4 * CHANNELS as usize, "every publish was answered");
    for at in 0..CLIENTS {
        let client = &world.clients[at];
        let mut wanted = world.acked.iter().filter(|(of, ..)| *of == client.channel).map(|(_, number, _)| *number);
        assert!(wanted.all(|number| client.seen.contains(&number)), "client {at}: {:?}", client.seen);
    }
    assert_eq!(world.told, 0);
}

/// Each of them has had a log, or its copy, and the last one has all.
#[test]
fn what_is_kept_outlives_nodes_that_go_one_after_another() {
    for seed in 1..=6 {
        for course in [Course::Go, Course::Renewed, Course::Relieved] {
            assert!(std::panic::catch_unwind(|| run(seed, course)).is_ok(), "seed {seed}: {course:?}");
        }
    }
}
