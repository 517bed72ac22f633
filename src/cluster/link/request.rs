//! What is asked of a node, and who waits for the answer.

use tokio::sync::oneshot;

use crate::hub::history::{At, From, Kept, LogCopy, Most, Position};
use crate::hub::{Ack, AnswerTo, CommandError, Counts, Recipient};
use crate::ids::ClientId;
use crate::message::Channel;

/// Who waits for the reply to a request.
pub enum Request {
    /// A publish or a send: its part of the counts.
    Counts(Ack),
    /// A publish that is done once, on that node: its counts for each channel. Dropped if no answer comes.
    Once(oneshot::Sender<Vec<Counts>>),
    /// A question. Dropped if no answer comes.
    Answer(AnswerTo),
    /// A publish that the node is to order: all of its counts.
    Ordered(Ack),
    /// What is read of a channel that the node leads; this node was there. Dropped if no answer comes.
    Read(Channel, Option<Position>, ReadFor),
    /// The log of a channel that this node is to lead. Dropped if no answer comes.
    Taken(Channel, oneshot::Sender<Option<LogCopy>>),
    /// A command to that client.
    Command(ClientId, oneshot::Sender<Result<(), CommandError>>),
}

/// What is read of a channel.
pub enum ReadFor {
    /// What a connection gets that comes into it.
    Backlog {
        /// How much of it.
        from: From,
        /// The connection.
        recipient: Recipient,
        /// Who waits until it has that.
        done: oneshot::Sender<At>,
    },
    /// A page.
    Page {
        /// Behind this position; else the newest.
        since: Option<Position>,
        /// The bounds of the page.
        most: Most,
        /// Who waits for it.
        answer: oneshot::Sender<(At, Vec<Kept>)>,
    },
    /// What the connections of this node have missed.
    Node,
}

impl Request {
    /// Whether the node may have to wait for others before it answers.
    pub(super) fn waits_for_others(&self) -> bool {
        matches!(self, Request::Command(..) | Request::Once(_) | Request::Ordered(_) | Request::Read(..))
    }

    /// The node did not answer, or can't be reached.
    pub(super) fn unanswered(self) {
        match self {
            Request::Counts(ack) | Request::Ordered(ack) => {
                ack.settle(Counts { unanswered: 1, ..Counts::default() });
            }
            Request::Once(_) | Request::Answer(_) | Request::Read(..) | Request::Taken(..) => {}
            // One that waits no more needs no answer.
            Request::Command(client, reply) => drop(reply.send(Err(CommandError::Unanswered(client)))),
        }
    }
}
