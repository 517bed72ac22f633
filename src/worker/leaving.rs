//! Takes connections that leave out of very many channels, in slices between which the worker does all else.

use std::future::poll_fn;
use std::rc::Rc;
use tokio::task::yield_now;

use super::Worker;

/// Runs as long as the worker.
pub(super) async fn run(worker: Rc<Worker>) {
    loop {
        poll_fn(|cx| worker.shard.poll_leaving(cx)).await;
        worker.shard.leave_some();
        // Unlike a mere wake-up, this lets the sockets be looked at before the next slice.
        yield_now().await;
    }
}
