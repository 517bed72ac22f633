//! What a connection does when a back end orders it to.

use super::Shard;
use super::conn::Conn;
use crate::hub::Order;
use crate::message::CloseReason;

impl Shard {
    /// Does it, or says why not.
    pub(super) fn obey(&self, conn: &Conn, order: Order) -> Result<(), String> {
        if conn.is_closing() {
            return Err(format!("client {} is closing", conn.client_id));
        }
        match order {
            Order::SetContext(values) => self.merge_context(conn, values).map_err(|full| full.to_string()),
            Order::Subscribe(channels) => self.subscribe(conn, &channels).map_err(|too_many| too_many.to_string()),
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
