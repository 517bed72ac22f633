//! Reading from a TCP socket, for every form of transport.

use std::io;
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;

/// Reads once. If a read leaves room in the buffer, it has taken everything, and the runtime is told so: otherwise the
/// next poll would be a read that finds nothing.
pub(super) fn receive(socket: &TcpStream, into: &mut ReadBuf<'_>) -> io::Result<()> {
    let mut all = None;
    let received = socket.try_io(Interest::READABLE, || {
        // SAFETY: what is initialised in it stays so, since the system only writes bytes there.
        let room = unsafe { into.unfilled_mut() };
        match socket2::SockRef::from(socket).recv(room)? {
            read if 0 < read && read < room.len() => {
                all = Some(read);
                Err(io::ErrorKind::WouldBlock.into())
            }
            read => Ok(read),
        }
    });
    let read = all.map_or(received, Ok)?;
    // SAFETY: the system has written so many bytes at the beginning of the room.
    unsafe { into.assume_init(read) };
    into.advance(read);
    Ok(())
}
