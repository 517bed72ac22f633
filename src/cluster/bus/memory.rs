//! A bus within a process: for tests with several nodes. Its links can be cut, one way or both.

use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

use super::{Bus, Event};
use crate::cluster::protocol::Run;

/// What connects the nodes.
#[derive(Default)]
pub struct Network {
    state: Mutex<State>,
    hello: Option<u64>,
}

#[derive(Default)]
struct State {
    nodes: HashMap<Run, mpsc::Sender<Event>>,
    cut: HashSet<(Run, Run)>,
}

impl Network {
    /// One whose nodes say hello so often, in milliseconds.
    pub fn with_hello(every: u64) -> Network {
        Network { hello: Some(every), ..Network::default() }
    }

    /// Milliseconds between two hellos of a node; None: as usual.
    pub fn hello(&self) -> Option<u64> {
        self.hello
    }

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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn greet(&self, to: Run, frame: Vec<u8>) {
        if let Some(receiver) = self.network.receiver(self.run, to) {
            // What is lost is said again.
            let _ = receiver.try_send(Event::Frame(frame.into()));
        }
    }

    /// All nodes have links to all.
    fn dial(&self, _: Run, _: &[String]) {}

    fn forget(&self, _: Run) {}

    fn announce(&self, hello: Vec<u8>) {
        let (hello, others) = (Bytes::from(hello), self.network.lock().nodes.keys().copied().collect::<Vec<Run>>());
        for receiver in others.into_iter().filter_map(|to| self.network.receiver(self.run, to)) {
            // What is lost is said again.
            let _ = receiver.try_send(Event::Hello(hello.clone()));
        }
    }
}
