//! The clients of a simulated node, and the numbers that chance draws.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use crate::cluster::command;
use crate::cluster::interest::hash;
use crate::cluster::node::{Clients, Delivery, Payload, Waiting};
use crate::cluster::protocol::Run;
use crate::hub::{Answer, Counts};

/// A generator of numbers from a seed (SplitMix64, Steele, Lea and Flood 2014).
pub(super) struct Random(u64);

impl Random {
    /// One from that seed.
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What the clients of a node have: subscribers of each channel, and what came to them.
#[derive(Default)]
pub(in crate::cluster) struct Local {
    pub(in crate::cluster) subscribers: HashMap<String, u64>,
    /// Publication numbers, with who published them, for each channel in the order in which they came.
    pub(in crate::cluster) came: HashMap<String, Vec<(Run, u64)>>,
    /// No room for so many tries.
    pub(super) busy: u64,
}

#[derive(Clone, Default)]
pub(in crate::cluster) struct SimClients(Arc<Mutex<Local>>);

impl SimClients {
    /// What they have.
    pub(in crate::cluster) fn local(&self) -> MutexGuard<'_, Local> {
        self.0.lock().unwrap()
    }

    pub(super) fn publish(&self, channel: &str, data: &[u8]) -> Counts {
        let local = &mut *self.local();
        let reached = local.subscribers.get(channel).copied().unwrap_or(0);
        // What was altered on the way is nobody's publication.
        if reached > 0
            && let Some((from, number)) = read(channel, data)
        {
            local.came.entry(channel.into()).or_default().push((from, number));
        }
        Counts { reached, ..Counts::default() }
    }
}

/// What a publication carries: who published it, its number, and what tells if they were altered.
pub(in crate::cluster) fn data(channel: &str, from: Run, number: u64) -> Vec<u8> {
    let head = [from.0.to_le_bytes(), number.to_le_bytes()].concat();
    let check = hash(&format!("{channel} {head:?}"));
    [head, check.to_le_bytes().to_vec()].concat()
}

fn read(channel: &str, bytes: &[u8]) -> Option<(Run, u64)> {
    let (words, _) = bytes.as_chunks::<8>();
    let [from, number, _] = words.get(..3)?.iter().map(|word| u64::from_le_bytes(*word)).collect::<Vec<_>>()[..] else {
        return None;
    };
    bytes.starts_with(&data(channel, Run(from), number)).then_some((Run(from), number))
}

impl Clients for SimClients {
    fn deliver(&mut self, delivery: Delivery) -> Option<Waiting> {
        let (channel, data, counts) = match delivery {
            Delivery::Publish { channel, message: Payload { data, .. }, counts } => (channel, data, counts),
            // Nobody publishes these; a hostile node sends them.
            Delivery::Send { .. }
            | Delivery::Moved { .. }
            | Delivery::ChannelCommand { .. }
            | Delivery::Stirred { .. }
            | Delivery::Ordered { .. }
            | Delivery::Online { .. } => return None,
            Delivery::Ask { reply, .. } => {
                reply.answer(&Answer::default());
                return None;
            }
            Delivery::Once { channels, reply, .. } => {
                reply.answer(&vec![Counts::default(); channels.len()]);
                return None;
            }
            Delivery::Command { command, reply, .. } => {
                reply.answer(command::decode(&command).is_none().then_some("malformed"), 0);
                return None;
            }
        };
        let counts = counts.map(|counts| counts.ack());
        if self.local().busy == 0 {
            let reached = self.publish(&channel, &data);
            counts.into_iter().for_each(|ack| ack.settle(reached));
            return None;
        }
        let (clients, mut counts) = (self.clone(), counts);
        Some(Box::pin(std::future::poll_fn(move |_| {
            let busy = clients.local().busy;
            if busy > 0 {
                clients.local().busy -= 1;
                return Poll::Pending;
            }
            let reached = clients.publish(&channel, &data);
            counts.take().into_iter().for_each(|ack| ack.settle(reached));
            Poll::Ready(())
        })))
    }
    fn count(&self) -> u64 {
        self.local().subscribers.values().sum()
    }

    fn poll(&mut self, _: &mut Context<'_>) {}
}
