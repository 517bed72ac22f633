//! One connection to a Redis: opened, logged in, and then a command and its reply at a time. The `redis` crate knows
//! the protocol; sockets and times are handled here, so that giving a command up closes its connection.

use redis_codec::{Cmd, Value};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{MAX_BYTES, error_text};
use crate::config;
use crate::outbound::Sockets;
use crate::outbound::names::Names;

/// The longest that connecting and logging in may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that is ready for a command.
pub(super) struct Conn {
    stream: TcpStream,
    /// When it was opened.
    pub(super) opened: Instant,
    /// When it was last used.
    pub(super) used: Instant,
}

impl Conn {
    /// Opens a connection, with the password and the database that the configuration names.
    pub(super) async fn open(config: &config::Redis, names: &Names, sockets: Sockets) -> Result<Conn, String> {
        let opened = async {
            let addresses = names.look_up(&config.addr).await?;
            let stream = TcpStream::connect(&addresses[..]).await.map_err(|e| e.to_string())?;
            sockets.check(&stream)?;
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            let now = Instant::now();
            let mut conn = Conn { stream, opened: now, used: now };
            if !config.password.is_empty() {
                conn.prepare(Cmd::new().arg("AUTH").arg(config.password.expose())).await?;
            }
            if config.db != 0 {
                conn.prepare(Cmd::new().arg("SELECT").arg(config.db)).await?;
            }
            Ok(conn)
        };
        timeout(CONNECT_TIMEOUT, opened)
            .await
            .unwrap_or_else(|_| Err(format!("no connection within {CONNECT_TIMEOUT:?}")))
    }

    async fn prepare(&mut self, command: &Cmd) -> Result<(), String> {
        match self.exchange(&command.get_packed_command()).await? {
            Value::ServerError(e) => Err(error_text(&e)),
            _ => Ok(()),
        }
    }

    /// Sends a command and reads its reply. After an error the connection is of no more use.
    pub(super) async fn exchange(&mut self, packed: &[u8]) -> Result<Value, String> {
        self.stream.write_all(packed).await.map_err(|e| e.to_string())?;
        // A new one each time: one that is kept would keep the room for its largest reply.
        let mut decoder = combine::stream::Decoder::new();
        let mut bounded = (&mut self.stream).take(MAX_BYTES as u64);
        let reply = redis_codec::parse_redis_value_async(&mut decoder, &mut bounded).await;
        let (full, used) = (bounded.limit() == 0, Instant::now());
        self.used = used;
        reply.map_err(|e| match e {
            _ if full => format!("the reply has more than {MAX_BYTES} bytes"),
            e if e.is_io_error() => "the server closed the connection".to_owned(),
            _ => "the reply is not in the protocol of Redis".to_owned(),
        })
    }

    /// Whether the server has closed it meanwhile, or sent what nobody asked for. Asks the system, not the runtime,
    /// which may not have looked at the socket since.
    pub(super) fn is_stale(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        match socket2::SockRef::from(&self.stream).peek(&mut byte) {
            Ok(_) => true,
            Err(e) => e.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}
