//! The socket below a kept connection. It tells whether it can be used for a request, and afterwards whether the server
//! can have read anything of it.
//!
//! A server may end a kept connection at any time, also while a request is on its way. What is certain then is in the
//! numbers of TCP: the end of the server's sending tells how much its system had received by then. If that is nothing
//! of the request, the server had closed before the request came, and handles it no more (RFC 9112, section 9.6).

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::tcp;

/// How a connection has ended, as far as it is known: the first sign counts.
const OPEN: u8 = 0;
/// The server ended its sending in order.
const ENDED: u8 = 1;
/// A reset or another failure.
const FAILED: u8 = 2;

struct Inner {
    stream: TcpStream,
    end: AtomicU8,
}

impl Inner {
    fn note(&self, end: u8) {
        let _ = self.end.compare_exchange(OPEN, end, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Bytes that are read in a row before other requests have their turn. hyper reads as long as there is something: a
/// server that sends without pause, such as one 100 Continue after the other, would hold up all others.
const TURN: usize = 32 * 1024;

/// The socket as the client of HTTP reads and writes it.
pub(super) struct Socket {
    inner: Arc<Inner>,
    /// Bytes read in this turn.
    read: usize,
}

/// The same socket, to be asked about.
#[derive(Clone)]
pub(super) struct Watch(Arc<Inner>);

impl Socket {
    pub(super) fn new(stream: TcpStream) -> (Socket, Watch) {
        let inner = Arc::new(Inner { stream, end: AtomicU8::new(OPEN) });
        (Socket { inner: inner.clone(), read: 0 }, Watch(inner))
    }
}

/// The bytes that the server's system had acknowledged when a request began, with nothing else under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark(u64);

impl Watch {
    /// Whether the server has ended the connection. `strict`: or has sent what nobody asked for; with TLS some of that
    /// is in order. Asks the system, not the runtime, which may not have looked at the socket since.
    pub(super) fn is_stale(&self, strict: bool) -> bool {
        match self.peek() {
            Ok(0) => true,
            Ok(_) => strict,
            Err(e) => e.kind() != io::ErrorKind::WouldBlock,
        }
    }

    /// To be called just before a request is sent. None: it cannot be told, since something is under way still.
    pub(super) fn mark(&self) -> Option<Mark> {
        let sent = self.sent()?;
        (!sent.under_way).then_some(Mark(sent.acknowledged))
    }

    /// Whether it is certain that the server does not handle what was sent since the mark: it ended its sending in
    /// order before any of it had arrived. A reset alone proves nothing, for it may come after a request has been read.
    pub(super) fn is_untouched(&self, mark: Mark) -> bool {
        let ended = match self.0.end.load(Ordering::Relaxed) {
            OPEN => matches!(self.peek(), Ok(0)),
            end => end == ENDED,
        };
        ended && self.sent().is_some_and(|sent| sent.acknowledged == mark.0)
    }

    fn peek(&self) -> io::Result<usize> {
        socket2::SockRef::from(&self.0.stream).peek(&mut [MaybeUninit::uninit()])
    }

    fn sent(&self) -> Option<tcp::Sent> {
        tcp::info(&self.0.stream)?.sent()
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Socket { inner, read } = self.get_mut();
        if *read >= TURN {
            *read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            match inner.stream.poll_read_ready(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => {
                    *read = 0;
                    return Poll::Pending;
                }
            }
            match inner.stream.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    *read += n;
                    if n == 0 && buf.remaining() > 0 {
                        inner.note(ENDED);
                    }
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => {
                    inner.note(FAILED);
                    return Poll::Ready(Err(e));
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let inner = &*self.inner;
        loop {
            ready!(inner.stream.poll_write_ready(cx))?;
            match inner.stream.try_write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // Linux says EPIPE where the end of the server's sending had come before a reset, ECONNRESET where not.
                Err(e) => {
                    inner.note(if e.kind() == io::ErrorKind::BrokenPipe { ENDED } else { FAILED });
                    return Poll::Ready(Err(e));
                }
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(&self.inner.stream).shutdown(std::net::Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const REQUEST: &[u8] = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";

    /// A connection over which one request has been answered.
    async fn used() -> (Socket, Watch, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let (mut socket, watch) = Socket::new(client);
        socket.write_all(REQUEST).await.unwrap();
        server.read_exact(&mut [0; REQUEST.len()]).await.unwrap();
        server.write_all(b"answer").await.unwrap();
        socket.read_exact(&mut [0; 6]).await.unwrap();
        (socket, watch, server)
    }

    /// Reads to the end, whatever it is.
    async fn end(socket: &mut Socket) {
        let _ = tokio::time::timeout(Duration::from_secs(10), socket.read(&mut [0; 10])).await.expect("an end comes");
    }

    #[tokio::test]
    async fn what_a_server_closed_before_it_came_is_untouched() {
        let (mut socket, watch, server) = used().await;
        assert!(!watch.is_stale(true));
        let mark = watch.mark().unwrap();
        drop(server);
        // The client does not look, and writes: the answer is a reset.
        socket.write_all(REQUEST).await.unwrap();
        end(&mut socket).await;
        assert!(watch.is_untouched(mark));
        // A second write finds the reset first.
        let (mut socket, watch, server) = used().await;
        let mark = watch.mark().unwrap();
        drop(server);
        while socket.write_all(REQUEST).await.is_ok() {}
        end(&mut socket).await;
        assert!(watch.is_untouched(mark));
        assert!(watch.is_stale(true) && watch.is_stale(false));
    }

    #[tokio::test]
    async fn what_a_server_may_have_read_is_not() {
        // Read, and then closed.
        let (mut socket, watch, mut server) = used().await;
        let mark = watch.mark().unwrap();
        socket.write_all(REQUEST).await.unwrap();
        server.read_exact(&mut [0; REQUEST.len()]).await.unwrap();
        drop(server);
        end(&mut socket).await;
        assert!(!watch.is_untouched(mark));
        // Arrived and not read: the system resets. Reset on purpose: likewise.
        for linger in [None, Some(Duration::ZERO)] {
            let (mut socket, watch, server) = used().await;
            let mark = watch.mark().unwrap();
            socket.write_all(REQUEST).await.unwrap();
            socket2::SockRef::from(&server).set_linger(linger).unwrap();
            drop(server);
            end(&mut socket).await;
            // The error is told once; what is read then looks like an end in order.
            end(&mut socket).await;
            assert!(!watch.is_untouched(mark), "{linger:?}");
        }
        // Still open.
        let (_socket, watch, _server) = used().await;
        assert!(!watch.is_untouched(watch.mark().unwrap()));
    }
}
