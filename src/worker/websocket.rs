//! WebSocket connections: the handshake, then frames and messages. It may also have opened an event stream.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use super::event_stream::EventStream;
use super::inbox::Inbox;
use super::load::LoadPermit;
use super::protocol::ProtocolHandler;
use super::session::State;
use super::task::Task;
use super::{Worker, handshake};
use crate::handover::{Damaged, Decoder, Encoder};
use crate::message::{CloseReason, Kind};
use crate::script::hooks::HookArgs;
use crate::script::vm::{Hook, Returned};
use crate::shard::framing::Framing;
use crate::shard::hold::{Counted, UnderWay};
use crate::shard::transport::Transport;
use crate::wire::frame;
use crate::wire::reader::{Event, Input, Reader};

/// The task that serves one connection to its end.
pub(super) fn task(
    worker: Rc<Worker>,
    server: usize,
    transport: Transport,
    peer: SocketAddr,
    load: LoadPermit,
) -> Task<Incoming> {
    let opening = {
        let worker = worker.clone();
        async move {
            let _opening = Counted::new(&worker.hold, UnderWay::Opening);
            let (opened, early) = handshake::run(&worker, server, transport, peer).await?;
            let incoming = match opened.conn.framing {
                Framing::EventStream => Incoming::Posted(EventStream),
                framing => Incoming::Frames(Frames::new(framing, early)),
            };
            Some((opened, incoming))
        }
    };
    Task::opening(worker, Box::pin(opening), load)
}

/// What such a server's client sends.
pub(super) enum Incoming {
    Frames(Frames),
    Posted(EventStream),
}

/// Has the one or the other do it.
macro_rules! each {
    ($incoming:expr, $it:ident => $do:expr) => {
        match $incoming {
            Incoming::Frames($it) => $do,
            Incoming::Posted($it) => $do,
        }
    };
}

impl ProtocolHandler for Incoming {
    fn take(&mut self, state: &mut State, bytes: &mut [u8]) {
        each!(self, it => it.take(state, bytes));
    }

    fn end(&mut self, state: &mut State) {
        each!(self, it => it.end(state));
    }

    fn has_work(&self, state: &State) -> bool {
        each!(self, it => it.has_work(state))
    }

    fn work(&mut self, state: &mut State) {
        each!(self, it => it.work(state));
    }

    fn returned(&mut self, state: &mut State, returned: Returned) {
        each!(self, it => it.returned(state, returned));
    }

    fn resume_work(&mut self, state: &mut State, idle: bool) -> bool {
        each!(self, it => it.resume_work(state, idle))
    }

    fn has_room(&self, state: &State) -> bool {
        each!(self, it => it.has_room(state))
    }

    fn closes_in(&self, unread: &[u8]) -> bool {
        each!(self, it => it.closes_in(unread))
    }

    fn save(&self, out: &mut Encoder) {
        each!(self, it => it.save(out));
    }

    fn held(&self, state: &State) -> usize {
        each!(self, it => it.held(state))
    }

    fn on_closing(&mut self, state: &State) {
        each!(self, it => it.on_closing(state));
    }
}

/// The frame reader, and the messages that wait for the running handler.
pub(super) struct Frames {
    reader: Reader,
    /// The reader holds whole frames that were left there while the inbox was full or until others had run.
    kept: bool,
    inbox: Inbox,
}

impl Frames {
    /// `early`: bytes that the client sent right after its request.
    fn new(framing: Framing, mut early: Vec<u8>) -> Frames {
        let reader = match framing {
            Framing::WebSocket(Some(_)) => Reader::of_compressed(),
            Framing::WebSocket(None) | Framing::EventStream | Framing::Script => Reader::new(),
        };
        let mut frames = Frames { reader, kept: !early.is_empty(), inbox: Inbox::default() };
        if frames.kept {
            frames.reader.keep(&mut Input::new(&mut early));
        }
        frames
    }

    /// Of a connection that another process had.
    pub(super) fn restore(framing: Framing, from: &mut Decoder<'_>) -> Result<Frames, Damaged> {
        let mut frames = Frames::new(framing, Vec::new());
        frames.reader.restore(from)?;
        frames.inbox = Inbox::restore(from)?;
        // Some of it may be whole: it was kept until there was room.
        frames.kept = frames.reader.waiting() > 0;
        Ok(frames)
    }

    /// Something else than a part of a message is next: within one, which is as unfinished as before, or by itself.
    fn between_fragments(&self, state: &State) {
        if !self.reader.is_within_message() {
            state.conn.end_message();
        }
    }

    /// The same with a message that is compressed. Apart, since what decompresses is large when it is made: other messages would
    /// have it on their stack.
    #[inline(never)]
    fn compressed(state: &mut State, inbox: &mut Inbox, kind: Kind, data: &[u8], limit: usize) {
        let began = Instant::now();
        let shard = &state.worker.shard;
        let inflated = shard.compression.inflate(kind, data, limit, &shard.counts);
        state.charge(began.elapsed());
        match inflated {
            Ok(data) => {
                Self::message(state, inbox, kind, &data);
                state.worker.shard.compression.give_back(data);
            }
            Err(violation) => state.conn.close(violation.into()),
        }
    }

    /// A message has come: its handler runs now, or when those before it have.
    fn message(state: &mut State, inbox: &mut Inbox, kind: Kind, data: &[u8]) {
        let shard = &state.worker.shard;
        shard.count_read(&state.conn);
        if shard.tap.is_on() {
            shard.see_message(&state.conn, kind, data);
        }
        state.conn.end_message();
        if inbox.is_empty() && state.may_start(Hook::Message) {
            state.start(Hook::Message, HookArgs::message(kind, data));
        } else {
            inbox.push(kind, data);
        }
    }
}

impl ProtocolHandler for Frames {
    /// Takes events from the bytes read (or kept) until they are used up, the inbox is full, or the stretch is over.
    fn take(&mut self, state: &mut State, bytes: &mut [u8]) {
        let limit = state.conn.served.limits.get().max_message_size;
        let mut input = Input::new(bytes);
        let most = state.messages_left();
        let mut left = most;
        while !state.conn.is_closed() {
            if self.inbox.is_full() || state.is_others_turn() || left == 0 {
                self.reader.keep(&mut input);
                self.kept = true;
                // The client can't be blamed for what waits here, except for the rest of a message that has begun.
                self.between_fragments(state);
                break;
            }
            match self.reader.next(&mut input, limit) {
                Ok(None) => {
                    if self.reader.waiting() > 0 || self.reader.is_within_message() {
                        state.conn.begin_message(state.worker.shard.now());
                    } else {
                        state.conn.end_message();
                    }
                    break;
                }
                Ok(Some(Event::Text(data))) => {
                    left -= 1;
                    Self::message(state, &mut self.inbox, Kind::Text, data);
                }
                Ok(Some(Event::Binary(data))) => {
                    left -= 1;
                    Self::message(state, &mut self.inbox, Kind::Binary, data);
                }
                Ok(Some(Event::Compressed(kind, data))) => {
                    left -= 1;
                    Self::compressed(state, &mut self.inbox, kind, data, limit);
                }
                Ok(Some(Event::Ping(payload))) => {
                    left -= 1;
                    pong(state, payload);
                    self.between_fragments(state);
                }
                Ok(Some(Event::Pong(_))) => self.between_fragments(state),
                Ok(Some(Event::Close(close))) => {
                    let reply = frame::encode_close_reply(close.map(|(code, _)| code));
                    state.worker.shard.push_control(&state.conn, reply);
                    state.conn.close(CloseReason::Peer(close.map(|(code, reason)| (code, reason.into()))));
                }
                Err(violation) => state.conn.close(violation.into()),
            }
            state.charge_frames(input.take_frames());
        }
        state.charge_frames(input.take_frames());
        if left < most {
            state.took_messages(most - left);
        }
    }

    fn end(&mut self, state: &mut State) {
        let silently = || CloseReason::Lost("the client ended the connection without a close frame".into());
        state.conn.close(state.conn.lost_by().unwrap_or_else(silently));
    }

    fn closes_in(&self, unread: &[u8]) -> bool {
        self.reader.closes_in(unread)
    }

    fn has_work(&self, _: &State) -> bool {
        !self.inbox.is_empty()
    }

    fn work(&mut self, state: &mut State) {
        if let Some((kind, data)) = self.inbox.pop() {
            state.start(Hook::Message, HookArgs::message(kind, &data));
        }
    }

    fn returned(&mut self, _: &mut State, _: Returned) {}

    fn resume_work(&mut self, state: &mut State, _: bool) -> bool {
        if !self.kept || self.inbox.is_full() || state.messages_left() == 0 {
            return false;
        }
        self.kept = false;
        self.take(state, &mut []);
        true
    }

    fn has_room(&self, _: &State) -> bool {
        !self.inbox.is_full()
    }

    fn on_closing(&mut self, _: &State) {
        self.inbox.clear();
        self.reader = Reader::new();
    }

    fn save(&self, out: &mut Encoder) {
        self.reader.save(out);
        self.inbox.save(out);
    }

    fn held(&self, _: &State) -> usize {
        self.reader.capacity() + self.inbox.bytes()
    }
}

/// Answers a ping, unless the client takes nothing and only asks.
fn pong(state: &State, payload: &[u8]) {
    if state.conn.waiting() > state.conn.served.limits.get().outbox_limit {
        state.conn.close(CloseReason::TooSlow);
    } else {
        state.worker.shard.push_control(&state.conn, frame::encode_pong(payload));
    }
}
