//! The client's address where a proxy tells it in front of the connection's own bytes (`proxyProtocol`). The header is
//! the first thing on the wire, before all else.

use std::future::poll_fn;
use std::net::SocketAddr;
use tokio::io::ReadBuf;
use tokio::time::{Instant, timeout_at};

use super::Worker;
use crate::config::{Config, ProxyProtocol};
use crate::shard::transport::Transport;
use crate::telemetry::metrics::labels::RefusalCause;
use crate::telemetry::rate_limited::rate_limited;
use crate::wire::proxy::{MAX_HEADER, Parsed, parse};

/// Whether connections of that server begin with such a header.
pub(super) fn is_on(config: &Config, server: usize) -> bool {
    config.servers[server].proxy_protocol != ProxyProtocol::Off
}

/// Reads the header, and nothing beyond it, if there has to be one. Returns the client's address: that of the socket,
/// `peer`, if there is no header or it tells none. None: the connection is refused, which is counted, or it has ended.
pub(super) async fn client(
    worker: &Worker,
    server: usize,
    transport: &Transport,
    peer: SocketAddr,
    deadline: Instant,
) -> Option<SocketAddr> {
    let config = worker.config.load_full();
    if !is_on(&config, server) {
        return Some(peer);
    }
    // What others say of their address is not believed, and without a header they are no proxies.
    let read = match config.trusts(peer.ip()) {
        true => timeout_at(deadline, header(transport)).await.unwrap_or(Err("its header did not come in time")),
        false => Err("it is none of trustedProxies"),
    };
    match read {
        Ok(Some(client)) => Some(client.unwrap_or(peer)),
        Ok(None) => None,
        Err(why) => {
            worker.servers[server].served.counts.refused.one(RefusalCause::ProxyHeader);
            rate_limited!(WARN, "connections that no proxy announced are refused", why;
                %peer, "a connection was refused, since proxyProtocol is on: {why}");
            None
        }
    }
}

/// What the header tells; None: the connection has ended.
async fn header(transport: &Transport) -> Result<Option<Option<SocketAddr>>, &'static str> {
    let (mut bytes, mut known) = (vec![0; MAX_HEADER], 0);
    loop {
        // Looked at before they are taken, since those behind the header are not ours.
        let mut new = ReadBuf::new(&mut bytes[known..]);
        if poll_fn(|cx| transport.poll_peek(cx, &mut new)).await.is_err() || new.filled().is_empty() {
            return Ok(None);
        }
        let seen = known + new.filled().len();
        let (client, end) = match parse(&bytes[..seen])? {
            Parsed::Incomplete => (None, seen),
            Parsed::Complete { client, len } => (Some(client), len),
        };
        while known < end {
            match transport.try_read(&mut bytes[known..end]) {
                Ok(taken @ 1..) => known += taken,
                _ => return Ok(None),
            }
        }
        if client.is_some() {
            return Ok(client);
        }
    }
}
