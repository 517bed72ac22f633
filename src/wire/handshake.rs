//! The HTTP request that opens a WebSocket connection (RFC 6455, section 4.2), and the answers to it.
//!
//! [`parse`] reads the request from the bytes that have arrived, [`check`] checks it against a server's [`Rules`], and
//! [`accept_response`], [`Refusal::response`] and [`refuse`] build the answer. Callers decide who the client is behind
//! its proxies, how long to wait for the request and how many connections there may be. The security rule: a request
//! was written by a stranger; only [`accept_response`] copies any of it into a header, and only a protocol name that
//! [`check`] has found to be a plain token.

use std::fmt::Write;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::extensions::{self, Agreed, Malformed, is_token};
use super::host;

/// The most bytes of a request's head.
pub const MAX_HEAD: usize = 16 * 1024;
/// The most headers of a request.
pub const MAX_HEADERS: usize = 100;

/// The result of [`parse`].
#[derive(Debug)]
pub enum Parsed<'b> {
    /// Valid so far, but not complete.
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
    /// A head that another parser has read.
    pub fn new(method: &'b str, target: &'b str, version: u8, headers: Vec<(&'b str, &'b [u8])>) -> Request<'b> {
        Request { method, target, version, headers }
    }

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

    /// The target's authority, where that is a whole URL: proxies may send one, which servers must take too (RFC 9112,
    /// section 3.2.2).
    pub fn authority(&self) -> Option<&'b str> {
        self.split_url().map(|(authority, _)| authority)
    }

    fn split_url(&self) -> Option<(&'b str, &'b str)> {
        let (scheme, rest) = self.target.split_once("://")?;
        let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
        known.then(|| rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())))
    }

    fn split_target(&self) -> (&'b str, Option<&'b str>) {
        let start = self.split_url().map_or(self.target, |(_, start)| start);
        let (path, query) = match start.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (start, None),
        };
        (if path.is_empty() { "/" } else { path }, query)
    }

    /// The elements of a header that is a list of words, over all headers of that name.
    pub(super) fn list<'n>(&self, name: &'n str) -> impl DoubleEndedIterator<Item = &'b [u8]> + use<'_, 'b, 'n> {
        self.all(name)
            .flat_map(|value| value.split(|b| *b == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|word| !word.is_empty())
    }

    /// Whether such a list has that word, in any case.
    pub(super) fn lists(&self, name: &str, word: &str) -> bool {
        self.list(name).any(|w| w.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// The value of a header that may occur only once.
    pub(super) fn only(&self, name: &str) -> Result<Option<&'b [u8]>, Refusal> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (Some(_), Some(_)) => Err(Refusal::new(400, format!("{name} is given more than once"))),
            (value, _) => Ok(value.map(<[u8]>::trim_ascii)),
        }
    }
}

/// The requests that a server accepts.
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
    /// How messages may be compressed; None unless the caller asks for it by [`Upgrade::agree`].
    pub deflate: Option<Agreed>,
}

impl Upgrade<'_> {
    /// Takes the client's offer to compress messages, if it makes one that can be taken.
    pub fn agree(&mut self, request: &Request<'_>) -> Result<(), Refusal> {
        let malformed =
            |Malformed| Refusal::new(400, "Sec-WebSocket-Extensions is malformed, expected: name; parameter=value");
        self.deflate = extensions::deflate_of(request.all("Sec-WebSocket-Extensions")).map_err(malformed)?;
        Ok(())
    }
}

/// The request can't be served. Answer with [`Refusal::response`] and close.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// What was wrong and what is expected, for the client's author.
    pub text: String,
}

impl Refusal {
    pub(super) fn new(status: u16, text: impl Into<String>) -> Refusal {
        Refusal { status, text: text.into() }
    }

    /// The whole response.
    pub fn response(&self) -> Vec<u8> {
        refuse(self.status, &self.text)
    }

    /// The whole response, which asks the client to come back after so many seconds (RFC 9110, section 10.2.3).
    pub fn response_after(&self, seconds: u32) -> Vec<u8> {
        response(self.status, &self.text, &format!("Retry-After: {seconds}\r\n"))
    }

    /// The whole response to a request of that method. One to HEAD has no body, but the headers of one that has (RFC
    /// 9110, section 9.3.2).
    pub fn response_to(&self, method: &str) -> Vec<u8> {
        let mut response = self.response();
        if method == "HEAD" {
            response.truncate(response.len() - self.text.len() - 1);
        }
        response
    }
}

/// Reads the head of a request from the front of `bytes` (RFC 9112, sections 2 to 5). Call it again with more bytes
/// while it is incomplete. It refuses bytes that can't become a head, or exceed [`MAX_HEAD`], as early as possible.
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

/// Checks a request against the rules of RFC 6455, section 4.2.1, and the server's own.
///
/// A request without `Origin` passes: browsers always send one, so it comes from another program, which could write
/// any. The header protects browsers' users from foreign pages; it doesn't tell who connects.
pub fn check<'b>(request: &Request<'b>, rules: &Rules<'_>) -> Result<Upgrade<'b>, Refusal> {
    check_http(request, rules.path)?;
    let accept = check_upgrade(request)?;
    if request.method != "GET" {
        return Err(Refusal::new(426, "WebSocket connections are opened by GET"));
    }
    check_origin(request, rules.allowed_origins)?;
    let protocols = offered(request)?;
    let chosen = match rules.subprotocols {
        Some(spoken) => spoken.iter().find_map(|ours| protocols.iter().copied().find(|theirs| theirs == ours)),
        // A browser fails a connection that leaves its offer unanswered.
        None => protocols.first().copied(),
    };
    Ok(Upgrade { accept, protocols, chosen, deflate: None })
}

/// Checks what any request must be: HTTP/1.1, for one host, to that path, without a body. HEAD asks what GET would be
/// answered.
fn check_http(request: &Request<'_>, path: &str) -> Result<(), Refusal> {
    if request.version == 0 {
        return Err(Refusal::new(
            505,
            "WebSocket needs HTTP/1.1, but the request is HTTP/1.0 (a proxy may be set to it: nginx needs \
             \"proxy_http_version 1.1\")",
        ));
    }
    host::of_request(request.version, request.all("Host"), request.authority()).map_err(|e| Refusal::new(400, e))?;
    if !is_known_coding(request.all("Transfer-Encoding")) {
        return Err(Refusal::new(501, UNKNOWN_CODING));
    }
    if !["GET", "HEAD"].contains(&request.method) {
        return Err(Refusal::new(405, "WebSocket connections are opened by GET"));
    }
    if request.path() != path {
        return Err(Refusal::new(404, NOTHING_HERE));
    }
    let empty = request.all("Content-Length").all(|length| length.trim_ascii() == b"0");
    if !empty || request.header("Transfer-Encoding").is_some() {
        return Err(Refusal::new(400, BODY));
    }
    Ok(())
}

/// What is said of another path.
pub(super) const NOTHING_HERE: &str = "nothing is served at this path";
/// What is said of a request with a body that opens a connection.
pub(super) const BODY: &str = "the request announces a body (Content-Length or Transfer-Encoding)";

/// Checks the headers that open a WebSocket connection. Returns the proof that the key was read (RFC 6455, section
/// 4.2.2).
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

/// The error for a request that fails [`is_known_coding`]; 501 by RFC 9112, section 6.1.
pub const UNKNOWN_CODING: &str = "the request's Transfer-Encoding is not understood: chunked is the only one";

/// Whether a body comes plainly or in chunks, by the values of all `Transfer-Encoding` headers.
pub fn is_known_coding<'a>(headers: impl IntoIterator<Item = &'a [u8]>) -> bool {
    headers.into_iter().all(|value| value.trim_ascii().eq_ignore_ascii_case(b"chunked"))
}

/// Whether an `Origin` is among the listed ones, which are spelt as browsers write them.
pub fn is_listed(origin: &[u8], listed: &[String]) -> bool {
    listed.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(origin.trim_ascii()))
}

/// A value that a stranger wrote, for a message: escaped, and cut when long.
pub fn shown(value: &[u8]) -> String {
    String::from_utf8_lossy(value).chars().take(200).flat_map(char::escape_debug).collect()
}

/// Checks that pages of the request's origin may connect.
pub(super) fn check_origin(request: &Request<'_>, allowed: &[String]) -> Result<(), Refusal> {
    let Some(origin) = request.only("Origin")? else { return Ok(()) };
    if allowed.is_empty() || is_listed(origin, allowed) {
        return Ok(());
    }
    let shown = shown(origin);
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
    if let Some(agreed) = &upgrade.deflate {
        let _ = write!(response, "Sec-WebSocket-Extensions: {}\r\n", agreed.answer());
    }
    response.push_str("\r\n");
    response.into_bytes()
}

/// A whole response that refuses a request with that status and text, after which the connection closes.
pub fn refuse(status: u16, text: &str) -> Vec<u8> {
    response(status, text, "")
}

/// `further`: header lines.
fn response(status: u16, text: &str, further: &str) -> Vec<u8> {
    let extra = match status {
        405 => "Allow: GET, HEAD\r\n",
        426 => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        _ => "",
    };
    // A sender of Upgrade must name it in Connection too (RFC 9110, section 7.8).
    let connection = if status == 426 { "Upgrade, close" } else { "close" };
    let length = text.len() + 1;
    let reason = reason(status);
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\n{extra}{further}\r\n{text}\n"
    )
    .into_bytes()
}

/// The words of a status that refuses.
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Refused",
    }
}

#[cfg(test)]
mod tests;
