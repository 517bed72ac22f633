//! The WebSocket API: many calls at once, answered in order, and queues. After the upgrade request, hyper no longer
//! serves the connection.

mod access;
mod calls;
mod request;
mod session;
mod write_buffer;

pub(super) use access::{Access, PATH, upgrade};
pub(super) use session::serve;
