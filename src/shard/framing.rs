//! How a connection's messages are framed: the bytes of a ping and a close, the meaning of a client's own end and of its
//! silence, and the protocol that all this is counted under. Each question is answered here for every framing, so that a
//! new one has to answer them all.

use super::outbox::Frame;
use crate::message::CloseReason;
use crate::telemetry::metrics::counters::{ProtocolCounts, ShardCounts};
use crate::wire::deflate::Window;
use crate::wire::{event_stream, frame};

/// How messages become a connection's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// WebSocket frames (RFC 6455): the same for every client, or for all whose messages are compressed with that window.
    WebSocket(Option<Window>),
    /// Server-sent events: the same for every client. What the client sends comes by requests of its own.
    EventStream,
    /// The script of a socket server defines messages and their bytes.
    Script,
}

impl Framing {
    /// Whether messages have a [`Kind`](crate::message::Kind), that is text or binary.
    pub fn has_kinds(self) -> bool {
        match self {
            Framing::WebSocket(_) | Framing::EventStream => true,
            Framing::Script => false,
        }
    }

    /// What is sent to a silent client: it asks for a sign of life, or at least keeps proxies from closing the connection.
    /// None: this framing has nothing of the kind.
    pub fn ping(self) -> Option<Frame> {
        match self {
            Framing::WebSocket(_) => Some(frame::encode_ping(b"")),
            Framing::EventStream => Some(event_stream::COMMENT.into()),
            Framing::Script => None,
        }
    }

    /// What tells a client why its connection ends. None: there is no such message.
    pub fn close(self, reason: &CloseReason) -> Option<Frame> {
        match self {
            Framing::WebSocket(_) => reason.frame().map(|(code, text)| frame::encode_close(code, &text)),
            Framing::EventStream => reason.frame().map(|(code, text)| event_stream::encode_close(code, &text)),
            Framing::Script => None,
        }
    }

    /// Whether [`Framing::close`] can tell a client why its connection ends.
    pub fn tells_why(self) -> bool {
        match self {
            Framing::WebSocket(_) | Framing::EventStream => true,
            Framing::Script => false,
        }
    }

    /// Whether clients close by a message of their own (a close frame), which may stand in what is not read yet.
    pub fn clients_close(self) -> bool {
        match self {
            Framing::WebSocket(_) => true,
            Framing::EventStream | Framing::Script => false,
        }
    }

    /// Whether a client that ends its sending may only have stopped sending; otherwise it has gone.
    pub fn may_stop_sending(self) -> bool {
        match self {
            Framing::WebSocket(_) | Framing::EventStream => false,
            Framing::Script => true,
        }
    }

    /// Whether a client that is there sends something now and then, if only answers to pings. If not, its silence says
    /// nothing, and the system is asked whether its machine still answers.
    pub fn clients_are_heard(self) -> bool {
        match self {
            Framing::WebSocket(_) | Framing::Script => true,
            Framing::EventStream => false,
        }
    }

    /// The counters for connections with this framing.
    pub fn counts(self, shard: &ShardCounts) -> &ProtocolCounts {
        let [websocket, socket, event_stream] = &shard.protocols;
        match self {
            Framing::WebSocket(_) => websocket,
            Framing::EventStream => event_stream,
            Framing::Script => socket,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Protocol;
    use crate::telemetry::metrics::counters::{EVENT_STREAM, PROTOCOLS};
    use std::time::Duration;

    /// The metrics page identifies protocols by their position.
    #[test]
    fn each_protocol_is_counted_under_its_own_name() {
        for (framing, name) in [
            (Framing::WebSocket(None), Protocol::Websocket.name()),
            (Framing::Script, Protocol::Socket.name()),
            (Framing::EventStream, EVENT_STREAM),
        ] {
            let counts = ShardCounts::default();
            framing.counts(&counts).read.add(1);
            let at = counts.protocols.iter().position(|protocol| protocol.read.get() == 1).unwrap();
            assert_eq!(PROTOCOLS[at], name);
        }
    }

    #[test]
    fn a_framing_takes_one_byte_of_each_connection() {
        assert_eq!(size_of::<Framing>(), 1);
    }

    #[test]
    fn only_a_framing_that_tells_why_has_words_for_it() {
        for framing in [Framing::WebSocket(None), Framing::EventStream, Framing::Script] {
            assert_eq!(framing.close(&CloseReason::shutdown(Duration::ZERO)).is_some(), framing.tells_why());
            assert!(framing.close(&CloseReason::Peer(None)).is_none(), "the client knows");
        }
    }
}
