//! What clients that are refused before they are open are told, and how long they are waited for.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::{Worker, tls};
use crate::shard::conn::Conn;
use crate::shard::transport::Transport;
use crate::telemetry::log::access::Access;
use crate::telemetry::metrics::labels::RefusalCause;
use crate::telemetry::rate_limited::rate_limited;
use crate::wire::handshake::Refusal;

/// The longest that the worker waits for a refused client.
const REFUSED_LINGER: Duration = Duration::from_secs(1);
/// The most clients that are told that there is no place and waited for; further ones are closed at once.
const MOST_TURNED_AWAY: usize = 256;
/// What a client is told while memory is short.
const SHORT: &str = "memory is short";

/// What a client is told that finds no place.
pub(super) fn refusal_for(cause: RefusalCause) -> Refusal {
    let (status, text) = match cause {
        RefusalCause::Memory => (503, SHORT),
        RefusalCause::Rate => (429, "too many clients connect (rate.connects)"),
        RefusalCause::AddressRate => (429, "this address connects too often (rate.perAddress)"),
        RefusalCause::AddressConnections => (429, "this address has too many connections (maxConnectionsPerAddress)"),
        _ => (503, "too many connections (maxConnections)"),
    };
    Refusal { status, text: text.into() }
}

/// Logs that a handshake was refused.
pub(super) fn log_refusal(refusal: &Refusal, peer: SocketAddr) {
    let mut status = itoa::Buffer::new();
    rate_limited!(DEBUG, "handshakes are refused", status.format(refusal.status);
        %peer, status = refusal.status, "handshake refused: {refusal}");
}

/// Writes a line of the access log, if there is to be one. `request`: method and target; empty if none has come.
pub(super) fn log_access(
    worker: &Worker,
    (method, target): (&str, &str),
    peer: SocketAddr,
    (status, client_id): (u16, Option<u64>),
    began: Instant,
) {
    if worker.config.load().logging.access {
        Access { method, target, peer: &peer, status, user: None, client_id, took: began.elapsed() }.write();
    }
}

/// Counts a client that is refused before there is a connection, and tells the log and those who watch.
fn count(worker: &Worker, server: usize, refusal: &Refusal, cause: RefusalCause, peer: SocketAddr) {
    worker.servers[server].served.counts.refused.one(cause);
    log_refusal(refusal, peer);
    if worker.shard.tap.is_on() {
        worker.shard.see_refused(server, peer, refusal, cause);
    }
}

/// Refuses a request before there is a connection. `method` is empty if it is not known.
pub(super) async fn refuse(
    worker: &Worker,
    server: usize,
    transport: Transport,
    refusal: &Refusal,
    cause: RefusalCause,
    method: &str,
    peer: SocketAddr,
) {
    count(worker, server, refusal, cause, peer);
    say_and_end(transport, &refusal.response_to(method)).await;
}

/// Sends a response and ends the connection.
pub(super) async fn say_and_end(mut transport: Transport, response: &[u8]) {
    let said = async {
        transport.write_all(response).await?;
        transport.shutdown().await?;
        // Whatever the client still sends is read, so that the response is not lost to a reset.
        tokio::io::copy(&mut transport, &mut tokio::io::sink()).await
    };
    let _ = timeout(REFUSED_LINGER, said).await;
}

/// Refuses a client when all places are taken. Its request is not awaited: otherwise the number of such clients would
/// be unbounded.
pub(super) async fn turn_away(
    worker: &Worker,
    server: usize,
    transport: Transport,
    cause: RefusalCause,
    peer: SocketAddr,
) {
    let refusal = refusal_for(cause);
    log_access(worker, ("", ""), peer, (refusal.status, None), Instant::now());
    if tls::is_on(worker, server) {
        // A handshake only to say so would cost more than many a client that has a place.
        count(worker, server, &refusal, cause, peer);
        transport.turn_away();
    } else if worker.turned_away.get() < MOST_TURNED_AWAY {
        worker.turned_away.set(worker.turned_away.get() + 1);
        refuse(worker, server, transport, &refusal, cause, "", peer).await;
        worker.turned_away.set(worker.turned_away.get() - 1);
    } else {
        count(worker, server, &refusal, cause, peer);
        let _ = transport.try_write(&refusal.response());
    }
}

/// Writes what the refused client is owed, and reads until it ends, so that the response is not lost to a reset.
pub(super) async fn finish_refused(worker: &Worker, conn: &Conn) {
    let shard = &worker.shard;
    let said = async {
        poll_fn(|cx| {
            conn.register(cx.waker());
            conn.poll_flush(cx, shard.scratch(), shard.now())
        })
        .await;
        conn.transport.shutdown_write();
        // With TLS, the end is something to write.
        poll_fn(|cx| conn.poll_flush(cx, shard.scratch(), shard.now())).await;
        poll_fn(|cx| worker.poll_drain(conn, cx)).await;
    };
    let _ = timeout(REFUSED_LINGER, said).await;
}
