//! What back ends call: the mesh over HTTP, and the center. Served by the workers, each with its own [`Api`].

pub mod auth;
pub mod call;
mod center;
pub mod error;
mod http;
mod linger;

use arc_swap::ArcSwap;
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use tokio::sync::watch;

use crate::cluster::Mesh;
use crate::config::Config;

/// The API as one worker serves it.
pub struct Api {
    mesh: Arc<Mesh>,
    config: Arc<ArcSwap<Config>>,
    /// Connections of each server.
    clients: Vec<Arc<AtomicUsize>>,
    /// Where `engine.apiServer` listens.
    api_addr: SocketAddr,
    draining: watch::Receiver<bool>,
    /// Connections under way.
    connections: Cell<usize>,
}

/// The most connections of back ends that one worker serves; further ones are closed at once.
const MAX_CONNECTIONS: usize = 10_000;

impl Api {
    /// An API over that mesh.
    pub fn new(
        mesh: Arc<Mesh>,
        config: Arc<ArcSwap<Config>>,
        clients: Vec<Arc<AtomicUsize>>,
        api_addr: SocketAddr,
        draining: watch::Receiver<bool>,
    ) -> Api {
        Api { mesh, config, clients, api_addr, draining, connections: Cell::new(0) }
    }
}
