//! What back ends call: the mesh over HTTP and WebSocket, and the center. Served by the workers, each with its own [`Api`].

mod answer;
pub mod auth;
mod batch;
pub mod call;
mod callers;
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
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_local;

use self::answer::Answer;
use self::auth::Right;
use self::call::{Call, Params};
use self::callers::Taken;
use self::error::ApiError;
use self::logins::Verdict;
use self::plain::Next;
use self::repeats::Repeats;
use crate::cluster::Mesh;
use crate::config::{Config, HostPattern};
use crate::ids::WorkerId;
use crate::queue::Queue;
use crate::shard::transport::Transport;
use crate::telemetry::metrics::blocks::ApiCounts;
use crate::telemetry::metrics::{Metrics, Of, TEXT};
use crate::telemetry::seldom::seldom;

pub use callers::Callers;
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
    /// Connections under way, of all workers.
    callers: Arc<Callers>,
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
    /// Connections of callers, of all workers.
    pub callers: Arc<Callers>,
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
/// What a connection is told that finds no place.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\nretry-after: 1\r\n\r\n";

impl Api {
    /// An API of those parts.
    pub fn new(parts: Parts) -> Api {
        let Parts { mesh, queue, config, clients, api_addr, repeats, metrics, logins, callers, draining } = parts;
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
            callers,
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

    /// Takes a connection of a back end in (or, with `center`, of one that asks for nodes), and serves it to its end in a task
    /// of its own. `load` is dropped with it.
    pub fn adopt<T: 'static>(self: &Rc<Self>, socket: Transport, peer: SocketAddr, center: bool, load: T) {
        let Some(taken) = self.callers.admit(peer.ip(), center) else {
            seldom!(WARN, "API connections are refused", if center { "center" } else { "engine" };
                %peer, "an API connection was refused: there are as many as may be, and none is idle");
            // As much as it takes at once: it has no place to wait in.
            let _ = socket.try_write(FULL);
            return;
        };
        let seat = taken.seat.clone();
        let api = self.clone();
        let task = spawn_local(async move {
            api.serve(socket, peer, center, taken).await;
            drop(load);
        });
        seat.belongs_to(task.abort_handle());
    }

    /// There are no descriptors left: the API's connection that has been idle for longest gives its own back.
    pub fn make_room(&self) -> bool {
        self.callers.make_room()
    }

    async fn serve(self: Rc<Self>, mut socket: Transport, peer: SocketAddr, center: bool, taken: Taken) {
        let write_timeout = self.config.load().api.write_timeout;
        if !write_timeout.is_zero() {
            // A caller that takes no responses is ended by the kernel.
            socket.give_up_after(write_timeout);
        }
        let local = socket.local_ip().unwrap_or(IpAddr::from([127, 0, 0, 1]));
        let caller = Caller { peer: peer.ip().to_canonical(), local, center };
        let next = match center {
            false => self.serve_plain(&mut socket, caller, &taken).await,
            true => Next::General { read: Vec::new(), late: false },
        };
        if let Next::General { read, late } = next {
            // Boxed, so that a connection of plain requests does not carry what hyper needs.
            Box::pin(self.serve_general(socket, read, late, caller, taken)).await;
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

    /// Lets a call with that `Authorization` pass, or says why not.
    fn check(
        &self,
        config: &Config,
        authorization: Option<&[u8]>,
        caller: Caller,
        right: Right,
        taken: &Taken,
    ) -> Result<(), ApiError> {
        if config.users.is_empty() {
            return Ok(());
        }
        let seat = &taken.seat;
        let is_known =
            || config.users.iter().any(|user| user.host != HostPattern::Any && user.host.matches(caller.peer));
        if authorization.is_some() && !self.logins.may_try(caller.peer, seat, is_known) {
            seldom!(WARN, "credentials are not looked at", "";
                peer = %caller.peer, "wrong credentials come faster than answers wait: those of this address are not looked at");
            return Err(ApiError::TooMany);
        }
        let checked = auth::check(&config.users, authorization, caller.peer, right);
        if checked.is_ok() && !seat.proven.load(Relaxed) {
            seat.proven.store(true, Relaxed);
            self.logins.succeeded(caller.peer);
        }
        checked
    }

    /// The answer to a call that is refused. Whoever has tried wrong credentials several times waits for it.
    async fn refuse(&self, error: ApiError, authorization: Option<&[u8]>, caller: Caller, taken: &Taken) -> Answer {
        let mut answer = Answer::failure(&error, None);
        answer.ends = error == ApiError::TooMany;
        if error == ApiError::Unauthorized && auth::is_login(authorization) {
            self.counts.logins_failed.add(1);
            taken.seat.guessed.store(true, Relaxed);
            match self.logins.failed(caller.peer) {
                Verdict::Now => {}
                Verdict::Later(waiting) => {
                    self.counts.logins_delayed.add(1);
                    let mut draining = self.draining.clone();
                    tokio::select! {
                        _ = spawn_local(waiting.rest()) => {}
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

/// Who calls, and on which address of ours.
#[derive(Clone, Copy)]
struct Caller {
    peer: IpAddr,
    local: IpAddr,
    center: bool,
}
