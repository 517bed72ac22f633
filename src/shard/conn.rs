//! One client connection on its worker's thread. How it is written is in [`writing`].

mod writing;

use bytes::BytesMut;
use std::cell::{Cell, OnceCell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::Waker;

use super::context::Context;
use super::framing::Framing;
use super::outbox::Outbox;
use super::outbox::saved::Saved;
use super::outbox::shelf::{Copies, Shelf};
use super::posted::Posted;
use super::server_context::ServerContext;
use super::traffic::Traffic;
use super::transport::Transport;
use super::unwritten::{Queued, Writable};
use crate::handover::Encoder;
use crate::hub::topics::Member;
use crate::ids::ClientId;
use crate::message::CloseReason;
use crate::telemetry::metrics::labels::EndReason;

/// The result of pushing a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits in the outbox, or is written already. If the socket is not full, the connection must be written at the end
    /// of the event loop turn.
    Taken,
    /// The connection is closing, or closes now because too much waits for it.
    Refused,
    /// Too much waits for it, and the message may be left out instead.
    LeftOut,
}

/// Whether a client's silence means anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearing {
    /// It is read: a long time without bytes is silence.
    Reading,
    /// It is not read for now (in its handshake, or while much waits for its handler), so it may have sent bytes.
    Paused,
    /// It sends no more, so it is silent from then on.
    Over,
}

/// What has come from the client and others than the connection's task put there, or read.
enum Incoming {
    /// Messages that came by requests.
    Posted(Posted),
    /// Bytes that a socket server's client has sent and its script has not consumed.
    Bytes(RefCell<BytesMut>),
}

/// The end of a connection. Boxed, since most connections have none yet.
#[derive(Default)]
struct End {
    /// The client has gone, or is about to: it takes nothing more, and handlers' waits end. What it sent before is
    /// still read and handled. Holds the reason if the end of what it sent will not tell it.
    lost: Option<CloseReason>,
    /// Nothing more is read, for that reason.
    closed: OnceCell<CloseReason>,
}

/// A connection. Only its worker's thread touches it. There may be a million of them, so its size counts: a test checks
/// it.
pub struct Conn {
    /// The id of the client.
    pub client_id: ClientId,
    /// Its slot in the shard.
    pub slot: Member,
    /// The client's address, as scripts see it, and its port: a `SocketAddr` takes half as much again.
    address: IpAddr,
    port: u16,
    /// How its messages are framed.
    pub framing: Framing,
    /// The server it came in by.
    pub served: Rc<ServerContext>,
    /// Its socket.
    pub transport: Transport,
    outbox: RefCell<Outbox>,
    /// None: frames are its task's own.
    incoming: Option<Box<Incoming>>,
    /// The context that scripts and back ends set.
    pub context: RefCell<Context>,
    /// None: it is open.
    end: OnceCell<Box<End>>,
    /// Wakes the connection's task.
    task: Cell<Option<Waker>>,
    /// The shard's clock when bytes last came.
    pub last_read: Cell<u32>,
    /// The shard's clock when the engine last pinged.
    pub last_ping: Cell<u32>,
    /// Whether the client is read.
    pub(super) hearing: Cell<Hearing>,
    /// Bytes that the system held unread at the last check.
    pub(super) unread: Cell<u32>,
    /// The unread bytes have to be checked.
    pub(super) look_due: Cell<bool>,
    /// [`Conn::attend`] has been called.
    pub(super) attended: Cell<bool>,
    /// Bytes that are held of what the client sent; [`super::Shard::hold`] sets it.
    pub(super) holding: Cell<u32>,
    /// The client has begun a message and not finished it.
    pub(super) unfinished: Cell<bool>,
    /// The shard's clock when it began. Apart, since an option of it would take more.
    pub(super) begun: Cell<u32>,
    /// In its handshake: what is pushed waits for the response to go first. It counts as blocked.
    corked: Cell<bool>,
    /// The client's socket is full; the connection's task waits until it has room.
    blocked: Cell<bool>,
    /// Where it waits to be written.
    pub(super) queued: Queued,
    /// What it has sent and got.
    pub traffic: Traffic,
}

impl Conn {
    pub(super) fn new(
        client_id: ClientId,
        slot: Member,
        remote: SocketAddr,
        framing: Framing,
        served: Rc<ServerContext>,
        transport: Transport,
        now: u32,
    ) -> Conn {
        let incoming = match framing {
            Framing::WebSocket(_) => None,
            Framing::EventStream => Some(Box::new(Incoming::Posted(Posted::new()))),
            Framing::Script => Some(Box::new(Incoming::Bytes(RefCell::default()))),
        };
        Conn {
            client_id,
            slot,
            address: remote.ip(),
            port: remote.port(),
            framing,
            served,
            transport,
            outbox: RefCell::new(Outbox::new(now)),
            incoming,
            context: RefCell::default(),
            end: OnceCell::new(),
            task: Cell::default(),
            last_read: Cell::new(now),
            last_ping: Cell::new(now),
            hearing: Cell::new(Hearing::Paused),
            unread: Cell::new(0),
            look_due: Cell::new(true),
            attended: Cell::new(false),
            holding: Cell::new(0),
            unfinished: Cell::new(false),
            begun: Cell::new(now),
            corked: Cell::new(true),
            blocked: Cell::new(true),
            queued: Queued::default(),
            traffic: Traffic::begin(),
        }
    }

    /// Marks the connection as ending. The first reason counts. What was pushed before still goes out, if the reason
    /// lets it; nothing can be pushed after, and nothing more is read. The connection's task does the rest.
    pub fn close(&self, reason: CloseReason) {
        if self.is_closed() {
            return;
        }
        match &reason {
            // These clients take nothing, so what waits for them only takes memory.
            CloseReason::WriteTimeout | CloseReason::Lost(_) => self.forget_waiting(),
            // A client that takes a little may be told why: the close frame follows the frame that is partly written.
            CloseReason::TooSlow | CloseReason::Memory if self.framing.tells_why() => {
                self.outbox.borrow_mut().clear_whole_frames();
            }
            CloseReason::TooSlow | CloseReason::Memory => self.forget_waiting(),
            _ => {}
        }
        // It is not set yet.
        let _ = self.end.get_or_init(Box::default).closed.set(reason);
        self.wake();
    }

    /// The client has gone: what waits for it is dropped, nothing can be pushed after, and waits of handlers end. What
    /// it sent before is still read, and its end tells the reason to close with, unless `reason` does.
    pub fn lose(&self, reason: Option<CloseReason>) {
        self.forget_waiting();
        self.blocked.set(false);
        self.part(reason);
    }

    /// Drops all that waits for the client, even a part of a frame: nothing can be written after it.
    fn forget_waiting(&self) {
        self.outbox.borrow_mut().clear();
        self.transport.forget();
    }

    /// The client is about to go: as [`Conn::lose`], but what waits for it still goes out.
    pub fn part(&self, reason: Option<CloseReason>) {
        if self.end.set(Box::new(End { lost: reason, ..End::default() })).is_ok() {
            self.wake();
        }
    }

    /// Writes what waits for the client, for a successor process.
    pub(super) fn save_outbox(&self, shelf: &mut Shelf, out: &mut Encoder) {
        self.outbox.borrow().save(shelf, out);
    }

    /// Puts in what waited for the client in the process before.
    pub(super) fn restore_outbox(&self, saved: Saved, copies: &mut Copies) {
        self.outbox.borrow_mut().restore(saved, copies);
    }

    /// The bytes of a socket server's connection that have come and are not consumed. Not to be borrowed while a script
    /// runs.
    pub fn received(&self) -> Option<&RefCell<BytesMut>> {
        match self.incoming.as_deref()? {
            Incoming::Bytes(received) => Some(received),
            Incoming::Posted(_) => None,
        }
    }

    /// The messages of an event stream's client that wait for its handler.
    pub fn posted(&self) -> Option<&Posted> {
        match self.incoming.as_deref()? {
            Incoming::Posted(posted) => Some(posted),
            Incoming::Bytes(_) => None,
        }
    }

    /// The client's address, as scripts are told.
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// Whether it is ending: nothing can be pushed, and waits of handlers end. What the client sent may still be read.
    pub fn is_closing(&self) -> bool {
        self.end.get().is_some()
    }

    /// Whether it is also closed: nothing more is read.
    pub fn is_closed(&self) -> bool {
        self.closed().is_some()
    }

    /// The reason why it is closed.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.closed().cloned()
    }

    fn closed(&self) -> Option<&CloseReason> {
        self.end.get()?.closed.get()
    }

    /// The reason to close with after everything that the client sent has been read, if the end of the bytes does not
    /// tell it: the socket has failed.
    pub fn lost_by(&self) -> Option<CloseReason> {
        self.end.get().filter(|end| end.closed.get().is_none())?.lost.clone()
    }

    /// The label that its end is counted under; None: it does not end.
    pub fn ended_by(&self) -> Option<EndReason> {
        self.end.get().map(|end| end.closed.get().map_or(EndReason::Lost, EndReason::from))
    }

    /// Remembers the connection's task, to be woken.
    pub fn register(&self, waker: &Waker) {
        let task = self.task.take().filter(|task| task.will_wake(waker));
        self.task.set(Some(task.unwrap_or_else(|| waker.clone())));
    }

    /// Wakes the connection's task.
    pub fn wake(&self) {
        if let Some(task) = self.task.take() {
            task.wake_by_ref();
            self.task.set(Some(task));
        }
    }
}

impl Writable for Conn {
    fn queued(&self) -> &Queued {
        &self.queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The allocator has a size class of 256 bytes; the next one is 320.
    #[test]
    fn a_silent_connection_is_small() {
        // The reference counts stand before it. In a debug build the runtime's socket has a word more.
        let words = 2 - usize::from(cfg!(debug_assertions));
        let size = size_of::<Conn>() + words * size_of::<usize>();
        assert!(size <= 256, "{size} bytes");
    }
}
