//! Publishes that were over the limits of their channels and were added up: they go on as one message each, when their window
//! ends.

use futures_util::future::{Either, select};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;
use tokio::time::sleep_until;

use super::Mesh;

impl Mesh {
    /// Sends what was added up, for as long as it is polled.
    pub async fn send_merged(self: Arc<Mesh>) {
        loop {
            let limits = self.hub.limits();
            let (due, next) = limits.take_due(Instant::now());
            for publication in due {
                self.publish_uncounted(publication).await;
            }
            let sooner = pin!(poll_fn(|cx| limits.poll_sooner(next, cx)));
            match next {
                None => sooner.await,
                Some(next) => match select(sooner, pin!(sleep_until(next.into()))).await {
                    Either::Left(_) | Either::Right(_) => {}
                },
            }
        }
    }
}
