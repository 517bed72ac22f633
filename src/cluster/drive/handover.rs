//! What the mesh's thread does when this process hands over to a successor: other threads tell it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::mpsc;

use crate::cluster::node::{Clients, Node, Reach};

/// The longest that the mesh's thread may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// What another thread wants.
pub(super) enum Order {
    /// Which nodes a successor has to reach, and whether one can take over; not `dry`: one is about to.
    Reach { dry: bool, answer: SyncSender<Result<Vec<Reach>, String>> },
    /// Begin nothing new, and be still as soon as nothing is under way any more; then answer.
    BeStill(SyncSender<()>),
    /// Where it stands.
    Save(SyncSender<Vec<Vec<u8>>>),
    /// Go on: there is no successor.
    GoOn,
    /// The successor goes on: end, without a word.
    GiveWay,
}

/// The way to the mesh's thread. Any thread may use it; those that wait for an answer must not be a worker.
#[derive(Clone)]
pub struct Orders(mpsc::UnboundedSender<Order>);

impl Orders {
    pub(super) fn new() -> (Orders, mpsc::UnboundedReceiver<Order>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Orders(sender), receiver)
    }

    /// The nodes that a successor has to reach; or why none can take over. Unless that is `dry`, [`Orders::go_on`] or
    /// [`Orders::give_way`] follows.
    pub fn reach(&self, dry: bool) -> Result<Vec<Reach>, String> {
        let (answer, came) = sync_channel(1);
        self.ask(Order::Reach { dry, answer }, &came, ANSWER)?
    }

    /// Begins nothing new, and is still as soon as nothing is under way. False: something still is after that time.
    pub fn be_still(&self, within: Duration) -> bool {
        let (answer, came) = sync_channel(1);
        self.ask(Order::BeStill(answer), &came, within).is_ok()
    }

    /// Where the node stands, in parts. It has to be still.
    pub fn save(&self) -> Result<Vec<Vec<u8>>, String> {
        let (answer, came) = sync_channel(1);
        self.ask(Order::Save(answer), &came, ANSWER)
    }

    /// Goes on where it stood.
    pub fn go_on(&self) {
        let _ = self.0.send(Order::GoOn);
    }

    /// The successor goes on: ends, without a word to others.
    pub fn give_way(&self) {
        let _ = self.0.send(Order::GiveWay);
    }

    fn ask<T>(&self, order: Order, answer: &Receiver<T>, within: Duration) -> Result<T, String> {
        self.0.send(order).map_err(|_| "the mesh has ended".to_owned())?;
        answer.recv_timeout(within).map_err(|e| match e {
            RecvTimeoutError::Timeout => "the mesh does not answer".to_owned(),
            RecvTimeoutError::Disconnected => "the mesh has ended".to_owned(),
        })
    }
}

/// What of a handover is under way.
#[derive(Default)]
pub(super) struct Under {
    /// Who waits until nothing is under way any more.
    at_rest: Option<SyncSender<()>>,
    /// The successor goes on.
    over: bool,
}

impl Under {
    /// Whether the successor goes on.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Does what another thread wants.
    pub(super) fn carry_out<C: Clients>(&mut self, node: &mut Node<C>, order: Order, now: u64) {
        // Who does not wait any more needs no answer.
        match order {
            Order::Reach { dry: true, answer } => drop(answer.try_send(node.reach())),
            Order::Reach { dry: false, answer } => drop(answer.try_send(node.precede())),
            Order::BeStill(answer) => {
                node.finish();
                self.at_rest = Some(answer);
            }
            Order::Save(answer) => drop(answer.try_send(node.save())),
            Order::GoOn => {
                self.at_rest = None;
                node.go_on(now);
            }
            Order::GiveWay => self.over = true,
        }
    }

    /// Has the node be still as soon as nothing is under way, if that is wanted.
    pub(super) fn look<C: Clients>(&mut self, node: &mut Node<C>) {
        if let Some(answer) = self.at_rest.take_if(|_| node.is_at_rest()) {
            node.be_still();
            let _ = answer.try_send(());
        }
    }
}
