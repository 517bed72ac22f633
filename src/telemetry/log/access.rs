//! The access log: one line for each request to an API and each handshake of a WebSocket, where the configuration says so
//! (`logging.access`). Lines of the log as others, of the target `access`.

use std::fmt;
use std::time::Duration;

/// The target of these lines.
pub const TARGET: &str = "access";
/// The longest path that is written, in bytes.
const LONGEST: usize = 256;

/// What a line tells.
pub struct Access<'a> {
    /// The method; empty: no request has come.
    pub method: &'a str,
    /// The request's target. Its query is left out: it may hold tokens.
    pub target: &'a str,
    /// Who asked: an address, of a client with its port.
    pub peer: &'a dyn fmt::Display,
    /// The status of the answer.
    pub status: u16,
    /// The user whose credentials were right.
    pub user: Option<&'a str>,
    /// The client's id, where it was let in.
    pub client_id: Option<u64>,
    /// The time until the answer.
    pub took: Duration,
}

impl Access<'_> {
    /// Writes the line.
    pub fn write(&self) {
        let Access { method, target, peer, status, user, client_id, took } = *self;
        let path = target.split(['?', '#']).next().unwrap_or_default();
        let path = &path[..path.floor_char_boundary(LONGEST)];
        let (method, path) = (or_dash(method), or_dash(path));
        let ms = took.as_micros() as f64 / 1000.0;
        tracing::info!(target: TARGET, %peer, user, client_id, status, ms, "{method} {path}");
    }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
