//! `mix.mesh` (any client on any node), and `mix.subscribe` for the current connection.

use bytes::Bytes;
use futures_util::FutureExt;
use std::future::ready;
use std::rc::Rc;

use super::conn::{channel_args, close_args, kind_arg, subscribe_to};
use super::history::history;
use super::presence::presence;
use super::subscribe::{Subscribed, subscribe_args};
use crate::cluster::Behind;
use crate::hub::{
    ChannelAction, CommandError, ConnCommand, Counts, Except, MAX_EXCEPT, Priority, Publication, PublishOptions,
};
use crate::ids::ClientId;
use crate::message::{Channel, Key, Message};
use crate::script::current::{self, Host};
use crate::script::push::{One, Push, Stack, Table, table};
use crate::script::stack::{Args, Fallible, Raise};
use crate::script::wait::{self, Interruptible, Outcome};
use crate::shard::conn::Conn;
use crate::shard::context::Value;
use crate::telemetry::spans::{Recording, SpanKind};

const NO_ENGINE: &str = "no engine: a script that is only checked can't reach it";

/// Adds `mesh`, `subscribe` and `unsubscribe` to the `mix` table.
pub fn register(mix: &Table<'_>) {
    mix.waiting(c"subscribe", subscribe);
    mix.native(c"unsubscribe", unsubscribe);
    mix.field(
        c"mesh",
        table(6, |mesh| {
            mesh.waiting(c"publish", publish);
            mesh.waiting(c"send", send);
            mesh.waiting(c"count", count);
            mesh.waiting(c"close", close);
            mesh.waiting(c"presence", presence);
            mesh.waiting(c"history", history);
        }),
    );
}

/// What a publish came to.
struct Published {
    /// Connections reached and not reached; nothing if the script asked for no counts.
    counts: Result<(Option<f64>, Option<f64>), String>,
    /// Nodes that did not answer, if there are any.
    unanswered: Option<f64>,
    /// 1 if it was over the limit of its channel.
    left_out: Option<f64>,
    /// 1 if it was added to others then.
    merged: Option<f64>,
}

impl Published {
    fn failed(err: String) -> Published {
        Published { counts: Err(err), ..Published::uncounted() }
    }

    fn uncounted() -> Published {
        Published { counts: Ok((None, None)), unanswered: None, left_out: None, merged: None }
    }
}

impl Push for Published {
    type Pushed = (<Result<(Option<f64>, Option<f64>), String> as Push>::Pushed, (One, (One, One)));

    fn push_to(self, stack: Stack<'_>) -> Self::Pushed {
        let over = (self.left_out, self.merged);
        (self.counts.push_to(stack), (self.unanswered.push_to(stack), over.push_to(stack)))
    }

    fn err(&self) -> Option<&str> {
        Push::err(&self.counts)
    }
}

impl Interruptible for Published {
    fn interrupted(why: &'static str) -> Published {
        Published { counts: Interruptible::interrupted(why), ..Published::uncounted() }
    }
}

/// A publication, and whether its counts are wanted.
pub(crate) fn publish_args(args: &Args) -> Fallible<(Publication, bool)> {
    let (channel, data, kind) = (args.bytes(1)?, args.bytes(2)?, kind_arg(args, 3)?);
    let wrong = |problem: String| Raise::Argument { index: 4, problem };
    let (mut counted, mut wanted) = (true, PublishOptions::default());
    let options = if args.is_nil(4) { Box::default() } else { args.table(4)? };
    for (key, value) in &options {
        let Value::Str(key) = key else { continue };
        match (&**key, value) {
            (b"counts", Value::Bool(counts)) => counted = *counts,
            (b"counts", _) => return Err(wrong("counts must be true or false".into())),
            (b"except", value) => wanted.except = except_arg(value).map_err(wrong)?,
            (b"priority", value) => wanted.priority = priority_arg(value).map_err(wrong)?,
            (b"key", value) => wanted.key = Some(key_arg(value).map_err(wrong)?),
            _ => {}
        }
    }
    let channel = match Channel::from_script(&channel) {
        Ok(channel) => channel,
        Err(e) => return Ok(Err(e.to_string())),
    };
    Ok(match Message::new(kind, Bytes::copy_from_slice(&data)) {
        Ok(message) => Ok((Publication::new(channel, message).with(wanted), counted)),
        Err(e) => Err(e.to_string()),
    })
}

/// How much a publication matters.
fn priority_arg(value: &Value) -> Result<Priority, String> {
    let priority = if let Value::Str(word) = value { Priority::parse(word) } else { None };
    priority.ok_or_else(|| r#"priority must be "high", "normal" or "low""#.into())
}

/// What a publication is about.
fn key_arg(value: &Value) -> Result<Key, String> {
    let key = match value {
        Value::Str(key) => Key::parse(key),
        Value::Number(n) => Key::parse(n.to_string().as_bytes()),
        _ => return Err("key must be a string".into()),
    };
    key.map_err(|e| e.to_string())
}

/// The clients that a publication leaves out: a client_id, or a list of them.
fn except_arg(value: &Value) -> Result<Except, String> {
    let wanted = "except must be a client_id, or a list of them";
    let client = |value: &Value| match value {
        Value::Str(word) => ClientId::parse(word).ok_or(wanted),
        // Below 2^53 a number is exact.
        Value::Number(n) if n.fract() == 0.0 && *n > 0.0 => ClientId::new(*n as u64).ok_or(wanted),
        _ => Err(wanted),
    };
    Ok(Except::new(match value {
        Value::Table(list) | Value::Array(list) => {
            if list.len() > MAX_EXCEPT {
                return Err(format!("except must be a list of at most {MAX_EXCEPT}"));
            }
            list.iter().map(|(_, value)| client(value)).collect::<Result<Vec<_>, _>>()?
        }
        one => vec![client(one)?],
    }))
}

fn publish(args: &Args) -> Result<Outcome<Published>, Raise> {
    let now = |failure: String| Ok(Outcome::Now(Published::failed(failure)));
    let (publication, counted) = match publish_args(args)? {
        Ok(publication) => publication,
        Err(e) => return now(e),
    };
    let Some(host) = current::host() else {
        return if counted { Err(wait::NOT_AT_TOP_LEVEL.into()) } else { now(NO_ENGINE.into()) };
    };
    host.shard.counts.published.add(1);
    let span = publish_span(&host, &publication);
    if counted {
        let enqueued = host.mesh.publish(publication, Behind::default());
        return Ok(Outcome::enqueue(enqueued, |counts: Counts| {
            if let Some(mut span) = span {
                let Counts { reached, failed, unanswered, left_out, merged, .. } = counts;
                span.delivered((reached, failed), unanswered, (left_out, merged));
            }
            let some = |number: u64| (number > 0).then_some(number as f64);
            let (unanswered, left_out, merged) = (some(counts.unanswered), some(counts.left_out), some(counts.merged));
            let counts = Ok((Some(counts.reached as f64), Some(counts.failed as f64)));
            Published { counts, unanswered, left_out, merged }
        }));
    }
    let mut enqueued = Box::pin(host.mesh.publish_uncounted(publication));
    // There is nearly always room. Then there is nothing to wait for, and the call works even where nothing can wait.
    if (&mut enqueued).now_or_never().is_some() {
        return Ok(Outcome::Now(Published::uncounted()));
    }
    Ok(Outcome::enqueue(enqueued.map(ready), |()| Published::uncounted()))
}

/// Begins the span of a publish, as a part of the handler that runs. None: nothing is traced, or it is not recorded.
fn publish_span(host: &Host, publication: &Publication) -> Option<Recording> {
    let tracer = &host.shard.traces.tracer;
    if !tracer.is_on() {
        return None;
    }
    let mut span = tracer.begin_here("publish", SpanKind::Producer).1?;
    span.publishes();
    span.set("messaging.destination.name", publication.channel.as_str());
    Some(span)
}

/// How many connections; or why it can't be told.
type Number = Result<f64, String>;

/// The channel of a count.
pub(crate) fn count_arg(args: &Args) -> Fallible<Channel> {
    Ok(Channel::from_script(&args.bytes(1)?).map_err(|e| e.to_string()))
}

fn count(args: &Args) -> Result<Outcome<Number>, Raise> {
    let channel = match count_arg(args)? {
        Ok(channel) => channel,
        Err(e) => return Ok(Outcome::Now(Err(e))),
    };
    let host = current::host().ok_or(wait::NOT_AT_TOP_LEVEL)?;
    let enqueued = host.mesh.command_channel(channel, ChannelAction::Count, Behind::default());
    Ok(Outcome::enqueue(enqueued, |counts: Counts| Ok(counts.reached as f64)))
}

/// Who is to be closed.
pub(crate) enum Closed {
    /// One client.
    Client(ClientId),
    /// All connections of a channel.
    Channel(Channel),
}

/// Who is to be closed, and with what.
pub(crate) fn close_mesh_args(args: &Args) -> Fallible<(Closed, (u16, Box<str>))> {
    let wanted = || args.wrong(1, "client_id or {channel = name}");
    let closed = match args.slots().string(args.slot(1)) {
        None if args.exact_integer(1).is_none() => {
            let who = args.table(1).map_err(|_| wanted())?;
            let channel = who.iter().find(|(key, _)| *key == Value::str("channel"));
            let Some((_, Value::Str(name))) = channel else { return Err(wanted()) };
            Channel::from_script(name).map(Closed::Channel).map_err(|e| e.to_string())
        }
        _ => client_arg(args)?.map(Closed::Client),
    };
    let how = close_args(args, 2)?;
    Ok(closed.map(|closed| (closed, how)))
}

fn close(args: &Args) -> Result<Outcome<Number>, Raise> {
    let (closed, (code, reason)) = match close_mesh_args(args)? {
        Ok(closed) => closed,
        Err(e) => return Ok(Outcome::Now(Err(e))),
    };
    let host = current::host().ok_or(wait::NOT_AT_TOP_LEVEL)?;
    Ok(match closed {
        Closed::Channel(channel) => {
            let enqueued = host.mesh.command_channel(channel, ChannelAction::Close { code, reason }, Behind::default());
            Outcome::enqueue(enqueued, |counts: Counts| Ok(counts.reached as f64))
        }
        Closed::Client(client) => {
            Outcome::enqueue(host.mesh.command(client, ConnCommand::Close { code, reason }), |done| match done {
                Ok(()) => Ok(1.0),
                Err(CommandError::NotConnected(_) | CommandError::Closing(_)) => Ok(0.0),
                Err(error) => Err(error.to_string()),
            })
        }
    })
}

/// The first argument as a client's id.
fn client_arg(args: &Args) -> Fallible<ClientId> {
    let word = args.bytes(1)?;
    // A number is read as it is, not by its text, which has only 14 digits.
    let id = match args.exact_integer(1) {
        Some(number) => ClientId::new(number),
        None => ClientId::parse(&word),
    };
    Ok(id.ok_or_else(|| format!("\"{}\" is no client_id", String::from_utf8_lossy(&word).escape_debug())))
}

/// The recipient and the message of a send.
pub(crate) fn send_args(args: &Args) -> Fallible<(ClientId, Message)> {
    let id = client_arg(args)?;
    let (data, kind) = (args.bytes(2)?, kind_arg(args, 3)?);
    let id = match id {
        Ok(id) => id,
        Err(e) => return Ok(Err(e)),
    };
    let message = Message::new(kind, Bytes::copy_from_slice(&data));
    Ok(message.map(|message| (id, message)).map_err(|e| e.to_string()))
}

fn send(args: &Args) -> Result<Outcome<Result<(), String>>, Raise> {
    let (id, message) = match send_args(args)? {
        Ok(to) => to,
        Err(e) => return Ok(Outcome::Now(Err(e))),
    };
    let host = current::host().ok_or(wait::NOT_AT_TOP_LEVEL)?;
    Ok(Outcome::enqueue(host.mesh.send(id, message), move |sent| {
        if sent { Ok(()) } else { Err(format!("client {id} is not connected, or can't take the message")) }
    }))
}

/// The engine and the connection whose handler is running.
fn here() -> Result<(Rc<Host>, Rc<Conn>), String> {
    let current = current::get().and_then(|current| current.conn).ok_or("no connection: not inside a handler")?;
    let host = current::host().ok_or(NO_ENGINE)?;
    let conn = host.shard.get_at(current.slot, current.client_id).ok_or("the connection has closed")?;
    Ok((host, conn))
}

fn subscribe(args: &Args) -> Result<Outcome<Subscribed>, Raise> {
    let subscription = subscribe_args(args)?;
    Ok(match here().and_then(|here| Ok((here, subscription?))) {
        Ok((here, subscription)) => subscribe_to(args, here, subscription),
        Err(problem) => Outcome::Now(Subscribed(Err(problem))),
    })
}

fn unsubscribe(args: &Args) -> Fallible<()> {
    let channels = channel_args(args)?;
    Ok(here().and_then(|(host, conn)| {
        host.shard.unsubscribe(&conn, &channels?);
        Ok(())
    }))
}
