//! The mark as the watching thread sees it, and who is to go.

use super::*;
use crate::config::load::parse;

const MIB: usize = 1 << 20;

fn watcher(workers: usize) -> Watcher {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("lua")).unwrap();
    std::fs::write(dir.path().join("lua/entry.websocket.lua"), "").unwrap();
    let text = "engine: {memory: {high: 100MiB}, servers: [{}]}";
    let config = parse(&dir.path().join("connmix.yaml"), text).unwrap();
    let config = Arc::new(ArcSwap::from_pointee(config));
    let memory = Arc::new(Memory::new(workers));
    Watcher { memory, config, asked: None, ordered: None, logged: None, left_out: Left::default() }
}

/// What two workers' clients hold: who goes of them, to free so many bytes.
fn gone(workers: [&[usize]; 2], wanted: usize) -> [Vec<usize>; 2] {
    let memory = Memory::new(2);
    for (told, sizes) in memory.told().iter().zip(workers) {
        sizes.iter().for_each(|size| told.sizes.add(*size));
    }
    let cut = memory.cut(wanted);
    let mut told = memory.told().iter();
    workers.map(|sizes| {
        let mut left = told.next().unwrap().sizes.share(&cut);
        sizes.iter().copied().filter(|size| cut.takes(*size, &mut left)).collect()
    })
}

#[test]
fn the_largest_of_all_workers_go_and_no_more_than_needed() {
    let small = [100, LEAST - 1];
    assert_eq!(gone([&[MIB, 5000, 2000], &[3000, 2000]], MIB), [vec![MIB], vec![]]);
    assert_eq!(gone([&[MIB, 5000, 2000], &[3000, 2000]], MIB + 1), [vec![MIB, 5000], vec![]]);
    assert_eq!(gone([&[MIB, MIB, MIB, MIB], &[MIB, MIB, MIB, MIB]], 4 * MIB), [vec![MIB; 2], vec![MIB; 2]]);
    assert_eq!(gone([&small, &[3000]], 50 * MIB), [vec![], vec![3000]]);
    assert_eq!(gone([&small, &small], 50 * MIB), [Vec::<usize>::new(), vec![]]);
}

#[test]
fn above_the_mark_clients_are_refused_until_it_has_fallen_below() {
    let mut watcher = watcher(1);
    let memory = watcher.memory.clone();
    watcher.look(Some(99 * MIB));
    assert!(!memory.refuses());
    watcher.look(Some(101 * MIB));
    assert!(memory.refuses());
    assert_eq!(*memory.orders().borrow(), Order { bytes: MIB, unread: true });
    watcher.look(Some(99 * MIB));
    assert!(memory.refuses(), "just below is not enough");
    watcher.look(Some(90 * MIB));
    assert!(!memory.refuses());
}

#[test]
fn what_clients_hold_has_a_bound_of_its_own() {
    let mut watcher = watcher(2);
    let memory = watcher.memory.clone();
    let counts = [Arc::new(ShardCounts::default()), Arc::new(ShardCounts::default())];
    counts.iter().zip(0..).for_each(|(counts, id)| memory.add(WorkerId(id), counts.clone()));
    counts[0].held.set(20 * MIB as u64);
    watcher.look(Some(50 * MIB));
    assert_eq!(*memory.orders().borrow(), Order::default());
    counts[1].held.set(6 * MIB as u64);
    watcher.look(Some(50 * MIB));
    assert_eq!(*memory.orders().borrow(), Order { bytes: MIB, unread: false });
    assert!(!memory.refuses());
    // No more of it is read from a quarter above the bound on, without waiting for the next look.
    assert!(!memory.is_full());
    counts[1].held.set(12 * MIB as u64);
    assert!(memory.is_full());
    counts[0].held.set(0);
    assert!(!memory.is_full());
}
