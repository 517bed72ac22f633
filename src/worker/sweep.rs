//! One timer for all of a worker's connections: read and write timeouts, the server's pings, the end of clients that
//! are not read, and memory that a crowd has left behind. A connection has no timer of its own; its times are as exact
//! as the sweep is frequent.

use std::rc::Rc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

use super::Worker;
use crate::hub::history::now as now_of_history;
use crate::message::CloseReason;
use crate::shard::conn::Conn;
use crate::shard::transport::Gone;

/// The bounds of the sweep's period; between them it is an eighth of the shortest timeout.
const QUICKEST: Duration = Duration::from_millis(10);
const SLOWEST: Duration = Duration::from_secs(1);

/// Without a `readTimeout`: the silence after which the machine of a client that is not read is asked for a sign of
/// life.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Never returns.
pub(super) async fn run(worker: Rc<Worker>) {
    let mut every = period(&worker);
    let mut timer = ticking(every);
    loop {
        timer.tick().await;
        if worker.hold.is_on() {
            worker.hold.lifted().await;
        }
        sweep(&worker, every + SLOWEST);
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
        .flat_map(|l| [l.read_timeout, l.write_timeout, l.message_timeout, l.ping_interval])
        .filter(|t| !t.is_zero())
        .min()
        .unwrap_or(SLOWEST);
    (shortest / 8).clamp(QUICKEST, SLOWEST)
}

/// `at_most`: the most time that can have passed since the last sweep, unless the worker was held up.
fn sweep(worker: &Worker, at_most: Duration) {
    let shard = &worker.shard;
    let now = shard.tick(at_most);
    worker.fair.tick(now);
    shard.each(|conn| {
        if !conn.is_closed() {
            visit(worker, conn, now);
        }
    });
    shard.shrink();
    worker.measure();
    if worker.id.0 == 0 {
        worker.hub.shrink();
        worker.hub.history().sweep(now_of_history());
    }
}

fn visit(worker: &Worker, conn: &Rc<Conn>, now: u32) {
    let limits = conn.served.limits.get();
    let over =
        |since: u32, limit: Duration| !limit.is_zero() && u128::from(now.wrapping_sub(since)) >= limit.as_millis();
    let stalled = || conn.stalled_since().is_some_and(|since| over(since, limits.write_timeout));
    if stalled() && !conn.probe_write(worker.shard.scratch(), now) {
        conn.close(CloseReason::WriteTimeout);
        return;
    }
    let silent = |limit| conn.silent_since().is_none_or(|since| over(since, limit));
    if conn.is_paused() {
        listen(conn, limits.read_timeout, now, over);
    } else if silent(limits.read_timeout) {
        if conn.framing.clients_are_heard() {
            conn.close(CloseReason::ReadTimeout);
        } else {
            ask_system(conn, limits.read_timeout, now);
        }
    } else if conn.unfinished_since().is_some_and(|since| over(since, limits.message_timeout)) {
        conn.close(CloseReason::MessageTimeout);
    }
    // While a client is not read, its pong is not seen; but proxies between it and here see traffic.
    if !conn.is_corked()
        && !conn.is_closing()
        && (!conn.framing.clients_are_heard() || silent(limits.ping_interval))
        && over(conn.last_ping.get(), limits.ping_interval)
        && let Some(ping) = conn.framing.ping()
    {
        conn.last_ping.set(now);
        worker.shard.push_unhurried(conn, ping);
    }
}

/// Checks a client that is not read for now: whether it has gone, and whether its machine still answers.
fn listen(conn: &Rc<Conn>, read_timeout: Duration, now: u32, over: impl Fn(u32, Duration) -> bool) {
    match conn.transport.gone() {
        Gone::Wholly => return conn.lose(None),
        Gone::Sending if conn.framing.may_stop_sending() => return conn.sends_no_more(now),
        Gone::Sending => return conn.lose(None),
        Gone::No => {}
    }
    conn.attend(if read_timeout.is_zero() { KEEP_ALIVE } else { read_timeout / 4 });
    if over(conn.last_read.get(), read_timeout) {
        ask_system(conn, read_timeout, now);
    }
    if conn.framing.clients_close() && !conn.is_corked() {
        conn.look_again();
    }
}

/// Closes a connection whose machine has not answered for that long; its silence alone says nothing.
fn ask_system(conn: &Conn, read_timeout: Duration, now: u32) {
    let unanswered = conn.transport.unanswered();
    if unanswered >= read_timeout {
        conn.close(CloseReason::ReadTimeout);
    } else {
        conn.last_read.set(now.wrapping_sub(unanswered.as_millis() as u32));
    }
}
