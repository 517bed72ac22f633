//! Which hooks scripts define.

use crate::config::Protocol;

/// The hooks that a script may define.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before the response 101 is sent.
    Handshake,
    /// A socket server has accepted a connection.
    Connect,
    /// Returns the length of the next packet.
    Input,
    /// A whole message or packet. A packet is decoded first.
    Message,
    /// Turns a packet into a message. Called at the beginning of [`Hook::Message`], never alone.
    Decode,
    /// Turns a message into bytes for this connection.
    Encode,
    /// The connection has ended.
    Close,
    /// The script has been loaded in a worker, and serves no connection yet.
    Start,
    /// A timer is due. It is no function of that name, but the one that the timer names.
    Timer,
}

impl Hook {
    pub(super) const COUNT: usize = crate::telemetry::metrics::counters::HOOKS;

    /// All of them.
    pub(super) const ALL: [Hook; Hook::COUNT] = [
        Hook::Handshake,
        Hook::Connect,
        Hook::Input,
        Hook::Message,
        Hook::Decode,
        Hook::Encode,
        Hook::Close,
        Hook::Start,
        Hook::Timer,
    ];

    /// The hooks of a protocol, and whether a script must define them. Timers are besides these.
    pub fn of(protocol: Protocol) -> &'static [(Hook, bool)] {
        match protocol {
            Protocol::Websocket => {
                &[(Hook::Start, false), (Hook::Handshake, false), (Hook::Message, true), (Hook::Close, false)]
            }
            Protocol::Socket => &[
                (Hook::Start, false),
                (Hook::Connect, false),
                (Hook::Input, true),
                (Hook::Encode, true),
                (Hook::Decode, true),
                (Hook::Message, true),
                (Hook::Close, false),
            ],
        }
    }

    /// The global function's name; that of timers is only for the log and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Handshake => "on_handshake",
            Hook::Connect => "on_connect",
            Hook::Input => "protocol_input",
            Hook::Message => "on_message",
            Hook::Decode => "protocol_decode",
            Hook::Encode => "protocol_encode",
            Hook::Close => "on_close",
            Hook::Start => "on_start",
            Hook::Timer => "timer",
        }
    }

    /// The function of the prelude that enters it, and the position of its connection argument.
    pub(super) fn entrance(self) -> (&'static str, u32) {
        match self {
            Hook::Handshake => ("handshake", 4),
            Hook::Message => ("message", 2),
            Hook::Connect | Hook::Input | Hook::Decode | Hook::Encode | Hook::Start => ("plain", 2),
            Hook::Timer => ("timer", 2),
            Hook::Close => ("close", 3),
        }
    }

    /// Whether the hook may wait. `protocol_encode` may not, since deliveries can't be delayed.
    pub(super) fn may_wait(self) -> bool {
        self != Hook::Encode
    }
}
