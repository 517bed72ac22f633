//! Sockets on their way from the worker that accepted them to the one that will serve them. They are not in the control lane
//! itself, since a worker that does not go on would keep them there: others take them back.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::accept::Load;
use super::pulse::State;
use super::{Control, Peers, Role};
use crate::ids::WorkerId;

/// A socket for another worker.
pub(super) struct Arrival {
    /// What the connection is.
    pub role: Role,
    /// The socket, non-blocking.
    pub socket: std::net::TcpStream,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// Its place among that worker's connections.
    pub load: Load,
}

/// Those of one worker, the oldest first; no more than its control lane has room for.
#[derive(Default)]
pub(super) struct Arrivals(Mutex<VecDeque<Arrival>>);

impl Arrivals {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Arrival>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peers {
    /// Hands a socket to a worker; Err gives one back that it has no room for.
    pub(super) fn hand(&self, to: usize, arrival: Arrival) -> Result<(), Arrival> {
        self.arrivals[to].lock().push_back(arrival);
        if self.control[to].try_send(Control::Adopt).is_ok() {
            return Ok(());
        }
        // Mostly the same one. None: the worker was quicker.
        let back = self.arrivals[to].lock().pop_back();
        back.map_or(Ok(()), Err)
    }

    /// The next socket for a worker.
    pub(super) fn arrived(&self, worker: WorkerId) -> Option<Arrival> {
        self.arrivals[usize::from(worker.0)].lock().pop_front()
    }

    /// Gives what waits for a worker that does not go on to one that does, as far as there is one with room.
    pub fn take_back(&self, from: usize) {
        let going = |to: &usize| self.pulses[*to].state() == State::Fine && self.pulses[*to].progress().is_some();
        while let Some(to) = (0..self.loads.len()).filter(going).min_by_key(|&to| self.loads[to].load(Relaxed)) {
            let Some(arrival) = self.arrivals[from].lock().pop_front() else { return };
            let load = Load::take(&self.loads[to]);
            if let Err(back) = self.hand(to, Arrival { load, ..arrival }) {
                self.arrivals[from].lock().push_front(back);
                return;
            }
        }
    }
}
