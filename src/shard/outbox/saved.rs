//! What waits for a connection, on its way to a successor process: with what may be dropped of it.

use std::rc::Rc;

use super::shelf::{Copies, Shelf, Shelved};
use super::{Outbox, Policy, Subject};
use crate::handover::{Damaged, Decoder, Encoder};
use crate::message::{Channel, Key};

/// An outbox that another process had.
#[derive(Default)]
pub struct Saved {
    /// How many bytes of the first frame are written.
    begun: usize,
    /// The places of its frames.
    frames: Vec<usize>,
    /// Which of them may be dropped, in their order, with what they are about if a newer one may take their place.
    loose: Vec<(usize, Option<Subject>)>,
}

impl Outbox {
    /// Writes what waits; the frames themselves go to the shelf.
    pub fn save(&self, shelf: &mut Shelf, out: &mut Encoder) {
        let done = self.done as usize;
        out.u32(self.offset);
        out.count(self.frames.len() - done);
        self.frames[done..].iter().for_each(|frame| out.u32(shelf.place(frame)));
        out.count(self.lag.as_ref().map_or(0, |lag| lag.len()));
        for (place, subject) in self.lag.iter().flat_map(|lag| lag.each()) {
            out.u32((place - done) as u32);
            out.option(subject, |out, subject| {
                out.data(subject.channel.as_str().as_bytes());
                out.option(subject.key.as_ref(), |out, key| out.data(key.as_str().as_bytes()));
            });
        }
    }

    /// Puts in what waited in the process before. For an outbox that nothing was put into.
    pub fn restore(&mut self, saved: Saved, copies: &mut Copies) {
        saved.frames.into_iter().filter_map(|place| copies.frame(place)).for_each(|frame| self.push(frame));
        for (place, subject) in saved.loose {
            let policy = subject.map_or(Policy::DropOldest, |subject| Policy::Latest(Rc::new(subject)));
            self.lag.get_or_insert_default().add(place, &policy);
        }
        if saved.begun > 0 {
            self.advance(saved.begun);
        }
    }
}

impl Saved {
    /// Reads what [`Outbox::save`] has written. `known`: the frames that have come.
    pub fn read(from: &mut Decoder<'_>, known: &Shelved) -> Result<Saved, Damaged> {
        let begun = from.u32()? as usize;
        let frames = from.list(|from| {
            let place = from.u32()? as usize;
            known.length(place).map(|_| place).ok_or(Damaged("the place of a frame"))
        })?;
        let mut least = 0;
        let loose = from.list(|from| {
            let place = from.u32()? as usize;
            if place < least || place >= frames.len() {
                return Err(Damaged("a frame that may be dropped"));
            }
            least = place + 1;
            let subject = from.option(|from| {
                let channel = Channel::parse(from.data()?).map_err(|_| Damaged("a channel's name"))?;
                let key = from.option(|from| Key::parse(from.data()?).map_err(|_| Damaged("a key")))?;
                Ok(Subject { channel, key })
            })?;
            Ok((place, subject))
        })?;
        if begun > frames.first().and_then(|first| known.length(*first)).unwrap_or(0) {
            return Err(Damaged("what waits for a client"));
        }
        Ok(Saved { begun, frames, loose })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Frame;
    use super::*;
    use std::sync::Arc;

    fn frame(text: &str) -> Frame {
        text.as_bytes().into()
    }

    fn saved(outbox: &Outbox) -> (Vec<u8>, Arc<Shelved>) {
        let (mut out, mut shelf, mut frames) = (Encoder::default(), Shelf::default(), Shelved::default());
        outbox.save(&mut shelf, &mut out);
        shelf.into_parts().iter().for_each(|part| frames.read(part).unwrap());
        (out.bytes, Arc::new(frames))
    }

    fn moved(outbox: &Outbox) -> Outbox {
        let (bytes, frames) = saved(outbox);
        let (mut from, mut copies, mut after) = (Decoder::new(&bytes), Copies::default(), Outbox::default());
        copies.use_those(&frames);
        after.restore(Saved::read(&mut from, &frames).unwrap(), &mut copies);
        from.end().unwrap();
        after
    }

    fn rest(outbox: &Outbox) -> String {
        let mut scratch = Vec::with_capacity(1000);
        String::from_utf8(outbox.next_write(&mut scratch).to_vec()).unwrap()
    }

    #[test]
    fn what_may_be_dropped_is_known_afterwards() {
        let subject = |key: &str| {
            let channel = Channel::parse(b"prices").unwrap();
            Rc::new(Subject { channel, key: Some(Key::parse(key.as_bytes()).unwrap()) })
        };
        let mut outbox = Outbox::default();
        outbox.push(frame("gone "));
        outbox.push(frame("first "));
        outbox.push_as(frame("a1 "), &Policy::Latest(subject("a")));
        outbox.push_as(frame("old "), &Policy::DropOldest);
        outbox.push(frame("kept "));
        outbox.push_as(frame("b1 "), &Policy::Latest(subject("b")));
        outbox.advance(7);
        let mut after = moved(&outbox);
        assert_eq!((rest(&after), after.weight()), ("rst a1 old kept b1 ".into(), outbox.weight()));
        assert!(after.replace(&frame("b2 "), &subject("b")) && !after.replace(&frame("c "), &subject("c")));
        let mut again = moved(&after);
        assert_eq!(again.drop_oldest(1), 1);
        assert_eq!(rest(&again), "rst old kept b2 ");
        assert_eq!(again.drop_oldest(10_000), 2);
        assert_eq!(rest(&again), "rst kept ");
        // What comes now is treated as if nothing had moved.
        again.push_as(frame("c1 "), &Policy::Latest(subject("c")));
        assert!(again.replace(&frame("c2 "), &subject("c")));
        again.clear_whole_frames();
        assert_eq!(rest(&again), "rst ");
        again.advance(4);
        assert!(again.is_empty() && moved(&again).is_empty());
    }

    #[test]
    fn damage_is_refused() {
        let mut outbox = Outbox::default();
        outbox.push(frame("one"));
        outbox.push_as(frame("two"), &Policy::DropOldest);
        outbox.advance(1);
        let (bytes, frames) = saved(&outbox);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] = 0xff;
            if let Ok(saved) = Saved::read(&mut Decoder::new(&damaged), &frames) {
                let mut copies = Copies::default();
                copies.use_those(&frames);
                Outbox::default().restore(saved, &mut copies);
            }
            assert!(Saved::read(&mut Decoder::new(&bytes[..at]), &frames).is_err());
        }
    }
}
