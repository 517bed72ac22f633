//! Native functions that wait. Such a function leaves a future behind and yields; whoever drives the handler takes the
//! future, polls it, and resumes the handler with its answer. Only the calling handler is suspended.

use mlua::ffi;
use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::current;
use super::push::{Pushed, Stack, Table};
use super::stack::{self, Args, Push, Raise, State, finish, tell_ignored, zst_value};
use crate::shard::context::Value;

unsafe extern "C-unwind" {
    /// LuaJIT's own; mlua does not declare it.
    fn lua_isyieldable(state: State) -> c_int;
}

/// What a wait gives its handler: pushes the results and returns how many.
pub type Answer = Box<dyn FnOnce(Stack<'_>) -> c_int>;

/// A wait that a handler has begun.
pub struct Wait {
    /// Gives the answer.
    pub future: Pin<Box<dyn Future<Output = Answer>>>,
    /// The answer when the connection closes first.
    pub interrupted: fn() -> Answer,
    /// Set when the wait may be given up for that.
    handed: Handed,
}

/// Set once something has been handed over: what is left then is to hear what came of it. None: it is handed over already.
type Handed = Option<Rc<Cell<bool>>>;

impl Wait {
    /// Whether it may be given up when the connection closes: it is not handing anything over.
    pub fn may_be_given_up(&self) -> bool {
        self.handed.as_ref().is_none_or(|handed| handed.get())
    }
}

/// What a waiting native function returns.
pub enum Outcome<R> {
    /// Nothing to wait for.
    Now(R),
    /// Suspend the handler till this is ready.
    Later(Pin<Box<dyn Future<Output = R>>>),
    /// The same for what hands something over: it goes on, though the connection closes, until the cell is set or it is
    /// ready. So it must never take long, and have no bound but room at the other end.
    HandsOver(Pin<Box<dyn Future<Output = R>>>, Rc<Cell<bool>>),
}

impl<R> Outcome<R> {
    /// Suspends the handler till `future` is ready.
    pub fn later(future: impl Future<Output = R> + 'static) -> Outcome<R> {
        Outcome::Later(Box::pin(future))
    }

    /// Suspends the handler until `future` is ready, which sets the cell that it is made with when it has handed over what
    /// it has to.
    pub fn hands_over<F: Future<Output = R> + 'static>(future: impl FnOnce(Rc<Cell<bool>>) -> F) -> Outcome<R> {
        let handed = Rc::new(Cell::new(false));
        Outcome::HandsOver(Box::pin(future(handed.clone())), handed)
    }
}

/// Results that can also say that the connection closed before they came.
pub trait Interruptible: Push + 'static {
    /// What the handler gets then.
    fn interrupted() -> Self;
}

impl<T: Push + 'static> Interruptible for Result<T, String> {
    fn interrupted() -> Self {
        Err("the connection has closed".into())
    }
}

impl Interruptible for Value {
    fn interrupted() -> Self {
        Value::Nil
    }
}

fn answer<R: Push + 'static>(results: R) -> Answer {
    Box::new(move |stack| {
        _ = results.push_to(stack);
        R::Pushed::COUNT
    })
}

thread_local! {
    /// Between the yield of a native function and the driver that takes it.
    static BEGUN: Cell<Option<Wait>> = const { Cell::new(None) };
}

/// The wait that the handler which has just yielded began. None: the script itself yielded.
pub fn take() -> Option<Wait> {
    BEGUN.with(Cell::take)
}

/// What a waiting function yields, so that it is told from a script's own yields.
pub fn marker() -> *mut c_void {
    static MARKER: u8 = 0;
    (&raw const MARKER).cast_mut().cast()
}

/// A function item that waits.
pub trait WaitingNative<R>: Fn(&Args) -> Result<Outcome<R>, Raise> + Copy + 'static {}
impl<R, F: Fn(&Args) -> Result<Outcome<R>, Raise> + Copy + 'static> WaitingNative<R> for F {}

/// A function that may wait as Lua calls it, for a closure whose first upvalue is its name.
pub fn waiting<R: Interruptible, F: WaitingNative<R>>(_function: F) -> ffi::lua_CFunction {
    trampoline::<R, F, 0>
}

/// As [`waiting`] for a method: `self` stands before the arguments.
fn waiting_method<R: Interruptible, F: WaitingNative<R>>(_function: F) -> ffi::lua_CFunction {
    trampoline::<R, F, 1>
}

impl Table<'_> {
    /// Sets a native function that may wait.
    pub fn waiting<R: Interruptible, F: WaitingNative<R>>(&self, name: &CStr, function: F) {
        // SAFETY: it is made to be called with its name as upvalue.
        unsafe { self.raw(name, waiting(function)) }
    }

    /// Sets a method that may wait.
    pub fn waiting_method<R: Interruptible, F: WaitingNative<R>>(&self, name: &CStr, function: F) {
        // SAFETY: it is made to be called with its name as upvalue.
        unsafe { self.raw(name, waiting_method(function)) }
    }
}

/// # Safety
/// For Lua to call, as a closure with its name as first upvalue, of an `F` of which there has been a value.
unsafe extern "C-unwind" fn trampoline<R: Interruptible, F: WaitingNative<R>, const SKIP: c_int>(
    state: State,
) -> c_int {
    // SAFETY: Lua's call lasts as long as this function.
    let args = unsafe { Args::new(state, SKIP) };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: whoever names this function has one in hand.
        let function = unsafe { zst_value::<F>() };
        match function(&args)? {
            Outcome::Now(results) => {
                if let Some(err) = results.err() {
                    tell_ignored(&args, err);
                }
                Ok(Some(results))
            }
            Outcome::Later(future) => begin(&args, future, None).map_err(Raise::from),
            Outcome::HandsOver(future, handed) => begin(&args, future, Some(handed)).map_err(Raise::from),
        }
    }));
    let outcome = match outcome {
        Ok(Ok(None)) => {
            // SAFETY: nothing of the arguments is in use any more. Yielding only marks the state; it does so since `begin` has found
            // that this is possible.
            return unsafe {
                ffi::lua_settop(state, 0);
                ffi::lua_pushlightuserdata(state, marker());
                ffi::lua_yield(state, 1)
            };
        }
        Ok(Ok(Some(results))) => Ok(Ok(results)),
        Ok(Err(raise)) => Ok(Err(raise)),
        Err(panic) => Err(panic),
    };
    // SAFETY: as Lua calls it; the panics that were to be caught are behind.
    unsafe { finish(state, outcome) }
}

/// What a waiting function raises outside handlers.
pub const NOT_AT_TOP_LEVEL: &str =
    "this function waits, and only a handler can, not a file's top level: call it in a hook";

/// What a waiting function raises in `protocol_encode`.
const NOT_IN_ENCODE: &str = "this function waits, which protocol_encode can't: a delivery is on its way";

/// What a waiting function raises where Lua can't be suspended.
pub const NOT_HERE: &str = "this function waits, which is not possible inside a callback of table.sort or string.gsub; \
                            call it before or after";

/// How many waits may fail because the connection has closed, before the next one raises an error: a loop that does not
/// look at what they return would hold the worker for all of its time budget.
pub const MOST_IN_VAIN: u32 = 100;

/// What it raises.
pub const IN_VAIN: &str =
    "the connection has closed, and its handler goes on waiting: look at the err that waits return";

/// Leaves the future for the driver, and returns None: the handler is to be suspended. Or the results, when its
/// connection has closed; or why it can't wait.
fn begin<R: Interruptible>(
    args: &Args,
    mut future: Pin<Box<dyn Future<Output = R>>>,
    handed: Handed,
) -> Result<Option<R>, &'static str> {
    let Some(current) = current::get() else {
        return Err(NOT_AT_TOP_LEVEL);
    };
    if !current.may_wait {
        return Err(NOT_IN_ENCODE);
    }
    // SAFETY: the thread of a running call. It only looks.
    let is_yieldable = unsafe { lua_isyieldable(args.state()) } != 0;
    if current.interrupted {
        if current::count_in_vain() > MOST_IN_VAIN {
            return Err(IN_VAIN);
        }
        if handed.is_some() && !is_yieldable {
            return Err(NOT_HERE);
        }
        // What it does is begun all the same: a message is published, though nobody waits for the counts.
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(results) => return Ok(Some(results)),
            Poll::Pending if handed.as_ref().is_none_or(|handed| handed.get()) => return Ok(Some(R::interrupted())),
            // It waits for room, and is not given up.
            Poll::Pending => {}
        }
    } else if !is_yieldable {
        return Err(NOT_HERE);
    }
    let site = stack::site(args);
    let future = Box::pin(async move {
        let results = future.await;
        if let (Some(site), Some(err)) = (site, results.err()) {
            site.tell(err);
        }
        answer(results)
    });
    BEGUN.with(|b| b.set(Some(Wait { future, interrupted: || answer(R::interrupted()), handed })));
    Ok(None)
}
