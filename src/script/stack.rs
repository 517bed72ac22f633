//! Native functions: reading arguments, doing the work, pushing results, raising errors.
//!
//! A native function works in two phases. First it *computes*: it reads its [`Args`] and does its work, and nothing in it may
//! raise a Lua error, so that a Rust panic can be caught around it. Then its results are *pushed* on a [`Stack`], which may raise
//! (memory): that unwinds, and drops what is left of them. Functions that can't be split so (JSON, which parses straight onto the
//! stack) are written by hand for the raw stack.

use mlua::ffi;
use std::borrow::Cow;
use std::ffi::{CStr, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::ignored::Site;
use super::push::{One, Table, with};
use super::{hints, watchdog};
use crate::shard::context::Value;

pub use super::push::{Push, Stack, push_bytes};
use super::slots::{Handle, Plain};
pub use super::slots::{Slots, State, number_text};

/// A native function's failure that is raised as a Lua error, with the script's file and line in front.
#[derive(Debug)]
pub enum Raise {
    /// Argument `index` (from 1, without `self`) has a wrong type or value.
    Argument {
        /// The argument's position.
        index: i32,
        /// `string expected, got nil`
        problem: String,
    },
    /// Anything else, as a whole sentence.
    Message(String),
}

/// Bytes that a native function works on between two checks of the handler's time, since Lua calls no hook meanwhile. A
/// multiple of 4 and of 64, for functions that work in blocks.
pub const BYTES_PER_LOOK: usize = 64 * 1024;
/// Values of a table between two such checks.
pub const VALUES_PER_LOOK: usize = 4096;

/// For native functions that work long: fails when the running handler's time is up.
pub fn in_time() -> Result<(), Raise> {
    if watchdog::expired() { Err(watchdog::OVER_BUDGET.into()) } else { Ok(()) }
}

/// A native function's outcome when it can also fail in operation: the API's `v, err`.
pub type Fallible<T> = Result<Result<T, String>, Raise>;

impl From<String> for Raise {
    fn from(message: String) -> Raise {
        Raise::Message(message)
    }
}

impl From<&str> for Raise {
    fn from(message: &str) -> Raise {
        Raise::Message(message.into())
    }
}

/// A native function's arguments. Reading one never raises.
pub struct Args {
    state: State,
    /// How many stack slots stand before the first argument: 1 for methods, whose `self` is no argument to its caller.
    skip: c_int,
}

impl Args {
    /// # Safety
    /// `state` must be that of a native function that runs for as long as these arguments are used.
    #[inline]
    pub unsafe fn new(state: State, skip: c_int) -> Args {
        Args { state, skip }
    }

    /// The whole stack of this call.
    #[inline]
    pub fn slots(&self) -> Slots<'_> {
        // SAFETY: the native function runs (`new`), and so its thread is kept.
        unsafe { Slots::new(self.state) }
    }

    /// The Lua thread of this call.
    pub fn state(&self) -> State {
        self.state
    }

    /// The stack index of argument `index`.
    pub fn slot(&self, index: i32) -> c_int {
        index + self.skip
    }

    /// How many arguments were passed.
    pub fn count(&self) -> i32 {
        self.slots().top() - self.skip
    }

    /// Whether argument `index` is nil or absent.
    pub fn is_nil(&self, index: i32) -> bool {
        self.slots().kind(self.slot(index)) <= ffi::LUA_TNIL
    }

    /// `bad argument #index (wanted expected, got what it is)`
    pub fn wrong(&self, index: i32, wanted: &str) -> Raise {
        let got = self.slots().type_name(self.slot(index));
        Raise::Argument { index, problem: format!("{wanted} expected, got {got}") }
    }

    /// A string's bytes; a number counts as its text, as everywhere in Lua.
    pub fn bytes(&self, index: i32) -> Result<Cow<'_, [u8]>, Raise> {
        self.slots().bytes(self.slot(index)).ok_or_else(|| self.wrong(index, "string"))
    }

    /// As [`Args::bytes`], or None for nil.
    pub fn optional_bytes(&self, index: i32) -> Result<Option<Cow<'_, [u8]>>, Raise> {
        if self.is_nil(index) { Ok(None) } else { self.bytes(index).map(Some) }
    }

    /// A string that is UTF-8.
    pub fn text(&self, index: i32) -> Result<Cow<'_, str>, Raise> {
        let not_utf8 = || Raise::Argument { index, problem: "string is not valid UTF-8".into() };
        match self.bytes(index)? {
            Cow::Borrowed(b) => std::str::from_utf8(b).map(Cow::Borrowed).map_err(|_| not_utf8()),
            Cow::Owned(b) => String::from_utf8(b).map(Cow::Owned).map_err(|_| not_utf8()),
        }
    }

    /// A number, or a string that spells one.
    pub fn number(&self, index: i32) -> Result<f64, Raise> {
        self.slots().number(self.slot(index)).ok_or_else(|| self.wrong(index, "number"))
    }

    /// A number (not a string) that is a whole number a double holds exactly.
    pub fn exact_integer(&self, index: i32) -> Option<u64> {
        let n = self.slots().exact_number(self.slot(index))?;
        (n.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&n)).then_some(n as u64)
    }

    /// The handle of that type in the field of that name of a small table, one of four fields at most; None for all else.
    pub fn handle_in<T: Handle + Copy>(&self, index: i32, name: &[u8]) -> Option<T> {
        let (slots, slot) = (self.slots(), self.slot(index));
        // SAFETY: the thread is alive. It raises nothing: it returns 0 when the stack can't grow.
        if slots.kind(slot) != ffi::LUA_TTABLE || unsafe { ffi::lua_checkstack(self.state, 3) } == 0 {
            return None;
        }
        let before = slots.top();
        let (key, mut found) = (before + 1, None);
        // SAFETY: there is room for a key and its value; `slot` is a table, and the key at the top is nil or the one before. What
        // is pushed is taken off again, after the handle has been copied. Lookups by name would make a string, which may raise.
        unsafe {
            ffi::lua_pushnil(self.state);
            for _ in 0..4 {
                if found.is_some() || ffi::lua_next(self.state, slot) == 0 {
                    break;
                }
                if slots.string(key) == Some(name) {
                    found = slots.handle::<T>(key + 1).copied();
                }
                ffi::lua_settop(self.state, key);
            }
            ffi::lua_settop(self.state, before);
        }
        found
    }

    /// Any plain value, copied out of Lua.
    pub fn value(&self, index: i32) -> Result<Value, Raise> {
        self.value_within(index, MAX_COPY)
    }

    /// The same for values of at most that many bytes, as [`Value::weight`] counts them.
    fn value_within(&self, index: i32, most: usize) -> Result<Value, Raise> {
        value_at(self.slots(), self.slot(index), 0, &mut { most }).map_err(|what| Raise::Argument {
            index,
            problem: match what {
                NoCopy::TooLarge => format!("plain value expected, got one of more than {most} bytes"),
                NoCopy::Other(what) => format!("plain value expected, {what}"),
            },
        })
    }

    /// A table's pairs, copied out of Lua.
    pub fn table(&self, index: i32) -> Result<Box<[(Value, Value)]>, Raise> {
        self.table_within(index, MAX_COPY)
    }

    /// The same for tables of at most that many bytes, as [`Value::weight`] counts them.
    pub fn table_within(&self, index: i32, most: usize) -> Result<Box<[(Value, Value)]>, Raise> {
        match self.value_within(index, most)? {
            Value::Table(pairs) | Value::Array(pairs) => Ok(pairs),
            _ => Err(self.wrong(index, "table")),
        }
    }
}

/// The deepest nesting of tables that is copied between Lua and plain values.
const MAX_DEPTH: usize = 64;

/// The most that is copied at once, in bytes as [`Value::weight`] counts them: a small table can contain itself many
/// times over.
const MAX_COPY: usize = 4 * crate::shard::context::MAX_BYTES;

/// Why a value is not copied.
enum NoCopy {
    TooLarge,
    /// `got a function`
    Other(String),
}

/// `left`: bytes that may still be copied.
fn value_at(slots: Slots<'_>, slot: c_int, depth: usize, left: &mut usize) -> Result<Value, NoCopy> {
    let plain = slots.plain(slot);
    let weight = size_of::<Value>() + if let Plain::Text(text) = plain { text.len() } else { 0 };
    *left = left.checked_sub(weight).ok_or(NoCopy::TooLarge)?;
    match plain {
        Plain::Nil => Ok(Value::Nil),
        Plain::Bool(b) => Ok(Value::Bool(b)),
        Plain::Number(n) => Ok(Value::Number(n)),
        Plain::Text(text) => Ok(Value::Str(text.into())),
        Plain::Other(ffi::LUA_TTABLE) => {
            // SAFETY: the thread is alive. It raises nothing: it returns 0 when the stack can't grow.
            if depth >= MAX_DEPTH || unsafe { ffi::lua_checkstack(slots.state(), 4) } == 0 {
                return Err(NoCopy::Other(format!("got a table nested deeper than {MAX_DEPTH} (a cycle?)")));
            }
            let before = slots.top();
            let pairs = pairs_at(slots, slot, depth, left);
            // SAFETY: takes off a key and a value that are left after a failure; nothing of them is in use.
            unsafe { ffi::lua_settop(slots.state(), before) };
            let pairs = pairs?.into();
            Ok(if slots.is_marked_array(slot) { Value::Array(pairs) } else { Value::Table(pairs) })
        }
        Plain::Other(_) => Err(NoCopy::Other(format!("got a {}", slots.type_name(slot)))),
    }
}

/// The pairs of the table in a slot, where there is room for four values more. A failure leaves some of these behind.
fn pairs_at(slots: Slots<'_>, table: c_int, depth: usize, left: &mut usize) -> Result<Vec<(Value, Value)>, NoCopy> {
    let (state, key) = (slots.state(), slots.top() + 1);
    let mut pairs = Vec::new();
    // SAFETY: there is room.
    unsafe { ffi::lua_pushnil(state) };
    // SAFETY: `table` is one, and the key at the top is nil or the one before: it raises only for a key that is not in the table.
    while unsafe { ffi::lua_next(state, table) } != 0 {
        pairs.push((value_at(slots, key, depth + 1, left)?, value_at(slots, key + 1, depth + 1, left)?));
        // SAFETY: takes off the value, which has been copied.
        unsafe { ffi::lua_settop(state, key) };
    }
    Ok(pairs)
}

/// Raises: file and line of the calling script, then the message.
///
/// # Safety
/// `state` must be the running native function's, with its name at upvalue 1, and with no `catch_unwind` in between.
pub unsafe fn throw(state: State, raise: Raise) -> ! {
    // SAFETY: the caller's.
    let stack = unsafe { Stack::new(state) };
    let message = match raise {
        Raise::Message(message) => message,
        Raise::Argument { index, problem } => {
            let name = String::from_utf8_lossy(stack.upvalue_string(1).unwrap_or_default());
            let owner = hints::owner_at(stack, 1)
                .map_or_else(String::new, |owner| format!("; call it with a dot: {owner}.{name}(...)"));
            format!("bad argument #{index} to '{name}' ({problem}){owner}")
        }
    };
    // SAFETY: the caller's. The place and the message are the two that are joined.
    unsafe {
        ffi::luaL_where(state, 1);
        push_bytes(state, message.as_bytes());
        // Unwinding would drop it too; but it is not needed any more.
        drop(message);
        ffi::lua_concat(state, 2);
        ffi::lua_error(state)
    }
}

/// A function item that [`native`] makes callable from Lua. It must be a plain `fn` (no captured state).
pub trait Native<R>: Fn(&Args) -> Result<R, Raise> + Copy + 'static {}
impl<R, F: Fn(&Args) -> Result<R, Raise> + Copy + 'static> Native<R> for F {}

/// The value of a zero-sized function type.
///
/// # Safety
/// A value of the type must have existed: a type without a size may also be one that has no values.
pub unsafe fn zst_value<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0, "only plain fn items can be native functions") };
    // SAFETY: reading a value without a size reads nothing, and a copy of one that has existed is as good.
    unsafe { std::ptr::NonNull::<F>::dangling().read() }
}

/// Warns of an err that the script ignores.
#[cold]
pub(super) fn tell_ignored(args: &Args, err: &str) {
    if let Some(site) = site(args) {
        site.tell(err);
    }
}

/// The call of the function whose arguments these are, as [`Site::of`] has it.
pub(super) fn site(args: &Args) -> Option<Box<Site>> {
    // SAFETY: arguments are those of the native function that runs.
    unsafe { Site::of(args.slots()) }
}

/// # Safety
/// For Lua to call, as a closure with its name as first upvalue, for an `F` that is the type of an existing function
/// item.
unsafe extern "C-unwind" fn trampoline<R: Push, F: Native<R>, const SKIP: c_int>(state: State) -> c_int {
    // SAFETY: Lua's call lasts as long as this function.
    let args = unsafe { Args::new(state, SKIP) };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `F` is the type of a function item that exists.
        let function = unsafe { zst_value::<F>() };
        let results = function(&args)?;
        if let Some(err) = results.err() {
            tell_ignored(&args, err);
        }
        Ok(results)
    }));
    // SAFETY: as Lua calls it; the panics that were to be caught are behind.
    unsafe { finish(state, outcome) }
}

/// Pushes the results of a native function, or raises why there are none.
///
/// # Safety
/// As [`throw`].
#[inline]
pub(super) unsafe fn finish<R: Push>(state: State, outcome: std::thread::Result<Result<R, Raise>>) -> c_int {
    let raise = match outcome {
        Ok(Ok(results)) => {
            let count = results.results();
            // SAFETY: the caller's.
            _ = results.push_to(unsafe { Stack::new(state) });
            return count;
        }
        Ok(Err(raise)) => raise,
        Err(_panic) => Raise::Message("internal error; the engine's log tells more".into()),
    };
    // SAFETY: the caller's.
    unsafe { throw(state, raise) }
}

/// A native function as Lua calls it, for a closure whose first upvalue is its name.
pub fn native<R: Push, F: Native<R>>(_function: F) -> ffi::lua_CFunction {
    trampoline::<R, F, 0>
}

/// As [`native`] for a method: `self` stands before the arguments.
fn method<R: Push, F: Native<R>>(_function: F) -> ffi::lua_CFunction {
    trampoline::<R, F, 1>
}

impl Table<'_> {
    /// Sets a native function.
    pub fn native<R: Push, F: Native<R>>(&self, name: &CStr, function: F) {
        // SAFETY: it is made to be called with its name as upvalue.
        unsafe { self.raw(name, native(function)) }
    }

    /// Sets a method: `self` stands before its arguments.
    pub fn method<R: Push, F: Native<R>>(&self, name: &CStr, function: F) {
        // SAFETY: it is made to be called with its name as upvalue.
        unsafe { self.raw(name, method(function)) }
    }

    /// Sets a function written by hand for the raw stack; its only upvalue is its name.
    ///
    /// # Safety
    /// `function` must be one for Lua to call, and must not panic.
    pub unsafe fn raw(&self, name: &CStr, function: ffi::lua_CFunction) {
        // SAFETY: the caller's.
        self.field(name, with(|stack| unsafe { closure(stack, name, function) }));
    }
}

/// Pushes a function with its name as its only upvalue.
///
/// # Safety
/// As [`Table::raw`].
unsafe fn closure(stack: Stack<'_>, name: &CStr, function: ffi::lua_CFunction) -> One {
    // SAFETY: the caller's.
    unsafe { stack.push_closure(function, |stack| stack.push_bytes(name.to_bytes())) }
}

/// Runs `work` on the state in a protected call, and returns the error's text if it raised.
///
/// # Safety
/// `state` must be alive and not running. `work` must leave the stack as it should be on success.
pub unsafe fn protect<W: FnOnce(Stack<'_>)>(state: State, work: W) -> Result<(), String> {
    /// # Safety
    /// For `lua_cpcall` alone, which passes it an `Option<W>`.
    unsafe extern "C-unwind" fn call<W: FnOnce(Stack<'_>)>(state: State) -> c_int {
        // SAFETY: the pointer below, to what lives until `lua_cpcall` has returned; it is the only thing on this call's stack.
        let work = unsafe {
            let work = ffi::lua_touserdata(state, 1).cast::<Option<W>>();
            ffi::lua_settop(state, 0);
            (*work).take()
        };
        if let Some(work) = work {
            // SAFETY: `lua_cpcall` protects this call.
            work(unsafe { Stack::new(state) });
        }
        0
    }
    let mut work = Some(work);
    // SAFETY: the caller's. `work` outlives the call.
    if unsafe { ffi::lua_cpcall(state, call::<W>, (&raw mut work).cast::<c_void>()) } == 0 {
        return Ok(());
    }
    // SAFETY: the caller's.
    let slots = unsafe { Slots::new(state) };
    let error = slots.top();
    let text = slots.bytes(error).map_or_else(
        || format!("error object is a {} value", slots.type_name(error)),
        |b| String::from_utf8_lossy(&b).into_owned(),
    );
    // SAFETY: takes off the error, whose text has been copied.
    unsafe { ffi::lua_settop(state, error - 1) };
    Err(text)
}
