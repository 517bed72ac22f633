//! The life of a back end's connection: it is admitted, then served on the fast path, then by hyper,
//! all of it in stretches of the worker's time.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use tokio::task::spawn_local;

use super::callers::{Caller, Taken};
use super::fast_path::Next;
use super::state::Api;
use crate::shard::transport::Transport;
use crate::telemetry::rate_limited::rate_limited;

/// The answer to a connection that finds no place.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\nretry-after: 1\r\n\r\n";

impl Api {
    /// Takes over a back end's connection (with `center`, one that asks for nodes) and serves it to its end in a task
    /// of its own. `load` is dropped with it.
    pub fn adopt<T: 'static>(self: &Rc<Self>, socket: Transport, peer: SocketAddr, center: bool, load: T) {
        let Some(taken) = self.callers.admit(peer.ip(), center) else {
            rate_limited!(WARN, "API connections are refused", if center { "center" } else { "engine" };
                target: "connmix::api", %peer, "an API connection was refused: there are as many as may be, and none is idle");
            // As much as the socket takes at once: the connection has no place to wait in.
            let _ = socket.try_write(FULL);
            return;
        };
        let seat = taken.seat.clone();
        let api = self.clone();
        let serving = Box::pin(api.clone().serve(socket, peer, center, taken));
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

    async fn serve(self: Rc<Self>, mut socket: Transport, peer: SocketAddr, center: bool, taken: Taken) {
        let write_timeout = self.config.load().api.write_timeout;
        if !write_timeout.is_zero() {
            // The kernel ends a connection whose caller reads no responses.
            socket.give_up_after(write_timeout);
        }
        let local = socket.local_ip().unwrap_or(IpAddr::from([127, 0, 0, 1]));
        let caller = Caller { peer: peer.ip().to_canonical(), local, center };
        let next = match center {
            false => self.serve_fast_path(&mut socket, caller, &taken).await,
            true => Next::General { read: Vec::new(), late: false },
        };
        if let Next::General { read, late } = next {
            // Boxed, so that a connection on the fast path does not carry what hyper needs.
            Box::pin(self.serve_hyper(socket, read, late, caller, taken)).await;
        }
    }
}
