//! `mix.mesh` (any client on any node), and `mix.subscribe` for the current connection.

use bytes::Bytes;
use futures_util::FutureExt;
use std::future::ready;
use std::rc::Rc;

use super::conn::{channel_args, kind_arg, subscribe_to};
use crate::cluster::Behind;
use crate::hub::Counts;
use crate::ids::ClientId;
use crate::message::{Channel, Message};
use crate::script::current::{self, Host};
use crate::script::push::{One, Push, Stack, Table, table};
use crate::script::stack::{Args, Fallible, Raise};
use crate::script::wait::{self, Interruptible, Outcome};
use crate::shard::conn::Conn;
use crate::shard::context::Value;

const NO_ENGINE: &str = "no engine: a script that is only checked can't reach it";

/// Adds `mesh`, `subscribe` and `unsubscribe` to the `mix` table.
pub fn register(mix: &Table<'_>) {
    mix.waiting(c"subscribe", subscribe);
    mix.native(c"unsubscribe", unsubscribe);
    mix.field(
        c"mesh",
        table(2, |mesh| {
            mesh.waiting(c"publish", publish);
            mesh.waiting(c"send", send);
        }),
    );
}

/// What a publish came to.
struct Published {
    /// Connections reached and not reached; nothing if the script asked for no counts.
    counts: Result<(Option<f64>, Option<f64>), String>,
    /// Nodes that did not answer, if there are any.
    unanswered: Option<f64>,
}

impl Published {
    fn failed(err: String) -> Published {
        Published { counts: Err(err), unanswered: None }
    }

    fn uncounted() -> Published {
        Published { counts: Ok((None, None)), unanswered: None }
    }
}

impl Push for Published {
    type Pushed = (<Result<(Option<f64>, Option<f64>), String> as Push>::Pushed, One);

    fn push_to(self, stack: Stack<'_>) -> Self::Pushed {
        (self.counts.push_to(stack), self.unanswered.push_to(stack))
    }

    fn err(&self) -> Option<&str> {
        Push::err(&self.counts)
    }
}

impl Interruptible for Published {
    fn interrupted() -> Published {
        Published { counts: Interruptible::interrupted(), unanswered: None }
    }
}

/// A publication: to which channel, what, and whether its counts are wanted.
pub(crate) fn publish_args(args: &Args) -> Fallible<(Channel, Message, bool)> {
    let (channel, data, kind) = (args.bytes(1)?, args.bytes(2)?, kind_arg(args, 3)?);
    let counted = if args.is_nil(4) {
        true
    } else {
        let options = args.table(4)?;
        match options.iter().find(|(key, _)| *key == Value::str("counts")) {
            Some((_, Value::Bool(counts))) => *counts,
            None => true,
            Some(_) => {
                return Err(Raise::Argument { index: 4, problem: "counts must be true or false".into() });
            }
        }
    };
    let channel = match Channel::from_script(&channel) {
        Ok(channel) => channel,
        Err(e) => return Ok(Err(e.to_string())),
    };
    Ok(match Message::new(kind, Bytes::copy_from_slice(&data)) {
        Ok(message) => Ok((channel, message, counted)),
        Err(e) => Err(e.to_string()),
    })
}

fn publish(args: &Args) -> Result<Outcome<Published>, Raise> {
    let now = |failure: String| Ok(Outcome::Now(Published::failed(failure)));
    let (channel, message, counted) = match publish_args(args)? {
        Ok(publication) => publication,
        Err(e) => return now(e),
    };
    let Some(host) = current::host() else {
        return if counted { Err(wait::NOT_AT_TOP_LEVEL.into()) } else { now(NO_ENGINE.into()) };
    };
    host.shard.counts.published.add(1);
    if counted {
        let enqueued = host.mesh.publish(channel, message, Behind::default());
        return Ok(Outcome::enqueue(enqueued, |counts: Counts| {
            let unanswered = (counts.unanswered > 0).then_some(counts.unanswered as f64);
            Published { counts: Ok((Some(counts.reached as f64), Some(counts.failed as f64))), unanswered }
        }));
    }
    let mut enqueued = Box::pin(host.mesh.publish_uncounted(channel, message));
    // There is nearly always room. Then there is nothing to wait for, and the call works even where nothing can wait.
    if (&mut enqueued).now_or_never().is_some() {
        return Ok(Outcome::Now(Published::uncounted()));
    }
    Ok(Outcome::enqueue(enqueued.map(ready), |()| Published::uncounted()))
}

/// The recipient and the message of a send.
pub(crate) fn send_args(args: &Args) -> Fallible<(ClientId, Message)> {
    let (word, data, kind) = (args.bytes(1)?, args.bytes(2)?, kind_arg(args, 3)?);
    // A number is read as it is, not by its text, which has only 14 digits.
    let id = match args.exact_integer(1) {
        Some(number) => ClientId::new(number),
        None => ClientId::parse(&word),
    };
    let Some(id) = id else {
        return Ok(Err(format!("\"{}\" is no client_id", String::from_utf8_lossy(&word).escape_debug())));
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

fn subscribe(args: &Args) -> Result<Outcome<Result<(), String>>, Raise> {
    let channels = channel_args(args)?;
    Ok(match here().and_then(|here| Ok((here, channels?))) {
        Ok((here, channels)) => subscribe_to(args, here, &channels),
        Err(problem) => Outcome::Now(Err(problem)),
    })
}

fn unsubscribe(args: &Args) -> Fallible<()> {
    let channels = channel_args(args)?;
    Ok(here().and_then(|(host, conn)| {
        host.shard.unsubscribe(&conn, &channels?);
        Ok(())
    }))
}
