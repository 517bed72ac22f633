//! The state that the connections of one configured server share within a worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::meter::Meter;
use crate::admission::AddressPermit;
use crate::config::{Limits, Protocol, Rates, Server};
use crate::handover::Encoder;
use crate::telemetry::metrics::counters::ServerCounts;

/// One configured server as one worker serves it.
pub struct ServerContext {
    /// Its position under `engine.servers`.
    pub index: usize,
    /// The protocol of its clients.
    pub protocol: Protocol,
    /// The limits in force; a reload of the configuration sets them for live connections too.
    pub limits: Cell<Limits>,
    /// The rates in force, likewise.
    pub rates: Cell<Rates>,
    /// The `unsentLimit` that accepted sockets inherit from their listener.
    pub unsent_at_first: usize,
    /// Of the connections that have nothing of their own counted.
    place: Rc<Place>,
    /// This worker's counters for the server.
    pub counts: Arc<ServerCounts>,
}

impl ServerContext {
    /// The server at that position, whose connections all workers count together.
    pub fn new(index: usize, server: &Server, clients: Arc<AtomicUsize>) -> ServerContext {
        let (limits, unsent_at_first) = (Cell::new(server.limits), server.limits.unsent_limit);
        ServerContext {
            index,
            protocol: server.protocol,
            limits,
            rates: Cell::new(server.rate),
            unsent_at_first,
            place: Rc::new(Place { clients, _address: None, meter: RefCell::default() }),
            counts: Arc::default(),
        }
    }

    /// Takes a place for a connection that has had one in the process before.
    pub fn admit_moved(&self) -> ConnectionPermit {
        self.place.clients.fetch_add(1, Relaxed);
        ConnectionPermit(self.place.clone())
    }

    /// Takes a place among the server's connections; None when there are `maxConnections` already.
    pub fn admit(&self) -> Option<ConnectionPermit> {
        let max = self.limits.get().max_connections;
        let before = self.place.clients.fetch_add(1, Relaxed);
        let place = ConnectionPermit(self.place.clone());
        (max == 0 || before < max).then_some(place)
    }
}

/// A connection's place among its server's connections, freed when dropped.
pub struct ConnectionPermit(Rc<Place>);

/// What is counted of a connection. One that has nothing of its own shares that of its server, so that it is no larger.
struct Place {
    /// Connections of this server over all workers.
    clients: Arc<AtomicUsize>,
    _address: Option<AddressPermit>,
    meter: RefCell<Option<Meter>>,
}

impl ConnectionPermit {
    /// The same with a place among the connections of its address, if they are counted.
    pub fn at(mut self, address: Option<AddressPermit>) -> ConnectionPermit {
        if address.is_some() {
            let clients = self.0.clients.clone();
            self.0 = Rc::new(Place { clients, _address: address, meter: RefCell::default() });
        }
        self
    }

    /// Writes the account of what its client sends, if there is one, for a successor process.
    pub fn save(&self, out: &mut Encoder) {
        out.option(self.0.meter.borrow().as_ref(), |out, meter| meter.save(out));
    }

    /// Takes up the account that another process had kept.
    pub fn go_on(&mut self, served: &ServerContext, account: Option<Meter>) {
        if let Some(account) = account.filter(|_| served.rates.get().bounds_clients()) {
            self.meter(served, |meter| *meter = account);
        }
    }

    /// Asks the account of what its client sends. None: it has not sent anything that counts.
    pub fn look(&self, ask: impl FnOnce(&Meter) -> u64) -> u64 {
        self.0.meter.borrow().as_ref().map_or(u64::MAX, ask)
    }

    /// Uses the account of what its client sends. It is there from the first use on.
    pub fn meter<T>(&mut self, served: &ServerContext, use_it: impl FnOnce(&mut Meter) -> T) -> T {
        if Rc::ptr_eq(&self.0, &served.place) {
            let clients = self.0.clients.clone();
            self.0 = Rc::new(Place { clients, _address: None, meter: RefCell::default() });
        }
        use_it(self.0.meter.borrow_mut().get_or_insert_default())
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Relaxed);
    }
}
