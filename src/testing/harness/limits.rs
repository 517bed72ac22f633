//! The limits of channels, for the fake engine of a test: the real ones, by the fake clock. Without a configuration there are
//! none.

use std::cell::RefCell;
use std::sync::Arc;

use super::natives::{clock, rule_of};
use crate::hub::{Priority, Publication, PublishLimits, PublishOptions, Verdict};
use crate::message::{Channel, Key, Message};
use crate::script::harness::{One, Table};
use crate::script::stack::{Args, Push, Raise, Stack};
use crate::shard::context::Value;

thread_local! {
    static LIMITS: RefCell<PublishLimits> = RefCell::default();
}

/// Forgets what the previous test left.
pub(super) fn begin() {
    LIMITS.take();
}

/// Sets them in a table.
pub(super) fn register(table: &Table<'_>) {
    table.native(c"offer", offer);
    table.native(c"added_up", |_: &Args| Ok(added_up()));
}

/// `offer(channel, data, key, priority)`: what becomes of a publish; nil where it has no limit. The kind of its data makes no
/// difference.
fn offer(args: &Args) -> Result<Option<&'static str>, Raise> {
    let (channel, data) = (args.bytes(1)?, args.bytes(2)?);
    let Ok(channel) = Channel::parse(&channel) else { return Ok(None) };
    let Some(rule) = rule_of(&channel).filter(|rule| rule.limit.is_on()) else { return Ok(None) };
    let key = args.optional_bytes(3)?.and_then(|key| Key::parse(&key).ok());
    let priority = args.optional_bytes(4)?.and_then(|word| Priority::parse(&word)).unwrap_or_default();
    let options = PublishOptions { key, priority, ..PublishOptions::default() };
    let message = match String::from_utf8(data.to_vec()) {
        Ok(text) => Message::text(text),
        Err(_) => Message::binary(data.into_owned()),
    };
    let publication = Publication::new(channel, message).with(options);
    let verdict = LIMITS.with_borrow(|limits| limits.offer(clock(), &publication, &Arc::new(rule)));
    Ok(Some(match verdict {
        Verdict::Pass => "pass",
        Verdict::Dropped => "dropped",
        Verdict::Merged => "merged",
    }))
}

/// What was added up and is due, and in how many seconds more is.
struct AddedUp(Vec<Publication>, Option<f64>);

fn added_up() -> AddedUp {
    let (due, next) = LIMITS.with_borrow(|limits| limits.take_due(clock()));
    AddedUp(due, next.map(|next| next.saturating_duration_since(clock()).as_secs_f64()))
}

impl Push for AddedUp {
    type Pushed = (One, One);
    fn push_to(self, stack: Stack<'_>) -> (One, One) {
        let AddedUp(due, next) = self;
        let one = |(at, publication): (usize, Publication)| {
            let Publication { channel, message, count, .. } = publication;
            let fields = [
                (Value::str("channel"), Value::str(channel.as_str())),
                (Value::str("data"), Value::Str(message.data().into())),
                (Value::str("type"), Value::str(message.kind().as_str())),
                (Value::str("n"), Value::Number(count.unwrap_or(1) as f64)),
            ];
            (Value::Number(at as f64 + 1.0), Value::Table(fields.into()))
        };
        let due = Value::Table(due.into_iter().enumerate().map(one).collect());
        (due.push_to(stack), next.push_to(stack))
    }
}
