//! The names of a publish's channels, as they are read. Each may take a single byte, and in memory many times more: so there
//! is a bound for their number.

use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use std::fmt;

/// The most channels of one publish, as for the callers of the API.
const MOST: usize = 1000;

struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = Vec<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MOST} names")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<&'de str>, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = seq.next_element()? {
            if names.len() == MOST {
                return Err(A::Error::invalid_length(names.len() + 1, &self));
            }
            names.push(name);
        }
        Ok(names)
    }
}

/// Reads them.
pub(super) fn read<'de: 'a, 'a, D: Deserializer<'de>>(reader: D) -> Result<Vec<&'a str>, D::Error> {
    reader.deserialize_seq(Names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::protocol::{Malformed, Message, Messages, envelop};

    #[test]
    fn more_names_than_a_publish_may_have_are_not_read() {
        for (many, expected) in [(MOST, None), (MOST + 1, Some(Malformed::Message))] {
            let channels = vec!["a"; many];
            let message = Message::PublishOnce { id: "i", channels, list: true, binary: false, data: b"x" };
            let mut bytes = Vec::new();
            envelop(&message.to_bytes(), 1, &mut bytes);
            assert_eq!(Messages::new(&bytes).next().unwrap().err(), expected, "{many}");
        }
    }
}
