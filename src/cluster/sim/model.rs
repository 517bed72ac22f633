//! What clients do, and what must come of it: the naive model.

use std::collections::HashMap;
use std::collections::HashSet;

use super::clients;
use super::moves::Who;
use super::world::{Node, Published, Subscription, World};
use crate::cluster::interest::hash;
use crate::cluster::link::{Full, Request};
use crate::cluster::members::Phase;
use crate::cluster::protocol::{Message, Run};
use crate::hub::PendingCounts;

/// Channels that there are.
const CHANNELS: u64 = 12;
fn name(channel: u64) -> String {
    format!("c:{channel}")
}

impl World {
    pub(super) fn any_serving(&mut self) -> Option<Run> {
        let serving: Vec<Run> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.shared.phase() == Phase::Serving && node.frozen_until <= self.now)
            .filter(|(_, node)| !node.holds_still())
            .map(|(run, _)| *run)
            .collect();
        (!serving.is_empty()).then(|| serving[self.random.below(serving.len() as u64) as usize])
    }

    pub(super) fn subscribe(&mut self) {
        let (Some(run), channel) = (self.any_serving(), name(self.random.below(CHANNELS))) else { return };
        let node = self.nodes.get_mut(&run).unwrap();
        let local = &mut *node.clients.local();
        let count = local.subscribers.entry(channel.clone()).or_default();
        *count += 1;
        if *count == 1 {
            let key = hash(&channel);
            node.shared.own.first(key);
            let waits = node.shared.own.told(key);
            let version = node.shared.own.versions().0 + 1;
            node.subscriptions
                .insert(channel, Subscription { id: self.subscribed, complete: waits.is_none(), version, waits });
            self.subscribed += 1;
        }
    }

    pub(super) fn unsubscribe(&mut self) {
        let (Some(run), channel) = (self.any_serving(), name(self.random.below(CHANNELS))) else { return };
        let node = self.nodes.get_mut(&run).unwrap();
        let local = &mut *node.clients.local();
        if let Some(count) = local.subscribers.get_mut(&channel).filter(|count| **count > 0) {
            *count -= 1;
            if *count == 0 {
                node.shared.own.last(hash(&channel), self.now);
                node.subscriptions.remove(&channel);
            }
        }
    }

    pub(super) fn publish(&mut self) {
        let (Some(by), channel) = (self.any_serving(), name(self.random.below(CHANNELS))) else { return };
        if self.nodes[&by].blocked.len() > 50 {
            return;
        }
        let number = self.next_number;
        self.next_number += 1;
        let key = hash(&channel);
        let must = self.must(by, &channel);
        let node = self.nodes.get_mut(&by).unwrap();
        let size = if self.random.chance(1) { 200_000 } else { 24 };
        let mut data = clients::data(&channel, by, number);
        data.resize(size, 0);
        let (counts, receipt) = PendingCounts::new();
        let local = node.clients.publish(&channel, &data);
        counts.ack().settle(local);
        let message =
            Message::Publish { channel: &channel, binary: true, data: &data, except: &[], key: None }.to_bytes();
        for link in node.shared.links_of(key) {
            let request = Some(Request::Counts(counts.ack()));
            if !node.blocked.is_empty() {
                node.blocked.push_back((link, message.clone(), request));
            } else if let Err(Full(request)) = link.offer(&message, request, self.now) {
                node.blocked.push_back((link, message.clone(), request));
            }
        }
        let (local, at) = (local.reached, self.now);
        self.published.push(Published { by, number, at, channel, must, local, counts: receipt });
    }

    /// The nodes that a publish must reach now: their subscriber was told that it is subscribed, `by` has said that it
    /// knows of it, and has not given the node up.
    pub(super) fn must(&self, by: Run, channel: &str) -> Vec<(Run, u64)> {
        let publisher = &self.nodes[&by].core;
        let reached = |(run, node): (&Run, &Node)| {
            let subscription = node.subscriptions.get(channel)?;
            let knows = !self.faulty || node.core.knows(by).is_some_and(|version| version >= subscription.version);
            let honest = self.hostile.is_none_or(|hostile| hostile != by && hostile != *run);
            (*run != by && honest && subscription.complete && knows && publisher.is_complete(*run))
                .then_some((*run, subscription.id))
        };
        self.nodes.iter().filter_map(reached).collect()
    }

    /// Looks at what has come to an end.
    pub(super) fn settle(&mut self) {
        for node in self.nodes.values_mut() {
            for subscription in node.subscriptions.values_mut().filter(|subscription| !subscription.complete) {
                subscription.complete = subscription.waits.as_mut().is_none_or(|waits| waits.try_recv().is_ok());
            }
        }
        let mut open = Vec::new();
        for mut published in std::mem::take(&mut self.published) {
            let Ok(counts) = published.counts.try_recv() else {
                open.push(published);
                continue;
            };
            self.done += 1;
            self.unanswered += u64::from(counts.unanswered > 0);
            let Published { by, number, channel, must, local, .. } = published;
            if self.hostile == Some(by) {
                continue;
            }
            let mut reached = 0;
            for (run, node) in &self.nodes {
                let local = node.clients.local();
                let times = local
                    .came
                    .get(&channel)
                    .map_or(0, |came| came.iter().rev().take(2000).filter(|it| **it == (by, number)).count());
                assert!(times <= 1, "{channel} {number} of {by:?} came {times} times to {run:?}");
                reached += times;
            }
            if counts.unanswered == 0 && self.nodes.contains_key(&by) {
                for (run, id) in &must {
                    let Some(node) = self.nodes.get(run) else { continue };
                    let local = node.clients.local();
                    let came = local.came.get(&channel).is_some_and(|came| came.contains(&(by, number)));
                    let same = node.subscriptions.get(&channel).is_some_and(|it| it.id == *id);
                    assert!(
                        came || !same,
                        "{channel} {number} of {by:?} did not come to {run:?}, and nothing says so: {counts:?}"
                    );
                }
                assert!(counts.reached >= local, "{counts:?} {local} {reached}");
            }
            if !self.faulty {
                assert_eq!((counts.unanswered, counts.failed), (0, 0));
            }
        }
        self.published = open;
    }

    pub(super) fn check_order(&self) {
        for (run, node) in &self.nodes {
            for (channel, came) in &node.clients.local().came {
                let mut last = HashMap::new();
                for (by, number) in came.iter().filter(|(by, _)| self.hostile != Some(*by)) {
                    let before = last.insert(*by, *number).unwrap_or(0);
                    assert!(before < *number, "{channel} at {run:?}: {number} of {by:?} after {before}");
                }
            }
        }
    }

    /// When all is quiet: every node knows the channels of all others, and nothing is held.
    pub(super) fn check_quiet(&mut self) {
        self.network.cut.clear();
        self.faults = false;
        self.nodes.values_mut().for_each(|node| node.freeze(0, Who::Both));
        for _ in 0..4000 {
            self.step();
        }
        assert!(self.published.is_empty(), "{} publications never end", self.published.len());
        for (run, node) in &self.nodes {
            assert_eq!(node.shared.phase(), Phase::Serving, "{run:?}");
            assert_eq!(node.shared.members().len(), self.nodes.len(), "{run:?}");
            for channel in (0..CHANNELS).map(name) {
                let mut want: Vec<Run> = self
                    .nodes
                    .iter()
                    .filter(|(other, node)| *other != run && node.subscriptions.contains_key(&channel))
                    .map(|(run, _)| *run)
                    .collect();
                let mut known: Vec<Run> = node.shared.links_of(hash(&channel)).iter().map(|link| link.peer).collect();
                want.sort();
                known.sort();
                assert_eq!(known, want, "{channel} at {run:?}");
            }
            for link in &node.links {
                let idle = !self.nodes.contains_key(&link.peer) || link.holds() == (0, 0);
                assert!(idle, "{run:?} to {:?} holds {:?}", link.peer, link.holds());
            }
            assert!(node.subscriptions.values().all(|subscription| subscription.complete));
        }
        // Numbers of clients' ids are of one node each.
        let numbers: HashSet<u16> = self.nodes.values().map(|node| node.shared.members()[0].number).collect();
        if !self.had_splits() {
            assert_eq!(numbers.len(), self.nodes.len());
        }
    }

    pub(super) fn had_splits(&self) -> bool {
        self.unanswered > 0
    }
}
