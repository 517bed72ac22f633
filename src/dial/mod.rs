//! Connections to an engine from outside, for the commands that measure and watch: where an address leads, plain and with
//! TLS, and requests to its APIs. It knows nothing of the engine's own parts.

pub mod http;
pub mod stream;

use std::net::{SocketAddr, ToSocketAddrs};

use crate::telemetry::language::{spoken, system};
use stream::{Stream, Tls, Trust};

/// What is wrong with a URL.
fn expected(url: &str, what: &str) -> String {
    spoken!("{url}: expected {what}", "{url}: 应为 {what}")
}

/// Where a URL leads.
#[derive(Clone)]
pub struct Place {
    /// Its scheme, without `://`.
    pub scheme: &'static str,
    /// Host and port, as a `Host` header has them.
    pub host: String,
    /// Path and query; `/` if there is none.
    pub path: String,
    addr: SocketAddr,
    tls: Option<Tls>,
}

impl Place {
    /// Reads a URL whose scheme is one of these; each stands with its port, and whether it means TLS. The host is looked up.
    pub fn find(url: &str, schemes: &[(&'static str, u16, bool)], trust: &Trust) -> Result<Place, String> {
        let known = || {
            schemes.iter().map(|(scheme, ..)| format!("{scheme}://")).collect::<Vec<_>>().join(&spoken!(" or ", " 或 "))
        };
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| expected(url, &format!("{}HOST:PORT/PATH", known())))?;
        let found = schemes.iter().find(|(known, ..)| *known == scheme);
        let &(scheme, port, has_tls) = found.ok_or_else(|| expected(url, &known()))?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        if host.is_empty() || host.contains('@') {
            return Err(expected(url, &format!("{scheme}://HOST:PORT/PATH")));
        }
        let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.contains(']') { host } else { name });
        let (name, has_port) = (name.trim_matches(['[', ']']), name.len() < host.len());
        let port = match has_port {
            true => host
                .rsplit(':')
                .next()
                .and_then(|port| port.parse().ok())
                .ok_or_else(|| spoken!("{url}: wrong port", "{url}: 端口有误"))?,
            false => port,
        };
        let addrs = (name, port).to_socket_addrs().map_err(|e| format!("{url}: {e}"))?;
        // Of several addresses the first: servers on this machine listen on 127.0.0.1 in most cases.
        let addrs: Vec<SocketAddr> = addrs.collect();
        let addr = addrs.iter().find(|addr| addr.is_ipv4()).or(addrs.first()).copied();
        let addr = addr.ok_or_else(|| spoken!("{url}: {name} has no address", "{url}: {name} 没有地址"))?;
        let tls = if has_tls { Some(Tls::of(trust, name)?) } else { None };
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Place { scheme, host: host.to_owned(), path, addr, tls })
    }

    /// Connects, and shakes hands if there is TLS.
    pub async fn connect(&self) -> Result<Stream, String> {
        let connected = Stream::connect(self.addr, self.tls.as_ref()).await;
        connected.map_err(|e| format!("{}://{}: {}", self.scheme, self.host, system(&e).spoken()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Args {
        url: Option<String>,
        #[command(flatten)]
        trust: Trust,
    }

    #[test]
    fn urls_are_read() {
        let trust = Args::parse_from(["x", "u", "--insecure"]).trust;
        let schemes = [("ws", 80, false), ("wss", 443, true)];
        let find = |url: &str| Place::find(url, &schemes, &trust);
        for (url, host, path, addr, tls) in [
            ("ws://127.0.0.1:6790/a?b=c#d", "127.0.0.1:6790", "/a?b=c", "127.0.0.1:6790", false),
            ("ws://127.0.0.1", "127.0.0.1", "/", "127.0.0.1:80", false),
            ("wss://127.0.0.1?x", "127.0.0.1", "/?x", "127.0.0.1:443", true),
            ("wss://[::1]:7/", "[::1]:7", "/", "[::1]:7", true),
            ("ws://[::1]/", "[::1]", "/", "[::1]:80", false),
        ] {
            let place = find(url).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!((&*place.host, &*place.path, place.addr.to_string()), (host, path, addr.to_owned()), "{url}");
            assert_eq!(place.tls.is_some(), tls, "{url}");
        }
        for wrong in ["127.0.0.1:1", "http://127.0.0.1/", "ws://", "ws:///a", "ws://a@127.0.0.1/", "ws://127.0.0.1:x/"]
        {
            assert!(find(wrong).is_err(), "{wrong}");
        }
        assert!(Args::parse_from(["x", "u"]).url.is_some());
    }
}
