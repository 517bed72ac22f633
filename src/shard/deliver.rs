//! What comes through the mailbox, on its way into outboxes.

use std::rc::Rc;

use super::Shard;
use super::conn::Conn;
use super::outbox::Frame;
use crate::hub::{Counts, Delivery, Publication, Share};
use crate::message::Message;
use crate::telemetry::metrics::labels::DropCause;
use crate::wire::frame;

/// Positions in [`crate::telemetry::metrics::blocks::PROTOCOLS`].
const WEBSOCKET: usize = 0;
const SOCKET: usize = 1;

/// What a message is for connections of socket servers: their scripts say it. Called only while nothing of the shard is
/// borrowed, since that runs Lua.
pub trait Encode {
    /// What the next of the connections is to get; None where the script failed.
    fn encode(&self, message: &Message, conn: &Rc<Conn>, encoded: &mut Encoded) -> Option<Frame>;
}

/// What is known of a message that is encoded for one connection after the other.
#[derive(Default)]
pub struct Encoded {
    /// By server, what is the same for all of its connections.
    pub shared: Vec<(usize, Option<Frame>)>,
    /// A script has failed, which is told once for all.
    pub failed: bool,
}

/// A message on its way to connections of socket servers. Each may take its script long, so it is delivered in parts.
pub(super) struct Encoding {
    conns: std::vec::IntoIter<Rc<Conn>>,
    message: Message,
    encoded: Encoded,
    share: Share,
    counts: Counts,
    /// Those of `counts` that are not WebSockets.
    reached: u64,
}

impl Shard {
    /// Handles what came through the mailbox, and says for how many connections it was. It only fills outboxes; nothing is
    /// written yet. What scripts must encode is left to [`Shard::encode_on`], before which nothing else may be delivered.
    pub fn deliver(&self, delivery: Delivery) -> usize {
        let mut counts = Counts::default();
        let (rest, share) = match delivery {
            Delivery::Publish(publication, share) => {
                let raw = self.fan_out(&publication, &share, &mut counts);
                ((!raw.is_empty()).then(|| (raw, publication.message.clone())), share)
            }
            Delivery::Send(client_id, message, share) => {
                let mut rest = None;
                match self.get(client_id) {
                    Some(conn) if conn.is_raw() => rest = Some((vec![conn], message)),
                    Some(conn) => {
                        counts.add(self.send(&conn, message.kind(), message.data()));
                        self.count_delivered(WEBSOCKET, counts.reached, &share);
                    }
                    None => {
                        counts.add(false);
                        self.counts.no_client.add(1);
                    }
                }
                (rest, share)
            }
            Delivery::Order(client_id, order, obeyed) => {
                if let Some(conn) = self.get(client_id) {
                    // Whoever asked may have gone.
                    let _ = obeyed.send(self.obey(&conn, order));
                }
                return 1;
            }
        };
        let done = (counts.reached + counts.failed) as usize;
        match rest {
            None => share.settle(counts),
            Some((conns, message)) => {
                let (conns, encoded) = (conns.into_iter(), Encoded::default());
                self.encoding.replace(Some(Encoding { conns, message, encoded, share, counts, reached: 0 }));
            }
        }
        done
    }

    /// Whether a message is on its way to connections of socket servers.
    pub fn is_encoding(&self) -> bool {
        self.encoding.borrow().is_some()
    }

    /// Goes on with the message that is on its way to connections of socket servers, until all have it or `enough`, which is
    /// asked after each; says for how many that was.
    pub fn encode_on(&self, encode: &dyn Encode, mut enough: impl FnMut() -> bool) -> usize {
        let Some(mut encoding) = self.encoding.take() else { return 0 };
        let mut done = 0;
        while let Some(conn) = encoding.conns.next() {
            let frame = encode.encode(&encoding.message, &conn, &mut encoding.encoded);
            let encoded = frame.is_some();
            let reached = frame.is_some_and(|frame| self.push(&conn, frame));
            encoding.counts.add(reached);
            encoding.reached += u64::from(reached);
            match encoded {
                false => self.counts.protocols[SOCKET].dropped.one(DropCause::Encode),
                true if !reached => self.count_dropped(&conn),
                true => {}
            }
            done += 1;
            if enough() && !encoding.conns.as_slice().is_empty() {
                self.encoding.replace(Some(encoding));
                return done;
            }
        }
        self.counts.protocols[SOCKET].sent.add(encoding.reached);
        self.count_delivered(SOCKET, encoding.reached, &encoding.share);
        encoding.share.settle(encoding.counts);
        done
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
