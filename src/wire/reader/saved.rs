//! What a reader holds, on its way to a successor process.

use super::head::Form;
use super::{Pending, Reader};
use crate::handover::{Damaged, Decoder, Encoder};
use crate::message::Kind;

impl Reader {
    /// Writes what it holds. Nothing that it gave out may be in use.
    pub fn save(&self, out: &mut Encoder) {
        let form = |form: &Form| u8::from(form.kind == Kind::Binary) | u8::from(form.compressed) << 1;
        out.option(self.pending.as_ref(), |out, pending| {
            out.data(&pending.held[pending.pos..]);
            out.data(if pending.spent { &[] } else { &pending.message });
            out.option(pending.fragmented.as_ref().map(form), Encoder::byte);
        });
    }

    /// Reads what another one held; `self` is new.
    pub fn restore(&mut self, from: &mut Decoder<'_>) -> Result<(), Damaged> {
        let takes_compressed = self.takes_compressed;
        self.pending = from.option(|from| {
            let (held, message) = (from.data()?.to_vec(), from.data()?.to_vec());
            let fragmented = from.option(|from| {
                let bits = from.byte()?;
                if bits > 3 || (bits & 2 != 0 && !takes_compressed) {
                    return Err(Damaged("a message's form"));
                }
                let kind = if bits & 1 == 0 { Kind::Text } else { Kind::Binary };
                Ok(Form { kind, compressed: bits & 2 != 0 })
            })?;
            if fragmented.is_none() && !message.is_empty() {
                return Err(Damaged("a message without its form"));
            }
            Ok(Box::new(Pending { held, pos: 0, message, fragmented, spent: false }))
        })?;
        self.tidy();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Input};
    use super::*;
    use proptest::prelude::*;

    /// A masked frame with a mask of zeros.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u8;
        [&[first, 0x80 | length, 0, 0, 0, 0], payload].concat()
    }

    proptest! {
        /// Wherever the bytes are cut, a reader that goes on elsewhere finds the same messages.
        #[test]
        fn a_reader_goes_on_elsewhere(cuts in prop::collection::vec(0..60usize, 0..6), keeps: bool) {
            let bytes = [
                frame(0x81, b"one"), frame(0x01, b"two "), frame(0x89, b"ping"), frame(0x00, b"parts "), frame(0x80, b"more"),
                frame(0x82, b"bin"), frame(0x81, b""), frame(0x02, b"b"), frame(0x80, b""), frame(0x81, b"last"),
            ].concat();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let (mut reader, mut found, mut at) = (Reader::new(), Vec::new(), 0);
            for cut in cuts {
                let mut chunk = bytes[at..cut].to_vec();
                at = cut;
                let mut input = Input::new(&mut chunk);
                if keeps {
                    reader.keep(&mut input);
                } else {
                    while let Some(event) = reader.next(&mut input, 1000).unwrap() {
                        found.push(match event {
                            Event::Text(text) => format!("text {}", String::from_utf8_lossy(text)),
                            Event::Binary(data) => format!("binary {}", String::from_utf8_lossy(data)),
                            other => format!("{other:?}"),
                        });
                    }
                }
                let mut out = Encoder::default();
                reader.save(&mut out);
                let mut from = Decoder::new(&out.bytes);
                let mut other = Reader::new();
                other.restore(&mut from).unwrap();
                prop_assert!(from.is_empty());
                prop_assert_eq!((other.waiting(), other.is_within_message()), (reader.waiting(), reader.is_within_message()));
                reader = other;
            }
            let mut none = Input::new(&mut []);
            while let Some(event) = reader.next(&mut none, 1000).unwrap() {
                found.push(match event {
                    Event::Text(text) => format!("text {}", String::from_utf8_lossy(text)),
                    Event::Binary(data) => format!("binary {}", String::from_utf8_lossy(data)),
                    other => format!("{other:?}"),
                });
            }
            let ping = format!("{:?}", Event::Ping(b"ping"));
            let want = ["text one", &ping, "text two parts more", "binary bin", "text ", "binary b", "text last"];
            prop_assert_eq!(found, want);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Reader::of_compressed().restore(&mut Decoder::new(&bytes));
        }
    }
}
