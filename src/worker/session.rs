//! The life of one WebSocket connection on its worker, from the handshake to the closed socket.
//!
//! One task a connection: it reads what the client sends, runs the script's hooks one after the other, and writes only
//! what the worker's turn could not. It is a state machine by hand, since there may be a million of them idle.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::Sleep;

use super::accept::Load;
use super::inbox::Inbox;
use super::{Worker, handshake};
use crate::message::{CloseReason, Kind};
use crate::script::current::ConnRef;
use crate::script::hooks::HookArgs;
use crate::script::vm::{Failure, Handler, Hook, Returned, Started};
use crate::shard::conn::Conn;
use crate::shard::served::Place;
use crate::wire::frame;
use crate::wire::reader::{Event, Input, Reader};

/// How long a socket may take to end after its connection has: what is owed is written, and the client's end awaited.
/// Longer only while something is owed, and the client takes it.
const LINGER: Duration = Duration::from_secs(2);

/// Serves one connection to its end.
pub(super) async fn serve(worker: Rc<Worker>, server: usize, socket: TcpStream, peer: SocketAddr, load: Load) {
    // Boxed, so that an open connection does not carry the handshake's state.
    let opened = Box::pin(handshake::run(&worker, server, socket, peer)).await;
    let Some(opened) = opened else { return };
    let mut session = Session::new(worker, server, opened, load);
    poll_fn(|cx| session.poll(cx)).await;
}

/// A connection whose handshake has succeeded.
pub(super) struct Opened {
    pub(super) conn: Rc<Conn>,
    pub(super) input: OwnedReadHalf,
    /// What the client sent right behind its request.
    pub(super) early: Vec<u8>,
    pub(super) place: Place,
}

enum Phase {
    /// Messages come and go.
    Open,
    /// No more messages; `on_close` runs.
    Ending,
    /// Out of the shard; only the socket is left.
    Lingering(Pin<Box<Sleep>>),
    /// Nothing is left.
    Over,
}

struct Session {
    reader: Reader,
    /// The reader holds whole frames that were left there while the inbox was full.
    kept: bool,
    input: OwnedReadHalf,
    state: State,
    _load: Load,
    _place: Place,
}

/// All but the reader, which lends the events that this handles.
struct State {
    worker: Rc<Worker>,
    server: usize,
    conn: Rc<Conn>,
    handler: Option<Box<Handler>>,
    inbox: Inbox,
    phase: Phase,
}

impl Session {
    fn new(worker: Rc<Worker>, server: usize, opened: Opened, load: Load) -> Session {
        let mut session = Session {
            reader: Reader::new(),
            kept: false,
            input: opened.input,
            state: State {
                worker,
                server,
                conn: opened.conn,
                handler: None,
                inbox: Inbox::default(),
                phase: Phase::Open,
            },
            _load: load,
            _place: opened.place,
        };
        if !opened.early.is_empty() {
            let mut early = opened.early;
            session.reader.keep(&mut Input::new(&mut early));
            session.kept = true;
        }
        session
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.state.conn.register(cx.waker());
        loop {
            if self.state.conn.is_blocked() {
                let _ = self.state.poll_flush(cx);
            }
            match self.state.phase {
                Phase::Open => ready!(self.poll_open(cx)),
                Phase::Ending => ready!(self.state.poll_ending(cx)),
                Phase::Lingering(_) => return self.poll_lingering(cx),
                Phase::Over => return Poll::Ready(()),
            }
        }
    }

    /// Ready whenever something has changed.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut self.state;
        let closing = state.conn.is_closing();
        if let Some(handler) = &mut state.handler {
            match handler.poll(cx, closing) {
                Poll::Ready(result) => {
                    state.handler = None;
                    state.finished(Hook::Message, result);
                    return Poll::Ready(());
                }
                // Told of the end, its waits fail: it is pending only while the connection lives.
                Poll::Pending if closing => return Poll::Pending,
                Poll::Pending => {}
            }
        } else if closing && !state.owes_messages() {
            state.begin_ending();
            return Poll::Ready(());
        } else if !state.inbox.is_empty() {
            if state.worker.vm(state.server).poll_turn(cx).is_pending() {
                state.conn.pause_reading();
                return Poll::Pending;
            }
            if let Some((kind, data)) = state.inbox.pop() {
                state.run(kind, &data);
            }
            return Poll::Ready(());
        }
        if self.kept && !state.inbox.is_full() {
            self.kept = false;
            self.handle(&mut []);
            return Poll::Ready(());
        }
        if state.inbox.is_full() || closing {
            state.conn.pause_reading();
            return Poll::Pending;
        }
        state.conn.resume_reading(state.worker.shard.now());
        self.poll_read(cx)
    }

    /// Reads once through the worker's buffer and handles what came.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let worker = self.state.worker.clone();
        let mut buffer = worker.take_read_buffer();
        let mut chunk = ReadBuf::new(&mut buffer);
        let result = Pin::new(&mut self.input).poll_read(cx, &mut chunk);
        match result {
            Poll::Ready(Ok(())) if chunk.filled().is_empty() => {
                self.state
                    .conn
                    .close(CloseReason::Lost("the client ended the connection without a close frame".into()));
            }
            Poll::Ready(Ok(())) => {
                self.state.conn.last_read.set(worker.shard.now());
                self.handle(chunk.filled_mut());
            }
            Poll::Ready(Err(ref e)) => self.state.conn.close(CloseReason::Lost(e.to_string().into())),
            Poll::Pending => {}
        }
        worker.put_read_buffer(buffer);
        result.map(drop)
    }

    /// Takes events from what was read (or kept) until it is used up, or the inbox is full.
    fn handle(&mut self, bytes: &mut [u8]) {
        let state = &mut self.state;
        let limit = state.conn.served.limits.get().max_message_size;
        let mut input = Input::new(bytes);
        while !state.conn.is_closing() {
            if state.inbox.is_full() {
                self.reader.keep(&mut input);
                self.kept = true;
                return;
            }
            match self.reader.next(&mut input, limit) {
                Ok(None) => return,
                Ok(Some(Event::Text(data))) => state.message(Kind::Text, data),
                Ok(Some(Event::Binary(data))) => state.message(Kind::Binary, data),
                Ok(Some(Event::Ping(payload))) => state.pong(payload),
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close(close))) => {
                    let reply = frame::encode_close_reply(close.map(|(code, _)| code));
                    state.worker.shard.push_control(&state.conn, reply);
                    state.conn.close(CloseReason::Peer);
                }
                Err(violation) => state.conn.close(violation.into()),
            }
        }
    }

    /// Writes what is owed, then waits for the client's end of the socket; both only for a while.
    fn poll_lingering(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Phase::Lingering(deadline) = &mut self.state.phase else { return Poll::Ready(()) };
        while deadline.as_mut().poll(cx).is_ready() {
            if !self.state.worker.outlasts(&self.state.conn) {
                return Poll::Ready(());
            }
            deadline.as_mut().reset(tokio::time::Instant::now() + LINGER);
        }
        ready!(self.state.poll_flush(cx));
        self.state.conn.shutdown();
        loop {
            let worker = &self.state.worker;
            let mut buffer = worker.take_read_buffer();
            let mut chunk = ReadBuf::new(&mut buffer);
            let result = Pin::new(&mut self.input).poll_read(cx, &mut chunk);
            let ended = chunk.filled().is_empty();
            worker.put_read_buffer(buffer);
            match ready!(result) {
                Ok(()) if !ended => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl State {
    /// A message has come: its handler runs now, or when those before it have.
    fn message(&mut self, kind: Kind, data: &[u8]) {
        let idle = self.handler.is_none() && self.inbox.is_empty();
        if idle && self.worker.vm(self.server).may_start() {
            self.run(kind, data);
        } else {
            self.inbox.push(kind, data);
        }
    }

    fn run(&mut self, kind: Kind, data: &[u8]) {
        self.start(Hook::Message, HookArgs::message(kind, data));
    }

    fn start(&mut self, hook: Hook, args: HookArgs<'_>) {
        let vm = self.worker.vm(self.server);
        let budget = self.conn.served.limits.get().handler_timeout;
        match vm.start(hook, ConnRef::of(&self.conn), args, budget) {
            Started::Done(result) => self.finished(hook, result),
            Started::Suspended(handler) => self.handler = Some(Box::new(handler)),
        }
    }

    fn finished(&self, hook: Hook, result: Result<Returned, Failure>) {
        if let Err(failure) = result {
            report(hook, &failure, &self.conn);
            self.conn.close(CloseReason::HandlerFailed);
        }
    }

    /// Answers a ping, unless the client takes nothing and only asks.
    fn pong(&self, payload: &[u8]) {
        if self.conn.waiting() > self.conn.served.limits.get().outbox_limit {
            self.conn.close(CloseReason::TooSlow);
        } else {
            self.worker.shard.push_control(&self.conn, frame::encode_pong(payload));
        }
    }

    /// The client has gone, but what it sent before is still to be handled. After an end of our own making, it is not.
    fn owes_messages(&self) -> bool {
        let theirs = matches!(self.conn.close_reason(), Some(CloseReason::Peer | CloseReason::Lost(_)));
        theirs && !self.inbox.is_empty()
    }

    /// From here on no messages; the last hook runs.
    fn begin_ending(&mut self) {
        let reason = self.conn.close_reason().unwrap_or(CloseReason::Peer);
        if let Some((code, text)) = reason.frame() {
            self.worker.shard.push_control(&self.conn, frame::encode_close(code, text));
        }
        self.inbox.clear();
        self.phase = Phase::Ending;
        self.start(Hook::Close, HookArgs::close(ConnRef::of(&self.conn), reason.error()));
    }

    /// Ready when the last hook has returned; then the connection leaves the shard.
    fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(handler) = &mut self.handler {
            // Its connection has ended already: its own waits are its own affair.
            let result = ready!(handler.poll(cx, false));
            self.handler = None;
            self.finished(Hook::Close, result);
        }
        self.worker.shard.remove(&self.conn);
        let reason = self.conn.close_reason();
        if matches!(reason, Some(CloseReason::TooSlow | CloseReason::WriteTimeout)) {
            self.conn.reset();
        }
        self.phase = match reason {
            // The socket has ended already, and nothing is owed.
            Some(CloseReason::Lost(_)) => Phase::Over,
            _ => Phase::Lingering(Box::pin(tokio::time::sleep(LINGER))),
        };
        Poll::Ready(())
    }

    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        let shard = &self.worker.shard;
        let scratch: &RefCell<Vec<u8>> = shard.scratch();
        self.conn.poll_flush(cx, scratch, shard.now())
    }
}

impl Drop for State {
    /// However the task ended, a panic included, nothing of the connection stays in the shard.
    fn drop(&mut self) {
        self.worker.shard.remove(&self.conn);
    }
}

impl Worker {
    /// The time to linger is up: whether to go on, since the client still takes what it is owed, if slowly. A stop of the
    /// engine waits for no such one.
    fn outlasts(&self, conn: &Conn) -> bool {
        let patience = conn.served.limits.get().write_timeout.max(LINGER);
        let now = self.shard.now();
        let recently = |since| u128::from(now.wrapping_sub(since)) < patience.as_millis();
        let taking = || conn.stalled_since().is_some_and(recently) || conn.nudge(self.shard.scratch(), now);
        let outlasts = conn.waiting() > 0 && !*self.draining.borrow() && taking();
        if !outlasts {
            conn.leave(patience);
        }
        outlasts
    }
}

/// Logs a hook's failure, once, with all that its author needs.
pub(super) fn report(hook: Hook, failure: &Failure, conn: &Conn) {
    tracing::error!(
        target: "script",
        client_id = conn.client_id.get(),
        remote = %conn.remote,
        hook = hook.name(),
        // One event is one line.
        traceback = failure.traceback.join(" < "),
        "{}",
        failure.message.replace('\n', " | ")
    );
}
