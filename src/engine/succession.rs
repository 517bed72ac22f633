//! A successor takes everything from the process before, in one piece, and serves.

use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Engine;
use super::successor::{Before, crash_point};
use crate::handover::{Damaged, Decoder, Kind, Link, items};
use crate::ids::{ClientId, Lane, WorkerId};
use crate::shard::Moved;
use crate::shard::transport::MovedTls;
use crate::worker::{Arrived, ArrivedCaller, Step};

/// The longest that the process before may take for its next word once it has begun.
const NEXT: Duration = Duration::from_secs(30);

/// What came, until all has.
#[derive(Default)]
struct Estate {
    /// By worker.
    clients: Vec<Vec<Arrived>>,
    callers: Vec<ArrivedCaller>,
    ids: Vec<(Lane, u64)>,
    timers: Vec<Vec<u8>>,
}

impl Engine {
    /// Takes everything from the process before, and serves. Returns how many clients there are.
    pub fn succeed(&self, before: &mut Before) -> Result<usize, String> {
        crash_point("started");
        before.ready("")?;
        crash_point("ready");
        // That its handlers end may take long.
        before.link.patience(None).map_err(|e| e.to_string())?;
        let estate = self.receive(&mut before.link).map_err(|e| format!("nothing was taken over: {e}"))?;
        let clients = estate.clients.iter().map(Vec::len).sum();
        crash_point("received");
        let estate = self.arrive(estate)?;
        crash_point("arrived");
        let taken = before.link.send(Kind::Taken as u8, &[], &[]);
        taken.map_err(|e| format!("the process before has ended: {e}"))?;
        self.spread(estate.callers);
        self.estate.tell(|| Step::Lift);
        Ok(clients)
    }

    fn receive(&self, link: &mut Link) -> Result<Estate, String> {
        let mut estate = Estate::default();
        estate.clients.resize_with(self.workers.len(), Vec::new);
        let mut first = true;
        loop {
            let mut frame = link.receive().map_err(|e| e.to_string())?;
            if std::mem::take(&mut first) {
                link.patience(Some(NEXT)).map_err(|e| e.to_string())?;
            }
            match Kind::of(frame.kind) {
                Some(Kind::Connections) => crash_point("connections"),
                Some(Kind::Ids) => crash_point("ids"),
                Some(Kind::Queue) => crash_point("queue"),
                Some(Kind::Shared) => crash_point("shared"),
                Some(Kind::All) => crash_point("all"),
                _ => {}
            }
            let now = Instant::now();
            let parts = &self.estate;
            let read = match Kind::of(frame.kind) {
                Some(Kind::All) => return Ok(estate),
                Some(Kind::Connections) => self.clients(&frame.bytes, frame.files, &mut estate),
                Some(Kind::Callers) => callers(&frame.bytes, frame.files, &mut estate),
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

    /// Reads connections, each with its socket.
    fn clients(&self, bytes: &[u8], files: Vec<OwnedFd>, estate: &mut Estate) -> Result<(), Damaged> {
        let mut files = files.into_iter();
        items(bytes, |from| {
            let mut own = Decoder::new(from.data()?);
            let moved = Moved::read(&mut own)?;
            let socket = TcpStream::from(files.next().ok_or(Damaged("a socket"))?);
            let worker = usize::from(self.estate.hub.worker_of(moved.client_id).0);
            let arrived = Arrived { moved, protocol: own.rest().to_vec(), socket };
            estate.clients.get_mut(worker).ok_or(Damaged("a lane"))?.push(arrived);
            Ok(())
        })
    }

    /// Has all connections arrive at their workers, which hold still yet, and then the timers.
    fn arrive(&self, mut estate: Estate) -> Result<Estate, String> {
        let clients = InTurn::new(std::mem::take(&mut estate.clients));
        let next = || clients.next();
        let places = self.estate.all(|done| Step::Arrive(next(), done), NEXT)?;
        self.estate.tell(|| Step::Ids(estate.ids.clone()));
        let slots: HashMap<ClientId, (WorkerId, u32)> = places
            .into_iter()
            .enumerate()
            .flat_map(|(worker, places)| {
                places.into_iter().map(move |(client, slot)| (client, (WorkerId(worker as u16), slot)))
            })
            .collect();
        let now = Instant::now();
        for bytes in std::mem::take(&mut estate.timers) {
            let place = |client| slots.get(&client).copied();
            let read = |from: &mut Decoder<'_>| self.timers.restore(from, self.workers.len(), place, now);
            items(&bytes, read).map_err(|e| e.to_string())?;
        }
        Ok(estate)
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
        estate.callers.push(ArrivedCaller { socket, read, tls: own.option(MovedTls::read)? });
        Ok(())
    })
}
