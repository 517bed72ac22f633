//! What back ends call: the mesh over HTTP and WebSocket, and the center. Served by the workers, each with its own [`Api`].

mod answer;
pub mod auth;
mod batch;
pub mod call;
mod center;
pub mod error;
mod http;
mod linger;
mod logins;
mod pages;
mod plain;
pub mod repeats;
mod ws;

use arc_swap::ArcSwap;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

use self::answer::Answer;
use self::call::{Call, Params};
use self::error::ApiError;
use self::logins::Verdict;
use self::plain::Next;
use self::repeats::Repeats;
use crate::cluster::Mesh;
use crate::config::Config;
use crate::ids::WorkerId;
use crate::queue::Queue;
use crate::telemetry::metrics::blocks::ApiCounts;
use crate::telemetry::metrics::{Metrics, Of, TEXT};

pub use logins::Logins;

/// The API as one worker serves it.
pub struct Api {
    mesh: Arc<Mesh>,
    queue: Arc<Queue>,
    repeats: Arc<Repeats>,
    config: Arc<ArcSwap<Config>>,
    /// Connections of each server.
    clients: Vec<Arc<AtomicUsize>>,
    /// Where `engine.apiServer` listens.
    api_addr: SocketAddr,
    draining: watch::Receiver<bool>,
    metrics: Arc<Metrics>,
    counts: Arc<ApiCounts>,
    /// Held while a page of metrics is made: one at a time.
    scraping: Semaphore,
    /// Failed logins, of all workers.
    logins: Arc<Logins>,
    /// Tells WebSocket connections that another configuration is in force.
    reconfigured: watch::Sender<()>,
    /// Connections under way.
    connections: Cell<usize>,
    /// What WebSocket connections are read through, while none is.
    read_buffer: Cell<Vec<u8>>,
}

/// What an API is made of.
pub struct Parts {
    /// The mesh.
    pub mesh: Arc<Mesh>,
    /// The queue.
    pub queue: Arc<Queue>,
    /// Publishes that are done once.
    pub repeats: Arc<Repeats>,
    /// The configuration in force.
    pub config: Arc<ArcSwap<Config>>,
    /// Connections of each server.
    pub clients: Vec<Arc<AtomicUsize>>,
    /// Where `engine.apiServer` listens.
    pub api_addr: SocketAddr,
    /// The process's figures.
    pub metrics: Arc<Metrics>,
    /// Failed logins, of all workers.
    pub logins: Arc<Logins>,
    /// True while the engine drains.
    pub draining: watch::Receiver<bool>,
}

/// The answer to any request while all workers are stuck: a whole HTTP response, which ends the connection.
pub fn stuck(workers: &[WorkerId]) -> Vec<u8> {
    let mut answer = Answer::failure(&ApiError::Stuck(workers.to_vec()), None);
    answer.ends = true;
    let mut response = Vec::new();
    answer.write_http(&httpdate::fmt_http_date(std::time::SystemTime::now()), &mut response);
    response
}

/// The longest a call may take to end once the engine drains.
const DRAIN: Duration = Duration::from_secs(2);

/// The most connections of back ends that one worker serves; further ones are closed at once.
const MAX_CONNECTIONS: usize = 10_000;

impl Api {
    /// An API of those parts.
    pub fn new(parts: Parts) -> Api {
        let Parts { mesh, queue, config, clients, api_addr, repeats, metrics, logins, draining } = parts;
        Api {
            mesh,
            queue,
            repeats,
            config,
            clients,
            api_addr,
            draining,
            metrics,
            counts: Arc::default(),
            scraping: Semaphore::new(1),
            logins,
            reconfigured: watch::Sender::new(()),
            connections: Cell::new(0),
            read_buffer: Cell::default(),
        }
    }

    /// What it counts.
    pub fn counts(&self) -> Arc<ApiCounts> {
        self.counts.clone()
    }

    /// Another configuration is in force: who holds a connection may not call any more, perhaps.
    pub fn reconfigured(&self) {
        self.reconfigured.send_replace(());
    }

    /// Serves one connection of a back end (or, with `center`, of whoever asks for nodes) to its end.
    pub async fn serve(self: Rc<Self>, mut socket: TcpStream, peer: SocketAddr, center: bool) {
        if self.connections.get() >= MAX_CONNECTIONS {
            tracing::warn!(%peer, "an API connection was refused: {MAX_CONNECTIONS} are open");
            return;
        }
        let _one = Counted::new(self.clone());
        let write_timeout = self.config.load().api.write_timeout;
        if !write_timeout.is_zero() {
            // A caller that takes no responses is ended by the kernel.
            let _ = socket2::SockRef::from(&socket).set_tcp_user_timeout(Some(write_timeout));
        }
        let local = socket.local_addr().map(|a| a.ip()).unwrap_or(IpAddr::from([127, 0, 0, 1]));
        let caller = Caller { peer: peer.ip().to_canonical(), local, center };
        let next = match center {
            false => self.serve_plain(&mut socket, caller).await,
            true => Next::General { read: Vec::new(), late: false },
        };
        if let Next::General { read, late } = next {
            // Boxed, so that a connection of plain requests does not carry what hyper needs.
            Box::pin(self.serve_general(socket, read, late, caller)).await;
        }
    }

    /// How long the parts of a request may take to arrive; None: for ever.
    fn read_timeout(&self) -> Option<Duration> {
        let timeout = self.config.load().api.read_timeout;
        (!timeout.is_zero()).then_some(timeout)
    }

    /// Whether the engine drains. A task that never pauses would not see it by waiting: tokio lets nothing be ready to
    /// whoever has used up his turn.
    fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Carries out a call of the mesh.
    async fn call(&self, call: Call, body: &[u8]) -> Answer {
        // An empty array of publishes is told so.
        let object = if call == Call::Publish { body } else { call::object_of(body) };
        let params = match Params::parse(object, "the body") {
            Ok(params) => params,
            // Whatever is rarer than a plain publish is boxed, so that no connection carries what it needs.
            Err(_) if call == Call::Publish && batch::is_array(body) => {
                return Box::pin(batch::answer(self, body)).await;
            }
            Err(error) => return Answer::failure(&error, None),
        };
        match call {
            Call::Publish if params.is_plain() => {
                Answer::to_call(call::publish(&self.mesh, &self.counts.published, &params).await, params.mark())
            }
            Call::Publish => Answer::to_call(Box::pin(batch::publish(self, &params)).await, params.mark()),
            Call::Send => Answer::to_call(call::send(&self.mesh, &params).await, params.mark()),
        }
    }

    /// The answer to a call that is refused. Whoever has tried wrong credentials several times waits for it.
    async fn refuse(&self, error: ApiError, authorization: Option<&[u8]>, caller: Caller) -> Answer {
        let mut answer = Answer::failure(&error, None);
        if error == ApiError::Unauthorized && auth::is_login(authorization) {
            self.counts.logins_failed.add(1);
            match self.logins.failed(caller.peer) {
                Verdict::Now => {}
                Verdict::Later(waiting) => {
                    self.counts.logins_delayed.add(1);
                    let mut draining = self.draining.clone();
                    tokio::select! {
                        () = waiting.rest() => {}
                        _ = draining.wait_for(|draining| *draining) => {}
                    }
                }
                Verdict::End => answer.ends = true,
            }
        }
        answer
    }

    /// A page of metrics, made beside the worker.
    async fn page(&self, center: bool) -> Result<Answer, ApiError> {
        let of = if center { Of::Center } else { Of::Engine };
        let _one = self.scraping.acquire().await;
        let metrics = self.metrics.clone();
        // It fails only when the engine ends before it began.
        let page = tokio::task::spawn_blocking(move || metrics.page(of)).await.map_err(|_| ApiError::Unavailable)?;
        Ok(Answer::text(TEXT, page))
    }
}

/// One of the connections under way.
struct Counted(Rc<Api>);

impl Counted {
    fn new(api: Rc<Api>) -> Counted {
        api.connections.set(api.connections.get() + 1);
        Counted(api)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
    }
}

/// Who calls, and on which address of ours.
#[derive(Clone, Copy)]
struct Caller {
    peer: IpAddr,
    local: IpAddr,
    center: bool,
}
