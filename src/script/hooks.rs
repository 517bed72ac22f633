//! What each hook is called with, and the native function that pushes it.

use std::ffi::c_int;

use super::current::ConnRef;
use super::mix::buffer::push_buffer;
use super::mix::conn::push_conn;
use super::push::{One, Push, Pushed, Stack, table};
use super::slots::State;
use crate::message::{CloseReason, Kind};
use crate::shard::context::Value;

/// A hook's arguments, borrowed for the call that starts it. They are pushed inside the handler's own protected call.
pub struct HookArgs<'a> {
    what: What<'a>,
    conn: Option<ConnRef>,
}

enum What<'a> {
    Message {
        kind: Kind,
        data: &'a [u8],
    },
    Handshake {
        client_id: String,
        request: &'a HandshakeRequest<'a>,
    },
    Close {
        client_id: String,
        error: Option<String>,
        /// Of the client's close frame.
        code_and_reason: Option<(u16, &'a str)>,
    },
    Connect {
        client_id: String,
    },
    Input {
        conn: ConnRef,
    },
    /// A packet to decode, or data to encode.
    Bytes(&'a [u8]),
    Start {
        worker: u16,
    },
    Timer {
        name: &'a str,
        conn: Option<ConnRef>,
        args: &'a [Value],
    },
}

/// An upgrade request as `on_handshake` sees it.
pub struct HandshakeRequest<'a> {
    /// Names and values in the request's order.
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// `GET`
    pub method: &'a str,
    /// Path and query.
    pub uri: &'a str,
    /// `HTTP/1.1`, or `HTTP/1.0`, by which an event stream may be opened.
    pub protocol: &'static str,
    /// The client's address.
    pub remote: String,
    /// It opens an event stream.
    pub event_stream: bool,
    /// The position from which the client wants to go on.
    pub last_event_id: Option<std::borrow::Cow<'a, [u8]>>,
}

impl<'a> HookArgs<'a> {
    /// For `on_message`.
    pub fn message(kind: Kind, data: &'a [u8]) -> HookArgs<'a> {
        HookArgs { what: What::Message { kind, data }, conn: None }
    }

    /// For `on_handshake`.
    pub fn handshake(conn: ConnRef, request: &'a HandshakeRequest<'a>) -> HookArgs<'a> {
        HookArgs { what: What::Handshake { client_id: conn.client_id.to_string(), request }, conn: None }
    }

    /// For `on_close`.
    pub fn close(conn: ConnRef, reason: &'a CloseReason) -> HookArgs<'a> {
        let code_and_reason = match reason {
            CloseReason::Peer(Some((code, text))) => Some((*code, &**text)),
            _ => None,
        };
        let what = What::Close { client_id: conn.client_id.to_string(), error: reason.error(), code_and_reason };
        HookArgs { what, conn: None }
    }

    /// For `on_connect`.
    pub fn connect(conn: ConnRef) -> HookArgs<'static> {
        HookArgs { what: What::Connect { client_id: conn.client_id.to_string() }, conn: None }
    }

    /// For `protocol_input`.
    pub fn input(conn: ConnRef) -> HookArgs<'static> {
        HookArgs { what: What::Input { conn }, conn: None }
    }

    /// For `protocol_decode` followed by `on_message`: a packet. For `protocol_encode`: the data.
    pub fn bytes(bytes: &'a [u8]) -> HookArgs<'a> {
        HookArgs { what: What::Bytes(bytes), conn: None }
    }

    /// For `on_start`: the worker's number, from 1.
    pub fn start(worker: u16) -> HookArgs<'static> {
        HookArgs { what: What::Start { worker }, conn: None }
    }

    /// For the function of a timer: its name, the connection that the timer ends with, and its arguments.
    pub fn timer(name: &'a str, conn: Option<ConnRef>, args: &'a [Value]) -> HookArgs<'a> {
        HookArgs { what: What::Timer { name, conn, args }, conn: None }
    }

    /// Sets the connection that is passed as the last argument, if the hook uses it.
    pub(super) fn set_conn(&mut self, conn: Option<ConnRef>) {
        self.conn = conn;
    }
}

/// The prelude's `fill(at)`: pushes the arguments that `at` points to.
///
/// # Safety
/// For Lua to call, as [`super::mix::conn::with_conn`] makes it, with a pointer that [`super::vm::Vm::start`] has made.
pub(super) unsafe extern "C-unwind" fn fill(state: State) -> c_int {
    // SAFETY: Lua protects the call, which lasts as long as this function.
    let stack = unsafe { Stack::new(state) };
    // SAFETY: null, or the arguments of the hook that is being started, which are there until it has returned or waits.
    let Some(args) = (unsafe { stack.userdata(1).cast::<HookArgs<'_>>().as_ref() }) else { return 0 };
    let count = args.what.push(stack);
    match args.what {
        What::Start { .. } => return count,
        What::Timer { conn, args, .. } => {
            if let Some(conn) = conn {
                // SAFETY: a function of `with_conn`.
                _ = unsafe { push_conn(stack, conn) };
            }
            args.iter().for_each(|arg| _ = arg.push_to(stack));
            return count + c_int::from(conn.is_some()) + args.len() as c_int;
        }
        _ => {}
    }
    _ = match args.conn {
        // SAFETY: a function of `with_conn`.
        Some(conn) => unsafe { push_conn(stack, conn) },
        None => stack.push_nil(),
    };
    if let What::Close { code_and_reason: Some((code, text)), .. } = args.what {
        _ = (f64::from(code).push_to(stack), text.push_to(stack));
        return count + 1 + <(One, One)>::COUNT;
    }
    count + 1
}

impl What<'_> {
    /// Pushes the arguments before the connection. Returns their number.
    fn push(&self, stack: Stack<'_>) -> c_int {
        fn counted<P: Pushed>(_: P) -> c_int {
            P::COUNT
        }
        match self {
            What::Message { kind, data } => counted((data.push_to(stack), (*kind == Kind::Text).push_to(stack))),
            What::Close { client_id, error, .. } => {
                counted((client_id.as_str().push_to(stack), error.as_deref().push_to(stack)))
            }
            What::Connect { client_id } => counted(client_id.as_str().push_to(stack)),
            What::Input { conn } => counted(push_buffer(stack, *conn)),
            What::Bytes(bytes) => counted(bytes.push_to(stack)),
            What::Start { worker } => counted(f64::from(*worker).push_to(stack)),
            What::Timer { name, .. } => counted(name.push_to(stack)),
            What::Handshake { client_id, request } => {
                let id = client_id.as_str().push_to(stack);
                counted((id, (push_headers(stack, request), push_server(stack, request))))
            }
        }
    }
}

/// Repeated headers are joined by a comma (RFC 9110, section 5.3). Cookies are joined by a semicolon, as in a single
/// line (RFC 9113, section 8.2.3), since proxies from HTTP/2 split them.
fn push_headers(stack: Stack<'_>, request: &HandshakeRequest<'_>) -> One {
    stack.push_table(0, request.headers.len(), |table| {
        for (i, (name, value)) in request.headers.iter().enumerate() {
            let same = |other: &&(&str, &[u8])| other.0.eq_ignore_ascii_case(name);
            if request.headers[..i].iter().any(|header| same(&header)) {
                continue;
            }
            let more = &request.headers[i + 1..];
            if !more.iter().any(|header| same(&header)) {
                table.set(*name, *value);
                continue;
            }
            let between: &[u8] = if name.eq_ignore_ascii_case("cookie") { b"; " } else { b", " };
            let mut joined = value.to_vec();
            for (_, value) in more.iter().filter(same) {
                joined.extend_from_slice(between);
                joined.extend_from_slice(value);
            }
            table.set(*name, joined);
        }
    })
}

fn push_server(stack: Stack<'_>, request: &HandshakeRequest<'_>) -> One {
    let host = request.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case("host")).map_or(&b""[..], |(_, v)| v);
    table(7, |server| {
        server.field(c"Method", request.method);
        server.field(c"RequestUri", request.uri);
        server.field(c"ServerProtocol", request.protocol);
        server.field(c"Host", host);
        server.field(c"RemoteAddr", request.remote.as_str());
        server.field(c"EventStream", request.event_stream);
        server.field(c"LastEventId", request.last_event_id.as_deref());
    })
    .push_to(stack)
}
