//! Moves deliveries from the mailbox into outboxes.

use std::collections::VecDeque;

use super::Shard;
use super::encoding::{Encode, Encoding};
use super::framing::Framing;
use super::outbox::Policy;
use crate::hub::{Ack, Counts, Delivery};
use crate::ids::ClientId;
use crate::message::Message;
use crate::telemetry::metrics::labels::DropCause;

impl Shard {
    /// Handles the next delivery, with publishes behind it that go with it. Returns for how many connections that was, or how
    /// many entries a command had; compressing counts as so many more as it takes time. None: there is none. It only fills
    /// outboxes; nothing is written yet. Messages that scripts must encode are left to [`Shard::encode_on`], before which
    /// nothing else may be delivered.
    pub fn deliver(&self, deliveries: &mut VecDeque<Delivery>) -> Option<usize> {
        let done = match deliveries.pop_front()? {
            Delivery::Publish(publication, ack) => self.deliver_publishes((publication, ack), deliveries),
            Delivery::ChannelCommand(command, ack) => {
                let counts = self.apply_to_channel(&command);
                ack.settle(counts);
                (counts.reached + counts.failed) as usize
            }
            Delivery::Send(client_id, message, ack) => self.deliver_to_one(client_id, message, ack),
            Delivery::ConnCommand(client_id, command, reply) => {
                let entries = command.entries();
                if let Some(conn) = self.get(client_id) {
                    self.obey(&conn, command, reply);
                }
                entries
            }
            Delivery::Backlog(backlog) => self.deliver_backlog(*backlog),
            Delivery::Ask(question, node, to) => {
                let (answer, looked_at) = self.answer(&question, node);
                // The caller may have gone.
                let _ = to.send(answer);
                looked_at
            }
        };
        Some(done)
    }

    fn deliver_to_one(&self, client_id: ClientId, message: Message, ack: Ack) -> usize {
        let (mut counts, compressed) = (Counts::default(), self.compression.work());
        match self.get(client_id) {
            Some(conn) if conn.framing == Framing::Script => {
                if self.tap.is_on() {
                    self.see_sent(&conn, message.kind(), message.data());
                }
                self.encode_later(Encoding::new(vec![conn], message, Policy::Keep, ack, counts));
                return 0;
            }
            Some(conn) => {
                counts.add(self.send(&conn, message.kind(), message.data()));
                self.count_delivered(conn.framing, counts.reached, &ack);
            }
            None => {
                counts.add(false);
                self.counts.no_client.add(1);
                if self.tap.is_on() {
                    self.see_nobody(client_id);
                }
            }
        }
        ack.settle(counts);
        1 + self.compression.work().wrapping_sub(compressed)
    }

    /// Leaves a message to [`Shard::encode_on`].
    pub(super) fn encode_later(&self, encoding: Encoding) {
        self.encoding.replace(Some(encoding));
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
                true => conn.traffic.count_sent(1),
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

    /// Counts a publication that is in the outboxes, for connections with that framing.
    pub(super) fn count_delivered(&self, framing: Framing, reached: u64, ack: &Ack) {
        if reached > 0 {
            let counts = framing.counts(&self.counts);
            counts.delivered.add(reached);
            let (scenario, age) = ack.age();
            counts.delays[scenario as usize].record(age);
        }
    }
}
