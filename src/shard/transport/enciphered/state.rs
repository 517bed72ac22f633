//! What a connection with TLS keeps, and its way from and to the socket.

use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use super::super::receive::receive;
use crate::handover::{Damaged, Decoder, Encoder};
use crate::telemetry::metrics::labels::Handshake;
use crate::tls::{Failure, HANDSHAKE, Session};

/// What is read at once at least, with what is there of the record before: the largest record (RFC 5246, section 6.2.3)
/// and a little.
pub(super) const READ: usize = 20 * 1024;
/// What is read at once at most. Records may hold a byte each, so this bounds the time of one read.
const MOST_READ: usize = 32 * 1024;
/// What may come beyond a message of the handshake that is incomplete, and so the most of one: the longest that TLS
/// allows within one is nearly reached by a chain of certificates alone.
const MOST: usize = 96 * 1024;
/// Why nothing goes on here once the connection has been offered.
const OFFERED: &str = "a successor process may have the connection";

thread_local! {
    pub(super) static BUFFERS: RefCell<Buffers> = const { RefCell::new(Buffers { incoming: Vec::new(), outgoing: Vec::new() }) };
}

/// What the connections of a thread share, each for the time of one call.
pub(super) struct Buffers {
    incoming: Vec<u8>,
    pub(super) outgoing: Vec<u8>,
}

/// What one connection keeps.
pub(super) struct State {
    pub(super) session: Session,
    /// What has come of a record, or of a message of the handshake, whose rest has not.
    pub(super) partial: BytesMut,
    /// What is deciphered and not read.
    pub(super) plain: BytesMut,
    /// The bytes that were read from the system for what was only looked at.
    pub(super) looked_at: u32,
    /// What is enciphered and not with the system.
    pub(super) owed: BytesMut,
    /// The client has sent something.
    begun: bool,
    pub(super) writing: Writing,
    /// A successor process may have it: nothing is sent here.
    pub(super) offered: bool,
    /// Why nothing more comes, and nothing more is sent.
    pub(super) failed: Option<Box<Failure>>,
}

/// A connection that another process had, without its socket.
pub struct Moved(pub(super) State);

/// How far the sending direction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writing {
    Open,
    /// The last that is owed says that nothing more comes.
    Ending,
    Over,
}

/// What a read from the socket came to.
pub(super) enum Came {
    /// So many bytes, of which there may be plain ones.
    Bytes(usize),
    /// The client has ended the socket.
    End,
}

/// Why a read from the socket gave nothing.
pub(super) enum Trouble {
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

impl Moved {
    /// Reads what [`super::super::Transport::offer`] has written.
    pub fn read(from: &mut Decoder<'_>) -> Result<Moved, Damaged> {
        let mut state = State::new(Session::restore(from)?);
        for bytes in [&mut state.partial, &mut state.plain, &mut state.owed] {
            *bytes = BytesMut::from(from.data()?);
        }
        state.looked_at = from.u32()?;
        Ok(Moved(state))
    }
}

impl State {
    pub(super) fn new(session: Session) -> State {
        State {
            begun: session.is_open(),
            session,
            partial: BytesMut::new(),
            plain: BytesMut::new(),
            looked_at: 0,
            owed: BytesMut::new(),
            writing: Writing::Open,
            offered: false,
            failed: None,
        }
    }

    /// Writes it for a successor process.
    pub(super) fn save(&self, out: &mut Encoder) {
        self.session.save(out);
        [&self.partial, &self.plain, &self.owed].into_iter().for_each(|bytes| out.data(bytes));
        out.u32(self.looked_at);
    }

    /// Gives what is owed to the system; true: all of it. The last of it may end the sending direction.
    pub(super) fn send_owed(
        &mut self,
        socket: &TcpStream,
        send: impl Fn(&[u8]) -> io::Result<usize>,
    ) -> io::Result<bool> {
        if self.offered {
            return Err(io::Error::other(OFFERED));
        }
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
    pub(super) fn receive(
        &mut self,
        socket: &TcpStream,
        room: usize,
        take: impl FnMut(&mut BytesMut, &[u8]),
    ) -> Result<Came, Trouble> {
        if self.offered {
            return Err(Trouble::Failed(Failure::new(Handshake::Closed, OFFERED)));
        }
        if let Some(failure) = &self.failed {
            return Err(Trouble::Failed(Failure::clone(failure)));
        }
        let received = self.receive_more(socket, room, take);
        if let Err(Trouble::Failed(failure)) = &received {
            self.failed = Some(Box::new(failure.clone()));
            // The protocol takes the record that broke it for a new one if it is shown again.
            self.partial = BytesMut::new();
            if self.session.is_open() && self.writing == Writing::Open {
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
            // Nothing follows a close_notify (RFC 8446, section 6.1), nor what was cut off.
            if self.writing == Writing::Open {
                self.owed.extend_from_slice(outgoing);
            }
            if !outgoing.is_empty() && self.session.is_open() {
                // What can't be sent now is sent before anything else.
                let _ = self.send_owed(socket, |bytes| socket.try_write(bytes));
            }
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
