//! How workers reach each other, and how the engine reaches them: control lanes, sockets accepted for another worker,
//! connection counts, and signs of life.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

use super::arrivals::{Arrival, Arrivals};
use super::load::LoadPermit;
use super::pulse::{Pulse, State};
use super::step::Step;
use crate::ids::WorkerId;
use crate::script::program::Program;

/// The capacity of a control lane; a sender waits when it is full.
const CONTROL_LANE: usize = 1024;

/// A command on a worker's control lane.
pub enum Control {
    /// Take over a socket that another worker accepted: the next of its arrivals. It may be gone if this worker was
    /// stuck for a while.
    Adopt,
    /// First phase of a reload: build a VM of that version beside the current one.
    Build {
        /// The server's position.
        server: usize,
        /// The new version.
        program: Arc<Program>,
        /// Says whether it worked.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// Second phase: use the VM that was built, or drop it if another worker failed.
    Swap {
        /// The server's position.
        server: usize,
        /// Use it.
        accept: bool,
    },
    /// The configuration in force has changed.
    Configure,
    /// A step of handing its connections over to a successor process, or of taking them from the one before.
    Handover(Step),
    /// Accept no clients, and close those that are there, a few at a time.
    CloseClients {
        /// The time between the first and the last.
        over: Duration,
        /// Dropped when the last is closed.
        done: std::sync::mpsc::Sender<()>,
    },
    /// Stop accepting, close every connection, and end when all have gone.
    Drain,
}

/// How workers reach each other.
pub struct Peers {
    /// By worker: its control lane.
    pub control: Vec<mpsc::Sender<Control>>,
    /// By worker: its connections.
    pub loads: Vec<Arc<AtomicUsize>>,
    /// By worker: sockets that others have accepted for it.
    arrivals: Vec<Arrivals>,
    /// By worker: its sign of life.
    pub pulses: Vec<Pulse>,
}

impl Peers {
    /// Lanes for that many workers, and each one's receiving end.
    pub fn new(workers: usize) -> (Peers, Vec<mpsc::Receiver<Control>>) {
        let (control, receivers) = (0..workers).map(|_| mpsc::channel(CONTROL_LANE)).unzip();
        let loads = (0..workers).map(|_| Arc::default()).collect();
        let (arrivals, pulses) = (0..workers).map(|_| Default::default()).unzip();
        (Peers { control, loads, arrivals, pulses }, receivers)
    }
}

impl Peers {
    /// A worker that is stuck, if there is one.
    pub fn stuck(&self) -> Option<usize> {
        self.pulses.iter().position(|pulse| pulse.state() == State::Stuck)
    }

    /// Hands a socket to a worker. Err: it has no room; returns a socket for another worker.
    pub(super) fn hand(&self, to: usize, arrival: Arrival) -> Result<(), Arrival> {
        self.arrivals[to].lock().push_back(arrival);
        if self.control[to].try_send(Control::Adopt).is_ok() {
            return Ok(());
        }
        // Usually the same one. None: the worker was faster.
        let back = self.arrivals[to].lock().pop_back();
        back.map_or(Ok(()), Err)
    }

    /// The next socket for a worker.
    pub(super) fn arrived(&self, worker: WorkerId) -> Option<Arrival> {
        self.arrivals[usize::from(worker.0)].lock().pop_front()
    }

    /// The worker with the fewest connections of those that go on.
    pub fn liveliest(&self) -> Option<usize> {
        let going = |to: &usize| self.pulses[*to].state() == State::Fine && self.pulses[*to].progress().is_some();
        (0..self.loads.len()).filter(going).min_by_key(|&to| self.loads[to].load(Relaxed))
    }

    /// Moves the sockets that wait for a stuck worker to a live one, as far as it has room.
    pub fn take_back(&self, from: usize) {
        while let Some(to) = self.liveliest() {
            let Some(arrival) = self.arrivals[from].lock().pop_front() else { return };
            let load = LoadPermit::take(&self.loads[to]);
            if let Err(back) = self.hand(to, Arrival { load, ..arrival }) {
                self.arrivals[from].lock().push_front(back);
                return;
            }
        }
    }
}
