//! A node's interest on its way to a successor process. The others know of it already: so the connections that arrive there
//! find their channels told.

use std::sync::atomic::Ordering::Relaxed;

use super::{LINGER, Own, halves, whole};
use crate::handover::{Damaged, Decoder, Encoder};

impl Own {
    /// Writes what has been told, and what is to be; the channels themselves are [`Own::all`].
    pub fn save(&self, out: &mut Encoder) {
        let state = self.lock();
        out.u64(state.made);
        out.u64(state.known);
        out.count(state.changes.len());
        for (hash, comes) in &state.changes {
            out.u64(*hash);
            out.byte((*comes).into());
        }
        out.count(state.untold.len());
        for (hash, version) in &state.untold {
            out.u64(*hash);
            out.u64(*version);
        }
    }

    /// Reads that.
    pub fn restore(&self, from: &mut Decoder<'_>) -> Result<(), Damaged> {
        let (made, known) = (from.u64()?, from.u64()?);
        let changes = from.list(|from| Ok((from.u64()?, from.flag()?)))?;
        let untold = from.list(|from| Ok((from.u64()?, from.u64()?)))?;
        let state = &mut *self.lock();
        (state.made, state.known) = (made, known);
        state.changes = changes.into_iter().collect();
        state.untold = untold.into_iter().collect();
        self.some_untold.store(!state.untold.is_empty(), Relaxed);
        self.changed.store(!state.changes.is_empty(), Relaxed);
        Ok(())
    }

    /// These channels are told of. Their subscribers are about to arrive; those that have none are forgotten after a while.
    pub fn restore_channels(&self, hashes: impl Iterator<Item = u64>, now: u64) {
        let state = &mut *self.lock();
        for hash in hashes {
            state.channels.entry(halves(hash)).or_insert(0);
            state.ends.push_back((now + LINGER, hash));
        }
    }

    /// The hashes of all channels.
    pub fn channels(&self) -> Vec<u64> {
        self.lock().channels.keys().copied().map(whole).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_arrives_finds_its_channel_told() {
        let (before, after) = (Own::default(), Own::default());
        before.first(7);
        before.first(8);
        before.next();
        before.is_known(1);
        before.first(9);
        let mut out = Encoder::default();
        before.save(&mut out);
        after.restore(&mut Decoder::new(&out.bytes)).unwrap();
        after.restore_channels(before.channels().into_iter(), 100);
        after.first(7);
        after.first(9);
        assert!(after.told(7).is_none(), "all know of it");
        assert!(after.told(9).is_some());
        assert_eq!(after.next().map(|changes| (changes.version, changes.come)), Some((2, vec![9])));
        // Nobody has come for the other one.
        after.forget(100 + LINGER);
        assert_eq!(after.next().map(|changes| (changes.version, changes.gone)), Some((3, vec![8])));
        assert_eq!(after.len(), 2);
    }
}
