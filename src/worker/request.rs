//! A client's requests before its connection is open: reading them, and what holds for all of them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::config::{Config, Server};
use crate::shard::transport::Transport;
use crate::wire::handshake::{self as http, MAX_HEAD, Parsed, Refusal, Request, Rules};

/// A connection whose next request is to come.
pub(super) struct Coming {
    pub(super) transport: Transport,
    /// The bytes that came behind the request before.
    pub(super) got: Vec<u8>,
    /// The request has to be there by then.
    pub(super) deadline: Instant,
    /// No request has come yet: a client need not have another one.
    pub(super) is_first: bool,
}

impl Coming {
    /// Before the first request.
    pub(super) fn first(transport: Transport, deadline: Instant) -> Coming {
        Coming { transport, got: Vec::new(), deadline, is_first: true }
    }

    /// After a request that has been answered.
    pub(super) fn after(transport: Transport, got: Vec<u8>, patience: Duration) -> Coming {
        Coming { transport, got, deadline: Instant::now() + patience, is_first: false }
    }
}

/// Reads until the head is complete; None: the client ended first. `head` is what came before. Bytes after the head are part
/// of the result. `begins` is told the first byte.
pub(super) async fn read_head(
    transport: &mut Transport,
    mut head: Vec<u8>,
    begins: impl Fn(Option<&u8>),
) -> Result<Option<Vec<u8>>, Refusal> {
    loop {
        // Parsed again from its start: only when it arrives in pieces, and those are bounded.
        match http::parse(&head)? {
            Parsed::Complete { .. } => return Ok(Some(head)),
            Parsed::Incomplete if head.len() > MAX_HEAD => {
                return Err(Refusal { status: 431, text: format!("the request head has more than {MAX_HEAD} bytes") });
            }
            Parsed::Incomplete => {}
        }
        head.reserve(1024);
        match transport.read_buf(&mut head).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(came) if came == head.len() => begins(head.first()),
            Ok(_) => {}
        }
    }
}

/// What a server demands of requests.
pub(super) fn rules<'a>(server: &'a Server, subprotocols: Option<&'a [String]>) -> Rules<'a> {
    Rules { path: server.option("path").unwrap_or("/"), allowed_origins: &server.allowed_origins, subprotocols }
}

/// The client's address: behind proxies that are trusted, the last address that none of them vouches for.
pub(super) fn client_address(config: &Config, request: &Request<'_>, peer: SocketAddr) -> SocketAddr {
    let trusted = |ip: IpAddr| config.trusts(ip);
    let mut address = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    if !trusted(address.ip()) {
        return address;
    }
    for entry in http::forwarded_for(request) {
        let parsed = entry
            .parse::<SocketAddr>()
            .or_else(|_| entry.trim_matches(['[', ']']).parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0)));
        // An entry that is not an address is not trusted, and neither are those before it.
        let Ok(parsed) = parsed else { break };
        address = SocketAddr::new(parsed.ip().to_canonical(), parsed.port());
        if !trusted(address.ip()) {
            break;
        }
    }
    address
}
