//! One node of a cluster whose nodes all run on this machine, from one file: only its listening addresses are its own.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

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
