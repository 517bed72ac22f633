//! The threads of the mesh: one that works off what comes and keeps the time, and a sender for each other node.

mod handover;
mod succession;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

use self::handover::{Order, Under};
use super::bus::{Bus, Event};
use super::link::Link;
use super::members::Shared;
use super::node::{Clients, Node, Output};
use super::refusals::Refusals;

pub use handover::Orders;
pub use succession::Successor;

/// How often the time is looked at.
const TICK: Duration = Duration::from_millis(25);
/// So long the senders have, at the end, for what is left.
const FAREWELL: Duration = Duration::from_millis(100);
/// So many events are worked off before what they lead to is sent.
const BATCH: usize = 64;

/// The mesh's threads; they end when this is dropped or [`Driver::stop`] is called.
pub struct Driver {
    stop: Option<oneshot::Sender<()>>,
    orders: Orders,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    /// Starts a node. `events`: what its bus brings; `renumbered` hears that the node has another number.
    pub fn start<C: Clients + Send + 'static>(
        make: impl FnOnce(u64) -> Node<C> + Send + 'static,
        shared: Arc<Shared>,
        bus: Arc<dyn Bus>,
        events: mpsc::Receiver<Event>,
        renumbered: impl Fn(u16) + Send + 'static,
    ) -> std::io::Result<Driver> {
        let clock = Clock(Instant::now());
        Driver::spawn(shared, (bus, events), (clock, renumbered), async move |_, _, clock| Some(make(clock.now())))
    }

    /// Starts the thread. `node` makes the node, in time; None: there is none.
    fn spawn<C: Clients + Send + 'static>(
        shared: Arc<Shared>,
        (bus, mut events): (Arc<dyn Bus>, mpsc::Receiver<Event>),
        (clock, renumbered): (Clock, impl Fn(u16) + Send + 'static),
        node: impl AsyncFnOnce(&dyn Bus, &mut mpsc::Receiver<Event>, Clock) -> Option<Node<C>> + Send + 'static,
    ) -> std::io::Result<Driver> {
        let (stop, stopped) = oneshot::channel();
        let (orders, ordered) = Orders::new();
        let run = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
                Ok(runtime) => runtime,
                Err(error) => return tracing::error!(%error, "the mesh can't start"),
            };
            // A bus may have a runtime of its own, which it can't end from within another one.
            let outlives = bus.clone();
            runtime.block_on(async move {
                let Some(node) = node(&*bus, &mut events, clock).await else { return };
                let (renumbered, refusals) = (Box::new(renumbered), Refusals::default());
                let (orders, under) = (ordered, Under::default());
                let drive = Drive { node, shared, bus, events, orders, under, clock, renumbered, refusals };
                drive.run(stopped).await;
            });
            drop(runtime);
            drop(outlives);
        };
        let thread = std::thread::Builder::new().name("mesh".into()).spawn(run)?;
        Ok(Driver { stop: Some(stop), orders, thread: Some(thread) })
    }

    /// What another thread may tell the mesh's.
    pub fn orders(&self) -> Orders {
        self.orders.clone()
    }

    /// Tells the other nodes that this one ends, and waits for the threads.
    pub fn stop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic there was told in its place.
            let _ = thread.join();
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Milliseconds since the mesh's start.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> u64 {
        // Not 0: that is before all.
        self.0.elapsed().as_millis() as u64 + 1
    }
}

struct Drive<C> {
    node: Node<C>,
    shared: Arc<Shared>,
    bus: Arc<dyn Bus>,
    events: mpsc::Receiver<Event>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// What of a handover is under way.
    under: Under,
    clock: Clock,
    renumbered: Box<dyn Fn(u16)>,
    refusals: Refusals,
}

impl<C: Clients> Drive<C> {
    async fn run(mut self, stopped: oneshot::Receiver<()>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut stopped = pin!(stopped);
        self.node.tick(self.clock.now());
        self.act();
        poll_fn(|cx| {
            if stopped.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            self.shared.own.wake_when_changed(cx.waker());
            if ticks.poll_tick(cx).is_ready() {
                // The next one is asked for as well, so that it wakes.
                while ticks.poll_tick(cx).is_ready() {}
                self.node.tick(self.clock.now());
            }
            let now = self.clock.now();
            while let Poll::Ready(Some(order)) = self.orders.poll_recv(cx) {
                self.under.carry_out(&mut self.node, order, now);
            }
            if self.under.is_over() {
                return Poll::Ready(());
            }
            let mut left = BATCH;
            while let Poll::Ready(event) = self.events.poll_recv(cx) {
                match event {
                    Some(Event::Hello(bytes)) => self.node.hear(&bytes, now),
                    Some(Event::Frame(bytes)) => self.node.frame(bytes, now),
                    Some(Event::Closed(run)) => self.node.link_closed(run, now),
                    Some(Event::Refused(refusal)) => {
                        self.shared.stats.refused();
                        self.refusals.tell(&refusal, now);
                    }
                    None => return Poll::Ready(()),
                }
                left -= 1;
                if left == 0 {
                    cx.waker().wake_by_ref();
                    break;
                }
            }
            self.node.work(cx, now);
            self.under.look(&mut self.node);
            self.act();
            Poll::Pending
        })
        .await;
        if !self.under.is_over() {
            self.node.leave();
        }
        self.act();
        // The senders have a moment to say so; then they end.
        tokio::time::sleep(FAREWELL).await;
        self.node.end();
    }

    /// Does what the node wants done.
    fn act(&mut self) {
        for output in self.node.outputs() {
            match output {
                Output::Announce(hello) => self.bus.announce(hello),
                Output::Send(link) => self.send(link),
                Output::Greet(to, frame) => self.bus.greet(to, frame),
                Output::Dial(to, at) => self.bus.dial(to, &at),
                Output::Number(number) => {
                    tracing::debug!(number, "another node has the number of this one, which takes another");
                    (self.renumbered)(number);
                }
            }
        }
    }

    /// Starts the sender of a link. It ends with the link.
    fn send(&self, link: Arc<Link>) {
        let (bus, clock) = (self.bus.clone(), self.clock);
        let sender = link.clone();
        let run = move || {
            let mut frame = Vec::new();
            while sender.wait_for_frame(|| clock.now(), &mut frame) {
                bus.send(sender.peer, std::mem::take(&mut frame));
            }
            bus.forget(sender.peer);
        };
        if let Err(error) = std::thread::Builder::new().name("mesh-send".into()).spawn(run) {
            tracing::error!(%error, "no thread for a node: it is not reached");
            link.close();
        }
    }
}
