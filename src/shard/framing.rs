//! How a connection's messages are framed: the bytes of a ping and a close, the meaning of a client's own end, and the
//! protocol that all this is counted under. Each question is answered here for every framing, so that a
//! new one has to answer them all.

use super::outbox::Frame;
use crate::config::Protocol;
use crate::message::CloseReason;
use crate::telemetry::metrics::counters::{ProtocolCounts, ShardCounts};
use crate::wire::deflate::Window;
use crate::wire::frame;

/// How messages become a connection's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// WebSocket frames (RFC 6455): the same for every client, or for all whose messages are compressed with that window.
    WebSocket(Option<Window>),
    /// The script of a socket server defines messages and their bytes.
    Script,
}

impl Framing {
    /// The framing of a server's connection, and whether its messages may be compressed, where there are frames.
    pub fn of(protocol: Protocol, deflate: Option<Window>) -> Framing {
        match protocol {
            Protocol::Websocket => Framing::WebSocket(deflate),
            Protocol::Socket => Framing::Script,
        }
    }

    /// Whether messages have a [`Kind`](crate::message::Kind), that is text or binary.
    pub fn has_kinds(self) -> bool {
        match self {
            Framing::WebSocket(_) => true,
            Framing::Script => false,
        }
    }

    /// What asks a silent client for a sign of life. None: this framing has no ping.
    pub fn ping(self) -> Option<Frame> {
        match self {
            Framing::WebSocket(_) => Some(frame::encode_ping(b"")),
            Framing::Script => None,
        }
    }

    /// What tells a client why its connection ends. None: there is no such message.
    pub fn close(self, reason: &CloseReason) -> Option<Frame> {
        match self {
            Framing::WebSocket(_) => reason.frame().map(|(code, text)| frame::encode_close(code, &text)),
            Framing::Script => None,
        }
    }

    /// Whether [`Framing::close`] can tell a client why its connection ends.
    pub fn tells_why(self) -> bool {
        match self {
            Framing::WebSocket(_) => true,
            Framing::Script => false,
        }
    }

    /// Whether clients close by a message of their own (a close frame). If so, a client that ends its sending without
    /// it has gone; otherwise it may only have stopped sending.
    pub fn clients_close(self) -> bool {
        match self {
            Framing::WebSocket(_) => true,
            Framing::Script => false,
        }
    }

    /// The counters for connections with this framing.
    pub fn counts(self, shard: &ShardCounts) -> &ProtocolCounts {
        let [websocket, socket] = &shard.protocols;
        match self {
            Framing::WebSocket(_) => websocket,
            Framing::Script => socket,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::counters::PROTOCOLS;
    use std::time::Duration;

    /// The metrics page identifies protocols by their position.
    #[test]
    fn each_protocol_is_counted_under_its_own_name() {
        for protocol in [Protocol::Websocket, Protocol::Socket] {
            let counts = ShardCounts::default();
            Framing::of(protocol, None).counts(&counts).read.add(1);
            let at = counts.protocols.iter().position(|protocol| protocol.read.get() == 1).unwrap();
            assert_eq!(PROTOCOLS[at], protocol.name());
        }
    }

    #[test]
    fn a_framing_takes_one_byte_of_each_connection() {
        assert_eq!(size_of::<Framing>(), 1);
    }

    #[test]
    fn only_a_framing_that_tells_why_has_words_for_it() {
        for framing in [Framing::WebSocket(None), Framing::Script] {
            assert_eq!(framing.close(&CloseReason::shutdown(Duration::ZERO)).is_some(), framing.tells_why());
            assert!(framing.close(&CloseReason::Peer(None)).is_none(), "the client knows");
        }
    }
}
