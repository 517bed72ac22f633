//! A message that scripts are encoding for their connections.

use std::rc::Rc;

use super::conn::Conn;
use super::outbox::{Frame, Policy};
use super::unwritten::CROWD;
use crate::hub::{Ack, Counts};
use crate::message::Message;

/// Encodes a message for connections of socket servers by their scripts. Called only while nothing of the shard is
/// borrowed, since it runs Lua.
pub trait Encode {
    /// The frame for the next connection; None if the script failed.
    fn encode(&self, message: &Message, conn: &Rc<Conn>, encoded: &mut Encoded) -> Option<Frame>;
}

/// What is shared between connections while a message is encoded for each of them.
#[derive(Default)]
pub struct Encoded {
    /// By server: the frame, if it is the same for all of its connections.
    pub shared: Vec<(usize, Option<Frame>)>,
    /// A script has failed; this is logged once per message.
    pub failed: bool,
}

/// A message on its way to connections of socket servers. Each may take its script long, so it is delivered in parts.
pub(super) struct Encoding {
    pub(super) conns: std::vec::IntoIter<Rc<Conn>>,
    pub(super) message: Message,
    pub(super) policy: Policy,
    pub(super) is_for_crowd: bool,
    pub(super) encoded: Encoded,
    pub(super) ack: Ack,
    pub(super) counts: Counts,
    /// The connections among `counts` that scripts encode for.
    pub(super) reached: u64,
}

impl Encoding {
    /// A message for these connections. `counts`: what it has come to with others.
    pub(super) fn new(conns: Vec<Rc<Conn>>, message: Message, policy: Policy, ack: Ack, counts: Counts) -> Encoding {
        let (is_for_crowd, encoded) = (conns.len() > CROWD, Encoded::default());
        Encoding { conns: conns.into_iter(), message, policy, is_for_crowd, encoded, ack, counts, reached: 0 }
    }
}
