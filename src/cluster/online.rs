//! Telling the connections of a channel how many there are, when that has changed: at most once in the interval of its rule.
//!
//! For each channel one node counts and tells: that with the largest hash of node and channel among those that serve. Each
//! node says to it that the number here has changed. All nodes say so of all their channels when nodes come or go, or when
//! something was lost on the way to one: so the one that takes over begins at once, and a node that is gone is not counted.
//! The number goes to each node with subscribers, which passes it on unless it is the one that was passed on last. So while
//! two nodes do not agree which of them tells a channel's number, nobody hears the same twice.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

use super::enqueue::{Remote, ToChannel, put_all};
use super::interest::hash;
use super::protocol::{Message, Run};
use super::{Behind, Mesh};
use crate::hub::{ChannelAction, Counts, PendingCounts, Publication, PublishOptions, enveloped};
use crate::message::{Channel, Key};

/// So often it is looked what is to be told.
const TICK: Duration = Duration::from_millis(50);
/// A count that some node did not answer is made again so much later.
const AGAIN: Duration = Duration::from_millis(250);
/// So many channels are counted at once.
const AT_ONCE: usize = 256;

/// A channel whose number this node tells.
struct Told {
    /// When it was told last.
    last: Option<Instant>,
    /// It may have changed since it was counted.
    stirred: bool,
    /// A count that could not be made is not made again before.
    again: Option<Instant>,
}

/// The nodes that serve, and how often something was lost on the way to one of them.
#[derive(Default, PartialEq)]
struct Engines {
    serving: Vec<Run>,
    losses: f64,
}

/// Tells numbers for as long as it is polled. `every`: the interval of a channel's rule, if its number is told.
pub async fn run(mesh: Arc<Mesh>, every: impl Fn(&Channel) -> Option<Duration>) {
    let (mut told, mut engines) = (HashMap::<Channel, Told>::new(), Engines::default());
    loop {
        let idle = told.is_empty() && (mesh.others.is_none() || mesh.hub.rooms().is_empty());
        if idle {
            poll_fn(|cx| mesh.hub.rooms().poll_stirred(cx)).await;
        }
        mesh.pass_on(&mut engines);
        for (channel, last) in mesh.hub.rooms().take_to_tell() {
            let entry = told.entry(channel).or_insert(Told { last: None, stirred: true, again: None });
            entry.last = entry.last.max(last);
            entry.stirred = true;
        }
        let now = Instant::now();
        let mut due = Vec::new();
        told.retain(|channel, Told { last, stirred, again }| {
            let Some(every) = every(channel) else { return false };
            let waits = last.is_some_and(|last| now < last + every) || again.is_some_and(|again| now < again);
            if !waits && *stirred && due.len() < AT_ONCE {
                *stirred = false;
                due.push(channel.clone());
                return true;
            }
            *stirred || waits
        });
        for (channel, counts) in mesh.count_all(due).await {
            let Some(entry) = told.get_mut(&channel) else { continue };
            match counts.unanswered {
                // It may be gone, or come back: then the number is known.
                1.. => (entry.stirred, entry.again) = (true, Some(Instant::now() + AGAIN)),
                0 => {
                    entry.last = Some(Instant::now());
                    mesh.tell(&channel, counts.reached).await;
                }
            }
        }
        sleep(TICK).await;
    }
}

impl Mesh {
    /// Says to the nodes that tell them which numbers have changed here: of all channels, if nodes have come or gone, or have
    /// not got what was said to them.
    fn pass_on(&self, engines: &mut Engines) {
        let rooms = self.hub.rooms();
        if let Some(others) = &self.others {
            let members = others.members();
            let serving = members.iter().filter(|hello| hello.engine && hello.serving).map(|hello| hello.run).collect();
            let now = Engines { serving, losses: others.stats.losses().1 };
            if *engines != now {
                *engines = now;
                rooms.stir_all();
            }
        }
        for (channel, at) in rooms.take_stirred() {
            let ago = at.map(|at| at.elapsed());
            let owner =
                self.others.as_ref().and_then(|others| Some((others.owner_of(channel.as_str())?, others.now())));
            match owner {
                None => rooms.to_tell(channel, ago),
                Some((link, now)) => {
                    let ago = ago.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX));
                    link.force(&Message::Stirred { channel: channel.as_str(), ago }.to_bytes(), None, now);
                }
            }
        }
    }

    /// How many connections are in each of these channels.
    async fn count_all(&self, channels: Vec<Channel>) -> Vec<(Channel, Counts)> {
        let mut asked = Vec::with_capacity(channels.len());
        for channel in channels {
            let receipt = self.command_channel(channel.clone(), ChannelAction::Count, Behind::default()).await;
            asked.push((channel, receipt));
        }
        let mut counted = Vec::with_capacity(asked.len());
        for (channel, receipt) in asked {
            counted.push((channel, receipt.await));
        }
        counted
    }

    /// Tells all nodes with subscribers how many are in a channel.
    async fn tell(&self, channel: &Channel, count: u64) {
        if let Some(others) = &self.others {
            let message = Message::Online { channel: channel.as_str(), count }.to_bytes();
            others.links_of(hash(channel.as_str())).iter().for_each(|link| link.force(&message, None, others.now()));
        }
        if let Some(telling) = self.tell_here(channel, count) {
            telling.await;
        }
    }

    /// Tells the connections of this node how many are in a channel, unless they know it.
    pub(super) fn tell_here(&self, channel: &Channel, count: u64) -> Option<impl Future<Output = ()> + Send + use<>> {
        let mut message = self.hub.rooms().told(channel, count)?;
        if let Some(rule) = self.hub.history().rule_of(channel.as_str()) {
            message = enveloped(channel, &rule, &message, None);
        }
        let workers = self.hub.workers_of(channel.as_str());
        // For a client that is slow, the newest number counts.
        let options = PublishOptions { key: Key::parse(b"@online").ok(), ..PublishOptions::default() };
        let publication = Publication::new(channel.clone(), message).with(options);
        let publication = ToChannel::Publish(Arc::new(publication));
        let put = put_all(self.hub.clone(), workers, publication, PendingCounts::ignored(), Remote::default());
        Some(async move { drop(put.await) })
    }
}
