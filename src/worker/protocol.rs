//! The protocol of a session: WebSocket frames, or the packets that a script defines.

use super::session::State;
use crate::handover::Encoder;
use crate::script::vm::{Hook, Returned};

/// Handles the bytes that come on a connection.
pub(super) trait ProtocolHandler: Unpin {
    /// Takes what was read.
    fn take(&mut self, state: &mut State, bytes: &mut [u8]);
    /// The client sends no more.
    fn end(&mut self, state: &mut State);
    /// Whether something waits that needs a handler.
    fn has_work(&self, state: &State) -> bool;
    /// The hook of the next handler.
    fn next_hook(&self) -> Hook {
        Hook::Message
    }
    /// Runs the next handler; only called when there is work, and no handler is running.
    fn work(&mut self, state: &mut State);
    /// Takes what a hook has returned.
    fn returned(&mut self, state: &mut State, returned: Returned);
    /// Continues with work that it had to leave; true if there was something to do. `idle`: no handler is running.
    fn resume_work(&mut self, state: &mut State, idle: bool) -> bool;
    /// Whether more may be read.
    fn has_room(&self, state: &State) -> bool;
    /// Whether the client closes within the bytes that are not handled yet; `unread`: the bytes that follow them. Only
    /// asked where [`crate::shard::framing::Framing::clients_close`].
    fn closes_in(&self, _unread: &[u8]) -> bool {
        false
    }
    /// Whether the script knows of the connection, and so has to be told of its end.
    fn is_known(&self) -> bool {
        true
    }
    /// The memory for bytes that have come and are not handled.
    fn held(&self, state: &State) -> usize;
    /// Writes what it keeps of the connection, for a successor process.
    fn save(&self, out: &mut Encoder);
    /// The connection ends: drops what waits.
    fn on_closing(&mut self, state: &State);
}
