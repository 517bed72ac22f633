//! The channels that other nodes have subscribers of. A publisher asks for a channel's nodes; only the mesh's own
//! thread changes the table.
//!
//! An entry takes 12 bytes in a map that is at least half full: some 20 bytes a channel, whatever its name. A channel of
//! several nodes has a list besides.

use foldhash::fast::FixedState;
use slab::Slab;
use smallvec::SmallVec;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A node's place in this table: a small number that it has for as long as it is a member.
pub type Slot = u16;

/// The nodes of a channel.
pub type Slots = SmallVec<[Slot; 8]>;

/// Marks an entry that is the place of a list.
const LIST: u32 = 1 << 31;

/// Parts of the table, each behind its lock: so that publishers seldom meet a change.
const SHARDS: usize = 64;

/// What other nodes have told of their channels.
pub struct Others {
    shards: Box<[RwLock<Shard>]>,
    /// How many entries there are in all shards.
    entries: AtomicUsize,
}

#[derive(Default)]
struct Shard {
    /// A hash in two halves, and one node, or the place of a list of nodes with [`LIST`].
    channels: HashMap<[u32; 2], u32, FixedState>,
    lists: Slab<Slots>,
}

impl Default for Others {
    fn default() -> Others {
        Others { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), entries: AtomicUsize::new(0) }
    }
}

fn halves(hash: u64) -> [u32; 2] {
    [hash as u32, (hash >> 32) as u32]
}

fn whole([low, high]: [u32; 2]) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

impl Others {
    /// The nodes that have subscribers of a channel.
    pub fn nodes(&self, hash: u64) -> Slots {
        if self.entries.load(Relaxed) == 0 {
            return Slots::new();
        }
        self.read(hash).nodes(hash)
    }

    /// A node has subscribers of these channels.
    pub fn come(&self, slot: Slot, hashes: impl Iterator<Item = u64>) {
        for hash in hashes {
            let added = self.write(hash).come(slot, hash);
            self.entries.fetch_add(added, Relaxed);
        }
    }

    /// A node has none of these channels any more.
    pub fn gone(&self, slot: Slot, hashes: impl Iterator<Item = u64>) {
        for hash in hashes {
            let removed = self.write(hash).gone(slot, hash);
            self.entries.fetch_sub(removed, Relaxed);
        }
    }

    /// A node has no channels but these. Looks at all channels.
    pub fn retain(&self, slot: Slot, hashes: &HashSet<u64>) {
        for shard in &self.shards {
            let removed =
                shard.write().unwrap_or_else(PoisonError::into_inner).retain(slot, |hash| hashes.contains(&hash));
            self.entries.fetch_sub(removed, Relaxed);
        }
    }

    /// A node has no channel any more. Looks at all channels.
    pub fn clear(&self, slot: Slot) {
        for shard in &self.shards {
            let removed = shard.write().unwrap_or_else(PoisonError::into_inner).retain(slot, |_| false);
            self.entries.fetch_sub(removed, Relaxed);
        }
    }

    /// The channels of each node. Looks at all channels.
    pub fn by_node(&self) -> HashMap<Slot, Vec<u64>> {
        let mut by_node: HashMap<Slot, Vec<u64>> = HashMap::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            for hash in shard.channels.keys().copied().map(whole) {
                shard.nodes(hash).into_iter().for_each(|slot| by_node.entry(slot).or_default().push(hash));
            }
        }
        by_node
    }

    /// How many channels there are that other nodes have.
    pub fn len(&self) -> usize {
        self.entries.load(Relaxed)
    }

    /// Whether no other node has a channel.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read(&self, hash: u64) -> RwLockReadGuard<'_, Shard> {
        self.shard(hash).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, hash: u64) -> RwLockWriteGuard<'_, Shard> {
        self.shard(hash).write().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        // The map below takes other bits.
        &self.shards[(hash >> 58) as usize % SHARDS]
    }
}

impl Shard {
    fn nodes(&self, hash: u64) -> Slots {
        match self.channels.get(&halves(hash)) {
            None => Slots::new(),
            Some(entry) if entry & LIST == 0 => SmallVec::from_slice(&[*entry as Slot]),
            Some(entry) => self.lists[(entry & !LIST) as usize].clone(),
        }
    }

    /// How many entries it adds.
    fn come(&mut self, slot: Slot, hash: u64) -> usize {
        match self.channels.entry(halves(hash)) {
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(slot.into());
                1
            }
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let known = *entry.get();
                if known & LIST == 0 {
                    if known != u32::from(slot) {
                        let list = self.lists.insert(SmallVec::from_slice(&[known as Slot, slot]));
                        entry.insert(list as u32 | LIST);
                    }
                } else {
                    let list = &mut self.lists[(known & !LIST) as usize];
                    if !list.contains(&slot) {
                        list.push(slot);
                    }
                }
                0
            }
        }
    }

    /// How many entries it removes.
    fn gone(&mut self, slot: Slot, hash: u64) -> usize {
        let Some(entry) = self.channels.get_mut(&halves(hash)) else { return 0 };
        match without(&mut self.lists, entry, slot) {
            true => 0,
            false => {
                self.channels.remove(&halves(hash));
                self.shrink();
                1
            }
        }
    }

    fn retain(&mut self, slot: Slot, keep: impl Fn(u64) -> bool) -> usize {
        let (before, lists) = (self.channels.len(), &mut self.lists);
        self.channels.retain(|hash, entry| keep(whole(*hash)) || without(lists, entry, slot));
        self.shrink();
        before - self.channels.len()
    }

    fn shrink(&mut self) {
        let capacity = self.channels.capacity();
        if capacity > 1024 && self.channels.len() < capacity / 8 {
            self.channels.shrink_to_fit();
        }
    }
}

/// Takes a node out of an entry; false if none is left.
fn without(lists: &mut Slab<Slots>, entry: &mut u32, slot: Slot) -> bool {
    if *entry & LIST == 0 {
        return *entry != u32::from(slot);
    }
    let at = (*entry & !LIST) as usize;
    let list = &mut lists[at];
    list.retain(|node| *node != slot);
    if let [one] = list[..] {
        lists.remove(at);
        *entry = one.into();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    proptest! {
        #[test]
        fn nodes_are_those_of_a_naive_table(ops in proptest::collection::vec((0..10u8, 0..4u16, 0..8u64), 0..300)) {
            let (table, mut model) = (Others::default(), BTreeMap::<u64, BTreeSet<Slot>>::new());
            for (op, slot, n) in ops {
                // Spread over shards, and several in one.
                let hash = (n % 3) << 58 | n;
                match op {
                    0..6 => {
                        table.come(slot, [hash].into_iter());
                        model.entry(hash).or_default().insert(slot);
                    }
                    6..9 => {
                        table.gone(slot, [hash].into_iter());
                        model.entry(hash).or_default().remove(&slot);
                    }
                    _ => {
                        table.clear(slot);
                        model.values_mut().for_each(|nodes| { nodes.remove(&slot); });
                    }
                }
                model.retain(|_, nodes| !nodes.is_empty());
                prop_assert_eq!(table.len(), model.len());
                for n in 0..8u64 {
                    let hash = (n % 3) << 58 | n;
                    let nodes: BTreeSet<Slot> = table.nodes(hash).into_iter().collect();
                    prop_assert_eq!(nodes, model.get(&hash).cloned().unwrap_or_default());
                }
            }
            let lists: usize = table.shards.iter().map(|shard| shard.read().unwrap().lists.len()).sum();
            prop_assert_eq!(lists, model.values().filter(|nodes| nodes.len() > 1).count());
        }
    }

    #[test]
    fn an_entry_takes_twelve_bytes() {
        assert_eq!(size_of::<([u32; 2], u32)>(), 12);
    }
}
