//! Moves deliveries from the mailbox into outboxes.

use std::rc::Rc;

use super::Shard;
use super::compression::MessageFrames;
use super::conn::Conn;
use super::encoding::{Encode, Encoded, Encoding};
use super::framing::Framing;
use super::outbox::{Policy, Subject};
use super::unwritten::CROWD;
use crate::config::Slow;
use crate::hub::{Ack, Counts, Delivery, Publication};
use crate::telemetry::metrics::labels::DropCause;

impl Shard {
    /// Handles one delivery, and returns for how many connections it was, or how many entries a command had; compressing
    /// counts as so many more as it takes time. It only fills outboxes; nothing is written yet. Messages that scripts must
    /// encode are left to [`Shard::encode_on`], before which nothing else may be delivered.
    pub fn deliver(&self, delivery: Delivery) -> usize {
        let mut counts = Counts::default();
        let compressed = self.compression.work();
        let (rest, ack) = match delivery {
            Delivery::Publish(publication, ack) => {
                let (scripted, policy) = self.fan_out(&publication, &ack, &mut counts);
                if let Some(moved) = publication.moved {
                    self.told_move(&publication, moved);
                }
                if self.tap.is_on() {
                    self.see_publication(&publication, (counts.reached + scripted.len() as u64, counts.failed));
                }
                ((!scripted.is_empty()).then(|| (scripted, publication.message.clone(), policy)), ack)
            }
            Delivery::ChannelCommand(command, ack) => {
                counts = self.apply_to_channel(&command);
                (None, ack)
            }
            Delivery::Send(client_id, message, ack) => {
                let mut rest = None;
                match self.get(client_id) {
                    Some(conn) => match conn.framing {
                        Framing::Script => {
                            if self.tap.is_on() {
                                self.see_sent(&conn, message.kind(), message.data());
                            }
                            rest = Some((vec![conn], message, Policy::Keep));
                        }
                        framing @ (Framing::WebSocket(_) | Framing::EventStream) => {
                            counts.add(self.send(&conn, message.kind(), message.data()));
                            self.count_delivered(framing, counts.reached, &ack);
                        }
                    },
                    None => {
                        counts.add(false);
                        self.counts.no_client.add(1);
                        if self.tap.is_on() {
                            self.see_nobody(client_id);
                        }
                    }
                }
                (rest, ack)
            }
            Delivery::ConnCommand(client_id, command, reply) => {
                let entries = command.entries();
                if let Some(conn) = self.get(client_id) {
                    self.obey(&conn, command, reply);
                }
                return entries;
            }
            Delivery::Backlog(backlog) => return self.deliver_backlog(*backlog),
            Delivery::Ask(question, node, to) => {
                let (answer, looked_at) = self.answer(&question, node);
                // The caller may have gone.
                let _ = to.send(answer);
                return looked_at;
            }
        };
        let done = (counts.reached + counts.failed) as usize + self.compression.work().wrapping_sub(compressed);
        match rest {
            None => ack.settle(counts),
            Some((conns, message, policy)) => {
                let (is_for_crowd, encoded) = (conns.len() > CROWD, Encoded::default());
                let conns = conns.into_iter();
                let encoding = Encoding { conns, message, policy, is_for_crowd, encoded, ack, counts, reached: 0 };
                self.encoding.replace(Some(encoding));
            }
        }
        done
    }

    /// Whether a message is on its way to connections of socket servers.
    pub fn is_encoding(&self) -> bool {
        self.encoding.borrow().is_some()
    }

    /// Goes on with the message for connections of socket servers, until all have it or `enough`, which is asked after
    /// each, says to stop. Returns for how many connections that was.
    pub fn encode_on(&self, encode: &dyn Encode, mut enough: impl FnMut() -> bool) -> usize {
        let Some(mut encoding) = self.encoding.take() else { return 0 };
        let mut done = 0;
        while let Some(conn) = encoding.conns.next() {
            let frame = encode.encode(&encoding.message, &conn, &mut encoding.encoded);
            let encoded = frame.is_some();
            let reached =
                frame.is_some_and(|frame| self.push_as(&conn, frame, &encoding.policy, encoding.is_for_crowd));
            encoding.counts.add(reached);
            encoding.reached += u64::from(reached);
            match encoded {
                false => {
                    self.counts_of(&conn).dropped.one(DropCause::Encode);
                    if self.tap.is_on() {
                        self.see_dropped(&conn, DropCause::Encode);
                    }
                }
                true if !reached => self.count_dropped(&conn),
                true => conn.traffic.count_sent(),
            }
            done += 1;
            if enough() && !encoding.conns.as_slice().is_empty() {
                self.encoding.replace(Some(encoding));
                return done;
            }
        }
        Framing::Script.counts(&self.counts).sent.add(encoding.reached);
        self.count_delivered(Framing::Script, encoding.reached, &encoding.ack);
        encoding.ack.settle(encoding.counts);
        done
    }

    /// Gives each member of the channel a reference to the same encoded frame; returns the members whose script has to
    /// encode it, and what may be done with it while it waits for one of them.
    fn fan_out(&self, publication: &Publication, ack: &Ack, counts: &mut Counts) -> (Vec<Rc<Conn>>, Policy) {
        let (topics, conns) = (self.topics.borrow(), self.conns.borrow());
        let message = &publication.message;
        let frames = MessageFrames::new(message.kind(), message.data());
        let (mut frames, mut scripted) = (frames.at(publication.position), Vec::new());
        // Event streams that have it.
        let mut streams = 0;
        let (members, muted, rule) = topics.audience(publication.channel.as_str());
        let policy = match rule.map_or(Slow::Close, |rule| rule.slow) {
            Slow::Close => Policy::Keep,
            Slow::DropOldest => Policy::DropOldest,
            // In the place of an older one it might come before a list of who is there, which is older than it.
            Slow::Latest if publication.moved.is_some() => Policy::DropOldest,
            Slow::Latest => {
                let (channel, key) = (publication.channel.clone(), publication.options.key.clone());
                Policy::Latest(Rc::new(Subject { channel, key }))
            }
        };
        let is_for_crowd = members.len() > CROWD;
        for &member in members {
            if muted.is_some_and(|muted| muted.contains_key(&member)) {
                continue;
            }
            let Some(conn) = conns.get(member as usize) else {
                counts.add(false);
                continue;
            };
            if publication.options.except.contains(conn.client_id) {
                continue;
            }
            let frame = match conn.framing {
                Framing::Script => {
                    scripted.push(conn.clone());
                    continue;
                }
                Framing::WebSocket(None) => frames.plain().clone(),
                Framing::WebSocket(Some(window)) => self.compressed(conn, window, &mut frames),
                Framing::EventStream => {
                    streams += 1;
                    frames.event().clone()
                }
            };
            let reached = self.push_as(conn, frame, &policy, is_for_crowd);
            counts.add(reached);
            if reached {
                conn.traffic.count_sent();
            } else {
                streams -= u64::from(conn.framing == Framing::EventStream);
                self.count_dropped(conn);
            }
        }
        for (framing, reached) in
            [(Framing::WebSocket(None), counts.reached - streams), (Framing::EventStream, streams)]
        {
            framing.counts(&self.counts).sent.add(reached);
            self.count_delivered(framing, reached, ack);
        }
        (scripted, policy)
    }

    /// Counts a publication that is in the outboxes, for connections with that framing.
    fn count_delivered(&self, framing: Framing, reached: u64, ack: &Ack) {
        if reached > 0 {
            let counts = framing.counts(&self.counts);
            counts.delivered.add(reached);
            let (scenario, age) = ack.age();
            counts.delays[scenario as usize].record(age);
        }
    }
}
