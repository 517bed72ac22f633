//! The purpose of the engine's ports.

use std::io;

/// What a listener's connections are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Clients of `engine.servers[i]`.
    Server(usize),
    /// Back ends on `engine.apiServer`.
    Api,
    /// Programs that look for nodes, on `center.apiServer`.
    Center,
}

/// A bound listener and what it is for.
pub struct Listener {
    /// What its connections are.
    pub role: Role,
    /// The socket.
    pub socket: std::net::TcpListener,
}

impl Listener {
    /// The same socket for another worker.
    pub fn try_clone(&self) -> io::Result<Listener> {
        Ok(Listener { role: self.role, socket: self.socket.try_clone()? })
    }
}
