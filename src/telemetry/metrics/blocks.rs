//! What is counted, by whom. Each block belongs to one thread, which alone writes it; blocks of different threads share
//! no cache line.

use std::time::Duration;

use super::count::{Count, Durations, Labelled};
use super::window::Delays;

/// What clients speak, in the order of what is kept for each.
pub const PROTOCOLS: [&str; 2] = ["websocket", "socket"];
/// Where a message for clients was accepted: by this node, or by another one.
pub const SCENARIOS: [&str; 2] = ["local", "forward"];
/// Why a client did not get a message.
pub const DROPS: [&str; 4] = ["too_slow", "closing", "encode", "no_client"];
/// Why a connection ended. The last one is a defect of the engine.
pub const ENDS: [&str; 12] = [
    "peer",
    "requested",
    "shutdown",
    "lost",
    "violation",
    "handler_failed",
    "read_timeout",
    "write_timeout",
    "too_slow",
    "message_timeout",
    "memory",
    "internal_error",
];
/// How many hooks there are.
pub const HOOKS: usize = 7;
/// The calls of the APIs: over HTTP, and over a WebSocket.
pub const CALLS: [&str; 13] = [
    "mesh.publish",
    "mesh.send",
    "conn.call",
    "queue.pop",
    "queue.unpop",
    "queue.ack",
    "ws",
    "metrics",
    "nodes",
    "version",
    "healthz",
    "readyz",
    "other",
];
/// What calls come to.
pub const RESULTS: [&str; 19] = [
    "ok",
    "invalid",
    "not_sent",
    "not_popped",
    "already_popped",
    "not_consumed",
    "not_obeyed",
    "bad_request",
    "not_implemented",
    "no_upgrade",
    "unauthorized",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "too_large",
    "timeout",
    "unavailable",
    "too_many",
    "crowded",
];

/// What a worker counts of its connections, all servers together.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardCounts {
    /// By [`PROTOCOLS`].
    pub protocols: [ProtocolCounts; PROTOCOLS.len()],
    /// Messages for one client that there is not.
    pub no_client: Count,
    /// Channels that nobody on the node was in when the first one came.
    pub channels_opened: Count,
    /// Subscriptions there are now.
    pub subscriptions: Count,
    /// Bytes of clients' messages that are unfinished, or wait for a handler.
    pub held: Count,
    /// Messages that scripts published.
    pub published: Count,
    /// Bytes that the Lua VMs use.
    pub lua_memory: Count,
    /// Handlers that wait.
    pub waiting_handlers: Count,
}

/// What is counted of connections that speak one protocol.
#[derive(Debug)]
pub struct ProtocolCounts {
    /// Whole messages that clients have sent.
    pub read: Count,
    /// Messages that were put into outboxes.
    pub sent: Count,
    /// Those of them that came by way of the mesh.
    pub delivered: Count,
    /// Messages that were not.
    pub dropped: Labelled<{ DROPS.len() }>,
    /// By [`SCENARIOS`]: from when the mesh accepted a message till the outboxes had it.
    pub delays: [Delays; SCENARIOS.len()],
}

impl Default for ProtocolCounts {
    fn default() -> ProtocolCounts {
        ProtocolCounts {
            read: Count::default(),
            sent: Count::default(),
            delivered: Count::default(),
            dropped: Labelled::new(&DROPS),
            delays: Default::default(),
        }
    }
}

/// What a worker counts of one server.
#[derive(Debug)]
#[repr(align(128))]
pub struct ServerCounts {
    /// Connections that were opened.
    pub opened: Count,
    /// Connections that have ended, by [`ENDS`].
    pub closed: Labelled<{ ENDS.len() }>,
    /// Connections that were refused.
    pub refused: Count,
    /// By hook.
    pub handlers: [HandlerCounts; HOOKS],
}

impl Default for ServerCounts {
    fn default() -> ServerCounts {
        ServerCounts {
            opened: Count::default(),
            closed: Labelled::new(&ENDS),
            refused: Count::default(),
            handlers: Default::default(),
        }
    }
}

/// What is counted of one hook.
#[derive(Debug, Default)]
pub struct HandlerCounts {
    /// How long its calls took, their waits included.
    pub durations: Durations,
    /// Calls that failed.
    pub errors: Count,
    /// Those of them that were stopped for holding the worker too long.
    pub timeouts: Count,
    /// Those of these after which the hook got a shorter budget.
    pub budget_cuts: Count,
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

/// What a worker counts of the APIs.
#[derive(Debug)]
#[repr(align(128))]
pub struct ApiCounts {
    /// By [`CALLS`] and [`RESULTS`].
    calls: [Labelled<{ RESULTS.len() }>; CALLS.len()],
    /// Messages that back ends published, one for each channel; repeats that are not done again do not count.
    pub published: Count,
    /// Wrong credentials.
    pub logins_failed: Count,
    /// Those of them whose answer had to wait.
    pub logins_delayed: Count,
}

impl Default for ApiCounts {
    fn default() -> ApiCounts {
        ApiCounts {
            calls: std::array::from_fn(|_| Labelled::new(&RESULTS)),
            published: Count::default(),
            logins_failed: Count::default(),
            logins_delayed: Count::default(),
        }
    }
}

impl ApiCounts {
    /// A call has been answered.
    pub fn called(&self, call: &str, result: &str) {
        if let Some(results) = CALLS.iter().position(|c| *c == call).and_then(|at| self.calls.get(at)) {
            results.one(result);
        }
    }

    /// Each call and result with how often.
    pub(super) fn calls(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let rows = CALLS.into_iter().zip(&self.calls);
        rows.flat_map(|(call, results)| results.iter().map(move |(result, n)| (call, result, n)))
    }
}

/// What the thread that reloads counts.
#[derive(Debug)]
#[repr(align(128))]
pub struct ReloadCounts {
    /// Scripts.
    pub scripts: Labelled<2>,
    /// The configuration.
    pub config: Labelled<2>,
}

impl Default for ReloadCounts {
    fn default() -> ReloadCounts {
        let new = || Labelled::new(&["ok", "error"]);
        ReloadCounts { scripts: new(), config: new() }
    }
}
