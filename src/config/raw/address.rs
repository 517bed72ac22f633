//! The spelling of addresses: hosts with ports, networks, origins, patterns of callers.

use crate::config::types::HostPattern;
use ipnet::IpNet;
use std::net::IpAddr;
use url::Url;

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

/// What `origin` takes, for messages.
pub const ORIGIN: &str = "the origin of pages, such as \"https://example.com\" (scheme, host and perhaps a port)";

/// What browsers send in `Origin` for pages of that place (RFC 6454, section 6.2): scheme and host in lower case, names
/// in other scripts than Latin as Punycode, the port only where it is not the scheme's own. None where no browser ever
/// sends what is written: a page's scheme is not that of its WebSocket, and no list can tell one page without an origin
/// from another.
pub fn origin(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '\\' | '?' | '#' | '@' | '*' | '%');
    if rest.is_empty() || rest.contains(bad) {
        return None;
    }
    match &*scheme {
        "http" | "https" => {
            let url = Url::parse(&format!("{scheme}://{rest}")).ok()?;
            Some(url.origin().ascii_serialization())
        }
        "ws" | "wss" | "ftp" | "file" => None,
        // Of apps and extensions: `capacitor://localhost`, `chrome-extension://ID`.
        _ => {
            let mut letters = scheme.bytes();
            let right = letters.next().is_some_and(|b| b.is_ascii_lowercase())
                && letters.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
            (right && rest.is_ascii()).then(|| format!("{scheme}://{}", rest.to_ascii_lowercase()))
        }
    }
}

/// What `endpoint` takes, for messages.
pub const ENDPOINT: &str = "the URL of a collector, such as \"http://localhost:4318\"";
/// What is said of a text that is none.
pub const NO_ENDPOINT: &str =
    "expected the URL of a collector, such as http://localhost:4318, without a user, a password, a query or a fragment";

/// A URL of HTTP that holds no secret, as it is written.
pub fn endpoint(text: &str) -> Option<String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())?;
    let has_secrets = !url.username().is_empty() || url.password().is_some() || url.query().is_some();
    let is_plain = !has_secrets && url.fragment().is_none() && !text.contains(char::is_whitespace);
    is_plain.then(|| text.to_owned())
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
    fn an_endpoint_is_a_url_that_holds_no_secret() {
        for good in ["http://localhost:4318", "https://otel.example.com/base/", "http://[::1]:4318"] {
            assert_eq!(endpoint(good).as_deref(), Some(good));
        }
        for bad in [
            "",
            "localhost:4318",
            "grpc://localhost:4317",
            "http://",
            "http://me@localhost",
            "http://:secret@localhost",
            "http://localhost?key=secret",
            "http://localhost/#x",
            "http://localhost/a b",
            "http://localhost\n",
        ] {
            assert_eq!(endpoint(bad), None, "{bad}");
        }
    }

    #[test]
    fn origins_are_what_browsers_send() {
        for (written, sent) in [
            ("HTTPS://Example.com:8443", "https://example.com:8443"),
            ("https://example.com:443", "https://example.com"),
            ("http://example.com:80", "http://example.com"),
            ("https://example.com:80", "https://example.com:80"),
            ("http://example.com:443/", "http://example.com:443"),
            ("https://example.com:", "https://example.com"),
            ("https://example.com:0443", "https://example.com"),
            ("https://example.com/", "https://example.com"),
            ("https://münchen.de", "https://xn--mnchen-3ya.de"),
            ("https://MÜNCHEN.de:443/", "https://xn--mnchen-3ya.de"),
            ("https://xn--mnchen-3ya.de", "https://xn--mnchen-3ya.de"),
            ("https://例え.テスト:8443", "https://xn--r8jz45g.xn--zckzah:8443"),
            ("http://127.1:8080", "http://127.0.0.1:8080"),
            ("http://[0:0::1]:80", "http://[::1]"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("Chrome-Extension://abcdef", "chrome-extension://abcdef"),
        ] {
            assert_eq!(origin(written).as_deref(), Some(sent), "{written}");
        }
        for bad in [
            "*",
            "null",
            "example.com",
            "https://",
            "https:///",
            "https://example.com//",
            "https://example.com/x",
            "https://*.example.com",
            "https://a@b",
            "https://a b",
            "https://a:99999",
            "https://a:x",
            "https://a\\b",
            "https://a?x",
            "https://a#x",
            "https://a%20b",
            "https://xn--zz--.de",
            "wss://example.com",
            "file://x",
            "ws://a",
            "1app://x",
            "a b://x",
            "app://é",
            "://x",
        ] {
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
