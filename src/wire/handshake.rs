//! The HTTP request that opens a WebSocket connection (RFC 6455, section 4.2), and the answers to it.
//!
//! [`parse`] reads the request from what has arrived so far, [`check`] holds it against a server's [`Rules`], and
//! [`accept_response`], [`Refusal::response`] and [`refuse`] build the answer. Who the client is behind its proxies,
//! how long to wait for the request and how many connections there may be is the callers' to decide. The rule they
//! keep: what stands in a request was written by a stranger; only [`accept_response`] copies any of it into a header,
//! and only a protocol name that [`check`] has found to be a plain token.

use std::fmt::Write;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The most bytes of a request's head.
pub const MAX_HEAD: usize = 16 * 1024;
/// The most headers of a request.
pub const MAX_HEADERS: usize = 100;

/// What [`parse`] found.
#[derive(Debug)]
pub enum Parsed<'b> {
    /// Right so far, but there must come more.
    Incomplete,
    /// The whole head.
    Complete {
        /// What it says.
        request: Request<'b>,
        /// Its length; what follows are the client's first frames.
        len: usize,
    },
}

/// The head of a request, as it stands in the bytes read.
#[derive(Debug)]
pub struct Request<'b> {
    /// The method, as the client wrote it (methods are case-sensitive).
    pub method: &'b str,
    /// The request target, with its query.
    pub target: &'b str,
    /// The minor version of HTTP/1: 0 or 1.
    pub version: u8,
    headers: Vec<(&'b str, &'b [u8])>,
}

impl<'b> Request<'b> {
    /// All headers in the order sent, names as the client wrote them. Values may be any bytes but control characters.
    pub fn headers(&self) -> impl DoubleEndedIterator<Item = (&'b str, &'b [u8])> {
        self.headers.iter().copied()
    }

    /// The values of all headers of that name, in any case, in the order sent.
    pub fn all<'n>(&self, name: &'n str) -> impl DoubleEndedIterator<Item = &'b [u8]> + use<'_, 'b, 'n> {
        self.headers().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The value of the first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&'b [u8]> {
        self.all(name).next()
    }

    /// The target's path, as written: nothing is decoded.
    pub fn path(&self) -> &'b str {
        self.split_target().0
    }

    /// The target's query: what follows `?`.
    pub fn query(&self) -> Option<&'b str> {
        self.split_target().1
    }

    fn split_target(&self) -> (&'b str, Option<&'b str>) {
        // Proxies may send the whole URL, which servers must take too (RFC 9112, section 3.2.2).
        let start = match self.target.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") => {
                rest.find(['/', '?']).map_or("", |at| &rest[at..])
            }
            _ => self.target,
        };
        let (path, query) = match start.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (start, None),
        };
        (if path.is_empty() { "/" } else { path }, query)
    }

    /// The elements of a header that is a list of words, over all headers of that name.
    fn list<'n>(&self, name: &'n str) -> impl DoubleEndedIterator<Item = &'b [u8]> + use<'_, 'b, 'n> {
        self.all(name)
            .flat_map(|value| value.split(|b| *b == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|word| !word.is_empty())
    }

    fn lists(&self, name: &str, word: &str) -> bool {
        self.list(name).any(|w| w.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// The value of a header that may stand only once.
    fn only(&self, name: &str) -> Result<Option<&'b [u8]>, Refusal> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (Some(_), Some(_)) => Err(Refusal::new(400, format!("{name} is given more than once"))),
            (value, _) => Ok(value.map(<[u8]>::trim_ascii)),
        }
    }
}

/// What a server takes.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The path to connect to: compared exactly, without the query.
    pub path: &'a str,
    /// The origins whose pages may connect, compared without regard to case; empty = any.
    pub allowed_origins: &'a [String],
    /// The subprotocols the server speaks, the preferred first; `None` = it speaks whatever the client asks for.
    pub subprotocols: Option<&'a [String]>,
}

/// A request that may be answered by [`accept_response`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade<'b> {
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: String,
    /// The subprotocols that the client offers, its preferred first; each is a token (RFC 9110, section 5.6.2).
    pub protocols: Vec<&'b str>,
    /// The one of them to speak by the [`Rules`].
    pub chosen: Option<&'b str>,
}

/// The request can't be served. Answer with [`Refusal::response`] and close.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// What was wrong and what is expected, for whoever wrote the client.
    pub text: String,
}

impl Refusal {
    fn new(status: u16, text: impl Into<String>) -> Refusal {
        Refusal { status, text: text.into() }
    }

    /// The whole response.
    pub fn response(&self) -> Vec<u8> {
        refuse(self.status, &self.text)
    }
}

/// Reads the head of a request from the front of `bytes` (RFC 9112, sections 2 to 5). Call it again with more bytes
/// while it is incomplete: it refuses what can't become a head, or outgrows [`MAX_HEAD`], as soon as it shows.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let too_large = || Refusal::new(431, format!("the request's head is larger than {MAX_HEAD} bytes"));
    let malformed = |what| Refusal::new(400, format!("malformed HTTP request: {what}"));
    match request.parse(&bytes[..bytes.len().min(MAX_HEAD)]) {
        Ok(httparse::Status::Complete(len)) => match (request.method, request.path, request.version) {
            (Some(method), Some(target), Some(version)) => {
                let headers = request.headers.iter().map(|h| (h.name, h.value)).collect();
                Ok(Parsed::Complete { request: Request { method, target, version, headers }, len })
            }
            _ => Err(malformed("invalid request line")),
        },
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD => Err(too_large()),
        Ok(httparse::Status::Partial) => Ok(Parsed::Incomplete),
        Err(httparse::Error::TooManyHeaders) => {
            Err(Refusal::new(431, format!("the request has more than {MAX_HEADERS} headers")))
        }
        Err(httparse::Error::Version) => Err(Refusal::new(505, "this server speaks HTTP/1.1")),
        Err(httparse::Error::HeaderName) => Err(malformed("invalid header name")),
        Err(httparse::Error::HeaderValue) => Err(malformed("invalid header value")),
        Err(_) => Err(malformed("invalid request line")),
    }
}

/// Holds a request against the rules of RFC 6455, section 4.2.1, and the server's own.
///
/// A request without `Origin` passes: browsers always send one, so it comes from another program, which could write
/// any. The header protects browsers' users from foreign pages; it doesn't tell who connects.
pub fn check<'b>(request: &Request<'b>, rules: &Rules<'_>) -> Result<Upgrade<'b>, Refusal> {
    check_http(request, rules.path)?;
    let accept = check_upgrade(request)?;
    check_origin(request, rules.allowed_origins)?;
    let protocols = offered(request)?;
    let chosen = match rules.subprotocols {
        Some(spoken) => spoken.iter().find_map(|ours| protocols.iter().copied().find(|theirs| theirs == ours)),
        // A browser fails a connection that leaves its offer unanswered.
        None => protocols.first().copied(),
    };
    Ok(Upgrade { accept, protocols, chosen })
}

/// What any request must be: HTTP/1.1, for a host, to that path, without a body.
fn check_http(request: &Request<'_>, path: &str) -> Result<(), Refusal> {
    if request.version == 0 {
        return Err(Refusal::new(
            505,
            "WebSocket needs HTTP/1.1, but the request is HTTP/1.0 (a proxy may be set to it: nginx needs \
             \"proxy_http_version 1.1\")",
        ));
    }
    if request.only("Host")?.is_none() {
        return Err(Refusal::new(400, "the Host header is missing"));
    }
    if request.method != "GET" {
        return Err(Refusal::new(405, "WebSocket connections are opened by GET"));
    }
    if request.path() != path {
        return Err(Refusal::new(404, "nothing is served at this path"));
    }
    let empty = request.all("Content-Length").all(|length| length.trim_ascii() == b"0");
    if !empty || request.header("Transfer-Encoding").is_some() {
        return Err(Refusal::new(400, "the request announces a body (Content-Length or Transfer-Encoding)"));
    }
    Ok(())
}

/// What opens a WebSocket connection. Returns the proof that the key was read (RFC 6455, section 4.2.2).
fn check_upgrade(request: &Request<'_>) -> Result<String, Refusal> {
    if !request.lists("Upgrade", "websocket") {
        return Err(Refusal::new(
            426,
            "this is a WebSocket server: expected \"Upgrade: websocket\" (a proxy in front must pass it on)",
        ));
    }
    if !request.lists("Connection", "upgrade") {
        return Err(Refusal::new(
            426,
            "this is a WebSocket server: expected \"Connection: Upgrade\" (a proxy in front must pass it on)",
        ));
    }
    match request.only("Sec-WebSocket-Version")? {
        Some(b"13") => {}
        Some(_) => return Err(Refusal::new(426, "Sec-WebSocket-Version is not 13")),
        None => return Err(Refusal::new(426, "Sec-WebSocket-Version is missing, expected 13")),
    }
    match request.only("Sec-WebSocket-Key")? {
        Some(key) if is_key(key) => Ok(derive_accept_key(key)),
        Some(_) => Err(Refusal::new(400, "Sec-WebSocket-Key is not the base64 of 16 bytes")),
        None => Err(Refusal::new(400, "Sec-WebSocket-Key is missing, expected the base64 of 16 bytes")),
    }
}

/// Whether it is the base64 of 16 bytes. The 4 bits left over may be anything: an example of RFC 6455 itself
/// (`AQIDBAUGBwgJCgsMDQ4PEC==`, section 4.1) sets some.
fn is_key(key: &[u8]) -> bool {
    let digit = |b: &u8| b.is_ascii_alphanumeric() || *b == b'+' || *b == b'/';
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(digit)
}

fn check_origin(request: &Request<'_>, allowed: &[String]) -> Result<(), Refusal> {
    let Some(origin) = request.only("Origin")? else { return Ok(()) };
    if allowed.is_empty() || allowed.iter().any(|a| a.as_bytes().eq_ignore_ascii_case(origin)) {
        return Ok(());
    }
    let shown: String = String::from_utf8_lossy(origin).chars().take(200).flat_map(char::escape_debug).collect();
    Err(Refusal::new(403, format!("the Origin \"{shown}\" may not connect here: it is not among allowedOrigins")))
}

/// The subprotocols that the client offers (RFC 6455, section 4.2.1, point 8).
fn offered<'b>(request: &Request<'b>) -> Result<Vec<&'b str>, Refusal> {
    request
        .list("Sec-WebSocket-Protocol")
        .map(|word| {
            std::str::from_utf8(word)
                .ok()
                .filter(|word| word.bytes().all(is_token))
                .ok_or_else(|| Refusal::new(400, "Sec-WebSocket-Protocol holds a name that is not an HTTP token"))
        })
        .collect()
}

/// A character of a token (RFC 9110, section 5.6.2).
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// The entries of all `X-Forwarded-For` headers from the last, which the nearest proxy wrote, to the first.
///
/// An entry that is not UTF-8 is given as the empty text, and not left out: nobody may make a proxy's entry look like
/// its neighbour's.
pub fn forwarded_for<'b>(request: &Request<'b>) -> impl Iterator<Item = &'b str> {
    request.list("X-Forwarded-For").rev().map(|entry| std::str::from_utf8(entry).unwrap_or_default())
}

/// The response that opens the connection (RFC 6455, section 4.2.2): frames follow it at once.
///
/// `protocol` is what the server speaks, [`Upgrade::chosen`] if it leaves that to the rules. One that the client did
/// not offer is left out, since a client fails a connection that answers what it didn't ask.
pub fn accept_response(upgrade: &Upgrade<'_>, protocol: Option<&str>) -> Vec<u8> {
    let mut response =
        String::from("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
    let _ = write!(response, "Sec-WebSocket-Accept: {}\r\n", upgrade.accept);
    if let Some(protocol) = protocol.filter(|p| upgrade.protocols.contains(p)) {
        let _ = write!(response, "Sec-WebSocket-Protocol: {protocol}\r\n");
    }
    response.push_str("\r\n");
    response.into_bytes()
}

/// A whole response that refuses a request with that status and text, after which the connection closes.
pub fn refuse(status: u16, text: &str) -> Vec<u8> {
    let (reason, extra) = match status {
        400 => ("Bad Request", ""),
        401 => ("Unauthorized", ""),
        403 => ("Forbidden", ""),
        404 => ("Not Found", ""),
        405 => ("Method Not Allowed", "Allow: GET\r\n"),
        408 => ("Request Timeout", ""),
        // Whoever sends Upgrade must name it in Connection too (RFC 9110, section 7.8).
        426 => ("Upgrade Required", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"),
        429 => ("Too Many Requests", ""),
        431 => ("Request Header Fields Too Large", ""),
        500 => ("Internal Server Error", ""),
        503 => ("Service Unavailable", ""),
        505 => ("HTTP Version Not Supported", ""),
        _ => ("Refused", ""),
    };
    let length = text.len() + 1;
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n{extra}\r\n{text}\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "GET /ws?room=1 HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    const ANY: Rules<'_> = Rules { path: "/ws", allowed_origins: &[], subprotocols: None };

    /// Parses and checks a head without its last line; gives the response's chosen protocol or the status and text.
    fn judge(head: &str, rules: &Rules<'_>) -> Result<Option<String>, Refusal> {
        let bytes = format!("{head}\r\n").into_bytes();
        match parse(&bytes)? {
            Parsed::Complete { request, len } => {
                assert_eq!(len, bytes.len());
                check(&request, rules).map(|upgrade| upgrade.chosen.map(String::from))
            }
            Parsed::Incomplete => panic!("incomplete: {head}"),
        }
    }

    fn with(extra: &str) -> Result<Option<String>, Refusal> {
        judge(&format!("{HEAD}{extra}\r\n"), &ANY)
    }

    fn replaced(from: &str, to: &str) -> Result<Option<String>, Refusal> {
        assert!(HEAD.contains(from));
        judge(&HEAD.replace(from, to), &ANY)
    }

    #[track_caller]
    fn refused(result: Result<Option<String>, Refusal>, status: u16, text: &str) {
        let refusal = result.unwrap_err();
        assert_eq!(refusal.status, status, "{refusal}");
        assert!(refusal.text.contains(text), "{refusal}");
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let bytes =
            format!("{HEAD}Origin: http://example.com\r\nSec-WebSocket-Protocol: chat, superchat\r\n\r\nframes");
        let Parsed::Complete { request, len } = parse(bytes.as_bytes()).unwrap() else { panic!() };
        assert_eq!(len, bytes.len() - "frames".len());
        assert_eq!((request.path(), request.query()), ("/ws", Some("room=1")));
        assert_eq!(request.header("ORIGIN"), Some(&b"http://example.com"[..]));
        assert_eq!(request.headers().next(), Some(("Host", &b"example.com"[..])));
        let upgrade = check(&request, &ANY).unwrap();
        assert_eq!(upgrade.protocols, ["chat", "superchat"]);
        assert_eq!(
            String::from_utf8(accept_response(&upgrade, Some("superchat"))).unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: superchat\r\n\r\n"
        );
    }

    #[test]
    fn every_part_of_a_head_is_incomplete() {
        let bytes = format!("{HEAD}\r\n").into_bytes();
        for end in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..end]), Ok(Parsed::Incomplete)), "{end}");
        }
    }

    #[test]
    fn malformed_requests_are_refused() {
        refused(replaced("GET /ws", "GET  /ws"), 400, "request line");
        refused(with("A B: c"), 400, "header name");
        refused(with("A: \x01"), 400, "header value");
        refused(with("A: b\r\n folded"), 400, "header name");
        assert_eq!(parse(b"\x16\x03\x01\x02\x00\x01").unwrap_err().status, 400, "a TLS hello");
    }

    #[test]
    fn a_head_has_a_largest_size_and_number_of_headers() {
        let line = |len: usize| format!("A: {}", "x".repeat(len));
        let fits = MAX_HEAD - HEAD.len() - "A: \r\n\r\n".len();
        assert_eq!(with(&line(fits)), Ok(None));
        refused(with(&line(fits + 1)), 431, "16384 bytes");
        refused(with(&line(fits + 1000)), 431, "16384 bytes");
        assert_eq!(with(&vec!["A: b"; MAX_HEADERS - 5].join("\r\n")), Ok(None));
        refused(with(&vec!["A: b"; MAX_HEADERS - 4].join("\r\n")), 431, "100 headers");
    }

    #[test]
    fn other_versions_of_http_are_refused() {
        refused(replaced("HTTP/1.1", "HTTP/1.0"), 505, "proxy_http_version");
        refused(replaced("HTTP/1.1", "HTTP/2.0"), 505, "HTTP/1.1");
    }

    #[test]
    fn other_methods_are_refused() {
        refused(replaced("GET", "POST"), 405, "GET");
        refused(replaced("GET", "get"), 405, "GET");
    }

    #[test]
    fn other_paths_are_refused() {
        for path in ["/", "/ws/", "/WS", "/wsx", "/w%73", "*"] {
            refused(replaced("/ws", path), 404, "path");
        }
        assert_eq!(replaced("/ws?room=1", "/ws"), Ok(None));
        assert_eq!(replaced("/ws", "http://example.com/ws"), Ok(None), "RFC 9112, section 3.2.2");
        assert_eq!(judge(&HEAD.replace("/ws", "http://example.com"), &Rules { path: "/", ..ANY }), Ok(None));
    }

    #[test]
    fn upgrade_and_connection_are_lists_of_words() {
        refused(replaced("Upgrade: websocket\r\n", ""), 426, "Upgrade: websocket");
        refused(replaced("Upgrade: websocket", "Upgrade: h2c"), 426, "Upgrade: websocket");
        refused(replaced("Connection: Upgrade\r\n", ""), 426, "Connection: Upgrade");
        refused(replaced("Connection: Upgrade", "Connection: keep-alive"), 426, "Connection: Upgrade");
        assert_eq!(replaced("Connection: Upgrade", "Connection: keep-alive, uPGRADE"), Ok(None));
        assert_eq!(replaced("Connection: Upgrade", "Connection: close\r\nconnection: upgrade"), Ok(None));
        assert_eq!(replaced("Upgrade: websocket", "Upgrade: h2c,WebSocket"), Ok(None));
    }

    #[test]
    fn the_websocket_version_is_13() {
        refused(replaced("Sec-WebSocket-Version: 13\r\n", ""), 426, "missing");
        refused(replaced("Version: 13", "Version: 8"), 426, "not 13");
        refused(with("Sec-WebSocket-Version: 13"), 400, "Sec-WebSocket-Version is given more than once");
    }

    #[test]
    fn the_key_is_16_bytes_in_base64() {
        refused(replaced("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400, "Sec-WebSocket-Key is missing");
        for bad in [
            "",
            "dGhlIHNhbXBsZSBub25jZQ",
            "dGhlIHNhbXBsZSBub25j",
            "dGhlIHNhbXBsZSBub25jZ===",
            "dGhl IHNhbXBsZSBub25jZ==",
        ] {
            refused(replaced("dGhlIHNhbXBsZSBub25jZQ==", bad), 400, "base64 of 16 bytes");
        }
        refused(with("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="), 400, "more than once");
        assert_eq!(replaced("dGhlIHNhbXBsZSBub25jZQ==", "AQIDBAUGBwgJCgsMDQ4PEC=="), Ok(None));
    }

    #[test]
    fn one_host_is_named() {
        refused(replaced("Host: example.com\r\n", ""), 400, "Host");
        refused(with("Host: b"), 400, "Host is given more than once");
    }

    #[test]
    fn a_body_is_refused() {
        refused(with("Content-Length: 1"), 400, "Content-Length");
        refused(with("Content-Length: 0\r\nContent-Length: 5"), 400, "Content-Length");
        refused(with("Transfer-Encoding: chunked"), 400, "Transfer-Encoding");
        assert_eq!(with("Content-Length: 0"), Ok(None));
    }

    #[test]
    fn foreign_origins_are_refused() {
        let allowed = [String::from("https://example.com")];
        let judged = |extra: &str| judge(&format!("{HEAD}{extra}"), &Rules { allowed_origins: &allowed, ..ANY });
        assert_eq!(judged("Origin: HTTPS://Example.com\r\n"), Ok(None));
        assert_eq!(judged(""), Ok(None), "no browser");
        for bad in ["https://example.com.evil", "http://example.com", "null", "", "https://example.com:8443"] {
            refused(judged(&format!("Origin: {bad}\r\n")), 403, &format!("the Origin \"{bad}\""));
        }
        refused(judged("Origin: https://example.com\r\nOrigin: https://evil\r\n"), 400, "more than once");
        assert_eq!(with("Origin: https://anywhere"), Ok(None), "no list, any origin");
    }

    #[test]
    fn the_servers_preferred_subprotocol_is_chosen() {
        let spoken = ["v2".to_string(), "v1".to_string()];
        let judged = |offer: &str| judge(&format!("{HEAD}{offer}"), &Rules { subprotocols: Some(&spoken), ..ANY });
        assert_eq!(judged("Sec-WebSocket-Protocol: v1, v2\r\n"), Ok(Some("v2".into())));
        assert_eq!(judged("Sec-WebSocket-Protocol: v0\r\nSec-WebSocket-Protocol: v1\r\n"), Ok(Some("v1".into())));
        assert_eq!(judged("Sec-WebSocket-Protocol: V1\r\n"), Ok(None), "case matters");
        assert_eq!(judged(""), Ok(None));
        assert_eq!(with("Sec-WebSocket-Protocol: , b, a"), Ok(Some("b".into())), "no list, the client's first");
        refused(with("Sec-WebSocket-Protocol: a b"), 400, "Sec-WebSocket-Protocol");
        refused(with("Sec-WebSocket-Protocol: a, \u{e9}"), 400, "Sec-WebSocket-Protocol");
    }

    #[test]
    fn a_response_names_only_what_the_client_offered() {
        let upgrade = Upgrade { accept: "x".into(), protocols: vec!["chat"], chosen: None };
        let plain = accept_response(&upgrade, None);
        assert_eq!(accept_response(&upgrade, Some("other")), plain);
        assert_eq!(accept_response(&upgrade, Some("chat\r\nSet-Cookie: a=b")), plain);
        assert!(
            accept_response(&upgrade, Some("chat")).ends_with(b"Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\n")
        );
    }

    #[test]
    fn a_refusal_is_a_whole_response() {
        assert_eq!(
            String::from_utf8(refuse(503, "full\r\nX: y")).unwrap(),
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 11\r\n\
             Connection: close\r\n\r\nfull\r\nX: y\n"
        );
        let text = |status| String::from_utf8(Refusal::new(status, "").response()).unwrap();
        assert!(text(405).contains("\r\nAllow: GET\r\n"));
        assert!(text(426).contains("\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"));
    }

    #[test]
    fn forwarded_for_is_read_from_the_nearest_proxy_back() {
        let bytes =
            b"GET / HTTP/1.1\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nA: b\r\nx-forwarded-for: \xff ,, ::1\r\n\r\n";
        let Parsed::Complete { request, .. } = parse(bytes).unwrap() else { panic!() };
        assert_eq!(forwarded_for(&request).collect::<Vec<_>>(), ["::1", "", "2.2.2.2", "1.1.1.1"]);
    }
}
