//! What other nodes have for the clients of this one, and who takes it.

use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;

use crate::cluster::link::Link;
use crate::cluster::protocol::{Message, Published, write_answer};
use crate::hub::{Answer, ChannelAction, Counts, PendingCounts, Question};

/// A message as another node has published it.
pub struct Payload {
    /// Binary data; else text.
    pub binary: bool,
    /// The data.
    pub data: Bytes,
    /// The ids of clients that are left out, 8 bytes each.
    pub except: Bytes,
    /// What it is about, if its publisher said so.
    pub key: Option<String>,
    /// How much it matters.
    pub priority: u8,
}

/// What comes from another node for the clients of this one.
pub enum Delivery {
    /// To all subscribers of a channel.
    Publish {
        /// Its name, as it came.
        channel: String,
        /// The message.
        message: Payload,
        /// Where it is counted.
        counts: Option<PendingCounts>,
    },
    /// To all subscribers of a channel: a connection came to it, or went.
    Moved {
        /// Its name, as it came.
        channel: String,
        /// What they are told, a text.
        data: Bytes,
        /// The client's id, which is left out.
        client: u64,
        /// It came; else it went.
        came: bool,
    },
    /// For all subscribers of a channel to do.
    ChannelCommand {
        /// Its name, as it came.
        channel: String,
        /// What to do, as it came.
        action: ChannelAction,
        /// Where they are counted.
        counts: Option<PendingCounts>,
    },
    /// To one client.
    Send {
        /// Its id.
        client: u64,
        /// Binary data; else text.
        binary: bool,
        /// The data.
        data: Bytes,
        /// Where it is counted.
        counts: Option<PendingCounts>,
    },
    /// To all subscribers of channels on all nodes, once only: this node knows whether it has been done.
    Once {
        /// What tells it from others.
        id: String,
        /// The channels' names, as they came.
        channels: Vec<String>,
        /// They came as a list.
        list: bool,
        /// The message.
        message: Payload,
        /// Who is told.
        reply: OnceReply,
    },
    /// For one client's connection to do.
    Command {
        /// Its id.
        client: u64,
        /// In the form of its owner.
        command: Bytes,
        /// Who is told what came of it.
        reply: CommandReply,
    },
    /// The number of connections in a channel has changed on another node, and this one tells it.
    Stirred {
        /// Its name, as it came.
        channel: String,
        /// It was told there so many milliseconds ago, if it was.
        ago: Option<u64>,
    },
    /// So many connections are in a channel: those of this node are told.
    Online {
        /// Its name, as it came.
        channel: String,
        /// How many.
        count: u64,
    },
    /// Of a channel whose messages have an order.
    Ordered {
        /// Its name, as it came.
        channel: String,
        /// What is said of it, as it came.
        body: Bytes,
        /// The way to the node that says it.
        from: Arc<Link>,
        /// The epoch of its stream.
        epoch: u32,
        /// The number of its request; 0: it wants no reply.
        request: u64,
    },
    /// What does this node know of it?
    Ask {
        /// The question.
        question: Question,
        /// Who is told.
        reply: AnswerReply,
    },
}

/// Who is told the answer to a question.
pub struct AnswerReply {
    link: Arc<Link>,
    request: u64,
}

impl AnswerReply {
    pub(super) fn new(link: Arc<Link>, request: u64) -> AnswerReply {
        AnswerReply { link, request }
    }

    /// The answer of this node.
    pub fn answer(self, answer: &Answer) {
        let reply = Message::Answer { request: self.request, answer: &write_answer(answer) };
        self.link.force(&reply.to_bytes(), None, 0);
    }
}

/// Who is told what a publish that is done once came to.
pub struct OnceReply {
    link: Arc<Link>,
    request: u64,
}

impl OnceReply {
    pub(super) fn new(link: Arc<Link>, request: u64) -> OnceReply {
        OnceReply { link, request }
    }

    /// The counts for each channel, in their order.
    pub fn answer(self, all: &[Counts]) {
        let counts = all.iter().copied().map(Published::from).collect();
        let reply = Message::OnceReply { request: self.request, counts };
        self.link.force(&reply.to_bytes(), None, 0);
    }
}

/// Who is told what came of a command.
pub struct CommandReply {
    link: Arc<Link>,
    request: u64,
}

impl CommandReply {
    pub(super) fn new(link: Arc<Link>, request: u64) -> CommandReply {
        CommandReply { link, request }
    }

    /// What failed, if something did.
    pub fn answer(self, problem: Option<&str>, now: u64) {
        let reply = Message::CommandReply { request: self.request, problem };
        self.link.force(&reply.to_bytes(), None, now);
    }
}

/// A delivery that waits for room.
pub type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The clients of this node.
pub trait Clients {
    /// Delivers something. Some: it waits for room; nothing else of the same node comes before it is done.
    fn deliver(&mut self, delivery: Delivery) -> Option<Waiting>;
    /// How many there are.
    fn count(&self) -> u64;
    /// Goes on with what was begun.
    fn poll(&mut self, cx: &mut Context<'_>);
    /// A node begins a stream of that epoch: something of the one before may be lost.
    fn began(&mut self, _run: u64, _epoch: u32) {}
    /// This node hands over to a successor process: what can be done there is not begun; or it is not so any more.
    fn hold(&mut self, _held: bool) {}
    /// Whether nothing is under way for other nodes that a successor process would not have.
    fn is_at_rest(&self) -> bool {
        true
    }
}
