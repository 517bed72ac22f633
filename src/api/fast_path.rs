//! The fast path: calls of the mesh in the form that every back end's HTTP client sends. They are nearly all of the
//! traffic, and are answered from the connection's buffer without a general HTTP implementation. From the first request
//! of any other form on, hyper serves the connection.

use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use super::auth::Right;
use super::call::Call;
use super::callers::{Caller, Taken};
use super::pages;
use super::stage::Stage;
use super::state::{Api, DRAIN};
use super::trace::Parent;
use crate::shard::hold::{Counted, UnderWay};
use crate::shard::transport::Transport;
use crate::wire::host::{self, Host};

/// The size of a connection's buffers unless something larger comes or goes. A longer head is left to hyper.
const BUFFER: usize = 8 * 1024;
/// The longest request, head and body, that is answered here.
const MAX_REQUEST: usize = 64 * 1024;
/// The most headers of a request that is answered here.
const MAX_HEADERS: usize = 32;

/// Headers that take a request off the fast path, among them those that only browsers send; and headers that must not
/// occur twice.
const NOT_PLAIN: [&str; 9] = [
    "content-length",
    "authorization",
    "host",
    "connection",
    "transfer-encoding",
    "expect",
    "upgrade",
    "origin",
    "sec-fetch-site",
];

/// How a connection continues.
pub(super) enum Next {
    /// It is over.
    End,
    /// hyper continues with the bytes that have been read.
    General {
        /// What has been read and not answered.
        read: Vec<u8>,
        /// The body of the request in `read` has not arrived in time.
        late: bool,
    },
}

/// What a connection waits for; each has the whole `readTimeout`.
#[derive(PartialEq, Eq)]
enum Awaited {
    Request,
    Head,
    Body,
}

/// What the bytes begin with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed<'a> {
    Whole(Request<'a>),
    /// A part of a request that may be on the fast path. Its length, once its head is complete.
    Part(Option<usize>),
    Other,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    pub(super) call: Call,
    pub(super) host: Host<'a>,
    pub(super) authorization: Option<&'a [u8]>,
    pub(super) head: &'a [u8],
    pub(super) body: &'a [u8],
    /// Head and body.
    pub(super) length: usize,
}

impl Api {
    /// Answers requests on the fast path until one of another form comes.
    /// `input`: what has come already.
    pub(super) async fn serve_fast_path(
        &self,
        socket: &mut Transport,
        caller: Caller,
        taken: &Taken,
        mut input: Vec<u8>,
    ) -> Next {
        let (mut output, mut date) = (Vec::new(), Date::default());
        // One timer for the connection's whole life: when it fires, the remaining time is computed.
        let mut alarm = pin!(sleep(self.read_timeout().unwrap_or_default()));
        let mut interrupted = pin!(self.interrupted());
        // Once the engine drains: until when requests that have begun are answered.
        let mut last = None;
        // The stop has begun: callers are asked to connect elsewhere.
        let mut leaving = false;
        // What the connection waits for, and since when.
        let (mut awaited, mut since) = (Awaited::Request, Instant::now());
        loop {
            if self.hold.is_on() && !self.hold_still(socket, &input, caller).await {
                return Next::End;
            }
            // All requests that have arrived; their answers share a write.
            let mut done = 0;
            let length = loop {
                if self.time.is_others_turn() || self.hold.is_on() {
                    break Some(None);
                }
                let config = self.config.load();
                match parse(&input[done..], config.api.max_body_size) {
                    // hyper tells the caller why not.
                    Parsed::Whole(request) if !pages::may_be_called(Some(request.host), &config, caller) => break None,
                    // It may have been chosen to make room.
                    Parsed::Whole(_) if !taken.begin() => return Next::End,
                    Parsed::Whole(request) => {
                        let right = self.check(&config, request.authorization, caller, Right::to(request.call), taken);
                        let access = config.logging.access;
                        let line = access.then(|| self.line_of_call(&config, request.call, request.authorization));
                        drop(config);
                        let right = match right {
                            Some(right) => right,
                            // Boxed, so that a connection does not carry what few users need.
                            None => {
                                let needed = Right::to(request.call);
                                Box::pin(self.verify(request.authorization, caller, needed, taken)).await
                            }
                        };
                        self.time.charge_call(request.length);
                        let _call = Counted::new(&self.hold, UnderWay::Call);
                        let is_traced = request.call == Call::Publish && self.tracer.is_on();
                        let parent = is_traced.then(|| Parent::of_head(request.head));
                        let mut answer = match right {
                            Ok(()) => self.call(request.call, request.body, parent).await,
                            Err(error) => self.refuse(error, request.authorization, caller, taken).await,
                        };
                        answer.ends |= leaving;
                        self.counts.called(request.call.label(), answer.result);
                        if let Some(line) = line {
                            self.end_line(*line, caller, answer.status());
                        }
                        since = Instant::now();
                        answer.write_http(date.at(since), &mut output);
                        done += request.length;
                        if answer.ends {
                            taken.rest(since);
                            self.write(socket, &output).await;
                            return Next::End;
                        }
                    }
                    Parsed::Part(length) => break Some(length),
                    Parsed::Other => break None,
                }
            };
            input.drain(..done);
            let progress = done > 0;
            if progress {
                // A caller that does not read the answers counts as idle, too.
                taken.rest(since);
            }
            if !output.is_empty() {
                match socket.try_write(&output) {
                    Ok(written) if written == output.len() && socket.owes() == 0 => {}
                    written => {
                        // Boxed, so that a connection does not carry what is hardly ever needed.
                        if !Box::pin(self.write(socket, &output[written.unwrap_or(0)..])).await {
                            return Next::End;
                        }
                        since = Instant::now();
                    }
                }
            }
            output.clear();
            if self.time.is_others_turn() {
                self.time.pause().await;
                continue;
            }
            if self.hold.is_on() {
                continue;
            }
            let Some(length) = length else { return Next::General { read: input, late: false } };
            let next = match length {
                Some(_) => Awaited::Body,
                None if input.is_empty() => Awaited::Request,
                None => Awaited::Head,
            };
            // A head that comes byte by byte gets no more time than any other.
            if next != awaited {
                awaited = next;
                if !progress {
                    since = Instant::now();
                }
            }
            let wanted = length.unwrap_or(input.len() + 1);
            input.shrink_to(BUFFER.max(wanted));
            output.shrink_to(BUFFER);
            let stage = self.stage();
            leaving = stage.is_leaving();
            if last.is_none() && stage.is_draining() {
                last = Some(Instant::now() + DRAIN);
            }
            let came = match last {
                Some(end) => rest(socket, &mut input, wanted, end).await,
                None => tokio::select! {
                    biased;
                    read = read(socket, &mut input, wanted) => read.is_ok(),
                    () = &mut interrupted => {
                        // It may be for a moment only.
                        if !self.hold_still(socket, &input, caller).await {
                            return Next::End;
                        }
                        interrupted.set(self.interrupted());
                        continue;
                    }
                    () = self.time_up(alarm.as_mut(), since) => {
                        // A request without its body gets an answer; one without its head can't be recognised as a
                        // request.
                        return if length.is_some() { Next::General { read: input, late: true } } else { Next::End };
                    }
                },
            };
            if !came {
                return Next::End;
            }
        }
    }

    /// Writes all of it; false: the caller has gone, or takes too little while the engine drains.
    async fn write(&self, socket: &mut Transport, output: &[u8]) -> bool {
        let mut stage = self.stage.clone();
        let too_long = async {
            let _ = stage.wait_for(Stage::is_draining).await;
            sleep(DRAIN).await;
        };
        let all = async {
            socket.write_all(output).await?;
            // With TLS, what is written may still be with the transport.
            socket.flush().await
        };
        tokio::select! {
            biased;
            written = all => written.is_ok(),
            () = too_long => false,
        }
    }

    /// Ready when what is awaited has not come within the time limit.
    async fn time_up(&self, mut alarm: Pin<&mut Sleep>, since: Instant) {
        loop {
            alarm.as_mut().await;
            let Some(timeout_after) = self.read_timeout() else { return std::future::pending().await };
            match timeout_after.checked_sub(since.elapsed()) {
                Some(left) if !left.is_zero() => alarm.as_mut().reset(since + timeout_after),
                _ => return,
            }
        }
    }
}

/// Reads until `input` has `wanted` bytes. Dropping the future loses no data.
async fn read(socket: &mut Transport, input: &mut Vec<u8>, wanted: usize) -> io::Result<()> {
    while input.len() < wanted {
        input.reserve(BUFFER.max(wanted) - input.len());
        if socket.read_buf(input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// While the engine drains, reads the rest of a request that has begun. False if none has, or the rest does not come in
/// time.
async fn rest(socket: &mut Transport, input: &mut Vec<u8>, wanted: usize, end: Instant) -> bool {
    // The deadline is checked first: a caller that never pauses would not be stopped otherwise.
    let begun = !input.is_empty() && Instant::now() < end;
    begun && matches!(timeout_at(end, read(socket, input, wanted)).await, Ok(Ok(())))
}

/// What the bytes that have come begin with.
pub(super) fn parse(input: &[u8], max_body: usize) -> Parsed<'_> {
    if input.is_empty() {
        return Parsed::Part(None);
    }
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let head = match request.parse_with_uninit_headers(input, &mut headers) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if input.len() < BUFFER => return Parsed::Part(None),
        _ => return Parsed::Other,
    };
    let call = request.path.and_then(Call::find);
    let (Some("POST"), Some(1), Some(call)) = (request.method, request.version, call) else { return Parsed::Other };
    let (mut body_length, mut authorization, mut host) = (None, None, None);
    for header in request.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") && body_length.is_none() {
            body_length = Some(header.value);
        } else if is("authorization") && authorization.is_none() {
            authorization = Some(header.value);
        } else if is("host") && host.is_none() {
            host = Some(header.value);
        } else if is("connection") && header.value.eq_ignore_ascii_case(b"keep-alive") {
            // The header changes nothing: keep-alive is the default.
        } else if NOT_PLAIN.into_iter().any(is) {
            return Parsed::Other;
        }
    }
    let Ok(Some(host)) = host::of_request(1, host, None) else { return Parsed::Other };
    // RFC 9110, section 8.6: digits alone.
    let digits = body_length.filter(|value| value.iter().all(u8::is_ascii_digit));
    let body_length: Option<usize> = digits.and_then(|value| str::from_utf8(value).ok()?.parse().ok());
    let Some(body_length) = body_length.filter(|&n| n <= max_body && n <= MAX_REQUEST - head.min(MAX_REQUEST)) else {
        return Parsed::Other;
    };
    let length = head + body_length;
    match input.get(..length).map(|whole| whole.split_at(head)) {
        Some((head, body)) => Parsed::Whole(Request { call, host, authorization, head, body, length }),
        None => Parsed::Part(Some(length)),
    }
}

/// The `date` of responses (RFC 9110, section 6.6.1), written once a second.
#[derive(Default)]
struct Date {
    text: String,
    /// Until then it is right: a clock that is read anyway tells it.
    until: Option<Instant>,
}

impl Date {
    /// That of now.
    fn at(&mut self, now: Instant) -> &str {
        if self.until.is_none_or(|until| now >= until) {
            let time = SystemTime::now();
            let passed = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
            let until = Some(now + Duration::from_secs(1) - Duration::from_nanos(passed.into()));
            *self = Date { text: httpdate::fmt_http_date(time), until };
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn post(headers: &str, body: &str) -> String {
        format!("POST /v1/mesh/publish HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
    }

    #[test]
    fn a_plain_request_is_read_whole_and_in_parts() {
        let text = post("Connection: Keep-Alive\r\nAuthorization: Basic eDp5\r\n", "{\"c\":1}");
        let next = text.clone() + "POST /";
        let want = Request {
            call: Call::Publish,
            host: Host::Name("x"),
            authorization: Some(b"Basic eDp5"),
            head: &text.as_bytes()[..text.len() - 7],
            body: b"{\"c\":1}",
            length: text.len(),
        };
        assert_eq!(parse(next.as_bytes(), 100), Parsed::Whole(want));
        let head = text.find("\r\n\r\n").unwrap() + 4;
        for end in 0..text.len() {
            let want = Parsed::Part((end >= head).then_some(text.len()));
            assert_eq!(parse(&text.as_bytes()[..end], 100), want, "{end}");
        }
    }

    #[test]
    fn any_other_form_is_left_to_hyper() {
        let long = "x".repeat(BUFFER);
        let many = "X: y\r\n".repeat(MAX_HEADERS);
        for text in [
            post("", "{\"c\":12345}"),
            post("", "").replace("HTTP/1.1", "HTTP/1.0"),
            post("", "").replace("POST", "GET"),
            post("", "").replace("publish", "publish?x=1"),
            post("", "").replace("publish", "unknown"),
            post("", "").replace("Length: 0", "Length: +0"),
            post("", "").replace("Length: 0", "Length: 99999999999999999999"),
            post("", "").replace("Content-Length: 0\r\n", ""),
            post("Content-Length: 0\r\n", ""),
            post("Transfer-Encoding: chunked\r\n", ""),
            post("Expect: 100-continue\r\n", ""),
            post("Connection: close\r\n", ""),
            post("Upgrade: websocket\r\n", ""),
            post("Origin: null\r\n", ""),
            post("Sec-Fetch-Site: none\r\n", ""),
            post("Host: x\r\n", ""),
            post("", "").replace("Host: x\r\n", ""),
            post("", "").replace("Host: x", "Host: x y"),
            post(&many, ""),
            post("Broken\r\n", ""),
            format!("POST /v1/mesh/publish HTTP/1.1\r\nX: {long}"),
        ] {
            assert_eq!(parse(text.as_bytes(), 10), Parsed::Other, "{text}");
        }
        let large = format!("POST /v1/mesh/send HTTP/1.1\r\nContent-Length: {MAX_REQUEST}\r\n\r\n");
        assert_eq!(parse(large.as_bytes(), usize::MAX), Parsed::Other);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(mut text in ".{0,40}", cut in 0..200usize, bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            text.insert_str(0, &post("", "{}")[..cut.min(60)]);
            let mut input = text.into_bytes();
            input.extend(bytes);
            if let Parsed::Whole(request) = parse(&input, 1000) {
                prop_assert!(request.length <= input.len());
            }
        }
    }
}
