//! What this worker's connections were told of who came to channels and who went, while scripts ask who is there.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::hub::{MAX_INFO, Moved, Publication};
use crate::ids::ClientId;
use crate::message::{Channel, Message};

/// The most that is remembered of all channels of a worker.
pub(super) const MOST: usize = 16_384;

/// What connections were told while questions are under way.
#[derive(Default)]
pub(super) struct Meanwhile {
    /// The channels that are asked for, with the number of questions.
    asked: HashMap<Channel, usize>,
    /// Where questions have begun, with the number of those that have begun there.
    begun: BTreeMap<u64, usize>,
    /// What was told, in its order, from where the first of these has begun.
    told: VecDeque<Told>,
    /// The number of the first of them.
    first: u64,
}

/// A connection came to a channel, or went.
struct Told {
    channel: Channel,
    client: ClientId,
    change: Change,
}

/// What it did.
#[derive(Clone)]
pub(super) enum Change {
    /// It came.
    Came {
        /// What its script told of it, as JSON.
        info: Option<String>,
    },
    /// It went.
    Went,
}

impl Meanwhile {
    fn next(&self) -> u64 {
        self.first + self.told.len() as u64
    }

    /// A question begins: gives where.
    pub(super) fn begin(&mut self, channel: &Channel) -> u64 {
        *self.asked.entry(channel.clone()).or_default() += 1;
        let begun = self.next();
        *self.begun.entry(begun).or_default() += 1;
        begun
    }

    /// One that began there is over.
    pub(super) fn end(&mut self, channel: &Channel, begun: u64) {
        if let Some(asked) = self.asked.get_mut(channel) {
            *asked -= 1;
            if *asked == 0 {
                self.asked.remove(channel);
            }
        }
        if let Some(questions) = self.begun.get_mut(&begun) {
            *questions -= 1;
            if *questions == 0 {
                self.begun.remove(&begun);
            }
        }
        let next = self.next();
        let first = self.begun.first_key_value().map_or(next, |(begun, _)| *begun);
        while self.first < first && self.told.pop_front().is_some() {
            self.first += 1;
        }
        if self.told.is_empty() {
            (self.told, self.first) = (VecDeque::new(), next);
        }
    }

    /// Connections have been told that one came or went.
    pub(super) fn add(&mut self, publication: &Publication, moved: Moved) {
        let Some(client) = publication.options.except.iter().next() else { return };
        if !self.asked.contains_key(&publication.channel) {
            return;
        }
        if self.told.len() == MOST {
            self.told.pop_front();
            self.first += 1;
        }
        let change = match moved {
            Moved::Came => Change::Came { info: info_in(&publication.message) },
            Moved::Went => Change::Went,
        };
        self.told.push_back(Told { channel: publication.channel.clone(), client, change });
    }

    /// The last that was told of each connection since then. None: it is not known any more.
    pub(super) fn since(&self, channel: &Channel, begun: u64) -> Option<BTreeMap<ClientId, Change>> {
        let from = usize::try_from(begun.checked_sub(self.first)?).ok()?;
        let of_channel = self.told.range(from.min(self.told.len())..).filter(|told| told.channel == *channel);
        Some(of_channel.map(|told| (told.client, told.change.clone())).collect())
    }

    /// Whether nothing is remembered.
    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.asked.is_empty() && self.begun.is_empty() && self.told.capacity() == 0
    }
}

/// What a channel is told, or its envelope.
#[derive(Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    d: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<Data<'a>>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    i: Option<&'a RawValue>,
}

/// What the script of one who came has told of it, as JSON.
fn info_in(message: &Message) -> Option<String> {
    let text: Text<'_> = serde_json::from_slice(message.data()).ok()?;
    let data = match &text.d {
        Some(inner) => serde_json::from_str::<Text<'_>>(inner).ok()?.data,
        None => text.data,
    };
    data?.i.map(|info| info.get().to_owned()).filter(|info| info.len() <= MAX_INFO)
}
