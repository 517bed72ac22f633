//! The clients: each is in one channel, drops, and comes back with its position on any node.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::task::Waker;

use super::world::{CHANNELS, SIZE, World, channel};
use crate::cluster::protocol::Run;
use crate::hub::history::{At, From, Most, Position};
use crate::hub::topics::Member;
use crate::hub::{Counts, Delivery, Joined, Left, Recipient};
use crate::ids::{ClientId, WorkerId};

pub(super) const CLIENTS: u64 = 12;

type Subscribing = BoxFuture<'static, Result<Vec<At>, String>>;

/// A client of one channel.
#[derive(Default)]
pub(super) struct Client {
    pub(super) channel: u64,
    pub(super) node: Option<Run>,
    /// It does not come back before.
    away: u64,
    member: Member,
    tickets: u64,
    pub(super) subscribing: Option<Subscribing>,
    position: Option<Position>,
    /// It has been on both sides of a split: back on the first one, it can't say any more what it has had there.
    strays: bool,
    /// What it was told, in its order.
    pub(super) seen: Vec<u64>,
    /// It misses nothing that was published later.
    pub(super) clean: Option<u64>,
    /// It was told that something may be missing, behind all that it has seen.
    told: bool,
}

pub(super) fn clients() -> Vec<Client> {
    (0..CLIENTS).map(|n| Client { channel: n % CHANNELS, ..Client::default() }).collect()
}

impl Client {
    /// It is on some node, and gets all that comes.
    pub(super) fn is_in(&self) -> bool {
        self.node.is_some() && self.subscribing.is_none()
    }
}

impl World {
    /// A client that is nowhere comes, unless it stays away.
    pub(super) fn come(&mut self, at: usize) {
        if self.clients[at].away <= self.now {
            self.connect(at);
        }
    }

    /// A client that stays away comes back within so many milliseconds.
    pub(super) fn come_back(&mut self, at: usize, within: u64) {
        self.clients[at].away = self.now + self.random.below(within);
    }

    /// A client goes, unless it is just coming, and stays away for so many milliseconds.
    pub(super) fn go(&mut self, at: usize, away: u64) {
        if self.clients[at].subscribing.is_none() {
            self.disconnect(at);
            self.clients[at].away = self.now + away;
        }
    }

    /// A client comes to some node, with its position if it has one.
    pub(super) fn connect(&mut self, at: usize) {
        if let Some(run) = self.any_serving() {
            self.connect_to(run, at);
        }
    }

    /// A client comes to that node, with its position if it has one.
    pub(super) fn connect_to(&mut self, run: Run, at: usize) {
        let (client, node) = (&mut self.clients[at], self.nodes.get_mut(&run).unwrap());
        let name = channel(client.channel);
        client.member = at as Member;
        if node.topics.insert(client.member, &name) == Joined::First {
            node.hub.join(&name, WorkerId(0));
        }
        client.tickets += 1;
        node.topics.mute(client.member, name.as_str(), client.tickets);
        let recipient = Recipient {
            worker: WorkerId(0),
            client: ClientId::new(1 + at as u64).unwrap(),
            ticket: client.tickets,
            is_scripted: false,
            most: Most { messages: usize::MAX, bytes: usize::MAX },
        };
        let from = client.position.map_or(From::Last(SIZE), |position| From::Since(position, None));
        client.node = Some(run);
        let (mesh, told) = (node.mesh.clone(), node.mesh.told(std::slice::from_ref(&name)));
        client.subscribing = Some(
            async move {
                if let Some(told) = told {
                    told.await;
                }
                mesh.catch_up(vec![(name, recipient)], from).await
            }
            .boxed(),
        );
    }

    pub(super) fn disconnect(&mut self, at: usize) {
        let client = &mut self.clients[at];
        client.subscribing = None;
        let Some(node) = client.node.take().and_then(|run| self.nodes.get_mut(&run)) else { return };
        let name = channel(client.channel);
        if node.topics.remove(client.member, name.as_str()) == Left::Last {
            node.hub.leave(name.as_str(), WorkerId(0));
        }
    }

    /// A client gets a message, or is told that something may be missing.
    fn tell(&mut self, at: usize, text: &[u8]) {
        let told: serde_json::Value = serde_json::from_slice(text).unwrap();
        let position = Position::parse(told["p"].as_str().unwrap().as_bytes()).unwrap();
        let client = &mut self.clients[at];
        let Some(data) = told["d"].as_str() else {
            assert_eq!(told["recovered"], false);
            client.clean = Some(self.now);
            client.position = Some(position);
            client.told = true;
            self.told += 1;
            return;
        };
        let number: u64 = data.parse().unwrap();
        let place = *self.places.entry(number).or_insert(position);
        assert!(
            client.strays || !client.seen.contains(&number),
            "client {at} gets {number} twice, at {place:?} and {position:?}"
        );
        assert_eq!(place, position, "{number} stands in two places");
        if let Some(before) = client.seen.last().map(|last| self.places[last]) {
            client.strays |= self.splits && position < before;
            // Of two nodes that lead at once, the one that a client comes to may be behind the one that it comes from: then it is told
            // of a gap first.
            let is_free = self.splits || (self.misleads && client.told);
            assert!(is_free || before < position, "client {at} gets {number} at {position:?} behind {before:?}");
        }
        client.told = false;
        client.seen.push(number);
        client.position = Some(position);
    }

    pub(super) fn deliver(&mut self, run: Run) {
        let Some(node) = self.nodes.get_mut(&run).filter(|node| node.frozen_until <= self.now) else { return };
        let mut mailbox = std::mem::take(&mut node.mailbox);
        node.hub.mailbox(WorkerId(0)).take(&mut mailbox, 0, Waker::noop());
        for delivery in mailbox.drain(..) {
            let node = self.nodes.get_mut(&run).unwrap();
            match delivery {
                Delivery::Publish(publication, ack) => {
                    let (members, muted, _) = node.topics.audience(publication.channel.as_str());
                    let is_muted = |member: &Member| muted.is_some_and(|muted| muted.contains_key(member));
                    let members: Vec<Member> = members.iter().copied().filter(|member| !is_muted(member)).collect();
                    ack.settle(Counts { reached: members.len() as u64, ..Counts::default() });
                    for member in members {
                        self.tell(member as usize, publication.message.data());
                    }
                }
                Delivery::Backlog(backlog) => {
                    let at = backlog.client.get() as usize - 1;
                    let member = at as Member;
                    if !node.topics.unmute(member, backlog.channel.as_str(), backlog.ticket) {
                        continue;
                    }
                    let client = &mut self.clients[at];
                    match (backlog.at.recovered, client.position) {
                        (true, Some(_)) => self.recovered += 1,
                        (true, None) => client.clean = Some(self.now),
                        (false, _) => {
                            client.clean = Some(self.now);
                            client.told = true;
                            self.told += 1;
                        }
                    }
                    for message in &backlog.messages {
                        self.tell(at, message.data());
                    }
                    self.clients[at].position = Some(backlog.at.position);
                    // One that waits no more needs no answer.
                    let _ = backlog.done.send(backlog.at);
                }
                _ => {}
            }
        }
        self.nodes.get_mut(&run).unwrap().mailbox = mailbox;
    }
}
