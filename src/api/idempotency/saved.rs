//! Publishes with an id on their way to a successor process: a back end that asks again gets the same answer there.

use futures_util::FutureExt;
use futures_util::future::ready;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use super::{Enqueued, Entry, IdempotencyTable, lock};
use crate::api::call::{Outcome, Published};
use crate::handover::{Batch, Damaged, Decoder, Encoder};
use crate::hub::history::Position;
use crate::message::Channel;

impl IdempotencyTable {
    /// Writes all publishes whose outcome is known.
    pub fn save(&self, batch: &mut Batch<'_>, now: std::time::Instant) -> io::Result<()> {
        let (table, now) = (lock(&self.0), Instant::from_std(now));
        for (since, id) in &table.order {
            let Some(entry) = table.known.get(id) else { continue };
            let outcome = entry.under_way.clone().now_or_never().and_then(FutureExt::now_or_never);
            let Some(outcome) = outcome else { continue };
            batch.item(|out| {
                out.data(id.as_bytes());
                out.u64(entry.at);
                out.count(entry.channels.len());
                entry.channels.iter().for_each(|channel| out.data(channel.as_str().as_bytes()));
                out.u64(now.saturating_duration_since(*since).as_millis() as u64);
                out.u64(entry.weight as u64);
                let (is_list, counts) = match &outcome {
                    Outcome::One(counts) => (false, std::slice::from_ref(counts)),
                    Outcome::Each(counts) => (true, &counts[..]),
                };
                out.byte(is_list.into());
                out.count(counts.len());
                for Published { s, f, u, l, m, p } in counts {
                    [*s, *f, *u, *l, *m].into_iter().for_each(|n| Encoder::u64(out, n));
                    out.option(*p, |out, at| [at.term, at.offset].into_iter().for_each(|n| Encoder::u64(out, n)));
                }
            })?;
        }
        Ok(())
    }

    /// Reads one of them; they come oldest first.
    pub fn restore(&self, from: &mut Decoder<'_>, now: std::time::Instant) -> Result<(), Damaged> {
        let id: Arc<str> = from.text()?.into();
        let at = from.u64()?;
        let channels = from.list(|from| Channel::parse(from.data()?).map_err(|_| Damaged("a channel's name")))?;
        let (ago, weight) = (Duration::from_millis(from.u64()?), from.u64()? as usize);
        let is_list = from.flag()?;
        let position = |from: &mut Decoder<'_>| Ok(Position { term: from.u64()?, offset: from.u64()? });
        let mut counts = from.list(|from| {
            let (s, f, u, l, m) = (from.u64()?, from.u64()?, from.u64()?, from.u64()?, from.u64()?);
            Ok(Published { s, f, u, l, m, p: from.option(position)? })
        })?;
        let outcome = match is_list {
            true => Outcome::Each(counts),
            false => Outcome::One(counts.pop().ok_or(Damaged("an outcome"))?),
        };
        let Some(since) = now.checked_sub(ago).map(Instant::from_std) else { return Ok(()) };
        let enqueued: Enqueued = ready(outcome).boxed().shared();
        let (mut table, mut forgotten) = (lock(&self.0), Vec::new());
        let number = table.next;
        table.next += 1;
        let under_way = ready(enqueued).boxed().shared();
        if table.known.insert(id.clone(), Entry { number, weight, at, channels, under_way }).is_none() {
            table.order.push_back((since, id));
            table.bytes = table.bytes.saturating_add(weight);
            table.make_room(&mut forgotten);
        }
        drop(table);
        drop(forgotten);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::idempotency::Done;
    use crate::handover::{Kind, Link, items};

    #[test]
    fn a_publish_that_is_known_is_known_to_the_successor() {
        let (before, now) = (IdempotencyTable::default(), Instant::now());
        let counts = |s| Published { s, f: 1, u: 0, l: 2, m: 3, p: Some(Position { term: s, offset: 7 }) };
        let begin = |outcome: Outcome| move || ready(ready(Done::Known(outcome)));
        let asked = |table: &IdempotencyTable, id: &str, outcome: Outcome| {
            let enqueued =
                table.once_at(now, id.into(), ((50, 10), Vec::new()), begin(outcome)).now_or_never().unwrap();
            enqueued.now_or_never().unwrap()
        };
        let each = Outcome::Each(vec![counts(2), counts(3)]);
        assert_eq!(asked(&before, "one", Outcome::One(counts(1))), Outcome::One(counts(1)));
        assert_eq!(asked(&before, "each", each.clone()), each);
        let (mut one, mut end) = Link::pair().unwrap();
        let mut batch = Batch::new(&mut one, Kind::Idempotency);
        before.save(&mut batch, now.into_std()).unwrap();
        batch.finish().unwrap();
        let after = IdempotencyTable::default();
        items(&end.receive().unwrap().bytes, |from| after.restore(from, now.into_std())).unwrap();
        assert_eq!(asked(&after, "one", Outcome::One(counts(9))), Outcome::One(counts(1)), "it is not done again");
        assert_eq!(asked(&after, "each", Outcome::One(counts(9))), each);
        assert_eq!(asked(&after, "new", Outcome::One(counts(9))), Outcome::One(counts(9)));
        assert_eq!(lock(&after.0).bytes, 30);
    }
}
