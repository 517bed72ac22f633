//! One Lua VM: a version of a server's script on one worker, and how its hooks are run.
//!
//! A hook runs as a coroutine of a pool. Native functions that wait yield (see [`super::wait`]); the VM hands such a
//! handler back as a [`Handler`], which its connection's task polls. Every handler holds its VM alive, so a VM that a
//! reload replaced ends with its last handler.
//!
//! Lua is entered only while nothing of the shard is borrowed.

use mlua::{Lua, ffi};
use std::cell::RefCell;
use std::ffi::c_int;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use self::memory::Memory;
use super::budget::Budgets;
use super::build::{Built, Entries, LOAD_BUDGET, build};
use super::current::{self, ConnRef, Current};
use super::doing::Doing;
use super::globals::Globals;
use super::hints::{self, Mistake, offered};
use super::hooks::HookArgs;
use super::mix::console;
use super::outcome;
use super::places::{Places, Whose};
use super::program::{Program, shown};
use super::slots::Slots;
use super::stack::{State, protect};
use super::wait::{self, Wait};
use super::{handler, trace, watchdog};
use crate::config::Protocol;

mod memory;
#[cfg(test)]
mod tests;
mod turn;

pub use super::build::BuildError;
pub use super::hook::Hook;
pub use super::limits::VmLimits;
pub use super::outcome::{Failure, Returned};
pub use turn::Turn;

/// The most idle coroutines that are kept for the next handlers.
const POOL: usize = 256;

/// The state of a hook after a stretch.
pub enum Started {
    /// It has returned or failed.
    Done(Result<Returned, Failure>),
    /// It waits.
    Suspended(Handler),
}

/// A coroutine that nobody uses, or that a handler uses: a Lua thread, and the registry reference that keeps it. There is one
/// only between [`Vm::new_coroutine`] and [`Vm::drop_coroutine`], and the VM lives longer than all of its coroutines.
#[derive(Clone, Copy)]
struct Coroutine {
    state: State,
    anchor: c_int,
}

impl Coroutine {
    /// What is on its stack.
    fn slots(&self) -> Slots<'_> {
        // SAFETY: the registry keeps the thread, as above.
        unsafe { Slots::new(self.state) }
    }

    /// Takes everything off its stack, of which nothing may be in use.
    fn clear(&self) {
        // SAFETY: alive, as above; it has returned or yielded, and nothing is lent of its slots: that would borrow `self`.
        unsafe { ffi::lua_settop(self.state, 0) }
    }
}

/// One VM.
pub struct Vm {
    main: State,
    entries: Entries,
    /// Whether `protocol_encode` gives the same bytes for all connections.
    pub encode_shared: bool,
    idle: RefCell<Vec<Coroutine>>,
    /// Registry slots of coroutines that were given up.
    free: RefCell<Vec<c_int>>,
    /// The time budgets of its hooks.
    budgets: Budgets,
    /// The places of waiting handlers.
    places: Places,
    memory: Memory,
    /// The version it runs.
    pub program: Arc<Program>,
    /// The last field, so that it is dropped after everything that refers to it.
    pub(super) lua: Lua,
}

impl Vm {
    /// Builds a VM and runs the entry file, for at most 5 seconds. The error says what is wrong with the script, with file
    /// and line.
    pub fn new(program: Arc<Program>, limits: &VmLimits) -> Result<Rc<Vm>, BuildError> {
        Vm::within(LOAD_BUDGET, program, limits)
    }

    /// The same while other scripts wait for it: for at most `budget`.
    pub fn within(budget: Duration, program: Arc<Program>, limits: &VmLimits) -> Result<Rc<Vm>, BuildError> {
        let Built { lua, main, entries, encode_shared } = build(&program, limits, budget.min(LOAD_BUDGET))?;
        let vm = Vm {
            main,
            entries,
            encode_shared,
            idle: RefCell::default(),
            free: RefCell::default(),
            budgets: Budgets::default(),
            places: Places::new(limits.waiting),
            memory: Memory::new(limits.memory),
            program,
            lua,
        };
        Ok(Rc::new(vm))
    }

    /// What the script may use, as it stands now: for a check of its files.
    pub(crate) fn globals(&self) -> Globals {
        Globals::of(&self.lua)
    }

    /// Every function and constant that scripts get from the engine, in full: `mix.mesh.publish`, `conn:send`.
    pub fn offered(&self) -> Vec<String> {
        offered(&self.lua).into_iter().collect()
    }

    /// Bytes of Lua memory in use.
    pub fn memory(&self) -> usize {
        self.lua.used_memory()
    }

    /// Whether seven eighths of its memory are in use. Returns true only once.
    pub fn has_worn(&self) -> bool {
        self.memory.has_worn()
    }

    /// Whether its memory is still nearly full, as far as can be told without a collection. If not, [`Vm::has_worn`]
    /// reports it the next time.
    pub fn is_worn(&self) -> bool {
        self.memory.is_worn(&self.lua)
    }

    /// The same after a collection.
    pub fn is_worn_out(&self) -> bool {
        self.memory.collect(&self.lua);
        self.is_worn()
    }

    /// Whether the script defines that hook.
    pub fn has(&self, hook: Hook) -> bool {
        self.entries[hook as usize].is_some()
    }

    /// Whether the script has a global function of that name now.
    pub fn defines(&self, name: &str) -> bool {
        matches!(self.lua.globals().raw_get(name), Ok(mlua::Value::Function(_)))
    }

    /// Runs a hook until it returns, fails or waits. `conn` is None for a `protocol_encode` that serves all
    /// connections, and for what belongs to none. `budget` is the longest that the hook may hold the thread between two waits.
    pub fn start(
        self: &Rc<Self>,
        hook: Hook,
        conn: Option<ConnRef>,
        mut args: HookArgs<'_>,
        budget: Duration,
    ) -> Started {
        let Some(entry) = self.entries[hook as usize] else { return Started::Done(Ok(Returned::Nothing)) };
        let coroutine = match self.coroutine() {
            Ok(coroutine) => coroutine,
            Err(e) => return Started::Done(Err(e)),
        };
        args.set_conn(conn.filter(|_| entry.takes_conn));
        let co = coroutine.state;
        // SAFETY: the registry keeps the coroutine and both functions. None of these calls allocates, as there is room on the
        // stack: an unprotected error would end the process. `args` is there until `resume` returns; the prelude hands the pointer
        // to `fill` before anything of the script runs, and to nobody else.
        unsafe {
            ffi::lua_rawgeti_(co, ffi::LUA_REGISTRYINDEX, entry.enter);
            ffi::lua_rawgeti_(co, ffi::LUA_REGISTRYINDEX, entry.hook);
            ffi::lua_pushlightuserdata(co, (&raw const args).cast_mut().cast());
        }
        let mut current = Current::new(conn, self.program.server, hook.may_wait());
        if hook == Hook::Start {
            current.starts = Some(self.program.version);
        }
        match self.resume(coroutine, 2, hook, current, budget) {
            Step::Done(result) => Started::Done(result),
            Step::Waiting(wait) => {
                let whose = Whose::new(hook, conn.and_then(ConnRef::address));
                self.places.take(whose);
                Started::Suspended(Handler {
                    vm: self.clone(),
                    hook,
                    coroutine,
                    current,
                    wait: Some(wait),
                    budget,
                    whose,
                })
            }
        }
    }

    /// One stretch of a handler, from a resume to its next wait or its end.
    fn resume(&self, coroutine: Coroutine, args: c_int, hook: Hook, current: Current, budget: Duration) -> Step {
        let co = coroutine.state;
        let doing = self.entries[hook as usize].map_or(Doing::TESTING, |entry| entry.doing);
        let (status, over_budget) = {
            let _current = current::enter(Some(current));
            let ended = {
                // SAFETY: the VM's main thread lives as long as the VM.
                let _run = unsafe { watchdog::enter(self.main, self.budgets.of(hook, budget), doing) };
                // SAFETY: the coroutine is kept by the registry, and has a function and its arguments on its stack, or has yielded
                // and has its results there. What fails in there is the status: nothing is raised.
                let status = unsafe { ffi::lua_resume_(co, args) };
                // The watchdog is asked rather than the error's text, since a script can raise the same text.
                (status, status > ffi::LUA_YIELD && watchdog::expired())
            };
            console::end_of_stretch();
            ended
        };
        match status {
            ffi::LUA_OK => {
                // A wait that a coroutine of the script began where it could not be passed on.
                drop(wait::take());
                let returned = outcome::returned(coroutine.slots(), hook);
                coroutine.clear();
                self.keep(coroutine);
                self.memory.collect_if_nearly_full(&self.lua);
                Step::Done(returned)
            }
            ffi::LUA_YIELD => match wait::take().filter(|_| coroutine.slots().userdata(1) == wait::marker()) {
                Some(wait) => {
                    coroutine.clear();
                    self.memory.collect_if_nearly_full(&self.lua);
                    Step::Waiting(wait)
                }
                None => {
                    let mut failure = Failure::new("attempt to yield from outside a coroutine");
                    failure.traceback = trace::traceback(coroutine.slots());
                    failure.in_decode = self.is_in_decode(hook, coroutine.slots());
                    self.drop_coroutine(coroutine);
                    Step::Done(Err(failure))
                }
            },
            status => {
                // A wait begun by a coroutine that then failed is dropped.
                drop(wait::take());
                let mut failure = outcome::failure(coroutine.slots(), status);
                failure.over_budget = over_budget;
                failure.in_decode = self.is_in_decode(hook, coroutine.slots());
                if over_budget {
                    self.overrun(hook, budget, &mut failure);
                }
                self.drop_coroutine(coroutine);
                if status == ffi::LUA_ERRMEM {
                    // Lua makes no emergency collection: without this one, all later calls would fail too.
                    self.memory.collect(&self.lua);
                    self.memory.look_at_wear(&self.lua);
                } else {
                    self.memory.collect_if_nearly_full(&self.lua);
                }
                self.hint(&mut failure, hook);
                Step::Done(Err(failure))
            }
        }
    }

    /// Adds the likely fix to an error's text.
    #[cold]
    fn hint(&self, failure: &mut Failure, hook: Hook) {
        let missed = hints::take_missed();
        let mistake = Mistake { message: &failure.message, hook: Some(hook), missed };
        if let Some(fix) = self.program.hint(&mistake) {
            failure.message = format!("{}; {fix}", failure.message);
        }
    }

    /// A hook has overrun its budget, and may get a shorter one.
    #[cold]
    fn overrun(&self, hook: Hook, whole: Duration, failure: &mut Failure) {
        failure.budget_cut = self.budgets.overrun(hook, whole);
        if let Some(budget) = failure.budget_cut {
            tracing::warn!(
                target: "script",
                hook = failure.hook(hook).name(),
                "{} keeps overrunning its time budget; it now has {budget:?} (handlerTimeout: {whole:?}) until it overruns \
                 less often, or a corrected script is loaded",
                shown(&self.program.entry),
            );
        }
    }

    /// Whether a handler that has failed was still in `protocol_decode`. The caller of `protocol_decode` is gone from
    /// the stack once `on_message` begins, by a tail call.
    fn is_in_decode(&self, hook: Hook, co: Slots<'_>) -> bool {
        hook == Hook::Message && self.program.protocol == Protocol::Socket && trace::began_in_prelude(co)
    }

    fn coroutine(&self) -> Result<Coroutine, Failure> {
        if let Some(coroutine) = self.idle.borrow_mut().pop() {
            return Ok(coroutine);
        }
        self.new_coroutine().or_else(|_| {
            self.memory.collect(&self.lua);
            self.new_coroutine().map_err(Failure::new)
        })
    }

    fn new_coroutine(&self) -> Result<Coroutine, String> {
        let mut made = Coroutine { state: std::ptr::null_mut(), anchor: 0 };
        let slot = &mut made;
        let free = self.free.borrow_mut().pop();
        // SAFETY: the main thread runs nothing. The coroutine is on its stack until the registry has it. An anchor that is free is
        // a slot of the registry that exists.
        let result = unsafe {
            protect(self.main, |stack| {
                let state = stack.state();
                slot.state = ffi::lua_newthread(state);
                handler::engage(stack);
                slot.anchor = match free {
                    Some(anchor) => {
                        ffi::lua_rawseti(state, ffi::LUA_REGISTRYINDEX, anchor.into());
                        anchor
                    }
                    None => ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX),
                };
            })
        };
        if result.is_err() {
            self.free.borrow_mut().extend(free);
        }
        result.map(|()| made)
    }

    fn keep(&self, coroutine: Coroutine) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < POOL {
            idle.push(coroutine);
        } else {
            drop(idle);
            self.drop_coroutine(coroutine);
        }
    }

    /// Gives up a coroutine and all that its stack holds.
    fn drop_coroutine(&self, coroutine: Coroutine) {
        // Not in a protected call, nor back to the registry's own free list: both may allocate, and a coroutine that failed for
        // lack of memory would keep it as long as the VM lives. Setting a slot that exists does not.
        // SAFETY: the main thread lives as long as the VM, and has room for one value; the anchor is a slot of the registry.
        unsafe {
            ffi::lua_pushboolean(self.main, 0);
            ffi::lua_rawseti(self.main, ffi::LUA_REGISTRYINDEX, coroutine.anchor.into());
        }
        self.free.borrow_mut().push(coroutine.anchor);
    }
}

enum Step {
    Done(Result<Returned, Failure>),
    Waiting(Wait),
}

/// A handler that waits. It is to be polled until it is done. If it is dropped before, its coroutine is given up.
pub struct Handler {
    vm: Rc<Vm>,
    hook: Hook,
    coroutine: Coroutine,
    current: Current,
    wait: Option<Wait>,
    budget: Duration,
    whose: Whose,
}

impl Handler {
    /// A successor process takes the connections, or the node: its waits end at once, with an error that says so.
    pub fn cut(&mut self) {
        self.current.interrupted = true;
        self.current.is_replaced = true;
    }

    /// Continues when the wait is over. Once it is told that the connection has closed (of a handler without one, that it
    /// is to end), its waits end at once with an error; but an enqueue in progress completes first.
    pub fn poll(&mut self, cx: &mut Context<'_>, closed: bool) -> Poll<Result<Returned, Failure>> {
        self.current.interrupted |= closed;
        loop {
            let Some(wait) = &mut self.wait else {
                return Poll::Ready(Err(Failure::new("the handler has ended already")));
            };
            let interrupted = self.current.interrupted.then(|| self.current.gone());
            let answer = ready!(wait.poll(cx, interrupted));
            self.wait = None;
            let co = self.coroutine.state;
            let mut results = 0;
            let count = &mut results;
            // SAFETY: the main thread runs nothing. The coroutine has yielded and is kept by the registry; `answer` tells how many
            // values it has pushed, which all go over.
            let pushed = unsafe {
                protect(self.vm.main, |stack| {
                    *count = answer(stack);
                    ffi::lua_xmove(stack.state(), co, *count);
                })
            };
            if let Err(e) = pushed {
                self.vm.memory.collect(&self.vm.lua);
                return Poll::Ready(Err(Failure::new(e)));
            }
            match self.vm.resume(self.coroutine, results, self.hook, self.current, self.budget) {
                Step::Waiting(next) => self.wait = Some(next),
                Step::Done(result) => {
                    // The coroutine has returned to the pool.
                    self.coroutine.anchor = 0;
                    return Poll::Ready(result);
                }
            }
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        if self.coroutine.anchor != 0 {
            self.vm.drop_coroutine(self.coroutine);
        }
        self.vm.places.give(self.whose);
    }
}
