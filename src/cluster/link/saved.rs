//! A link on its way to a successor process: where both streams stand, and what waits to be sent. Who waits for a reply does
//! not go along, so nobody may.

use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Link, MOST, State};
use crate::cluster::interest::others::Slot;
use crate::cluster::protocol::Run;
use crate::cluster::stats::Stats;
use crate::handover::{Damaged, Decoder, Encoder};

/// So many milliseconds a successor waits until the node has read what the process before has sent. What it sends itself goes
/// another way, and would overtake that. What has not come by then is lost, which shows as any other gap.
const HELD: u64 = 1000;

impl Link {
    /// Sends nothing from now on, or goes on.
    pub fn pause(&self, paused: bool) {
        self.lock().paused = paused;
        self.ready.notify_one();
    }

    /// Whether nobody waits for a reply.
    pub fn is_at_rest(&self) -> bool {
        self.lock().requests.iter().all(Option::is_none)
    }

    /// Goes on if it waits for what can't come any more. For a timer: a sender that waits has no clock.
    pub fn look_at_clock(&self, now: u64) {
        let state = self.lock();
        if state.held_until > 0 && now >= state.held_until {
            self.ready.notify_one();
        }
    }

    /// Writes where it stands. It has to be paused.
    pub fn save(&self, out: &mut Encoder) {
        let state = self.lock();
        out.byte(self.is_suspect().into());
        out.u32(state.epoch);
        out.u64(state.next);
        out.u64(state.first + state.requests.len() as u64);
        out.count(state.unread.len());
        for (number, bytes, _) in &state.unread {
            out.u64(*number);
            out.u64(*bytes as u64);
        }
        out.u32(state.read.0);
        out.u64(state.read.1);
        out.data(&state.replies);
        out.count(state.asides.len());
        state.asides.iter().for_each(|aside| out.data(aside));
        out.count(state.queue.len());
        for part in &state.queue {
            out.u64(part.request);
            out.data(&part.message);
        }
    }

    /// The link of a successor, which goes on where that of the process before stood.
    pub fn restore(
        (me, peer, slot): (Run, Run, Slot),
        stats: Arc<Stats>,
        from: &mut Decoder<'_>,
        now: u64,
    ) -> Result<Link, Damaged> {
        let suspect = from.flag()?;
        let (epoch, next, first) = (from.u32()?, from.u64()?, from.u64()?);
        let bytes = |from: &mut Decoder<'_>| usize::try_from(from.u64()?).map_err(|_| Damaged("a frame's length"));
        let unread: VecDeque<_> = from.list(|from| Ok((from.u64()?, bytes(from)?, now)))?.into();
        let read = (from.u32()?, from.u64()?);
        let replies = from.data()?.to_vec();
        let copy = |from: &mut Decoder<'_>| Ok::<_, Damaged>(Bytes::copy_from_slice(from.data()?));
        let asides = from.list(copy)?;
        let queue = from.list(|from| Ok((from.u64()?, copy(from)?)))?;
        let mut state = State {
            closed: false,
            epoch,
            next,
            queue: VecDeque::new(),
            queued: 0,
            most: 0,
            replies,
            unread_bytes: unread.iter().map(|(_, bytes, _)| bytes).sum(),
            held_until: if unread.is_empty() { 0 } else { now + HELD },
            unread,
            asides,
            read,
            tell_read: true,
            requests: VecDeque::new(),
            first,
            room: Vec::new(),
            paused: false,
        };
        queue.into_iter().for_each(|(request, message)| state.push(message, request));
        state.most = state.queued + MOST;
        let link = Link::of(state, (me, peer, slot), stats);
        link.suspect.store(suspect, Relaxed);
        Ok(link)
    }
}
