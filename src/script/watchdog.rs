//! Stops a script that holds its thread too long.
//!
//! Entering and leaving Lua costs two plain stores and no clock. One watchdog thread for the process samples every Lua
//! thread's counter; over budget, it sends that thread a signal, whose handler, on the VM's own thread, sets a debug
//! hook that raises at each instruction until the handler is out, and `pcall` does not catch that: a coroutine that is
//! resumed in a loop does not go on either. Setting the hook from the watchdog thread itself would be a race, hence the signal.
//!
//! LuaJIT looks at hooks inside compiled loops only when built with `LUAJIT_ENABLE_CHECKHOOK` (`build.rs` sees to it).
//! Losing that define would be silent, so [`self_test`] says at the start whether the watchdog works.

mod held;

use mlua::ffi::{self, lua_Debug, lua_State};
use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering::*, compiler_fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use self::held::{Held, Task};
use super::doing::Doing;
use super::push::push_bytes;
use super::slots::Slots;
use super::snapshot::{self, Snapshot};
use super::trace;

/// What a stopped script gets as its error, after file and line.
pub const OVER_BUDGET: &str = "handler exceeded its time budget (handlerTimeout): it held the worker without waiting";

/// How often the watchdog looks.
const SAMPLE: Duration = Duration::from_millis(10);

/// The longest that counts between two looks. If more has passed, the process did not run (SIGSTOP, a machine that
/// slept), and that is no script's time.
const LONGEST: Duration = Duration::from_millis(100);

/// How many frames from the top are searched for a script's function, to name its line.
const FRAMES_LOOKED_AT: i32 = 12;

/// Must not be used otherwise in the process. Its default action must be to ignore it.
const SIGNAL: i32 = libc::SIGURG;

/// One thread that runs Lua, as its watchdog sees it.
struct Watched {
    /// Odd while the thread is inside Lua; moves at each entry and exit.
    epoch: AtomicU64,
    /// The epoch that is to be stopped.
    kill: AtomicU64,
    /// The hook is set.
    armed: AtomicBool,
    /// The VM that was entered.
    state: AtomicPtr<lua_State>,
    budget_ms: AtomicU32,
    /// What it does there, as [`Doing::bits`].
    doing: AtomicU64,
    snapshot: Snapshot,
    task: Task,
}

thread_local! {
    /// Read by the signal handler: a plain pointer without lazy initialisation.
    static WATCHED: Cell<*const Watched> = const { Cell::new(std::ptr::null()) };
    static OWNER: Owner = const { Owner(Cell::new(None)) };
}

/// Removes the thread from the watched list when the thread ends.
struct Owner(Cell<Option<Arc<Watched>>>);

impl Drop for Owner {
    fn drop(&mut self) {
        WATCHED.with(|w| w.set(std::ptr::null()));
        if let Some(watched) = self.0.take() {
            let mut threads = threads().lock().unwrap_or_else(PoisonError::into_inner);
            threads.retain(|(w, _)| !Arc::ptr_eq(w, &watched));
        }
    }
}

/// The threads that run Lua, each with how long it does.
type Threads = Mutex<Vec<(Arc<Watched>, Held)>>;

fn threads() -> &'static Threads {
    static THREADS: OnceLock<Threads> = OnceLock::new();
    THREADS.get_or_init(|| {
        install_handler();
        let spawned = std::thread::Builder::new().name("watchdog".into()).spawn(watch);
        if let Err(e) = spawned {
            tracing::error!("the watchdog thread could not start, so that runaway scripts are not stopped: {e}");
        }
        Mutex::default()
    })
}

fn install_handler() {
    // SAFETY: plain data, of which all zeroes are a value: no signal is blocked meanwhile.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as usize;
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK | libc::SA_SIGINFO;
    // SAFETY: the handler has the signature of one with SA_SIGINFO, and does only what may be done in one.
    unsafe { libc::sigaction(SIGNAL, &action, std::ptr::null_mut()) };
}

/// Runs on the thread that is to be stopped, between any two of its instructions: so it only reads and writes atomics, a
/// thread-local without a destructor, and the fields of LuaJIT that `lua_sethook` is documented to change from a signal handler.
/// It also reads a Lua stack, but only where [`snapshot::native`] says that it may.
extern "C" fn on_signal(_: i32, _: *mut libc::siginfo_t, context: *mut c_void) {
    let watched = WATCHED.with(Cell::get);
    // SAFETY: null, or what this thread's `OWNER` keeps: it sets the pointer to null before it lets go.
    let Some(watched) = (unsafe { watched.as_ref() }) else { return };
    let epoch = watched.epoch.load(Relaxed);
    if epoch & 1 == 0 {
        return;
    }
    let state = watched.state.load(Relaxed);
    if watched.snapshot.is_asked() {
        // SAFETY: inside Lua, as the odd number says; then the state is alive (`enter`), and this thread's.
        if let Some(co) = unsafe { snapshot::native(state, context) } {
            watched.snapshot.tell(co);
        }
    }
    if watched.snapshot.is_asked() || epoch == watched.kill.load(Relaxed) {
        // SAFETY: inside Lua, as the odd number says; then the state is alive (`enter`).
        unsafe {
            // Off and on: a dispatch table update that was lost by a race with the thread itself is made again.
            ffi::lua_sethook(state, None, 0, 0);
            ffi::lua_sethook(state, Some(stop), ffi::LUA_MASKCOUNT, 1);
        }
        watched.armed.store(true, Relaxed);
    }
}

unsafe extern "C" {
    /// While on, no `pcall` or `xpcall` of this thread's Lua code catches an error; off restores them. Calls from
    /// native code and coroutines always catch. This function is a patch of ours to LuaJIT (`build.rs`).
    safe fn connmix_set_end_all(on: std::ffi::c_int);
}

/// Tells where the script stands, if that is asked for, and raises, if the time is up.
///
/// # Safety
/// For Lua to call, as a hook.
unsafe extern "C-unwind" fn stop(state: *mut lua_State, _: *mut lua_Debug) {
    // SAFETY: called by Lua, in whatever it runs: that is protected, as all calls of scripts are. The two that are joined are
    // those that are pushed.
    unsafe {
        let slots = Slots::new(state);
        if let Some(watched) = WATCHED.with(Cell::get).as_ref() {
            watched.snapshot.tell(slots);
        }
        if expired() {
            // A script's author does not know the engine's own Lua.
            let of_script = |level: &i32| trace::frame_kind(slots, *level) == Some(trace::Kind::Script);
            ffi::luaL_where(state, (0..FRAMES_LOOKED_AT).find(of_script).unwrap_or(0));
            push_bytes(state, OVER_BUDGET.as_bytes());
            ffi::lua_concat(state, 2);
            connmix_set_end_all(1);
            #[cfg(test)]
            tests::RAISED.set(tests::RAISED.get() + 1);
            ffi::lua_error(state);
        }
        ffi::lua_sethook(state, None, 0, 0);
    }
}

/// Whether this thread's Lua is over its budget. For native functions that take long, which the hook can't stop.
pub fn expired() -> bool {
    let watched = WATCHED.with(Cell::get);
    // SAFETY: null, or what this thread's `OWNER` keeps: it sets the pointer to null before it lets go.
    let Some(watched) = (unsafe { watched.as_ref() }) else { return false };
    watched.kill.load(Relaxed) == watched.epoch.load(Relaxed)
}

/// This thread's entry among the watched, made at its first use.
fn watched() -> *const Watched {
    let known = WATCHED.with(Cell::get);
    if !known.is_null() {
        return known;
    }
    let watched = Arc::new(Watched {
        epoch: AtomicU64::new(0),
        kill: AtomicU64::new(u64::MAX),
        armed: AtomicBool::new(false),
        state: AtomicPtr::new(std::ptr::null_mut()),
        budget_ms: AtomicU32::new(0),
        doing: AtomicU64::new(0),
        snapshot: Snapshot::new(),
        task: Task::this(),
    });
    threads().lock().unwrap_or_else(PoisonError::into_inner).push((watched.clone(), Held::default()));
    let pointer = Arc::as_ptr(&watched);
    OWNER.with(|o| o.0.set(Some(watched)));
    WATCHED.with(|w| w.set(pointer));
    pointer
}

/// While it lives, this thread is inside Lua and its time counts.
pub struct Run {
    /// This thread's, which it keeps as long as it lives. A pointer also keeps the run on this thread.
    watched: *const Watched,
    /// The run that was active on this thread before. A VM may be built while no other runs, but the watchdog does not
    /// rely on that.
    outer: (*mut lua_State, u32, u64),
}

/// Enters Lua for at most `budget` (millisecond steps). `doing` is what other threads are told ([`Thread`]).
///
/// # Safety
/// `state` must be alive until the result is dropped, and that must happen: it must not be leaked.
pub unsafe fn enter(state: *mut lua_State, budget: Duration, doing: Doing) -> Run {
    let pointer = watched();
    // SAFETY: `OWNER` keeps it until this thread ends.
    let w = unsafe { &*pointer };
    let outer = (w.state.load(Relaxed), w.budget_ms.load(Relaxed), w.doing.load(Relaxed));
    w.state.store(state, Relaxed);
    w.budget_ms.store(budget.as_millis().min(u128::from(u32::MAX)) as u32, Relaxed);
    w.doing.store(doing.bits(), Relaxed);
    compiler_fence(SeqCst);
    let epoch = w.epoch.load(Relaxed);
    // Nested: even out first, so that inside is always odd.
    w.epoch.store(epoch + 1 + (epoch & 1), Relaxed);
    compiler_fence(SeqCst);
    Run { watched: pointer, outer }
}

impl Drop for Run {
    fn drop(&mut self) {
        // SAFETY: this thread's, as it was when the run began: a run stays on its thread, whose `OWNER` keeps it.
        let w = unsafe { &*self.watched };
        let nested = !self.outer.0.is_null();
        compiler_fence(SeqCst);
        w.epoch.store(w.epoch.load(Relaxed) + if nested { 2 } else { 1 }, Relaxed);
        compiler_fence(SeqCst);
        if w.armed.load(Relaxed) {
            w.armed.store(false, Relaxed);
            connmix_set_end_all(0);
            // SAFETY: the state of this run, alive until it is dropped (`enter`).
            unsafe { ffi::lua_sethook(w.state.load(Relaxed), None, 0, 0) };
        }
        w.state.store(self.outer.0, Relaxed);
        w.budget_ms.store(self.outer.1, Relaxed);
        w.doing.store(self.outer.2, Relaxed);
    }
}

/// A thread that runs Lua, as others see it.
pub struct Thread(Arc<Watched>);

impl Thread {
    /// The calling one.
    pub fn this() -> Option<Thread> {
        watched();
        OWNER.with(|owner| {
            let watched = owner.0.take();
            owner.0.set(watched.clone());
            watched.map(Thread)
        })
    }

    /// A number that changes whenever the thread enters or leaves Lua.
    pub fn steps(&self) -> u64 {
        self.0.epoch.load(Relaxed)
    }

    /// What the thread does in Lua; None: it is outside Lua.
    pub fn doing(&self) -> Option<Doing> {
        (self.0.epoch.load(Relaxed) & 1 == 1).then(|| Doing::from_bits(self.0.doing.load(Relaxed)))
    }
}

/// How long a thread may take to tell its frames.
const TELLING: u32 = 50;

impl Thread {
    /// Where the script stands that the thread runs: `file:line` of its functions, innermost first. Empty if the thread
    /// can't tell within 50 ms: it is outside Lua, or in a native function that computes.
    pub fn frames(&self) -> Vec<String> {
        static ASKING: Mutex<()> = Mutex::new(());
        let _one = ASKING.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshot = &self.0.snapshot;
        snapshot.ask();
        let mut left = TELLING;
        while left > 0 && snapshot.is_asked() {
            if left == TELLING {
                self.signal();
            }
            left -= 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        if snapshot.withdraw() {
            return Vec::new();
        }
        loop {
            match snapshot.take() {
                Some(frames) => return frames,
                // It writes.
                None => std::thread::yield_now(),
            }
        }
    }

    fn signal(&self) {
        // Locked, so that the thread does not end meanwhile.
        let list = threads().lock().unwrap_or_else(PoisonError::into_inner);
        if list.iter().any(|(watched, _)| Arc::ptr_eq(watched, &self.0)) {
            // SAFETY: the thread has not ended: before it does, it takes itself off the list, which is locked.
            unsafe { self.0.task.alive() }.signal(SIGNAL);
        }
    }
}

/// The watchdog thread.
fn watch() {
    let mut looked = Instant::now();
    loop {
        std::thread::sleep(SAMPLE);
        let before = std::mem::replace(&mut looked, Instant::now());
        let passed = (looked - before).min(LONGEST);
        let mut list = threads().lock().unwrap_or_else(PoisonError::into_inner);
        for (watched, held) in list.iter_mut() {
            // SAFETY: the thread has not ended: before it does, it takes itself off the list, which is locked.
            let thread = unsafe { watched.task.alive() };
            let epoch = watched.epoch.load(Relaxed);
            let time = held.look(epoch, passed, &thread);
            if epoch & 1 == 1 && time >= Duration::from_millis(watched.budget_ms.load(Relaxed).into()) {
                watched.kill.store(epoch, Relaxed);
                thread.signal(SIGNAL);
            }
        }
    }
}

/// Whether a script that loops without end can be stopped in this process: runs a compiled loop with a small budget.
pub fn self_test() -> bool {
    stops_within(LOOP, Duration::from_millis(1))
}

/// Counts in a global. If it is not stopped, it ends by itself after some seconds at most. The error of a hook that
/// fires only then would look like a stop, so the count decides.
const LOOP: &str = "count = 0 for i = 1, 1e9 do count = i end";
const LOOPS: f64 = 1e9;

/// Whether `script`, which counts up to [`LOOPS`], is stopped before it gets there.
fn stops_within(script: &str, budget: Duration) -> bool {
    let Ok(lua) = mlua::Lua::new_with(mlua::StdLib::JIT, mlua::LuaOptions::new()) else { return false };
    let Ok(counting) = lua.load(script).into_function() else { return false };
    let mut state = std::ptr::null_mut();
    // SAFETY: the closure only takes the pointer.
    if unsafe { lua.exec_raw::<()>((), |s| state = s) }.is_err() {
        return false;
    }
    let stopped = {
        // SAFETY: `lua` lives until the end of this function.
        let _run = unsafe { enter(state, budget, Doing::TESTING) };
        counting.call::<()>(()).is_err()
    };
    stopped && lua.globals().raw_get::<f64>("count").is_ok_and(|count| count < LOOPS)
}

#[cfg(test)]
mod tests;
