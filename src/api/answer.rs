//! An answer before it becomes HTTP: a status and a JSON text. Both ways to serve a request produce these.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
    WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::error::ApiError;
use super::fields::RequestId;
use crate::ids::WorkerId;
use crate::telemetry::log::escape::json_for_terminal;
use crate::telemetry::metrics::labels::CallResult;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";
/// How a response begins that is all right and has JSON.
const OK_JSON: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

/// The answer to a request.
pub(super) struct Answer {
    status: StatusCode,
    /// Headers that the status calls for.
    extra: Vec<(HeaderName, &'static str)>,
    content_type: &'static str,
    body: Vec<u8>,
    /// The label that it is counted under.
    pub(super) result: CallResult,
    /// The connection ends after it.
    pub(super) ends: bool,
}

/// The answer to a call: `{"E": null, "r": ...}` or `{"E": {...}}`.
#[derive(Serialize)]
struct Envelope<T> {
    #[serde(rename = "E")]
    error: Option<Problem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    i: Option<RequestId>,
}

#[derive(Serialize)]
struct Problem {
    c: u16,
    m: String,
}

impl Answer {
    /// 200 with that value as JSON.
    pub(super) fn ok<T: Serialize>(body: &T) -> Answer {
        Answer::new(StatusCode::OK, Vec::new(), body)
    }

    /// 200 with that text.
    pub(super) fn text(content_type: &'static str, text: String) -> Answer {
        let status = StatusCode::OK;
        Answer { status, extra: Vec::new(), content_type, body: text.into_bytes(), result: CallResult::Ok, ends: false }
    }

    /// The same JSON, with what would steer a terminal as `\u009b`: people read it with `curl`, too.
    pub(super) fn harmless(mut self) -> Answer {
        if let Ok(text) = str::from_utf8(&self.body) {
            self.body = json_for_terminal(text).into_bytes();
        }
        self
    }

    /// The same with these headers.
    pub(super) fn with(mut self, headers: impl IntoIterator<Item = (HeaderName, &'static str)>) -> Answer {
        self.extra.extend(headers);
        self
    }

    /// What is asked for is at that path.
    pub(super) fn moved(path: &'static str) -> Answer {
        let answer = Answer::text(TEXT, String::new()).with([(LOCATION, path)]);
        Answer { status: StatusCode::PERMANENT_REDIRECT, ..answer }
    }

    /// Its status.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// The outcome of a call, with the caller's request id.
    pub(super) fn to_call<T: Serialize>(outcome: Result<T, ApiError>, request_id: Option<RequestId>) -> Answer {
        match outcome {
            Ok(result) => Answer::ok(&Envelope { error: None, r: Some(result), i: request_id }),
            Err(error) => Answer::failure(&error, request_id),
        }
    }

    /// 200 with the outcomes of several calls, in their order.
    pub(super) fn to_calls<T: Serialize>(outcomes: Vec<(Result<T, ApiError>, Option<RequestId>)>) -> Answer {
        let mut body = Vec::with_capacity(64 * outcomes.len());
        for (outcome, request_id) in outcomes {
            body.push(if body.is_empty() { b'[' } else { b',' });
            Answer::write_text(outcome, request_id, &mut body);
        }
        body.push(b']');
        Answer {
            status: StatusCode::OK,
            extra: Vec::new(),
            content_type: JSON,
            body,
            result: CallResult::Ok,
            ends: false,
        }
    }

    /// Appends the JSON text that answers a call.
    pub(super) fn write_text<T: Serialize>(
        outcome: Result<T, ApiError>,
        request_id: Option<RequestId>,
        out: &mut Vec<u8>,
    ) {
        let envelope = match outcome {
            Ok(result) => Envelope { error: None, r: Some(result), i: request_id },
            Err(error) => {
                Envelope { error: Some(Problem { c: error.code(), m: error.message() }), r: None, i: request_id }
            }
        };
        write(out, &envelope);
    }

    /// An error.
    pub(super) fn failure(error: &ApiError, request_id: Option<RequestId>) -> Answer {
        let extra = match error {
            ApiError::Unauthorized => vec![(WWW_AUTHENTICATE, "Basic realm=\"connmix\", charset=\"UTF-8\"")],
            ApiError::TooMany | ApiError::Busy | ApiError::Unavailable => vec![(RETRY_AFTER, "1")],
            ApiError::MethodNotAllowed(allowed) => vec![(ALLOW, *allowed)],
            // A sender of Upgrade must name it in Connection too (RFC 9110, section 7.8).
            ApiError::NoUpgrade(StatusCode::UPGRADE_REQUIRED, _) => {
                vec![(CONNECTION, "Upgrade"), (UPGRADE, "websocket"), (SEC_WEBSOCKET_VERSION, "13")]
            }
            _ => Vec::new(),
        };
        let problem = Problem { c: error.code(), m: error.message() };
        let answer =
            Answer::new(error.status(), extra, &Envelope::<()> { error: Some(problem), r: None, i: request_id });
        Answer { result: error.label(), ..answer }
    }

    fn new<T: Serialize>(status: StatusCode, extra: Vec<(HeaderName, &'static str)>, body: &T) -> Answer {
        let mut text = Vec::with_capacity(128);
        write(&mut text, body);
        Answer { status, extra, content_type: JSON, body: text, result: CallResult::Ok, ends: false }
    }

    /// The answer as hyper takes it, and its label for the metrics.
    pub(super) fn into_parts(self) -> (Response<Full<Bytes>>, CallResult) {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if self.ends {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        for (name, value) in self.extra {
            response.headers_mut().append(name, HeaderValue::from_static(value));
        }
        (response, self.result)
    }

    /// Appends the answer as an HTTP/1.1 response (RFC 9112, section 4).
    pub(super) fn write_http(&self, date: &str, out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        let length = digits.format(self.body.len());
        match (self.status, self.content_type) {
            // Nearly all of them.
            (StatusCode::OK, JSON) => out.extend_from_slice(OK_JSON),
            (status, content_type) => {
                let reason = status.canonical_reason().unwrap_or_default();
                let parts = ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\ncontent-type: ", content_type, "\r\n"];
                parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
            }
        }
        if self.ends {
            out.extend_from_slice(b"connection: close\r\n");
        }
        for (name, value) in &self.extra {
            [name.as_str(), ": ", value, "\r\n"].iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        }
        let parts = ["content-length: ", length, "\r\ndate: ", date, "\r\n\r\n"];
        parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
        out.extend_from_slice(&self.body);
    }
}

/// The answer to any request while all workers are stuck: a whole HTTP response, which ends the connection.
pub fn stuck(workers: &[WorkerId]) -> Vec<u8> {
    let mut answer = Answer::failure(&ApiError::Stuck(workers.to_vec()), None);
    answer.ends = true;
    let mut response = Vec::new();
    answer.write_http(&httpdate::fmt_http_date(std::time::SystemTime::now()), &mut response);
    response
}

/// Appends a value's JSON.
fn write<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    let start = out.len();
    // Our own types always serialise. If one did not, the caller would get an empty object and the log the reason.
    if let Err(e) = serde_json::to_writer(&mut *out, value) {
        tracing::error!("a reply could not be encoded: {e}");
        out.truncate(start);
        out.extend_from_slice(b"{}");
    }
}
