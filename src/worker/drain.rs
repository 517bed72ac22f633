//! The end of a worker's connections when the engine stops: a few at a time, then all that are left.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

use super::Worker;
use crate::message::CloseReason;

/// How often some are closed.
const TICK: Duration = Duration::from_millis(20);

/// Closes the connections that are open now, a few at a time, so that the last goes after about `over`. `done` is dropped
/// then. A worker that is busy takes longer: it does not catch up, since that would be a crowd again.
pub(super) async fn close_clients(worker: Rc<Worker>, over: Duration, done: Sender<()>) {
    let mut open = Vec::new();
    worker.shard.each(|conn| open.push((conn.slot, conn.client_id)));
    worker.retry_over.set(over);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let all = open.len();
    for tick in 1.. {
        if open.is_empty() {
            break;
        }
        ticks.tick().await;
        for (slot, client) in open.drain(left_after(tick, all, over)..) {
            if let Some(conn) = worker.shard.get_at(slot, client) {
                conn.close(CloseReason::shutdown(over));
            }
        }
    }
    drop(done);
}

/// How many of `all` connections are still open after that many ticks; 0 is the last answer.
fn left_after(ticks: u32, all: usize, over: Duration) -> usize {
    let passed = TICK * ticks;
    if passed >= over {
        return 0;
    }
    let closed = (all as u128 * passed.as_millis()).div_ceil(over.as_millis().max(1));
    all - closed as usize
}

/// Closes every connection, and returns when the last has gone, and the last run of a timer has ended. The engine bounds
/// how long that may take.
pub(super) async fn run(worker: &Rc<Worker>) {
    let own = &worker.peers.loads[usize::from(worker.id.0)];
    while own.load(Relaxed) > 0 || Rc::strong_count(&worker.unbound_runs) > 1 {
        // Again each time: a connection may have been in its handshake before.
        worker.shard.each(|conn| {
            if !conn.is_closed() {
                conn.close(CloseReason::shutdown(worker.retry_over.get()));
            }
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_closed_evenly_and_all_of_them() {
        for (all, over) in [(0, 0), (1, 0), (7, 1), (1000, 0), (1, 5000), (50, 500), (1000, 1000), (100_000, 5000)] {
            let over = Duration::from_millis(over);
            let (mut open, mut ticks, mut most) = (all, 0, 0);
            while open > 0 {
                ticks += 1;
                let left = left_after(ticks, all, over);
                most = most.max(open - left);
                open = left;
            }
            assert!(TICK * ticks <= over + TICK, "{all} within {over:?}: {ticks} ticks");
            let even = (all as u128 * TICK.as_millis()).div_ceil(over.as_millis().max(TICK.as_millis())) as usize;
            assert!(most <= even + 1, "{all} within {over:?}: {most} at once, not {even}");
        }
        assert_eq!(left_after(1, 1, Duration::from_secs(5)), 0, "one by itself does not wait");
    }
}
