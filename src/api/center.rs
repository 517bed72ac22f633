//! The center's API: the nodes of the cluster, for clients that look for one.

use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::time::UNIX_EPOCH;

use super::state::Api;
use crate::cluster::protocol::Hello;

/// `GET /version`
#[derive(Serialize)]
pub(super) struct Version {
    apis: [&'static str; 1],
    version: &'static str,
}

pub(super) fn version() -> Version {
    Version { apis: ["v1"], version: env!("CARGO_PKG_VERSION") }
}

/// `GET /v1/nodes`
#[derive(Serialize)]
pub(super) struct Nodes {
    nodes: Vec<Node>,
}

#[derive(Serialize)]
struct Node {
    /// As text: some JSON parsers can't represent large numbers exactly.
    id: String,
    /// host:port, to be dialled as it stands.
    api_server: String,
    /// Unix time in seconds.
    start_time: u64,
    clients: usize,
}

impl Node {
    /// A member of the mesh.
    fn of(member: &Hello) -> Node {
        Node {
            id: member.run.0.to_string(),
            api_server: member.api.clone(),
            start_time: member.started / 1000,
            clients: usize::try_from(member.clients).unwrap_or(usize::MAX),
        }
    }
}

impl Api {
    /// The live nodes. `local` is the local address that the caller reached; it is given for a node that advertises no
    /// address.
    pub(super) fn nodes(&self, local: IpAddr) -> Nodes {
        if let Some(others) = self.mesh.others() {
            let engines =
                others.members().iter().filter(|member| member.engine && member.serving).map(Node::of).collect();
            return Nodes { nodes: engines };
        }
        let advertised = self.config.load().cluster.advertise.clone();
        let bound = self.api_addr;
        let host = if bound.ip().is_unspecified() { local.to_canonical() } else { bound.ip() };
        let node = Node {
            id: self.mesh.node().to_string(),
            api_server: advertised.unwrap_or_else(|| SocketAddr::new(host, bound.port()).to_string()),
            start_time: self.mesh.started().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            clients: self.clients.iter().map(|count| count.load(Relaxed)).sum(),
        };
        Nodes { nodes: vec![node] }
    }
}
