//! Questions to workers, each of which answers for its own connections; the answers are put together. What is told at once
//! is bounded to a page, so that an answer is bounded, too.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::figures::NodeFigures;
use super::story::Story;
use super::tail::{MAX_EVENTS, Seen, Watch};
use crate::ids::ClientId;
use crate::message::Channel;

/// The most entries of a page.
pub const MAX_PAGE: usize = 1000;
/// The most bytes of what a script tells of a connection in a channel, as JSON.
pub const MAX_INFO: usize = 1024;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Who is in a channel?
    Presence {
        /// The channel.
        channel: Channel,
        /// The page begins behind this id; 0: it is the first.
        after: u64,
        /// The most entries, at most [`MAX_PAGE`].
        limit: usize,
    },
    /// Which channels are there, and how many connections does each have?
    Channels {
        /// How their names begin.
        prefix: Box<str>,
        /// The page begins behind this name; empty: it is the first.
        after: Box<str>,
        /// The most entries, at most [`MAX_PAGE`].
        limit: usize,
    },
    /// What is there to know of a client?
    Client(ClientId),
    /// How is the node? It answers without its workers, and so when these are stuck, too.
    Figures,
    /// What is remembered of a client that may be gone?
    Story(ClientId),
    /// What has a watcher to see, since it asked last?
    Tail(Watch),
    /// How many connections have a place in a channel with a bound, those that are about to come among them? No worker is
    /// asked.
    Places(Channel),
    /// What came of the publish with that id, as far as the node remembers that knows whether there has been one? No worker is
    /// asked.
    Publish(Box<str>),
}

impl Question {
    /// The client that it is about: only that client's worker can answer. None: it is for all workers, or those of a channel.
    pub fn client(&self) -> Option<ClientId> {
        match self {
            Question::Client(client) | Question::Story(client) => Some(*client),
            Question::Tail(watch) => watch.wanted.client,
            Question::Presence { .. } | Question::Channels { .. } => None,
            Question::Figures | Question::Places(_) | Question::Publish(_) => None,
        }
    }

    /// The most entries of its answer.
    pub fn limit(&self) -> usize {
        match self {
            Question::Presence { limit, .. } | Question::Channels { limit, .. } => (*limit).min(MAX_PAGE),
            Question::Client(_) | Question::Story(_) => 1,
            Question::Figures | Question::Places(_) | Question::Publish(_) => 1,
            Question::Tail(_) => MAX_EVENTS,
        }
    }

    /// The bytes it counts for in a mailbox.
    pub(super) fn weight(&self) -> usize {
        match self {
            Question::Presence { channel, .. } => channel.as_str().len(),
            Question::Channels { prefix, after, .. } => prefix.len() + after.len(),
            Question::Client(_) | Question::Story(_) | Question::Figures => 0,
            Question::Tail(watch) => watch.wanted.channel.as_ref().map_or(0, |channel| channel.len()),
            Question::Places(channel) => channel.as_str().len(),
            Question::Publish(id) => id.len(),
        }
    }
}

/// A connection in a channel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Present {
    /// The client's id.
    pub client: u64,
    /// The id of its node.
    pub node: u64,
    /// What its script has told of it, as JSON.
    pub info: Option<String>,
}

/// A channel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Crowd {
    /// Its name.
    pub channel: String,
    /// How many connections are in it.
    pub count: u64,
}

/// A client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    /// The id of its node.
    pub node: u64,
    /// The position of its server under `engine.servers`.
    pub server: u32,
    /// Its address and port, as scripts see them.
    pub address: String,
    /// The first [`MAX_PAGE`] of its channels, sorted.
    pub channels: Vec<String>,
    /// How many channels it is in.
    pub subscriptions: u64,
    /// Bytes that wait to be written to it.
    pub waiting: u64,
    /// When it came, in seconds of Unix time.
    pub since: u64,
    /// Messages that it has sent.
    pub read: u64,
    /// Messages that were put into its outbox.
    pub sent: u64,
}

/// What a question came to, as far as it has been answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Of [`Question::Presence`], by their ids.
    pub clients: Vec<Present>,
    /// Of [`Question::Channels`], by their names.
    pub channels: Vec<Crowd>,
    /// Of [`Question::Presence`]: how many there are, not only on this page. Of [`Question::Places`]: the places.
    pub count: u64,
    /// There is more behind this page.
    pub more: bool,
    /// Of [`Question::Client`]: None where there is no such client.
    pub client: Option<Box<ClientInfo>>,
    /// Of [`Question::Story`]; None where no worker has answered.
    pub story: Option<Story>,
    /// Of [`Question::Tail`].
    pub seen: Seen,
    /// Nodes that did not answer.
    pub unanswered: u64,
    /// Of [`Question::Figures`].
    #[serde(skip)]
    pub nodes: Vec<NodeFigures>,
    /// Of [`Question::Publish`]; None where it is not remembered.
    #[serde(skip)]
    pub publish: Option<Box<PastPublish>>,
}

/// A publish with an id, as a node remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastPublish {
    /// When it came, in milliseconds of Unix time.
    pub at: u64,
    /// Its channels.
    pub channels: Vec<String>,
    /// What it came to, as JSON; None: that is not known yet.
    pub outcome: Option<String>,
}

/// Where an answer goes. Dropped unused, there is none.
pub type AnswerTo = oneshot::Sender<Answer>;

impl Answer {
    /// Puts another part to it; both are pages of at most `limit` entries, and so is what comes of it.
    pub fn add(&mut self, other: Answer, limit: usize) {
        self.clients.extend(other.clients);
        self.channels.extend(other.channels);
        self.count = self.count.saturating_add(other.count);
        self.more |= other.more;
        self.client = self.client.take().or(other.client);
        self.story = self.story.take().or(other.story);
        self.seen.add(other.seen);
        self.unanswered = self.unanswered.saturating_add(other.unanswered);
        self.nodes.extend(other.nodes);
        self.publish = self.publish.take().or(other.publish);
        self.page(limit);
    }

    /// The last client on this page, if there is more behind it.
    pub fn end(&self) -> Option<u64> {
        self.clients.last().filter(|_| self.more).map(|last| last.client)
    }

    /// Sorts it, and keeps the first page of it.
    pub fn page(&mut self, limit: usize) {
        self.clients.sort_unstable();
        self.channels.sort_unstable();
        self.channels.dedup_by(|next, kept| {
            let same = next.channel == kept.channel;
            if same {
                kept.count = kept.count.saturating_add(next.count);
            }
            same
        });
        self.more |= self.clients.len() > limit || self.channels.len() > limit;
        self.clients.truncate(limit);
        self.channels.truncate(limit);
        self.seen.page();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Pages of parts, put together, are the pages of the whole.
        #[test]
        fn parts_make_the_pages_of_the_whole(
            parts in prop::collection::vec(prop::collection::btree_map("[ab]{1,3}", 1..9u64, 0..8), 1..4),
            limit in 1..6usize,
        ) {
            let mut whole = std::collections::BTreeMap::new();
            for (channel, count) in parts.iter().flatten() {
                *whole.entry(channel.clone()).or_insert(0) += count;
            }
            let (mut after, mut seen) = (String::new(), Vec::new());
            loop {
                let mut answer = Answer::default();
                for part in &parts {
                    let behind = part.iter().filter(|(channel, _)| **channel > after);
                    let crowd = |(channel, count): (&String, &u64)| Crowd { channel: channel.clone(), count: *count };
                    let mut page = Answer { channels: behind.map(crowd).collect(), ..Answer::default() };
                    page.page(limit);
                    answer.add(page, limit);
                }
                prop_assert!(answer.channels.len() <= limit);
                seen.extend(answer.channels.iter().map(|crowd| (crowd.channel.clone(), crowd.count)));
                match answer.channels.last() {
                    Some(last) if answer.more => after = last.channel.clone(),
                    _ => break,
                }
            }
            prop_assert_eq!(seen, whole.into_iter().collect::<Vec<_>>());
        }
    }
}
