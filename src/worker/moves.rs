//! Tells channels whose rule says `joinLeave` who came and who went. What waits to be told is bounded: beyond it, the log
//! says how many were left out.

use std::future::poll_fn;
use std::rc::Rc;

use super::Worker;
use crate::hub::{Except, Moved, Publication, PublishOptions};
use crate::message::Message;

/// Runs as long as the worker.
pub(super) async fn run(worker: Rc<Worker>) {
    loop {
        let told = poll_fn(|cx| worker.shard.poll_move(cx)).await;
        let text = told.text();
        let options = PublishOptions { except: Except::new([told.client]), ..PublishOptions::default() };
        let moved = Some(if told.came { Moved::Came } else { Moved::Went });
        let publication = Publication::new(told.channel, Message::text(text)).with(options);
        let publication = Publication { moved, ..publication };
        worker.mesh.publish_uncounted(publication).await;
    }
}
