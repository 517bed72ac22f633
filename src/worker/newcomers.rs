//! Hooks of connections that are not open: in their handshake, or given up there. They share one account of time, since
//! none of them has a history of its own.

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
use crate::shard::fair::{Ticket, nanoseconds};

impl Worker {
    /// Charges the time that such a handler has taken.
    pub(super) fn charge_newcomers(&self, taken: Duration) {
        let (taken, mut account) = (nanoseconds(taken), self.newcomers.get());
        account.charge(taken);
        account.end_stretch(taken);
        self.newcomers.set(account);
        self.fair.pass(taken);
    }

    fn poll_newcomers_turn(&self, ticket: &mut Option<Ticket>, cx: &mut Context<'_>) -> Poll<()> {
        let mut account = self.newcomers.get();
        let turn = self.fair.poll_turn(&mut account, ticket, cx);
        self.newcomers.set(account);
        turn
    }

    /// Waits until a handler of a connection that is not open may run. Drop the result when the handler has run a
    /// stretch.
    pub(super) async fn newcomers_turn(&self) -> Option<Ticket> {
        let mut ticket = None;
        poll_fn(|cx| self.poll_newcomers_turn(&mut ticket, cx)).await;
        ticket
    }

    /// Polls such a handler once it may run.
    pub(super) fn poll_newcomer(
        &self,
        ticket: &mut Option<Ticket>,
        handler: &mut Handler,
        closed: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Returned, Failure>> {
        if self.poll_newcomers_turn(ticket, cx).is_pending() {
            return Poll::Pending;
        }
        let resumed = Instant::now();
        let polled = handler.poll(cx, closed);
        self.charge_newcomers(resumed.elapsed());
        *ticket = None;
        polled
    }
}

/// Runs the last hook of a connection that the script let in and that was never opened.
pub(super) async fn close_unopened(worker: &Worker, server: usize, conn: &Conn) {
    let vm = worker.vm(server);
    let reason = conn.close_reason().unwrap_or(CloseReason::Peer(None));
    let turn = worker.newcomers_turn().await;
    let (budget, began) = (conn.served.limits.get().handler_timeout, Began::now(&vm, Hook::Close));
    let args = HookArgs::close(ConnRef::of(conn), &reason);
    let started = vm.start(Hook::Close, Some(ConnRef::of(conn)), args, budget);
    worker.charge_newcomers(began.so_far());
    drop(turn);
    let result = match started {
        Started::Done(result) => result,
        Started::Suspended(mut handler) => {
            let mut ticket = None;
            poll_fn(|cx| worker.poll_newcomer(&mut ticket, &mut handler, false, cx)).await
        }
    };
    began.ended(Hook::Close, &result, conn);
    if let Err(failure) = result {
        report(Hook::Close, &failure, conn);
    }
}
