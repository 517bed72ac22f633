//! One client connection as its worker's thread knows it.

use bytes::BytesMut;
use std::cell::{Cell, RefCell};
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};
use tokio::net::tcp::OwnedWriteHalf;

use super::context::Context;
use super::outbox::{FRAME, Frame, Outbox};
use super::peer::Hearing;
use super::served::Served;
use crate::config::Protocol;
use crate::hub::topics::Member;
use crate::ids::ClientId;
use crate::message::CloseReason;
use crate::telemetry::metrics::labels::EndReason;

/// From this many waiting bytes on, a push writes at once instead of waiting for the turn's end, so that what waits
/// tells how fast the client is, not how busy the worker.
const WRITE_AT_ONCE: usize = 64 * 1024;

/// What happened to a frame that was pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits in the outbox.
    Taken,
    /// It waits, and nothing did before: the connection is to be written at the turn's end.
    First,
    /// The connection is closing, or closes now because too much waits for it.
    Refused,
}

/// How far a connection's end has come.
#[derive(Default)]
enum End {
    #[default]
    Open,
    /// The client has gone, or is about to: it takes nothing more, and handlers' waits end. What it sent before is still
    /// read and handled. Holds the reason, where the end of what it sent will not tell it.
    Lost(Option<Box<CloseReason>>),
    /// Nothing more is read.
    Closed(Box<CloseReason>),
}

/// A connection. Only its worker's thread touches it.
pub struct Conn {
    /// Its number.
    pub client_id: ClientId,
    /// Its slot in the shard.
    pub slot: Member,
    /// The client's address, as scripts are told.
    pub remote: SocketAddr,
    /// The server it came in by.
    pub served: Rc<Served>,
    pub(super) stream: ManuallyDrop<OwnedWriteHalf>,
    outbox: RefCell<Outbox>,
    /// What a socket server's client has sent and its script has not consumed; none for a WebSocket.
    received: Option<Box<RefCell<BytesMut>>>,
    /// The context that scripts and back ends set.
    pub context: RefCell<Context>,
    end: RefCell<End>,
    /// Wakes the connection's task.
    task: RefCell<Option<Waker>>,
    /// The shard's clock when bytes last came.
    pub last_read: Cell<u32>,
    /// The shard's clock when the engine last pinged.
    pub last_ping: Cell<u32>,
    /// The shard's clock when the client last took something, while it is `blocked`.
    stalled: Cell<u32>,
    /// Whether the client is read.
    pub(super) hearing: Cell<Hearing>,
    /// Bytes that the system holds unread, when they were last looked at.
    pub(super) unread: Cell<u32>,
    /// They are to be looked at.
    pub(super) look_due: Cell<bool>,
    /// [`Conn::attend`] has been called.
    pub(super) attended: Cell<bool>,
    /// Bytes that are held of what the client sent; [`super::Shard::hold`] sets it.
    pub(super) holding: Cell<u32>,
    /// The shard's clock when the message began that the client has not finished.
    pub(super) unfinished: Cell<Option<u32>>,
    /// In its handshake: what is pushed waits for the response to go first. It counts as blocked.
    held: Cell<bool>,
    /// The client's socket is full; the connection's task waits till it has room.
    blocked: Cell<bool>,
    /// In the shard's list of connections to be written.
    pub(super) dirty: Cell<bool>,
}

impl Conn {
    pub(super) fn new(
        client_id: ClientId,
        slot: Member,
        remote: SocketAddr,
        served: Rc<Served>,
        stream: OwnedWriteHalf,
        now: u32,
    ) -> Conn {
        let received = (served.protocol == Protocol::Socket).then(Box::default);
        Conn {
            client_id,
            slot,
            remote,
            served,
            stream: ManuallyDrop::new(stream),
            outbox: RefCell::default(),
            received,
            context: RefCell::default(),
            end: RefCell::default(),
            task: RefCell::default(),
            last_read: Cell::new(now),
            last_ping: Cell::new(now),
            stalled: Cell::new(now),
            hearing: Cell::new(Hearing::Paused),
            unread: Cell::new(0),
            look_due: Cell::new(true),
            attended: Cell::new(false),
            holding: Cell::new(0),
            unfinished: Cell::new(None),
            held: Cell::new(true),
            blocked: Cell::new(true),
            dirty: Cell::new(false),
        }
    }

    /// Marks the connection as ending. The first reason counts. What was pushed before still goes out, if the reason
    /// lets it; nothing can be pushed after, and nothing more is read. The connection's task does the rest.
    pub fn close(&self, reason: CloseReason) {
        let mut end = self.end.borrow_mut();
        if matches!(*end, End::Closed(_)) {
            return;
        }
        match &reason {
            // These clients take nothing: what waits for them is memory.
            CloseReason::WriteTimeout | CloseReason::Lost(_) => self.outbox.borrow_mut().clear(),
            CloseReason::TooSlow | CloseReason::Memory if self.is_raw() => self.outbox.borrow_mut().clear(),
            // One that takes a little may be told why: the close frame follows the frame that is begun.
            CloseReason::TooSlow | CloseReason::Memory => self.outbox.borrow_mut().clear_whole_frames(),
            _ => {}
        }
        *end = End::Closed(Box::new(reason));
        drop(end);
        self.wake();
    }

    /// The client has gone: what waits for it is dropped, nothing can be pushed after, and waits of handlers end. What it
    /// sent before is still read, and its end tells the reason to close with, unless `reason` does.
    pub fn lose(&self, reason: Option<CloseReason>) {
        self.outbox.borrow_mut().clear();
        self.blocked.set(false);
        self.part(reason);
    }

    /// The client is about to go: as [`Conn::lose`], but what waits for it still goes out.
    pub fn part(&self, reason: Option<CloseReason>) {
        let mut end = self.end.borrow_mut();
        if matches!(*end, End::Open) {
            *end = End::Lost(reason.map(Box::new));
            drop(end);
            self.wake();
        }
    }

    /// Of a socket server's connection, what has come and is not consumed. Not to be held while a script runs.
    pub fn received(&self) -> Option<&RefCell<BytesMut>> {
        self.received.as_deref()
    }

    /// Whether what is sent must be encoded by the script: it is a socket server's.
    pub fn is_raw(&self) -> bool {
        self.received.is_some()
    }

    /// Whether it ends: nothing can be pushed, and waits of handlers end. What the client sent may still be read.
    pub fn is_closing(&self) -> bool {
        !matches!(*self.end.borrow(), End::Open)
    }

    /// Whether it is closed, too: nothing more is read.
    pub fn is_closed(&self) -> bool {
        matches!(*self.end.borrow(), End::Closed(_))
    }

    /// Why it is closed.
    pub fn close_reason(&self) -> Option<CloseReason> {
        match &*self.end.borrow() {
            End::Closed(reason) => Some((**reason).clone()),
            End::Open | End::Lost(_) => None,
        }
    }

    /// The reason to close with when what the client sent has been read to its end, and its end alone does not tell:
    /// the socket has failed.
    pub fn lost_by(&self) -> Option<CloseReason> {
        match &*self.end.borrow() {
            End::Lost(reason) => reason.as_deref().cloned(),
            End::Open | End::Closed(_) => None,
        }
    }

    /// Under which label its end is counted; None: it does not end.
    pub fn ended_by(&self) -> Option<EndReason> {
        match &*self.end.borrow() {
            End::Closed(reason) => Some(EndReason::from(&**reason)),
            End::Lost(_) => Some(EndReason::Lost),
            End::Open => None,
        }
    }

    /// Remembers the connection's task, to be woken.
    pub fn register(&self, waker: &Waker) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|t| t.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    /// Wakes the connection's task.
    pub fn wake(&self) {
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// Puts a frame into the outbox; [`super::Shard::push`] is the way to call it.
    pub(super) fn push(&self, frame: Frame, scratch: &RefCell<Vec<u8>>, now: u32) -> Pushed {
        if self.is_closing() {
            return Pushed::Refused;
        }
        let limit = self.served.limits.get().outbox_limit;
        // A message larger than the limit still gets in when nothing else waits.
        let fits = || self.waiting() == 0 || self.waiting() + frame.len() + FRAME <= limit;
        if !fits() && !self.blocked.get() {
            // What waits may be there only because the turn has not ended.
            self.flush(scratch, now);
        }
        if !fits() {
            self.close(CloseReason::TooSlow);
        }
        if self.is_closing() {
            return Pushed::Refused;
        }
        let mut outbox = self.outbox.borrow_mut();
        outbox.push(frame);
        let full = outbox.weight() >= WRITE_AT_ONCE;
        drop(outbox);
        if full && !self.blocked.get() {
            self.flush(scratch, now);
        }
        if self.blocked.get() || self.dirty.replace(true) { Pushed::Taken } else { Pushed::First }
    }

    /// Puts a frame of the protocol itself (pong, close) into the outbox, past the bound and past `close`.
    pub fn push_control(&self, frame: Frame) {
        self.outbox.borrow_mut().push(frame);
    }

    /// Drops what waits, but finishes a frame that is begun.
    pub fn discard_waiting(&self) {
        self.outbox.borrow_mut().clear_whole_frames();
    }

    /// What waits for the client: bytes, and [`FRAME`] for each frame. It is what `outboxLimit` bounds.
    pub fn waiting(&self) -> usize {
        self.outbox.borrow().weight()
    }

    /// Writes what waits, as far as the socket takes it. When it does not take all, the connection's task is woken to
    /// wait for room.
    pub fn flush(&self, scratch: &RefCell<Vec<u8>>, now: u32) {
        let mut outbox = self.outbox.borrow_mut();
        let mut scratch = scratch.borrow_mut();
        while !outbox.is_empty() {
            match self.stream.try_write(outbox.next_write(&mut scratch)) {
                // After a short write, asking again is what makes the runtime wait for room.
                Ok(written) => {
                    outbox.advance(written);
                    self.stalled.set(now);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !self.blocked.replace(true) {
                        self.stalled.set(now);
                        self.wake();
                    }
                    return;
                }
                Err(e) => {
                    drop(outbox);
                    // A broken pipe is what comes of a client that ended its socket in order: reading tells.
                    let told = e.kind() == io::ErrorKind::BrokenPipe;
                    self.lose((!told).then(|| CloseReason::Lost(e.to_string().into())));
                    return;
                }
            }
        }
        self.blocked.set(false);
    }

    /// Goes on writing while the socket has room. Ready when nothing waits, or nothing can be written any more. Not to
    /// be called while the connection is held.
    pub fn poll_flush(&self, cx: &mut TaskContext<'_>, scratch: &RefCell<Vec<u8>>, now: u32) -> Poll<()> {
        loop {
            if self.outbox.borrow().is_empty() {
                self.blocked.set(false);
                return Poll::Ready(());
            }
            match self.stream.as_ref().poll_write_ready(cx) {
                Poll::Pending => {
                    self.blocked.set(true);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) => self.flush(scratch, now),
                Poll::Ready(Err(e)) => {
                    self.outbox.borrow_mut().clear();
                    self.close(CloseReason::Lost(e.to_string().into()));
                }
            }
        }
    }

    /// Tries to write to a socket that is full; true if the client has taken something since. The kernel itself says that
    /// there is room only when a third of its buffer is free, and a slow client may need long for that.
    pub fn nudge(&self, scratch: &RefCell<Vec<u8>>, now: u32) -> bool {
        let mut outbox = self.outbox.borrow_mut();
        let sent = socket2::SockRef::from(self.stream.as_ref()).send(outbox.next_write(&mut scratch.borrow_mut()));
        let Ok(written @ 1..) = sent else { return false };
        outbox.advance(written);
        self.stalled.set(now);
        // The last of it may be written.
        self.wake();
        true
    }

    /// Whether the client's socket is full.
    pub fn is_blocked(&self) -> bool {
        self.blocked.get()
    }

    /// The clock when the client last took something, while something waits that it does not take.
    pub fn stalled_since(&self) -> Option<u32> {
        (self.blocked.get() && !self.held.get()).then(|| self.stalled.get())
    }

    /// Whether it is in its handshake.
    pub fn is_held(&self) -> bool {
        self.held.get()
    }

    /// Ends the held state: `head` goes before all that waits.
    pub(super) fn release(&self, head: Option<Frame>) {
        if let Some(head) = head {
            self.outbox.borrow_mut().push_front(head);
        }
        self.held.set(false);
        self.blocked.set(false);
    }

    /// Ends the sending direction: the client sees the end after all that was written.
    pub fn shutdown(&self) {
        let _ = socket2::SockRef::from(self.stream.as_ref()).shutdown(std::net::Shutdown::Write);
    }

    /// Leaves the socket's end to the kernel. The end is a reset if the client has not taken all that it was owed: the kernel
    /// would hold that for a long time. At a stop (`hurry`) nobody has had the time to, and the kernel goes on with what it
    /// holds, as long as the client takes something within `patience`.
    pub fn leave(&self, patience: std::time::Duration, hurry: bool) {
        if self.waiting() > 0 || (!hurry && self.has_queued()) {
            self.reset();
        } else {
            let _ = socket2::SockRef::from(self.stream.as_ref()).set_tcp_user_timeout(Some(patience));
        }
    }

    /// Makes the end of the socket a reset: what the kernel still holds for a client that takes nothing goes at once.
    pub fn reset(&self) {
        let _ = socket2::SockRef::from(self.stream.as_ref()).set_linger(Some(std::time::Duration::ZERO));
    }
}

impl Drop for Conn {
    /// The socket ends when its reading half goes too: a shutdown before that would be a system call for nothing.
    fn drop(&mut self) {
        // SAFETY: the field is not used after this.
        unsafe { ManuallyDrop::take(&mut self.stream) }.forget();
    }
}
