//! The WebSocket API: calls that come many at once and are answered in order, and queues. From the upgrade request on, a
//! connection is served here without hyper.

mod access;
mod calls;
mod command;
mod request;
mod session;
mod write_buffer;

pub(super) use access::{Access, PATH, upgrade};
pub(super) use session::serve;
