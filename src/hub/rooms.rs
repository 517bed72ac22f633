//! The channels whose connections this node counts, since a rule of `engine.channels` needs it: how many there are, and
//! whether others should hear that the number may have changed. One lock, held for a few moves; only connections that come
//! into such a channel or leave it take it.

use foldhash::fast::RandomState;
use futures_util::task::AtomicWaker;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::config::ChannelRule;
use crate::message::{Channel, Message};

/// Channels whose numbers wait to be told, at most: other nodes name them. They are taken several times a second.
const MOST: usize = 1 << 18;

/// The rooms of this node.
#[derive(Default)]
pub struct Rooms {
    state: Mutex<State>,
    /// Who tells of numbers that have changed.
    teller: AtomicWaker,
}

#[derive(Default)]
struct State {
    rooms: HashMap<Channel, Room, RandomState>,
    /// Channels whose number here has changed.
    stirred: HashSet<Channel, RandomState>,
    /// Channels whose number has changed on some node, which this node tells; with when it was told last, if that is known.
    to_tell: HashMap<Channel, Option<Instant>, RandomState>,
}

/// A channel that has connections here.
struct Room {
    here: usize,
    rule: Arc<ChannelRule>,
    /// The number that its connections were told last, and when.
    told: Option<(u64, Instant)>,
}

impl Rooms {
    /// One more connection is about to be in a channel. False: there is no room.
    pub fn enter(&self, channel: &Channel, rule: &Arc<ChannelRule>) -> bool {
        let state = &mut *self.lock();
        let most = rule.max_subscribers;
        match state.rooms.entry(channel.clone()) {
            Entry::Occupied(room) if most > 0 && room.get().here >= most => return false,
            Entry::Occupied(mut room) => room.get_mut().here += 1,
            Entry::Vacant(room) => drop(room.insert(Room { here: 1, rule: rule.clone(), told: None })),
        }
        true
    }

    /// The places that are taken in a channel, those among them that are reserved.
    pub fn here(&self, channel: &Channel) -> usize {
        self.lock().rooms.get(channel).map_or(0, |room| room.here)
    }

    /// Connections have come into a channel: its number may be another now. After [`Rooms::enter`], when they are in it.
    pub fn entered(&self, channel: &Channel, rule: &ChannelRule) {
        self.stir(&mut self.lock(), channel, rule);
    }

    /// So many connections have left a channel. Nothing is kept of one that has none.
    pub fn leave(&self, channel: &Channel, many: usize) {
        let state = &mut *self.lock();
        let Some(room) = state.rooms.get_mut(channel) else { return };
        room.here = room.here.saturating_sub(many);
        let rule = room.rule.clone();
        if room.here == 0 {
            state.rooms.remove(channel);
            if state.rooms.is_empty() {
                state.rooms = HashMap::default();
            }
        }
        self.stir(state, channel, &rule);
    }

    /// A channel has that rule from now on: so many connections are in it on one worker that were not counted before.
    pub fn begin(&self, channel: &Channel, many: usize, rule: &Arc<ChannelRule>) {
        let state = &mut *self.lock();
        let room = Room { here: 0, rule: rule.clone(), told: None };
        let room = state.rooms.entry(channel.clone()).or_insert(room);
        room.here += many;
        room.rule = rule.clone();
        self.stir(state, channel, rule);
    }

    fn stir(&self, state: &mut State, channel: &Channel, rule: &ChannelRule) {
        if rule.online.is_on() && state.stirred.insert(channel.clone()) {
            self.teller.wake();
        }
    }

    /// All channels count as changed, since other nodes have come or gone.
    pub fn stir_all(&self) {
        let State { rooms, stirred, .. } = &mut *self.lock();
        stirred.extend(rooms.iter().filter(|(_, room)| room.rule.online.is_on()).map(|(channel, _)| channel.clone()));
    }

    /// The channels whose number here has changed since the last call, with when it was told here.
    pub fn take_stirred(&self) -> Vec<(Channel, Option<Instant>)> {
        let State { rooms, stirred, .. } = &mut *self.lock();
        let told = |channel: &Channel| rooms.get(channel)?.told.map(|(_, at)| at);
        std::mem::take(stirred).into_iter().map(|channel| (channel.clone(), told(&channel))).collect()
    }

    /// The number of a channel has changed on some node, and this one tells it. `ago`: it was told there that long ago.
    pub fn to_tell(&self, channel: Channel, ago: Option<Duration>) {
        let at = ago.and_then(|ago| Instant::now().checked_sub(ago));
        let state = &mut *self.lock();
        if state.to_tell.len() >= MOST && !state.to_tell.contains_key(&channel) {
            return;
        }
        let known = state.to_tell.entry(channel).or_default();
        *known = at.max(*known);
        self.teller.wake();
    }

    /// The channels whose number this node has to tell, since the last call.
    pub fn take_to_tell(&self) -> HashMap<Channel, Option<Instant>, RandomState> {
        std::mem::take(&mut self.lock().to_tell)
    }

    /// Whether some channel's number is told.
    pub fn is_empty(&self) -> bool {
        self.lock().rooms.is_empty()
    }

    /// Ready when there is something to tell.
    pub fn poll_stirred(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.teller.register(cx.waker());
        let state = self.lock();
        if state.stirred.is_empty() && state.to_tell.is_empty() { Poll::Pending } else { Poll::Ready(()) }
    }

    /// The connections of this node hear that so many are in a channel: what they are told. None: they know it already, or
    /// there are none.
    pub fn told(&self, channel: &Channel, count: u64) -> Option<Message> {
        let mut state = self.lock();
        let room = state.rooms.get_mut(channel).filter(|room| room.rule.online.is_on())?;
        let known = room.told.replace((count, Instant::now())).map(|(known, _)| known);
        (known != Some(count)).then(|| Message::text(room.rule.online.message.replace("%n", &count.to_string())))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is done under the lock does not panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Online;

    #[test]
    fn a_full_room_has_a_place_again_when_one_has_left() {
        let (rooms, channel) = (Rooms::default(), Channel::parse(b"c").unwrap());
        let rule = Arc::new(ChannelRule { max_subscribers: 2, ..ChannelRule::of("c") });
        assert!(rooms.enter(&channel, &rule) && rooms.enter(&channel, &rule) && !rooms.enter(&channel, &rule));
        rooms.leave(&channel, 1);
        assert!(rooms.enter(&channel, &rule));
        rooms.begin(&channel, 3, &rule);
        rooms.leave(&channel, 4);
        assert!(rooms.enter(&channel, &rule) && !rooms.enter(&channel, &rule));
        rooms.leave(&channel, 2);
        assert!(rooms.is_empty() && rooms.lock().rooms.capacity() == 0 && rooms.take_stirred().is_empty());
    }

    #[test]
    fn connections_hear_a_number_once() {
        let (rooms, channel) = (Rooms::default(), Channel::parse(b"c").unwrap());
        let online = Online { every: Duration::from_secs(1), message: "n=%n".into() };
        let rule = Arc::new(ChannelRule { online, ..ChannelRule::of("c") });
        assert_eq!(rooms.told(&channel, 1), None, "nobody is there");
        assert!(rooms.enter(&channel, &rule) && rooms.enter(&channel, &rule));
        assert!(rooms.take_stirred().is_empty(), "they are not in it yet");
        rooms.entered(&channel, &rule);
        assert_eq!(rooms.take_stirred(), [(channel.clone(), None)]);
        assert_eq!(rooms.told(&channel, 2), Some(Message::text("n=2")));
        assert_eq!(rooms.told(&channel, 2), None);
        rooms.leave(&channel, 1);
        let stirred = rooms.take_stirred();
        assert!(stirred.len() == 1 && stirred[0].1.is_some());
        rooms.stir_all();
        assert_eq!(rooms.take_stirred().len(), 1);
        rooms.leave(&channel, 1);
        assert_eq!(rooms.take_stirred(), [(channel.clone(), None)]);
        rooms.stir_all();
        assert!(rooms.take_stirred().is_empty());
    }
}
