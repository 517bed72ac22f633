//! Event streams: what the client sends comes by requests of its own (`post`), and waits with the connection.

use super::protocol::ProtocolHandler;
use super::session::State;
use crate::handover::Encoder;
use crate::message::CloseReason;
use crate::script::hooks::HookArgs;
use crate::script::vm::{Hook, Returned};

/// Handles the messages that came by requests.
pub(super) struct EventStream;

impl ProtocolHandler for EventStream {
    /// Nothing may follow the request that opened the stream: it is not answered, but read, so that the end is seen.
    fn take(&mut self, _: &mut State, _: &mut [u8]) {}

    /// There is no other way to close an event stream.
    fn end(&mut self, state: &mut State) {
        state.conn.close(state.conn.lost_by().unwrap_or(CloseReason::Peer(None)));
    }

    fn has_work(&self, state: &State) -> bool {
        let waits = state.conn.posted().is_some_and(|posted| !posted.is_empty());
        waits && state.messages_left() > 0 && state.bytes_left() > 0
    }

    fn work(&mut self, state: &mut State) {
        let Some((message, trace)) = state.conn.posted().and_then(|posted| posted.pop()) else { return };
        state.charge_frames(1);
        state.worker.shard.count_read(&state.conn);
        state.took_messages(1);
        state.took_bytes(message.data().len());
        state.start_in(trace, Hook::Message, HookArgs::message(message.kind(), message.data()));
    }

    fn returned(&mut self, _: &mut State, _: Returned) {}

    fn resume_work(&mut self, _: &mut State, _: bool) -> bool {
        false
    }

    fn has_room(&self, _: &State) -> bool {
        true
    }

    /// What waits is with the connection.
    fn save(&self, _: &mut Encoder) {}

    fn held(&self, state: &State) -> usize {
        state.conn.posted().map_or(0, |posted| posted.bytes())
    }

    fn on_closing(&mut self, state: &State) {
        if let Some(posted) = state.conn.posted() {
            posted.clear();
        }
    }
}
