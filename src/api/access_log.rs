//! The lines of the access log for requests to the APIs. Off, it costs a look at the configuration.

use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::{Request, StatusCode};
use std::time::Instant;

use super::auth::{Login, find};
use super::call::Call;
use super::callers::Caller;
use super::state::Api;
use super::verifier::Key;
use crate::config::Config;
use crate::telemetry::log::access::Access;

/// A request that is under way.
pub(super) struct Line {
    method: String,
    target: String,
    user: Option<Claimed>,
    began: Instant,
}

/// The user whose name a request gives.
struct Claimed {
    name: String,
    /// Where only a hash tells whether the password is right: what the verifier knows the credentials by, if they are.
    key: Option<Key>,
}

impl Api {
    fn claimed(&self, config: &Config, authorization: Option<&[u8]>) -> Option<Claimed> {
        match (find(&config.users, authorization), authorization) {
            (Login::User(user), _) => Some(Claimed { name: user.username.clone(), key: None }),
            (Login::Hashed(Some(user), hash), Some(header)) => {
                Some(Claimed { name: user.username.clone(), key: Some(self.verifier.key(hash, header)) })
            }
            _ => None,
        }
    }

    /// The line of a call of the fast path.
    pub(super) fn line_of_call(&self, config: &Config, call: Call, authorization: Option<&[u8]>) -> Box<Line> {
        let (method, target) = ("POST".to_owned(), call.path().to_owned());
        Box::new(Line { method, target, user: self.claimed(config, authorization), began: Instant::now() })
    }

    /// It has been answered. A name is written only if the credentials are known to be right: many answers come before
    /// anybody looks at them.
    pub(super) fn end_line(&self, line: Line, caller: Caller, status: StatusCode) {
        let is_known = status != StatusCode::UNAUTHORIZED && status != StatusCode::TOO_MANY_REQUESTS;
        let is_right = |user: &Claimed| user.key.as_ref().is_none_or(|key| self.verifier.knows(key));
        let user = line.user.as_ref().filter(|user| is_known && is_right(user));
        Access {
            method: &line.method,
            target: &line.target,
            peer: &caller.peer,
            status: status.as_u16(),
            user: user.map(|user| user.name.as_str()),
            client_id: None,
            took: line.began.elapsed(),
        }
        .write();
    }

    /// The line of a request, if there is to be one.
    pub(super) fn begin_line<B>(&self, request: &Request<B>) -> Option<Box<Line>> {
        let config = self.config.load();
        // Boxed, so that a connection does not carry it.
        config.logging.access.then(|| {
            Box::new(Line {
                method: request.method().as_str().to_owned(),
                target: request.uri().path().to_owned(),
                user: self.claimed(&config, request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes)),
                began: Instant::now(),
            })
        })
    }
}
