//! What scripts share, on its way to a successor process.

use std::io;
use std::time::{Duration, Instant};

use super::Shared;
use crate::handover::{Batch, Damaged, Decoder};

impl Shared {
    /// Writes all entries that have not ended.
    pub fn save(&self, batch: &mut Batch<'_>, now: Instant) -> io::Result<()> {
        let state = self.lock();
        for (key, entry) in state.entries.iter().filter(|(_, entry)| entry.lives(now)) {
            batch.item(|out| {
                out.data(key);
                out.value(&entry.value);
                let left = entry.end.map(|(at, _)| at.saturating_duration_since(now).as_millis() as u64);
                out.option(left, |out, left| out.u64(left));
            })?;
        }
        Ok(())
    }

    /// Reads one of them. It is left out where there is no room any more; gives whether it is there.
    pub fn restore(&self, from: &mut Decoder<'_>, now: Instant) -> Result<bool, Damaged> {
        let (key, value) = (from.data()?, from.value()?);
        let left = from.option(Decoder::u64)?.map(Duration::from_millis);
        Ok(self.set(key, value, left, now).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::{Kind, Link, items};
    use crate::value::Value;

    #[test]
    fn entries_go_over_with_the_time_that_they_have_left() {
        let (shared, start) = (Shared::new(1 << 20), Instant::now());
        let seconds = Duration::from_secs;
        shared.set(b"stays", Value::str("x"), None, start).unwrap();
        shared.set(b"ends", Value::Number(2.0), Some(seconds(10)), start).unwrap();
        shared.set(b"over", Value::Bool(true), Some(seconds(1)), start).unwrap();
        let (mut one, mut end) = Link::pair().unwrap();
        let mut batch = Batch::new(&mut one, Kind::Shared);
        shared.save(&mut batch, start + seconds(4)).unwrap();
        batch.finish().unwrap();
        let (successor, now) = (Shared::new(1 << 20), start + seconds(100));
        let frame = end.receive().unwrap();
        items(&frame.bytes, |from| successor.restore(from, now).map(|kept| assert!(kept))).unwrap();
        assert_eq!(successor.get(b"stays", now).as_deref(), Some(&Value::str("x")));
        assert_eq!(successor.get(b"ends", now + seconds(5)).as_deref(), Some(&Value::Number(2.0)));
        assert_eq!(successor.get(b"ends", now + seconds(6)), None);
        assert_eq!(successor.holds().1, 2);
        let small = Shared::new(10);
        items(&frame.bytes, |from| small.restore(from, now).map(|kept| assert!(!kept))).unwrap();
    }
}
