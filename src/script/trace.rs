//! Where a failed coroutine stood. It is read off the frames without a call that allocates in Lua or touches a Lua
//! stack: the coroutine may have failed for want of memory, or because its stack is full.

use mlua::ffi;
use std::ffi::{CStr, c_int};

use super::stack::State;

/// A traceback's first and last lines; those between are only counted.
const FIRST: c_int = 12;
const LAST: c_int = 10;

/// The functions that a coroutine was in, innermost first, one a line: `file:line: in function 'name'`. The frames
/// through which the engine enters a hook are left out, since they tell the script's author nothing.
pub(super) fn traceback(co: State) -> Vec<String> {
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

/// `file:line` of the innermost function that is Lua.
pub(super) fn place(co: State) -> Option<String> {
    (0..FIRST).map_while(|level| frame(co, level)).find(|f| f.line > 0).map(|f| f.place)
}

struct Frame {
    /// `file:line`, or less of it.
    place: String,
    line: c_int,
    /// `function 'name'`
    function: String,
}

fn frame(co: State, level: c_int) -> Option<Frame> {
    unsafe {
        let mut info: ffi::lua_Debug = std::mem::zeroed();
        if ffi::lua_getstack(co, level, &mut info) == 0 || ffi::lua_getinfo(co, c"nSl".as_ptr(), &mut info) == 0 {
            return None;
        }
        let text = |p: *const std::ffi::c_char| CStr::from_ptr(p).to_string_lossy();
        let source = text(info.short_src.as_ptr());
        let line = info.currentline;
        let function = match info.name {
            name if !name.is_null() => format!("function '{}'", text(name)),
            _ if *info.what == b'm' as std::ffi::c_char => "main chunk".into(),
            _ if info.linedefined > 0 => format!("function <{source}:{}>", info.linedefined),
            _ => "?".into(),
        };
        Some(Frame { place: if line > 0 { format!("{source}:{line}") } else { source.into_owned() }, line, function })
    }
}

/// How many functions it was in.
fn depth(co: State) -> c_int {
    let is_there = |level| unsafe {
        let mut info: ffi::lua_Debug = std::mem::zeroed();
        ffi::lua_getstack(co, level, &mut info) != 0
    };
    // The steps double till one is too far, and halve from there on: looking for a level takes as long as it is deep.
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
