//! What holds of any bytes on the fast path of the HTTP API: it takes a request as hyper does, or leaves it to hyper.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue, ORIGIN};
use hyper::rt::ReadBufCursor;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use super::call::Call;
use super::fast_path::{self, Parsed};
use super::pages;

/// The largest body.
const MAX_BODY: usize = 1000;

/// A request, as far as its answer depends on it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    call: Option<Call>,
    host: Option<String>,
    authorization: Option<Vec<u8>>,
    body: Vec<u8>,
    /// hyper answers it as the fast path does: the right method, a form that is allowed, no web page, no other error.
    plain: bool,
}

/// Bytes of a caller.
pub fn http(bytes: &[u8]) {
    let ours = match fast_path::parse(bytes, MAX_BODY) {
        Parsed::Whole(request) => request,
        Parsed::Part(Some(length)) => {
            assert!(length > bytes.len(), "{length} bytes are here");
            let mut whole = bytes.to_vec();
            whole.resize(length, b'x');
            match fast_path::parse(&whole, MAX_BODY) {
                Parsed::Whole(request) if request.length == length => return,
                other => panic!("with its body it is {other:?}"),
            }
        }
        Parsed::Part(None) | Parsed::Other => return,
    };
    let bytes = &bytes[..ours.length];
    for end in [ours.length / 2, ours.length - 1] {
        assert!(matches!(fast_path::parse(&bytes[..end], MAX_BODY), Parsed::Part(_)), "{end} bytes of it");
    }
    let (seen, answer) = by_hyper(bytes);
    let want = Seen {
        call: Some(ours.call),
        host: Some(format!("{:?}", ours.host)),
        authorization: ours.authorization.map(<[u8]>::to_vec),
        body: ours.body.to_vec(),
        plain: true,
    };
    assert_eq!(seen, [want]);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("connection: close"), "hyper would end the connection: {answer}");
}

/// The requests that hyper sees in these bytes, and what it answers.
fn by_hyper(bytes: &[u8]) -> (Vec<Seen>, Vec<u8>) {
    let (seen, written) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
    let socket = Wire { bytes, read: Cell::new(0), written: &written };
    let service = service_fn(async |request: Request<Incoming>| {
        let host = pages::check_form(&request);
        let plain = request.method() == Method::POST && host.is_ok() && request.uri().query().is_none();
        let pages = request.headers().contains_key(ORIGIN) || request.headers().contains_key("sec-fetch-site");
        let host = host.ok().flatten().map(|host| format!("{host:?}"));
        let call = Call::find(request.uri().path());
        let authorization = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes).map(<[u8]>::to_vec);
        let body = request.into_body().collect().await;
        let plain = plain && !pages && body.is_ok();
        let body = body.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
        seen.borrow_mut().push(Seen { call, host, authorization, body, plain });
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.max_buf_size(64 * 1024).header_read_timeout(None);
    {
        let mut connection = pin!(http.serve_connection(socket, service));
        let mut cx = Context::from_waker(Waker::noop());
        // Then it waits for the next request.
        for _ in 0..8 {
            if connection.as_mut().poll(&mut cx).is_ready() {
                break;
            }
        }
    }
    (seen.into_inner(), written.into_inner())
}

/// A connection whose caller has sent these bytes, and waits for the answer.
struct Wire<'a> {
    bytes: &'a [u8],
    read: Cell<usize>,
    written: &'a RefCell<Vec<u8>>,
}

impl hyper::rt::Read for Wire<'_> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let rest = &self.bytes[self.read.get()..];
        if rest.is_empty() {
            return Poll::Pending;
        }
        let some = &rest[..rest.len().min(into.remaining())];
        into.put_slice(some);
        self.read.set(self.read.get() + some.len());
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Wire<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
