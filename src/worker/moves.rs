//! Tells channels whose rule says `joinLeave` who came and who went. What waits to be told is bounded: beyond it, the log
//! says how many were left out.

use std::future::poll_fn;
use std::rc::Rc;

use super::Worker;
use crate::hub::{Except, Publication};
use crate::message::Message;

/// Runs as long as the worker.
pub(super) async fn run(worker: Rc<Worker>) {
    loop {
        let told = poll_fn(|cx| worker.shard.poll_move(cx)).await;
        let text = told.text();
        let publication = Publication::new(told.channel, Message::text(text)).leaving_out(Except::new([told.client]));
        let publication = Publication { is_event: true, ..publication };
        worker.mesh.publish_uncounted(publication).await;
    }
}
