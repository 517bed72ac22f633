//! Handing everything over to a successor process. It starts while this one serves; then all workers hold still for a moment,
//! and connections, queue, what scripts share and timers go over in one piece.
//!
//! Of a node of a cluster the successor first reaches all others, beside this process. Then this node finishes what it does for
//! them, is still, and goes over as the rest: see `cluster/node/moving`.
//!
//! The successor says that it has everything, and waits; then this process says that it is given ([`Kind::Given`]), and gives
//! all up. If anything fails before, it ends the link instead, and goes on where it stood. The successor touches no
//! connection before it has heard that word, and ends without it. So each is always one's alone, also where a successor that
//! hangs can't be killed, as in another container.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{oneshot, watch};
use zeroize::Zeroize;

use super::counted;
use super::faults::hurries;
use super::member::Member;
use crate::admission::Admission;
use crate::api::Stage;
use crate::api::idempotency::IdempotencyTable;
use crate::cluster::drive::Orders;
use crate::handover::{Batch, Encoder, FILES, Frame, Kind, Link, VERSION};
use crate::hub::Hub;
use crate::queue::Queue;
use crate::shard::hold::Offer;
use crate::shared::Shared;
use crate::telemetry::metrics::Metrics;
use crate::timers::Timers;
use crate::worker::{Control, Listener, Offers, Peers, Role, Step};

/// The longest that a successor may take to be ready: its scripts are tried, and `on_start` may wait.
const STARTING: Duration = Duration::from_secs(60);
/// The longest that it may take to take everything.
const TAKING: Duration = Duration::from_secs(30);
/// How long it may take to reach all other nodes of a cluster.
pub(super) const REACHING: Duration = Duration::from_secs(5);
/// How long what has begun may take to end while all holds still, before the waits of handlers end.
const GRACE: Duration = Duration::from_millis(50);
/// How long it may take after that.
const LAST: Duration = Duration::from_secs(2);
/// How long the successor has the processor for itself, so that those who waited are served, before connections leave here.
const FIRST: Duration = Duration::from_millis(100);
/// How often it is looked at whether handlers wait.
const LOOK: Duration = Duration::from_millis(5);
/// How often it is looked at whether a worker has answered, or has room for a step.
const AWHILE: Duration = Duration::from_micros(200);
/// The longest that a worker may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// From so many bytes on a frame of connections is sent.
const ENOUGH: usize = 64 << 20;

/// What stands before the bytes of a connection.
const HEAD: usize = size_of::<u32>();

/// The listeners, for as long as somebody may be accepted.
pub(super) type Kept = Arc<Mutex<Vec<(Listener, SocketAddr)>>>;

/// All that an engine hands over. Another thread than the engine's may do it.
#[derive(Clone)]
pub struct Estate {
    pub(super) peers: Arc<Peers>,
    pub(super) stage: watch::Sender<Stage>,
    pub(super) hub: Arc<Hub>,
    pub(super) queue: Arc<Queue>,
    pub(super) shared: Arc<Shared>,
    pub(super) timers: Arc<Timers>,
    pub(super) repeats: Arc<IdempotencyTable>,
    /// By server.
    pub(super) admissions: Vec<Arc<Admission>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) listeners: Kept,
    /// The mesh's thread, and what this node is to others, if there are any.
    pub(super) mesh: Option<(Orders, Member)>,
}

/// What a handover came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Connections of clients that the successor has.
    pub clients: usize,
    /// Connections of callers.
    pub callers: usize,
    /// For how long nobody was served.
    pub still: Duration,
}

impl Estate {
    /// Offers itself to a successor, and waits until that is ready to take over; gives what it says. With `dry` that is all
    /// that is asked of it.
    pub fn offer(&self, link: &mut Link, dry: bool) -> Result<String, String> {
        let others = self.mesh.as_ref().map(|(orders, _)| orders.reach(true)).transpose()?;
        let sent = link.patience(Some(STARTING)).and_then(|()| self.send_offer(link, dry));
        sent.map_err(|e| format!("the successor could not be reached: {e}"))?;
        match receive(link)? {
            (Kind::Ready, said) => Ok(match others.filter(|_| dry) {
                Some(others) => {
                    format!("{said}\nits links to {} other nodes of the cluster would go along", others.len())
                }
                None => said,
            }),
            _ => Err("the successor answered something else".to_owned()),
        }
    }

    fn send_offer(&self, link: &mut Link, dry: bool) -> io::Result<()> {
        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Encoder::default();
        out.u32(VERSION);
        out.u32(std::process::id());
        out.byte(dry.into());
        out.u32(self.hub.node().get().into());
        out.option(self.mesh.as_ref(), |out, (_, member)| member.write(out));
        out.count(listeners.len());
        for (listener, wanted) in listeners.iter() {
            out.data(name(listener.role).as_bytes());
            out.data(wanted.to_string().as_bytes());
        }
        let files: Vec<RawFd> = listeners.iter().map(|(listener, _)| listener.socket.as_raw_fd()).collect();
        link.send(Kind::Offer as u8, &out.bytes, &files)
    }

    /// Hands everything over to a successor that is ready; handlers that wait are let finish for `patience`. After an error
    /// all is as it was: the successor serves never, and `stop` has it end soon, where that can be done.
    pub fn hand_over(&self, link: &mut Link, patience: Duration, stop: impl FnOnce()) -> Result<Summary, String> {
        let stop = |link: &Link| {
            link.end();
            stop();
        };
        self.let_finish(patience);
        if let Some(stuck) = self.peers.stuck() {
            stop(link);
            return Err(format!("worker {stuck} is stuck"));
        }
        if let Some((orders, _)) = &self.mesh
            && let Err(why) = reach(link, orders)
        {
            stop(link);
            orders.go_on();
            return Err(why);
        }
        let began = Instant::now();
        self.stage.send_replace(Stage::Moving);
        let given = self.give(link);
        let taken = given.and_then(|counts| match receive(link)? {
            (Kind::Taken, _) => Ok(counts),
            _ => Err("the successor answered something else".to_owned()),
        });
        // What could not be sent is not heard either.
        let given = taken.and_then(|counts| match link.send(Kind::Given as u8, &[], &[]) {
            Ok(()) => Ok(counts),
            Err(_) => Err("the successor has ended".to_owned()),
        });
        let still = began.elapsed();
        match given {
            Ok((clients, callers)) => {
                self.mesh.iter().for_each(|(orders, _)| orders.give_way());
                std::thread::sleep(FIRST);
                let _ = self.all(Step::Moved, ANSWER);
                Ok(Summary { clients, callers, still })
            }
            Err(why) => {
                stop(link);
                self.mesh.iter().for_each(|(orders, _)| orders.go_on());
                self.tell(|| Step::Lift);
                self.stage.send_replace(Stage::Serving);
                Err(why)
            }
        }
    }

    /// Waits until no handler waits, or the time is over.
    fn let_finish(&self, patience: Duration) {
        let began = Instant::now();
        while began.elapsed() < patience {
            match self.all(Step::Waiting, ANSWER) {
                Ok(waiting) if waiting.iter().any(|waiting| *waiting > 0) => std::thread::sleep(LOOK),
                _ => return,
            }
        }
    }

    /// Has all hold still, and sends everything; gives how many connections of clients and of callers.
    fn give(&self, link: &mut Link) -> Result<(usize, usize), String> {
        let began = Instant::now();
        if !self.come_to_rest()? {
            return Err("calls, deliveries or timers that are under way do not end".to_owned());
        }
        let rested = began.elapsed();
        let offers = self.all(Step::Offer, ANSWER)?;
        let Some(offers) = offers.into_iter().collect::<Option<Vec<Offers>>>() else {
            return Err("a worker does not come to rest".to_owned());
        };
        let count = |of: fn(&Offers) -> &Vec<Offer>| offers.iter().map(|offers| of(offers).len()).sum();
        let counts = (count(|offers| &offers.clients), count(|offers| &offers.callers));
        let mesh = self.mesh.as_ref().map(|(orders, _)| orders.save()).transpose()?.unwrap_or_default();
        let offered = began.elapsed();
        link.patience(Some(taking()))
            .and_then(|()| self.send(link, &offers, &mesh))
            .map_err(|e| format!("the successor could not be given everything: {e}"))?;
        tracing::debug!(
            "upgrade: at rest after {rested:?}, offered after {offered:?}, sent after {:?}",
            began.elapsed()
        );
        Ok(counts)
    }

    /// Whether nothing is under way any more.
    fn come_to_rest(&self) -> Result<bool, String> {
        let quiet = |within, cut, calls_only| {
            let all = self.all(|done| Step::Quiet { within, cut, calls_only, done }, within + ANSWER)?;
            Ok::<bool, String>(!all.contains(&false))
        };
        let mut cut = false;
        if let Some((orders, _)) = &self.mesh {
            // Calls and handlers that have begun may wait for other nodes, and those for this one: so it goes on until they have
            // ended. Others publish all the time.
            if !quiet(GRACE, cut, true)? {
                cut = true;
                if !quiet(LAST, cut, true)? {
                    return Ok(false);
                }
            }
            if !orders.be_still(LAST) {
                return Ok(false);
            }
        }
        // Twice: the first time some may have come to rest before others, who then gave them something to do.
        if quiet(GRACE, cut, false)? && quiet(GRACE, cut, false)? {
            return Ok(true);
        }
        Ok(quiet(LAST, true, false)? && quiet(LAST, true, false)?)
    }

    fn send(&self, link: &mut Link, offers: &[Offers], mesh: &[Vec<u8>]) -> io::Result<()> {
        let mut own = Batch::new(link, Kind::Mesh);
        mesh.iter().try_for_each(|part| own.item(|out| out.data(part)))?;
        own.finish()?;
        let mut admissions = Batch::new(link, Kind::Admissions);
        for (server, admission) in self.admissions.iter().enumerate() {
            admission.save(server, &mut admissions)?;
        }
        admissions.finish()?;
        for offers in offers {
            offers.frames.iter().try_for_each(|part| link.send(Kind::Frames as u8, part, &[]))?;
            send_files(link, Kind::Connections, &offers.clients)?;
            send_files(link, Kind::Callers, &offers.callers)?;
        }
        let mut ids = Batch::new(link, Kind::Ids);
        for (lane, step) in offers.iter().flat_map(|offers| &offers.ids) {
            ids.item(|out| {
                out.byte(lane.0);
                out.u64(*step);
            })?;
        }
        ids.finish()?;
        let now = Instant::now();
        let mut batch = |kind, write: &dyn Fn(&mut Batch<'_>) -> io::Result<()>| {
            let mut batch = Batch::new(link, kind);
            write(&mut batch)?;
            batch.finish()
        };
        batch(Kind::Queue, &|batch| self.queue.save(batch))?;
        batch(Kind::Shared, &|batch| self.shared.save(batch, now))?;
        batch(Kind::History, &|batch| self.hub.history().save(batch))?;
        batch(Kind::Timers, &|batch| self.timers.save(batch, now))?;
        batch(Kind::Idempotency, &|batch| self.repeats.save(batch, now))?;
        batch(Kind::Metrics, &|batch| counted::save(&self.metrics, batch))?;
        link.send(Kind::All as u8, &[], &[])
    }

    /// Has all workers do a step, and waits for their answers.
    pub(super) fn all<T>(&self, step: impl Fn(oneshot::Sender<T>) -> Step, within: Duration) -> Result<Vec<T>, String> {
        let deadline = Instant::now() + within;
        let mut answers = Vec::new();
        for worker in 0..self.peers.control.len() {
            answers.push(self.ask(worker, &step)?);
        }
        answers.into_iter().map(|answer| answer.wait(deadline)).collect()
    }

    /// Has a worker do a step.
    pub(super) fn ask<T>(
        &self,
        worker: usize,
        step: impl FnOnce(oneshot::Sender<T>) -> Step,
    ) -> Result<Answer<T>, String> {
        let (done, answer) = oneshot::channel();
        match self.put(worker, step(done)) {
            true => Ok(Answer { worker, answer }),
            false => Err(format!("worker {worker} takes nothing: it is stuck or has ended")),
        }
    }

    /// Has all workers do a step that has no answer.
    pub(super) fn tell(&self, step: impl Fn() -> Step) {
        for worker in 0..self.peers.control.len() {
            self.put(worker, step());
        }
    }

    /// Puts a step on a worker's lane; false if it takes none.
    fn put(&self, worker: usize, step: Step) -> bool {
        let mut control = Control::Handover(step);
        let began = Instant::now();
        loop {
            match self.peers.control[worker].try_send(control) {
                Ok(()) => return true,
                // It has room but while its worker is stuck, or has many connections to take up.
                Err(TrySendError::Full(back)) if began.elapsed() < ANSWER => control = back,
                Err(_) => return false,
            }
            std::thread::sleep(AWHILE);
        }
    }
}

/// What a worker is going to answer.
pub(super) struct Answer<T> {
    worker: usize,
    answer: oneshot::Receiver<T>,
}

impl<T> Answer<T> {
    /// Waits for it until then.
    pub(super) fn wait(mut self, deadline: Instant) -> Result<T, String> {
        loop {
            match self.answer.try_recv() {
                Ok(answer) => return Ok(answer),
                Err(oneshot::error::TryRecvError::Empty) if Instant::now() < deadline => std::thread::sleep(AWHILE),
                Err(_) => return Err(format!("worker {} does not answer", self.worker)),
            }
        }
    }
}

/// [`TAKING`]; for tests, a moment.
fn taking() -> Duration {
    if hurries() { Duration::from_millis(300) } else { TAKING }
}

/// Has the successor reach all other nodes.
fn reach(link: &mut Link, orders: &Orders) -> Result<(), String> {
    let others = orders.reach(false)?;
    let mut out = Encoder::default();
    out.count(others.len());
    others.iter().for_each(|other| other.write(&mut out));
    // The successor bounds the time itself.
    let asked = link.patience(Some(STARTING)).and_then(|()| link.send(Kind::Reach as u8, &out.bytes, &[]));
    asked.map_err(|e| format!("the successor could not be reached: {e}"))?;
    match receive(link)? {
        (Kind::Reached, _) => Ok(()),
        _ => Err("the successor answered something else".to_owned()),
    }
}

/// Sends connections with their sockets.
fn send_files(link: &mut Link, kind: Kind, offers: &[Offer]) -> io::Result<()> {
    let mut rest = offers;
    while !rest.is_empty() {
        let (mut many, mut length) = (0, 0);
        while many < rest.len().min(FILES) && length < ENOUGH {
            length += HEAD + rest[many].bytes.len();
            many += 1;
        }
        let (now, later) = rest.split_at(many);
        // At its whole length from the start: growing would leave copies of the keys that are in it.
        let mut out = Encoder { bytes: Vec::with_capacity(length) };
        now.iter().for_each(|offer| out.data(&offer.bytes));
        let files: Vec<RawFd> = now.iter().map(|offer| offer.socket).collect();
        let sent = link.send(kind as u8, &out.bytes, &files);
        out.bytes.zeroize();
        sent?;
        rest = later;
    }
    Ok(())
}

/// What the successor says next; a refusal is an error.
fn receive(link: &mut Link) -> Result<(Kind, String), String> {
    let gone = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => "the successor has ended".to_owned(),
        io::ErrorKind::WouldBlock => "the successor does not answer".to_owned(),
        _ => format!("the successor can't be heard: {e}"),
    };
    let Frame { kind, bytes, .. } = link.receive().map_err(gone)?;
    let said = String::from_utf8_lossy(&bytes).into_owned();
    match Kind::of(kind) {
        Some(Kind::Refused) => Err(said),
        Some(kind) => Ok((kind, said)),
        None => Err("the successor speaks another version".to_owned()),
    }
}

/// How a listener is called on its way.
pub(super) fn name(role: Role) -> String {
    match role {
        Role::Server(server) => format!("engine.servers[{server}]"),
        Role::Api => "engine.apiServer".to_owned(),
        Role::Center => "center.apiServer".to_owned(),
    }
}
