//! What there is: the paths of both ports, what each takes and which right it needs.

use hyper::Method;

use super::auth::Right;
use super::call::Call;
use super::console;
use super::pages::Target;
use super::tail::shows_bodies;
use super::ws;
use crate::config::Config;
use crate::telemetry::metrics::labels::ApiCall;

/// What the path of a client begins with; its id follows.
const CLIENTS: &str = "/v1/clients/";

/// What a path is.
#[derive(Clone, Copy)]
pub(super) enum Route {
    Mesh(Call),
    WebSocket,
    Health,
    Ready,
    Version,
    Nodes,
    Metrics,
    Channels,
    Client,
    Console(console::Part),
    Tail,
    Why,
}

impl Route {
    pub(super) fn find(path: &str, center: bool) -> Option<Route> {
        Some(match (path, center) {
            ("/healthz", _) => Route::Health,
            ("/readyz", _) => Route::Ready,
            ("/metrics", _) => Route::Metrics,
            ("/v1/tail", _) => Route::Tail,
            ("/v1/why", _) => Route::Why,
            ("/version", true) => Route::Version,
            ("/v1/nodes", true) => Route::Nodes,
            (path, true) => match console::find(path) {
                Some(part) => Route::Console(part),
                None => Route::call(path.strip_prefix(console::CALLS)?)?,
            },
            (ws::PATH, false) => Route::WebSocket,
            (path, false) => Route::call(path)?,
        })
    }

    /// A call of back ends; the console makes it, too.
    fn call(path: &str) -> Option<Route> {
        Some(match path {
            "/v1/channels" => Route::Channels,
            path if path.starts_with(CLIENTS) => Route::Client,
            path => Route::Mesh(Call::find(path)?),
        })
    }

    /// Whether at the center's port it is a part of the console.
    pub(super) fn is_of_console(self) -> bool {
        match self {
            Route::Mesh(_) | Route::Channels | Route::Client | Route::Console(_) => true,
            Route::WebSocket => false,
            Route::Health | Route::Ready | Route::Version | Route::Nodes | Route::Metrics => false,
            // They are at both ports by themselves.
            Route::Tail | Route::Why => false,
        }
    }

    /// Whether at the center's port it tells of clients and what they say, or does something: then that port must not be
    /// open to a whole network.
    pub(super) fn tells_of_clients(self) -> bool {
        self.is_of_console() || matches!(self, Route::Tail | Route::Why)
    }

    /// Whether that configuration has it at that port.
    pub(super) fn is_there(self, config: &Config, center: bool) -> bool {
        match self {
            Route::Console(part) if !part.is_served(config) => false,
            route => !center || !route.is_of_console() || config.console,
        }
    }

    /// What it is to the pages of its own port.
    pub(super) fn target(self, config: &Config, center: bool) -> Target {
        match self {
            route if !center || !route.is_of_console() || console::check_open(config).is_err() => Target::Other,
            Route::Console(part) if part.is_page() => Target::OwnPage,
            _ => Target::OwnCall,
        }
    }

    pub(super) fn takes(self, method: &Method) -> bool {
        match self {
            Route::Mesh(_) => method == Method::POST,
            // HEAD is answered as GET; hyper leaves the body out.
            _ => method == Method::GET || method == Method::HEAD,
        }
    }

    /// For the `Allow` header.
    pub(super) fn methods(self) -> &'static str {
        match self {
            Route::Mesh(_) => "POST",
            _ => "GET, HEAD",
        }
    }

    /// The right it needs, with that query; None: anybody (probes).
    pub(super) fn right(self, query: &str) -> Option<Right> {
        match self {
            Route::Mesh(call) => Some(Right::to(call)),
            Route::WebSocket => Some(Right::Write),
            Route::Console(_) => Some(Right::Read),
            // What clients say to each other is more than whether they are there.
            Route::Tail if shows_bodies(query) => Some(Right::Write),
            Route::Tail
            | Route::Why
            | Route::Version
            | Route::Nodes
            | Route::Metrics
            | Route::Channels
            | Route::Client => Some(Right::Read),
            Route::Health | Route::Ready => None,
        }
    }

    /// The label that it is counted under.
    pub(super) fn label(self) -> ApiCall {
        match self {
            Route::Mesh(call) => call.label(),
            Route::WebSocket => ApiCall::WebSocket,
            Route::Health => ApiCall::Health,
            Route::Ready => ApiCall::Ready,
            Route::Version => ApiCall::Version,
            Route::Nodes => ApiCall::Nodes,
            Route::Metrics => ApiCall::Metrics,
            Route::Channels => ApiCall::Channels,
            Route::Client => ApiCall::Client,
            Route::Console(_) => ApiCall::Console,
            Route::Tail => ApiCall::Tail,
            Route::Why => ApiCall::Why,
        }
    }
}

/// The id in the path of a client.
pub(super) fn client_of(path: &str) -> &str {
    path.rsplit_once(CLIENTS).map_or(path, |(_, id)| id)
}
