//! TLS of the ports: certificates and keys from files, the choice among several by name, and the protocol as a state
//! machine from bytes to bytes. Nothing here reads or writes a socket; `shard/transport` does that with a [`Session`].
//!
//! From the bottom up: `x509`, what is read from a certificate; `certificate`, one with its key; `acceptor`, how a port
//! shakes hands; `ports`, what is in force at each; `failure`, why a handshake fails; `secrets`, what a handshake comes to;
//! `keys` and `records`, what is enciphered by it; `session`, one connection.

mod acceptor;
mod certificate;
mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod keys;
mod ports;
mod records;
mod secrets;
mod session;
mod x509;

pub use acceptor::Acceptor;
pub use certificate::Certificate;
pub use failure::Failure;
pub use ports::{Port, Ports, Wrong, files, warnings};
pub use session::Session;

/// The first byte of a record of the handshake, which every TLS connection begins with (RFC 8446, section 5.1).
pub const HANDSHAKE: u8 = 0x16;

/// A fatal alert before any handshake: `internal_error` (RFC 8446, section 6). It tells a client that is not let in to go,
/// which costs no cipher.
pub const NOT_NOW: &[u8] = &[0x15, 3, 3, 0, 2, 2, 80];
