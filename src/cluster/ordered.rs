//! Channels whose messages have an order, among several nodes: one of them leads the channel, the one with the largest hash of
//! node and channel among those that serve. It orders what is published on any of them, keeps it, and sends it to the nodes that
//! have subscribers, and to the one that is next in line, which keeps a copy. A publish is answered when all of these have it.

use bytes::Bytes;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

use super::enqueue::Remote;
use super::interest::hash;
use super::link::{Link, ReadFor, Request};
use super::members::Shared;
use super::protocol::longs;
use super::protocol::ordered::{Copied, Log, Ordered, place};
use crate::config::ChannelRule;
use crate::hub::history::{From, LogCopy, Most, Placed, Position, Reading, now};
use crate::hub::{Counts, Hub, PendingCounts, Publication, Verdict, WorkerSet};
use crate::ids::ClientId;
use crate::message::{Channel, Key, Kind};

/// A publish is passed on so many times: nodes may not agree for a moment which of them leads a channel.
const MOST_HOPS: u8 = 4;
/// A channel that others take again and again meanwhile is given up after so many attempts.
const ATTEMPTS: usize = 16;

/// The nodes of a mesh, as ordered channels need them.
#[derive(Clone)]
pub(super) struct Nodes {
    pub(super) hub: Arc<Hub>,
    /// None: there is no other node.
    pub(super) others: Option<Arc<Shared>>,
}

/// What is read of a channel.
pub(super) struct Wanted {
    pub(super) channel: Channel,
    pub(super) rule: Arc<ChannelRule>,
    pub(super) what: ReadFor,
}

impl Nodes {
    /// The link to the node that leads a channel; None: this one does.
    pub(super) fn leader(&self, channel: &Channel) -> Option<Arc<Link>> {
        self.others.as_ref()?.owner_of(channel.as_str())
    }

    /// Whether this node leads a channel already.
    fn leads(&self, channel: &Channel) -> bool {
        self.others.is_none() || self.hub.history().leads(channel)
    }

    fn clock(&self) -> (u16, u64) {
        (self.hub.node().get(), now())
    }

    fn mesh_clock(&self) -> u64 {
        self.others.as_ref().map_or(0, |others| others.now())
    }

    /// Publishes, wherever the channel is led. Gives the workers of this node whose mailboxes have it, and its position if it was
    /// ordered here; otherwise that comes with the counts.
    pub(super) async fn publish(
        self,
        rule: Arc<ChannelRule>,
        publication: Publication,
        (pending_counts, behind): (PendingCounts, WorkerSet),
        hops: u8,
    ) -> (WorkerSet, Option<Position>) {
        let mut is_admitted = !rule.limit.is_on() || publication.count.is_some();
        for _ in 0..ATTEMPTS {
            if let Some(link) = self.leader(&publication.channel) {
                // Boxed, as what follows is, so that a publish that is ordered here is small.
                Box::pin(self.pass_on(link, &publication, &pending_counts, hops)).await;
                return (WorkerSet::default(), None);
            }
            if !self.leads(&publication.channel) {
                Box::pin(self.lead(&publication.channel, &rule)).await;
            }
            let verdict = match is_admitted {
                true => Verdict::Pass,
                false => self.hub.limits().offer(Instant::now(), &publication, &rule),
            };
            if verdict != Verdict::Pass {
                let merged = u64::from(verdict == Verdict::Merged);
                pending_counts.ack().settle(Counts { left_out: 1, merged, ..Counts::default() });
                return (WorkerSet::default(), None);
            }
            is_admitted = true;
            let mut workers = self.hub.workers_of(publication.channel.as_str());
            behind.iter().for_each(|worker| workers.add(worker));
            self.hub.room_for(&publication, &workers).await;
            let others = Others::of(&self, &publication.channel);
            others.room_for(publication.message.data().len()).await;
            let replica = others.replica();
            let ordered = self.hub.order(&publication, &rule, (&pending_counts, &behind), replica, |placed| {
                // Nodes whose subscribers came meanwhile may have read the log already: they get what is behind that.
                others.again(&publication.channel).force(&publication, &placed, &pending_counts);
            });
            if let Some(ordered) = ordered {
                return (ordered.workers, Some(ordered.position));
            }
            // Another node has just taken it.
        }
        pending_counts.ack().settle(Counts { unanswered: 1, ..Counts::default() });
        (WorkerSet::default(), None)
    }

    async fn pass_on(&self, link: Arc<Link>, publication: &Publication, pending_counts: &PendingCounts, hops: u8) {
        let Some(shared) = self.others.as_ref().filter(|_| hops < MOST_HOPS) else {
            pending_counts.ack().settle(Counts { unanswered: 1, ..Counts::default() });
            return;
        };
        let Publication { channel, message, options, .. } = publication;
        let (binary, data) = (message.kind() == Kind::Binary, message.data());
        let except = &longs(options.except.iter().map(ClientId::get));
        let (key, priority, count) = (options.key.as_ref().map(Key::as_str), options.priority as u8, publication.count);
        let message = Ordered::Publish { binary, data, except, key, priority, count, hops: hops + 1 };
        let message = message.to_bytes(channel.as_str());
        let request = || pending_counts.is_counted().then(|| Request::Ordered(pending_counts.ack()));
        Remote::new(smallvec::smallvec![link], shared).put(&message, request).await;
    }

    /// Leads a channel from now on: takes the log from all nodes that have something of it.
    pub(super) async fn lead(&self, channel: &Channel, rule: &ChannelRule) {
        let history = self.hub.history();
        let Some(others) = self.others.as_ref().filter(|_| !history.leads(channel)) else { return };
        if let Err(over) = history.begin_taking(channel) {
            // Somebody is at it already. It is over when the other end is dropped.
            let _ = over.await;
            return;
        }
        let taking = Taking { hub: &self.hub, channel };
        if !history.leads(channel) {
            let mut copies = self.gather(channel, others).await;
            for _ in 0..ATTEMPTS {
                if !history.was_told(channel) {
                    break;
                }
                // One that had answered already has led it since.
                copies.extend(self.gather(channel, others).await);
            }
            if let Some(head) = self.hub.lead(channel, rule, copies) {
                let links = others.links_of(hash(channel.as_str()));
                links.iter().for_each(|link| link.force(&outdated(channel, head), None, others.now()));
            }
            self.contest(channel);
        }
        drop(taking);
        self.copy(channel).await;
    }

    /// A channel that this node is to lead, and has something of, is led here from now on, and the next in line has a copy of its log: though
    /// nothing is published to it.
    pub(super) async fn settle(self, channel: Channel, rule: Arc<ChannelRule>) {
        match self.leads(&channel) {
            true => self.copy(&channel).await,
            false => self.lead(&channel, &rule).await,
        }
    }

    /// The next in line gets a copy of a log that this node alone has.
    async fn copy(&self, channel: &Channel) {
        let Some(others) = &self.others else { return };
        let Some(replica) = others.second_of(channel.as_str()) else { return };
        poll_fn(|cx| replica.poll_room(0, cx)).await;
        let is_there = |run| others.all_links().iter().any(|link| link.peer.0 == run);
        self.hub.history().copy_to(channel, (replica.peer.0, replica.epoch()), is_there, |copy| {
            replica.force(&Ordered::Copy { log: Log::of(&copy) }.to_bytes(channel.as_str()), None, others.now());
        });
    }

    /// All that other nodes have of a channel's log. They have it no more.
    async fn gather(&self, channel: &Channel, others: &Shared) -> Vec<LogCopy> {
        let message = Ordered::Take.to_bytes(channel.as_str());
        let ask = |link: Arc<Link>| {
            let (answer, copy) = oneshot::channel();
            link.force(&message, Some(Request::Taken(channel.clone(), answer)), others.now());
            copy
        };
        let answers: Vec<oneshot::Receiver<Option<LogCopy>>> = others.all_links().into_iter().map(ask).collect();
        let mut copies = Vec::new();
        for answer in answers {
            copies.extend(answer.await.ok().flatten());
        }
        copies
    }

    /// A channel that another node is to lead by now was taken too late: that node may lead it already.
    fn contest(&self, channel: &Channel) {
        let (Some(leader), Some(others)) = (self.leader(channel), &self.others) else { return };
        if let Some(led) = self.hub.history().contest_one(channel, leader.peer.0) {
            leader.force(&outdated(channel, led), None, others.now());
        }
    }

    /// Has something read where the channel is led. What is read for goes there, or is dropped if that node does not answer.
    pub(super) async fn read(self, Wanted { channel, rule, mut what }: Wanted) {
        for _ in 0..ATTEMPTS {
            let Some(link) = self.leader(&channel) else {
                self.lead(&channel, &rule).await;
                match self.read_here(&channel, &rule, what) {
                    None => return,
                    Some(back) => what = back,
                }
                continue;
            };
            let is_page = matches!(what, ReadFor::Page { .. });
            let cursor = if is_page { None } else { self.hub.history().cursor(&channel) };
            let message = what.message(cursor).to_bytes(channel.as_str());
            link.force(&message, Some(Request::Read(channel, cursor, what)), self.mesh_clock());
            return;
        }
    }

    /// Reads here. Some: this node does not lead the channel (any more), and has it back.
    fn read_here(&self, channel: &Channel, rule: &ChannelRule, what: ReadFor) -> Option<ReadFor> {
        match what {
            ReadFor::Backlog { from, recipient, done } => {
                let refused = self.hub.catch_up(channel, rule, from, &recipient, done).err();
                refused.map(|done| ReadFor::Backlog { from, recipient, done })
            }
            ReadFor::Page { since, most, answer } => {
                match self.hub.history().page((channel, rule), (since, most), self.clock()) {
                    // One that waits no more needs no answer.
                    Some(page) => drop(answer.send(page)),
                    None => return Some(ReadFor::Page { since, most, answer }),
                }
                None
            }
            // Those who lead have missed nothing.
            ReadFor::Node => None,
        }
    }

    /// Answers a node that reads, if the channel is led here.
    pub(super) fn answer(
        &self,
        (channel, rule): (&Channel, &ChannelRule),
        (from, most, page): (From, Most, bool),
        cursor: Option<Position>,
        enqueue: impl FnOnce(Reading),
    ) -> bool {
        let (node, now) = self.clock();
        self.hub.history().read_for((channel, rule), (from, most, page), (cursor, node, now), enqueue).is_some()
    }
}

/// A node is to keep no copy of a channel's log any more, unless it is gone.
pub(super) fn release(shared: &Shared, channel: &str, run: u64, request: impl FnOnce() -> Option<Request>) {
    if let Some(link) = shared.all_links().into_iter().find(|link| link.peer.0 == run) {
        link.force(&Ordered::Release.to_bytes(channel), request(), shared.now());
    }
}

/// Tells a node that leads a channel of what it may know nothing of: another one has led it up to there.
pub(super) fn outdated(channel: &Channel, seen: Position) -> Bytes {
    Ordered::Outdated { later: place(seen) }.to_bytes(channel.as_str())
}

/// A channel is being taken, until this is dropped.
struct Taking<'a> {
    hub: &'a Hub,
    channel: &'a Channel,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.hub.history().end_taking(self.channel);
    }
}

/// The other nodes that a message of a channel goes to.
struct Others {
    shared: Option<Arc<Shared>>,
    links: Vec<Arc<Link>>,
    /// The one that keeps a copy.
    replica: Option<Arc<Link>>,
}

impl Others {
    fn of(nodes: &Nodes, channel: &Channel) -> Others {
        let Some(shared) = &nodes.others else { return Others { shared: None, links: Vec::new(), replica: None } };
        Others::with(shared.clone(), channel, shared.second_of(channel.as_str()))
    }

    fn with(shared: Arc<Shared>, channel: &Channel, replica: Option<Arc<Link>>) -> Others {
        let mut links: Vec<Arc<Link>> = shared.links_of(hash(channel.as_str())).into_iter().collect();
        if let Some(replica) = replica.as_ref().filter(|replica| !links.iter().any(|link| Arc::ptr_eq(link, replica))) {
            links.push(replica.clone());
        }
        Others { shared: Some(shared), links, replica }
    }

    /// Those of now, with the same one that keeps a copy.
    fn again(&self, channel: &Channel) -> Others {
        match &self.shared {
            Some(shared) => Others::with(shared.clone(), channel, self.replica.clone()),
            None => Others { shared: None, links: Vec::new(), replica: None },
        }
    }

    fn replica(&self) -> Option<(u64, u32)> {
        self.replica.as_ref().map(|link| (link.peer.0, link.epoch()))
    }

    async fn room_for(&self, length: usize) {
        for link in &self.links {
            poll_fn(|cx| link.poll_room(length, cx)).await;
        }
    }

    /// Puts an ordered message onto the links.
    fn force(
        &self,
        publication: &Publication,
        Placed { at, when, ended, copy, released }: &Placed,
        pending_counts: &PendingCounts,
    ) {
        let (channel, now) = (publication.channel.as_str(), self.shared.as_ref().map_or(0, |shared| shared.now()));
        if let Some((copy, replica)) = copy.as_ref().zip(self.replica.as_ref()) {
            replica.force(&Ordered::Copy { log: Log::of(copy) }.to_bytes(channel), None, now);
        }
        for run in released {
            let Some(shared) = &self.shared else { break };
            release(shared, channel, *run, || {
                pending_counts.is_counted().then(|| Request::Counts(pending_counts.ack()))
            });
        }
        let except = &longs(publication.options.except.iter().map(ClientId::get));
        let key = publication.options.key.as_ref().map(Key::as_str);
        let encoded = |keep| {
            let message = Copied::new(*at, *when, &publication.message, publication.count);
            Ordered::Next { message, except, key, keep, ended: ended.clone() }.to_bytes(channel)
        };
        // The same for all but one.
        let mut same: Option<Bytes> = None;
        for link in &self.links {
            let keep = self.replica.as_ref().is_some_and(|replica| Arc::ptr_eq(replica, link));
            let message = if keep { encoded(true) } else { same.get_or_insert_with(|| encoded(false)).clone() };
            let request = pending_counts.is_counted().then(|| Request::Counts(pending_counts.ack()));
            link.force(&message, request, now);
        }
        if let Some(missed) = self.shared.as_ref().map(|shared| shared.missed() as u64).filter(|missed| *missed > 0) {
            pending_counts.ack().settle(Counts { unanswered: missed, ..Counts::default() });
        }
    }
}

impl ReadFor {
    /// The question, of a node that is there.
    pub(super) fn message(&self, cursor: Option<Position>) -> Ordered<'static> {
        let cursor = cursor.map(place);
        let (from, most, page) = match self {
            ReadFor::Backlog { from, recipient, .. } => (*from, recipient.most, false),
            ReadFor::Page { since, most, .. } => {
                (since.map_or(From::Last(most.messages), |since| From::Since(since, None)), *most, true)
            }
            ReadFor::Node => (From::Last(0), Most { messages: 0, bytes: 0 }, false),
        };
        let (since, last) = match from {
            From::Last(last) => (None, Some(last)),
            From::Since(since, last) => (Some(place(since)), last),
        };
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let most = (number(most.messages), most.bytes as u64);
        Ordered::Read { cursor, since, last: last.map(number), most, page }
    }
}
