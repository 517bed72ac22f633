//! The lines of the access log for requests to the APIs. Off, it costs a look at the configuration.

use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Request, StatusCode};
use std::time::Instant;

use super::auth::{Login, find};
use super::call::Call;
use super::callers::Caller;
use super::state::Api;
use crate::config::{Config, User};
use crate::telemetry::log::access::Access;

/// A request that is under way.
pub(super) struct Line {
    method: String,
    target: String,
    user: Option<String>,
    began: Instant,
}

/// The user that credentials are of; whether a password has its hash is not known yet.
fn user(users: &[User], authorization: Option<&[u8]>) -> Option<String> {
    match find(users, authorization) {
        Login::User(user) | Login::Hashed(Some(user), _) => Some(user.username.clone()),
        Login::Nobody | Login::Hashed(None, _) => None,
    }
}

impl Line {
    /// A call of the fast path.
    pub(super) fn of_call(config: &Config, call: Call, authorization: Option<&[u8]>) -> Box<Line> {
        let (method, target) = ("POST".to_owned(), call.path().to_owned());
        Box::new(Line { method, target, user: user(&config.users, authorization), began: Instant::now() })
    }

    /// It has been answered.
    pub(super) fn end(self, caller: Caller, status: StatusCode) {
        let is_known = status != StatusCode::UNAUTHORIZED && status != StatusCode::TOO_MANY_REQUESTS;
        Access {
            method: &self.method,
            target: &self.target,
            peer: &caller.peer,
            status: status.as_u16(),
            user: self.user.as_deref().filter(|_| is_known),
            client_id: None,
            took: self.began.elapsed(),
        }
        .write();
    }
}

impl Api {
    /// The line of a request, if there is to be one.
    pub(super) fn begin_line<B>(&self, request: &Request<B>) -> Option<Box<Line>> {
        let config = self.config.load();
        // Boxed, so that a connection does not carry it.
        config.logging.access.then(|| {
            Box::new(Line {
                method: request.method().as_str().to_owned(),
                target: request.uri().path().to_owned(),
                user: user(&config.users, request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes)),
                began: Instant::now(),
            })
        })
    }
}
