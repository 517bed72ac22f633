//! Errs that scripts ignore: `conn:subscribe("my room")` fails, and the script does not check. With the log level
//! debug, as in `dev`, each such line of code is warned of once. The check runs only after a native function has
//! failed, so a call that works costs nothing extra.
//!
//! The bytecode shows whether the err is used: the calling instruction says how many results it wants. LuaJIT has no
//! function for that, so the number is read from the frame. A test compares this with the LuaJIT of the build, and a
//! check at run time rejects any other layout.

use mlua::ffi;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use tracing::Level;

use super::current;
use super::slots::{Slots, State};
use super::trace;
use crate::ids::ClientId;

/// The lines that have been warned of since a script was last loaded.
static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
/// The most lines that are warned of.
const MOST: usize = 1000;

/// Forgets the warnings given so far, because a script has changed.
pub fn forget() {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

/// A call whose results are all thrown away.
pub struct Site {
    /// `file:line`
    place: String,
    /// The function's name.
    function: String,
    client: Option<ClientId>,
}

impl Site {
    /// The call of the running native function, if all its results are thrown away and the log takes the warning. At
    /// other log levels this costs one comparison.
    ///
    /// # Safety
    /// The slots must be the running native function's. Its name is at upvalue 1.
    pub unsafe fn of(slots: Slots<'_>) -> Option<Box<Site>> {
        const NO_RESULTS: u32 = 1;
        // SAFETY: the caller's.
        if !tracing::enabled!(Level::DEBUG) || unsafe { wanted(slots.state()) }? != NO_RESULTS {
            return None;
        }
        let place = trace::script_place(slots)?;
        let function = slots.upvalue_string(1).map_or("a function".into(), String::from_utf8_lossy).into_owned();
        let client = current::get().and_then(|current| current.conn).map(|conn| conn.client_id);
        Some(Box::new(Site { place, function, client }))
    }

    /// Logs the warning, unless this line has been warned of before.
    pub fn tell(&self, err: &str) {
        let Site { place, function, client } = self;
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MOST || !told.insert(format!("{place} {function}")) {
            return;
        }
        drop(told);
        tracing::warn!(
            target: "script",
            client_id = client.map(ClientId::get),
            "{place}: {function} failed, and its err is ignored: {err}; look at the err that it returns"
        );
    }
}

/// One more than the number of results that the caller of the running native function wants, as the calling instruction
/// encodes it: 1 for none, 0 for all. None: another native function called, or the number can't be determined.
///
/// The layout is that of `lua_State` and of frames in `lj_obj.h` and `lj_frame.h`, with 64-bit pointers.
///
/// # Safety
/// `state` must be the running native function's.
unsafe fn wanted(state: State) -> Option<u32> {
    /// `lua_State::base` and `lua_State::top`, in words.
    const BASE: usize = 4;
    const TOP: usize = 5;
    /// Mask for the kind of a frame. The lowest two bits are zero where a Lua function called; then the link is the
    /// instruction itself.
    const KIND: u64 = 7;
    const LUA: u64 = 3;
    const CONTINUATION: u64 = 2;
    /// `CALLM` and `CALL`, as `check/bytecode.rs` names them.
    const CALLS: std::ops::RangeInclusive<u32> = 65..=66;
    if size_of::<*const ()>() != 8 {
        return None;
    }
    // SAFETY: a `lua_State` is longer than six words, so both can be read whatever they are. If what they span is what
    // `lua_gettop` counts, they are `base` and `top`. Two words below `base` hold the function and the link to the frame
    // before, which always are there; a continuation has two words more. A link to a Lua function is the address behind the
    // instruction that called, in that function's bytecode.
    unsafe {
        let words = state.cast_const().cast::<u64>();
        let (base, top) = (words.add(BASE).read(), words.add(TOP).read());
        let count = u64::try_from(ffi::lua_gettop(state)).ok()?;
        if base % 8 != 0 || top.checked_sub(base)? != count * 8 {
            return None;
        }
        let base = base as *const u64;
        let link = base.sub(1).read();
        let behind = match link {
            link if link & LUA == 0 => link,
            // A trace that was joined to this call left the address one place further down.
            link if link & KIND == CONTINUATION => base.sub(3).read(),
            _ => return None,
        };
        if behind % 4 != 0 || behind == 0 {
            return None;
        }
        let instruction = (behind as *const u32).sub(1).read();
        CALLS.contains(&(instruction & 0xff)).then_some(instruction >> 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlua::Lua;
    use std::cell::RefCell;

    thread_local! {
        static SEEN: RefCell<Vec<(Option<u32>, Option<String>)>> = const { RefCell::new(Vec::new()) };
    }

    /// # Safety
    /// For Lua to call.
    unsafe extern "C-unwind" fn probe(state: State) -> std::ffi::c_int {
        // SAFETY: Lua calls this with its own state.
        let seen = unsafe { (wanted(state), trace::script_place(Slots::new(state))) };
        SEEN.with(|all| all.borrow_mut().push(seen));
        0
    }

    fn seen(script: &str) -> Vec<(Option<u32>, Option<String>)> {
        let lua = Lua::new();
        // SAFETY: `probe` is a function for Lua.
        let function = unsafe { lua.create_c_function(probe) }.unwrap();
        lua.globals().set("f", &function).unwrap();
        let object = lua.create_table().unwrap();
        object.set("f", function).unwrap();
        lua.globals().set("o", object).unwrap();
        SEEN.take();
        lua.load(script).set_name("@app.lua").exec().unwrap();
        SEEN.take()
    }

    #[test]
    fn the_instruction_that_called_tells_how_many_results_are_wanted() {
        for (script, wanted) in [
            ("f()", Some(1)),
            ("f(1, 'x', {})", Some(1)),
            ("f(select(1, 2))", Some(1)),
            ("o:f()", Some(1)),
            ("o.f(o)", Some(1)),
            ("if true then f() end", Some(1)),
            ("local x = f()", Some(2)),
            ("local x, y = f()", Some(3)),
            ("x = f() or 1", Some(2)),
            ("if f() then end", Some(2)),
            ("print((f()))", Some(2)),
            ("local t = { f() }", Some(0)),
            ("tostring(f(), 1)", Some(2)),
            // A call in the place of its caller: what that one's caller wants counts.
            ("local function g() return f() end g()", Some(1)),
            ("local function g() return f() end local x = g()", Some(2)),
            ("coroutine.wrap(function() f() end)()", Some(1)),
            ("coroutine.wrap(function() local x = f() end)()", Some(2)),
            ("pcall(function() f() end)", Some(1)),
            // Not Lua's own calls.
            ("pcall(f)", None),
            ("pcall(f, 1, 2)", None),
            ("coroutine.wrap(f)()", None),
            ("local t = setmetatable({}, { __index = f }) local x = t.y", None),
            ("local t = setmetatable({}, { __newindex = f }) t.y = 1", None),
        ] {
            let all = seen(script);
            assert_eq!(all.len(), 1, "{script}");
            assert_eq!(all[0].0, wanted, "{script}");
        }
    }

    #[test]
    fn it_is_the_same_in_loops_that_are_compiled() {
        for (body, wanted) in [("f(i)", 1), ("local x = f(i)", 2), ("o:f(i)", 1), ("if f(i) then x = 1 end", 2)] {
            let all = seen(&format!("for i = 1, 2000 do\n  {body}\nend"));
            assert_eq!(all.len(), 2000, "{body}");
            for (found, place) in all {
                assert_eq!((found, place.as_deref()), (Some(wanted), Some("app.lua:2")), "{body}");
            }
        }
    }
}
