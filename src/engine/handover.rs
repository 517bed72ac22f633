//! Handing everything over to a successor process. It starts while this one serves; then all workers hold still for a moment,
//! and connections, queue, what scripts share and timers go over in one piece.
//!
//! Until the successor says that it has taken them, nothing here is given up: if anything fails before, this process goes
//! on where it stood. The successor touches no connection before it has said so. So each is always one's alone.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{oneshot, watch};

use super::counted;
use crate::admission::Admission;
use crate::api::Stage;
use crate::api::idempotency::IdempotencyTable;
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
        let sent = link.patience(Some(STARTING)).and_then(|()| self.send_offer(link, dry));
        sent.map_err(|e| format!("the successor could not be reached: {e}"))?;
        match receive(link)? {
            (Kind::Ready, said) => Ok(said),
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
        out.count(listeners.len());
        for (listener, wanted) in listeners.iter() {
            out.data(name(listener.role).as_bytes());
            out.data(wanted.to_string().as_bytes());
        }
        let files: Vec<RawFd> = listeners.iter().map(|(listener, _)| listener.socket.as_raw_fd()).collect();
        link.send(Kind::Offer as u8, &out.bytes, &files)
    }

    /// Hands everything over to a successor that is ready; handlers that wait are let finish for `patience`. After an error
    /// all is as it was, once `stop` has ended the successor; unless that had taken everything before.
    pub fn hand_over(&self, link: &mut Link, patience: Duration, stop: impl FnOnce()) -> Result<Summary, String> {
        self.let_finish(patience);
        if let Some(stuck) = self.peers.stuck() {
            stop();
            return Err(format!("worker {stuck} is stuck"));
        }
        let began = Instant::now();
        self.stage.send_replace(Stage::Moving);
        let given = self.give(link);
        let taken = given.and_then(|counts| match receive(link)? {
            (Kind::Taken, _) => Ok(counts),
            _ => Err("the successor answered something else".to_owned()),
        });
        let still = began.elapsed();
        let taken = taken.or_else(|why| {
            stop();
            // It may have said so with its last breath.
            match receive(link) {
                Ok((Kind::Taken, _)) => Ok((0, 0)),
                _ => Err(why),
            }
        });
        match taken {
            Ok((clients, callers)) => {
                std::thread::sleep(FIRST);
                let _ = self.all(Step::Moved, ANSWER);
                Ok(Summary { clients, callers, still })
            }
            Err(why) => {
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
        let quiet = |within, cut| {
            let all = self.all(|done| Step::Quiet { within, cut, done }, within + ANSWER)?;
            Ok::<bool, String>(!all.contains(&false))
        };
        // Twice: the first time some may have come to rest before others, who then gave them something to do.
        let mut at_rest = quiet(GRACE, false)? && quiet(GRACE, false)?;
        if !at_rest {
            at_rest = quiet(LAST, true)? && quiet(LAST, true)?;
        }
        if !at_rest {
            return Err("calls, deliveries or timers that are under way do not end".to_owned());
        }
        let rested = began.elapsed();
        let offers = self.all(Step::Offer, ANSWER)?;
        let Some(offers) = offers.into_iter().collect::<Option<Vec<Offers>>>() else {
            return Err("a worker does not come to rest".to_owned());
        };
        let count = |of: fn(&Offers) -> &Vec<Offer>| offers.iter().map(|offers| of(offers).len()).sum();
        let counts = (count(|offers| &offers.clients), count(|offers| &offers.callers));
        let offered = began.elapsed();
        link.patience(Some(TAKING))
            .and_then(|()| self.send(link, &offers))
            .map_err(|e| format!("the successor could not be given everything: {e}"))?;
        tracing::debug!(
            "upgrade: at rest after {rested:?}, offered after {offered:?}, sent after {:?}",
            began.elapsed()
        );
        Ok(counts)
    }

    fn send(&self, link: &mut Link, offers: &[Offers]) -> io::Result<()> {
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

/// Sends connections with their sockets.
fn send_files(link: &mut Link, kind: Kind, offers: &[Offer]) -> io::Result<()> {
    let (mut out, mut files) = (Encoder::default(), Vec::new());
    for offer in offers {
        out.data(&offer.bytes);
        files.push(offer.socket);
        if files.len() == FILES || out.bytes.len() >= ENOUGH {
            link.send(kind as u8, &out.bytes, &files)?;
            out.bytes.clear();
            files.clear();
        }
    }
    if files.is_empty() { Ok(()) } else { link.send(kind as u8, &out.bytes, &files) }
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
