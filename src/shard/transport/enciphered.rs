//! TLS over a TCP socket.
//!
//! All connections of a thread share its buffers for what is read and written, so one that is idle holds no bytes, only
//! its keys. It holds bytes of its own in three cases: the beginning of a record whose rest has not come, what was
//! deciphered and found no room with the reader (or was only looked at), and enciphered bytes that the system does not
//! take yet. Those can't be given back to the caller, and go before anything else; they are one write at most.

mod state;

use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::task::coop;

pub use self::state::Moved;
use self::state::{BUFFERS, Came, READ, State, Trouble, Writing};
use crate::handover::Encoder;
use crate::telemetry::metrics::labels::Handshake;
use crate::tls::{Failure, Session};

/// The most that is enciphered for one write, and so the most that is owed for long: two records.
const WRITE: usize = 32 * 1024;
/// How many bytes that came count as one step of the task that reads. A task has 128 steps (tokio's budget) until others
/// run, and so the largest read of the socket. A client that sends faster than it is deciphered would have the thread for
/// itself otherwise.
const STEP: usize = 256;
/// The reads in a row that may give nothing: records may hold no byte at all, and others wait for the worker.
const FRUITLESS: usize = 2;
/// No more is deciphered to be only looked at when so much has been read for that.
const LOOK: usize = 16 * 1024;

/// A connection with TLS.
pub struct Enciphered {
    socket: TcpStream,
    state: RefCell<State>,
}

impl fmt::Debug for Enciphered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enciphered").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Enciphered {
    /// A connection whose handshake is to come.
    pub(super) fn new(socket: TcpStream, session: Session) -> Enciphered {
        Enciphered { socket, state: RefCell::new(State::new(session)) }
    }

    /// Takes up a connection that another process had.
    pub(super) fn take_up(socket: TcpStream, moved: Moved) -> Enciphered {
        Enciphered { socket, state: RefCell::new(moved.0) }
    }

    /// Whether another process could go on with it: its handshake is over, and nothing has gone wrong or come to an end.
    pub(super) fn may_move(&self) -> bool {
        let state = self.state.borrow();
        state.session.is_open() && state.writing == Writing::Open && state.failed.is_none()
    }

    /// Writes it for a successor process. Until [`Enciphered::keep`] nothing more is sent here, whatever is asked for: that
    /// process may use the numbers of the next records.
    pub(super) fn offer(&self, out: &mut Encoder) {
        let mut state = self.state.borrow_mut();
        state.offered = true;
        state.save(out);
    }

    /// No other process has it.
    pub(super) fn keep(&self) {
        self.state.borrow_mut().offered = false;
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
        let first = ready!(coop::poll_proceed(cx));
        loop {
            match self.read(into) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(self.socket.poll_read_ready(cx))?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                    // More may be there.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                read => {
                    first.made_progress();
                    for _ in 0..read.as_ref().map_or(0, |came| came / STEP) {
                        let Poll::Ready(step) = coop::poll_proceed(cx) else { break };
                        step.made_progress();
                    }
                    return Poll::Ready(read.map(drop));
                }
            }
        }
    }

    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        let mut into = ReadBuf::new(into);
        self.read(&mut into)?;
        Ok(into.filled().len())
    }

    /// Reads what is there: at least something, or the end. `WouldBlock`: nothing is. `Interrupted`: only records
    /// without content, so far. Returns how many bytes the system had for it.
    fn read(&self, into: &mut ReadBuf<'_>) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        let mut read = 0;
        for _ in 0..FRUITLESS {
            if !state.plain.is_empty() {
                let most = state.plain.len().min(into.remaining());
                into.put_slice(&state.plain[..most]);
                state.plain.advance(most);
                if state.plain.is_empty() {
                    state.plain = BytesMut::new();
                    state.looked_at = 0;
                }
                return Ok(read);
            }
            state.looked_at = 0;
            if state.session.has_ended() || into.remaining() == 0 {
                return Ok(read);
            }
            let before = into.filled().len();
            let came = state.receive(&self.socket, into.remaining(), |plain, bytes| {
                let (now, later) = bytes.split_at(bytes.len().min(into.remaining()));
                into.put_slice(now);
                plain.extend_from_slice(later);
            });
            if let Ok(Came::Bytes(came)) = came {
                read += came;
            }
            if into.filled().len() > before {
                // A failure behind these bytes is told by the next read.
                return Ok(read);
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
            let State { session, owed, writing, .. } = &mut *state;
            let written = session.write(bytes, out);
            if written.is_err() {
                // Its last words are in `out`.
                *writing = Writing::Ending;
            }
            let sent = match self.socket.try_write(out) {
                Ok(sent) => sent,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
                Err(e) => return Err(e),
            };
            owed.extend_from_slice(&out[sent..]);
            written?;
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
        if state.writing == Writing::Open && !state.offered {
            state.writing = Writing::Ending;
            BUFFERS.with_borrow_mut(|buffers| {
                let out = &mut buffers.outgoing;
                out.clear();
                let State { session, owed, .. } = &mut *state;
                session.end(out);
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
