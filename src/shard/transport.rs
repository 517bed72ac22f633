//! The socket of a connection: reading, writing, ending it, and all queries and options of the system.
//!
//! Callers say what to read or write, and keep what did not fit. Nothing here waits by itself, and any number of tasks
//! of one thread may share a transport: all methods take `&self`.
//!
//! A form of transport is a variant of [`Transport`]. Each has a TCP socket below (`Transport::socket`), so queries and
//! options of the system are the same for all; another form defines reading, writing and the end of writing anew. The
//! bytes here are plain whatever the form: frames are encoded once, and `enciphered` does its part for each connection.
//! Plain TCP holds no bytes. TLS holds what it can't help (see there): so what was written is with the system only once
//! the transport owes nothing ([`Transport::owes`]), and a caller that is done writing flushes.

mod enciphered;
mod receive;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpListener, TcpStream};

use self::enciphered::Enciphered;
pub use self::enciphered::Moved as MovedTls;
use self::receive::receive;
use crate::handover::Encoder;
use crate::tcp;
use crate::tls::{Acceptor, Failure, NOT_NOW, Session};

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

/// The bytes that the system takes from a client that is not read, if the system allows it.
const RECEIVE_ROOM: libc::c_int = 1024 * 1024;

/// A connection's socket. Dropped, it is closed.
#[derive(Debug)]
pub enum Transport {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP. Boxed, so that plain connections do not carry its size.
    Tls(Box<Enciphered>),
}

impl From<TcpStream> for Transport {
    fn from(socket: TcpStream) -> Transport {
        Transport::Tcp(socket)
    }
}

/// How a transport comes to a thread and leaves it.
impl Transport {
    /// Waits for the next connection of a listener; says where it comes from.
    pub async fn accept(listener: &TcpListener) -> io::Result<(Transport, SocketAddr)> {
        let (socket, peer) = listener.accept().await?;
        Ok((Transport::Tcp(socket), peer))
    }

    /// Takes over a socket that another thread had: from here on this thread's runtime watches it. It must be
    /// non-blocking.
    pub fn adopt(socket: std::net::TcpStream) -> io::Result<Transport> {
        TcpStream::from_std(socket).map(Transport::Tcp)
    }

    /// Gives the socket away, for [`Transport::adopt`] on another thread.
    pub fn release(self) -> io::Result<std::net::TcpStream> {
        match self {
            Transport::Tcp(socket) => socket.into_std(),
            // Only connections that have said nothing yet go from thread to thread.
            Transport::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Takes up a connection that another process had: its socket, which must be non-blocking, and what its TLS was there.
    pub fn take_up(socket: std::net::TcpStream, tls: Option<MovedTls>) -> io::Result<Transport> {
        let socket = TcpStream::from_std(socket)?;
        Ok(match tls {
            None => Transport::Tcp(socket),
            Some(tls) => Transport::Tls(Box::new(Enciphered::take_up(socket, tls))),
        })
    }

    /// Whether another process can take it over.
    pub fn may_move(&self) -> bool {
        match self {
            Transport::Tcp(_) => true,
            Transport::Tls(tls) => tls.may_move(),
        }
    }

    /// Writes what a successor process needs besides the socket, keys among it. With TLS, nothing more is sent here until
    /// [`Transport::keep`], whatever is asked for.
    pub fn offer(&self, out: &mut Encoder) {
        let tls = match self {
            Transport::Tcp(_) => None,
            Transport::Tls(tls) => Some(tls),
        };
        out.option(tls, |out, tls| tls.offer(out));
    }

    /// No successor has it: it goes on here.
    pub fn keep(&self) {
        if let Transport::Tls(tls) = self {
            tls.keep();
        }
    }

    /// The TCP socket below.
    fn socket(&self) -> &TcpStream {
        match self {
            Transport::Tcp(socket) => socket,
            Transport::Tls(tls) => tls.socket(),
        }
    }

    fn system(&self) -> socket2::SockRef<'_> {
        socket2::SockRef::from(self.socket())
    }
}

impl AsRawFd for Transport {
    fn as_raw_fd(&self) -> RawFd {
        self.socket().as_raw_fd()
    }
}

/// TLS.
impl Transport {
    /// The same connection with TLS, whose handshake is to come.
    pub fn encipher(self, acceptor: &Acceptor) -> Result<Transport, Failure> {
        match self {
            Transport::Tcp(socket) => Ok(Transport::Tls(Box::new(Enciphered::new(socket, Session::new(acceptor)?)))),
            Transport::Tls(_) => Ok(self),
        }
    }

    /// Shakes hands as far as it goes. Ready when bytes can be read and written, which is at once without TLS. After a
    /// failure the client has been told what TLS can tell.
    pub fn poll_handshake(&self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        match self {
            Transport::Tcp(_) => Poll::Ready(Ok(())),
            Transport::Tls(tls) => tls.poll_handshake(cx),
        }
    }

    /// Tells a client that wants to begin TLS that there is no place for it: as much as the socket takes at once. What it
    /// has sent is read, so that this is not lost to a reset.
    pub fn turn_away(&self) {
        let _ = receive(self.socket(), &mut ReadBuf::new(&mut [0; 4096]));
        let _ = self.socket().try_write(NOT_NOW);
    }

    /// The socket below, after a handshake that failed: what it still has to say is plain.
    pub fn without_tls(self) -> Transport {
        match self {
            Transport::Tls(tls) => Transport::Tcp(tls.into_socket()),
            plain => plain,
        }
    }

    /// Whether reading takes time of its own, besides the system's.
    pub fn deciphers(&self) -> bool {
        matches!(self, Transport::Tls(_))
    }

    /// Bytes that the transport itself has taken and not yet given to the system. Until there are none, a caller that
    /// has nothing more to write waits for room and calls [`Transport::try_write`] with no bytes.
    pub fn owes(&self) -> usize {
        match self {
            Transport::Tcp(_) => 0,
            Transport::Tls(tls) => tls.owes(),
        }
    }

    /// Bytes that have come, and that the transport itself holds.
    pub fn holds(&self) -> usize {
        match self {
            Transport::Tcp(_) => 0,
            Transport::Tls(tls) => tls.holds(),
        }
    }

    /// Drops what it owes. Nothing can be written any more.
    pub fn forget(&self) {
        match self {
            Transport::Tcp(_) => {}
            Transport::Tls(tls) => tls.forget(),
        }
    }
}

/// Reading.
impl Transport {
    /// Reads once, as soon as something is there. Nothing read: the other end sends no more.
    pub fn poll_read(&self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Tcp(socket) => loop {
                ready!(socket.poll_read_ready(cx))?;
                match receive(socket, into) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                    received => return Poll::Ready(received),
                }
            },
            Transport::Tls(tls) => tls.poll_read(cx, into),
        }
    }

    /// Ready when reading may give something.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Transport::Tls(tls) if tls.has_more() => Ok(()),
            _ => self.socket().readable().await,
        }
    }

    /// Reads what is there; `WouldBlock`: nothing is.
    pub fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Tcp(socket) => socket.try_read(into),
            Transport::Tls(tls) => tls.try_read(into),
        }
    }

    /// Shows what has come, without taking it, as soon as something has.
    pub fn poll_peek(&self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Tcp(socket) => socket.poll_peek(cx, into).map_ok(drop),
            Transport::Tls(tls) => tls.poll_peek(cx, into),
        }
    }
}

/// Writing, and its end.
impl Transport {
    /// Writes what the socket takes at once, which may be less than all; `WouldBlock`: nothing. With TLS it may also
    /// return 0: something of what is owed has gone.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Tcp(socket) => socket.try_write(bytes),
            Transport::Tls(tls) => tls.try_write(bytes),
        }
    }

    /// Ready when the socket has room, after it had none.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_write_ready(cx)
    }

    /// As [`Transport::try_write`], but asks the system, not the runtime. The system reports room only when a third of
    /// its buffer is free, and a slow client may need long for that. None: the system has taken nothing.
    pub fn probe_write(&self, bytes: &[u8]) -> Option<usize> {
        match self {
            Transport::Tcp(_) => self.system().send(bytes).ok().filter(|sent| *sent > 0),
            Transport::Tls(tls) => tls.probe_write(),
        }
    }

    /// Ends the sending direction: the client sees the end after all that was written. With TLS that is something to
    /// write by itself, and may be owed.
    pub fn shutdown_write(&self) {
        match self {
            // Only a socket that has ended refuses it.
            Transport::Tcp(_) => drop(self.system().shutdown(Shutdown::Write)),
            Transport::Tls(tls) => tls.shutdown_write(),
        }
    }

    /// Makes the end of the socket a reset: what the system still holds for a client that takes nothing goes at once.
    pub fn reset(&self) {
        let _ = self.system().set_linger(Some(Duration::ZERO));
    }
}

/// Options of the socket. The system refuses them only for a socket that has ended.
impl Transport {
    /// Sends at once what is written, however little it is.
    pub fn send_at_once(&self) {
        let _ = self.socket().set_nodelay(true);
    }

    /// Limits the bytes that the system holds unsent; bytes on their way do not count. 0: no limit.
    pub fn bound_unsent(&self, bytes: usize) {
        let most = if bytes == 0 { u32::MAX } else { u32::try_from(bytes).unwrap_or(u32::MAX) };
        let _ = self.system().set_tcp_notsent_lowat(most);
    }

    /// Lets the system give up the other end when it has acknowledged nothing for `patience`.
    pub fn give_up_after(&self, patience: Duration) {
        let _ = self.system().set_tcp_user_timeout(Some(patience));
    }

    /// Has the system ask the client's machine for a sign of life whenever it heard nothing for `idle` (at least a
    /// second).
    pub fn keep_alive(&self, idle: Duration) {
        let idle = idle.max(Duration::from_secs(1));
        let ask = socket2::TcpKeepalive::new().with_time(idle).with_interval(idle);
        let _ = self.system().set_tcp_keepalive(&ask);
    }

    /// Raises the socket's receive buffer, which otherwise grows only with what is read. Linux does that when a reader
    /// waits for that much at once; the wait lasts no longer than this call.
    pub fn make_receive_room(&self) {
        for least in [RECEIVE_ROOM, 1] {
            let (value, length) = ((&raw const least).cast(), size_of::<libc::c_int>() as libc::socklen_t);
            // SAFETY: the descriptor is open for as long as `self` is, and `value` points to `length` bytes. An error
            // leaves the buffer as it was.
            unsafe { libc::setsockopt(self.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, length) };
        }
    }
}

/// Queries of the socket.
impl Transport {
    /// The address of ours that the connection came to.
    pub fn local_ip(&self) -> io::Result<IpAddr> {
        self.socket().local_addr().map(|address| address.ip())
    }

    /// What the client has done to its socket, as last reported to the runtime. Costs no system call, and consumes
    /// nothing.
    pub fn gone(&self) -> Gone {
        // What is closed is told along with either interest; neither is waited for.
        let ready = pin!(self.socket().ready(Interest::PRIORITY | Interest::WRITABLE));
        match ready.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(ready)) if ready.is_write_closed() => Gone::Wholly,
            Poll::Ready(Ok(ready)) if Ready::READ_CLOSED & ready == Ready::READ_CLOSED => Gone::Sending,
            _ => Gone::No,
        }
    }

    /// The bytes that have come and are not read; 0 where the system does not tell. They only become more as long as
    /// nothing is read.
    pub fn unread(&self) -> u32 {
        let looked_at = match self {
            Transport::Tcp(_) => 0,
            Transport::Tls(tls) => tls.looked_at(),
        };
        self.ask(libc::FIONREAD).saturating_add(looked_at)
    }

    /// The bytes that the system holds until the client acknowledges them. An end that was sent counts as one, and
    /// takes no memory.
    pub fn queued(&self) -> u32 {
        // Linux has SIOCOUTQ as TIOCOUTQ.
        self.ask(libc::TIOCOUTQ)
    }

    /// Whether the system holds bytes that the client has not acknowledged.
    pub fn has_queued(&self) -> bool {
        self.queued() > 1
    }

    /// A question that the system answers with one number (tcp(7)).
    fn ask(&self, question: libc::Ioctl) -> u32 {
        let mut answer: libc::c_int = 0;
        // SAFETY: the descriptor is open for as long as `self` is, and both questions write one int.
        let told = unsafe { libc::ioctl(self.as_raw_fd(), question, &raw mut answer) };
        if told == 0 { u32::try_from(answer).unwrap_or(0) } else { 0 }
    }

    /// For how long the client's machine has not answered although it has bytes to acknowledge; 0 if it has none.
    pub fn unanswered(&self) -> Duration {
        tcp::info(self.socket()).map_or(Duration::ZERO, |info| info.unanswered())
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Transport::poll_read(&self, cx, into)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            Transport::Tls(tls) => tls.poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, parts),
            Transport::Tls(tls) => {
                let first = parts.iter().find(|part| !part.is_empty());
                first.map_or(Poll::Ready(Ok(0)), |part| tls.poll_write(cx, part))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Transport::Tcp(socket) => socket.is_write_vectored(),
            Transport::Tls(_) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Transport::Tls(tls) => tls.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Transport::Tls(tls) => {
                tls.shutdown_write();
                tls.poll_flush(cx)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn pair() -> (Transport, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (transport, peer) = Transport::accept(&listener).await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        (transport, client)
    }

    /// Reads once, up to so many bytes.
    async fn read(transport: &Transport, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; most];
        let mut into = ReadBuf::new(&mut bytes);
        poll_fn(|cx| transport.poll_read(cx, &mut into)).await?;
        Ok(into.filled().to_vec())
    }

    /// Whether a read would find something, as far as the runtime knows.
    fn is_readable(transport: &Transport) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        transport.socket().poll_read_ready(cx).is_ready()
    }

    #[tokio::test]
    async fn a_read_that_leaves_room_needs_no_second_one_to_find_nothing() {
        let (transport, mut client) = pair().await;
        client.write_all(b"hello").await.unwrap();
        assert_eq!(read(&transport, 3).await.unwrap(), b"hel");
        assert!(is_readable(&transport), "there is more");
        assert_eq!(read(&transport, 3).await.unwrap(), b"lo");
        assert!(!is_readable(&transport));
        // What comes later is seen, and so is the end.
        client.write_all(b"again").await.unwrap();
        assert_eq!(read(&transport, 9).await.unwrap(), b"again");
        drop(client);
        assert_eq!(read(&transport, 9).await.unwrap(), b"");
        assert_eq!(read(&transport, 9).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn an_end_right_behind_the_last_bytes_is_not_lost() {
        let (transport, mut client) = pair().await;
        client.write_all(b"bye").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read(&transport, 9).await.unwrap(), b"bye");
        assert_eq!(read(&transport, 9).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_client_that_is_not_read_is_seen_to_go() {
        let (transport, mut client) = pair().await;
        assert_eq!((transport.gone(), transport.unread()), (Gone::No, 0));
        client.write_all(b"hello").await.unwrap();
        client.shutdown().await.unwrap();
        while transport.gone() == Gone::No {
            tokio::task::yield_now().await;
        }
        assert_eq!((transport.gone(), transport.unread()), (Gone::Sending, 5));
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        while transport.gone() != Gone::Wholly {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_reset_drops_what_the_client_does_not_take() {
        let (transport, mut client) = pair().await;
        while transport.try_write(&[0; 65536]).is_ok() {}
        assert!(transport.has_queued() && transport.probe_write(b"x").is_none());
        transport.reset();
        drop(transport);
        let all = client.read_to_end(&mut Vec::new()).await;
        assert_eq!(all.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    /// Both ends of a connection with TLS.
    async fn enciphered_pair() -> [Transport; 2] {
        let (transport, client) = pair().await;
        let Transport::Tcp(socket) = transport else { unreachable!() };
        let [own, other] = crate::tls::fuzzing::open_pair();
        [(socket, own), (client, other)].map(|(socket, tls)| Transport::Tls(Box::new(Enciphered::new(socket, tls))))
    }

    /// A reader that never stops by itself lets others run, though more has come.
    #[tokio::test]
    async fn deciphering_makes_way_for_others() {
        let [mut from, to] = enciphered_pair().await;
        to.make_receive_room();
        let mut sent = 0;
        // In small records, as much as the sockets take.
        while let Ok(written) = from.try_write(&[7; 100]) {
            sent += written;
        }
        to.readable().await.unwrap();
        let (mut came, mut buffer) = (0, vec![0; 64 * 1024]);
        let pauses = poll_fn(|cx| {
            loop {
                let mut into = ReadBuf::new(&mut buffer);
                match to.poll_read(cx, &mut into) {
                    Poll::Pending => return Poll::Ready((came, to.unread())),
                    Poll::Ready(read) => read.unwrap(),
                }
                came += into.filled().len();
            }
        });
        let (first, unread) = pauses.await;
        assert!(0 < first && first < 100_000 && unread > 300_000, "{first} of {sent}, {unread} unread");
        let rest = async {
            while came < sent {
                came += read(&to, 64 * 1024).await.unwrap().len();
            }
        };
        let (flushed, ()) = tokio::join!(from.flush(), rest);
        flushed.unwrap();
    }

    /// After its close_notify, and when it has dropped what it owed, an end says nothing more, whatever comes.
    #[tokio::test]
    async fn nothing_follows_the_end() {
        for ends in [Transport::shutdown_write, Transport::forget] {
            let (transport, mut client) = pair().await;
            let Transport::Tcp(socket) = transport else { unreachable!() };
            let [session, _] = crate::tls::fuzzing::open_pair();
            let transport = Transport::Tls(Box::new(Enciphered::new(socket, session)));
            ends(&transport);
            // No key deciphers it.
            client.write_all(&[&[23, 3, 3, 0, 32][..], &[7; 32]].concat()).await.unwrap();
            let failure = read(&transport, 10).await.unwrap_err();
            assert_eq!((failure.kind(), transport.owes()), (io::ErrorKind::InvalidData, 0));
            transport.shutdown_write();
            drop(transport);
            let mut told = Vec::new();
            client.read_to_end(&mut told).await.unwrap();
            // Nothing, or the close_notify alone.
            assert!(told.is_empty() || told.len() == 5 + 2 + 1 + 16, "{told:?}");
        }
    }

    #[test]
    fn a_socket_moves_from_one_thread_to_another() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (here, mut client) = runtime().block_on(async {
            let (transport, client) = pair().await;
            (transport.release().unwrap(), client.into_std().unwrap())
        });
        client.set_nonblocking(false).unwrap();
        std::io::Write::write_all(&mut client, b"hello").unwrap();
        let there = std::thread::spawn(move || {
            runtime().block_on(async {
                let mut transport = Transport::adopt(here).unwrap();
                transport.write_all(&read(&transport, 9).await.unwrap()).await.unwrap();
            });
        });
        let mut echo = [0; 5];
        std::io::Read::read_exact(&mut client, &mut echo).unwrap();
        assert_eq!(&echo, b"hello");
        there.join().unwrap();
    }

    /// What every connection has of it.
    #[test]
    fn it_is_no_larger_than_its_socket() {
        assert_eq!(size_of::<Transport>(), size_of::<TcpStream>());
    }
}
