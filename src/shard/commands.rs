//! How a connection applies a back end's command.

use super::Shard;
use super::conn::Conn;
use crate::hub::{CommandError, ConnCommand};
use crate::message::CloseReason;

impl Shard {
    /// Applies a command, or says why not.
    pub(super) fn apply(&self, conn: &Conn, command: ConnCommand) -> Result<(), CommandError> {
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
        }
    }
}
