//! Who connects to a Unix socket of this process, and what it asks.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// How long somebody who has connected may take to ask.
const ASK: Duration = Duration::from_secs(5);
/// How long it is waited after nobody could be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// Those who connect.
pub(super) fn callers(listener: &UnixListener) -> impl Iterator<Item = UnixStream> {
    // Without descriptors, for instance, the next attempt fails at once, too.
    listener.incoming().filter_map(|caller| caller.inspect_err(|_| std::thread::sleep(PAUSE)).ok())
}

/// The line that somebody says who may ask.
pub(super) fn line(caller: &UnixStream) -> Option<String> {
    caller.set_read_timeout(Some(ASK)).ok().filter(|()| is_ours(caller))?;
    let mut line = String::new();
    // Who asks says nothing more before there is an answer: no byte behind it is lost.
    BufReader::new(caller.take(16)).read_line(&mut line).ok()?;
    Some(line.trim_end().to_owned())
}

/// Whether the process at the other end is of the same user, or of root.
pub(super) fn is_ours(socket: &UnixStream) -> bool {
    // SAFETY: it takes nothing and always succeeds.
    let own = unsafe { libc::geteuid() };
    [Some(own), Some(0)].contains(&user_of(socket))
}

/// The user of the process at the other end (unix(7), SO_PEERCRED).
fn user_of(socket: &UnixStream) -> Option<u32> {
    let mut who = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let (of, into) = (socket.as_raw_fd(), (&raw mut who).cast());
    // SAFETY: `who` and `length` are writable for as long as the call lasts.
    let told = unsafe { libc::getsockopt(of, libc::SOL_SOCKET, libc::SO_PEERCRED, into, &raw mut length) };
    (told == 0).then_some(who.uid)
}
