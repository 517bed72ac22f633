//! Sockets on their way from the worker that accepted them to the one that will serve them. They are not in the control
//! lane itself, since a stuck worker would keep them there; from here other workers take them back.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::load::LoadPermit;
use super::role::Role;

/// A socket for another worker.
pub(super) struct Arrival {
    /// What the connection is.
    pub role: Role,
    /// The socket, non-blocking.
    pub socket: std::net::TcpStream,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Its place among that worker's connections.
    pub load: LoadPermit,
}

/// The sockets for one worker, oldest first; no more than its control lane has room for.
#[derive(Default)]
pub(super) struct Arrivals(Mutex<VecDeque<Arrival>>);

impl Arrivals {
    pub(super) fn lock(&self) -> MutexGuard<'_, VecDeque<Arrival>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
