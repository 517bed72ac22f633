//! A node of a cluster whose nodes all run on this machine, from one file: what is its own is where it listens.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

use super::keys::Config;
use super::types::NodeRole;

/// Where such a node listens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Home {
    /// Engines are counted from 1; 0 is the center.
    pub number: u16,
    /// `engine.servers`, in their order.
    pub servers: Vec<SocketAddr>,
    /// `engine.apiServer`
    pub api: SocketAddr,
    /// `center.apiServer`
    pub center: SocketAddr,
    /// `center.registry`
    pub registry: SocketAddr,
    /// `engine.meshPoint`
    pub mesh_point: SocketAddr,
}

impl Home {
    /// What the node is.
    pub fn role(&self) -> NodeRole {
        let center = self.number == 0;
        NodeRole { engine: !center, center }
    }
}

impl Config {
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
}
