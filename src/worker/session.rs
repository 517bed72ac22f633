//! The life of one connection on its worker, from its opening to the closed socket.
//!
//! One task a connection: it reads what the client sends, runs the script's hooks one after the other, and writes only
//! what the worker's turn could not. It is a state machine by hand, since there may be a million of them idle. What the
//! bytes mean is the business of [`Incoming`].

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::yield_now;

use super::accept::Load;
use super::fair::{Account, FRAME, STRETCH, Ticket, nanoseconds};
use super::incoming::Incoming;
use super::linger::{LINGER, Lingering};
use super::measure::Began;
use super::{Worker, defect};
use crate::message::{CloseReason, close_code};
use crate::script::current::ConnRef;
use crate::script::hooks::HookArgs;
use crate::script::vm::{Failure, Handler, Hook, Returned, Started, Turn, Vm};
use crate::shard::conn::Conn;
use crate::shard::served::Place;
use crate::telemetry::metrics::labels::{EndReason, Label};
use crate::telemetry::seldom::seldom;

/// A connection that has been let in.
pub(super) struct Opened {
    pub(super) conn: Rc<Conn>,
    pub(super) input: OwnedReadHalf,
    pub(super) place: Place,
}

enum Phase {
    /// Messages come and go.
    Open,
    /// No more messages; `on_close` runs.
    Ending,
    /// Out of the shard; only the socket is left.
    Lingering(Box<Lingering>),
    /// Nothing is left.
    Over,
}

struct Session<I> {
    incoming: I,
    input: OwnedReadHalf,
    state: State,
    _load: Load,
    _place: Place,
}

/// All but what the protocol keeps.
pub(super) struct State {
    pub(super) worker: Rc<Worker>,
    server: usize,
    pub(super) conn: Rc<Conn>,
    handler: Option<Box<(Hook, Began, Handler)>>,
    /// Its place among those that wait until a handler may be started.
    turn: Option<Turn>,
    /// The version of the script that has begun with a package, and is to end with it.
    pub(super) pinned: Option<Rc<Vm>>,
    phase: Phase,
    /// The time that it took lately.
    account: Account,
    /// Its place among those that took much.
    ticket: Option<Ticket>,
    /// The time that it took since others had their turn, in nanoseconds.
    stretch: u32,
    /// A defect of the engine ends it.
    broken: bool,
}

/// Serves a connection from here to its end.
pub(super) async fn run<I: Incoming>(worker: Rc<Worker>, server: usize, opened: Opened, incoming: I, load: Load) {
    let Opened { conn, input, place } = opened;
    conn.served.counts.opened.add(1);
    tracing::debug!(client_id = conn.client_id.get(), remote = %conn.remote, "connected");
    let (handler, turn, pinned, phase) = (None, None, None, Phase::Open);
    let account = Account::new(worker.shard.now());
    let state =
        State { worker, server, conn, handler, turn, pinned, phase, account, ticket: None, stretch: 0, broken: false };
    let mut session = Session { incoming, input, state, _load: load, _place: place };
    // After a defect of the engine the script is told of the end all the same.
    defect::run(&mut session, Session::poll, |session| session.state.fail()).await;
}

impl<I: Incoming> Session<I> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.state.conn.register(cx.waker());
        if self.state.poll_grant(cx).is_pending() {
            return Poll::Pending;
        }
        self.state.stretch = 0;
        let polled = self.poll_phases(cx);
        // A grant is for one stretch.
        self.state.ticket = None;
        self.state.account.end_stretch(self.state.stretch);
        self.state.worker.shard.hold(&self.state.conn, self.incoming.held(&self.state));
        polled
    }

    fn poll_phases(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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
        let (state, incoming) = (&mut self.state, &mut self.incoming);
        if state.is_others_turn() {
            // Unlike a mere wake-up, this lets the sockets be looked at.
            let _ = pin!(yield_now()).poll(cx);
            return Poll::Pending;
        }
        let closing = state.conn.is_closing();
        if let Some(running) = &mut state.handler {
            let (hook, began, handler) = &mut **running;
            let resumed = Instant::now();
            let polled = handler.poll(cx, closing);
            let took = resumed.elapsed();
            let (hook, began) = (*hook, *began);
            state.charge(took);
            match polled {
                Poll::Ready(result) => {
                    state.handler = None;
                    began.ended(hook, &result, &state.conn);
                    if let Some(returned) = state.settle(hook, result) {
                        incoming.returned(state, returned);
                    }
                    return Poll::Ready(());
                }
                // Told of the end, its waits fail: it is pending only while the connection lives.
                Poll::Pending if closing => return Poll::Pending,
                Poll::Pending => {}
            }
        } else if state.conn.is_closed() && !(state.is_their_end() && incoming.has_work(state)) {
            state.begin_ending(incoming);
            return Poll::Ready(());
        } else if incoming.has_work(state) {
            // Handlers of a client that has gone wait for nothing, and so need no place among those that wait.
            if !closing && state.poll_turn(incoming.next_hook(), cx).is_pending() {
                return self.pause(cx);
            }
            state.turn = None;
            incoming.work(state);
            return Poll::Ready(());
        }
        if incoming.go_on(state, state.handler.is_none()) {
            return Poll::Ready(());
        }
        if state.conn.is_closed() || !incoming.has_room(state) {
            return self.pause(cx);
        }
        state.conn.resume_reading(state.worker.shard.now());
        self.poll_read(cx)
    }

    /// Does not read for now; a handler, or its turn, is waited for. The client's end is still seen: by the worker's timer,
    /// or here, if it closes in what has come already.
    fn pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let conn = &self.state.conn;
        conn.pause_reading();
        if I::CLOSES && conn.is_paused() && !conn.is_closing() && conn.take_look() {
            let mut buffer = self.state.worker.take_read_buffer();
            let mut unread = ReadBuf::new(&mut buffer);
            match self.input.poll_peek(cx, &mut unread) {
                // The system tells it once.
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
        let mut chunk = ReadBuf::new(&mut buffer);
        let result = Pin::new(&mut self.input).poll_read(cx, &mut chunk);
        match result {
            Poll::Ready(Ok(())) if chunk.filled().is_empty() => self.incoming.end(&mut self.state),
            Poll::Ready(Ok(())) => {
                self.state.conn.last_read.set(worker.shard.now());
                self.incoming.take(&mut self.state, chunk.filled_mut());
            }
            Poll::Ready(Err(ref e)) => self.state.conn.close(CloseReason::Lost(e.to_string().into())),
            Poll::Pending => {}
        }
        worker.put_read_buffer(buffer);
        result.map(drop)
    }

    /// Writes what is owed, then waits for the client's end of the socket; both only for a while.
    fn poll_lingering(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Phase::Lingering(lingering) = &mut self.state.phase else { return Poll::Ready(()) };
        while lingering.timer.as_mut().poll(cx).is_ready() {
            if !self.state.worker.outlasts(&self.state.conn, lingering) {
                return Poll::Ready(());
            }
            lingering.timer.as_mut().reset(tokio::time::Instant::now() + LINGER);
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
    /// The script that its next hook runs in.
    pub(super) fn vm(&self) -> Rc<Vm> {
        self.pinned.clone().unwrap_or_else(|| self.worker.vm(self.server))
    }

    /// Ready when the connection may run a stretch: at once, unless it took much lately. What is left of one that has ended
    /// takes nothing.
    fn poll_grant(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.phase {
            Phase::Open | Phase::Ending => {
                let (worker, now) = (&self.worker, self.worker.shard.now());
                worker.fair.poll_turn(&mut self.account, &mut self.ticket, now, cx)
            }
            Phase::Lingering(_) | Phase::Over => Poll::Ready(()),
        }
    }

    /// So much of the worker's time has been taken.
    fn charge(&mut self, took: Duration) {
        self.charge_nanoseconds(nanoseconds(took));
    }

    fn charge_nanoseconds(&mut self, took: u32) {
        self.stretch = self.stretch.saturating_add(took);
        self.account.charge(took);
        self.worker.fair.pass(took);
    }

    /// So many frames have been read; what their messages took is charged apart.
    pub(super) fn charge_frames(&mut self, frames: u32) {
        self.charge_nanoseconds(frames.saturating_mul(FRAME));
    }

    /// So much has been taken that others are to have their turn first.
    pub(super) fn is_others_turn(&self) -> bool {
        self.stretch >= STRETCH
    }

    /// No handler is running, and one of that hook may be started.
    pub(super) fn may_start(&self, hook: Hook) -> bool {
        self.handler.is_none() && (self.conn.is_closing() || self.vm().may_start(hook, &self.conn))
    }

    /// Ready when a handler may be started.
    fn poll_turn(&mut self, hook: Hook, cx: &mut Context<'_>) -> Poll<()> {
        let vm = self.vm();
        vm.poll_turn(hook, &self.conn, &mut self.turn, cx)
    }

    /// After a defect of the engine in its task: no more messages, and the end.
    fn fail(&mut self) {
        self.handler = None;
        self.pinned = None;
        self.broken = true;
        let what = "internal error".into();
        self.conn.close(CloseReason::Violation { code: close_code::INTERNAL, what });
    }

    /// Runs a hook till it returns or waits; what it returned, if it is done and has not failed.
    pub(super) fn start(&mut self, hook: Hook, args: HookArgs<'_>) -> Option<Returned> {
        let budget = self.conn.served.limits.get().handler_timeout;
        let vm = self.vm();
        let began = Began::now(&vm, hook);
        match vm.start(hook, Some(ConnRef::of(&self.conn)), args, budget) {
            Started::Done(result) => {
                let took = began.ended(hook, &result, &self.conn);
                self.charge(took);
                self.settle(hook, result)
            }
            Started::Suspended(handler) => {
                self.charge(began.so_far());
                self.handler = Some(Box::new((hook, began, handler)));
                None
            }
        }
    }

    fn settle(&self, hook: Hook, result: Result<Returned, Failure>) -> Option<Returned> {
        result
            .inspect_err(|failure| {
                report(hook, failure, &self.conn);
                self.conn.close(CloseReason::HandlerFailed);
            })
            .ok()
    }

    /// The client has gone, but what it sent before is still to be handled. After an end of our own making, it is not.
    fn is_their_end(&self) -> bool {
        matches!(self.conn.close_reason(), Some(CloseReason::Peer(_) | CloseReason::Lost(_)))
    }

    /// From here on no messages; the last hook runs.
    fn begin_ending(&mut self, incoming: &mut impl Incoming) {
        let reason = self.conn.close_reason().unwrap_or(CloseReason::Peer(None));
        incoming.farewell(self, &reason);
        (self.pinned, self.turn) = (None, None);
        self.phase = Phase::Ending;
        if incoming.is_known() {
            self.start(Hook::Close, HookArgs::close(ConnRef::of(&self.conn), &reason));
        }
    }

    /// Ready when the last hook has returned; then the connection leaves the shard.
    fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(running) = &mut self.handler {
            let (hook, began, handler) = &mut **running;
            // Its connection has ended already: its own waits are its own affair.
            let resumed = Instant::now();
            let polled = handler.poll(cx, false);
            let took = resumed.elapsed();
            let (hook, began) = (*hook, *began);
            self.charge(took);
            let result = ready!(polled);
            self.handler = None;
            began.ended(hook, &result, &self.conn);
            self.settle(hook, result);
        }
        self.leave();
        let reason = self.conn.close_reason();
        let over = match reason {
            // The socket has ended already, and nothing is owed.
            Some(CloseReason::Lost(_)) => true,
            Some(CloseReason::TooSlow | CloseReason::Memory) if !self.conn.is_raw() => {
                self.worker.takes_nothing(&self.conn)
            }
            Some(CloseReason::TooSlow | CloseReason::Memory | CloseReason::WriteTimeout) => {
                self.conn.reset();
                false
            }
            _ => false,
        };
        let linger = || Phase::Lingering(Lingering::new(&self.conn, self.worker.shard.now()));
        self.phase = if over { Phase::Over } else { linger() };
        Poll::Ready(())
    }

    /// Out of the shard.
    fn leave(&self) {
        if self.worker.shard.remove(&self.conn) {
            let by = self.conn.ended_by().filter(|_| !self.broken).unwrap_or(EndReason::InternalError);
            self.conn.served.counts.closed.one(by);
            let told = || self.conn.close_reason().and_then(|reason| reason.error());
            tracing::debug!(client_id = self.conn.client_id.get(), by = by.word(), err = told(), "closed");
        }
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
        self.leave();
        self.worker.shard.hold(&self.conn, 0);
    }
}

/// Logs a hook's failure, once, with all that its author needs; of those at one place, one a second.
pub(super) fn report(hook: Hook, failure: &Failure, conn: &Conn) {
    let hook = failure.hook(hook).name();
    seldom!(ERROR, "handlers fail", &format!("{hook} {}", failure.place());
        target: "script",
        client_id = conn.client_id.get(),
        remote = %conn.remote,
        hook,
        traceback = failure.traceback.join(" < "),
        "{}",
        failure.message
    );
}
