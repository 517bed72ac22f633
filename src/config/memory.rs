//! `engine.memory`: how much memory is too much.

use super::keys::Memory;
use super::types::High;

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
