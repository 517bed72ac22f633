//! A message for connections whose script encodes it, while that is under way.

use std::rc::Rc;

use super::conn::Conn;
use super::outbox::Frame;
use crate::hub::{Ack, Counts};
use crate::message::Message;

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
    pub(super) conns: std::vec::IntoIter<Rc<Conn>>,
    pub(super) message: Message,
    pub(super) encoded: Encoded,
    pub(super) ack: Ack,
    pub(super) counts: Counts,
    /// Those of `counts` that scripts encode for.
    pub(super) reached: u64,
}
