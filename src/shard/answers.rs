//! What a worker knows of its own connections, for those who ask.

use super::Shard;
use super::conn::Conn;
use crate::hub::{Answer, ClientInfo, Crowd, MAX_PAGE, Present, Question};
use crate::ids::{ClientId, NodeId, WorkerId};
use crate::message::Channel;

impl Shard {
    /// The answer of this worker, and how many connections or channels were looked at.
    #[inline(never)]
    pub(super) fn answer(&self, question: &Question, node: NodeId) -> (Answer, usize) {
        match question {
            Question::Presence { channel, after, .. } => self.presence(channel, *after, question.limit(), node),
            Question::Channels { prefix, after, .. } => self.crowds(prefix, after, question.limit()),
            Question::Client(client) => (self.client(*client, node), 1),
            // The node answers.
            Question::Figures | Question::Places(_) | Question::Publish(_) => (Answer::default(), 0),
            Question::Story(client) => (Answer { story: Some(self.story(*client)), ..Answer::default() }, 1),
            Question::Tail(watch) => {
                let seen = self.tap.ask(watch, node, self.worker == WorkerId(0));
                let looked_at = seen.events.len() / 8;
                (Answer { seen, ..Answer::default() }, looked_at)
            }
        }
    }

    /// Those that are closing are not there any more.
    fn presence(&self, channel: &Channel, after: u64, limit: usize, node: NodeId) -> (Answer, usize) {
        let (topics, conns) = (self.topics.borrow(), self.conns.borrow());
        let members = topics.members(channel.as_str());
        let open = members.iter().filter_map(|&member| conns.get(member as usize)).filter(|conn| !conn.is_closing());
        let (mut count, mut behind): (u64, Vec<(u64, u32)>) = (0, Vec::new());
        for conn in open {
            count += 1;
            if conn.client_id.get() > after {
                behind.push((conn.client_id.get(), conn.slot));
            }
        }
        let more = behind.len() > limit;
        if more {
            behind.select_nth_unstable(limit);
            behind.truncate(limit);
        }
        let info = |slot| topics.info(slot, channel.as_str()).map(str::to_owned);
        let present = |(client, slot)| Present { client, node: node.0, info: info(slot) };
        let mut answer =
            Answer { clients: behind.into_iter().map(present).collect(), count, more, ..Answer::default() };
        answer.page(limit);
        (answer, members.len())
    }

    fn crowds(&self, prefix: &str, after: &str, limit: usize) -> (Answer, usize) {
        let topics = self.topics.borrow();
        let wanted = |name: &str| name.starts_with(prefix) && name > after;
        let mut found: Vec<(&str, usize)> = topics.crowds().filter(|(name, _)| wanted(name)).collect();
        let more = found.len() > limit;
        if more {
            found.select_nth_unstable(limit);
            found.truncate(limit);
        }
        let crowd = |(name, count): (&str, usize)| Crowd { channel: name.to_owned(), count: count as u64 };
        let mut answer = Answer { channels: found.into_iter().map(crowd).collect(), more, ..Answer::default() };
        answer.page(limit);
        // Looking at a name takes far less than delivering to a connection.
        (answer, topics.channels() / 8)
    }

    fn client(&self, client: ClientId, node: NodeId) -> Answer {
        let conn = self.get(client).filter(|conn| !conn.is_closing());
        Answer { client: conn.map(|conn| Box::new(self.info_of(&conn, node))), ..Answer::default() }
    }

    fn info_of(&self, conn: &Conn, node: NodeId) -> ClientInfo {
        let mut channels = self.channels_of(conn);
        let subscriptions = channels.len() as u64;
        channels.sort_unstable();
        channels.truncate(MAX_PAGE);
        ClientInfo {
            node: node.0,
            server: u32::try_from(conn.served.index).unwrap_or(u32::MAX),
            address: conn.remote().to_string(),
            channels,
            subscriptions,
            waiting: conn.waiting() as u64,
            since: conn.traffic.since(),
            read: conn.traffic.read(),
            sent: conn.traffic.sent(),
        }
    }
}
