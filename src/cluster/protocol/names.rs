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
