//! Places for waiting handlers. A VM has a fixed number of them. One hook takes at most half of them, and one client
//! address at most a quarter. A handler that would exceed its share queues behind others of the same kind, while the
//! rest go on.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::task::Waker;

use super::hook::Hook;
use crate::admission::network;

/// Whose handler waits, or is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whose {
    hook: Hook,
    /// Of the client, where there is one; an IPv6 /64 counts as one.
    address: Option<IpAddr>,
}

impl Whose {
    pub(super) fn new(hook: Hook, address: Option<IpAddr>) -> Whose {
        Whose { hook, address: address.map(network) }
    }
}

/// What has no free place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// The VM.
    All,
    /// A hook's share.
    Hook(Hook),
    /// An address's share.
    Address(IpAddr),
}

/// The handlers that have places of one kind, and those that queue for one.
#[derive(Default)]
struct Lot {
    taken: usize,
    /// By the numbers of [`Places::number`].
    queue: BTreeMap<u64, Waker>,
}

/// The places of one VM.
pub(super) struct Places {
    most: usize,
    taken: Cell<usize>,
    lots: RefCell<Lots>,
    next: Cell<u64>,
}

#[derive(Default)]
struct Lots {
    /// Its `taken` is that of [`Places`].
    all: Lot,
    by_hook: [Lot; Hook::COUNT],
    by_address: HashMap<IpAddr, Lot>,
}

impl Lots {
    fn get(&mut self, full: Full) -> &mut Lot {
        match full {
            Full::All => &mut self.all,
            Full::Hook(hook) => &mut self.by_hook[hook as usize],
            Full::Address(address) => self.by_address.entry(address).or_default(),
        }
    }

    fn forget_empty(&mut self, full: Full) {
        if let Full::Address(address) = full
            && self.by_address.get(&address).is_some_and(|lot| lot.taken == 0 && lot.queue.is_empty())
        {
            self.by_address.remove(&address);
        }
    }
}

impl Places {
    pub(super) fn new(most: usize) -> Places {
        Places { most, taken: Cell::new(0), lots: RefCell::default(), next: Cell::new(0) }
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.get()
    }

    /// How many there are of that kind.
    pub(super) fn most(&self, of: Full) -> usize {
        match of {
            Full::All => self.most,
            Full::Hook(_) => (self.most / 2).max(1),
            Full::Address(_) => (self.most / 4).max(1),
        }
    }

    /// Whether no share can be exhausted, whatever hooks and addresses have the places.
    pub(super) fn is_roomy(&self) -> bool {
        self.taken.get() < (self.most / 4).max(1)
    }

    /// What has no place left for that handler; None: it may begin.
    pub(super) fn full_for(&self, whose: Whose) -> Option<Full> {
        if self.is_roomy() {
            return None;
        }
        let lots = self.lots.borrow();
        let by_address =
            whose.address.and_then(|address| Some((Full::Address(address), lots.by_address.get(&address)?)));
        let by_hook = (Full::Hook(whose.hook), &lots.by_hook[whose.hook as usize]);
        let full = by_address.into_iter().chain([by_hook]).find(|(full, lot)| lot.taken >= self.most(*full));
        full.map(|(full, _)| full).or((self.taken.get() >= self.most).then_some(Full::All))
    }

    /// A handler begins to wait. A handler that is running already takes a place even if none is free.
    pub(super) fn take(&self, whose: Whose) {
        self.taken.set(self.taken.get() + 1);
        let mut lots = self.lots.borrow_mut();
        for full in kinds(whose) {
            lots.get(full).taken += 1;
        }
    }

    /// The handler waits no more.
    pub(super) fn give(&self, whose: Whose) {
        self.taken.set(self.taken.get() - 1);
        let mut lots = self.lots.borrow_mut();
        for full in kinds(whose) {
            lots.get(full).taken -= 1;
        }
        drop(lots);
        for full in kinds(whose).chain([Full::All]) {
            self.wake_next(full);
        }
    }

    /// A number that defines the order in the queue.
    pub(super) fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    /// Waits for a place of that kind.
    pub(super) fn queue(&self, full: Full, number: u64, waker: Waker) {
        self.lots.borrow_mut().get(full).queue.insert(number, waker);
    }

    /// Leaves that queue, so that the next one can have a free place.
    pub(super) fn leave(&self, full: Full, number: u64) {
        self.lots.borrow_mut().get(full).queue.remove(&number);
        self.wake_next(full);
    }

    /// Wakes the first in the queue for such a place, if any. That one wakes the next when it leaves the queue.
    fn wake_next(&self, full: Full) {
        let mut lots = self.lots.borrow_mut();
        let lot = lots.get(full);
        let taken = if full == Full::All { self.taken.get() } else { lot.taken };
        if taken < self.most(full)
            && let Some((_, first)) = lot.queue.first_key_value()
        {
            first.wake_by_ref();
        }
        lots.forget_empty(full);
    }

    /// Wakes all that wait.
    pub(super) fn end(&self) {
        let mut lots = self.lots.borrow_mut();
        let lots = &mut *lots;
        for lot in lots.by_hook.iter_mut().chain([&mut lots.all]).chain(lots.by_address.values_mut()) {
            std::mem::take(&mut lot.queue).into_values().for_each(Waker::wake);
        }
    }
}

/// The kinds of places, besides the VM's own, that a handler takes one of.
fn kinds(whose: Whose) -> impl Iterator<Item = Full> {
    [Some(Full::Hook(whose.hook)), whose.address.map(Full::Address)].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    fn whose(hook: Hook, n: u8) -> Whose {
        Whose::new(hook, Some([10, 0, 0, n].into()))
    }

    #[test]
    fn no_hook_and_no_address_takes_all() {
        let places = Places::new(16);
        let message = |n| whose(Hook::Message, n);
        for _ in 0..4 {
            assert_eq!(places.full_for(message(1)), None);
            places.take(message(1));
        }
        assert_eq!(places.full_for(message(1)), Some(Full::Address([10, 0, 0, 1].into())));
        assert_eq!(places.full_for(whose(Hook::Handshake, 1)), Some(Full::Address([10, 0, 0, 1].into())));
        for _ in 0..4 {
            assert_eq!(places.full_for(message(2)), None);
            places.take(message(2));
        }
        assert_eq!(places.full_for(message(3)), Some(Full::Hook(Hook::Message)));
        for n in 3..5 {
            for _ in 0..4 {
                assert_eq!(places.full_for(whose(Hook::Handshake, n)), None);
                places.take(whose(Hook::Handshake, n));
            }
        }
        assert_eq!(places.full_for(whose(Hook::Connect, 9)), Some(Full::All));
        assert_eq!(places.full_for(Whose::new(Hook::Connect, None)), Some(Full::All));
        for n in 1..3 {
            (0..4).for_each(|_| places.give(message(n)));
        }
        assert_eq!((places.taken(), places.lots.borrow().by_address.len()), (8, 2));
    }

    #[test]
    fn what_waits_for_a_share_is_woken_by_that_share() {
        let places = Places::new(8);
        let (one, two) = (whose(Hook::Message, 1), whose(Hook::Message, 2));
        (0..2).for_each(|_| places.take(one));
        let woken: Vec<Arc<Woken>> = (0..2).map(|_| Arc::default()).collect();
        let full = places.full_for(one).unwrap();
        let numbers: Vec<u64> = woken.iter().map(|_| places.number()).collect();
        for (woken, number) in woken.iter().zip(&numbers) {
            places.queue(full, *number, woken.clone().into());
        }
        let are = || [woken[0].0.load(Relaxed), woken[1].0.load(Relaxed)];
        places.take(two);
        places.give(two);
        assert_eq!(are(), [false, false]);
        places.give(one);
        assert_eq!(are(), [true, false], "the first");
        places.leave(full, numbers[0]);
        assert_eq!(are(), [true, true], "and there is still a place");
        places.leave(full, numbers[1]);
        places.give(one);
        assert!(places.lots.borrow().by_address.is_empty());
    }

    /// A waiter that is woken and then ends, or begins to wait for something else, passes its wake-up on: no place
    /// stays free while somebody queues for it.
    #[test]
    fn a_wake_up_that_is_not_used_goes_to_the_next() {
        let places = Places::new(8);
        let one = whose(Hook::Message, 1);
        (0..2).for_each(|_| places.take(one));
        let woken: Vec<Arc<Woken>> = (0..4).map(|_| Arc::default()).collect();
        let full = places.full_for(one).unwrap();
        let numbers: Vec<u64> = woken.iter().map(|_| places.number()).collect();
        for (woken, number) in woken.iter().zip(&numbers) {
            places.queue(full, *number, woken.clone().into());
        }
        let are = || woken.iter().map(|woken| woken.0.load(Relaxed)).collect::<Vec<_>>();
        // One that ends before there is a place neither uses nor passes on a wake-up.
        places.leave(full, numbers[1]);
        assert_eq!(are(), [false, false, false, false]);
        places.give(one);
        assert_eq!(are(), [true, false, false, false]);
        // It ends between its wake-up and its turn.
        places.leave(full, numbers[0]);
        assert_eq!(are(), [true, false, true, false], "and not the one that had ended");
        // The next one takes the place, and goes.
        places.take(one);
        places.leave(full, numbers[2]);
        assert_eq!(are(), [true, false, true, false], "there is no place");
        places.give(one);
        assert_eq!(are(), [true, false, true, true]);
    }
}
