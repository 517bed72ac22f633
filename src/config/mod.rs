//! What connmix.yaml means, checked and with every default filled in.
//!
//! `keys` has a row for each key, and makes the types of them; `rows` says what a row is, `kinds` and `sections` what can
//! stand at a key. `raw` knows the spelling and where each value stands; `load` checks what values mean together; `reload`
//! compares two configurations; `print` writes one with all there is to know of it; `explain` says which rule holds for a channel; `production`
//! looks for what should not be in force where strangers come. The rest of the program sees only the
//! types that are named here.

use std::net::IpAddr;

pub mod access;
mod changes;
mod channels;
pub mod explain;
pub mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod home;
mod keys;
mod kinds;
pub mod load;
mod memory;
pub mod print;
mod problem;
pub mod production;
mod raw;
pub mod reload;
mod rows;
mod sections;
mod tracing;
mod types;

pub use changes::Effect;
pub use channels::Rules;
pub use home::Home;
pub use keys::{
    ApiServer, ChannelRule, Cluster, Config, HistoryRule, LimitRule, Limits, Logging, LuaVm, MAX_HISTORY, Memory,
    Online, Rates, Redis, Server, Summary, Tls, Tracing, User,
};
pub use problem::{Problem, Problems};
pub use raw::units::{Quantity, parse_duration};
pub use rows::Row;
pub use types::{
    ClusterEngine, Compression, Envelope, EventStream, Format, High, HostPattern, LOAD_LIMIT, Level, Library, Listen,
    MAX_SCRIPT, MAX_WAITING, NodeRole, Over, Protocol, ProxyProtocol, QueueFull, Rate, Roles, STUCK_AFTER, Slow,
    UNSENT_LIMIT,
};

impl Config {
    /// The same for a process with that part in a cluster: what is not of it is left out.
    pub fn for_role(mut self, role: NodeRole) -> Config {
        self.role = role;
        if !role.engine {
            self.servers.clear();
        }
        self
    }

    /// The same for that node; None: it stays as it is.
    pub fn at_home(mut self, home: Option<Home>) -> Config {
        let Some(home) = home else { return self };
        self.role = home.role();
        self.api.listen.addr = home.api;
        self.center.addr = home.center;
        self.registry.addr = home.registry;
        self.mesh_point.addr = home.mesh_point;
        self.centers = if self.role.center { Vec::new() } else { vec![home.registry.to_string()] };
        // What the file says is true of one node at most.
        (self.cluster.advertise, self.cluster.advertise_mesh) = (None, None);
        for (server, addr) in self.servers.iter_mut().zip(&home.servers) {
            server.listen.addr = *addr;
        }
        if self.role.center {
            self.servers.clear();
        }
        self.home = Some(home);
        self
    }

    /// Whether an address is one of `trustedProxies`.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&ip.to_canonical()))
    }

    /// Whether there may be other nodes.
    pub fn is_of_mesh(&self) -> bool {
        self.role != NodeRole::SINGLE || self.cluster.engine == ClusterEngine::Mesh
    }

    /// Where other nodes link to this one.
    pub fn listen(&self) -> &Listen {
        if self.role.center { &self.registry } else { &self.mesh_point }
    }

    /// The APIs that everybody on the network may call: they listen on more than loopback, and there are no users.
    pub fn open_apis(&self) -> impl Iterator<Item = &Listen> {
        let center = self.role.center.then_some(&self.center);
        let apis = self.role.engine.then_some(&self.api.listen).into_iter().chain(center);
        apis.filter(move |api| self.users.is_empty() && api.is_beyond_loopback())
    }
}
