//! The API over HTTP/1: routes, bodies, statuses.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioTimer;
use serde::Serialize;
use std::cell::Cell;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::auth::{self, Right};
use super::call::{self, Mark, Params};
use super::error::ApiError;
use super::linger::Lingering;
use super::{Api, MAX_CONNECTIONS, center};

/// The longest a call may take to end once the engine drains.
const DRAIN: Duration = Duration::from_secs(2);

type Reply = Response<Full<Bytes>>;

/// A whole answer: `{"E": null, "r": ...}` or `{"E": {...}}`.
#[derive(Serialize)]
struct Envelope<T> {
    #[serde(rename = "E")]
    error: Option<Problem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    i: Option<Mark>,
}

#[derive(Serialize)]
struct Problem {
    c: u16,
    m: String,
}

/// What a path is.
#[derive(Clone, Copy)]
enum Route {
    Publish,
    Send,
    Health,
    Ready,
    Version,
    Nodes,
}

impl Route {
    fn find(path: &str, center: bool) -> Option<Route> {
        Some(match (path, center) {
            ("/healthz", _) => Route::Health,
            ("/readyz", _) => Route::Ready,
            ("/v1/mesh/publish", false) => Route::Publish,
            ("/v1/mesh/send", false) => Route::Send,
            ("/version", true) => Route::Version,
            ("/v1/nodes", true) => Route::Nodes,
            _ => return None,
        })
    }

    fn method(self) -> Method {
        match self {
            Route::Publish | Route::Send => Method::POST,
            Route::Health | Route::Ready | Route::Version | Route::Nodes => Method::GET,
        }
    }

    /// The right it needs; None: anybody (probes).
    fn right(self) -> Option<Right> {
        match self {
            Route::Publish | Route::Send => Some(Right::Write),
            Route::Version | Route::Nodes => Some(Right::Read),
            Route::Health | Route::Ready => None,
        }
    }
}

impl Api {
    /// Serves one connection of a back end (or, with `center`, of whoever asks for nodes) to its end.
    pub async fn serve(self: Rc<Self>, socket: TcpStream, peer: SocketAddr, center: bool) {
        if self.connections.get() >= MAX_CONNECTIONS {
            tracing::warn!(%peer, "an API connection was refused: {MAX_CONNECTIONS} are open");
            return;
        }
        let _one = Counted::new(self.clone());
        let config = self.config.load();
        let (read_timeout, write_timeout) = (config.api.read_timeout, config.api.write_timeout);
        drop(config);
        let local = socket.local_addr().map(|a| a.ip()).unwrap_or(IpAddr::from([127, 0, 0, 1]));
        if !write_timeout.is_zero() {
            // A caller that takes no responses is ended by the kernel.
            let _ = socket2::SockRef::from(&socket).set_tcp_user_timeout(Some(write_timeout));
        }
        let caller = Caller { peer: peer.ip().to_canonical(), local, center };
        // Whether the request under way has a body that nobody has read to its end.
        let unread = Rc::new(Cell::new(false));
        let socket = Lingering::new(socket, unread.clone());
        let api = self.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (api, unread) = (api.clone(), unread.clone());
            unread.set(!request.body().is_end_stream());
            async move { Ok::<_, Infallible>(api.answer(request, caller, &unread).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).max_buf_size(64 * 1024);
        http.header_read_timeout((!read_timeout.is_zero()).then_some(read_timeout));
        let connection = http.serve_connection(socket, service);
        tokio::pin!(connection);
        let mut draining = self.draining.clone();
        let ended = tokio::select! {
            ended = &mut connection => ended,
            _ = draining.wait_for(|draining| *draining) => {
                // What is under way is answered; then the connection ends.
                connection.as_mut().graceful_shutdown();
                match timeout(DRAIN, connection).await {
                    Ok(ended) => ended,
                    // Half a request.
                    Err(_) => return,
                }
            }
        };
        if let Err(e) = ended {
            tracing::debug!(%peer, "API connection: {e}");
        }
    }

    /// Answers one request.
    async fn answer(&self, request: Request<Incoming>, caller: Caller, unread: &Cell<bool>) -> Reply {
        match self.route(request, caller, unread).await {
            Ok(reply) => reply,
            Err(error) => failure(&error, None),
        }
    }

    async fn route(&self, request: Request<Incoming>, caller: Caller, unread: &Cell<bool>) -> Result<Reply, ApiError> {
        let config = self.config.load();
        let Some(route) = Route::find(request.uri().path(), caller.center) else {
            // Whoever may not call is not told what there is.
            auth::check(&config.users, request.headers(), caller.peer, Right::Read)?;
            return Err(ApiError::NotFound);
        };
        if let Some(right) = route.right() {
            auth::check(&config.users, request.headers(), caller.peer, right)?;
        }
        let get = request.method() == Method::HEAD && route.method() == Method::GET;
        if request.method() != route.method() && !get {
            return Err(ApiError::MethodNotAllowed(if route.method() == Method::POST { "POST" } else { "GET" }));
        }
        let (limit, read_timeout) = (config.api.max_body_size, config.api.read_timeout);
        drop(config);
        match route {
            Route::Publish => {
                let body = read_body(request, limit, read_timeout).await?;
                unread.set(false);
                let params = Params::parse(&body)?;
                Ok(reply(call::publish(&self.mesh, &params).await, params.mark()))
            }
            Route::Send => {
                let body = read_body(request, limit, read_timeout).await?;
                unread.set(false);
                let params = Params::parse(&body)?;
                Ok(reply(call::send(&self.mesh, &params).await, params.mark()))
            }
            Route::Health | Route::Ready => {
                if *self.draining.borrow() {
                    return Err(ApiError::Unavailable);
                }
                Ok(json(StatusCode::OK, &serde_json::json!({"status": "ok"})))
            }
            Route::Version => Ok(json(StatusCode::OK, &center::version())),
            Route::Nodes => Ok(json(StatusCode::OK, &self.nodes(caller.local))),
        }
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

async fn read_body(request: Request<Incoming>, limit: usize, within: Duration) -> Result<Bytes, ApiError> {
    let body = request.into_body();
    if body.size_hint().lower() > limit as u64 {
        return Err(ApiError::TooLarge(limit));
    }
    let collect = Limited::new(body, limit).collect();
    let collected =
        if within.is_zero() { collect.await } else { timeout(within, collect).await.map_err(|_| ApiError::Timeout)? };
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(ApiError::TooLarge(limit)),
        Err(e) => Err(ApiError::InvalidArgument(format!("the body could not be read: {e}"))),
    }
}

/// The reply to a call of the mesh.
fn reply<T: Serialize>(outcome: Result<T, ApiError>, mark: Option<Mark>) -> Reply {
    match outcome {
        Ok(result) => json(StatusCode::OK, &Envelope { error: None, r: Some(result), i: mark }),
        Err(error) => failure(&error, mark),
    }
}

fn failure(error: &ApiError, mark: Option<Mark>) -> Reply {
    let problem = Problem { c: error.code(), m: error.message() };
    let mut reply = json(error.status(), &Envelope::<()> { error: Some(problem), r: None, i: mark });
    let headers = reply.headers_mut();
    match error {
        ApiError::Unauthorized => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"connmix\", charset=\"UTF-8\""));
        }
        ApiError::MethodNotAllowed(allowed) => {
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        _ => {}
    }
    reply
}

fn json<T: Serialize>(status: StatusCode, body: &T) -> Reply {
    // Our own types always serialise; were one not to, the caller gets an empty object and the log the reason.
    let body = serde_json::to_vec(body).unwrap_or_else(|e| {
        tracing::error!("a reply could not be encoded: {e}");
        b"{}".to_vec()
    });
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}
