//! The way between a process and its successor: a pair of Unix sockets, or a connection of such a socket, over which frames
//! go, some of them with open files (unix(7), SCM_RIGHTS).

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;
use zeroize::Zeroizing;

/// The most files that go with one frame; the system takes 253.
pub const FILES: usize = 200;
/// The longest frame. What may be longer goes in several.
const LONGEST: u32 = 1 << 30;
/// The kind of a frame, the number of its files, and its length.
const HEAD: usize = 8;

/// Connections that may wait to be heard.
const BACKLOG: i32 = 16;

/// A frame that came.
pub struct Frame {
    /// What it is.
    pub kind: u8,
    /// What it says. There may be keys in it.
    pub bytes: Zeroizing<Vec<u8>>,
    /// The files that came with it.
    pub files: Vec<OwnedFd>,
}

/// One end.
pub struct Link(UnixStream);

impl Link {
    /// Both ends. None is inherited by a program that is started, unless [`inherit`] says so.
    pub fn pair() -> io::Result<(Link, Link)> {
        UnixStream::pair().map(|(one, other)| (Link(one), Link(other)))
    }

    /// The end that this process was started with.
    ///
    /// # Safety
    /// The descriptor must be the caller's own: nothing else in the process may use it.
    pub unsafe fn inherited(descriptor: RawFd) -> io::Result<Link> {
        let mut option: libc::c_int = 0;
        let mut length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: `option` and `length` are writable for as long as the call lasts.
        let found = unsafe {
            libc::getsockopt(descriptor, libc::SOL_SOCKET, libc::SO_DOMAIN, (&raw mut option).cast(), &raw mut length)
        };
        if found != 0 || option != libc::AF_UNIX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no socket of a process before"));
        }
        // SAFETY: setting a flag of a descriptor touches no memory.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        // SAFETY: it is an open socket, and the caller's alone.
        Ok(Link(unsafe { UnixStream::from_raw_fd(descriptor) }))
    }

    /// Over a connection that one of both has made.
    pub fn over(socket: UnixStream) -> Link {
        Link(socket)
    }

    /// Nothing more goes over it, in either direction: the other end finds what has gone, and then the end.
    pub fn end(&self) {
        // One that has gone by itself needs none.
        let _ = self.0.shutdown(Shutdown::Both);
    }

    /// Bounds how long the other end may take for the next part of anything; None: without a bound.
    pub fn patience(&self, longest: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(longest)?;
        self.0.set_write_timeout(longest)
    }

    /// Sends a frame with these files, at most [`FILES`]. They stay the sender's as well, and must be open until this
    /// returns.
    pub fn send(&mut self, kind: u8, bytes: &[u8], files: &[RawFd]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= LONGEST);
        let Some(length) = length.filter(|_| files.len() <= FILES) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too much for one frame"));
        };
        let mut head = [0; HEAD];
        (head[0], head[1]) = (kind, files.len() as u8);
        head[4..].copy_from_slice(&length.to_le_bytes());
        let sent = send_with(self.0.as_raw_fd(), &head, files)?;
        self.0.write_all(&head[sent..])?;
        self.0.write_all(bytes)
    }

    /// Waits for the next frame. `UnexpectedEof`: the other end has gone.
    pub fn receive(&mut self) -> io::Result<Frame> {
        let (mut head, mut files) = ([0; HEAD], Vec::new());
        let came = receive_with(self.0.as_raw_fd(), &mut head, &mut files)?;
        if came == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.read_exact(&mut head[came..])?;
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if usize::from(head[1]) != files.len() || length > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame without its files"));
        }
        // At its whole length from the start: growing would leave copies of the keys that are in it.
        let mut bytes = Zeroizing::new(Vec::new());
        bytes.try_reserve_exact(length as usize).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        (&self.0).take(length.into()).read_to_end(&mut bytes)?;
        if bytes.len() != length as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Frame { kind: head[0], bytes, files })
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Listens at that path, where nothing may be yet. Nobody but this process's user, and root, may connect there.
pub fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    // The file gets the mode that the socket has (Linux, unix_bind). The mode of a path could be that of another file by then.
    // SAFETY: it takes two numbers.
    if unsafe { libc::fchmod(socket.as_raw_fd(), 0o600) } != 0 {
        return Err(io::Error::last_os_error());
    }
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(UnixListener::from(OwnedFd::from(socket)))
}

/// Has a program that is about to be started in this process inherit a descriptor. May be called between fork and exec.
pub fn inherit(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: setting a flag of a descriptor touches no memory.
    if unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Room for the control message of [`FILES`] files, aligned as the system wants it.
#[repr(C, align(8))]
struct Room([u8; 1024]);

/// The bytes that a control message of so many files takes.
fn space(files: usize) -> usize {
    // SAFETY: the macro computes a number.
    unsafe { libc::CMSG_SPACE((files * size_of::<RawFd>()) as u32) as usize }
}

/// Sends the beginning of a frame, with files; how much of it went.
fn send_with(socket: RawFd, bytes: &[u8], files: &[RawFd]) -> io::Result<usize> {
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut room = Room([0; 1024]);
    // SAFETY: a message header of zeros is a valid one, without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    if !files.is_empty() {
        message.msg_control = room.0.as_mut_ptr().cast();
        message.msg_controllen = space(files.len()) as _;
        // SAFETY: `room` is aligned, and larger than what FILES files take (a test checks it), so the first header and the
        // data behind it lie within.
        unsafe {
            let head = libc::CMSG_FIRSTHDR(&raw const message);
            (*head).cmsg_level = libc::SOL_SOCKET;
            (*head).cmsg_type = libc::SCM_RIGHTS;
            (*head).cmsg_len = libc::CMSG_LEN(size_of_val(files) as u32) as _;
            std::ptr::copy_nonoverlapping(files.as_ptr().cast::<u8>(), libc::CMSG_DATA(head), size_of_val(files));
        }
    }
    loop {
        // SAFETY: all that the header points to lives until the call returns.
        let sent = unsafe { libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL) };
        match usize::try_from(sent) {
            Ok(sent) => return Ok(sent),
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
}

/// Receives the beginning of a frame; how much of it came.
fn receive_with(socket: RawFd, bytes: &mut [u8], files: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut room = Room([0; 1024]);
    // SAFETY: a message header of zeros is a valid one, without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
    let came = loop {
        message.msg_control = room.0.as_mut_ptr().cast();
        message.msg_controllen = room.0.len() as _;
        // SAFETY: all that the header points to lives until the call returns.
        let came = unsafe { libc::recvmsg(socket, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(came) {
            Ok(came) => break came,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the system has filled the room in, and the macros stay within what it says to have written. Each descriptor in
    // it is new, and nobody else's.
    unsafe {
        let mut head = libc::CMSG_FIRSTHDR(&raw const message);
        while !head.is_null() {
            if (*head).cmsg_level == libc::SOL_SOCKET && (*head).cmsg_type == libc::SCM_RIGHTS {
                let many = ((*head).cmsg_len as usize - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                for at in 0..many {
                    let descriptor = libc::CMSG_DATA(head).cast::<RawFd>().add(at).read_unaligned();
                    files.push(OwnedFd::from_raw_fd(descriptor));
                }
            }
            head = libc::CMSG_NXTHDR(&raw const message, head);
        }
    }
    Ok(came)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn frames_come_whole_and_with_their_files() {
        let (mut one, mut other) = Link::pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..FILES).map(|n| dir.path().join(n.to_string())).collect();
        let files: Vec<File> = paths.iter().map(|path| File::create(path).unwrap()).collect();
        let sender = std::thread::spawn(move || {
            let raw: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
            one.send(1, &vec![7; 3 << 20], &raw).unwrap();
            one.send(2, b"", &raw[..1]).unwrap();
            one.send(3, b"last", &[]).unwrap();
            assert!(one.send(4, b"", &vec![raw[0]; FILES + 1]).is_err());
        });
        let large = other.receive().unwrap();
        assert_eq!((large.kind, large.bytes.len(), large.files.len()), (1, 3 << 20, FILES));
        // The last is the last.
        write!(File::from(large.files.into_iter().next_back().unwrap()), "written").unwrap();
        assert_eq!(std::fs::read_to_string(&paths[FILES - 1]).unwrap(), "written");
        let empty = other.receive().unwrap();
        assert_eq!((empty.kind, empty.bytes.len(), empty.files.len()), (2, 0, 1));
        let last = other.receive().unwrap();
        assert_eq!((last.kind, &last.bytes[..], last.files.len()), (3, &b"last"[..], 0));
        sender.join().unwrap();
        assert_eq!(other.receive().err().unwrap().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn there_is_room_for_all_files() {
        assert!(space(FILES) <= size_of::<Room>());
        // What the system takes at most, so that none is lost here.
        assert!(space(253) <= size_of::<Room>() + 16, "{}", space(253));
    }

    #[test]
    fn only_a_socket_of_this_kind_is_taken() {
        let file = File::open("/dev/null").unwrap();
        // SAFETY: it fails, and takes nothing.
        assert!(unsafe { Link::inherited(file.as_raw_fd()) }.is_err());
        // SAFETY: as above.
        assert!(unsafe { Link::inherited(-1) }.is_err());
    }
}
