//! What a node tells of itself as a whole: figures for those who watch it. Counters begin at zero with the process, so that
//! rates are differences of two answers.

use serde::{Deserialize, Serialize};

/// The most servers that a node tells of.
const MAX_SERVERS: usize = 64;
/// The longest text in them, in bytes.
pub const MAX_FIGURE_TEXT: usize = 2048;

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFigures {
    /// Its id, as text: some JSON parsers can't represent large numbers exactly.
    pub node: String,
    /// `host:port` of its API, as others reach it.
    pub api: String,
    /// It has clients.
    pub engine: bool,
    /// It is a center.
    pub center: bool,
    /// The version of its program.
    pub version: String,
    /// When these figures were taken, Unix time in milliseconds by its own clock.
    pub at: u64,
    /// When it started, likewise.
    pub started: u64,
    /// Connections of clients.
    pub clients: u64,
    /// Channels that they are in.
    pub channels: u64,
    /// How often they are in one.
    pub subscriptions: u64,
    /// Messages from clients.
    pub read: u64,
    /// Messages that were put into outboxes.
    pub sent: u64,
    /// The part of them that came through the mesh.
    pub delivered: u64,
    /// Messages that no client was given.
    pub dropped: u64,
    /// Messages that this node was given to publish.
    pub published: u64,
    /// Calls of scripts' hooks that failed.
    pub errors: u64,
    /// How many calls of hooks took how long: within each of the bounds of the metrics' histogram, and beyond.
    pub handlers: Vec<u64>,
    /// What they took together, in microseconds.
    pub handlers_micros: u64,
    /// Calls of hooks that wait.
    pub waiting: u64,
    /// Memory of the process, in bytes.
    pub memory: u64,
    /// What the Lua VMs use of it.
    pub lua: u64,
    /// Processor time, in microseconds.
    pub cpu_micros: u64,
    /// Worker threads.
    pub workers: u64,
    /// Those of them that are stuck.
    pub stuck: u64,
    /// Where clients connect.
    pub servers: Vec<ServerFigures>,
}

/// A server of a node, and its script.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFigures {
    /// Where it listens.
    pub address: String,
    /// `websocket` or `socket`.
    pub protocol: String,
    /// The path of a WebSocket server; empty = any.
    pub path: String,
    /// It speaks TLS.
    pub tls: bool,
    /// Its connections.
    pub clients: u64,
    /// The script.
    pub script: ScriptFigures,
}

/// The version of a script that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptFigures {
    /// The entry file.
    pub entry: String,
    /// How many versions have run since the start, this one included.
    pub version: u64,
    /// Since when it runs, Unix time in milliseconds.
    pub since: u64,
    /// Why a newer version was not taken up; empty = there is none.
    pub error: String,
}

impl NodeFigures {
    /// Whether it is no larger than what a node tells.
    pub fn is_bounded(&self) -> bool {
        let of_server = |server: &ServerFigures| {
            let ServerFigures { address, protocol, path, script, .. } = server;
            [address, protocol, path, &script.entry, &script.error].iter().all(|text| text.len() <= MAX_FIGURE_TEXT)
        };
        [&self.node, &self.api, &self.version].iter().all(|text| text.len() <= MAX_FIGURE_TEXT)
            && self.handlers.len() <= 64
            && self.servers.len() <= MAX_SERVERS
            && self.servers.iter().all(of_server)
    }

    /// Cuts off what would be too much.
    pub fn bound(&mut self) {
        self.servers.truncate(MAX_SERVERS);
        for server in &mut self.servers {
            let ServerFigures { address, protocol, path, script, .. } = server;
            for text in [address, protocol, path, &mut script.entry, &mut script.error] {
                text.truncate(text.floor_char_boundary(MAX_FIGURE_TEXT));
            }
        }
    }
}
