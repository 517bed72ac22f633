//! The channels whose connections this node counts, since a rule of `engine.channels` needs it. One lock, held for a few
//! moves; only connections that come into such a channel or leave it take it.

use foldhash::fast::RandomState;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::message::Channel;

/// How many connections of this node are in each channel that is counted.
#[derive(Default)]
pub struct Rooms(Mutex<HashMap<Channel, usize, RandomState>>);

impl Rooms {
    /// One more connection is about to be in a channel, which may have so many; 0: any number. False: there is no room.
    pub fn enter(&self, channel: &Channel, most: usize) -> bool {
        let mut rooms = self.lock();
        match rooms.entry(channel.clone()) {
            Entry::Occupied(room) if most > 0 && *room.get() >= most => false,
            Entry::Occupied(mut room) => {
                *room.get_mut() += 1;
                true
            }
            Entry::Vacant(room) => {
                room.insert(1);
                true
            }
        }
    }

    /// So many connections have left a channel. Nothing is kept of one that has none.
    pub fn leave(&self, channel: &Channel, many: usize) {
        let mut rooms = self.lock();
        let Some(count) = rooms.get_mut(channel) else { return };
        *count = count.saturating_sub(many);
        if *count == 0 {
            rooms.remove(channel);
            if rooms.is_empty() {
                *rooms = HashMap::default();
            }
        }
    }

    /// A channel is counted from now on: so many connections are in it on one worker.
    pub fn begin(&self, channel: &Channel, many: usize) {
        *self.lock().entry(channel.clone()).or_default() += many;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Channel, usize, RandomState>> {
        // What is done under the lock does not panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_room_has_a_place_again_when_one_has_left() {
        let (rooms, channel) = (Rooms::default(), Channel::parse(b"c").unwrap());
        assert!(rooms.enter(&channel, 2) && rooms.enter(&channel, 2) && !rooms.enter(&channel, 2));
        rooms.leave(&channel, 1);
        assert!(rooms.enter(&channel, 2));
        rooms.begin(&channel, 3);
        rooms.leave(&channel, 4);
        assert!(rooms.enter(&channel, 2) && !rooms.enter(&channel, 2));
        rooms.leave(&channel, 2);
        assert!(rooms.lock().is_empty() && rooms.lock().capacity() == 0);
    }
}
