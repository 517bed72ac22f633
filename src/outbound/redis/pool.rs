//! The connections to one Redis. A command leases one; what comes back intact serves the next.
//!
//! At most `poolSize` are open. When all of them are in use, commands wait in a queue. If Redis can't be reached, the
//! commands that need a new connection fail at once.

use redis_codec::Value;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::conn::Conn;
use crate::config;
use crate::outbound::Sockets;
use crate::outbound::names::Names;

/// The longest wait for a connection that is in use.
const WAIT_TIMEOUT: Duration = Duration::from_secs(4);
/// How often idle connections are looked after.
const CARE: Duration = Duration::from_secs(1);

pub(super) struct Pool {
    pub(super) config: config::Redis,
    names: Names,
    sockets: Sockets,
    /// The one used last is at the end, and is used next: so unneeded ones grow old.
    idle: Mutex<Vec<Conn>>,
    /// `poolSize` of them; each connection in use has one.
    places: Arc<Semaphore>,
    kept_up: Once,
}

impl Pool {
    pub(super) fn new(config: config::Redis, names: Names, sockets: Sockets) -> Arc<Pool> {
        let places = Arc::new(Semaphore::new(config.pool_size));
        Arc::new(Pool { config, names, sockets, idle: Mutex::default(), places, kept_up: Once::new() })
    }

    /// `redis default (localhost:6379): why`
    pub(super) fn error(&self, why: &str) -> String {
        format!("redis {} ({}): {why}", self.config.name, self.config.addr)
    }

    /// A connection: an idle one, or a new one. Waits while all are in use.
    pub(super) async fn lease(self: &Arc<Pool>) -> Result<Lease, String> {
        let place = match timeout(WAIT_TIMEOUT, self.places.clone().acquire_owned()).await {
            Ok(Ok(place)) => place,
            _ => {
                let size = self.config.pool_size;
                return Err(format!("all {size} connections (poolSize) were in use for {WAIT_TIMEOUT:?}"));
            }
        };
        let conn = match self.take_idle() {
            Some(conn) => conn,
            None => self.open().await?,
        };
        Ok(Lease { conn: Some(conn), pool: self.clone(), _place: place })
    }

    async fn open(&self) -> Result<Conn, String> {
        Conn::open(&self.config, &self.names, self.sockets).await
    }

    fn take_idle(&self) -> Option<Conn> {
        let mut idle = self.lock();
        std::iter::from_fn(|| idle.pop()).find(|conn| self.is_good(conn))
    }

    fn is_good(&self, conn: &Conn) -> bool {
        let within = |limit: Duration, since: std::time::Instant| limit.is_zero() || since.elapsed() < limit;
        within(self.config.max_conn_age, conn.opened) && within(self.config.idle_timeout, conn.used) && !conn.is_stale()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Conn>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From the first call on, idle connections are closed in time, and `minIdleConns` of them are kept. To be called
    /// on the outbound thread.
    pub(super) fn keep_up(self: &Arc<Pool>) {
        self.kept_up.call_once(|| {
            // Weak: it ends with the engine also where the runtime outlives that.
            let pool = Arc::downgrade(self);
            tokio::spawn(async move {
                while let Some(pool) = pool.upgrade() {
                    pool.care().await;
                    drop(pool);
                    sleep(CARE).await;
                }
            });
        });
    }

    async fn care(&self) {
        self.lock().retain(|conn| self.is_good(conn));
        while let Some(_place) = self.missing() {
            // The next command that needs one will get the error.
            let Ok(conn) = self.open().await else { return };
            self.lock().push(conn);
        }
    }

    /// A place for one more idle connection, if there are too few.
    fn missing(&self) -> Option<OwnedSemaphorePermit> {
        let idle = self.lock();
        let place = self.places.clone().try_acquire_owned().ok()?;
        let in_use = self.config.pool_size.saturating_sub(self.places.available_permits());
        (idle.len() < self.config.min_idle_conns && idle.len() + in_use <= self.config.pool_size).then_some(place)
    }
}

/// A connection in use. If it is dropped during a command, the connection is closed.
pub(super) struct Lease {
    conn: Option<Conn>,
    pool: Arc<Pool>,
    _place: OwnedSemaphorePermit,
}

impl Lease {
    /// Sends a command and reads its reply, which may take that long.
    pub(super) async fn exchange(&mut self, packed: &[u8], reply_timeout: Option<Duration>) -> Result<Value, String> {
        // Out of here, so that it goes wherever this ends.
        let Some(mut conn) = self.conn.take() else { return Err("the connection has been given up".into()) };
        let reply = match reply_timeout {
            None => conn.exchange(packed).await?,
            Some(reply_timeout) => match timeout(reply_timeout, conn.exchange(packed)).await {
                Ok(reply) => reply?,
                Err(_) => return Err(format!("no reply within {reply_timeout:?}")),
            },
        };
        self.conn = Some(conn);
        Ok(reply)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.lock().push(conn);
        }
    }
}
