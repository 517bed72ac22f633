//! How a caller's socket is closed. A socket that is closed while part of a request is unread is reset, and a reset
//! discards the response if the caller has not read it yet: a refused call would look like a broken network.

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::ReadBuf;
use tokio::time::Sleep;

use crate::shard::transport::Transport;

/// How long the rest of a refused request is awaited.
const LINGER: Duration = Duration::from_secs(2);

/// A socket that first yields the bytes read before. While `unread` is set, it closes only when the caller has ended or
/// the time is up.
pub(super) struct Lingering {
    /// The bytes that were read before.
    read: Vec<u8>,
    socket: TokioIo<Transport>,
    unread: Rc<Cell<bool>>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Lingering {
    pub(super) fn new(socket: Transport, read: Vec<u8>, unread: Rc<Cell<bool>>) -> Lingering {
        Lingering { read, socket: TokioIo::new(socket), unread, deadline: None }
    }

    /// The socket, and the bytes read before that nobody has taken from here.
    pub(super) fn into_parts(self) -> (Transport, Vec<u8>) {
        (self.socket.into_inner(), self.read)
    }

    /// Reads and discards what still comes.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut buffer = [0; 4096];
        loop {
            let mut chunk = ReadBuf::new(&mut buffer);
            let read = ready!(self.socket.inner().poll_read(cx, &mut chunk));
            if read.is_err() || chunk.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}

impl Read for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.read.is_empty() {
            let n = self.read.len().min(buffer.remaining());
            buffer.put_slice(&self.read[..n]);
            self.read.drain(..n);
            if self.read.is_empty() {
                self.read = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl Write for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deadline.is_none() {
            ready!(Pin::new(&mut self.socket).poll_shutdown(cx))?;
            if !self.unread.get() {
                return Poll::Ready(Ok(()));
            }
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        self.poll_drain(cx).map(Ok)
    }
}
