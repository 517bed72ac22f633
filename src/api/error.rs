//! What can be wrong with a call, and how each failure is reported: the API's code, the HTTP status, a sentence.

use hyper::StatusCode;
use std::borrow::Cow;

use crate::hub::CommandError;
use crate::ids::WorkerId;
use crate::telemetry::metrics::labels::CallResult;

/// A call's failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiError {
    /// The request's body or one of its fields is wrong; the sentence names which.
    InvalidArgument(String),
    /// There is no such client, or it can't take the message.
    NotSent(String),
    /// A topic can't be consumed.
    NotPopped(String),
    /// This connection consumes the topic already.
    AlreadyPopped(String),
    /// This connection does not consume the topic.
    NotConsumed(String),
    /// A connection did not apply a command.
    NotObeyed(CommandError),
    /// The request is no proper HTTP; holds what is wrong.
    BadRequest(&'static str),
    /// The request needs something that this server does not have; holds what.
    NotImplemented(&'static str),
    /// The request does not open a WebSocket; holds the HTTP status and what was expected.
    NoUpgrade(StatusCode, String),
    /// Credentials are missing or wrong.
    Unauthorized,
    /// The user may not do that, or not from that address, or a web page may not.
    Forbidden(Cow<'static, str>),
    /// No such path.
    NotFound,
    /// The path does not take that method; holds the methods that it takes.
    MethodNotAllowed(&'static str),
    /// The body is larger than that many bytes.
    TooLarge(usize),
    /// The body did not arrive in time.
    Timeout,
    /// The engine is draining.
    Unavailable,
    /// The node has not joined its cluster yet.
    Joining,
    /// The node that knows did not answer; the sentence says of what.
    Unanswered(String),
    /// These workers are stuck.
    Stuck(Vec<WorkerId>),
    /// Too many wrong credentials came from that address, so these were not checked.
    TooMany,
    /// Too many passwords are being compared with their hashes, so this one was not.
    Busy,
    /// The limit of WebSocket connections is reached.
    Crowded,
    /// As many watch as may.
    Watched,
}

impl ApiError {
    /// The API's own code where it has one (server API reference), else the HTTP status.
    pub fn code(&self) -> u16 {
        match self {
            ApiError::InvalidArgument(_) => 101,
            ApiError::NotPopped(_) => 201,
            ApiError::AlreadyPopped(_) => 202,
            ApiError::NotConsumed(_) => 203,
            ApiError::NotObeyed(_) => 301,
            ApiError::NotSent(_) => 401,
            other => other.status().as_u16(),
        }
    }

    /// The label that it is counted under.
    pub fn label(&self) -> CallResult {
        match self {
            ApiError::InvalidArgument(_) => CallResult::Invalid,
            ApiError::NotSent(_) => CallResult::NotSent,
            ApiError::NotPopped(_) => CallResult::NotPopped,
            ApiError::AlreadyPopped(_) => CallResult::AlreadyPopped,
            ApiError::NotConsumed(_) => CallResult::NotConsumed,
            ApiError::NotObeyed(_) => CallResult::NotObeyed,
            ApiError::BadRequest(_) => CallResult::BadRequest,
            ApiError::NotImplemented(_) => CallResult::NotImplemented,
            ApiError::NoUpgrade(..) => CallResult::NoUpgrade,
            ApiError::Unauthorized => CallResult::Unauthorized,
            ApiError::Forbidden(_) => CallResult::Forbidden,
            ApiError::NotFound => CallResult::NotFound,
            ApiError::MethodNotAllowed(_) => CallResult::MethodNotAllowed,
            ApiError::TooLarge(_) => CallResult::TooLarge,
            ApiError::Timeout => CallResult::Timeout,
            ApiError::Unavailable | ApiError::Joining | ApiError::Unanswered(_) | ApiError::Stuck(_) => {
                CallResult::Unavailable
            }
            ApiError::TooMany | ApiError::Busy => CallResult::TooMany,
            ApiError::Crowded | ApiError::Watched => CallResult::Crowded,
        }
    }

    /// The HTTP status. An error that only the WebSocket API reports has none of its own.
    pub fn status(&self) -> StatusCode {
        match self {
            ApiError::InvalidArgument(_)
            | ApiError::NotPopped(_)
            | ApiError::AlreadyPopped(_)
            | ApiError::NotConsumed(_)
            | ApiError::NotObeyed(_)
            | ApiError::BadRequest(_) => StatusCode::BAD_REQUEST,
            ApiError::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            ApiError::NoUpgrade(status, _) => *status,
            ApiError::NotSent(_) | ApiError::NotFound => StatusCode::NOT_FOUND,
            ApiError::Unauthorized => StatusCode::UNAUTHORIZED,
            ApiError::Forbidden(_) => StatusCode::FORBIDDEN,
            ApiError::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            ApiError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            ApiError::Timeout => StatusCode::REQUEST_TIMEOUT,
            ApiError::Unavailable
            | ApiError::Joining
            | ApiError::Unanswered(_)
            | ApiError::Stuck(_)
            | ApiError::Crowded
            | ApiError::Watched => StatusCode::SERVICE_UNAVAILABLE,
            ApiError::TooMany | ApiError::Busy => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// The sentence.
    pub fn message(&self) -> String {
        match self {
            ApiError::InvalidArgument(what)
            | ApiError::NotPopped(what)
            | ApiError::AlreadyPopped(what)
            | ApiError::NotConsumed(what)
            | ApiError::NoUpgrade(_, what)
            | ApiError::Unanswered(what)
            | ApiError::NotSent(what) => what.clone(),
            ApiError::NotObeyed(why) => why.to_string(),
            ApiError::Unauthorized => "missing or wrong credentials (HTTP Basic or a bearer token)".into(),
            ApiError::BadRequest(what) | ApiError::NotImplemented(what) => (*what).into(),
            ApiError::Forbidden(why) => why.to_string(),
            ApiError::NotFound => "no such path".into(),
            ApiError::MethodNotAllowed(allowed) => format!("method not allowed; use {allowed}"),
            ApiError::TooLarge(limit) => format!("the body has more than {limit} bytes (engine.apiServer.maxBodySize)"),
            ApiError::Timeout => "the body did not arrive in time".into(),
            ApiError::Unavailable => "the engine is shutting down".into(),
            ApiError::Joining => "this node has not joined its cluster yet".into(),
            ApiError::Stuck(workers) => {
                let numbers: Vec<String> = workers.iter().map(|worker| worker.0.to_string()).collect();
                format!("stuck: {} {}", if workers.len() == 1 { "worker" } else { "workers" }, numbers.join(", "))
            }
            ApiError::TooMany => "too many wrong credentials from this address; these were not looked at".into(),
            ApiError::Busy => "too many passwords are compared with their hashes now; try again in a second".into(),
            ApiError::Crowded => "too many connections of back ends have opened a WebSocket".into(),
            ApiError::Watched => "too many watch this engine already".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::labels::Label;

    #[test]
    fn every_error_has_its_place_among_the_figures() {
        let errors = [
            ApiError::InvalidArgument(String::new()),
            ApiError::NotSent(String::new()),
            ApiError::NotPopped(String::new()),
            ApiError::AlreadyPopped(String::new()),
            ApiError::NotConsumed(String::new()),
            ApiError::NotObeyed(CommandError::NotConnected(1)),
            ApiError::BadRequest(""),
            ApiError::NotImplemented(""),
            ApiError::NoUpgrade(StatusCode::UPGRADE_REQUIRED, String::new()),
            ApiError::Unauthorized,
            ApiError::Forbidden("".into()),
            ApiError::NotFound,
            ApiError::MethodNotAllowed(""),
            ApiError::TooLarge(1),
            ApiError::Timeout,
            ApiError::Unavailable,
            ApiError::TooMany,
            ApiError::Crowded,
        ];
        assert_eq!(errors.each_ref().map(ApiError::label)[..], CallResult::ALL[1..]);
    }
}
