//! The state of one worker's thread: its connections, their subscriptions, and what has to be written. Nothing here is
//! locked or shared with another thread; other threads reach it through the worker's mailbox.

mod answers;
mod backlog;
mod commands;
pub mod compression;
pub mod conn;
pub mod context;
pub mod context_wait;
mod deliver;
pub mod encoding;
mod end_reason;
mod endings;
pub mod fair;
mod fan_out;
pub mod framing;
pub mod hold;
mod holding;
mod leaving;
mod meanwhile;
pub mod meter;
pub mod moves;
mod moving;
pub mod outbox;
mod past;
pub mod peer;
pub mod places;
mod posted;
mod presence;
mod rooms;
mod see;
pub mod server_context;
mod subscriptions;
pub mod tap;
pub mod traces;
pub mod traffic;
pub mod transport;
pub mod unsettled;
mod unwritten;
mod waits;

use foldhash::fast::RandomState;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::hub::Hub;
use crate::hub::topics::{Member, Topics};
use crate::ids::{ClientId, ClientIds, WorkerId};
use crate::message::Kind;
use crate::telemetry::metrics::counters::{ProtocolCounts, ShardCounts};
use crate::telemetry::metrics::labels::{DropCause, EndReason};
use crate::wire::deflate::Window;
use crate::wire::{event_stream, frame};
use compression::{Compression, MessageFrames};
use conn::{Conn, Pushed};
use encoding::Encoding;
use framing::Framing;
use meanwhile::Meanwhile;
use moves::Moves;
pub use moving::Moved;
use outbox::shelf::OnTheWay;
use outbox::{Frame, Policy};
use past::Past;
use server_context::ServerContext;
use tap::Tap;
use traces::Traces;
use transport::Transport;
use unsettled::AllUnsettled;
use unwritten::Unwritten;
use waits::Waits;

pub use see::Failed;
pub use subscriptions::{MAX_SUBSCRIPTIONS, TooMany};

/// Many messages for one connection are copied together in a buffer of this size and written at once.
const SCRATCH: usize = 256 * 1024;

/// One worker's connections.
pub struct Shard {
    worker: WorkerId,
    hub: Arc<Hub>,
    ids: RefCell<ClientIds>,
    conns: RefCell<Slab<Rc<Conn>>>,
    by_client: RefCell<HashMap<ClientId, Member, RandomState>>,
    topics: RefCell<Topics>,
    /// For the messages of connections that agreed on compression.
    pub compression: Compression,
    /// Connections to write at the end of the event loop turn.
    unwritten: Unwritten<Conn>,
    scratch: RefCell<Vec<u8>>,
    waits: RefCell<Waits>,
    /// Connections that have ended and are not out of all their channels yet. Each keeps its slot until then: a publish
    /// finds it closed.
    leaving: RefCell<VecDeque<Rc<Conn>>>,
    /// Wakes the task that takes them out.
    leaver: RefCell<Option<Waker>>,
    /// Who came to channels that are told so, or went.
    moves: Moves,
    /// The same as it was told, while scripts ask who is there.
    meanwhile: RefCell<Meanwhile>,
    /// Those for which other nodes have to be asked.
    unsettled: AllUnsettled,
    /// The message that scripts are encoding.
    encoding: RefCell<Option<Encoding>>,
    /// Wakes the worker's event loop turn, if it waits.
    turn: RefCell<Option<Waker>>,
    turn_waits: Cell<bool>,
    ticked: Cell<Instant>,
    clock: Cell<u32>,
    /// The last ticket of a connection that waits for what a channel has kept.
    tickets: Cell<u64>,
    /// Who watches.
    pub tap: Tap,
    /// What is traced.
    pub traces: Traces,
    past: Past,
    /// Frames of connections that move.
    moving: RefCell<OnTheWay>,
    /// What this worker counts.
    pub counts: Arc<ShardCounts>,
}

/// A connection before it has an id.
pub struct Arrival {
    /// The server it came in by.
    pub served: Rc<ServerContext>,
    /// Its socket.
    pub transport: Transport,
    /// The client's address.
    pub remote: SocketAddr,
    /// How its messages are framed, as its handshake has agreed.
    pub framing: Framing,
}

impl Shard {
    /// An empty shard for that worker.
    pub fn new(worker: WorkerId, hub: Arc<Hub>) -> Shard {
        let ids = ClientIds::new(hub.lanes_of(worker));
        Shard {
            worker,
            hub,
            ids: RefCell::new(ids),
            conns: RefCell::default(),
            by_client: RefCell::default(),
            topics: RefCell::default(),
            compression: Compression::default(),
            unwritten: Unwritten::default(),
            scratch: RefCell::new(Vec::with_capacity(SCRATCH)),
            waits: RefCell::default(),
            encoding: RefCell::default(),
            leaving: RefCell::default(),
            leaver: RefCell::default(),
            moves: Moves::default(),
            meanwhile: RefCell::default(),
            unsettled: AllUnsettled::default(),
            turn: RefCell::default(),
            turn_waits: Cell::default(),
            ticked: Cell::new(Instant::now()),
            clock: Cell::new(0),
            tickets: Cell::default(),
            tap: Tap::default(),
            traces: Traces::default(),
            past: Past::default(),
            moving: RefCell::default(),
            counts: Arc::default(),
        }
    }

    /// The coarse clock, in milliseconds of the worker's own time (it wraps after 49 days; compare by difference). It
    /// moves with [`Shard::tick`], so that reading it costs nothing.
    pub fn now(&self) -> u32 {
        self.clock.get()
    }

    /// Moves the clock by the time since the last tick, but by at most `at_most`: if the process was stopped, its
    /// machine asleep or the worker held up for longer, that silence was not the clients'.
    pub fn tick(&self, at_most: Duration) -> u32 {
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.ticked.replace(now)).min(at_most);
        // What is less than a millisecond counts at the next tick.
        let whole = passed.as_millis() as u32;
        self.ticked.set(now - (passed - Duration::from_millis(whole.into())));
        self.clock.set(self.clock.get().wrapping_add(whole));
        self.clock.get()
    }

    /// Says what to wake when a connection has something to be written. None: nothing, since the event loop turn
    /// continues by itself.
    pub fn wake_when_dirty(&self, turn: Option<&Waker>) {
        self.turn_waits.set(turn.is_some());
        if let Some(turn) = turn {
            let mut slot = self.turn.borrow_mut();
            if !slot.as_ref().is_some_and(|t| t.will_wake(turn)) {
                *slot = Some(turn.clone());
            }
        }
    }

    /// Lets a connection in. It stays until [`Shard::remove`].
    pub fn insert(&self, arrival: Arrival) -> Rc<Conn> {
        let client_id = self.ids.borrow_mut().issue(self.hub.node());
        self.insert_as(client_id, arrival)
    }

    fn insert_as(&self, client_id: ClientId, arrival: Arrival) -> Rc<Conn> {
        let mut conns = self.conns.borrow_mut();
        let entry = conns.vacant_entry();
        let slot = entry.key() as Member;
        let Arrival { served, transport, remote, framing } = arrival;
        let conn = Conn::new(client_id, slot, remote, framing, served, transport, self.now());
        let conn = Rc::new(conn);
        let unsent = conn.served.limits.get().unsent_limit;
        if unsent != conn.served.unsent_at_first {
            conn.transport.bound_unsent(unsent);
        }
        entry.insert(conn.clone());
        drop(conns);
        self.by_client.borrow_mut().insert(client_id, slot);
        conn
    }

    /// The one way out: takes the connection from every index, and ends its waits. A second call does nothing, and
    /// returns false. One that is in very many channels is out of the last of them a moment later.
    pub fn remove(&self, conn: &Conn) -> bool {
        if self.by_client.borrow_mut().remove(&conn.client_id).is_none() {
            return false;
        }
        self.waits.borrow_mut().end(conn.client_id);
        self.traces.ended(conn.client_id);
        self.hold(conn, 0);
        self.leave(conn);
        true
    }

    /// The connection of that client, if it is here.
    pub fn get(&self, client_id: ClientId) -> Option<Rc<Conn>> {
        let slot = *self.by_client.borrow().get(&client_id)?;
        self.conns.borrow().get(slot as usize).cloned()
    }

    /// The same when its slot is known: no search.
    pub fn get_at(&self, slot: Member, client_id: ClientId) -> Option<Rc<Conn>> {
        self.conns.borrow().get(slot as usize).filter(|c| c.client_id == client_id).cloned()
    }

    /// Calls `visit` with each connection. It may close connections, but not insert or remove any.
    pub fn each(&self, mut visit: impl FnMut(&Rc<Conn>)) {
        self.conns.borrow().iter().for_each(|(_, conn)| visit(conn));
    }

    /// The counters for connections with this connection's framing.
    pub fn counts_of(&self, conn: &Conn) -> &ProtocolCounts {
        conn.framing.counts(&self.counts)
    }

    /// Counts a message that a connection's client has sent.
    pub fn count_read(&self, conn: &Conn) {
        conn.traffic.count_read();
        self.counts_of(conn).read.add(1);
    }

    /// Counts a message for a connection that did not take it.
    #[cold]
    fn count_dropped(&self, conn: &Conn) {
        let cause = match conn.ended_by() {
            Some(EndReason::TooSlow) => DropCause::TooSlow,
            Some(_) => DropCause::Closing,
            None => DropCause::Oldest,
        };
        self.counts_of(conn).dropped.one(cause);
        if self.tap.is_on() {
            self.see_dropped(conn, cause);
        }
    }

    /// The channels that a connection is in.
    pub fn channels_of(&self, conn: &Conn) -> Vec<String> {
        self.topics.borrow().channels_of(conn.slot).map(|c| c.as_str().to_owned()).collect()
    }

    /// Puts a frame into a connection's outbox; false if the connection can't take it. It is written at the end of the
    /// event loop turn.
    pub fn push(&self, conn: &Rc<Conn>, frame: Frame) -> bool {
        self.push_as(conn, frame, &Policy::Keep, false)
    }

    /// The same for a frame that nobody waits for, and that very many connections may get at the same time: what is for few is
    /// written first.
    pub fn push_unhurried(&self, conn: &Rc<Conn>, frame: Frame) -> bool {
        self.push_as(conn, frame, &Policy::Keep, true)
    }

    /// The same for a message with that policy, which may be for a crowd.
    fn push_as(&self, conn: &Rc<Conn>, frame: Frame, policy: &Policy, is_for_crowd: bool) -> bool {
        let taken = conn.push(frame, policy, &self.scratch, self.now(), &self.counts) == Pushed::Taken;
        if taken && !conn.is_blocked() {
            self.write_soon(conn, is_for_crowd);
        }
        taken
    }

    /// The same for a frame of the protocol itself: it is taken even when the connection is closing.
    pub fn push_control(&self, conn: &Rc<Conn>, frame: Frame) {
        conn.push_control(frame);
        if !conn.is_blocked() {
            self.write_soon(conn, false);
        }
    }

    /// Has a connection written at the end of the event loop turn.
    fn write_soon(&self, conn: &Rc<Conn>, is_for_crowd: bool) {
        if self.unwritten.add(conn, is_for_crowd)
            && self.turn_waits.take()
            && let Some(turn) = &*self.turn.borrow()
        {
            turn.wake_by_ref();
        }
    }

    /// Sends what a script says to one connection: a message, which must be UTF-8 if it is text, or a socket server's
    /// bytes as they are. False if the connection can't take it.
    pub fn send(&self, conn: &Rc<Conn>, kind: Kind, data: &[u8]) -> bool {
        let sent = !conn.is_closing() && self.push(conn, self.frame(conn, kind, data));
        match sent {
            true => {
                conn.traffic.count_sent(1);
                self.counts_of(conn).sent.add(1);
                if self.tap.is_on() {
                    self.see_sent(conn, kind, data);
                }
            }
            false => self.count_dropped(conn),
        }
        sent
    }

    /// What a script itself sends to one connection: a message, or bytes that are framed already.
    fn frame(&self, conn: &Conn, kind: Kind, data: &[u8]) -> Frame {
        match conn.framing {
            Framing::WebSocket(None) => frame::encode(kind, data),
            Framing::WebSocket(Some(window)) => self.compressed(conn, window, &mut MessageFrames::new(kind, data)),
            Framing::EventStream => event_stream::encode(kind, data),
            Framing::Script => data.into(),
        }
    }

    /// A message's frame for a connection with that window.
    fn compressed(&self, conn: &Conn, window: Window, frames: &mut MessageFrames<'_>) -> Frame {
        frames.compressed(window, &conn.served.limits.get(), &self.compression, &self.counts)
    }

    /// Whether any connection has something to be written.
    pub fn is_dirty(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Writes at most so many of the connections that have something to be written, and those of a crowd for no longer than that;
    /// true if some are left for the next event loop turn.
    pub fn flush(&self, most: usize, longest: Duration) -> bool {
        let (now, mut began) = (self.now(), None);
        let write = |conn: &Rc<Conn>| {
            if !conn.is_blocked() {
                conn.flush(&self.scratch, now);
            }
        };
        self.unwritten.take(most, || began.get_or_insert_with(Instant::now).elapsed() >= longest, write);
        self.is_dirty()
    }

    /// Uncorks a connection after its handshake: `head`, the response, goes out before everything else.
    pub fn open(&self, conn: &Rc<Conn>, head: Option<Frame>) {
        conn.uncork(head);
        if conn.waiting() > 0 {
            self.write_soon(conn, false);
        }
    }

    /// The buffer in which writes are put together.
    pub fn scratch(&self) -> &RefCell<Vec<u8>> {
        &self.scratch
    }

    /// Frees memory after a crowd has left. For a timer.
    pub fn shrink(&self) {
        self.tap.forget();
        let mut by_client = self.by_client.borrow_mut();
        if by_client.capacity() > 1024 && by_client.len() < by_client.capacity() / 8 {
            by_client.shrink_to_fit();
            self.conns.borrow_mut().shrink_to_fit();
        }
        self.unwritten.shrink();
    }
}
