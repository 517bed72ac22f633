//! What clients of event streams send: a POST to the stream's own path, with the id of the client and the token that only its
//! stream was told. The message goes to the client's connection, on whichever worker or node that is, and its handler runs
//! there. The answer says that the connection has it, not that it was handled. Further requests may come on the same
//! connection, of the same client or, through a proxy, of others.

use bytes::Bytes;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Worker;
use super::refusal::{refusal_for, say_and_end};
use super::request::{Coming, rules};
use crate::api::Stage;
use crate::hub::{CommandError, ConnCommand};
use crate::message::Message;
use crate::shard::hold::{Counted, UnderWay};
use crate::shard::transport::Transport;
use crate::telemetry::metrics::labels::RefusalCause;
use crate::telemetry::rate_limited::rate_limited;
use crate::telemetry::spans::TraceContext;
use crate::wire::event_stream::request::{self as stream, Origin, Post};
use crate::wire::handshake::{Refusal, Request};

/// Answers a request that sends a message, or asks whether it may. `got` are the bytes behind its head. None: the connection
/// has ended.
pub(super) async fn serve(
    worker: &Rc<Worker>,
    server: usize,
    mut transport: Transport,
    request: &Request<'_>,
    mut got: Vec<u8>,
) -> Option<Coming> {
    let config = worker.config.load_full();
    let rules = rules(&config.servers[server], None);
    let limits = worker.servers[server].served.limits.get();
    let keep = stream::keeps(request) && !worker.stage.borrow().is_leaving();
    let origin = Origin::of(request, &rules);
    let asked = match (&origin, request.method) {
        (Err(refusal), _) => Err(refusal.clone()),
        (Ok(_), "OPTIONS") => stream::preflight(request, &rules).map(Asked::Whether),
        (Ok(_), _) => stream::post(request, &rules, limits.max_message_size).map(Asked::Message),
    };
    let origin = origin.unwrap_or_default();
    let post = match asked {
        Ok(Asked::Message(post)) => post,
        // A body, if there is one, is not read.
        Ok(Asked::Whether(answer)) => return end(transport, &answer).await,
        Err(refusal) => return refuse(transport, &refusal, origin).await,
    };
    let trace = match worker.shard.traces.tracer.is_on() && config.tracing.from_clients {
        true => TraceContext::of_headers(request.headers()).map(Box::new),
        false => None,
    };
    let mut stage = worker.stage.clone();
    let body = tokio::select! {
        biased;
        body = within(limits.message_timeout, read_body(worker, &mut transport, &post, &mut got)) => body,
        _ = stage.wait_for(Stage::is_draining) => return None,
    };
    let outcome = match body {
        // A successor process may have taken the stream: the message has to go there.
        Ok(Some(_)) if !worker.hold.settled().await => return refuse(transport, &replaced(), origin).await,
        Ok(Some(body)) => {
            let _calling = Counted::new(&worker.hold, UnderWay::Call);
            hand_over(worker, post, body, trace).await
        }
        Ok(None) => return None,
        Err(refusal) => return refuse(transport, &refusal, origin).await,
    };
    let answer = match &outcome {
        Ok(()) => stream::taken(origin, keep),
        Err(refusal) => {
            log(refusal);
            stream::refused(refusal, origin, keep)
        }
    };
    if !keep {
        return end(transport, &answer).await;
    }
    timeout(limits.handshake_timeout, transport.write_all(&answer)).await.ok()?.ok()?;
    Some(Coming::after(transport, got, limits.handshake_timeout))
}

enum Asked {
    Message(Post),
    /// Holds the answer.
    Whether(Vec<u8>),
}

/// Reads a body; what comes behind it stays in `got`. None: the client has ended the connection.
async fn read_body(
    worker: &Worker,
    transport: &mut Transport,
    post: &Post,
    got: &mut Vec<u8>,
) -> Result<Option<Bytes>, Refusal> {
    if post.waits && got.len() < post.length && transport.write_all(stream::CONTINUE).await.is_err() {
        return Ok(None);
    }
    while got.len() < post.length {
        // The body of a client that stalls is not counted for it: so it is not kept while memory is short.
        if worker.memory.refuses() {
            return Err(refusal_for(RefusalCause::Memory));
        }
        got.reserve((post.length - got.len()).min(16 * 1024));
        match transport.read_buf(got).await {
            Ok(0) | Err(_) => return Ok(None),
            Ok(_) => {}
        }
    }
    let rest = got.split_off(post.length);
    Ok(Some(std::mem::replace(got, rest).into()))
}

/// Waits for the body; no time is no bound.
async fn within(
    time: Duration,
    body: impl Future<Output = Result<Option<Bytes>, Refusal>>,
) -> Result<Option<Bytes>, Refusal> {
    if time.is_zero() {
        return body.await;
    }
    let late = || Refusal { status: 408, text: "the message did not arrive in time (messageTimeout)".into() };
    timeout(time, body).await.unwrap_or_else(|_| Err(late()))
}

/// Gives the message to the client's connection.
async fn hand_over(worker: &Worker, post: Post, body: Bytes, trace: Option<Box<TraceContext>>) -> Result<(), Refusal> {
    let refused = |status, text: String| Refusal { status, text };
    let message = Message::new(post.kind, body)
        .map_err(|_| refused(400, "a text is not valid UTF-8; send it as application/octet-stream".into()))?;
    let command = ConnCommand::Receive { token: post.token, message, trace };
    let done = worker.mesh.command(post.client, command).await.await;
    done.map_err(|error| match error {
        CommandError::NotConnected(client) => {
            refused(404, format!("there is no event stream of client {client} with this token"))
        }
        CommandError::Closing(_) => refused(404, error.to_string()),
        CommandError::Busy(_) => refused(429, error.to_string()),
        CommandError::Stuck { .. } | CommandError::Unanswered(_) | CommandError::Bound(_) => {
            refused(503, error.to_string())
        }
    })
}

/// What a client is told whose message came while another process took over.
fn replaced() -> Refusal {
    Refusal { status: 503, text: "a new process has taken over: send it again".into() }
}

async fn refuse(transport: Transport, refusal: &Refusal, origin: Origin<'_>) -> Option<Coming> {
    log(refusal);
    end(transport, &stream::refused(refusal, origin, false)).await
}

async fn end(transport: Transport, answer: &[u8]) -> Option<Coming> {
    say_and_end(transport, answer).await;
    None
}

fn log(refusal: &Refusal) {
    let mut status = itoa::Buffer::new();
    rate_limited!(DEBUG, "messages to event streams are refused", status.format(refusal.status);
        status = refusal.status, "a message was refused: {refusal}");
}
