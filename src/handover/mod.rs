//! How a process hands its connections and its data over to a successor on the same machine: the form of what goes over, and
//! the way there. Each module that has something to hand over writes and reads it itself; `engine/handover` says in which
//! order, and what happens when one of the two fails.
//!
//! A frame of one kind holds any number of items, one after the other.

pub mod codec;
pub mod link;

use std::io;

pub use codec::{Damaged, Decoder, Encoder};
pub use link::{FILES, Frame, Link};

/// The version of the form. A successor takes this one alone.
pub const VERSION: u32 = 4;

/// From this many bytes on a frame is sent.
const ENOUGH: usize = 1 << 20;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To the successor, first: the version, who is replaced, the listeners.
    Offer,
    /// From the successor: it is ready to take over, or, where that was all that was asked, could.
    Ready,
    /// From the successor: why it can't. To one that came by itself: why it is not given anything.
    Refused,
    /// To the successor: the frames that wait for a worker's connections, of which some come twice or more often.
    Frames,
    /// Clients' connections.
    Connections,
    /// Connections of callers that are between two calls.
    Callers,
    /// What waits in topics.
    Queue,
    /// What scripts share.
    Shared,
    /// The timers of scripts.
    Timers,
    /// Publishes with an id.
    Idempotency,
    /// What is kept of channels.
    History,
    /// The last client ids.
    Ids,
    /// What has been used of the rates of connects. Before connections.
    Admissions,
    /// What the metrics have counted.
    Metrics,
    /// That was all.
    All,
    /// From the successor: it has all of it, and has touched no connection yet.
    Taken,
    /// To the successor of a node of a cluster: these nodes are to be reached.
    Reach,
    /// From the successor: they are.
    Reached,
    /// Where the node stands among the others.
    Mesh,
    /// To the successor, last: all of it is its own from now on.
    Given,
}

impl Kind {
    const ALL: [Kind; 20] = [
        Kind::Offer,
        Kind::Ready,
        Kind::Refused,
        Kind::Frames,
        Kind::Connections,
        Kind::Callers,
        Kind::Queue,
        Kind::Shared,
        Kind::Timers,
        Kind::Idempotency,
        Kind::History,
        Kind::Ids,
        Kind::Admissions,
        Kind::Metrics,
        Kind::All,
        Kind::Taken,
        Kind::Reach,
        Kind::Reached,
        Kind::Mesh,
        Kind::Given,
    ];

    /// The kind of that number.
    pub fn of(number: u8) -> Option<Kind> {
        Kind::ALL.get(usize::from(number)).copied()
    }
}

/// Sends items of one kind, as many as fit in each frame.
pub struct Batch<'a> {
    link: &'a mut Link,
    kind: Kind,
    items: Encoder,
}

impl<'a> Batch<'a> {
    /// Of that kind.
    pub fn new(link: &'a mut Link, kind: Kind) -> Batch<'a> {
        Batch { link, kind, items: Encoder::default() }
    }

    /// One more item.
    pub fn item(&mut self, write: impl FnOnce(&mut Encoder)) -> io::Result<()> {
        write(&mut self.items);
        if self.items.bytes.len() >= ENOUGH { self.send() } else { Ok(()) }
    }

    /// Those that are left.
    pub fn finish(mut self) -> io::Result<()> {
        if self.items.bytes.is_empty() { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> io::Result<()> {
        let sent = self.link.send(self.kind as u8, &self.items.bytes, &[]);
        self.items.bytes.clear();
        sent
    }
}

/// Reads all items of a frame.
pub fn items(bytes: &[u8], mut item: impl FnMut(&mut Decoder<'_>) -> Result<(), Damaged>) -> Result<(), Damaged> {
    let mut from = Decoder::new(bytes);
    while !from.is_empty() {
        item(&mut from)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_their_numbers() {
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!((kind as usize, Kind::of(at as u8)), (at, Some(kind)));
        }
        assert_eq!(Kind::of(Kind::ALL.len() as u8), None);
    }

    #[test]
    fn many_items_go_in_several_frames_and_all_come() {
        let (mut one, mut other) = Link::pair().unwrap();
        let sender = std::thread::spawn(move || {
            let mut batch = Batch::new(&mut one, Kind::Queue);
            for n in 0..100_000 {
                batch.item(|out| out.data(format!("item {n}").as_bytes())).unwrap();
            }
            batch.finish().unwrap();
            Batch::new(&mut one, Kind::Shared).finish().unwrap();
        });
        let (mut came, mut frames) = (0, 0);
        while let Ok(frame) = other.receive() {
            assert_eq!(Kind::of(frame.kind), Some(Kind::Queue), "an empty batch sends nothing");
            frames += 1;
            let read = items(&frame.bytes, |from| {
                assert_eq!(from.text()?, format!("item {came}"));
                came += 1;
                Ok(())
            });
            read.unwrap();
        }
        sender.join().unwrap();
        assert!(came == 100_000 && frames > 1, "{came} in {frames}");
        assert!(items(&[1, 2], |from| from.text().map(drop)).is_err());
    }
}
