//! The WebSocket wire format: bytes in, meaning out, and back. No I/O, no async, no timers.
//!
//! [`handshake`] owns the HTTP request that opens a connection and the answers to it, [`host`] whom a request is for,
//! [`reader`] the frames that clients send, [`frame`] the frames that the server sends. Sockets, buffers of a thread and what a message is for
//! belong to the callers. The rule they keep: whatever an error says has its answer here too (a [`handshake::Refusal`]
//! becomes a response, a [`reader::Violation`] a close frame), and after it the connection ends.

pub mod frame;
pub mod handshake;
pub mod host;
pub mod reader;
