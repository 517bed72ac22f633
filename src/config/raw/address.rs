//! The spelling of addresses: hosts with ports, networks, origins, patterns of callers.

use crate::config::HostPattern;
use ipnet::IpNet;
use std::net::IpAddr;

/// What `host_port` takes, for messages.
pub const HOST_PORT: &str = "host:port";

/// A host and a port, both given. A URL is none, nor is anything with a password in it.
pub fn host_port(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let bad = |c: char| c.is_whitespace() || matches!(c, '/' | '@');
    (!host.is_empty() && !host.contains(bad) && port > 0).then(|| text.to_owned())
}

/// A network; an address is one of its own.
pub fn net(text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(net) => Some(net.trunc()),
        Err(_) => text.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

/// `*`, `172.*.*.*`, an address or a network.
pub fn host_pattern(text: &str) -> Option<HostPattern> {
    if text == "*" {
        return Some(HostPattern::Any);
    }
    if !text.contains('*') {
        return net(text).map(HostPattern::Net);
    }
    let mut parts = [None; 4];
    let mut given = text.split('.');
    for part in &mut parts {
        *part = match given.next()? {
            "*" => None,
            number => Some(number.parse().ok()?),
        };
    }
    given.next().is_none().then_some(HostPattern::V4(parts))
}

/// What browsers send in `Origin`: scheme, host and perhaps a port, nothing after it.
pub fn origin(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let bad = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '@' | '*');
    (!scheme.is_empty() && !rest.is_empty() && !rest.contains(bad)).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_patterns_are_a_star_four_parts_an_address_or_a_network() {
        let matches = |pattern: &str, ip: &str| host_pattern(pattern).map(|p| p.matches(ip.parse().unwrap()));
        assert_eq!(matches("*", "::1"), Some(true));
        assert_eq!(matches("172.*.*.1", "172.16.9.1"), Some(true));
        assert_eq!(matches("172.*.*.1", "172.16.9.2"), Some(false));
        assert_eq!(matches("10.0.0.5", "10.0.0.5"), Some(true));
        assert_eq!(matches("10.0.0.5", "10.0.0.6"), Some(false));
        assert_eq!(matches("10.1.2.3/8", "10.9.9.9"), Some(true));
        assert_eq!(matches("fd00::/8", "fd00::1"), Some(true));
        for bad in ["", "172.*", "172.*.*.*.*", "256.*.*.*", "**", "*.example.com", "example.com", "10.0.0.0/33"] {
            assert_eq!(host_pattern(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn origins_are_what_browsers_send() {
        assert_eq!(origin("HTTPS://Example.com:8443").as_deref(), Some("https://example.com:8443"));
        for bad in ["*", "example.com", "https://", "https://example.com/", "https://*.example.com", "https://a@b"] {
            assert_eq!(origin(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn host_and_port_are_both_needed() {
        assert_eq!(host_port("localhost:6379").as_deref(), Some("localhost:6379"));
        assert_eq!(host_port("[::1]:6379").as_deref(), Some("[::1]:6379"));
        for bad in ["localhost", ":6379", "localhost:0", "localhost:65536", "redis://:secret@localhost:6379", "a b:1"] {
            assert_eq!(host_port(bad), None, "{bad:?}");
        }
    }
}
