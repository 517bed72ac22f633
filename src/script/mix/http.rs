//! `mix.http`: requests to HTTP servers. [`crate::outbound::http`] checks the contents of a request when it sends it.

use std::ffi::CStr;
use std::time::Duration;

use crate::config::{Quantity, parse_duration};
use crate::outbound::http::{MAX_IDLE, MAX_REDIRECTS, MAX_TIMEOUT, Request, Response};
use crate::script::current;
use crate::script::push::{One, PushOne, Stack, Table, table, with};
use crate::script::stack::{Args, Fallible, Push, Raise, number_text};
use crate::script::wait::{self, Outcome};
use crate::shard::context::Value;
use crate::telemetry::spans::{Recording, SpanKind, Tracer};

/// The most bytes that the options may hold. This is more than the largest body, so that a body slightly too long gets
/// an err that says so.
const MAX_OPTIONS: usize = 20 * 1024 * 1024;

/// The registry key of the metatable that finds header names under any letter case.
const HEADERS_METATABLE: &CStr = c"connmix.headers";

/// Adds `http` to the `mix` table.
pub fn register(mix: &Table<'_>) {
    // The prelude fills it.
    mix.stack().register(HEADERS_METATABLE, table(1, |_| ()));
    mix.field(c"http", table(1, |http| http.waiting(c"request", request)));
}

/// The metatable of tables of headers; nil before [`register`].
pub fn headers_metatable() -> impl PushOne {
    with(|stack| stack.push_registered(HEADERS_METATABLE))
}

/// `mix.http.request(method, url[, options])` -> `resp, err`
fn request(args: &Args) -> Result<Outcome<Result<Response, String>>, Raise> {
    let mut request = match read(args)? {
        Ok(request) => request,
        Err(e) => return Ok(Outcome::Now(Err(format!("http: {e}")))),
    };
    let host = current::host().ok_or(wait::NOT_AT_TOP_LEVEL)?;
    let tracer = &host.shard.traces.tracer;
    let span = if tracer.is_on() { trace(tracer, &mut request) } else { None };
    let response = host.outbound.request(request);
    Ok(Outcome::later(async move {
        let response = response.await;
        if let Some(span) = span {
            answered(span, &response);
        }
        response.map_err(|e| format!("http: {e}"))
    }))
}

/// Begins the span of a request, as a part of the handler that runs, and tells the server of it. None: it is not recorded.
fn trace(tracer: &Tracer, request: &mut Request) -> Option<Recording> {
    let (context, mut span) = tracer.begin_here(request.method().to_owned(), SpanKind::Client);
    request.add_trace(&context);
    if let Some(span) = &mut span {
        let (host, port) = request.server();
        span.set("http.request.method", request.method());
        span.set("server.address", host);
        span.set("server.port", u64::from(port));
    }
    span
}

/// A request has come to that: its span ends.
fn answered(mut span: Recording, response: &Result<Response, String>) {
    match response {
        Ok(response) => {
            span.set("http.response.status_code", u64::from(response.status));
            if response.status >= 400 {
                span.fail(&format!("status {}", response.status));
            }
        }
        Err(why) => span.fail(why),
    }
}

/// What is wrong with the arguments of a request, as the err that the request would return. Nothing is sent.
pub fn problem(args: &Args) -> Result<Option<String>, Raise> {
    Ok(read(args)?.err().map(|e| format!("http: {e}")))
}

fn read(args: &Args) -> Fallible<Request> {
    let (method, url) = (args.bytes(1)?, args.bytes(2)?);
    let options = if args.is_nil(3) { Box::default() } else { args.table_within(3, MAX_OPTIONS)? };
    let mut request = match Request::new(&method, &url) {
        Ok(request) => request,
        Err(e) => return Ok(Err(e)),
    };
    for (name, value) in options {
        // Unknown names are ignored, as everywhere in the API.
        let Value::Str(name) = name else { continue };
        if let Err(e) = set(&mut request, &name, value).map_err(|problem| Raise::Argument { index: 3, problem })? {
            return Ok(Err(e));
        }
    }
    Ok(Ok(request))
}

/// Sets an option. The outer error is a wrong type, the inner one a value that can't be sent.
fn set(request: &mut Request, name: &[u8], value: Value) -> Result<Result<(), String>, String> {
    Ok(match name {
        b"query" => request.add_query(&text("query", value)?),
        b"body" => request.set_body(text("body", value)?.into()),
        b"headers" => each("headers", value, |name, value| request.set_header(name, value))?,
        b"cookies" => each("cookies", value, |name, value| request.add_cookie(name, value))?,
        b"auth" => {
            let (mut username, mut password) = (Box::default(), Box::default());
            for (key, value) in pairs("auth", value)? {
                match &*text("a key of auth", key)? {
                    b"username" => username = text("auth.username", value)?,
                    b"password" => password = text("auth.password", value)?,
                    _ => {}
                }
            }
            request.set_auth(&username, &password)
        }
        b"timeout" => {
            let wanted = "timeout: more than 0 s, at most 24 h,";
            request.set_timeout(duration(value, wanted, |time| !time.is_zero() && time <= MAX_TIMEOUT)?);
            Ok(())
        }
        b"idle" => {
            let value = if value == Value::Bool(false) { Value::Number(0.0) } else { value };
            request.set_idle(duration(value, "idle: 0 s to 1 h", |time| time <= MAX_IDLE)?);
            Ok(())
        }
        b"follow" => match value {
            Value::Number(n) if n.fract() == 0.0 && (0.0..=MAX_REDIRECTS as f64).contains(&n) => {
                request.set_follow(n as usize);
                Ok(())
            }
            Value::Bool(follow) => {
                request.set_follow(if follow { MAX_REDIRECTS } else { 0 });
                Ok(())
            }
            other => return Err(format!("follow: 0 to {MAX_REDIRECTS} expected, got {}", kind(&other))),
        },
        _ => Ok(()),
    })
}

/// A string; a number counts as its text.
fn text(what: &str, value: Value) -> Result<Box<[u8]>, String> {
    match value {
        Value::Str(text) => Ok(text),
        Value::Number(n) => Ok(number_text(n).into()),
        other => Err(format!("{what}: string expected, got {}", kind(&other))),
    }
}

fn pairs(what: &str, value: Value) -> Result<Box<[(Value, Value)]>, String> {
    match value {
        Value::Table(pairs) | Value::Array(pairs) => Ok(pairs),
        other => Err(format!("{what}: table expected, got {}", kind(&other))),
    }
}

/// Sets every pair of a table, up to the first that fails.
fn each(
    what: &str,
    value: Value,
    mut set: impl FnMut(&[u8], &[u8]) -> Result<(), String>,
) -> Result<Result<(), String>, String> {
    for (name, value) in pairs(what, value)? {
        let name = text(&format!("a name in {what}"), name)?;
        let value = text(&format!("{what}[\"{}\"]", String::from_utf8_lossy(&name).escape_debug()), value)?;
        if let Err(e) = set(&name, &value) {
            return Ok(Err(e));
        }
    }
    Ok(Ok(()))
}

/// Seconds, or a text such as `500ms`. `wanted`: the option's name and its bounds.
fn duration(value: Value, wanted: &str, fits: impl Fn(Duration) -> bool) -> Result<Duration, String> {
    let shown = match &value {
        Value::Str(text) => format!("\"{}\"", String::from_utf8_lossy(&text[..text.len().min(40)]).escape_debug()),
        Value::Number(n) => n.to_string(),
        other => kind(other).to_owned(),
    };
    let duration = match value {
        Value::Number(n) => Duration::try_from_secs_f64(n).ok(),
        Value::Str(text) => match std::str::from_utf8(&text).map(parse_duration) {
            Ok(Quantity::Is(duration)) => Some(duration),
            _ => None,
        },
        _ => None,
    };
    let problem = || format!("{wanted} expected as seconds or as \"500ms\", got {shown}");
    duration.filter(|d| fits(*d)).ok_or_else(problem)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number out of range",
        Value::Str(_) => "string",
        Value::Table(_) | Value::Array(_) => "table",
    }
}

impl Push for Response {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        stack.push_table(0, 6, |response| {
            response.field(c"body", &self.body[..]);
            response.field(c"body_size", self.body.len() as f64);
            response.field(c"status_code", f64::from(self.status));
            response.field(c"url", self.url.as_str());
            let headers = table(self.headers.len(), |headers| {
                self.headers.iter().for_each(|(name, value)| headers.set(name.as_str(), value.as_slice()));
                headers.set_metatable(headers_metatable());
            });
            response.field(c"headers", headers);
            let cookies = table(self.cookies.len(), |cookies| {
                self.cookies.iter().for_each(|(name, value)| cookies.set(name.as_slice(), value.as_slice()));
            });
            response.field(c"cookies", cookies);
        })
    }
}
