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

fn stopped(script: &str) -> String {
    let lua = mlua::Lua::new();
    let f = lua.load(script).set_name("@busy.lua").into_function().unwrap();
    let mut state = std::ptr::null_mut();
    // SAFETY: the closure only takes the pointer.
    unsafe { lua.exec_raw::<()>((), |s| state = s) }.unwrap();
    let result = {
        // SAFETY: `lua` lives until the end of this function.
        let _run = unsafe { enter(state, Duration::from_millis(30), Doing::TESTING) };
        f.call::<()>(())
    };
    let error = result.expect_err(script).to_string();
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
