//! The life of a back end's connection: it is admitted, then served on the fast path, then by hyper,
//! all of it in stretches of the worker's time.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::callers::{Caller, Taken};
use super::fast_path::Next;
use super::state::Api;
use crate::shard::transport::Transport;
use crate::telemetry::metrics::labels::{Handshake, Label};
use crate::telemetry::rate_limited::rate_limited;
use crate::tls::{Acceptor, Failure, Port};

/// The answer to a connection that finds no place.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\nretry-after: 1\r\n\r\n";

/// The answer to plain HTTP where there is TLS.
const PLAIN: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 49\r\nconnection: close\r\n\r\n\
    this port speaks TLS: call https://, not http://\n";
/// The longest that a TLS handshake may take, unless `readTimeout` is shorter.
const SHAKE: Duration = Duration::from_secs(10);
/// How long a caller whose handshake failed may take to read why.
const LINGER: Duration = Duration::from_secs(1);

impl Api {
    /// Takes over a back end's connection (with `center`, one that asks for nodes) and serves it to its end in a task
    /// of its own. `load` is dropped with it.
    pub fn adopt<T: 'static>(self: &Rc<Self>, socket: Transport, peer: SocketAddr, center: bool, load: T) {
        self.begin(socket, peer, center, None, load);
    }

    /// Takes over a back end's connection that another process had; `read`: what has come on it already. It goes on as it
    /// was, with TLS or without, whatever the port has now.
    pub fn adopt_with<T: 'static>(self: &Rc<Self>, socket: Transport, peer: SocketAddr, read: Vec<u8>, load: T) {
        self.begin(socket, peer, false, Some(read), load);
    }

    /// `read`: of a connection that is not new, what has come on it.
    fn begin<T: 'static>(
        self: &Rc<Self>,
        socket: Transport,
        peer: SocketAddr,
        center: bool,
        read: Option<Vec<u8>>,
        load: T,
    ) {
        let Some(taken) = self.callers.admit(peer.ip(), center) else {
            rate_limited!(WARN, "API connections are refused", if center { "center" } else { "engine" };
                target: "connmix::api", %peer, "an API connection was refused: there are as many as may be, and none is idle");
            match self.tls.of(port(center)) {
                Some(_) if read.is_none() => socket.turn_away(),
                // As much as the socket takes at once: the connection has no place to wait in.
                _ => drop(socket.try_write(FULL)),
            }
            return;
        };
        let seat = taken.seat.clone();
        let api = self.clone();
        let serving = Box::pin(api.clone().serve(socket, peer, center, read, taken));
        let task = spawn_local(async move {
            api.time.share(serving).await;
            drop(load);
        });
        seat.belongs_to(task.abort_handle());
    }

    /// File descriptors have run out: ends the API connection that has been idle for longest.
    pub fn make_room(&self) -> bool {
        self.callers.make_room()
    }

    async fn serve(
        self: Rc<Self>,
        mut socket: Transport,
        peer: SocketAddr,
        center: bool,
        read: Option<Vec<u8>>,
        taken: Taken,
    ) {
        let write_timeout = self.config.load().api.write_timeout;
        if !write_timeout.is_zero() {
            // The kernel ends a connection whose caller reads no responses.
            socket.give_up_after(write_timeout);
        }
        if read.is_none()
            && let Some(acceptor) = self.tls.of(port(center))
        {
            // Boxed, so that a connection without TLS does not carry what that needs.
            let Some(open) = Box::pin(self.shake_hands(socket, &acceptor, peer)).await else { return };
            socket = open;
        }
        let local = socket.local_ip().unwrap_or(IpAddr::from([127, 0, 0, 1]));
        let caller = Caller { peer: peer.ip().to_canonical(), local, center };
        let next = match center {
            false => self.serve_fast_path(&mut socket, caller, &taken, read.unwrap_or_default()).await,
            true => Next::General { read: Vec::new(), late: false },
        };
        if let Next::General { read, late } = next {
            // Boxed, so that a connection on the fast path does not carry what hyper needs.
            Box::pin(self.serve_hyper(socket, read, late, caller, taken)).await;
        }
    }

    /// Shakes hands. None: it failed, and the caller has been told.
    async fn shake_hands(&self, socket: Transport, acceptor: &Acceptor, peer: SocketAddr) -> Option<Transport> {
        let within = self.read_timeout().map_or(SHAKE, |timeout| timeout.min(SHAKE));
        let shaken = async {
            let socket = match socket.encipher(acceptor) {
                Ok(socket) => socket,
                Err(failure) => return Err((failure, None)),
            };
            let late = || Failure::new(Handshake::Timeout, "the handshake did not end in time");
            let shaken = timeout(within, poll_fn(|cx| socket.poll_handshake(cx))).await;
            match shaken.unwrap_or_else(|_| Err(late())) {
                Ok(()) => Ok(socket),
                Err(failure) => Err((failure, Some(socket))),
            }
        };
        let (failure, socket) = match shaken.await {
            Ok(socket) => {
                self.counts.handshakes.one(Handshake::Ok);
                return Some(socket);
            }
            Err(failed) => failed,
        };
        self.counts.handshakes.one(failure.cause);
        rate_limited!(DEBUG, "TLS handshakes of callers fail", failure.cause.word();
            target: "connmix::api", %peer, cause = failure.cause.word(), "a TLS handshake failed: {failure}");
        let mut socket = socket?.without_tls();
        let said = async {
            if failure.cause == Handshake::NotTls {
                socket.write_all(PLAIN).await?;
            }
            socket.shutdown().await?;
            // Whatever the caller still sends is read, so that what it was told is not lost to a reset.
            tokio::io::copy(&mut socket, &mut tokio::io::sink()).await
        };
        if !matches!(failure.cause, Handshake::Closed | Handshake::Timeout) {
            let _ = timeout(LINGER, said).await;
        }
        None
    }
}

fn port(center: bool) -> Port {
    if center { Port::Center } else { Port::Api }
}
