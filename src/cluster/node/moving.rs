//! A node that hands over to a successor process, and what the others do meanwhile.
//!
//! First it finishes ([`Pace::Finishing`]): what it has begun for others, or asked of them, ends; what would begin something new
//! waits in the backlog, for the successor. A stream mixes both: so what ends something is taken out of its frames, and worked
//! off before the rest. It may overtake that: replies are told by their numbers, and messages of a channel that this node
//! follows by their positions. Then it is still ([`Pace::Still`]): nothing changes any more, so that all of it can be written
//! ([`super::saved`]); what comes is kept, in case that the successor fails.
//!
//! The successor keeps all that others have sent since it listens, and finds by the numbers of each stream what was worked off before. A
//! node that was dropped meanwhile has no stream any more: so the epoch of its last one goes along, or the successor would take what it
//! has kept of that for a stream that begins, and work it off again.

use bytes::BytesMut;

use super::pace::{Kept, Pace};
use super::peer::{Incoming, Peer};
use super::{Clients, Node};
use crate::cluster::members::Phase;
use crate::cluster::protocol::ordered::Ordered;
use crate::cluster::protocol::{HEADER, KNOWS_MOVES, Message, Messages, Run};
use crate::handover::{Damaged, Decoder, Encoder};

/// A node that a successor process has to reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The node.
    pub run: Run,
    /// The epoch of the stream to it.
    pub epoch: u32,
    /// Where it can be dialled.
    pub at: Vec<String>,
    /// Its API, by which people know it.
    pub api: String,
}

impl Reach {
    /// Writes it for the successor.
    pub fn write(&self, out: &mut Encoder) {
        out.u64(self.run.0);
        out.u32(self.epoch);
        out.count(self.at.len());
        self.at.iter().for_each(|at| out.data(at.as_bytes()));
        out.data(self.api.as_bytes());
    }

    /// Reads it there.
    pub fn read(from: &mut Decoder<'_>) -> Result<Reach, Damaged> {
        let (run, epoch) = (Run(from.u64()?), from.u32()?);
        let at = from.list(|from| Ok(from.text()?.to_owned()))?;
        Ok(Reach { run, epoch, at, api: from.text()?.to_owned() })
    }
}

impl<C: Clients> Node<C> {
    /// The nodes that a successor of this process has to reach before it takes over: those that are there. An error says why none
    /// can take over now.
    pub fn precede(&mut self) -> Result<Vec<Reach>, String> {
        let reach = self.reach()?;
        self.pace = Pace::Preceding;
        self.dropped = reach.iter().map(|other| (other.run, 0)).collect();
        Ok(reach)
    }

    /// The same, only to know whether it could.
    pub fn reach(&self) -> Result<Vec<Reach>, String> {
        if self.phase != Phase::Serving || self.draining {
            return Err("this node has not joined its cluster yet, or leaves it".to_owned());
        }
        let there = || self.peers.iter().filter(|(_, peer)| !peer.closed && !peer.link.is_suspect());
        if let Some((_, peer)) = there().find(|(_, peer)| peer.hello.minor < KNOWS_MOVES) {
            let api = peer.hello.api.escape_debug();
            return Err(format!(
                "{api} runs an older connmix, which knows nothing of upgrades in place: renew that first"
            ));
        }
        let reach = |(run, peer): (&Run, &Peer)| {
            let at = self.dials.0.get(run).map(|known| known.at.clone()).unwrap_or_default();
            Reach { run: *run, epoch: peer.link.epoch(), at, api: peer.hello.api.clone() }
        };
        Ok(there().map(reach).collect())
    }

    /// Begins nothing new, from now on. The others are told that answers take a little longer.
    pub fn finish(&mut self) {
        self.pace = Pace::Finishing;
        self.clients.hold(true);
        for peer in self.peers.values_mut() {
            peer.link.aside(Some(&Message::Moving));
            peer.incoming.split();
        }
    }

    /// Whether nothing is under way that a successor would not have.
    pub fn is_at_rest(&self) -> bool {
        let rests = |incoming: &Incoming| incoming.waiting.is_none() && incoming.early.is_empty();
        self.clients.is_at_rest() && self.peers.values().all(|peer| rests(&peer.incoming) && peer.link.is_at_rest())
    }

    /// Does nothing from now on, and sends nothing.
    pub fn be_still(&mut self) {
        self.pace = Pace::Still;
        self.peers.values().for_each(|peer| peer.link.pause(true));
    }

    /// Goes on where it stood.
    pub fn go_on(&mut self, now: u64) {
        if std::mem::take(&mut self.pace).serves() {
            return;
        }
        self.clients.hold(false);
        let reply_timeout = self.settings.reply_timeout;
        for peer in self.peers.values_mut() {
            (peer.heard, peer.patience) = (now, now + reply_timeout);
            peer.link.aside(Some(&Message::Back));
            peer.link.pause(false);
        }
        let Kept { frames, closed } = std::mem::take(&mut self.kept);
        frames.into_iter().for_each(|frame| self.frame(frame, now));
        closed.into_iter().for_each(|run| self.link_closed(run, now));
    }

    /// Another node hands over: it is waited for, as long as for one that is silent.
    pub(super) fn moves(&mut self, run: Run, now: u64) {
        let leave = self.settings.leave;
        if let Some(peer) = self.peers.get_mut(&run) {
            peer.patience = now + leave;
        }
    }

    /// It answers again: what it was asked meanwhile is answered soon.
    pub(super) fn is_back(&mut self, run: Run, now: u64) {
        let reply_timeout = self.settings.reply_timeout;
        if let Some(peer) = self.peers.get_mut(&run) {
            peer.patience = peer.patience.min(now + reply_timeout);
        }
    }

    /// A successor of another node wants to know whether it is heard. Not by a node that hands over itself: each of the two would
    /// have reached a process that is about to end.
    pub(super) fn is_probed(&mut self, run: Run, token: u64) {
        if let Some(peer) = self.peers.get(&run).filter(|_| self.pace == Pace::Serving) {
            peer.link.aside(Some(&Message::Probed { token }));
        }
    }
}

impl Incoming {
    /// Takes what ends something out of all frames that wait.
    fn split(&mut self) {
        let frames = std::mem::take(&mut self.backlog);
        for frame in frames {
            self.backlog.push_back(frame);
            self.split_last();
        }
    }

    /// The same of the last frame.
    pub(super) fn split_last(&mut self) {
        let Some((frame, at)) = self.backlog.back_mut() else { return };
        let (mut early, mut later) = (BytesMut::new(), BytesMut::from(&frame[..HEADER]));
        let mut messages = Messages::new(&frame[*at..]);
        let mut rest = messages.rest();
        while let Some(message) = messages.next() {
            let part = &rest[..rest.len() - messages.rest().len()];
            rest = messages.rest();
            match message {
                Ok((_, message)) if ends_something(&message) => early.extend_from_slice(part),
                Ok(_) => later.extend_from_slice(part),
                // It is met where it stands.
                Err(_) => return,
            }
        }
        if !early.is_empty() {
            self.bytes = (self.bytes + later.len()).saturating_sub(frame.len());
            (*frame, *at) = (later.freeze(), HEADER);
            self.early.push_back((early.freeze(), 0));
        }
    }
}

/// Whether a message ends something, or is a step of something that another node has begun; others begin something here.
fn ends_something(message: &Message<'_>) -> bool {
    match message {
        Message::Replies(_)
        | Message::CommandReply { .. }
        | Message::OnceReply { .. }
        | Message::Answer { .. }
        | Message::InterestKnown { .. } => true,
        Message::Ordered { body, .. } => {
            !matches!(Ordered::read(body), Some(Ordered::Publish { .. } | Ordered::Read { .. }))
        }
        _ => false,
    }
}
