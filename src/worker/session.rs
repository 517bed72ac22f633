//! A connection that has been let in, whatever its protocol: its handler, its share of the worker's time, and the phase
//! of its life.

use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::Worker;
use super::failures::report;
use super::linger::Lingering;
use super::measure::Began;
use super::trace::HandlerTrace;
use crate::config::Rates;
use crate::handover::Encoder;
use crate::message::{CloseReason, close_code};
use crate::script::current::ConnRef;
use crate::script::hooks::HookArgs;
use crate::script::vm::{Failure, Handler, Hook, Returned, Started, Turn, Vm};
use crate::shard::conn::Conn;
use crate::shard::fair::{Account, FRAME, STRETCH, Ticket, nanoseconds};
use crate::shard::hold::{Held, Offer};
use crate::shard::server_context::ConnectionPermit;
use crate::telemetry::metrics::labels::{EndReason, Label};
use crate::telemetry::spans::TraceContext;

/// A connection that has been let in.
pub(super) struct Opened {
    pub(super) conn: Rc<Conn>,
    pub(super) place: ConnectionPermit,
    /// Bytes that came with its request, and count as read.
    pub(super) early: usize,
    /// Of one that was open in the process before, which has counted it: the time that it took lately.
    pub(super) moved: Option<Account>,
}

/// A handler that waits.
pub(super) struct Running {
    hook: Hook,
    began: Began,
    pub(super) handler: Handler,
    /// None: it is not traced.
    trace: Option<Box<HandlerTrace>>,
}

impl Running {
    /// Goes on, once its wait is over. With the time that this took.
    pub(super) fn poll(
        &mut self,
        worker: &Worker,
        cx: &mut Context<'_>,
        closing: bool,
    ) -> (Poll<Result<Returned, Failure>>, Duration) {
        let resumed = Instant::now();
        let trace = worker.enter_trace(self.trace.as_deref());
        let polled = self.handler.poll(cx, closing);
        drop(trace);
        (polled, resumed.elapsed())
    }

    /// It has ended. Gives the hook, and how long it took in all.
    pub(super) fn ended(self, result: &Result<Returned, Failure>, conn: &Conn) -> (Hook, Duration) {
        if let Some(trace) = self.trace {
            trace.ended(result);
        }
        (self.hook, self.began.ended(self.hook, result, conn))
    }
}

/// The phase of a connection's life.
pub(super) enum Phase {
    /// Messages come and go.
    Open,
    /// No more messages; `on_close` runs.
    Ending,
    /// Out of the shard; only the socket is left.
    Lingering(Box<Lingering>),
    /// Nothing is left.
    Over,
}

/// A connection's state, except for its protocol's part. There may be a million of them, so its size counts.
pub(super) struct State {
    pub(super) worker: Rc<Worker>,
    pub(super) conn: Rc<Conn>,
    /// The handler that runs or waits.
    pub(super) handler: Option<Box<Running>>,
    /// Its place among those that wait until a handler may be started.
    pub(super) turn: Option<Turn>,
    /// The version of the script in which the current package began, and has to end.
    pub(super) pinned: Option<Rc<Vm>>,
    pub(super) phase: Phase,
    /// The time that it took lately.
    pub(super) account: Account,
    /// Its place in the queue for grants.
    pub(super) ticket: Option<Ticket>,
    /// The time that it took in the current stretch, in nanoseconds.
    pub(super) stretch: u32,
    /// A defect of the engine is ending it.
    broken: bool,
    place: ConnectionPermit,
}

impl State {
    /// The connection is open from now on.
    pub(super) fn new(worker: Rc<Worker>, opened: Opened) -> State {
        let Opened { conn, place, early, moved } = opened;
        if moved.is_none() {
            conn.served.counts.opened.add(1);
            if worker.shard.tap.is_on() {
                worker.shard.see_connect(&conn);
            }
            tracing::debug!(client_id = conn.client_id.get(), remote = %conn.remote(), "connected");
        }
        let account = moved.unwrap_or_else(|| Account::new(worker.fair.now()));
        let mut state = State {
            worker,
            conn,
            handler: None,
            turn: None,
            pinned: None,
            phase: Phase::Open,
            account,
            ticket: None,
            stretch: 0,
            broken: false,
            place,
        };
        if early > 0 {
            state.took_bytes(early);
        }
        state
    }

    /// The script that its next hook runs in.
    pub(super) fn vm(&self) -> Rc<Vm> {
        self.pinned.clone().unwrap_or_else(|| self.worker.vm(self.conn.served.index))
    }

    /// Ready when the connection may run a stretch: at once, unless it took much time lately. After the connection has
    /// ended, what is left needs no grant.
    pub(super) fn poll_grant(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.phase {
            Phase::Open | Phase::Ending => self.worker.fair.poll_turn(&mut self.account, &mut self.ticket, cx),
            Phase::Lingering(_) | Phase::Over => Poll::Ready(()),
        }
    }

    /// Charges time on the worker.
    pub(super) fn charge(&mut self, took: Duration) {
        self.charge_nanoseconds(nanoseconds(took));
    }

    fn charge_nanoseconds(&mut self, took: u32) {
        self.stretch = self.stretch.saturating_add(took);
        self.account.charge(took);
        self.worker.fair.pass(took);
    }

    /// Charges frames that have been read; the handling of their messages is charged separately.
    pub(super) fn charge_frames(&mut self, frames: u32) {
        self.charge_nanoseconds(frames.saturating_mul(FRAME));
    }

    /// Whether the stretch is used up, so that other connections run first.
    pub(super) fn is_others_turn(&self) -> bool {
        self.stretch >= STRETCH
    }

    /// Whether no handler is running, and one of that hook may be started.
    pub(super) fn may_start(&self, hook: Hook) -> bool {
        self.handler.is_none() && (self.conn.is_closing() || self.vm().may_start(hook, &self.conn))
    }

    /// The rates that bound what the client sends; None: there are none, and nothing of it is counted.
    fn rates(&self) -> Option<Rates> {
        Some(self.conn.served.rates.get()).filter(Rates::bounds_clients)
    }

    /// Ready when the client may be read, as far as its rates go; else the task is woken when it may.
    pub(super) fn poll_rates(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(rates) = self.rates() else { return Poll::Ready(()) };
        let served = &self.conn.served;
        self.place.meter(served, |meter| meter.poll(&rates, cx, |limit| served.counts.rate_pauses.one(limit)))
    }

    /// How many more messages of the client are handled now.
    pub(super) fn messages_left(&self) -> u64 {
        self.rates().map_or(u64::MAX, |rates| self.place.look(|meter| meter.messages_left(&rates)))
    }

    /// So many messages of the client are handled.
    pub(super) fn took_messages(&mut self, messages: u64) {
        if let Some(rates) = self.rates() {
            self.place.meter(&self.conn.served, |meter| meter.took_messages(&rates, messages));
        }
    }

    /// How many more bytes of the client are read now.
    pub(super) fn bytes_left(&self) -> u64 {
        self.rates().map_or(u64::MAX, |rates| self.place.look(|meter| meter.bytes_left(&rates)))
    }

    /// So many bytes of the client have been read.
    pub(super) fn took_bytes(&mut self, bytes: usize) {
        if let Some(rates) = self.rates() {
            self.place.meter(&self.conn.served, |meter| meter.took_bytes(&rates, bytes as u64));
        }
    }

    /// Ready when a handler may be started.
    pub(super) fn poll_turn(&mut self, hook: Hook, cx: &mut Context<'_>) -> Poll<()> {
        let vm = self.vm();
        vm.poll_turn(hook, &self.conn, &mut self.turn, cx)
    }

    /// Called after a panic in its task: no more messages, and the end. True: there was one before.
    pub(super) fn fail(&mut self) -> bool {
        self.handler = None;
        self.pinned = None;
        let what = "internal error".into();
        self.conn.close(CloseReason::Violation { code: close_code::INTERNAL, what });
        std::mem::replace(&mut self.broken, true)
    }

    /// Runs a hook until it returns or waits. Returns the result if the hook has finished without failing.
    pub(super) fn start(&mut self, hook: Hook, args: HookArgs<'_>) -> Option<Returned> {
        self.start_in(None, hook, args)
    }

    /// The same for a hook that belongs to a trace of its own, if one is given, and not to its connection's.
    pub(super) fn start_in(
        &mut self,
        parent: Option<Box<TraceContext>>,
        hook: Hook,
        args: HookArgs<'_>,
    ) -> Option<Returned> {
        let budget = self.conn.served.limits.get().handler_timeout;
        let vm = self.vm();
        let began = Began::now(&vm, hook);
        let trace = self.worker.trace(hook, &vm, &self.conn, parent);
        let entered = self.worker.enter_trace(trace.as_deref());
        let started = vm.start(hook, Some(ConnRef::of(&self.conn)), args, budget);
        drop(entered);
        match started {
            Started::Done(result) => {
                let took = began.ended(hook, &result, &self.conn);
                self.charge(took);
                if let Some(trace) = trace {
                    trace.ended(&result);
                }
                self.settle(hook, took, result)
            }
            Started::Suspended(handler) => {
                self.charge(began.so_far());
                self.handler = Some(Box::new(Running { hook, began, handler, trace }));
                None
            }
        }
    }

    /// The handler that waited has ended. Returns its result if it has not failed.
    pub(super) fn has_ended(&mut self, result: Result<Returned, Failure>) -> Option<Returned> {
        let (hook, took) = self.handler.take()?.ended(&result, &self.conn);
        self.settle(hook, took, result)
    }

    /// A hook has ended, after so long.
    pub(super) fn settle(&self, hook: Hook, took: Duration, result: Result<Returned, Failure>) -> Option<Returned> {
        let shard = &self.worker.shard;
        // None for a hook that the script does not have.
        if shard.tap.is_on() && !took.is_zero() {
            shard.see_handler(&self.conn, hook.name(), took, result.is_ok());
        }
        result
            .inspect_err(|failure| {
                report(hook, failure, &self.conn, shard);
                self.conn.close(CloseReason::HandlerFailed);
            })
            .ok()
    }

    /// Whether the client has ended the connection, so that what it sent before is still handled. After an end by the
    /// engine it is not.
    pub(super) fn is_their_end(&self) -> bool {
        matches!(self.conn.close_reason(), Some(CloseReason::Peer(_) | CloseReason::Lost(_)))
    }

    /// Ready when the last hook has returned; then the connection leaves the shard.
    pub(super) fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(running) = &mut self.handler {
            // The connection has ended already, so waits of this hook do not end with it.
            let (polled, took) = running.poll(&self.worker, cx, false);
            self.charge(took);
            let result = ready!(polled);
            self.has_ended(result);
        }
        self.leave();
        let reason = self.conn.close_reason();
        let over = match reason {
            // The socket has ended already, and nothing is owed.
            Some(CloseReason::Lost(_)) => true,
            Some(CloseReason::TooSlow | CloseReason::Memory) if self.conn.framing.tells_why() => {
                self.worker.takes_nothing(&self.conn)
            }
            Some(CloseReason::TooSlow | CloseReason::Memory | CloseReason::WriteTimeout) => {
                self.conn.transport.reset();
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
        let by = self.conn.ended_by().filter(|_| !self.broken).unwrap_or(EndReason::InternalError);
        self.worker.shard.ends(&self.conn, by);
        self.worker.backpressure.forget(&self.conn);
        if self.worker.remove(&self.conn) {
            self.conn.served.counts.closed.one(by);
            let told = || self.conn.close_reason().and_then(|reason| reason.error());
            tracing::debug!(client_id = self.conn.client_id.get(), by = by.word(), err = told(), "closed");
        }
    }

    /// Whether the worker holds still, and nothing is under way here: then there is nothing to do. A connection that the
    /// successor takes is offered to it; one that it has taken is over here, without a word to its client.
    pub(super) fn is_held(&mut self, protocol: impl FnOnce(&mut Encoder)) -> bool {
        let (hold, slot) = (self.worker.hold.clone(), self.conn.slot);
        let idle = matches!(self.phase, Phase::Open) && self.handler.is_none();
        // While two processes know it, its end has to wait, too: nothing may be written.
        let is_shared = hold.has_offered(slot) || hold.held() == Held::Arriving;
        if !idle || (self.conn.is_closing() && !is_shared) {
            return false;
        }
        match hold.held() {
            Held::No => return false,
            Held::Quiet | Held::Cut | Held::Arriving => {}
            Held::Offered if self.conn.transport.may_move() => hold.offer(slot, || {
                let mut out = Encoder::default();
                self.worker.shard.save(&self.conn, &self.place, &mut out);
                self.account.save(&mut out);
                protocol(&mut out);
                Offer { socket: self.conn.transport.as_raw_fd(), bytes: out.bytes.into() }
            }),
            Held::Moved if hold.has_offered(slot) => {
                if self.worker.remove(&self.conn) {
                    self.conn.served.counts.closed.one(EndReason::Shutdown);
                }
                self.phase = Phase::Over;
                return false;
            }
            // It stays, and ends here.
            Held::Offered | Held::Moved | Held::Left => {}
        }
        true
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<()> {
        let shard = &self.worker.shard;
        self.conn.poll_flush(cx, shard.scratch(), shard.now())
    }
}

impl Drop for State {
    /// However the task ended, even by a panic, nothing of the connection stays in the shard.
    fn drop(&mut self) {
        self.leave();
        self.worker.shard.hold(&self.conn, 0);
    }
}
