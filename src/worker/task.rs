//! The life of one connection on its worker, from its opening to the closed socket.
//!
//! One task per connection: it reads what the client sends, runs the script's hooks one after the other, and writes
//! only what the event loop turn could not. It is a hand-written state machine, since there may be a million idle ones.
//! [`ProtocolHandler`] interprets the bytes.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::ReadBuf;
use tokio::task::yield_now;

use super::linger::LINGER;
use super::load::LoadPermit;
use super::protocol::ProtocolHandler;
use super::session::{Opened, Phase, State};
use super::{Worker, defect};
use crate::message::CloseReason;
use crate::script::current::ConnRef;
use crate::script::hooks::HookArgs;
use crate::script::vm::Hook;

/// A connection that is let in, with the initial state of its protocol; or None.
type Opening<I> = Pin<Box<dyn Future<Output = Option<(Opened, I)>>>>;

/// A connection's task. Hand-written, since an async function's future would keep its arguments twice.
pub(super) struct Task<I> {
    stage: Stage<I>,
    /// Released after everything else.
    _load: LoadPermit,
}

enum Stage<I> {
    /// In its handshake. Boxed, so that an open connection does not carry the handshake's state.
    Opening(Rc<Worker>, Opening<I>),
    Open(Session<I>),
}

impl<I: ProtocolHandler> Task<I> {
    /// The task of a connection that is let in already.
    pub(super) fn open(worker: Rc<Worker>, opened: Opened, incoming: I, load: LoadPermit) -> Task<I> {
        Task { stage: Stage::Open(Session::new(worker, opened, incoming)), _load: load }
    }

    /// The task of a connection whose handshake is to come.
    pub(super) fn opening(worker: Rc<Worker>, opening: Opening<I>, load: LoadPermit) -> Task<I> {
        Task { stage: Stage::Opening(worker, opening), _load: load }
    }
}

impl<I: ProtocolHandler> Future for Task<I> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.stage {
                Stage::Opening(worker, opening) => {
                    let Some((opened, incoming)) = ready!(opening.as_mut().poll(cx)) else { return Poll::Ready(()) };
                    let session = Session::new(worker.clone(), opened, incoming);
                    self.stage = Stage::Open(session);
                }
                // After a panic the script is still told of the end.
                Stage::Open(session) => {
                    return defect::poll(session, cx, Session::poll_life, |session| session.state.fail());
                }
            }
        }
    }
}

struct Session<I> {
    incoming: I,
    state: State,
}

impl<I: ProtocolHandler> Session<I> {
    fn new(worker: Rc<Worker>, opened: Opened, incoming: I) -> Session<I> {
        Session { incoming, state: State::new(worker, opened) }
    }

    fn poll_life(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.state.conn.register(cx.waker());
        if self.state.worker.hold.is_on() && self.is_held() {
            return Poll::Pending;
        }
        if self.state.poll_grant(cx).is_pending() {
            return Poll::Pending;
        }
        self.state.stretch = 0;
        let polled = self.poll_phases(cx);
        // A grant is for one stretch.
        self.state.ticket = None;
        self.state.account.end_stretch(self.state.stretch);
        self.state.worker.shard.hold(&self.state.conn, self.held());
        polled
    }

    /// The memory for what has come and is not handled.
    fn held(&self) -> usize {
        self.incoming.held(&self.state) + self.state.conn.transport.holds()
    }

    fn poll_phases(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.state.worker.hold.is_on() && self.is_held() {
                return Poll::Pending;
            }
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

    fn is_held(&mut self) -> bool {
        let incoming = &self.incoming;
        self.state.is_held(|out| incoming.save(out))
    }

    /// Ready whenever something has changed.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (state, incoming) = (&mut self.state, &mut self.incoming);
        if state.is_others_turn() {
            // Unlike a plain wake-up, this lets the runtime poll the sockets.
            let _ = pin!(yield_now()).poll(cx);
            return Poll::Pending;
        }
        let over_rate = state.poll_rates(cx).is_pending();
        let closing = state.conn.is_closing();
        if let Some(running) = &mut state.handler {
            if state.worker.hold.cuts() {
                running.handler.cut();
            }
            let (polled, took) = running.poll(&state.worker, cx, closing);
            state.charge(took);
            match polled {
                Poll::Ready(result) => {
                    if let Some(returned) = state.has_ended(result) {
                        incoming.returned(state, returned);
                    }
                    return Poll::Ready(());
                }
                // The waits fail as soon as they learn of the end: it is pending only while the connection lives.
                Poll::Pending if closing => return Poll::Pending,
                Poll::Pending => {}
            }
        } else if state.conn.is_closed() && !(state.is_their_end() && incoming.has_work(state)) {
            self.begin_ending();
            return Poll::Ready(());
        } else if incoming.has_work(state) {
            // Handlers of a client that has gone never wait, and so need no place among those that do.
            if !closing && state.poll_turn(incoming.next_hook(), cx).is_pending() {
                return self.pause(cx);
            }
            state.turn = None;
            incoming.work(state);
            return Poll::Ready(());
        }
        if incoming.resume_work(state, state.handler.is_none()) {
            return Poll::Ready(());
        }
        if over_rate && closing && !state.conn.is_closed() {
            // Otherwise it could have more handled by leaving at once than by staying.
            let silently = || CloseReason::Lost("the client ended the connection while it was over its rate".into());
            state.conn.close(state.conn.lost_by().unwrap_or_else(silently));
            return Poll::Ready(());
        }
        let has_room = !over_rate && incoming.has_room(state);
        let (state, held) = (&self.state, self.held());
        if state.conn.is_closed() || !has_room || state.worker.backpressure.holds_back(&state.conn, held, cx) {
            return self.pause(cx);
        }
        state.conn.resume_reading(state.worker.shard.now());
        self.poll_read(cx)
    }

    /// Does not read for now: it waits for a handler, or for its turn to start one. The client's end is still seen: by
    /// the worker's timer, or here if it closes in what has come already.
    fn pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let conn = &self.state.conn;
        conn.pause_reading();
        if conn.framing.clients_close() && conn.is_paused() && !conn.is_closing() && conn.take_look() {
            let mut buffer = self.state.worker.take_read_buffer();
            let mut unread = ReadBuf::new(&mut buffer);
            match conn.transport.poll_peek(cx, &mut unread) {
                // The system reports it only once.
                Poll::Ready(Err(e)) => conn.lose(Some(CloseReason::Lost(e.to_string().into()))),
                _ if self.incoming.closes_in(unread.filled()) => conn.part(None),
                _ => {}
            }
            self.state.worker.put_read_buffer(buffer);
        }
        Poll::Pending
    }

    /// Reads once through the worker's buffer and handles what came.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let worker = self.state.worker.clone();
        let mut buffer = worker.take_read_buffer();
        let most = usize::try_from(self.state.bytes_left()).unwrap_or(usize::MAX).clamp(1, buffer.len());
        let mut chunk = ReadBuf::new(&mut buffer[..most]);
        let began = self.state.conn.transport.deciphers().then(Instant::now);
        let result = self.state.conn.transport.poll_read(cx, &mut chunk);
        if let Some(began) = began {
            self.state.charge(began.elapsed());
        }
        match result {
            Poll::Ready(Ok(())) if chunk.filled().is_empty() => self.incoming.end(&mut self.state),
            Poll::Ready(Ok(())) => {
                self.state.conn.last_read.set(worker.shard.now());
                self.state.took_bytes(chunk.filled().len());
                self.incoming.take(&mut self.state, chunk.filled_mut());
            }
            Poll::Ready(Err(ref e)) => self.state.conn.close(CloseReason::Lost(e.to_string().into())),
            Poll::Pending => {}
        }
        worker.put_read_buffer(buffer);
        result.map(drop)
    }

    /// Writes what is owed, then waits until the client ends the socket; both only for a while.
    fn poll_lingering(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Phase::Lingering(lingering) = &mut self.state.phase else { return Poll::Ready(()) };
        while lingering.timer.as_mut().poll(cx).is_ready() {
            if !self.state.worker.outlasts(&self.state.conn, lingering) {
                return Poll::Ready(());
            }
            lingering.timer.as_mut().reset(tokio::time::Instant::now() + LINGER);
        }
        ready!(self.state.poll_flush(cx));
        self.state.conn.transport.shutdown_write();
        // With TLS, the end is something to write.
        ready!(self.state.poll_flush(cx));
        self.state.worker.poll_drain(&self.state.conn, cx)
    }

    /// No more messages from now on; the last hook runs.
    fn begin_ending(&mut self) {
        let (state, incoming) = (&mut self.state, &mut self.incoming);
        let reason = state.conn.close_reason().unwrap_or(CloseReason::Peer(None));
        if let Some(words) = state.conn.framing.close(&reason) {
            state.worker.shard.push_control(&state.conn, words);
        }
        incoming.on_closing(state);
        (state.pinned, state.turn) = (None, None);
        state.phase = Phase::Ending;
        if incoming.is_known() {
            state.start(Hook::Close, HookArgs::close(ConnRef::of(&state.conn), &reason));
        }
    }
}
