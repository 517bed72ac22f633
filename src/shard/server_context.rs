//! The state that the connections of one configured server share within a worker.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::config::{Limits, Protocol, Server};
use crate::telemetry::metrics::counters::ServerCounts;

/// One configured server as one worker serves it.
pub struct ServerContext {
    /// Its position under `engine.servers`.
    pub index: usize,
    /// The protocol of its clients.
    pub protocol: Protocol,
    /// The limits in force; a reload of the configuration sets them for live connections too.
    pub limits: Cell<Limits>,
    /// The `unsentLimit` that accepted sockets inherit from their listener.
    pub unsent_at_first: usize,
    /// Connections of this server over all workers.
    clients: Arc<AtomicUsize>,
    /// This worker's counters for the server.
    pub counts: Arc<ServerCounts>,
}

impl ServerContext {
    /// The server at that position, whose connections all workers count together.
    pub fn new(index: usize, server: &Server, clients: Arc<AtomicUsize>) -> ServerContext {
        let (limits, unsent_at_first) = (Cell::new(server.limits), server.limits.unsent_limit);
        ServerContext { index, protocol: server.protocol, limits, unsent_at_first, clients, counts: Arc::default() }
    }

    /// Takes a place among the server's connections; None when there are `maxConnections` already.
    pub fn admit(&self) -> Option<ConnectionPermit> {
        let max = self.limits.get().max_connections;
        let before = self.clients.fetch_add(1, Relaxed);
        let place = ConnectionPermit(self.clients.clone());
        (max == 0 || before < max).then_some(place)
    }
}

/// A connection's place among its server's connections, freed when dropped.
pub struct ConnectionPermit(Arc<AtomicUsize>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
