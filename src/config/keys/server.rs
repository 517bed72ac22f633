//! The rows of one of `engine.servers`.

use super::bounds::{BUFFER, LIMIT, MIB, TIMEOUT, TIMEOUT_NOT_ZERO, seconds};
use super::tls::Tls;
use crate::config::changes::{Changes, Effect, Effect::Live, Effect::Restart};
use crate::config::kinds::{Leaf, byte_rate, duration, list, number, rate, size, text, word, word_of};
use crate::config::raw::address::{ORIGIN, origin};
use crate::config::raw::value::Value;
use crate::config::rows::{Head, Kind, Row, section};
use crate::config::sections::{Entry, Options, address, part};
use crate::config::types::{Compression, EventStream, Listen, Protocol, ProxyProtocol, Rate, UNSENT_LIMIT};
use std::fmt::{self, Debug, Formatter};
use std::path::PathBuf;
use std::time::Duration;

section! {
    /// One of `engine.servers`.
    #[derive(Clone, PartialEq)]
    pub struct Server {
        /// The port that clients connect to.
        pub listen: Listen = "", address(6790), Restart("the listener");
        /// websocket, or socket: TCP, and the wire protocol is Lua.
        pub protocol: Protocol = "protocol", word_of(
            &[Protocol::Websocket, Protocol::Socket],
            &[("custom", "socket")],
            Protocol::Websocket,
        ), Restart("the listener");
        /// Names and values for the script; path is the URL's path.
        pub options: Vec<(String, String)> = "options", Options, Live;
        /// The script, relative to this file's folder or, if it is not there, to the working directory. With protocol socket
        /// the default is lua/entry.socket.lua.
        pub entry: PathBuf = "entry", entry(), Live;
        /// A changed script is live within that time, mostly within a second; 0 = scripts are not reloaded.
        pub reload_within: Option<Duration> = "byteCodeExpires", reload_within(), Live;
        /// What bounds its connections.
        pub limits: Limits = "", part();
        /// How fast clients may connect and send.
        pub rate: Rates = "rate", part();
        /// v1v2: connections come from proxies of trustedProxies, and begin with a header of the PROXY protocol, version 1
        /// or 2, which tells the client's address; others are refused.
        pub proxy_protocol: ProxyProtocol =
            "proxyProtocol", word(&[ProxyProtocol::Off, ProxyProtocol::V1V2], ProxyProtocol::Off), Live;
        /// on: messages are compressed for clients that offer permessage-deflate (RFC 7692), without context takeover: a
        /// publish once for all of a worker's. Takes effect on new connections.
        pub compression: Compression = "compression", word(&[Compression::Off, Compression::On], Compression::Off), Live;
        /// on: a client that can't have a WebSocket asks for the same path with Accept: text/event-stream, gets its messages as
        /// server-sent events, and sends by POST. Takes effect on new connections.
        pub event_stream: EventStream = "eventStream", word(&[EventStream::Off, EventStream::On], EventStream::Off), Live;
        /// The origins whose web pages may connect, such as https://example.com; others get a 403. Empty = any.
        pub allowed_origins: Vec<String> = "allowedOrigins", list(ORIGIN, origin), Live;
        /// TLS of the port.
        pub tls: Tls = "tls", part();
    }
    unused {
        /// One buffer a thread serves all its connections.
        "readBufferSize", size(BUFFER, 0);
        /// One buffer a thread serves all its connections.
        "writeBufferSize", size(BUFFER, 0);
    }
}

impl Server {
    /// The value of a name under `options`, the last if it is given twice.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether its clients may have event streams.
    pub fn has_event_streams(&self) -> bool {
        self.event_stream == EventStream::On && self.protocol == Protocol::Websocket
    }
}

impl Debug for Server {
    /// Not the options, which may be secrets of the script's.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("listen", &self.listen)
            .field("protocol", &self.protocol)
            .field("entry", &self.entry)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Entry for Server {
    fn summary(&self) -> String {
        self.listen.addr.to_string()
    }
}

fn entry() -> Leaf<PathBuf> {
    text("lua/entry.websocket.lua").map(PathBuf::from, |path| path.display().to_string())
}

fn reload_within() -> Leaf<Option<Duration>> {
    duration(TIMEOUT, seconds(10)).map(|time| (!time.is_zero()).then_some(time), |time| time.unwrap_or_default())
}

section! {
    /// A server's bounds for its connections. All take effect on live connections when the file changes.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Limits {
        /// A client that sends nothing for that long is closed; a pong counts. 0 = never.
        pub read_timeout: Duration = "readTimeout", duration(TIMEOUT, seconds(60)), Live;
        /// A client that takes nothing for that long is closed; 0 = never.
        pub write_timeout: Duration = "writeTimeout", duration(TIMEOUT, seconds(10)), Live;
        /// The longest a client may take from the first byte of a message to its last; 0 = no limit.
        pub message_timeout: Duration = "messageTimeout", duration(TIMEOUT, seconds(60)), Live;
        /// The bytes that the system may hold unsent for one client; 0 = as many as it likes.
        pub unsent_limit: usize = "unsentLimit", size(BUFFER, UNSENT_LIMIT), Live;
        /// The largest message that a client may send; a larger one closes with 1009.
        pub max_message_size: usize = "maxMessageSize", size(LIMIT, MIB), Live;
        /// Messages of up to that many bytes are not compressed, nor are those of more than maxMessageSize.
        pub compress_above: usize = "compressAbove", size(BUFFER, 256), Live;
        /// The most connections, over all workers; 0 = no limit. One more gets a 503.
        pub max_connections: usize = "maxConnections", number(0..=100_000_000, 0), Live;
        /// The most connections of one address, an IPv6 /64 counting as one; 0 = no limit. One more gets a 429.
        pub max_connections_per_address: usize =
            "maxConnectionsPerAddress", number(0..=100_000_000, 0), Live;
        /// Bytes that may wait for one client. Above it the client is closed as too slow, with 3100.
        pub outbox_limit: usize = "outboxLimit", size(LIMIT, MIB), Live;
        /// The longest a hook may hold its worker without waiting.
        pub handler_timeout: Duration = "handlerTimeout", duration(TIMEOUT_NOT_ZERO, Duration::from_millis(200)), Live;
        /// The longest that a client may take until it is open: TLS, a WebSocket's request and on_handshake together.
        pub handshake_timeout: Duration = "handshakeTimeout", duration(TIMEOUT_NOT_ZERO, seconds(10)), Live;
        /// How often a silent client is pinged; 0 = never. It must be below readTimeout to keep silent clients.
        pub ping_interval: Duration = "pingInterval", duration(TIMEOUT, seconds(25)), Live;
    }
}

section! {
    /// How fast clients may connect and send. After a rest, as many as the rate's number may come at once. All take effect
    /// on live connections when the file changes.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Rates {
        /// Connects from anywhere, over all workers; 0 = no limit. One more gets a 429.
        pub connects: Rate = "connects", rate(), Live;
        /// Connects from one address, an IPv6 /64 counting as one; 0 = no limit. One more gets a 429.
        pub per_address: Rate = "perAddress", rate(), Live;
        /// Messages of one client, its pings included; 0 = no limit. A client that sends more is not read for a while.
        pub messages: Rate = "messages", rate(), Live;
        /// Bytes of one client; 0 = no limit. A client that sends more is not read for a while.
        pub bytes: Rate = "bytes", byte_rate(), Live;
    }
}

impl Rates {
    /// Whether it bounds what a client sends.
    pub fn bounds_clients(&self) -> bool {
        !self.messages.is_none() || !self.bytes.is_none()
    }
}
