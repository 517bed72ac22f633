//! What was published by this thread, for those who watch its worker. Publishes come from scripts and from back ends' calls,
//! which know no shard: so they leave a note on their thread, and only while somebody watches.

use std::cell::{Cell, RefCell};
use std::time::{SystemTime, UNIX_EPOCH};

use super::pending::Counts;
use super::tail::MAX_EVENTS;
use crate::message::Channel;

/// A publish.
pub struct Published {
    /// When its counts were known, in microseconds of Unix time.
    pub at: u64,
    /// Where to.
    pub channel: Channel,
    /// The size of its message, in bytes.
    pub bytes: usize,
    /// What it came to; None: nobody counted.
    pub counts: Option<Counts>,
}

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static NOTES: RefCell<(Vec<Published>, u64)> = const { RefCell::new((Vec::new(), 0)) };
}

/// Whether notes are taken on this thread.
#[inline]
pub fn are_watched() -> bool {
    WATCHED.get()
}

/// From now on notes are taken on this thread, or are not.
pub fn watch(on: bool) {
    WATCHED.set(on);
    if !on {
        NOTES.with_borrow_mut(|notes| *notes = Default::default());
    }
}

/// Takes a note, if they are taken; of many the last are left out, and counted.
pub fn note(channel: Channel, bytes: usize, counts: Option<Counts>) {
    if !are_watched() {
        return;
    }
    let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    NOTES.with_borrow_mut(|(notes, lost)| match notes.len() < MAX_EVENTS {
        true => notes.push(Published { at, channel, bytes, counts }),
        false => *lost += 1,
    });
}

/// The notes since the last call, and how many were left out.
pub fn take() -> (Vec<Published>, u64) {
    NOTES.with_borrow_mut(std::mem::take)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_taken_only_while_somebody_watches_and_not_without_end() {
        let channel = Channel::parse(b"c").unwrap();
        note(channel.clone(), 1, None);
        assert!(take().0.is_empty());
        watch(true);
        (0..MAX_EVENTS + 3).for_each(|n| note(channel.clone(), n, Some(Counts::default())));
        let (notes, lost) = take();
        assert_eq!((notes.len(), lost, notes[7].bytes), (MAX_EVENTS, 3, 7));
        note(channel, 1, None);
        watch(false);
        assert!(take().0.is_empty());
    }
}
