//! What other nodes say of channels whose messages have an order: this node leads some of them, and follows the others.

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::task::Context;

use super::link::{Link, ReadFor, Request};
use super::members::Shared;
use super::node::Waiting;
use super::ordered::{Nodes, Wanted, outdated, release};
use super::protocol::ordered::{Log, Ordered, Read, position};
use super::protocol::read_longs;
use crate::config::ChannelRule;
use crate::hub::history::{Follow, Followed, From, Most, Position, Stream};
use crate::hub::{Counts, Except, MAX_EXCEPT, PendingCounts, Priority, Publication, PublishOptions, WorkerSet};
use crate::ids::ClientId;
use crate::message::{Channel, Key, Kind, Message};

/// The bytes of publishes that wait until this node leads their channel. More are not answered.
const MOST_WAITING: usize = 16 << 20;
/// What each of them counts besides its data.
const WAITING: usize = 1024;
/// What is to be read of a node that does not lead its channel is read again so many milliseconds later.
const AGAIN: u64 = 20;
/// So many channels are looked at in each turn after nodes have come or gone.
const RESYNC: usize = 256;

/// What has come: from which node, on which stream, and the number of its request.
pub(super) struct Came {
    pub(super) from: Arc<Link>,
    pub(super) epoch: u32,
    pub(super) request: u64,
}

/// A future that waits, and the bytes that it holds.
type Publish = (BoxFuture<'static, ()>, usize);

/// The channels whose messages have an order, as this node has to do with them for others.
pub(super) struct OrderedChannels {
    nodes: Nodes,
    /// Publishes that wait until this node leads their channel, or another has room for them: in their order.
    publishes: BTreeMap<Channel, VecDeque<Publish>>,
    waiting: usize,
    /// What is to be read again, and when.
    again: Vec<(u64, Wanted)>,
    /// Channels whose leader or next in line may be another now, or may have said something that was lost.
    resync: VecDeque<Channel>,
    /// The count of changes of the members that this has seen.
    changes: u64,
    /// Nothing is read anew: a successor process does so.
    held: bool,
}

impl OrderedChannels {
    pub(super) fn new(nodes: Nodes) -> OrderedChannels {
        let (publishes, again, resync) = (BTreeMap::new(), Vec::new(), VecDeque::new());
        OrderedChannels { nodes, publishes, waiting: 0, again, resync, changes: 0, held: false }
    }

    fn shared(&self) -> Option<&Arc<Shared>> {
        self.nodes.others.as_ref()
    }

    fn now(&self) -> u64 {
        self.shared().map_or(0, |shared| shared.now())
    }

    fn rule(&self, channel: &Channel) -> Option<Arc<ChannelRule>> {
        self.nodes.hub.history().rule_of(channel.as_str()).filter(|rule| rule.is_ordered())
    }

    /// Does what has come. Some: what is to be waited for before anything else of that node. `behind`: workers that are
    /// about to have subscribers. What takes longer goes into `later`.
    pub(super) fn came(
        &mut self,
        (channel, body): (&str, &Bytes),
        came: Came,
        behind: WorkerSet,
        later: &mut impl FnMut(BoxFuture<'static, ()>),
    ) -> Option<Waiting> {
        let Came { from, epoch, request } = came;
        let said = Ordered::read(body)?;
        match &said {
            Ordered::Published { request, published } => {
                if let Some(Request::Ordered(ack) | Request::Counts(ack)) = from.take_request(*request) {
                    ack.settle((*published).into());
                }
                return None;
            }
            Ordered::Taken { request, log } => {
                if let Some(Request::Taken(_, answer)) = from.take_request(*request) {
                    // One that waits no more needs no answer.
                    let _ = answer.send(log.as_ref().and_then(Log::copy));
                }
                return None;
            }
            _ => {}
        }
        let channel = Channel::parse(channel.as_bytes()).ok()?;
        let rule = self.rule(&channel)?;
        let counts = || match request {
            0 => PendingCounts::ignored().forwarded(),
            request => PendingCounts::of_request(from.clone(), request),
        };
        match said {
            Ordered::Publish { binary, data, except, key, priority, count, hops } => {
                let options = PublishOptions { priority: Priority::of(priority)?, ..options(except, key)? };
                let publication = publication(channel.clone(), binary, data, options)?;
                let (publication, counts) = (Publication { count, ..publication }, counts());
                if self.waiting > MOST_WAITING {
                    counts.ack().settle(Counts { unanswered: 1, ..Counts::default() });
                    return None;
                }
                let publish = self.nodes.clone().publish(rule, publication, (counts, behind), hops);
                self.publish(channel, publish.map(drop).boxed(), data.len() + WAITING);
            }
            Ordered::Next { message, except, key, keep, ended } => {
                let kept = message.kept()?;
                let publication = Publication::new(channel, kept.message.message()).with(options(except, key)?);
                let publication = Publication { count: kept.message.count(), ..publication };
                let at = (kept.at, kept.when, keep);
                let counts = counts();
                let next = next(self.nodes.clone(), (publication, rule), (at, ended), (from, epoch), (counts, behind));
                return begun(next);
            }
            Ordered::Read { cursor, since, last, most: (messages, bytes), page } => {
                let last = last.map(|last| last as usize);
                let from_where =
                    since.map_or(From::Last(last.unwrap_or(0)), |since| From::Since(position(since), last));
                let most = Most { messages: messages as usize, bytes: usize::try_from(bytes).unwrap_or(usize::MAX) };
                let answer = Answer { nodes: self.nodes.clone(), to: from, request, channel, rule };
                let wanted = (from_where, most, page, cursor.map(position));
                if answer.nodes.leader(&answer.channel).is_some() {
                    answer.does_not_lead();
                } else if !answer.send(wanted) {
                    later(answer.lead_and_send(wanted).boxed());
                }
            }
            Ordered::Reading { request, reading } => {
                let Some(Request::Read(asked, cursor, what)) = from.take_request(request) else { return None };
                (asked == channel).then_some(())?;
                let reading = reading.map(|reading| reading.reading());
                let wanted = Wanted { channel, rule, what };
                match reading {
                    None => self.again.push((self.now() + AGAIN, wanted)),
                    Some(reading) => self.read(wanted, cursor, reading?),
                }
            }
            Ordered::Take => {
                let given = self.nodes.hub.history().give(&channel);
                let answer = Ordered::Taken { request, log: given.as_ref().map(|(log, _)| Log::of(log)) };
                from.force(&answer.to_bytes(channel.as_str()), None, self.now());
                // A copy that is on its way to another node must not pass for the whole there.
                let copied_to = given.and_then(|(_, copied_to)| copied_to).filter(|run| *run != from.peer.0);
                if let Some((shared, run)) = self.shared().zip(copied_to) {
                    release(shared, channel.as_str(), run, || None);
                }
            }
            Ordered::Copy { log } => {
                let clock = (self.nodes.hub.node().get(), crate::hub::history::now());
                let beside = self.nodes.hub.history().keep_copy(&channel, log.copy()?, (from.peer.0, epoch), clock);
                if let Some(beside) = beside {
                    from.force(&outdated(&channel, beside), None, self.now());
                }
            }
            // Its counts are the reply: nobody was reached.
            Ordered::Release => {
                let _counts = counts();
                self.nodes.hub.history().release(&channel, from.peer.0);
                if request > 0 {
                    // It is asked again until it has said so.
                    from.force(&Ordered::Lacking.to_bytes(channel.as_str()), None, self.now());
                }
            }
            Ordered::Lacking => {
                if self.nodes.hub.history().lacks(&channel, from.peer.0) {
                    self.resync.push_back(channel);
                }
            }
            Ordered::Outdated { later: seen } => {
                let (seen, history, leader) = (position(seen), self.nodes.hub.history(), self.nodes.leader(&channel));
                match (history.outdated(&channel, seen, leader.is_none()), leader) {
                    (Some(led), Some(leader)) => leader.force(&outdated(&channel, led), None, self.now()),
                    // What its sender has given to the one that takes the channel was all before.
                    (None, None) if !from.is_asked_for(&channel) && history.told(&channel, seen) => {}
                    (Some(_), None) => later(self.nodes.clone().settle(channel, rule).boxed()),
                    (None, _) if history.cursor(&channel).is_some_and(|cursor| cursor.term < seen.term) => {
                        later(self.nodes.clone().read(Wanted { channel, rule, what: ReadFor::Node }).boxed());
                    }
                    _ => {}
                }
            }
            Ordered::Published { .. } | Ordered::Taken { .. } => {}
        }
        None
    }

    /// Publishes now, or behind what waits.
    fn publish(&mut self, channel: Channel, mut publish: BoxFuture<'static, ()>, bytes: usize) {
        let is_first = !self.publishes.contains_key(&channel);
        if is_first && (&mut publish).now_or_never().is_some() {
            return;
        }
        self.waiting += bytes;
        self.publishes.entry(channel).or_default().push_back((publish, bytes));
    }

    /// What was read has come.
    fn read(&mut self, wanted: Wanted, cursor: Option<Position>, reading: crate::hub::history::Reading) {
        let Wanted { channel, rule, what } = wanted;
        if let ReadFor::Page { answer, .. } = what {
            // One that waits no more needs no answer.
            let _ = answer.send((reading.at, reading.kept));
            return;
        }
        if !self.nodes.hub.catch_up_to((&channel, &rule), cursor, &reading) {
            return self.again.push((self.now() + AGAIN, Wanted { channel, rule, what }));
        }
        if let ReadFor::Backlog { from, recipient, done } = what {
            if let From::Since(since, _) = from {
                self.nodes.hub.history().has_read(&channel, &rule, since, &reading);
            }
            self.nodes.hub.put_backlog((&channel, &rule), &recipient, (reading.at, reading.kept), done);
        }
    }

    /// A node begins a stream anew: what it sent before may be lost.
    pub(super) fn began(&mut self, stream: Stream) {
        let history = self.nodes.hub.history();
        let broken = history.began(stream);
        self.resync.extend(history.followed().into_iter().map(|(channel, _)| channel));
        let Some(shared) = self.shared() else { return };
        if let Some(link) = shared.all_links().into_iter().find(|link| link.peer.0 == stream.0) {
            broken
                .iter()
                .for_each(|channel| link.force(&Ordered::Lacking.to_bytes(channel.as_str()), None, shared.now()));
        }
    }

    /// Reads nothing anew from now on, or does so again.
    pub(super) fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether no publish of another node waits.
    pub(super) fn is_at_rest(&self) -> bool {
        self.publishes.is_empty()
    }

    /// Goes on with what waits. What takes longer goes into `later`.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, later: &mut impl FnMut(BoxFuture<'static, ()>)) {
        let waiting = &mut self.waiting;
        self.publishes.retain(|_, queue| {
            while let Some((publish, bytes)) = queue.front_mut() {
                if publish.poll_unpin(cx).is_pending() {
                    return true;
                }
                *waiting -= *bytes;
                queue.pop_front();
            }
            false
        });
        let Some(shared) = self.nodes.others.clone().filter(|_| !self.held) else { return };
        let changes = shared.changes();
        if changes != self.changes {
            self.changes = changes;
            let history = self.nodes.hub.history();
            let run = |channel: &Channel| self.nodes.leader(channel).map(|leader| leader.peer.0);
            for (channel, led) in history.contest(run) {
                if let Some(leader) = self.nodes.leader(&channel) {
                    leader.force(&outdated(&channel, led), None, shared.now());
                }
            }
            self.resync = history.channels().into();
        }
        for _ in 0..RESYNC.min(self.resync.len()) {
            let Some(channel) = self.resync.pop_front() else { break };
            let (Some(rule), nodes) = (self.rule(&channel), self.nodes.clone()) else { continue };
            let history = nodes.hub.history();
            let follows = history.cursor(&channel).is_some();
            match nodes.leader(&channel) {
                None if follows || history.has_log(&channel) => later(nodes.settle(channel, rule).boxed()),
                Some(_) if follows => later(nodes.read(Wanted { channel, rule, what: ReadFor::Node }).boxed()),
                _ => {}
            }
        }
        let now = shared.now();
        for at in (0..self.again.len()).rev() {
            if self.again[at].0 <= now {
                let (_, wanted) = self.again.swap_remove(at);
                later(self.nodes.clone().read(wanted).boxed());
            }
        }
    }
}

/// Polled once: there is nearly always room.
fn begun(future: impl Future<Output = ()> + Send + 'static) -> Option<Waiting> {
    let mut future: Waiting = Box::pin(future);
    match future.as_mut().now_or_never() {
        Some(()) => None,
        None => Some(future),
    }
}

/// The next message of the node that leads its channel: into the mailboxes.
async fn next(
    nodes: Nodes,
    (publication, rule): (Publication, Arc<ChannelRule>),
    (at, ended): ((Position, u64, bool), Vec<u64>),
    (from, epoch): (Arc<Link>, u32),
    (counts, behind): (PendingCounts, WorkerSet),
) {
    let channel = publication.channel.clone();
    let mut workers = nodes.hub.workers_of(channel.as_str());
    behind.iter().for_each(|worker| workers.add(worker));
    nodes.hub.room_for(&publication, &workers).await;
    let now = nodes.others.as_ref().map_or(0, |others| others.now());
    let Followed { follow, is_kept, beside } =
        nodes.hub.follow(publication, &rule, at, (&ended, (from.peer.0, epoch)), (&counts, &behind));
    if let Some(beside) = beside {
        from.force(&outdated(&channel, beside), None, now);
    }
    if !is_kept {
        from.force(&Ordered::Lacking.to_bytes(channel.as_str()), None, now);
    }
    match follow {
        Follow::Next | Follow::Known => {}
        Follow::Ask(cursor) => {
            let message = ReadFor::Node.message(Some(cursor)).to_bytes(channel.as_str());
            from.force(&message, Some(Request::Read(channel, Some(cursor), ReadFor::Node)), now);
        }
        Follow::Stale(later) => from.force(&outdated(&channel, later), None, now),
    }
}

/// Who is told what it has asked to read.
struct Answer {
    nodes: Nodes,
    to: Arc<Link>,
    request: u64,
    channel: Channel,
    rule: Arc<ChannelRule>,
}

impl Answer {
    /// Sends it, if this node leads the channel.
    fn send(&self, (from, most, page, cursor): (From, Most, bool, Option<Position>)) -> bool {
        self.nodes.answer((&self.channel, &self.rule), (from, most, page), cursor, |reading| {
            self.reply(Some(Read::of(&reading)));
        })
    }

    async fn lead_and_send(self, wanted: (From, Most, bool, Option<Position>)) {
        self.nodes.lead(&self.channel, &self.rule).await;
        if !self.send(wanted) {
            self.does_not_lead();
        }
    }

    fn does_not_lead(&self) {
        self.reply(None);
    }

    fn reply(&self, reading: Option<Read<'_>>) {
        let answer = Ordered::Reading { request: self.request, reading }.to_bytes(self.channel.as_str());
        self.to.force(&answer, None, self.nodes.others.as_ref().map_or(0, |others| others.now()));
    }
}

/// What the publisher wants besides. If that is more than the node that it came from allows, it is none.
fn options(except: &[u8], key: Option<&str>) -> Option<PublishOptions> {
    let clients = read_longs(except).take(MAX_EXCEPT).map(ClientId::new).collect::<Option<Vec<_>>>()?;
    let key = key.map(|key| Key::parse(key.as_bytes())).transpose().ok()?;
    Some(PublishOptions { except: Except::new(clients), key, priority: Priority::Normal })
}

/// A publication, with data of its own.
fn publication(channel: Channel, binary: bool, data: &[u8], options: PublishOptions) -> Option<Publication> {
    let kind = if binary { Kind::Binary } else { Kind::Text };
    let message = Message::new(kind, Bytes::copy_from_slice(data)).ok()?;
    Some(Publication::new(channel, message).with(options))
}

#[cfg(test)]
mod tests;
