//! Connections to HTTP servers: opened, lent for a request, and kept for the next one.
//!
//! A kept connection may have been closed by its server, or may be closed at any moment. Closed ones are found before
//! they are used; [`super::exchange`] decides about a request whose connection ends under it.

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::Uri;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{self, pki_types::ServerName};
use tower_service::Service;
use url::Url;

use super::reason;
use super::socket::{Socket, Watch};
use crate::outbound::Sockets;
use crate::outbound::names::Names;

/// Idle connections that are kept for each server, and for all of them.
const MAX_IDLE: usize = 64;
const MAX_IDLE_ALL: usize = 1024;
/// How often idle connections are looked after.
const CARE: Duration = Duration::from_secs(1);
/// A connection that has served one request rests that long before it serves one that must not be sent twice: a server
/// that closes after each response, without announcing it, has done so by then.
const REST: Duration = Duration::from_millis(20);
/// When certificates of the system that could not be read are tried again.
const LACKING: Duration = Duration::from_secs(60);
/// How long the end of an exchange is waited for, until its connection can serve the next.
const SETTLE: Duration = Duration::from_secs(5);

/// A server: scheme, name and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    https: bool,
    /// As in a URL, an IPv6 address in brackets.
    host: String,
    port: u16,
}

impl Place {
    /// Where a URL leads to; None: it has no host.
    pub(super) fn of(url: &Url) -> Option<Place> {
        let (host, port) = (url.host_str()?.to_owned(), url.port_or_known_default()?);
        Some(Place { https: url.scheme() == "https", host, port })
    }
}

/// A connection that no request is using.
pub(super) struct Conn {
    pub(super) sender: SendRequest<Full<Bytes>>,
    pub(super) watch: Watch,
    /// Requests that it has served.
    pub(super) served: u32,
    https: bool,
    /// When its last request ended, and how long it may be idle from then on.
    since: Instant,
    keep: Duration,
}

impl Conn {
    fn is_good(&self) -> bool {
        self.since.elapsed() < self.keep && !self.sender.is_closed() && !self.watch.is_stale(!self.https)
    }

    /// Whether it can take a request now.
    async fn is_ready(&mut self) -> bool {
        poll_fn(|cx| Poll::Ready(matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(()))))).await
    }
}

pub(super) struct Pool {
    /// For each server the one used last is at the end, and is used next: so unneeded ones grow old.
    idle: Mutex<HashMap<Place, Vec<Conn>>>,
    names: Names,
    sockets: Sockets,
    tls: Tls,
    kept_up: OnceLock<()>,
}

impl Pool {
    pub(super) fn new(names: Names, sockets: Sockets) -> Arc<Pool> {
        Arc::new(Pool { idle: Mutex::default(), names, sockets, tls: Tls::default(), kept_up: OnceLock::new() })
    }

    /// A kept connection that has been idle for less than `idle`. `once`: for a request that must not be sent twice.
    pub(super) async fn take(&self, place: &Place, idle: Duration, once: bool) -> Option<Conn> {
        while let Some(mut conn) = self.pick(place, idle, once) {
            if conn.is_ready().await {
                return Some(conn);
            }
        }
        None
    }

    fn pick(&self, place: &Place, idle: Duration, once: bool) -> Option<Conn> {
        let mut all = self.lock();
        let kept = all.get_mut(place)?;
        kept.retain(Conn::is_good);
        let fits = |conn: &Conn| {
            let unused = conn.since.elapsed();
            unused < idle && (!once || conn.served > 1 || unused >= REST)
        };
        let conn = kept.iter().rposition(fits).map(|at| kept.remove(at));
        if kept.is_empty() {
            all.remove(place);
        }
        conn
    }

    /// Keeps a connection whose response has been read whole, for `keep`, if its server does. Returns at once.
    pub(super) async fn put(self: &Arc<Pool>, place: Place, mut conn: Conn, keep: Duration) {
        if keep.is_zero() {
            return;
        }
        (conn.keep, conn.since) = (keep, Instant::now());
        if conn.is_ready().await {
            self.keep(place, conn);
        } else if !conn.sender.is_closed() {
            // The connection's own task still has to see the end of the exchange.
            let pool = self.clone();
            tokio::spawn(async move {
                if matches!(timeout(SETTLE, conn.sender.ready()).await, Ok(Ok(()))) {
                    pool.keep(place, conn);
                }
            });
        }
    }

    fn keep(self: &Arc<Pool>, place: Place, conn: Conn) {
        let mut all = self.lock();
        if all.values().map(Vec::len).sum::<usize>() < MAX_IDLE_ALL {
            let kept = all.entry(place).or_default();
            if kept.len() >= MAX_IDLE {
                kept.remove(0);
            }
            kept.push(conn);
        }
        drop(all);
        self.keep_up();
    }

    /// Starts, with the first connection, to close those that have been idle for too long.
    fn keep_up(self: &Arc<Pool>) {
        self.kept_up.get_or_init(|| {
            // Weak: it ends with the engine also where the runtime outlives that.
            let pool = Arc::downgrade(self);
            tokio::spawn(async move {
                while let Some(pool) = pool.upgrade() {
                    pool.lock().retain(|_, kept| {
                        kept.retain(Conn::is_good);
                        !kept.is_empty()
                    });
                    drop(pool);
                    sleep(CARE).await;
                }
            });
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Vec<Conn>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection.
    pub(super) async fn open(&self, place: &Place) -> Result<Conn, String> {
        let Place { https, host, port } = place;
        let uri: Uri = format!("http://{host}:{port}/").parse().map_err(|_| "no host of a URL")?;
        let mut connector = HttpConnector::new_with_resolver(Addresses(self.names.clone()));
        connector.set_nodelay(true);
        let stream = connector.call(uri).await.map_err(|e| reason(&e))?.into_inner();
        self.sockets.check(&stream)?;
        let (socket, watch) = Socket::new(stream);
        if !https {
            return start(socket, watch, false).await;
        }
        // Here, since reading the system's certificates takes a while: not on the worker.
        let connector = self.tls.connector()?;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let name = name.map_err(|_| "its name can stand in no certificate")?;
        let stream = connector.connect(name, socket).await.map_err(|e| reason(&e))?;
        start(stream, watch, true).await
    }
}

async fn start<S>(stream: S, watch: Watch, https: bool) -> Result<Conn, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| reason(&e))?;
    // It ends with its sender. What fails in it is told to the request that it fails.
    tokio::spawn(connection);
    Ok(Conn { sender, watch, served: 0, https, since: Instant::now(), keep: Duration::ZERO })
}

/// Names of HTTP servers, as hyper's connector asks for them.
#[derive(Clone)]
struct Addresses(Names);

impl Service<Name> for Addresses {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let names = self.0.clone();
        async move {
            // The connector sets the port.
            let found = names.look_up(&format!("{name}:0")).await.map_err(io::Error::other)?;
            Ok(Vec::from(&found[..]).into_iter())
        }
        .boxed()
    }
}

/// What makes TLS connections.
#[derive(Default)]
struct Tls(Mutex<Option<Made>>);

struct Made {
    connector: TlsConnector,
    /// When it was made, if some certificates of the system could not be read: they may be read later.
    lacking: Option<Instant>,
}

impl Tls {
    fn connector(&self) -> Result<TlsConnector, String> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = made.take().filter(|made| made.lacking.is_none_or(|since| since.elapsed() < LACKING));
        let made = made.insert(match known {
            Some(known) => known,
            None => tls()?,
        });
        Ok(made.connector.clone())
    }
}

/// Trusted are the authorities of Mozilla's list, and those of the system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
fn tls() -> Result<Made, String> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let system = rustls_native_certs::load_native_certs();
    for problem in &system.errors {
        tracing::warn!("certificates of the system that could not be read: {problem}");
    }
    let lacking = (!system.errors.is_empty()).then(Instant::now);
    // Some that no longer conform are left out; the others do.
    roots.add_parsable_certificates(system.certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS could not start: {e}"))?;
    let connector = Arc::new(builder.with_root_certificates(roots).with_no_client_auth()).into();
    Ok(Made { connector, lacking })
}
