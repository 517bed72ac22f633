//! What the fake engine of a test needs of the real one: reading and checking of arguments, contexts, the watchdog.

use mlua::ffi;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::ffi::c_int;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{ChannelRule, Rules};
use crate::hub::Priority;
use crate::hub::history::From;
use crate::message::{Channel, Kind, NotUtf8};
use crate::script::doing::Doing;
use crate::script::harness::{self as runtime, One, Pushed, Table, with};
use crate::script::mix::conn::GONE;
use crate::script::mix::shared::install as share;
use crate::script::stack::{Args, Push, Raise, Stack, State};
use crate::script::{wait, watchdog};
use crate::shard::TooMany;
use crate::shard::context::{Context, Value};
use crate::shared::Shared;
use crate::timers::Call;

thread_local! {
    /// The contexts of the fake connections. The number of a context is its index here plus one.
    static CONTEXTS: RefCell<Vec<Context>> = RefCell::default();
    /// The rules for channels, if there is a configuration.
    static RULES: RefCell<Option<Rules>> = const { RefCell::new(None) };
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
    /// The fake clock: when the test began, and the seconds that have passed since.
    static CLOCK: Cell<(Option<Instant>, f64)> = const { Cell::new((None, 0.0)) };
}

/// The time by the fake clock.
pub(super) fn clock() -> Instant {
    let (began, passed) = CLOCK.get();
    let began = began.unwrap_or_else(Instant::now);
    Duration::try_from_secs_f64(passed).ok().and_then(|passed| began.checked_add(passed)).unwrap_or(began)
}

/// The rule of a channel, if there is a configuration that has one.
pub(super) fn rule_of(channel: &Channel) -> Option<ChannelRule> {
    RULES.with_borrow(|rules| Some(rules.as_ref()?.of(channel.as_str())?.as_ref().clone()))
}

/// Clears what the previous test left, and sets the time limit of the next one, and that of what scripts share.
pub(super) fn begin(timeout: Duration, shared_limit: usize, rules: Option<&[ChannelRule]>) {
    RULES.set(rules.map(Rules::new));
    CLOCK.set((Some(Instant::now()), 0.0));
    share(Arc::new(Shared::new(shared_limit)), clock);
    CONTEXTS.with(|contexts| contexts.borrow_mut().clear());
    DEADLINE.with(|deadline| deadline.set(Instant::now().checked_add(timeout)));
}

/// Sets them in a table.
pub(super) fn register(table: &Table<'_>) {
    // SAFETY: all are functions for Lua, which don't panic.
    unsafe {
        table.raw(c"resume", resume);
        table.raw(c"proxy", proxy);
        table.raw(c"set_globals", set_globals);
    }
    table.native(c"trace", traced);
    table.native(c"place", |args: &Args| Ok(runtime::script_place(args.slots())));
    table.native(c"is_late", |_: &Args| {
        Ok(DEADLINE.with(|deadline| deadline.get().is_some_and(|at| Instant::now() > at)))
    });
    table.native(c"is_utf8", |args: &Args| Ok(std::str::from_utf8(&args.bytes(1)?).is_ok()));
    table.native(c"send_args", |args: &Args| Ok(Checked(send_args(args))));
    table.native(c"publish_args", |args: &Args| Ok(Checked(publish_args(args))));
    table.native(c"count_arg", |args: &Args| Ok(Checked(count_arg(args))));
    table.native(c"close_mesh_args", |args: &Args| Ok(Checked(close_mesh_args(args))));
    table.native(c"mesh_send_args", |args: &Args| Ok(Checked(mesh_send_args(args))));
    table.native(c"channel_args", |args: &Args| Ok(Checked(channel_args(args))));
    table.native(c"subscribe_args", |args: &Args| Ok(Checked(subscribe_args(args))));
    table.native(c"presence_args", |args: &Args| Ok(Checked(presence_args(args))));
    table.native(c"full", full);
    table.native(c"room_rule", room_rule);
    table.native(c"close_args", |args: &Args| Ok(Checked(close_args(args))));
    table.native(c"set_clock", |args: &Args| {
        CLOCK.set((CLOCK.get().0, args.number(1)?));
        Ok(())
    });
    table.native(c"after_args", |args: &Args| Ok(Checked(timer_args(args, false))));
    table.native(c"every_args", |args: &Args| Ok(Checked(timer_args(args, true))));
    table.native(c"cancel_arg", |args: &Args| Ok(Checked(runtime::cancel_arg(args).map(|id| id as f64))));
    table.native(c"jwt_keys", |args: &Args| Ok(Checked(jwt_keys(args))));
    table.method(c"jwt_claims", jwt_claims);
    table.native(c"sleep_arg", |args: &Args| Ok(Checked(runtime::sleep_arg(args))));
    table.native(c"key_arg", |args: &Args| Ok(Checked(args.text(1).map(Cow::into_owned))));
    table.native(c"queue_args", |args: &Args| {
        Ok(Checked(runtime::push_args(args).map(|topic| topic.map(|topic| topic.to_string()))))
    });
    table.native(c"command_args", |args: &Args| {
        Ok(Checked(runtime::command_args(args).map(|command| command.map(|(words, _)| Words(words)))))
    });
    table.native(c"request_problem", |args: &Args| Ok(Checked(runtime::request_problem(args))));
    table.native(c"log_args", |args: &Args| Ok(Checked(log_args(args))));
    table.native(c"context_new", context_new);
    table.method(c"context_set", |args: &Args| Ok(Checked(context_set(args))));
    table.method(c"context_merge", |args: &Args| Ok(Checked(context_merge(args))));
    table.native(c"context_all", context_all);
    for (name, text) in [
        (c"gone", GONE),
        (c"not_at_top_level", wait::NOT_AT_TOP_LEVEL),
        (c"not_here", wait::NOT_HERE),
        (c"no_timers_here", runtime::NO_TIMERS_HERE),
        (c"in_vain", wait::MAX_FAILED_WAITS),
        (c"over_budget", watchdog::OVER_BUDGET),
    ] {
        table.field(name, text);
    }
    table.field(c"not_utf8", NotUtf8.to_string());
    table.field(c"most_in_vain", f64::from(wait::MOST_IN_VAIN));
    // SAFETY: it pushes one value.
    let marker = with(|stack| unsafe { stack.by_hand(|state| ffi::lua_pushlightuserdata(state, wait::marker())) });
    table.field(c"marker", marker);
}

/// Arguments as they were read, behind two values that say what was wrong with them: which (0: not one of them), and how.
pub(super) struct Checked<T>(pub(super) Result<T, Raise>);

impl<T: Push> Push for Checked<T> {
    type Pushed = ((One, One), T::Pushed);
    fn push_to(self, stack: Stack<'_>) -> Self::Pushed {
        let (index, problem) = match self.0 {
            Ok(values) => {
                let right = (0.0.push_to(stack), stack.push_nil());
                return (right, values.push_to(stack));
            }
            Err(Raise::Argument { index, problem }) => (index, problem),
            Err(Raise::Message(problem)) => (0, problem),
        };
        ((f64::from(index).push_to(stack), problem.push_to(stack)), Pushed::nils(stack))
    }
}

/// An array of strings of any bytes.
struct Words(Vec<Vec<u8>>);

impl Push for Words {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        stack.push_table(self.0.len(), 0, |table| {
            self.0.iter().enumerate().for_each(|(i, word)| table.element(i + 1, word.as_slice()));
        })
    }
}

fn send_args(args: &Args) -> Result<(Vec<u8>, &'static str), Raise> {
    Ok((args.bytes(1)?.into_owned(), runtime::kind_arg(args, 2)?.as_str()))
}

/// Channel, data, kind, whether counts are wanted, no reason, the clients that are left out, the key and the priority; or only
/// the reason why it can't be published.
type Publication = ((Option<String>, Option<Vec<u8>>), ((Option<&'static str>, bool), (Option<String>, Options)));
/// The clients that are left out, the key and the priority.
type Options = (Words, (Option<String>, Option<&'static str>));

fn publish_args(args: &Args) -> Result<Publication, Raise> {
    Ok(match runtime::publish_args(args)? {
        Ok((publication, counted)) => {
            let (channel, message) = (publication.channel, publication.message);
            let data = (Some(channel.to_string()), Some(message.data().to_vec()));
            let except = publication.options.except.iter().map(|client| client.to_string().into_bytes()).collect();
            let key = publication.options.key.map(|key| key.as_str().to_owned());
            let priority = publication.options.priority;
            let priority = (priority != Priority::Normal).then(|| priority.as_str());
            (data, ((Some(message.kind().as_str()), counted), (None, (Words(except), (key, priority)))))
        }
        Err(e) => ((None, None), ((None, false), (Some(e), (Words(Vec::new()), (None, None))))),
    })
}

/// A channel; or only the reason why its connections can't be counted.
fn count_arg(args: &Args) -> Result<(Option<String>, Option<String>), Raise> {
    Ok(match runtime::count_arg(args)? {
        Ok(channel) => (Some(channel.to_string()), None),
        Err(e) => (None, Some(e)),
    })
}

/// A client or a channel, the code and the reason; or only the reason why nobody can be closed.
type Closing = ((Option<String>, Option<String>), ((f64, String), Option<String>));

fn close_mesh_args(args: &Args) -> Result<Closing, Raise> {
    Ok(match runtime::close_mesh_args(args)? {
        Ok((closed, (code, reason))) => {
            let who = match closed {
                runtime::Closed::Client(client) => (Some(client.to_string()), None),
                runtime::Closed::Channel(channel) => (None, Some(channel.to_string())),
            };
            (who, ((f64::from(code), reason.into()), None))
        }
        Err(e) => ((None, None), ((0.0, String::new()), Some(e))),
    })
}

/// Seconds, name, identity and arguments of a timer; or only the reason why it can't be set.
type Timer = (((Option<f64>, Option<String>), (Option<Vec<u8>>, Values)), Option<String>);

fn timer_args(args: &Args, repeats: bool) -> Result<Timer, Raise> {
    Ok(match runtime::timer_args(args, repeats, 3)? {
        Ok(wanted) => {
            let call = Call { name: wanted.name.as_str().into(), args: wanted.args.clone().into(), conn: None };
            let identity = Some(call.identity(0, repeats).into_vec());
            (((Some(wanted.after.as_secs_f64()), Some(wanted.name)), (identity, Values(wanted.args))), None)
        }
        Err(e) => (((None, None), (None, Values(Vec::new()))), Some(e)),
    })
}

/// `jwt_keys(token, keys, options)`: the URL that keys have to be fetched from, if they have; or only what is wrong.
fn jwt_keys(args: &Args) -> Result<(Option<String>, Option<String>), Raise> {
    Ok(match runtime::jwt_args(args)?.map(|check| check.keys) {
        Ok(runtime::KeySource::At(url)) => (Some(url), None),
        Ok(runtime::KeySource::Here(_)) => (None, None),
        Err(e) => (None, Some(e)),
    })
}

/// `jwt_claims({time, set}, token, keys, options)`: the claims at that Unix time, with the keys of a set that was fetched; or
/// the err.
fn jwt_claims(args: &Args) -> Result<Result<Value, String>, Raise> {
    let of = args.table(0)?;
    let field = |n: f64| of.iter().find(|(key, _)| *key == Value::Number(n)).map(|(_, value)| value);
    let Some(Value::Number(now)) = field(1.0) else { return Err("a time is wanted".into()) };
    let set = match field(2.0) {
        Some(Value::Str(set)) => Some(&**set),
        _ => None,
    };
    Ok(runtime::jwt_args(args)?.and_then(|check| check.result(set, *now)))
}

/// Values and, as `n`, how many there are: some may be nil.
struct Values(Vec<Value>);

impl Push for Values {
    type Pushed = One;
    fn push_to(self, stack: Stack<'_>) -> One {
        stack.push_table(self.0.len(), 1, |table| {
            self.0.iter().enumerate().for_each(|(i, value)| table.element(i + 1, value));
            table.field(c"n", self.0.len() as f64);
        })
    }
}

/// Client, data, kind; or only the reason why it can't be sent.
type Sending = ((Option<String>, Option<Vec<u8>>), (Option<&'static str>, Option<String>));

fn mesh_send_args(args: &Args) -> Result<Sending, Raise> {
    Ok(match runtime::mesh_send_args(args)? {
        Ok((id, message)) => {
            ((Some(id.to_string()), Some(message.data().to_vec())), (Some(Kind::as_str(message.kind())), None))
        }
        Err(e) => ((None, None), (None, Some(e))),
    })
}

/// Why they are no names of channels, or the names.
fn channel_args(args: &Args) -> Result<(Option<String>, Vec<String>), Raise> {
    Ok(match runtime::channel_args(args)? {
        Ok(channels) => (None, channels.iter().map(ToString::to_string).collect()),
        Err(e) => (Some(e), Vec::new()),
    })
}

/// Why they are no names of channels, or the names, and what is told of the connection, as JSON; how many of the messages that
/// are kept it wants, and since which position.
type Subscription = ((Option<String>, (Vec<String>, Option<String>)), (Option<f64>, Option<String>));

fn subscribe_args(args: &Args) -> Result<Subscription, Raise> {
    Ok(match runtime::subscribe_args(args)? {
        Ok(runtime::Subscription { channels, info, from }) => {
            let (last, since) = match from {
                None => (None, None),
                Some(From::Last(last)) => (Some(last), None),
                Some(From::Since(since, last)) => (last, Some(since.to_string())),
            };
            let names = (channels.iter().map(ToString::to_string).collect(), info.map(|info| info.to_string()));
            ((None, names), (last.map(|last| last as f64), since))
        }
        Err(e) => ((Some(e), (Vec::new(), None)), (None, None)),
    })
}

/// Channel, limit and the id behind which the page begins; or only the reason why it can't be told.
type Presence = ((Option<String>, f64), (f64, Option<String>));

fn presence_args(args: &Args) -> Result<Presence, Raise> {
    let asked = runtime::presence_args(args)?.and_then(|(channel, limit, after)| {
        let told = RULES.with_borrow(|rules| match rules {
            Some(rules) => rules.of(channel.as_str()).is_some_and(|rule| rule.presence),
            None => true,
        });
        if told { Ok((channel, limit, after)) } else { Err(runtime::no_presence(&channel)) }
    });
    Ok(match asked {
        Ok((channel, limit, after)) => ((Some(channel.to_string()), limit as f64), (after as f64, None)),
        Err(e) => ((None, 0.0), (0.0, Some(e))),
    })
}

/// `full(channel, count)`: why a channel that has so many connections takes no more, if it does not.
fn full(args: &Args) -> Result<Option<String>, Raise> {
    let (channel, count) = (args.bytes(1)?, args.number(2)?);
    let Ok(channel) = Channel::parse(&channel) else { return Ok(None) };
    let most = RULES.with_borrow(|rules| {
        let rule = rules.as_ref().and_then(|rules| rules.of(channel.as_str()).cloned());
        rule.map_or(0, |rule| rule.max_subscribers)
    });
    Ok((most > 0 && count >= most as f64).then(|| TooMany::OfChannel(channel, most).to_string()))
}

/// Join and leave, presence; the interval and the words of the number.
type RoomRule = ((bool, bool), (f64, String));

/// `room_rule(channel)`: whether a channel is told who came and went, and who is in it; how often in seconds how many are in it
/// (0: never), and with which words.
fn room_rule(args: &Args) -> Result<RoomRule, Raise> {
    let channel = args.bytes(1)?;
    let rule = RULES.with_borrow(|rules| rules.as_ref()?.of(std::str::from_utf8(&channel).ok()?).cloned());
    let (told, number) = rule.map_or_else(Default::default, |rule| {
        let online = &rule.online;
        ((rule.join_leave, rule.presence), (online.every.as_secs_f64(), online.message.clone()))
    });
    Ok((told, number))
}

fn close_args(args: &Args) -> Result<(f64, String), Raise> {
    let (code, reason) = runtime::close_args(args, 1)?;
    Ok((code.into(), reason.into()))
}

fn log_args(args: &Args) -> Result<(String, Vec<u8>), Raise> {
    let (level, text) = runtime::log_args(args)?;
    Ok((level.as_str().to_ascii_lowercase(), text.into_owned()))
}

fn context_new(_: &Args) -> Result<f64, Raise> {
    CONTEXTS.with(|contexts| {
        let mut contexts = contexts.borrow_mut();
        contexts.push(Context::default());
        Ok(contexts.len() as f64)
    })
}

/// Lends the context whose number stands at a stack index; None: its connection has ended.
fn with_context<T>(args: &Args, index: i32, work: impl FnOnce(&mut Context) -> T) -> Result<Option<T>, Raise> {
    let place = (args.number(index)? as usize).checked_sub(1);
    CONTEXTS.with(|contexts| Ok(place.and_then(|place| contexts.borrow_mut().get_mut(place).map(work))))
}

/// `context_set(number, key, value)`: why not, or nil.
fn context_set(args: &Args) -> Result<Option<String>, Raise> {
    let (key, value) = (args.text(1)?, args.value(2)?);
    let set = with_context(args, 0, |context| context.set(&key, value).map_err(|full| full.to_string()))?;
    Ok(set.unwrap_or_else(|| Err(GONE.into())).err())
}

/// `context_merge(number, values)`: why not, or nil.
fn context_merge(args: &Args) -> Result<Option<String>, Raise> {
    let values = runtime::context_args(args)?;
    let set = with_context(args, 0, |context| context.merge(values).map_err(|full| full.to_string()))?;
    Ok(set.unwrap_or_else(|| Err(GONE.into())).err())
}

/// `context_all(number)`: a copy.
fn context_all(args: &Args) -> Result<Value, Raise> {
    let pairs = with_context(args, 1, |context| context.iter().map(|(k, v)| (Value::str(k), v.clone())).collect())?;
    Ok(Value::Table(pairs.unwrap_or_default()))
}

/// `trace(co)`: where a coroutine stands.
fn traced(args: &Args) -> Result<Vec<String>, Raise> {
    args.slots().thread(1).map(runtime::traceback).ok_or_else(|| args.wrong(1, "coroutine"))
}

/// `set_globals(co, table)`: what is compiled in that coroutine, and the coroutines that it makes, have these globals.
///
/// # Safety
/// For Lua to call.
unsafe extern "C-unwind" fn set_globals(state: State) -> c_int {
    // SAFETY: Lua calls this with its own state; `lua_setfenv` takes a table from the top of the stack, which is one.
    unsafe {
        if !ffi::lua_tothread(state, 1).is_null() && ffi::lua_type(state, 2) == ffi::LUA_TTABLE {
            ffi::lua_settop(state, 2);
            ffi::lua_setfenv(state, 1);
        }
    }
    0
}

/// `proxy(metatable)`: a value that has nothing but a metatable.
///
/// # Safety
/// For the harness to call, with a table.
unsafe extern "C-unwind" fn proxy(state: State) -> c_int {
    // SAFETY: called by Lua, with a stack of its own; the metatable is one.
    unsafe {
        ffi::lua_newuserdata(state, 0);
        ffi::lua_pushvalue(state, 1);
        ffi::lua_setmetatable(state, -2);
    }
    1
}

/// `resume(co, milliseconds, ...)`: goes on with a coroutine that nothing holds up longer than that; its waits come out
/// as they are. True and what it gave, or false and its error.
///
/// # Safety
/// For Lua to call.
unsafe extern "C-unwind" fn resume(state: State) -> c_int {
    // SAFETY: called by Lua, with a stack of its own, whose first slot keeps the coroutine. There is room on it for what it is given.
    // What fails in the coroutine is the status; so nothing is raised while `_run` is there.
    unsafe {
        let co = ffi::lua_tothread(state, 1);
        let given = ffi::lua_gettop(state) - 2;
        if co.is_null() || given < 0 || ffi::lua_checkstack(co, given) == 0 {
            let stack = Stack::new(state);
            _ = (false.push_to(stack), "a coroutine, its milliseconds and what it can hold are wanted".push_to(stack));
            return <(One, One)>::COUNT;
        }
        let budget = Duration::from_millis(ffi::lua_tonumber(state, 2) as u64);
        ffi::lua_xmove(state, co, given);
        let status = {
            let _run = watchdog::enter(state, budget, Doing::TESTING);
            ffi::lua_resume_(co, given)
        };
        let ended_well = matches!(status, ffi::LUA_OK | ffi::LUA_YIELD);
        let results = if ended_well { ffi::lua_gettop(co) } else { 1 };
        ffi::luaL_checkstack(state, results + 1, c"too many results".as_ptr());
        ffi::lua_pushboolean(state, ended_well.into());
        ffi::lua_xmove(co, state, results);
        results + 1
    }
}
