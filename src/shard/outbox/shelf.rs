//! The frames that wait for a worker's connections, on their way to a successor process. Each goes once, however many
//! connections wait for it, and is there once for each worker.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::Frame;
use crate::handover::{Damaged, Decoder, Encoder};

/// From so many bytes on another part begins.
const PART: usize = 16 << 20;

/// The frames that go, in the process before.
#[derive(Default)]
pub struct Shelf {
    /// Of those that more than one connection may wait for.
    places: HashMap<*const u8, u32>,
    /// The same frames: no other one gets their address.
    kept: Vec<Frame>,
    count: u32,
    parts: Vec<Vec<u8>>,
}

impl Shelf {
    /// The place of a frame, which goes along.
    pub fn place(&mut self, frame: &Frame) -> u32 {
        if let Some(place) = self.places.get(&frame.as_ptr()) {
            return *place;
        }
        let place = self.count;
        self.count += 1;
        if Rc::strong_count(frame) > 1 {
            self.places.insert(frame.as_ptr(), place);
            self.kept.push(frame.clone());
        }
        let begins = self.parts.last().is_none_or(|part| part.len() >= PART);
        let mut part = match begins {
            true => Encoder { bytes: vec![self.parts.is_empty().into()] },
            false => Encoder { bytes: self.parts.pop().unwrap_or_default() },
        };
        part.data(frame);
        self.parts.push(part.bytes);
        place
    }

    /// All of them, for [`Shelved::read`].
    pub fn into_parts(mut self) -> Vec<Vec<u8>> {
        if self.parts.is_empty() {
            self.parts.push(vec![1]);
        }
        self.parts
    }
}

/// The frames that came for the connections of one worker of the process before.
#[derive(Default)]
pub struct Shelved(Vec<Box<[u8]>>);

impl Shelved {
    /// Reads a part. The first one of a worker begins anew.
    pub fn read(&mut self, part: &[u8]) -> Result<(), Damaged> {
        let mut from = Decoder::new(part);
        if from.flag()? {
            self.0.clear();
        }
        while !from.is_empty() {
            let frame = from.data()?;
            if frame.is_empty() {
                return Err(Damaged("a frame"));
            }
            self.0.push(frame.into());
        }
        Ok(())
    }

    /// The length of the frame at that place.
    pub(super) fn length(&self, place: usize) -> Option<usize> {
        self.0.get(place).map(|frame| frame.len())
    }
}

/// Those that a worker's connections wait for.
#[derive(Default)]
pub struct Copies {
    of: Arc<Shelved>,
    made: Vec<Option<Frame>>,
}

impl Copies {
    /// These from now on.
    pub fn use_those(&mut self, frames: &Arc<Shelved>) {
        if !Arc::ptr_eq(&self.of, frames) {
            *self = Copies { of: frames.clone(), made: vec![None; frames.0.len()] };
        }
    }

    /// The frame at that place, which there must be.
    pub(super) fn frame(&mut self, place: usize) -> Option<Frame> {
        let made = self.made.get_mut(place)?;
        Some(made.get_or_insert_with(|| Rc::from(&*self.of.0[place])).clone())
    }
}

/// What of this a worker has. It hands over or takes up, never both.
#[derive(Default)]
pub struct OnTheWay {
    /// To a successor.
    pub shelf: Shelf,
    /// From the process before.
    pub copies: Copies,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_goes_once_and_is_there_once() {
        let frame = |text: &str| Frame::from(text.as_bytes());
        let (shared, own) = (frame("shared"), frame("own"));
        let mut shelf = Shelf::default();
        let other = shared.clone();
        assert_eq!([&shared, &own, &other].map(|frame| shelf.place(frame)), [0, 1, 0]);
        let large = frame(&"x".repeat(PART));
        assert_eq!((shelf.place(&large), shelf.place(&frame("behind it"))), (2, 3));
        let parts = shelf.into_parts();
        assert_eq!(parts.len(), 2);
        let mut frames = Shelved::default();
        // What another worker had is forgotten.
        frames.read(&Shelf::default().into_parts()[0]).unwrap();
        for _ in 0..2 {
            parts.iter().for_each(|part| frames.read(part).unwrap());
            assert_eq!((frames.length(3), frames.length(4)), (Some(9), None));
        }
        let mut copies = Copies::default();
        copies.use_those(&Arc::new(frames));
        let (one, two) = (copies.frame(0).unwrap(), copies.frame(0).unwrap());
        assert!(Rc::ptr_eq(&one, &two) && &*one == b"shared");
        assert!(copies.frame(4).is_none());
        for damaged in [&[][..], &[2], &[1, 0, 0, 0, 0], &[0, 5, 0, 0, 0, 1]] {
            assert!(Shelved::default().read(damaged).is_err());
        }
    }
}
