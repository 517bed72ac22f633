//! TLS before a client's first byte counts: the handshake, within its time and at its connection's expense, and what is
//! said to clients that can't or may not.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};

use super::Worker;
use crate::api::Stage;
use crate::config::Protocol;
use crate::shard::transport::Transport;
use crate::telemetry::metrics::labels::{Handshake, Label, RefusalCause};
use crate::telemetry::rate_limited::rate_limited;
use crate::tls::{Failure, HANDSHAKE, Port};
use crate::wire::handshake::Refusal;

/// The longest that the worker waits for a client whose handshake failed to read why.
const LINGER: Duration = Duration::from_secs(1);

/// Whether a server's clients speak TLS.
pub(super) fn is_on(worker: &Worker, server: usize) -> bool {
    worker.tls.of(Port::Server(server)).is_some()
}

/// Shakes hands, if the server has TLS. None: there is no connection, and the client has been told.
pub(super) async fn open(
    worker: &Rc<Worker>,
    server: usize,
    transport: Transport,
    peer: SocketAddr,
    deadline: Instant,
) -> Option<Transport> {
    let Some(acceptor) = worker.tls.of(Port::Server(server)) else { return Some(transport) };
    let transport = match transport.encipher(&acceptor) {
        Ok(transport) => transport,
        Err(failure) => {
            tell(worker, server, &failure, peer);
            return None;
        }
    };
    let mut stage = worker.stage.clone();
    let mut ticket = None;
    let shaking =
        poll_fn(|cx| worker.poll_charged(&worker.newcomers, &mut ticket, cx, |cx| transport.poll_handshake(cx)));
    let shaken = tokio::select! {
        biased;
        shaken = timeout_at(deadline, shaking) => {
            let late = || Failure::new(Handshake::Timeout, "the handshake did not end in time (handshakeTimeout)");
            shaken.unwrap_or_else(|_| Err(late()))
        }
        // Nothing is owed yet: a stop does not wait for it.
        _ = stage.wait_for(Stage::is_draining) => return None,
    };
    match shaken {
        Ok(()) => {
            worker.shard.counts.handshakes.one(Handshake::Ok);
            Some(transport)
        }
        Err(failure) => {
            tell(worker, server, &failure, peer);
            if !matches!(failure.cause, Handshake::Closed | Handshake::Timeout) {
                dismiss(transport, answer(worker, server, failure.cause)).await;
            }
            None
        }
    }
}

/// What a client is told in plain text, if it speaks plain HTTP.
fn answer(worker: &Worker, server: usize, cause: Handshake) -> Vec<u8> {
    match (worker.servers[server].served.protocol, cause) {
        (Protocol::Websocket, Handshake::NotTls) => {
            let text = "this port speaks TLS: connect to wss://, not to ws://";
            Refusal { status: 400, text: text.into() }.response()
        }
        _ => Vec::new(),
    }
}

/// Ends a connection whose handshake failed. What the client still sends is read for a moment, so that what it was told
/// is not lost to a reset.
async fn dismiss(transport: Transport, words: Vec<u8>) {
    let mut socket = transport.without_tls();
    let said = async {
        socket.write_all(&words).await?;
        socket.shutdown().await?;
        tokio::io::copy(&mut socket, &mut tokio::io::sink()).await
    };
    let _ = timeout(LINGER, said).await;
}

fn tell(worker: &Worker, server: usize, failure: &Failure, peer: SocketAddr) {
    worker.shard.counts.handshakes.one(failure.cause);
    worker.servers[server].served.counts.refused.one(RefusalCause::Tls);
    rate_limited!(DEBUG, "TLS handshakes fail", failure.cause.word();
        %peer, cause = failure.cause.word(), "a TLS handshake failed: {failure}");
}

/// Logs that a client begins with a TLS handshake at a port that is without.
pub(super) fn look_for_hello(first: Option<&u8>, server: usize, peer: SocketAddr) {
    if first == Some(&HANDSHAKE) {
        rate_limited!(WARN, "clients begin TLS at a port without it", "";
            %peer, "a client began TLS at a port without it: engine.servers[{server}] has no tls.cert");
    }
}
