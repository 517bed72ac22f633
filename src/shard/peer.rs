//! A client that is not read, since much waits for its handler: what the system knows of it all the same. Its end is
//! seen, and so is that its machine does not answer any more. Nothing here reads from the socket.

use std::future::Future;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{Interest, Ready};

use super::conn::Conn;

/// Whether a client's silence says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hearing {
    /// It is read: no bytes for long are silence.
    Reading,
    /// It is not read for now (in its handshake, or while much waits for its handler): it may have said much.
    Paused,
    /// It sends no more: it is silent from then on.
    Over,
}

/// What a client that is not read has done to its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Nothing.
    No,
    /// It has ended its sending (FIN); it may still take something.
    Sending,
    /// Both directions are over: it was reset, or the system has given it up.
    Wholly,
}

/// So many bytes the system takes from a client that is not read, where it allows that.
const ROOM: libc::c_int = 1024 * 1024;
/// So many unread bytes are looked at; those beyond are seen when the client is read again.
pub const LOOK: usize = 64 * 1024;

impl Conn {
    /// The client is read from now on: its silence counts.
    pub fn resume_reading(&self, now: u32) {
        if self.hearing.get() == Hearing::Paused {
            self.hearing.set(Hearing::Reading);
            self.last_read.set(now);
            // Nor could it go on with a message.
            if self.unfinished.get().is_some() {
                self.unfinished.set(Some(now));
            }
        }
    }

    /// The client is not read for now. Its silence does not count, unless it sends no more.
    pub fn pause_reading(&self) {
        if self.hearing.get() == Hearing::Reading {
            self.hearing.set(Hearing::Paused);
            self.unread.set(0);
            self.look_due.set(true);
        }
    }

    /// The client sends no more, as far as is known: it is silent from now on.
    pub fn sends_no_more(&self, now: u32) {
        if self.hearing.replace(Hearing::Over) != Hearing::Over {
            self.last_read.set(now);
        }
    }

    /// The clock when bytes last came, where silence counts.
    pub fn silent_since(&self) -> Option<u32> {
        (self.hearing.get() != Hearing::Paused).then(|| self.last_read.get())
    }

    /// Whether the client is not read for now.
    pub fn is_paused(&self) -> bool {
        self.hearing.get() == Hearing::Paused
    }

    /// What the client has done to its socket, as the runtime was told last. Costs no system call.
    pub fn gone(&self) -> Gone {
        // What is closed is told along with either interest; neither is waited for.
        let ready = pin!(self.stream.ready(Interest::PRIORITY | Interest::WRITABLE));
        match ready.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(ready)) if ready.is_write_closed() => Gone::Wholly,
            Poll::Ready(Ok(ready)) if Ready::READ_CLOSED & ready == Ready::READ_CLOSED => Gone::Sending,
            _ => Gone::No,
        }
    }

    /// For a timer, while the client is not read: wakes the connection's task to look at the unread bytes, if there are
    /// more than when it last did.
    pub fn look_again(&self) {
        let before = self.unread.get();
        if before as usize >= LOOK {
            return;
        }
        let mut unread: libc::c_int = 0;
        // SAFETY: the descriptor is open for as long as `self.stream` is, and FIONREAD writes one int.
        let told = unsafe { libc::ioctl(self.stream.as_ref().as_raw_fd(), libc::FIONREAD, &raw mut unread) };
        let unread = u32::try_from(unread).unwrap_or(0);
        if told == 0 && unread > before {
            self.unread.set(unread);
            self.look_due.set(true);
            self.wake();
        }
    }

    /// Whether the unread bytes are to be looked at; asked once.
    pub fn take_look(&self) -> bool {
        self.look_due.take()
    }

    /// Has the system ask the client's machine for a sign of life whenever it heard nothing for `idle` (at least a second),
    /// and take more than it usually does: an end that stands behind more than the system takes can't arrive.
    pub fn attend(&self, idle: Duration) {
        if !self.attended.replace(true) {
            self.make_room();
            let idle = idle.max(Duration::from_secs(1));
            let ask = socket2::TcpKeepalive::new().with_time(idle).with_interval(idle);
            // Only a socket that has ended refuses it.
            let _ = socket2::SockRef::from(self.stream.as_ref()).set_tcp_keepalive(&ask);
        }
    }

    /// Raises the socket's receive buffer, which otherwise grows only with what is read. Linux does that for whoever waits
    /// until so much has come; nobody does for longer than this call.
    fn make_room(&self) {
        let fd = self.stream.as_ref().as_raw_fd();
        for least in [ROOM, 1] {
            let (value, length) = ((&raw const least).cast(), size_of::<libc::c_int>() as libc::socklen_t);
            // SAFETY: the descriptor is open for as long as `self.stream` is, and `value` points to `length` bytes. An error
            // leaves the buffer as it was.
            unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, length) };
        }
    }

    /// For how long the client's machine has answered nothing, though something that it should acknowledge was sent; 0
    /// where nothing is owed.
    pub fn unanswered(&self) -> Duration {
        let mut info = MaybeUninit::<TcpInfo>::zeroed();
        let mut length = size_of::<TcpInfo>() as libc::socklen_t;
        // SAFETY: the descriptor is open for as long as `self.stream` is; the system writes `length` bytes at most, and
        // any bytes are a TcpInfo.
        let (told, info) = unsafe {
            let (fd, into) = (self.stream.as_ref().as_raw_fd(), info.as_mut_ptr().cast());
            (libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, into, &raw mut length), info.assume_init())
        };
        let owed = info.unacked > 0 || info.probes > 0 || info.retransmits > 0;
        if told != 0 || !owed {
            return Duration::ZERO;
        }
        Duration::from_millis(info.last_data_recv.min(info.last_ack_recv).into())
    }
}

/// The beginning of Linux's `struct tcp_info` (linux/tcp.h), as far as it is read here. Times are milliseconds ago.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpInfo {
    _state: [u8; 2],
    retransmits: u8,
    /// Unanswered probes, of a full window or of a silent peer.
    probes: u8,
    _options: [u8; 4],
    _timers: [u32; 4],
    /// Segments sent and not acknowledged.
    unacked: u32,
    _segments: [u32; 4],
    _last_sent: [u32; 2],
    last_data_recv: u32,
    last_ack_recv: u32,
}
