//! The host that a request is for: the `Host` header, or the authority of a target that is a whole URL (RFC 9112,
//! sections 3.2 and 3.2.2).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::message::utf8;

/// The name of the local machine.
const LOCALHOST: &[u8] = b"localhost";

/// A host with or without a port, of right form (RFC 3986, section 3.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host<'a> {
    /// An IPv4 address, or an IPv6 address in brackets.
    Address,
    /// A name, as it stands: neither decoded nor in one case.
    Name(&'a str),
}

impl<'a> Host<'a> {
    /// Reads a header's value, without the spaces around it. None: it is not a host. An empty value is none either,
    /// since there is no such URL (RFC 9110, section 4.2.1).
    pub fn parse(value: &'a [u8]) -> Option<Host<'a>> {
        let value = utf8(value)?;
        let (host, rest) = match value.strip_prefix('[') {
            Some(inner) => {
                let (address, rest) = inner.split_once(']')?;
                address.parse::<Ipv6Addr>().ok()?;
                (Host::Address, rest)
            }
            None => {
                // Every call of a back end comes here, with a short text: a plain search is the fastest.
                let colon = value.bytes().position(|b| b == b':');
                let (name, rest) = value.split_at(colon.unwrap_or(value.len()));
                let right = !name.is_empty() && is_reg_name(name.as_bytes());
                let address = || name.starts_with(|c: char| c.is_ascii_digit()) && name.parse::<Ipv4Addr>().is_ok();
                (right.then(|| if address() { Host::Address } else { Host::Name(name) })?, rest)
            }
        };
        match rest.strip_prefix(':') {
            // The port may be left out after its colon.
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                (port.is_empty() || port.parse::<u16>().is_ok()).then_some(host)
            }
            None if rest.is_empty() => Some(host),
            _ => None,
        }
    }

    /// Whether it is an address, or a name that always means the local machine (RFC 6761, section 6.3). No web page can
    /// be served under such a name from elsewhere.
    pub fn is_address_or_localhost(&self) -> bool {
        match self {
            Host::Address => true,
            Host::Name(name) => {
                let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
                let (before, last) = name.split_at(name.len().saturating_sub(LOCALHOST.len()));
                last.eq_ignore_ascii_case(LOCALHOST) && before.last().is_none_or(|&b| b == b'.')
            }
        }
    }

    /// Whether it is that name, in any case.
    pub fn is_named(&self, other: &str) -> bool {
        matches!(self, Host::Name(name) if name.strip_suffix('.').unwrap_or(name).eq_ignore_ascii_case(other))
    }
}

/// Whether a byte is an unreserved character or a sub-delimiter.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        plain[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~!$&'()*+,;=";
    let mut at = 0;
    while at < others.len() {
        plain[others[at] as usize] = true;
        at += 1;
    }
    plain
};

/// Unreserved characters, sub-delimiters, and percent-encoded bytes.
fn is_reg_name(mut name: &[u8]) -> bool {
    loop {
        let plain = name.iter().position(|&b| !PLAIN[usize::from(b)]).unwrap_or(name.len());
        name = match &name[plain..] {
            [] => return true,
            [b'%', a, b, after @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => after,
            _ => return false,
        };
    }
}

/// The host that a request is for. `minor` is its version's: HTTP/1.0 may do without a host. `headers` are the values
/// of all its `Host` headers. `authority` is that of its target, if it is a whole URL: it wins, but a wrong header is
/// still an error.
pub fn of_request<'a>(
    minor: u8,
    headers: impl IntoIterator<Item = &'a [u8]>,
    authority: Option<&'a str>,
) -> Result<Option<Host<'a>>, &'static str> {
    let mut headers = headers.into_iter();
    let host = match (headers.next(), headers.next()) {
        (Some(_), Some(_)) => return Err("Host is given more than once"),
        (Some(value), None) => Some(Host::parse(value.trim_ascii()).ok_or("the Host header is not a host and a port")?),
        (None, _) if minor > 0 => return Err("the Host header is missing"),
        (None, _) => None,
    };
    match authority {
        Some(authority) => match Host::parse(authority.as_bytes()) {
            Some(host) => Ok(Some(host)),
            None => Err("the request's target does not name a host and a port"),
        },
        None => Ok(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_perhaps_with_a_port() {
        for name in ["example.com", "EXAMPLE.com.", "a_b-c~d", "a,b;c=d", "%41.com", "123", "127.1", "1.2.3.4.5"] {
            assert_eq!(Host::parse(name.as_bytes()), Some(Host::Name(name)));
            assert_eq!(Host::parse(format!("{name}:").as_bytes()), Some(Host::Name(name)));
            assert_eq!(Host::parse(format!("{name}:65535").as_bytes()), Some(Host::Name(name)));
        }
        for address in ["127.0.0.1", "0.0.0.0", "[::1]", "[fe80::1:2]", "[::ffff:127.0.0.1]", "[::1]:6789"] {
            assert_eq!(Host::parse(address.as_bytes()), Some(Host::Address), "{address}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "a/b",
            "a@b",
            "a?b",
            "a#b",
            "a\\b",
            "a:b",
            "a:1:2",
            "a:65536",
            "a:+1",
            "a:-1",
            "::1",
            "[::1",
            "[::1]x",
            "[x]",
            "[]",
            "[127.0.0.1]",
            "%4",
            "%zz",
            "a%",
            "\"a\"",
            "a\tb",
            "é",
            "a|b",
            "a^b",
            "a`b",
            "a[b]",
            "<a>",
        ] {
            assert_eq!(Host::parse(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(Host::parse(b"a\xff"), None);
    }

    #[test]
    fn which_names_are_this_machines_is_known() {
        let is = |host: &str| Host::parse(host.as_bytes()).unwrap().is_address_or_localhost();
        for host in ["localhost", "LOCALHOST:80", "localhost.", "api.localhost", "127.0.0.1:1", "192.168.0.1", "[::1]"]
        {
            assert!(is(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "notlocalhost", "127.0.0.1.evil.example", "127.1", "x"] {
            assert!(!is(host), "{host}");
        }
        let node = Host::parse(b"Node-1.example.com:1").unwrap();
        assert!(node.is_named("node-1.EXAMPLE.com") && !node.is_named("example.com"));
        assert!(Host::parse(b"a.b.").unwrap().is_named("a.b") && !Host::Address.is_named("127.0.0.1"));
    }

    #[test]
    fn one_right_host_is_needed_and_the_target_wins() {
        let of = |minor, headers: &[&'static str], authority| {
            of_request(minor, headers.iter().map(|h| h.as_bytes()), authority)
        };
        assert_eq!(of(1, &[" a "], None), Ok(Some(Host::Name("a"))));
        assert_eq!(of(0, &[], None), Ok(None));
        assert_eq!(of(1, &["a"], Some("b:1")), Ok(Some(Host::Name("b"))));
        assert_eq!(of(0, &[], Some("b")), Ok(Some(Host::Name("b"))));
        for (minor, headers, authority) in [
            (1, &[][..], None),
            (1, &[], Some("b")),
            (1, &["a", "a"], None),
            (0, &["a", "b"], None),
            (1, &[""], None),
            (0, &["a b"], None),
            (1, &["a b"], Some("b")),
            (1, &["a"], Some("me@b")),
            (1, &["a"], Some("")),
        ] {
            assert!(of(minor, headers, authority).is_err(), "{minor} {headers:?} {authority:?}");
        }
    }
}
