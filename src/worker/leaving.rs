//! Removes connections that leave out of very many channels, in slices between which the worker does its other work.

use std::future::poll_fn;
use std::rc::Rc;
use tokio::task::yield_now;

use super::Worker;

/// Runs as long as the worker.
pub(super) async fn run(worker: Rc<Worker>) {
    loop {
        poll_fn(|cx| worker.shard.poll_leaving(cx)).await;
        worker.shard.leave_some();
        // Unlike a plain wake-up, this lets the runtime poll the sockets before the next slice.
        yield_now().await;
    }
}
