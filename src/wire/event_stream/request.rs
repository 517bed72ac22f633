//! The requests that clients of event streams make, and the answers to them: a GET opens a stream, a POST sends a message by
//! the client that has one, an OPTIONS asks for another origin's page whether it may (the CORS protocol of WHATWG Fetch).
//!
//! A request was written by a stranger. Of it only the origin is copied into a header of an answer, and only one of visible
//! ASCII characters.

use percent_encoding::percent_decode_str;
use std::borrow::Cow;

use super::super::handshake::{self, Refusal, Request, Rules};
use super::super::host;
use crate::ids::ClientId;
use crate::message::Kind;
use crate::secret::token::Token;

/// The header of a POST with the id of the client that it is for.
pub const CLIENT: &str = "Connmix-Client";
/// The header of a POST with the token that this client was told.
pub const TOKEN: &str = "Connmix-Token";
/// The part of the query that stands for the header `Last-Event-ID`, which scripts of a page can't set.
const LAST_EVENT_ID: &str = "lastEventId";
/// The longest origin that is answered.
const MAX_ORIGIN: usize = 512;

/// Whether a request asks for an event stream.
pub fn opens(request: &Request<'_>) -> bool {
    let is_stream = |media: &[u8]| {
        let name = media.split(|b| *b == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    };
    request.method == "GET" && request.list("Accept").any(is_stream) && !request.lists("Upgrade", "websocket")
}

/// Whether a request sends a message, or asks whether it may.
pub fn sends(request: &Request<'_>) -> bool {
    ["POST", "OPTIONS"].contains(&request.method)
}

/// The position from which a client wants to go on: of `Last-Event-ID`, or else the query's `lastEventId`.
pub fn last_event_id<'b>(request: &Request<'b>) -> Option<Cow<'b, [u8]>> {
    let header = request.header("Last-Event-ID").map(Cow::Borrowed);
    let fields =
        || request.query()?.split('&').filter_map(|field| field.split_once('=')).find(|f| f.0 == LAST_EVENT_ID);
    header.or_else(|| fields().map(|(_, value)| percent_decode_str(value).into())).filter(|id| !id.is_empty())
}

/// An origin that may read the answers; None: the request comes from no page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin<'b>(Option<&'b [u8]>);

impl<'b> Origin<'b> {
    /// The origin of a request, if the server's rules let it in.
    pub fn of(request: &Request<'b>, rules: &Rules<'_>) -> Result<Origin<'b>, Refusal> {
        handshake::check_origin(request, rules.allowed_origins)?;
        let origin = request.only("Origin")?;
        if origin.is_some_and(|origin| origin.len() > MAX_ORIGIN || !origin.iter().all(u8::is_ascii_graphic)) {
            return Err(Refusal::new(403, "the Origin is malformed, expected: https://example.com"));
        }
        Ok(Origin(origin))
    }

    /// The headers by which the browser lets its page read the answer, cookies or not: a page of that origin might have a
    /// WebSocket with them.
    fn write(self, response: &mut Vec<u8>) {
        if let Some(origin) = self.0 {
            response.extend_from_slice(b"Access-Control-Allow-Origin: ");
            response.extend_from_slice(origin);
            response.extend_from_slice(b"\r\nAccess-Control-Allow-Credentials: true\r\n");
        }
        response.extend_from_slice(b"Vary: Origin\r\n");
    }
}

/// Checks a request that [`opens`] a stream.
pub fn check<'b>(request: &Request<'b>, rules: &Rules<'_>) -> Result<Origin<'b>, Refusal> {
    check_target(request, rules)?;
    let empty = request.all("Content-Length").all(|length| length.trim_ascii() == b"0");
    if !empty || request.header("Transfer-Encoding").is_some() {
        return Err(Refusal::new(400, handshake::BODY));
    }
    Origin::of(request, rules)
}

fn check_target(request: &Request<'_>, rules: &Rules<'_>) -> Result<(), Refusal> {
    host::of_request(request.version, request.all("Host"), request.authority()).map_err(|e| Refusal::new(400, e))?;
    if !handshake::is_known_coding(request.all("Transfer-Encoding")) {
        return Err(Refusal::new(501, handshake::UNKNOWN_CODING));
    }
    if request.path() != rules.path {
        return Err(Refusal::new(404, handshake::NOTHING_HERE));
    }
    Ok(())
}

/// The head of the response that opens a stream: events follow. The headers keep caches and proxies from holding them back.
pub fn accept_response(origin: Origin<'_>) -> Vec<u8> {
    let response = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store, no-transform\r\n\
                         X-Accel-Buffering: no\r\n"
        .to_vec();
    finish(response, origin, false)
}

/// A message that a client wants to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Post {
    /// By the client with that id.
    pub client: ClientId,
    /// It was told this.
    pub token: Token,
    /// What its body is.
    pub kind: Kind,
    /// The body's length.
    pub length: usize,
    /// The client waits with the body until it is asked for it (`Expect: 100-continue`).
    pub waits: bool,
}

/// Reads the head of a POST, whose body may have that many bytes.
pub fn post(request: &Request<'_>, rules: &Rules<'_>, most: usize) -> Result<Post, Refusal> {
    check_target(request, rules)?;
    let client = request.only(CLIENT)?.ok_or_else(|| missing(CLIENT, "client"))?;
    let client = ClientId::parse(client).ok_or_else(|| Refusal::new(400, format!("{CLIENT} is no client's id")))?;
    let token = request.only(TOKEN)?.ok_or_else(|| missing(TOKEN, "token"))?;
    let token = Token::parse(token).ok_or_else(|| Refusal::new(400, format!("{TOKEN} is no token")))?;
    if request.header("Transfer-Encoding").is_some() {
        return Err(Refusal::new(411, "a message in chunks is not taken, expected Content-Length"));
    }
    let length = request.only("Content-Length")?.ok_or_else(|| Refusal::new(411, "Content-Length is missing"))?;
    let digits = length.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(length).ok()).flatten();
    let length: u64 = digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Refusal::new(400, "Content-Length is no number of bytes"))?;
    let length = usize::try_from(length).ok().filter(|length| *length <= most);
    let length =
        length.ok_or_else(|| Refusal::new(413, format!("a message may have {most} bytes (maxMessageSize)")))?;
    let media = request.header("Content-Type").unwrap_or_default().split(|b| *b == b';').next().unwrap_or_default();
    let binary = media.trim_ascii().eq_ignore_ascii_case(b"application/octet-stream");
    let kind = if binary { Kind::Binary } else { Kind::Text };
    Ok(Post { client, token, kind, length, waits: request.version > 0 && request.lists("Expect", "100-continue") })
}

fn missing(header: &str, what: &str) -> Refusal {
    Refusal::new(
        400,
        format!("{header} is missing, expected the {what} that the event \"connected\" of the stream has"),
    )
}

/// Asks for the body of a POST that waits.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Answers a POST whose message was taken.
pub fn taken(origin: Origin<'_>, keep: bool) -> Vec<u8> {
    finish(b"HTTP/1.1 204 No Content\r\n".to_vec(), origin, keep)
}

/// Answers a POST whose message was not taken.
pub fn refused(refusal: &Refusal, origin: Origin<'_>, keep: bool) -> Vec<u8> {
    let Refusal { status, text } = refusal;
    let retry = if *status == 429 { "Retry-After: 1\r\n" } else { "" };
    let response = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n{retry}",
        handshake::reason(*status),
        text.len() + 1
    );
    let mut response = finish(response.into_bytes(), origin, keep);
    response.extend_from_slice(text.as_bytes());
    response.push(b'\n');
    response
}

/// Answers an OPTIONS: what pages of that origin may send. The connection ends with it.
pub fn preflight(request: &Request<'_>, rules: &Rules<'_>) -> Result<Vec<u8>, Refusal> {
    check_target(request, rules)?;
    let origin = Origin::of(request, rules)?;
    let response = format!(
        "HTTP/1.1 204 No Content\r\nAllow: GET, HEAD, POST, OPTIONS\r\nAccess-Control-Allow-Methods: GET, POST\r\n\
         Access-Control-Allow-Headers: {CLIENT}, {TOKEN}, Content-Type, Last-Event-ID, traceparent, tracestate\r\n\
         Access-Control-Max-Age: 7200\r\n"
    );
    Ok(finish(response.into_bytes(), origin, false))
}

/// Ends a head. `keep`: the client may send its next request on the same connection.
fn finish(mut head: Vec<u8>, origin: Origin<'_>, keep: bool) -> Vec<u8> {
    origin.write(&mut head);
    head.extend_from_slice(if keep { b"\r\n".as_slice() } else { b"Connection: close\r\n\r\n" });
    head
}

/// Whether a client may send its next request on the same connection (RFC 9112, section 9.3).
pub fn keeps(request: &Request<'_>) -> bool {
    request.version > 0 && !request.lists("Connection", "close")
}

#[cfg(test)]
mod tests {
    use super::super::super::handshake::{Parsed, parse};
    use super::*;

    const RULES: Rules<'static> = Rules { path: "/ws", allowed_origins: &[], subprotocols: None };

    fn with<T>(head: &str, use_it: impl FnOnce(&Request<'_>) -> T) -> T {
        let head = head.replace('\n', "\r\n") + "\r\n\r\n";
        match parse(head.as_bytes()) {
            Ok(Parsed::Complete { request, .. }) => use_it(&request),
            other => panic!("{head}: {other:?}"),
        }
    }

    #[test]
    fn a_stream_is_asked_for_by_what_it_accepts() {
        for (head, opened) in [
            ("GET /ws HTTP/1.1\nAccept: text/event-stream", true),
            ("GET /ws HTTP/1.1\nAccept: text/html, Text/Event-Stream; q=0.9", true),
            ("GET /ws HTTP/1.1\nAccept: */*", false),
            ("POST /ws HTTP/1.1\nAccept: text/event-stream", false),
            ("GET /ws HTTP/1.1\nAccept: text/event-stream\nUpgrade: websocket", false),
        ] {
            assert_eq!(with(head, opens), opened, "{head}");
        }
    }

    #[test]
    fn a_stream_is_opened_over_http_1_0_too_but_not_anywhere() {
        let status = |head: &str| with(head, |request| check(request, &RULES).map_or_else(|e| e.status, |_| 200));
        assert_eq!(status("GET /ws?a=b HTTP/1.1\nHost: h"), 200);
        assert_eq!(status("GET /ws HTTP/1.0"), 200);
        assert_eq!(status("GET /ws HTTP/1.1"), 400);
        assert_eq!(status("GET /other HTTP/1.1\nHost: h"), 404);
        assert_eq!(status("GET /ws HTTP/1.1\nHost: h\nContent-Length: 1"), 400);
        assert_eq!(status("GET /ws HTTP/1.1\nHost: h\nTransfer-Encoding: gzip"), 501);
        assert_eq!(status("GET /ws HTTP/1.1\nHost: h\nOrigin: a b"), 403);
        let listed = ["https://example.com".to_owned()];
        let rules = Rules { allowed_origins: &listed, ..RULES };
        for (origin, status) in [("https://example.com", 200), ("https://example.org", 403)] {
            let head = format!("GET /ws HTTP/1.1\nHost: h\nOrigin: {origin}");
            assert_eq!(with(&head, |r| check(r, &rules).map_or_else(|e| e.status, |_| 200)), status);
        }
    }

    #[test]
    fn the_last_event_is_named_by_header_or_query() {
        let id = |head: &str| {
            with(head, |request| last_event_id(request).map(|id| String::from_utf8(id.into_owned()).unwrap()))
        };
        assert_eq!(id("GET /ws HTTP/1.1\nLast-Event-ID: a:1"), Some("a:1".into()));
        assert_eq!(id("GET /ws?x&lastEventId=a%3A1&y=2 HTTP/1.1"), Some("a:1".into()));
        assert_eq!(id("GET /ws?lastEventId=old HTTP/1.1\nlast-event-id: new"), Some("new".into()));
        assert_eq!(id("GET /ws?lastEventId= HTTP/1.1"), None);
        assert_eq!(id("GET /ws HTTP/1.1"), None);
    }

    #[test]
    fn a_message_has_a_client_a_token_and_a_length() {
        let token = Token::random().expose();
        let who = format!("Host: h\n{CLIENT}: 7\n{TOKEN}: {token}");
        let read = |lines: &str| {
            let head = format!("POST /ws HTTP/1.1\n{lines}");
            with(&head, |request| post(request, &RULES, 10)).map_err(|e| e.status)
        };
        let post = read(&format!("{who}\nContent-Length: 10")).unwrap();
        assert_eq!((post.client.get(), post.token.expose()), (7, token.clone()));
        assert_eq!((post.kind, post.length, post.waits), (Kind::Text, 10, false));
        let post =
            read(&format!("{who}\nContent-Length: 0\nContent-Type: application/octet-stream\nExpect: 100-continue"));
        assert!(post.is_ok_and(|post| post.kind == Kind::Binary && post.waits));
        for (lines, status) in [
            (format!("Host: h\n{TOKEN}: {token}\nContent-Length: 1"), 400),
            (format!("Host: h\n{CLIENT}: 7\nContent-Length: 1"), 400),
            (format!("Host: h\n{CLIENT}: x\n{TOKEN}: {token}\nContent-Length: 1"), 400),
            (format!("Host: h\n{CLIENT}: 7\n{TOKEN}: short\nContent-Length: 1"), 400),
            (format!("{who}\n{TOKEN}: {token}\nContent-Length: 1"), 400),
            (who.clone(), 411),
            (format!("{who}\nTransfer-Encoding: chunked"), 411),
            (format!("{who}\nContent-Length: 11"), 413),
            (format!("{who}\nContent-Length: 99999999999999999999999"), 400),
            (format!("{who}\nContent-Length: -1"), 400),
            (format!("{who}\nContent-Length: +1"), 400),
        ] {
            assert_eq!(read(&lines), Err(status), "{lines}");
        }
    }

    #[test]
    fn a_page_of_an_origin_that_may_connect_may_read_the_answers() {
        let head = "OPTIONS /ws HTTP/1.1\nHost: h\nOrigin: https://a.example";
        let said = with(head, |request| preflight(request, &RULES).unwrap());
        let said = String::from_utf8(said).unwrap();
        assert!(
            said.starts_with("HTTP/1.1 204 No Content\r\n") && said.ends_with("\r\nConnection: close\r\n\r\n"),
            "{said}"
        );
        assert!(said.contains("\r\nAccess-Control-Allow-Origin: https://a.example\r\n"), "{said}");
        let refusal = Refusal::new(429, "wait");
        let said = with("POST /ws HTTP/1.1", |request| {
            refused(&refusal, Origin::of(request, &RULES).unwrap(), keeps(request))
        });
        let said = String::from_utf8(said).unwrap();
        assert!(said.starts_with("HTTP/1.1 429 Too Many Requests\r\n") && said.ends_with("\r\n\r\nwait\n"), "{said}");
        assert!(said.contains("\r\nContent-Length: 5\r\nRetry-After: 1\r\n"), "{said}");
        let closing = with("POST /ws HTTP/1.0", |request| taken(Origin(None), keeps(request)));
        assert_eq!(closing, b"HTTP/1.1 204 No Content\r\nVary: Origin\r\nConnection: close\r\n\r\n");
    }
}
