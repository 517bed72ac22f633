//! The Lua stack as native functions see it: reading arguments, pushing results, raising errors.
//!
//! A native function works in two phases. First it *computes*: it reads its arguments and does its work, and nothing
//! in it may raise a Lua error, so a Rust panic can be caught around it and no destructor is skipped. Then its results
//! are *pushed*, which may raise (memory), with nothing left to lose. Functions that can't be split so (JSON, which
//! parses straight onto the stack) are written by hand under the same care.
//!
//! Everything here is handed a `State` by Lua and is valid for that call only.

use mlua::ffi;
use std::borrow::Cow;
use std::ffi::{CStr, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::ignored::Site;
use super::{guard, teach};
use crate::shard::context::Value;

pub use super::push::{Push, push_bytes};
pub use super::state::{State, bytes_at, number_text, type_name};

/// A native function's failure that is raised as a Lua error, with the script's file and line in front.
#[derive(Debug)]
pub enum Raise {
    /// Argument `index` (from 1, without `self`) was not what was wanted.
    Argument {
        /// The argument's position.
        index: i32,
        /// `string expected, got nil`
        problem: String,
    },
    /// Anything else, as a whole sentence.
    Message(String),
}

/// Bytes that a native function works on between two looks at the handler's time, since no hook of Lua's is asked
/// meanwhile. A multiple of 4 and of 64, for those that work in blocks.
pub const BYTES_PER_LOOK: usize = 64 * 1024;
/// How many values of a table it works on between two looks.
pub const VALUES_PER_LOOK: usize = 4096;

/// For native functions that work long: fails when the running handler's time is up.
pub fn in_time() -> Result<(), Raise> {
    if guard::expired() { Err(guard::OVER_BUDGET.into()) } else { Ok(()) }
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
    /// `state` must be the running native function's.
    pub unsafe fn new(state: State, skip: c_int) -> Args {
        Args { state, skip }
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
        unsafe { ffi::lua_gettop(self.state) - self.skip }
    }

    /// Whether argument `index` is nil or absent.
    pub fn is_nil(&self, index: i32) -> bool {
        unsafe { ffi::lua_type(self.state, self.slot(index)) <= ffi::LUA_TNIL }
    }

    /// `bad argument #index (wanted expected, got what it is)`
    pub fn wrong(&self, index: i32, wanted: &str) -> Raise {
        Raise::Argument {
            index,
            problem: format!("{wanted} expected, got {}", unsafe { type_name(self.state, self.slot(index)) }),
        }
    }

    /// A string's bytes; a number counts as its text, as everywhere in Lua.
    pub fn bytes(&self, index: i32) -> Result<Cow<'_, [u8]>, Raise> {
        unsafe { bytes_at(self.state, self.slot(index)) }.ok_or_else(|| self.wrong(index, "string"))
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
        unsafe {
            if ffi::lua_isnumber(self.state, self.slot(index)) != 0 {
                return Ok(ffi::lua_tonumber(self.state, self.slot(index)));
            }
        }
        Err(self.wrong(index, "number"))
    }

    /// A number (not a string) that is a whole number a double holds exactly.
    pub fn exact_integer(&self, index: i32) -> Option<u64> {
        unsafe {
            if ffi::lua_type(self.state, self.slot(index)) != ffi::LUA_TNUMBER {
                return None;
            }
            let n = ffi::lua_tonumber(self.state, self.slot(index));
            (n.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&n)).then_some(n as u64)
        }
    }

    /// Any plain value, copied out of Lua.
    pub fn value(&self, index: i32) -> Result<Value, Raise> {
        self.value_within(index, MAX_COPY)
    }

    /// The same for values of at most that many bytes, as [`Value::weight`] counts them.
    fn value_within(&self, index: i32, most: usize) -> Result<Value, Raise> {
        unsafe { value_at(self.state, self.slot(index), 0, &mut { most }) }.map_err(|what| Raise::Argument {
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

/// The most that is copied at once, in bytes as [`Value::weight`] counts them: a small table can hold itself many times
/// over.
const MAX_COPY: usize = 4 * crate::shard::context::MAX_BYTES;

/// Why a value is not copied.
enum NoCopy {
    TooLarge,
    /// `got a function`
    Other(String),
}

/// `left`: bytes that may still be copied.
unsafe fn value_at(state: State, slot: c_int, depth: usize, left: &mut usize) -> Result<Value, NoCopy> {
    unsafe {
        let bytes = if ffi::lua_type(state, slot) == ffi::LUA_TSTRING { ffi::lua_objlen(state, slot) } else { 0 };
        let weight = size_of::<Value>() + bytes;
        *left = left.checked_sub(weight).ok_or(NoCopy::TooLarge)?;
        match ffi::lua_type(state, slot) {
            ffi::LUA_TNONE | ffi::LUA_TNIL => Ok(Value::Nil),
            ffi::LUA_TBOOLEAN => Ok(Value::Bool(ffi::lua_toboolean(state, slot) != 0)),
            ffi::LUA_TNUMBER => Ok(Value::Number(ffi::lua_tonumber(state, slot))),
            ffi::LUA_TSTRING => Ok(Value::Str(bytes_at(state, slot).unwrap_or_default().into())),
            ffi::LUA_TTABLE => {
                // lua_checkstack raises nothing: it returns 0 when the stack can't grow.
                if depth >= MAX_DEPTH || ffi::lua_checkstack(state, 4) == 0 {
                    return Err(NoCopy::Other(format!("got a table nested deeper than {MAX_DEPTH} (a cycle?)")));
                }
                let table = ffi::lua_absindex(state, slot);
                let mut pairs = Vec::new();
                ffi::lua_pushnil(state);
                // lua_next raises only for a key that is not in the table; ours always is.
                while ffi::lua_next(state, table) != 0 {
                    let pair = value_at(state, -2, depth + 1, left)
                        .and_then(|k| value_at(state, -1, depth + 1, left).map(|v| (k, v)));
                    match pair {
                        Ok(pair) => pairs.push(pair),
                        Err(e) => {
                            ffi::lua_pop(state, 2);
                            return Err(e);
                        }
                    }
                    ffi::lua_pop(state, 1);
                }
                let marked = super::push::is_marked_array(state, table);
                Ok(if marked { Value::Array(pairs.into()) } else { Value::Table(pairs.into()) })
            }
            _ => Err(NoCopy::Other(format!("got a {}", type_name(state, slot)))),
        }
    }
}

/// Raises: file and line of the calling script, then the message. Drops everything it owns before it leaves.
///
/// # Safety
/// `state` must be the running native function's, with its name at upvalue 1; the caller must own nothing.
pub unsafe fn throw(state: State, raise: Raise) -> ! {
    unsafe {
        ffi::luaL_where(state, 1);
        match raise {
            Raise::Message(m) => push_bytes(state, m.as_bytes()),
            Raise::Argument { index, problem } => {
                let name = bytes_at(state, ffi::lua_upvalueindex(1)).unwrap_or_default();
                let name = String::from_utf8_lossy(&name);
                let mut message = format!("bad argument #{index} to '{name}' ({problem})");
                if let Some(owner) = teach::owner_at(state, 1) {
                    message.push_str(&format!("; call it with a dot: {owner}.{name}(...)"));
                }
                drop((name, problem));
                push_bytes(state, message.as_bytes());
                drop(message);
            }
        }
        ffi::lua_concat(state, 2);
        ffi::lua_error(state)
    }
}

/// A function item that [`native`] makes callable from Lua. It must be a plain `fn` (no captured state).
pub trait Native<R>: Fn(&Args) -> Result<R, Raise> + Copy + 'static {}
impl<R, F: Fn(&Args) -> Result<R, Raise> + Copy + 'static> Native<R> for F {}

/// The one value of a zero-sized function type.
pub fn conjure<F: Copy>() -> F {
    const { assert!(size_of::<F>() == 0, "only plain fn items can be native functions") };
    // A zero-sized Copy type of which a value exists (the registering call was passed one): reading it reads nothing.
    unsafe { std::ptr::NonNull::<F>::dangling().read() }
}

/// Warns of an err that the script does not look at.
#[cold]
pub(super) fn tell_ignored(state: State, err: &str) {
    // SAFETY: trampolines hand their own state on, and are closures with their name as first upvalue.
    if let Some(site) = unsafe { Site::of(state) } {
        site.tell(err);
    }
}

unsafe extern "C-unwind" fn trampoline<R: Push, F: Native<R>, const SKIP: c_int>(state: State) -> c_int {
    let args = unsafe { Args::new(state, SKIP) };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let results = conjure::<F>()(&args)?;
        if let Some(err) = results.err() {
            tell_ignored(state, err);
        }
        Ok(results)
    }));
    unsafe {
        match outcome {
            Ok(Ok(results)) => {
                ffi::luaL_checkstack(state, R::COUNT + 4, c"too many results".as_ptr());
                results.push_to(state)
            }
            Ok(Err(raise)) => throw(state, raise),
            Err(panic) => {
                drop(panic);
                throw(state, Raise::Message("internal error; the engine's log tells more".into()))
            }
        }
    }
}

/// Sets `table[name]` to a native function; `table` is at the top of the stack and stays there.
///
/// # Safety
/// `state` must be valid and in a protected call.
pub unsafe fn set_native<R: Push, F: Native<R>>(state: State, name: &CStr, _function: F) {
    unsafe { set_raw(state, name, trampoline::<R, F, 0>) }
}

/// A native function as Lua calls it, for a closure whose first upvalue is its name.
pub fn native<R: Push, F: Native<R>>(_function: F) -> ffi::lua_CFunction {
    trampoline::<R, F, 0>
}

/// As [`set_native`] for a method: `self` stands before the arguments.
///
/// # Safety
/// As [`set_native`].
pub unsafe fn set_method<R: Push, F: Native<R>>(state: State, name: &CStr, _function: F) {
    unsafe { set_raw(state, name, trampoline::<R, F, 1>) }
}

/// Sets `table[name]` to a function written by hand for the raw stack; its upvalue 1 is its name.
///
/// # Safety
/// As [`set_native`]; `function` must not panic.
pub unsafe fn set_raw(state: State, name: &CStr, function: ffi::lua_CFunction) {
    unsafe {
        ffi::lua_pushstring(state, name.as_ptr());
        ffi::lua_pushcclosure(state, function, 1);
        ffi::lua_setfield(state, -2, name.as_ptr());
    }
}

/// Runs `work` on the state in a protected call, and returns the error's text if it raised.
///
/// # Safety
/// `state` must be valid and not running. `work` must leave the stack as it should be on success, and own nothing that
/// a raise would leak.
pub unsafe fn protect<W: FnOnce(State)>(state: State, work: W) -> Result<(), String> {
    unsafe extern "C-unwind" fn call<W: FnOnce(State)>(state: State) -> c_int {
        unsafe {
            let work = ffi::lua_touserdata(state, 1).cast::<Option<W>>();
            ffi::lua_settop(state, 0);
            if let Some(work) = (*work).take() {
                work(state);
            }
        }
        0
    }
    let mut work = Some(work);
    unsafe {
        if ffi::lua_cpcall(state, call::<W>, (&raw mut work).cast::<c_void>()) == 0 {
            return Ok(());
        }
        let text = bytes_at(state, -1).map_or_else(
            || format!("error object is a {} value", type_name(state, -1)),
            |b| String::from_utf8_lossy(&b).into_owned(),
        );
        ffi::lua_pop(state, 1);
        Err(text)
    }
}
