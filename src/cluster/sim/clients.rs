//! The clients of a simulated node, and the numbers that chance draws.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use crate::cluster::node::{Clients, Delivery, Waiting};
use crate::cluster::protocol::Run;
use crate::hub::Counts;

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
pub(super) struct Local {
    pub(super) subscribers: HashMap<String, u64>,
    /// Publication numbers, with who published them, for each channel in the order in which they came.
    pub(super) came: HashMap<String, Vec<(Run, u64)>>,
    /// No room for so many tries.
    pub(super) busy: u64,
}

#[derive(Clone, Default)]
pub(in crate::cluster) struct SimClients(Arc<Mutex<Local>>);

impl SimClients {
    /// What they have.
    pub(super) fn local(&self) -> MutexGuard<'_, Local> {
        self.0.lock().unwrap()
    }

    pub(super) fn publish(&self, channel: &str, data: &[u8]) -> Counts {
        let local = &mut *self.local();
        let reached = local.subscribers.get(channel).copied().unwrap_or(0);
        if reached > 0 {
            let from = u64::from_le_bytes(data[..8].try_into().unwrap());
            let number = u64::from_le_bytes(data[8..16].try_into().unwrap());
            local.came.entry(channel.into()).or_default().push((Run(from), number));
        }
        Counts { reached, ..Counts::default() }
    }
}

impl Clients for SimClients {
    fn deliver(&mut self, delivery: Delivery) -> Option<Waiting> {
        let Delivery::Publish { channel, data, counts, .. } = delivery else { panic!() };
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
