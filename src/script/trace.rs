//! Where a failed coroutine stood. This is read from the frames without a call that allocates in Lua or touches a Lua
//! stack: the coroutine may have failed because memory ran out or its stack is full.

use mlua::ffi;
use std::ffi::{CStr, c_int};

use super::slots::Slots;

/// A traceback's first and last lines; those between are only counted.
const FIRST: c_int = 12;
const LAST: c_int = 10;

/// The functions that a coroutine was in, innermost first, one a line: `file:line: in function 'name'`. The frames
/// through which the engine enters a hook are left out, since they tell the script's author nothing.
pub(crate) fn traceback(co: Slots<'_>) -> Vec<String> {
    let depth = depth(co);
    let skipped = (depth - FIRST - LAST).max(0);
    let mut lines = Vec::new();
    for level in (0..FIRST.min(depth)).chain((FIRST + skipped).min(depth)..depth) {
        if skipped > 0 && level == FIRST + skipped {
            lines.push(format!("... {skipped} more"));
        }
        if let Some(frame) = frame(co, level).filter(|f| !f.place.starts_with("connmix:")) {
            lines.push(format!("{}: in {}", frame.place, frame.function));
        }
    }
    lines
}

/// Whether the outermost function is one of the engine's own, as while a hook is entered.
pub(super) fn began_in_prelude(co: Slots<'_>) -> bool {
    frame(co, depth(co) - 1).is_some_and(|frame| frame.place.starts_with("connmix:"))
}

/// Where the innermost Lua function stood: `file:line`. If the error has lost the line, where the function begins.
pub(super) fn place(co: Slots<'_>) -> Option<String> {
    let frame = (0..FIRST).map_while(|level| frame(co, level)).find(|f| f.line > 0 || f.begins >= 0)?;
    Some(match frame.begins {
        begins if frame.line <= 0 && begins > 0 => format!("{}, in the function of line {begins}", frame.place),
        _ => frame.place,
    })
}

/// Where the innermost function of a script stands: `file:line`.
pub(crate) fn script_place(co: Slots<'_>) -> Option<String> {
    (0..FIRST)
        .map_while(|level| frame(co, level))
        .find(|f| f.line > 0 && !f.place.starts_with("connmix:"))
        .map(|f| f.place)
}

/// How a script's author sees a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A function of the script's.
    Script,
    /// The engine's own Lua.
    Engine,
    /// A native function.
    Native,
}

/// What a frame shows.
pub(super) struct Frame {
    /// `file:line`, or less of it.
    pub place: String,
    line: c_int,
    /// The function's first line; 0 for a file's top level, -1 for a native function.
    pub begins: c_int,
    /// `function 'name'`
    pub function: String,
}

/// What Lua tells of a level of a thread, by the letters of `lua_getinfo`, if it is that deep. Raises nothing, and allocates
/// nothing with the letters that are used here.
fn info(co: Slots<'_>, level: c_int, letters: &CStr) -> Option<ffi::lua_Debug> {
    // SAFETY: plain data, of which all zeroes are a value.
    let mut info: ffi::lua_Debug = unsafe { std::mem::zeroed() };
    // SAFETY: the thread is alive. `lua_getinfo` gets the frame that `lua_getstack` has found.
    let known = unsafe {
        ffi::lua_getstack(co.state(), level, &mut info) != 0
            && ffi::lua_getinfo(co.state(), letters.as_ptr(), &mut info) != 0
    };
    known.then_some(info)
}

/// What stands at a level of a Lua thread, if it is that deep.
pub(super) fn frame_kind(co: Slots<'_>, level: c_int) -> Option<Kind> {
    let info = info(co, level, c"S")?;
    // SAFETY: with `S` both are C strings, which live as long as the function that is in the frame.
    let (what, source) = unsafe { (*info.what as u8, CStr::from_ptr(info.source)) };
    Some(match what {
        b'C' => Kind::Native,
        _ if source.to_bytes().starts_with(b"=connmix:") => Kind::Engine,
        _ => Kind::Script,
    })
}

/// Calls `tell` with the file and the line of each function of a script's, innermost first, until it returns false or so many
/// levels have been looked at. Raises nothing, and allocates nothing.
pub(super) fn each_script_frame(co: Slots<'_>, levels: c_int, mut tell: impl FnMut(&[u8], c_int) -> bool) {
    for level in 0..levels {
        let Some(info) = info(co, level, c"Sl") else { return };
        // SAFETY: with `S` these are C strings, which live as long as the function that is in the frame.
        let file = unsafe { CStr::from_ptr(info.short_src.as_ptr()).to_bytes() };
        if info.currentline > 0 && !file.starts_with(b"connmix:") && !tell(file, info.currentline) {
            return;
        }
    }
}

/// The frame at a level of a Lua thread, if it is that deep.
pub(super) fn frame(co: Slots<'_>, level: c_int) -> Option<Frame> {
    let info = info(co, level, c"nSl")?;
    // SAFETY: with `n` and `S` these are C strings, the name null where there is none; they live as long as the function that is
    // in the frame.
    let (source, name, is_main) = unsafe {
        let name = (!info.name.is_null()).then(|| CStr::from_ptr(info.name).to_string_lossy());
        (CStr::from_ptr(info.short_src.as_ptr()).to_string_lossy(), name, *info.what == b'm' as std::ffi::c_char)
    };
    let line = info.currentline;
    let function = match name {
        Some(name) => format!("function '{name}'"),
        None if is_main => "main chunk".into(),
        None if info.linedefined > 0 => format!("function <{source}:{}>", info.linedefined),
        None => "?".into(),
    };
    let place = if line > 0 { format!("{source}:{line}") } else { source.into_owned() };
    Some(Frame { place, line, begins: info.linedefined, function })
}

/// How many functions it was in.
pub(super) fn depth(co: Slots<'_>) -> c_int {
    let is_there = |level| {
        // SAFETY: plain data, of which all zeroes are a value.
        let mut info: ffi::lua_Debug = unsafe { std::mem::zeroed() };
        // SAFETY: the thread is alive.
        unsafe { ffi::lua_getstack(co.state(), level, &mut info) != 0 }
    };
    // The steps double until one is too far, and halve from there: finding a level takes time in proportion to its
    // depth.
    let (mut below, mut above) = (0, 1);
    while is_there(above) {
        (below, above) = (above, above * 2);
    }
    while below < above {
        let middle = (below + above) / 2;
        if is_there(middle) {
            below = middle + 1;
        } else {
            above = middle;
        }
    }
    below
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlua::{Lua, LuaOptions, StdLib};

    /// Runs a script in a coroutine that fails; its place and its traceback.
    fn failed(script: &str, memory: usize) -> (Option<String>, Vec<String>) {
        let lua = Lua::new_with(StdLib::ALL_SAFE, LuaOptions::new()).unwrap();
        let function = lua.load(script).set_name("@app.lua").into_function().unwrap();
        let thread = lua.create_thread(function).unwrap();
        if memory > 0 {
            lua.set_memory_limit(lua.used_memory() + memory).unwrap();
        }
        // SAFETY: `thread` keeps the coroutine, in which nothing has been run.
        let co = unsafe {
            assert!(ffi::lua_resume_(thread.state(), 0) > ffi::LUA_YIELD, "{script}");
            Slots::new(thread.state())
        };
        (place(co), traceback(co))
    }

    #[test]
    fn functions_are_named_with_their_lines() {
        let (_, lines) =
            failed("local function inner() error('x') end\nlocal function outer() inner() end\nouter()", 0);
        assert_eq!(
            lines,
            [
                "[C]: in function 'error'",
                "app.lua:1: in function 'inner'",
                "app.lua:2: in function 'outer'",
                "app.lua:3: in main chunk"
            ]
        );
    }

    #[test]
    fn a_full_stack_and_full_memory_are_no_obstacle() {
        let (_, lines) = failed("local function f() return 1 + f() end f()", 0);
        assert_eq!(lines.len(), (FIRST + LAST) as usize + 1);
        assert!(lines[FIRST as usize].starts_with("... ") && lines[FIRST as usize].ends_with(" more"), "{lines:?}");
        assert_eq!(lines.last().unwrap(), "app.lua:1: in main chunk");
        let (place, lines) =
            failed("\nlocal function f()\nlocal t = {} while true do t[#t + 1] = {} end end\nf()", 100_000);
        assert_eq!(place.unwrap(), "app.lua, in the function of line 2");
        assert_eq!(lines, ["app.lua: in function 'f'", "app.lua:4: in main chunk"]);
    }
}
