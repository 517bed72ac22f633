//! Asks other nodes about connections that a back end has brought into channels with a bound (`maxSubscribers`), and takes out
//! again those for whom there is no place.

use std::future::poll_fn;
use std::rc::Rc;
use tokio::task::spawn_local;

use super::Worker;
use crate::hub::CommandError;
use crate::shard::unsettled::Unsettled;

/// Runs as long as the worker.
pub(super) async fn run(worker: Rc<Worker>) {
    loop {
        let one = poll_fn(|cx| worker.shard.poll_unsettled(cx)).await;
        spawn_local(settle(worker.clone(), one));
    }
}

async fn settle(worker: Rc<Worker>, one: Unsettled) {
    let Unsettled { client, bounded, new, reply } = one;
    // The caller may have gone.
    let _ = reply.send(match worker.mesh.find_full(&bounded).await {
        None => Ok(()),
        Some(full) => Err(match worker.shard.get(client) {
            Some(conn) => {
                worker.shard.unsubscribe(&conn, &new);
                CommandError::Bound(worker.shard.no_place(&conn, &new, full).to_string())
            }
            None => CommandError::NotConnected(client.get()),
        }),
    });
}
