//! The way to one other node: what waits to be sent, what was sent and not read there yet, and who waits for its replies.
//!
//! Workers put messages in, from any thread, and wait while there is no room; they never wait for the network. One sender
//! takes frames out ([`Link::frame`]), of which no more than [`WINDOW`] bytes are under way: so a node that does not read
//! costs this much memory, and nobody else anything. All that is not delivered is told: the acknowledgements that a link
//! holds are settled as `silent` when the node is gone, loses a frame, or does not answer in time.

use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::sync::oneshot;

use crate::hub::{CommandError, Counts, ReplyTo, Share};
use crate::ids::ClientId;
use crate::cluster::interest::others::Slot;
use crate::cluster::protocol::{ENVELOPE, FRAME, HEADER, Header, Kind, Message, Reply, Run, envelop};

/// Bytes that may be under way to a node, not worked off there yet.
pub const WINDOW: usize = 4 << 20;
/// Bytes that may wait to be sent. A single message may be larger.
pub const QUEUE: usize = 8 << 20;
/// Bytes beyond all that a stream begins with that may wait for a node that reads nothing. Then they are dropped, which the node
/// learns as of any other loss.
const MOST: usize = 4 * QUEUE;

/// Who waits for the reply to a request.
pub enum Request {
    /// A publish or a send: its part of the counts.
    Counts(Share),
    /// A command to that client.
    Command(ClientId, oneshot::Sender<Result<(), CommandError>>),
}

impl Request {
    /// The node did not answer, or can't be reached.
    fn unanswered(self) {
        match self {
            Request::Counts(share) => share.settle(Counts { unanswered: 1, ..Counts::default() }),
            // One that waits no more needs no answer.
            Request::Command(client, reply) => drop(reply.send(Err(CommandError::Unanswered(client)))),
        }
    }
}

/// There is no room for a message now.
pub struct Full(pub Option<Request>);

/// The way to one node. See the module.
pub struct Link {
    /// The node's place in the table of channels.
    pub slot: Slot,
    /// The node.
    pub peer: Run,
    me: Run,
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
    pub fn new(me: Run, peer: Run, slot: Slot, epoch: u32) -> Link {
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
        };
        Link { slot, peer, me, suspect: AtomicBool::new(false), state: Mutex::new(state), ready: Condvar::new() }
    }

    /// Puts a message behind all others; with a request, its reply is waited for. Full: there is no room.
    ///
    /// A node that is suspect gets what there is room for, and is not waited for: its request is unanswered at once.
    pub fn offer(&self, message: &Bytes, request: Option<Request>, now: u64) -> Result<(), Full> {
        let mut state = self.lock();
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

    /// Gives up waiting for the counts of what was asked before `since`, and for commands that were asked before `commands`.
    /// How many there were.
    pub fn expire(&self, since: u64, commands: u64) -> usize {
        let mut expired = Vec::new();
        {
            let state = &mut *self.lock();
            for place in &mut state.requests {
                match place {
                    Some((asked, _)) if *asked >= since.max(commands) => break,
                    Some((asked, Request::Counts(_))) if *asked < since => expired.extend(place.take()),
                    Some((asked, Request::Command(..))) if *asked < commands => expired.extend(place.take()),
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
        if state.closed || !(stream || state.tell_read) {
            return false;
        }
        let (kind, start) = (if stream { Kind::Stream } else { Kind::Aside }, out.len());
        let (read_epoch, read) = state.read;
        let (epoch, seq) = (state.epoch, state.next);
        Header { kind, from: self.me, to: self.peer, epoch, seq, read_epoch, read }.write(out);
        if !stream {
            state.tell_read = false;
            state.asides.drain(..).for_each(|message| envelop(&message, 0, out));
            return true;
        }
        if !state.replies.is_empty() {
            envelop(&Message::Replies(&state.replies).to_bytes(), 0, out);
            state.replies = Vec::new();
        }
        while let Some(part) = state.queue.front()
            && (out.len() == start + HEADER || out.len() - start + part.bytes() <= FRAME)
        {
            envelop(&part.message, part.request, out);
            state.queued -= part.bytes();
            state.queue.pop_front();
        }
        let length = out.len() - start;
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
mod tests {
    use super::*;
    use crate::hub::Tally;
    use crate::cluster::protocol::Messages;

    fn link() -> Link {
        Link::new(Run(1), Run(2), 0, 1)
    }

    fn frame(link: &Link) -> Option<(Header, Vec<u8>)> {
        let mut out = Vec::new();
        link.frame(0, &mut out).then(|| {
            let (header, body) = Header::read(&out).unwrap();
            (header, body.to_vec())
        })
    }

    fn publish(data: &[u8]) -> Bytes {
        Message::Publish { channel: "c", binary: true, data }.to_bytes()
    }

    #[test]
    fn many_messages_share_a_frame_and_no_more_than_the_window_is_under_way() {
        let link = link();
        for _ in 0..10 {
            link.force(&publish(b"x"), None, 0);
        }
        let (header, body) = frame(&link).unwrap();
        assert_eq!((header.epoch, header.seq, Messages::new(&body).count()), (1, 0, 10));
        assert!(frame(&link).is_none());
        let large = publish(&vec![0; 50_000]);
        (0..200).for_each(|_| link.force(&large, None, 0));
        let mut sent = 0;
        while frame(&link).is_some() {
            sent += 1;
        }
        assert_eq!(sent, WINDOW / 50_000 + 1);
        link.was_read(1, 1);
        assert!(frame(&link).is_none(), "that was a small one");
        link.was_read(1, 3);
        assert!(frame(&link).is_some());
        link.was_read(2, 100);
        assert_eq!(link.unread_since(), Some(0), "another stream's");
    }

    #[test]
    fn a_full_link_refuses_and_a_suspect_one_waits_for_nobody() {
        let link = link();
        let large = publish(&vec![0; QUEUE - 100]);
        let (counts, mut told) = Tally::new();
        assert!(link.offer(&large, Some(Request::Counts(counts.share())), 0).is_ok());
        let Err(Full(Some(request))) = link.offer(&large, Some(Request::Counts(counts.share())), 0) else { panic!() };
        let mut cx = Context::from_waker(Waker::noop());
        assert!(link.poll_room(large.len(), &mut cx).is_pending());
        assert!(link.set_suspect(true));
        assert!(link.poll_room(large.len(), &mut cx).is_ready());
        assert!(link.offer(&large, Some(request), 0).is_ok(), "dropped, and told");
        drop(counts);
        assert!(told.try_recv().is_err(), "one is on its way");
        link.close();
        assert_eq!(told.try_recv(), Ok(Counts { unanswered: 2, ..Counts::default() }));
        assert!(link.offer(&large, None, 0).is_ok());
        assert!(frame(&link).is_none());
    }

    #[test]
    fn replies_find_their_request_and_late_ones_none() {
        let link = link();
        let ask = |at| {
            let (counts, told) = Tally::new();
            link.force(&publish(b"x"), Some(Request::Counts(counts.share())), at);
            told
        };
        let (mut first, mut second, mut third) = (ask(0), ask(5), ask(10));
        let (_, body) = frame(&link).unwrap();
        let numbers: Vec<u64> = Messages::new(&body).map(|message| message.unwrap().0).collect();
        let Some(Request::Counts(share)) = link.take_request(numbers[1]) else { panic!() };
        share.settle(Counts { reached: 3, ..Counts::default() });
        assert_eq!(second.try_recv().unwrap().reached, 3);
        assert!(link.take_request(numbers[1]).is_none());
        assert_eq!(link.expire(10, 10), 1);
        assert_eq!(first.try_recv().unwrap().unanswered, 1);
        assert!(link.take_request(numbers[0]).is_none());
        link.restart_with(2, &[]);
        assert_eq!(third.try_recv().unwrap().unanswered, 1);
        assert!(link.take_request(numbers[2]).is_none());
        let _fourth = ask(11);
        let (header, body) = frame(&link).unwrap();
        assert_eq!((header.epoch, header.seq), (2, 0));
        assert_eq!(Messages::new(&body).next().unwrap().unwrap().0, numbers[2] + 1);
    }

    #[test]
    fn replies_to_a_node_that_reads_nothing_are_bounded() {
        let link = link();
        let large = publish(&vec![0; 50_000]);
        (0..200).for_each(|_| link.force(&large, None, 0));
        while frame(&link).is_some() {}
        (0..QUEUE as u64).for_each(|request| link.counts(request, Counts::default()));
        assert!(link.holds().0 <= 2 * QUEUE, "{:?}", link.holds());
    }

    #[test]
    fn what_waits_for_a_node_that_reads_nothing_is_bounded_and_its_loss_is_told() {
        let link = link();
        let (counts, mut told) = Tally::new();
        let large = publish(&vec![0; 50_000]);
        link.force(&large, Some(Request::Counts(counts.share())), 0);
        drop(counts);
        for _ in 0..2000 {
            link.force(&large, None, 0);
            assert!(link.holds().0 <= MOST);
        }
        assert_eq!(told.try_recv(), Ok(Counts { unanswered: 1, ..Counts::default() }));
        let (header, _) = frame(&link).unwrap();
        assert!(header.seq > 0, "a gap: nothing was sent before");
        // What a stream begins with does not count.
        let first: Vec<Bytes> = (0..2000).map(|_| large.clone()).collect();
        link.restart_with(2, &first);
        link.force(&large, None, 0);
        assert_eq!(frame(&link).unwrap().0.seq, 0);
        assert!(link.holds().0 > 1999 * 50_000);
    }

    #[test]
    fn commands_are_waited_for_longer_than_counts() {
        let link = link();
        let (done, mut command) = oneshot::channel();
        let client = ClientId::new(7).unwrap();
        link.force(&publish(b"x"), Some(Request::Command(client, done)), 0);
        let (counts, mut told) = Tally::new();
        link.force(&publish(b"x"), Some(Request::Counts(counts.share())), 5);
        drop(counts);
        assert_eq!(link.expire(10, 0), 1);
        assert!(told.try_recv().is_ok() && command.try_recv().is_err());
        assert_eq!(link.expire(20, 10), 1);
        assert_eq!(command.try_recv(), Ok(Err(CommandError::Unanswered(client))));
    }

    #[test]
    fn what_was_read_is_told_with_frames_or_without() {
        let link = link();
        link.has_read(7, 3, false);
        assert!(frame(&link).is_none());
        link.has_read(7, 4, true);
        let (header, _) = frame(&link).unwrap();
        assert_eq!((header.kind, header.read_epoch, header.read, header.seq), (Kind::Aside, 7, 4, 0));
        link.aside(Some(&Message::Lost { epoch: 7 }));
        link.force(&publish(b"x"), None, 0);
        assert_eq!(frame(&link).unwrap().0.kind, Kind::Stream);
        let (header, body) = frame(&link).unwrap();
        assert_eq!((header.kind, header.seq), (Kind::Aside, 1));
        assert_eq!(Messages::new(&body).next().unwrap().unwrap().1, Message::Lost { epoch: 7 });
    }
}
