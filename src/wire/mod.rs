//! The WebSocket wire format: parsing and encoding. No I/O, no async, no timers.
//!
//! [`handshake`] handles the HTTP request that opens a connection and its answers, [`host`] the host that a request is
//! for, [`extensions`] what extensions a client offers, [`proxy`] the header that a proxy puts before it, [`reader`] the
//! frames that clients send, [`frame`] the frames that the server sends, [`deflate`] compressed messages, [`event_stream`] server-sent events and their
//! requests. Sockets, buffers of a thread and the meaning of messages belong to the callers. Every error
//! here has its answer here too (a [`handshake::Refusal`] becomes a response, a [`reader::Violation`] a close frame),
//! and after it the connection ends.

pub mod deflate;
pub mod event_stream;
pub mod extensions;
pub mod frame;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod handshake;
pub mod host;
pub mod proxy;
pub mod reader;
