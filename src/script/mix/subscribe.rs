//! How a connection comes into channels: the options of `conn:subscribe`, and the wait for what the channels have kept.

use mlua::ffi;
use smallvec::SmallVec;
use std::ffi::c_int;
use std::rc::Rc;

use super::presence::{Info, info_of};
use crate::cluster::keeps_nothing;
use crate::config::MAX_HISTORY;
use crate::hub::Recipient;
use crate::hub::history::{At, From, Position};
use crate::message::Channel;
use crate::script::current::Host;
use crate::script::push::{One, Push, Stack};
use crate::script::slots::Plain;
use crate::script::stack::{Args, Fallible, Raise};
use crate::script::wait::Interruptible;
use crate::shard::conn::Conn;
use crate::shard::context::Value;

/// Channels that a script names: mostly one.
pub(crate) type Named = SmallVec<[Channel; 1]>;

/// What a script wants of a subscribe.
pub(crate) struct Subscription {
    /// The channels.
    pub(crate) channels: Named,
    /// What is told of the connection in them.
    pub(crate) info: Option<Info>,
    /// What it gets first of what they have kept.
    pub(crate) from: Option<From>,
}

/// The channels of a subscribe, and its options.
pub(crate) fn subscribe_args(args: &Args) -> Fallible<Subscription> {
    let last = args.count();
    let has_options = last > 1 && matches!(args.slots().plain(args.slot(last)), Plain::Other(ffi::LUA_TTABLE));
    if !has_options {
        return Ok(names(args, last)?.map(|channels| Subscription { channels, info: None, from: None }));
    }
    let wrong = |problem: String| Raise::Argument { index: last, problem };
    let (mut info, mut wanted) = (None, Wanted::default());
    for (key, value) in args.table(last)? {
        match &key {
            Value::Str(key) if &**key == b"info" => info = Some(value),
            Value::Str(key) if wanted.take(key, &value).map_err(wrong)? => {}
            Value::Str(key) => {
                return Err(wrong(format!("there is no option \"{}\"", String::from_utf8_lossy(key).escape_debug())));
            }
            _ => return Err(wrong("options expected, such as {info = {name = \"Ann\"}}".into())),
        }
    }
    let info = match info.map(|info| info_of(&info)).transpose() {
        Ok(info) => info,
        Err(problem) => return Ok(Err(problem)),
    };
    Ok(names(args, last - 1)?.map(|channels| Subscription { channels, info, from: wanted.from() }))
}

/// The first arguments, up to that one, as names of channels.
pub(super) fn names(args: &Args, last: i32) -> Fallible<Named> {
    if last == 0 {
        return Err(args.wrong(1, "string"));
    }
    let mut channels = Named::with_capacity(last as usize);
    for i in 1..=last {
        match Channel::from_script(&args.bytes(i)?) {
            Ok(channel) => channels.push(channel),
            Err(e) => return Ok(Err(e.to_string())),
        }
    }
    Ok(Ok(channels))
}

/// What a subscribe came to: an err, and where the connection is in its channels.
pub(super) struct Subscribed(pub(super) Result<Vec<(Channel, At)>, String>);

impl Push for Subscribed {
    type Pushed = (One, One);
    fn push_to(self, stack: Stack<'_>) -> (One, One) {
        match self.0 {
            Ok(all) => (stack.push_nil(), places(&all).push_to(stack)),
            Err(err) => (stack.push_nil(), err.push_to(stack)),
        }
    }
    /// Only who asked where it is gets more than an err.
    fn results(&self) -> c_int {
        match &self.0 {
            Ok(all) if !all.is_empty() => 2,
            _ => 1,
        }
    }
    fn err(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }
}

impl Interruptible for Subscribed {
    fn interrupted(why: &'static str) -> Subscribed {
        Subscribed(Err(why.into()))
    }
}

/// Where a connection is in its channel, or in each of several, by their names; nil where nobody asked.
fn places(all: &[(Channel, At)]) -> Value {
    match all {
        [] => Value::Nil,
        [(_, at)] => place(at),
        all => Value::Table(all.iter().map(|(channel, at)| (Value::str(channel.as_str()), place(at))).collect()),
    }
}

/// As scripts see it.
pub(crate) fn place(at: &At) -> Value {
    let fields = [
        (Value::str("position"), Value::str(at.position.to_string())),
        (Value::str("recovered"), Value::Bool(at.recovered)),
        (Value::str("count"), Value::Number(at.count as f64)),
    ];
    Value::Table(fields.into())
}

/// What a subscribe's options say of messages that are kept.
#[derive(Default)]
pub(super) struct Wanted {
    last: Option<usize>,
    since: Option<Position>,
}

impl Wanted {
    /// Takes an option. Ok(false): it is none of these.
    pub(super) fn take(&mut self, key: &[u8], value: &Value) -> Result<bool, String> {
        match (key, value) {
            (b"last", Value::Number(n)) if n.fract() == 0.0 && (0.0..=MAX_HISTORY as f64).contains(n) => {
                self.last = Some(*n as usize);
            }
            (b"last", _) => return Err(format!("last must be a whole number from 0 to {MAX_HISTORY}")),
            // Clients send it: what is no position is one that nobody knows.
            (b"since", Value::Str(text)) => self.since = Some(Position::parse(text).unwrap_or(Position::UNKNOWN)),
            (b"since", _) => return Err("since must be a position, which is a text".into()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    pub(super) fn from(&self) -> Option<From> {
        match (self.since, self.last) {
            (Some(since), last) => Some(From::Since(since, last)),
            (None, last) => last.map(From::Last),
        }
    }
}

/// Until the connection has what it waits for, or this is dropped, it gets nothing of its channels.
struct Muted {
    host: Rc<Host>,
    channels: Vec<(Channel, Recipient)>,
}

impl Drop for Muted {
    fn drop(&mut self) {
        for (channel, recipient) in &self.channels {
            // Those that have it are not muted any more.
            let _ = self.host.shard.unmute(recipient, channel);
        }
    }
}

/// Subscribes a connection that wants what the channels have kept; ready when it has that. Err: nothing was done.
pub(super) fn subscribe_from(
    (host, conn): (Rc<Host>, Rc<Conn>),
    (subscription, from): (Subscription, From),
) -> Result<impl Future<Output = Subscribed> + use<>, String> {
    let Subscription { channels, info, .. } = subscription;
    if let Some(channel) = channels.iter().find(|channel| host.mesh.keeps(channel).is_none()) {
        return Err(keeps_nothing(channel));
    }
    let recipients = host.shard.subscribe_muted(&conn, &channels, info.as_ref(), MAX_HISTORY);
    let recipients = recipients.map_err(|too_many| too_many.to_string())?;
    let waiting: Vec<(Channel, Recipient)> = channels.iter().cloned().zip(recipients).collect();
    let muted = Muted { host: host.clone(), channels: waiting.clone() };
    let told = host.mesh.told(&channels);
    Ok(async move {
        if let Some(told) = told {
            told.await;
        }
        let caught_up = muted.host.mesh.catch_up(waiting, from).await;
        Subscribed(caught_up.map(|all| channels.into_iter().zip(all).collect()))
    })
}
