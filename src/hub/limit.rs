//! Channels whose rule limits their publishes (`limit` of `engine.channels`): what becomes of each publish, and what was added
//! up until its window ends. One lock, held for a few moves; only publishes to such channels take it. Callers pass the time.

mod window;

use foldhash::fast::RandomState;
use futures_util::task::AtomicWaker;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::delivery::Publication;
use crate::config::{ChannelRule, Over};
use crate::message::Channel;
use window::Window;

/// The most channels whose publishes are counted. Those of further ones pass.
const MOST: usize = 1 << 18;
/// The most messages of one channel that wait for the end of its window; the next window must have places for them, too.
const MOST_MERGED: u64 = 1000;
/// The bytes of all messages that wait for the ends of their windows, [`PER_MESSAGE`] of them for each.
const MERGED_BYTES: usize = 16 << 20;
/// What one takes besides its data.
const PER_MESSAGE: usize = 512;
/// Channels without publishes are forgotten so often.
const FORGET: Duration = Duration::from_secs(1);

/// What becomes of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It is left out.
    Dropped,
    /// It is added to the others like it, which go on as one message when the window ends.
    Merged,
}

/// The channels whose publishes are limited.
#[derive(Default)]
pub struct PublishLimits {
    state: Mutex<State>,
    /// Who sends what was added up.
    sender: AtomicWaker,
    dropped: AtomicU64,
    merged: AtomicU64,
}

#[derive(Default)]
struct State {
    channels: HashMap<Channel, Limited, RandomState>,
    /// The bytes of what was added up, of all channels.
    merged_bytes: usize,
    /// The channels that have something that was added up, by the ends of their windows.
    ends: BTreeSet<(Instant, Channel)>,
    /// What was added up in windows that have ended.
    due: Vec<Publication>,
    forgot: Option<Instant>,
}

/// One channel.
struct Limited {
    window: Window,
    rule: Arc<ChannelRule>,
    /// What was added up, in the order of the first ones.
    merged: Vec<Publication>,
    /// Where the channel is among those that have some.
    end: Option<Instant>,
}

impl Limited {
    fn new(now: Instant, rule: &Arc<ChannelRule>) -> Limited {
        Limited { window: Window::new(now), rule: rule.clone(), merged: Vec::new(), end: None }
    }

    fn per(&self) -> Duration {
        self.rule.limit.rate.per
    }

    /// Goes on to the window that it is now. What was added up in one that has ended is due; the next one has places for it.
    fn due(&mut self, now: Instant) -> Vec<Publication> {
        if !self.window.advance(now, self.per()) {
            return Vec::new();
        }
        self.window.take(self.merged.len() as u64);
        std::mem::take(&mut self.merged)
    }
}

impl PublishLimits {
    /// A publish to a channel with that rule, which has a limit, comes now.
    pub fn offer(&self, now: Instant, publication: &Publication, rule: &Arc<ChannelRule>) -> Verdict {
        let verdict = self.lock().offer(now, publication, rule);
        match verdict {
            Verdict::Pass => {}
            Verdict::Dropped => drop(self.dropped.fetch_add(1, Relaxed)),
            Verdict::Merged => {
                self.merged.fetch_add(1, Relaxed);
                self.sender.wake();
            }
        }
        verdict
    }

    /// What was added up in windows that have ended; and when the next one ends that has something.
    pub fn take_due(&self, now: Instant) -> (Vec<Publication>, Option<Instant>) {
        let state = &mut *self.lock();
        while state.ends.first().is_some_and(|(end, _)| *end <= now)
            && let Some((_, channel)) = state.ends.pop_first()
            && let Some(limited) = state.channels.get_mut(&channel)
        {
            state.due.extend(limited.due(now));
            // Its windows may have become longer meanwhile.
            limited.end = (!limited.merged.is_empty()).then(|| limited.window.end(limited.per()));
            state.ends.extend(limited.end.map(|end| (end, channel)));
        }
        let due = std::mem::take(&mut state.due);
        state.merged_bytes -= due.iter().map(weigh).sum::<usize>();
        (due, state.ends.first().map(|(end, _)| *end))
    }

    /// Ready when something was added up that ends before `next`, or without one, something at all.
    pub fn poll_sooner(&self, next: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        self.sender.register(cx.waker());
        let state = self.lock();
        let sooner = state.ends.first().is_some_and(|(end, _)| next.is_none_or(|next| *end < next));
        if sooner || !state.due.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// How many publishes were left out, and how many were added to others.
    pub fn figures(&self) -> (u64, u64) {
        (self.dropped.load(Relaxed), self.merged.load(Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is done under the lock does not panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn offer(&mut self, now: Instant, publication: &Publication, rule: &Arc<ChannelRule>) -> Verdict {
        self.forget(now);
        let full = self.channels.len() >= MOST;
        let limited = match self.channels.entry(publication.channel.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if full => return Verdict::Pass,
            Entry::Vacant(entry) => entry.insert(Limited::new(now, rule)),
        };
        if !Arc::ptr_eq(&limited.rule, rule) {
            limited.rule = rule.clone();
        }
        self.due.extend(limited.due(now));
        if let Some(end) = limited.end.take_if(|_| limited.merged.is_empty()) {
            self.ends.remove(&(end, publication.channel.clone()));
        }
        if limited.window.pass(now, &rule.limit, publication.options.priority) {
            return Verdict::Pass;
        }
        if rule.limit.over != Over::Merge || publication.options.key.is_none() {
            return Verdict::Dropped;
        }
        if let Some(count) = limited.merged.iter_mut().find_map(|merged| merged.count_of(publication)) {
            *count += 1;
            return Verdict::Merged;
        }
        let places = rule.limit.open().min(MOST_MERGED);
        if limited.merged.len() as u64 >= places || self.merged_bytes + weigh(publication) > MERGED_BYTES {
            return Verdict::Dropped;
        }
        if limited.end.is_none() {
            let end = limited.window.end(limited.per());
            limited.end = Some(end);
            self.ends.insert((end, publication.channel.clone()));
        }
        self.merged_bytes += weigh(publication);
        limited.merged.push(Publication { count: Some(1), ..publication.clone() });
        Verdict::Merged
    }

    /// Forgets channels that have been at rest.
    fn forget(&mut self, now: Instant) {
        let forgot = *self.forgot.get_or_insert(now);
        if now.saturating_duration_since(forgot) < FORGET {
            return;
        }
        self.forgot = Some(now);
        self.channels.retain(|_, limited| !limited.merged.is_empty() || !limited.window.is_over(now, limited.per()));
        if self.channels.capacity() > 1024 && self.channels.len() < self.channels.capacity() / 8 {
            self.channels.shrink_to_fit();
        }
    }
}

impl Publication {
    /// Where the publishes are counted that this one stands for, if that one is like them.
    fn count_of(&mut self, other: &Publication) -> Option<&mut u64> {
        let (own, others) = (&self.options, &other.options);
        let is_like = own.key == others.key && self.message == other.message && own.except == others.except;
        self.count.as_mut().filter(|_| is_like)
    }
}

fn weigh(publication: &Publication) -> usize {
    PER_MESSAGE + publication.message.data().len()
}

#[cfg(test)]
mod tests;
