//! The API over general HTTP/1, served by hyper: routes, bodies, statuses, and the upgrade to the WebSocket API.

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{AUTHORIZATION, CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioTimer;
use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

use super::answer::Answer;
use super::auth::Right;
use super::call::Call;
use super::callers::{Caller, Taken};
use super::error::ApiError;
use super::linger::Lingering;
use super::route::{Route, client_of};
use super::stage::Stage;
use super::state::{Api, DRAIN};
use super::tail::{LINES, Tail};
use super::trace::Parent;
use super::ws::{self, Access};
use super::{auth, center, console, pages};
use crate::shard::hold::{Counted, UnderWay};
use crate::shard::transport::Transport;
use crate::telemetry::metrics::labels::{ApiCall, CallResult};
use crate::telemetry::metrics::{Of, TEXT};
use crate::telemetry::rate_limited::rate_limited;
use crate::tls::HANDSHAKE;

/// The connection of a request.
#[derive(Clone, Copy)]
struct Connection<'a> {
    /// The request has a body that nobody has read to its end.
    unread: &'a Cell<bool>,
    /// Set by the request that opens a WebSocket.
    opening: &'a Cell<Option<Access>>,
    /// Set by a request whose answer goes on: what it goes on with.
    tail: &'a Cell<Option<Tail>>,
    taken: &'a Taken,
    /// A successor process has not taken over.
    may_call: bool,
}

impl Api {
    /// Serves a connection with hyper, starting with the bytes that have been read. `late`: the time for the first
    /// request's body is up.
    pub(super) async fn serve_hyper(
        self: Rc<Self>,
        socket: Transport,
        read: Vec<u8>,
        late: bool,
        caller: Caller,
        taken: Taken,
    ) {
        let taken = Rc::new(taken);
        // Whether the request under way has a body that nobody has read to its end.
        let unread = Rc::new(Cell::new(false));
        let socket = Lingering::new(socket, read, unread.clone());
        let late = Cell::new(late);
        // Set by the request that opens a WebSocket.
        let opened = Rc::new(Cell::new(None));
        let (api, opening, seat) = (self.clone(), opened.clone(), taken.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (api, unread, opening, taken) = (api.clone(), unread.clone(), opening.clone(), seat.clone());
            unread.set(!request.body().is_end_stream());
            let timeout_after = if late.take() { Some(Duration::ZERO) } else { api.read_timeout() };
            async move {
                // Requests that came with others.
                api.time.pause().await;
                api.time.charge_request();
                if !taken.begin() {
                    // The connection makes room: its task is about to be aborted.
                    std::future::pending::<()>().await;
                }
                let may_call = api.may_call().await;
                let _call = Counted::new(&api.hold, UnderWay::Call);
                let tail = Cell::new(None);
                let on = Connection { unread: &unread, opening: &opening, tail: &tail, taken: &taken, may_call };
                let line = api.begin_line(&request);
                let mut response = api.answer(request, caller, timeout_after, on).await;
                if let Some(line) = line {
                    api.end_line(*line, caller, response.status());
                }
                if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    // A caller that does not read the answer counts as idle, too.
                    taken.rest(Instant::now());
                }
                if api.stage().is_leaving() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    // Once the engine drains this is also done below, but callers that never pause do not come there.
                    response.headers_mut().append(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response.map(|whole| tail.take().map_or(Either::Left(whole), Either::Right)))
            }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).max_buf_size(64 * 1024);
        http.header_read_timeout(self.read_timeout());
        let mut connection = http.serve_connection(socket, service);
        let mut stage = self.stage.clone();
        let ended = tokio::select! {
            // First, so that a request which has been read already is begun.
            biased;
            ended = &mut connection => ended,
            _ = stage.wait_for(Stage::is_draining) => {
                // Requests under way are answered; then the connection ends.
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                match timeout(DRAIN, &mut connection).await {
                    Ok(ended) => ended,
                    // Half a request.
                    Err(_) => return,
                }
            }
        };
        if let Err(e) = ended {
            tracing::debug!(peer = %caller.peer, "API connection: {e}");
            if e.is_parse() && connection.into_parts().read_buf.first() == Some(&HANDSHAKE) {
                let of = if caller.center { "center" } else { "engine" };
                rate_limited!(WARN, "callers begin TLS at a port without it", of;
                    target: "connmix::api", peer = %caller.peer,
                    "a caller began TLS at a port without it: {of}.apiServer has no tls.cert");
            }
        } else if let Some(access) = opened.take() {
            let parts = connection.into_parts();
            let (socket, rest) = parts.io.into_parts();
            let read = [&parts.read_buf[..], &rest].concat();
            Box::pin(ws::serve(self, socket, read, caller, access)).await;
            drop(taken);
        }
    }

    /// Answers one request.
    async fn answer(
        &self,
        request: Request<Incoming>,
        caller: Caller,
        timeout_after: Option<Duration>,
        on: Connection<'_>,
    ) -> Response<Full<Bytes>> {
        let route = Route::find(request.uri().path(), caller.center);
        let route = route.filter(|route| route.is_there(&self.config.load(), caller.center));
        let (mut response, result, origin) = match self.check_request(route, &request, caller) {
            // Browsers ask without credentials.
            Ok(Some(origin)) if pages::is_preflight(&request) => {
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::NO_CONTENT;
                pages::allow(response.headers_mut());
                self.counts.called(ApiCall::Other, CallResult::Ok);
                pages::share(response.headers_mut(), origin);
                return response;
            }
            Ok(origin) => {
                let (response, result) = match self.route(route, request, caller, timeout_after, on).await {
                    Ok(answered) => answered,
                    Err(error) => Answer::failure(&error, None).into_parts(),
                };
                (response, result, origin)
            }
            Err(error) => {
                // The page's author sees little of the error in the browser.
                tracing::debug!(peer = %caller.peer, "API call refused: {}", error.message());
                let (response, result) = Answer::failure(&error, None).into_parts();
                (response, result, None)
            }
        };
        if let Some(origin) = origin {
            pages::share(response.headers_mut(), origin);
        }
        self.counts.called(route.map_or(ApiCall::Other, Route::label), result);
        response
    }

    /// Checks whether a request may be served. Returns the origin of the page that makes it, if a listed page does.
    fn check_request(
        &self,
        route: Option<Route>,
        request: &Request<Incoming>,
        caller: Caller,
    ) -> Result<Option<HeaderValue>, ApiError> {
        let host = pages::check_form(request)?;
        let config = self.config.load();
        let target = route.map_or(pages::Target::Other, |route| route.target(&config, caller.center));
        match pages::check_page(request.headers(), host, &config, caller, target) {
            // A health probe is answered to everybody.
            Err(_) if matches!(route, Some(Route::Health)) => Ok(None),
            checked => checked,
        }
    }

    /// The response, and its label for the metrics.
    async fn route(
        &self,
        route: Option<Route>,
        request: Request<Incoming>,
        caller: Caller,
        timeout_after: Option<Duration>,
        on: Connection<'_>,
    ) -> Result<(Response<Full<Bytes>>, CallResult), ApiError> {
        let config = self.config.load();
        let authorization = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        // A caller without the right does not learn which paths exist.
        let query = request.uri().query().unwrap_or_default();
        if let Some(right) = route.map_or(Some(Right::Read), |route| route.right(query)) {
            let checked = self.check(&config, authorization, caller, right, on.taken);
            drop(config);
            let checked = match checked {
                Some(checked) => checked,
                None => self.verify(authorization, caller, right, on.taken).await,
            };
            if let Err(error) = checked {
                return Ok(self.refuse(error, authorization, caller, on.taken).await.into_parts());
            }
        }
        if !on.may_call {
            return Err(ApiError::Unavailable);
        }
        let Some(route) = route else { return Err(ApiError::NotFound) };
        if !route.takes(request.method()) {
            return Err(ApiError::MethodNotAllowed(route.methods()));
        }
        if caller.center && route.tells_of_clients() {
            console::check_open(&self.config.load())?;
        }
        let limit = self.config.load().api.max_body_size;
        let answer = match route {
            Route::Mesh(call) => {
                let is_traced = call == Call::Publish && self.tracer.is_on();
                let parent = is_traced.then(|| Parent::of_headers(request.headers()));
                let body = read_body(request, limit, timeout_after).await?;
                on.unread.set(false);
                self.time.charge_call(body.len());
                self.call(call, &body, parent).await
            }
            Route::WebSocket => {
                if self.stage().is_draining() {
                    return Err(ApiError::Unavailable);
                }
                if !self.mesh.is_serving() {
                    return Err(ApiError::Joining);
                }
                let response = ws::upgrade(&request)?;
                if !on.taken.open_websocket() {
                    return Err(ApiError::Crowded);
                }
                let hash = self.known_hash(&self.config.load(), authorization);
                on.opening.set(Some(Access::of(&request, hash)));
                return Ok((response, CallResult::Ok));
            }
            Route::Health | Route::Ready => {
                let stage = self.stage();
                if stage.is_draining() || (matches!(route, Route::Ready) && stage.is_leaving()) {
                    return Err(ApiError::Unavailable);
                }
                if matches!(route, Route::Ready) && !self.mesh.is_serving() {
                    return Err(ApiError::Joining);
                }
                let stuck: Vec<_> = self.mesh.stuck().collect();
                if matches!(route, Route::Ready) && !stuck.is_empty() {
                    return Err(ApiError::Stuck(stuck));
                }
                Answer::ok(&serde_json::json!({"status": "ok"}))
            }
            Route::Version => Answer::ok(&center::version()),
            Route::Nodes => Answer::ok(&self.nodes(caller.local)),
            Route::Metrics => self.page(caller.center).await?,
            Route::Console(part) => {
                let write = self.check(&self.config.load(), authorization, caller, Right::Write, on.taken);
                let query = request.uri().query().unwrap_or_default();
                Box::pin(self.console(part, query, matches!(write, Some(Ok(()))))).await?
            }
            Route::Tail => {
                let config = self.config.load_full();
                let user = auth::name_of(&config.users, authorization);
                let tail = Box::pin(self.tail(query, user)).await?;
                if request.method() == Method::GET {
                    on.tail.set(Some(tail));
                }
                Answer::text(LINES, String::new())
            }
            Route::Why => Answer::to_call(Box::pin(self.why(query)).await, None).harmless(),
            Route::Channels => Box::pin(self.channels(request.uri().query().unwrap_or_default())).await?,
            Route::Client => Box::pin(self.client(client_of(request.uri().path()))).await?,
        };
        Ok(answer.into_parts())
    }

    /// A page of metrics, made on another thread than the worker's.
    async fn page(&self, center: bool) -> Result<Answer, ApiError> {
        let of = if center { Of::Center } else { Of::Engine };
        let _one = self.scraping.acquire().await;
        let metrics = self.metrics.clone();
        // It fails only if the engine stops before the task began.
        let page = tokio::task::spawn_blocking(move || metrics.page(of)).await.map_err(|_| ApiError::Unavailable)?;
        Ok(Answer::text(TEXT, page))
    }
}

/// `timeout_after`: how long the body may take; None: no limit.
async fn read_body(
    request: Request<Incoming>,
    limit: usize,
    timeout_after: Option<Duration>,
) -> Result<Bytes, ApiError> {
    let body = request.into_body();
    if body.size_hint().lower() > limit as u64 {
        return Err(ApiError::TooLarge(limit));
    }
    let collect = Limited::new(body, limit).collect();
    let collected = match timeout_after {
        Some(timeout_after) => timeout(timeout_after, collect).await.map_err(|_| ApiError::Timeout)?,
        None => collect.await,
    };
    match collected {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(ApiError::TooLarge(limit)),
        Err(e) => Err(ApiError::InvalidArgument(format!("the body could not be read: {e}"))),
    }
}
