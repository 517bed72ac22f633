//! The blocks of counters. Each block belongs to one thread, which alone writes it; blocks of different threads share
//! no cache line.

use std::time::Duration;

use super::counter::{Counter, Durations};
use super::labels::{
    ApiCall, CallResult, DropCause, EndReason, Handshake, Label, Labelled, RateLimit, RefusalCause, ReloadResult,
};
use super::window::LatencyHistogram;

/// The protocols of clients, in the order of their counters.
pub const PROTOCOLS: [&str; 3] = ["websocket", "socket", EVENT_STREAM];
/// What WebSocket servers speak besides with `eventStream`.
pub const EVENT_STREAM: &str = "event_stream";
/// Where a message for clients was accepted: by this node, or by another one.
pub const SCENARIOS: [&str; 2] = ["local", "forward"];
/// How many hooks there are.
pub const HOOKS: usize = 9;
/// A worker's counters of its connections, all servers together.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardCounts {
    /// By [`PROTOCOLS`].
    pub protocols: [ProtocolCounts; PROTOCOLS.len()],
    /// Messages for a client that does not exist.
    pub no_client: Counter,
    /// Channels that nobody on the node was in when the first one came.
    pub channels_opened: Counter,
    /// Subscriptions there are now.
    pub subscriptions: Counter,
    /// Bytes of clients' messages that are unfinished, or wait for a handler.
    pub held: Counter,
    /// Messages that scripts published.
    pub published: Counter,
    /// Bytes that the Lua VMs use.
    pub lua_memory: Counter,
    /// Handlers that wait.
    pub waiting_handlers: Counter,
    /// TLS handshakes of clients.
    pub handshakes: Labelled<Handshake>,
    /// Messages that were compressed for clients.
    pub compressed: CompressionCounts,
    /// Messages of clients that were decompressed.
    pub decompressed: CompressionCounts,
}

/// The counters of messages that are compressed.
#[derive(Debug, Default)]
pub struct CompressionCounts {
    /// How many.
    pub messages: Counter,
    /// Their bytes as they are.
    pub plain: Counter,
    /// Their bytes compressed.
    pub compressed: Counter,
}

impl CompressionCounts {
    /// Counts a message with both of its lengths.
    pub fn one(&self, plain: usize, compressed: usize) {
        self.messages.add(1);
        self.plain.add(plain as u64);
        self.compressed.add(compressed as u64);
    }
}

/// The counters of connections with one protocol.
#[derive(Debug, Default)]
pub struct ProtocolCounts {
    /// Whole messages that clients have sent.
    pub read: Counter,
    /// Messages that were put into outboxes.
    pub sent: Counter,
    /// The part of them that came through the mesh.
    pub delivered: Counter,
    /// Messages that were not put into outboxes.
    pub dropped: Labelled<DropCause>,
    /// By [`SCENARIOS`]: the time from a message's acceptance by the mesh until the outboxes had it.
    pub delays: [LatencyHistogram; SCENARIOS.len()],
}

/// A worker's counters of one server.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ServerCounts {
    /// Connections that were opened.
    pub opened: Counter,
    /// Connections that have ended.
    pub closed: Labelled<EndReason>,
    /// Connections that were refused.
    pub refused: Labelled<RefusalCause>,
    /// Times that a client was not read for a while, since it had sent too much.
    pub rate_pauses: Labelled<RateLimit>,
    /// By hook.
    pub handlers: [HandlerCounts; HOOKS],
}

/// The counters of one hook.
#[derive(Debug, Default)]
pub struct HandlerCounts {
    /// How long its calls took, their waits included.
    pub durations: Durations,
    /// Calls that failed.
    pub errors: Counter,
    /// The part of them that was stopped for holding the worker too long.
    pub timeouts: Counter,
    /// The part of these after which the hook got a shorter budget.
    pub budget_cuts: Counter,
}

impl HandlerCounts {
    /// A call has ended.
    pub fn ended(&self, took: Duration, failed: bool, over_budget: bool, budget_cut: bool) {
        self.durations.record(took);
        self.errors.add(failed.into());
        self.timeouts.add(over_budget.into());
        self.budget_cuts.add(budget_cut.into());
    }
}

/// A worker's counters of the APIs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ApiCounts {
    /// By call.
    calls: [Labelled<CallResult>; ApiCall::ALL.len()],
    /// Messages that back ends published, one for each channel; repeats that are not done again do not count.
    pub published: Counter,
    /// Wrong credentials.
    pub logins_failed: Counter,
    /// Those of them whose answer had to wait.
    pub logins_delayed: Counter,
    /// TLS handshakes of callers.
    pub handshakes: Labelled<Handshake>,
}

impl ApiCounts {
    /// A call has been answered.
    pub fn called(&self, call: ApiCall, result: CallResult) {
        if let Some(results) = self.calls.get(call.position()) {
            results.one(result);
        }
    }

    /// How often a call had that result.
    pub(super) fn calls(&self, call: ApiCall, result: CallResult) -> u64 {
        self.calls.get(call.position()).map_or(0, |results| results.get(result))
    }
}

/// The counters of the thread that reloads.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ReloadCounts {
    /// Scripts.
    pub scripts: Labelled<ReloadResult>,
    /// The configuration.
    pub config: Labelled<ReloadResult>,
    /// Certificates whose files have changed.
    pub certificates: Labelled<ReloadResult>,
}
