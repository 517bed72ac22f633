//! The mesh's thread of a successor process: it waits until the process before hands over, and goes on as the node.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

use super::{Clock, Driver};
use crate::cluster::bus::{Bus, Event};
use crate::cluster::heir::Heir;
use crate::cluster::members::Shared;
use crate::cluster::node::{Clients, Node, Output, Reach};
use crate::cluster::protocol::Run;

/// How often it is looked who has answered.
const LOOK: Duration = Duration::from_millis(5);

/// The threads of a successor, which has not taken over yet. Dropped, it leaves the bus, and nothing has happened.
pub struct Successor<C> {
    // Dropped first: the thread, for which the driver's drop waits, ends with it.
    begin: oneshot::Sender<Node<C>>,
    driver: Driver,
    clock: Clock,
    missing: Receiver<Vec<Run>>,
}

impl<C: Clients + Send + 'static> Successor<C> {
    /// The successor of that run of a node, on a bus of its own; it tries to reach these nodes for so long. The rest is as of
    /// [`Driver::start`].
    pub fn start(
        (run, others, within): (Run, Vec<Reach>, Duration),
        shared: Arc<Shared>,
        (bus, events): (Arc<dyn Bus>, mpsc::Receiver<Event>),
        renumbered: impl Fn(u16) + Send + 'static,
    ) -> std::io::Result<Successor<C>> {
        let clock = Clock(Instant::now());
        let token = uuid::Uuid::new_v4().as_u64_pair().0;
        let (tell, missing) = sync_channel(1);
        let (begin, begins) = oneshot::channel();
        let heir = Heir::new(run, token, others);
        let until = clock.now() + u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let driver = Driver::spawn(shared, (bus, events), (clock, renumbered), async move |bus, events, clock| {
            wait((heir, until, tell), begins, (bus, events, clock)).await
        })?;
        Ok(Successor { begin, driver, clock, missing })
    }

    /// Waits until all others are reached, or the time is over. Those that are not.
    pub fn missing(&self) -> Vec<Run> {
        self.missing.recv().unwrap_or_default()
    }

    /// The mesh's clock.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Goes on as that node.
    pub fn begin(self, node: Node<C>) -> Driver {
        // If the thread has ended, it has said why.
        let _ = self.begin.send(node);
        self.driver
    }
}

/// Waits for the node. None: this process does not take over.
async fn wait<C: Clients>(
    (mut heir, until, tell): (Heir, u64, SyncSender<Vec<Run>>),
    mut begins: oneshot::Receiver<Node<C>>,
    (bus, events, clock): (&dyn Bus, &mut mpsc::Receiver<Event>, Clock),
) -> Option<Node<C>> {
    let mut tell = Some(tell);
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            biased;
            node = &mut begins => {
                let mut node = node.ok()?;
                heir.into_frames().for_each(|frame| node.frame(frame, clock.now()));
                return Some(node);
            }
            event = events.recv() => {
                if let Event::Frame(frame) = event? {
                    heir.frame(frame);
                }
                continue;
            }
            _ = looks.tick() => {}
        }
        let now = clock.now();
        for output in heir.tick(now) {
            match output {
                Output::Greet(to, frame) => bus.greet(to, frame),
                Output::Dial(to, at) => bus.dial(to, &at),
                Output::Announce(_) | Output::Send(_) | Output::Number(_) => {}
            }
        }
        let missing = heir.missing();
        if missing.is_empty() || now >= until {
            tell.take().iter().for_each(|tell| drop(tell.try_send(missing.clone())));
        }
    }
}
