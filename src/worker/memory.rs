//! What a worker does when memory is short: it reports how much its clients hold, then closes the largest of them, and
//! gives back what those of the last time have left.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::Worker;
use crate::memory::{LEAST, Order, give_back};
use crate::message::CloseReason;
use crate::shard::conn::Conn;

/// How long the worker waits for the other workers' reports.
const SETTLE: Duration = Duration::from_millis(30);
/// The slots that are visited in one slice.
const SLICE: usize = 4096;
/// The worker spends at most this part of its time on visiting all its clients.
const PART: u32 = 10;
/// If the process uses too much for other reasons, clients that hold less than this stay: closing them would not help.
const SPARED: usize = 16 * LEAST;

/// Runs as long as the worker.
pub(super) async fn run(worker: Rc<Worker>) {
    let mut orders = worker.memory.orders();
    while orders.changed().await.is_ok() {
        let order = *orders.borrow_and_update();
        let began = Instant::now();
        give_back();
        let told = &worker.memory.told()[usize::from(worker.id.0)];
        told.sizes.clear();
        each(&worker, |conn| told.sizes.add(held(conn, order))).await;
        let looked = began.elapsed();
        sleep(SETTLE).await;
        let cut = worker.memory.cut(order.bytes);
        let mut left = told.sizes.share(&cut);
        each(&worker, |conn| {
            let size = held(conn, order);
            if !conn.is_closed() && cut.takes(size, &mut left) {
                told.closed.fetch_add(1, Relaxed);
                told.freed.fetch_add(size, Relaxed);
                conn.close(CloseReason::Memory);
            }
        })
        .await;
        // Other workers may still be visiting: the reports stay until the next order.
        sleep(looked * PART).await;
    }
}

/// What closing that client would free, counted as the order says.
fn held(conn: &Conn, order: Order) -> usize {
    match order.unread {
        false => conn.holding(),
        true => Some(conn.holding_both_ways()).filter(|bytes| *bytes >= SPARED).unwrap_or(0),
    }
}

/// Visits all of a worker's connections, in slices between which the worker does its other work.
async fn each(worker: &Worker, mut visit: impl FnMut(&Rc<Conn>)) {
    let mut at = 0;
    while at < worker.shard.slots() {
        worker.shard.each_in(at..at + SLICE, &mut visit);
        at += SLICE;
        yield_now().await;
    }
}
