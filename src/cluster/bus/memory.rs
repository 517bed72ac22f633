//! A bus within a process: for tests with several nodes. Its links can be cut, one way or both.

use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

use super::{Bus, Event};
use crate::cluster::protocol::Run;

/// What connects the nodes.
#[derive(Default)]
pub struct Network(Mutex<State>);

#[derive(Default)]
struct State {
    nodes: HashMap<Run, mpsc::Sender<Event>>,
    cut: HashSet<(Run, Run)>,
}

impl Network {
    /// A node joins. What comes for it goes to `events`; it has left when their receiver is dropped.
    pub fn join(self: &Arc<Network>, run: Run, events: mpsc::Sender<Event>) -> MemoryBus {
        self.lock().nodes.insert(run, events);
        MemoryBus { network: self.clone(), run }
    }

    /// From now on nothing of the first node reaches the second.
    pub fn cut(&self, from: Run, to: Run) {
        self.lock().cut.insert((from, to));
    }

    /// All links work again.
    pub fn heal(&self) {
        self.lock().cut.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receiver(&self, from: Run, to: Run) -> Option<mpsc::Sender<Event>> {
        let state = self.lock();
        if state.cut.contains(&(from, to)) { None } else { state.nodes.get(&to).cloned() }
    }
}

/// A node's place on it.
pub struct MemoryBus {
    network: Arc<Network>,
    run: Run,
}

impl Bus for MemoryBus {
    fn send(&self, to: Run, frame: Vec<u8>) {
        if let Some(receiver) = self.network.receiver(self.run, to) {
            // A node that has ended takes nothing.
            let _ = receiver.blocking_send(Event::Frame(frame.into()));
        }
    }

    fn announce(&self, hello: Vec<u8>) {
        let (hello, others) = (Bytes::from(hello), self.network.lock().nodes.keys().copied().collect::<Vec<Run>>());
        for receiver in others.into_iter().filter_map(|to| self.network.receiver(self.run, to)) {
            // What is lost is said again.
            let _ = receiver.try_send(Event::Hello(hello.clone()));
        }
    }
}
