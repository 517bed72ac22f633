//! A worker's event loop turn: deliver what the mailbox holds into outboxes, then write once to each connection that
//! has something.
//!
//! The task is woken by the first thing to do, and so runs after every task that was ready before: what they push
//! shares the same write. It works in slices, between which the worker reads and answers: what is published while a
//! large fan-out is being written joins the writes that are still to come.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::task::yield_now;

use super::Worker;
use crate::hub::Delivery;

/// The approximate number of frames that are put into outboxes in one slice.
const PUSHES: usize = 8192;
/// The connections written in one slice, by all workers together, since each publish waits for all of them.
const WRITES: usize = 32;
/// The connections written in one slice by each worker, at least.
const MIN_WRITES: usize = 8;
/// How long connections of a crowd are written in one slice: much may wait for each of them.
const WRITING: Duration = Duration::from_micros(250);

/// How long scripts may encode in one slice, give or take one call.
const ENCODING: Duration = Duration::from_millis(1);

/// Never returns.
pub(super) async fn run(worker: Rc<Worker>) {
    // What was taken out of the mailbox, and the frames that came of it so far.
    let (mut deliveries, mut pushes) = (VecDeque::new(), 0);
    let workers = worker.hub.workers();
    let writes = (WRITES / workers).max(MIN_WRITES);
    loop {
        poll_fn(|cx| poll_work(&worker, &mut deliveries, &mut pushes, cx)).await;
        if worker.hold.is_silent() {
            worker.hold.may_write().await;
        }
        // Nobody else is served while the worker holds still, and all wait until everything is written.
        let still = worker.hold.is_on();
        let writing = if still { (usize::MAX, Duration::MAX) } else { (writes, WRITING) };
        let (pushed, more) = slice(&worker, &mut deliveries, writing);
        pushes += pushed;
        worker.fair.delivers(more);
        if more {
            // Unlike a plain wake-up, this lets the runtime poll the sockets before the next slice.
            yield_now().await;
            if workers > 1 && !still {
                // Another worker may wait for this core, and a publish for that worker.
                std::thread::yield_now();
            }
        }
    }
}

/// Ready when there is something to deliver or to write. It registers for a wake-up only when there is nothing: a slice
/// that woke itself would be followed by the next one at once, and the sockets would not be polled.
fn poll_work(
    worker: &Worker,
    deliveries: &mut VecDeque<Delivery>,
    pushes: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<()> {
    if deliveries.is_empty() {
        worker.hub.mailbox(worker.id).take(deliveries, std::mem::take(pushes), cx.waker());
    }
    let idle = deliveries.is_empty() && !worker.shard.is_dirty() && !worker.shard.is_encoding();
    worker.hold.delivered.set(idle);
    worker.shard.wake_when_dirty(idle.then(|| cx.waker()));
    if idle { Poll::Pending } else { Poll::Ready(()) }
}

/// Does a slice of the work. Returns how many frames were put into outboxes, and whether there is more to do.
fn slice(worker: &Worker, deliveries: &mut VecDeque<Delivery>, (writes, longest): (usize, Duration)) -> (usize, bool) {
    let mut pushed = 0;
    let mut began = None;
    // Encoding in scripts may take any time, so it is measured.
    let mut enough = || began.get_or_insert_with(Instant::now).elapsed() >= ENCODING;
    while pushed < PUSHES {
        if worker.shard.is_encoding() {
            pushed += worker.shard.encode_on(worker, &mut enough);
            if enough() {
                break;
            }
        }
        let Some(done) = worker.shard.deliver(deliveries) else { break };
        pushed += 1 + done;
    }
    let more_writes = worker.shard.flush(writes, longest);
    (pushed, more_writes || !deliveries.is_empty() || worker.shard.is_encoding())
}
