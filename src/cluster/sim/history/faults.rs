//! What happens to the nodes.

use std::cmp::Reverse;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::clients::CLIENTS;
use super::moves::Who;
use super::world::{CHANNELS, World, channel};
use crate::cluster::protocol::Run;
use crate::cluster::sim::clients::Random;

/// Once a plan is carried out, nothing else happens to the nodes for so many milliseconds: others find that two are gone, and take over.
const CALM: u64 = 5000;

/// The two nodes that a channel is on are to be killed, both at once.
pub(super) struct Plan {
    channel: u64,
    /// The node that is to be the next in line.
    next: Run,
    /// The client that sees nothing of it all.
    client: usize,
    /// The copy that there was is to be known to lack something, before there is another one.
    loses: bool,
    /// When; none: it is not yet the next in line.
    at: Option<u64>,
}

impl World {
    /// A node is killed, ends or starts; nodes don't see each other.
    pub(super) fn fault(&mut self) {
        if !self.plans.is_empty() || self.now < self.calm {
            return;
        }
        let runs: Vec<Run> = self.nodes.keys().copied().collect();
        if self.splits && (self.random.chance(60) || !self.mortal) {
            let pick = |random: &mut Random| runs[random.below(runs.len() as u64) as usize];
            match self.random.below(3) {
                0 => {
                    let (one, other) = (pick(&mut self.random), pick(&mut self.random));
                    self.network.cut.extend([(one, other), (other, one)]);
                }
                1 => self.network.cut.clear(),
                _ => {
                    let until = self.now + self.random.below(8000);
                    let who = Who::any(&mut self.random);
                    self.nodes.get_mut(&pick(&mut self.random)).unwrap().freeze(until, who);
                }
            }
            return;
        }
        match self.random.below(5) {
            4 => {
                // There is no room for what it keeps.
                let run = runs[self.random.below(runs.len() as u64) as usize];
                let history = self.nodes[&run].hub.history();
                history.bound(1);
                history.bound(usize::MAX);
            }
            0 if runs.len() > 2 => {
                // Two at once may be the one that leads and the one that has the copy.
                for _ in 0..1 + self.random.below(2) {
                    let runs: Vec<Run> = self.nodes.keys().copied().collect();
                    let run = runs[self.random.below(runs.len() as u64) as usize];
                    self.kill(run);
                }
            }
            1..=3 if (3..6).contains(&runs.len()) => self.relieve(),
            _ if runs.len() < 5 => self.start(),
            _ => {}
        }
    }

    /// The nodes that serve a channel, in line.
    pub(super) fn in_line(&self, of: u64) -> Vec<Run> {
        let name = channel(of);
        let mut runs: Vec<Run> = self.nodes.keys().copied().collect();
        runs.sort_by_key(|run| Reverse(xxh3_64_with_seed(name.as_str().as_bytes(), run.0)));
        runs
    }

    /// A node comes that is the next in line for a channel, so that another one keeps its copy no more. Soon it is killed, and the
    /// leader with it: what was published meanwhile is gone, and no older copy may pass for the whole. A client has seen nothing of
    /// it all.
    fn relieve(&mut self) {
        let (next, first) = (Run(self.next_run), self.random.below(CHANNELS));
        let mut channels = (first..first + CHANNELS).map(|n| n % CHANNELS);
        self.start();
        let Some(of) = channels.find(|of| self.in_line(*of).get(1) == Some(&next)) else { return };
        let mut clients = (0..CLIENTS).filter(|client| client % CHANNELS == of).map(|client| client as usize);
        let Some(client) = clients.find(|client| self.clients[*client].is_in()) else { return };
        self.rests[of as usize] = u64::MAX;
        self.go(client, 1_000_000);
        let loses = self.random.chance(75);
        self.plans.push(Plan { channel: of, next, client, loses, at: None });
    }

    /// Does what was planned for now.
    pub(super) fn carry_out_plans(&mut self) {
        for mut plan in std::mem::take(&mut self.plans) {
            let (name, in_line) = (channel(plan.channel), self.in_line(plan.channel));
            let is_over = in_line.len() < 3 || in_line[1] != plan.next;
            if is_over || plan.at.is_some_and(|at| at <= self.now) {
                if !is_over {
                    in_line[..2].iter().for_each(|run| self.kill(*run));
                    self.calm = self.now + CALM;
                }
                self.rests[plan.channel as usize] = 0;
                self.come_back(plan.client, 2000);
                continue;
            }
            let leader = &self.nodes[&in_line[0]].shared;
            let is_next = leader.second_of(name.as_str()).is_some_and(|link| link.peer == plan.next);
            if plan.at.is_none() && is_next && leader.owner_of(name.as_str()).is_none() {
                self.rests[plan.channel as usize] = 0;
                plan.at = Some(self.now + 100 + self.random.below(300));
            } else if plan.at.is_none() && plan.loses && self.random.below(60) == 0 {
                // Nothing is published that would make it good.
                self.losing = self.now + 30;
            }
            self.plans.push(plan);
        }
    }

    pub(super) fn kill(&mut self, run: Run) {
        for at in 0..self.clients.len() {
            if self.clients[at].node == Some(run) {
                self.disconnect(at);
            }
        }
        self.killed += 1;
        // Its publishers are not told what came of it.
        self.published.retain(|published| published.by != run);
        let (is_told, node) = (self.random.chance(30), self.nodes.get_mut(&run).unwrap());
        if is_told && node.frozen_until <= self.now {
            node.core.leave();
            self.say(run);
        }
        self.nodes.remove(&run);
    }
}
