//! One Redis of the configuration, as those who have commands for it call it.

use std::future::Future;
use std::sync::Arc;
use tokio::sync::Semaphore;

use super::pool::Pool;
use super::{Command, Reply};
use crate::config;
use crate::outbound::Sockets;
use crate::outbound::names::Names;

/// Commands of one Redis that may be under way or wait for a connection.
const MAX_COMMANDS: usize = 16_384;
/// Bytes that these commands may have together.
const MAX_COMMANDS_BYTES: usize = 64 * 1024 * 1024;

/// One Redis of the configuration.
pub(in crate::outbound) struct Redis {
    pool: Arc<Pool>,
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl Redis {
    pub(in crate::outbound) fn new(config: config::Redis, names: Names, sockets: Sockets) -> Redis {
        Redis {
            pool: Pool::new(config, names, sockets),
            places: Arc::new(Semaphore::new(MAX_COMMANDS)),
            bytes: Arc::new(Semaphore::new(MAX_COMMANDS_BYTES)),
        }
    }

    /// As scripts call it.
    pub(in crate::outbound) fn name(&self) -> &str {
        &self.pool.config.name
    }

    /// The way of a command, to be run on the outbound thread. It counts as under way from now on.
    pub(in crate::outbound) fn send(
        &self,
        command: Command,
    ) -> Result<impl Future<Output = Result<Reply, String>> + Send + use<>, String> {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| self.pool.error(&format!("{MAX_COMMANDS} commands wait already")))?;
        let length = u32::try_from(command.packed.len()).unwrap_or(u32::MAX);
        let share = self.bytes.clone().try_acquire_many_owned(length);
        let share =
            share.map_err(|_| self.pool.error(&format!("more than {MAX_COMMANDS_BYTES} bytes of commands wait")))?;
        let pool = self.pool.clone();
        Ok(async move {
            let _held = (place, share);
            pool.keep_up();
            let mut lease = pool.lease().await.map_err(|why| pool.error(&why))?;
            let reply = lease.exchange(&command.packed, command.reply_timeout()).await;
            Reply::read(reply.map_err(|why| pool.error(&why))?)
        })
    }
}
