//! One timer for all of a worker's connections: read and write timeouts, the server's pings, and memory that a crowd has
//! left behind. A connection costs no timer of its own; its times are as exact as the sweep is frequent.

use std::rc::Rc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

use super::Worker;
use crate::message::CloseReason;
use crate::shard::conn::Conn;
use crate::wire::frame;

/// The sweep's bounds; between them it is an eighth of the shortest time it has to keep.
const QUICKEST: Duration = Duration::from_millis(10);
const SLOWEST: Duration = Duration::from_secs(1);

/// Runs for ever.
pub(super) async fn run(worker: Rc<Worker>) {
    let mut every = period(&worker);
    let mut timer = ticking(every);
    loop {
        timer.tick().await;
        sweep(&worker);
        let wanted = period(&worker);
        if wanted != every {
            every = wanted;
            timer = ticking(every);
            timer.tick().await;
        }
    }
}

fn ticking(every: Duration) -> tokio::time::Interval {
    let mut timer = interval(every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// An eighth of the shortest timeout in force.
fn period(worker: &Worker) -> Duration {
    let limits = worker.servers.iter().map(|s| s.served.limits.get());
    let shortest = limits
        .flat_map(|l| [l.read_timeout, l.write_timeout, l.ping_interval])
        .filter(|t| !t.is_zero())
        .min()
        .unwrap_or(SLOWEST);
    (shortest / 8).clamp(QUICKEST, SLOWEST)
}

fn sweep(worker: &Worker) {
    let shard = &worker.shard;
    let now = shard.tick();
    shard.each(|conn| {
        if !conn.is_closing() {
            visit(worker, conn, now);
        }
    });
    shard.give_back();
    if worker.id.0 == 0 {
        worker.hub.give_back();
    }
}

fn visit(worker: &Worker, conn: &Rc<Conn>, now: u32) {
    let limits = conn.served.limits.get();
    let over =
        |since: u32, limit: Duration| !limit.is_zero() && u128::from(now.wrapping_sub(since)) >= limit.as_millis();
    let stalled = || conn.stalled_since().is_some_and(|since| over(since, limits.write_timeout));
    if stalled() && !conn.nudge(worker.shard.scratch(), now) {
        conn.close(CloseReason::WriteTimeout);
        return;
    }
    let Some(silent_since) = conn.silent_since() else { return };
    if over(silent_since, limits.read_timeout) {
        conn.close(CloseReason::ReadTimeout);
    } else if !conn.is_raw()
        && over(silent_since, limits.ping_interval)
        && over(conn.last_ping.get(), limits.ping_interval)
    {
        conn.last_ping.set(now);
        worker.shard.push(conn, frame::encode_ping(b""));
    }
}
