//! Work that has no account of time of its own: TLS and hooks of connections that are not open (in their handshake, or
//! given up there) share one, and hooks without a connection another.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Worker;
use super::failures::report;
use super::measure::Began;
use crate::message::CloseReason;
use crate::script::current::ConnRef;
use crate::script::hooks::HookArgs;
use crate::script::vm::{Failure, Handler, Hook, Returned, Started};
use crate::shard::conn::Conn;
use crate::shard::fair::{Account, Ticket, nanoseconds};

impl Worker {
    /// Charges the time that a handler has taken to a shared account.
    pub(super) fn charge_shared(&self, shared: &Cell<Account>, taken: Duration) {
        let (taken, mut account) = (nanoseconds(taken), shared.get());
        account.charge(taken);
        account.end_stretch(taken);
        shared.set(account);
        self.fair.pass(taken);
    }

    fn poll_shared_turn(&self, shared: &Cell<Account>, ticket: &mut Option<Ticket>, cx: &mut Context<'_>) -> Poll<()> {
        let mut account = shared.get();
        let turn = self.fair.poll_turn(&mut account, ticket, cx);
        shared.set(account);
        turn
    }

    /// Waits until a handler of a shared account may run. Drop the result when the handler has run a stretch.
    pub(super) async fn shared_turn(&self, shared: &Cell<Account>) -> Option<Ticket> {
        let mut ticket = None;
        poll_fn(|cx| self.poll_shared_turn(shared, &mut ticket, cx)).await;
        ticket
    }

    /// Polls work of a shared account once it may run, and charges its time.
    pub(super) fn poll_charged<T>(
        &self,
        shared: &Cell<Account>,
        ticket: &mut Option<Ticket>,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.poll_shared_turn(shared, ticket, cx).is_pending() {
            return Poll::Pending;
        }
        let began = Instant::now();
        let polled = work(cx);
        self.charge_shared(shared, began.elapsed());
        *ticket = None;
        polled
    }

    /// Polls such a handler once it may run.
    pub(super) fn poll_shared(
        &self,
        shared: &Cell<Account>,
        ticket: &mut Option<Ticket>,
        handler: &mut Handler,
        closed: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Returned, Failure>> {
        self.poll_charged(shared, ticket, cx, |cx| handler.poll(cx, closed))
    }
}

/// Runs the last hook of a connection that the script let in and that was never opened.
pub(super) async fn close_unopened(worker: &Worker, server: usize, conn: &Conn) {
    let vm = worker.vm(server);
    let reason = conn.close_reason().unwrap_or(CloseReason::Peer(None));
    let turn = worker.shared_turn(&worker.newcomers).await;
    let (budget, began) = (conn.served.limits.get().handler_timeout, Began::now(&vm, Hook::Close));
    let args = HookArgs::close(ConnRef::of(conn), &reason);
    let started = vm.start(Hook::Close, Some(ConnRef::of(conn)), args, budget);
    worker.charge_shared(&worker.newcomers, began.so_far());
    drop(turn);
    let result = match started {
        Started::Done(result) => result,
        Started::Suspended(mut handler) => {
            let mut ticket = None;
            poll_fn(|cx| worker.poll_shared(&worker.newcomers, &mut ticket, &mut handler, false, cx)).await
        }
    };
    began.ended(Hook::Close, &result, conn);
    if let Err(failure) = result {
        report(Hook::Close, &failure, conn, &worker.shard);
    }
}
