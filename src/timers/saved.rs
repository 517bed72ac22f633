//! The timers of scripts on their way to a successor process.

use std::io;
use std::time::{Duration, Instant};

use super::{Call, SetBy, Timer, Timers};
use crate::handover::{Batch, Damaged, Decoder};
use crate::ids::{ClientId, WorkerId};

impl Timers {
    /// Writes all timers. One that repeats and runs goes on from its next time.
    pub fn save(&self, batch: &mut Batch<'_>, now: Instant) -> io::Result<()> {
        let state = self.lock();
        for Timer { server, worker, call, after, repeats, due, starts, .. } in state.timers.values() {
            batch.item(|out| {
                out.u32(*server as u32);
                out.u32(*worker as u32);
                out.data(call.name.as_bytes());
                out.count(call.args.len());
                call.args.iter().for_each(|arg| out.value(arg));
                out.option(call.conn, |out, (client, _)| out.u64(client.get()));
                out.u64(after.as_nanos() as u64);
                out.u64(due.saturating_duration_since(now).as_nanos() as u64);
                out.byte((*repeats).into());
                out.byte(starts.is_some().into());
            })?;
        }
        Ok(())
    }

    /// Reads one of them. `place` says in which worker a connection is, and in which slot; a timer of one that is not there
    /// is left out. Of `workers` workers one gets what belongs to none. One that `on_start` has set is there again already,
    /// if the script still sets it: it only keeps its time.
    pub fn restore(
        &self,
        from: &mut Decoder<'_>,
        workers: usize,
        place: impl Fn(ClientId) -> Option<(WorkerId, u32)>,
        now: Instant,
    ) -> Result<(), Damaged> {
        let (server, worker) = (from.u32()? as usize, from.u32()? as usize);
        let name = from.text()?.into();
        let args = from.list(Decoder::value)?.into();
        let client = from.option(Decoder::u64)?;
        let nanos = |from: &mut Decoder<'_>| from.u64().map(Duration::from_nanos);
        let (after, left) = (nanos(from)?, nanos(from)?);
        let (repeats, starts) = (from.flag()?, from.flag()?);
        let client = client.map(|client| ClientId::new(client).ok_or(Damaged("a client's id"))).transpose()?;
        let (worker, conn) = match client {
            None => (WorkerId((worker % workers.max(1)) as u16), None),
            Some(client) => match place(client) {
                Some((worker, slot)) => (worker, Some((client, slot))),
                None => return Ok(()),
            },
        };
        let call = Call { name, args, conn };
        let identity = call.identity(server, repeats);
        let known = self.lock().by_identity.get(&identity).copied();
        let id = match known {
            Some(id) => id,
            None if starts => return Ok(()),
            // It fails only where the engine stops.
            None => match self.set(SetBy { server, worker, starts: None }, call, after, repeats, now) {
                Ok(id) => id,
                Err(_) => return Ok(()),
            },
        };
        let mut state = self.lock();
        let keeps = state.timers.get(&id).is_some_and(|timer| timer.after == after);
        let waker = match now.checked_add(left) {
            Some(due) if keeps => state.reschedule(id, due, None),
            _ => None,
        };
        drop(state);
        waker.into_iter().for_each(std::task::Waker::wake);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::{Kind, Link, items};
    use crate::timers::Due;
    use crate::value::Value;
    use std::num::NonZeroU64;
    use std::sync::Arc;
    use std::task::Waker;

    #[test]
    fn timers_keep_their_times_and_are_set_once() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let call = |name: &str, conn: Option<u64>| Call {
            name: name.into(),
            args: Box::new([Value::str("x")]),
            conn: conn.map(|client| (ClientId::new(client).unwrap(), 3)),
        };
        let by = |worker, version| SetBy { server: 0, worker: WorkerId(worker), starts: NonZeroU64::new(version) };
        let before = Timers::new(3);
        before.set(by(2, 0), call("later", None), 10 * second, false, start).unwrap();
        before.set(by(0, 0), call("of one", Some(7)), 20 * second, false, start).unwrap();
        before.set(by(0, 0), call("of one that has gone", Some(8)), 5 * second, false, start).unwrap();
        before.set(by(1, 1), call("again", None), 30 * second, true, start).unwrap();
        before.set(by(1, 1), call("not any more", None), 3 * second, true, start).unwrap();
        let (mut one, mut end) = Link::pair().unwrap();
        let mut batch = Batch::new(&mut one, Kind::Timers);
        before.save(&mut batch, start + 2 * second).unwrap();
        batch.finish().unwrap();

        let (after, now) = (Arc::new(Timers::new(2)), start + 100 * second);
        // Its on_start has run.
        after.set(by(0, 9), call("again", None), 30 * second, true, now).unwrap();
        let place = |client: ClientId| (client.get() == 7).then_some((WorkerId(1), 5));
        items(&end.receive().unwrap().bytes, |from| after.restore(from, 2, place, now)).unwrap();
        assert_eq!(after.figures().set, 3);
        let due = |worker, at| match after.due(WorkerId(worker), at, Waker::noop()) {
            Due::Now(run) => (run.call.name.to_string(), run.call.conn.map(|(_, slot)| slot)),
            Due::At(_) | Due::Never => ("none".into(), None),
        };
        assert_eq!(due(0, now + 7 * second).0, "none");
        assert_eq!(due(0, now + 8 * second).0, "later");
        assert_eq!(due(1, now + 17 * second).0, "none");
        assert_eq!(due(1, now + 18 * second), ("of one".into(), Some(5)));
        assert_eq!(due(0, now + 27 * second).0, "none");
        assert_eq!(due(0, now + 28 * second).0, "again");
    }
}
