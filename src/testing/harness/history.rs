//! What channels keep, for the fake engine of a test: the real logs, by the fake clock. Without a configuration, each channel
//! keeps its newest messages.

use std::cell::RefCell;
use std::time::Duration;

use super::natives::Checked;
use crate::config::{ChannelRule, HistoryRule};
use crate::hub::history::{At, From, History, Kept, Most, Position};
use crate::hub::{enveloped, enveloped_at};
use crate::message::{Channel, Counted, Kind, Message};
use crate::script::harness::{self as runtime, One, Table};
use crate::script::stack::{Args, Push, Raise, Stack};
use crate::shard::context::Value;

/// What each channel keeps without a configuration.
const SIZE: usize = 100;
/// Unix time, in milliseconds, at the beginning of each test.
const BEGAN: u64 = 1_800_000_000_000;
/// The node that gives terms.
const NODE: u16 = 1;

thread_local! {
    static HISTORY: RefCell<History> = RefCell::default();
    /// Milliseconds by the fake clock.
    static NOW: RefCell<u64> = const { RefCell::new(BEGAN) };
}

/// Forgets what the previous test left.
pub(super) fn begin(rules: Option<&[ChannelRule]>, limit: usize) {
    let every = HistoryRule { size: SIZE, age: Duration::ZERO };
    let unless_told = [ChannelRule { history: every, ..ChannelRule::of("") }];
    HISTORY.with_borrow_mut(|history| {
        *history = History::default();
        history.set_rules(rules.unwrap_or(&unless_told));
        history.bound(limit);
    });
    NOW.set(BEGAN);
}

/// Sets them in a table.
pub(super) fn register(table: &Table<'_>) {
    table.native(c"set_history_clock", |args: &Args| {
        NOW.set(BEGAN + (args.number(1)? * 1000.0) as u64);
        Ok(())
    });
    table.native(c"order", order);
    table.native(c"keeps_nothing", keeps_nothing);
    table.native(c"kept", kept);
    table.native(c"history", |args: &Args| Ok(Checked(history(args))));
}

fn channel(args: &Args) -> Result<Channel, Raise> {
    Channel::parse(&args.bytes(1)?).map_err(|e| e.to_string().into())
}

/// `order(channel, data, kind, n)`: the data and the kind as connections get them, once they are kept; `n` publishes that were
/// added up, if they were.
fn order(args: &Args) -> Result<((Vec<u8>, &'static str), ()), Raise> {
    let (channel, data, kind) = (channel(args)?, args.bytes(2)?, args.bytes(3)?);
    let kind = Kind::parse(&kind).unwrap_or(Kind::Text);
    let count = if args.is_nil(4) { None } else { Some(args.number(4)? as u64) };
    let message = match (kind, String::from_utf8(data.to_vec())) {
        (Kind::Text, Ok(text)) => Message::text(text),
        _ => Message::binary(data.into_owned()),
    };
    let shown = HISTORY.with_borrow(|history| {
        let Some(rule) = history.rule_of(channel.as_str()) else { return message };
        if !rule.is_ordered() {
            return enveloped(&channel, &rule, &message, None);
        }
        let counted = Counted::new(message.clone(), count);
        let kept = (counted.clone(), NODE, NOW.with_borrow(|now| *now));
        let shown = |position| enveloped_at(&channel, &rule, &counted, position);
        history.order((&channel, &rule), kept, None, |placed, _| shown(placed.at)).unwrap_or(message)
    });
    // A text that is not UTF-8 stays what it was said to be.
    let kind = if shown.data() == &*args.bytes(2)? { kind } else { shown.kind() };
    Ok(((shown.data().to_vec(), kind.as_str()), ()))
}

/// `keeps_nothing(channel)`: what to do, if the channel keeps nothing.
fn keeps_nothing(args: &Args) -> Result<Option<String>, Raise> {
    let channel = channel(args)?;
    let keeps = HISTORY.with_borrow(|history| history.rule_of(channel.as_str()).is_some_and(|rule| rule.keeps()));
    Ok((!keeps).then(|| runtime::keeps_nothing(&channel)))
}

/// Where a connection is, and the messages as it gets them.
struct Given(At, Vec<Message>);

impl Push for Given {
    type Pushed = (One, One);
    fn push_to(self, stack: Stack<'_>) -> (One, One) {
        let Given(at, messages) = self;
        let message = |(at, message): (usize, Message)| {
            let fields = [
                (Value::str("data"), Value::Str(message.data().into())),
                (Value::str("type"), Value::str(Kind::as_str(message.kind()))),
            ];
            (Value::Number(at as f64 + 1.0), Value::Table(fields.into()))
        };
        let messages = Value::Table(messages.into_iter().enumerate().map(message).collect());
        (runtime::place(&at).push_to(stack), messages.push_to(stack))
    }
}

/// `kept(channel, last, since)`: what a connection gets that wants it so.
fn kept(args: &Args) -> Result<Given, Raise> {
    let channel = channel(args)?;
    let last = if args.is_nil(2) { None } else { Some(args.number(2)? as usize) };
    let since = args.optional_bytes(3)?.map(|text| Position::parse(&text).unwrap_or(Position::UNKNOWN));
    let from = since.map_or(From::Last(last.unwrap_or(0)), |since| From::Since(since, last));
    let most = Most { messages: usize::MAX, bytes: usize::MAX };
    HISTORY.with_borrow(|history| {
        let rule = history.rule_of(channel.as_str()).ok_or_else(|| runtime::keeps_nothing(&channel))?;
        let clock = (NODE, NOW.with_borrow(|now| *now));
        let given = history.read((&channel, &rule), (from, most), clock, |at, kept| {
            let shown = |Kept { at, message, .. }: &Kept| enveloped_at(&channel, &rule, message, *at);
            Given(at, kept.iter().map(shown).collect())
        });
        given.ok_or_else(|| runtime::keeps_nothing(&channel).into())
    })
}

/// `history(channel, since, limit)`: a page, or why there is none.
fn history(args: &Args) -> Result<Result<Value, String>, Raise> {
    Ok(runtime::history_args(args)?.and_then(|(channel, since, messages)| {
        HISTORY.with_borrow(|history| {
            let rule = history.rule_of(channel.as_str()).filter(|rule| rule.keeps());
            let rule = rule.ok_or_else(|| runtime::keeps_nothing(&channel))?;
            let most = Most { messages, bytes: usize::MAX };
            let page = history.page((&channel, &rule), (since, most), (NODE, NOW.with_borrow(|now| *now)));
            page.map(|(at, kept)| runtime::page_of(&at, &kept)).ok_or_else(|| runtime::keeps_nothing(&channel))
        })
    }))
}
