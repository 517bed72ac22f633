//! Whether a client finds a place: the bounds and rates of its server, and the process's memory.

use std::cell::Cell;
use std::net::IpAddr;

use super::{Server, Worker};
use crate::admission::Beyond;
use crate::shard::server_context::ConnectionPermit;
use crate::telemetry::metrics::labels::RefusalCause;

/// A place for a client that connects, if there is one for anybody.
pub(super) fn admit(worker: &Worker, server: usize) -> Result<ConnectionPermit, RefusalCause> {
    let Server { served, admission, .. } = &worker.servers[server];
    if !admission.connect(served.rates.get().connects) {
        return Err(RefusalCause::Rate);
    }
    if worker.memory.refuses() {
        return Err(RefusalCause::Memory);
    }
    served.admit().ok_or(RefusalCause::MaxConnections)
}

/// The same for a client of that address.
pub(super) fn enter(
    worker: &Worker,
    server: usize,
    place: &Cell<Option<ConnectionPermit>>,
    address: IpAddr,
) -> Result<(), RefusalCause> {
    let Server { served, admission, .. } = &worker.servers[server];
    let (rate, most) = (served.rates.get().per_address, served.limits.get().max_connections_per_address);
    let permit = admission.enter(address, rate, most).map_err(|beyond| match beyond {
        Beyond::Rate => RefusalCause::AddressRate,
        Beyond::Connections => RefusalCause::AddressConnections,
    })?;
    place.set(place.take().map(|place| place.at(permit)));
    Ok(())
}
