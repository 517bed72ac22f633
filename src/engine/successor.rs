//! Taking over from the process before: its listeners at the start, then everything else in one piece.

use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::handover::name;
use super::{Engine, Listeners};
use crate::config::Config;
use crate::handover::{Damaged, Decoder, Kind, Link, VERSION, items};
use crate::ids::{ClientId, Lane, NodeNumber, WorkerId};
use crate::shard::Moved;
use crate::worker::{Arrived, ArrivedCaller, Listener, Role, Step};

/// The longest that the process before may take for its next word once it has begun.
const NEXT: Duration = Duration::from_secs(30);

/// The process before, which offers everything that it has.
pub struct Before {
    link: Link,
    /// Its number.
    pub process: u32,
    /// It only wants to know whether it could.
    pub dry: bool,
    node: NodeNumber,
    /// By the name of each: where it was to listen, and its socket.
    listeners: Vec<(String, String, OwnedFd)>,
}

/// What came, until all has.
#[derive(Default)]
struct Estate {
    /// By worker.
    clients: Vec<Vec<Arrived>>,
    callers: Vec<ArrivedCaller>,
    ids: Vec<(Lane, u64)>,
    timers: Vec<Vec<u8>>,
}

/// For tests: the process ends here, as if it had crashed, if the file that this variable names holds the point's name.
#[cfg(debug_assertions)]
fn crash_point(point: &str) {
    let wanted = std::env::var_os("CONNMIX_CRASH_AT").and_then(|file| std::fs::read_to_string(file).ok());
    if wanted.is_some_and(|wanted| wanted.trim() == point) {
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
fn crash_point(_: &str) {}

impl Before {
    /// Hears what the process before offers.
    pub fn hear(mut link: Link) -> Result<Before, String> {
        let heard = link.patience(Some(NEXT)).and_then(|()| link.receive());
        let frame = heard.map_err(|e| format!("the process before can't be heard: {e}"))?;
        if Kind::of(frame.kind) != Some(Kind::Offer) {
            return Err("the process before offers nothing".to_owned());
        }
        let mut from = Decoder::new(&frame.bytes);
        let damaged = |e: Damaged| e.to_string();
        if from.u32().map_err(damaged)? != VERSION {
            return Err("the process before hands over in another form: it needs a restart".to_owned());
        }
        let read = || -> Result<_, Damaged> {
            let (process, dry) = (from.u32()?, from.flag()?);
            let node = u16::try_from(from.u32()?).ok().and_then(NodeNumber::new).ok_or(Damaged("a node's number"))?;
            let names = from.list(|from| Ok((from.text()?.to_owned(), from.text()?.to_owned())))?;
            if names.len() != frame.files.len() {
                return Err(Damaged("the listeners"));
            }
            Ok((process, dry, node, names))
        };
        let (process, dry, node, names) = { read }().map_err(damaged)?;
        let listeners = names.into_iter().zip(frame.files).map(|((name, at), file)| (name, at, file)).collect();
        crash_point("heard");
        Ok(Before { link, process, dry, node, listeners })
    }

    /// The number of its node, which stays.
    pub fn node(&self) -> NodeNumber {
        self.node
    }

    /// Its listeners, as this configuration names them. An error says what is not as it was: that needs a restart.
    pub fn listeners(&mut self, config: &Config) -> Result<Listeners, String> {
        if config.is_of_mesh() {
            return Err("a node of a cluster is not upgraded in place: restart one node after the other".to_owned());
        }
        let mut roles: Vec<Role> = (0..config.servers.len()).map(Role::Server).collect();
        roles.extend([Role::Api, Role::Center]);
        let mut taken = Vec::new();
        for role in roles {
            let listen = match role {
                Role::Server(server) => &config.servers[server].listen,
                Role::Api => &config.api.listen,
                Role::Center => &config.center,
            };
            let (name, wanted) = (name(role), listen.addr.to_string());
            let Some(at) = self.listeners.iter().position(|(known, ..)| *known == name) else {
                return Err(format!("{name} is new: that needs a restart"));
            };
            let (_, before, socket) = self.listeners.swap_remove(at);
            if before != wanted {
                return Err(format!("{}: {before} -> {wanted}: that needs a restart", listen.key));
            }
            taken.push(Listener { role, socket: TcpListener::from(socket) });
        }
        crash_point("listeners");
        match self.listeners.first() {
            Some((name, ..)) => Err(format!("{name} is gone: that needs a restart")),
            None => Listeners::of(taken, config).map_err(|e| e.to_string()),
        }
    }

    /// Tells it that this process can't take over.
    pub fn refuse(&mut self, why: &str) {
        let _ = self.link.send(Kind::Refused as u8, why.as_bytes(), &[]);
    }

    /// Tells it that this process is ready; or, if that was all it wanted to know, that it could be.
    pub fn ready(&mut self, said: &str) -> Result<(), String> {
        self.link
            .send(Kind::Ready as u8, said.as_bytes(), &[])
            .map_err(|e| format!("the process before has ended: {e}"))
    }
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
            let frame = link.receive().map_err(|e| e.to_string())?;
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
                Some(Kind::Idempotency) => items(&frame.bytes, |from| parts.repeats.restore(from, now)),
                Some(Kind::Timers) => {
                    // When the connections that some of them belong to have arrived.
                    estate.timers.push(frame.bytes);
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
        estate.callers.push(ArrivedCaller { socket, read });
        Ok(())
    })
}
