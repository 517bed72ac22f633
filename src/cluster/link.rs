//! The way to one other node: what waits to be sent, what was sent and not read there yet, and who waits for its replies.
//!
//! Workers put messages in, from any thread, and wait while there is no room; they never wait for the network. One sender
//! takes frames out ([`Link::frame`]), of which no more than [`WINDOW`] bytes are under way: so a node that does not read
//! costs this much memory, and nobody else anything. All that is not delivered is told: the acknowledgements that a link
//! holds are settled as `silent` when the node is gone, loses a frame, or does not answer in time.

mod request;
mod saved;

use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::cluster::interest::others::Slot;
use crate::cluster::protocol::ordered::Ordered;
use crate::cluster::protocol::{ENVELOPE, FRAME, HEADER, Header, Kind, MAX_MESSAGE, Message, Reply, Run, envelop};
use crate::cluster::stats::Stats;
use crate::hub::{Counts, ReplyTo};
use crate::message::Channel;

pub use request::{ReadFor, Request};

/// Bytes that may be under way to a node, not worked off there yet.
pub const WINDOW: usize = 4 << 20;
/// Bytes that may wait to be sent. A single message may be larger.
pub const QUEUE: usize = 8 << 20;
/// Bytes beyond all that a stream begins with that may wait for a node that reads nothing. Then they are dropped, which the node
/// learns as of any other loss.
const MOST: usize = 4 * QUEUE;

/// There is no room for a message now.
pub struct Full(pub Option<Request>);

/// The way to one node. See the module.
pub struct Link {
    /// The node's place in the table of channels.
    pub slot: Slot,
    /// The node.
    pub peer: Run,
    me: Run,
    stats: Arc<Stats>,
    /// It does not read what it is sent: nobody waits for it.
    suspect: AtomicBool,
    state: Mutex<State>,
    /// There may be something to send.
    ready: Condvar,
}

struct State {
    closed: bool,
    /// Of the stream to it.
    epoch: u32,
    next: u64,
    queue: VecDeque<Part>,
    queued: usize,
    /// The most that may be queued.
    most: usize,
    replies: Vec<u8>,
    /// Frames that were sent and not read: their number, bytes, and when.
    unread: VecDeque<(u64, usize, u64)>,
    unread_bytes: usize,
    /// What to send outside of the stream.
    asides: Vec<Bytes>,
    /// How far the stream from it was read, and whether it should hear so.
    read: (u32, u64),
    tell_read: bool,
    /// Requests in the order of their numbers, from `first` on; those that have their reply are gone.
    requests: VecDeque<Option<(u64, Request)>>,
    first: u64,
    room: Vec<Waker>,
    /// Nothing is sent.
    paused: bool,
    /// Until then nothing is sent before all that was sent has been read: 0: it is not so.
    held_until: u64,
}

struct Part {
    message: Bytes,
    request: u64,
}

impl Part {
    fn bytes(&self) -> usize {
        self.message.len() + ENVELOPE
    }
}

impl Link {
    /// A link to a node. Its stream has that epoch, which no earlier one of this run to that node may have had.
    pub fn new(me: Run, peer: Run, slot: Slot, epoch: u32, stats: Arc<Stats>) -> Link {
        let state = State {
            closed: false,
            epoch,
            next: 0,
            queue: VecDeque::new(),
            queued: 0,
            most: MOST,
            replies: Vec::new(),
            unread: VecDeque::new(),
            unread_bytes: 0,
            asides: Vec::new(),
            read: (0, 0),
            tell_read: false,
            requests: VecDeque::new(),
            // So that a late reply to a request of an earlier link answers none of this one.
            first: u64::from(epoch) << 32 | 1,
            room: Vec::new(),
            paused: false,
            held_until: 0,
        };
        Link::of(state, (me, peer, slot), stats)
    }

    fn of(state: State, (me, peer, slot): (Run, Run, Slot), stats: Arc<Stats>) -> Link {
        Link { slot, peer, me, stats, suspect: AtomicBool::new(false), state: Mutex::new(state), ready: Condvar::new() }
    }

    /// Puts a message behind all others; with a request, its reply is waited for. Full: there is no room. One that is longer
    /// than [`MAX_MESSAGE`] is unanswered at once.
    ///
    /// A node that is suspect gets what there is room for, and is not waited for: its request is unanswered at once.
    pub fn offer(&self, message: &Bytes, request: Option<Request>, now: u64) -> Result<(), Full> {
        let mut state = self.lock();
        if message.len() > MAX_MESSAGE {
            drop(state);
            request.into_iter().for_each(Request::unanswered);
            return Ok(());
        }
        let full = state.queued > 0 && state.queued + message.len() > QUEUE;
        if state.closed || self.is_suspect() {
            if !full && !state.closed {
                state.push(message.clone(), 0);
                self.ready.notify_one();
            }
            drop(state);
            request.into_iter().for_each(Request::unanswered);
            return Ok(());
        }
        if full {
            return Err(Full(request));
        }
        self.put(&mut state, message, request, now);
        Ok(())
    }

    /// The same without waiting for room, for what has to go: a message that other nodes have already, and what the mesh itself
    /// says. Where far too much waits already, all of it is lost, and the node will ask for a new stream.
    pub fn force(&self, message: &Bytes, request: Option<Request>, now: u64) {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            request.into_iter().for_each(Request::unanswered);
            return;
        }
        self.put(&mut state, message, request, now);
        if state.queued > state.most {
            // A gap in the stream's numbers.
            state.next += 1;
            let lost = state.clear_queue();
            drop(state);
            lost.into_iter().flatten().for_each(|(_, request)| request.unanswered());
        }
    }

    fn put(&self, state: &mut State, message: &Bytes, request: Option<Request>, now: u64) {
        let number = request.map_or(0, |request| {
            state.requests.push_back(Some((now, request)));
            state.first + state.requests.len() as u64 - 1
        });
        state.push(message.clone(), number);
        self.ready.notify_one();
    }

    /// Ready when a message of that length has room, or the node is not waited for.
    pub fn poll_room(&self, length: usize, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.closed || self.is_suspect() || state.queued == 0 || state.queued + length <= QUEUE {
            return Poll::Ready(());
        }
        if !state.room.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.room.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Says something outside of the stream. It may be lost.
    pub fn aside(&self, message: Option<&Message<'_>>) {
        let mut state = self.lock();
        state.asides.extend(message.map(Message::to_bytes));
        state.tell_read = true;
        self.ready.notify_one();
    }

    /// How far the stream from the node was worked off. It hears of it soon.
    pub fn has_read(&self, epoch: u32, frames: u64, soon: bool) {
        let mut state = self.lock();
        state.read = (epoch, frames);
        if soon {
            state.tell_read = true;
            self.ready.notify_one();
        }
    }

    /// How far the node has worked off the stream to it.
    pub fn was_read(&self, epoch: u32, frames: u64) {
        let mut state = self.lock();
        if epoch != state.epoch || frames > state.next {
            return;
        }
        while let Some(&(number, bytes, _)) = state.unread.front()
            && number < frames
        {
            state.unread.pop_front();
            state.unread_bytes -= bytes;
        }
        self.ready.notify_one();
    }

    /// The reply to a request. None: there is no such request, or it has had its reply.
    pub fn take_request(&self, number: u64) -> Option<Request> {
        let state = &mut *self.lock();
        let at = usize::try_from(number.checked_sub(state.first)?).ok()?;
        let (_, request) = state.requests.get_mut(at)?.take()?;
        state.forget_replied();
        Some(request)
    }

    /// Whether the node is asked for its log of a channel, and has not answered.
    pub fn is_asked_for(&self, channel: &Channel) -> bool {
        let asked = |(_, request): &(u64, Request)| matches!(request, Request::Taken(of, _) if of == channel);
        self.lock().requests.iter().flatten().any(asked)
    }

    /// Gives up waiting for the counts of what was asked before `since`, and for commands and publishes that are done once, which were
    /// asked before `commands`.
    /// How many there were.
    pub fn expire(&self, since: u64, commands: u64) -> usize {
        let mut expired = Vec::new();
        {
            let state = &mut *self.lock();
            for place in &mut state.requests {
                match place {
                    Some((asked, _)) if *asked >= since.max(commands) => break,
                    Some((asked, Request::Counts(_) | Request::Answer(_) | Request::Taken(..))) if *asked < since => {
                        expired.extend(place.take())
                    }
                    Some((asked, request)) if *asked < commands && request.waits_for_others() => {
                        expired.extend(place.take())
                    }
                    _ => {}
                }
            }
            state.forget_replied();
        }
        let count = expired.len();
        expired.into_iter().for_each(|(_, request)| request.unanswered());
        count
    }

    /// Since when the node has not read something; None: it has read all.
    pub fn unread_since(&self) -> Option<u64> {
        self.lock().unread.front().map(|(.., since)| *since)
    }

    /// Whether the node is not waited for.
    pub fn is_suspect(&self) -> bool {
        self.suspect.load(Relaxed)
    }

    /// Says whether the node is waited for. True if that is new.
    pub fn set_suspect(&self, suspect: bool) -> bool {
        let state = &mut *self.lock();
        let is_new = self.suspect.swap(suspect, Relaxed) != suspect;
        if suspect {
            state.room.drain(..).for_each(Waker::wake);
        }
        is_new
    }

    /// Begins a new stream, with these messages before all others: what waited is dropped, since some of what was before
    /// it is lost. What was asked is unanswered.
    pub fn restart_with(&self, epoch: u32, first: &[Bytes]) {
        let requests = {
            let state = &mut *self.lock();
            state.epoch = epoch;
            state.next = 0;
            let requests = state.clear();
            first.iter().for_each(|message| state.push(message.clone(), 0));
            state.most = state.queued + MOST;
            self.ready.notify_one();
            requests
        };
        requests.into_iter().flatten().for_each(|(_, request)| request.unanswered());
    }

    /// The stream's epoch.
    pub fn epoch(&self) -> u32 {
        self.lock().epoch
    }

    /// Ends the link. What was asked is unanswered, and the sender ends.
    pub fn close(&self) {
        let requests = {
            let state = &mut *self.lock();
            state.closed = true;
            state.replies = Vec::new();
            self.ready.notify_all();
            state.clear()
        };
        requests.into_iter().flatten().for_each(|(_, request)| request.unanswered());
    }

    /// Appends the next frame to `out`, if there is something to send.
    pub fn frame(&self, now: u64, out: &mut Vec<u8>) -> bool {
        self.next_frame(&mut self.lock(), now, out)
    }

    /// The same for a thread that does nothing else: waits for something to send. False: the link has ended.
    pub fn wait_for_frame(&self, clock: impl Fn() -> u64, out: &mut Vec<u8>) -> bool {
        let mut state = self.lock();
        loop {
            if state.closed {
                return false;
            }
            if self.next_frame(&mut state, clock(), out) {
                return true;
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn next_frame(&self, state: &mut State, now: u64, out: &mut Vec<u8>) -> bool {
        let stream = state.unread_bytes < WINDOW && !(state.queue.is_empty() && state.replies.is_empty());
        if state.closed || state.paused || !(stream || state.tell_read) {
            return false;
        }
        if state.held_until > 0 {
            if !state.unread.is_empty() && now < state.held_until {
                return false;
            }
            state.held_until = 0;
        }
        let (kind, start) = (if stream { Kind::Stream } else { Kind::Aside }, out.len());
        let (read_epoch, read) = state.read;
        let (epoch, seq) = (state.epoch, state.next);
        Header { kind, from: self.me, to: self.peer, epoch, seq, read_epoch, read }.write(out);
        if !stream {
            state.tell_read = false;
            let messages = state.asides.len();
            state.asides.drain(..).for_each(|message| envelop(&message, 0, out));
            self.stats.sent.add(messages, out.len() - start);
            return true;
        }
        let mut messages = usize::from(!state.replies.is_empty());
        if messages > 0 {
            envelop(&Message::Replies(&state.replies).to_bytes(), 0, out);
            state.replies = Vec::new();
        }
        while let Some(part) = state.queue.front()
            && (out.len() == start + HEADER || out.len() - start + part.bytes() <= FRAME)
        {
            envelop(&part.message, part.request, out);
            messages += 1;
            state.queued -= part.bytes();
            state.queue.pop_front();
        }
        let length = out.len() - start;
        self.stats.sent.add(messages, length);
        state.unread.push_back((seq, length, now));
        state.unread_bytes += length;
        state.next += 1;
        // The frame tells it, unless something waits to be said aside.
        state.tell_read = !state.asides.is_empty();
        if state.queued <= QUEUE / 2 {
            state.room.drain(..).for_each(Waker::wake);
        }
        true
    }

    /// What waits to be sent, and is under way, in bytes.
    pub fn holds(&self) -> (usize, usize) {
        let state = self.lock();
        (state.queued + state.replies.len(), state.unread_bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is done under the lock does not panic; what is in it is whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReplyTo for Link {
    fn counts(&self, request: u64, counts: Counts) {
        if counts.at.is_some() || counts.unanswered > 0 || counts.left_out > 0 {
            let published = Ordered::Published { request, published: counts.into() };
            return self.force(&published.to_bytes(""), None, 0);
        }
        let mut state = self.lock();
        // Who reads no replies gets no more of them.
        if !state.closed && state.replies.len() < QUEUE {
            let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
            Reply { request, reached: number(counts.reached), failed: number(counts.failed) }.write(&mut state.replies);
            self.ready.notify_one();
        }
    }
}

impl State {
    fn push(&mut self, message: Bytes, request: u64) {
        let part = Part { message, request };
        self.queued += part.bytes();
        self.queue.push_back(part);
    }

    fn forget_replied(&mut self) {
        while let Some(None) = self.requests.front() {
            self.requests.pop_front();
            self.first += 1;
        }
    }

    /// Drops all that is on its way; replies stay, since they belong to the other stream.
    fn clear(&mut self) -> VecDeque<Option<(u64, Request)>> {
        self.unread = VecDeque::new();
        self.unread_bytes = 0;
        self.clear_queue()
    }

    /// Drops all that waits to be sent.
    fn clear_queue(&mut self) -> VecDeque<Option<(u64, Request)>> {
        self.queue = VecDeque::new();
        self.queued = 0;
        self.room.drain(..).for_each(Waker::wake);
        self.first += self.requests.len() as u64;
        std::mem::take(&mut self.requests)
    }
}

#[cfg(test)]
mod tests;
