//! What a worker remembers of a client that is gone, or that has left channels: for those who ask why a message did not reach
//! it ([`super::Question::Story`]).

use serde::{Deserialize, Serialize};

use crate::ids::Issued;
use crate::message::{Channel, MAX_CHANNEL_LEN};

/// The most channels that are remembered of a client that is gone.
pub const ENDED_CHANNELS: usize = 8;
/// The most turns of a client that one answer has.
pub const MAX_TURNS: usize = 100;

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// When, in milliseconds of Unix time.
    pub at: u64,
    /// The label that it is counted under.
    pub reason: String,
    /// The close code that was sent or came; 0: none.
    pub code: u16,
    /// In words, as far as there are any.
    pub text: String,
    /// The first [`ENDED_CHANNELS`] of the channels that it was in.
    pub channels: Vec<String>,
    /// How many channels it was in.
    pub subscriptions: u64,
}

/// What happened to a client with one channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// When, in milliseconds of Unix time.
    pub at: u64,
    /// The channel.
    pub channel: String,
    /// None: it has left the channel. Else why it was not let in.
    pub refused: Option<String>,
}

/// What is remembered of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// Its end.
    pub ended: Option<Ended>,
    /// Channels that it left by itself or was not let into, oldest first; its end is none of these.
    pub turns: Vec<Turn>,
    /// Whether its id has been given out.
    pub issued: Issued,
    /// All ends since then are remembered, in milliseconds of Unix time; 0: all that there were.
    pub ends_since: u64,
    /// The same of channels that were left.
    pub turns_since: u64,
}

impl Story {
    /// Whether it is one that a node may have made.
    pub fn is_valid(&self) -> bool {
        let ended = self.ended.iter().flat_map(|ended| &ended.channels);
        let is_name = |name: &String| Channel::parse(name.as_bytes()).is_ok();
        let short = |text: &str| text.len() <= 4 * MAX_CHANNEL_LEN;
        ended.clone().count() <= ENDED_CHANNELS
            && ended.chain(self.turns.iter().map(|turn| &turn.channel)).all(is_name)
            && self.turns.len() <= MAX_TURNS
            && self.turns.iter().filter_map(|turn| turn.refused.as_deref()).all(short)
            && self.ended.iter().all(|ended| short(&ended.text) && short(&ended.reason))
    }
}
