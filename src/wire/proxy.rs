//! The header that a proxy puts before a connection's own bytes, to tell whom it connects for: the PROXY protocol,
//! versions 1 and 2 ("The PROXY protocol", sections 2.1 and 2.2).
//!
//! [`parse`] reads it from the bytes that have arrived. Whether a proxy may be believed is up to the caller.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// The longest header that is read: one with a client's certificate in it is longer than most.
pub const MAX_HEADER: usize = 4096;
/// The longest header of version 1, with the end of its line (section 2.1).
const MAX_LINE: usize = 107;
/// What a header of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The part of a header of version 2 that tells how long it is.
const FIXED: usize = 16;

/// What the bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Valid so far, but not complete: all of them are of the header.
    Incomplete,
    /// The whole header.
    Complete {
        /// The client's address. None: the proxy speaks for itself (a probe), or the client has no address that is known
        /// here (a local socket, another protocol).
        client: Option<SocketAddr>,
        /// The header's length; what follows is the client's.
        len: usize,
    },
}

/// Reads a header from the front of `bytes`. Call it again with more bytes while it is incomplete. It refuses bytes that
/// can't become a header as early as possible; the error says why.
pub fn parse(bytes: &[u8]) -> Result<Parsed, &'static str> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(one, other)| one == other);
    if begins(SIGNATURE) {
        version_2(bytes)
    } else if begins(b"PROXY ") {
        version_1(bytes)
    } else {
        Err("it does not begin with a header of the PROXY protocol")
    }
}

fn version_1(bytes: &[u8]) -> Result<Parsed, &'static str> {
    let Some(end) = bytes.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
        return match bytes.len() < MAX_LINE {
            true => Ok(Parsed::Incomplete),
            false => Err("the line of a header of version 1 has no end"),
        };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or("a line of version 1 ends with CR LF")?;
    let line = std::str::from_utf8(line).map_err(|_| "a line of version 1 is ASCII")?;
    let mut words = line.split(' ').skip(1);
    let client = match words.next() {
        // What follows may be anything.
        Some("UNKNOWN") => None,
        Some(family @ ("TCP4" | "TCP6")) => Some(addresses(family == "TCP4", words)?),
        _ => return Err("after PROXY, a header of version 1 has TCP4, TCP6 or UNKNOWN"),
    };
    Ok(Parsed::Complete { client, len: end + 1 })
}

/// Source, destination and their ports. The destination only has to be well-formed.
fn addresses<'a>(v4: bool, mut words: impl Iterator<Item = &'a str>) -> Result<SocketAddr, &'static str> {
    let mut address = || {
        let ip = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        ip.filter(|ip| ip.is_ipv4() == v4).ok_or("an address of a header of version 1 is none of its family")
    };
    let (source, _) = (address()?, address()?);
    let mut port = || {
        // Without leading zeros or a sign (section 2.1).
        let word = words.next().filter(|word| *word == "0" || word.starts_with(|c: char| matches!(c, '1'..='9')));
        word.and_then(|word| word.parse::<u16>().ok()).ok_or("a port of a header of version 1 is none")
    };
    let (port, _) = (port()?, port()?);
    match words.next() {
        None => Ok(SocketAddr::new(source, port)),
        Some(_) => Err("a header of version 1 has more than two addresses and two ports"),
    }
}

fn version_2(bytes: &[u8]) -> Result<Parsed, &'static str> {
    let Some(fixed) = bytes.get(SIGNATURE.len()..FIXED) else {
        return match bytes.get(SIGNATURE.len()) {
            Some(byte) if byte >> 4 != 2 => Err(NOT_2),
            _ => Ok(Parsed::Incomplete),
        };
    };
    let (version, command) = (fixed[0] >> 4, fixed[0] & 15);
    let len = FIXED + usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if version != 2 {
        return Err(NOT_2);
    }
    if len > MAX_HEADER {
        return Err("the header is longer than 4096 bytes");
    }
    let Some(rest) = bytes.get(FIXED..len) else { return Ok(Parsed::Incomplete) };
    // What follows the addresses are further details (TLV), which nothing here needs.
    let client = match (command, fixed[1]) {
        // LOCAL: a proxy's own connection. The rest is skipped.
        (0, _) => None,
        (1, TCP_OVER_IPV4) => {
            let (ip, port) = (part::<4>(rest, 0..4)?, part::<2>(rest, 8..10)?);
            part::<2>(rest, 10..12)?;
            Some(SocketAddr::new(IpAddr::from(ip), u16::from_be_bytes(port)))
        }
        (1, TCP_OVER_IPV6) => {
            let (ip, port) = (part::<16>(rest, 0..16)?, part::<2>(rest, 32..34)?);
            part::<2>(rest, 34..36)?;
            Some(SocketAddr::new(IpAddr::from(ip), u16::from_be_bytes(port)))
        }
        // Unspecified, local sockets, datagrams: the connection is served under the proxy's own address.
        (1, _) => None,
        _ => return Err("the command of a header of version 2 is LOCAL or PROXY"),
    };
    Ok(Parsed::Complete { client, len })
}

const NOT_2: &str = "the version of a binary header is 2";
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

fn part<const N: usize>(rest: &[u8], at: Range<usize>) -> Result<[u8; N], &'static str> {
    let bytes = rest.get(at).and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or("a header of version 2 is too short for the addresses of its family")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn complete(client: Option<&str>, len: usize) -> Result<Parsed, &'static str> {
        Ok(Parsed::Complete { client: client.map(|client| client.parse().unwrap()), len })
    }

    /// A header of version 2.
    fn binary(version_and_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = (rest.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[version_and_command, family], &len, rest].concat()
    }

    fn ipv4() -> Vec<u8> {
        [&[192, 0, 2, 7][..], &[10, 0, 0, 1], &4711u16.to_be_bytes(), &443u16.to_be_bytes()].concat()
    }

    fn ipv6() -> Vec<u8> {
        let ip = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let ports = [4711u16.to_be_bytes(), 443u16.to_be_bytes()].concat();
        [&ip("2001:db8::7")[..], &ip("::1"), &ports].concat()
    }

    /// Headers, and whom they tell of.
    fn good() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let tlv = [&[0x02, 0, 11][..], b"example.com", &[0x04, 0, 3], &[0; 3]].concat();
        let longest = "ffff:f...f:ffff".replace("f...f", "ffff:ffff:ffff:ffff:ffff:ffff");
        vec![
            // The longest lines of each family (section 2.1).
            (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n".into(), Some("255.255.255.255:65535")),
            (
                format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n").into_bytes(),
                Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
            ),
            (b"PROXY UNKNOWN\r\n".into(), None),
            (format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n").into_bytes(), None),
            (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n".into(), Some("192.168.0.1:56324")),
            (b"PROXY TCP6 ::1 ::1 1 0\r\n".into(), Some("[::1]:1")),
            (binary(0x21, 0x11, &ipv4()), Some("192.0.2.7:4711")),
            (binary(0x21, 0x21, &ipv6()), Some("[2001:db8::7]:4711")),
            (binary(0x21, 0x11, &[&ipv4()[..], &tlv].concat()), Some("192.0.2.7:4711")),
            (binary(0x21, 0x21, &[&ipv6()[..], &tlv].concat()), Some("[2001:db8::7]:4711")),
            // LOCAL, with and without addresses.
            (binary(0x20, 0x00, &[]), None),
            (binary(0x20, 0x11, &ipv4()), None),
            (binary(0x20, 0x21, b"anything"), None),
            // Unspecified; UDP; local sockets.
            (binary(0x21, 0x00, &tlv), None),
            (binary(0x21, 0x12, &ipv4()), None),
            (binary(0x21, 0x31, &[0; 216]), None),
            (binary(0x21, 0x11, &[&ipv4()[..], &[7; MAX_HEADER - FIXED - 12]].concat()), Some("192.0.2.7:4711")),
        ]
    }

    #[test]
    fn headers_are_read_whole_and_byte_by_byte_and_what_follows_is_left() {
        for (header, client) in good() {
            let shown = String::from_utf8_lossy(&header).into_owned();
            for len in 0..header.len() {
                assert_eq!(parse(&header[..len]), Ok(Parsed::Incomplete), "{len} of {shown:?}");
            }
            assert_eq!(parse(&header), complete(client, header.len()), "{shown:?}");
            for next in [&b"GET / HTTP/1.1\r\n"[..], b"\r\n", b"\0", b"PROXY UNKNOWN\r\n"] {
                assert_eq!(parse(&[&header, next].concat()), complete(client, header.len()), "{shown:?}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LINE));
        for text in [
            "GET / HTTP/1.1\r\n",
            "proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n",
            "PROXY TCP4 1.1.1.256 1.1.1.1 1 1\r\n",
            "PROXY TCP4 ::1 ::1 1 1\r\n",
            "PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY UNKNOWN\n",
            "PROXY \r\n",
            &long,
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(parse(b"PROXY TCP4 \xff\r\n").is_err());
        for bytes in [
            binary(0x11, 0x11, &ipv4()),
            binary(0x22, 0x11, &ipv4()),
            binary(0x21, 0x11, &ipv4()[..11]),
            binary(0x21, 0x21, &ipv6()[..35]),
            binary(0x21, 0x11, &[0; MAX_HEADER]),
            [&SIGNATURE[..], &[0x31]].concat(),
        ] {
            assert!(parse(&bytes).is_err(), "{bytes:?}");
        }
        assert!(parse(&binary(0x21, 0x11, &[0; 65535])[..FIXED]).is_err(), "before it has come");
    }

    proptest! {
        /// Whatever comes, and in whatever pieces, the answer is the same, and never beyond the bounds.
        #[test]
        fn nothing_that_comes_is_read_in_two_ways(
            begin in 0usize..4,
            rest in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let begins: [&[u8]; 4] = [b"", b"PROXY TCP4 ", SIGNATURE, &[SIGNATURE, &b"\x21\x11\0"[..]].concat()];
            let bytes = [begins[begin], &rest].concat();
            match parse(&bytes) {
                Ok(Parsed::Incomplete) => prop_assert!(bytes.len() < MAX_HEADER),
                Ok(Parsed::Complete { len, .. }) => {
                    prop_assert!(len <= bytes.len());
                    (0..len).for_each(|less| assert_eq!(parse(&bytes[..less]), Ok(Parsed::Incomplete)));
                }
                Err(_) => {}
            }
        }
    }
}
