//! Which hooks scripts define.

use crate::config::Protocol;

/// The hooks that a script may define.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before the 101.
    Handshake,
    /// A socket server's connection is there.
    Connect,
    /// How long is the next package?
    Input,
    /// A whole message or package. A package is decoded first.
    Message,
    /// What is a package, as a message? It is called as the beginning of [`Hook::Message`], never alone.
    Decode,
    /// What is a message, as bytes of this connection?
    Encode,
    /// The end.
    Close,
}

impl Hook {
    pub(super) const COUNT: usize = crate::telemetry::metrics::counters::HOOKS;

    /// All of them.
    pub(super) const ALL: [Hook; Hook::COUNT] =
        [Hook::Handshake, Hook::Connect, Hook::Input, Hook::Message, Hook::Decode, Hook::Encode, Hook::Close];

    /// The hooks of a protocol, and whether a script must define them.
    pub fn of(protocol: Protocol) -> &'static [(Hook, bool)] {
        match protocol {
            Protocol::Websocket => &[(Hook::Handshake, false), (Hook::Message, true), (Hook::Close, false)],
            Protocol::Socket => &[
                (Hook::Connect, false),
                (Hook::Input, true),
                (Hook::Encode, true),
                (Hook::Decode, true),
                (Hook::Message, true),
                (Hook::Close, false),
            ],
        }
    }

    /// The global function's name.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Handshake => "on_handshake",
            Hook::Connect => "on_connect",
            Hook::Input => "protocol_input",
            Hook::Message => "on_message",
            Hook::Decode => "protocol_decode",
            Hook::Encode => "protocol_encode",
            Hook::Close => "on_close",
        }
    }

    /// The function of the prelude that enters it, and the position of its connection argument.
    pub(super) fn entrance(self) -> (&'static str, u32) {
        match self {
            Hook::Handshake => ("handshake", 4),
            Hook::Message => ("message", 2),
            Hook::Connect | Hook::Input | Hook::Decode | Hook::Encode => ("plain", 2),
            Hook::Close => ("close", 3),
        }
    }

    /// Whether it may wait. Deliveries can't be held up.
    pub(super) fn may_wait(self) -> bool {
        self != Hook::Encode
    }
}
