//! Server-sent events (WHATWG HTML, "Server-sent events"): what goes to clients that can't have a WebSocket. [`request`] has
//! the requests that open a stream or send a message, and the answers to them.
//!
//! An event is the same for every client and ends with an empty line, so it is encoded once and shared, as a frame is. The
//! response has no length and no chunks: it ends with its connection. So HTTP/1.0, which proxies may speak, has it too, and
//! an event that was cut off is none, since its empty line is missing.

pub mod request;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use memchr::memchr2;
use std::rc::Rc;

use crate::ids::ClientId;
use crate::message::Kind;
use crate::secret::token::Token;

/// A comment, which clients ignore: it keeps proxies from closing a silent connection.
pub const COMMENT: &[u8] = b":\n\n";

/// A message as an event. A text is its data, each of its lines a line of it; a line's end of any form arrives as `\n`.
/// Binary data is base64, of the event `binary`. Text must be UTF-8, as [`crate::message::Message`] sees to.
pub fn encode(kind: Kind, payload: &[u8]) -> Rc<[u8]> {
    encode_with(None, kind, payload)
}

/// The same with an id, if there is one: a text of one line.
pub fn encode_with(id: Option<&str>, kind: Kind, payload: &[u8]) -> Rc<[u8]> {
    let mut event = Vec::with_capacity(payload.len() + payload.len() / 16 + 64);
    if let Some(id) = id {
        push_id(&mut event, id);
    }
    match kind {
        Kind::Text => push_lines(&mut event, payload),
        Kind::Binary => {
            event.extend_from_slice(b"event: binary\n");
            push_lines(&mut event, BASE64_STANDARD.encode(payload).as_bytes());
        }
    }
    event.push(b'\n');
    event.into()
}

/// An id without an event, which no page hears of: a client that comes back goes on from there.
pub fn encode_id(id: &str) -> Vec<u8> {
    let mut event = Vec::new();
    push_id(&mut event, id);
    event.push(b'\n');
    event
}

fn push_id(event: &mut Vec<u8>, id: &str) {
    event.extend_from_slice(b"id: ");
    event.extend_from_slice(id.as_bytes());
    event.push(b'\n');
}

/// The event `close`, the last one: why the connection ends, by the codes of WebSocket.
pub fn encode_close(code: u16, reason: &str) -> Rc<[u8]> {
    named("close", &serde_json::json!({"code": code, "reason": reason}))
}

/// The event `connected`, the first one: who the client is, and the token by which it may send. A client that loses the
/// stream comes back after `retry` milliseconds.
pub fn encode_connected(client: ClientId, token: Token, retry: u32) -> Vec<u8> {
    let said = serde_json::json!({"client": client.to_string(), "token": token.expose()});
    let mut event = format!("retry: {retry}\n").into_bytes();
    event.extend_from_slice(&named("connected", &said));
    event
}

fn named(name: &str, data: &serde_json::Value) -> Rc<[u8]> {
    // JSON holds no raw line end.
    format!("event: {name}\ndata: {data}\n\n").into_bytes().into()
}

fn push_lines(event: &mut Vec<u8>, mut rest: &[u8]) {
    loop {
        let end = memchr2(b'\n', b'\r', rest);
        let (line, more) = rest.split_at(end.unwrap_or(rest.len()));
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(line);
        event.push(b'\n');
        if more.is_empty() {
            return;
        }
        rest = more.strip_prefix(b"\r\n").unwrap_or(&more[1..]);
    }
}

#[cfg(test)]
mod tests;
