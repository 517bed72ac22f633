//! Accepting connections: every worker listens on every port, and hands a new socket to the live worker with the fewest
//! connections (to itself if no other has fewer).

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use super::arrivals::Arrival;
use super::load::LoadPermit;
use super::pulse::State;
use super::{Listener, Role, Worker, socket, tls, websocket};
use crate::config::Protocol;
use crate::shard::transport::Transport;
use crate::telemetry::metrics::labels::RefusalCause;
use crate::telemetry::rate_limited::rate_limited;
use crate::wire::handshake::Refusal;

/// How often a worker checks whether the node has joined its cluster.
const JOINING: Duration = Duration::from_millis(20);
/// The pause after a failure to accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until aborted.
pub(super) async fn run(worker: Rc<Worker>, listener: Listener) {
    let role = listener.role;
    let listener = match TcpListener::from_std(listener.socket) {
        Ok(listener) => listener,
        Err(e) => {
            tracing::error!("cannot listen for {role:?}: {e}");
            return;
        }
    };
    // No client is served before the node has joined its cluster: those that come wait in the kernel.
    while matches!(role, Role::Server(_)) && !worker.mesh.is_serving() {
        tokio::time::sleep(JOINING).await;
    }
    loop {
        match Transport::accept(&listener).await {
            Ok((transport, peer)) => match role {
                Role::Server(server) if !worker.reserve.has_room_for(&transport) => refuse(&worker, server, &transport),
                _ => place(&worker, role, transport, peer),
            },
            Err(e) if is_the_peers(&e) => {}
            // Out of file descriptors, most likely: the kernel keeps new connections waiting meanwhile.
            Err(e) => {
                rate_limited!(ERROR, "connections cannot be accepted", ""; "cannot accept connections: {e}");
                // Clients can't use all descriptors, so back ends must have many.
                let made = !matches!(role, Role::Server(_)) && worker.api.make_room();
                tokio::time::sleep(if made { PAUSE / 100 } else { PAUSE }).await;
            }
        }
    }
}

/// The connection failed before it was accepted; this needs no line in the log.
fn is_the_peers(e: &io::Error) -> bool {
    use io::ErrorKind::*;
    matches!(e.kind(), ConnectionAborted | ConnectionReset | ConnectionRefused | Interrupted)
}

/// Refuses a client whose socket would take one of the reserved descriptors.
fn refuse(worker: &Worker, server: usize, transport: &Transport) {
    let served = &worker.servers[server].served;
    served.counts.refused.one(RefusalCause::Descriptors);
    rate_limited!(WARN, "no descriptors are left for clients", "";
        "clients are refused: only the {} file descriptors are left that are kept for the rest of the engine (ulimit -n)",
        worker.reserve.kept());
    match served.protocol {
        _ if tls::is_on(worker, server) => transport.turn_away(),
        Protocol::Websocket => {
            let refusal = Refusal { status: 503, text: "too many open files".into() };
            // As much as the socket takes at once: the client has no place to wait in. Its bytes are read, so that the
            // response is not lost to a reset.
            let _ = transport.try_read(&mut [0; 4096]);
            let _ = transport.try_write(&refusal.response());
        }
        // This protocol has no words for it.
        Protocol::Socket => {}
    }
}

fn place(worker: &Rc<Worker>, role: Role, transport: Transport, peer: SocketAddr) {
    let (loads, pulses) = (&worker.peers.loads, &worker.peers.pulses);
    let own = usize::from(worker.id.0);
    // A worker that has shown no sign of life for a while may be stuck.
    let going = (0..loads.len()).filter(|&i| i == own || pulses[i].state() == State::Fine);
    let least = going.min_by_key(|&i| (loads[i].load(Relaxed), i != own)).unwrap_or(own);
    let load = LoadPermit::take(&loads[least]);
    if least == own {
        adopt(worker, role, transport, peer, load);
        return;
    }
    match transport.release() {
        Ok(socket) => {
            if let Err(Arrival { role, socket, peer, .. }) =
                worker.peers.hand(least, Arrival { role, socket, peer, load })
                && let Ok(transport) = Transport::adopt(socket)
            {
                // That worker is overloaded or about to end.
                adopt(worker, role, transport, peer, LoadPermit::take(&loads[own]));
            }
        }
        Err(e) => rate_limited!(WARN, "connections are lost", ""; "a connection from {peer} was lost: {e}"),
    }
}

/// Serves a connection on this worker.
pub(super) fn adopt(worker: &Rc<Worker>, role: Role, transport: Transport, peer: SocketAddr, load: LoadPermit) {
    match role {
        Role::Server(server) => {
            let worker = worker.clone();
            match worker.servers[server].served.protocol {
                Protocol::Websocket => drop(spawn_local(websocket::task(worker, server, transport, peer, load))),
                Protocol::Socket => drop(socket::task(worker, server, transport, peer, load).map(spawn_local)),
            }
        }
        Role::Api | Role::Center => worker.api.adopt(transport, peer, role == Role::Center, load),
    }
}

#[cfg(test)]
mod tests {
    use super::super::socket::Packets;
    use super::super::task::Task;
    use super::super::websocket::Incoming;

    /// Together with the runtime's own data of a task (about 100 bytes) each fits 256 bytes, which is a size class of
    /// the allocator.
    #[test]
    fn the_task_of_a_silent_connection_is_small() {
        let (frames, packages) = (size_of::<Task<Incoming>>(), size_of::<Task<Packets>>());
        assert!(frames.max(packages) <= 152, "{frames} and {packages} bytes");
    }
}
