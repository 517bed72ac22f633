//! What each hook is called with, and the native function that pushes it.

use mlua::ffi;
use std::ffi::c_int;

use super::current::ConnRef;
use super::mix::buffer::push_buffer;
use super::mix::conn::push_conn;
use super::stack::{State, push_bytes};
use crate::message::{CloseReason, Kind};

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
    /// A package to be decoded, or data to be encoded.
    Bytes(&'a [u8]),
}

/// An upgrade request as `on_handshake` sees it.
pub struct HandshakeRequest<'a> {
    /// Names and values in the request's order.
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// `GET`
    pub method: &'a str,
    /// Path and query.
    pub uri: &'a str,
    /// `HTTP/1.1`
    pub protocol: &'static str,
    /// The client's address.
    pub remote: String,
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

    /// For `protocol_decode` and then `on_message`: a package; for `protocol_encode`: the data.
    pub fn bytes(bytes: &'a [u8]) -> HookArgs<'a> {
        HookArgs { what: What::Bytes(bytes), conn: None }
    }

    /// The connection to pass as the last argument, if the hook looks at it.
    pub(super) fn set_conn(&mut self, conn: Option<ConnRef>) {
        self.conn = conn;
    }
}

/// The prelude's `fill(at)`: pushes the arguments that `at` points to.
///
/// Written for the raw stack: what it pushes is borrowed, so that an error for want of memory leaks nothing.
pub(super) unsafe extern "C-unwind" fn fill(state: State) -> c_int {
    unsafe {
        let args = ffi::lua_touserdata(state, 1).cast::<HookArgs<'_>>();
        if args.is_null() {
            return 0;
        }
        let args = &*args;
        let count = match &args.what {
            What::Message { kind, data } => {
                push_bytes(state, data);
                ffi::lua_pushboolean(state, (*kind == Kind::Text).into());
                2
            }
            What::Close { client_id, error, .. } => {
                push_bytes(state, client_id.as_bytes());
                match error {
                    Some(e) => push_bytes(state, e.as_bytes()),
                    None => ffi::lua_pushnil(state),
                }
                2
            }
            What::Connect { client_id } => {
                push_bytes(state, client_id.as_bytes());
                1
            }
            What::Input { conn } => {
                push_buffer(state, *conn);
                1
            }
            What::Bytes(bytes) => {
                push_bytes(state, bytes);
                1
            }
            What::Handshake { client_id, request } => {
                push_bytes(state, client_id.as_bytes());
                push_headers(state, request);
                push_server(state, request);
                3
            }
        };
        match args.conn {
            Some(conn) => push_conn(state, conn),
            None => ffi::lua_pushnil(state),
        }
        if let What::Close { code_and_reason: Some((code, text)), .. } = args.what {
            ffi::lua_pushnumber(state, code.into());
            push_bytes(state, text.as_bytes());
            return count + 3;
        }
        count + 1
    }
}

/// Headers that come several times are joined by a comma (RFC 9110, section 5.3), cookies by a semicolon, as one line of
/// them would have it (RFC 9113, section 8.2.3): proxies from HTTP/2 split those.
unsafe fn push_headers(state: State, request: &HandshakeRequest<'_>) {
    unsafe {
        ffi::lua_createtable(state, 0, request.headers.len() as c_int);
        for (i, (name, value)) in request.headers.iter().enumerate() {
            if request.headers[..i].iter().any(|(n, _)| n.eq_ignore_ascii_case(name)) {
                continue;
            }
            push_bytes(state, name.as_bytes());
            push_bytes(state, value);
            for (_, more) in request.headers[i + 1..].iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)) {
                push_bytes(state, if name.eq_ignore_ascii_case("cookie") { b"; " } else { b", " });
                push_bytes(state, more);
                ffi::lua_concat(state, 3);
            }
            ffi::lua_rawset(state, -3);
        }
    }
}

unsafe fn push_server(state: State, request: &HandshakeRequest<'_>) {
    let host = request.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case("host")).map_or(&b""[..], |(_, v)| v);
    unsafe {
        ffi::lua_createtable(state, 0, 5);
        for (key, value) in [
            (c"Method", request.method.as_bytes()),
            (c"RequestUri", request.uri.as_bytes()),
            (c"ServerProtocol", request.protocol.as_bytes()),
            (c"Host", host),
            (c"RemoteAddr", request.remote.as_bytes()),
        ] {
            push_bytes(state, value);
            ffi::lua_setfield(state, -2, key.as_ptr());
        }
    }
}
