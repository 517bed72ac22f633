//! Tells channels whose rule says `joinLeave` who came and who went. What waits to be told is bounded: beyond it, the log
//! says how many were left out.

use std::future::poll_fn;
use std::rc::Rc;

use super::Worker;
use crate::hub::{Except, Publication, PublishOptions};
use crate::message::{Key, Message};

/// Runs as long as the worker.
pub(super) async fn run(worker: Rc<Worker>) {
    loop {
        let told = poll_fn(|cx| worker.shard.poll_move(cx)).await;
        let text = told.text();
        // For a client that is slow, it counts whether this one is there.
        let key = Key::parse(format!("@{}", told.client).as_bytes()).ok();
        let options = PublishOptions { except: Except::new([told.client]), key, ..PublishOptions::default() };
        let publication = Publication::new(told.channel, Message::text(text)).with(options);
        let publication = Publication { is_event: true, ..publication };
        worker.mesh.publish_uncounted(publication).await;
    }
}
