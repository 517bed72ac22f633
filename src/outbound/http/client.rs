//! All HTTP requests of an engine: how many and how much may be under way, and how long one may take.

use std::future::Future;
use std::sync::Arc;
use tokio::sync::Semaphore;

use super::exchange::exchange;
use super::pool::Pool;
use super::{MAX_BYTES, Request, Response, reserve};
use crate::outbound::Sockets;
use crate::outbound::names::Names;

/// Requests that may be under way at once in an engine.
const MAX_UNDER_WAY: usize = 1024;

/// What all requests share.
pub(in crate::outbound) struct Http {
    pool: Arc<Pool>,
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl Http {
    /// Nothing is under way; `names` knows the addresses of servers.
    pub(in crate::outbound) fn new(names: Names, sockets: Sockets) -> Http {
        Http {
            pool: Pool::new(names, sockets),
            places: Arc::new(Semaphore::new(MAX_UNDER_WAY)),
            bytes: Arc::new(Semaphore::new(MAX_BYTES)),
        }
    }

    /// The way of a request, to be run on the outbound thread. It counts as under way from now on.
    pub(in crate::outbound) fn send(
        &self,
        mut request: Request,
    ) -> Result<impl Future<Output = Result<Response, String>> + Send + use<>, String> {
        request.finish()?;
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| format!("{MAX_UNDER_WAY} HTTP requests are under way already"))?;
        let bytes = self.bytes.clone();
        let held = reserve(&bytes, request.body.len())?;
        let pool = self.pool.clone();
        Ok(async move {
            let _place = place;
            let (name, limit) = (request.name(), request.timeout);
            match tokio::time::timeout(limit, exchange(pool, request, bytes, held)).await {
                Ok(result) => result.map_err(|why| format!("{name}: {why}")),
                Err(_) => Err(format!("{name}: no whole response within {limit:?}")),
            }
        })
    }
}
