//! Admission of API connections: a limit for each port and for each address, over all workers. When a limit is reached,
//! the connection that has been idle for longest makes room for the new one, so a caller that only holds connections
//! open shuts nobody out.
//!
//! A connection records its idle time itself, without a lock. A heap orders the connections by the idle time that was
//! last seen, which can only be too early. So the first entry that is still unchanged is the connection that has been
//! idle for longest.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::admission::network;

/// A call is under way.
const BUSY: u64 = 0;
/// It has been chosen to make room.
const EVICTED: u64 = u64::MAX;

/// The connections of callers, of the whole process.
pub struct Callers {
    /// The most connections that each port may have.
    most: usize,
    began: Instant,
    ports: Mutex<[Port; 2]>,
}

/// The connections of one port.
#[derive(Default)]
struct Port {
    seats: HashMap<u64, Arc<Seat>>,
    all: Queue,
    by_address: HashMap<IpAddr, Address>,
    websockets: usize,
    next: u64,
}

#[derive(Default)]
struct Address {
    connections: usize,
    queue: Queue,
}

/// Numbers of connections, each with the idle time that was current when it was added.
#[derive(Default)]
struct Queue(BinaryHeap<Reverse<(u64, u64)>>);

/// One connection, as seen by its task and by the search for room.
pub(super) struct Seat {
    address: IpAddr,
    /// When it became idle, in milliseconds since the first connection, or [`BUSY`], or [`EVICTED`].
    idle: AtomicU64,
    task: OnceLock<AbortHandle>,
    /// It has opened a WebSocket.
    websocket: AtomicBool,
    /// Right credentials have been sent on it.
    pub(super) proven: AtomicBool,
    /// Wrong credentials have been sent on it.
    pub(super) guessed: AtomicBool,
}

/// A connection's place, freed when dropped.
pub struct Taken {
    callers: Arc<Callers>,
    pub(super) seat: Arc<Seat>,
    number: u64,
    port: usize,
}

/// The caller, and the local address that it reached.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    pub(super) peer: IpAddr,
    pub(super) local: IpAddr,
    /// It came in through the center's port.
    pub(super) center: bool,
}

impl Callers {
    /// At most that many connections for each of the two ports; one address may have half of them.
    pub fn new(most: usize) -> Callers {
        Callers { most: most.max(2), began: Instant::now(), ports: Mutex::default() }
    }

    fn ports(&self) -> MutexGuard<'_, [Port; 2]> {
        // Nothing below can panic halfway through a change.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection, on the center's port or the engine's. None: all places are taken, and no
    /// connection is idle.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr, center: bool) -> Option<Taken> {
        self.admit_at(address, center, Instant::now())
    }

    fn admit_at(self: &Arc<Self>, address: IpAddr, center: bool, now: Instant) -> Option<Taken> {
        let (address, port) = (network(address), usize::from(center));
        let idle = self.moment(now);
        let mut ports = self.ports();
        let here = &mut ports[port];
        if here.by_address.get(&address).is_some_and(|a| a.connections >= self.most.div_ceil(2)) {
            here.evict(Some(address), idle)?;
        }
        if here.seats.len() >= self.most {
            here.evict(None, idle)?;
        }
        let seat = Arc::new(Seat {
            address,
            idle: AtomicU64::new(idle),
            task: OnceLock::new(),
            websocket: AtomicBool::new(false),
            proven: AtomicBool::new(false),
            guessed: AtomicBool::new(false),
        });
        let number = here.add(seat.clone(), idle);
        Some(Taken { callers: self.clone(), seat, number, port })
    }

    /// Ends the connection that has been idle for longest, because file descriptors have run out. False: none is idle.
    pub(super) fn make_room(&self) -> bool {
        let mut ports = self.ports();
        let fuller = usize::from(ports[1].seats.len() > ports[0].seats.len());
        ports[fuller].evict(None, self.moment(Instant::now())).is_some()
    }

    fn moment(&self, instant: Instant) -> u64 {
        instant.saturating_duration_since(self.began).as_millis() as u64 + 1
    }
}

impl Port {
    fn add(&mut self, seat: Arc<Seat>, idle: u64) -> u64 {
        let number = self.next;
        self.next += 1;
        let address = self.by_address.entry(seat.address).or_default();
        address.connections += 1;
        address.queue.add(idle, number, address.connections, &self.seats);
        self.seats.insert(number, seat);
        self.all.add(idle, number, self.seats.len(), &self.seats);
        number
    }

    /// Ends the connection that has been idle for longest (of that address, if one is given).
    fn evict(&mut self, address: Option<IpAddr>, now: u64) -> Option<()> {
        let queue = match &address {
            Some(address) => &mut self.by_address.get_mut(address)?.queue,
            None => &mut self.all,
        };
        let number = queue.oldest_idle(&self.seats, now)?;
        let seat = self.remove(number)?;
        if let Some(task) = seat.task.get() {
            task.abort();
        }
        Some(())
    }

    fn remove(&mut self, number: u64) -> Option<Arc<Seat>> {
        let seat = self.seats.remove(&number)?;
        if seat.websocket.load(Relaxed) {
            self.websockets -= 1;
        }
        if let Some(address) = self.by_address.get_mut(&seat.address) {
            address.connections -= 1;
            if address.connections == 0 {
                self.by_address.remove(&seat.address);
            }
        }
        Some(seat)
    }
}

impl Queue {
    /// `live`: how many of the numbers still exist. The others are removed from time to time.
    fn add(&mut self, idle: u64, number: u64, live: usize, seats: &HashMap<u64, Arc<Seat>>) {
        if self.0.len() > 2 * live + 16 {
            self.0.retain(|Reverse((_, number))| seats.contains_key(number));
        }
        self.0.push(Reverse((idle, number)));
    }

    /// Takes the connection that has been idle for longest, and marks it.
    fn oldest_idle(&mut self, seats: &HashMap<u64, Arc<Seat>>, now: u64) -> Option<u64> {
        while let Some(Reverse((stamp, number))) = self.0.pop() {
            let Some(seat) = seats.get(&number) else { continue };
            let idle = seat.idle.load(Relaxed);
            let stays = idle == stamp && idle != BUSY;
            if stays && seat.idle.compare_exchange(idle, EVICTED, SeqCst, Relaxed).is_ok() {
                return Some(number);
            }
            // A connection that is busy will be idle later than now.
            self.0.push(Reverse((if idle == BUSY { now + 1 } else { idle }, number)));
            if stamp > now {
                // All others are busy too.
                return None;
            }
        }
        None
    }
}

impl Seat {
    /// Sets the task that serves the connection; it is aborted when the connection has to make room.
    pub(super) fn belongs_to(&self, task: AbortHandle) {
        let task = self.task.get_or_init(|| task);
        // Not a plain load, which could be done before the task becomes visible.
        if self.idle.fetch_or(0, SeqCst) == EVICTED {
            task.abort();
        }
    }
}

impl Taken {
    /// The connection is idle since then, or only waits for its caller.
    pub(super) fn rest(&self, since: Instant) {
        let since = self.callers.moment(since);
        let _ = self.seat.idle.compare_exchange(BUSY, since, Relaxed, Relaxed);
    }

    /// A call begins. False: the connection has to make room, and ends.
    pub(super) fn begin(&self) -> bool {
        let idle = self.seat.idle.load(Relaxed);
        idle == BUSY || idle != EVICTED && self.seat.idle.compare_exchange(idle, BUSY, Relaxed, Relaxed).is_ok()
    }

    /// It opens a WebSocket, which never counts as idle. False: half of the port's connections have done so already.
    pub(super) fn open_websocket(&self) -> bool {
        let mut ports = self.callers.ports();
        let port = &mut ports[self.port];
        let may = port.websockets < self.callers.most.div_ceil(2) && port.seats.contains_key(&self.number);
        if may && !self.seat.websocket.swap(true, Relaxed) {
            port.websockets += 1;
        }
        may
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.callers.ports()[self.port].remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn callers(most: usize) -> Arc<Callers> {
        Arc::new(Callers::new(most))
    }

    /// A place, if there is one so many milliseconds after the beginning.
    fn admit(callers: &Arc<Callers>, n: u8, center: bool, ms: u64) -> Option<Taken> {
        callers.admit_at(v4(n), center, callers.began + Duration::from_millis(ms))
    }

    fn v4(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn is_there(taken: &Taken) -> bool {
        taken.seat.idle.load(Relaxed) != EVICTED
    }

    /// Idle since so many milliseconds after the beginning.
    fn rest_at(taken: &Taken, ms: u64) {
        assert!(taken.begin());
        taken.rest(taken.callers.began + Duration::from_millis(ms));
    }

    #[test]
    fn the_oldest_idle_one_makes_room_and_one_that_calls_never() {
        let callers = callers(4);
        let all: Vec<_> = (0..4).map(|n| admit(&callers, n, false, 0).unwrap()).collect();
        for (taken, ms) in all.iter().zip([30, 10, 20, 5]) {
            rest_at(taken, ms);
        }
        assert!(all[3].begin());
        let fifth = admit(&callers, 5, false, 40).unwrap();
        assert_eq!(all.iter().map(is_there).collect::<Vec<_>>(), [true, false, true, true]);
        assert!(is_there(&fifth) && !all[1].begin());
        for taken in &all {
            taken.begin();
        }
        assert!(fifth.begin());
        assert!(admit(&callers, 6, false, 50).is_none(), "nobody idles");
        assert!(admit(&callers, 6, true, 50).is_some(), "the other port");
        drop(fifth);
        assert!(admit(&callers, 6, false, 60).is_some());
    }

    #[test]
    fn one_that_has_called_since_it_was_queued_is_not_the_oldest() {
        let callers = callers(100);
        let all: Vec<_> = (0..50).map(|_| admit(&callers, 1, false, 0).unwrap()).collect();
        for taken in &all[..49] {
            rest_at(taken, 1000);
        }
        let _more = admit(&callers, 1, false, 2000).unwrap();
        assert!(!is_there(&all[49]) && all[..49].iter().all(is_there));
    }

    #[test]
    fn an_address_has_half_of_a_port_and_its_own_make_room() {
        let callers = callers(8);
        let other = callers.admit(v4(1), false).unwrap();
        let own: Vec<_> = (0..40).map(|_| callers.admit(v4(2), false).unwrap()).collect();
        assert!(is_there(&other));
        assert_eq!(own.iter().filter(|taken| is_there(taken)).count(), 4);
        assert!(own[36..].iter().all(is_there), "the youngest");
        drop((own, other));
        let ports = callers.ports();
        assert!(ports[0].seats.is_empty() && ports[0].by_address.is_empty());
    }

    #[test]
    fn what_is_kept_of_connections_is_bounded() {
        let callers = callers(8);
        let kept = callers.admit(v4(1), false).unwrap();
        for _ in 0..1000 {
            drop(callers.admit(v4(1), false).unwrap());
        }
        let ports = callers.ports();
        assert!(ports[0].all.0.len() < 64 && ports[0].by_address[&v4(1)].queue.0.len() < 64);
        drop(ports);
        drop(kept);
    }

    #[test]
    fn half_of_a_ports_connections_may_be_websockets() {
        let callers = callers(4);
        let all: Vec<_> = (0..3).map(|n| callers.admit(v4(n), false).unwrap()).collect();
        assert!(all[0].open_websocket() && all[1].open_websocket() && !all[2].open_websocket());
        drop(all);
        assert_eq!(callers.ports()[0].websockets, 0);
    }
}
