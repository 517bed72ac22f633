//! TLS over a TCP socket.
//!
//! All connections of a thread share its buffers for what is read and written, so one that is idle holds no bytes, only
//! its keys. It holds bytes of its own in three cases: the beginning of a record whose rest has not come, what was
//! deciphered and found no room with the reader (or was only looked at), and enciphered bytes that the system does not
//! take yet. Those can't be given back to the caller, and go before anything else; they are one write at most.

use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use super::receive::receive;
use crate::telemetry::metrics::labels::Handshake;
use crate::tls::{Failure, HANDSHAKE, Session};

/// The most that is enciphered for one write, and so the most that is owed for long: two records.
const WRITE: usize = 32 * 1024;
/// What is read at once at least, with what is there of the record before: the largest record (RFC 5246, section 6.2.3)
/// and a little.
const READ: usize = 20 * 1024;
/// What is read at once at most. Records may hold a byte each, so this bounds the time of one read.
const MOST_READ: usize = 32 * 1024;
/// The reads in a row that may give nothing: records may hold no byte at all, and others wait for the worker.
const FRUITLESS: usize = 2;
/// What may come beyond a message of the handshake that is incomplete, and so the most of one: the longest that TLS
/// allows within one is nearly reached by a chain of certificates alone.
const MOST: usize = 96 * 1024;
/// No more is deciphered to be only looked at when so much has been read for that.
const LOOK: usize = 16 * 1024;

thread_local! {
    static BUFFERS: RefCell<Buffers> = const { RefCell::new(Buffers { incoming: Vec::new(), outgoing: Vec::new() }) };
}

/// What the connections of a thread share, each for the time of one call.
struct Buffers {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

/// A connection with TLS.
pub struct Enciphered {
    socket: TcpStream,
    state: RefCell<State>,
}

struct State {
    session: Session,
    /// What has come of a record, or of a message of the handshake, whose rest has not.
    partial: BytesMut,
    /// What is deciphered and not read.
    plain: BytesMut,
    /// The bytes that were read from the system for what was only looked at.
    looked_at: u32,
    /// What is enciphered and not with the system.
    owed: BytesMut,
    /// The client has sent something.
    begun: bool,
    writing: Writing,
    /// Why nothing more comes, and nothing more is sent.
    failed: Option<Box<Failure>>,
}

/// How far the sending direction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Open,
    /// The last that is owed says that nothing more comes.
    Ending,
    Over,
}

/// What a read from the socket came to.
enum Came {
    /// So many bytes, of which there may be plain ones.
    Bytes(usize),
    /// The client has ended the socket.
    End,
}

impl fmt::Debug for Enciphered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enciphered").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Enciphered {
    /// A connection whose handshake is to come.
    pub(super) fn new(socket: TcpStream, session: Session) -> Enciphered {
        let state = State {
            session,
            partial: BytesMut::new(),
            plain: BytesMut::new(),
            looked_at: 0,
            owed: BytesMut::new(),
            begun: false,
            writing: Writing::Open,
            failed: None,
        };
        Enciphered { socket, state: RefCell::new(state) }
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(super) fn into_socket(self) -> TcpStream {
        self.socket
    }

    pub(super) fn owes(&self) -> usize {
        self.state.borrow().owed.len()
    }

    pub(super) fn holds(&self) -> usize {
        let state = self.state.borrow();
        state.partial.len() + state.plain.len()
    }

    pub(super) fn looked_at(&self) -> u32 {
        self.state.borrow().looked_at
    }

    pub(super) fn forget(&self) {
        let mut state = self.state.borrow_mut();
        state.owed = BytesMut::new();
        state.writing = Writing::Over;
    }

    /// Whether reading gives something at once.
    pub(super) fn has_more(&self) -> bool {
        let state = self.state.borrow();
        !state.plain.is_empty() || state.session.has_ended() || state.failed.is_some()
    }

    pub(super) fn poll_handshake(&self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let mut state = self.state.borrow_mut();
        loop {
            match state.send_owed(&self.socket, |bytes| self.socket.try_write(bytes)) {
                Ok(true) if state.session.is_open() => return Poll::Ready(Ok(())),
                Ok(true) => ready!(self.socket.poll_read_ready(cx))?,
                Ok(false) => {
                    ready!(self.socket.poll_write_ready(cx))?;
                    continue;
                }
                Err(e) => return Poll::Ready(Err(e.into())),
            }
            match state.receive(&self.socket, READ, |plain, bytes| plain.extend_from_slice(bytes)) {
                Ok(Came::Bytes(_)) => {}
                Ok(Came::End) => {
                    let what = "the client ended the connection during its handshake";
                    return Poll::Ready(Err(Failure::new(Handshake::Closed, what)));
                }
                Err(Trouble::WouldBlock) => {}
                Err(Trouble::Failed(failure)) => return Poll::Ready(Err(failure)),
            }
        }
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.read(into) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(self.socket.poll_read_ready(cx))?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                    // More may be there.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                read => return Poll::Ready(read),
            }
        }
    }

    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut into = ReadBuf::new(into);
        self.read(&mut into)?;
        Ok(into.filled().len())
    }

    /// Reads what is there: at least something, or the end. `WouldBlock`: nothing is. `Interrupted`: only records
    /// without content, so far.
    fn read(&self, into: &mut ReadBuf<'_>) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        for _ in 0..FRUITLESS {
            if !state.plain.is_empty() {
                let most = state.plain.len().min(into.remaining());
                into.put_slice(&state.plain[..most]);
                state.plain.advance(most);
                if state.plain.is_empty() {
                    state.plain = BytesMut::new();
                    state.looked_at = 0;
                }
                return Ok(());
            }
            state.looked_at = 0;
            if state.session.has_ended() || into.remaining() == 0 {
                return Ok(());
            }
            let before = into.filled().len();
            let came = state.receive(&self.socket, into.remaining(), |plain, bytes| {
                let (now, later) = bytes.split_at(bytes.len().min(into.remaining()));
                into.put_slice(now);
                plain.extend_from_slice(later);
            });
            if into.filled().len() > before {
                // A failure behind these bytes is told by the next read.
                return Ok(());
            }
            match came {
                Ok(Came::Bytes(_)) => {}
                Ok(Came::End) => return Err(Failure::ended().into()),
                Err(Trouble::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(Trouble::Failed(failure)) => return Err(failure.into()),
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    pub(super) fn poll_peek(&self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        while (state.looked_at as usize) < LOOK && !state.session.has_ended() {
            match state.receive(&self.socket, READ, |plain, bytes| plain.extend_from_slice(bytes)) {
                Ok(Came::Bytes(came)) => state.looked_at = state.looked_at.saturating_add(came as u32),
                // The end of the socket is seen without reading.
                Ok(Came::End) => break,
                Err(Trouble::WouldBlock) => match self.socket.poll_read_ready(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                },
                Err(Trouble::Failed(failure)) => return Poll::Ready(Err(failure.into())),
            }
        }
        let most = state.plain.len().min(into.remaining());
        into.put_slice(&state.plain[..most]);
        if most > 0 || state.session.has_ended() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Sends what is owed, then as many of `bytes` as one write may have.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        let owed = state.owed.len();
        if !state.send_owed(&self.socket, |bytes| self.socket.try_write(bytes))? {
            return if state.owed.len() < owed { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        if state.writing != Writing::Open {
            let ended = || io::ErrorKind::BrokenPipe.into();
            return Err(state.failed.as_deref().map_or_else(ended, |failure| failure.clone().into()));
        }
        let bytes = &bytes[..bytes.len().min(WRITE)];
        BUFFERS.with_borrow_mut(|buffers| {
            let out = &mut buffers.outgoing;
            out.clear();
            let State { session, partial, owed, .. } = &mut *state;
            session.write(bytes, partial, out)?;
            let sent = match self.socket.try_write(out) {
                Ok(sent) => sent,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
                Err(e) => return Err(e),
            };
            owed.extend_from_slice(&out[sent..]);
            Ok(bytes.len())
        })
    }

    pub(super) fn probe_write(&self) -> Option<usize> {
        let mut state = self.state.borrow_mut();
        let before = state.owed.len();
        // A socket that is full leaves something owed: that is asked about.
        let _ = state.send_owed(&self.socket, |bytes| socket2::SockRef::from(&self.socket).send(bytes));
        (state.owed.len() < before).then_some(0)
    }

    pub(super) fn shutdown_write(&self) {
        let mut state = self.state.borrow_mut();
        if state.writing == Writing::Open {
            state.writing = Writing::Ending;
            BUFFERS.with_borrow_mut(|buffers| {
                let out = &mut buffers.outgoing;
                out.clear();
                let State { session, partial, owed, .. } = &mut *state;
                session.end(partial, out);
                owed.extend_from_slice(out);
            });
        }
        // Only a socket that has ended refuses it.
        let _ = state.send_owed(&self.socket, |bytes| self.socket.try_write(bytes));
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            match self.try_write(bytes) {
                Ok(0) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(self.socket.poll_write_ready(cx))?,
                written => return Poll::Ready(written),
            }
        }
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.owes() > 0 {
            match self.try_write(&[]) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(self.socket.poll_write_ready(cx))?,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Why a read from the socket gave nothing.
enum Trouble {
    /// Nothing has come.
    WouldBlock,
    Failed(Failure),
}

impl From<io::Error> for Trouble {
    fn from(e: io::Error) -> Trouble {
        match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Trouble::WouldBlock,
            _ => Trouble::Failed(e.into()),
        }
    }
}

impl State {
    /// Gives what is owed to the system; true: all of it. The last of it may end the sending direction.
    fn send_owed(&mut self, socket: &TcpStream, send: impl Fn(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        while !self.owed.is_empty() {
            match send(&self.owed) {
                Ok(sent) => self.owed.advance(sent),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if self.owed.is_empty() {
                self.owed = BytesMut::new();
            }
        }
        if self.writing == Writing::Ending {
            self.writing = Writing::Over;
            let _ = socket2::SockRef::from(socket).shutdown(Shutdown::Write);
        }
        Ok(true)
    }

    /// Reads from the socket once, about as much as has room, and deciphers it; `plain` is told what came, and where to
    /// put what it has no room for. A failure is told by every call from then on, after what came before it.
    fn receive(
        &mut self,
        socket: &TcpStream,
        room: usize,
        take: impl FnMut(&mut BytesMut, &[u8]),
    ) -> Result<Came, Trouble> {
        if let Some(failure) = &self.failed {
            return Err(Trouble::Failed(Failure::clone(failure)));
        }
        let received = self.receive_more(socket, room, take);
        if let Err(Trouble::Failed(failure)) = &received {
            self.failed = Some(Box::new(failure.clone()));
            // The protocol takes the record that broke it for a new one if it is shown again.
            self.partial = BytesMut::new();
            if self.session.is_open() {
                // Nothing follows the alert.
                self.writing = Writing::Ending;
            }
            let _ = self.send_owed(socket, |bytes| socket.try_write(bytes));
        }
        received
    }

    fn receive_more(
        &mut self,
        socket: &TcpStream,
        room: usize,
        mut take: impl FnMut(&mut BytesMut, &[u8]),
    ) -> Result<Came, Trouble> {
        BUFFERS.with_borrow_mut(|buffers| {
            let Buffers { incoming, outgoing } = buffers;
            let kept = self.partial.len();
            let most = room.clamp(READ, MOST_READ).max(kept + READ / 4);
            if incoming.len() < most {
                incoming.resize(most, 0);
            }
            incoming[..kept].copy_from_slice(&self.partial);
            let mut fresh = ReadBuf::new(&mut incoming[kept..most]);
            receive(socket, &mut fresh)?;
            let came = fresh.filled().len();
            if came == 0 {
                return Ok(Came::End);
            }
            let input = &mut incoming[..kept + came];
            if !std::mem::replace(&mut self.begun, true) && input.first() != Some(&HANDSHAKE) {
                return Err(Trouble::Failed(Failure::not_tls()));
            }
            outgoing.clear();
            let (used, read) = self.session.read(input, |bytes| take(&mut self.plain, bytes), outgoing);
            self.owed.extend_from_slice(outgoing);
            let rest = input.get(used..).unwrap_or_default();
            if kept > 0 || !rest.is_empty() {
                self.partial = BytesMut::from(rest);
            }
            read.map_err(Trouble::Failed)?;
            if self.session.has_ended() {
                // What follows is not looked at (RFC 8446, section 6.1).
                self.partial = BytesMut::new();
            }
            if self.partial.len() > MOST {
                let what = "a message of the handshake is too long";
                return Err(Trouble::Failed(Failure::new(Handshake::Malformed, what)));
            }
            Ok(Came::Bytes(came))
        })
    }
}
