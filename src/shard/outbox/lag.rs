//! Which of the frames that wait for a client may be dropped, or replaced by newer ones, if it does not keep up: those of
//! channels whose rule says so (`slow`). Knows frames by their numbers alone.

use foldhash::fast::RandomState;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use crate::message::{Channel, Key};

/// What may be done with a message that waits for a client which does not keep up.
#[derive(Debug, Clone, Default)]
pub enum Policy {
    /// Nothing: if there is no room, the client is closed.
    #[default]
    Keep,
    /// It may be dropped, the oldest first.
    DropOldest,
    /// The same, and the next one of that subject takes its place.
    Latest(Rc<Subject>),
}

/// What a message is about: the next one about the same makes it worthless.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Its channel.
    pub channel: Channel,
    /// Its key; without one it is about the channel as a whole.
    pub key: Option<Key>,
}

/// A frame that may be dropped: its number, and its subject if a newer one may take its place.
type Loose = (u32, Option<Rc<Subject>>);

/// The frames of one outbox that may be dropped. They are numbered as they come, and none of them has begun to be written.
#[derive(Default)]
pub(super) struct Lag {
    /// The oldest first.
    loose: VecDeque<Loose>,
    /// The newest of each subject. None: nobody has asked yet.
    newest: Option<HashMap<Rc<Subject>, u32, RandomState>>,
    /// The number of the first frame in the outbox's list.
    first: u32,
}

impl Lag {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.loose.len()
    }

    /// The frame at that place in the list may be dropped, as this policy says. It is the last one.
    pub(super) fn add(&mut self, place: usize, policy: &Policy) {
        let (number, subject) = (
            self.number(place),
            match policy {
                Policy::Keep => return,
                Policy::DropOldest => None,
                Policy::Latest(subject) => Some(subject.clone()),
            },
        );
        if let (Some(newest), Some(subject)) = (&mut self.newest, &subject) {
            newest.insert(subject.clone(), number);
        }
        self.loose.push_back((number, subject));
    }

    /// Each with its place in the list, the oldest first.
    pub(super) fn each(&self) -> impl ExactSizeIterator<Item = (usize, Option<&Rc<Subject>>)> {
        self.loose.iter().map(|(number, subject)| (number.wrapping_sub(self.first) as usize, subject.as_ref()))
    }

    /// The place of the newest one of that subject.
    pub(super) fn newest(&mut self, subject: &Rc<Subject>) -> Option<usize> {
        let all = || self.loose.iter().filter_map(|(number, subject)| Some((subject.clone()?, *number)));
        let newest = self.newest.get_or_insert_with(|| all().collect());
        newest.get(subject).map(|number| number.wrapping_sub(self.first) as usize)
    }

    /// The place of the oldest one, which is about to be dropped.
    pub(super) fn take_oldest(&mut self) -> Option<usize> {
        let (number, subject) = self.loose.pop_front()?;
        self.forget(number, subject);
        Some(number.wrapping_sub(self.first) as usize)
    }

    /// What stands before that place in the list is written, or has begun to be.
    pub(super) fn begun(&mut self, place: usize) {
        while let Some(&(number, _)) = self.loose.front()
            && (number.wrapping_sub(self.first) as usize) < place
        {
            self.take_oldest();
        }
    }

    /// So many frames have been taken from the front of the list.
    pub(super) fn shift(&mut self, frames: usize) {
        self.first = self.first.wrapping_add(frames as u32);
    }

    /// One has been put before all others.
    pub(super) fn unshift(&mut self) {
        self.first = self.first.wrapping_sub(1);
    }

    fn number(&self, place: usize) -> u32 {
        self.first.wrapping_add(place as u32)
    }

    fn forget(&mut self, number: u32, subject: Option<Rc<Subject>>) {
        if let (Some(newest), Some(subject)) = (&mut self.newest, subject)
            && newest.get(&subject) == Some(&number)
        {
            newest.remove(&subject);
        }
    }
}
