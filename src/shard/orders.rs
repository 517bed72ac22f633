//! What a connection does when a back end orders it to.

use super::Shard;
use super::conn::Conn;
use crate::hub::{CommandError, Order};
use crate::message::CloseReason;

impl Shard {
    /// Does it, or says why not.
    pub(super) fn obey(&self, conn: &Conn, order: Order) -> Result<(), CommandError> {
        if conn.is_closing() {
            return Err(CommandError::Closing(conn.client_id));
        }
        match order {
            Order::SetContext(values) => {
                self.merge_context(conn, values).map_err(|full| CommandError::Bound(full.to_string()))
            }
            Order::Subscribe(channels) => {
                self.subscribe(conn, &channels).map_err(|too_many| CommandError::Bound(too_many.to_string()))
            }
            Order::Unsubscribe(channels) => {
                self.unsubscribe(conn, &channels);
                Ok(())
            }
            Order::Close { code, reason } => {
                conn.close(CloseReason::Requested { code, reason });
                Ok(())
            }
        }
    }
}
