//! The API over general HTTP/1, by hyper: routes, bodies, statuses.

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::TokioTimer;
use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::answer::Answer;
use super::auth::{self, Right};
use super::call::Call;
use super::error::ApiError;
use super::linger::Lingering;
use super::{Api, Caller, DRAIN, center};

/// What a path is.
#[derive(Clone, Copy)]
enum Route {
    Mesh(Call),
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
            ("/version", true) => Route::Version,
            ("/v1/nodes", true) => Route::Nodes,
            (path, false) => Route::Mesh(Call::find(path)?),
            _ => return None,
        })
    }

    fn method(self) -> Method {
        match self {
            Route::Mesh(_) => Method::POST,
            Route::Health | Route::Ready | Route::Version | Route::Nodes => Method::GET,
        }
    }

    /// The right it needs; None: anybody (probes).
    fn right(self) -> Option<Right> {
        match self {
            Route::Mesh(_) => Some(Right::Write),
            Route::Version | Route::Nodes => Some(Right::Read),
            Route::Health | Route::Ready => None,
        }
    }
}

impl Api {
    /// Serves a connection with hyper from what has been read of it on; `late`: the time for the first request's body is
    /// up.
    pub(super) async fn serve_general(self: Rc<Self>, socket: TcpStream, read: Vec<u8>, late: bool, caller: Caller) {
        // Whether the request under way has a body that nobody has read to its end.
        let unread = Rc::new(Cell::new(false));
        let socket = Lingering::new(socket, read, unread.clone());
        let late = Cell::new(late);
        let api = self.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (api, unread) = (api.clone(), unread.clone());
            unread.set(!request.body().is_end_stream());
            let patience = if late.take() { Some(Duration::ZERO) } else { api.read_timeout() };
            async move {
                let answer = api.answer(request, caller, patience, &unread).await;
                Ok::<_, Infallible>(answer.into_response())
            }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).max_buf_size(64 * 1024);
        http.header_read_timeout(self.read_timeout());
        let connection = http.serve_connection(socket, service);
        tokio::pin!(connection);
        let mut draining = self.draining.clone();
        let ended = tokio::select! {
            // First, so that a request which has been read already is begun.
            biased;
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
            tracing::debug!(peer = %caller.peer, "API connection: {e}");
        }
    }

    /// Answers one request.
    async fn answer(
        &self,
        request: Request<Incoming>,
        caller: Caller,
        patience: Option<Duration>,
        unread: &Cell<bool>,
    ) -> Answer {
        match self.route(request, caller, patience, unread).await {
            Ok(answer) => answer,
            Err(error) => Answer::failure(&error, None),
        }
    }

    async fn route(
        &self,
        request: Request<Incoming>,
        caller: Caller,
        patience: Option<Duration>,
        unread: &Cell<bool>,
    ) -> Result<Answer, ApiError> {
        let config = self.config.load();
        let authorization = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let Some(route) = Route::find(request.uri().path(), caller.center) else {
            // Whoever may not call is not told what there is.
            auth::check(&config.users, authorization, caller.peer, Right::Read)?;
            return Err(ApiError::NotFound);
        };
        if let Some(right) = route.right() {
            auth::check(&config.users, authorization, caller.peer, right)?;
        }
        let get = request.method() == Method::HEAD && route.method() == Method::GET;
        if request.method() != route.method() && !get {
            return Err(ApiError::MethodNotAllowed(if route.method() == Method::POST { "POST" } else { "GET" }));
        }
        let limit = config.api.max_body_size;
        drop(config);
        match route {
            Route::Mesh(call) => {
                let body = read_body(request, limit, patience).await?;
                unread.set(false);
                Ok(self.call(call, &body).await)
            }
            Route::Health | Route::Ready => {
                if *self.draining.borrow() {
                    return Err(ApiError::Unavailable);
                }
                Ok(Answer::ok(&serde_json::json!({"status": "ok"})))
            }
            Route::Version => Ok(Answer::ok(&center::version())),
            Route::Nodes => Ok(Answer::ok(&self.nodes(caller.local))),
        }
    }
}

/// `patience`: how long the body may take; None: for ever.
async fn read_body(request: Request<Incoming>, limit: usize, patience: Option<Duration>) -> Result<Bytes, ApiError> {
    let body = request.into_body();
    if body.size_hint().lower() > limit as u64 {
        return Err(ApiError::TooLarge(limit));
    }
    let collect = Limited::new(body, limit).collect();
    let collected = match patience {
        Some(patience) => timeout(patience, collect).await.map_err(|_| ApiError::Timeout)?,
        None => collect.await,
    };
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(ApiError::TooLarge(limit)),
        Err(e) => Err(ApiError::InvalidArgument(format!("the body could not be read: {e}"))),
    }
}
