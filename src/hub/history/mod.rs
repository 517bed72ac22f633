//! The messages that are kept of channels whose rule says `history`: each channel's in a log of its own, in the one order
//! in which they are delivered. Who orders a message holds its channel's lock while the message is kept and enqueued,
//! and who reads a log holds it while what was read is enqueued: so both are in the same order everywhere.
//!
//! All logs together are bounded in bytes. Where that is exceeded, the channel that was used the longest ago loses its
//! log; a later one of that channel has another term, so that readers can tell.

mod copies;
mod envelope;
mod log;
mod position;
mod role;
mod roles;
mod saved;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use foldhash::fast::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::workers::WorkerSet;
use crate::config::{ChannelRule, Envelope as ChannelEnvelope, Rules};
use crate::message::{Channel, Counted};
use log::{LOG, Log};
use role::{Complete, Role};
use tokio::sync::oneshot;

pub use envelope::{Envelope, gap};
pub use log::{At, From, Kept, LogCopy, Most};
pub use position::Position;
pub use role::{Follow, Followed, Reading, Stream};

/// Terms count milliseconds from here on: the beginning of 2026, in milliseconds of Unix time.
const EPOCH: u64 = 1_767_225_600_000;
/// The lowest bits of a term are the number of the node that gave it.
const NODE_BITS: u32 = 10;
/// A term of another node that is larger counts as this.
const LAST_TERM: u64 = 1 << 62;
/// So many logs are looked at for messages that are too old, each time.
const SWEEP: usize = 512;

#[cfg(test)]
thread_local! {
    static CLOCK: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}

/// The time of this thread stands still, in milliseconds of Unix time, until it is set again.
#[cfg(test)]
pub fn set_clock(now: u64) {
    CLOCK.set(Some(now));
}

/// The present, in milliseconds of Unix time.
pub fn now() -> u64 {
    #[cfg(test)]
    if let Some(now) = CLOCK.get() {
        return now;
    }
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// What is kept of all channels. See the module.
pub struct History {
    rules: ArcSwap<Rules>,
    /// Whether a publish has to look at the rules.
    shapes: AtomicBool,
    logs: DashMap<Channel, Arc<Entry>, RandomState>,
    uses: Mutex<Uses>,
    limit: AtomicUsize,
    /// The last term that was given.
    terms: AtomicU64,
    evicted: AtomicU64,
    /// Where the next look for messages that are too old begins.
    swept: AtomicU64,
    /// There are other nodes.
    shared: AtomicBool,
    /// The channels that this node is about to lead.
    taking: Mutex<HashMap<Channel, Taking>>,
}

/// This node is about to lead a channel.
#[derive(Default)]
struct Taking {
    /// Who waits for that.
    waiting: Vec<oneshot::Sender<()>>,
    /// Another node has led it meanwhile, up to there.
    beside: Option<Position>,
    /// That is news.
    is_told: bool,
}

/// Which channel was used when.
#[derive(Default)]
struct Uses {
    /// The one that was used the longest ago first.
    order: BTreeMap<u64, Arc<Entry>>,
    next: u64,
    bytes: usize,
}

/// A channel.
struct Entry {
    channel: Channel,
    state: Mutex<State>,
}

struct State {
    log: Log,
    /// Its place in [`Uses::order`]; None: it is new, or was taken out.
    used: Option<u64>,
    /// What it counts for in [`Uses::bytes`].
    counted: usize,
    /// It is not in the map any more.
    evicted: bool,
    /// Workers that have not got all of it.
    behind: WorkerSet,
    role: Role,
    /// See [`Placed::released`]. Until one knows, it would pass for one that has all: so no publish is answered before.
    released: Vec<u64>,
}

/// A message that was ordered.
pub struct Placed {
    /// Where it stands.
    pub at: Position,
    /// When it was ordered, in milliseconds of Unix time.
    pub when: u64,
    /// The terms that ended just before it, if it is the first of its own.
    pub ended: Vec<u64>,
    /// The log as it was before, for the node that is to keep a copy and has none yet.
    pub copy: Option<LogCopy>,
    /// The runs that have kept the copy before, and have not said yet that they keep it no more.
    pub released: Vec<u64>,
}

/// Figures of [`History`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Bytes of all logs.
    pub bytes: usize,
    /// Channels with a log.
    pub channels: usize,
    /// Logs that were lost since there was no room.
    pub evicted: u64,
}

impl Default for History {
    fn default() -> History {
        History {
            rules: ArcSwap::default(),
            shapes: AtomicBool::new(false),
            logs: DashMap::with_hasher(RandomState::default()),
            uses: Mutex::default(),
            limit: AtomicUsize::new(usize::MAX),
            terms: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            swept: AtomicU64::new(0),
            shared: AtomicBool::new(false),
            taking: Mutex::default(),
        }
    }
}

/// Nothing that is done under these locks can panic halfway through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl History {
    /// These rules hold from now on. What is kept of channels that have none any more is forgotten.
    pub fn set_rules(&self, rules: &[ChannelRule]) {
        let rules = Rules::new(rules);
        if *self.rules.load_full() == rules {
            return;
        }
        self.shapes.store(rules.iter().any(|rule| rule.shapes_publishes()), Relaxed);
        self.rules.store(Arc::new(rules));
        let entries: Vec<Arc<Entry>> = self.logs.iter().map(|entry| entry.value().clone()).collect();
        for entry in entries {
            match self.rule_of(entry.channel.as_str()).filter(|rule| rule.is_ordered()) {
                None => drop(self.evict(&entry, None)),
                Some(rule) => self.trim(&entry, &rule, now()),
            }
        }
    }

    /// All logs together may take so many bytes.
    pub fn bound(&self, bytes: usize) {
        self.limit.store(bytes, Relaxed);
        self.make_room();
    }

    /// The rule that a publish to a channel has to look at. Without such rules it costs one look at a flag.
    #[inline]
    pub fn rule_of(&self, channel: &str) -> Option<Arc<ChannelRule>> {
        if !self.shapes.load(Relaxed) {
            return None;
        }
        self.rules.load().of(channel).filter(|rule| rule.shapes_publishes()).cloned()
    }

    /// Gives a message the next position of its channel, keeps it, and has `enqueue` enqueue it, which must not wait. What is
    /// given besides are the workers that have not got all of the channel's messages, to be changed. `replica` gets a copy of the log as
    /// it was before, if it has none yet. None: this node does not lead the channel.
    pub fn order<R>(
        &self,
        (channel, rule): (&Channel, &ChannelRule),
        (message, node, now): (impl Into<Counted>, u16, u64),
        replica: Option<Stream>,
        enqueue: impl FnOnce(Placed, &mut WorkerSet) -> R,
    ) -> Option<R> {
        let message: Counted = message.into();
        self.with(channel, node, now, |state| {
            if !state.role.leads {
                return None;
            }
            let copy = state.copy_for(replica);
            let is_kept = rule.history.size > 0 && message.data().len() <= self.limit.load(Relaxed);
            let position = state.log.append(is_kept.then_some(message), now);
            state.log.trim(rule.history.size, oldest(rule, now));
            let placed = Placed {
                at: position,
                when: now,
                ended: state.log.ended_before_last(),
                copy,
                released: state.released.clone(),
            };
            Some(enqueue(placed, &mut state.behind))
        })
    }

    /// Reads what a channel keeps, and has `enqueue` enqueue it, which must not wait. None: this node does not lead the channel.
    pub fn read<R>(
        &self,
        (channel, rule): (&Channel, &ChannelRule),
        (from, most): (From, Most),
        (node, now): (u16, u64),
        enqueue: impl FnOnce(At, Vec<Kept>) -> R,
    ) -> Option<R> {
        self.with(channel, node, now, |state| {
            if !state.role.leads {
                return None;
            }
            state.log.trim(rule.history.size, oldest(rule, now));
            if let From::Since(since, _) = from {
                state.look_ahead(rule, since);
            }
            let (at, kept) = state.log.read(from, most);
            Some(enqueue(at, kept))
        })
    }

    /// A page of what a channel keeps; see [`Most`] for its bounds. Its position is where the next page begins. None: this
    /// node does not lead the channel.
    pub fn page(
        &self,
        (channel, rule): (&Channel, &ChannelRule),
        (since, most): (Option<Position>, Most),
        (node, now): (u16, u64),
    ) -> Option<(At, Vec<Kept>)> {
        self.with(channel, node, now, |state| {
            if !state.role.leads {
                return None;
            }
            state.log.trim(rule.history.size, oldest(rule, now));
            Some(state.log.page(since, most))
        })
    }

    /// The figures.
    pub fn figures(&self) -> Figures {
        let uses = lock(&self.uses);
        Figures { bytes: uses.bytes, channels: uses.order.len(), evicted: self.evicted.load(Relaxed) }
    }

    /// Forgets messages that are too old. For a timer: each call looks at some channels.
    pub fn sweep(&self, now: u64) {
        let from = self.swept.load(Relaxed);
        let entries: Vec<(u64, Arc<Entry>)> = {
            let uses = lock(&self.uses);
            uses.order.range(from..).take(SWEEP).map(|(used, entry)| (*used, entry.clone())).collect()
        };
        let next = entries.last().filter(|_| entries.len() == SWEEP).map_or(0, |(used, _)| used + 1);
        self.swept.store(next, Relaxed);
        for (_, entry) in entries {
            if let Some(rule) = self.rule_of(entry.channel.as_str()) {
                self.trim(&entry, &rule, now);
            }
        }
    }

    /// Works on a channel's state, which counts as used. A new one begins with an empty log. If all logs take too much then, some
    /// go.
    fn with<R>(&self, channel: &Channel, node: u16, now: u64, work: impl FnOnce(&mut State) -> R) -> R {
        loop {
            let known = self.logs.get(channel).map(|entry| entry.value().clone());
            let entry = known.unwrap_or_else(|| self.open(channel, node, now));
            let mut state = lock(&entry.state);
            if state.evicted {
                continue;
            }
            let result = work(&mut state);
            let is_too_much = self.count(&entry, &mut state, true);
            drop(state);
            if is_too_much {
                self.make_room_for(&entry);
            }
            return result;
        }
    }

    fn open(&self, channel: &Channel, node: u16, now: u64) -> Arc<Entry> {
        let open = || {
            let leads = !self.shared.load(Relaxed);
            let log = if leads { Log::new(self.new_term(node, now, 0)) } else { Log::unused() };
            let (behind, role) = (WorkerSet::default(), Role::new(leads));
            let state = State { log, used: None, counted: 0, evicted: false, behind, role, released: Vec::new() };
            Arc::new(Entry { channel: channel.clone(), state: Mutex::new(state) })
        };
        self.logs.entry(channel.clone()).or_insert_with(open).clone()
    }

    /// A term that no node has given before, larger than `after`.
    fn new_term(&self, node: u16, now: u64, after: u64) -> u64 {
        // Another node may say anything.
        let after = after.min(LAST_TERM);
        let step = now.saturating_sub(EPOCH).max((after >> NODE_BITS) + 1);
        let next = |last: u64| Some(step.max((last >> NODE_BITS) + 1) << NODE_BITS | u64::from(node));
        let last = self.terms.fetch_update(Relaxed, Relaxed, next).unwrap_or_default();
        next(last).unwrap_or_default()
    }

    /// Counts what a log takes now. Returns whether all take too much.
    fn count(&self, entry: &Arc<Entry>, state: &mut State, used: bool) -> bool {
        let uses = &mut *lock(&self.uses);
        if state.log.is_unused() && state.role.cursor.is_some() {
            // How far this node's connections are takes as much as they do, and is not to be lost.
            uses.bytes -= std::mem::take(&mut state.counted);
            state.used.take().and_then(|used| uses.order.remove(&used));
            return uses.bytes > self.limit.load(Relaxed);
        }
        let bytes = state.log.bytes() + entry.channel.as_str().len();
        uses.bytes = uses.bytes + bytes - state.counted;
        state.counted = bytes;
        // One that was used last stays where it is.
        let is_last = state.used.is_some_and(|used| used + 1 == uses.next);
        if state.used.is_none() || (used && !is_last) {
            let entry = state.used.and_then(|used| uses.order.remove(&used)).unwrap_or_else(|| entry.clone());
            uses.order.insert(uses.next, entry);
            state.used = Some(uses.next);
            uses.next += 1;
        }
        uses.bytes > self.limit.load(Relaxed)
    }

    fn trim(&self, entry: &Arc<Entry>, rule: &ChannelRule, now: u64) {
        let mut state = lock(&entry.state);
        if !state.evicted {
            state.log.trim(rule.history.size, oldest(rule, now));
            self.count(entry, &mut state, false);
        }
    }

    /// The log that was just used may be too large by itself: then it keeps the newest that there is room for.
    fn make_room_for(&self, entry: &Arc<Entry>) {
        let limit = self.limit.load(Relaxed);
        if lock(&self.uses).bytes <= limit {
            return;
        }
        self.make_room();
        let mut state = lock(&entry.state);
        if !state.evicted {
            while state.log.bytes() + entry.channel.as_str().len() > limit && state.log.forget_first() {}
            self.count(entry, &mut state, false);
        }
    }

    /// Logs go, but for the one that was used last, until the rest are within the bound.
    fn make_room(&self) {
        loop {
            let oldest = {
                let uses = lock(&self.uses);
                if uses.bytes <= self.limit.load(Relaxed) || uses.order.len() <= 1 {
                    return;
                }
                uses.order.first_key_value().map(|(used, entry)| (*used, entry.clone()))
            };
            let Some((used, entry)) = oldest else { return };
            if self.evict(&entry, Some(used)) {
                self.evicted.fetch_add(1, Relaxed);
            }
        }
    }

    /// Drops a channel's log, unless it was used again since. False: it was. Without `used` all else that is known of the channel goes,
    /// too.
    fn evict(&self, entry: &Arc<Entry>, used: Option<u64>) -> bool {
        let mut state = lock(&entry.state);
        if state.evicted || (used.is_some() && state.used != used) {
            return false;
        }
        if used.is_some() && state.role.cursor.is_some() {
            state.log = Log::unused();
            (state.role.copy_of, state.role.complete) = (None, Complete::No);
            self.count(entry, &mut state, false);
            return true;
        }
        state.evicted = true;
        {
            let uses = &mut *lock(&self.uses);
            uses.bytes -= state.counted;
            state.used.and_then(|used| uses.order.remove(&used));
        }
        drop(state);
        self.logs.remove_if(&entry.channel, |_, known| Arc::ptr_eq(known, entry));
        true
    }
}

impl State {
    /// A connection has read up to there, or all of this node have: perhaps further than the log goes. That counts only where connections can
    /// be told of a gap.
    fn look_ahead(&mut self, rule: &ChannelRule, position: Position) {
        self.role.ahead |= rule.envelope == ChannelEnvelope::Json && self.log.ends_before(position);
    }

    /// The copy for the node on that stream, if it has none yet. Another one that has had one so far is released.
    fn copy_for(&mut self, replica: Option<Stream>) -> Option<LogCopy> {
        if self.role.copied_to == replica {
            return None;
        }
        let before = std::mem::replace(&mut self.role.copied_to, replica);
        let before = before.map(|(run, _)| run).filter(|run| !self.released.contains(run));
        self.released.extend(before);
        self.released.retain(|run| replica.is_none_or(|(other, _)| other != *run));
        replica.map(|_| self.log.copy())
    }
}

/// The time before which messages are too old.
fn oldest(rule: &ChannelRule, now: u64) -> u64 {
    let age = u64::try_from(rule.history.age.as_millis()).unwrap_or(u64::MAX);
    if age == 0 { 0 } else { now.saturating_sub(age) }
}

/// What an empty log takes, for tests of bounds.
pub const EMPTY: usize = LOG;

#[cfg(test)]
mod tests;
