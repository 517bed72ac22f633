//! Redis: commands, which of them a pool can carry, and replies. `client` bounds what is under way, `pool` keeps
//! connections, `conn` is one.
//!
//! A command has a connection to itself until its reply has come. A command that leaves state behind in its connection
//! (a subscription, a transaction) is refused, since it would affect the next command. No error's text holds a
//! password.

mod client;
mod conn;
mod pool;

use redis_codec::{ServerError, Value};
use std::time::Duration;

pub(super) use client::Redis;

/// The longest command and the longest reply, in bytes.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;
/// The longest wait for a reply, beyond what a command that blocks asks for.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// First words of commands that change the connection, or make it something else than one of questions and answers.
const CHANGES_CONNECTION: [&str; 23] = [
    "SUBSCRIBE",
    "UNSUBSCRIBE",
    "PSUBSCRIBE",
    "PUNSUBSCRIBE",
    "SSUBSCRIBE",
    "SUNSUBSCRIBE",
    "MONITOR",
    "MULTI",
    "EXEC",
    "DISCARD",
    "WATCH",
    "UNWATCH",
    "SELECT",
    "AUTH",
    "HELLO",
    "QUIT",
    "RESET",
    "READONLY",
    "READWRITE",
    "ASKING",
    "SYNC",
    "PSYNC",
    "REPLCONF",
];

/// The same for second words.
const CHANGES_CONNECTION_TWO: [(&str, &str); 8] = [
    ("CLIENT", "REPLY"),
    ("CLIENT", "TRACKING"),
    ("CLIENT", "CACHING"),
    ("CLIENT", "SETNAME"),
    ("CLIENT", "SETINFO"),
    ("CLIENT", "NO-EVICT"),
    ("CLIENT", "NO-TOUCH"),
    ("SCRIPT", "DEBUG"),
];

/// Commands that wait on the server, and where their timeout in seconds stands.
const BLOCKS: [(&str, Place); 9] = [
    ("BLPOP", Place::Last),
    ("BRPOP", Place::Last),
    ("BRPOPLPUSH", Place::Last),
    ("BLMOVE", Place::Last),
    ("BZPOPMIN", Place::Last),
    ("BZPOPMAX", Place::Last),
    ("BLMPOP", Place::First),
    ("BZMPOP", Place::First),
    ("XREAD", Place::AfterBlock),
];

#[derive(Clone, Copy)]
enum Place {
    First,
    Last,
    /// In milliseconds after the word BLOCK; without that word it does not block.
    AfterBlock,
}

/// A command that can be sent.
#[derive(Debug)]
pub struct Command {
    packed: Vec<u8>,
    /// The longest that it may wait on the server; zero: no limit.
    blocks: Option<Duration>,
}

impl Command {
    /// A command and its arguments; at least the command's name.
    pub fn new(words: &[impl AsRef<[u8]>]) -> Result<Command, String> {
        let word = |i: usize| words.get(i).map_or(&b""[..], AsRef::as_ref);
        let (first, second) = (word(0), word(1));
        let is = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        let name = || String::from_utf8_lossy(&first[..first.len().min(40)]).escape_debug().to_string();
        if CHANGES_CONNECTION.iter().any(|name| is(first, name))
            || CHANGES_CONNECTION_TWO.iter().any(|(one, two)| is(first, one) && is(second, two))
        {
            return Err(format!(
                "{} is not possible here: it would change a connection that all scripts share",
                name()
            ));
        }
        let bytes: usize = words.iter().map(|word| word.as_ref().len() + 16).sum();
        if bytes > MAX_BYTES {
            return Err(format!("{} with its arguments has more than {MAX_BYTES} bytes", name()));
        }
        let mut command = redis_codec::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(word.as_ref());
        });
        Ok(Command { packed: command.get_packed_command(), blocks: blocks(words) })
    }

    /// Whether it may wait on the server.
    pub fn blocks(&self) -> bool {
        self.blocks.is_some()
    }

    /// The longest wait for its reply; None: no limit.
    fn reply_timeout(&self) -> Option<Duration> {
        match self.blocks {
            Some(Duration::ZERO) => None,
            Some(wait) => wait.checked_add(REPLY_TIMEOUT),
            None => Some(REPLY_TIMEOUT),
        }
    }
}

/// How long a command may wait on the server; None: it does not.
fn blocks(words: &[impl AsRef<[u8]>]) -> Option<Duration> {
    let first = words.first()?.as_ref();
    // XREADGROUP is as XREAD.
    let name = if first.eq_ignore_ascii_case(b"XREADGROUP") { b"XREAD" } else { first };
    let (_, place) = BLOCKS.iter().find(|(blocks, _)| name.eq_ignore_ascii_case(blocks.as_bytes()))?;
    let is_block = |word: &&[u8]| word.eq_ignore_ascii_case(b"BLOCK");
    let (word, unit) = match place {
        Place::First => (words.get(1)?.as_ref(), 1.0),
        Place::Last => (words.last()?.as_ref(), 1.0),
        Place::AfterBlock => (words.iter().map(AsRef::as_ref).skip_while(|word| !is_block(word)).nth(1)?, 0.001),
    };
    // What is no number of seconds gets an error at once.
    let seconds = std::str::from_utf8(word).ok().and_then(|word| word.parse::<f64>().ok())?;
    Duration::try_from_secs_f64(seconds * unit).ok()
}

/// What a command gives.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Nothing there.
    Nil,
    /// A number.
    Integer(i64),
    /// Bytes of any kind.
    Bytes(Vec<u8>),
    /// Several, which may be arrays themselves, at most 100 deep.
    Array(Vec<Reply>),
    /// An error in an array: of one command of several, or made by a script in Redis. In the server's own words.
    Error(String),
}

impl Reply {
    /// A whole reply: an error is one, unless it stands in an array.
    fn read(value: Value) -> Result<Reply, String> {
        match value {
            Value::ServerError(e) => Err(error_text(&e)),
            value => Ok(Reply::of(value)),
        }
    }

    /// A reply or a part of one. Of the kinds below the first five come only in version 3 of the protocol, which
    /// nobody asks for; they are what version 2 makes of them.
    fn of(value: Value) -> Reply {
        let pairs = |pairs: Vec<(Value, Value)>| {
            Reply::Array(pairs.into_iter().flat_map(|(key, value)| [Reply::of(key), Reply::of(value)]).collect())
        };
        match value {
            Value::Map(map) => pairs(map),
            Value::Set(list) | Value::Push { data: list, .. } | Value::Array(list) => {
                Reply::Array(list.into_iter().map(Reply::of).collect())
            }
            Value::Double(number) => Reply::Bytes(number.to_string().into()),
            Value::Boolean(truth) => Reply::Integer(truth.into()),
            Value::VerbatimString { text, .. } | Value::SimpleString(text) => Reply::Bytes(text.into()),
            Value::Int(number) => Reply::Integer(number),
            Value::BulkString(bytes) => Reply::Bytes(bytes),
            Value::Okay => Reply::Bytes(b"OK".into()),
            Value::ServerError(e) => Reply::Error(error_text(&e)),
            _ => Reply::Nil,
        }
    }
}

/// The server's own words: `WRONGTYPE Operation against a key holding the wrong kind of value`.
fn error_text(e: &ServerError) -> String {
    match e.details() {
        Some(details) => format!("{} {details}", e.code()),
        None => e.code().to_owned(),
    }
}

#[cfg(test)]
mod tests;
