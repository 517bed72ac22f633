//! HTTP requests to other servers: what a request may hold, how it is sent, and its response. `client` bounds the
//! requests under way, `exchange` carries one out, `pool` keeps connections, `socket` is the socket below a connection.
//!
//! An error's text names the method and the server, never the rest of the URL, nor a header: those hold secrets.

mod client;
mod exchange;
mod pool;
mod socket;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE, USER_AGENT};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use crate::telemetry::spans::TraceContext;

pub(super) use client::Http;

/// The longest timeout.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// The longest that a connection may be kept idle, and how long it is kept unless told.
pub const MAX_IDLE: Duration = Duration::from_secs(3600);
const IDLE: Duration = Duration::from_secs(60);
/// The most redirects that can be asked for, and how many are followed unless told.
pub const MAX_REDIRECTS: usize = 10;
/// The longest URL, in bytes, its query included.
const MAX_URL: usize = 16 * 1024;
/// The most headers of a request, cookies and authorization included, and of a response (hyper's own bound).
const MAX_HEADERS: usize = 100;
/// The most cookies that a request may be given.
const MAX_COOKIES: usize = 1000;
/// The longest headers of a request, all names and values together, in bytes.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// The longest body, either way, in bytes.
const MAX_BODY: usize = 16 * 1024 * 1024;
/// Bytes that the bodies of all requests under way may have together, either way.
const MAX_BYTES: usize = 256 * 1024 * 1024;

/// The `User-Agent`, unless the script sets one.
const AGENT: &str = concat!("connmix/", env!("CARGO_PKG_VERSION"));

/// Headers that the engine makes itself from the body; those that a script sets are left out.
const OWN_HEADERS: [&str; 3] = ["content-length", "transfer-encoding", "trailer"];

/// A request that can be sent: every part has been checked.
#[derive(Debug)]
pub struct Request {
    method: Method,
    url: Url,
    headers: HeaderMap,
    cookies: Vec<(Vec<u8>, Vec<u8>)>,
    body: Bytes,
    timeout: Duration,
    follow: usize,
    idle: Duration,
}

impl Request {
    /// The method may have any letter case. The timeout is 10 s.
    pub fn new(method: &[u8], url: &[u8]) -> Result<Request, String> {
        let upper = method.to_ascii_uppercase();
        let method = Method::from_bytes(&upper).ok().filter(|m| m.as_str().len() <= 32 && *m != Method::CONNECT);
        let method = method.ok_or_else(|| format!("no method of HTTP: \"{}\"", shown(&upper)))?;
        Ok(Request {
            method,
            url: read_url(url)?,
            headers: HeaderMap::new(),
            cookies: Vec::new(),
            body: Bytes::new(),
            timeout: Duration::from_secs(10),
            follow: MAX_REDIRECTS,
            idle: IDLE,
        })
    }

    /// Adds to the URL's query.
    pub fn add_query(&mut self, query: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(query).map_err(|_| "the query is not UTF-8")?;
        let text = text.strip_prefix('?').unwrap_or(text);
        let whole = match self.url.query() {
            _ if text.is_empty() => return Ok(()),
            Some(first) if !first.is_empty() => format!("{first}&{text}"),
            _ => text.to_owned(),
        };
        self.url.set_query(Some(&whole));
        if self.url.as_str().len() > MAX_URL { Err(too_long()) } else { Ok(()) }
    }

    /// Sets a header. A value may be any bytes but control characters.
    pub fn set_header(&mut self, name: &[u8], value: &[u8]) -> Result<(), String> {
        let parsed = HeaderName::from_bytes(name).map_err(|_| format!("no name of a header: \"{}\"", shown(name)))?;
        let value = HeaderValue::from_bytes(value)
            .map_err(|_| format!("the header {parsed} holds a line break or another control character"))?;
        if OWN_HEADERS.contains(&parsed.as_str()) {
            return Ok(());
        }
        self.headers.insert(parsed, value);
        self.check_headers()
    }

    /// Adds a cookie.
    pub fn add_cookie(&mut self, name: &[u8], value: &[u8]) -> Result<(), String> {
        // RFC 6265, section 4.1.1, as browsers have it: a space or a comma does no harm.
        if HeaderName::from_bytes(name).is_err() {
            return Err(format!("no name of a cookie: \"{}\"", shown(name)));
        }
        if value.iter().any(|b| b.is_ascii_control() || *b == b';') {
            return Err(format!("the cookie {} holds a semicolon or a control character", shown(name)));
        }
        if self.cookies.len() == MAX_COOKIES {
            return Err(format!("more than {MAX_COOKIES} cookies"));
        }
        self.cookies.push((name.into(), value.into()));
        Ok(())
    }

    /// Sets the credentials (RFC 7617); they win over the URL's `user:password@` and over a header.
    pub fn set_auth(&mut self, username: &[u8], password: &[u8]) -> Result<(), String> {
        if username.contains(&b':') {
            return Err("a username can't hold a colon".into());
        }
        let text = format!("Basic {}", BASE64_STANDARD.encode([username, b":", password].concat()));
        let mut value = HeaderValue::try_from(text).map_err(|_| "the username or password is too long")?;
        value.set_sensitive(true);
        self.headers.insert(AUTHORIZATION, value);
        Ok(())
    }

    /// Sets the body.
    pub fn set_body(&mut self, body: Vec<u8>) -> Result<(), String> {
        if body.len() > MAX_BODY {
            return Err(format!("the body has {} bytes, more than {MAX_BODY}", body.len()));
        }
        self.body = body.into();
        Ok(())
    }

    /// Sets the longest that all of it may take, up to [`MAX_TIMEOUT`].
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout.min(MAX_TIMEOUT);
    }

    /// Sets how many redirects are followed, up to [`MAX_REDIRECTS`]. With 0 a redirect is the response.
    pub fn set_follow(&mut self, follow: usize) {
        self.follow = follow.min(MAX_REDIRECTS);
    }

    /// Sets how long a kept connection may have been idle to be used, and how long the one used is kept idle, up to
    /// [`MAX_IDLE`]. With 0 the request has a connection of its own.
    pub fn set_idle(&mut self, idle: Duration) {
        self.idle = idle.min(MAX_IDLE);
    }

    /// Tells the server which trace it belongs to, unless a header does already, or there is hardly room for more.
    pub fn add_trace(&mut self, context: &TraceContext) {
        // What fits without it must still fit.
        if self.headers.contains_key("traceparent") || self.check_headers_within(2).is_err() {
            return;
        }
        let mut add = |name, text: &str| {
            // Both are visible characters.
            if let Ok(value) = HeaderValue::from_str(text) {
                self.headers.insert(HeaderName::from_static(name), value);
            }
        };
        add("traceparent", &context.traceparent());
        match &context.state {
            Some(state) => add("tracestate", state),
            None => drop(self.headers.remove("tracestate")),
        }
    }

    /// The method, in capitals.
    pub fn method(&self) -> &str {
        self.method.as_str()
    }

    /// The server's host and port.
    pub fn server(&self) -> (&str, u16) {
        (self.url.host_str().unwrap_or_default(), self.url.port_or_known_default().unwrap_or_default())
    }

    /// What an error calls it: `GET http://example.com`.
    fn name(&self) -> String {
        format!("{} {}", self.method, self.url.origin().ascii_serialization())
    }

    /// What the script left out is filled in; user and password in the URL and the cookies become headers.
    fn finish(&mut self) -> Result<(), String> {
        self.headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        self.headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        self.take_auth()?;
        if !self.cookies.is_empty() {
            // A Lua table has no order.
            self.cookies.sort();
            let mut line = self.headers.get(COOKIE).map(|own| own.as_bytes().to_vec()).unwrap_or_default();
            for (name, value) in self.cookies.drain(..) {
                if !line.is_empty() {
                    line.extend(b"; ");
                }
                line.extend([name.as_slice(), b"=", &value].concat());
            }
            let line = HeaderValue::try_from(line).map_err(|_| "the cookies are no header")?;
            self.headers.insert(COOKIE, line);
        }
        self.check_headers()
    }

    /// `http://user:password@host/`: they are for the server, and no part of what the response came from.
    fn take_auth(&mut self) -> Result<(), String> {
        if self.url.username().is_empty() && self.url.password().is_none() {
            return Ok(());
        }
        let decoded = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
        let (username, password) = (decoded(self.url.username()), decoded(self.url.password().unwrap_or_default()));
        // Neither fails for a URL that has a host.
        let _ = self.url.set_username("").and_then(|()| self.url.set_password(None));
        if self.headers.contains_key(AUTHORIZATION) { Ok(()) } else { self.set_auth(&username, &password) }
    }

    fn check_headers(&self) -> Result<(), String> {
        self.check_headers_within(1)
    }

    /// Whether there are no more than that part of what there may be.
    fn check_headers_within(&self, part: usize) -> Result<(), String> {
        let bytes: usize = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if self.headers.len() > MAX_HEADERS / part || bytes > MAX_HEADER_BYTES / part {
            return Err(format!("more than {MAX_HEADERS} headers, or headers of more than {MAX_HEADER_BYTES} bytes"));
        }
        Ok(())
    }
}

/// A whole response.
#[derive(Debug)]
pub struct Response {
    /// `200`
    pub status: u16,
    /// Where it came from, after redirects.
    pub url: String,
    /// Names as `Content-Type`, each once: several values of one name are joined by a comma (RFC 9110, section 5.3),
    /// those of `Set-Cookie`, which hold commas, by a line feed.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Those that it sets, by name.
    pub cookies: Vec<(Vec<u8>, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
    /// Its share of the bytes of all bodies, until the script has it.
    _bytes: OwnedSemaphorePermit,
}

/// A share of what all bodies may take together.
fn reserve(bytes: &Arc<Semaphore>, count: usize) -> Result<OwnedSemaphorePermit, String> {
    let share = bytes.clone().try_acquire_many_owned(u32::try_from(count).unwrap_or(u32::MAX));
    share.map_err(|_| format!("the bodies of the HTTP requests under way would have more than {MAX_BYTES} bytes"))
}

/// The innermost cause of a failure: the outer ones only say what was tried.
fn reason(e: &(dyn Error + 'static)) -> String {
    let mut cause = e;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn read_url(url: &[u8]) -> Result<Url, String> {
    if url.len() > MAX_URL {
        return Err(too_long());
    }
    let text = std::str::from_utf8(url).map_err(|_| "the URL is not UTF-8")?;
    if text.chars().any(char::is_control) {
        return Err("the URL holds a line break or another control character".into());
    }
    let url = Url::parse(text).map_err(|e| format!("no URL: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("a URL begins with http:// or https://, not with {}:", shown(url.scheme().as_bytes())));
    }
    Ok(url)
}

fn too_long() -> String {
    format!("the URL has more than {MAX_URL} bytes")
}

/// A script's word in an error's text.
fn shown(word: &[u8]) -> String {
    String::from_utf8_lossy(&word[..word.len().min(40)]).escape_debug().to_string()
}

fn headers_of(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let join = |name: &HeaderName| {
        let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        let between = if name == SET_COOKIE { &b"\n"[..] } else { b", " };
        (title_case(name.as_str()), values.join(between))
    };
    headers.keys().map(join).collect()
}

/// `content-type` -> `Content-Type`, the usual spelling.
fn title_case(name: &str) -> String {
    let mut start = true;
    let letter = |c: char| {
        let letter = if start { c.to_ascii_uppercase() } else { c };
        start = c == '-';
        letter
    };
    name.chars().map(letter).collect()
}

/// The cookies that a response sets (RFC 6265, section 5.2); of one name the last.
fn cookies_of(headers: &HeaderMap) -> Vec<(Vec<u8>, Vec<u8>)> {
    let cookie = |line: &HeaderValue| {
        let pair = line.as_bytes().split(|b| *b == b';').next()?;
        let at = pair.iter().position(|b| *b == b'=')?;
        let (name, value) = (pair[..at].trim_ascii(), pair[at + 1..].trim_ascii());
        let bare = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
        (!name.is_empty()).then(|| (name.to_vec(), bare.to_vec()))
    };
    headers.get_all(SET_COOKIE).iter().filter_map(cookie).collect()
}
