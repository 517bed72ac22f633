//! The calls of one connection. Many are under way at once, but in order: a call is begun when the mailboxes have the
//! previous one, a publish does not overtake subscriptions that were commanded before it, and answers come out in the
//! order of the calls.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use super::request::{self, Call, Ready, Work};
use crate::api::error::ApiError;
use crate::api::fields::RequestId;
use crate::api::state::Api;
use crate::ids::ClientId;
use crate::telemetry::metrics::labels::ApiCall;

/// The most calls under way for a connection; at this limit the connection is not read.
const MAX_CALLS: usize = 1024;

/// The calls that are not answered yet.
#[derive(Default)]
pub(super) struct Calls {
    /// The oldest first. Only the newest may still be on its way into mailboxes, and only the oldest is polled for its
    /// answer; the others make progress without that.
    under_way: VecDeque<Call>,
    /// The clients that calls under way subscribe, in the order of the calls.
    joining: VecDeque<ClientId>,
}

impl Calls {
    /// Whether another call may be begun.
    pub(super) fn has_room(&self) -> bool {
        let newest = self.under_way.back().map(|call| &call.work);
        self.under_way.len() < MAX_CALLS && !matches!(newest, Some(Work::Enqueue(_)))
    }

    /// Whether all are answered.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Begins a call, as far as needed before the next may begin.
    pub(super) fn begin(&mut self, text: &[u8], api: &Api, cx: &mut Context<'_>) {
        // Other calls need no such care: they and what follows them go through the mailbox of the client's worker,
        // which keeps their order.
        let call = request::read(text, api, || api.mesh.behind(self.joining.iter().copied()));
        self.joining.extend(call.joins);
        self.under_way.push_back(call);
        self.poll_newest(cx);
    }

    /// Adds the answer to something that is not a call.
    pub(super) fn refuse(&mut self, error: ApiError) {
        self.under_way.push_back(Call::wrong(error));
    }

    /// Polls the newest call, if other calls have to wait for it.
    pub(super) fn poll_newest(&mut self, cx: &mut Context<'_>) {
        if let Some(Call { work, .. }) = self.under_way.back_mut()
            && let Work::Enqueue(enqueuing) = work
            && let Poll::Ready(enqueued) = enqueuing.as_mut().poll(cx)
        {
            *work = Work::Wait(enqueued);
        }
    }

    /// The oldest call, if it waits no more: its method, its request id, and what is to be done to answer it now.
    pub(super) fn next_ready(&mut self, cx: &mut Context<'_>) -> Option<(ApiCall, Option<RequestId>, Ready)> {
        let oldest = &mut self.under_way.front_mut()?.work;
        if let Work::Wait(enqueued) = oldest
            && let Poll::Ready(outcome) = enqueued.poll(cx)
        {
            *oldest = Work::Ready(Ready::Done(outcome));
        }
        if !matches!(oldest, Work::Ready(_)) {
            return None;
        }
        let Call { method, request_id, work: Work::Ready(ready), joins } = self.under_way.pop_front()? else {
            return None;
        };
        if joins.is_some() {
            self.joining.pop_front();
        }
        if self.under_way.is_empty() && self.under_way.capacity() > 64 {
            self.under_way.shrink_to(64);
        }
        Some((method, request_id, ready))
    }

    /// Takes all calls that are not answered.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Call> {
        self.joining.clear();
        self.under_way.drain(..)
    }
}
