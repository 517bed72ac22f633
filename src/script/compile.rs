//! Compiling Lua text so that it can be stopped, and keeping the bytecode of a script's files.
//!
//! LuaJIT's parser calls no hook, and for some texts its time grows with the square of their length. But it asks for
//! its text piece by piece. So each piece is small, and the time is checked before it is handed out. Parsing what is
//! left after the last piece takes little time.
//!
//! A script's files are compiled once for each version, by the thread that loads it first. The workers load the
//! bytecode that LuaJIT dumped. It includes all lines and the names of locals.

use mlua::ffi::{self, lua_State};
use mlua::{Lua, LuaOptions, StdLib};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::time::Duration;

use super::doing::Doing;
use super::program::{Program, shown};
use super::slots::Slots;
use super::stack::{State, push_bytes};
use super::watchdog;

/// Bytes that the parser gets between two checks of the time.
const PIECE: usize = 256;

unsafe extern "C-unwind" {
    /// LuaJIT's own, which the binding does not name. Like `lua_load`, with the accepted kinds (`t`, `b`).
    fn lua_loadx(
        state: *mut lua_State,
        reader: ffi::lua_Reader,
        data: *mut c_void,
        name: *const c_char,
        mode: *const c_char,
    ) -> c_int;
}

/// What is left of a text.
struct Rest {
    start: *const u8,
    length: usize,
}

/// Hands out the next piece, or raises if the time is up.
///
/// # Safety
/// For `lua_loadx` to call, with the `Rest` of a text that outlives that call.
unsafe extern "C-unwind" fn next_piece(state: *mut lua_State, rest: *mut c_void, size: *mut usize) -> *const c_char {
    // SAFETY: the caller's. The pieces are within the text: no piece is longer than what is left.
    unsafe {
        if watchdog::expired() {
            push_bytes(state, watchdog::OVER_BUDGET.as_bytes());
            ffi::lua_error(state);
        }
        let rest = &mut *rest.cast::<Rest>();
        *size = rest.length.min(PIECE);
        let piece = rest.start;
        rest.start = piece.add(*size);
        rest.length -= *size;
        piece.cast()
    }
}

/// Compiles text. Bytecode is refused, since nothing verifies it. Pushes the function or the error, and returns Lua's
/// status.
///
/// # Safety
/// `state` must be alive and have a free slot on its stack.
pub(super) unsafe fn text(state: State, text: &[u8], name: &CStr) -> c_int {
    if text.first() == ffi::LUA_SIGNATURE.first() {
        // SAFETY: the caller's. An error for lack of memory, which this may raise, is the caller's too.
        unsafe { push_bytes(state, b"attempt to load a binary chunk (mode is 'text')") };
        return ffi::LUA_ERRSYNTAX;
    }
    let mut rest = Rest { start: text.as_ptr(), length: text.len() };
    // SAFETY: the caller's. `rest` and the text outlive the call, in which errors are caught: they are its result.
    unsafe { lua_loadx(state, next_piece, (&raw mut rest).cast(), name.as_ptr(), c"t".as_ptr()) }
}

/// Loads what [`dump`] made. Pushes the function, or the error, and returns Lua's status.
///
/// # Safety
/// `state` must be alive and have a free slot on its stack. The code must have been dumped by this process: nothing
/// verifies it.
unsafe fn bytecode(state: State, code: &[u8], name: &CStr) -> c_int {
    // SAFETY: the caller's. Errors are the result.
    unsafe { ffi::luaL_loadbufferx(state, code.as_ptr().cast(), code.len(), name.as_ptr(), c"b".as_ptr()) }
}

/// Adds a piece to a vector.
///
/// # Safety
/// For `lua_dump` to call, with the vector.
unsafe extern "C-unwind" fn write(_: *mut lua_State, piece: *const c_void, size: usize, into: *mut c_void) -> c_int {
    // SAFETY: `into` is the vector of `dump`; LuaJIT hands over `size` bytes.
    unsafe { (*into.cast::<Vec<u8>>()).extend_from_slice(std::slice::from_raw_parts(piece.cast(), size)) };
    0
}

/// Writes the bytecode of the Lua function at the top of the stack. False if there is not enough memory.
///
/// # Safety
/// `state` must be alive, with a Lua function at the top of its stack.
unsafe fn dump(state: State, code: &mut Vec<u8>) -> bool {
    // SAFETY: the caller's. LuaJIT runs the dump protected: an error is its result.
    unsafe { ffi::lua_dump_(state, write, (&raw mut *code).cast()) == 0 }
}

/// The result of loading one of a script's files.
pub(super) enum Loaded {
    /// Its main function.
    Function(mlua::Function),
    /// There is no such file.
    Absent,
    /// It can't be read.
    Unreadable(String),
    /// Its text does not compile, or takes too long.
    Wrong(String),
}

/// Loads a file of a script: the bytecode that this version has of it, else its text, whose bytecode is then kept for
/// the next VM.
pub(super) fn file(lua: &Lua, program: &Program, path: &Path) -> mlua::Result<Loaded> {
    let source = match program.source(path) {
        Ok(Some(source)) => source,
        Ok(None) => return Ok(Loaded::Absent),
        Err(problem) => return Ok(Loaded::Unreadable(problem)),
    };
    let name = CString::new(format!("@{}", shown(path)).replace('\0', "")).unwrap_or_default();
    let known = program.code(path);
    let (mut status, mut error, mut dumped, mut code) = (ffi::LUA_OK, String::new(), false, Vec::new());
    // SAFETY: `exec_raw` protects the call, with an empty stack. The code is what this process has dumped: only `keep`, below,
    // puts it there. What stays on the stack is the function, or nil.
    let function: Option<mlua::Function> = unsafe {
        lua.exec_raw((), |state| {
            status = match &known {
                Some(code) => bytecode(state, code, &name),
                None => text(state, &source, &name),
            };
            if status != ffi::LUA_OK {
                error = error_text(state);
                ffi::lua_pushnil(state);
                ffi::lua_replace(state, -2);
            } else if known.is_none() {
                dumped = dump(state, &mut code);
            }
        })
    }?;
    if dumped {
        program.keep(path, code);
    }
    Ok(match function {
        Some(function) => Loaded::Function(function),
        None => Loaded::Wrong(error),
    })
}

/// The bytecode of a text, compiled in a VM of its own. None if the text does not compile or takes longer than
/// `longest`.
pub(super) fn dumped(source: &[u8], longest: Duration) -> Option<Vec<u8>> {
    let lua = Lua::new_with(StdLib::NONE, LuaOptions::new()).ok()?;
    let (mut done, mut code) = (false, Vec::new());
    // SAFETY: nothing in there raises: compiling and dumping are protected, and there is room on a fresh stack. `lua`
    // lives longer than the run, and on top of its stack is a Lua function where `text` has succeeded.
    unsafe {
        lua.exec_raw::<()>((), |state| {
            let _run = watchdog::enter(state, longest, Doing::TESTING);
            done = text(state, source, c"=") == ffi::LUA_OK && dump(state, &mut code);
            ffi::lua_settop(state, 0);
        })
    }
    .ok()?;
    done.then_some(code)
}

/// The native function behind `load`: `compile(text, name)` -> function, or nil and an error.
///
/// # Safety
/// For Lua to call.
pub(super) unsafe extern "C-unwind" fn compile(state: State) -> c_int {
    // SAFETY: called by Lua, with a stack of its own; the strings stay in their slots. A name ends with a zero, as all strings do.
    unsafe {
        let mut length = 0;
        let start = ffi::lua_tolstring(state, 1, &mut length);
        let name = ffi::lua_tolstring(state, 2, std::ptr::null_mut());
        if start.is_null() || name.is_null() {
            ffi::lua_pushnil(state);
            push_bytes(state, b"a chunk and its name must be strings");
            return 2;
        }
        let source = std::slice::from_raw_parts(start.cast(), length);
        if text(state, source, CStr::from_ptr(name)) == ffi::LUA_OK {
            return 1;
        }
        ffi::lua_pushnil(state);
        ffi::lua_insert(state, -2);
        2
    }
}

/// The text of the error at the top of the stack.
///
/// # Safety
/// `state` must be alive.
pub(super) unsafe fn error_text(state: State) -> String {
    // SAFETY: the caller's.
    let slots = unsafe { Slots::new(state) };
    let text = slots.bytes(slots.top()).unwrap_or_default();
    // The binding adds a traceback to an error of the reader. It is not the script's.
    String::from_utf8_lossy(&text).split("\nstack traceback:").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::vm::{Vm, VmLimits};
    use std::sync::Arc;
    use std::time::Instant;

    /// Waits until the time of what is entered is up.
    fn until_expired() {
        while !watchdog::expired() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn compiling_ends_with_the_time() {
        let lua = Lua::new();
        let chain = format!("x=a{}", " or a".repeat(1000));
        let (mut before, mut after) = (-1, (-1, String::new()));
        // SAFETY: `exec_raw`, below, protects the call; nothing is left on the stack.
        let raw = |state| unsafe {
            before = text(state, chain.as_bytes(), c"=chain");
            ffi::lua_settop(state, 0);
            let _run = watchdog::enter(state, Duration::from_millis(1), Doing::TESTING);
            until_expired();
            after = (text(state, chain.as_bytes(), c"=chain"), error_text(state));
            ffi::lua_settop(state, 0);
        };
        // SAFETY: as told there.
        unsafe { lua.exec_raw::<()>((), raw) }.unwrap();
        assert_eq!(before, ffi::LUA_OK);
        assert_ne!(after.0, ffi::LUA_OK);
        assert_eq!(after.1, watchdog::OVER_BUDGET);
    }

    /// 8 MiB of these take many minutes to compile.
    #[test]
    fn no_text_holds_whoever_reads_it() {
        let began = Instant::now();
        for endless in ["x=a".to_owned() + &" or a".repeat(1_600_000), "x=a".to_owned() + &" and a".repeat(1_300_000)] {
            assert!(dumped(endless.as_bytes(), Duration::from_millis(50)).is_none());
        }
        assert!(began.elapsed() < Duration::from_secs(60));
        let code = dumped(b"return 1", Duration::from_secs(60)).unwrap();
        assert!(code.starts_with(b"\x1bLJ"));
    }

    #[test]
    fn bytecode_is_not_text() {
        let lua = Lua::new();
        let code = dumped(b"return 1", Duration::from_secs(60)).unwrap();
        let mut error = String::new();
        // SAFETY: `exec_raw`, below, protects the call; nothing is left on the stack.
        let raw = |state| unsafe {
            assert_ne!(text(state, &code, c"=code"), ffi::LUA_OK);
            error = error_text(state);
            ffi::lua_settop(state, 0);
        };
        // SAFETY: as told there.
        unsafe { lua.exec_raw::<()>((), raw) }.unwrap();
        assert!(error.contains("attempt to load a binary chunk"), "{error}");
        let mut hidden = b"#!\n".to_vec();
        hidden.extend(&code);
        // SAFETY: `exec_raw`, below, protects the call; nothing is left on the stack.
        let raw = |state| unsafe {
            assert_ne!(text(state, &hidden, c"=code"), ffi::LUA_OK);
            ffi::lua_settop(state, 0);
        };
        // SAFETY: as told there.
        unsafe { lua.exec_raw::<()>((), raw) }.unwrap();
    }

    /// The next VM of the version runs the bytecode that was kept of a file, and parses nothing.
    #[test]
    fn the_second_vm_of_a_version_runs_what_the_first_compiled() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("entry.lua"), "made = require('m')\nfunction on_message() end").unwrap();
        std::fs::write(path("m.lua"), "return 'from text'").unwrap();
        let program = Arc::new(Program::new(crate::config::Protocol::Websocket, path("entry.lua"), vec![]));
        let made = || {
            let vm = Vm::new(program.clone(), &VmLimits::default()).unwrap();
            vm.lua.globals().get::<String>("made").unwrap()
        };
        assert!(program.code(&path("entry.lua")).is_none());
        assert_eq!(made(), "from text");
        assert!(program.code(&path("entry.lua")).is_some());
        // Other bytecode shows which of the two is run.
        program.keep(&path("m.lua"), dumped(b"return 'from bytecode'", Duration::from_secs(60)).unwrap());
        assert_eq!(made(), "from bytecode");
    }
}
