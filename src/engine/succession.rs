//! A successor takes everything from the process before, in one piece, and serves.

use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::faults::crash_point;
use super::handover::{Answer, REACHING};
use super::mesh::{self, Following};
use super::successor::Before;
use super::{Engine, counted};
use crate::cluster::node::Reach;
use crate::handover::{Damaged, Decoder, Kind, Link, items};
use crate::ids::{ClientId, Lane, WorkerId};
use crate::shard::outbox::shelf::Shelved;
use crate::shard::transport::MovedTls;
use crate::worker::{Arrived, ArrivedCaller, Places, Step};

/// The longest that the process before may take for its next word once it has begun.
const NEXT: Duration = Duration::from_secs(30);

/// What came, until all has.
#[derive(Default)]
struct Estate {
    /// What workers are going to say about the connections that they take up.
    places: Vec<Answer<Result<Places, Damaged>>>,
    /// What waits for the connections that come next.
    frames: Arc<Shelved>,
    callers: Vec<ArrivedCaller>,
    ids: Vec<(Lane, u64)>,
    timers: Vec<Vec<u8>>,
    /// Where the node stands among others.
    mesh: Vec<Vec<u8>>,
}

impl Engine {
    /// Takes everything from the process before, and serves. Returns how many clients there are.
    pub fn succeed(&mut self, before: &mut Before) -> Result<usize, String> {
        crash_point("started");
        before.ready("")?;
        crash_point("ready");
        // That its handlers end may take long.
        before.link.patience(None).map_err(|e| e.to_string())?;
        let following = self.reach(before)?;
        let received = self.receive(&mut before.link, following);
        let (estate, node) = received.map_err(|e| format!("nothing was taken over: {e}"))?;
        crash_point("received");
        let callers = self.arrive(estate).map_err(|e| format!("nothing was taken over: {e}"))?;
        let clients: Vec<usize> = self.clients.iter().map(|clients| clients.load(Relaxed)).collect();
        self.estate.metrics.arrived(&clients);
        crash_point("arrived");
        before.take()?;
        if let Some((driver, member)) = node.map(mesh::Restored::begin) {
            (self.mesh, self.member) = (Some(driver), Some(member));
        }
        self.spread(callers);
        self.estate.tell(|| Step::Lift);
        Ok(clients.iter().sum())
    }

    /// Of a node of a cluster: reaches the others, when the process before says so.
    fn reach(&mut self, before: &mut Before) -> Result<Option<Following>, String> {
        let Some((shared, once)) = self.joins.take() else { return Ok(None) };
        let member = before.member.clone().ok_or("the process before was of no cluster")?;
        let frame = before.link.receive().map_err(|e| e.to_string())?;
        if Kind::of(frame.kind) != Some(Kind::Reach) {
            return Err("something unknown came".to_owned());
        }
        let others = Decoder::new(&frame.bytes).list(Reach::read).map_err(|e| e.to_string())?;
        let names: HashMap<_, _> = others.iter().map(|other| (other.run, other.api.clone())).collect();
        let config = self.config.load();
        let (addresses, hub, mesh) = (&self.addresses, &self.estate.hub, &self.nodes);
        let parts = mesh::Parts { config: &config, addresses, hub, mesh, clients: self.clients.clone(), once };
        let reached = mesh::follow(parts, shared, &member, (others, REACHING)).map_err(|e| e.to_string());
        crash_point("reached");
        let reached = reached.and_then(|following| {
            let missing: Vec<_> = following.missing().iter().filter_map(|run| names.get(run).cloned()).collect();
            match missing.is_empty() {
                true => Ok(following),
                false => Err(format!(
                    "the successor does not reach {}; is that node being upgraded or stopped at this moment?",
                    missing.join(", ")
                )),
            }
        });
        let following = reached.inspect_err(|why| before.refuse(why))?;
        let said = before.link.send(Kind::Reached as u8, &[], &[]);
        said.map_err(|e| format!("the process before has ended: {e}"))?;
        Ok(Some(following))
    }

    fn receive(
        &self,
        link: &mut Link,
        mut following: Option<Following>,
    ) -> Result<(Estate, Option<mesh::Restored>), String> {
        let (mut estate, mut node) = (Estate::default(), None);
        let mut first = true;
        loop {
            let mut frame = link.receive().map_err(|e| e.to_string())?;
            if std::mem::take(&mut first) {
                link.patience(Some(NEXT)).map_err(|e| e.to_string())?;
            }
            // It comes before the connections, whose channels are told already.
            if Kind::of(frame.kind) != Some(Kind::Mesh)
                && let Some(following) = following.take()
            {
                node = Some(following.restore(&std::mem::take(&mut estate.mesh)).map_err(|e| e.to_string())?);
            }
            match Kind::of(frame.kind) {
                Some(Kind::Connections) => crash_point("connections"),
                Some(Kind::Ids) => crash_point("ids"),
                Some(Kind::Queue) => crash_point("queue"),
                Some(Kind::Shared) => crash_point("shared"),
                Some(Kind::Mesh) => crash_point("mesh"),
                Some(Kind::All) => crash_point("all"),
                _ => {}
            }
            let now = Instant::now();
            let parts = &self.estate;
            let read = match Kind::of(frame.kind) {
                Some(Kind::All) => return Ok((estate, node)),
                Some(Kind::Connections) => {
                    self.clients(&frame.bytes, frame.files, &mut estate)?;
                    Ok(())
                }
                Some(Kind::Frames) => {
                    // Workers may use those that came before.
                    let mut frames = Arc::try_unwrap(std::mem::take(&mut estate.frames)).unwrap_or_default();
                    let read = frames.read(&frame.bytes);
                    estate.frames = Arc::new(frames);
                    read
                }
                Some(Kind::Callers) => callers(&frame.bytes, frame.files, &mut estate),
                Some(Kind::Admissions) => items(&frame.bytes, |from| {
                    let server = from.u32()? as usize;
                    parts.admissions.get(server).ok_or(Damaged("a server"))?.restore(from)
                }),
                Some(Kind::Metrics) => items(&frame.bytes, |from| counted::restore(&parts.metrics, from)),
                Some(Kind::Ids) => items(&frame.bytes, |from| {
                    estate.ids.push((Lane(from.byte()?), from.u64()?));
                    Ok(())
                }),
                Some(Kind::Queue) => items(&frame.bytes, |from| parts.queue.restore(from)),
                Some(Kind::Shared) => items(&frame.bytes, |from| {
                    if !parts.shared.restore(from, now)? {
                        tracing::warn!("mix.shared has less room than before: some of what it held was left out");
                    }
                    Ok(())
                }),
                Some(Kind::History) => items(&frame.bytes, |from| parts.hub.history().restore(from)),
                Some(Kind::Idempotency) => items(&frame.bytes, |from| parts.repeats.restore(from, now)),
                Some(Kind::Mesh) => items(&frame.bytes, |from| {
                    estate.mesh.push(from.data()?.to_vec());
                    Ok(())
                }),
                Some(Kind::Timers) => {
                    // When the connections that some of them belong to have arrived.
                    estate.timers.push(std::mem::take(&mut *frame.bytes));
                    Ok(())
                }
                _ => return Err("something unknown came".to_owned()),
            };
            read.map_err(|e| e.to_string())?;
        }
    }

    /// Hands connections, each with its socket, to the workers that will have them. They take them up while others come.
    fn clients(&self, bytes: &[u8], files: Vec<OwnedFd>, estate: &mut Estate) -> Result<(), String> {
        let mut files = files.into_iter();
        let mut by_worker: Vec<Vec<Arrived>> = Vec::new();
        by_worker.resize_with(self.workers.len(), Vec::new);
        let read = items(bytes, |from| {
            let bytes = from.data()?;
            let client = ClientId::new(Decoder::new(bytes).u64()?).ok_or(Damaged("a client's id"))?;
            let socket = TcpStream::from(files.next().ok_or(Damaged("a socket"))?);
            let worker = usize::from(self.estate.hub.worker_of(client).0);
            let arrived = Arrived { bytes: bytes.to_vec().into(), socket };
            by_worker.get_mut(worker).ok_or(Damaged("a lane"))?.push(arrived);
            Ok(())
        });
        read.map_err(|e| e.to_string())?;
        for (worker, arrived) in by_worker.into_iter().enumerate().filter(|(_, arrived)| !arrived.is_empty()) {
            let frames = estate.frames.clone();
            estate.places.push(self.estate.ask(worker, |done| Step::Arrive(arrived, frames, done))?);
        }
        Ok(())
    }

    /// Waits until all connections have arrived at their workers, which hold still yet; then come the timers. Gives the
    /// connections of callers.
    fn arrive(&self, estate: Estate) -> Result<Vec<ArrivedCaller>, String> {
        let deadline = Instant::now() + NEXT;
        let mut slots: HashMap<ClientId, (WorkerId, u32)> = HashMap::new();
        for answer in estate.places {
            let (worker, places) = answer.wait(deadline)?.map_err(|e| e.to_string())?;
            slots.extend(places.into_iter().map(|(client, slot)| (client, (worker, slot))));
        }
        self.estate.tell(|| Step::Ids(estate.ids.clone()));
        let now = Instant::now();
        for bytes in estate.timers {
            let place = |client| slots.get(&client).copied();
            let read = |from: &mut Decoder<'_>| self.timers.restore(from, self.workers.len(), place, now);
            items(&bytes, read).map_err(|e| e.to_string())?;
        }
        Ok(estate.callers)
    }

    /// Spreads callers' connections over the workers.
    fn spread(&self, callers: Vec<ArrivedCaller>) {
        let mut by_worker: Vec<Vec<ArrivedCaller>> = Vec::new();
        by_worker.resize_with(self.workers.len(), Vec::new);
        for (at, caller) in callers.into_iter().enumerate() {
            by_worker[at % self.workers.len()].push(caller);
        }
        let by_worker = InTurn::new(by_worker);
        self.estate.tell(|| Step::Callers(by_worker.next()));
    }
}

/// Something for each worker, taken in turn.
struct InTurn<T>(Mutex<std::vec::IntoIter<T>>);

impl<T: Default> InTurn<T> {
    fn new(all: Vec<T>) -> InTurn<T> {
        InTurn(Mutex::new(all.into_iter()))
    }

    fn next(&self) -> T {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next().unwrap_or_default()
    }
}

fn callers(bytes: &[u8], files: Vec<OwnedFd>, estate: &mut Estate) -> Result<(), Damaged> {
    let mut files = files.into_iter();
    items(bytes, |from| {
        let mut own = Decoder::new(from.data()?);
        let read = own.data()?.to_vec();
        let socket = TcpStream::from(files.next().ok_or(Damaged("a socket"))?);
        estate.callers.push(ArrivedCaller { socket, read, tls: own.option(MovedTls::read)?.map(Box::new) });
        Ok(())
    })
}
