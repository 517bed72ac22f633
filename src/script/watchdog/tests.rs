//! Scripts that are stopped, and some that are left alone.

use super::*;

thread_local! {
    /// How often the hook has raised.
    pub static RAISED: Cell<u32> = const { Cell::new(0) };
}

/// Raising the error once more behind each `pcall` would take seconds: thousands may stand inside one another, in each
/// of many coroutines.
#[test]
fn a_stop_is_raised_once_for_all_protected_calls() {
    RAISED.set(0);
    stopped(
        "local function deep(n) if n > 0 then pcall(deep, n - 1) xpcall(deep, print, 0) else while true do end end end
             deep(2000)",
    );
    assert_eq!(RAISED.get(), 1);
    stopped("local co = coroutine.wrap(function() pcall(function() while true do end end) end) pcall(co)");
    assert!(RAISED.get() <= 4, "{}", RAISED.get());
}

#[test]
fn protected_calls_catch_again_after_a_stop() {
    stopped("while true do pcall(error) end");
    let lua = mlua::Lua::new();
    let caught: bool = lua.load("return not pcall(error) and not xpcall(error, print)").eval().unwrap();
    assert!(caught);
}

/// Runs a script with that budget.
fn run(lua: &mlua::Lua, script: &str, budget: Duration) -> Result<(), String> {
    let f = lua.load(script).set_name("@busy.lua").into_function().unwrap();
    let mut state = std::ptr::null_mut();
    // SAFETY: the closure only takes the pointer.
    unsafe { lua.exec_raw::<()>((), |s| state = s) }.unwrap();
    // SAFETY: `lua` lives until the end of this function.
    let _run = unsafe { enter(state, budget, Doing::TESTING) };
    f.call::<()>(()).map_err(|e| e.to_string())
}

fn stopped(script: &str) -> String {
    let lua = mlua::Lua::new();
    let error = run(&lua, script, Duration::from_millis(30)).expect_err(script);
    lua.load("local x = 0 for i = 1, 1e6 do x = x + 1 end").exec().expect("the VM is usable afterwards");
    error
}

#[test]
fn this_build_can_stop_compiled_loops() {
    assert!(self_test());
}

/// A hook that fires only after the loop is what a build without `LUAJIT_ENABLE_CHECKHOOK` has.
#[test]
fn a_loop_that_ends_by_itself_does_not_count_as_stopped() {
    let late = "count = 1e9 while true do end";
    assert!(!stops_within(late, Duration::from_millis(1)), "stopped, but after the count was done");
    assert!(!stops_within("count = 0 for i = 1, 1e6 do count = i end", Duration::from_secs(3600)), "not stopped");
}

#[test]
fn runaway_loops_are_stopped_with_file_and_line() {
    for script in [
        "while true do end",
        "local x = 0 while true do x = x + 1 end",
        "while true do pcall(function() while true do end end) end",
        "local function f() return f() end f()",
        "for i = 1, 1e15 do local t = {i} end",
        "repeat local s = ('x'):rep(10) until false",
    ] {
        let error = stopped(script);
        assert!(error.contains("busy.lua:1:") && error.contains("time budget"), "{script}: {error}");
    }
}

/// It also calls the C library all the time, which is where the thread sanitizer lets signals through.
#[test]
fn a_loop_that_allocates_is_stopped() {
    assert!(stopped("while true do kept = { kept ~= nil } end").contains("time budget"));
}

#[test]
fn a_quick_script_is_left_alone() {
    let lua = mlua::Lua::new();
    let mut state = std::ptr::null_mut();
    // SAFETY: the closure only takes the pointer.
    unsafe { lua.exec_raw::<()>((), |s| state = s) }.unwrap();
    for _ in 0..50 {
        // SAFETY: `lua` lives until the end of this function.
        let _run = unsafe { enter(state, Duration::from_millis(20), Doing::TESTING) };
        lua.load("local x = 0 for i = 1, 1e5 do x = x + 1 end").exec().unwrap();
        assert!(!expired());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// This thread runs on that processor alone from now on.
fn pin(processor: usize) {
    // SAFETY: plain data, of which all zeroes are a value, and a processor that there is.
    let pinned = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set)
    };
    assert_eq!(pinned, 0, "{}", std::io::Error::last_os_error());
}

/// How long this thread has waited for a processor in all; None: the system does not say.
fn waited() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// It shares a processor with threads that get nearly all of it.
#[test]
fn a_script_is_not_stopped_because_others_run() {
    let Some(before) = waited() else { return println!("this system does not count how long threads wait") };
    // SAFETY: the call has no conditions.
    let processor = usize::try_from(unsafe { libc::sched_getcpu() }).unwrap();
    let (busy, is_over) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                pin(processor);
                busy.fetch_add(1, Relaxed);
                while !is_over.load(Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let script = scope.spawn(|| {
            pin(processor);
            while busy.load(Relaxed) < 8 {
                std::thread::yield_now();
            }
            // SAFETY: the call has no conditions; a lower priority is open to all.
            unsafe { libc::nice(5) };
            let lua = mlua::Lua::new();
            let wait = move |_: &mlua::Lua, (): ()| {
                let deadline = Instant::now() + Duration::from_secs(60);
                let before = waited().unwrap_or(before);
                while waited() < Some(before + Duration::from_millis(400)) && Instant::now() < deadline {}
                Ok(Instant::now() < deadline)
            };
            lua.globals().set("wait", lua.create_function(wait).unwrap()).unwrap();
            run(&lua, "assert(wait()) local x = 0 for i = 1, 1000 do x = x + i end", Duration::from_millis(100))
        });
        let result = script.join();
        is_over.store(true, Relaxed);
        result.unwrap().expect("it is not stopped");
    });
}
