//! `engine.memory`: how much memory is too much.

use super::raw::units;

/// `engine.memory`: when there is too little for more clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// `high`
    pub high: High,
    /// `of`, in bytes: what a part is a part of; None = what the system lets the process have.
    pub of: Option<usize>,
}

/// The mark of [`Memory`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum High {
    /// So many percent.
    Percent(u8),
    /// So many bytes; 0 = no mark.
    Bytes(usize),
}

impl std::fmt::Display for High {
    /// As the file spells it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            High::Percent(percent) => write!(f, "{percent}%"),
            High::Bytes(bytes) => f.write_str(&units::size(*bytes)),
        }
    }
}

impl Memory {
    /// The mark in bytes, where the system lets the process have `all`; None = there is none.
    pub fn mark(&self, all: Option<usize>) -> Option<usize> {
        match self.high {
            High::Bytes(bytes) => (bytes > 0).then_some(bytes),
            High::Percent(percent) => self.of.or(all).map(|all| all / 100 * usize::from(percent)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_a_part_of_what_there_is_or_a_size_or_none() {
        let of = |high, of| Memory { high, of };
        assert_eq!(of(High::Percent(80), None).mark(Some(1000)), Some(800));
        assert_eq!(of(High::Percent(50), Some(400)).mark(Some(1000)), Some(200));
        assert_eq!(of(High::Percent(50), None).mark(None), None);
        assert_eq!(of(High::Bytes(5), Some(400)).mark(Some(1000)), Some(5));
        assert_eq!(of(High::Bytes(0), None).mark(Some(1000)), None);
    }
}
