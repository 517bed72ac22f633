//! What this node knows of another one, and the stream of frames that comes from it.

use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

use super::delivery::Waiting;
use crate::cluster::interest::own::Version;
use crate::cluster::link::Link;
use crate::cluster::protocol::{Hello, Message};

/// A node is told that something was lost, and begins its stream anew, no more often than so many milliseconds.
pub(super) const RESTART: u64 = 100;

/// Another node that has proved that it knows the secret, as this one knows it.
pub(super) struct Peer {
    pub(super) hello: Hello,
    /// When something of it came last.
    pub(super) heard: u64,
    /// The link to it has ended, and nothing was heard since.
    pub(super) closed: bool,
    /// It hands over to a successor process, and has until then to answer.
    pub(super) patience: u64,
    pub(super) link: Arc<Link>,
    /// Where it is dialled, as it has said.
    pub(super) reached: Vec<String>,
    /// When our stream to it began last.
    pub(super) restarted: u64,
    /// The epoch of its last greeting.
    pub(super) greeting: u32,
    pub(super) incoming: Incoming,
    /// All of its channels are known here.
    pub(super) complete: bool,
    /// The version of its channels that is known here.
    pub(super) version: Version,
    /// The version of our channels that it knows.
    pub(super) knows: Option<Version>,
}

/// The stream from a node.
#[derive(Default)]
pub(super) struct Incoming {
    pub(super) epoch: u32,
    /// Frames that came.
    pub(super) came: u64,
    /// Frames that were worked off, and how many of them the node was told.
    pub(super) done: u64,
    pub(super) told: u64,
    pub(super) backlog: VecDeque<(Bytes, usize)>,
    /// What was taken out of the backlog, to be worked off before it: see [`super::moving`].
    pub(super) early: VecDeque<(Bytes, usize)>,
    pub(super) bytes: usize,
    pub(super) waiting: Option<Waiting>,
    pub(super) snapshot: Vec<u64>,
    /// When it was told last that something was lost.
    pub(super) complained: Option<u64>,
}

impl Peer {
    /// What it says of itself now. True: that is new.
    pub(super) fn update(&mut self, hello: Hello) -> bool {
        // What proves the node may not be changed by what is not proven.
        let is_new = self.hello.nonce == hello.nonce && self.hello != hello;
        if is_new {
            self.hello = hello;
        }
        is_new
    }

    /// Whether something of its stream waits to be worked off.
    pub(super) fn has_work(&self) -> bool {
        let Incoming { waiting, early, backlog, .. } = &self.incoming;
        waiting.is_some() || !early.is_empty() || !backlog.is_empty()
    }

    /// Its channels are known here up to that version.
    pub(super) fn knows_ours(&mut self, version: Version, now: u64) {
        self.version = version;
        self.link.force(&Message::InterestKnown { version }.to_bytes(), None, now);
    }
}

/// Tells the log that a node does not answer.
pub(super) fn suspect(peer: &Peer) {
    tracing::warn!(node = %peer.hello.api.escape_debug(), "a node does not answer; it is not waited for until it does");
}

/// Tells a node that something of its stream was lost.
pub(super) fn complain(peer: &mut Peer, epoch: u32, now: u64) {
    let complained = &mut peer.incoming.complained;
    if complained.is_none_or(|then| now >= then + RESTART || now < then) {
        *complained = Some(now);
        peer.link.aside(Some(&Message::Lost { epoch }));
    }
}
