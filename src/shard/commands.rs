//! How connections apply back ends' commands.

use super::Shard;
use super::conn::Conn;
use super::unsettled::Unsettled;
use crate::hub::{ChannelAction, ChannelCommand, CommandError, CommandReply, ConnCommand, Counts};
use crate::message::CloseReason;

impl Shard {
    /// Applies a command to all connections of a channel. Counts those that it was for: not those that are closing already.
    #[inline(never)]
    pub(super) fn apply_to_channel(&self, command: &ChannelCommand) -> Counts {
        let (topics, conns) = (self.topics.borrow(), self.conns.borrow());
        let members = topics.members(command.channel.as_str()).iter();
        let mut counts = Counts::default();
        for conn in members.filter_map(|&member| conns.get(member as usize)).filter(|conn| !conn.is_closing()) {
            match &command.action {
                ChannelAction::Count => {}
                ChannelAction::Close { code, reason } => {
                    conn.close(CloseReason::Requested { code: *code, reason: reason.clone() });
                }
            }
            counts.add(true);
        }
        counts
    }

    /// Applies a command and answers, if other nodes need not be asked first.
    #[inline(never)]
    pub(super) fn obey(&self, conn: &Conn, command: ConnCommand, reply: CommandReply) {
        let (bounded, new) = match &command {
            ConnCommand::Subscribe(channels) => match self.bounded(conn, channels) {
                bounded if bounded.is_empty() => (bounded, Vec::new()),
                bounded => (bounded, self.new_among(conn, channels)),
            },
            _ => (Vec::new(), Vec::new()),
        };
        match self.apply(conn, command) {
            Ok(()) if !bounded.is_empty() => {
                self.unsettled.add(Unsettled { client: conn.client_id, bounded, new, reply });
            }
            // The caller may have gone.
            outcome => drop(reply.send(outcome)),
        }
    }

    /// Applies a command, or says why not.
    fn apply(&self, conn: &Conn, command: ConnCommand) -> Result<(), CommandError> {
        if conn.is_closing() {
            return Err(CommandError::Closing(conn.client_id));
        }
        match command {
            ConnCommand::SetContext(values) => {
                self.merge_context(conn, values).map_err(|full| CommandError::Bound(full.to_string()))
            }
            ConnCommand::Subscribe(channels) => {
                self.subscribe(conn, &channels).map_err(|too_many| CommandError::Bound(too_many.to_string()))
            }
            ConnCommand::Unsubscribe(channels) => {
                self.unsubscribe(conn, &channels);
                Ok(())
            }
            ConnCommand::Close { code, reason } => {
                conn.close(CloseReason::Requested { code, reason });
                Ok(())
            }
            // To who does not know the token there is no such client.
            ConnCommand::Receive { token, message, trace } => {
                let posted = conn.posted().filter(|posted| posted.token().is(token));
                let posted = posted.ok_or(CommandError::NotConnected(conn.client_id.get()))?;
                let taken = posted.push(message, trace);
                conn.wake();
                taken.then_some(()).ok_or(CommandError::Busy(conn.client_id))
            }
        }
    }
}
