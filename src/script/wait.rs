//! Native functions that wait. Such a function leaves a future behind and yields. The driver of the handler takes the
//! future, polls it, and resumes the handler with the answer. Only the calling handler is suspended.

use futures_util::FutureExt;
use mlua::ffi;
use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use super::current;
use super::ignored::Site;
use super::push::{Stack, Table};
use super::stack::{self, Args, Push, Raise, State, finish, tell_ignored, zst_value};
use crate::shard::context::Value;

unsafe extern "C-unwind" {
    /// LuaJIT's own; mlua does not declare it.
    fn lua_isyieldable(state: State) -> c_int;
}

/// What a wait gives its handler: pushes the results and returns how many.
pub type Answer = Box<dyn FnOnce(Stack<'_>) -> c_int>;

/// A future that a handler waits for.
pub type Waited<T> = Pin<Box<dyn Future<Output = T>>>;

/// The progress of a wait.
pub enum Stage<T> {
    /// Something is being enqueued. This continues even if the connection closes, so it must never take long, and may
    /// wait only for room at the other end.
    Enqueuing(Waited<Waited<T>>),
    /// It waits for the answer.
    Waiting(Waited<T>),
}

/// A wait that a handler has begun.
pub struct Wait {
    stage: Stage<Answer>,
    /// The answer if it is interrupted, made of why.
    interrupted: fn(&'static str) -> Answer,
}

impl Wait {
    /// Ready with the answer. Once it is interrupted, for the reason that is given, it no longer waits for the answer, but
    /// an enqueue in progress completes first.
    pub fn poll(&mut self, cx: &mut Context<'_>, interrupted: Option<&'static str>) -> Poll<Answer> {
        loop {
            match &mut self.stage {
                Stage::Enqueuing(enqueuing) => self.stage = Stage::Waiting(ready!(enqueuing.as_mut().poll(cx))),
                Stage::Waiting(waiting) => {
                    return match (waiting.as_mut().poll(cx), interrupted) {
                        (Poll::Pending, Some(why)) => Poll::Ready((self.interrupted)(why)),
                        (answer, _) => answer,
                    };
                }
            }
        }
    }
}

/// What a waiting native function returns.
pub enum Outcome<R> {
    /// Nothing to wait for.
    Now(R),
    /// Suspend the handler until this is over.
    Wait(Stage<R>),
}

impl<R: 'static> Outcome<R> {
    /// Suspends the handler until `future` is ready.
    pub fn later(future: impl Future<Output = R> + 'static) -> Outcome<R> {
        Outcome::Wait(Stage::Waiting(Box::pin(future)))
    }

    /// Suspends the handler until the future that `enqueued` gives has answered. `results` turns that answer into
    /// results.
    pub fn enqueue<F: Future + 'static>(
        enqueued: impl Future<Output = F> + 'static,
        results: impl FnOnce(F::Output) -> R + 'static,
    ) -> Outcome<R> {
        // Not async blocks: each would hold what it awaits twice.
        Outcome::Wait(Stage::Enqueuing(Box::pin(
            enqueued.map(|receipt| -> Waited<R> { Box::pin(receipt.map(results)) }),
        )))
    }
}

/// Results that can also say that the handler was interrupted before they came.
pub trait Interruptible: Push + 'static {
    /// What the handler gets then; `why` is the text of an err.
    fn interrupted(why: &'static str) -> Self;
}

impl<T: Push + 'static> Interruptible for Result<T, String> {
    fn interrupted(why: &'static str) -> Self {
        Err(why.into())
    }
}

impl Interruptible for Value {
    fn interrupted(_: &'static str) -> Self {
        Value::Nil
    }
}

fn answer<R: Push + 'static>(results: R) -> Answer {
    Box::new(move |stack| {
        let count = results.results();
        _ = results.push_to(stack);
        count
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

/// The value that a waiting function yields, to distinguish it from a script's own yields.
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
/// For Lua to call, as a closure with its name as first upvalue, for an `F` that is the type of an existing function
/// item.
unsafe extern "C-unwind" fn trampoline<R: Interruptible, F: WaitingNative<R>, const SKIP: c_int>(
    state: State,
) -> c_int {
    // SAFETY: Lua's call lasts as long as this function.
    let args = unsafe { Args::new(state, SKIP) };
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `F` is the type of a function item that exists.
        let function = unsafe { zst_value::<F>() };
        match function(&args)? {
            Outcome::Now(results) => {
                if let Some(err) = results.err() {
                    tell_ignored(&args, err);
                }
                Ok(Some(results))
            }
            Outcome::Wait(stage) => begin(&args, stage).map_err(Raise::from),
        }
    }));
    let outcome = match outcome {
        Ok(Ok(None)) => {
            // SAFETY: nothing of the arguments is in use any more. Yielding only marks the state, and `begin` has
            // checked that it is possible.
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

/// The most waits that may fail because the connection has closed. The next one raises an error: a loop that ignores
/// the results would otherwise hold the worker for its whole time budget.
pub const MOST_IN_VAIN: u32 = 100;

/// The text of that error.
pub const MAX_FAILED_WAITS: &str =
    "the connection has closed, and its handler goes on waiting: look at the err that waits return";

/// Whether a function that is called now could wait: in a handler, where Lua can be suspended.
pub fn can_wait(args: &Args) -> bool {
    // SAFETY: `args` are those of a running native function, whose state is valid.
    current::get().is_some_and(|current| current.may_wait) && unsafe { lua_isyieldable(args.state()) } != 0
}

/// Leaves the future to the driver and returns None: the handler is to be suspended. Or returns the results if the
/// connection has closed, or the reason why the function can't wait.
fn begin<R: Interruptible>(args: &Args, mut stage: Stage<R>) -> Result<Option<R>, &'static str> {
    let Some(current) = current::get() else {
        return Err(NOT_AT_TOP_LEVEL);
    };
    if !current.may_wait {
        return Err(NOT_IN_ENCODE);
    }
    if current.interrupted && current::count_in_vain() > MOST_IN_VAIN {
        return Err(MAX_FAILED_WAITS);
    }
    // After the connection has closed, only enqueuing may wait.
    let may_suspend = !current.interrupted || matches!(stage, Stage::Enqueuing(_));
    // SAFETY: the thread of a running call. It only looks.
    if may_suspend && unsafe { lua_isyieldable(args.state()) } == 0 {
        return Err(NOT_HERE);
    }
    let mut cx = Context::from_waker(Waker::noop());
    // There is nearly always room.
    if let Stage::Enqueuing(enqueuing) = &mut stage
        && let Poll::Ready(waited) = enqueuing.as_mut().poll(&mut cx)
    {
        stage = Stage::Waiting(waited);
    }
    let site = stack::site(args);
    let stage = match stage {
        Stage::Waiting(mut waited) if current.interrupted => {
            // The operation is started all the same.
            return Ok(Some(match waited.as_mut().poll(&mut cx) {
                Poll::Ready(results) => results,
                Poll::Pending => R::interrupted(current.gone()),
            }));
        }
        Stage::Waiting(waited) => Stage::Waiting(answered(waited, site)),
        Stage::Enqueuing(enqueuing) => Stage::Enqueuing(Box::pin(async move { answered(enqueuing.await, site) })),
    };
    BEGUN.with(|b| b.set(Some(Wait { stage, interrupted: |why| answer(R::interrupted(why)) })));
    Ok(None)
}

/// Turns the results into an answer. An ignored err is reported for `site`.
fn answered<R: Interruptible>(waited: Waited<R>, site: Option<Box<Site>>) -> Waited<Answer> {
    Box::pin(waited.map(|results| {
        if let (Some(site), Some(err)) = (site, results.err()) {
            site.tell(err);
        }
        answer(results)
    }))
}
