//! What a protocol is to a session: WebSocket frames, or what a script makes of bytes.

use super::session::State;
use crate::script::vm::{Hook, Returned};

/// What a protocol makes of the bytes that come.
pub(super) trait ProtocolHandler: Unpin {
    /// Takes what was read.
    fn take(&mut self, state: &mut State, bytes: &mut [u8]);
    /// The client sends no more.
    fn end(&mut self, state: &mut State);
    /// Whether something waits that a handler is to be run for.
    fn has_work(&self, state: &State) -> bool;
    /// The hook that the next handler is of.
    fn next_hook(&self) -> Hook {
        Hook::Message
    }
    /// Runs the next handler; only called when there is work, and no handler is running.
    fn work(&mut self, state: &mut State);
    /// What a hook that it ran has returned.
    fn returned(&mut self, state: &mut State, returned: Returned);
    /// Goes on with what it had to leave; true if there was something to do. `idle`: no handler is running.
    fn resume_work(&mut self, state: &mut State, idle: bool) -> bool;
    /// Whether more may be read.
    fn has_room(&self, state: &State) -> bool;
    /// Whether the client closes in what is not handled yet; `unread`: what follows of that. Only asked where
    /// [`crate::shard::framing::Framing::clients_close`].
    fn closes_in(&self, _unread: &[u8]) -> bool {
        false
    }
    /// Whether the script knows of the connection, and so is to be told of its end.
    fn is_known(&self) -> bool {
        true
    }
    /// The memory that it holds for what has come and is not handled, in bytes.
    fn held(&self, state: &State) -> usize;
    /// The connection ends: forgets what waits.
    fn on_closing(&mut self, state: &State);
}
