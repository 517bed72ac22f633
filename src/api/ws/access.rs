//! The request that opens a connection of the WebSocket API: whether it is valid, and the parts of it that decide who
//! may call.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    AUTHORIZATION, CONNECTION, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use hyper::{Request, Response, StatusCode, Version};
use zeroize::Zeroizing;

use crate::api::auth::{self, Login, Right};
use crate::api::callers::Caller;
use crate::api::error::ApiError;
use crate::config::Config;
use crate::secret::Secret;
use crate::wire::handshake::{self, Refusal, Rules};

/// The path of the WebSocket API.
pub(in crate::api) const PATH: &str = "/ws/v1";

/// The parts of the upgrade request that decide who may call. They are checked again when the configuration changes,
/// and are never printed.
pub(in crate::api) struct Access {
    authorization: Option<Zeroizing<Box<[u8]>>>,
    /// The hash that the password has, if that has been computed.
    hash: Option<Secret>,
    /// The origin of the page that opened the connection.
    origin: Option<Box<[u8]>>,
}

impl Access {
    /// Takes these parts from a request, whose password is known to have that hash.
    pub(in crate::api) fn of<B>(request: &Request<B>, hash: Option<Secret>) -> Access {
        let header = |name| request.headers().get(name).map(|value| value.as_bytes().into());
        Access { authorization: header(AUTHORIZATION).map(Zeroizing::new), hash, origin: header(ORIGIN) }
    }

    /// Whether it allows calls under that configuration. No hash is computed: a user whose password has another one now
    /// connects anew.
    pub(super) fn is_granted(&self, config: &Config, caller: Caller) -> bool {
        let page = self.origin.as_ref().is_none_or(|origin| handshake::is_listed(origin, &config.origins));
        let user = match auth::find(&config.users, self.authorization.as_ref().map(|header| &header[..])) {
            _ if config.users.is_empty() => return page,
            Login::User(user) => Some(user),
            Login::Hashed(user, hash) => user.filter(|_| self.hash.as_ref() == Some(hash)),
            Login::Nobody => None,
        };
        page && user.is_some_and(|user| auth::authorize(user, caller.peer, Right::Write).is_ok())
    }
}

/// The response that opens the connection, if the request is valid.
pub(in crate::api) fn upgrade<B>(request: &Request<B>) -> Result<Response<Full<Bytes>>, ApiError> {
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let version = if request.version() == Version::HTTP_10 { 0 } else { 1 };
    let head = handshake::Request::new(request.method().as_str(), request.uri().path(), version, headers);
    let rules = Rules { path: PATH, allowed_origins: &[], subprotocols: None };
    let upgrade = handshake::check(&head, &rules).map_err(refused)?;
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let mut add = |name, text: &str| {
        // Both are tokens.
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    };
    add(SEC_WEBSOCKET_ACCEPT, &upgrade.accept);
    if let Some(protocol) = upgrade.chosen {
        add(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

fn refused(refusal: Refusal) -> ApiError {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
    ApiError::NoUpgrade(status, refusal.text)
}
