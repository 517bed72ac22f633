//! A worker's turn: deliver what the mailbox holds into outboxes, then write each connection that has something once.
//!
//! The task is woken by the first thing to do and so stands behind every task that was ready before: what they push
//! shares the same write. It works in slices, between which the worker reads and answers: what is published while a
//! large fan-out is being written joins the writes that are still to come.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::Worker;
use crate::hub::Delivery;

/// Frames put into outboxes in one slice, about.
const PUSHES: usize = 8192;
/// Connections written in one slice.
const WRITES: usize = 128;

/// The turn's task. It never ends by itself.
pub(super) struct Turn {
    worker: Rc<Worker>,
    deliveries: VecDeque<Delivery>,
}

impl Turn {
    pub(super) fn new(worker: Rc<Worker>) -> Turn {
        Turn { worker, deliveries: VecDeque::new() }
    }
}

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let turn = &mut *self;
        let (worker, shard) = (&turn.worker, &turn.worker.shard);
        shard.on_dirty(cx.waker());
        if turn.deliveries.is_empty() {
            worker.hub.mailbox(worker.id).take(&mut turn.deliveries, cx.waker());
        }
        let mut pushed = 0;
        while pushed < PUSHES
            && let Some(delivery) = turn.deliveries.pop_front()
        {
            pushed += 1 + shard.deliver(delivery);
        }
        let more_writes = shard.flush(WRITES);
        if more_writes || !turn.deliveries.is_empty() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}
