//! Which node leads a channel that several nodes share: gives its messages their order. The others follow it. A leader has the
//! whole log; the node that it keeps a copy on has all that publishers were told is published; others have nothing of it.
//!
//! The node that is to lead takes the log from all who have something of it, and goes on with the longest if that has all that
//! publishers were told is published; otherwise the log begins anew, so that readers can tell. Each leader begins a term of its
//! own. So two nodes that both lead for a moment, since they do not know of each other, never give the same position. When the one
//! that goes on learns of the other, it takes the channel again, with the logs of both.

use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::oneshot;

use super::log::{From, Kept, Log, LogCopy, Most};
use super::position::Position;
use super::role::{Complete, Follow, Followed, Reading, Role, Stream};
use super::{Entry, History, LAST_TERM, State, Taking, lock, oldest};
use crate::config::{ChannelRule, Envelope};
use crate::hub::workers::WorkerSet;
use crate::message::{Channel, Counted};

impl History {
    /// There are other nodes: a channel is not led here before it was taken.
    pub fn share(&self) {
        self.shared.store(true, Relaxed);
    }

    /// Whether this node leads a channel.
    pub fn leads(&self, channel: &Channel) -> bool {
        if !self.shared.load(Relaxed) {
            return true;
        }
        let known = self.logs.get(channel).map(|entry| entry.value().clone());
        known.is_some_and(|entry| {
            let state = lock(&entry.state);
            !state.evicted && state.role.leads
        })
    }

    /// This node is about to take a channel. Err: it is at that already; ready when that is over.
    pub fn begin_taking(&self, channel: &Channel) -> Result<(), oneshot::Receiver<()>> {
        match lock(&self.taking).entry(channel.clone()) {
            Slot::Vacant(slot) => {
                slot.insert(Taking::default());
                Ok(())
            }
            Slot::Occupied(mut waiting) => {
                let (done, over) = oneshot::channel();
                waiting.get_mut().waiting.push(done);
                Err(over)
            }
        }
    }

    /// That is over.
    pub fn end_taking(&self, channel: &Channel) {
        // Those that wait are woken by the drop.
        lock(&self.taking).remove(channel);
    }

    /// A node has led a channel up to there, while this one takes it. False: it does not.
    pub fn told(&self, channel: &Channel, beside: Position) -> bool {
        let mut taking = lock(&self.taking);
        let Some(taking) = taking.get_mut(channel) else { return false };
        (taking.beside, taking.is_told) = (taking.beside.max(Some(beside)), true);
        true
    }

    /// Whether a node has said so since this was asked the last time.
    pub fn was_told(&self, channel: &Channel) -> bool {
        lock(&self.taking).get_mut(channel).is_some_and(|taking| std::mem::take(&mut taking.is_told))
    }

    /// This node leads a channel from now on, with the best of its own log and these copies. `deliver` gets the workers that have not got all,
    /// to be changed, what its connections have missed, and whether that is all of it; it must not wait. Some: it has led before, and another node beside it; from there on others
    /// may have missed something.
    pub fn lead(
        &self,
        (channel, rule): (&Channel, &ChannelRule),
        copies: Vec<LogCopy>,
        (node, now): (u16, u64),
        deliver: impl FnOnce(&mut WorkerSet, Position, bool, &[Kept]),
    ) -> Option<Position> {
        self.with(channel, node, now, |state| {
            if state.role.leads {
                return None;
            }
            let beside = lock(&self.taking).get(channel).and_then(|taking| taking.beside).max(state.role.beside);
            let own = (!state.log.is_unused()).then(|| (state.log.copy(), state.role.complete == Complete::Yes));
            let all: Vec<(LogCopy, bool)> =
                copies.into_iter().map(|copy| (copy.clone(), copy.complete)).chain(own).collect();
            let latest = all.iter().map(|(copy, _)| copy.head().term).max().unwrap_or_default();
            let latest = latest.max(state.role.cursor.max(beside).map_or(0, |seen| seen.term));
            let term = self.new_term(node, now, latest);
            // One that was led beside others, and in which something was ordered, is no beginning of theirs.
            let extends_all =
                |log: &LogCopy| all.iter().filter_map(|(other, _)| other.last()).all(|last| log.extends(last));
            let whole = all.iter().filter(|(log, complete)| *complete && extends_all(log)).map(|(log, _)| log);
            let is_found = beside.is_none_or(|beside| all.iter().any(|(log, _)| log.extends(beside)));
            let best = whole.max_by_key(|log| log.head()).filter(|_| is_found);
            let log = best.and_then(|best| Log::of(best.clone()));
            state.log = match log {
                Some(mut log) => {
                    log.go_on(term);
                    log
                }
                None => {
                    let mut log = Log::new(term);
                    // What some publishers were told is published is given up. Another log that comes to light must not pass for the whole: so
                    // this one is not empty.
                    if all.iter().any(|(log, _)| log.last().is_some()) {
                        log.append(None, now);
                    }
                    log
                }
            };
            state.log.trim(rule.history.size, oldest(rule, now));
            if let Some(cursor) = state.role.cursor {
                let all = Most { messages: usize::MAX, bytes: usize::MAX };
                let (at, missed) = state.log.read(From::Since(cursor, None), all);
                let (is_whole, missed) = state.role.make_good(at.recovered, &missed);
                deliver(&mut state.behind, state.log.head(), is_whole, missed);
                state.look_ahead(rule, cursor);
            }
            state.role = Role { ahead: state.role.ahead, ..Role::new(true) };
            state.released.clear();
            beside.map(|_| state.log.head())
        })
    }

    /// Another node takes a channel: what this one has of it. It follows from now on. Gives besides which run has a copy of its log.
    pub fn give(&self, channel: &Channel) -> Option<(LogCopy, Option<u64>)> {
        let entry = self.logs.get(channel).map(|entry| entry.value().clone())?;
        let mut state = lock(&entry.state);
        if state.evicted || state.log.is_unused() {
            return None;
        }
        let mut copy = state.log.copy();
        copy.complete = state.role.complete != Complete::No;
        let copied_to = state.role.copied_to.map(|(run, _)| run);
        self.follow_on(&mut state);
        let Role { cursor, ahead, .. } = state.role;
        state.role = Role { cursor, ahead, ..Role::new(false) };
        // It is the other node's from now on: what is left here would only be older.
        state.log = Log::unused();
        self.count(&entry, &mut state, false);
        Some((copy, copied_to))
    }

    /// A node that led a channel follows.
    fn follow_on(&self, state: &mut State) {
        if state.role.leads {
            // In a term in which nothing was ordered, its connections are where the one before has ended.
            let last = state.log.last().unwrap_or(state.log.head());
            let Role { complete, ahead, .. } = state.role;
            state.role = Role { cursor: Some(last), complete, ahead, ..Role::new(false) };
        }
    }

    /// Nodes have come or gone: a channel that another one is to lead is not led here any more, and if none takes it, what that
    /// node may have done is unknown. `leader` says which run is to lead a channel; None: this node. Gives the channels of which this node has
    /// a log that is not from there, and how far it goes: a node that leads already may know nothing of it.
    pub fn contest(&self, leader: impl Fn(&Channel) -> Option<u64>) -> Vec<(Channel, Position)> {
        let entries: Vec<Arc<Entry>> = self.logs.iter().map(|entry| entry.value().clone()).collect();
        let contested = |entry: Arc<Entry>| Some((entry.channel.clone(), self.contested(&entry, &leader)?));
        let mut all: Vec<(Channel, Position)> = entries.into_iter().filter_map(contested).collect();
        all.sort_unstable();
        all
    }

    /// The same of one channel, which that run is to lead.
    pub fn contest_one(&self, channel: &Channel, leader: u64) -> Option<Position> {
        let entry = self.logs.get(channel).map(|entry| entry.value().clone())?;
        self.contested(&entry, |_| Some(leader))
    }

    fn contested(&self, entry: &Entry, leader: impl Fn(&Channel) -> Option<u64>) -> Option<Position> {
        let state = &mut *lock(&entry.state);
        if state.evicted || state.role.complete == Complete::No {
            return None;
        }
        let leader = leader(&entry.channel)?;
        self.follow_on(state);
        match state.role.copy_of {
            Some((run, _)) if run == leader => return None,
            Some(_) => {}
            None => state.role.complete = Complete::ForOthers,
        }
        Some(state.log.head())
    }

    /// The channels that this node has something of: a log, or how far its connections are.
    pub fn channels(&self) -> Vec<Channel> {
        let mut all: Vec<Channel> = self.logs.iter().map(|entry| entry.key().clone()).collect();
        all.sort_unstable();
        all
    }

    /// Whether this node has a log of a channel.
    pub fn has_log(&self, channel: &Channel) -> bool {
        let entry = self.logs.get(channel).map(|entry| entry.value().clone());
        entry.is_some_and(|entry| !lock(&entry.state).log.is_unused())
    }

    /// The channels that this node follows, with how far it is.
    pub fn followed(&self) -> Vec<(Channel, Position)> {
        let entries: Vec<Arc<Entry>> = self.logs.iter().map(|entry| entry.value().clone()).collect();
        let followed = |entry: Arc<Entry>| {
            let cursor = lock(&entry.state).role.cursor?;
            Some((entry.channel.clone(), cursor))
        };
        let mut all: Vec<(Channel, Position)> = entries.into_iter().filter_map(followed).collect();
        all.sort_unstable();
        all
    }

    /// How far the connections of this node are, while it follows.
    pub fn cursor(&self, channel: &Channel) -> Option<Position> {
        let entry = self.logs.get(channel).map(|entry| entry.value().clone())?;
        let state = lock(&entry.state);
        state.role.cursor
    }

    /// This node has no subscriber of a channel any more.
    pub fn unfollow(&self, channel: &str) {
        if self.shared.load(Relaxed)
            && let Some(entry) = self.logs.get(channel).map(|entry| entry.value().clone())
        {
            let mut state = lock(&entry.state);
            (state.role.cursor, state.role.asked, state.role.ahead) = (None, None, false);
            if !state.evicted {
                self.count(&entry, &mut state, false);
            }
        }
    }

    /// A message of the node that leads its channel has come, before which the terms `ended`, if it is the first of its own. `keep`: it goes into the copy that this node has. With
    /// [`Follow::Next`] it is enqueued by `enqueue`, which gets the workers that have not got all, to be changed. It must not wait, and says
    /// whether anybody is there.
    pub fn follow(
        &self,
        (channel, rule): (&Channel, &ChannelRule),
        (at, ended, of): (Position, &[u64], Stream),
        keep: Option<(Counted, u64)>,
        (node, now, patience): (u16, u64, u64),
        enqueue: impl FnOnce(&mut WorkerSet) -> bool,
    ) -> Followed {
        self.with(channel, node, now, |state| {
            let head = state.log.head();
            if at.term < head.term {
                return Followed { follow: Follow::Stale(head), is_kept: false, beside: None };
            }
            let is_copy = state.role.copy_of == Some(of);
            let beside = (!is_copy && state.role.complete != Complete::No).then_some(head);
            self.follow_on(state);
            if beside.is_some() {
                // Its sender has ordered what is not in it.
                (state.role.copy_of, state.role.complete) = (None, Complete::No);
            }
            let mut is_kept = true;
            if let Some((message, when)) = keep {
                let is_next = at.term == head.term && at.offset == head.offset + 1;
                if is_copy && is_next {
                    state.log.append((rule.history.size > 0).then_some(message), when);
                    state.log.trim(rule.history.size, oldest(rule, now));
                } else if !is_copy || at > head {
                    (state.role.copy_of, state.role.complete) = (None, Complete::No);
                    is_kept = false;
                }
            }
            let follow = self.follow_at(state, (at, ended, of), (now, patience), enqueue);
            Followed { follow, is_kept, beside }
        })
    }

    fn follow_at(
        &self,
        state: &mut State,
        (at, ended, of): (Position, &[u64], Stream),
        (now, patience): (u64, u64),
        enqueue: impl FnOnce(&mut WorkerSet) -> bool,
    ) -> Follow {
        match state.role.cursor {
            Some(cursor) if at.term < cursor.term => return Follow::Stale(cursor),
            Some(cursor) if at.term == cursor.term && at.offset <= cursor.offset => return Follow::Known,
            Some(cursor)
                if at.offset == cursor.offset + 1 && (at.term == cursor.term || ended.contains(&cursor.term)) => {}
            Some(cursor) => {
                let asked = state.role.asked;
                if asked.is_some_and(|(when, run)| run == of.0 && now < when + patience) {
                    return Follow::Known;
                }
                state.role.asked = Some((now, of.0));
                return Follow::Ask(cursor);
            }
            None => {}
        }
        state.role.cursor = enqueue(&mut state.behind).then_some(at);
        Follow::Next
    }

    /// What a reader on another node gets, and that node itself, which is at `cursor`. None: this node does not lead the channel, or not any
    /// more, since that node has followed a later one. `enqueue` sends it, and must not wait.
    pub fn read_for(
        &self,
        (channel, rule): (&Channel, &ChannelRule),
        (from, most, page): (From, Most, bool),
        (cursor, node, now): (Option<Position>, u16, u64),
        enqueue: impl FnOnce(Reading),
    ) -> Option<()> {
        self.with(channel, node, now, |state| {
            if !state.role.leads {
                return None;
            }
            state.log.trim(rule.history.size, oldest(rule, now));
            let later = |cursor: &Position| cursor.term.min(LAST_TERM) > state.log.head().term;
            if let Some(beside) = cursor.filter(later) {
                // The node has followed one that has led beside this one.
                self.step_aside(state, beside);
                return None;
            }
            let (at, kept) = match (page, from) {
                (true, From::Since(since, _)) => state.log.page(Some(since), most),
                (true, From::Last(_)) => state.log.page(None, most),
                (false, from) => state.log.read(from, most),
            };
            let whole = Most { messages: usize::MAX, bytes: usize::MAX };
            let missed = cursor.map(|cursor| state.log.read(From::Since(cursor, None), whole));
            let (is_whole, missed) = missed.map_or((true, Vec::new()), |(at, missed)| (at.recovered, missed));
            enqueue(Reading { head: state.log.head(), at, kept, is_whole, missed });
            Some(())
        })
    }

    /// What the leader has said has come: this node was at `asked`. `deliver` gets the workers that have not got all, to be changed, what its
    /// connections have missed, and whether that is all of it; it must not wait, and says whether anybody is there. False: it does not fit to where the node is now, and the
    /// leader is to be asked again.
    pub fn catch_up_to(
        &self,
        channel: &Channel,
        (asked, reading): (Option<Position>, &Reading),
        (node, now): (u16, u64),
        deliver: impl FnOnce(&mut WorkerSet, bool, &[Kept]) -> bool,
    ) -> bool {
        self.with(channel, node, now, |state| {
            let head = reading.head;
            if state.role.leads {
                return true;
            }
            state.role.asked = None;
            let (is_whole, missed) = match (state.role.cursor, asked) {
                (None, _) => (true, &[][..]),
                (Some(cursor), _) if cursor == head => (true, &[][..]),
                (Some(cursor), Some(asked)) if cursor == asked => (reading.is_whole, &reading.missed[..]),
                (Some(cursor), Some(asked)) if cursor.term == asked.term && cursor > asked && reading.is_whole => {
                    // It has gone on meanwhile.
                    let first = reading.missed.partition_point(|kept| kept.at.offset <= cursor.offset);
                    (true, &reading.missed[first..])
                }
                (Some(_), _) => return false,
            };
            if state.role.cursor.is_some_and(|cursor| cursor.term > head.term) {
                return false;
            }
            let (is_whole, missed) = state.role.make_good(is_whole, missed);
            state.role.cursor = deliver(&mut state.behind, is_whole, missed).then_some(head);
            true
        })
    }

    /// A connection that had read up to there has got this of the node that leads.
    pub fn has_read(&self, channel: &Channel, rule: &ChannelRule, since: Position, reading: &Reading) {
        let is_ahead = since > reading.head && rule.envelope == Envelope::Json;
        if let Some(entry) = self.logs.get(channel).map(|entry| entry.value().clone()).filter(|_| is_ahead) {
            lock(&entry.state).role.ahead = true;
        }
    }

    /// Another node has seen something of a channel that this node may know nothing of: up to there. If this node leads the channel,
    /// it does so no more before it has taken it again: Some, with how far its log goes. `is_own`: it is to lead it.
    pub fn outdated(&self, channel: &Channel, seen: Position, is_own: bool) -> Option<Position> {
        let entry = self.logs.get(channel).map(|entry| entry.value().clone())?;
        let state = &mut *lock(&entry.state);
        if state.evicted || !state.role.leads {
            return None;
        }
        let head = state.log.head();
        self.step_aside(state, seen);
        if !is_own {
            state.role.complete = Complete::No;
        }
        Some(head)
    }

    /// A node that leads follows, until it has found the log of the one that has led beside it.
    fn step_aside(&self, state: &mut State, beside: Position) {
        self.follow_on(state);
        state.role.beside = Some(beside);
    }
}
