//! What comes through the mailbox, on its way into outboxes.

use std::rc::Rc;

use super::Shard;
use super::conn::Conn;
use super::outbox::Frame;
use crate::hub::{Counts, Delivery, Publication, Share};
use crate::message::Message;
use crate::wire::frame;

/// Positions in [`crate::telemetry::metrics::blocks::PROTOCOLS`].
const WEBSOCKET: usize = 0;
const SOCKET: usize = 1;

/// What a message is for the connections of socket servers: their scripts say it. Called only while nothing of the shard
/// is borrowed, since that runs Lua.
pub trait Encode {
    /// Tells `each` of the connections what it is to get; None where the script failed.
    fn encode(&self, message: &Message, conns: &[Rc<Conn>], each: &mut dyn FnMut(&Rc<Conn>, Option<Frame>));
}

impl Shard {
    /// Handles what came through the mailbox, and says for how many connections it was. It only fills outboxes;
    /// nothing is written yet.
    pub fn deliver(&self, delivery: Delivery, encode: &dyn Encode) -> usize {
        let mut counts = Counts::default();
        let share = match delivery {
            Delivery::Publish(publication, share) => {
                let raw = self.fan_out(&publication, &share, &mut counts);
                self.push_raw(&raw, &publication.message, encode, &share, &mut counts);
                share
            }
            Delivery::Send(client_id, message, share) => {
                match self.get(client_id) {
                    Some(conn) if conn.is_raw() => self.push_raw(&[conn], &message, encode, &share, &mut counts),
                    Some(conn) => {
                        counts.add(self.send(&conn, message.kind(), message.data()));
                        self.count_delivered(WEBSOCKET, counts.reached, &share);
                    }
                    None => {
                        counts.add(false);
                        self.counts.no_client.add(1);
                    }
                }
                share
            }
            Delivery::Order(client_id, order, obeyed) => {
                if let Some(conn) = self.get(client_id) {
                    // Whoever asked may have gone.
                    let _ = obeyed.send(self.obey(&conn, order));
                }
                return 1;
            }
        };
        share.settle(counts);
        (counts.reached + counts.failed) as usize
    }

    /// Gives each member of the channel a reference to the same encoded frame; returns those that it is not for.
    fn fan_out(&self, publication: &Publication, share: &Share, counts: &mut Counts) -> Vec<Rc<Conn>> {
        let (topics, conns) = (self.topics.borrow(), self.conns.borrow());
        let (mut frame, mut raw) = (None, Vec::new());
        for &member in topics.members(publication.channel.as_str()) {
            match conns.get(member as usize) {
                Some(conn) if conn.is_raw() => raw.push(conn.clone()),
                Some(conn) => {
                    let message = &publication.message;
                    let frame = frame.get_or_insert_with(|| frame::encode(message.kind(), message.data()));
                    let reached = self.push(conn, frame.clone());
                    counts.add(reached);
                    if !reached {
                        self.count_dropped(conn);
                    }
                }
                None => counts.add(false),
            }
        }
        self.counts.protocols[WEBSOCKET].sent.add(counts.reached);
        self.count_delivered(WEBSOCKET, counts.reached, share);
        raw
    }

    fn push_raw(&self, conns: &[Rc<Conn>], message: &Message, encode: &dyn Encode, share: &Share, counts: &mut Counts) {
        if conns.is_empty() {
            return;
        }
        let before = counts.reached;
        encode.encode(message, conns, &mut |conn, frame| {
            let encoded = frame.is_some();
            let reached = frame.is_some_and(|frame| self.push(conn, frame));
            counts.add(reached);
            match encoded {
                false => self.counts.protocols[SOCKET].dropped.one("encode"),
                true if !reached => self.count_dropped(conn),
                true => {}
            }
        });
        let reached = counts.reached - before;
        self.counts.protocols[SOCKET].sent.add(reached);
        self.count_delivered(SOCKET, reached, share);
    }

    /// The outboxes have a publication, as far as it was for connections of that protocol.
    fn count_delivered(&self, protocol: usize, reached: u64, share: &Share) {
        if reached > 0 {
            let counts = &self.counts.protocols[protocol];
            counts.delivered.add(reached);
            let (scenario, age) = share.age();
            counts.delays[scenario as usize].record(age);
        }
    }
}
