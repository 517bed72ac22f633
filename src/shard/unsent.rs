//! What the system holds of what was written to a client, and has not arrived there.

use std::os::fd::AsRawFd;

use super::conn::Conn;

impl Conn {
    /// Lets the system hold so many bytes that it has not sent yet; what is on its way does not count. 0: as many as it
    /// likes.
    pub fn bound_unsent(&self, bytes: usize) {
        let most = if bytes == 0 { u32::MAX } else { u32::try_from(bytes).unwrap_or(u32::MAX) };
        // Only a socket that has ended refuses it.
        let _ = socket2::SockRef::from(self.stream.as_ref()).set_tcp_notsent_lowat(most);
    }

    /// The bytes that the system holds until the client acknowledges them. An end that was sent counts as one, and takes no
    /// memory.
    pub fn queued(&self) -> u32 {
        let mut queued: libc::c_int = 0;
        // SAFETY: the descriptor is open for as long as `self.stream` is, and SIOCOUTQ (Linux has it as TIOCOUTQ) writes one int.
        let told = unsafe { libc::ioctl(self.stream.as_ref().as_raw_fd(), libc::TIOCOUTQ, &raw mut queued) };
        if told == 0 { u32::try_from(queued).unwrap_or(0) } else { 0 }
    }

    /// Whether the system holds bytes that the client has not acknowledged.
    pub fn has_queued(&self) -> bool {
        self.queued() > 1
    }
}
